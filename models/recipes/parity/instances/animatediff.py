"""AnimateDiff: Stable Diffusion 1.5 with motion modules."""

import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter

from parity.grid import randomize
from parity.instance import CHINESE, Case, Instance
from parity.instances import stable_diffusion


def pipeline() -> AnimateDiffPipeline:
    base = stable_diffusion.sd15()
    motion = MotionAdapter(block_out_channels=(8, 16, 16), motion_layers_per_block=1, motion_norm_num_groups=2,
                           motion_num_attention_heads=2)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False,
                              timestep_spacing="linspace", steps_offset=1)
    return AnimateDiffPipeline(
        tokenizer=base.tokenizer, text_encoder=base.text_encoder, vae=base.vae, unet=base.unet,
        motion_adapter=randomize(motion, 61, gain=0.8), scheduler=scheduler)


def latents(pipeline: AnimateDiffPipeline, sample: torch.Tensor, case: Case) -> torch.Tensor:
    return sample


INSTANCES = [
    Instance("animatediff", pipeline, [
        Case("landscape", 64, 32, 6, guidance_scale=7.5),
        Case("portrait", 32, 64, 4, guidance_scale=7.5, prompt=CHINESE, negative_prompt=""),
    ], latents=latents, embeds=stable_diffusion.embeds),
]
