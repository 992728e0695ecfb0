"""HunyuanVideo: text to video, with a language model and CLIP as text encoders and its guidance as an input."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor, nn
from torch.nn import functional

from .. import text
from ..graph import LATENTS, Graph, Input, Part, constant, padding_mask, padding_numbers, timesteps
from ..rope import rotate_pairs
from . import hunyuan_video_codec
from .base import Family

LENGTH = 256  # tokens of a prompt, behind those of the template
SIZES = ({"B": 2, "T": 3, "H": 8, "W": 12, "L": 16}, {"B": 1, "T": 1, "H": 6, "W": 4, "L": 9}, {"B": 1, "T": 2, "H": 10, "W": 6, "L": 24})
TABLE = 1024  # positions along each axis
MASKED = -10000.0  # added to a score that is to count nothing


class Llama(nn.Module):
    """The states of a language model two layers before its last, without the tokens of the template."""

    def __init__(self, encoder: nn.Module, crop: int):
        super().__init__()
        self.encoder, self.crop = encoder, crop

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        out = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, use_cache=False)
        states = out.hidden_states[-3]
        return states[:, self.crop :], attention_mask[:, self.crop :].to(states.dtype)


class Pooled(nn.Module):
    """CLIP's state at the end token."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder(input_ids).pooler_output


class HunyuanVideoDenoiser(nn.Module):
    """HunyuanVideoTransformer3DModel: blocks with a stream each for video and text, then blocks with one for both."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        config = net.config
        if config.image_condition_type is not None:
            raise SystemExit("HunyuanVideo's image-to-video models can't be exported: its text-to-video model can")
        for axis, dim in zip("thw", config.rope_axes_dim):
            frequencies = 1 / config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
            self.register_buffer(f"angles_{axis}", torch.outer(torch.arange(TABLE, dtype=torch.float32), frequencies), persistent=False)

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, prompt_mask: Tensor, pooled_prompt_embeds: Tensor,
                guidance_scale: Tensor | None = None) -> Tensor:
        net, config = self.net, self.net.config
        b = latents.shape[0]
        p, pt = config.patch_size, config.patch_size_t
        t, h, w = latents.shape[2] // pt, latents.shape[3] // p, latents.shape[4] // p
        rope = self.rope(t, h, w)
        guidance = None if guidance_scale is None else guidance_scale * 1000.0
        time, _ = net.time_text_embed(timestep, pooled_prompt_embeds, guidance)
        x = net.x_embedder(latents)
        prompt = self.refine(net.context_embedder, prompt_embeds, timestep, prompt_mask)
        bias = torch.cat([x.new_zeros(b, t * h * w), (1 - prompt_mask) * MASKED], dim=1)[:, None, None, :].to(x.dtype)
        for block in net.transformer_blocks:
            x, prompt = self.double(block, x, prompt, time, bias, rope)
        for block in net.single_transformer_blocks:
            x, prompt = self.single(block, x, prompt, time, bias, rope)
        x = net.proj_out(net.norm_out(x, time))
        x = x.reshape(b, t, h, w, -1, pt, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return x.reshape(b, -1, t * pt, h * p, w * p)

    def refine(self, refiner: nn.Module, x: Tensor, timestep: Tensor, mask: Tensor) -> Tensor:
        """The prompt, after attention among its tokens; padding sees the first token alone."""
        share = mask.unsqueeze(-1)
        time = refiner.time_text_embed(timestep, (x * share).sum(dim=1) / share.sum(dim=1))
        x = refiner.proj_in(x)
        first = (torch.arange(mask.shape[1]) == 0).to(mask.dtype)
        seen = torch.maximum(mask[:, None, :, None] * mask[:, None, None, :], first)
        bias = ((1 - seen) * MASKED).to(x.dtype)
        for block in refiner.token_refiner.refiner_blocks:
            gate, ff_gate = block.norm_out(time)
            y, attn = block.norm1(x), block.attn
            query, key, value = (f(y).unflatten(2, (attn.heads, -1)).transpose(1, 2) for f in (attn.to_q, attn.to_k, attn.to_v))
            y = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)
            x = x + attn.to_out[0](y) * gate
            x = x + block.ff(block.norm2(x)) * ff_gate
        return x

    def double(self, block: nn.Module, x: Tensor, prompt: Tensor, time: Tensor, bias: Tensor, rope) -> tuple[Tensor, Tensor]:
        attn, length = block.attn, x.shape[1]
        heads = lambda y: y.unflatten(2, (attn.heads, -1))
        y, gate, ff_shift, ff_scale, ff_gate = block.norm1(x, emb=time)
        c, c_gate, c_shift, c_scale, c_ff_gate = block.norm1_context(prompt, emb=time)
        query, key = (rotate_pairs(norm(heads(f(y))), *rope) for norm, f in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k)))
        c_query, c_key = attn.norm_added_q(heads(attn.add_q_proj(c))), attn.norm_added_k(heads(attn.add_k_proj(c)))
        value, c_value = heads(attn.to_v(y)), heads(attn.add_v_proj(c))
        out = attend(torch.cat([query, c_query], dim=1), torch.cat([key, c_key], dim=1), torch.cat([value, c_value], dim=1), bias)
        x = x + attn.to_out[0](out[:, :length]) * gate.unsqueeze(1)
        prompt = prompt + attn.to_add_out(out[:, length:]) * c_gate.unsqueeze(1)
        y = block.norm2(x) * (1 + ff_scale[:, None]) + ff_shift[:, None]
        c = block.norm2_context(prompt) * (1 + c_scale[:, None]) + c_shift[:, None]
        return x + ff_gate.unsqueeze(1) * block.ff(y), prompt + c_ff_gate.unsqueeze(1) * block.ff_context(c)

    def single(self, block: nn.Module, x: Tensor, prompt: Tensor, time: Tensor, bias: Tensor, rope) -> tuple[Tensor, Tensor]:
        attn, length = block.attn, x.shape[1]
        both = torch.cat([x, prompt], dim=1)
        y, gate = block.norm(both, emb=time)
        hidden = block.act_mlp(block.proj_mlp(y))
        heads = lambda z: z.unflatten(2, (attn.heads, -1))
        query, key = attn.norm_q(heads(attn.to_q(y))), attn.norm_k(heads(attn.to_k(y)))
        query, key = (torch.cat([rotate_pairs(z[:, :length], *rope), z[:, length:]], dim=1) for z in (query, key))
        out = attend(query, key, heads(attn.to_v(y)), bias)
        both = gate.unsqueeze(1) * block.proj_out(torch.cat([out, hidden], dim=2)) + both
        return both[:, :length], both[:, length:]

    def rope(self, t: int, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T·h·w,1,D/2] of the patches' places."""
        angles = torch.cat([
            self.angles_t[:t, None, None].expand(-1, h, w, -1),
            self.angles_h[None, :h, None].expand(t, -1, w, -1),
            self.angles_w[None, None, :w].expand(t, h, -1, -1),
        ], dim=-1).reshape(t * h * w, 1, -1)
        return angles.cos(), angles.sin()


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention on [B,S,heads,D], with a bias [B,1,1,S] on the keys."""
    bias = bias.expand(-1, -1, query.shape[1], -1)
    out = functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)), attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


class HunyuanVideo(Family):
    """HunyuanVideoPipeline. Its codec takes whole clips; the manifest has diffusers' segments of long ones."""

    pipelines = ("HunyuanVideoPipeline",)
    segments: dict[str, int]

    def parts(self) -> Sequence[Part]:
        return [
            Part("text_encoder", ["text_encoder"], lambda encoder: [self.language_model(encoder)]),
            Part("text_encoder_2", ["text_encoder_2"], lambda encoder: [self.pooled(encoder)]),
            Part("denoiser", ["transformer"], lambda net: [self.denoiser(net)]),
            Part("codec", ["vae"], self.codec, codec=True),
        ]

    def codec(self, vae: nn.Module) -> Sequence[Graph]:
        self.segments = hunyuan_video_codec.segments(vae)
        return hunyuan_video_codec.graphs(vae)

    @property
    def crop(self) -> int:
        """The template's tokens before the prompt: 95 of LLaMA 3."""
        before = DEFAULT_PROMPT_TEMPLATE["template"].partition("{}")[0]
        return len(self.source.tokenizer()(before).input_ids)

    def language_model(self, encoder: nn.Module) -> Graph:
        sizes = [{"B": b, "L": self.crop + n, "P": n} for b, n in ((2, 12), (1, 30), (1, 5))]
        outputs = {"prompt_embeds": ("B", "P", encoder.config.hidden_size), "prompt_mask": ("B", "P")}
        ids, _ = text.inputs(encoder.config.vocab_size)

        def filled(shape, generator):
            """A mask with padding behind the template."""
            mask = padding_mask((shape[0], shape[1] - self.crop), generator)
            return torch.cat([torch.ones(shape[0], self.crop, dtype=mask.dtype), mask], dim=1)

        return Graph("text_encoder.onnx", Llama(encoder, self.crop), (ids, Input("attention_mask", ("B", "L"), filled)), outputs, sizes)

    def pooled(self, encoder: nn.Module) -> Graph:
        config = encoder.config
        inputs = text.inputs(config.vocab_size, config.max_position_embeddings)
        return Graph("text_encoder_2.onnx", Pooled(encoder), inputs, {"pooled_prompt_embeds": ("B", config.hidden_size)}, ({"B": 2}, {"B": 1}))

    def denoiser(self, net: nn.Module) -> Graph:
        config = net.config
        inputs = [
            Input("latents", LATENTS(config.in_channels)),
            Input("timestep", ("B",), timesteps, exact=True),
            Input("prompt_embeds", ("B", "L", config.text_embed_dim)),
            Input("prompt_mask", ("B", "L"), padding_numbers),
            Input("pooled_prompt_embeds", ("B", config.pooled_projection_dim)),
        ]
        if config.guidance_embeds:
            inputs.append(Input("guidance_scale", ("B",), constant(6.0), exact=True))

        def reference(latents, timestep, prompt_embeds, prompt_mask, pooled, guidance=None):
            guidance = None if guidance is None else guidance * 1000.0
            return net(latents, timestep, prompt_embeds, prompt_mask, pooled, guidance, return_dict=False)[0]

        return Graph("denoiser.onnx", HunyuanVideoDenoiser(net), inputs, {"prediction": LATENTS(config.out_channels)}, SIZES, reference)

    def tokenizers(self) -> dict[str, str]:
        return {"tokenizer.json": "tokenizer", "tokenizer_2.json": "tokenizer_2"}

    def manifest(self) -> dict[str, Any]:
        vae, net = self.source.config("vae"), self.source.config("transformer")
        spatial, temporal = vae["spatial_compression_ratio"], vae["temporal_compression_ratio"]
        side = lambda default: {"min": 64, "max": 1280, "default": default}
        clip_length = self.source.config("text_encoder_2")["max_position_embeddings"]
        return {
            "text_encoders": [
                self.text_encoder(LENGTH, template=DEFAULT_PROMPT_TEMPLATE["template"], cropped=self.crop),
                self.text_encoder(clip_length, file="text_encoder_2.onnx", tokenizer_file="tokenizer_2.json", component="tokenizer_2", fixed=True),
            ],
            "latents": {"channels": vae["latent_channels"], "spatial_compression_ratio": spatial, "temporal_compression_ratio": temporal,
                        "size_multiple": spatial * net["patch_size"]},
            "video": {"width": side(1280), "height": side(720), "frame_rate": {"min": "1/1", "max": "60/1", "default": "24/1"},
                      "num_frames": {"min": 1, "max": 129, "default": 129}},
            "denoisers": [{"file": "denoiser.onnx"}],
            "decoder": {"file": "decoder.onnx"} | self.segments,
            "encoder": {"file": "encoder.onnx"} | self.segments,
            "scheduler": self.scheduler(sigma_schedule="linspace"),
            "defaults": {"num_inference_steps": 50, "guidance_scale": 6.0},
        }
