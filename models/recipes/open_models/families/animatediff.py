"""AnimateDiff: a UNet of Stable Diffusion with motion modules; text to video."""
from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..graph import LATENTS, Graph
from .stable_diffusion import StableDiffusion, unet_inputs

SIZES = ({"B": 2, "T": 6, "H": 8, "W": 16, "L": 77}, {"B": 1, "T": 3, "H": 16, "W": 8, "L": 77}, {"B": 1, "T": 8, "H": 8, "W": 8, "L": 77})


class MotionUNet(nn.Module):
    """UNetMotionModel, which takes the prompt once a frame."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor) -> Tensor:
        each = prompt_embeds.repeat_interleave(latents.shape[2], dim=0)
        return self.net(latents, timestep, each, return_dict=False)[0]


class AnimateDiff(StableDiffusion):
    """AnimateDiffPipeline: Stable Diffusion's parts around a UNet of videos."""

    pipelines = ("AnimateDiffPipeline",)

    def denoiser(self, net: nn.Module) -> Graph:
        return Graph("denoiser.onnx", MotionUNet(net), unet_inputs(net, "T"), {"prediction": LATENTS(net.config.out_channels)}, SIZES)

    def manifest(self) -> dict[str, Any]:
        manifest = super().manifest()
        longest = self.source.config("unet")["motion_max_seq_length"]
        manifest["video"] |= {"frame_rate": {"min": "1/1", "max": "60/1", "default": "8/1"},
                              "num_frames": {"min": 1, "max": longest, "default": min(16, longest)}}
        return manifest
