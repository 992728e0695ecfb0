"""Every shape: four aspects in two sizes, single pictures, one second, and what detectors read in them."""
from __future__ import annotations

import numpy as np
from PIL import Image

from .attributes import asked, compare
from .bench import LANGUAGES, Bench, Progress, full_prompt, judged_scenes, render
from .figures import table

SIZES = {"16:10": ((256, 160), (320, 192)), "1:1": ((192, 192), (256, 256)), "10:16": ((160, 256), (192, 320)), "wide": ((320, 160), (384, 160))}
NAMES = ("subject", "place", "time", "color")
LENGTHS = {"picture": 1, "1 s": 7}  # latent frames


def measure(bench: Bench) -> dict:
    scenes = judged_scenes(bench.count(16, 2), 555)
    wanted = [{k: v for k, v in asked(s).items() if k in NAMES} for s in scenes]
    out, pictures = {}, []
    progress = Progress("shapes", 8 * len(scenes))
    for aspect, sizes in SIZES.items():
        for w, h in sizes:
            seen, real = {k: [] for k in LENGTHS}, []
            row = []
            for i, scene in enumerate(scenes):
                prompt = full_prompt(scene, LANGUAGES[i % 2], i)
                for name, latent_frames in LENGTHS.items():
                    frames = bench.video(prompt, latent_frames, i, w, h)
                    assert frames.shape == (4 * latent_frames - 3, h, w, 3)
                    seen[name].append(bench.detectors.read(frames))
                row.append(frames[-1])
                real.append(bench.detectors.read(render(scene, 1, w, h, 1.)))
                progress.step()
            pictures.append(np.concatenate(row[:6], 1))
            out[f"{w}x{h}"] = {"aspect": aspect, "renders": compare(wanted, real), **{k: compare(wanted, v) for k, v in seen.items()}}
    wide = max(p.shape[1] for p in pictures)
    sheet = np.concatenate([np.pad(p, ((0, 4), (0, wide - p.shape[1]), (0, 0))) for p in pictures])
    Image.fromarray((sheet * 255 + .5).astype(np.uint8)).save(bench.out / "shapes.png")
    return out


def markdown(r: dict) -> str:
    rows = []
    for size, v in r.items():
        for name in LENGTHS:
            rows.append([v["aspect"], size, name, *(f"{v[name][k]['share']:.2f} ({v['renders'][k]['share']:.2f})" for k in NAMES)])
    n = next(iter(r.values()))["picture"]["subject"]["n"]
    return table(["aspect", "size", "length", *NAMES], rows) + f"\n\n{n} prompts each, in brackets what is read in renders of that size."
