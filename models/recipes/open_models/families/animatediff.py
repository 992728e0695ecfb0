"""AnimateDiff: a UNet of Stable Diffusion with motion modules; text to video."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .. import clip
from ..graph import LATENTS, Graph, Input, Part, timesteps
from . import kl_codec
from .base import Family
from .stable_diffusion import defaults, image_tables

SIZES = ({"B": 2, "T": 6, "H": 8, "W": 16, "L": 77}, {"B": 1, "T": 3, "H": 16, "W": 8, "L": 77}, {"B": 1, "T": 8, "H": 8, "W": 8, "L": 77})


class MotionUNet(nn.Module):
    """UNetMotionModel, which takes the prompt once a frame."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor) -> Tensor:
        each = prompt_embeds.repeat_interleave(latents.shape[2], dim=0)
        return self.net(latents, timestep, each, return_dict=False)[0]


class AnimateDiff(Family):
    """AnimateDiffPipeline."""

    pipelines = ("AnimateDiffPipeline",)

    def parts(self) -> Sequence[Part]:
        return [
            Part("text_encoder", ["text_encoder"], lambda encoder: [clip.graph(encoder)]),
            Part("denoiser", ["unet"], lambda net: [self.denoiser(net)]),
            Part("codec", ["vae"], kl_codec.graphs, codec=True),
        ]

    def denoiser(self, net: nn.Module) -> Graph:
        config = net.config
        inputs = [
            Input("latents", LATENTS(config.in_channels)),
            Input("timestep", ("B",), timesteps, exact=True),
            Input("prompt_embeds", ("B", "L", config.cross_attention_dim)),
        ]
        return Graph("denoiser.onnx", MotionUNet(net), inputs, {"prediction": LATENTS(config.out_channels)}, SIZES)

    def manifest(self) -> dict[str, Any]:
        tables = image_tables(self.source)
        longest = self.source.config("unet")["motion_max_seq_length"]
        tables["video"] |= {"frame_rate": {"min": "1/1", "max": "60/1", "default": "8/1"},
                            "num_frames": {"min": 1, "max": longest, "default": min(16, longest)}}
        return {
            "text_encoders": [self.text_encoder(self.source.config("text_encoder")["max_position_embeddings"])],
            **tables,
            "denoisers": [{"file": "denoiser.onnx"}],
            "decoder": {"file": "decoder.onnx"},
            "encoder": {"file": "encoder.onnx"},
            "scheduler": self.scheduler(),
            "defaults": defaults(self.scheduler(), 50, 7.5),
        }
