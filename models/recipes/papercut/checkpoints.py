"""Reads and writes checkpoints in a work folder: vae.pt, transformer.pt."""
from __future__ import annotations

import os
import pathlib

import torch

from .text_encoder import TextEncoder
from .tokenizer import make_tokenizer
from .transformer import Transformer
from .vae import VAE


def save(path: pathlib.Path, **state) -> None:
    """Writes beside the old file and renames, so that a checkpoint is whole at any time."""
    tmp = path.with_suffix(".tmp")
    torch.save(state, tmp)
    os.replace(tmp, path)


def load_vae(work: pathlib.Path, untrained: bool = False) -> tuple[VAE, str]:
    """The averaged autoencoder and a sentence on its training."""
    vae, path = VAE(), work / "vae.pt"
    if not path.exists():
        if not untrained:
            raise SystemExit(f"no {path}: train the autoencoder first (papercut.train_vae)")
        return vae.eval(), "Autoencoder untrained."
    state = torch.load(path, weights_only=False)
    vae.load_state_dict(state["average"])
    return vae.eval(), f"Autoencoder: {state['it']} steps."


def load_networks(work: pathlib.Path, untrained: bool = False) -> tuple[TextEncoder, Transformer, str]:
    """The averaged text encoder and transformer and a sentence on their training."""
    text, net, path = TextEncoder(make_tokenizer().get_vocab_size()), Transformer(), work / "transformer.pt"
    if not path.exists():
        if not untrained:
            raise SystemExit(f"no {path}: train the transformer first (papercut.train_transformer)")
        return text.eval(), net.eval(), "Transformer untrained."
    state = torch.load(path, weights_only=False)
    both = torch.nn.ModuleDict({"text": text, "net": net})
    both.load_state_dict(state["average"])
    return text.eval(), net.eval(), f"Transformer: {state['it']} steps."
