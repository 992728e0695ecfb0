"""Clips that a network goes through as it makes a video: chunk after chunk, each from what it made of those before.

Faults pile up as in a long video, and what follows on them must lead back to the truth (the idea of Self Forcing, arXiv:2506.08009).  That they stay
with their clip, a network is told the truth through noise: what could not be told beforehand it then takes from there, what it was sure of it keeps.
Sequences are gone through more than once, in the same clips or in others, each time from what was wrong in the end, so that faults become as old as in a minute.
As in a video, a chunk is looked at once more when the next is made, and its keys and values are kept from then on: what lies further back costs little.
"""
from __future__ import annotations

import collections
import random

import torch
from torch.nn import functional as F

from .transformer import CHUNK, SINK, Transformer

WINDOW = 12  # frames that a call sees of the past: a video's first SINK and the last ones
UNDERWAY = {"images": 1, "clips": 4, "sequences": 8}  # how many streams of a kind are on their way at once, so that steps that follow on each other show other scenes
TRUE_PAST = .25  # how often the past stays the truth;
AWAY = .7, 1.2  # else what was made is led away from it, as a multiple of where it is: more than 1, or faults that are just led back would grow in a long video; with 1.5 nothing of the picture is left
WORST = 3.  # no further than this
LAPS = 8  # how often faults go through a sequence, at most,
OTHERS = .5  # and how often the next one is another
WORN = .4  # how often subjects have worn away as well where a sequence is gone through again
NOISY_PAST = .15  # the most noise that networks get used to in what they follow on, in most of the clips
CONTEXT_NOISE = .03  # of it, what a video sees its past through: what is wrong there is less believed then, but with more each chunk begins with a jump, and what moves fast dissolves
FOLLOWING_NOISE = .6  # size of the noise that a video's chunks are made from behind the first: with less of it videos tremble less


def chunks_of(frames: int, rng: random.Random) -> torch.Tensor:
    """Which chunk each frame is in [frames].  Most sequences start from a single frame, as scenes do when they are made; short
    ones are also cut elsewhere."""
    start = rng.choice(((1, 2), (1, 2), ()) if frames > 2 * CHUNK else ((1, 2), (1, 2), (1,), (2,), ()))
    lengths = [*start, *[CHUNK] * frames]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[:frames]


def behind_gap(chunk: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """bool [frames]: those of a chunk before which frames are missing; such a chunk is what others follow on, and nothing is learned from it."""
    first = F.pad((times[0].diff() > 1.5).to(chunk), (1, 0)) * chunk  # the number of such a chunk, where it begins
    return (chunk == first.max()) & (chunk > 0)


def uniform(span: tuple[float, float], n: int, device: torch.device) -> torch.Tensor:
    """[n, 1, 1, 1, 1]: a number of this span for each clip."""
    return span[0] + (span[1] - span[0]) * torch.rand(n, 1, 1, 1, 1, device=device)


def noised(x0: torch.Tensor, sigma: torch.Tensor, size: float = 1.) -> torch.Tensor:
    """x0 at noise levels sigma, of noise of this size."""
    return (1 - sigma) * x0 + sigma * size * torch.randn_like(x0)


def past_noise(n: int, device: torch.device) -> torch.Tensor:
    """[n, 1]: noise levels of what is followed on, from 0 to NOISY_PAST."""
    return NOISY_PAST * torch.rand(n, 1, device=device) * (torch.rand(n, 1, device=device) < .7)


def a_little_noisy(x0: torch.Tensor) -> torch.Tensor:
    """Frames [n, C, T, h, w] that drafts follow on, with up to NOISY_PAST of noise in most of the clips."""
    return noised(x0, past_noise(len(x0), x0.device)[:, None, None, None])


def worn(x0: torch.Tensor, subject: torch.Tensor) -> torch.Tensor:
    """Faults [n, C, T, h, w] of frames x0 whose subjects, where subject [n, T, h, w] says, wear away, as in a long video: more or less of them is what lies
    beside them, themselves a little off, blur, or what another clip shows there.  A video's first frames and its prompt tell how they really look."""
    n, w = len(x0), x0.shape[-1]
    off = torch.randint(-1, 2, (2,)).tolist()
    ways = (lambda: x0.roll(w // 2, -1), lambda: x0.roll(off, (-2, -1)), lambda: x0.roll(1, 0),
            lambda: F.avg_pool3d(x0, (1, 5, 5), 1, (0, 2, 2), count_include_pad=False))
    instead = ways[int(torch.randint(len(ways), ()))]()
    share = uniform((0, 1), n, x0.device) * (uniform((0, 1), n, x0.device) < WORN)
    return share * F.max_pool2d(subject, 3, 1, 1)[:, None] * (instead - x0)


class Stream:
    """Clips on their way: `ahead` are the chunks to come, `here` the frames of the next of them."""

    def __init__(self, x0, subject, times, chunk, *prompt):
        """Latents [n, C, T, h, w], where subjects are [n, T, h, w], when the frames are [n, T], their chunks [T], and what is told of them."""
        self.x0, self.subject, self.times, self.chunk, self.prompt = x0, subject, times, chunk, prompt
        self.lap, self.kept, self.past = 1, chunk.new_zeros(0), None
        self.made, self.drafts = x0.clone(), [torch.zeros_like(x0).transpose(1, 2).contiguous() for _ in range(2)]
        self.away = uniform(AWAY, len(x0), x0.device) * (uniform((0, 1), len(x0), x0.device) >= TRUE_PAST)
        # What clips begin with is no scene's beginning, and behind a gap there is no draft: others follow on that.
        ahead = ((chunk > 0) | (not int(chunk[-1]))) & ~behind_gap(chunk, times)
        self.ahead = collections.deque(chunk[ahead].unique().tolist())

    @property
    def here(self) -> slice:
        frames = (self.chunk == self.ahead[0]).nonzero()[:, 0]
        return slice(int(frames[0]), int(frames[-1]) + 1)

    @property
    def fault_before(self) -> torch.Tensor | None:
        """What is wrong in the frame before the next chunk, [n, C, 1, h, w], if there is one."""
        before = slice(self.here.start - 1, self.here.start)
        return (self.made[:, :, before] - self.x0[:, :, before]) if self.here.start else None

    @property
    def before(self) -> list[torch.Tensor]:
        """The frame before the next chunk, in truth and as it was made, [n, C, 1, h, w] each, or of none where a scene begins."""
        before = slice(max(self.here.start - 1, 0), self.here.start)
        return [self.x0[:, :, before], self.made[:, :, before].clone()]

    def window(self) -> torch.Tensor:
        """The numbers of the frames that a call sees of the past."""
        frames = torch.arange(self.here.start, device=self.x0.device)
        return frames if len(frames) <= WINDOW else torch.cat([frames[:SINK], frames[SINK - WINDOW:]])

    def sees(self, net: Transformer) -> torch.Tensor:
        """The numbers of the frames of the window that a call has to look at itself; keys and values of the others are in `past`, [caches, n, P, N, d] each."""
        window = self.window()
        stay = torch.isin(self.kept, window)
        self.kept, self.past = self.kept[stay], [x[:, :, stay] for x in self.past or [net.no_past(self.x0)] * 2]
        return window[~torch.isin(window, self.kept)]

    def keep(self, frames: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Takes keys and values of these frames, [caches, n, T, N, d], as those of the past."""
        self.kept = torch.cat([self.kept, frames])
        self.past = [torch.cat([old, new.detach().to(old.dtype)], 2) for old, new in zip(self.past, (keys, values))]

    def draft(self, net: Transformer, gist: torch.Tensor) -> list[torch.Tensor]:
        """The draft of the next chunk from prompts' gists [n, text]: mean and logarithm of the variance, [n, t, C, h, w].  It is kept, for those that
        follow see what was made from it."""
        here = self.here
        draft = net.draft_after(a_little_noisy(self.made[:, :, :here.start]), gist, self.times[:, here.start], here.stop - here.start)
        for kept, new in zip(self.drafts, draft):
            kept[:, here] = new.detach().to(kept.dtype)
        return draft

    def take(self, clean: torch.Tensor) -> None:
        """Goes on to the next chunk, which follows on this one as it was made, [n, C, t, h, w]."""
        here = self.here
        truth = self.x0[:, :, here]
        self.made[:, :, here] = truth + (self.away * (clean.detach().float() - truth)).clamp(-WORST, WORST)
        self.ahead.popleft()

    @property
    def long(self) -> bool:
        """Whether there is enough to be gone through once more after the first frames and a chunk of faults."""
        return len(self.chunk) >= 4 * CHUNK

    @property
    def ends(self) -> bool:
        """Whether nothing follows on the next chunk."""
        return len(self.ahead) == 1 and not self.long

    @property
    def faults(self) -> torch.Tensor:
        """What is wrong in the last whole chunk, [n, C, CHUNK, h, w]."""
        last = len(self.chunk) // CHUNK * CHUNK
        return (self.made - self.x0)[:, :, last - CHUNK:last]

    def again(self, faults: torch.Tensor, lap: int) -> None:
        """Begins the clip anew, with these faults in the chunk after its first frames, where subjects may have worn away as well."""
        first = slice(SINK, SINK + CHUNK)
        truth = self.x0[:, :, first]
        self.made[:, :, first] = truth + faults + worn(truth, self.subject[:, first])
        self.lap, self.kept, self.past = lap, self.kept[:0], None
        self.ahead = collections.deque(self.chunk[self.chunk > self.chunk[first.stop - 1]].unique().tolist())


class Underway:
    """The streams of every kind that training goes through by turns; make(kind) makes a new one."""

    def __init__(self, make, rng: random.Random):
        self.make, self.rng, self.streams = make, rng, {kind: collections.deque() for kind in UNDERWAY}

    def next(self, kind: str) -> Stream:
        """The stream whose turn it is; it is to be given back when it has gone on."""
        streams = self.streams[kind]
        if len(streams) < UNDERWAY[kind]:
            streams.append(self.make(kind))
        return streams.popleft()

    def back(self, kind: str, stream: Stream) -> None:
        if not stream.ahead and stream.long and stream.lap < self.rng.randint(1, LAPS):
            faults, lap = stream.faults, stream.lap + 1
            if self.rng.random() < OTHERS and (other := self.make(kind)).x0.shape == stream.x0.shape:
                stream = other
            stream.again(faults, lap)
        if stream.ahead:
            self.streams[kind].append(stream)
