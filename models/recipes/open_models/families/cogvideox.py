"""CogVideoX 2b and 5b: text to video."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid
from torch import Tensor, nn
from torch.nn import functional

from .. import text
from ..graph import LATENTS, Graph, Input, Part, timesteps
from ..rope import rotate_pairs
from . import cogvideox_codec
from .base import Family

LENGTH = 226  # tokens of a prompt, padding included: the transformer sees all of them
SIZES = ({"B": 2, "T": 3, "H": 8, "W": 12, "L": LENGTH}, {"B": 1, "T": 5, "H": 12, "W": 6, "L": LENGTH}, {"B": 1, "T": 3, "H": 8, "W": 8, "L": LENGTH})
TABLE = 512  # positions along each axis: frames up to 8192 pixels wide


class CogVideoXDenoiser(nn.Module):
    """CogVideoXTransformer3DModel on [B,C,T,H,W], with the positions of any size built in."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        config = net.config
        if config.patch_size_t is not None or config.use_learned_positional_embeddings or config.ofs_embed_dim is not None:
            raise SystemExit("CogVideoX 1.5 and the image-to-video models of CogVideoX can't be exported: 1.0's text-to-video models can")
        if config.use_rotary_positional_embeddings:
            dim = config.attention_head_dim
            for axis, size in (("time", dim // 4), ("side", dim // 8 * 3)):
                self.register_buffer(f"{axis}_frequencies", 1 / 10000 ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
        else:
            embed = net.patch_embed
            for axis, size, scale in (("time", embed.embed_dim // 4, embed.temporal_interpolation_scale),
                                      ("side", 3 * embed.embed_dim // 8, embed.spatial_interpolation_scale)):
                table = get_1d_sincos_pos_embed_from_grid(size, torch.arange(TABLE, dtype=torch.float32) / scale, output_type="pt")
                self.register_buffer(f"{axis}_positions", table.float())

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor) -> Tensor:
        net, p = self.net, self.net.config.patch_size
        b, _, t, h, w = latents.shape
        h, w = h // p, w // p
        time = net.time_embedding(net.time_proj(timestep).to(latents.dtype))
        # [B·T,C,H,W] to patches [B,T·h·w,D]
        x = net.patch_embed.proj(latents.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2).reshape(b, t * h * w, -1)
        prompt = net.patch_embed.text_proj(prompt_embeds)
        rope = None
        if net.config.use_rotary_positional_embeddings:
            rope = self.rotary(t, h, w)
        else:
            x = x + self.positions(t, h, w).to(x.dtype)
        for block in net.transformer_blocks:
            x, prompt = self.block(block, x, prompt, time, rope)
        x = net.proj_out(net.norm_out(net.norm_final(x), temb=time))
        return x.reshape(b, t, h, w, -1, p, p).permute(0, 4, 1, 2, 5, 3, 6).reshape(b, -1, t, h * p, w * p)

    def block(self, block: nn.Module, x: Tensor, prompt: Tensor, time: Tensor, rope) -> tuple[Tensor, Tensor]:
        length = prompt.shape[1]
        y, text_y, gate, text_gate = block.norm1(x, prompt, time)
        y = self.attend(block.attn1, torch.cat([text_y, y], dim=1), rope, length)
        x, prompt = x + gate * y[:, length:], prompt + text_gate * y[:, :length]
        y, text_y, gate, text_gate = block.norm2(x, prompt, time)
        y = block.ff(torch.cat([text_y, y], dim=1))
        return x + gate * y[:, length:], prompt + text_gate * y[:, :length]

    def attend(self, attn: nn.Module, x: Tensor, rope, length: int) -> Tensor:
        """Attention of text and video together; only the video, behind `length` tokens of text, is rotated."""
        heads = lambda y: y.unflatten(2, (attn.heads, -1)).transpose(1, 2)
        query, key, value = heads(attn.to_q(x)), heads(attn.to_k(x)), heads(attn.to_v(x))
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        if rope is not None:
            query, key = (torch.cat([y[:, :, :length], rotate_pairs(y[:, :, length:], *rope)], dim=2) for y in (query, key))
        out = functional.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))

    def positions(self, t: int, h: int, w: int) -> Tensor:
        """Sines and cosines of the patches' places, [1,T·h·w,D]: time, then columns, then rows."""
        by_t = self.time_positions[:t, None, None].expand(-1, h, w, -1)
        by_w = self.side_positions[None, None, :w].expand(t, h, -1, -1)
        by_h = self.side_positions[None, :h, None].expand(t, -1, w, -1)
        return torch.cat([by_t, by_w, by_h], dim=-1).reshape(1, t * h * w, -1)

    def rotary(self, t: int, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T·h·w,D/2] of the patches' places.

        Rows and columns are those of the trained size: the grid is fitted into it by its longer side and centred, in
        whole cells (diffusers' get_resize_crop_region_for_grid).
        """
        config = self.net.config
        trained_h, trained_w = config.sample_height // config.patch_size, config.sample_width // config.patch_size
        rows, columns = number(h), number(w)
        tall = rows * trained_w > columns * trained_h
        fitted_h = torch.where(tall, float(trained_h), torch.round(trained_w / columns * rows))
        fitted_w = torch.where(tall, torch.round(trained_h / rows * columns), float(trained_w))
        angles_t = torch.outer(torch.arange(t, dtype=torch.float32), self.time_frequencies)
        angles_h = torch.outer(spread(h, torch.round((trained_h - fitted_h) / 2), fitted_h), self.side_frequencies)
        angles_w = torch.outer(spread(w, torch.round((trained_w - fitted_w) / 2), fitted_w), self.side_frequencies)
        angles = torch.cat([
            angles_t[:, None, None].expand(-1, h, w, -1),
            angles_h[None, :, None].expand(t, -1, w, -1),
            angles_w[None, None].expand(t, h, -1, -1),
        ], dim=-1).reshape(t * h * w, -1)
        return angles.cos(), angles.sin()


def number(n: int) -> Tensor:
    """A size, which may be symbolic, as a number to calculate with."""
    return torch.scalar_tensor(n, dtype=torch.float64)


def spread(n: int, start: Tensor, size: Tensor) -> Tensor:
    """`torch.linspace(start, (start + size)·(n - 1)/n, n)`, which has no form with symbolic ends."""
    count = number(n)
    end = (start + size) * (count - 1) / count
    return (start + torch.arange(n, dtype=torch.float64) * ((end - start) / (count - 1).clamp(min=1))).float()


class CogVideoX(Family):
    """CogVideoXPipeline of the 1.0 models. A clip has 1 + 8k frames: the codec takes three latent frames, then two at a time."""

    pipelines = ("CogVideoXPipeline",)

    def parts(self) -> Sequence[Part]:
        return self.usual_parts(lambda encoder: text.t5_graph(encoder, masked=False), "transformer", cogvideox_codec.graphs)

    def denoiser(self, net: nn.Module) -> Graph:
        axes = LATENTS(net.config.in_channels)
        inputs = [Input("latents", axes), Input("timestep", ("B",), timesteps, exact=True), Input("prompt_embeds", ("B", "L", net.config.text_embed_dim))]

        def reference(latents, timestep, prompt_embeds):
            rope = pipeline_rotary(net, latents.shape) if net.config.use_rotary_positional_embeddings else None
            out = net(latents.transpose(1, 2), prompt_embeds, timestep, image_rotary_emb=rope, return_dict=False)[0]
            return out.transpose(1, 2)

        return Graph("denoiser.onnx", CogVideoXDenoiser(net), inputs, {"prediction": LATENTS(net.config.out_channels)}, SIZES, reference)

    def manifest(self) -> dict[str, Any]:
        vae, net = self.source.config("vae"), self.source.config("transformer")
        spatial, temporal = 2 ** (len(vae["block_out_channels"]) - 1), vae["temporal_compression_ratio"]
        multiple, longest = spatial * net["patch_size"], net["sample_frames"]
        side = lambda cells: {"min": multiple, "max": max(1360, cells * spatial), "default": cells * spatial}
        return {
            "text_encoders": [self.text_encoder(LENGTH)],
            "latents": {"channels": vae["latent_channels"], "spatial_compression_ratio": spatial, "temporal_compression_ratio": temporal,
                        "size_multiple": multiple, "frame_step": cogvideox_codec.CHUNK * temporal, "noise_layout": "TCHW"},
            "video": {"width": side(net["sample_width"]), "height": side(net["sample_height"]),
                      "frame_rate": {"min": "1/1", "max": "60/1", "default": "8/1"},
                      "num_frames": {"min": 1 + cogvideox_codec.CHUNK * temporal, "max": max(49, longest), "default": longest}},
            "denoisers": [{"file": "denoiser.onnx"}],
            "decoder": {"init": "decoder_init.onnx", "step": "decoder_step.onnx", "first": cogvideox_codec.FIRST, "chunk": cogvideox_codec.CHUNK},
            "encoder": {"init": "encoder_init.onnx", "step": "encoder_step.onnx", "first": cogvideox_codec.FIRST, "chunk": cogvideox_codec.CHUNK},
            "scheduler": self.scheduler(),
            "defaults": {"num_inference_steps": 50, "guidance_scale": 6.0},
        }


def pipeline_rotary(net: nn.Module, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Positions as CogVideoXPipeline makes them for latents [B,C,T,H,W]."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    p, (h, w) = net.config.patch_size, (n // net.config.patch_size for n in shape[3:])
    crop = get_resize_crop_region_for_grid((h, w), net.config.sample_width // p, net.config.sample_height // p)
    return get_3d_rotary_pos_embed(net.config.attention_head_dim, crop, (h, w), shape[2])
