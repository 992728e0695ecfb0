"""Adaptive norms of transformers in which given cells have a timestep of their own: zero."""
from __future__ import annotations

import torch
from torch import Tensor


class Modulation:
    """Shifts, scales and gates for every cell, from embeddings of two timesteps instead of one a cell.

    `values` [B,2,n,D] belong to the step's timestep and to timestep 0; `generated` [B,S,1] of booleans says which cells
    have the first. Without `generated`, all have, and `values` is [B,1,n,D].
    """

    def __init__(self, values: Tensor, generated: Tensor | None):
        self.values, self.generated = values, generated

    def plus(self, table: Tensor) -> tuple[Tensor, ...]:
        """The n tensors, each [B,1 or S,D], of the values added to a block's own `table` [n,D]."""
        both = (self.values.float() + table.float()).unbind(dim=2)
        if self.generated is None:
            return both
        return tuple(torch.where(self.generated, x[:, :1], x[:, 1:]) for x in both)


def timesteps_of(timestep: Tensor, mask: Tensor | None) -> Tensor:
    """[B] to [B,1], or with a condition mask to [B,2] with the zeros of given cells."""
    return timestep[:, None] if mask is None else torch.stack([timestep, torch.zeros_like(timestep)], dim=1)
