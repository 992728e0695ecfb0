"""Makes the transformer's data: renders scenes and encodes them at once with the frozen autoencoder.

python -m papercut.prepare --minutes 4

Renders are not kept.  Every --seed adds files to those of the others, also while the transformer is being trained: it
takes them up as they come.  Stored beside the autoencoder: the latents' mean and standard deviation, and how much of the
picture hangs on each channel.
"""
from __future__ import annotations

import argparse
import itertools
import pathlib
import pickle
import time

import numpy as np
import torch

from . import parallel
from .checkpoints import load, load_vae, save
from .data import LEAD_LATENTS, OPENING, Job, add_work, cores, encoder_input, render_job, renderers, to_steps

APART = "-apart"  # of whose clips the first three latent frames are the scene's beginning and the others lie later, up to a minute (data.Job)
# name: (how much of it, as a weight: in rendered frames, and in draws among its kind; width, height, frames, latest start in seconds)
POOLS = {
    "sequences": (.1, 256, 160, 57, 3.), "sequences-deep": (.1, 256, 160, 121, 0.), f"sequences{APART}": (.1, 256, 160, 57, 0.),
    "sequences-square": (.07, 192, 192, 57, 3.), "sequences-tall": (.08, 160, 256, 57, 3.), "sequences-tall-large": (.02, 192, 320, 57, 3.), "sequences-long": (.02, 320, 160, 57, 3.),
    "clips-wide": (.41, 256, 160, 17, 3.), "clips-square": (.05, 192, 192, 17, 3.), "clips-tall": (.04, 160, 256, 17, 3.), "clips-long": (.04, 320, 160, 17, 3.), "clips-tall-large": (.01, 192, 320, 17, 3.),
    "images-wide": (.15, 256, 160, 1, 0.), "images-square": (.02, 192, 192, 1, 0.), "images-tall": (.02, 160, 256, 1, 0.), "images-long": (.02, 320, 160, 1, 0.),
    "images-wide-large": (.015, 320, 192, 1, 0.), "images-square-large": (.01, 256, 256, 1, 0.),
    "images-tall-large": (.01, 192, 320, 1, 0.), "images-long-large": (.01, 384, 192, 1, 0.),
}
FIRST_SEED = 1 << 40  # far from the seeds of the autoencoder's clips
MEASURED = ("images-wide", "clips-wide")  # what stands still and what moves
AT_ONCE = 128  # frames that a GPU encodes together


class Encoded:
    """What one pool has so far: latents f16 [C, T, h, w], masks u8 [T, h, w], scenes, and when each frame is, in latent frames since its scene
    began, f32 [T]."""

    def __init__(self):
        self.latents, self.masks, self.scenes, self.times = [], [], [], []

    def add(self, scene, latents: np.ndarray, masks: np.ndarray, times: np.ndarray) -> None:
        for values, value in zip((self.scenes, self.latents, self.masks, self.times), (scene, latents, masks, times)):
            values.append(value)

    def write(self, path: pathlib.Path) -> None:
        """Writes beside its place and renames, so that a training run never reads half a file."""
        new = path.with_suffix(".new.npz")
        np.savez(new, latents=np.stack(self.latents), masks=np.stack(self.masks), times=np.stack(self.times),
                 scenes=np.frombuffer(pickle.dumps(self.scenes), np.uint8))
        new.replace(path)


def encode(vae, clips: np.ndarray, device) -> np.ndarray:
    """uint8 [B, F, H, W, 3] -> float16 [B, C, T, h, w]"""
    with torch.no_grad(), parallel.autocast():
        steps = to_steps(torch.from_numpy(clips).to(device))
        z, _ = vae.encoder(encoder_input(steps), steps.shape[1])
    return z.view(len(clips), -1, *z.shape[1:]).transpose(1, 2).half().cpu().numpy()


def encode_apart(vae, clips: np.ndarray, device) -> np.ndarray:
    """The same of clips in two parts, without the latents that only lead up to the second."""
    return np.concatenate([encode(vae, clips[:, :OPENING], device), encode(vae, clips[:, OPENING:], device)[:, :, LEAD_LATENTS:]], 2)


def measure(*pools: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [C] of all latents [C, T, h, w] of these pools.  Of pictures alone they would not tell how large a channel is that says what moves."""
    flat = torch.cat([torch.from_numpy(np.stack(latents).astype(np.float32)).transpose(0, 1).flatten(1) for latents in pools], 1)
    return flat.mean(1), flat.std(1)


def importance(vae, latents: np.ndarray, device) -> torch.Tensor:
    """[C], mean 1: the change in the picture that the same small change of each normalised channel makes."""
    z = torch.from_numpy(latents[:, :, 0].astype(np.float32)).to(device)
    with torch.no_grad(), parallel.autocast():
        before = vae.decoder(z, 1)[0].float()
        after = [vae.decoder(z + .3 * vae.std[i] * (torch.arange(z.shape[1], device=device) == i)[:, None, None], 1)[0].float() for i in range(z.shape[1])]
    change = torch.stack([(a - before).square().mean() for a in after])
    return change / change.mean()


_vae = None  # of a process that renders and encodes


def _start(work: pathlib.Path) -> None:
    global _vae
    torch.set_num_threads(1)
    _vae, _ = load_vae(work)


def _encoded(job: Job) -> tuple:
    _, scene, clip, masks, times = render_job(job)
    return scene, (encode_apart if job.apart else encode)(_vae, clip[None], torch.device("cpu"))[0], masks, times


def draw(pool, jobs: list[Job], vae, device):
    """Yields (scene, latents, masks, times) of jobs of one size.  On CPUs who renders a clip encodes it as well: one at a time stays in
    the cache.  A GPU takes many together."""
    if device.type == "cpu":
        yield from pool.imap_unordered(_encoded, jobs)
        return
    rendered = pool.imap_unordered(render_job, jobs, chunksize=2)
    while some := list(itertools.islice(rendered, max(1, AT_ONCE // jobs[0].frames))):
        latents = (encode_apart if jobs[0].apart else encode)(vae, np.stack([clip for _, _, clip, _, _ in some]), device)
        yield from ((scene, z, masks, times) for z, (_, scene, _, masks, times) in zip(latents, some))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_work(parser)
    parser.add_argument("--minutes", type=float, default=2 if parallel.device().type == "cuda" else 6)
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other scenes, which are added")
    parser.add_argument("--moving", nargs="?", const="", metavar="CAMERA", help="only scenes that go somewhere, beside a traveller or by the camera's move; with a name (zoom), by that move")
    parser.add_argument("--paired", action="store_true", help="only scenes with a second subject")
    parser.add_argument("--pools", nargs="+", default=[""], metavar="NAME", help="only pools whose names begin so: " + ", ".join(POOLS))
    parser.add_argument("--processes", type=int, default=cores(), help="processes that render (default: %(default)s)")
    args = parser.parse_args()
    done = {name: Encoded() for name in POOLS if name.startswith(tuple(args.pools))}
    if not done:
        parser.error(f"no pool begins with {' or '.join(args.pools)}; there are {', '.join(POOLS)}")
    device, began = parallel.device(), time.time()
    vae, _ = load_vae(args.work)
    vae.to(device)
    if "importance" not in load(args.work / "vae.pt"):  # trained since: latents made before are no longer its own
        if not set(MEASURED) <= set(done) or args.moving is not None or args.paired:
            parser.error(f"the latents' measure is taken from {' and '.join(MEASURED)} of all scenes: first run without --moving, --paired and --pools")
        for old in args.work.glob("data/latents-*.npz"):
            old.unlink()
    parallel.keep_pages()
    frames_done, seed, last = dict.fromkeys(done, 0), FIRST_SEED * (1 + args.seed), began
    with renderers(args.processes, _start, (args.work,)) as pool:
        while time.time() - began < args.minutes * 60 or not all(frames_done.values()):  # something of each
            # The pool that is farthest behind its share is next.
            name = min(done, key=lambda n: frames_done[n] / POOLS[n][0])
            _, width, height, frames, latest = POOLS[name]
            n = 16 * args.processes
            jobs = [Job(i, seed + i, width, height, frames, latest, name.endswith(APART), args.moving, args.paired, masked=True) for i in range(n)]
            for clip in draw(pool, jobs, vae, device):
                done[name].add(*clip)
            seed, frames_done[name] = seed + n, frames_done[name] + n * frames
            if time.time() - last > 20:
                last = time.time()
                print(f"{last - began:.0f}s {sum(frames_done.values())} frames, {sum(len(e.scenes) for e in done.values())} clips", flush=True)
    (args.work / "data").mkdir(parents=True, exist_ok=True)
    for name, encoded in done.items():
        if encoded.scenes:
            encoded.write(args.work / f"data/latents-{name}-{args.seed}.npz")
            print(f"{name}: {len(encoded.scenes)} clips", flush=True)
    state = load(args.work / "vae.pt")
    if "importance" in state:  # latents made on another day are of the same measure
        return
    mean, std = measure(*(done[name].latents for name in MEASURED))
    for key in ("vae", "average"):
        if key in state:
            state[key]["mean"], state[key]["std"] = mean, std
    vae.mean.copy_(mean), vae.std.copy_(std)
    state["importance"] = importance(vae, np.stack(done["images-wide"].latents[:16]), device).cpu()
    save(args.work / "vae.pt", **state)
    print("latents' standard deviations:", [round(v, 2) for v in std.tolist()])
    print("channels' importance:", [round(v, 2) for v in state["importance"].tolist()])


if __name__ == "__main__":
    main()
