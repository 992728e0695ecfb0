"""Stable Diffusion 1.5 and 2.1, and SD-Turbo, which has the network of 2.1."""

import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DiffusionPipeline, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
                       PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel)

from parity import text, tiny_tokenizers
from parity.grid import randomize, soften
from parity.instance import CHINESE, Case, Instance

BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def unet(seed: int, **shape: object) -> UNet2DConditionModel:
    """Returns a UNet with a level of each kind: with attention twice, without it, and the same upwards."""
    defaults = dict(
        block_out_channels=(8, 16, 16), layers_per_block=1, sample_size=8, norm_num_groups=4, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
    return randomize(UNet2DConditionModel(**(defaults | shape)), seed, gain=0.8)


def vae(seed: int, scaling_factor: float) -> AutoencoderKL:
    model = AutoencoderKL(
        block_out_channels=[4, 8, 8, 8], down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4, layers_per_block=1, norm_num_groups=2, scaling_factor=scaling_factor)
    return soften(randomize(model, seed), "decoder.conv_out.weight", 0.5)


def no_checker() -> dict[str, object]:
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def ddim(**fields: object) -> DDIMScheduler:
    return DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **fields)


def turbo(kind: type) -> EulerDiscreteScheduler | EulerAncestralDiscreteScheduler:
    """Returns the scheduler of a Turbo model, of the configuration that is published with it."""
    return kind.from_config({
        **BETAS, "clip_sample": False, "interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "trailing",
        "trained_betas": None, "use_karras_sigmas": False})


def sd15() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        tokenizer=tiny_tokenizers.clip(), text_encoder=text.clip(43), unet=unet(41, attention_head_dim=2), vae=vae(42, 0.18215),
        scheduler=PNDMScheduler(**BETAS, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1), **no_checker())


def sd2(scheduler: object) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        tokenizer=tiny_tokenizers.clip("!"), text_encoder=text.clip(44, "gelu"), vae=vae(42, 0.18215),
        unet=unet(45, attention_head_dim=(1, 2, 2), use_linear_projection=True), scheduler=scheduler, **no_checker())


def latents(pipeline: DiffusionPipeline, sample: torch.Tensor, case: Case) -> torch.Tensor:
    return sample.unsqueeze(2)


def embeds(result: tuple) -> tuple[dict, dict]:
    return {"prompt_embeds": result[0]}, {} if result[1] is None else {"prompt_embeds": result[1]}


READ = dict(latents=latents, embeds=embeds)
OTHER = dict(prompt=CHINESE, negative_prompt="")


def turbo_cases() -> list[Case]:
    """Returns what the Turbo models are made for: one step and a few, without guidance."""
    return [
        Case("landscape", 96, 64, negative_prompt="", num_inference_steps=1, guidance_scale=0.0),
        Case("portrait", 64, 128, prompt=CHINESE, negative_prompt="", num_inference_steps=4, guidance_scale=0.0),
        Case("two-steps", 96, 64, negative_prompt="", num_inference_steps=2, guidance_scale=0.0),
    ]


INSTANCES = [
    Instance("stable-diffusion-1.5", sd15, [
        Case("landscape", 96, 64, num_inference_steps=6, guidance_scale=7.5),
        Case("portrait", 64, 128, guidance_scale=7.5, scheduler=ddim, **OTHER),
    ], **READ),
    Instance("stable-diffusion-2.1", lambda: sd2(ddim(prediction_type="v_prediction")), [
        Case("landscape", 96, 64, guidance_scale=7.5),
        Case("portrait", 64, 128, guidance_scale=7.5, num_inference_steps=4, **OTHER),
    ], **READ),
    Instance("sd-turbo", lambda: sd2(turbo(EulerDiscreteScheduler)), turbo_cases(), **READ),
]
