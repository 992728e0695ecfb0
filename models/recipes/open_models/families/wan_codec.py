"""Wan's autoencoder without its loop over time.

Every convolution is causal and every norm looks at one position, so diffusers' frame-by-frame coding is one pass over
the clip, in which frame 0 passes the temporal up- and downsampling by. The same pass in pieces carries the last inputs
of each convolution from piece to piece.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional

from ..codec import Scaling, from_frames, is_first_frame, sizes, to_frames
from ..graph import FRAMES, LATENTS, Graph, Input, normal, uniform


class Memory:
    """What precedes a clip in each convolution: zeros where it starts, and in later pieces the state of the last."""

    def __init__(self, states: tuple[Tensor, ...] | None = None):
        self.given = None if states is None else iter(states)
        self.kept: list[Tensor] = []

    @property
    def starts(self) -> bool:
        return self.given is None

    def extend(self, x: Tensor, frames: int) -> Tensor:
        """`x` with the `frames` frames before it."""
        x = functional.pad(x, (0, 0, 0, 0, frames, 0)) if self.given is None else torch.cat([next(self.given), x], dim=2)
        self.kept.append(x[:, :, -frames:])
        return x


class WanCodec(nn.Module):
    """Both directions of an AutoencoderKLWan: of Wan 2.1, and of Wan 2.2's 5B with its shortcuts and pixel patches."""

    def __init__(self, vae: AutoencoderKLWan):
        super().__init__()
        self.vae = vae
        self.scaling = Scaling(vae.config.latents_std, vae.config.latents_mean)
        self.patch = vae.config.patch_size or 1

    def decode(self, latents: Tensor, memory: Memory) -> Tensor:
        net = self.vae.decoder
        x = conv(self.vae.post_quant_conv, self.scaling.to_codec(latents), memory)
        x = middle(net.mid_block, conv(net.conv_in, x, memory), memory)
        for block in net.up_blocks:
            before = x
            for resnet in block.resnets:
                x = residual(resnet, x, memory)
            upsampler = getattr(block, "upsampler", None) or next(iter(getattr(block, "upsamplers", None) or ()), None)
            if upsampler is not None:
                x = upsample(upsampler, x, memory)
            if getattr(block, "avg_shortcut", None) is not None:
                x = x + repeat_up(block.avg_shortcut, before, memory)
        x = conv(net.conv_out, net.nonlinearity(norm(net.norm_out, x)), memory)
        return to_frames(unpatch(x, self.patch))

    def encode(self, frames: Tensor, memory: Memory) -> Tensor:
        net = self.vae.encoder
        x = conv(net.conv_in, patch(from_frames(frames), self.patch), memory)
        for block in net.down_blocks:
            x = down(block, x, memory)
        x = middle(net.mid_block, x, memory)
        x = conv(net.conv_out, net.nonlinearity(norm(net.norm_out, x)), memory)
        x = conv(self.vae.quant_conv, x, memory)
        return self.scaling.from_codec(x[:, : self.vae.config.z_dim])  # the posterior's mode


def conv(layer, x: Tensor, memory: Memory) -> Tensor:
    before, rows, columns = layer._padding[4], layer._padding[2], layer._padding[0]
    if before:
        x = memory.extend(x, before)
    return functional.conv3d(x, layer.weight, layer.bias, layer.stride, padding=(0, rows, columns))


def norm(layer, x: Tensor) -> Tensor:
    return functional.normalize(x, dim=1) * (layer.scale * layer.gamma) + layer.bias


def residual(block, x: Tensor, memory: Memory) -> Tensor:
    shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else conv(block.conv_shortcut, x, memory)
    x = conv(block.conv1, block.nonlinearity(norm(block.norm1, x)), memory)
    x = conv(block.conv2, block.nonlinearity(norm(block.norm2, x)), memory)
    return x + shortcut


def by_frame(function, x: Tensor) -> Tensor:
    """Applies a function of images to each frame of [B,C,T,H,W]."""
    b, c, t, h, w = x.shape
    y = function(x.transpose(1, 2).reshape(b * t, c, h, w))
    return y.reshape(b, t, *y.shape[1:]).transpose(1, 2)


def attention(block, x: Tensor) -> Tensor:
    def attend(frame: Tensor) -> Tensor:
        n, c, h, w = frame.shape
        q, k, v = block.to_qkv(norm(block.norm, frame)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        return block.proj(functional.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(n, c, h, w))

    return by_frame(attend, x) + x


def middle(block, x: Tensor, memory: Memory) -> Tensor:
    x = residual(block.resnets[0], x, memory)
    for attn, resnet in zip(block.attentions, block.resnets[1:]):
        x = residual(resnet, x if attn is None else attention(attn, x), memory)
    return x


def upsample(layer, x: Tensor, memory: Memory) -> Tensor:
    if layer.mode == "upsample3d":
        b, c, t, h, w = x.shape
        first = is_first_frame(x)
        y = conv(layer.time_conv, torch.where(first, 0.0, x) if memory.starts else x, memory).reshape(b, 2, c, t, h, w)
        if memory.starts:  # frame 0 takes no part, and is not doubled
            y = torch.where(first.unsqueeze(1), x.unsqueeze(1), y)
        x = y.permute(0, 2, 3, 1, 4, 5).reshape(b, c, 2 * t, h, w)
        x = x[:, :, 1:] if memory.starts else x
    return by_frame(lambda f: layer.resample[1](functional.interpolate(f, scale_factor=2.0, mode="nearest")), x)


def repeat_up(layer, x: Tensor, memory: Memory) -> Tensor:
    """The shortcut past an upsampling: channels spread over time and space."""
    b, _, t, h, w = x.shape
    ft, fs = layer.factor_t, layer.factor_s
    y = x.repeat_interleave(layer.repeats, dim=1).reshape(b, layer.out_channels, ft, fs, fs, t, h, w)
    y = y.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, layer.out_channels, t * ft, h * fs, w * fs)
    return y[:, :, ft - 1 :] if memory.starts else y


def down(block, x: Tensor, memory: Memory) -> Tensor:
    match type(block).__name__:
        case "WanResidualBlock":
            return residual(block, x, memory)
        case "WanAttentionBlock":
            return attention(block, x)
        case "WanResample":
            return downsample(block, x, memory)
    before = x  # WanResidualDownBlock
    for resnet in block.resnets:
        x = residual(resnet, x, memory)
    if block.downsampler is not None:
        x = downsample(block.downsampler, x, memory)
    return x + mean_down(block.avg_shortcut, before, memory)


def downsample(layer, x: Tensor, memory: Memory) -> Tensor:
    x = by_frame(layer.resample, x)
    if layer.mode != "downsample3d":
        return x
    time = layer.time_conv
    if memory.starts:  # frame 0 passes; a later output sees the two frames it stands for and the one before
        memory.kept.append(x[:, :, -1:])
        y = functional.conv3d(functional.pad(x, (0, 0, 0, 0, 2, 0)), time.weight, time.bias, time.stride)
        return torch.where(is_first_frame(y), x[:, :, :1], y)
    return functional.conv3d(memory.extend(x, 1), time.weight, time.bias, time.stride)


def mean_down(layer, x: Tensor, memory: Memory) -> Tensor:
    """The shortcut past a downsampling: time and space gathered into channels, and these averaged in groups."""
    ft, fs = layer.factor_t, layer.factor_s
    if memory.starts:
        x = functional.pad(x, (0, 0, 0, 0, ft - 1, 0))  # frame 0 alone is the first group
    b, c, t, h, w = x.shape
    y = x.reshape(b, c, t // ft, ft, h // fs, fs, w // fs, fs).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return y.reshape(b, layer.out_channels, layer.group_size, t // ft, h // fs, w // fs).mean(dim=2)


def patch(x: Tensor, size: int) -> Tensor:
    """Pixels of a patch as channels, columns before rows."""
    b, c, t, h, w = x.shape
    y = x.reshape(b, c, t, h // size, size, w // size, size).permute(0, 1, 6, 4, 2, 3, 5)
    return x if size == 1 else y.reshape(b, c * size * size, t, h // size, w // size)


def unpatch(x: Tensor, size: int) -> Tensor:
    b, c, t, h, w = x.shape
    y = x.reshape(b, c // size**2, size, size, t, h, w).permute(0, 1, 4, 5, 3, 6, 2)
    return x if size == 1 else y.reshape(b, c // size**2, t, h * size, w * size)


class Whole(nn.Module):
    """A clip at once."""

    def __init__(self, codec: WanCodec, direction: str):
        super().__init__()
        self.codec, self.direction = codec, direction

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.codec, self.direction)(x, Memory())


class Start(Whole):
    """The first piece of a clip, and the state it leaves."""

    def forward(self, x: Tensor):
        memory = Memory()
        return getattr(self.codec, self.direction)(x, memory), *memory.kept


class Step(Whole):
    """A later piece."""

    def forward(self, x: Tensor, *states: Tensor):
        memory = Memory(states)
        return getattr(self.codec, self.direction)(x, memory), *memory.kept


def graphs(vae: AutoencoderKLWan, directions: Sequence[str] = ("decode", "encode")) -> list[Graph]:
    """decoder, encoder, and the pairs that stream, which share their weights."""
    codec = WanCodec(vae)
    spatial, temporal = vae.config.scale_factor_spatial, vae.config.scale_factor_temporal
    start = sizes(spatial, temporal, (2, 3, 4, 6), (1, 1, 6, 4), (1, 2, 2, 2))
    later = [s | {"F": s["T"] * temporal} for s in start]
    latents = Input("latents", LATENTS(vae.config.z_dim), normal)
    frames = Input("frames", FRAMES, uniform)

    def decode(latents):
        return to_frames(vae.decode(codec.scaling.to_codec(latents), return_dict=False)[0])

    def encode(frames):
        return codec.scaling.from_codec(vae.encode(from_frames(frames)).latent_dist.mode())

    out = []
    for direction in directions:
        name, source, result, reference = ("decoder", latents, frames, decode) if direction == "decode" else ("encoder", frames, latents, encode)
        ends = {result.name: result.axes}
        out.append(Graph(f"{name}.onnx", Whole(codec, direction), [source], ends, start, reference))
        first, step = Start(codec, direction), Step(codec, direction)
        inner, outer = states(first, source, start[0])
        scales = {axis: scale for i in inner for axis, scale in i[2].items()}
        scaled = lambda all_sizes: [s | {axis: int(s[of] * by) for axis, (of, by) in scales.items()} for s in all_sizes]
        out.append(Graph(f"{name}_init.onnx", first, [source], ends | outer, start))
        out.append(Graph(f"{name}_step.onnx", step, [source, *(Input(n, axes) for n, axes, _ in inner)], ends | outer, scaled(later)))
    return out


def states(start: Start, source: Input, example: dict) -> tuple[list, dict]:
    """The states' names and axes; their rows and columns are fixed multiples of the source's."""
    with torch.no_grad():
        shapes = [s.shape for s in start(source.fill(tuple(example[a] if isinstance(a, str) else a for a in source.axes), torch.Generator()))[1:]]
    inner, outer = [], {}
    rows, columns = example["H"], example["W"]
    for k, (_, channels, frames, h, w) in enumerate(shapes):
        axes = ("B", channels, frames, f"rows_{k}", f"columns_{k}")
        inner.append((f"state_{k}", axes, {f"rows_{k}": ("H", h / rows), f"columns_{k}": ("W", w / columns)}))
        outer[f"state_out_{k}"] = axes
    return inner, outer
