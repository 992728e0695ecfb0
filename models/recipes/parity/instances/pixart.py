"""PixArt-Sigma."""

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

from parity import text, tiny_tokenizers
from parity.grid import randomize
from parity.instance import CHINESE, Case, Instance
from parity.instances.stable_diffusion import latents, vae


def pipeline() -> PixArtSigmaPipeline:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, norm_num_groups=4,
        cross_attention_dim=32, sample_size=8, caption_channels=32, interpolation_scale=2, use_additional_conditions=False)
    scheduler = DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    return PixArtSigmaPipeline(tokenizer=tiny_tokenizers.t5(300), text_encoder=text.t5(71), vae=vae(72, 0.13025),
                               transformer=randomize(transformer, 73), scheduler=scheduler)


def embeds(result: tuple) -> tuple[dict, dict]:
    """Padding, which the transformer doesn't see, is zero in a package."""
    prompt, mask, negative, negative_mask = result
    return tuple({"prompt_embeds": p * m.unsqueeze(-1), "prompt_mask": m} for p, m in ((prompt, mask), (negative, negative_mask)))


def plain() -> dict[str, object]:
    return {"clean_caption": False, "use_resolution_binning": False}


INSTANCES = [
    Instance("pixart-sigma", pipeline, [
        Case("landscape", 96, 64, guidance_scale=4.5, num_inference_steps=4, arguments=plain),
        Case("portrait", 48, 80, guidance_scale=4.5, prompt=CHINESE, negative_prompt="", arguments=plain),
    ], latents=latents, embeds=embeds),
]
