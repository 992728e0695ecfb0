"""Averages checkpoints of one network from several training runs, weight by weight: python -m papercut.soup A.pt B.pt --out C.pt

Runs that went on from one another end in different places of the same valley, and their mean has less error than each of them (model soups,
arXiv:2203.05482), as long as none is much worse.  The result has averaged weights alone, and says as many steps as the first checkpoint;
a run that resumes from it begins there.
"""
from __future__ import annotations

import argparse
import pathlib

import torch

from .checkpoints import load, save


def mean(states: list[dict[str, torch.Tensor]], shares: list[float]) -> dict[str, torch.Tensor]:
    """The weighted mean of weights of one network; what is no float is the first's."""
    for state in states[1:]:
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in states[0].items()}:
            raise SystemExit("these checkpoints are not of one network: weights have other names or shapes")
    total = sum(shares)
    of = lambda k, v: sum(share / total * state[k].float() for share, state in zip(shares, states)).to(v.dtype) if v.is_floating_point() else v
    return {k: of(k, v) for k, v in states[0].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=pathlib.Path, help="vae.pt or transformer.pt of several runs")
    parser.add_argument("--shares", nargs="+", type=float, help="how much of each (default: all alike)")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    shares = args.shares or [1.] * len(args.checkpoints)
    if len(shares) != len(args.checkpoints) or min(shares) < 0 or not sum(shares):
        parser.error(f"{len(shares)} shares for {len(args.checkpoints)} checkpoints: one for each, none below 0")
    states = [load(path) for path in args.checkpoints]
    save(args.out, **{k: v for k, v in states[0].items() if k not in ("vae", "live", "opt", "critic")} | {"average": mean([s["average"] for s in states], shares)})


if __name__ == "__main__":
    main()
