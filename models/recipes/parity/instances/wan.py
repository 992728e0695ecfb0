"""Wan 2.1 (text, image) and 2.2 (two experts, text or image; 5B with text or image)."""

from diffusers import (AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanImageToVideoPipeline,
                       WanPipeline, WanTransformer3DModel)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from parity import text, tiny_tokenizers
from parity.grid import randomize, soften
from parity.instance import CHINESE, Case, Instance

MEAN, STD = [-0.7571, -0.7089, -0.9113, 0.1075], [2.8184, 1.4541, 2.3275, 2.6558]


def unipc(flow_shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)


def transformer(seed: int, in_channels: int = 4, **shape: object) -> WanTransformer3DModel:
    return randomize(WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=in_channels, out_channels=4, text_dim=32, freq_dim=32,
        ffn_dim=64, num_layers=2, rope_max_seq_len=64, **shape), seed)


def vae(seed: int, **shape: object) -> AutoencoderKLWan:
    model = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1, latents_mean=MEAN,
                             latents_std=STD, **shape)
    return soften(randomize(model, seed), "decoder.conv_out.weight", 0.5)


def residual_vae(seed: int) -> AutoencoderKLWan:
    """Returns an autoencoder as that of Wan 2.2 5B: averaging shortcuts, pixels in patches, 16 times in space."""
    return vae(seed, decoder_base_dim=8, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
               scale_factor_spatial=16)


def text_parts() -> dict[str, object]:
    return {"tokenizer": tiny_tokenizers.t5(), "text_encoder": text.t5(11, umt5=True)}


def t2v() -> WanPipeline:
    return WanPipeline(**text_parts(), vae=vae(12), transformer=transformer(13), scheduler=unipc(3.0))


def i2v() -> WanImageToVideoPipeline:
    encoder = CLIPVisionModel(CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14,
        hidden_act="gelu"))
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return WanImageToVideoPipeline(
        **text_parts(), vae=vae(12), transformer=transformer(14, in_channels=12, image_dim=32, added_kv_proj_dim=32),
        scheduler=unipc(3.0), image_processor=processor, image_encoder=randomize(encoder, 15))


def a14b() -> WanPipeline:
    return WanPipeline(**text_parts(), vae=vae(12), transformer=transformer(13), transformer_2=transformer(16),
                       scheduler=unipc(3.0), boundary_ratio=0.875)


def i2v_a14b() -> WanImageToVideoPipeline:
    expert = lambda seed: transformer(seed, in_channels=12)
    return WanImageToVideoPipeline(**text_parts(), vae=vae(12), transformer=expert(19), transformer_2=expert(20), scheduler=unipc(3.0),
                                   boundary_ratio=0.9)


def ti2v_5b() -> WanPipeline:
    return WanPipeline(**text_parts(), vae=residual_vae(17), transformer=transformer(18), scheduler=unipc(5.0),
                       expand_timesteps=True)


def ti2v_5b_image(pipeline: WanPipeline) -> WanImageToVideoPipeline:
    parts = {k: v for k, v in pipeline.components.items() if k not in ("transformer_2",)}
    return WanImageToVideoPipeline(**parts, image_processor=None, image_encoder=None, expand_timesteps=True)


def embeds(result: tuple) -> tuple[dict, dict]:
    return {"prompt_embeds": result[0]}, {"prompt_embeds": result[1]}


READ = dict(latents=lambda pipeline, latents, case: latents, embeds=embeds)
OTHER = dict(prompt=CHINESE, negative_prompt="")

INSTANCES = [
    Instance("wan2.1-t2v", t2v, [
        Case("landscape", 64, 32, 9),
        Case("portrait", 32, 48, 5, num_inference_steps=4, **OTHER),
        Case("euler", 48, 32, 5, scheduler=lambda: FlowMatchEulerDiscreteScheduler(shift=3.0)),
    ], **READ),
    Instance("wan2.1-i2v", i2v, [
        Case("landscape", 64, 32, 9, image=True),
        Case("portrait", 32, 48, 5, image=True, **OTHER),
    ], **READ),
    Instance("wan2.2-a14b", a14b, [
        Case("landscape", 64, 32, 9, num_inference_steps=4, guidance_scale=4.0, arguments=lambda: {"guidance_scale_2": 3.0}),
        Case("portrait", 32, 48, 5, num_inference_steps=6, guidance_scale=4.0, arguments=lambda: {"guidance_scale_2": 3.0}, **OTHER),
    ], **READ),
    Instance("wan2.2-i2v-a14b", i2v_a14b, [
        Case("landscape", 64, 32, 9, num_inference_steps=4, guidance_scale=3.5, image=True),
        Case("portrait", 32, 48, 5, num_inference_steps=6, guidance_scale=3.5, image=True, **OTHER),
    ], **READ),
    Instance("wan2.2-5b", ti2v_5b, [
        Case("landscape", 96, 64, 9),
        Case("portrait", 64, 96, 5, **OTHER),
        Case("image", 96, 64, 9, image=True),
    ], image_pipeline=ti2v_5b_image, given=lambda prepared: prepared[1], **READ),
]
