"""Small convolutional networks that name what a video shows, trained on renders only: the judges of evaluate.py.

`Appearance` names subjects, place, time of day, colour and weather in single frames of any shape; `Motion` names action, direction
and camera from six frames over a second and a third.  Neither plays a part in training or choosing papercut.
"""
from __future__ import annotations

import multiprocessing
import pathlib
import random
import sys
import time
import zlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import world
from .world import Scene

APPEARANCE = {"subject": world.SUBJECTS, "place": world.PLACES, "time": tuple(world.TIMES), "color": tuple(world.COLORS),
              "weather": world.WORLD.weathers, "other": world.SUBJECTS}
MOTION = {"action": world.ALL_ACTIONS, "direction": world.DIRECTIONS, "camera": world.CAMERAS}
CLASSES = APPEARANCE | MOTION
OFFSETS = (0, 2, 4, 8, 16, 32)  # the frames `Motion` looks at
SHAPES = (*((256, 160),) * 7, (192, 192), (160, 256), (320, 160))  # of the appearance pictures
PAIRS = .2  # share of these that always have a second subject, of which else few would be seen
LATE, MINUTE = 1 / 3, 60.  # how often they learn from any time in a minute instead of a scene's beginning, for who comes has come then and runs on in his place


def shrink(frames: np.ndarray) -> torch.Tensor:
    """uint8 or 0..1 float [n, H, W, 3] -> float [n, 3, h, w] in -1..1, as many pixels as 80x50 and of the same shape."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    if frames.dtype == np.uint8:
        x = x / 255
    n, _, h, w = x.shape
    scale = (4000 / (h * w)) ** .5
    return F.interpolate(x, (round(h * scale), round(w * scale)), mode="area") * 2 - 1


def block(a: int, b: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(True))


class Detector(nn.Module):
    """`parts` is the grid, rows by columns, over which features are averaged: 1x1 where only what there is matters, more where
    it matters which way the parts of a picture move."""

    def __init__(self, channels: int, classes: dict[str, tuple[str, ...]], widths=(24, 48, 96, 128), parts=(1, 1)):
        super().__init__()
        self.parts = parts
        a, b, c, d = widths
        self.body = nn.Sequential(
            nn.Conv2d(channels + 2, a, 5, 2, 2, bias=False), nn.BatchNorm2d(a), nn.ReLU(True),
            block(a, b, 2), block(b, b, 1), block(b, c, 2), block(c, d, 1))
        self.heads = nn.ModuleDict({k: nn.Linear((1 + parts[0] * parts[1]) * d, len(v)) for k, v in classes.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        n, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(n, 1, h, w)
        columns = torch.linspace(-1, 1, w).view(1, 1, 1, w).expand(n, 1, h, w)
        x = self.body(torch.cat([x, rows, columns], 1))
        x = F.dropout(torch.cat([F.adaptive_avg_pool2d(x, self.parts).flatten(1), x.amax((2, 3))], 1), .2, self.training)
        return {k: head(x) for k, head in self.heads.items()}


class Detectors:
    """Both networks."""

    def __init__(self):
        self.appearance, self.motion = Detector(3, APPEARANCE), Detector(3 * len(OFFSETS), MOTION, (32, 48, 96, 96), (3, 4))

    @torch.no_grad()
    def read(self, frames: np.ndarray) -> dict[str, str]:
        """What a video float [F, H, W, 3] shows; of single pictures and short ones, the appearance only.

        Over several frames the mean of the logarithms of the probabilities decides.
        """
        picks = np.linspace(min(4, len(frames) - 1), len(frames) - 1, min(len(frames), 6)).round().astype(int)
        logits = self.appearance(shrink(frames[picks]))
        if len(frames) > OFFSETS[-1]:
            logits |= self.motion(shrink(frames[list(OFFSETS)]).flatten(0, 1)[None])
        return {k: CLASSES[k][int(v.log_softmax(-1).mean(0).argmax())] for k, v in logits.items()}


def _picture(job) -> tuple[int, Scene, np.ndarray]:
    """One picture, or the frames that `Motion` looks at, of a scene drawn by lot."""
    index, seed, moving, held_out = job
    torch.set_num_threads(1)
    rng = random.Random(seed)
    scene, late = Scene.sample(rng, held_out=held_out), rng.random() < LATE
    if moving:
        if late:
            scene = scene.with_(camera="static")  # most moves have settled
        elif scene.camera == "static" and rng.random() < .5:  # as many moving cameras as still ones
            scene = scene.with_(camera=rng.choice([c for c in world.CAMERAS[1:] if c.startswith("zoom") or scene.direction == "none"]))
        start = rng.uniform(0, MINUTE if late else 2.5)
        frames = np.concatenate([scene.render(256, 160, 1, start=start + k / 24) for k in OFFSETS])
        return index, scene, (shrink(frames).flatten(0, 1) * 127).to(torch.int8).numpy()
    paired = rng.random() < PAIRS
    while paired and scene.other == "none":
        scene = Scene.sample(rng, held_out=held_out)
    shape = SHAPES[index // 64 % len(SHAPES)]  # a batch has one shape
    return index, scene, (shrink(scene.render(*shape, 1, start=rng.uniform(0, MINUTE if late else 5)))[0] * 127).to(torch.int8).numpy()


def renders(n: int, seed: int, moving: bool, processes: int, held_out: bool = False):
    """n pictures or clips as int8, in an order in which every 64 have one shape, and their scenes."""
    images, scenes = [None] * n, [None] * n
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, (i, scene, x) in enumerate(pool.imap_unordered(_picture, [(i, seed * 1_000_003 + i, moving, held_out) for i in range(n)], 16)):
            images[i], scenes[i] = torch.from_numpy(x), scene
            if done % 500 == 499:
                print(f"  drawn {done + 1} of {n}", file=sys.stderr, flush=True)
    return images, scenes


def labels(scenes: list[Scene], classes) -> dict[str, torch.Tensor]:
    return {k: torch.tensor([v.index(getattr(s, k)) for s in scenes]) for k, v in classes.items()}


def _train(net: Detector, classes, moving: bool, count: int, epochs: int, processes: int) -> None:
    name = "motion" if moving else "appearance"
    images, scenes = renders(count, 77 + moving, moving, processes)
    batches = [torch.stack(images[i:i + 64]) for i in range(0, count, 64)]
    wanted = [labels(scenes[i:i + 64], classes) for i in range(0, count, 64)]
    total, rate, at, start = epochs * len(batches), 3e-3, 0, time.time()
    opt = torch.optim.AdamW(net.parameters(), rate, weight_decay=.03)
    net.train()
    for epoch in range(epochs):
        for i in torch.randperm(len(batches)).tolist():
            for g in opt.param_groups:
                g["lr"] = rate * min(1, at / 50) * (1 - at / total)
            x = batches[i].float() / 127
            # Softness and noise, so that the autoencoder's own matter little.
            if torch.rand(()) < .4:
                small = F.avg_pool2d(x, 2, ceil_mode=True)
                x = torch.lerp(x, F.interpolate(small, x.shape[2:], mode="bilinear"), float(torch.rand(())))
            x = x * (1 + .1 * torch.randn(())) + .05 * torch.randn(()) + .06 * torch.rand(()) * torch.randn_like(x)
            logits = net(x)
            loss = sum(F.cross_entropy(logits[k], wanted[i][k]) for k in classes)
            opt.zero_grad()
            loss.backward()
            opt.step()
            at += 1
        left = (time.time() - start) / at * (total - at)
        print(f"  {name}: pass {epoch + 1} of {epochs}, loss {loss.item():.3f}, {left:.0f} s left", file=sys.stderr, flush=True)
    net.eval()


def load(folder: pathlib.Path, pictures: int = 9600, clips: int = 6000, processes: int = 2) -> Detectors:
    """The detectors, read from `folder` or trained now (some minutes) and kept there."""
    both = Detectors()
    folder.mkdir(parents=True, exist_ok=True)
    for name, net, classes, count, epochs in (("appearance", both.appearance, APPEARANCE, pictures, 10), ("motion", both.motion, MOTION, clips, 12)):
        path = folder / f"{name}-{fingerprint()}.pt"
        if not path.exists():
            torch.manual_seed(0)
            print(f"training the {name} detector on renders, once", file=sys.stderr, flush=True)
            _train(net, classes, name == "motion", count, epochs, processes)
            temporary = path.with_suffix(".tmp")
            torch.save(net.state_dict(), temporary)
            temporary.replace(path)
        net.load_state_dict(torch.load(path))
        net.eval()
    return both


def fingerprint() -> str:
    """Changes with the world's attributes, with how it is drawn and when in scenes detectors looked, so that those of another world are not taken."""
    cameras = [Scene("cat", "garden", "day", "orange", "sit", "none", camera, "clear", 1).render(40, 25, 1, start=1.) for camera in world.CAMERAS]
    return f"{zlib.crc32(repr((CLASSES, PAIRS, LATE, MINUTE)).encode() + np.stack(cameras).tobytes()):08x}"
