"""CLIP's text encoders."""
from __future__ import annotations

from torch import Tensor, nn

from . import text
from .graph import Graph


class Clip(nn.Module):
    """CLIP's text model: the last layer's states, normalised (Stable Diffusion), or those before the last layer with the
    projected state of the end token where there is a projection (SDXL). Padding is encoded like text.
    """

    def __init__(self, encoder: nn.Module, penultimate: bool = False):
        super().__init__()
        self.encoder, self.penultimate = encoder, penultimate

    def forward(self, input_ids: Tensor, attention_mask: Tensor):
        if not self.penultimate:
            return self.encoder(input_ids)[0]
        out = self.encoder(input_ids, output_hidden_states=True)
        embeds = out.hidden_states[-2]
        return (embeds, out.text_embeds) if hasattr(out, "text_embeds") else embeds


def graph(encoder: nn.Module, file: str = "text_encoder.onnx", name: str = "prompt_embeds", pooled: str | None = None, penultimate: bool = False) -> Graph:
    """The graph of a CLIP text encoder; `pooled` names the projected state. The table of positions fixes the length."""
    config = encoder.config
    length = config.max_position_embeddings
    outputs = {name: ("B", length, config.hidden_size)} | ({pooled: ("B", config.projection_dim)} if pooled else {})
    return Graph(file, Clip(encoder, penultimate), text.inputs(config.vocab_size, length), outputs, ({"B": 2}, {"B": 1}))
