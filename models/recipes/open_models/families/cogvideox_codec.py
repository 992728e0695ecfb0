"""CogVideoX's autoencoder, in the chunks that diffusers codes it in.

Its norms look at all frames of a chunk, so a clip coded in other chunks is another clip: three latent frames come
first, then two at a time. The graphs are of these sizes.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSafeConv3d
from torch import Tensor, nn

from ..codec import Scaling, from_frames, to_frames
from ..graph import Graph, Input, uniform

FIRST, CHUNK = 3, 2  # latent frames
CELLS = ({"B": 2, "H": 4, "W": 6}, {"B": 1, "H": 6, "W": 2}, {"B": 1, "H": 2, "W": 4})


class Start(nn.Module):
    """One direction of the autoencoder on a clip's first chunk, and the states that it leaves.

    The states are the convolutions' caches. `places` is the tree of caches with a state's number at each leaf; it is
    filled here and read by later chunks.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX, encode: bool, places: dict):
        super().__init__()
        self.vae, self.encode, self.places = vae, encode, places
        channels = vae.config.latent_channels
        self.scaling = Scaling([1 / vae.config.scaling_factor] * channels, [0.0] * channels)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.chunk(x, None)

    def chunk(self, x: Tensor, cache: dict | None) -> tuple[Tensor, ...]:
        vae = self.vae
        with mock.patch.object(CogVideoXSafeConv3d, "forward", nn.Conv3d.forward):  # without the branch for 2 GB and more
            if self.encode:
                x, cache = vae.encoder(from_frames(x), conv_cache=cache)
                x = x if vae.quant_conv is None else vae.quant_conv(x)
                x = self.scaling.from_codec(x[:, : vae.config.latent_channels])  # the posterior's mode
            else:
                x = self.scaling.to_codec(x)
                x = x if vae.post_quant_conv is None else vae.post_quant_conv(x)
                x, cache = vae.decoder(x, conv_cache=cache)
                x = to_frames(x)
        flat: list[Tensor] = []
        self.places.update(flatten(cache, flat))
        return x, *flat


class Step(Start):
    """A later chunk, with the states that the one before left."""

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return self.chunk(x, unflatten(self.places, states))


def flatten(cache: Any, flat: list[Tensor]) -> Any:
    """Moves the caches of the tree to a list. Convolutions over one position (`conv_y`, `conv_b`) keep none."""
    if isinstance(cache, dict):
        return {k: None if k in ("conv_y", "conv_b") else flatten(v, flat) for k, v in cache.items()}
    if cache is None:
        return None
    flat.append(cache)
    return len(flat) - 1


def unflatten(places: Any, states: tuple[Tensor, ...]) -> Any:
    if isinstance(places, dict):
        return {k: unflatten(v, states) for k, v in places.items()}
    return None if places is None else states[places]


def graphs(vae: AutoencoderKLCogVideoX) -> list[Graph]:
    """decoder and encoder, each in a pair for the first and for later chunks."""
    return [graph for encode in (False, True) for graph in pair(vae, encode)]


def pair(vae: AutoencoderKLCogVideoX, encode: bool) -> Iterator[Graph]:
    spatial, temporal = 2 ** (len(vae.config.block_out_channels) - 1), vae.config.temporal_compression_ratio
    places: dict = {}
    start, step = Start(vae, encode, places), Step(vae, encode, places)
    sizes = [s | {"h": s["H"] * spatial, "w": s["W"] * spatial} for s in CELLS]
    name, scaling = "encoder" if encode else "decoder", start.scaling
    channels = vae.config.latent_channels

    def boundary(latent_frames: int, frames: int) -> tuple[Input, dict]:
        latents, pixels = ("B", channels, latent_frames, "H", "W"), ("B", frames, "h", "w", 3)
        if encode:
            return Input("frames", pixels, uniform), {"latents": latents}
        return Input("latents", latents), {"frames": pixels}

    def whole(x: Tensor) -> Tensor:
        if encode:
            return scaling.from_codec(vae.encode(from_frames(x)).latent_dist.mode())
        return to_frames(vae.decode(scaling.to_codec(x), return_dict=False)[0])

    source, result = boundary(FIRST, 1 + (FIRST - 1) * temporal)
    with torch.no_grad():
        states = start(*Graph("", start, [source], {}, sizes).example(sizes[0]))[1:]
    inner, outer, scales = [], {}, {}
    for k, state in enumerate(states):
        axes = ("B", *state.shape[1:3], f"rows_{k}", f"columns_{k}")
        inner.append(Input(f"state_{k}", axes))
        outer[f"state_out_{k}"] = axes
        scales |= {f"rows_{k}": ("H", state.shape[3] / sizes[0]["H"]), f"columns_{k}": ("W", state.shape[4] / sizes[0]["W"])}
    sizes = [s | {axis: int(s[of] * by) for axis, (of, by) in scales.items()} for s in sizes]
    yield Graph(f"{name}_init.onnx", start, [source], result | outer, sizes, lambda x: (whole(x), *start(x)[1:]))
    source, result = boundary(CHUNK, CHUNK * temporal)
    yield Graph(f"{name}_step.onnx", step, [source, *inner], result | outer, sizes)
