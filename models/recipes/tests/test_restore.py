"""A package's weights as a checkpoint: training goes on from what was published."""
import pathlib
import tempfile
import unittest

import torch

from papercut import export, restore
from papercut.text_encoder import TextEncoder
from papercut.tokenizer import make_tokenizer
from papercut.transformer import Transformer


WORDS = make_tokenizer().get_vocab_size()


def networks(layers: int = 1) -> torch.nn.ModuleDict:
    """Small ones, every weight random and as a package holds it."""
    both = torch.nn.ModuleDict({"text": TextEncoder(WORDS, layers=1), "net": Transformer(d=256, layers=layers)})
    with torch.no_grad():
        for tensor in both.state_dict().values():
            tensor.copy_(torch.randn_like(tensor).half())
    return both


def write(both: torch.nn.ModuleDict, folder: pathlib.Path) -> None:
    export.denoiser(both["net"], both["text"], folder)
    export.text_encoder(both["text"], folder)


class Restored(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.example, self.package = (pathlib.Path(folder.name) / name for name in ("example", "package"))
        self.example.mkdir(), self.package.mkdir()

    def test_every_weight_comes_back_but_those_of_heads_that_only_teach(self):
        published, both = networks(), networks()
        write(published, self.package)
        write(both, self.example)
        restore.read(both, restore.GRAPHS[2:], self.package, self.example)
        wanted = published.state_dict()
        for name, value in both.state_dict().items():
            self.assertEqual(torch.equal(value, wanted[name]), ".heads." not in name or ".camera." in name, name)

    def test_a_package_of_other_networks_is_refused(self):
        both = networks()
        write(networks(layers=2), self.package)
        write(both, self.example)
        with self.assertRaisesRegex(SystemExit, "another shape"):
            restore.read(both, restore.GRAPHS[2:], self.package, self.example)

    def test_a_folder_without_a_package_is_named(self):
        both = networks()
        write(both, self.example)
        with self.assertRaisesRegex(SystemExit, "no .*text_encoder.onnx"):
            restore.read(both, restore.GRAPHS[2:], self.package, self.example)

    def test_those_heads_are_taught_anew_and_nothing_else_is_changed(self):
        text = networks()["text"]
        before = {k: v.clone() for k, v in text.state_dict().items()}
        few, more = (restore.teach_heads(text, steps) for steps in (2, 30))
        self.assertGreater(more, few)
        for name, value in text.state_dict().items():
            self.assertEqual(torch.equal(value, before[name]), not name.startswith("heads.") or ".camera." in name, name)


if __name__ == "__main__":
    unittest.main()
