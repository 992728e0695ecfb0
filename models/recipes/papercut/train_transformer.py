"""Trains text encoder and transformer on latents: python -m papercut.train_transformer --minutes 50 [--resume]

The curriculum runs with the clock: captions alone (text encoder), drafts alone (--draft-minutes), then mostly single images, then
chunks and longer sequences.  Every chunk of a sequence has its own noise level (diffusion forcing) and is often clean, as the past is when
a video is made; inside a chunk any subset of frames may be clean, as when frames are given.  In the last part guidance
is baked in: the target becomes what classifier-free guidance would give.
"""
from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import itertools
import pathlib
import pickle
import random
import time

import numpy as np
import torch
from torch.nn import functional as F

from . import parallel
from .captions import ATTRIBUTES, UNSAID, caption
from .checkpoints import load, load_vae, save, with_words
from .data import add_work, prefetch
from .optim import MuonAdam
from .prepare import APART, POOLS
from .text_encoder import TextEncoder, targets
from .tokenizer import make_tokenizer, pad_batch, words_of
from .transformer import CHUNK, Transformer
from .world import WORLD, Scene

KINDS = ("images", "clips", "sequences")
SUBJECT_WEIGHT = {"images": 5., "clips": 2., "sequences": 2.}  # what an error on a subject counts more than elsewhere; where all moves, less: a background that stands still is seen as well
MOVEMENTS = {"static": .15, "pan": .25, "zoom": .25, "tilt": .2, "orbit": .2, "approach": .15, "static beside": .2, "zoom beside": .2}  # how often they are drawn, however many of each there are
BEGINNINGS = .9  # how often what follows on a single frame is a scene's own beginning
SELDOM = 2.  # how much more often than there are pillars and second subjects are drawn
STAY_WEIGHT = 2.  # what it counts that the text encoder makes something else of words it knew before
NOISY_PAST = .1  # the most noise that drafts get used to in what they follow on
DRAFT_WEIGHT = .2  # what the draft's own error counts
DRAFT_FRAMES = 80  # latent frames a process and step while drafts are trained alone
LEAST = .04  # at less noise than this a frame counts as clean: nothing is learned from it
DREAMS = 1.5  # how far drafts are led from the truth, as a multiple of where their own frames lead them
LAST_STEP = .5, .9  # the noise that a network's own past is made from
OWN_PAST = .5  # how often the past is what the network itself makes of it
CHANGE_WEIGHT = 1.  # what the change of the error from frame to frame counts: what moves, and what flickers


def shares(kind: str) -> dict[str, float]:
    """How often each pool of a kind is drawn from."""
    return {n: p[0] for n, p in POOLS.items() if n.startswith(kind)}


def movement(scene: Scene) -> str:
    """What the camera does, and whether it does so beside a traveller; or that somebody comes or goes."""
    return "approach" if scene.direction in ("towards", "away") else scene.camera.split()[0] + " beside" * scene.travels


def odds(pool: str, scenes: list[Scene]) -> list[float]:
    """How often the scenes of a pool are drawn: all subjects alike, kinds of movement, where there is any, as often as MOVEMENTS says,
    and what there is little of more often."""
    counts = collections.Counter(map(movement, scenes))
    of_movement = lambda s: 1 if pool.startswith("images") else MOVEMENTS[movement(s)] / counts[movement(s)]
    seldom = lambda s: SELDOM if s.pillars or s.other != "none" else 1
    return [of_movement(s) * seldom(s) / WORLD.subjects[s.subject] for s in scenes]


@dataclasses.dataclass
class Pool:
    """Clips of one kind and size: latents float16 [n, C, T, h, w], normalised, masks of the subjects u8 [n, T, h, w], scenes, and when in their scene
    they begin, in seconds."""
    latents: np.ndarray
    masks: np.ndarray
    scenes: list[Scene]
    starts: np.ndarray

    def __add__(self, other: "Pool") -> "Pool":
        both = lambda a, b: np.concatenate([a, b])
        return Pool(both(self.latents, other.latents), both(self.masks, other.masks), self.scenes + other.scenes, both(self.starts, other.starts))


class Latents:
    """All clips in memory, by pool, and running sums of how often each is drawn: of all, and of those that begin as their scene does."""

    def __init__(self, work: pathlib.Path):
        vae, _ = load_vae(work)
        self.folder = work / "data"
        self.mean, self.std = (v.cpu().numpy()[:, None, None, None] for v in (vae.mean, vae.std))
        # The more of the picture hangs on a channel, the more its errors count, by the root, so that details count as well: [C, 1, 1], mean 1.
        root = load(work / "vae.pt")["importance"].float().cpu().sqrt()
        self.channel_weight = (root / root.mean())[:, None, None]
        self.pools: dict[str, Pool] = {}
        self.often: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.seen: set[pathlib.Path] = set()
        self.refresh()
        for kind in KINDS:
            if not any(name.startswith(kind) for name in self.pools):
                raise SystemExit(f"no {kind} in {self.folder}: run papercut.prepare, for longer")

    def refresh(self) -> None:
        """Takes up the files that have come since."""
        for name in POOLS:
            for path in sorted({p for p in self.folder.glob(f"latents-{name}-*.npz") if p.stem[len(f"latents-{name}-"):].isdigit()} - self.seen):
                self.seen.add(path)
                part = np.load(path)
                if "starts" not in part:
                    raise SystemExit(f"{path} does not say when in their scenes its clips begin: delete it and run papercut.prepare again")
                pool = Pool(part["latents"], part["masks"], pickle.loads(part["scenes"].tobytes()), part["starts"])
                for z in np.array_split(pool.latents, len(pool.scenes) // 256 + 1):
                    z[:] = (z - self.mean) / self.std
                self.pools[name] = pool = self.pools[name] + pool if name in self.pools else pool
                often = np.array(odds(name, pool.scenes))
                self.often[name] = often.cumsum(), (often * (pool.starts == 0)).cumsum()

    def draw(self, rng: random.Random, kind: str, count: int, chunk: torch.Tensor):
        """`count` frames' worth of a kind, for the frames' chunks [frames]: latents [n, C, frames, h, w], masks [n, frames, h, w] in 0..1, the
        frames' numbers, scenes.  Long sequences may leave a gap after the first chunk, as a video's window does.  Where a single frame comes first,
        it is nearly always a scene's own first, as in a video: of a later one nobody could tell how far a step or a camera's move had come."""
        frames, begins = len(chunk), int(chunk.eq(0).sum()) == 1 and rng.random() < BEGINNINGS
        weights = {n: w for n, w in shares(kind).items() if n in self.pools}
        name = rng.choices(list(weights), list(weights.values()))[0]
        pool, often = self.pools[name], self.often[name][begins]
        length, rows, columns = pool.latents.shape[2:]
        clips = rng.choices(range(len(pool.scenes)), cum_weights=often, k=max(1, round(count * 160 / (frames * rows * columns))))
        apart = name.endswith(APART)
        gap = rng.randrange(length - frames + 1) if frames > 2 * CHUNK and (apart or rng.random() < .4) else 0
        take = np.array([*range(min(CHUNK, frames)), *range(CHUNK + gap, frames + gap)])
        times = torch.from_numpy(np.where(take < CHUNK, take, take + 1000 * apart))
        x0, masks = (torch.from_numpy(x.astype(np.float32)) for x in (pool.latents[clips][:, :, take], pool.masks[clips][:, take]))
        return x0, masks / 255, times, [pool.scenes[i] for i in clips]


def chunks_of(frames: int, rng: random.Random) -> torch.Tensor:
    """Which chunk each frame is in [frames].  Most sequences start from a single frame, as scenes do when they are made; short
    ones are also cut elsewhere."""
    start = rng.choice(((1, 2), (1, 2), ()) if frames > 2 * CHUNK else ((1, 2), (1, 2), (1,), (2,), ()))
    lengths = [*start, *[CHUNK] * frames]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[:frames]


def behind_gap(chunk: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """bool [frames]: those of a chunk before which frames are missing; such a chunk is what others follow on, and nothing is learned from it."""
    first = F.pad((times.diff() > 1).to(chunk), (1, 0)) * chunk  # the number of such a chunk, where it begins
    return (chunk == first.max()) & (chunk > 0)


def noise_levels(n: int, chunk: torch.Tensor, times: torch.Tensor, shift: float) -> torch.Tensor:
    """sigma [n, frames] for frames of the chunks [frames].  Frames of a chunk share a level, or some of them are clean; in every
    sequence at least one frame is noisy.  A first frame that others follow on is clean, for first frames are learned from images, which
    show how scenes begin, and so is what lies behind a gap."""
    frames = len(chunk)
    chunks = int(chunk[-1]) + 1
    s = torch.sigmoid(torch.randn(n, chunks))
    s = shift * s / (1 + (shift - 1) * s)
    s = torch.where(torch.rand(n, chunks) < .1, 1., s)
    given = torch.zeros(chunks, dtype=torch.bool)
    given[chunk[behind_gap(chunk, times)]] = True
    given[0] |= chunks > 1 and int(chunk[1]) == 1
    free = (~given).nonzero()[:, 0]
    noisy = free[torch.randint(len(free), (n,))]
    if chunks > 1:
        clean = (torch.rand(n, chunks) < .7) | given
        clean[torch.arange(n), noisy] = False
        s = torch.where(clean, torch.where(torch.rand(n, chunks) < .5, 0., .1 * torch.rand(n, chunks)), s)
    sigma = s[:, chunk]
    if frames > 1:
        some = (torch.rand(n, 1) < .25) & (torch.rand(n, frames) < torch.rand(n, 1))
        keep = (chunk == noisy[:, None]).float() * (torch.rand(n, frames) + .1)  # one frame of the noisy chunk stays so
        some[torch.arange(n), keep.argmax(1)] = False
        sigma = torch.where(some, 0., sigma)
    return sigma


def weighted_errors(error: torch.Tensor, weight: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean square of `error` [B, C, T, h, w] under `weight` [B, 1, T, h, w], and that of half its change between neighbours of
    one noise level sigma [B, T]: equal for errors that have nothing in common, 0 for those that stay."""
    mean = lambda x, w: (x.square() * w).sum() / (w.sum().clamp(min=1) * x.shape[1])
    alike = (sigma[:, 1:] == sigma[:, :-1]).float()[:, None, :, None, None]
    return mean(error, weight), .5 * mean(error.diff(dim=2), torch.minimum(weight[:, :, 1:], weight[:, :, :-1]) * alike)


def guess(net: Transformer, x0: torch.Tensor, gist: torch.Tensor, chunk: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The draft of every chunk from the frames before it, which are a little noisy at times: mean and logarithm of the variance,
    [n, T, C, h, w]."""
    level = (NOISY_PAST * torch.rand(len(x0), device=x0.device) * (torch.rand(len(x0), device=x0.device) < .6))[:, None, None, None, None]
    return net.drafts_of_chunks((1 - level) * x0 + level * torch.randn_like(x0), gist, chunk, times)


def dreamt(net: Transformer, x0: torch.Tensor, gist: torch.Tensor, chunk: torch.Tensor, times: torch.Tensor, rounds: int) -> torch.Tensor:
    """x0 as drafts make it of frames that they made themselves, chunk after chunk up to `rounds` deep, in a share of the sequences and
    more or less, or even beyond: a draft that follows on these must lead back, or faults grow without end in a long video."""
    chosen = torch.rand(len(x0), device=x0.device) < OWN_PAST
    if not chosen.any():
        return x0
    own, true, seen = x0[chosen], x0[chosen], x0.clone()
    away = DREAMS * torch.rand(len(own), 1, 1, 1, 1, device=x0.device)
    for _ in range(rounds):
        mean, log_variance = net.drafts_of_chunks(own, gist[chosen], chunk, times)
        made = (mean + (.5 * log_variance).exp() * torch.randn_like(mean)).transpose(1, 2).float()
        own = torch.where(((chunk > 0) & ~behind_gap(chunk, times))[:, None, None], true + away * (made - true), true)
    seen[chosen] = own
    return seen


def lived(net: Transformer, x0: torch.Tensor, embeds: torch.Tensor, mask: torch.Tensor, chunk: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """x0 as the network itself makes it in the last step of a video, chunk after chunk: each from the noisy truth, so that it stays with
    it, but after what was made before, so that faults pile up as they do in a long video."""
    past, whole, first, given = [net.no_past(x0)] * 2, [], 0, behind_gap(chunk, times)
    made, drawn = x0[:, :, :0], [x0[:, :, :0].transpose(1, 2)] * 2  # the chunk before this one, and its draft
    for n in chunk.unique_consecutive(return_counts=True)[1].tolist():
        p, seen = made.shape[2], torch.cat([*whole, x0[:, :, first:first + n]], 2)
        is_new = (torch.arange(first + n, device=x0.device) >= first).long()
        draft = [y[:, -n:] for y in net.drafts_of_chunks(seen, embeds[:, 0], is_new, times[:first + n])]
        s = (LAST_STEP[0] + (LAST_STEP[1] - LAST_STEP[0]) * torch.rand(len(x0), 1, device=x0.device)).expand(-1, n)
        x = (1 - s[:, None, :, None, None]) * x0[:, :, first:first + n] + s[:, None, :, None, None] * torch.randn_like(x0[:, :, :n])
        of_two = (torch.arange(p + n, device=x0.device) >= p).long()
        v, *kept = net(torch.cat([made, x], 2), 1000 * F.pad(s, (p, 0)), embeds, mask, *past, of_two, [torch.cat(y, 1) for y in zip(drawn, draft)])
        past = [torch.cat([old, new[:, :, :p]], 2) for old, new in zip(past, kept)]
        made, drawn = x - s[:, None, :, None, None] * v[:, :, p:].float(), draft
        if given[first]:
            made = x0[:, :, first:first + n]
        first += n
        whole.append(made)
    return torch.cat(whole, 2)


def imagined(net: Transformer, x0, sigma, embeds, mask, chunk, times) -> torch.Tensor:
    """x0 with its clean frames as the network itself makes them (`lived`), in some of the sequences: what a video's next chunk follows on is
    not the truth but a picture with the network's faults (the idea of Self Forcing, arXiv:2506.08009)."""
    some = torch.rand(len(x0), device=x0.device) < OWN_PAST
    if not some.any():
        return x0
    own, out = sigma[some] < LEAST, x0.clone()
    out[some] = torch.where(own[:, None, :, None, None], lived(net, x0[some], embeds[some], mask[some], chunk, times), x0[some])
    return out


def draft_loss(draft, x0: torch.Tensor, subject: torch.Tensor, chunk: torch.Tensor, times: torch.Tensor, channel_weight) -> tuple[torch.Tensor, torch.Tensor]:
    """How unlikely the frames x0 [n, C, T, h, w] are by their draft, and its mean square error, of single frames and of those that follow
    on others (what clips begin with is no scene's beginning, and behind a gap there is no draft); subject [n, T, h, w], channel_weight [C, 1, 1].
    Each term counts by the root of its variance, so that what is hard to tell is learned as well (beta-NLL, arXiv:2203.09168)."""
    alone = not int(chunk[-1])
    guessed = ((chunk > 0) | alone) & ~behind_gap(chunk, times)
    mean, log_variance = (y[:, guessed] for y in draft)
    error = (x0.transpose(1, 2)[:, guessed] - mean).square()
    unlikely = channel_weight * (log_variance + error * (-log_variance).exp()) * (.5 * log_variance.detach()).exp()
    weight = 1 + SUBJECT_WEIGHT["images" if alone else "clips"] * subject[:, guessed, None]
    return .5 * (unlikely * weight).mean(), (channel_weight * error).mean()


def tokens(tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = pad_batch(tokenizer, texts)
    return torch.tensor(ids), torch.tensor(mask)


def captions_of(scenes: list[Scene], rng: random.Random, drop: float) -> tuple[list[str], list[dict[str, str]]]:
    pairs = [("", dict.fromkeys(ATTRIBUTES, UNSAID)) if rng.random() < drop else caption(s, rng) for s in scenes]
    return [t for t, _ in pairs], [s for _, s in pairs]


def main() -> None:
    gpu = parallel.device().type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__)
    add_work(parser)
    parser.add_argument("--minutes", type=float, default=7 if gpu else 60)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--begin", type=float, default=0., help="where in the curriculum to begin, 0..1 (for a resumed run)")
    parser.add_argument("--end", type=float, default=1., help="where in the curriculum to end (if another run will resume)")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--processes", type=int, default=parallel.workers())
    parser.add_argument("--frames", type=int, default=512 if gpu else 30, help="latent frames of 256x160 a process and step, or as many tokens of other sizes (default: %(default)s)")
    parser.add_argument("--width", type=int, default=384 if gpu else 256, help="of the transformer, a multiple of 64 (default: %(default)s; a resumed run keeps its own)")
    parser.add_argument("--layers", type=int, default=6, help="of the transformer, likewise")
    parser.add_argument("--text-steps", type=int, default=120, help="steps on captions alone, at first (default: %(default)s)")
    parser.add_argument("--captions", action="store_true", help="take these steps in a resumed run too, for captions that are not understood yet")
    parser.add_argument("--draft-minutes", type=float, default=1. if gpu else 6., help="of drafts alone, after that (0 for a resumed run that has them)")
    parser.add_argument("--frozen", action="store_true", help="leave text encoder and drafts as they are, once they are good: steps are faster")
    parser.add_argument("--shift", type=float, default=3.)
    parser.add_argument("--bake", type=float, default=.85, help="from here in the curriculum on guidance is baked in (1: never)")
    parser.add_argument("--scale", type=float, default=2.5, help="the guidance scale baked in")
    args = parser.parse_args()
    parallel.run(train, args.processes, args)


def kind_of_step(it: int, progress: float) -> tuple[str, torch.Tensor]:
    """What a step trains on, the same for all processes so that none waits: a kind of pool and the frames' chunks."""
    dice = random.Random(it)
    x = dice.random()
    if progress < .4:
        kind = "images" if x < .75 else "clips"
    else:
        kind = "images" if x < .2 else "clips" if x < .8 else "sequences"
    frames = 1 if kind == "images" else dice.choice((3, 5, 5)) if kind == "clips" else dice.choice((9, 12, 15))
    return kind, chunks_of(frames, dice)


def is_matrix(name: str, p: torch.Tensor) -> bool:
    """Whether Muon updates this parameter: what maps features to features."""
    inside = any(k in name for k in (".blocks.", ".layers.", ".before.", ".after.", "draft.a.", "draft.b.", "draft.recall.", "draft.look.", "draft.weigh.", "draft.move.", "beginning.a.", "said", "pooled", "time", "inp", "out"))
    return inside and not any(k in name for k in ("table", "kinds", "scale", "level", "local"))


class Run:
    """What is trained, its average, and how: one process's share of a training run."""

    def __init__(self, rank: int, workers: int, args):
        self.rank, self.workers, self.args, self.device = rank, workers, args, parallel.device()
        self.checkpoint, self.tokenizer = args.work / "transformer.pt", make_tokenizer()
        state = load(self.checkpoint) if args.resume and self.checkpoint.exists() else {}
        self.shape = state.get("shape", {"d": args.width, "layers": args.layers})
        self.both = torch.nn.ModuleDict({"text": TextEncoder(self.tokenizer.get_vocab_size()), "net": Transformer(**self.shape)}).to(self.device)
        self.text, self.net = self.both["text"], self.both["net"]
        self.opt = MuonAdam(self.both.named_parameters(), args.lr, is_matrix, adam_scale=.4)
        self.it, self.resumed, self.words = state.get("it", 0), bool(state), words_of(self.tokenizer)
        known = state.get("words", self.words)
        self.new_words = torch.tensor([i for i, word in enumerate(self.words) if word not in known], device=self.device)
        if known != self.words:
            made = self.both.state_dict()
            state |= {name: with_words(state[name], known, made, self.words) for name in ("live", "average") if name in state}
            state.pop("opt", None)
        if state:
            self.both.load_state_dict(state.get("live", state["average"]))
            if "opt" in state:
                self.opt.load_state_dict(state["opt"])
        self.average = {k: v.clone() for k, v in state.get("average", self.both.state_dict()).items()}

    def say(self, *words) -> None:
        if self.rank == 0:
            print(*words, flush=True)

    def embed(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.text(*(x.to(self.device) for x in tokens(self.tokenizer, texts)))

    def update(self, loss: torch.Tensor, rate: float) -> None:
        """One step at a share `rate` of the learning rate."""
        descend(self.opt, loss, self.both, self.args.lr * rate, self.workers, clip=1.)
        self.it += 1
        with torch.no_grad():
            of_step = .012 if self.resumed else max(.012, 1 / self.it)
            for k, v in self.both.state_dict().items():
                self.average[k].lerp_(v, of_step)

    def save(self) -> None:
        if self.rank == 0:
            save(self.checkpoint, shape=self.shape, words=self.words, live=self.both.state_dict(), average=self.average, opt=self.opt.state_dict(), it=self.it)


def descend(opt: MuonAdam, loss: torch.Tensor, module: torch.nn.Module, lr: float, workers: int, clip: float = float("inf")) -> None:
    """One step of an optimiser, on the mean of all processes' gradients."""
    for g in opt.param_groups:
        g["lr"] = lr
    opt.zero_grad(set_to_none=True)
    loss.backward()
    parallel.average_gradients(module.parameters(), workers)
    torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    opt.step()


def told(rng: random.Random, seldom: bool) -> Scene:
    """A scene to be told of; if it is to be a seldom one, with something that few scenes have."""
    while True:
        scene = Scene.sample(rng)
        if not seldom or scene.pillars or scene.other != "none" or scene.weather == "rain" or movement(scene).split()[0] in ("tilt", "orbit", "approach"):
            return scene


def train_captions(run: Run) -> None:
    """Trains the text encoder alone, to tell scenes' attributes from their captions.  What it made of captions that it understood stays, for
    the transformer was trained on that: of those that its heads read right, or, where words are new and heads too, of those without them."""
    start, before, steps = time.time(), copy.deepcopy(run.text).requires_grad_(False), run.args.text_steps
    for i in range(steps):
        rng = random.Random(-i * 64 - run.rank)
        texts, said = captions_of([told(rng, bool(k % 2)) for k in range(48)], rng, .03)
        ids, mask = (x.to(run.device) for x in tokens(run.tokenizer, texts))
        embeds, _ = run.text(ids, mask)
        loss, right = run.text.attribute_loss(embeds, targets(said).to(run.device))
        strayed = torch.zeros(())
        if run.resumed:
            was = before(ids, mask)[0]
            if len(run.new_words):
                known = ~torch.isin(ids, run.new_words).any(1) & torch.tensor([x["other"] in (UNSAID, "none") for x in said], device=run.device)
            else:
                known = (before.read(was) == targets(said).to(run.device)).all(1)
            strayed = (embeds - was)[known].square().sum() / mask[known].sum().clamp(min=1) / embeds.shape[2]
            loss = loss + STAY_WEIGHT * strayed
        run.update(loss, min(1., (i + 1) / 20, max(.03, 2 * (1 - i / steps))))
        if i % 20 == 19:
            run.say(f"captions {i + 1} {time.time() - start:.0f}s loss {loss.item():.3f} right {right:.3f} strayed {strayed.item():.4f}")
    run.average |= {k: v.clone() for k, v in run.both.state_dict().items() if k.startswith("text.")}


def train_drafts(run: Run, data: Latents) -> None:
    """Trains drafts alone, on images and clean clips and sequences in turn: many more of them than the whole network sees in the same time."""
    drafts = torch.nn.ModuleDict({"draft": run.net.draft, "beginning": run.net.beginning})
    opt = MuonAdam(drafts.named_parameters(), run.args.lr, is_matrix, adam_scale=.4)
    start, it, errors, channel_weight = time.time(), 0, {}, data.channel_weight.to(run.device)
    while parallel.agree((done := (time.time() - start) / (60 * run.args.draft_minutes)) < 1):
        rng = random.Random(f"draft {run.it} {it} {run.rank}")
        kind = "images" if it % 6 == 4 else ("clips", "sequences")[it % 2]
        frames = {"images": 1, "clips": 5, "sequences": 15}[kind]
        chunk = chunks_of(frames, rng)
        x0, subject, times, scenes = data.draw(rng, kind, DRAFT_FRAMES, chunk)
        texts, _ = captions_of(scenes, rng, .12)
        x0, chunk, times = x0.to(run.device), chunk.to(run.device), times.to(run.device)
        with parallel.autocast():
            with torch.no_grad():
                gist = run.embed(texts)[0][:, 0]
                seen = dreamt(run.net, x0, gist, chunk, times, rng.randrange(int(chunk[-1]) + 1))
            loss, error = draft_loss(guess(run.net, seen, gist, chunk, times), x0, subject.to(run.device), chunk, times, channel_weight)
        descend(opt, loss, drafts, run.args.lr * min(1., (it + 1) / 20, max(.02, (1 - done) / .6)), run.workers)
        it += 1
        errors[kind] = .96 * errors.get(kind, error.item()) + .04 * error.item()
        if it % 50 == 0:
            run.say(f"drafts {it} {time.time() - start:.0f}s error " + " ".join(f"{k} {v:.3f}" for k, v in errors.items()))
    run.average |= {k: v.clone() for k, v in run.both.state_dict().items() if k.startswith(("net.draft.", "net.beginning."))}


def guided(run: Run, target, velocity, x, x0, sigma, told, chunk, times, known) -> torch.Tensor:
    """The velocity `target` with guidance, which aims at v_empty + scale * (v_told - v_empty), where `told` says that there is a prompt and
    `velocity` is what the network makes of it.  The network here is the one being guided, so the share of its own difference to add is
    1 - 1/scale: that is the fixed point, and less than 1 keeps it stable."""
    n, net = len(x0), run.net
    nothing, nothing_mask = (y.expand(n, *y.shape[1:]) for y in run.embed([""]))
    # A scene's beginning has another draft if nothing is said; of what follows movement must not be exaggerated.
    begins = (chunk == 0)[:, None, None, None]
    unsaid = [torch.where(begins, a, b) for a, b in zip(guess(net, x0, nothing[:, 0], chunk, times), known)]
    past = net.no_past(x0)
    apart = velocity - net(x, 1000 * sigma, nothing, nothing_mask, past, past, chunk, unsaid)[0]
    return target + told.float()[:, None, None, None, None] * (1 - 1 / run.args.scale) * apart.float()


def train_network(run: Run, data: Latents) -> None:
    """Trains everything but what is frozen, for `args.minutes` of the curriculum."""
    args, net, device = run.args, run.net, run.device
    channel_weight = data.channel_weight.to(device)
    first, mean_loss = run.it, {}
    start = last = time.time()
    curriculum = lambda: args.begin + (args.end - args.begin) * min(1., (time.time() - start) / (args.minutes * 60))

    def example(i: int):
        """A step's data: latents, masks, the frames' chunks and numbers, captions' ids, masks and attributes."""
        kind, chunk = kind_of_step(first + i, curriculum())
        if i % 100 == 0:
            data.refresh()
        rng = random.Random((first + i) * 64 + run.rank)
        x0, mask, times, scenes = data.draw(rng, kind, args.frames, chunk)
        texts, said = captions_of(scenes, rng, .12)
        return kind, x0, mask, chunk, times, *tokens(run.tokenizer, texts), targets(said)

    examples = prefetch(example, 4 if device.type == "cuda" else 0)
    while parallel.agree((spent := time.time() - start) < args.minutes * 60):
        progress = curriculum()
        kind, x0, subject, chunk, times, ids, said_mask, wanted = (x.to(device, non_blocking=True) if torch.is_tensor(x) else x for x in next(examples))
        sigma = noise_levels(len(x0), chunk.cpu(), times.cpu(), args.shift).to(device)
        s = sigma[:, None, :, None, None]
        noise = torch.randn_like(x0)
        bake = parallel.agree(progress >= args.bake)
        with parallel.autocast():
            embeds, mask = run.text(ids, said_mask)
            with torch.no_grad():
                seen = imagined(net, x0, sigma, embeds, mask, chunk, times) if len(chunk) > 1 else x0
            x, target, past = (1 - s) * seen + s * noise, noise - x0, net.no_past(x0)
            draft = guess(net, seen, embeds[:, 0], chunk, times)
            known = [y.detach() for y in draft]
            v, _, _ = net(x, 1000 * sigma, embeds, mask, past, past, chunk, known)
            if bake:
                with torch.no_grad():
                    target = guided(run, target, v, x, seen, sigma, said_mask.sum(1) > 1, chunk, times, known)
            told_loss, right = run.text.attribute_loss(embeds, wanted)
        weight = (sigma > LEAST).float()[:, None, :, None, None] * (1 + SUBJECT_WEIGHT[kind] * subject[:, None])
        error, change = weighted_errors((v.float() - target) * channel_weight[:, None].sqrt(), weight, sigma)
        guessing = draft_loss(draft, x0, subject, chunk, times, channel_weight)[0]  # without a gradient where it is frozen
        loss = error + CHANGE_WEIGHT * change + .1 * told_loss + DRAFT_WEIGHT * guessing
        run.update(loss, min(1., (run.it - first + 1) / 40, max(.03, (1 - progress) / .35)))
        if run.it % 5 == 0 or device.type == "cpu":
            name = kind + "*" * bake
            mean_loss[name] = .96 * mean_loss.get(name, error.item()) + .04 * error.item()
        if run.it % 25 == 0:
            losses = " ".join(f"{k} {v:.4f}" for k, v in mean_loss.items())
            run.say(f"{run.it} {spent:.0f}s {losses} captions {right:.3f}")
        if time.time() - last > 90:
            last = time.time()
            run.save()


def train(rank: int, workers: int, args) -> None:
    torch.manual_seed(0)
    run = Run(rank, workers, args)
    run.say(" ".join(f"{name} {sum(p.numel() for p in module.parameters()) / 1e6:.2f}M" for name, module in (("text encoder", run.text), ("transformer", run.net))), f"on {run.device}")
    data = Latents(args.work)
    torch.manual_seed(run.it * 1000 + rank)
    if run.it == 0 or len(run.new_words) or args.captions:
        train_captions(run)
        run.save()
    if args.draft_minutes:
        train_drafts(run, data)
        run.save()
    for module in (run.text, run.net.draft, run.net.beginning) if args.frozen else ():
        module.requires_grad_(False)
    train_network(run, data)
    run.save()


if __name__ == "__main__":
    main()
