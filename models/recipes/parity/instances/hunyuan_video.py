"""HunyuanVideo."""

import torch
from diffusers import (AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline,
                       HunyuanVideoTransformer3DModel)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from transformers import LlamaConfig, LlamaModel

from parity import text, tiny_tokenizers
from parity.grid import randomize, soften
from parity.instance import CHINESE, Case, Instance


def language_model() -> LlamaModel:
    return randomize(LlamaModel(LlamaConfig(
        vocab_size=820, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=1024, rope_theta=500000.0)), 81)


def pipeline() -> HunyuanVideoPipeline:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=32, pooled_projection_dim=32, rope_axes_dim=(4, 6, 6), mlp_ratio=2.0)
    vae = AutoencoderKLHunyuanVideo(block_out_channels=(4, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2)
    return HunyuanVideoPipeline(
        tokenizer=tiny_tokenizers.llama(), text_encoder=language_model(), tokenizer_2=tiny_tokenizers.clip(),
        text_encoder_2=text.clip(82), transformer=randomize(transformer, 83), scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=soften(randomize(vae, 84), "decoder.conv_out.conv.weight", 0.5))


def template() -> dict[str, object]:
    """Returns the pipeline's template, whose tokens are others for the tiny tokenizer."""
    words = DEFAULT_PROMPT_TEMPLATE["template"]
    return {"template": words, "crop_start": len(tiny_tokenizers.llama()(words.partition("{}")[0]).input_ids)}


def embeds(result: tuple) -> tuple[dict, dict]:
    prompt, pooled, mask = result
    return {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled, "prompt_mask": mask}, {}


def latents(pipeline: HunyuanVideoPipeline, sample: torch.Tensor, case: Case) -> torch.Tensor:
    return sample


def arguments() -> dict[str, object]:
    return {"prompt_template": template()}


INSTANCES = [
    Instance("hunyuan-video", pipeline, [
        Case("landscape", 64, 32, 9, negative_prompt="", guidance_scale=6.0, arguments=arguments),
        Case("portrait", 32, 48, 13, prompt=CHINESE, negative_prompt="", guidance_scale=3.5, arguments=arguments),
        # Three segments, the last one short.
        Case("long", 32, 32, 29, negative_prompt="", num_inference_steps=2, guidance_scale=6.0, arguments=arguments),
    ], latents=latents, embeds=embeds),
]
