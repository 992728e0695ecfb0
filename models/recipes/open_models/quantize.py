"""int8 weights for matrix products: an eighth of a bit of accuracy for a quarter of the size."""
from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir

SMALLEST = 1 << 16  # elements; smaller weights stay float32
BLOCK = 64  # weights that share a scale


def quantize(model: ir.Model) -> int:
    """Replaces products with large constant matrices by MatMulNBits, in 8 bits; returns how many."""
    graph, count = model.graph, 0
    for node in list(graph):
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
            continue
        weight = node.inputs[1]
        tensor = weight.const_value if weight is not None and weight.is_initializer() else None
        if tensor is None or len(tensor.shape) != 2 or tensor.dtype != ir.DataType.FLOAT or tensor.size < SMALLEST or tensor.shape[0] % BLOCK:
            continue
        rows, columns = (int(n) for n in tensor.shape)
        blocks = rows // BLOCK
        quantized = lazy(graph, f"{weight.name}.int8", (columns, blocks, BLOCK), ir.DataType.UINT8, functools.partial(codes, tensor))
        scale = lazy(graph, f"{weight.name}.scale", (columns, blocks), ir.DataType.FLOAT, functools.partial(scales, tensor))
        attributes = {"K": rows, "N": columns, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
        new = ir.node("MatMulNBits", [node.inputs[0], quantized, scale], attributes=attributes, domain="com.microsoft", name=node.name)
        new.outputs[0].name = node.outputs[0].name
        ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
        if not weight.uses():
            del graph.initializers[weight.name]
        count += 1
    if count:
        model.opset_imports.setdefault("com.microsoft", 1)
    return count


def lazy(graph: ir.Graph, name: str, shape: tuple[int, ...], dtype: ir.DataType, compute) -> ir.Value:
    """An initializer that is computed when it is written."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.LazyTensor(lambda: ir.tensor(compute(), dtype=dtype, name=name), dtype=dtype, shape=ir.Shape(shape), name=name)
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def blocks_of(tensor: ir.TensorProtocol) -> np.ndarray:
    """[K,N] as [N,K/BLOCK,BLOCK]."""
    array = tensor.numpy()
    return array.T.reshape(array.shape[1], -1, BLOCK)


def scales(tensor: ir.TensorProtocol) -> np.ndarray:
    """One scale a block: its largest weight is 127."""
    return np.maximum(np.abs(blocks_of(tensor)).max(axis=2) / 127, np.finfo(np.float32).tiny).astype(np.float32)


def codes(tensor: ir.TensorProtocol) -> np.ndarray:
    """Weights as multiples of their block's scale, 128 standing for zero."""
    return (np.rint(blocks_of(tensor) / scales(tensor)[:, :, None]) + 128).astype(np.uint8)
