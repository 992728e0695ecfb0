"""Has the trained transformer imagine the autoencoder's own clips, so that the decoder learns what it will be given when videos are made:
python -m papercut.imagine [--work DIR]

A latent that the transformer made is not the encoder's: it is softer, and frayed where much moves.  Here the latents of rendered clips
get noise and lose it again in one step, so that they still belong to their frames, each chunk after what became of those before it, as in a video.  By how
much they are off then is kept.  The decoder that is trained on such faults (train_vae.py --imagined) takes part in the denoising (the idea of
LTX-Video's decoder, arXiv:2501.00103).
"""
from __future__ import annotations

import argparse
import pickle
import random

import numpy as np
import torch

from . import parallel
from .checkpoints import load_networks, load_vae
from .data import add_work, encoder_input, faults_path, to_steps
from .streams import CONTEXT_NOISE, FOLLOWING_NOISE, a_little_noisy, noised, uniform
from .tokenizer import make_tokenizer
from .train_transformer import captions_of, tokens
from .transformer import CHUNK

LEVELS = (.5, .8)  # noise levels of a last step
AT_ONCE = 8  # clips


def imagine(net, x0: torch.Tensor, embeds, mask, chunk: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Normalised latents [n, C, T, h, w] as the network makes each chunk from noise between LEVELS and what it made before it."""
    n, gist, lengths = len(x0), embeds[:, 0], chunk.unique_consecutive(return_counts=True)[1].tolist()
    out, past = x0[:, :, :0], [net.no_past(x0)] * 2
    for length in lengths:
        first = out.shape[2]
        here = slice(first, first + length)
        draft = net.draft_after(a_little_noisy(out), gist, times[:, first], length)
        see = lambda x, s: net(x, 1000 * s.flatten(1).expand(-1, length), embeds, mask, *past, draft=draft, times=times[:, here])
        s = uniform(LEVELS, n, x0.device)
        x = noised(x0[:, :, here], s, FOLLOWING_NOISE if first else 1.)
        made = x - s * see(x, s)[0]
        s = torch.full_like(s, CONTEXT_NOISE)
        past = [torch.cat(x, 2) for x in zip(past, see(noised(made, s), s)[1:])]
        out = torch.cat([out, made], 2)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_work(parser)
    parser.add_argument("--pool", default="wide", help="which clips of the autoencoder's (default: %(default)s)")
    parser.add_argument("--clips", type=int, help="how many of them (default: all)")
    args = parser.parse_args()
    device, rng, tokenizer = parallel.device(), random.Random(0), make_tokenizer()
    torch.manual_seed(0)
    vae, _ = load_vae(args.work)
    text, net, _ = load_networks(args.work)
    for module in (vae, text, net):
        module.to(device).requires_grad_(False)
    clips = np.load(args.work / f"data/{args.pool}.npy", mmap_mode="r")
    scenes, times = pickle.loads((args.work / f"data/{args.pool}.scenes").read_bytes())
    scenes, times = scenes[:args.clips], np.stack(times)
    faults = []
    for i in range(0, len(scenes), AT_ONCE):
        steps = to_steps(torch.from_numpy(clips[i:i + len(scenes[i:i + AT_ONCE])].copy()).to(device))
        b, t = steps.shape[:2]
        chunk = torch.tensor([0, 1, 1, *(2 + k // CHUNK for k in range(t))][:t])  # as videos are made
        words, _ = captions_of(scenes[i:i + AT_ONCE], rng, 0.)
        with parallel.autocast():
            z = vae.normalise(vae.encoder(encoder_input(steps), t)[0])
            embeds, mask = text(*(x.to(device) for x in tokens(tokenizer, words)))
            x0 = z.view(b, t, *z.shape[1:]).transpose(1, 2).float()
            x = imagine(net, x0, embeds, mask, chunk, torch.from_numpy(times[i:i + b]).to(device))
        faults.append(((x - x0).transpose(1, 2) * vae.std[:, None, None]).half().cpu().numpy())
        if i % 200 == 0:
            print(f"{i} of {len(scenes)} clips", flush=True)
    np.save(faults_path(args.work, args.pool), np.concatenate(faults))


if __name__ == "__main__":
    main()
