"""The weights of a package: external files, where equal tensors are stored once whichever graphs they belong to."""
from __future__ import annotations

import hashlib
import pathlib

import numpy as np
import onnx_ir as ir

INLINE = 1024  # bytes; smaller constants stay inside the graph
ALIGNMENT = 64
PAGE = 4096  # large tensors begin on a page, to be mapped one by one


class Weights:
    """Writes tensors as they come, each once, and points the graphs to them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.places: dict[bytes, tuple[str, int, int]] = {}

    def take(self, model: ir.Model, file: str) -> int:
        """Moves the model's weights to `file`, unless a file has them already; returns the bytes written."""
        path = self.folder / file
        start = path.stat().st_size if path.exists() else 0
        with path.open("ab") as out:
            for value in list(model.graph.initializers.values()):
                tensor = value.const_value
                if tensor.nbytes >= INLINE:
                    value.const_value = self.store(tensor, value.name, out, file)
            end = out.tell()
        if end == 0:
            path.unlink()
        return end - start

    def store(self, tensor: ir.TensorProtocol, name: str, out, file: str) -> ir.ExternalTensor:
        array = np.ascontiguousarray(tensor.numpy())
        data = memoryview(array.reshape(-1).view(np.uint8))
        key = hashlib.sha256(data).digest()
        if key not in self.places:
            end = out.tell()
            out.write(bytes(-end % (PAGE if len(data) >= PAGE else ALIGNMENT)))
            self.places[key] = (file, out.tell(), len(data))
            out.write(data)
        location, offset, length = self.places[key]
        return ir.ExternalTensor(location, offset, length, tensor.dtype, shape=tensor.shape, name=name, base_dir=str(self.folder))
