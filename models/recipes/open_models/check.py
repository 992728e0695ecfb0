"""Comparing what a package computes with what diffusers computes."""
from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .graph import Graph

#: The largest error that passes, as a share of the largest value that is right (at least 1).
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}


@dataclass
class Case:
    """Inputs of one size, and the right outputs."""

    file: str
    sizes: dict[str, int]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@dataclass
class Result:
    """How far one graph is off."""

    file: str
    error: float
    relative: float
    cases: int

    def passes(self, dtype: str) -> bool:
        return self.relative <= TOLERANCE[dtype]


def cases(graph: Graph) -> list[Case]:
    """What diffusers computes, for each of the graph's sizes."""
    out = []
    for seed, sizes in enumerate(graph.sizes):
        inputs = graph.example(sizes, seed + 1)
        expected = graph.expected(inputs)
        out.append(Case(graph.file, dict(sizes), {i.name: x.numpy() for i, x in zip(graph.inputs, inputs)},
                        {name: x.float().numpy() for name, x in zip(graph.outputs, expected)}))
    return out


def run(folder: pathlib.Path, file: str, cases: Sequence[Case], dtype: str = "fp32") -> Result:
    """Runs a graph of the package on its cases, without a copy of its weights in memory: floats stay the mapped file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_mem_pattern = False
    if dtype == "fp32":
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
    used = {i.name for i in session.get_inputs()}
    worst = relative = 0.0
    for case in cases:
        outputs = session.run(list(case.outputs), {k: v for k, v in case.inputs.items() if k in used})
        for (name, right), found in zip(case.outputs.items(), outputs):
            if found.shape != right.shape:
                raise SystemExit(f"{file}: `{name}` is {list(found.shape)} where diffusers gives {list(right.shape)}, for {case.sizes}")
            error = float(np.abs(found.astype(np.float64) - right).max())
            error = error if np.isfinite(error) else float("inf")
            worst, relative = max(worst, error), max(relative, error / max(1.0, float(np.abs(right).max())))
    return Result(file, worst, relative, len(cases))
