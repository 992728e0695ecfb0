"""The families that can be exported, found by the pipeline's class. A new family is a file here and a line below."""
from __future__ import annotations

from .animatediff import AnimateDiff
from .base import Family
from .cogvideox import CogVideoX
from .hunyuan_video import HunyuanVideo
from .ltx import Ltx
from .pixart import PixArt
from .stable_diffusion import StableDiffusion
from .stable_diffusion_xl import StableDiffusionXL
from .wan import Wan

FAMILIES: tuple[type[Family], ...] = (Wan, Ltx, CogVideoX, AnimateDiff, StableDiffusion, StableDiffusionXL, PixArt, HunyuanVideo)


def find(pipeline: str) -> type[Family]:
    """The family of a pipeline's class."""
    for family in FAMILIES:
        if pipeline in family.pipelines:
            return family
    known = "\n".join(f"  {name}" for family in FAMILIES for name in family.pipelines)
    raise SystemExit(f"`{pipeline}` is of no known family; these can be exported:\n{known}")
