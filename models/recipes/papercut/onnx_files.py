"""From a traced graph to the files of a package: float16 weights, and one weight file for graphs that share weights."""
from __future__ import annotations

import hashlib
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALL = 256  # elements; smaller constants stay float32 inside the graph


def halve(model: onnx.ModelProto) -> None:
    """Stores float32 initialisers as float16, each followed by a Cast that the runtime folds when it loads the graph."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        if array.size < SMALL:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), name + ".f16"))
        casts.append(helper.make_node("Cast", [name + ".f16"], [name], name=name + ".cast", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def made_once(model: onnx.ModelProto, given: str, maker: onnx.ModelProto, made: str) -> None:
    """Lets `model` make its input `given` itself where that is empty along its second axis, as the graph `maker` does from inputs of the same names, and
    give it as the output `made`.  A branch of an `If` holds what is needed for it, so that otherwise it costs nothing."""
    for node in model.graph.node:
        node.input[:] = [made if name == given else name for name in node.input]
    inner, result, whole = maker.graph, maker.graph.output[0], onnx.ValueInfoProto()
    whole.CopyFrom(result)
    taken = {i.name for i in inner.input} | {""}
    own = lambda name: name if name in taken else f"{given}/{name}"
    for node in inner.node:
        node.name, node.input[:], node.output[:] = own(node.name), map(own, node.input), map(own, node.output)
    for tensor in (*inner.initializer, result):
        tensor.name = own(tensor.name)
    whole.name, same = made, helper.make_tensor_value_info(f"{given}/same", TensorProto.FLOAT, None)
    make = helper.make_graph(inner.node, f"make {given}", [], [result], inner.initializer)
    keep = helper.make_graph([helper.make_node("Identity", [given], [same.name])], f"keep {given}", [], [same])
    begin = [helper.make_node("Shape", [given], [f"{given}/length"], start=1, end=2),
             helper.make_node("Equal", [f"{given}/length", f"{given}/nothing"], [f"{given}/empty"]),
             helper.make_node("If", [f"{given}/empty"], [made], then_branch=make, else_branch=keep, name=f"{given}/once")]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), f"{given}/nothing"))
    for node in reversed(begin):
        model.graph.node.insert(0, node)
    model.graph.output.append(whole)


class WeightFile:
    """An external weight file; equal tensors are stored once, whichever graph they belong to."""

    def __init__(self, path: pathlib.Path):
        self.path, self.data, self.places = path, bytearray(), {}

    def take(self, model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            if len(raw) < 2 * SMALL:
                continue
            key = hashlib.sha256(raw).digest()
            if key not in self.places:
                self.data.extend(b"\0" * (-len(self.data) % 64))
                self.places[key] = len(self.data)
                self.data.extend(raw)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for k, v in (("location", self.path.name), ("offset", str(self.places[key])), ("length", str(len(raw)))):
                entry = tensor.external_data.add()
                entry.key, entry.value = k, v

    def write(self) -> None:
        self.path.write_bytes(self.data)
