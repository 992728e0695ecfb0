"""papercut's graphs compute as its networks do."""
import pathlib
import tempfile
import unittest

import numpy as np
import onnxruntime
import torch

from papercut import export
from papercut.graphs import GUIDANCE
from papercut.text_encoder import TextEncoder
from papercut.tokenizer import make_tokenizer, pad_batch
from papercut.transformer import Transformer
from papercut.vae import VAE


def session(path: pathlib.Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def at_random(module: torch.nn.Module) -> torch.nn.Module:
    """The same with no weight that is nothing, as a package would hold it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_((p + .02 * torch.randn_like(p)).half())
    return module.eval()


class Denoiser(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.net, self.text = at_random(Transformer(d=256, layers=1)), at_random(TextEncoder(make_tokenizer().get_vocab_size(), layers=1))
        self.asks(False)
        export.denoiser(self.net, self.text, pathlib.Path(folder.name))
        self.graph = session(pathlib.Path(folder.name) / "transformer.onnx")

    def asks(self, moves: bool) -> None:
        """Has the text encoder's head read of every prompt that it asks for a camera's move, or that none does."""
        self.text.heads["camera"].bias.data[0] = -40. if moves else 40.

    def feeds(self, frames: int, past: int, h: int = 4, w: int = 6) -> list[torch.Tensor]:
        torch.manual_seed(1)
        embeds, mask = torch.randn(1, 5, 256), torch.ones(1, 5)
        clean, nothing = torch.randn(1, self.net.channels, past or 1, h, w), torch.zeros(self.net.n_caches, 1, 0, h * w // 4, 256)
        with torch.no_grad():
            kept = [x[:, :, :past] for x in self.net(clean, torch.zeros(1, past or 1), embeds, mask, nothing, nothing)[1:]]
        return [torch.randn(1, self.net.channels, frames, h, w), torch.full((1, frames), 700.), embeds, mask, *kept]

    def run_graph(self, feeds: list[torch.Tensor], draft: np.ndarray) -> list[np.ndarray]:
        return self.graph.run(None, dict(zip((i.name for i in self.graph.get_inputs()), (*(x.numpy() for x in feeds), draft))))

    def test_a_chunk_s_first_call_makes_the_draft_and_the_others_are_told_it(self):
        for frames, past in ((1, 0), (2, 1), (3, 7)):
            feeds = self.feeds(frames, past)
            with torch.no_grad():
                wanted = [x.numpy() for x in self.net(*feeds)]
            *found, draft = self.run_graph(feeds, np.zeros((1, 0, 2 * self.net.channels, 1, 1), np.float32))
            *again, same = self.run_graph(feeds, draft)
            for a, b, c in zip(wanted, found, again):
                np.testing.assert_allclose(a, b, atol=1e-3)
                np.testing.assert_array_equal(b, c)
            np.testing.assert_array_equal(draft, same)

    def test_what_follows_on_a_first_frame_moves_more_as_told_where_a_move_is_asked_for(self):
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            self.asks(True)
            export.denoiser(self.net, self.text, pathlib.Path(folder))
            self.graph = session(pathlib.Path(folder) / "transformer.onnx")
            nothing = self.text(*map(torch.tensor, pad_batch(make_tokenizer(), [""])))[0]
            for past, more in ((0, 0.), (1, GUIDANCE - 1), (2, 0.)):
                latents, _, embeds, _, *kept = feeds = self.feeds(2, past)
                *_, draft = self.run_graph(feeds, np.zeros((1, 0, 2 * self.net.channels, 1, 1), np.float32))
                known = *self.net.of_past(latents, *kept), past
                (told, variance), (untold, _) = (self.net.draft_of(latents, e[:, 0], *known) for e in (embeds, nothing))
                self.assertGreater((told - untold).abs().max(), .1)
                np.testing.assert_allclose(draft, torch.cat([told + more * (told - untold), variance], 2).numpy(), atol=1e-3)

    def test_what_a_call_is_told_counts(self):
        feeds = self.feeds(3, 7)
        *_, draft = self.run_graph(feeds, np.zeros((1, 0, 2 * self.net.channels, 1, 1), np.float32))
        self.assertGreater(np.abs(self.run_graph(feeds, draft)[0] - self.run_graph(feeds, draft + 1)[0]).max(), .1)


class Autoencoder(unittest.TestCase):
    def test_frames_and_latents_are_the_same_in_pieces(self):
        vae = at_random(VAE())
        z = torch.randn(1, 36, 4, 4, 6).numpy()
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder)
            for kind, source, axis in (("decoder", "latents", 2), ("encoder", "frames", 1)):
                export.autoencoder(vae, out, kind)
                init, step = (session(out / f"{kind}_{part}.onnx") for part in ("init", "step"))
                whole = init.run(None, {source: z})[0]
                head, tail = np.split(z, [1], axis)  # a scene's first latent frame is one frame
                first, *states = init.run(None, {source: head})
                then, *_ = step.run(None, {source: tail, **{f"state_{k}": s for k, s in enumerate(states)}})
                np.testing.assert_allclose(np.concatenate([first, then], 3 - axis), whole, atol=1e-4)
                z = whole


if __name__ == "__main__":
    unittest.main()
