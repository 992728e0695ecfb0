"""The autoencoder on unseen renders: PSNR, of thin things too, and whether the seams between latent frames show."""
from __future__ import annotations

import random

import cv2
import numpy as np

from ..world import Scene
from .bench import Bench, render
from .figures import psnr, share

FRAMES = 33


def thin_things(frames: np.ndarray) -> np.ndarray:
    """bool [F, H, W]: what an opening with a disc of 7 pixels takes away, bright or dark: legs, whiskers, stars, outlines."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    out = []
    for f in frames:
        grey = cv2.cvtColor((f * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        thin = np.maximum(cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, disc), cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, disc))
        out.append(thin > 40)
    return np.stack(out)


def recall(real: np.ndarray, back: np.ndarray, mask: np.ndarray) -> float:
    """How much of thin things' contrast with their surroundings is left, 0..1."""
    grey = lambda x: x.mean(-1)
    blur = lambda x: np.stack([cv2.blur(f, (9, 9)) for f in grey(x)])
    a, b = (grey(real) - blur(real))[mask], (grey(back) - blur(back))[mask]
    return float(np.clip((a * b).sum() / max((a * a).sum(), 1e-9), 0, None))


def flicker(frames: np.ndarray) -> np.ndarray:
    """Mean absolute second difference in time at each inner frame, of 255."""
    return np.abs(frames[2:] - 2 * frames[1:-1] + frames[:-2]).mean((1, 2, 3)) * 255


def seams(count: int, chunk: int = 3) -> np.ndarray:
    """Of `count` inner frames (1, 2, …), whether a chunk of latent frames begins at it or right after it."""
    frame = np.arange(1, count + 1)
    first = lambda f: (f >= 9) & ((f + 3) % (4 * chunk) == 0)
    return first(frame) | first(frame + 1)


def code(bench: Bench, job) -> dict:
    """The figures of one clip, of a scene from a moment on."""
    scene, moment = job
    clip = render(scene, FRAMES, start=moment)
    back = bench.package.decode(bench.package.encode(clip))
    mask = thin_things(clip)
    a, b = flicker(clip), flicker(back)
    s = seams(len(a))
    # The coding error's own changes: more of them at seams than elsewhere would show.
    jumps = np.abs(np.diff(back - clip, axis=0)).mean((1, 2, 3)) * 255
    start = np.array([(f + 3) % 12 == 0 and f >= 9 for f in range(1, FRAMES)])
    return {"psnr": psnr(clip, back), "thin_psnr": psnr(clip, back, mask), "thin_contrast": recall(clip, back, mask),
            "real_flicker": a[s].mean(), "flicker": b[s].mean(), "error_jump_at_seams": jumps[start].mean(), "error_jump_within": jumps[~start].mean(),
            "subject": bench.detectors.read(back)["subject"] == scene.subject}


def measure(bench: Bench) -> dict:
    rng = random.Random(31337)
    jobs = [(Scene.sample(rng, held_out=True), rng.uniform(0, 2.5)) for _ in range(bench.count(40, 4))]
    clips = bench.map("codec", code, jobs)
    mean = lambda name: float(np.mean([clip[name] for clip in clips]))
    same = ("psnr", "thin_psnr", "thin_contrast", "error_jump_at_seams", "error_jump_within")
    return {"clips": len(clips), "worst_psnr": min(clip["psnr"] for clip in clips), **{name: mean(name) for name in same},
            "flicker_at_seams": mean("flicker") / max(mean("real_flicker"), 1e-9), "subject_after_coding": share([clip["subject"] for clip in clips])}


def markdown(r: dict) -> str:
    return (f"{r['clips']} unseen clips of {FRAMES} frames: {r['psnr']:.1f} dB (worst clip {r['worst_psnr']:.1f}), on thin things {r['thin_psnr']:.1f} dB with "
            f"{r['thin_contrast']:.0%} of their contrast. Flicker at chunk boundaries {r['flicker_at_seams']:.2f} × the renders'; the coding error changes by "
            f"{r['error_jump_at_seams']:.2f} of 255 there, {r['error_jump_within']:.2f} elsewhere.")
