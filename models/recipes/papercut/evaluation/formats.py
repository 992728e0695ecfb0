"""Every shape: four aspects in two sizes, single pictures, one second, and what detectors read in them."""
from __future__ import annotations

import numpy as np
from PIL import Image

from .attributes import asked, compare
from .bench import LANGUAGES, Bench, full_prompt, judged_scenes, render
from .figures import table

SIZES = {"16:10": ((256, 160), (320, 192)), "1:1": ((192, 192), (256, 256)), "10:16": ((160, 256), (192, 320)), "wide": ((320, 160), (384, 160))}
NAMES = ("subject", "place", "time", "color")
LENGTHS = {"picture": 1, "1 s": 7}  # latent frames


def shape(bench: Bench, job) -> tuple[dict[str, dict[str, str]], dict[str, str], np.ndarray]:
    """What detectors read in a scene's video of a size at each length and in its render, and the last frame."""
    i, scene, (w, h) = job
    prompt, seen = full_prompt(scene, LANGUAGES[i % 2], i), {}
    for name, latent_frames in LENGTHS.items():
        frames = bench.video(prompt, latent_frames, i, w, h)
        assert frames.shape == (4 * latent_frames - 3, h, w, 3)
        seen[name] = bench.detectors.read(frames)
    return seen, bench.detectors.read(render(scene, 1, w, h, 1.)), (frames[-1] * 255 + .5).astype(np.uint8)


def measure(bench: Bench) -> dict:
    scenes = judged_scenes(bench.count(16, 2), 555)
    wanted = [{k: v for k, v in asked(s).items() if k in NAMES} for s in scenes]
    sizes = [(aspect, size) for aspect, sizes in SIZES.items() for size in sizes]
    found = bench.map("shapes", shape, [(i, scene, size) for _, size in sizes for i, scene in enumerate(scenes)])
    out, pictures = {}, []
    for at, (aspect, (w, h)) in enumerate(sizes):
        seen, real, last = zip(*found[at * len(scenes):][:len(scenes)])
        out[f"{w}x{h}"] = {"aspect": aspect, "renders": compare(wanted, real)} | {k: compare(wanted, [s[k] for s in seen]) for k in LENGTHS}
        pictures.append(np.concatenate(last[:6], 1))
    wide = max(p.shape[1] for p in pictures)
    sheet = np.concatenate([np.pad(p, ((0, 4), (0, wide - p.shape[1]), (0, 0))) for p in pictures])
    Image.fromarray(sheet).save(bench.out / "shapes.png")
    return out


def markdown(r: dict) -> str:
    rows = []
    for size, v in r.items():
        for name in LENGTHS:
            rows.append([v["aspect"], size, name, *(f"{v[name][k]['share']:.2f} ({v['renders'][k]['share']:.2f})" for k in NAMES)])
    n = next(iter(r.values()))["picture"]["subject"]["n"]
    return table(["aspect", "size", "length", *NAMES], rows) + f"\n\n{n} prompts each, in brackets what is read in renders of that size."
