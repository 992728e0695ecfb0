"""Stable Diffusion XL and SDXL-Turbo: text to image with two text encoders."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import clip
from ..graph import Graph, Input, Part
from . import kl_codec
from .base import Family
from .stable_diffusion import SIZES, defaults, image_tables, refuse_unusual, unet_inputs


class UNetXL(nn.Module):
    """UNet2DConditionModel with the states of both encoders side by side, and told the image's size.

    The six numbers that it is told (original size, corner of the crop, target size) are those of an image made for the
    size of the latents, as the pipeline's defaults are.
    """

    def __init__(self, net: nn.Module, spatial: int):
        super().__init__()
        self.net, self.spatial = net, spatial

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, prompt_embeds_2: Tensor, pooled_prompt_embeds: Tensor) -> Tensor:
        b, _, _, h, w = latents.shape
        size = torch.stack([torch.scalar_tensor(h * self.spatial), torch.scalar_tensor(w * self.spatial)])
        ids = torch.cat([size, torch.zeros(2), size]).to(latents.dtype).expand(b, -1)
        embeds = torch.cat([prompt_embeds, prompt_embeds_2], dim=-1)
        added = {"text_embeds": pooled_prompt_embeds, "time_ids": ids}
        return self.net(latents.squeeze(2), timestep, embeds, added_cond_kwargs=added, return_dict=False)[0].unsqueeze(2)


class StableDiffusionXL(Family):
    """StableDiffusionXLPipeline: the base model and SDXL-Turbo; the refiner has but one encoder and is none of these."""

    pipelines = ("StableDiffusionXLPipeline",)

    def parts(self) -> Sequence[Part]:
        first = lambda encoder: [clip.graph(encoder, penultimate=True)]
        second = lambda encoder: [clip.graph(encoder, "text_encoder_2.onnx", "prompt_embeds_2", "pooled_prompt_embeds", penultimate=True)]
        return [
            Part("text_encoder", ["text_encoder"], first),
            Part("text_encoder_2", ["text_encoder_2"], second),
            Part("denoiser", ["unet"], lambda net: [self.denoiser(net)]),
            Part("codec", ["vae"], kl_codec.graphs, codec=True),
        ]

    def denoiser(self, net: nn.Module) -> Graph:
        refuse_unusual(net.config)
        hidden = [self.source.config(component)["hidden_size"] for component in ("text_encoder", "text_encoder_2")]
        inputs = [
            *unet_inputs(net)[:2],
            Input("prompt_embeds", ("B", "L", hidden[0])),
            Input("prompt_embeds_2", ("B", "L", hidden[1])),
            Input("pooled_prompt_embeds", ("B", self.source.config("text_encoder_2")["projection_dim"])),
        ]
        module = UNetXL(net, kl_codec.spatial_compression(self.source.config("vae")))
        return Graph("denoiser.onnx", module, inputs, {"prediction": ("B", net.config.out_channels, 1, "H", "W")}, SIZES)

    def tokenizers(self) -> dict[str, str]:
        return {"tokenizer.json": "tokenizer", "tokenizer_2.json": "tokenizer_2"}

    def manifest(self) -> dict[str, Any]:
        length = self.source.config("text_encoder")["max_position_embeddings"]
        zeros = bool(self.source.option("force_zeros_for_empty_prompt", True))
        return {
            "text_encoders": [
                self.text_encoder(length, zero_negative=zeros, fixed=True),
                self.text_encoder(length, file="text_encoder_2.onnx", tokenizer_file="tokenizer_2.json", component="tokenizer_2", zero_negative=zeros, fixed=True),
            ],
            **image_tables(self.source),
            "denoisers": [{"file": "denoiser.onnx"}],
            "decoder": {"file": "decoder.onnx"},
            "encoder": {"file": "encoder.onnx"},
            "scheduler": self.scheduler(),
            "defaults": defaults(self.scheduler(), 50, 5.0),
        }
