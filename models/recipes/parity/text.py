"""Tiny text encoders."""

from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel,
                          UMT5Config, UMT5EncoderModel)

from parity.grid import randomize


def t5(seed: int, umt5: bool = False) -> T5EncoderModel | UMT5EncoderModel:
    """Returns a T5 v1.1 or UMT5 encoder."""
    shape = dict(vocab_size=160, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, relative_attention_num_buckets=8,
                 relative_attention_max_distance=32, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    model = UMT5EncoderModel(UMT5Config(**shape)) if umt5 else T5EncoderModel(T5Config(**shape))
    return randomize(model, seed)


def clip(seed: int, hidden_act: str = "quick_gelu", projection_dim: int | None = None,
         hidden_size: int = 32) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Returns a text encoder of CLIP (`quick_gelu`) or OpenCLIP (`gelu`), with a projection if it has a dimension."""
    config = CLIPTextConfig(
        vocab_size=770, hidden_size=hidden_size, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, hidden_act=hidden_act, projection_dim=projection_dim or hidden_size,
        bos_token_id=0, eos_token_id=2)  # what the real configurations say, wrongly: the end is the highest id
    kind = CLIPTextModelWithProjection if projection_dim else CLIPTextModel
    return randomize(kind(config), seed)
