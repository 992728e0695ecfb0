"""What all parts of the evaluation share: the package, the detectors, how much is done, processes, progress."""
from __future__ import annotations

import dataclasses
import multiprocessing.pool
import pathlib
import random
import sys
import time

import numpy as np
import torch

from ..captions import ATTRIBUTES, LANGUAGES, UNSAID, caption
from ..detectors import Detectors, load
from ..host import Package
from ..world import SUBJECTS, Scene

WIDTH, HEIGHT, RATE = 256, 160, 24


@dataclasses.dataclass
class Bench:
    package: Package
    detectors: Detectors
    out: pathlib.Path  # folder for pictures
    effort: float  # 1 is the full size, 0.1 a tenth of it
    seed: int = 0
    plugin: pathlib.Path | None = None  # folder of the GStreamer plugin
    pool: multiprocessing.pool.Pool | None = None

    def count(self, full: int, least: int = 2) -> int:
        """How many of something to do, where the full size does `full`."""
        return max(min(least, full), round(full * self.effort))

    def video(self, prompt: str, latent_frames: int, seed: int, width: int = WIDTH, height: int = HEIGHT, **options) -> np.ndarray:
        """Frames float [F, H, W, 3] of a prompt."""
        return self.package.decode(self.package.generate(prompt, latent_frames, width, height, seed=self.seed + seed, **options))

    def map(self, what: str, work, jobs: list) -> list:
        """`work(bench, job)` of every job, in their order, shared among the processes; progress is told under the name `what`."""
        progress, out = Progress(what, len(jobs)), []
        calls = [(work, job) for job in jobs]
        for result in self.pool.imap(_call, calls) if self.pool else map(lambda call: call[0](self, call[1]), calls):
            out.append(result)
            progress.step()
        return out


def open_bench(package: pathlib.Path, work: pathlib.Path, processes: int, **options) -> Bench:
    """A bench whose `map` uses as many processes, each of one thread, which is faster than threads that share a video."""
    torch.set_num_threads(1)
    bench = Bench(Package(package, 1), load(work / "detectors", processes=processes), **options)
    if processes > 1:
        bench.pool = multiprocessing.get_context("spawn").Pool(processes, _start, (package, work, options))
    return bench


_bench: Bench | None = None  # a process's own


def _start(package: pathlib.Path, work: pathlib.Path, options: dict) -> None:
    global _bench
    _bench = open_bench(package, work, 1, **options)


def _call(call):
    work, job = call
    return work(_bench, job)


def judged_scenes(count: int, seed: int = 4242) -> list[Scene]:
    """Held-out combinations, each subject in turn."""
    rng, scenes, subjects = random.Random(seed), [], SUBJECTS[1:]
    while len(scenes) < count:
        scene = Scene.sample(rng, held_out=True)
        if scene.subject == subjects[len(scenes) % len(subjects)]:
            scenes.append(scene)
    return scenes


def full_prompt(scene: Scene, language: str, seed: int) -> str:
    """A prompt that says all there is to say: place, time, weather and camera, of a subject also colour, action, way, who else is there and
    whether pillars are in the way."""
    names = ("subject", "place", "time", "color", "action") + (("direction",) if scene.direction != "none" else ())
    said = dict.fromkeys(ATTRIBUTES, UNSAID) | {k: getattr(scene, k) for k in names}
    usual = {"camera": "static", "weather": "clear", "other": "none"}
    said |= {k: getattr(scene, k) for k, v in usual.items() if k in said and getattr(scene, k) != v}
    if scene.pillars:
        said["pillars"] = "yes"
    return caption(scene, random.Random(seed), language, said)[0]


def render(scene: Scene, frames: int, width: int = WIDTH, height: int = HEIGHT, start: float = 0.) -> np.ndarray:
    """Frames float [F, H, W, 3] of a scene itself."""
    return scene.render(width, height, frames, RATE, start).astype(np.float32) / 255


class Progress:
    """Says on standard error how far a part has come and how long it will still take."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self.start = self.said = time.time()
        print(f"{what}: 0 of {total}", file=sys.stderr, flush=True)

    def step(self) -> None:
        self.done += 1
        now = time.time()
        if now - self.said > 10 or self.done == self.total:
            self.said = now
            left = (now - self.start) / self.done * (self.total - self.done)
            print(f"{self.what}: {self.done} of {self.total}, {left:.0f} s left", file=sys.stderr, flush=True)


__all__ = ["Bench", "HEIGHT", "LANGUAGES", "RATE", "WIDTH", "full_prompt", "judged_scenes", "open_bench", "render"]
