"""Convolutions over time that see no later frame, as convolutions of images."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Memory:
    """What precedes a clip in each convolution: nothing where it starts, and in later pieces the state of the last.

    A later piece has a `multiple` of so many frames where the codec stands, and a piece that starts has one more.
    """

    def __init__(self, states: tuple[Tensor, ...] | None = None):
        self.given = None if states is None else iter(states)
        self.kept: list[Tensor] = []
        self.multiple = 1

    @property
    def starts(self) -> bool:
        return self.given is None

    def extend(self, x: Tensor, frames: int) -> Tensor:
        """`x` [B,T,C,H,W] with the `frames` frames before it."""
        x = before(x, frames) if self.given is None else torch.cat([next(self.given), x], dim=1)
        self.kept.append(x.narrow(1, x.shape[1] - frames, frames))
        return x


class CausalConv(nn.Module):
    """A Conv3d of one or three frames on clips [B,T,C,H,W].

    Frames are images in a batch, for runtimes are best at convolving images. Three frames are three convolutions, added; but
    two outputs from four frames need four, not six (Winograd's F(2,3), see Lavin and Gray, "Fast Algorithms for Convolutional
    Neural Networks", 2015; here over time only): with frames x0 … x3 and kernels g0, g1, g2,

        m = g0·(x0 - x2),  n = (g0 + g1 + g2)/2·(x1 + x2),  p = (g0 - g1 + g2)/2·(x2 - x1),  q = g2·(x1 - x3)

    the outputs are m + n + p = g0·x0 + g1·x1 + g2·x2 and n - p - q = g0·x1 + g1·x2 + g2·x3. That is exact, and its rounding is no
    worse than that of the sum of six.
    """

    def __init__(self, weight: Tensor, bias: Tensor, padding: tuple[int, int]):
        super().__init__()
        g = weight.detach().unbind(dim=2)
        constant = lambda x: nn.Parameter(x.contiguous(), requires_grad=False)
        self.taps = nn.ParameterList(map(constant, g))
        self.bias, self.padding = bias, padding
        if len(g) == 3:
            self.four = constant(torch.cat([g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]))
            self.four_bias = constant(torch.cat([bias, 0 * bias, 0 * bias, -bias]))
            self.register_buffer("spread", torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]))
            self.register_buffer("gather", torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]]))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        if len(self.taps) == 1:
            return self.tap(0, x, self.bias)
        if not memory.starts:
            return self.later(memory.extend(x, 2), x.shape[1], memory)
        first = self.tap(2, x[:, :1], self.bias)  # the two frames before it are zeros
        x, count = before(x, 1), x.shape[1] - 1
        memory.kept.append(x.narrow(1, count, 2))
        return torch.cat([first, self.later(x, count, memory)], dim=1) if count else first

    def later(self, x: Tensor, count: int, memory: Memory) -> Tensor:
        """The outputs of all frames but the first two, `count` of them."""
        return self.pairs(x, count) if memory.multiple % 2 == 0 else self.added(x, count, 1)

    def halve(self, x: Tensor, count: int) -> Tensor:
        """The outputs of the third frame, the fifth and so on, `count` of them."""
        return self.added(x, count, 2)

    def added(self, x: Tensor, count: int, step: int) -> Tensor:
        """The outputs of every `step`-th window of three frames."""
        at = step * torch.arange(count)
        y = [self.tap(k, x.index_select(1, at + k), self.bias if k == 0 else None) for k in range(3)]
        return y[0] + y[1] + y[2]

    def tap(self, k: int, x: Tensor, bias: Tensor | None) -> Tensor:
        """The part of frame `k` of the three."""
        b, t, c, h, w = x.shape
        y = functional.conv2d(x.reshape(b * t, c, h, w), self.taps[k], bias, padding=self.padding)
        return y.reshape(b, t, -1, h, w)

    def pairs(self, x: Tensor, count: int) -> Tensor:
        """`later` for an even number of outputs, two at a time."""
        b, _, c, h, w = x.shape
        half = count // 2
        windows = 2 * torch.arange(half)[:, None] + torch.arange(4)
        x = x.index_select(1, windows.flatten()).reshape(b * half, 4, c * h * w)
        x = (self.spread @ x).reshape(b * half, 4 * c, h, w)
        y = functional.conv2d(x, self.four, self.four_bias, padding=self.padding, groups=4)
        return (self.gather @ y.reshape(b * half, 4, -1)).reshape(b, count, -1, h, w)


def before(x: Tensor, zeros: int) -> Tensor:
    """`x` [B,T,C,H,W] with so many frames of zeros before it."""
    return functional.pad(x, (0, 0, 0, 0, 0, 0, zeros, 0))
