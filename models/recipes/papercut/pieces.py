"""Carries checkpoints between machines: python -m papercut.pieces split|join --work DIR --pieces DIR

`split` writes what is needed to go on or to export, the averaged weights in half precision, as files of at most 16 MiB;
`join` puts the checkpoints back into a work folder.  A run resumed from them warms its optimiser up anew.
"""
from __future__ import annotations

import argparse
import io
import pathlib

import torch

from .checkpoints import save
from .data import add_work

PIECE = 16 << 20
CHECKPOINTS = ("vae.pt", "transformer.pt")


def halved(x):
    """The same with every floating-point tensor in half precision, without optimiser state and the weights of the last step."""
    if torch.is_tensor(x):
        return x.half().cpu() if x.is_floating_point() else x.cpu()
    return {k: halved(v) for k, v in x.items() if k not in ("opt", "live", "vae")} if isinstance(x, dict) else x


def whole(x):
    if torch.is_tensor(x):
        return x.float() if x.is_floating_point() else x
    return {k: whole(v) for k, v in x.items()} if isinstance(x, dict) else x


def split(work: pathlib.Path, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes papercut.000, papercut.001, … and removes those of an earlier, longer run."""
    found = {name: halved(torch.load(work / name, weights_only=True, map_location="cpu")) for name in CHECKPOINTS if (work / name).exists()}
    if not found:
        raise SystemExit(f"no {' or '.join(CHECKPOINTS)} in {work}")
    buffer = io.BytesIO()
    torch.save(found, buffer)
    data = buffer.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("papercut.[0-9][0-9][0-9]"):
        old.unlink()
    paths = []
    for i in range(0, len(data), PIECE):
        paths.append(out / f"papercut.{i // PIECE:03}")
        paths[-1].write_bytes(data[i:i + PIECE])
    return paths


def join(source: pathlib.Path, work: pathlib.Path) -> list[str]:
    """Reads the pieces and writes the checkpoints that they hold."""
    paths = sorted(source.glob("papercut.[0-9][0-9][0-9]"))
    if not paths:
        raise SystemExit(f"no papercut.000 in {source}")
    found = torch.load(io.BytesIO(b"".join(p.read_bytes() for p in paths)), weights_only=True)
    work.mkdir(parents=True, exist_ok=True)
    for name, state in found.items():
        save(work / name, **whole(state))
    return list(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("split", "join"))
    add_work(parser)
    parser.add_argument("--pieces", type=pathlib.Path, required=True, help="folder of the pieces")
    args = parser.parse_args()
    if args.what == "split":
        for path in split(args.work, args.pieces):
            print(f"{path}: {path.stat().st_size / (1 << 20):.1f} MiB")
    else:
        print("joined", *join(args.pieces, args.work))


if __name__ == "__main__":
    main()
