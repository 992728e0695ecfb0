"""Text encoders behind the package's signature: (input_ids, attention_mask) to prompt embeddings."""
from __future__ import annotations

from torch import Tensor, nn

from .graph import Graph, Input, padding_mask, tokens

SIZES = ({"B": 2, "L": 12}, {"B": 1, "L": 33}, {"B": 1, "L": 5})


class T5(nn.Module):
    """A T5 encoder. Families differ in what they make of the padding:

    `masked`: it is masked out of attention and its embeddings are zeros (Wan); `seen`: it is encoded like text
    (CogVideoX); with `returns_mask`, the mask goes on to the denoiser (LTX).
    """

    def __init__(self, encoder: nn.Module, masked: bool, returns_mask: bool = False):
        super().__init__()
        self.encoder, self.masked, self.returns_mask = encoder, masked, returns_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor):
        embeds = self.encoder(input_ids, attention_mask if self.masked else None)[0]
        if self.masked:
            embeds = embeds * attention_mask.unsqueeze(-1).to(embeds.dtype)
        return (embeds, attention_mask.to(embeds.dtype)) if self.returns_mask else embeds


def t5_graph(encoder: nn.Module, masked: bool, returns_mask: bool = False) -> Graph:
    """text_encoder.onnx of a T5."""
    outputs = {"prompt_embeds": ("B", "L", encoder.config.d_model)} | ({"prompt_mask": ("B", "L")} if returns_mask else {})
    return Graph("text_encoder.onnx", T5(encoder, masked, returns_mask), inputs(encoder.config.vocab_size), outputs, SIZES)


def inputs(vocabulary: int, length: str | int = "L") -> tuple[Input, Input]:
    """What every text encoder takes; a fixed `length` for position tables that end there."""
    return (Input("input_ids", ("B", length), tokens(vocabulary)), Input("attention_mask", ("B", length), padding_mask))
