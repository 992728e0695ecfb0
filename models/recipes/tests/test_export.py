"""A small Wan autoencoder becomes graphs that compute as diffusers does, in one piece and in several."""
import pathlib
import tempfile
import unittest

import numpy as np
import onnxruntime
import torch

from open_models import check, exporter
from open_models.families import wan_codec
from open_models.package import Writer


def autoencoder():
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True], latents_mean=[0.1] * 4, latents_std=[1.5] * 4,
                            scale_factor_spatial=2, scale_factor_temporal=2).eval()


class WanDecoder(unittest.TestCase):
    def test_the_whole_and_the_pair_give_diffusers_frames_with_weights_stored_once(self):
        graphs = {g.file: g for g in wan_codec.graphs(autoencoder(), ("decode",))}
        with tempfile.TemporaryDirectory() as folder:
            writer = Writer(pathlib.Path(folder) / "package")
            sizes = {file: writer.graph(exporter.trace(graph, 20, "fused"), file, "codec.weights") for file, graph in graphs.items()}
            cases = check.cases(graphs["decoder.onnx"])
            self.assertLess(check.run(writer.folder, "decoder.onnx", cases).error, 1e-5)
            weights = (writer.folder / "codec.weights").stat().st_size
            self.assertLess(sum(sizes.values()) - sum((writer.folder / f).stat().st_size for f in graphs), 1.05 * weights)
            first, later = (onnxruntime.InferenceSession(str(writer.folder / f"decoder_{part}.onnx"), providers=["CPUExecutionProvider"]) for part in ("init", "step"))
            latents = cases[0].inputs["latents"]
            frames, *states = first.run(None, {"latents": latents[:, :, :1]})
            pieces = [frames]
            for t in range(1, latents.shape[2]):
                frames, *states = later.run(None, {"latents": latents[:, :, t : t + 1]} | {f"state_{k}": s for k, s in enumerate(states)})
                pieces.append(frames)
            np.testing.assert_allclose(np.concatenate(pieces, axis=1), cases[0].outputs["frames"], atol=1e-5)

    def test_an_export_that_is_off_does_not_pass(self):
        self.assertFalse(check.Result("a.onnx", 1.0, 1e-2, 1).passes("fp32"))
        self.assertFalse(check.Result("a.onnx", float("inf"), float("inf"), 1).passes("int8"))
        self.assertTrue(check.Result("a.onnx", 1.0, 1e-2, 1).passes("fp16"))


if __name__ == "__main__":
    unittest.main()
