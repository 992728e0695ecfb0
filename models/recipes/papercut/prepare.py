"""Renders the transformer's clips and encodes them once with the frozen autoencoder: python -m papercut.prepare

With --mirror every clip is encoded a second time mirrored (its scene's left and right exchanged).  Also measures the latents' mean and
standard deviation and stores them in the autoencoder's checkpoint.
"""
from __future__ import annotations

import argparse
import pickle
import time

import numpy as np
import torch

from . import parallel
from .checkpoints import load_vae, save
from .data import add_work, make_pool
from .train_vae import encoder_input, to_steps
from .world import Scene

# name: (clips, width, height, frames, seed, latest start in seconds)
POOLS = {
    "images-wide": (6400, 256, 160, 1, 11, 5.), "images-square": (600, 192, 192, 1, 12, 5.), "images-tall": (500, 160, 256, 1, 13, 5.),
    "images-long": (500, 320, 160, 1, 14, 5.), "sequences": (240, 256, 160, 57, 15, 3.),
}
FROM_VAE = {"wide": 40, "square": 0}  # the autoencoder's own pools, without its held-out clips


def mirrored(scene: Scene) -> Scene:
    swap = {"left": "right", "right": "left", "pan left": "pan right", "pan right": "pan left"}
    return scene.with_(direction=swap.get(scene.direction, scene.direction), camera=swap.get(scene.camera, scene.camera))


def encode(rank: int, workers: int, args) -> None:
    vae, _ = load_vae(args.work)
    for name, skip in {**dict.fromkeys(POOLS, 0), **FROM_VAE}.items():
        clips = np.load(args.work / f"data/{name}.npy", mmap_mode="r")
        with open(args.work / f"data/{name}.scenes", "rb") as f:
            scenes = pickle.load(f)
        out, kept, start = [], [], time.time()
        step = max(1, 8 // clips.shape[1])
        mine = range(skip + rank * step, min(len(clips), skip + args.limit), workers * step)
        with torch.no_grad():
            for i in mine:
                block = clips[i:i + step]
                for flip in (False, True)[:1 + args.mirror]:
                    steps = to_steps(block[:, :, :, ::-1] if flip else block)
                    z, _ = vae.encoder(encoder_input(steps), steps.shape[1])
                    out.append(z.view(len(block), -1, *z.shape[1:]).transpose(1, 2).half().numpy())
                    kept += [mirrored(s) if flip else s for s in scenes[i:i + step]]
        np.savez(args.work / f"data/latents-{name}-{rank}.npz", latents=np.concatenate(out), scenes=np.frombuffer(pickle.dumps(kept), np.uint8))
        print(f"{name}: {len(kept)} clips by process {rank}, {time.time() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_work(parser)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mirror", action="store_true", help="twice the clips")
    parser.add_argument("--limit", type=int, default=10_000, help="clips of a pool at most")
    parser.add_argument("--render-only", action="store_true")
    args = parser.parse_args()
    for name, (clips, width, height, frames, seed, latest) in POOLS.items():
        make_pool(args.work / f"data/{name}", clips, width, height, frames, seed, latest, args.processes)
    if args.render_only:
        return
    parallel.run(encode, args.processes, args)
    z = np.concatenate([np.load(args.work / f"data/latents-{n}-0.npz")["latents"][:, :, 0].astype(np.float32) for n in ("images-wide", "wide")])
    z = torch.from_numpy(z).transpose(0, 1).flatten(1)
    path = args.work / "vae.pt"
    state = torch.load(path, weights_only=False)
    for key in ("vae", "average"):
        state[key]["mean"], state[key]["std"] = z.mean(1), z.std(1)
    save(path, **state)
    print("latents' standard deviations:", [round(v, 2) for v in z.std(1).tolist()])


if __name__ == "__main__":
    main()
