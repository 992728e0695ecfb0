"""What a family of pipelines tells the exporter."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import nn

from .. import scheduler, tokenizer
from ..graph import Graph, Part
from ..options import Options
from ..source import Source


class Family:
    """One family: which pipelines it is, which graphs a package of it has, and what its model.toml says.

    `parts` are exported in turn, each freed before the next is loaded. `manifest` gives the tables of model.toml from
    `text_encoders` on; it is asked for after the parts, and may use what they left in `self`.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()

    def __init__(self, source: Source, options: Options):
        self.source, self.options = source, options

    def parts(self) -> Sequence[Part]:
        raise NotImplementedError

    def usual_parts(self, text_encoder: Callable[[nn.Module], Graph], denoiser: str, codec: Callable[..., Sequence[Graph]]) -> list[Part]:
        """The parts of a pipeline with one text encoder, one denoiser and the codec's graphs; `denoiser` is the component's name."""
        return [
            Part("text_encoder", ["text_encoder"], lambda encoder: [text_encoder(encoder)]),
            Part("denoiser", [denoiser], lambda net: [self.denoiser(net)]),
            Part("codec", ["vae"], codec, codec=True),
        ]

    def denoiser(self, net: nn.Module) -> Graph:
        raise NotImplementedError

    def manifest(self) -> dict[str, Any]:
        raise NotImplementedError

    def tokenizers(self) -> dict[str, str]:
        """Files of the package and the tokenizers that go into them."""
        return {"tokenizer.json": "tokenizer"}

    def text_encoder(self, max_length: int, clean: Sequence[str] = (), file: str = "text_encoder.onnx", tokenizer_file: str = "tokenizer.json",
                     component: str = "tokenizer", template: str | None = None, zero_negative: bool = False, fixed: bool = False, cropped: int = 0) -> dict[str, Any]:
        """One entry of `[[text_encoders]]`; the command line's --max-length wins over `max_length`, but where the graph has a `fixed` length; to either come the
        tokens of the template that are `cropped`."""
        chosen = None if fixed else self.options.max_length
        table = tokenizer.table(self.source.tokenizer(component), tokenizer_file, (chosen or max_length) + cropped, clean, template)
        return {"file": file, **({"zero_negative": True} if zero_negative else {}), "tokenizer": table}

    def scheduler(self, **extra: Any) -> dict[str, Any]:
        """The scheduler table, with fields that diffusers keeps in the pipeline and not in the scheduler."""
        chosen = self.source.scheduler(self.options.scheduler)
        if type(chosen).__name__ != "FlowMatchEulerDiscreteScheduler":
            extra.pop("sigma_schedule", None)  # others space their levels themselves
        return scheduler.table(chosen, **extra)
