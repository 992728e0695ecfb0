"""The modules that become ONNX graphs: the networks wrapped so that what crosses a graph is simple.

Frames are float [1, F, H, W, 3] in 0..1, latents float [1, C, T, h, w], normalised.  States are what each
`Memory` made of the last step for the next, [1, c, rows, columns], and of a decoder the last frame shown.
"""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .text_encoder import TextEncoder
from .tokenizer import make_tokenizer, pad_batch
from .transformer import Transformer
from .vae import VAE

GUIDANCE = 1.4  # of the draft that follows on a scene's first frame: with it moves go as far as in renders, and edges become no stronger (LOG.md)
GUIDED = "camera"  # of what prompts say, what it is for; the text encoder's head that reads it is part of the package


class DecoderGraph(nn.Module):
    """decoder_init (start=True, no states in) and decoder_step."""

    def __init__(self, vae: VAE, start: bool):
        super().__init__()
        self.decoder, self.start = vae.decoder, start
        self.register_buffer("mean", vae.mean[:, None, None].clone())
        self.register_buffer("std", vae.std[:, None, None].clone())

    def forward(self, latents, *states):
        z = latents[0].transpose(0, 1) * self.std + self.mean
        steps = z.shape[0]
        x, out = self.decoder(z, steps, states)
        frames = F.pixel_shuffle(x, 4).permute(0, 2, 3, 1)
        if self.start:
            frames = frames[3:]
        frames = (frames * .5 + .5).clamp(0, 1)[None]
        return frames, *out


class EncoderGraph(nn.Module):
    """encoder_init (start=True, no states in) and encoder_step."""

    def __init__(self, vae: VAE, start: bool):
        super().__init__()
        self.encoder, self.start = vae.encoder, start
        self.register_buffer("mean", vae.mean[:, None, None].clone())
        self.register_buffer("std", vae.std[:, None, None].clone())

    def forward(self, frames, *states):
        x = frames[0].permute(0, 3, 1, 2) * 2 - 1
        if self.start:
            x = torch.cat([x[:1], x[:1], x[:1], x])
        x = F.pixel_unshuffle(x, 8)
        n, c, h, w = x.shape
        x = x.reshape(n // 4, 4 * c, h, w)
        z, out = self.encoder(x, n // 4, states)
        z = (z - self.mean) / self.std
        return z.transpose(0, 1)[None], *out


class DraftGraph(nn.Module):
    """What a chunk's first call finds out, [B, T, 2C, h, w]: means and logarithms of variances of its draft.

    A scene's first frame does not show how its camera moves, and of what the caption alone tells drafts make too little.  So what follows on
    a single frame is led away from what would follow if nothing were told (classifier-free guidance, arXiv:2207.12598), as far as the text
    encoder's head reads a move; of what moves by itself nothing is made more of, or it trembles."""

    def __init__(self, net: Transformer, text: TextEncoder):
        super().__init__()
        self.net, self.camera = net, text.heads[GUIDED]
        with torch.no_grad():
            self.register_buffer("untold", text(*map(torch.tensor, pad_batch(make_tokenizer(), [""])))[0][:, 0])

    def forward(self, latents, prompt_embeds, past_key, past_value):
        gist, past = prompt_embeds[:, 0], past_key.shape[2]
        before, times = self.net.of_past(latents, past_key, past_value)
        mean, log_variance = self.net.draft_of(latents, gist, before, times, past)
        alone = lambda x: x[None][abs(past - 1):].flatten(0, 1)  # as it is behind a single frame, else of a batch of nothing, which costs nothing
        untold, _ = self.net.follow(alone(before), alone(self.untold.expand(len(before), -1)), alone(times)[:, 0], latents.shape[2])
        asked = 1 - self.camera(gist).softmax(-1)[:, 0, None, None, None, None]
        more = torch.cat([alone(mean) - untold, torch.zeros_like(mean)])[:len(mean)]
        return torch.cat([mean + (GUIDANCE - 1) * asked * more, log_variance], 2)


class DenoiserGraph(nn.Module):
    """transformer, told the draft of its chunk."""

    def __init__(self, net: Transformer):
        super().__init__()
        self.net = net

    def forward(self, latents, timestep, prompt_embeds, prompt_mask, past_key, past_value, draft):
        return self.net(latents, timestep, prompt_embeds, prompt_mask, past_key, past_value, draft=draft.chunk(2, 2))


class TextGraph(nn.Module):
    """text_encoder: without the attribute heads."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def forward(self, input_ids, attention_mask):
        return self.text(input_ids, attention_mask)
