"""Exports a diffusers pipeline as a Latentflow package.

The package is a folder of ONNX graphs, their weights, tokenizer.json and model.toml: what the `model` property of
textsrc, latentdiffuse, vaedecode and vaeencode takes. Nothing of Python is needed to run it.
"""
from __future__ import annotations

import argparse
import gc
import os
import pathlib
import re
import sys
import time
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def parser() -> argparse.ArgumentParser:
    from .attention import FORMS

    p = argparse.ArgumentParser(prog="export.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                epilog="Example: export.sh Wan-AI/Wan2.1-T2V-1.3B-Diffusers ~/models/wan2.1-1.3b --check")
    p.add_argument("source", metavar="SOURCE", help="folder that diffusers' save_pretrained wrote, or a name on the Hugging Face hub")
    p.add_argument("out", metavar="OUT_DIR", type=pathlib.Path, help="folder of the package; written whole or not at all")
    p.add_argument("--dtype", choices=("fp32", "fp16", "int8"), default="fp32",
                   help="weights of text encoders and denoisers: fp32 (default; for CPUs), fp16 (for GPUs), int8 (for CPUs, a quarter of the size); codecs stay fp32")
    p.add_argument("--check", action="store_true", help="compare every graph with diffusers on several sizes; fails when one is off")
    p.add_argument("--opset", type=int, default=20, help="version of ONNX's operators, 18 to 23 (default: %(default)s)")
    p.add_argument("--attention", choices=FORMS, default="fused",
                   help="fused (default): ONNX Runtime's own operator; onnx: the standard's Attention, needs --opset 23; plain: matrix products")
    p.add_argument("--scheduler", metavar="CLASS", help="another scheduler of diffusers, made of the same configuration, such as DDIMScheduler")
    p.add_argument("--max-length", type=int, metavar="TOKENS", help="tokens of a prompt, where the pipeline's default is not wanted; CLIP's text encoders have their own")
    p.add_argument("--name", help="the package's name (default: SOURCE's)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of model.toml, such as video.width.default=480; may be repeated")
    p.add_argument("--revision", help="revision on the hub")
    p.add_argument("--variant", help="variant of the weight files, such as fp16")
    p.add_argument("--force", action="store_true", help="replace OUT_DIR if there is one")
    return p


def main() -> None:
    args = parser().parse_args()
    if args.attention == "onnx" and args.opset < 23:
        sys.exit("--attention onnx needs --opset 23: the operator is not in older versions")
    if args.out.exists() and not args.force and (not args.out.is_dir() or any(args.out.iterdir())):
        sys.exit(f"`{args.out}` is there already: choose another folder, or replace it with --force")
    try:
        export(args)
    except (RuntimeError, OSError, ValueError) as error:
        sys.exit(f"export.sh: {error}")


def export(args: argparse.Namespace) -> None:
    from . import estimate, families
    from .options import Options
    from .package import Writer
    from .source import Source

    if args.name and not re.fullmatch("[a-z0-9._-]+", args.name):
        raise SystemExit(f"`--name {args.name}`: lower-case letters, digits, -, _ and . are allowed")
    start = time.time()
    source = Source(args.source, args.revision, args.variant)
    options = Options(args.dtype, args.opset, args.attention, args.max_length, args.scheduler)
    family = families.find(source.pipeline)(source, options)
    parts = family.parts()
    need = estimate.estimate(source, parts, args.dtype, args.check)
    print(f"{source.pipeline}: about {estimate.size(need.disk)} on the disk, up to {estimate.size(need.memory)} of memory (for {need.worst})", flush=True)
    estimate.require_disk(need, args.out)
    if need.memory > estimate.available_memory():
        print(f"warning: only {estimate.size(estimate.available_memory())} of memory are available", file=sys.stderr, flush=True)

    writer = Writer(args.out)
    results = []
    for part in parts:
        results += export_part(part, source, options, writer, args.check)
        gc.collect()
    for file, component in family.tokenizers().items():
        writer.tokenizer(source.tokenizer(component), file)
    manifest = head(args, source) | family.manifest()
    for assignment in args.set:
        override(manifest, assignment)
    writer.manifest(manifest)
    failed = [r for r in results if not r.passes(args.dtype)]
    if failed:
        sys.exit("\n".join(f"{r.file} is off by {r.error:.1e}, {r.relative:.1e} of its largest value" for r in failed)
                 + f"\nthe package is not finished; what there is of it lies in {writer.folder}")
    total = writer.finish()
    worst = max(results, key=lambda r: r.relative, default=None)
    verdict = f", worst error {worst.error:.1e} in {worst.file}" if worst else ""
    print(f"{args.out}: {estimate.size(total)} in {time.time() - start:.0f} s, peak memory {estimate.size(peak_memory())}{verdict}")


def export_part(part, source, options, writer, check: bool) -> list:
    """Loads a part's modules, exports its graphs and, if asked, checks them."""
    from . import check as checks
    from . import exporter, precision, quantize
    from .estimate import size

    dtype = "fp32" if part.codec else options.dtype
    cases = {}
    if check and dtype == "fp16":  # the half-precision graph is held against the full precision
        cases = {g.file: checks.cases(g) for g in part.graphs(*(source.load(c, precision.LOADED["fp32"]) for c in part.components))}
        gc.collect()
    start = time.time()
    modules = [source.load(c, precision.LOADED[dtype]) for c in part.components]
    print(f"{part.name}: {', '.join(part.components)} loaded in {time.time() - start:.1f} s", flush=True)
    graphs = part.graphs(*modules)
    if check and not cases:
        cases = {g.file: checks.cases(g) for g in graphs}
    files = []
    for graph in graphs:
        start = time.time()
        model = exporter.trace(precision.rounded(graph) if dtype == "fp16" else graph, options.opset, options.attention)
        if dtype == "int8":
            quantize.quantize(model)
        written = writer.graph(model, graph.file, f"{part.name}.weights")
        files.append(graph.file)
        print(f"  {graph.file}: {len(list(model.graph))} nodes, {size(written)} written, {time.time() - start:.1f} s", flush=True)
        del model
    del modules, graphs, graph
    gc.collect()
    results = []
    for file in files if check else []:
        start = time.time()
        result = checks.run(writer.folder, file, cases[file], dtype)
        results.append(result)
        print(f"  {file}: {'ok' if result.passes(dtype) else 'WRONG'}, worst error {result.error:.1e} ({result.relative:.1e} of the largest value), "
              f"{result.cases} sizes, {time.time() - start:.1f} s", flush=True)
    return results


def head(args, source) -> dict[str, Any]:
    """The manifest's first lines."""
    import diffusers

    return {
        "format": 1,
        "name": args.name or source.name,
        "version": args.revision or "1",
        "description": f"{source.pipeline}, exported in {args.dtype}",
        "license": source.license,
        "provenance": f"Exported from {pathlib.PurePath(args.source).name if source.folder == pathlib.Path(args.source) else args.source} with diffusers {diffusers.__version__}",
    }


def override(manifest: dict[str, Any], assignment: str) -> None:
    """Sets the value that `a.b.c=value` names."""
    import tomllib

    path, separator, text = assignment.partition("=")
    *tables, key = path.split(".")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    where = manifest
    for name in tables:
        where = where.get(name) if isinstance(where, dict) else None
    if not separator or not isinstance(where, dict):
        raise SystemExit(f"`{assignment}` sets nothing: KEY is a path in model.toml, such as video.width.default or defaults.guidance_scale")
    kind = lambda value: float if type(value) is int else type(value)
    if key in where and kind(value) is not kind(where[key]):
        raise SystemExit(f"`{assignment}`: {path} is {where[key]!r}, and takes a value like that")
    where[key] = value


def peak_memory() -> int:
    """The most memory this process had so far."""
    lines = dict(line.split(":") for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) << 10


if __name__ == "__main__":
    main()
