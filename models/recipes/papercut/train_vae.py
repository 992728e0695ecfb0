"""Trains the autoencoder on rendered clips: python -m papercut.train_vae --minutes 40 [--resume]"""
from __future__ import annotations

import argparse
import os
import pathlib
import time

import numpy as np
import torch
from torch.nn import functional as F

from . import parallel
from .data import add_work, make_pool, pack
from .optim import MuonAdam
from .vae import VAE

CROP = 128


def to_steps(clips: np.ndarray) -> np.ndarray:
    """uint8 [B, 1+4k, H, W, 3] -> [B, 1+k, 4, H, W, 3]: the first frame four times, then groups of four."""
    b, f = clips.shape[:2]
    first = np.repeat(clips[:, :1, None], 4, 2)
    return np.concatenate([first, clips[:, 1:].reshape(b, (f - 1) // 4, 4, *clips.shape[2:])], 1)


def encoder_input(steps: np.ndarray) -> torch.Tensor:
    """uint8 [B, T, 4, H, W, 3] -> float [B*T, 768, H/8, W/8] in -1..1, channels last."""
    x = pack(steps, 8)  # B T 4 h w 192
    x = x.transpose(0, 1, 3, 4, 2, 5)
    b, t, h, w = x.shape[:4]
    x = torch.from_numpy(np.ascontiguousarray(x)).view(b * t, h, w, -1)
    return (x.to(torch.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def decoder_target(steps: np.ndarray) -> torch.Tensor:
    """uint8 [B, T, 4, H, W, 3] -> float [B*T*4, 48, H/4, W/4] in -1..1, channels last."""
    x = pack(steps, 4)
    x = torch.from_numpy(x).view(-1, *x.shape[3:])
    return (x.to(torch.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def psnr(vae: VAE, clips: np.ndarray) -> float:
    """Mean over clips (uint8 [n, 1+4k, H, W, 3]) of the peak signal-to-noise ratio in dB."""
    vae.eval()
    values = []
    with torch.no_grad():
        for clip in clips:
            steps = to_steps(clip[None])
            t = steps.shape[1]
            z, _ = vae.encoder(encoder_input(steps), t)
            r, _ = vae.decoder(z, t)
            d = (r.clamp(-1, 1) - decoder_target(steps))[3:]
            values.append(10 * np.log10(4 / d.square().mean().item()))
    vae.train()
    return float(np.mean(values))


def batch(pools, rng, size: int, frames: int = 13) -> np.ndarray:
    """Random crops: uint8 [size, frames, CROP, CROP, 3]."""
    out = []
    pool = pools[rng.choice(len(pools), p=[.75, .25])]
    for _ in range(size):
        clip = pool[rng.integers(40, len(pool))]
        y, x = rng.integers(0, clip.shape[1] - CROP + 1), rng.integers(0, clip.shape[2] - CROP + 1)
        t = rng.integers(0, clip.shape[0] - frames + 1)
        out.append(clip[t:t + frames, y:y + CROP, x:x + CROP])
    return np.stack(out)


def save(path: pathlib.Path, **state) -> None:
    tmp = path.with_suffix(".tmp")
    torch.save(state, tmp)
    os.replace(tmp, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_work(parser)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--freeze-encoder", action="store_true", help="train the decoder alone, so that latents already made stay valid")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2, help="clips a process and step")
    parser.add_argument("--clips", type=int, default=1600)
    args = parser.parse_args()
    make_pool(args.work / "data/wide", args.clips, 256, 160, 17, 1, 5., args.processes)
    make_pool(args.work / "data/square", args.clips // 4, 192, 192, 17, 2, 5., args.processes)
    parallel.run(train, args.processes, args)


def train(rank: int, workers: int, args) -> None:
    torch.manual_seed(0)
    pools = [np.load(args.work / f"data/{n}.npy", mmap_mode="r") for n in ("wide", "square")]
    vae = VAE()
    checkpoint = args.work / "vae.pt"
    matrix = lambda name, p: not name.startswith(("encoder.inp", "encoder.out", "decoder.out", "decoder.inp"))
    opt = MuonAdam(vae.named_parameters(), args.lr, matrix)
    it, ema = 0, None
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        vae.load_state_dict(state["vae"])
        if not args.freeze_encoder:
            opt.load_state_dict(state["opt"])
        it = state["it"]
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    if args.freeze_encoder:
        vae.encoder.requires_grad_(False)
    say = lambda *x: rank == 0 and print(*x, flush=True)
    say(f"encoder {sum(p.numel() for p in vae.encoder.parameters()) / 1e6:.2f}M decoder {sum(p.numel() for p in vae.decoder.parameters()) / 1e6:.2f}M")
    rng = np.random.default_rng((it, rank))
    torch.manual_seed(it * 100 + rank)
    start, last, first = time.time(), time.time(), it
    while parallel.agree((spent := time.time() - start) < args.minutes * 60):
        left = 1 - spent / (args.minutes * 60)
        for g in opt.param_groups:
            g["lr"] = args.lr * min(1, (it - first + 1) / 60) * min(1., max(.03, left / .4))
        steps = to_steps(batch(pools, rng, args.batch))
        b, t = steps.shape[:2]
        z, _ = vae.encoder(encoder_input(steps), t)
        noise = .05 * torch.randn_like(z) * (vae.std[:, None, None] if args.freeze_encoder else 1)
        r, _ = vae.decoder(z + noise, t)
        d = r - decoder_target(steps)
        d = d.view(b, t * 4, *d.shape[1:])[:, 3:].flatten(0, 1)  # the first frame's three copies do not count
        full = F.pixel_shuffle(d, 4)
        edges = (full[..., 1:] - full[..., :-1]).abs().mean() + (full[..., 1:, :] - full[..., :-1, :]).abs().mean()
        mse = d.square().mean()
        loss = d.abs().mean() + edges + 2 * mse + .01 * (z.square().mean() - 1).clamp(min=0)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        parallel.average_gradients(vae.parameters(), workers)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.)
        opt.step()
        it += 1
        with torch.no_grad():
            for k, v in vae.state_dict().items():
                average[k].lerp_(v, max(.01, 1 / (it - first)))
        ema = mse.item() if ema is None else .97 * ema + .03 * mse.item()
        if it % 25 == 0:
            say(f"{it} {spent:.0f}s loss {loss.item():.4f} train {10 * np.log10(4 / ema):.2f} dB latents {z.std().item():.2f}")
        if rank == 0 and time.time() - last > 150:
            last = time.time()
            live = {k: v.clone() for k, v in vae.state_dict().items()}
            vae.load_state_dict(average)
            say(f"{it} held out {psnr(vae, pools[0][:4]):.2f} dB")
            vae.load_state_dict(live)
            save(checkpoint, vae=live, average=average, opt=opt.state_dict(), it=it)
    if rank == 0:
        save(checkpoint, vae=vae.state_dict(), average=average, opt=opt.state_dict(), it=it)
        vae.load_state_dict(average)
        say(f"{it} held out {psnr(vae, pools[0][:40]):.2f} dB (40 clips)")


if __name__ == "__main__":
    main()
