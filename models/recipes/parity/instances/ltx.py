"""LTX-Video 0.9.0, 0.9.1 with its decoder that knows a timestep, and 0.9.5 with its other encoder and its conditions."""

import torch
from diffusers import (AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXConditionPipeline, LTXImageToVideoPipeline,
                       LTXPipeline, LTXVideoTransformer3DModel)

from parity import text, tiny_tokenizers
from parity.grid import randomize, soften
from parity.instance import CHINESE, Case, Instance
from parity.instances import pixart

CONDITIONED = dict(decoder_block_out_channels=(8, 16, 32), decoder_layers_per_block=(1, 1, 1, 1),
                   decoder_spatio_temporal_scaling=(True, True, True), decoder_inject_noise=(False,) * 4,
                   timestep_conditioning=True, upsample_residual=(True,) * 3, upsample_factor=(2, 2, 2))
PLAIN_ENCODER = dict(block_out_channels=(8, 8, 8, 8), spatio_temporal_scaling=(True, True, True, False))
VAES = {
    "0.9.0": dict(**PLAIN_ENCODER, decoder_block_out_channels=(8, 8, 8, 8), decoder_layers_per_block=(1, 1, 1, 1, 1),
                  decoder_spatio_temporal_scaling=(True, True, True, False), decoder_inject_noise=(False,) * 5),
    "0.9.1": dict(**PLAIN_ENCODER, **CONDITIONED),
    "0.9.5": dict(**CONDITIONED, block_out_channels=(4, 8, 8, 16, 16), down_block_types=("LTXVideo095DownBlock3D",) * 4,
                  spatio_temporal_scaling=(True,) * 4, spatial_compression_ratio=32, temporal_compression_ratio=8,
                  downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal")),
}


def vae(version: str) -> AutoencoderKLLTXVideo:
    model = AutoencoderKLLTXVideo(latent_channels=8, layers_per_block=(1, 1, 1, 1, 1), **VAES[version])
    soften(randomize(model, 22), "decoder.conv_out.conv.weight", 0.5)
    model.latents_mean.copy_(torch.tensor([0.25, -0.25, 0, 0.5, -0.5, 0.125, 0, -0.125]))
    model.latents_std.copy_(torch.tensor([1, 1.25, 1.5, 0.75, 1, 1.25, 1.125, 0.875]))
    return model


def pipeline(version: str) -> LTXPipeline | LTXConditionPipeline:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32, num_layers=2,
        caption_channels=32)
    shifts = dict(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
                  shift_terminal=0.1)
    kind, shifts = (LTXConditionPipeline, {}) if version == "0.9.5" else (LTXPipeline, shifts)
    return kind(tokenizer=tiny_tokenizers.t5(128), text_encoder=text.t5(24), vae=vae(version),
                transformer=randomize(transformer, 21), scheduler=FlowMatchEulerDiscreteScheduler(**shifts))


def latents(pipeline: LTXPipeline, packed: torch.Tensor, case: Case) -> torch.Tensor:
    frames = (case.num_frames - 1) // pipeline.vae_temporal_compression_ratio + 1
    cells = [pixels // pipeline.vae_spatial_compression_ratio for pixels in (case.height, case.width)]
    return pipeline._unpack_latents(packed, frames, *cells)


def embeds(result: tuple) -> tuple[dict, dict]:
    prompt, mask, negative, negative_mask = result
    return ({"prompt_embeds": prompt, "prompt_mask": mask},
            {"prompt_embeds": negative, "prompt_mask": negative_mask})


def image_pipeline(pipeline: LTXPipeline | LTXConditionPipeline) -> LTXImageToVideoPipeline | LTXConditionPipeline:
    return pipeline if isinstance(pipeline, LTXConditionPipeline) else LTXImageToVideoPipeline(**pipeline.components)


def decode_arguments() -> dict[str, object]:
    return {"decode_timestep": 0.05, "decode_noise_scale": 0.025}


INSTANCES = [
    Instance(f"ltx-video-{version}", lambda version=version: pipeline(version), [
        Case("landscape", 96, 64, 17, guidance_scale=3.0, frame_rate=25, arguments=decode),
        Case("portrait", 64, 96, 9, guidance_scale=3.0, frame_rate=24, prompt=CHINESE, negative_prompt="", arguments=decode),
        Case("image", 96, 64, 17, guidance_scale=3.0, frame_rate=25, image=True, arguments=decode),
    ], latents=latents, embeds=pixart.embeds if version == "0.9.5" else embeds, image_pipeline=image_pipeline)
    for version, decode in (("0.9.0", dict), ("0.9.1", decode_arguments), ("0.9.5", decode_arguments))
]
