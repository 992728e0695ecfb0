"""Stable Diffusion XL, and SDXL-Turbo, which has the same network."""

from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline

from parity import text, tiny_tokenizers
from parity.instance import CHINESE, Case, Instance
from parity.instances.stable_diffusion import BETAS, latents, turbo, turbo_cases, unet, vae

HIDDEN = 32  # of the first text encoder; the second has 16 more


def base() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)


def pipeline(scheduler: object, force_zeros: bool) -> StableDiffusionXLPipeline:
    denoiser = unet(
        51, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 2), cross_attention_dim=HIDDEN + 48, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=48 + 6 * 8)
    return StableDiffusionXLPipeline(
        tokenizer=tiny_tokenizers.clip(), text_encoder=text.clip(52), tokenizer_2=tiny_tokenizers.clip("!"),
        text_encoder_2=text.clip(53, "gelu", projection_dim=48, hidden_size=48), unet=denoiser, vae=vae(54, 0.13025),
        scheduler=scheduler, force_zeros_for_empty_prompt=force_zeros)


def embeds(result: tuple) -> tuple[dict, dict]:
    def named(prompt_embeds, pooled):
        if prompt_embeds is None:
            return {}
        return {"prompt_embeds": prompt_embeds[..., :HIDDEN], "prompt_embeds_2": prompt_embeds[..., HIDDEN:],
                "pooled_prompt_embeds": pooled}

    prompt_embeds, negative, pooled, negative_pooled = result
    return named(prompt_embeds, pooled), named(negative, negative_pooled)


READ = dict(latents=latents, embeds=embeds)

INSTANCES = [
    Instance("stable-diffusion-xl", lambda: pipeline(base(), True), [
        Case("landscape", 96, 64),
        Case("portrait", 64, 128, num_inference_steps=4, prompt=CHINESE, negative_prompt=""),
    ], **READ),
    # Guidance, which Turbo can do without, shows that an empty negative prompt is no zeros here.
    Instance("sdxl-turbo", lambda: pipeline(turbo(EulerAncestralDiscreteScheduler), False), [
        *turbo_cases(),
        Case("guided", 64, 64, num_inference_steps=2, guidance_scale=2.0, negative_prompt=""),
    ], **READ),
]
