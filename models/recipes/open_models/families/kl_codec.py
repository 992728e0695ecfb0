"""AutoencoderKL: images, and videos as images one after the other."""
from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..codec import Direction, Scaling, from_frames, sizes, to_frames
from ..graph import FRAMES, LATENTS, Graph, Input, uniform


class KlCodec(nn.Module):
    """Both directions of an AutoencoderKL, frame by frame."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae
        config = vae.config
        self.scaling = Scaling([1 / config.scaling_factor] * config.latent_channels, [config.shift_factor or 0.0] * config.latent_channels)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B,C,T,H,W] to frames [B,T,h,w,3]."""
        b, c, t, h, w = latents.shape
        x = self.scaling.to_codec(latents).transpose(1, 2).reshape(b * t, c, h, w)
        if self.vae.post_quant_conv is not None:
            x = self.vae.post_quant_conv(x)
        x = self.vae.decoder(x)
        return to_frames(x.reshape(b, t, *x.shape[1:]).transpose(1, 2))

    def encode(self, frames: Tensor) -> Tensor:
        """Frames [B,F,h,w,3] to latents [B,C,F,H,W], the posterior's mode."""
        b, f, h, w, _ = frames.shape
        x = self.vae.encoder(from_frames(frames).transpose(1, 2).reshape(b * f, 3, h, w))
        if self.vae.quant_conv is not None:
            x = self.vae.quant_conv(x)
        x = x[:, : self.vae.config.latent_channels]
        return self.scaling.from_codec(x.reshape(b, f, *x.shape[1:]).transpose(1, 2))


def graphs(vae: AutoencoderKL) -> list[Graph]:
    """decoder and encoder, for any number of frames."""
    config, spatial = vae.config, spatial_compression(vae.config)
    codec = KlCodec(vae)
    scaling = codec.scaling
    cells = [s | {"F": s["T"]} for s in sizes(spatial, 1, (2, 2, 4, 6), (1, 1, 6, 4), (1, 3, 2, 4))]
    latents, frames = Input("latents", LATENTS(config.latent_channels)), Input("frames", FRAMES, uniform)

    def each(function, x: Tensor) -> Tensor:
        return torch.stack([function(x[:, :, t]) for t in range(x.shape[2])], dim=2)

    def decode(latents):
        return to_frames(each(lambda z: vae.decode(z, return_dict=False)[0], scaling.to_codec(latents)))

    def encode(frames):
        return scaling.from_codec(each(lambda x: vae.encode(x).latent_dist.mode(), from_frames(frames)))

    return [
        Graph("decoder.onnx", Direction(codec, "decode"), [latents], {"frames": ("B", "T", "h", "w", 3)}, cells, decode),
        Graph("encoder.onnx", Direction(codec, "encode"), [frames], {"latents": ("B", config.latent_channels, "F", "H", "W")}, cells, encode),
    ]


def spatial_compression(config) -> int:
    """Pixels a latent's side."""
    return 2 ** (len(config["block_out_channels"]) - 1)
