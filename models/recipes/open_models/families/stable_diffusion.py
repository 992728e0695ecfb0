"""Stable Diffusion 1 and 2, and what was distilled from them: text to image."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .. import clip
from ..graph import Graph, Input, Part, timesteps
from . import kl_codec
from .base import Family

SIZES = ({"B": 2, "H": 8, "W": 16, "L": 77}, {"B": 1, "H": 16, "W": 8, "L": 77}, {"B": 1, "H": 8, "W": 8, "L": 77})


class UNet(nn.Module):
    """UNet2DConditionModel as a model of videos of one frame: latents [B,C,1,H,W]."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor) -> Tensor:
        return self.net(latents.squeeze(2), timestep, prompt_embeds, return_dict=False)[0].unsqueeze(2)


class StableDiffusion(Family):
    """StableDiffusionPipeline: 1.x with CLIP, 2.x with OpenCLIP, SD-Turbo."""

    pipelines = ("StableDiffusionPipeline",)

    def parts(self) -> Sequence[Part]:
        return self.usual_parts(clip.graph, "unet", kl_codec.graphs)

    def denoiser(self, net: nn.Module) -> Graph:
        refuse_unusual(net.config)
        return Graph("denoiser.onnx", UNet(net), unet_inputs(net), {"prediction": ("B", net.config.out_channels, 1, "H", "W")}, SIZES)

    def manifest(self) -> dict[str, Any]:
        return {
            "text_encoders": [self.text_encoder(self.source.config("text_encoder")["max_position_embeddings"], fixed=True)],
            **image_tables(self.source),
            "denoisers": [{"file": "denoiser.onnx"}],
            "decoder": {"file": "decoder.onnx"},
            "encoder": {"file": "encoder.onnx"},
            "scheduler": self.scheduler(),
            "defaults": defaults(self.scheduler(), 50, 7.5),
        }


def unet_inputs(net: nn.Module, frames: int | str = 1) -> list[Input]:
    """What a UNet of Stable Diffusion takes; `frames` is the length of the latents' time axis or its name."""
    config = net.config
    return [
        Input("latents", ("B", config.in_channels, frames, "H", "W")),
        Input("timestep", ("B",), timesteps, exact=True),
        Input("prompt_embeds", ("B", "L", config.cross_attention_dim)),
    ]


def refuse_unusual(config) -> None:
    """Ends with a message for UNets that take what no package can give them."""
    if config.time_cond_proj_dim is not None:
        raise SystemExit("the UNet takes its guidance as an embedding (`time_cond_proj_dim`), as latent consistency models do: that can't be exported yet")
    if config.class_embed_type is not None or config.in_channels != config.out_channels:
        raise SystemExit(f"the UNet takes {config.in_channels} channels and gives {config.out_channels}: only text-to-image models can be exported")


def image_size(source) -> int:
    """The side of the square image that the model was trained on, in pixels."""
    return source.config("unet")["sample_size"] * kl_codec.spatial_compression(source.config("vae"))


def image_tables(source) -> dict[str, Any]:
    """`[latents]` and `[video]` of a model that makes images with a UNet: the UNet halves the latents at each level."""
    vae, unet = source.config("vae"), source.config("unet")
    spatial, size = kl_codec.spatial_compression(vae), image_size(source)
    multiple = spatial * 2 ** (len(unet["block_out_channels"]) - 1)
    side = {"min": multiple, "max": max(2048, size), "default": max(multiple, size)}
    return {
        "latents": {"channels": vae["latent_channels"], "spatial_compression_ratio": spatial, "temporal_compression_ratio": 1, "size_multiple": multiple},
        "video": {"width": side, "height": dict(side), "frame_rate": {"min": "1/1", "max": "120/1", "default": "1/1"},
                  "num_frames": {"min": 1, "max": 1, "default": 1}},
    }


def defaults(scheduler: dict[str, Any], num_inference_steps: int, guidance_scale: float) -> dict[str, Any]:
    """The pipeline's defaults; the Turbo models, whose Euler steps trail, are made for one to four steps without guidance."""
    if scheduler["type"].startswith("Euler") and scheduler.get("timestep_spacing") == "trailing":
        return {"num_inference_steps": 1, "guidance_scale": 1.0}
    return {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
