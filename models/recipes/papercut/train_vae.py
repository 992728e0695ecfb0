"""Trains the autoencoder on rendered clips: python -m papercut.train_vae --minutes 40 [--resume]"""
from __future__ import annotations

import argparse
import copy
import pathlib
import time

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from . import parallel
from .checkpoints import fit, load, save
from .critic import PictureCritic, Seen, Sharpener
from .data import add_work, cores, decoder_target, encoder_input, faults_path, make_pool, prefetch, to_steps
from .optim import MuonAdam, descend, take_average
from .vae import VAE

CROP = 128
APART = 1, 2  # frames between which motion is followed, by turns of four steps, for every second may be of imagined latents
FOLLOWED = .15  # what is led along a motion and differs by less than this, in -1..1, is the same place of a thing
BETWEEN = 2.  # what a change from one latent frame to the next counts more than inside of one, for videos jump there
JUDGED = 6  # frames in a row that a critic sees of each clip
SIZES = {"wide": (256, 160), "square": (192, 192)}


def held_out(pool: np.ndarray) -> int:
    """How many clips at the start of a pool are never trained on."""
    return min(40, len(pool) // 10)


def psnr(vae: VAE, clips: np.ndarray, faults: np.ndarray | None = None) -> float:
    """Mean over clips (uint8 [n, 1+4k, H, W, 3]) of the peak signal-to-noise ratio in dB; with these faults [n, T, C, h, w] in the latents."""
    values, device = [], vae.mean.device
    with torch.no_grad():
        for i, clip in enumerate(clips):
            steps = to_steps(torch.from_numpy(clip[None].copy()).to(device))
            z = vae.encoder(encoder_input(steps), steps.shape[1])[0]
            r, _ = vae.decoder(z if faults is None else z + torch.from_numpy(faults[i].astype(np.float32)).to(device), steps.shape[1])
            d = (r.clamp(-1, 1) - decoder_target(steps))[3:]
            values.append(10 * np.log10(4 / d.square().mean().item()))
    return float(np.mean(values))


def batch(pools, rng, size: int) -> torch.Tensor:
    """Random crops: uint8 [size, 13, CROP, CROP, 3], or twice as many of 5 frames: more scenes for the same work.  Of two places the one where more
    moves is taken, for that is what is hard."""
    out = []
    size, frames = (2 * size, 5) if rng.random() < .6 else (size, 13)
    for _ in range(size):
        pool = pools[rng.choice(len(pools), p=[.75, .25])]
        clip = pool[rng.integers(held_out(pool), len(pool))]
        t = rng.integers(0, clip.shape[0] - frames + 1)
        places = [(rng.integers(0, clip.shape[1] - CROP + 1), rng.integers(0, clip.shape[2] - CROP + 1)) for _ in range(2)]
        piece = max((clip[t:t + frames, y:y + CROP, x:x + CROP] for y, x in places), key=lambda p: np.abs(p[4].astype(np.int16) - p[0]).mean())
        out.append(piece[:, :, ::-1] if rng.random() < .5 else piece)
    return torch.from_numpy(np.stack(out))


def imagined_batch(pool: np.ndarray, faults: np.ndarray, rng, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops of whole clips with the faults of what the transformer makes of them (imagine.py): uint8 [size, F, CROP, CROP, 3] and float
    [size * T, C, CROP/16, CROP/16]."""
    clips, z, n = [], [], CROP // 16
    for i in rng.integers(held_out(pool), len(faults), size):
        y, x = rng.integers(0, faults.shape[3] - n + 1), rng.integers(0, faults.shape[4] - n + 1)
        clips.append(pool[i, :, 16 * y:16 * y + CROP, 16 * x:16 * x + CROP])
        z.append(faults[i, :, :, y:y + n, x:x + n])
    return torch.from_numpy(np.stack(clips)), torch.from_numpy(np.concatenate(z).astype(np.float32))


def cut(values: torch.Tensor, at: int) -> torch.Tensor:
    """Clips [n, T, ...] of which each begins with the steps before `at` of another: with given frames that do not fit, a decoder has to show
    what it is given, whatever came before."""
    return torch.cat([values[:, :at].roll(1, 0), values[:, at:]], 1)


def flows(clips: np.ndarray, apart: int) -> torch.Tensor:
    """Where the points of frames of uint8 [n, F, H, W, 3] are `apart` frames later, in pixels: float [n, F - apart, H, W, 2], x before y, by dense
    inverse search (arXiv:1603.03590)."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [[cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in clip] for clip in np.ascontiguousarray(clips)]
    return torch.from_numpy(np.stack([[search.calc(a, b, None) for a, b in zip(clip, clip[apart:])] for clip in grey]))


def led(frames: torch.Tensor, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What frames [n, C, H, W] hold where flow [n, H, W, 2] leads, and whether that lies in the picture, bool [n, 1, H, W]."""
    h, w = frames.shape[2:]
    y, x = torch.meshgrid(torch.arange(h, device=flow.device), torch.arange(w, device=flow.device), indexing="ij")
    place = (flow + torch.stack([x, y], -1)) * 2 / flow.new_tensor([w - 1, h - 1]) - 1
    return F.grid_sample(frames, place, padding_mode="border", align_corners=True), (place.abs() <= 1).all(-1)[:, None]


def between(frames: int, apart: int) -> torch.Tensor:
    """How much the change from each frame to the one `apart` later counts [frames - apart], 1 on average; the first frame is a latent frame alone."""
    latent = (torch.arange(frames) + 3) // 4
    weight = 1 + (BETWEEN - 1) * (latent[apart:] != latent[:-apart]).float()
    return weight / weight.mean()


def flickers(error: torch.Tensor, wanted: torch.Tensor, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much an error [n, F, C, H, W] changes between frames flow [n, F - apart, H, W, 2] leads from and to: along the motion where the wanted picture,
    in -1..1, can be followed, for there it is seen as trembling, else in its place; and how much of that is where it can be followed."""
    weight = between(error.shape[1], error.shape[1] - flow.shape[1]).to(error.device).repeat(len(error))[:, None, None, None]
    (now, then), (here, there) = ((x[:, :flow.shape[1]].flatten(0, 1), x[:, -flow.shape[1]:].flatten(0, 1)) for x in (error, wanted))
    flow = flow.flatten(0, 1)
    with torch.no_grad():
        target, inside = led(there, flow)
        followed = inside & ((target - here).abs().amax(1, keepdim=True) < FOLLOWED)
    change = weight * torch.where(followed, led(then, flow)[0] - now, then - now).abs()
    return change.mean(), (change * followed).mean()


def main() -> None:
    gpu = parallel.device().type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__)
    add_work(parser)
    parser.add_argument("--minutes", type=float, default=7.5 if gpu else 60, help="how long to train, without rendering (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--from", dest="source", type=pathlib.Path, help="start from this checkpoint of another, perhaps narrower, autoencoder")
    parser.add_argument("--freeze-encoder", action="store_true", help="train the decoder alone, so that latents already made stay valid")
    parser.add_argument("--imagined", action="store_true", help="every second step decodes latents with the faults that they have when the transformer makes them (papercut.imagine)")
    parser.add_argument("--sharpen", type=float, default=0., help="with --imagined: what a critic of what is drawn of such latents counts, as a share of its error (0: there is none)")
    parser.add_argument("--stay", type=float, default=0., help="weight of how far latents go from where they were, in their standard deviations, so that a transformer that knows them can go on")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--flicker", type=float, default=2., help="weight of the change of the error from frame to frame")
    parser.add_argument("--still", type=float, default=5., help="how many times as much it counts where the picture can be followed along its motion, most of which stands still, where the least flicker shows")
    parser.add_argument("--noise", type=float, default=.05, help="noise on latents that the decoder learns to bear, as a share of their size")
    parser.add_argument("--processes", type=int, default=parallel.workers())
    parser.add_argument("--batch", type=int, default=48 if gpu else 2, help="clips of 13 frames a process and step (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=4000 if gpu else 1600, help="clips to render (default: %(default)s)")
    args = parser.parse_args()
    if args.sharpen and not args.imagined:
        parser.error("--sharpen needs --imagined: it is of such latents that edges are soft")
    if args.stay and not args.resume:
        parser.error("--stay needs --resume: there are no latents yet to stay with")
    for i, (name, (width, height)) in enumerate(SIZES.items()):
        make_pool(args.work / f"data/{name}", args.clips // 4 ** i, width, height, 17, i + 1, 3., cores())
    parallel.run(train, args.processes, args)


def train(rank: int, workers: int, args) -> None:
    torch.manual_seed(0)
    device = parallel.device()
    pools = [np.load(args.work / f"data/{n}.npy", mmap_mode="r") for n in SIZES]
    vae = VAE().to(device, memory_format=torch.channels_last)
    checkpoint = args.work / "vae.pt"
    matrix = lambda name, p: not name.startswith(("encoder.inp", "encoder.out", "decoder.out", "decoder.stay", "decoder.inp"))
    opt = MuonAdam(vae.named_parameters(), args.lr, matrix)
    it, ema, kept = 0, None, {}
    if args.resume and checkpoint.exists():
        state = load(checkpoint)
        # A frozen encoder is the averaged one, which made the latents there are.
        vae.load_state_dict(state["average"] if args.freeze_encoder else state.get("vae", state["average"]))
        if not args.freeze_encoder and "opt" in state:
            opt.load_state_dict(state["opt"])
        it = state["it"]
    elif args.source:
        with torch.no_grad():
            fit(vae, (state := load(args.source))["average"])
        it = state["it"]  # what the other one learned is in these weights
    if args.freeze_encoder:
        vae.encoder.requires_grad_(False)
    if args.freeze_encoder or args.stay:
        kept = {"importance": state["importance"]}
    spread, before = vae.std[:, None, None].clone(), copy.deepcopy(vae.encoder).requires_grad_(False)
    if not kept:  # what was measured of the latents is no longer true
        vae.mean.zero_(), vae.std.fill_(1)
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    say = lambda *x: rank == 0 and print(*x, flush=True)
    say(f"encoder {sum(p.numel() for p in vae.encoder.parameters()) / 1e6:.2f}M decoder {sum(p.numel() for p in vae.decoder.parameters()) / 1e6:.2f}M on {device}")
    rng = np.random.default_rng((it, rank))
    torch.manual_seed(it * 100 + rank)
    start, last, first = time.time(), time.time(), it
    batches = prefetch(lambda _: batch(pools, rng, args.batch), 4 if device.type == "cuda" else 0)
    imagined = np.load(faults_path(args.work, "wide"), mmap_mode="r") if args.imagined else None
    sharpener = Sharpener(PictureCritic().to(device, memory_format=torch.channels_last), args.sharpen) if args.sharpen else None

    def judge(clips: int) -> None:
        live = {k: v.clone() for k, v in vae.state_dict().items()}
        vae.load_state_dict(average)
        as_made = "" if imagined is None else f", {psnr(vae, pools[0][:clips], imagined[:clips]):.2f} dB of what the transformer makes"
        say(f"{it} held out {psnr(vae, pools[0][:clips]):.2f} dB{as_made} ({clips} clips)")
        vae.load_state_dict(live)
        save(checkpoint, vae=live, average=average, opt=opt.state_dict(), it=it, **kept)

    while parallel.agree((spent := time.time() - start) < args.minutes * 60):
        left = 1 - spent / (args.minutes * 60)
        clips, faults = imagined_batch(pools[0], imagined, rng, args.batch) if imagined is not None and it % 2 == 0 else (next(batches), None)
        steps = to_steps(clips.to(device))
        b, t = steps.shape[:2]
        with parallel.autocast():
            z = vae.encoder(encoder_input(steps), t)[0]
            with torch.no_grad():
                was = before(encoder_input(steps), t)[0] if args.stay else z
            shown = z
            if it % 8 == 3:
                at = int(rng.integers(1, t))
                shown, steps = cut(z.view(b, t, *z.shape[1:]), at).flatten(0, 1), cut(steps, at)
            # From faults the decoder learns alone: an encoder would make its latents so large that they look small.
            r, _ = vae.decoder(shown + args.noise * torch.randn_like(z) * spread if faults is None else z.detach() + faults.to(device), t)
        by_frame = lambda x: F.pixel_shuffle(x, 4).view(b, t * 4, 3, *steps.shape[3:5])[:, 3:]  # the first frame's three copies do not count
        wanted = by_frame(decoder_target(steps))
        d = by_frame(r.float()) - wanted
        flow = flows(steps.flatten(1, 2)[:, 3:].cpu().numpy(), APART[it // 4 % len(APART)]).to(device)
        flicker, followed = flickers(d, wanted, flow)
        full = d.flatten(0, 1)
        edges = (full[..., 1:] - full[..., :-1]).abs().mean() + (full[..., 1:, :] - full[..., :-1, :]).abs().mean()
        mse = full.square().mean()
        loss = full.abs().mean() + edges + args.flicker * (flicker + (args.still - 1) * followed) + 24 * mse + .01 * (z.float().square().mean() - 1).clamp(min=0)
        strayed = ((z - was) / spread).square().mean() if args.stay else torch.zeros(())
        loss = loss + args.stay * strayed
        if sharpener and faults is not None:
            at = int(rng.integers(0, wanted.shape[1] - JUDGED + 1))
            some = lambda x: x[:, at:at + JUDGED].transpose(1, 2)
            seen = lambda r: Seen(sharpener.critic, some(by_frame(r)), some(wanted), torch.ones(b, JUDGED, device=device))
            loss = loss + sharpener.loss(loss, r, seen(r.float()))
        descend(opt, loss, vae, workers, args.lr * min(1, (it - first + 1) / 60) * min(1., max(.03, left / .4)), clip=1.)
        if sharpener and faults is not None:
            sharpener.learn(seen(r.detach().float()), workers)
        it += 1
        take_average(average, vae.state_dict(), it - first)
        if it % 25 == 0:
            ema = mse.item() if ema is None else .8 * ema + .2 * mse.item()
            say(f"{it} {spent:.0f}s loss {loss.item():.4f} flicker {flicker.item():.4f} where followed {followed.item():.4f} train {10 * np.log10(4 / ema):.2f} dB latents {z.std().item():.2f} strayed {strayed.item() ** .5:.2f}" + (sharpener.say() if sharpener else ""))
        if rank == 0 and time.time() - last > 150:
            last = time.time()
            judge(4)
    if rank == 0:
        judge(held_out(pools[0]))


if __name__ == "__main__":
    main()
