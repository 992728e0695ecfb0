"""The form in which attention goes into a graph."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch.nn import functional

#: `fused`: ONNX Runtime's MultiHeadAttention; `onnx`: the standard's Attention, opset 23; `plain`: matrix products.
FORMS = ("fused", "onnx", "plain")


@contextlib.contextmanager
def form(name: str) -> Iterator[None]:
    """Traces every `scaled_dot_product_attention` in this form."""
    if name != "fused":
        yield
        return
    with mock.patch.object(functional, "scaled_dot_product_attention", fused):
        yield


_plain = functional.scaled_dot_product_attention


def fused(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """`scaled_dot_product_attention` on [B,heads,S,D] as com.microsoft.MultiHeadAttention, which never holds all scores."""
    heads, same = query.shape[1], query.shape[1] == key.shape[1] == value.shape[1]
    if is_causal or enable_gqa or not same or query.ndim != 4 or (attn_mask is not None and attn_mask.dtype == torch.bool):
        return _plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    flat = lambda x: x.transpose(1, 2).flatten(2)
    inputs = [flat(query), flat(key), flat(value)]
    if attn_mask is not None:
        shape = (-1,) * (attn_mask.ndim - 2) + (query.shape[2], key.shape[2])
        inputs += [None, None, attn_mask.expand(shape)]
    attributes = {"num_heads": heads} | ({} if scale is None else {"scale": float(scale)})
    out = torch.onnx.ops.symbolic("com.microsoft::MultiHeadAttention", inputs, attributes, dtype=query.dtype,
                                  shape=(query.shape[0], query.shape[2], heads * value.shape[3]), version=1)
    return out.unflatten(2, (heads, value.shape[3])).transpose(1, 2)
