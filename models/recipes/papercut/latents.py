"""The transformer's data in memory: latents of clips by pool, and how often each is drawn."""
from __future__ import annotations

import collections
import dataclasses
import pathlib
import pickle
import random

import numpy as np
import torch

from .checkpoints import load, load_vae
from .prepare import APART, POOLS
from .transformer import CHUNK
from .world import WORLD, Scene

KINDS = ("images", "clips", "sequences")
MOVEMENTS = {"static": .15, "pan": .25, "zoom": .25, "tilt": .2, "orbit": .2, "approach": .15, "static beside": .2, "zoom beside": .2}  # how often they are drawn, however many of each there are
BEGINNINGS = .9  # how often what follows on a single frame is a scene's own beginning
SELDOM = {"pair": .25, "pillars": .08}  # how often second subjects and pillars are, likewise


def shares(kind: str) -> dict[str, float]:
    """How often each pool of a kind is drawn from."""
    return {n: p[0] for n, p in POOLS.items() if n.startswith(kind)}


def movement(scene: Scene) -> str:
    """What the camera does, and whether it does so beside a traveller; or that somebody comes or goes."""
    return "approach" if scene.direction in ("towards", "away") else scene.camera.split()[0] + " beside" * scene.travels


def seldom(scene: Scene) -> str:
    """What few scenes have, or "" where there is nothing of the kind."""
    return "pair" if scene.other != "none" else "pillars" if scene.pillars else ""


def odds(pool: str, scenes: list[Scene]) -> list[float]:
    """How often the scenes of a pool are drawn: all subjects alike, kinds of movement, where there is any, as often as MOVEMENTS says, and what
    few scenes have as often as SELDOM says."""
    counts = collections.Counter(map(movement, scenes))
    of_movement = lambda s: 1 if pool.startswith("images") else MOVEMENTS[movement(s)] / counts[movement(s)]
    often, few = [of_movement(s) / WORLD.subjects[s.subject] for s in scenes], [seldom(s) for s in scenes]
    share = {kind: sum(o for o, k in zip(often, few) if k == kind) / sum(often) for kind in set(few)}
    wanted = SELDOM | {"": 1 - sum(SELDOM.values())}
    return [o * wanted[k] / share[k] for o, k in zip(often, few)]


@dataclasses.dataclass
class Pool:
    """Clips of one kind and size: latents float16 [n, C, T, h, w], normalised, masks of the subjects u8 [n, T, h, w], scenes, and when the frames
    are in their scenes, f32 [n, T], in latent frames."""
    latents: np.ndarray
    masks: np.ndarray
    scenes: list[Scene]
    times: np.ndarray

    def __add__(self, other: "Pool") -> "Pool":
        both = lambda a, b: np.concatenate([a, b])
        return Pool(both(self.latents, other.latents), both(self.masks, other.masks), self.scenes + other.scenes, both(self.times, other.times))


class Latents:
    """All clips in memory, by pool, and running sums of how often each is drawn: of all, and of those that begin as their scene does."""

    def __init__(self, work: pathlib.Path):
        vae, _ = load_vae(work)
        self.folder = work / "data"
        self.mean, self.std = (v.cpu().numpy()[:, None, None, None] for v in (vae.mean, vae.std))
        # The more of the picture hangs on a channel, the more its errors count, by the root, so that details count as well: [C, 1, 1], mean 1.
        root = load(work / "vae.pt")["importance"].float().cpu().sqrt()
        self.channel_weight = (root / root.mean())[:, None, None]
        self.pools: dict[str, Pool] = {}
        self.often: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.seen: set[pathlib.Path] = set()
        self.refresh()
        for kind in KINDS:
            if not any(name.startswith(kind) for name in self.pools):
                raise SystemExit(f"no {kind} in {self.folder}: run papercut.prepare, for longer")

    def refresh(self) -> None:
        """Takes up the files that have come since."""
        for name in POOLS:
            for path in sorted({p for p in self.folder.glob(f"latents-{name}-*.npz") if p.stem[len(f"latents-{name}-"):].isdigit()} - self.seen):
                self.seen.add(path)
                part = np.load(path)
                if "times" not in part:
                    raise SystemExit(f"{path} does not say when in their scenes its frames are: delete it and run papercut.prepare again")
                pool = Pool(part["latents"], part["masks"], pickle.loads(part["scenes"].tobytes()), part["times"])
                for z in np.array_split(pool.latents, len(pool.scenes) // 256 + 1):
                    z[:] = (z - self.mean) / self.std
                self.pools[name] = pool = self.pools[name] + pool if name in self.pools else pool
                often = np.array(odds(name, pool.scenes))
                self.often[name] = often.cumsum(), (often * (pool.times[:, 0] == 0)).cumsum()

    def draw(self, rng: random.Random, kind: str, count: int, chunk: torch.Tensor):
        """`count` clips of 256x160 of a kind, or as much of another size, for the frames' chunks [frames] or as many as there are: latents
        [n, C, frames, h, w], masks [n, frames, h, w] in 0..1, when the frames are [n, frames], scenes.  Some sequences have a gap after the first three
        frames, as a video's window has.  Where a single frame comes first, it is nearly always a scene's own first, as in a video."""
        begins = int(chunk.eq(0).sum()) == 1 and rng.random() < BEGINNINGS
        weights = {n: w for n, w in shares(kind).items() if n in self.pools}
        name = rng.choices(list(weights), list(weights.values()))[0]
        pool, often = self.pools[name], self.often[name][begins]
        length, rows, columns = pool.latents.shape[2:]
        frames = min(len(chunk), length)
        clips = rng.choices(range(len(pool.scenes)), cum_weights=often, k=max(1, round(count * 160 / (rows * columns))))
        apart = name.endswith(APART)
        gap = rng.randrange(length - frames + 1) if frames > 2 * CHUNK and (apart or rng.random() < .4) else 0
        take = np.array([*range(min(CHUNK, frames)), *range(CHUNK + gap, frames + gap)])
        x0, masks, times = (torch.from_numpy(x.astype(np.float32)) for x in (pool.latents[clips][:, :, take], pool.masks[clips][:, take], pool.times[clips][:, take]))
        return x0, masks / 255, times, [pool.scenes[i] for i in clips]
