"""Rotary position embeddings in a form that costs little in a graph."""
from __future__ import annotations

import torch
from torch import Tensor


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (0,1), (2,3), … of the last axis; `cos` and `sin` have one entry a pair.

    diffusers writes even and odd elements by strides, which the exporter turns into a ScatterND each. The tables stay
    in float32 whatever `x` is.
    """
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2).to(x.dtype)
