"""Wan 2.1 and 2.2: text or image to video."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import text
from ..graph import LATENTS, Graph, Input, Part, first_given, padded, timesteps
from ..padding import count_equal_rows
from ..rope import rotate_pairs
from ..modulation import Modulation, timesteps_of
from ..options import Options
from ..source import Source
from . import wan_codec, wan_image
from .base import Family

DENOISER_SIZES = ({"B": 2, "T": 3, "H": 8, "W": 12, "L": 16}, {"B": 1, "T": 1, "H": 6, "W": 4, "L": 9}, {"B": 1, "T": 2, "H": 10, "W": 6, "L": 24})


class WanDenoiser(nn.Module):
    """WanTransformer3DModel in shapes that trace well.

    `extras` names the inputs after the prompt, in their order: `condition` [B,C,T,H,W] is put beside the latents
    (image to video), `condition_mask` [B,1,T,H,W] is 1 where to generate and 0 where the cell is given (Wan 2.2 5B), and
    `image_embeds` [B,N,D] are the image encoder's. Given cells have timestep 0 and a prediction of zero, so that any
    scheduler leaves them as they are.
    """

    def __init__(self, net: nn.Module, extras: Sequence[str] = ()):
        super().__init__()
        self.net, self.extras = net, extras
        for name in ("freqs_cos", "freqs_sin"):
            table = getattr(net.rope, name).float()[:, ::2]  # diffusers' tables hold every number twice
            parts = table.split([d // 2 for d in (net.rope.t_dim, net.rope.h_dim, net.rope.w_dim)], dim=1)
            for axis, part in zip("thw", parts):
                self.register_buffer(f"{name}_{axis}", part.contiguous())

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, *extras: Tensor) -> Tensor:
        given = dict(zip(self.extras, extras))
        x = torch.cat([latents, given["condition"]], dim=1) if "condition" in given else latents
        pt, ph, pw = self.net.config.patch_size
        b, _, t, h, w = x.shape
        t, h, w = t // pt, h // ph, w // pw
        mask = given.get("condition_mask")
        generated = None if mask is None else mask[:, 0, ::pt, ::ph, ::pw].flatten(1).unsqueeze(2) > 0
        prediction = self.transformer(x, timesteps_of(timestep, mask), generated, prompt_embeds, given.get("image_embeds"))
        prediction = prediction.reshape(b, t, h, w, pt, ph, pw, -1).permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(b, -1, t * pt, h * ph, w * pw)
        return prediction if mask is None else prediction * mask

    def transformer(self, x: Tensor, timestep: Tensor, generated: Tensor | None, prompt: Tensor, image: Tensor | None) -> Tensor:
        """Latents [B,C,T,H,W] to patches [B,S,C·p]."""
        net = self.net
        rope = self.rope(x)
        x = net.patch_embedding(x).flatten(2).transpose(1, 2)
        embed = net.condition_embedder
        angles = embed.timesteps_proj(timestep.flatten())
        time = embed.time_embedder(angles.to(embed.time_embedder.linear_1.weight.dtype)).to(x.dtype)
        time = time.reshape(timestep.shape[0], timestep.shape[1], time.shape[-1])
        modulation = Modulation(embed.time_proj(embed.act_fn(time)).unflatten(2, (6, -1)), generated)
        prompt, counts = count_equal_rows(prompt)
        prompt = embed.text_embedder(prompt)
        if image is not None:
            image = embed.image_embedder(image)
        for block in net.blocks:
            x = self.block(block, x, prompt, counts, image, modulation, rope)
        shift, scale = Modulation(time.unsqueeze(2), generated).plus(net.scale_shift_table)
        return net.proj_out((net.norm_out(x.float()) * (1 + scale) + shift).to(x.dtype))

    def block(self, block, x: Tensor, prompt: Tensor, counts: Tensor, image: Tensor | None, modulation: Modulation, rope) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation.plus(block.scale_shift_table)
        y = (block.norm1(x.float()) * (1 + scale) + shift).to(x.dtype)
        x = (x.float() + attend(block.attn1, y, y, rope) * gate).to(x.dtype)
        y = block.norm2(x.float()).to(x.dtype)
        x = x + attend(block.attn2, y, prompt, bias=counts, image=image)
        y = (block.norm3(x.float()) * (1 + ff_scale) + ff_shift).to(x.dtype)
        return (x.float() + block.ffn(y).float() * ff_gate).to(x.dtype)

    def rope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [S,1,D/2] of the patches of `x`."""
        t, h, w = (n // p for n, p in zip(x.shape[2:], self.net.config.patch_size))
        tables = []
        for name in ("freqs_cos", "freqs_sin"):
            by_t, by_h, by_w = (getattr(self, f"{name}_{axis}") for axis in "thw")
            table = [by_t[:t, None, None].expand(-1, h, w, -1), by_h[None, :h, None].expand(t, -1, w, -1), by_w[None, None, :w].expand(t, h, -1, -1)]
            tables.append(torch.cat(table, dim=-1).reshape(t * h * w, 1, -1))
        return tables[0], tables[1]


def attend(attn, x: Tensor, context: Tensor, rope=None, bias: Tensor | None = None, image: Tensor | None = None) -> Tensor:
    heads = lambda y: y.unflatten(2, (attn.heads, -1))
    query, key, value = heads(attn.norm_q(attn.to_q(x))), heads(attn.norm_k(attn.to_k(context))), heads(attn.to_v(context))
    if rope is not None:
        query, key = rotate_pairs(query, *rope), rotate_pairs(key, *rope)
    out = sdpa(query, key, value, bias)
    if image is not None:
        out = out + sdpa(query, heads(attn.norm_added_k(attn.add_k_proj(image))), heads(attn.add_v_proj(image)))
    return attn.to_out[0](out)


def sdpa(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention on [B,S,heads,D], with a `bias` [1,1,1,keys] on the scores."""
    if bias is not None:  # ONNX Runtime's attention doesn't broadcast the axis of the queries
        bias = bias.expand(-1, -1, query.shape[1], -1)
    out = functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)), attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


class Wan(Family):
    """Wan 2.1 T2V and I2V, Wan 2.2 A14B with its two experts, Wan 2.2 TI2V-5B.

    An image comes in by one of two ways. The 5B's `expand_timesteps`: it is the first latent frame, and needs no part of
    the noise. The others': latents of a clip of the image and grey frames are put beside the noise, and CLIP's embeddings
    of the image beside the prompt's where the transformer takes them (Wan 2.1).
    """

    pipelines = ("WanPipeline", "WanImageToVideoPipeline")

    def __init__(self, source: Source, options: Options):
        super().__init__(source, options)
        self.vae, self.net = source.config("vae"), source.config("transformer")
        self.expand = source.option("expand_timesteps", False)
        self.concat = source.pipeline == "WanImageToVideoPipeline" and not self.expand
        self.image_dim = self.net.get("image_dim") if self.concat else None

    def parts(self) -> Sequence[Part]:
        experts = [name for name in ("transformer", "transformer_2") if self.source.has(name)]
        parts = [
            Part("text_encoder", ["text_encoder"], lambda encoder: [text.t5_graph(encoder, masked=True)]),
            *(Part(part, [component], lambda net, part=part: [self.denoiser(net, f"{part}.onnx")]) for part, component in zip(("denoiser", "denoiser_2"), experts)),
            Part("codec", ["vae"], wan_codec.graphs, codec=True),
        ]
        if self.expand:
            parts.append(Part("conditioner", ["vae"], lambda vae: [wan_image.first_frame(vae)], codec=True))
        elif self.concat:
            image = ["image_encoder"] if self.image_dim else []
            processor = self.source.tokenizer("image_processor") if self.image_dim else None
            parts.append(Part("conditioner", ["vae", *image], lambda vae, encoder=None: [wan_image.beside(vae, encoder, processor)], codec=True))
        return parts

    def denoiser(self, net: nn.Module, file: str) -> Graph:
        channels = self.vae["z_dim"]
        extras = []
        if self.expand:
            extras.append(Input("condition_mask", ("B", 1, "T", "H", "W"), first_given))
        if self.concat:
            extras.append(Input("condition", LATENTS(net.config.in_channels - channels)))
        if self.image_dim:
            extras.append(Input("image_embeds", ("B", "N", self.image_dim)))
        names = [e.name for e in extras]
        inputs = [Input("latents", LATENTS(channels)), Input("timestep", ("B",), timesteps, exact=True), Input("prompt_embeds", ("B", "L", net.config.text_dim), padded), *extras]
        sizes = DENOISER_SIZES if not self.image_dim else [s | {"L": 512, "N": 257 if net.config.pos_embed_seq_len is None else net.config.pos_embed_seq_len} for s in DENOISER_SIZES]

        def reference(latents, timestep, prompt, *given):
            given = dict(zip(names, given))
            if self.concat:
                latents = torch.cat([latents, given["condition"]], dim=1)
            mask = given.get("condition_mask")
            if mask is not None:
                timestep = (mask[:, 0, :, ::2, ::2] * timestep[:, None, None, None]).flatten(1)
            prediction = net(latents, timestep, prompt, given.get("image_embeds"), return_dict=False)[0]
            return prediction if mask is None else prediction * mask

        return Graph(file, WanDenoiser(net, names), inputs, {"prediction": LATENTS(channels)}, sizes, reference)

    def manifest(self) -> dict[str, Any]:
        vae, net, expand = self.vae, self.net, self.expand
        spatial, temporal = vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4)
        boundary, large = self.source.option("boundary_ratio"), not expand
        denoisers = [{"file": "denoiser.onnx"}]
        scheduler = self.scheduler()
        guidance = 5.0
        if boundary is not None:
            guidance, second = (3.5, 3.5) if self.concat else (4.0, 3.0)
            denoisers = [{"file": "denoiser.onnx", "min_timestep": boundary * scheduler["num_train_timesteps"], "guidance_scale": guidance},
                         {"file": "denoiser_2.onnx", "guidance_scale": second}]
        size = (832, 480) if large else (1280, 704)
        return {
            "text_encoders": [self.text_encoder(512, ["fix_text", "html_unescape", "strip", "collapse_whitespace", "strip"])],
            "latents": {"channels": vae["z_dim"], "spatial_compression_ratio": spatial, "temporal_compression_ratio": temporal,
                        "size_multiple": spatial * net["patch_size"][1]},
            "video": {"width": {"min": 64, "max": 1280, "default": size[0]}, "height": {"min": 64, "max": 1280, "default": size[1]},
                      "frame_rate": {"min": "1/1", "max": "60/1", "default": "16/1" if large else "24/1"},
                      "num_frames": {"min": 1 + temporal if self.concat else 1, "max": 121, "default": 81 if large else 121}},
            "denoisers": denoisers,
            **({"conditioner": {"file": "conditioner.onnx", "required": self.concat}} if expand or self.concat else {}),
            "decoder": {"file": "decoder.onnx", "init": "decoder_init.onnx", "step": "decoder_step.onnx"},
            "encoder": {"file": "encoder.onnx", "init": "encoder_init.onnx", "step": "encoder_step.onnx"},
            **({"parameters": {"condition_mask": 1.0}} if expand else {}),
            "scheduler": scheduler,
            "defaults": {"num_inference_steps": 50, "guidance_scale": guidance},
        }
