"""Rendered clips: drawn by worker processes, kept as pools on disk, cut into the steps that the autoencoder sees."""
from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import pathlib
import pickle
import queue
import random
import threading
from typing import NamedTuple

import numpy as np
import torch

from .vae import LATENT_RATE
from .world import Scene


def work_dir() -> pathlib.Path:
    """Where checkpoints, data and logs go unless --work says otherwise."""
    return pathlib.Path(os.environ.get("LATENTFLOW_WORK", os.path.expanduser("~/.cache/latentflow")))


def add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=pathlib.Path, default=work_dir(), help="folder of checkpoints, data and logs (default: %(default)s)")


def cores() -> int:
    return len(os.sched_getaffinity(0))


def subject_masks(scene: Scene, columns: int, rows: int, frames: int, start: float, rate: float = 24.) -> np.ndarray:
    """uint8 [latent frames, rows, columns]: how much of each latent's cell subjects cover, in the middle of its frames, of 255."""
    moments = [start] + [start + (4 * i - 1.5) / rate for i in range(1, (frames - 1) // 4 + 1)]
    return np.stack([(scene.subject_mask(columns, rows, t) * 255).astype(np.uint8) for t in moments])


class Job(NamedTuple):
    """A clip to render: of a scene drawn with `seed`, beginning up to `latest` seconds after it, half of them as videos do.

    `apart`: its first OPENING frames are those that the scene begins with, the others lie up to a minute later: a whole number of chunks, so that
    loops are where they are in a video, and LEAD frames before that, which the encoder has to have seen."""
    index: int
    seed: int
    width: int
    height: int
    frames: int
    latest: float
    apart: bool = False
    moving: str | None = None  # only of scenes that go somewhere, with a camera whose name begins so
    paired: bool = False  # only of scenes with a second subject
    masked: bool = False

    def takes(self, scene: Scene) -> bool:
        goes = self.moving is None or (scene.moving and scene.camera.startswith(self.moving))
        return goes and (not self.paired or scene.other != "none")


OPENING = 9  # frames: a video's first three latents
LEAD_LATENTS = 2  # that the encoder has to have seen before what lies apart
LEAD = 4 * LEAD_LATENTS - 3  # their frames, for the first is of a frame alone
FAR = 2, 120  # chunks of half a second between a scene's beginning and what is seen of it later


def render_job(job: Job) -> tuple:
    """(index, scene, frames, masks or None, when each latent frame is: float32 [T], in latent frames since the scene began)"""
    rng = random.Random(job.seed)
    scene = Scene.sample(rng)
    while not job.takes(scene):
        scene = Scene.sample(rng)
    parts = [(rng.uniform(0, job.latest) if rng.random() < .5 else 0., job.frames, 0)]  # each with its start, its frames, and latents that only lead up to it
    if job.apart:
        chunks = round(FAR[0] * (FAR[1] / FAR[0]) ** rng.random())  # farther ones are alike
        parts = [(0., OPENING, 0), ((12 * chunks - 3 - LEAD) / 24, job.frames - OPENING + LEAD, LEAD_LATENTS)]
    video = np.concatenate([scene.render(job.width, job.height, n, start=start) for start, n, _ in parts])
    times = np.concatenate([start * LATENT_RATE + np.arange(lead, (n - 1) // 4 + 1, dtype=np.float32) for start, n, lead in parts])
    masks = np.concatenate([subject_masks(scene, job.width // 16, job.height // 16, n, start)[lead:] for start, n, lead in parts]) if job.masked else None
    return job.index, scene, video, masks, times


def renderers(processes: int, *start):
    """A pool of processes to render with; `start` as multiprocessing.Pool takes it: a function to begin with and its arguments."""
    return multiprocessing.get_context("spawn").Pool(processes, *start)


def render_jobs(jobs: list[Job], processes: int):
    """Yields what `render_job` does."""
    with renderers(processes) as pool:
        yield from pool.imap_unordered(render_job, jobs, chunksize=4)


def make_pool(path: pathlib.Path, clips: int, width: int, height: int, frames: int, seed: int, latest: float, processes: int) -> None:
    """Writes `path`.npy uint8 [clips, frames, height, width, 3] and `path`.scenes (pickled: a list of them, and one of when their latent frames are)."""
    if path.with_suffix(".scenes").exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.uint8, (clips, frames, height, width, 3))
    scenes, times = [None] * clips, [None] * clips
    jobs = [Job(i, seed * 1_000_003 + i, width, height, frames, latest) for i in range(clips)]
    for done, (i, scene, video, _, of_video) in enumerate(render_jobs(jobs, processes)):
        data[i], scenes[i], times[i] = video, scene, of_video
        if done % 200 == 199:
            print(f"{path.name}: {done + 1} of {clips} clips", flush=True)
    data.flush()
    with open(path.with_suffix(".scenes"), "wb") as f:
        pickle.dump((scenes, times), f)


def faults_path(work: pathlib.Path, pool: str) -> pathlib.Path:
    """What is off in latents that the transformer made of a pool (imagine.py), in the encoder's measure, float16 [clips, 1+k, C, H/16, W/16]."""
    return work / f"data/{pool}-faults.npy"


def to_steps(clips: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 1+4k, H, W, 3] -> [B, 1+k, 4, H, W, 3]: the first frame four times, then groups of four."""
    b, f = clips.shape[:2]
    first = clips[:, :1, None].expand(-1, -1, 4, -1, -1, -1)
    return torch.cat([first, clips[:, 1:].reshape(b, (f - 1) // 4, 4, *clips.shape[2:])], 1)


def encoder_input(steps: torch.Tensor) -> torch.Tensor:
    """uint8 [B, T, 4, H, W, 3] -> float [B*T, 768, H/8, W/8] in -1..1: four packed frames a position, channels last in memory."""
    b, t, f, h, w, c = steps.shape
    x = steps.reshape(b * t, f, h // 8, 8, w // 8, 8, c).permute(0, 2, 4, 1, 6, 3, 5).contiguous()
    return (x.reshape(b * t, h // 8, w // 8, -1).to(torch.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def decoder_target(steps: torch.Tensor) -> torch.Tensor:
    """uint8 [B, T, 4, H, W, 3] -> float [B*T*4, 48, H/4, W/4] in -1..1, channels last in memory."""
    b, t, f, h, w, c = steps.shape
    x = steps.reshape(b * t * f, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 5, 2, 4).contiguous()
    return (x.reshape(b * t * f, h // 4, w // 4, -1).to(torch.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def prefetch(make, ahead: int):
    """Yields make(0), make(1), … for ever, made by a thread up to `ahead` items before they are wanted; 0: on demand."""
    if ahead == 0:
        yield from map(make, itertools.count())
        return
    ready: queue.Queue = queue.Queue(ahead)

    def work() -> None:
        for i in itertools.count():
            try:
                ready.put(make(i))
            except Exception as e:  # to be raised where the item is wanted
                ready.put(e)
                return

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = ready.get()
        if isinstance(item, Exception):
            raise item
        yield item
