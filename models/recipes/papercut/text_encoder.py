"""The text encoder: a small transformer over words and characters.

Output token 0 stands for the whole prompt.  Linear heads on it are trained to read off the scene's attributes
(captions.ATTRIBUTES), which teaches the meaning of words faster than pictures alone; of the heads only the camera's is exported (graphs.py).
"""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from . import captions

VALUES = captions.VALUES
WIDTH = 256


def targets(said: list[dict[str, str]]) -> torch.Tensor:
    """[B, attributes] class numbers; 0 is "unsaid"."""
    return torch.tensor([[0 if s[a] == captions.UNSAID else 1 + VALUES[a].index(s[a]) for a in captions.ATTRIBUTES] for s in said])


class Layer(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.f1, self.f2 = nn.Linear(d, 3 * d), nn.Linear(3 * d, d)

    def forward(self, x, bias):
        b, n, d = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(2, 3) * (d // self.heads) ** -.5 + bias).softmax(-1) @ v
        x = x + self.o(a.transpose(1, 2).reshape(b, n, d))
        return x + self.f2(F.gelu(self.f1(self.n2(x)), approximate="tanh"))


class Neighbours(nn.Module):
    """Sees words beside each other: 向下 is another thing than 向上 in a prompt with 上 elsewhere, which attention alone learns slowly.  Begins as nothing."""

    def __init__(self, d: int):
        super().__init__()
        self.a, self.b = nn.Conv1d(d, d, 3, padding=1), nn.Linear(d, d)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x, mask):
        y = self.a((x * mask[..., None]).transpose(1, 2)).transpose(1, 2)
        return x + self.b(F.gelu(y, approximate="tanh"))


class TextEncoder(nn.Module):
    def __init__(self, vocabulary: int, d: int = WIDTH, layers: int = 2, heads: int = 4, longest: int = 48):
        super().__init__()
        self.words = nn.Embedding(vocabulary, d)
        self.places = nn.Parameter(torch.randn(longest, d) * .02)
        nn.init.normal_(self.words.weight, std=.3)
        self.neighbours = Neighbours(d)
        self.layers = nn.ModuleList([Layer(d, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(d)
        self.heads = nn.ModuleDict({a: nn.Linear(d, 1 + len(VALUES[a])) for a in captions.ATTRIBUTES})

    def forward(self, input_ids, attention_mask):
        """ids, mask int64 [B, L] -> prompt_embeds [B, L, d], prompt_mask float [B, L]."""
        mask = attention_mask.to(torch.float32)
        bias = (mask[:, None, None, :] - 1) * 1e4
        x = self.neighbours(self.words(input_ids) + self.places[:input_ids.shape[1]], mask)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x) * mask[..., None], mask

    def read(self, embeds: torch.Tensor) -> torch.Tensor:
        """[B, attributes] class numbers, as `targets` has them, that the heads read in embeddings."""
        return torch.stack([self.heads[a](embeds[:, 0]).argmax(-1) for a in captions.ATTRIBUTES], 1)

    def attribute_losses(self, embeds: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """[B]: the mean cross entropy of the heads."""
        return torch.stack([F.cross_entropy(self.heads[a](embeds[:, 0]), wanted[:, i], reduction="none") for i, a in enumerate(captions.ATTRIBUTES)]).mean(0)

    def attribute_loss(self, embeds: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Mean cross entropy of the heads, and the share of attributes read correctly."""
        return self.attribute_losses(embeds, wanted).mean(), (self.read(embeds) == wanted).float().mean().item()
