"""What the codecs of all families share: ranges, normalisation, sizes."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from .graph import Sizes


def to_frames(x: Tensor, clamp: bool = True) -> Tensor:
    """[B,3,F,h,w] in -1..1 to frames [B,F,h,w,3] in 0..1, clamped (what diffusers' video processor does).

    The frames of segments that are to be blended stay unclamped, for diffusers blends before it clamps.
    """
    x = x * 0.5 + 0.5
    return (x.clamp(0, 1) if clamp else x).permute(0, 2, 3, 4, 1)


def from_frames(frames: Tensor) -> Tensor:
    """Frames [B,F,h,w,3] in 0..1 to [B,3,F,h,w] in -1..1."""
    return (frames * 2 - 1).permute(0, 4, 1, 2, 3)


class Scaling(nn.Module):
    """The denoiser's latents against the codec's: codec = denoiser · `mul` + `add`, by channel."""

    def __init__(self, mul, add):
        super().__init__()
        self.register_buffer("mul", torch.as_tensor(mul, dtype=torch.float32).reshape(1, -1, 1, 1, 1))
        self.register_buffer("add", torch.as_tensor(add, dtype=torch.float32).reshape(1, -1, 1, 1, 1))

    def to_codec(self, latents: Tensor) -> Tensor:
        return latents * self.mul + self.add

    def from_codec(self, latents: Tensor) -> Tensor:
        return (latents - self.add) / self.mul


class Direction(nn.Module):
    """A codec's method `decode` or `encode` as a module."""

    def __init__(self, codec: nn.Module, direction: str):
        super().__init__()
        self.codec, self.direction = codec, direction

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.codec, self.direction)(x)


def is_first_frame(x: Tensor) -> Tensor:
    """[1,1,T,1,1] of booleans, true at the first of the frames of `x` [B,C,T,H,W]."""
    return (torch.arange(x.shape[2]) == 0).view(1, 1, -1, 1, 1)


def begin_with(given: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Noise [B,C,T,H,W] with `given` [B,C,1,H,W] as its first latent frame, and a mask [B,1,T,H,W]: 0 there, 1 elsewhere."""
    first = is_first_frame(noise)
    mask = (~first).to(noise.dtype).expand(noise.shape[0], 1, -1, noise.shape[3], noise.shape[4])
    return torch.where(first, given, noise), mask


def sizes(spatial: int, temporal: int, *cells: tuple[int, int, int, int]) -> list[Sizes]:
    """Sizes for codec graphs from (B, T, H, W) in latent cells; `F`, `h`, `w` are those of the frames."""
    return [{"B": b, "T": t, "H": h, "W": w, "F": 1 + (t - 1) * temporal, "h": h * spatial, "w": w * spatial} for b, t, h, w in cells]
