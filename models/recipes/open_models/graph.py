"""What an exported graph is: a module, its boundary by name, and sizes to trace and to check it with."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

Axes = tuple[str | int, ...]
Sizes = Mapping[str, int]
Fill = Callable[[tuple[int, ...], torch.Generator], torch.Tensor]

LATENTS: Callable[[int], Axes] = lambda channels: ("B", channels, "T", "H", "W")
FRAMES: Axes = ("B", "F", "h", "w", 3)


def normal(shape, generator):
    """Gaussian numbers: latents, embeddings, states."""
    return torch.randn(shape, generator=generator)


def uniform(shape, generator):
    """Numbers in 0..1: frames."""
    return torch.rand(shape, generator=generator)


def timesteps(shape, generator):
    """Timesteps of a schedule of 1000, no round numbers."""
    return 1 + 998 * torch.rand(shape, generator=generator)


def tokens(vocabulary: int) -> Fill:
    """Token ids."""
    return lambda shape, generator: torch.randint(min(3, vocabulary - 1), vocabulary, shape, generator=generator)


def padding_mask(shape, generator):
    """1 for tokens and 0 for padding, as whole numbers; some padding in every row."""
    length = torch.randint(1, shape[1] + 1, (shape[0], 1), generator=generator)
    return (torch.arange(shape[1])[None] < length).long()


def padding_numbers(shape, generator):
    """The same as real numbers, as denoisers take it."""
    return padding_mask(shape, generator).float()


def padded(shape, generator):
    """Embeddings of prompts that end with zeros."""
    return normal(shape, generator) * padding_numbers(shape[:2], generator).unsqueeze(2)


def first_given(shape, generator):
    """A condition mask: 0 in the first latent frame, which is given, and 1 elsewhere."""
    mask = torch.ones(shape)
    mask[:, :, 0] = 0
    return mask


def constant(value: float) -> Fill:
    """One number everywhere."""
    return lambda shape, generator: torch.full(shape, value)


@dataclass(frozen=True)
class Input:
    """An input: axes with names are dynamic, numbers are fixed.

    `exact` inputs stay float32 in a half-precision graph, where others are rounded at the graph's boundary.
    """

    name: str
    axes: Axes
    fill: Fill = normal
    exact: bool = False


@dataclass
class Graph:
    """One ONNX file of a package.

    `module` takes the inputs in their order and returns the outputs in theirs. `reference` computes the same with
    diffusers' own, unmodified code; without one the check compares with `module` itself. The graph is traced with the
    first of `sizes`, in which no axis should have size 1, and checked with all. What can't be traced in one piece is
    made by `assemble`, which gets the tracer; `module` is nothing then, and `reference` is needed. `derived` says of axes
    that they are another one times a number plus a number, which saves the tracer hours of asking what divides what.
    """

    file: str
    module: torch.nn.Module | None
    inputs: Sequence[Input]
    outputs: Mapping[str, Axes]
    sizes: Sequence[Sizes]
    reference: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]] | None = None
    assemble: Callable[[Callable[[Graph], ir.Model]], ir.Model] | None = None
    derived: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)

    def example(self, sizes: Sizes, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Inputs of the given sizes, the same ones for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(i.fill(tuple(sizes[a] if isinstance(a, str) else a for a in i.axes), generator) for i in self.inputs)

    def expected(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What diffusers computes for these inputs."""
        with torch.no_grad():
            out = (self.reference or self.module)(*inputs)
        return [out] if isinstance(out, torch.Tensor) else list(out)


@dataclass
class Part:
    """Graphs that are exported together, because they are made of the same modules.

    Only one part is in memory at a time. `components` are the folders of the source that it needs; their modules are
    passed to `graphs` in this order. Parts with `codec = True` stay in float32 whatever the package's precision.
    """

    name: str
    components: Sequence[str]
    graphs: Callable[..., Sequence[Graph]]
    codec: bool = False
