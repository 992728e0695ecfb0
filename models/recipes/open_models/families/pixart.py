"""PixArt-Sigma: text to image with a transformer."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import text
from ..graph import Graph, Input, Part, padding_numbers, timesteps
from . import kl_codec
from .base import Family

LENGTH = 300  # tokens of a prompt
SIZES = ({"B": 2, "H": 8, "W": 12, "L": 16}, {"B": 1, "H": 12, "W": 6, "L": 9}, {"B": 1, "H": 4, "W": 4, "L": 24})


class PixArtDenoiser(nn.Module):
    """PixArtTransformer2DModel for any size, without the half of its output that predicts a variance."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        if net.config.use_additional_conditions:
            raise SystemExit("PixArt-Alpha's 1024 models, which are told size and aspect, can't be exported: PixArt-Sigma's can")
        half = net.pos_embed.pos_embed.shape[-1] // 4
        self.register_buffer("frequencies", 1 / 10000 ** (torch.arange(half, dtype=torch.float64) / half), persistent=False)

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, prompt_mask: Tensor) -> Tensor:
        net, p = self.net, self.net.config.patch_size
        b, channels, _, h, w = latents.shape
        h, w = h // p, w // p
        x = net.pos_embed.proj(latents.squeeze(2)).flatten(2).transpose(1, 2)
        x = x + self.positions(h, w).to(x.dtype)
        modulation, time = net.adaln_single(timestep, {"resolution": None, "aspect_ratio": None}, batch_size=b, hidden_dtype=x.dtype)
        prompt = net.caption_projection(prompt_embeds)
        bias = ((1 - prompt_mask.to(x.dtype)) * -10000.0).unsqueeze(1)
        for block in net.transformer_blocks:
            x = block(x, encoder_hidden_states=prompt, encoder_attention_mask=bias, timestep=modulation)
        shift, scale = (net.scale_shift_table[None] + time[:, None]).chunk(2, dim=1)
        x = net.proj_out(net.norm_out(x) * (1 + scale) + shift)
        x = x.reshape(b, h, w, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, 1, h * p, w * p)
        return x[:, :channels]

    def positions(self, h: int, w: int) -> Tensor:
        """Sines and cosines of the patches' places [1,h·w,D], columns first; the trained size is spread over the image."""
        embed = self.net.pos_embed
        columns, rows = (self.along(n, embed.base_size, embed.interpolation_scale) for n in (w, h))
        table = torch.cat([columns[None].expand(h, -1, -1), rows[:, None].expand(-1, w, -1)], dim=-1)
        return table.reshape(1, h * w, -1)

    def along(self, n: int, base: int, scale: float) -> Tensor:
        places = torch.arange(n, dtype=torch.float32) / (torch.scalar_tensor(n, dtype=torch.float32) / base) / scale
        angles = torch.outer(places.double(), self.frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class PixArt(Family):
    """PixArtSigmaPipeline, without its choice among trained sizes and its rewriting of captions."""

    pipelines = ("PixArtSigmaPipeline",)

    def parts(self) -> Sequence[Part]:
        return self.usual_parts(lambda encoder: text.t5_graph(encoder, masked=True, returns_mask=True), "transformer", kl_codec.graphs)

    def denoiser(self, net: nn.Module) -> Graph:
        channels = net.config.in_channels
        inputs = [
            Input("latents", ("B", channels, 1, "H", "W")),
            Input("timestep", ("B",), timesteps, exact=True),
            Input("prompt_embeds", ("B", "L", net.config.caption_channels)),
            Input("prompt_mask", ("B", "L"), padding_numbers),
        ]

        def reference(latents, timestep, prompt_embeds, mask):
            out = net(latents.squeeze(2), prompt_embeds, timestep, {"resolution": None, "aspect_ratio": None}, encoder_attention_mask=mask, return_dict=False)[0]
            return out[:, :channels].unsqueeze(2)

        return Graph("denoiser.onnx", PixArtDenoiser(net), inputs, {"prediction": ("B", channels, 1, "H", "W")}, SIZES, reference)

    def manifest(self) -> dict[str, Any]:
        vae, net = self.source.config("vae"), self.source.config("transformer")
        spatial = kl_codec.spatial_compression(vae)
        multiple, size = spatial * net["patch_size"], net["sample_size"] * spatial
        side = {"min": multiple, "max": max(4096, size), "default": size}
        return {
            "text_encoders": [self.text_encoder(LENGTH, ["lowercase", "strip"])],
            "latents": {"channels": net["in_channels"], "spatial_compression_ratio": spatial, "temporal_compression_ratio": 1, "size_multiple": multiple},
            "video": {"width": side, "height": dict(side), "frame_rate": {"min": "1/1", "max": "120/1", "default": "1/1"},
                      "num_frames": {"min": 1, "max": 1, "default": 1}},
            "denoisers": [{"file": "denoiser.onnx"}],
            "decoder": {"file": "decoder.onnx"},
            "encoder": {"file": "encoder.onnx"},
            "scheduler": self.scheduler(),
            "defaults": {"num_inference_steps": 20, "guidance_scale": 4.5},
        }
