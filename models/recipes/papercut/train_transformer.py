"""Trains text encoder and transformer on latents: python -m papercut.train_transformer --minutes 50 [--resume]

The curriculum runs with the clock: captions alone (text encoder), then mostly single images, then chunks and longer
sequences.  Every chunk of a sequence has its own noise level (diffusion forcing) and is often clean, as the past is when
a video is made.  In the last part guidance is baked in: the target becomes what classifier-free guidance would give.
"""
from __future__ import annotations

import argparse
import pickle
import random
import time

import numpy as np
import torch

from . import parallel
from .captions import ATTRIBUTES, UNSAID, caption
from .checkpoints import load_vae, save
from .data import add_work
from .optim import MuonAdam
from .prepare import FROM_VAE, POOLS
from .text_encoder import TextEncoder, targets
from .tokenizer import make_tokenizer, pad_batch
from .transformer import CHUNK, Transformer
from .world import Scene

IMAGES = {"images-wide": .74, "images-square": .1, "images-tall": .08, "images-long": .08}


class Latents:
    """All latents in memory, normalised, by pool: float16 [n, 16, T, h, w] and their scenes."""

    def __init__(self, work, processes: int):
        vae, _ = load_vae(work)
        mean, std = (v.numpy()[:, None, None, None] for v in (vae.mean, vae.std))
        self.pools = {}
        for name in (*POOLS, *FROM_VAE):
            parts = [np.load(work / f"data/latents-{name}-{i}.npz") for i in range(processes)]
            z = np.concatenate([p["latents"] for p in parts])
            for i in range(0, len(z), 256):
                z[i:i + 256] = (z[i:i + 256] - mean) / std
            scenes = [s for p in parts for s in pickle.loads(p["scenes"].tobytes())]
            self.pools[name] = z, scenes

    def draw(self, rng: random.Random, names: dict[str, float], n: int, frames: int) -> tuple[torch.Tensor, list[Scene]]:
        """n sequences of `frames` latent frames, from a scene's start; longer ones may leave a gap after the first chunk."""
        z, scenes = self.pools[rng.choices(list(names), list(names.values()))[0]]
        rows = [rng.randrange(len(z)) for _ in range(n)]
        total = z.shape[2]
        gap = rng.randrange(total - frames + 1) if frames > CHUNK and rng.random() < .5 else 0
        take = [*range(min(CHUNK, frames)), *range(CHUNK + gap, frames + gap)]
        return torch.from_numpy(z[rows][:, :, take].astype(np.float32)), [scenes[r] for r in rows]


def noise_levels(n: int, frames: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """sigma [n, frames], one level a chunk, and which chunk each frame is in [frames].  At least one chunk is noisy."""
    first = 1 if frames > 1 and torch.rand(()) < .15 else CHUNK  # some sequences start from a single image
    chunk = torch.tensor([0 if i < first else 1 + (i - first) // CHUNK for i in range(frames)])
    chunks = int(chunk[-1]) + 1
    s = torch.sigmoid(torch.randn(n, chunks))
    s = shift * s / (1 + (shift - 1) * s)
    if chunks > 1:
        clean = torch.rand(n, chunks) < .4
        clean[torch.arange(n), torch.randint(0, chunks, (n,))] = False
        s = torch.where(clean, torch.where(torch.rand(n, chunks) < .5, 0., .1 * torch.rand(n, chunks)), s)
    sigma = s[:, chunk]
    if frames > 1:  # sometimes a given first frame
        given = torch.rand(n) < .1
        sigma[given, 0] = 0.
    return sigma, chunk


def tokens(tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = pad_batch(tokenizer, texts)
    return torch.tensor(ids), torch.tensor(mask)


def captions_of(scenes: list[Scene], rng: random.Random, drop: float) -> tuple[list[str], list[dict[str, str]]]:
    pairs = [("", dict.fromkeys(ATTRIBUTES, UNSAID)) if rng.random() < drop else caption(s, rng) for s in scenes]
    return [t for t, _ in pairs], [s for _, s in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_work(parser)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--begin", type=float, default=0., help="where in the curriculum to begin, 0..1 (for a resumed run)")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1200, help="image tokens a process and step")
    parser.add_argument("--text-steps", type=int, default=120, help="steps on captions alone, at first")
    parser.add_argument("--shift", type=float, default=3.)
    parser.add_argument("--bake", type=float, default=1., help="from here in the curriculum on guidance is baked in (1: never)")
    parser.add_argument("--scale", type=float, default=3., help="the guidance scale baked in")
    args = parser.parse_args()
    parallel.run(train, args.processes, args)


def train(rank: int, workers: int, args) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    both = torch.nn.ModuleDict({"text": TextEncoder(tokenizer.get_vocab_size()), "net": Transformer()})
    text, net = both["text"], both["net"]
    checkpoint = args.work / "transformer.pt"
    matrix = lambda name, p: p.ndim == 2 and any(k in name for k in (".blocks.", ".layers.", "pooled", "time")) and "table" not in name
    opt = MuonAdam(both.named_parameters(), args.lr, matrix, adam_scale=.4)
    it, scheme = 0, None
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        both.load_state_dict(state["live"])
        opt.load_state_dict(state["opt"])
        it = state["it"]
        average = state["average"]
    else:
        average = {k: v.clone() for k, v in both.state_dict().items()}
    say = lambda *x: rank == 0 and print(*x, flush=True)
    say(f"text encoder {sum(p.numel() for p in text.parameters()) / 1e6:.2f}M transformer {sum(p.numel() for p in net.parameters()) / 1e6:.2f}M")
    data = Latents(args.work, args.processes)
    rng = random.Random(it * 1000 + rank)
    torch.manual_seed(it * 1000 + rank)
    start = last = time.time()
    first, mean_loss = it, {}

    def update(loss, progress, warm):
        nonlocal it
        for g in opt.param_groups:
            g["lr"] = args.lr * warm * min(1., max(.03, (1 - progress) / .35))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        parallel.average_gradients(both.parameters(), workers)
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.)
        opt.step()
        it += 1
        with torch.no_grad():
            rate = max(.012, 1 / (it - first + 1)) if first == 0 else .012
            for k, v in both.state_dict().items():
                average[k].lerp_(v, rate)

    for i in range(args.text_steps if it == 0 else 0):
        texts, said = captions_of([Scene.sample(rng) for _ in range(48)], rng, .03)
        embeds, _ = text(*tokens(tokenizer, texts))
        loss, right = text.attribute_loss(embeds, targets(said))
        update(loss, 0., min(1., (i + 1) / 20))
        if i % 20 == 19:
            say(f"captions {i + 1} {time.time() - start:.0f}s loss {loss.item():.3f} right {right:.3f}")
    warm_from = it
    while parallel.agree((spent := time.time() - start) < args.minutes * 60):
        progress = args.begin + (1 - args.begin) * spent / (args.minutes * 60)
        kind = random.Random(it).random()  # the same for all processes, so that none waits
        if progress < .45:
            kind = "image" if kind < .75 else "chunk"
        else:
            kind = "image" if kind < .4 else "chunk" if kind < .75 else "sequence"
        if kind == "image":
            names, frames = IMAGES, 1
        elif kind == "chunk":
            names, frames = {"wide": .85, "square": .15}, random.Random(-it - 1).choice((3, 3, 5))
        else:
            names, frames = {"sequences": 1.}, random.Random(-it - 1).choice((6, 9, 12, 15))
        x0, scenes = data.draw(rng, names, max(1, args.tokens // (40 * frames)), frames)
        n = len(x0)
        sigma, chunk = noise_levels(n, frames, args.shift)
        s = sigma[:, None, :, None, None]
        noise = torch.randn_like(x0)
        x = (1 - s) * x0 + s * noise
        texts, said = captions_of(scenes, rng, .12)
        embeds, mask = text(*tokens(tokenizer, texts))
        empty = torch.zeros(net.n_layers, n, 0, x0.shape[3] * x0.shape[4] // 4, net.d)
        target = noise - x0
        bake = progress >= args.bake
        if bake:
            # Guidance aims at v_empty + scale * (v_told - v_empty).  The network here is the one being guided, so the
            # share of its own difference to add is 1 - 1/scale: that is the fixed point, and less than 1 keeps it stable.
            with torch.no_grad():
                nothing, nothing_mask = text(*tokens(tokenizer, [""] * n))
                apart = net(x, 1000 * sigma, embeds, mask, empty, empty, chunk)[0] - net(x, 1000 * sigma, nothing, nothing_mask, empty, empty, chunk)[0]
                told = torch.tensor([float(t != "") for t in texts])[:, None, None, None, None]
                target = target + told * (1 - 1 / args.scale) * apart
        v, _, _ = net(x, 1000 * sigma, embeds, mask, empty, empty, chunk)
        weight = (sigma > .12).float()[:, None, :, None, None]
        error = ((v - target).square() * weight).sum() / (weight.sum().clamp(min=1) * v[0, :, 0].numel())
        told_loss, right = text.attribute_loss(embeds, targets(said))
        update(error + .1 * told_loss, progress, min(1., (it - warm_from + 1) / 40))
        name = kind + "*" * bake
        mean_loss[name] = .96 * mean_loss.get(name, error.item()) + .04 * error.item()
        if it % 25 == 0:
            losses = " ".join(f"{k} {v:.4f}" for k, v in mean_loss.items())
            say(f"{it} {spent:.0f}s {losses} captions {right:.3f}")
        if rank == 0 and time.time() - last > 90:
            last = time.time()
            save(checkpoint, live=both.state_dict(), average=average, opt=opt.state_dict(), it=it)
    if rank == 0:
        save(checkpoint, live=both.state_dict(), average=average, opt=opt.state_dict(), it=it)


if __name__ == "__main__":
    main()
