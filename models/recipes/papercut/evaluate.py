"""Judges an exported package: python -m papercut.evaluate --package DIR [--json]

Detectors trained on renders name the subject, place, time of day and colour in generated videos.  Beside every share of
right answers stand its 95 % interval, the detectors' accuracy on unseen renders (the ceiling), chance (the floor) and
the swapped control: the same videos judged by another video's prompt.  Prompts name all four attributes, half of them
in Chinese, half in English.  Also: the autoencoder on unseen clips, how much moves, and how fast it all runs.
"""
from __future__ import annotations

import argparse
import json
import math
import pathlib
import random
import time

import numpy as np
import torch

from . import detectors
from .captions import ATTRIBUTES, LANGUAGES, UNSAID, caption
from .data import add_work
from .host import Package
from .sample import PROMPTS, contact_sheet
from .world import Scene


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def share(right: list[bool]) -> dict:
    low, high = wilson(sum(right), len(right))
    return {"share": sum(right) / len(right), "low": low, "high": high, "n": len(right)}


def ceiling(net, n: int = 600) -> dict[str, float]:
    """The detectors' accuracy on renders they have not seen."""
    x, scenes = detectors.renders(n, 991)
    y = detectors.labels(scenes)
    with torch.no_grad():
        return {k: float((v.argmax(-1) == y[k]).float().mean()) for k, v in net(x).items()}


def judged_scenes(n: int) -> list[Scene]:
    rng, scenes = random.Random(4242), []
    while len(scenes) < n:
        s = Scene.sample(rng)
        if s.subject != "none":
            scenes.append(s)
    return scenes


def movement(frames: np.ndarray) -> float:
    """Mean absolute difference between frames a sixth of a second apart, in 1/255."""
    return float(np.abs(frames[4:] - frames[:-4]).mean() * 255)


def prompts_followed(package: Package, net, per_language: int, latent_frames: int) -> dict:
    out, seen, asked, moves, real_moves, spent, seconds = {}, {l: [] for l in LANGUAGES}, {l: [] for l in LANGUAGES}, [], [], 0., 0.
    for i, scene in enumerate(judged_scenes(per_language * len(LANGUAGES))):
        language = LANGUAGES[i % len(LANGUAGES)]
        said = dict.fromkeys(ATTRIBUTES, UNSAID) | {k: getattr(scene, k) for k in ("subject", "place", "time", "color", "action")}
        prompt, _ = caption(scene, random.Random(i), language, said)
        start = time.time()
        frames = package.decode(package.generate(prompt, latent_frames, 256, 160, seed=i))
        spent, seconds = spent + time.time() - start, seconds + len(frames) / 24
        seen[language].append(detectors.read(net, detectors.shrink(frames[4::4])))
        asked[language].append({k: v.index(getattr(scene, k)) for k, v in detectors.CLASSES.items()})
        moves.append(movement(frames))
        real_moves.append(movement(scene.render(256, 160, len(frames)).astype(np.float32) / 255))
    for language in (*LANGUAGES, "both"):
        pick = lambda d: sum(d.values(), []) if language == "both" else d[language]
        s, a = pick(seen), pick(asked)
        shifted = a[len(a) // 2:] + a[:len(a) // 2]
        out[language] = {k: share([x[k] == y[k] for x, y in zip(s, a)]) | {"swapped": share([x[k] == y[k] for x, y in zip(s, shifted)])["share"],
                         "chance": 1 / len(v)} for k, v in detectors.CLASSES.items()}
    return {"followed": out, "movement": float(np.mean(moves)), "movement_of_renders": float(np.mean(real_moves)), "times_real_time": seconds / spent}


def autoencoder(package: Package, net, n: int) -> dict:
    """Peak signal-to-noise ratio on unseen clips of 17 frames, and what the detectors still read after coding."""
    rng, values, right = random.Random(31337), [], {k: [] for k in detectors.CLASSES}
    for _ in range(n):
        scene = Scene.sample(rng)
        clip = scene.render(256, 160, 17, start=rng.uniform(0, 5)).astype(np.float32) / 255
        back = package.decode(package.encode(clip))
        values.append(-10 * math.log10(np.square(back - clip).mean()))
        for k, v in detectors.read(net, detectors.shrink(back[::4])).items():
            right[k].append(detectors.CLASSES[k][v] == getattr(scene, k))
    return {"psnr": float(np.mean(values)), "clips": n, "read_after_coding": {k: sum(v) / n for k, v in right.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_work(parser)
    parser.add_argument("--package", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "papercut")
    parser.add_argument("--prompts", type=int, default=32, help="videos a language")
    parser.add_argument("--latent-frames", type=int, default=4, help="latent frames a video")
    parser.add_argument("--clips", type=int, default=24, help="clips for the autoencoder")
    parser.add_argument("--sheet", type=pathlib.Path, help="also write a contact sheet of six prompts here (PNG)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    start = time.time()
    net = detectors.train(args.work / "detectors.pt")
    package = Package(args.package)
    result = {"ceiling": ceiling(net), "autoencoder": autoencoder(package, net, args.clips), **prompts_followed(package, net, args.prompts, args.latent_frames)}
    if args.sheet:
        contact_sheet(package, PROMPTS, args.sheet)
    result["minutes"] = (time.time() - start) / 60
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"autoencoder: {result['autoencoder']['psnr']:.2f} dB on {args.clips} unseen clips")
    print("what prompts name is what detectors read (share, 95 % interval | renders | swapped prompt | chance)")
    for language, rows in result["followed"].items():
        for k, v in rows.items():
            print(f"  {language:4} {k:8} {v['share']:.2f} ({v['low']:.2f} to {v['high']:.2f}) | {result['ceiling'][k]:.2f} | {v['swapped']:.2f} | {v['chance']:.2f}")
    print(f"movement {result['movement']:.1f}, of renders {result['movement_of_renders']:.1f} (mean change in 1/6 s, of 255)")
    print(f"{result['times_real_time']:.2f} x real time at 256x160 and 24 frames/s, {result['minutes']:.1f} minutes in all")


if __name__ == "__main__":
    main()
