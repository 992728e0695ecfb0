"""Writing a package: graphs, weights, tokenizers and model.toml."""
from __future__ import annotations

import pathlib
import shutil
from typing import Any

import onnx_ir as ir

from . import tokenizer, toml
from .weights import Weights


class Writer:
    """Writes beside the final folder, which is replaced when everything is there."""

    def __init__(self, folder: pathlib.Path):
        self.final = folder
        self.folder = folder.with_name(folder.name + ".new")
        if self.folder.exists():
            raise SystemExit(f"`{self.folder}` is there already, perhaps of an export that failed: delete it first, a package is written there before it is put in its place")
        self.folder.mkdir(parents=True)
        self.weights = Weights(self.folder)

    def graph(self, model: ir.Model, file: str, weights: str) -> int:
        """Writes a graph, and what it has of new weights to the file `weights`; returns the bytes written."""
        written = self.weights.take(model, weights)
        data = ir.serde.serialize_model(model).SerializeToString()
        (self.folder / file).write_bytes(data)
        return written + len(data)

    def tokenizer(self, tokenizer_: Any, file: str) -> None:
        tokenizer.write(tokenizer_, self.folder / file)

    def manifest(self, tables: dict[str, Any]) -> None:
        (self.folder / "model.toml").write_text(toml.dumps(tables), encoding="utf-8")

    def finish(self) -> int:
        """Puts the package in its place; returns its size."""
        if self.final.exists():
            shutil.rmtree(self.final)
        self.folder.rename(self.final)
        return sum(f.stat().st_size for f in self.final.iterdir())
