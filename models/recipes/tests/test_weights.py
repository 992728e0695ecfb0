"""Weight files: each tensor once, on a boundary that can be mapped, and quantized within bounds."""
import pathlib
import tempfile
import unittest

import numpy as np
import onnx_ir as ir
import onnxruntime

from open_models import quantize
from open_models.weights import Weights


def model(weight: np.ndarray, op: str = "MatMul") -> ir.Model:
    """y = x · weight."""
    x = ir.Value(name="x", shape=ir.Shape(["B", weight.shape[0]]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor(weight, name="w"))
    node = ir.node(op, [x, w])
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    return ir.Model(ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20}), ir_version=10)


def run(folder: pathlib.Path, graph: ir.Model, x: np.ndarray) -> np.ndarray:
    (folder / "m.onnx").write_bytes(ir.serde.serialize_model(graph).SerializeToString())
    return onnxruntime.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


class Files(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(0)
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = pathlib.Path(held.name)

    def test_equal_weights_of_two_graphs_are_stored_once_and_the_graphs_compute_as_before(self):
        weight = self.random.standard_normal((96, 40), np.float32)
        x = self.random.standard_normal((3, 96), np.float32)
        weights, first, second = Weights(self.folder), model(weight), model(weight.copy())
        self.assertEqual(weights.take(first, "a.weights"), weight.nbytes)
        self.assertEqual(weights.take(second, "b.weights"), 0)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["a.weights"])
        for graph in (first, second):
            np.testing.assert_allclose(run(self.folder, graph, x), x @ weight, rtol=1e-5, atol=1e-5)

    def test_large_weights_begin_on_a_page_and_small_ones_stay_in_the_graph(self):
        weights, small = Weights(self.folder), model(np.ones((4, 4), np.float32))
        self.assertEqual(weights.take(small, "a.weights"), 0)
        self.assertFalse(list(self.folder.iterdir()))
        for seed in range(2):
            weights.take(model(np.random.default_rng(seed).standard_normal((64, 33), np.float32)), "a.weights")
        self.assertEqual([offset % 4096 for _, offset, _ in weights.places.values()], [0, 0])

    def test_int8_weights_take_a_quarter_and_keep_a_product_within_two_percent(self):
        weight = self.random.standard_normal((512, 256), np.float32)
        x = self.random.standard_normal((7, 512), np.float32)
        graph = model(weight)
        self.assertEqual(quantize.quantize(graph), 1)
        size = Weights(self.folder).take(graph, "a.weights")
        self.assertLess(size, 0.27 * weight.nbytes)
        found, right = run(self.folder, graph, x), x @ weight
        self.assertLess(np.sqrt(np.mean((found - right) ** 2) / np.mean(right**2)), 0.02)

    def test_what_is_no_large_product_stays_as_it_is(self):
        self.assertEqual(quantize.quantize(model(np.ones((64, 8), np.float32))), 0)
        self.assertEqual(quantize.quantize(model(np.ones((512, 512), np.float32), "Add")), 0)


if __name__ == "__main__":
    unittest.main()
