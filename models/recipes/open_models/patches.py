"""Work-arounds for the exporter, in force only while a graph is traced."""
from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from unittest import mock

import torch
from torch.nn import functional


@contextlib.contextmanager
def exporter() -> Iterator[None]:
    """All of them."""
    import diffusers.models.embeddings as embeddings

    with (
        mock.patch.object(torch.Tensor, "repeat_interleave", repeat_interleave),
        mock.patch.object(embeddings, "get_timestep_embedding", timestep_embedding),
        mock.patch.object(torch, "concat", concat),
    ):
        yield


_repeat_interleave = torch.Tensor.repeat_interleave


def repeat_interleave(self, repeats, dim=None, output_size=None):
    """onnxscript 0.7 repeats along the wrong axis when the number of repeats is symbolic; expanding says the same."""
    if dim is None or isinstance(repeats, torch.Tensor):
        return _repeat_interleave(self, repeats, dim=dim, output_size=output_size)
    dim %= self.ndim
    shape = list(self.shape)
    spread = self.unsqueeze(dim + 1).expand(*shape[: dim + 1], repeats, *shape[dim + 1 :])
    return spread.reshape(*shape[:dim], shape[dim] * repeats, *shape[dim + 1 :])


def concat(tensors, dim=0):
    """PyTorch makes floats of halves where there are floats among them, and ONNX's Concat does not: SDXL's UNet relies on it."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    return torch.cat([t.to(dtype) for t in tensors], dim=dim)


_frequencies: dict[tuple, torch.Tensor] = {}


def timestep_embedding(timesteps, embedding_dim, flip_sin_to_cos=False, downscale_freq_shift=1, scale=1, max_period=10000):
    """diffusers' sinusoids with their frequencies as constants.

    Computed in the graph they differ from PyTorch's in the last bit, which a timestep of 1000 turns into 1e-5. The
    exporter calls a module once before tracing it: that fills the cache with real tensors.
    """
    half = embedding_dim // 2
    key = (embedding_dim, downscale_freq_shift, max_period)
    if key not in _frequencies:
        exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32) / (half - downscale_freq_shift)
        _frequencies[key] = torch.exp(exponent)
    angles = scale * (timesteps[:, None].float() * _frequencies[key][None])
    parts = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
    return functional.pad(torch.cat(parts, dim=-1), (0, embedding_dim % 2))
