"""LTX-Video: text or image to video."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import LTXConditionPipeline
from torch import Tensor, nn
from torch.nn import functional

from .. import text
from ..graph import LATENTS, Graph, Input, Part, constant, first_given, padding_numbers, timesteps
from ..modulation import Modulation, timesteps_of
from ..options import Options
from ..rope import rotate_pairs
from ..source import Source
from . import ltx_codec
from .base import Family

DENOISER_SIZES = ({"B": 2, "T": 3, "H": 4, "W": 6, "L": 16}, {"B": 1, "T": 1, "H": 3, "W": 2, "L": 9}, {"B": 1, "T": 2, "H": 5, "W": 3, "L": 24})


class LtxDenoiser(nn.Module):
    """LTXVideoTransformer3DModel with its packing, its positions and its two timesteps in the graph.

    `condition_mask` [B,1,T,H,W] is 1 where to generate and 0 where the cell is given: given cells have timestep 0 and a
    prediction of zero, so that any scheduler leaves them as they are.
    """

    def __init__(self, net: nn.Module, spatial: int, temporal: int, first_alone: bool):
        super().__init__()
        self.net, self.spatial, self.temporal, self.first_alone = net, spatial, temporal, first_alone
        rope = net.rope  # angles reach 16,000: the frequencies have to be PyTorch's own numbers, so they are constants
        exponents = torch.linspace(math.log(1.0, rope.theta), math.log(rope.theta, rope.theta), rope.dim // 6, dtype=torch.float32)
        self.register_buffer("frequencies", rope.theta**exponents * math.pi / 2.0, persistent=False)

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, prompt_mask: Tensor, frame_rate: Tensor, condition_mask: Tensor) -> Tensor:
        net = self.net
        b, c, t, h, w = latents.shape
        x = net.proj_in(latents.permute(0, 2, 3, 4, 1).reshape(b, t * h * w, c))
        rope = self.rope(t, h, w, frame_rate)
        bias = (1 - prompt_mask[:, None, None, :]) * -10000.0
        steps = timesteps_of(timestep, condition_mask)
        generated = condition_mask[:, 0].flatten(1).unsqueeze(2) > 0
        embed = net.time_embed
        time = embed.emb.timestep_embedder(embed.emb.time_proj(steps.flatten()).to(x.dtype))
        time = time.reshape(b, 2, time.shape[-1])
        modulation = Modulation(embed.linear(embed.silu(time)).unflatten(2, (net.transformer_blocks[0].scale_shift_table.shape[0], -1)), generated)
        prompt = net.caption_projection(prompt_embeds)
        for block in net.transformer_blocks:
            x = transform(block, x, prompt, bias.to(x.dtype), modulation, rope)
        shift, scale = Modulation(time.unsqueeze(2), generated).plus(net.scale_shift_table)
        prediction = net.proj_out((net.norm_out(x.float()) * (1 + scale) + shift).to(x.dtype))
        return prediction.reshape(b, t, h, w, -1).permute(0, 4, 1, 2, 3) * condition_mask

    def rope(self, t: int, h: int, w: int, frame_rate: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B,S,D/2]; time is in seconds, rows and columns in pixels, each as a share of the range that the model knows."""
        rope = self.net.rope
        rows = torch.arange(h, dtype=torch.float32) * self.spatial / rope.base_height
        columns = torch.arange(w, dtype=torch.float32) * self.spatial / rope.base_width
        if self.first_alone:  # a latent frame is where its first frame is
            frames = (torch.arange(t, dtype=torch.float32) * self.temporal + 1 - self.temporal).clamp(min=0)
            seconds = frames[None] * (1 / frame_rate[:, None]) / rope.base_num_frames
        else:
            seconds = torch.arange(t, dtype=torch.float32)[None] * (self.temporal / frame_rate[:, None]) / rope.base_num_frames
        b = frame_rate.shape[0]
        grid = torch.stack([seconds[:, :, None, None].expand(b, t, h, w), rows[None, None, :, None].expand(b, t, h, w), columns[None, None, None].expand(b, t, h, w)], dim=-1)
        angles = self.frequencies * (grid.reshape(b, t * h * w, 3, 1) * 2 - 1)
        angles = angles.transpose(-1, -2).flatten(2)
        cos, sin = angles.cos(), angles.sin()
        if rope.dim % 6:  # pairs that are left over stand still, and come first
            cos, sin = functional.pad(cos, (rope.dim % 6 // 2, 0), value=1.0), functional.pad(sin, (rope.dim % 6 // 2, 0))
        return cos, sin


def transform(block, x: Tensor, prompt: Tensor, bias: Tensor, modulation: Modulation, rope) -> Tensor:
    shift, scale, gate, ff_shift, ff_scale, ff_gate = (m.to(x.dtype) for m in modulation.plus(block.scale_shift_table))
    y = block.norm1(x) * (1 + scale) + shift
    x = x + attend(block.attn1, y, y, rope=rope) * gate
    x = x + attend(block.attn2, x, prompt, bias=bias)
    return x + block.ff(block.norm2(x) * (1 + ff_scale) + ff_shift) * ff_gate


def attend(attn, x: Tensor, context: Tensor, rope=None, bias: Tensor | None = None) -> Tensor:
    query, key, value = attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(context)), attn.to_v(context)
    if rope is not None:
        query, key = rotate_pairs(query, *rope), rotate_pairs(key, *rope)
    query, key, value = (y.unflatten(2, (attn.heads, -1)).transpose(1, 2) for y in (query, key, value))
    if bias is not None:  # ONNX Runtime's attention doesn't broadcast the axis of the queries
        bias = bias.expand(-1, 1, query.shape[2], -1)
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


class Ltx(Family):
    """LTX-Video 0.9.0, and later ones with a decoder that takes a timestep.

    The pipeline of conditions (0.9.5 and later) has a schedule and positions of its own. Of its conditions, an image as
    the first frame can be given.
    """

    pipelines = ("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline")

    def __init__(self, source: Source, options: Options):
        super().__init__(source, options)
        self.vae, self.net = source.config("vae"), source.config("transformer")
        self.conditions = source.pipeline == "LTXConditionPipeline"
        halvings = sum(self.vae["spatio_temporal_scaling"])
        self.spatial = self.vae.get("spatial_compression_ratio") or self.vae["patch_size"] * 2**halvings
        self.temporal = self.vae.get("temporal_compression_ratio") or self.vae["patch_size_t"] * 2**halvings
        if (self.net["patch_size"], self.net["patch_size_t"]) != (1, 1):
            raise ValueError("an LTX transformer with patches of more than one latent is not known; none was ever published")
        scheduler = source.scheduler().config
        if self.conditions and (scheduler.use_dynamic_shifting or scheduler.shift != 1 or scheduler.shift_terminal):
            raise ValueError("the pipeline of conditions has a schedule of its own, which the scheduler must not shift: set `shift` to 1, "
                             "`use_dynamic_shifting` to false and `shift_terminal` to null in scheduler_config.json")

    def parts(self) -> Sequence[Part]:
        # The pipeline of conditions hides padding from the encoder, the others don't; the transformer sees none of it.
        return self.usual_parts(lambda encoder: text.t5_graph(encoder, masked=self.conditions, returns_mask=True), "transformer",
                                lambda vae: ltx_codec.graphs(vae, self.conditions))

    def denoiser(self, net: nn.Module) -> Graph:
        config = net.config
        inputs = [
            Input("latents", LATENTS(config.in_channels)), Input("timestep", ("B",), timesteps, exact=True), Input("prompt_embeds", ("B", "L", config.caption_channels)),
            Input("prompt_mask", ("B", "L"), padding_numbers),
            Input("frame_rate", ("B",), constant(25.0), exact=True), Input("condition_mask", ("B", 1, "T", "H", "W"), first_given),
        ]

        def reference(latents, timestep, prompt, prompt_mask, frame_rate, condition_mask):
            b, c, t, h, w = latents.shape
            if self.conditions:
                pipeline = LTXConditionPipeline
                places = pipeline._scale_video_ids(pipeline._prepare_video_ids(b, t, h, w), self.spatial, self.temporal).float()
                places[:, 0] = places[:, 0] * (1.0 / float(frame_rate[0]))
                place = {"video_coords": places}
            else:
                place = {"num_frames": t, "height": h, "width": w, "rope_interpolation_scale": (self.temporal / float(frame_rate[0]), self.spatial, self.spatial)}
            out = net(latents.flatten(2).transpose(1, 2), prompt, timestep[:, None] * condition_mask[:, 0].flatten(1), prompt_mask, return_dict=False, **place)[0]
            return out.transpose(1, 2).reshape(b, -1, t, h, w) * condition_mask

        return Graph("denoiser.onnx", LtxDenoiser(net, self.spatial, self.temporal, self.conditions), inputs, {"prediction": LATENTS(config.out_channels)}, DENOISER_SIZES, reference)

    def manifest(self) -> dict[str, Any]:
        parameters = {"condition_mask": 1.0}
        if self.vae.get("timestep_conditioning", False):
            parameters |= {"decode_timestep": 0.05, "decode_noise_scale": 0.025}
        if self.conditions:
            parameters["image_cond_noise_scale"] = 0.15
        return {
            "text_encoders": [self.text_encoder(256 if self.conditions else 128)],
            "latents": {"channels": self.vae["latent_channels"], "spatial_compression_ratio": self.spatial, "temporal_compression_ratio": self.temporal,
                        "size_multiple": self.spatial},
            "video": {"width": {"min": 64, "max": 1280, "default": 704}, "height": {"min": 64, "max": 1280, "default": 512},
                      "frame_rate": {"min": "1/1", "max": "60/1", "default": "25/1"}, "num_frames": {"min": 1, "max": 257, "default": 161}},
            "denoisers": [{"file": "denoiser.onnx"}],
            "conditioner": {"file": "conditioner.onnx", **({"step": "conditioner_step.onnx"} if self.conditions else {}), "required": False},
            "decoder": {"file": "decoder.onnx"},
            "encoder": {"file": "encoder.onnx"},
            "parameters": parameters,
            "scheduler": self.scheduler(sigma_schedule="linear_quadratic" if self.conditions else "linspace"),
            "defaults": {"num_inference_steps": 50, "guidance_scale": 3.0},
        }
