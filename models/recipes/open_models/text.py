"""Text encoders behind the package's signature: (input_ids, attention_mask) to prompt embeddings."""
from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .graph import Graph, Input, padding_mask, tokens
from .padding import cut_length

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
        embeds = self.text_alone(input_ids, attention_mask) if self.masked else self.encoder(input_ids)[0]
        return (embeds, attention_mask.to(embeds.dtype)) if self.returns_mask else embeds

    def text_alone(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes without the padding that all rows end with: hundreds of tokens after a prompt of ten.

        Nothing sees them, and nothing moves without them: tokens that are masked weigh nothing, and what T5 knows of a place is
        its distance from others. Padding elsewhere is left in.
        """
        kept = cut_length(attention_mask.amax(dim=0) > 0)
        input_ids, mask, rest = input_ids.narrow(1, 0, kept), attention_mask.narrow(1, 0, kept), input_ids.shape[1] - kept
        embeds = self.encoder(input_ids, mask)[0]
        return functional.pad(embeds * mask.unsqueeze(-1).to(embeds.dtype), (0, 0, 0, rest))


def t5_graph(encoder: nn.Module, masked: bool, returns_mask: bool = False) -> Graph:
    """text_encoder.onnx of a T5."""
    outputs = {"prompt_embeds": ("B", "L", encoder.config.d_model)} | ({"prompt_mask": ("B", "L")} if returns_mask else {})
    return Graph("text_encoder.onnx", T5(encoder, masked, returns_mask), inputs(encoder.config.vocab_size), outputs, SIZES)


def inputs(vocabulary: int, length: str | int = "L") -> tuple[Input, Input]:
    """What every text encoder takes; a fixed `length` for position tables that end there."""
    return (Input("input_ids", ("B", length), tokens(vocabulary)), Input("attention_mask", ("B", length), padding_mask))
