"""Padding at the end of prompts: hundreds of tokens after a prompt of ten, which graphs needn't compute."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cut_length(used: Tensor, spare: int = 0) -> int:
    """Up to the last place that is `used` [L], and `spare` places more: how many of the L places that is, at least two of them.

    Two, because transformers takes another way for a single token, which the tracer would have to choose beforehand.
    """
    length = used.shape[0]
    last = (torch.arange(1, length + 1) * used).amax(0)
    kept = (last + spare).clamp(2, length).item()
    torch._check(kept >= 2)
    torch._check(kept <= length)
    return kept


def count_equal_rows(embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [B,L,D] that end with rows of zeros, with the last K-1 … L-1 of these as one row, and what attention has to know of it.

    Equal tokens have equal keys and values, and n of them weigh in a softmax as one does whose score has log n added. So
    attention over [B,K,D] with the bias [1,1,1,K] on its scores is attention over all L, to the rounding. Rows that only
    some of a batch end with stay.
    """
    length = embeds.shape[1]
    kept = cut_length(embeds.abs().amax(dim=(0, 2)) > 0, spare=1)
    number = torch.scalar_tensor(length - kept + 1, dtype=torch.float32)
    bias = functional.pad(number.log().to(embeds.dtype).reshape(1), (kept - 1, 0))
    return embeds[:, :kept], bias.reshape(1, 1, 1, kept)
