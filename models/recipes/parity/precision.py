"""Measures what half-precision and int8 weights cost each family: python -m parity.precision [INSTANCE …]

The tiny pipelines are made sixteen times wider, with Gaussian weights, since three-valued ones survive any rounding and
narrow ones are left alone. Text encoders and denoisers are exported in each precision and held against PyTorch in fp32.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch

from parity.__main__ import quiet

FACTOR = 16
#: The fields of configurations that say how wide a text encoder or denoiser is.
WIDTHS = {
    "d_model", "d_ff", "num_heads", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "projection_dim", "text_dim", "ffn_dim", "image_dim", "added_kv_proj_dim", "cross_attention_dim", "caption_channels",
    "time_embed_dim", "text_embed_dim", "pooled_projection_dim", "block_out_channels", "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
}
COMPONENTS = ("text_encoder", "text_encoder_2", "transformer", "transformer_2", "unet")


def widen(module: torch.nn.Module) -> torch.nn.Module:
    """Returns a module of the same kind, wider and with random weights."""
    from open_models import random_weights

    transformers = hasattr(module.config, "to_dict")
    config = module.config.to_dict() if transformers else dict(module.config)
    config |= {name: scaled(config[name]) for name in WIDTHS if config.get(name) is not None}
    wide = type(module)(type(module.config)(**config)) if transformers else type(module).from_config(config)
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            parameter.copy_(random_weights.draw(name, parameter.shape))
    return wide.eval()


def scaled(value):
    return [scaled(v) for v in value] if isinstance(value, (list, tuple)) else value * FACTOR


def measure(name: str, work: Path, dtypes: list[str]) -> dict[str, dict[str, float]]:
    """Returns, by precision and file, the worst error as a share of the largest value."""
    from open_models import cli, families
    from open_models.options import Options
    from open_models.package import Writer
    from open_models.source import Source
    from parity.instances import INSTANCES

    torch.manual_seed(0)
    pipeline = INSTANCES[name].pipeline()
    wide = {c: widen(m) for c in COMPONENTS if (m := getattr(pipeline, c, None)) is not None}
    pipeline.register_modules(**wide)
    pipeline.save_pretrained(work / name)
    source, errors = Source(str(work / name)), {}
    for dtype in dtypes:
        options = Options(dtype=dtype)
        family = families.find(source.pipeline)(source, options)
        writer = Writer(work / f"{name}-{dtype}")
        results = [r for part in family.parts() if not part.codec for r in cli.export_part(part, source, options, writer, check=True)]
        errors[dtype] = {r.file: r.relative for r in results}
    return errors


def main() -> None:
    p = argparse.ArgumentParser(prog="precision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", metavar="INSTANCE", nargs="*", help="instances to measure, as parity.sh --list names them (default: all)")
    p.add_argument("--dtype", action="append", choices=("fp32", "fp16", "int8"), help="precision; may be repeated (default: fp16 and int8)")
    args = p.parse_args()
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
    quiet()
    from parity.instances import INSTANCES

    table = []
    for name in args.names or INSTANCES:
        start, work = time.time(), Path(tempfile.mkdtemp(prefix="latentflow-precision-"))
        try:
            errors = measure(name, work, args.dtype or ["fp16", "int8"])
        finally:
            shutil.rmtree(work, ignore_errors=True)
        each = lambda files: ", ".join(f"{file} {error:.1e}" for file, error in files.items())
        table.append(f"{name}: " + "; ".join(f"{dtype} {each(files)}" for dtype, files in errors.items()))
        print(f"{table[-1]}, {time.time() - start:.0f} s", flush=True)
    print("\n".join(table))


if __name__ == "__main__":
    main()
