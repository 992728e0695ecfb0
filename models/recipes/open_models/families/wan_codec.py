"""Wan's autoencoder without its loop over time.

Every convolution is causal and every norm looks at one position, so diffusers' frame-by-frame coding is one pass over
the clip, in which frame 0 passes the temporal up- and downsampling by. The same pass in pieces carries the last inputs
of each convolution from piece to piece.

Inside, clips are [B,T,C,H,W], so that frames are a batch of images without a copy.
"""
from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor, nn
from torch.nn import functional

from ..codec import Scaling, from_frames, sizes, to_frames
from ..graph import FRAMES, LATENTS, Graph, Input, normal, uniform
from .causal_conv import CausalConv, Memory, before


class WanCodec(nn.Module):
    """Both directions of an AutoencoderKLWan: of Wan 2.1, and of Wan 2.2's 5B with its shortcuts and pixel patches."""

    def __init__(self, vae: AutoencoderKLWan):
        super().__init__()
        self.vae = with_own_convolutions(vae)
        self.scaling = Scaling(vae.config.latents_std, vae.config.latents_mean)
        self.patch = vae.config.patch_size or 1

    def decode(self, latents: Tensor, memory: Memory) -> Tensor:
        net = self.vae.decoder
        memory.multiple = 1
        x = self.vae.post_quant_conv(frames_first(self.scaling.to_codec(latents)), memory)
        x = middle(net.mid_block, net.conv_in(x, memory), memory)
        for block in net.up_blocks:
            shortcut = x
            for resnet in block.resnets:
                x = residual(resnet, x, memory)
            upsampler = getattr(block, "upsampler", None) or next(iter(getattr(block, "upsamplers", None) or ()), None)
            if upsampler is not None:
                x = upsample(upsampler, x, memory)
            if getattr(block, "avg_shortcut", None) is not None:
                x = x + repeat_up(block.avg_shortcut, shortcut, memory)
        x = net.conv_out(net.nonlinearity(norm(net.norm_out, x)), memory)
        return to_frames(frames_first(unpatch(x, self.patch)))

    def encode(self, frames: Tensor, memory: Memory) -> Tensor:
        net = self.vae.encoder
        memory.multiple = self.vae.config.scale_factor_temporal
        x = net.conv_in(patch(frames_first(from_frames(frames)), self.patch), memory)
        for block in net.down_blocks:
            x = down(block, x, memory)
        x = middle(net.mid_block, x, memory)
        x = net.conv_out(net.nonlinearity(norm(net.norm_out, x)), memory)
        x = frames_first(self.vae.quant_conv(x, memory))
        return self.scaling.from_codec(x[:, : self.vae.config.z_dim])  # the posterior's mode


def with_own_convolutions(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """A copy of the autoencoder that shares all its weights, with the causal convolutions of this package."""
    shared = {id(tensor): tensor for tensor in (*vae.parameters(), *vae.buffers())}
    vae = copy.deepcopy(vae, shared)
    for name, layer in list(vae.named_modules()):
        if isinstance(layer, WanCausalConv3d):
            vae.set_submodule(name, CausalConv(layer.weight, layer.bias, padding=(layer._padding[2], layer._padding[0])))
    return vae


def frames_first(x: Tensor) -> Tensor:
    """[B,C,T,H,W] to [B,T,C,H,W], and back."""
    return x.transpose(1, 2)


def is_first(x: Tensor) -> Tensor:
    """[1,T,1,1,1] of booleans, true at the first frame of `x` [B,T,C,H,W]."""
    return (torch.arange(x.shape[1]) == 0).view(1, -1, 1, 1, 1)


def norm(layer, x: Tensor) -> Tensor:
    """The layer's norm over the channels of [...,C,H,W]: `functional.normalize` and a gain, in the operators that cost least in a graph."""
    length = (x * x).sum(dim=-3, keepdim=True).sqrt().clamp(min=1e-12)
    return x * (layer.scale / length) * layer.gamma.reshape(-1, 1, 1) + layer.bias


def residual(block, x: Tensor, memory: Memory) -> Tensor:
    shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else block.conv_shortcut(x, memory)
    x = block.conv1(block.nonlinearity(norm(block.norm1, x)), memory)
    x = block.conv2(block.nonlinearity(norm(block.norm2, x)), memory)
    return x + shortcut


def by_frame(function, x: Tensor) -> Tensor:
    """Applies a function of images to each frame of [B,T,C,H,W]."""
    y = function(x.flatten(0, 1))
    return y.reshape(*x.shape[:2], *y.shape[1:])


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
        b, t, c, h, w = x.shape
        first = is_first(x)
        y = layer.time_conv(torch.where(first, 0.0, x) if memory.starts else x, memory)
        if memory.starts:  # frame 0 takes no part, and is not doubled
            y = torch.where(first, x.repeat(1, 1, 2, 1, 1), y)
        x = y.reshape(b, 2 * t, c, h, w)
        x = x[:, 1:] if memory.starts else x
        memory.multiple *= 2
    return by_frame(lambda f: layer.resample[1](functional.interpolate(f, scale_factor=2.0, mode="nearest")), x)


def repeat_up(layer, x: Tensor, memory: Memory) -> Tensor:
    """The shortcut past an upsampling: channels spread over time and space."""
    b, t, _, h, w = x.shape
    ft, fs = layer.factor_t, layer.factor_s
    y = x.repeat_interleave(layer.repeats, dim=2).reshape(b, t, layer.out_channels, ft, fs, fs, h, w)
    y = y.permute(0, 1, 3, 2, 6, 4, 7, 5).reshape(b, t * ft, layer.out_channels, h * fs, w * fs)
    return y[:, ft - 1 :] if memory.starts else y


def down(block, x: Tensor, memory: Memory) -> Tensor:
    match type(block).__name__:
        case "WanResidualBlock":
            return residual(block, x, memory)
        case "WanAttentionBlock":
            return attention(block, x)
        case "WanResample":
            return downsample(block, x, memory)
    shortcut = x  # WanResidualDownBlock
    for resnet in block.resnets:
        x = residual(resnet, x, memory)
    if block.downsampler is not None:
        x = downsample(block.downsampler, x, memory)
    return x + mean_down(block.avg_shortcut, shortcut, memory)


def downsample(layer, x: Tensor, memory: Memory) -> Tensor:
    x = by_frame(layer.resample, x)
    if layer.mode != "downsample3d":
        return x
    memory.multiple //= 2
    time = layer.time_conv
    if not memory.starts:
        return time.halve(memory.extend(x, 1), x.shape[1] // 2)
    memory.kept.append(x.narrow(1, x.shape[1] - 1, 1))  # frame 0 passes; a later output sees the two frames it stands for and the one before
    y = time.halve(before(x, 2), 1 + x.shape[1] // 2)
    return torch.where(is_first(y), x[:, :1], y)


def mean_down(layer, x: Tensor, memory: Memory) -> Tensor:
    """The shortcut past a downsampling: time and space gathered into channels, and these averaged in groups."""
    ft, fs = layer.factor_t, layer.factor_s
    if memory.starts:
        x = functional.pad(x, (0, 0, 0, 0, 0, 0, ft - 1, 0))  # frame 0 alone is the first group
    b, t, c, h, w = x.shape
    y = x.reshape(b, t // ft, ft, c, h // fs, fs, w // fs, fs).permute(0, 1, 3, 2, 5, 7, 4, 6)
    return y.reshape(b, t // ft, layer.out_channels, layer.group_size, h // fs, w // fs).mean(dim=3)


def patch(x: Tensor, size: int) -> Tensor:
    """Pixels of a patch as channels, columns before rows."""
    b, t, c, h, w = x.shape
    y = x.reshape(b, t, c, h // size, size, w // size, size).permute(0, 1, 2, 6, 4, 3, 5)
    return x if size == 1 else y.reshape(b, t, c * size * size, h // size, w // size)


def unpatch(x: Tensor, size: int) -> Tensor:
    b, t, c, h, w = x.shape
    y = x.reshape(b, t, c // size**2, size, size, h, w).permute(0, 1, 2, 5, 4, 6, 3)
    return x if size == 1 else y.reshape(b, t, c // size**2, h * size, w * size)


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
        decodes = direction == "decode"
        name, source, result, reference = ("decoder", latents, frames, decode) if decodes else ("encoder", frames, latents, encode)
        pixels = {} if decodes else {"h": ("H", spatial, 0), "w": ("W", spatial, 0)}
        clip, piece = ({}, {}) if decodes else ({"F": ("T", temporal, 1)}, {"F": ("T", temporal, 0)})
        ends = {result.name: result.axes}
        out.append(Graph(f"{name}.onnx", Whole(codec, direction), [source], ends, start, reference, derived=pixels | clip))
        first, step = Start(codec, direction), Step(codec, direction)
        inner, outer, scales = states(first, source, start[0])
        scaled = [s | {axis: s[of] * by + add for axis, (of, by, add) in scales.items()} for s in later]
        out.append(Graph(f"{name}_init.onnx", first, [source], ends | outer, start, derived=pixels | clip))
        out.append(Graph(f"{name}_step.onnx", step, [source, *inner], ends | outer, scaled, derived=pixels | piece | scales))
    return out


def states(start: Start, source: Input, example: dict) -> tuple[list[Input], dict, dict]:
    """The states as inputs and as outputs; their rows and columns are fixed multiples of the latents', which come last."""
    with torch.no_grad():
        shapes = [s.shape for s in start(source.fill(tuple(example[a] if isinstance(a, str) else a for a in source.axes), torch.Generator()))[1:]]
    inner, outer, scales = [], {}, {}
    for k, (_, frames, channels, h, w) in enumerate(shapes):
        axes = ("B", frames, channels, f"rows_{k}", f"columns_{k}")
        inner.append(Input(f"state_{k}", axes))
        outer[f"state_out_{k}"] = axes
        scales |= {f"rows_{k}": ("H", h // example["H"], 0), f"columns_{k}": ("W", w // example["W"], 0)}
    return inner, outer, scales
