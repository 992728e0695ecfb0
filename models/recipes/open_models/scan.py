"""A graph that repeats another graph: ONNX's Scan, put together from two traces."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir


def repeat(start: ir.Model, step: ir.Model, steps: str, constant: Mapping[str, str], carried: Sequence[tuple[str, str, str]],
           collected: str) -> ir.Value:
    """Repeats `step` inside `start`, once for each row of start's output `steps`.

    `constant` maps inputs of the step to outputs of the start. `carried` has (step's input, step's output, start's
    output) for what goes from round to round. The outputs of start named in either are outputs no more. Returns the
    step's output `collected`, stacked along a new first axis.
    """
    graph, body = start.graph, step.graph
    outer = {v.name: v for v in graph.outputs}
    inner = {v.name: v for v in (*body.inputs, *body.outputs)}
    for value in list(body.initializers.values()):
        name = f"step/{value.name}"
        moved = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
        graph.register_initializer(moved)
        value.replace_all_uses_with(moved)
    for name, source in constant.items():
        inner[name].replace_all_uses_with(outer[source])
    nodes = list(body)
    body.remove(nodes)
    for node in nodes:
        node.name = f"step/{node.name}"
        for value in node.outputs:
            value.name = f"step/{value.name}"
    row = ir.Value(name="step/row", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    inputs = [inner[given] for given, _, _ in carried]
    for value in inputs:
        value.name = f"step/{value.name}"
    outputs = [inner[kept] for _, kept, _ in carried] + [inner[collected]]
    body.inputs.clear()
    body.outputs.clear()
    inner_graph = ir.Graph([*inputs, row], outputs, nodes=nodes, opset_imports=step.opset_imports, name="step")
    scan = ir.node("Scan", [*(outer[first] for _, _, first in carried), outer[steps]], num_outputs=len(outputs),
                   attributes={"body": inner_graph, "num_scan_inputs": 1})
    for number, value in enumerate(scan.outputs):
        value.name = f"scan_{number}"
    graph.append(scan)
    used = {steps, *constant.values(), *(first for _, _, first in carried)}
    kept = [v for v in graph.outputs if v.name not in used]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    return scan.outputs[-1]


def append(graph: ir.Graph, op: str, inputs: Sequence[ir.Value], name: str, **attributes) -> ir.Value:
    """A node at the graph's end, and its output."""
    node = ir.node(op, inputs, attributes=attributes)
    node.outputs[0].name = name
    graph.append(node)
    return node.outputs[0]
