"""Given frames: a picture as prompt, going on forwards and backwards, a loop, a join.  Each once, as a contact sheet, with
the PSNR of the given frames beside that of the autoencoder alone: after what truly lay before them, and after nothing, for what the
encoder saw before a frame it does not say again, and a video made up to it shows something else."""
from __future__ import annotations

import numpy as np
from PIL import Image

from ..host import Package
from ..world import Scene
from .bench import HEIGHT, WIDTH, Bench, render
from .figures import psnr, table

SCENES = {
    "a cat on a windowsill at sunset": Scene("cat", "windowsill", "sunset", "orange", "sit", "none", "static", "clear", 41),
    "雪地中的狗狗向右奔跑": Scene("dog", "snow", "day", "brown", "run", "right", "static", "snow", 42),
}


def frames_of(latent: int) -> slice:
    """The frames that a latent frame stands for."""
    return slice(0, 1) if latent == 0 else slice(4 * latent - 3, 4 * latent + 1)


def tasks(latents: np.ndarray) -> dict[str, tuple[int, dict[int, np.ndarray]]]:
    """Name: (latent frames in all, what is given), from nine latent frames [C, 9, h, w] of a clip."""
    take = lambda pairs: {to: latents[:, a] for to, a in pairs}
    return {
        "picture as prompt": (9, take([(0, 0)])),
        "forwards": (9, take([(i, i) for i in range(4)])),
        "backwards": (3, take([(2, 2)])),
        "loop": (9, take([(0, 0), (8, 0)])),
        "join": (9, take([(0, 0), (1, 1), (2, 2), (8, 8)])),
    }


def runs(numbers: list[int]) -> list[list[int]]:
    """Numbers in a row together: [0, 1, 5] -> [[0, 1], [5]]."""
    return [run.tolist() for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)]


def after_nothing(package: Package, latents: np.ndarray) -> np.ndarray:
    """The frames of latents [C, T, h, w] from the middle of a video, float [4 * T, H, W, 3], by a decoder that saw nothing before."""
    init, step = package.decoder
    _, *states = init.run(None, {"latents": latents[None, :, :1]})
    return step.run(None, {"latents": latents[None], **{f"state_{k}": np.zeros_like(s) for k, s in enumerate(states)}})[0][0]


def fill(bench: Bench, job) -> tuple[dict, list[np.ndarray]]:
    """The figures of all tasks on one scene, and six moments of each video."""
    n, prompt, scene = job
    clip = render(scene, 33, start=.5)
    latents = bench.package.encode(clip)
    coded = bench.package.decode(latents)
    out, rows = {}, []
    for name, (length, given) in tasks(latents[0]).items():
        made = bench.package.generate(prompt, length, WIDTH, HEIGHT, seed=bench.seed + n, given=given)
        frames = bench.package.decode(made)
        kept, alone, after = [], [], []
        for run in runs(sorted(given)):
            cut = after_nothing(bench.package, np.stack([given[i] for i in run], 1)) if run[0] else coded
            for i in run:
                source = 0 if name == "loop" else i
                want = clip[frames_of(source)]
                alone.append(psnr(want, coded[frames_of(source)]))
                got = frames[frames_of(i)]
                want = np.repeat(want, len(got) // len(want), 0)  # a picture may be given in the place of four frames
                kept.append(psnr(want, got))
                after.append(psnr(want, cut[4 * (i - run[0]):][:4] if run[0] else cut[frames_of(i)]))
        out[f"{name}, {scene.subject}"] = {"kept": float(np.mean(kept)), "autoencoder": float(np.mean(alone)), "after_nothing": float(np.mean(after)),
                                           "seam": float(np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)).max() * 255),
                                           "seam_of_renders": float(np.abs(np.diff(clip, axis=0)).mean((1, 2, 3)).max() * 255)}
        picks = np.linspace(0, len(frames) - 1, 6).round().astype(int)
        rows.append(np.concatenate(list(frames[picks]), 1))
    return out, rows


def measure(bench: Bench) -> dict:
    found = bench.map("given frames", fill, [(n, prompt, scene) for n, (prompt, scene) in enumerate(SCENES.items())])
    sheet = np.concatenate([row for _, rows in found for row in rows])
    Image.fromarray((sheet * 255 + .5).astype(np.uint8)).save(bench.out / "given.png")
    return {name: figures for out, _ in found for name, figures in out.items()}


def markdown(r: dict) -> str:
    return table(["", "given frames kept, dB", "the autoencoder alone, dB", "after nothing, dB", "largest change between frames, of 255", "in renders"],
                 [[k, v["kept"], v["autoencoder"], v["after_nothing"], v["seam"], v["seam_of_renders"]] for k, v in r.items()])
