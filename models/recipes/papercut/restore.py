"""Makes checkpoints of a package, to go on training where none is left: python -m papercut.restore PACKAGE [--work DIR]

A package holds all weights but those of heads that only teach the text encoder, which are taught again, rounded to float16; what optimisers knew is lost.  Of graphs
only the stored tensors' names tell what they are, and those of transposed matrices are mere numbers.  So networks of random weights
are exported as well: where each of their weights comes to lie is where the package's lies.
"""
from __future__ import annotations

import argparse
import pathlib
import random
import re
import tempfile
import tomllib

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from tokenizers import Tokenizer

from . import export, parallel
from .checkpoints import save
from .data import Job, add_work, render_jobs
from .graphs import GUIDED
from .prepare import encode, importance
from .text_encoder import TextEncoder, targets
from .tokenizer import make_tokenizer, words_of
from .train_transformer import captions_of, tokens
from .transformer import Transformer
from .vae import VAE
from .world import Scene

GRAPHS = ("decoder_init", "encoder_init", "text_encoder", "transformer")
IMAGES = 32  # renders that the channels' importance is measured on
HEAD_STEPS, HEAD_CAPTIONS = 300, 64  # that heads are taught in, and captions in each


def stored(path: pathlib.Path) -> list[np.ndarray]:
    """A graph's stored tensors: those with names of their own by name, then those that are numbered, in their order."""
    if not path.exists():
        raise SystemExit(f"no {path}: name the folder of a package of papercut")
    graph = onnx.load(str(path)).graph
    branches = [a.g for node in graph.node if node.op_type == "If" for a in node.attribute]
    tensors = [t for g in (graph, *branches) for t in g.initializer]
    tensors = sorted(tensors, key=lambda t: ("::" in t.name, "" if "::" in t.name else t.name))
    return [numpy_helper.to_array(t).astype(np.float32) for t in tensors]


def read(modules: torch.nn.ModuleDict, names: tuple[str, ...], package: pathlib.Path, example: pathlib.Path) -> None:
    """Sets the weights of `modules`, which `example` is an export of, to those of `package`."""
    state, found = modules.state_dict(), set()
    places = {v.numpy().astype(np.float16).tobytes(): (k, False) for k, v in state.items()}
    places |= {v.numpy().T.astype(np.float16).tobytes(): (k, True) for k, v in state.items() if v.ndim == 2}
    for name in names:
        own, theirs = (stored(folder / f"{name}.onnx") for folder in (example, package))
        if [a.shape for a in own] != [a.shape for a in theirs]:
            raise SystemExit(f"{package / name}.onnx is of another shape than this recipe's networks: restore it with the recipe that made it")
        for mine, value in zip(own, theirs):
            key, transposed = places.get(mine.astype(np.float16).tobytes(), (None, False))
            if key:
                state[key].copy_(torch.from_numpy(value.T if transposed else value).reshape(state[key].shape))
                found.add(key)
    missing = [k for k in state if k not in found and ".heads." not in k]
    if missing:
        raise SystemExit(f"{package} lacks {', '.join(missing)}")


def teach_heads(text: TextEncoder, steps: int = HEAD_STEPS) -> float:
    """Begins those of the text encoder's heads that a package lacks anew and teaches them alone, or what joint training learned of captions from random ones
    would go first.  Returns the share of attributes that all read in the end."""
    tokenizer, rng, right = make_tokenizer(), random.Random(0), 0.
    heads = torch.nn.ModuleList([head for name, head in text.heads.items() if name != GUIDED])
    for head in heads:
        head.reset_parameters()
    opt = torch.optim.Adam(heads.parameters(), .01)
    for i in range(steps):
        texts, said = captions_of([Scene.sample(rng) for _ in range(HEAD_CAPTIONS)], rng, .03)
        with torch.no_grad():
            embeds, _ = text(*tokens(tokenizer, texts))
        loss, now = text.attribute_loss(embeds, targets(said))
        opt.zero_grad()
        loss.backward()
        for group in opt.param_groups:
            group["lr"] = .01 * (1 - i / steps)
        opt.step()
        right += (now - right) / min(i + 1, 20)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_work(parser)
    parser.add_argument("package", type=pathlib.Path, help="folder of the package")
    args = parser.parse_args()
    files = [args.work / name for name in ("vae.pt", "transformer.pt")]
    for file in files:
        if file.exists():
            parser.error(f"{file} is there already: name another folder with --work, or move it away")
    words = words_of(Tokenizer.from_file(str(args.package / "tokenizer.json")))
    vae, both = VAE(), torch.nn.ModuleDict({"text": TextEncoder(len(words)), "net": Transformer()})
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for tensor in [*vae.state_dict().values(), *both.state_dict().values()]:
            tensor.copy_(torch.randn_like(tensor).half())
        example = pathlib.Path(folder)
        for kind in ("decoder", "encoder"):
            export.autoencoder(vae, example, kind)
        export.denoiser(both["net"], both["text"], example)
        export.text_encoder(both["text"], example)
        read(vae, GRAPHS[:2], args.package, example)
        read(both, GRAPHS[2:], args.package, example)
    print(f"heads read {teach_heads(both['text']):.3f} of attributes")
    images = np.stack([clip for _, _, clip, _, _ in render_jobs([Job(i, i, 256, 160, 1, 0.) for i in range(IMAGES)], 2)])
    args.work.mkdir(parents=True, exist_ok=True)
    vae.to(parallel.device())
    weight = importance(vae, encode(vae, images, parallel.device()), parallel.device()).cpu()
    steps = [int(n) for n in re.findall(r"(\d+) steps", tomllib.loads((args.package / "model.toml").read_text())["provenance"])]
    save(files[0], average=vae.state_dict(), importance=weight, it=steps[0])
    save(files[1], shape={"d": both["net"].d, "layers": len(both["net"].blocks)}, words=words, average=both.state_dict(), it=steps[1])
    print("wrote", *files)


if __name__ == "__main__":
    main()
