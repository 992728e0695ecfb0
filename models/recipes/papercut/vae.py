"""The video autoencoder: 16x in space, 4x in time, 36 channels, causal, made of 2-D convolutions and, in the end, a filter over time.

Time: a scene's first latent frame stands for its first frame alone, each later one for the next four frames.  Inside,
the first frame is repeated four times, so that every latent frame is a group of four; decoding drops the first three
of the scene.  The past enters through `Memory`: a layer adds what it made of its input of the previous step, nothing at the start.
That and the last frame shown are all the state a stream has to carry.

A pixel that stands still is seen to tremble before anything else is, so in the end the decoder leads pixels from what they were in the frame before to what
it has drawn, all the way where things move, slowly where it tells that they stay, and all the more so the less they differ (`settle`).

Space: the encoder works at 1/8 and 1/16 of the frame's resolution, the decoder at 1/4 as well, where edges are drawn.
Tensors here are [steps, channels, rows, columns], with a batch's clips one after another along `steps`.
"""
from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn import functional as F

LATENT_CHANNELS = 36
NEAR = .08  # pixels that differ by this, in -1..1, settle half as slowly as those that hardly differ; what differs by much more is new
LATENT_RATE = 6.  # latent frames a second: one of four frames


def act(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, .1)


class Block(nn.Module):
    """A residual block: 3x3, then a pointwise two-layer network; starts as the identity."""

    def __init__(self, c: int):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, c, 1)
        nn.init.zeros_(self.c.weight)
        nn.init.zeros_(self.c.bias)

    def forward(self, x):
        return x + self.c(act(self.b(act(self.a(x)))))


class TwoParts(nn.Conv2d):
    """A convolution whose outputs are two times as many, one after the other."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1):
        super().__init__(c_in, 2 * c_out, kernel, padding=kernel // 2)


class Memory(nn.Module):
    """A residual block of `inside` features, or as many as there are, that also sees the previous step: what is made of each step for the next
    is added there.  `past` is that of the step before the first, [clips, inside, rows, columns], or None at a start."""

    def __init__(self, c: int, kernel: int = 1, inside: int | None = None):
        super().__init__()
        inside = inside or c
        self.a, self.c = TwoParts(c, inside, kernel), nn.Conv2d(inside, c, 1)
        nn.init.zeros_(self.c.weight)
        nn.init.zeros_(self.c.bias)

    def forward(self, x, steps, past=None):
        """Returns x [clips*steps, c, rows, columns] and what to take for `past` of the steps that follow."""
        now, later = self.a(x).chunk(2, 1)
        later = later.reshape(-1, steps, *later.shape[1:])
        if past is None:
            past = torch.zeros_like(later[:, 0])
        before = torch.cat([past[:, None], later[:, :-1]], 1).reshape(now.shape)
        return x + self.c(act(now + before)), later[:, -1]


def split_steps(x: torch.Tensor, parts: int) -> torch.Tensor:
    """[n, parts*c, h, w] -> [n*parts, c, h, w]: channels become time steps."""
    n, c, h, w = x.shape
    return x.reshape(n * parts, c // parts, h, w)


def through(block: nn.Module, x: torch.Tensor, steps: int, past: list[torch.Tensor], states: list[torch.Tensor]) -> torch.Tensor:
    """What a block makes of x; one with a memory takes the first of `past`, if there is any, and adds to `states`."""
    if not isinstance(block, Memory):
        return block(x)
    x, state = block(x, steps, past.pop(0) if past else None)
    states.append(state)
    return x


def settle(drawn: torch.Tensor, stay: torch.Tensor, last: torch.Tensor, near: float):
    """What is shown of frames drawn [b, t, 3, p, h, w] after the frame `last` [b, 3, p, h, w]: y = x + s / (1 + |y' - x|^2 / near^2) * (y' - x) with y' of the
    frame before, the mean square over colours, and the shares s, stay [b, t, p, h, w], in 0..1."""
    shown: list[torch.Tensor] = []
    for i in range(drawn.shape[1]):
        now = drawn.select(1, i)  # drawn[:, i] would be exported as a copy of all
        away = last - now
        last = now + stay.select(1, i).unsqueeze(1) / (1 + away.square().mean(1, keepdim=True) / near ** 2) * away
        shown.append(last)
    return torch.stack(shown, 1)


with warnings.catch_warnings(action="ignore", category=FutureWarning):
    settle = torch.jit.script(settle)  # which alone makes a loop over any number of frames in a graph that is traced


class Encoder(nn.Module):
    def __init__(self, c1: int = 160, c2: int = 256):
        super().__init__()
        self.inp = nn.Conv2d(4 * 3 * 64, c1, 1)
        self.fine = nn.ModuleList([Block(c1), Block(c1)])
        self.down = nn.Conv2d(4 * c1, c2, 1)
        self.coarse = nn.ModuleList([Memory(c2), Block(c2), Block(c2)])
        self.out = nn.Conv2d(c2, LATENT_CHANNELS, 1)

    def forward(self, x, steps, past=()):
        """x [n, 4*192, H/8, W/8]: four packed frames a step, values in -1..1 -> latents [n, 36, H/16, W/16], states."""
        states, past = [], list(past)
        x = self.inp(x)
        for block in self.fine:
            x = block(x)
        x = self.down(F.pixel_unshuffle(x, 2))
        for block in self.coarse:
            x = through(block, x, steps, past, states)
        return self.out(x), states


class Decoder(nn.Module):
    def __init__(self, c1: int = 128, c2: int = 192, c3: int = 48):
        super().__init__()
        self.inp = nn.Conv2d(LATENT_CHANNELS, c2, 3, padding=1)
        self.coarse = nn.ModuleList([Block(c2), Memory(c2, 3), Block(c2), Block(c2)])
        self.up1 = TwoParts(c2, 4 * c1)
        self.fine = nn.ModuleList([Block(c1), Memory(c1), Block(c1), Memory(c1, 3, 3 * c1 // 8), Block(c1)])
        self.up2 = TwoParts(c1, 4 * c3)
        self.edges = nn.ModuleList([Memory(c3, 3, c3 // 3), Block(c3), Block(c3), Memory(c3, 3, c3 // 2)])
        self.out = nn.Conv2d(c3, 48, 3, padding=1)
        self.stay = nn.Conv2d(c3, 16, 1)  # of every pixel, how much stays as it was
        nn.init.zeros_(self.stay.weight)
        nn.init.constant_(self.stay.bias, -2.)

    def forward(self, z, steps, past=()):
        """latents [n, 36, h, w] -> packed frames [4*n, 48, 4h, 4w] (4x4 pixels a position), values in -1..1, states."""
        states, past, x = [], list(past), self.inp(z)
        for block in self.coarse:
            x = through(block, x, steps, past, states)
        x = F.pixel_shuffle(split_steps(self.up1(x), 2), 2)
        for block in self.fine:
            x = through(block, x, 2 * steps, past, states)
        x = act(F.pixel_shuffle(split_steps(self.up2(x), 2), 2))
        for block in self.edges:
            x = through(block, x, 4 * steps, past, states)
        (_, _, h, w), drawn, stay = x.shape, self.out(x).float(), self.stay(x).float().sigmoid()
        drawn, stay = drawn.view(-1, 4 * steps, 3, 16, h, w), stay.view(-1, 4 * steps, 16, h, w)
        shown = settle(drawn, stay, past.pop(0).view(-1, 3, 16, h, w) if past else drawn[:, 0], NEAR).view(-1, 48, h, w)
        return shown, [*states, shown.view(-1, 4 * steps, 48, h, w)[:, -1]]


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        for name, m in self.named_modules():
            if isinstance(m, nn.Conv2d) and m.weight.abs().max() > 0:  # keep the size of what passes through
                nn.init.normal_(m.weight, std=(m.in_channels * m.kernel_size[0] ** 2) ** -.5)
                nn.init.zeros_(m.bias)
        for m in self.modules():
            if isinstance(m, Memory):  # two steps' parts are added
                m.a.weight.data *= 2 ** -.5
        nn.init.normal_(self.decoder.out.weight, std=.3 * (9 * self.decoder.out.in_channels) ** -.5)
        # Statistics of the latents, set when the encoder is frozen; latents that leave the package are (z - mean) / std.
        self.register_buffer("mean", torch.zeros(LATENT_CHANNELS))
        self.register_buffer("std", torch.ones(LATENT_CHANNELS))

    def normalise(self, z):
        return (z - self.mean[:, None, None]) / self.std[:, None, None]

    def denormalise(self, z):
        return z * self.std[:, None, None] + self.mean[:, None, None]
