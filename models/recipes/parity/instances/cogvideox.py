"""CogVideoX 2b (positions as a table) and 5b (rotary positions)."""

import torch
from diffusers import (AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXPipeline,
                       CogVideoXTransformer3DModel)

from parity import text, tiny_tokenizers
from parity.grid import randomize, soften
from parity.instance import CHINESE, Case, Instance


def scheduler(kind: type, snr_shift_scale: float) -> CogVideoXDDIMScheduler | CogVideoXDPMScheduler:
    return kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
                prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=snr_shift_scale,
                timestep_spacing="trailing")


def pipeline(rotary: bool) -> CogVideoXPipeline:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=16, text_embed_dim=32,
        num_layers=2, sample_width=12, sample_height=8, sample_frames=9, use_rotary_positional_embeddings=rotary)
    vae = AutoencoderKLCogVideoX(block_out_channels=(4, 8, 8, 16), latent_channels=4, layers_per_block=1, norm_num_groups=2,
                                 scaling_factor=0.7 if rotary else 1.15258426)
    vae = soften(randomize(vae, 32), "decoder.conv_out.conv.weight", 0.125)
    return CogVideoXPipeline(tokenizer=tiny_tokenizers.t5(226), text_encoder=text.t5(34), vae=vae,
                             transformer=randomize(transformer, 31),
                             scheduler=scheduler(CogVideoXDDIMScheduler, 1.0 if rotary else 3.0))


def embeds(result: tuple) -> tuple[dict, dict]:
    return {"prompt_embeds": result[0]}, {"prompt_embeds": result[1]}


def latents(pipeline: CogVideoXPipeline, sample: torch.Tensor, case: Case) -> torch.Tensor:
    return sample.permute(0, 2, 1, 3, 4)


OTHER = dict(prompt=CHINESE, negative_prompt="", guidance_scale=6.0)

INSTANCES = [
    Instance("cogvideox-2b", lambda: pipeline(False), [
        Case("landscape", 64, 32, 17, guidance_scale=6.0),
        Case("portrait", 32, 48, 9, **OTHER),
        Case("dpm", 32, 48, 9, scheduler=lambda: scheduler(CogVideoXDPMScheduler, 3.0), **OTHER),
    ], latents=latents, embeds=embeds),
    Instance("cogvideox-5b", lambda: pipeline(True), [
        Case("landscape", 64, 32, 17, guidance_scale=6.0),
        Case("portrait", 48, 64, 9, **OTHER),
        Case("dpm", 64, 32, 9, scheduler=lambda: scheduler(CogVideoXDPMScheduler, 1.0), **OTHER),
    ], latents=latents, embeds=embeds),
]
