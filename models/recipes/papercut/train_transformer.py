"""Trains text encoder and transformer on latents: python -m papercut.train_transformer --minutes 50 [--resume]

The curriculum runs with the clock: captions alone (text encoder), drafts alone (--draft-minutes), then mostly single images, then
chunks that follow on others, which the network made itself (streams.py).  Inside a chunk any subset of frames may be clean, as when frames
are given.  In the last part guidance is baked in: the target becomes what classifier-free guidance would give.
"""
from __future__ import annotations

import argparse
import copy
import functools
import random
import time

import torch

from . import parallel
from .captions import ATTRIBUTES, UNSAID, caption
from .checkpoints import load, save, with_words
from .critic import Critic, Sharpener, latents_seen
from .data import add_work
from .latents import KINDS, Latents, movement
from .optim import MuonAdam, descend, take_average
from .streams import Stream, Underway, chunks_of, noised, past_noise, uniform
from .text_encoder import WIDTH, TextEncoder, targets
from .tokenizer import make_tokenizer, pad_batch, words_of
from .transformer import Transformer
from .vae import LATENT_CHANNELS
from .world import Scene

SUBJECT_WEIGHT = {"images": 3., "clips": 2., "sequences": 2.}  # what an error on a subject counts more than elsewhere; where all moves, less: a background that stands still is seen as well
CAPTIONS, HARD = 48, 24  # a step, and how many of them are the hardest of EXAMINED, once the text encoder has learned: what few scenes have it rarely meets
EXAMINED = 144
STAY_WEIGHT = 2.  # what it counts that the text encoder makes something else of words it knew before
LENGTHS = {"images": 1, "clips": 5, "sequences": 31}  # frames that a stream goes through
DRAFT_CLIPS = 26  # of 256x160 a process and step while drafts are trained alone
DRAFT_NOISE = .5, .9  # that drafts are told the truth through,
NETWORK_NOISE = .6, 1.  # and the network: with less, what is wrong would be put right by that alone
DRAFT_WEIGHT = .2  # what the draft's own error counts
STEPS = 1., 2 / 3  # the noise levels that videos are made through by default, two steps and a shift of 2,
FIRST_STEPS = 1., 6 / 7, 2 / 3, .4  # and a scene's first frame, four steps:
AT_STEPS = .5  # how often it is these that are trained,
OWN_FIRST = .4  # and of what follows how often the second step is, from what the network makes in the first
FAINT = .4, 1.  # by how much weaker noise may be than its level says, in half of the clips that follow on something: what stream.init_noise_sigma asks for
LEAST = .04  # at less noise than this a frame counts as clean: nothing is learned from it
CHANGE_WEIGHT = 2.  # what the change of the error from frame to frame counts: what moves, and what flickers
UNSURE = .3  # a draft's variance at which a critic has as much to say as the error: behind the picture's edge nobody knows what comes, and the mean of all that may is a mist
SLIGHT = .2  # up to this a fault of the frame before is better kept for a while than put right at once, which is seen as a jump between chunks


def noise_levels(n: int, past: int, frames: int, shift: float, steps: tuple[float, ...]) -> torch.Tensor:
    """sigma [n, past + frames]: of what lies before, which is clean or nearly, and of a chunk, whose frames share a level, often one of `steps`, or some of
    them are clean, but never all."""
    s = torch.sigmoid(torch.randn(n, 1))
    s = shift * s / (1 + (shift - 1) * s)
    s = torch.where(torch.rand(n, 1) < AT_STEPS, torch.tensor(steps)[torch.randint(len(steps), (n, 1))], s)
    some = (torch.rand(n, 1) < .25) & (torch.rand(n, frames) < torch.rand(n, 1))
    some[torch.arange(n), torch.randint(frames, (n,))] = False
    return torch.cat([past_noise(n, s.device).expand(-1, past), torch.where(some, 0., s)], 1)


def faint(noise: torch.Tensor) -> torch.Tensor:
    """Noise [n, ...] that is weaker in half of the clips: less of it is left in what few steps make."""
    n, device = len(noise), noise.device
    return noise * torch.where(uniform((0, 1), n, device) < .5, uniform(FAINT, n, device), 1.)


def weighted_errors(error: torch.Tensor, weight: torch.Tensor, sigma: torch.Tensor, fault: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean square of a velocity's `error` [B, C, T, h, w] under `weight` [B, 1, T, h, w], and that of half its change between neighbours of
    one noise level sigma [B, T]: equal for errors that have nothing in common, 0 for those that stay.  What is wrong in the frame before, `fault`
    [B, C, 1, h, w], is the first frame's neighbour; there it is the clean latents that count, as each has its own noise level."""
    mean = lambda x, w: (x.square() * w).sum() / (w.sum().clamp(min=1) * x.shape[1])
    alike = (sigma[:, 1:] == sigma[:, :-1]).float()[:, None, :, None, None]
    change, both = error.diff(dim=2), torch.minimum(weight[:, :, 1:], weight[:, :, :-1]) * alike
    if fault is not None:
        begins = fault.clamp(-SLIGHT, SLIGHT) + sigma[:, None, :1, None, None] * error[:, :, :1]
        change, both = torch.cat([begins, change], 2), torch.cat([weight[:, :, :1], both], 2)
    return mean(error, weight), .5 * mean(change, both)


def unsure(draft) -> torch.Tensor:
    """How little is known of a chunk's places beforehand, 0..1 [n, 1, t, h, w], by its draft's variance."""
    variance = draft[1].detach().float().exp().mean(2)[:, None]
    return variance / (variance + UNSURE)


def draft_loss(draft, x0: torch.Tensor, subject: torch.Tensor, weight: float, channel_weight) -> tuple[torch.Tensor, torch.Tensor]:
    """How unlikely the frames x0 [n, C, T, h, w] are by their draft, and its mean square error; subject [n, T, h, w] counts `weight` more, channels
    channel_weight [C, 1, 1].  Each term counts by the root of its variance, so that what is hard to tell is learned as well (beta-NLL, arXiv:2203.09168)."""
    mean, log_variance = draft
    error = (x0.transpose(1, 2) - mean).square()
    unlikely = channel_weight * (log_variance + error * (-log_variance).exp()) * (.5 * log_variance.detach()).exp()
    return .5 * (unlikely * (1 + weight * subject[:, :, None])).mean(), (channel_weight * error).mean()


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
    parser.add_argument("--sharpen", type=float, default=0., help="what a critic of what is made counts, as a share of its error (0: there is none)")
    args = parser.parse_args()
    parallel.run(train, args.processes, args)


def kind_of_step(it: int, progress: float) -> str:
    """What a step trains on, the same for all processes so that none waits."""
    x = random.Random(it).random()
    images, clips = (.75, .25) if progress < .4 else (.4, .3) if progress < .8 else (.15, .3)  # the rest are sequences: in the end what follows, follows on faults
    return "images" if x < images else "clips" if x < images + clips else "sequences"


def is_matrix(name: str, p: torch.Tensor) -> bool:
    """Whether Muon updates this parameter: what maps features to features."""
    inside = any(k in name for k in (".neighbours.", ".blocks.", ".layers.", ".before.", ".after.", "draft.a.", "draft.b.", "draft.recall.", "draft.look.", "draft.weigh.", "draft.move.", "when", "beginning.a.", "said", "pooled", "time", "inp", "out"))
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
        self.first = self.it
        known = state.get("words", self.words)
        self.new_words = torch.tensor([i for i, word in enumerate(self.words) if word not in known], device=self.device)
        made = self.both.state_dict()
        if state and (known != self.words or made.keys() != state["average"].keys()):  # what it did not have yet is as made
            state |= {name: with_words(state[name], known, made, self.words) for name in ("live", "average") if name in state}
            state.pop("opt", None)
        if state:
            self.both.load_state_dict(state.get("live", state["average"]))
            if "opt" in state:
                self.opt.load_state_dict(state["opt"])
        self.average = {k: v.clone() for k, v in state.get("average", self.both.state_dict()).items()}
        self.sharpener = Sharpener(Critic(LATENT_CHANNELS, WIDTH).to(self.device), args.sharpen, state.get("critic")) if args.sharpen else None

    def say(self, *words) -> None:
        if self.rank == 0:
            print(*words, flush=True)

    def embed(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.text(*(x.to(self.device) for x in tokens(self.tokenizer, texts)))

    def underway(self, data: Latents, clips: dict[str, int], rng: random.Random) -> Underway:
        """Streams of so many clips of each kind, with their captions' ids and masks, and what these say."""

        def make(kind: str) -> Stream:
            chunk = chunks_of(LENGTHS[kind], rng)
            x0, subject, times, scenes = data.draw(rng, kind, clips[kind], chunk)
            texts, said = captions_of(scenes, rng, .12)
            return Stream(*(x.to(self.device) for x in (x0, subject, times, chunk[:x0.shape[2]], *tokens(self.tokenizer, texts), targets(said))))

        return Underway(make, rng)

    def update(self, loss: torch.Tensor, rate: float) -> None:
        """One step at a share `rate` of the learning rate."""
        descend(self.opt, loss, self.both, self.workers, self.args.lr * rate, clip=1.)
        self.it += 1
        take_average(self.average, self.both.state_dict(), self.it - self.first)

    def save(self) -> None:
        if self.rank == 0:
            save(self.checkpoint, shape=self.shape, words=self.words, live=self.both.state_dict(), average=self.average, opt=self.opt.state_dict(), it=self.it,
                 **{"critic": self.sharpener.state()} if self.sharpener else {})


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
        texts, said = captions_of([told(rng, bool(k % 2)) for k in range(EXAMINED if run.resumed else CAPTIONS)], rng, .03)
        (ids, mask), wanted = (x.to(run.device) for x in tokens(run.tokenizer, texts)), targets(said).to(run.device)
        if run.resumed:
            with torch.no_grad():
                hard = run.text.attribute_losses(run.text(ids, mask)[0], wanted).topk(HARD).indices
            take = torch.cat([hard, torch.arange(CAPTIONS - HARD, device=run.device)])
            ids, mask, wanted, said = ids[take], mask[take], wanted[take], [said[k] for k in take.tolist()]
        embeds, _ = run.text(ids, mask)
        loss, right = run.text.attribute_loss(embeds, wanted)
        strayed = torch.zeros(())
        if run.resumed:
            was = before(ids, mask)[0]
            if len(run.new_words):
                known = ~torch.isin(ids, run.new_words).any(1) & torch.tensor([x["other"] in (UNSAID, "none") for x in said], device=run.device)
            else:
                known = (before.read(was) == wanted).all(1)
            strayed = (embeds - was)[known].square().sum() / mask[known].sum().clamp(min=1) / embeds.shape[2]
            loss = loss + STAY_WEIGHT * strayed
        run.update(loss, min(1., (i + 1) / 20, max(.03, 2 * (1 - i / steps))))
        if i % 20 == 19:
            run.say(f"captions {i + 1} {time.time() - start:.0f}s loss {loss.item():.3f} right {right:.3f} strayed {strayed.item():.4f}")
    run.average |= {k: v.clone() for k, v in run.both.state_dict().items() if k.startswith("text.")}


def likely(draft, truth: torch.Tensor) -> torch.Tensor:
    """What a draft makes of a chunk if it is told the truth [n, C, t, h, w] through noise: the two together, as Gaussians, more or less at random."""
    mean, variance = (x.detach().transpose(1, 2).float() for x in (draft[0], draft[1].exp()))
    n, device = len(truth), truth.device
    s = uniform(DRAFT_NOISE, n, device)
    noisy, total = noised(truth, s), (1 - s).square() * variance + s.square()
    return mean + (1 - s) * variance / total * (noisy - (1 - s) * mean) + uniform((0, 1), n, device) * s * (variance / total).sqrt() * torch.randn_like(truth)


def train_drafts(run: Run, data: Latents) -> None:
    """Trains drafts alone, on images, and on clips and sequences as they go through them: many more than the whole network in the same time."""
    drafts = torch.nn.ModuleDict({"draft": run.net.draft, "beginning": run.net.beginning})
    opt = MuonAdam(drafts.named_parameters(), run.args.lr, is_matrix, adam_scale=.4)
    start, it, errors, channel_weight = time.time(), 0, {}, data.channel_weight.to(run.device)
    underway = run.underway(data, dict.fromkeys(KINDS, DRAFT_CLIPS), random.Random(f"draft {run.it} {run.rank}"))
    while parallel.agree((done := (time.time() - start) / (60 * run.args.draft_minutes)) < 1):
        kind = ("sequences", "clips", "sequences", "images", "sequences", "clips")[it % 6]
        stream = underway.next(kind)
        truth, subject = stream.x0[:, :, stream.here], stream.subject[:, stream.here]
        with parallel.autocast():
            with torch.no_grad():
                gist = run.text(*stream.prompt[:2])[0][:, 0]
            draft = stream.draft(run.net, gist)
            loss, error = draft_loss(draft, truth, subject, SUBJECT_WEIGHT[kind], channel_weight)
        stream.take(likely(draft, truth))
        underway.back(kind, stream)
        descend(opt, loss, drafts, run.workers, run.args.lr * min(1., (it + 1) / 20, max(.02, (1 - done) / .6)))
        it += 1
        errors[kind] = .96 * errors.get(kind, error.item()) + .04 * error.item()
        if it % 50 == 0:
            run.say(f"drafts {it} {time.time() - start:.0f}s error " + " ".join(f"{k} {v:.3f}" for k, v in errors.items()))
    run.average |= {k: v.clone() for k, v in run.both.state_dict().items() if k.startswith(("net.draft.", "net.beginning."))}


def guided(run: Run, velocity, told, call, draft, like) -> torch.Tensor:
    """What guidance adds to a target velocity, which then aims at v_empty + scale * (v_told - v_empty), where `told` says that there is a prompt and
    `velocity` is what the network makes of it; call(embeds, mask, draft) is the network, on frames that begin a scene if `draft` is told, which `like`
    says the form of.  The network here is the one being guided, so the share of its own difference to add is 1 - 1/scale: that is the fixed point,
    and less than 1 keeps it stable."""
    n = len(velocity)
    nothing, mask = (y.expand(n, *y.shape[1:]) for y in run.embed([""]))
    # A scene's beginning has another draft if nothing is said; of what follows movement must not be exaggerated.
    apart = velocity - call(nothing, mask, draft or run.net.begin(nothing[:, 0], like))
    return told.float()[:, None, None, None, None] * (1 - 1 / run.args.scale) * apart.float()


def made(call, truth: torch.Tensor, embeds, mask, drafts) -> torch.Tensor:
    """What the network makes of a chunk at once, told the truth [n, C, t, h, w] through so much noise that a video's own faults stay."""
    s = uniform(NETWORK_NOISE, len(truth), truth.device)
    x = noised(truth, s)
    return x - s * call(x, s.flatten(1).expand(-1, truth.shape[2]), embeds, mask, drafts)


def train_network(run: Run, data: Latents) -> None:
    """Trains everything but what is frozen, for `args.minutes` of the curriculum."""
    args, net, device, sharpener = run.args, run.net, run.device, run.sharpener
    channel_weight = data.channel_weight.to(device)
    first, mean_loss = run.it, {}
    start = last = time.time()
    few = max(1, args.frames // 4)
    clips = {"images": args.frames, "clips": few, "sequences": few}
    underway = run.underway(data, clips, random.Random(f"network {run.it} {run.rank}"))
    while parallel.agree((spent := time.time() - start) < args.minutes * 60):
        progress = args.begin + (args.end - args.begin) * min(1., spent / (args.minutes * 60))
        if (run.it - first) % 100 == 0:
            data.refresh()
        kind = kind_of_step(run.it, progress)
        stream = underway.next(kind)
        ids, said_mask, wanted = stream.prompt
        here = stream.here
        anew = stream.sees(net)
        frames, fresh = torch.cat([anew, torch.arange(here.start, here.stop, device=device)]), slice(len(anew), None)
        truth, subject, chunk, times = stream.x0[:, :, here], stream.subject[:, here], stream.chunk[frames], stream.times[:, frames]
        fault = stream.fault_before
        before = stream.before
        seen = torch.cat([stream.made[:, :, anew], truth], 2)
        follows = here.start > 0
        own = follows and random.Random(-run.it).random() < OWN_FIRST
        sigma = noise_levels(len(seen), len(anew), here.stop - here.start, args.shift, STEPS if follows else FIRST_STEPS).to(device)
        noise = torch.randn_like(seen)
        if follows:
            noise[:, :, fresh] = faint(noise[:, :, fresh])
        if own:
            sigma[:, fresh] = STEPS[0]
        s = sigma[:, None, :, None, None]
        x = (1 - s) * seen + s * noise
        target = noise[:, :, fresh] - truth
        bake = parallel.agree(progress >= args.bake)
        with parallel.autocast():
            embeds, mask = run.text(ids, said_mask)
            draft = stream.draft(net, embeds[:, 0])
            drafts = [y[:, frames] for y in stream.drafts]  # without a gradient: a draft learns from its own error alone
        if own:
            with torch.no_grad(), parallel.autocast():
                x[:, :, fresh] += (STEPS[1] - STEPS[0]) * net(x, 1000 * sigma, embeds, mask, *stream.past, chunk, drafts, times)[0][:, :, fresh]
            sigma[:, fresh] = STEPS[1]
            target = (x[:, :, fresh] - truth) / STEPS[1]
        with parallel.autocast():
            v, keys, values = net(x, 1000 * sigma, embeds, mask, *stream.past, chunk, drafts, times)
            stream.keep(anew, keys[:, :, :len(anew)], values[:, :, :len(anew)])
            x, v, sigma, drafts = x[:, :, fresh], v[:, :, fresh], sigma[:, fresh], [y[:, fresh] for y in drafts]
            call = lambda x, sigma, embeds, mask, draft: net(x, 1000 * sigma, embeds, mask, *stream.past, draft=draft, times=times[:, fresh])[0]
            with torch.no_grad():
                if bake:
                    target = target + guided(run, v, said_mask.sum(1) > 1, functools.partial(call, x, sigma), drafts if follows else None, truth)
                stream.take(truth if stream.ends else made(call, truth, embeds, mask, drafts))
            told_loss, right = run.text.attribute_loss(embeds, wanted)
        underway.back(kind, stream)
        known, open_to = (1 - (share := unsure(draft)), share) if sharpener and follows else (1., 1.)  # to the error, and to the critic
        weight = (sigma > LEAST).float()[:, None, :, None, None] * (1 + SUBJECT_WEIGHT[kind] * subject[:, None]) * known
        root = channel_weight[:, None].sqrt()
        error, change = weighted_errors((v.float() - target) * root, weight, sigma, None if fault is None else fault * root)
        guessing = draft_loss(draft, truth, subject, SUBJECT_WEIGHT[kind], channel_weight)[0]  # without a gradient where it is frozen
        loss = error + CHANGE_WEIGHT * change + .1 * told_loss + DRAFT_WEIGHT * guessing
        if sharpener:
            seen = lambda v: latents_seen(sharpener.critic, v, x, sigma, truth, embeds[:, 0].detach(), before)
            loss = loss + sharpener.loss(error, v, seen(v.detach() + open_to * (v - v.detach())))
        run.update(loss, min(1., (run.it - first + 1) / 40, max(.03, (1 - progress) / .35)))
        if sharpener:
            sharpener.learn(seen(v.detach().float()), run.workers)
        if run.it % 5 == 0 or device.type == "cpu":
            name = kind + "*" * bake
            mean_loss[name] = .96 * mean_loss.get(name, error.item()) + .04 * error.item()
        if run.it % 25 == 0:
            losses = " ".join(f"{k} {v:.4f}" for k, v in mean_loss.items())
            run.say(f"{run.it} {spent:.0f}s {losses} captions {right:.3f}" + (sharpener.say() if sharpener else ""))
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
