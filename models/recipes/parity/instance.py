"""What an instance of a family is, and what it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

ENGLISH = "  A red fox\t runs through “fresh” snow,  café &amp; ﬁreflies &lt;3 at ５ pm "
CHINESE = "　一只猫和一只狗在厨房里烤蛋糕，  阳光 &amp; ＡＢＣ！"
NEGATIVE = "blurry, worst   quality"
NEGATIVE_CHINESE = "模糊，低质量"

Named = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One request, in the words of `DiffusionPipeline.__call__`."""

    name: str
    width: int
    height: int
    num_frames: int = 1
    prompt: str = ENGLISH
    # Empty is diffusers' default as well.
    negative_prompt: str = NEGATIVE
    num_inference_steps: int = 3
    guidance_scale: float = 5.0
    seed: int = 42
    frame_rate: int | None = None
    # Whether the clip starts from a picture.
    image: bool = False
    # Another scheduler than the instance's own.
    scheduler: Callable[[], object] | None = None
    # Returns arguments of the pipeline that a package has as defaults or parameters.
    arguments: Callable[[], dict[str, object]] = dict


@dataclass(frozen=True)
class Instance:
    """A tiny pipeline with random weights, and how to read its numbers."""

    name: str
    # Makes the pipeline; the same each time.
    pipeline: Callable[[], DiffusionPipeline]
    cases: list[Case]
    # The pipeline's latents as [1,C,T,H,W].
    latents: Callable[[DiffusionPipeline, torch.Tensor, Case], torch.Tensor]
    # `encode_prompt`'s result as tensors by the package's names: of the prompt, and of the negative prompt.
    embeds: Callable[[tuple], tuple[Named, Named]]
    # The pipeline for cases with an image, if it is another one.
    image_pipeline: Callable[[DiffusionPipeline], DiffusionPipeline] = lambda pipeline: pipeline
    # The given latents [1,C,1,H,W] of the first frame in `prepare_latents`' result, where the pipeline puts them in place
    # of what it has sampled.
    given: Callable[[tuple], torch.Tensor] | None = None
