"""Writes a pipeline of a published model's architecture with random weights: python -m open_models.random_weights OUT_DIR --tokenizer DIR

For measuring export, memory and speed at full size where the real weights can't be had. Wan 2.1 T2V 1.3B: transformer and
autoencoder are of the published configuration; of the text encoder's 24 layers there are as many as --text-layers says,
in their true width. One tensor at a time is in memory.
"""
from __future__ import annotations

import argparse
import json
import math
import pathlib

import torch


def write(module: torch.nn.Module, path: pathlib.Path) -> int:
    """Writes a safetensors file for a module on the meta device; returns its bytes."""
    tensors = {k: v for k, v in module.state_dict().items() if k != "encoder.embed_tokens.weight"}  # tied to `shared`
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + 4 * tensor.numel()]}
        offset += 4 * tensor.numel()
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            file.write(draw(name, tensor.shape).numpy().tobytes())
    return offset


def draw(name: str, shape: torch.Size) -> torch.Tensor:
    """Random weights that keep activations near 1: Gaussian by fan-in; norms near 1, biases near 0."""
    if len(shape) >= 2 and math.prod(shape) != shape[0]:
        fan = 1 if "embed_tokens" in name or "shared" in name else math.prod(shape[1:])
        return torch.randn(shape) * fan**-0.5
    return 0.02 * torch.randn(shape) + (0.0 if "bias" in name else 1.0)


def main() -> None:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, metavar="OUT_DIR")
    parser.add_argument("--tokenizer", required=True, help="folder of a T5 tokenizer; its size is the vocabulary's")
    parser.add_argument("--text-layers", type=int, default=2, help="layers of the text encoder, of 24 (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    with torch.device("meta"):
        modules = {
            "transformer": WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30, text_dim=4096),
            "vae": AutoencoderKLWan(),
            "text_encoder": UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=args.text_layers,
                                                        feed_forward_proj="gated-gelu")),
        }
    index = {"_class_name": "WanPipeline", "_diffusers_version": "0.42.1", "boundary_ratio": None, "expand_timesteps": False, "scheduler": ["diffusers", "UniPCMultistepScheduler"],
             "text_encoder": ["transformers", "UMT5EncoderModel"], "tokenizer": ["transformers", type(tokenizer).__name__], "transformer": ["diffusers", "WanTransformer3DModel"],
             "transformer_2": [None, None], "vae": ["diffusers", "AutoencoderKLWan"]}
    for name, module in modules.items():
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "text_encoder":
            module.config.architectures = ["UMT5EncoderModel"]
            module.config.save_pretrained(folder)
        else:
            module.save_config(folder)
        file = "model.safetensors" if name == "text_encoder" else "diffusion_pytorch_model.safetensors"
        print(f"{name}: {write(module, folder / file) / 1e9:.2f} GB", flush=True)
    tokenizer.save_pretrained(args.out / "tokenizer")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0).save_pretrained(args.out / "scheduler")
    (args.out / "model_index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    main()
