"""Wan's image conditioners: what its image-to-video pipelines do with the picture before the first step."""
from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import torch
from PIL import Image
from torch import Tensor, nn

from .. import scan
from ..codec import begin_with, from_frames, is_first_frame, sizes
from ..graph import LATENTS, Graph, Input
from ..images import ImageProcessor, pixels
from . import wan_codec
from .wan_codec import Memory, WanCodec


class FirstFrame(nn.Module):
    """Wan 2.2 5B: the image is the first latent frame, and the mask says that it is given."""

    def __init__(self, codec: WanCodec):
        super().__init__()
        self.codec = codec

    def forward(self, image: Tensor, noise: Tensor):
        return begin_with(self.codec.encode(image, Memory()), noise)


def first_frame(vae) -> Graph:
    """conditioner.onnx of the 5B."""
    codec, channels = WanCodec(vae), vae.config.z_dim

    def reference(image, noise):
        latents, mask = noise.clone(), torch.ones_like(noise[:, :1])
        latents[:, :, :1] = codec.scaling.from_codec(vae.encode(from_frames(image)).latent_dist.mode())
        mask[:, :, 0] = 0
        return latents, mask

    outputs = {"latents": LATENTS(channels), "condition_mask": ("B", 1, "T", "H", "W")}
    return Graph("conditioner.onnx", FirstFrame(codec), inputs(channels), outputs, example_sizes(vae), reference)


class Begin(nn.Module):
    """All of the other conditioner but its loop over grey frames."""

    def __init__(self, codec: WanCodec, encoder: nn.Module | None, processor):
        super().__init__()
        self.codec, self.encoder, self.temporal = codec, encoder, codec.vae.config.scale_factor_temporal
        self.processor = None if encoder is None else ImageProcessor(processor)

    def forward(self, image: Tensor, noise: Tensor):
        b, _, t, h, w = noise.shape
        memory = Memory()
        latents = self.codec.encode(image, memory)
        mask = is_first_frame(noise).to(noise.dtype).expand(b, self.temporal, -1, h, w)
        grey = torch.full((b, self.temporal, image.shape[2], image.shape[3], 3), 0.5)
        embeds = () if self.encoder is None else (self.encoder(self.processor(image[:, 0]), output_hidden_states=True).hidden_states[-2],)
        return noise * 1.0, *embeds, mask, latents, torch.zeros(t - 1, 1), grey, *memory.kept


def beside(vae, encoder: nn.Module | None, processor) -> Graph:
    """conditioner.onnx of Wan 2.1 I2V and of Wan 2.2 I2V-A14B.

    The clip of the image and grey frames goes through the encoder frame by frame, as in diffusers: a clip of 81 frames
    at once would need tens of gigabytes.
    """
    codec, channels = WanCodec(vae), vae.config.z_dim
    temporal = vae.config.scale_factor_temporal
    outputs = {"latents": LATENTS(channels)}
    if encoder is not None:
        outputs["image_embeds"] = ("B", "N", encoder.config.hidden_size)

    def reference(image, noise):
        b, _, t, h, w = noise.shape
        clip = from_frames(torch.cat([image, torch.full((b, temporal * (t - 1), *image.shape[2:]), 0.5)], dim=1))
        mask = torch.zeros(b, temporal, t, h, w)
        mask[:, :, 0] = 1
        condition = torch.cat([mask, codec.scaling.from_codec(vae.encode(clip).latent_dist.mode())], dim=1)
        if encoder is None:
            return noise, condition
        pictures = [Image.fromarray((picture * 255).round().numpy().astype(np.uint8)) for picture in image[:, 0]]
        embeds = encoder(**processor(images=pictures, return_tensors="pt"), output_hidden_states=True).hidden_states[-2]
        return noise, embeds, condition

    build = functools.partial(assemble, codec, encoder, processor, dict(outputs))
    return Graph("conditioner.onnx", None, inputs(channels), outputs | {"condition": LATENTS(temporal + channels)}, example_sizes(vae), reference, build)


def assemble(codec: WanCodec, encoder, processor, outputs: dict, trace) -> ir.Model:
    """The conditioner from its beginning and the encoder's step for one latent frame of grey."""
    vae, channels = codec.vae, codec.vae.config.z_dim
    temporal = vae.config.scale_factor_temporal
    step = next(g for g in wan_codec.graphs(vae, ("encode",)) if g.file == "encoder_step.onnx")
    states = [i.name for i in step.inputs[1:]]
    pieces = {"mask": ("B", temporal, "T", "H", "W"), "first": ("B", channels, 1, "H", "W"), "steps": ("S", 1), "grey": ("B", temporal, "h", "w", 3)}
    kept = {f"first_{name}": axes.axes for name, axes in zip(states, step.inputs[1:])}
    begin = trace(Graph("conditioner.onnx", Begin(codec, encoder, processor), inputs(channels), outputs | pieces | kept, example_sizes(vae)))
    carried = [(name, name.replace("state_", "state_out_"), f"first_{name}") for name in states]
    mask, first = (next(v for v in begin.graph.outputs if v.name == name) for name in ("mask", "first"))
    rest = scan.repeat(begin, trace(step), "steps", {"frames": "grey"}, carried, "latents")
    graph = begin.graph
    axis = ir.Value(name="frame_axis", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64), const_value=ir.tensor([3], name="frame_axis"))
    graph.register_initializer(axis)
    rest = scan.append(graph, "Squeeze", [scan.append(graph, "Transpose", [rest], "rest_by_batch", perm=[1, 2, 0, 3, 4, 5]), axis], "rest")
    latents = scan.append(graph, "Concat", [first, rest], "clip", axis=2)
    condition = scan.append(graph, "Concat", [mask, latents], "condition", axis=1)
    condition.type = ir.TensorType(ir.DataType.FLOAT)
    remaining = [v for v in graph.outputs if v.name not in pieces]
    graph.outputs.clear()
    graph.outputs.extend([*remaining, condition])
    return begin


def inputs(channels: int) -> list[Input]:
    return [Input("image", ("B", 1, "h", "w", 3), pixels), Input("noise", LATENTS(channels))]


def example_sizes(vae) -> list:
    return sizes(vae.config.scale_factor_spatial, vae.config.scale_factor_temporal, (2, 3, 4, 6), (1, 2, 6, 4), (1, 5, 2, 2))
