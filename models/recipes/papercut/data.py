"""Pools of rendered clips on disk, drawn by several processes; and the packing of frames into pixels by channel."""
from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
import pickle
import random

import numpy as np

from .world import Scene

SIZES = ((256, 160), (192, 192), (160, 256), (320, 160))


def work_dir() -> pathlib.Path:
    """Where checkpoints, data and logs go unless --work says otherwise."""
    return pathlib.Path(os.environ.get("LATENTFLOW_WORK", os.path.expanduser("~/.cache/latentflow")))


def add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=pathlib.Path, default=work_dir(), help="folder of checkpoints, data and logs (default: %(default)s)")


def _render(job) -> tuple[int, Scene, np.ndarray]:
    index, seed, width, height, frames, latest = job
    rng = random.Random(seed)
    scene = Scene.sample(rng)
    return index, scene, scene.render(width, height, frames, start=rng.uniform(0, latest))


def render_jobs(jobs, processes: int):
    """Yields (index, scene, frames) for jobs (index, seed, width, height, frames, latest start in seconds)."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_render, jobs, chunksize=4)


def make_pool(path: pathlib.Path, clips: int, width: int, height: int, frames: int, seed: int, latest: float, processes: int = 2) -> None:
    """Writes `path`.npy uint8 [clips, frames, height, width, 3] and `path`.scenes (a pickled list)."""
    if path.with_suffix(".scenes").exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.uint8, (clips, frames, height, width, 3))
    scenes: list = [None] * clips
    jobs = [(i, seed * 1_000_003 + i, width, height, frames, latest) for i in range(clips)]
    for i, scene, video in render_jobs(jobs, processes):
        data[i], scenes[i] = video, scene
    data.flush()
    with open(path.with_suffix(".scenes"), "wb") as f:
        pickle.dump(scenes, f)


def pack(frames: np.ndarray, k: int) -> np.ndarray:
    """[..., H, W, 3] -> [..., H/k, W/k, 3*k*k], channels in the order of torch's pixel_unshuffle (colour, row, column)."""
    *lead, h, w, c = frames.shape
    x = frames.reshape(*lead, h // k, k, w // k, k, c)
    n = len(lead)
    return np.ascontiguousarray(x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)).reshape(*lead, h // k, w // k, c * k * k)
