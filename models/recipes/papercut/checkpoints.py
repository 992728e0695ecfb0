"""Reads and writes checkpoints in a work folder: vae.pt, transformer.pt."""
from __future__ import annotations

import os
import pathlib

import torch

from .text_encoder import TextEncoder
from .tokenizer import make_tokenizer, words_of
from .transformer import LEAD, Transformer
from .vae import VAE, TwoParts


def save(path: pathlib.Path, **state) -> None:
    """Writes beside the old file and renames, so that a checkpoint is whole at any time."""
    tmp = path.with_suffix(".tmp")
    torch.save(state, tmp)
    os.replace(tmp, path)


def load(path: pathlib.Path) -> dict:
    """A checkpoint, on whatever device there is."""
    return torch.load(path, weights_only=True, map_location="cuda" if torch.cuda.is_available() else "cpu")


def fit(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Loads what a narrower network knew: overlapping parts are copied, inputs it did not have start at zero, new outputs as made.
    `TwoParts` has its outputs twice: each half grows."""
    own = module.state_dict()
    twice = {f"{name}.{part}".lstrip(".") for name, m in module.named_modules() if isinstance(m, TwoParts) for part in ("weight", "bias")}
    for name, old in state.items():
        new = own.get(name)
        if new is None or new.ndim != old.ndim:
            continue
        halves = lambda x: x.chunk(1 + (name in twice))
        for into, of in zip(halves(new), halves(old)):
            if new.ndim > 1 and of.shape[1] < into.shape[1]:
                into[:of.shape[0]] = 0
            cut = tuple(slice(0, min(a, b)) for a, b in zip(into.shape, of.shape))
            into[cut] = of[cut]


def with_words(state: dict[str, torch.Tensor], known: list[str], made: dict[str, torch.Tensor], words: list[str]) -> dict[str, torch.Tensor]:
    """Weights of text encoder and transformer, which know the words `known`, for those of `words`: new words, heads of other
    attributes and modules that there were not are as `made`."""
    table, rows = made["text.words.weight"].clone(), {word: i for i, word in enumerate(known)}
    for i, word in enumerate(words):
        if word in rows:
            table[i] = state["text.words.weight"][rows[word]]
    return made | {k: v for k, v in state.items() if k in made and v.shape == made[k].shape} | {"text.words.weight": table}


def load_vae(work: pathlib.Path, untrained: bool = False) -> tuple[VAE, str]:
    """The averaged autoencoder and a sentence on its training."""
    vae, path = VAE(), work / "vae.pt"
    if not path.exists():
        if not untrained:
            raise SystemExit(f"no {path}: train the autoencoder first (papercut.train_vae)")
        return vae.eval(), "Autoencoder untrained."
    state = load(path)
    vae.load_state_dict(state["average"])
    return vae.eval(), f"Autoencoder: {state['it']} steps."


def load_networks(work: pathlib.Path, untrained: bool = False) -> tuple[TextEncoder, Transformer, str]:
    """The averaged text encoder and transformer, as videos are made with them, and a sentence on their training."""
    text, path = TextEncoder(make_tokenizer().get_vocab_size()), work / "transformer.pt"
    if not path.exists():
        if not untrained:
            raise SystemExit(f"no {path}: train the transformer first (papercut.train_transformer)")
        return text.eval(), Transformer().eval(), "Transformer untrained."
    state = load(path)
    net = Transformer(**state["shape"])
    both = torch.nn.ModuleDict({"text": text, "net": net})
    if state["words"] != words_of(make_tokenizer()):
        raise SystemExit(f"{path} knows other words than this recipe: go on training it (papercut.train_transformer --resume)")
    both.load_state_dict(state["average"])
    net.draft.lead = LEAD
    return text.eval(), net.eval(), f"Transformer: {state['it']} steps."
