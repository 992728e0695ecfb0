"""LTX-Video's autoencoder, with and without the timestep that its later decoders take."""
from __future__ import annotations

from unittest import mock

import torch
from diffusers import AutoencoderKLLTXVideo, LTXConditionPipeline
from diffusers.models.autoencoders import vae as vae_distributions
from diffusers.pipelines.ltx import pipeline_ltx_condition
from torch import Tensor, nn
from torch.nn import functional

from ..codec import Scaling, begin_with, from_frames, sizes, to_frames
from ..graph import FRAMES, LATENTS, Graph, Input, constant, first_given, normal, timesteps, uniform
from ..images import pixels


def scaling(vae: AutoencoderKLLTXVideo) -> Scaling:
    return Scaling(vae.latents_std / vae.config.scaling_factor, vae.latents_mean)


class Decoder(nn.Module):
    """Latents to frames; a decoder with `timestep_conditioning` cleans up `decode_noise_scale` of noise by itself."""

    def __init__(self, vae: AutoencoderKLLTXVideo):
        super().__init__()
        self.vae, self.scaling = vae, scaling(vae)
        self.planes = noise_planes(vae)

    def forward(self, latents: Tensor, decode_noise: Tensor | None = None, decode_noise_scale: Tensor | None = None, decode_timestep: Tensor | None = None) -> Tensor:
        x = self.scaling.to_codec(latents)
        if decode_noise is None:
            return to_frames(self.vae.decoder(x, None))
        share = decode_noise_scale[:, None, None, None, None]
        with mock.patch.object(torch, "randn", Planes(self.planes, decode_noise)):
            return to_frames(self.vae.decoder((1 - share) * x + share * decode_noise, decode_timestep))


class Planes:
    """Stands for torch.randn while a decoder injects noise into its layers.

    diffusers draws these planes, one for all frames, from PyTorch's global generator, which no seed of a pipeline
    reaches. Here they are made of `decode_noise`: k² of its channels are the pixels of a plane k times the latents' size.
    """

    def __init__(self, factors: list[int], noise: Tensor):
        self.factors, self.noise, self.used = iter(factors), noise, 0

    def __call__(self, shape, **_) -> Tensor:
        factor = next(self.factors)
        channels = [(self.used + k) % self.noise.shape[1] for k in range(factor**2)]
        self.used += factor**2
        return functional.pixel_shuffle(self.noise[:1, channels, 0], factor)[0, 0]


def noise_planes(vae: AutoencoderKLLTXVideo) -> list[int]:
    """The sizes of the planes in the order in which the decoder draws them, as multiples of the latents'."""
    factors: list[int] = []

    def draw(shape, **_):
        factors.append(shape[0] // 2)
        return torch.zeros(tuple(shape))

    with torch.no_grad(), mock.patch.object(torch, "randn", draw):
        vae.decoder(torch.zeros(1, vae.config.latent_channels, 1, 2, 2), torch.zeros(1) if vae.config.timestep_conditioning else None)
    return factors


class Encoder(nn.Module):
    """Frames to the posterior's mode."""

    def __init__(self, vae: AutoencoderKLLTXVideo):
        super().__init__()
        self.vae, self.scaling = vae, scaling(vae)

    def forward(self, frames: Tensor) -> Tensor:
        return self.scaling.from_codec(self.vae.encoder(from_frames(frames))[:, : self.vae.config.latent_channels])


class FirstFrame(nn.Module):
    """The image is the first latent frame, drawn from the encoder's posterior, and the mask says that it is given.

    The order of the noises is that in which the pipeline draws them. With `keeps`, the image's latents are an output, too.
    """

    def __init__(self, vae: AutoencoderKLLTXVideo, keeps: bool):
        super().__init__()
        self.vae, self.scaling, self.keeps = vae, scaling(vae), keeps

    def forward(self, image: Tensor, first: Tensor, second: Tensor):
        noise, image_noise = (first, second) if self.keeps else (second, first)
        mean, variance = self.vae.encoder(from_frames(image)).chunk(2, dim=1)
        given = self.scaling.from_codec(mean + torch.exp(0.5 * variance.clamp(-30, 20)) * image_noise)
        return (*begin_with(given, noise), given) if self.keeps else begin_with(given, noise)


class Renoise(nn.Module):
    """Noise on the given cells, drawn anew before each step, and less and less of it: the square of the timestep's share."""

    def forward(self, latents: Tensor, timestep: Tensor, noise: Tensor, condition_mask: Tensor, condition_latents: Tensor,
                image_cond_noise_scale: Tensor) -> Tensor:
        everywhere = lambda x: x[:, None, None, None, None]
        drawn = everywhere(image_cond_noise_scale) * noise.permute(0, 4, 1, 2, 3)
        return torch.where(condition_mask > 0, latents, condition_latents + drawn * everywhere(timestep / 1000) ** 2)


def renoise(channels: int) -> Graph:
    """conditioner_step.onnx of a pipeline of conditions, whose noise is drawn cell by cell."""
    inputs = [
        Input("latents", LATENTS(channels)), Input("timestep", ("B",), timesteps), Input("noise", ("B", "T", "H", "W", channels)),
        Input("condition_mask", ("B", 1, "T", "H", "W"), first_given), Input("condition_latents", ("B", channels, 1, "H", "W")),
        Input("image_cond_noise_scale", ("B",), constant(0.15)),
    ]

    def reference(latents, timestep, noise, mask, given, scale):
        cells = lambda x: LTXConditionPipeline._pack_latents(x)
        sample, start = cells(latents), cells(given.expand_as(latents))
        is_given = cells(1 - mask).squeeze(-1)
        out = torch.empty_like(sample)
        for row, t in enumerate(timestep / 1000):
            with mock.patch.object(pipeline_ltx_condition, "randn_tensor", lambda *_, row=row, **__: noise[row : row + 1].flatten(1, 3)):
                part = (x[row : row + 1] for x in (start, sample))
                out[row] = LTXConditionPipeline.add_noise_to_image_conditioning_latents(t, *part, float(scale[row]), is_given[row : row + 1], None)[0]
        return out.transpose(1, 2).reshape(latents.shape)

    sizes = ({"B": 2, "T": 3, "H": 4, "W": 6}, {"B": 1, "T": 1, "H": 3, "W": 2})
    return Graph("conditioner_step.onnx", Renoise(), inputs, {"sample": LATENTS(channels)}, sizes, reference)


def graphs(vae: AutoencoderKLLTXVideo, conditions: bool = False) -> list[Graph]:
    """decoder, encoder and conditioner, and its step for a pipeline of conditions."""
    channels, conditioned = vae.config.latent_channels, vae.config.timestep_conditioning
    if any(vae.config.decoder_inject_noise) and not conditioned:
        raise ValueError("a decoder of LTX that injects noise and takes no timestep is not known: it has no input to take the noise from")
    cells = sizes(vae.spatial_compression_ratio, vae.temporal_compression_ratio, (2, 3, 2, 3), (1, 1, 3, 2), (1, 4, 2, 2))
    latents, frames = Input("latents", LATENTS(channels), normal), Input("frames", FRAMES, uniform)
    decoder_inputs = [latents]
    if conditioned:
        share = lambda shape, generator: 0.01 + 0.1 * torch.rand(shape, generator=generator)
        decoder_inputs += [Input("decode_noise", LATENTS(channels), normal), Input("decode_noise_scale", ("B",), share), Input("decode_timestep", ("B",), share)]
    factors, constants = noise_planes(vae), scaling(vae)

    def decode(latents, noise=None, share=None, timestep=None):
        x = constants.to_codec(latents)
        if noise is None:
            return to_frames(vae.decode(x, None, return_dict=False)[0])
        share = share[:, None, None, None, None]
        with mock.patch.object(torch, "randn", Planes(factors, noise)):
            return to_frames(vae.decode((1 - share) * x + share * noise, timestep, return_dict=False)[0])

    def encode(frames):
        return constants.from_codec(vae.encode(from_frames(frames)).latent_dist.mode())

    def condition(image, first, second):
        noise, image_noise = (first, second) if conditions else (second, first)
        latents, mask = noise.clone(), torch.ones_like(noise[:, :1])
        with mock.patch.object(vae_distributions, "randn_tensor", lambda *_, **__: image_noise):
            given = constants.from_codec(vae.encode(from_frames(image)).latent_dist.sample())
        latents[:, :, :1], mask[:, :, 0] = given, 0
        return (latents, mask, given) if conditions else (latents, mask)

    noises = [Input("noise", LATENTS(channels)), Input("image_noise", ("B", channels, 1, "H", "W"))]
    conditioned_on = {"latents": LATENTS(channels), "condition_mask": ("B", 1, "T", "H", "W")}
    if conditions:
        conditioned_on["condition_latents"] = ("B", channels, 1, "H", "W")
    derived = {"h": ("H", vae.spatial_compression_ratio, 0), "w": ("W", vae.spatial_compression_ratio, 0),
               "F": ("T", vae.temporal_compression_ratio, 1 - vae.temporal_compression_ratio)}
    return [
        Graph("decoder.onnx", Decoder(vae), decoder_inputs, {"frames": FRAMES}, cells, decode),
        Graph("encoder.onnx", Encoder(vae), [frames], {"latents": LATENTS(channels)}, cells, encode, derived=derived),
        Graph("conditioner.onnx", FirstFrame(vae, conditions), [Input("image", ("B", 1, "h", "w", 3), pixels), *noises[:: 1 if conditions else -1]],
              conditioned_on, cells, condition, derived=derived),
        *([renoise(channels)] if conditions else []),
    ]
