"""Half-precision graphs with a float32 boundary."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .graph import Graph

#: The type that modules are loaded in. diffusers and transformers keep those in float32 that need it: norms, timestep
#: embeddings, modulation tables, T5's last projections.
LOADED = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float32}


class Rounded(nn.Module):
    """Rounds a module's inputs to half precision, but for the exact ones, and returns float32."""

    def __init__(self, module: nn.Module, exact: Sequence[bool]):
        super().__init__()
        self.module, self.exact = module, exact

    def forward(self, *inputs):
        inputs = [x if exact or not x.is_floating_point() else x.half() for x, exact in zip(inputs, self.exact)]
        out = self.module(*inputs)
        return out.float() if isinstance(out, torch.Tensor) else tuple(x.float() for x in out)


def rounded(graph: Graph) -> Graph:
    """The graph of a module that was loaded in half precision."""
    return Graph(graph.file, Rounded(graph.module, [i.exact for i in graph.inputs]), graph.inputs, graph.outputs, graph.sizes, graph.reference)
