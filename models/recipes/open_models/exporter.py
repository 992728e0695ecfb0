"""Module to ONNX model: torch.onnx.export with names for the dynamic axes, and nothing in the result but the graph."""
from __future__ import annotations

import collections
import contextlib
import inspect
import io
import logging
import warnings

import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch

from . import attention, patches
from .graph import Graph

BATCH_LIMIT = 63  # UNets of diffusers guard their batch against 64 and more


def trace(graph: Graph, opset: int, form: str) -> ir.Model:
    """The graph with its weights still in PyTorch's memory."""
    if graph.assemble is not None:
        model = graph.assemble(lambda piece: trace(piece, opset, form))
        name_axes(model, {i.name: i.axes for i in graph.inputs} | dict(graph.outputs))
        return model
    module = graph.module.eval()
    inputs = graph.example(graph.sizes[0])
    names = [i.name for i in graph.inputs]
    with torch.no_grad(), patches.exporter(), attention.form(form), quiet() as said:
        if form != "fused":
            module(*inputs)  # fills caches with real tensors
        else:
            with attention.form("plain"):
                module(*inputs)
        try:
            program = torch.onnx.export(module, inputs, dynamo=True, input_names=names, output_names=list(graph.outputs),
                                        dynamic_shapes=dynamic_shapes(graph), opset_version=opset, optimize=False, verbose=False)
        except Exception as error:
            raise RuntimeError(f"`{graph.file}` can't be traced: {reason(error, said.getvalue())}") from error
    model = program.model
    optimize(model)
    fold_transposes(model)
    strip(model)
    name_axes(model, {i.name: i.axes for i in graph.inputs} | dict(graph.outputs))
    return model


def dynamic_shapes(graph: Graph) -> tuple:
    """An axis name that several inputs use is one symbol, for torch.export to know that they are equal."""
    uses = collections.Counter(a for i in graph.inputs for a in set(i.axes) if isinstance(a, str))
    derived = {a: of for a, of in graph.derived.items() if a in uses}
    roots = [a for a, n in uses.items() if n > 1 and a not in derived] + [root for root, _, _ in derived.values()]
    shared = {a: torch.export.Dim(a, min=1, max=BATCH_LIMIT if a == "B" else None) for a in roots}
    shared |= {a: scale * shared[root] + offset if offset else scale * shared[root] for a, (root, scale, offset) in derived.items()}
    free = torch.export.Dim.DYNAMIC
    shapes = [{k: shared.get(a, free) for k, a in enumerate(i.axes) if isinstance(a, str)} for i in graph.inputs]
    code = graph.module.forward.__code__
    positional = code.co_argcount - 1
    if code.co_flags & inspect.CO_VARARGS and len(shapes) > positional:  # forward(self, latents, *states): one argument
        shapes = [*shapes[:positional], tuple(shapes[positional:])]
    return tuple(shapes)


def optimize(model: ir.Model) -> None:
    """Folds constants and removes what is double or of no use.

    onnxscript's own optimizer also tries rules for patterns, in a time that grows with the square of the nodes: hours for
    the thirty layers of a small Wan. The runtime has such rules itself.
    """
    passes.InlinePass()(model)
    for _ in range(2):
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=lambda node: False if weight_of(node) is not None else None)
        passes.RemoveUnusedNodesPass()(model)
    for clean in (passes.RemoveUnusedFunctionsPass(), passes.RemoveUnusedOpsetsPass(), passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
                  passes.DeduplicateInitializersPass(), passes.CommonSubexpressionEliminationPass(), passes.OutputFixPass(), passes.NameFixPass()):
        clean(model)


def weight_of(node: ir.Node) -> ir.Value | None:
    """The weight that this node transposes. The optimizer would do that in memory, to all of a model at once."""
    source = node.inputs[0] if node.op_type == "Transpose" else None
    return source if source is not None and source.is_initializer() and source.const_value is not None else None


def fold_transposes(model: ir.Model) -> None:
    """Stores weights as they are used: the runtime would hold both a weight and its transposition otherwise."""
    graph = model.graph
    for node in list(graph):
        source = weight_of(node)
        if source is None:
            continue
        tensor, perm = source.const_value, node.attributes["perm"].as_ints()
        name = f"{source.name}.{'_'.join(map(str, perm))}"
        if name not in graph.initializers:
            shape = ir.Shape([tensor.shape[p] for p in perm])
            lazy = ir.LazyTensor(lambda t=tensor, p=perm, n=name: ir.tensor(t.numpy().transpose(p), dtype=t.dtype, name=n),
                                 dtype=tensor.dtype, shape=shape, name=name)
            graph.register_initializer(ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=lazy))
        output = node.outputs[0]
        output.replace_all_uses_with(graph.initializers[name], replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if not source.uses():
            del graph.initializers[source.name]


def strip(model: ir.Model) -> None:
    """Removes what describes the trace and not the graph: stack traces, PyTorch's names, inferred shapes."""
    model.producer_name, model.producer_version, model.doc_string = "latentflow", None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    boundary = {*model.graph.inputs, *model.graph.outputs}
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in boundary:
                value.shape = value.type = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def name_axes(model: ir.Model, axes: dict) -> None:
    """Declares the boundary with the names of its axes."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(list(axes[value.name]))


@contextlib.contextmanager
def quiet():
    """Catches what the exporter prints and logs."""
    said = io.StringIO()
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._dynamo")]
    levels = [(logger, logger.level) for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield said
        finally:
            for logger, level in levels:
                logger.setLevel(level)


def reason(error: Exception, said: str) -> str:
    """The line of an export error that says why."""
    lines = [line.strip() for line in f"{error}\n{said}".splitlines() if line.strip()]
    words = ("Error", "violat", "guard", "specializ")
    return next((line for line in lines if any(w in line for w in words)), lines[0] if lines else type(error).__name__)
