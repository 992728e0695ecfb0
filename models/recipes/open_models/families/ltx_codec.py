"""LTX-Video's autoencoder, with and without the timestep that its later decoders take."""
from __future__ import annotations

from unittest import mock

import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor, nn
from torch.nn import functional

from ..codec import Scaling, from_frames, is_first_frame, sizes, to_frames
from ..graph import FRAMES, LATENTS, Graph, Input, normal, uniform
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
    """The image is the first latent frame, and the mask says that it is given."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor, noise: Tensor):
        first = is_first_frame(noise)
        mask = (~first).to(noise.dtype).expand(noise.shape[0], 1, -1, noise.shape[3], noise.shape[4])
        return torch.where(first, self.encoder(image), noise), mask


def graphs(vae: AutoencoderKLLTXVideo) -> list[Graph]:
    """decoder, encoder and conditioner."""
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

    def condition(image, noise):
        latents, mask = noise.clone(), torch.ones_like(noise[:, :1])
        latents[:, :, :1], mask[:, :, 0] = encode(image), 0
        return latents, mask

    encoder = Encoder(vae)
    return [
        Graph("decoder.onnx", Decoder(vae), decoder_inputs, {"frames": FRAMES}, cells, decode),
        Graph("encoder.onnx", encoder, [frames], {"latents": LATENTS(channels)}, cells, encode),
        Graph("conditioner.onnx", FirstFrame(encoder), [Input("image", ("B", 1, "h", "w", 3), pixels), Input("noise", LATENTS(channels))],
              {"latents": LATENTS(channels), "condition_mask": ("B", 1, "T", "H", "W")}, cells, condition),
    ]
