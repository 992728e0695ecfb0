"""Small convolutional networks that name what a picture shows, trained on renders only; the judges of evaluate.py.

They look at 64x40 pixels, so that the autoencoder's softness matters little to them.
"""
from __future__ import annotations

import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .data import render_jobs
from .world import COLORS, PLACES, SUBJECTS, TIMES, Scene

CLASSES = {"subject": SUBJECTS, "place": PLACES, "time": tuple(TIMES), "color": tuple(COLORS)}
SIZE = (40, 64)


def shrink(frames: np.ndarray) -> torch.Tensor:
    """uint8 or 0..1 float [n, H, W, 3] -> float [n, 3, 40, 64] in -1..1."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    if frames.dtype == np.uint8:
        x = x / 255
    return F.interpolate(x, SIZE, mode="area") * 2 - 1


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        self.body = nn.Sequential(*(layer for a, b in zip(widths, widths[1:])
                                    for layer in (nn.Conv2d(a, b, 3, 2 if a > 3 else 1, 1), nn.BatchNorm2d(b), nn.ReLU())))
        self.heads = nn.ModuleDict({k: nn.Linear(64 * 5 * 8, len(v)) for k, v in CLASSES.items()})

    def forward(self, x) -> dict[str, torch.Tensor]:
        x = F.dropout(self.body(x).flatten(1), .3, self.training)
        return {k: head(x) for k, head in self.heads.items()}


def labels(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    return {k: torch.tensor([v.index(getattr(s, k)) for s in scenes]) for k, v in CLASSES.items()}


def renders(n: int, seed: int, processes: int = 2) -> tuple[torch.Tensor, list[Scene]]:
    """n single pictures, shrunk, and their scenes."""
    images, scenes = torch.empty(n, 3, *SIZE), [None] * n
    for i, scene, frames in render_jobs([(i, seed * 1_000_003 + i, 256, 160, 1, 5.) for i in range(n)], processes):
        images[i], scenes[i] = shrink(frames)[0], scene
    return images, scenes


def train(path: pathlib.Path, images: int = 4000, epochs: int = 8) -> Detector:
    """A detector, trained now or read from `path`."""
    torch.manual_seed(0)
    net = Detector()
    if path.exists():
        net.load_state_dict(torch.load(path))
        return net.eval()
    x, scenes = renders(images, 77)
    y = labels(scenes)
    opt = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=.02)
    batches = images // 64
    for step in range(epochs * batches):
        for g in opt.param_groups:
            g["lr"] = 2e-3 * (1 - step / (epochs * batches))
        i = torch.randint(0, images, (64,))
        logits = net(x[i] + .05 * torch.randn(()).abs() * torch.randn_like(x[i]))
        loss = sum(F.cross_entropy(logits[k], y[k][i]) for k in CLASSES)
        opt.zero_grad()
        loss.backward()
        opt.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix(".tmp")
    torch.save(net.state_dict(), tmp)
    tmp.replace(path)
    return net.eval()


def read(net: Detector, frames: torch.Tensor) -> dict[str, int]:
    """The classes named for a clip's frames [n, 3, 40, 64]: the mean of the logarithms of the probabilities decides."""
    with torch.no_grad():
        return {k: int(v.log_softmax(-1).mean(0).argmax()) for k, v in net(frames).items()}
