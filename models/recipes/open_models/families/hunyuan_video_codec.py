"""HunyuanVideo's autoencoder on whole clips of any length; long ones are for the runtime to cut up."""
from __future__ import annotations

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn
from torch.nn import functional

from ..codec import Direction, Scaling, from_frames, sizes, to_frames
from ..graph import FRAMES, LATENTS, Graph, Input, uniform


class HunyuanVideoCodec(nn.Module):
    """Both directions of an AutoencoderKLHunyuanVideo. Its norms look at all frames, so it has no form that streams."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo):
        super().__init__()
        self.vae = vae
        channels = vae.config.latent_channels
        self.scaling = Scaling([1 / vae.config.scaling_factor] * channels, [0.0] * channels)

    def decode(self, latents: Tensor) -> Tensor:
        net = self.vae.decoder
        x = middle(net.mid_block, net.conv_in(self.vae.post_quant_conv(self.scaling.to_codec(latents))))
        for block in net.up_blocks:
            for resnet in block.resnets:
                x = resnet(x)
            for upsampler in block.upsamplers or ():
                x = upsample(upsampler, x)
        return to_frames(net.conv_out(net.conv_act(net.conv_norm_out(x))), clamp=False)

    def encode(self, frames: Tensor) -> Tensor:
        net = self.vae.encoder
        x = net.conv_in(from_frames(frames))
        for block in net.down_blocks:
            x = block(x)
        x = net.conv_out(net.conv_act(net.conv_norm_out(middle(net.mid_block, x))))
        return self.scaling.from_codec(self.vae.quant_conv(x)[:, : self.vae.config.latent_channels])  # the posterior's mode


def middle(block: nn.Module, x: Tensor) -> Tensor:
    x = block.resnets[0](x)
    for attn, resnet in zip(block.attentions, block.resnets[1:]):
        x = resnet(x if attn is None else attention(attn, x))
    return x


def attention(attn: nn.Module, x: Tensor) -> Tensor:
    """Attention over all positions of a frame and of the frames before it."""
    b, c, t, h, w = x.shape
    y = attn.group_norm(x.flatten(2)).transpose(1, 2)
    query, key, value = (f(y).unsqueeze(1) for f in (attn.to_q, attn.to_k, attn.to_v))
    frame = torch.arange(t).unsqueeze(1).expand(-1, h * w).reshape(-1)
    bias = ((frame[None, :] > frame[:, None]).to(y.dtype) * -10000.0)[None, None]
    y = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias).squeeze(1)
    return x + attn.to_out[0](y).transpose(1, 2).reshape(b, c, t, h, w)


def upsample(layer: nn.Module, x: Tensor) -> Tensor:
    """Every frame larger, and twice but for the first, which stands for itself."""
    b, c, t, h, w = x.shape
    factor_t, factor_h, _ = layer.upsample_factor
    if factor_h > 1:
        x = functional.interpolate(x.transpose(1, 2).reshape(b * t, c, h, w), scale_factor=float(factor_h), mode="nearest")
        x = x.reshape(b, t, c, x.shape[2], x.shape[3]).transpose(1, 2)
    if factor_t > 1:
        h, w = x.shape[3:]
        x = x.unsqueeze(3).expand(-1, -1, -1, factor_t, -1, -1).reshape(b, c, t * factor_t, h, w)[:, :, factor_t - 1 :]
    return layer.conv(x)


def graphs(vae: AutoencoderKLHunyuanVideo) -> list[Graph]:
    """decoder and encoder. diffusers' own are the reference up to four latent frames, above which it blends segments."""
    codec = HunyuanVideoCodec(vae)
    latents, frames = Input("latents", LATENTS(vae.config.latent_channels)), Input("frames", FRAMES, uniform)
    cells = sizes(vae.config.spatial_compression_ratio, vae.config.temporal_compression_ratio, (2, 3, 4, 6), (1, 1, 6, 4), (1, 4, 2, 2))

    def decode(latents):
        return to_frames(vae.decode(codec.scaling.to_codec(latents), return_dict=False)[0], clamp=False)

    def encode(frames):
        return codec.scaling.from_codec(vae.encode(from_frames(frames)).latent_dist.mode())

    return [
        Graph("decoder.onnx", Direction(codec, "decode"), [latents], {"frames": FRAMES}, cells, decode),
        Graph("encoder.onnx", Direction(codec, "encode"), [frames], {"latents": latents.axes}, cells, encode),
    ]


def segments(vae: AutoencoderKLHunyuanVideo) -> dict[str, int]:
    """The segments of long clips that diffusers codes one by one and blends, in the manifest's words."""
    framewise = vae.use_framewise_decoding and vae.use_framewise_encoding
    return {name: getattr(vae, name) for name in ("tile_sample_min_num_frames", "tile_sample_stride_num_frames") if framewise}
