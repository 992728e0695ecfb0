"""Makes videos from a package as a contact sheet: python -m papercut.sample --package DIR --out sheet.png [PROMPT ...]"""
from __future__ import annotations

import argparse
import pathlib
import sys
import time

import numpy as np
from PIL import Image

from .host import Package

PROMPTS = ("猫坐在窗台上", "一只猫坐在窗台上看日落", "雪地中的狗狗奔跑", "花园", "古代遗迹的无人机", "水下遗迹的蝴蝶")


def contact_sheet(package: Package, prompts, path: pathlib.Path, width: int = 256, height: int = 160, latent_frames: int = 6,
                  columns: int = 5, seed: int = 0, **options) -> None:
    """One row a prompt, `columns` moments of its video from left to right."""
    rows = []
    for i, prompt in enumerate(prompts):
        start = time.time()
        latents = package.generate(prompt, latent_frames, width, height, seed + i, **options)
        frames = package.decode(latents)
        print(f"{prompt}: {len(frames)} frames, {len(frames) / 24 / (time.time() - start):.2f} x real time", file=sys.stderr, flush=True)
        picks = np.linspace(0, len(frames) - 1, columns).round().astype(int)
        rows.append(np.concatenate(list((frames[picks] * 255 + .5).astype(np.uint8)), 1))
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*", default=list(PROMPTS))
    parser.add_argument("--package", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("sheet.png"))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=160)
    parser.add_argument("--latent-frames", type=int, default=6)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--shift", type=float)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    contact_sheet(Package(args.package), args.prompts, args.out, args.width, args.height, args.latent_frames, seed=args.seed,
                  steps=args.steps, guidance=args.guidance, shift=args.shift)


if __name__ == "__main__":
    main()
