"""The diffusion transformer over latent frames, causal between chunks.

Tokens are 2x2 patches of latents, N = (h/2)*(w/2) of them a frame.  Every frame has its own noise level sigma (0 clean,
1 noise): x = (1 - sigma) * x0 + sigma * noise, and the prediction is the velocity noise - x0.  One attention per layer
sees the prompt's tokens, the frames of the past (as cached keys and values) and the current frames.  Keys are cached
before rotation, so positions in time are always counted from the start of what is cached.

Inside, the network's raw output f and its input are scaled so that both have unit variance at every noise level:
with D = (1-sigma)^2 + sigma^2, input x / sqrt(D), velocity = (2*sigma - 1) / D * x - f / sqrt(D).  At sigma = 1 f is the
clean latent, at sigma = 0 it is minus the noise; nothing is divided by a small sigma.
"""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

CHUNK = 3


def rms(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    return x if weight is None else x * weight


def rope_table(positions: torch.Tensor, pairs: int, high: float, low: float) -> torch.Tensor:
    """Angles [n, pairs] with frequencies spread geometrically from `high` to `low` radians a step."""
    f = torch.tensor([high * (low / high) ** (i / (pairs - 1)) for i in range(pairs)])
    return positions.to(torch.float32)[:, None] * f


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [..., 2*m], cos and sin [..., m] broadcast over heads."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Block(nn.Module):
    def __init__(self, d: int, heads: int, text: int, ratio: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.o = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.text = nn.Linear(text, 2 * d, bias=False)
        self.f1, self.f2 = nn.Linear(d, ratio * d), nn.Linear(ratio * d, d)
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(d // heads)), nn.Parameter(torch.ones(d // heads))
        self.table = nn.Parameter(torch.zeros(6, d))
        self.local = nn.Conv2d(d, d, 3, padding=1, groups=d, bias=False)  # what the neighbouring patches hold
        nn.init.zeros_(self.local.weight)
        nn.init.zeros_(self.o.weight)
        nn.init.zeros_(self.o.bias)
        nn.init.zeros_(self.f2.weight)
        nn.init.zeros_(self.f2.bias)

    def forward(self, x, rows, columns, mods, embeds, bias, past_k, past_v, cos, sin):
        """x [B, T, N, d] with N = rows * columns; mods [B, T, 6, d]; past [B, P, N, d]; bias adds to the scores; cos, sin [(P+T)*N, m].
        Returns x and this call's keys (normalised, not rotated) and values, [B, T, N, d]."""
        b, t, n, d = x.shape
        h, e = self.heads, d // self.heads
        m = (mods + self.table)[:, :, :, None].unbind(2)
        grid = rms(x).reshape(b * t, rows, columns, d).permute(0, 3, 1, 2)
        x = x + self.local(grid).permute(0, 2, 3, 1).reshape(b, t, n, d)
        q, k, v = self.qkv(rms(x) * (1 + m[0]) + m[1]).chunk(3, -1)
        q = rms(q.reshape(b, t * n, h, e), self.q_norm)
        k = rms(k.reshape(b, t, n, h, e), self.k_norm).reshape(b, t, n, d)
        keys = torch.cat([past_k, k], 1).reshape(b, -1, h, e)
        values = torch.cat([past_v, v], 1).reshape(b, -1, h, e)
        text_k, text_v = self.text(embeds).reshape(b, -1, 2, h, e).unbind(2)
        cos, sin = cos[:, None], sin[:, None]
        q = rotate(q, cos[-t * n:], sin[-t * n:])
        keys = torch.cat([rms(text_k, self.k_norm), rotate(keys, cos, sin)], 1)
        values = torch.cat([text_v, values], 1)
        scores = q.transpose(1, 2) @ keys.permute(0, 2, 3, 1) * e ** -.5 + bias
        a = (scores.softmax(-1) @ values.transpose(1, 2)).transpose(1, 2).reshape(b, t, n, d)
        x = x + (1 + m[2]) * self.o(a)
        y = F.gelu(self.f1(rms(x) * (1 + m[3]) + m[4]), approximate="tanh")
        return x + (1 + m[5]) * self.f2(y), k, v


def unpatch(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[B, T, N, 4*c] -> [B, c, T, 2*rows, 2*columns]"""
    b, t, _, c = x.shape
    return x.reshape(b, t, rows, columns, c // 4, 2, 2).permute(0, 4, 1, 2, 5, 3, 6).reshape(b, c // 4, t, 2 * rows, 2 * columns)


class Refine(nn.Module):
    """Two convolutions at the latents' own resolution, so that patches meet without seams."""

    def __init__(self, d: int, channels: int, features: int = 48, hidden: int = 128):
        super().__init__()
        self.features = nn.Linear(d, 4 * features)
        self.a, self.b = nn.Conv2d(features + channels, hidden, 3, padding=1), nn.Conv2d(hidden, channels, 3, padding=1)
        self.level = nn.Linear(d, hidden)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x, latents, condition):
        """x [B, T, N, d], latents [B, 16, T, h, w], condition [B, T, d] -> [B, 16, T, h, w]"""
        b, c, t, h, w = latents.shape
        y = torch.cat([unpatch(self.features(x), h // 2, w // 2), latents], 1)
        y = self.a(y.transpose(1, 2).reshape(b * t, -1, h, w)) + self.level(condition).reshape(b * t, -1, 1, 1)
        y = self.b(F.gelu(y, approximate="tanh"))
        return y.reshape(b, t, c, h, w).transpose(1, 2)


class Transformer(nn.Module):
    def __init__(self, d: int = 256, layers: int = 6, heads: int = 4, text: int = 256, ratio: int = 4, channels: int = 16):
        super().__init__()
        self.d, self.n_layers, self.channels = d, layers, channels
        self.head_dim = d // heads
        self.inp, self.out = nn.Linear(4 * channels, d), nn.Linear(d, 4 * channels)
        self.time = nn.Sequential(nn.Linear(128, d), nn.SiLU(), nn.Linear(d, d))
        self.pooled = nn.Linear(text, d)
        self.mods = nn.Linear(d, 6 * d)
        self.last = nn.Linear(d, 2 * d)
        self.refine = Refine(d, channels)
        self.blocks = nn.ModuleList([Block(d, heads, text, ratio) for _ in range(layers)])
        for m in (self.mods, self.last, self.out):
            nn.init.normal_(m.weight, std=.005)
            nn.init.zeros_(m.bias)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0., 6.5, 64)), persistent=False)

    def angles(self, frames: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [frames*rows*columns, head_dim/2]; rows and columns are counted from the middle of the frame."""
        m = self.head_dim // 2
        mt, my = m // 4, (m - m // 4) // 2
        t = rope_table(torch.arange(frames), mt, 1.6, .06)
        y = rope_table(torch.arange(rows) - (rows - 1) / 2, my, 2., .08)
        x = rope_table(torch.arange(columns) - (columns - 1) / 2, m - mt - my, 2., .08)
        n = rows * columns
        space = torch.cat([y[:, None].expand(rows, columns, my), x[None].expand(rows, columns, m - mt - my)], -1).reshape(n, -1)
        a = torch.cat([t[:, None].expand(frames, n, mt), space[None].expand(frames, n, m - mt)], -1).reshape(frames * n, m)
        return a.cos(), a.sin()

    def forward(self, latents, timestep, prompt_embeds, prompt_mask, past_key, past_value, frame_chunks=None):
        """latents [B, 16, T, h, w], timestep [B, T] = 1000*sigma, prompt [B, L, text], mask [B, L],
        past [layers, B, P, N, d] -> velocity [B, 16, T, h, w], keys and values [layers, B, T, N, d].
        frame_chunks int [T]: which chunk each frame is in (default: chunks of 3); no frame sees a later chunk."""
        b, c, t, h, w = latents.shape
        past = past_key.shape[2]
        rows, columns = h // 2, w // 2
        n = rows * columns
        sigma = timestep * .001
        spread = ((1 - sigma).square() + sigma.square())[:, None, :, None, None]
        x = latents * torch.rsqrt(spread)
        x = x.reshape(b, c, t, rows, 2, columns, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, t, n, 4 * c)
        x = self.inp(x)
        angle = sigma[..., None] * self.frequencies
        condition = F.silu(self.time(torch.cat([angle.cos(), angle.sin()], -1)) + self.pooled(prompt_embeds[:, :1]))
        mods = self.mods(condition).reshape(b, t, 6, self.d)
        if frame_chunks is None:
            frame_chunks = torch.div(torch.arange(t), CHUNK, rounding_mode="floor")
        chunk_of = frame_chunks[:, None].expand(t, n).reshape(-1)
        later = (chunk_of[None] > chunk_of[:, None]).to(latents.dtype) * -1e4
        bias = torch.cat([((prompt_mask - 1) * 1e4)[:, None, None, :].expand(b, 1, t * n, prompt_mask.shape[1]),
                          torch.cat([torch.zeros(t * n, past * n), later], 1)[None, None].expand(b, 1, t * n, (past + t) * n)], -1)
        cos, sin = self.angles(past + t, rows, columns)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, rows, columns, mods, prompt_embeds, bias, past_key[i], past_value[i], cos, sin)
            keys.append(k)
            values.append(v)
        scale, shift = self.last(condition)[:, :, None].chunk(2, -1)
        x = rms(x) * (1 + scale) + shift
        f = unpatch(self.out(x), rows, columns)
        f = f + self.refine(x, latents * torch.rsqrt(spread), condition)
        s = sigma[:, None, :, None, None]
        velocity = (2 * s - 1) / spread * latents - f * torch.rsqrt(spread)
        return velocity, torch.stack(keys), torch.stack(values)
