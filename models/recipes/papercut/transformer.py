"""The diffusion transformer over latent frames, causal between chunks: an hourglass.

Convolutions work at the latents' own resolution, before and after a transformer whose tokens are 2x2 latents,
N = (h/2)*(w/2) of them a frame; what the entrance saw is added back at the exit.  Every frame has its own noise level
sigma (0 clean, 1 noise): x = (1 - sigma) * x0 + sigma * noise, and the prediction is the velocity noise - x0.

One attention per layer sees the prompt's tokens, the frames of the past (as cached keys and values) and the current
frames.  Where a token lies in its frame is turned into its keys before they are cached (rotary, rows and columns); how
many frames lie between two tokens enters as a term that depends on the query and that distance.  Distances are counted
over what is cached, so a window can roll for ever.

The convolutions see the frame before as well, place by place, for what moves, moves by less than a token: a pan, a run past
the camera.  What they saw of a frame is cached as if it were keys and values of one more layer each.

A draft of every chunk, by a few convolutions of its own, tells where what was there is going: from the last three frames before
the chunk (as many as a loop of a step or a wing's beat is long), the video's first three (which stay cached, and are as clean as when it began) and
the prompt's gist it guesses each latent, as a mean m and a variance V.  Where a scene begins, another small network
tells from the prompt and the place in the frame what is to be seen there.  What is left to the transformer is how the truth differs.
Behind a gap, m = 0 and V = 1, which is what latents are at large.

All are told how long ago the scene began: cameras settle, and what comes and goes does so in its time.  Every cached frame says when it was,
beside what drafts see of it, so a call knows its own time from the frame before.

Inside, the network's raw output f is scaled so that it has unit variance at every noise level: with y = x - (1-sigma)*m and
D = (1-sigma)^2*V + sigma^2, velocity = (sigma - (1-sigma)*V) / D * y - m - f * sqrt(V / D), the preconditioning of EDM
(arXiv:2206.00364) for flow matching and any Gaussian prior.  At sigma = 1 the clean latent is m + f*sqrt(V), at sigma = 0 f is
minus the noise; nothing is divided by a small sigma.
"""
from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .vae import LATENT_CHANNELS, LATENT_RATE

CHUNK = 3
SINK, LOOK_BACK = 3, 3             # frames that a draft sees: a video's first and the last
AHEAD, BEHIND = CHUNK - 1, 14      # how many frames a token may look ahead and behind; farther is as far as that
LEAD, FADES = 1.1, 6.              # how many times as far from the frame before as they guess drafts go where videos are made, for means of what may be move too
                                   # little, and in how many seconds most of that fades: faults that are led on as well would add up in a minute
MOST, LOUDEST = 16., 1.5           # no latent is larger, no frame's root mean square: what goes wrong in a long video must not grow without end
TEXT = AHEAD + 1 + BEHIND          # kinds of keys: frames by distance, then the prompt's tokens, then those hidden
KINDS = TEXT + 2
POSITIONS = 16                     # features of a position in the frame
PERIODS = 1., 2., 3., 4., 6., 8., 12., 24.  # seconds, by which a time is told: what comes and goes does so in these,
LIVES = 1., 2., 4., 8.             # and what settles does so at these rates
CLOCK = 2 * len(PERIODS) + len(LIVES)  # features of a time
LATEST, ROUND = 720., 144.         # after as many latent frames all has settled, and time goes round: in two minutes, by the longest period


def norm(x: torch.Tensor, width: int) -> torch.Tensor:
    return F.layer_norm(x, (width,))


def swap_halves(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([b, a], -1)


def to_tokens(x: torch.Tensor, b: int, n: int) -> torch.Tensor:
    """[B*T, c, h, w] -> [B, T, N, 4*c], the 2x2 latents of every token."""
    return F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1).reshape(b, -1, n, 4 * x.shape[1])


def from_tokens(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[B, T, N, 4*c] -> [B*T, c, 2*rows, 2*columns]"""
    return F.pixel_shuffle(x.reshape(-1, rows, columns, x.shape[-1]).permute(0, 3, 1, 2), 2)


def keep(x: torch.Tensor, b: int, n: int, d: int) -> torch.Tensor:
    """[B*T, c, h, w] -> [B, T, N, 2*d]: what is to be cached as keys and values of d numbers a token, filled up with zeros."""
    kept = to_tokens(x, b, n)
    return F.pad(kept, (0, 2 * d - kept.shape[-1]))


def ends(frames: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The first SINK and the last LOOK_BACK of frames [B, P, ...], and zeros where there are fewer; like [B, 1, ...] says of what form, if there are none."""
    nothing = [torch.zeros_like(like)]
    return torch.cat([torch.cat([frames, *nothing * SINK], 1)[:, :SINK], torch.cat([*nothing * LOOK_BACK, frames], 1)[:, -LOOK_BACK:]], 1)


def clock(times: torch.Tensor) -> torch.Tensor:
    """[..., CLOCK] of times [...] in latent frames since the scene began: where all that goes round is, and how much of what settles is yet to come."""
    seconds = times[..., None] / LATENT_RATE
    angles = seconds * (2 * math.pi / seconds.new_tensor(PERIODS))
    return torch.cat([angles.sin(), angles.cos(), (-seconds / seconds.new_tensor(LIVES)).exp()], -1)


class Timed(nn.Module):
    """What a time [..., CLOCK] makes of a prompt's gist [..., text]: [..., width], nothing at first."""

    def __init__(self, text: int, width: int):
        super().__init__()
        self.a, self.b = nn.Linear(text + CLOCK, 2 * width), nn.Linear(2 * width, width)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, gist, time):
        return self.b(F.gelu(self.a(torch.cat([gist, time], -1))))


class Block(nn.Module):
    def __init__(self, d: int, heads: int, text: int, ratio: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.o = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.text = nn.Linear(text, 2 * d, bias=False)
        self.f1, self.f2 = nn.Linear(d, ratio * d), nn.Linear(ratio * d, d)
        e = d // heads
        self.q_scale, self.k_scale = nn.Parameter(torch.full((1, e), e ** -.5)), nn.Parameter(torch.ones(1, e))
        self.kinds = nn.Parameter(torch.zeros(KINDS - 1, e))
        self.kinds_bias = nn.Parameter(torch.zeros(KINDS - 1))
        self.table = nn.Parameter(torch.zeros(6, 1, 1, 1, d))
        self.local = nn.Conv2d(d, d, 3, padding=1, groups=d, bias=False)  # what the neighbouring tokens hold
        nn.init.zeros_(self.local.weight)
        for m in (self.o, self.f2):
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)

    def forward(self, x, rows, columns, mods, embeds, kinds, cos, sin, past_k, past_v):
        """x [B, T, N, d] with N = rows * columns; mods [6, B, T, 1, d]; kinds [B, 1, T, KINDS, K] says of what kind each of the
        K keys is to each frame; past [B, P, N, d]; cos, sin [N, 1, head].  Returns x and this call's keys and values, [B, T, N, d]."""
        (b, t, n, _), d = x.shape, self.o.out_features
        h, e = self.heads, d // self.heads
        m = (mods + self.table).unbind(0)
        grid = norm(x, d).reshape(b * t, rows, columns, d).permute(0, 3, 1, 2)
        x = x + self.local(grid).permute(0, 2, 3, 1).reshape(b, t, n, d)
        qk, v = self.qkv(norm(x, d) * (1 + m[0]) + m[1]).split([2 * d, d], -1)
        qk = norm(qk.reshape(b, t, n, 2 * h, e), e) * torch.cat([self.q_scale.expand(h, e), self.k_scale.expand(h, e)])
        qk = qk * cos + swap_halves(qk) * sin
        q, k = qk.split(h, -2)
        k = k.reshape(b, t, n, d)
        text_k, text_v = self.text(embeds).chunk(2, -1)
        text_k = (norm(text_k.reshape(b, -1, h, e), e) * self.k_scale).reshape(b, -1, d)
        keys = torch.cat([text_k, past_k.reshape(b, -1, d), k.reshape(b, -1, d)], 1).reshape(b, -1, h, e).permute(0, 2, 3, 1)
        values = torch.cat([text_v, past_v.reshape(b, -1, d), v.reshape(b, -1, d)], 1).reshape(b, -1, h, e).transpose(1, 2)
        q = q.reshape(b, t * n, h, e).transpose(1, 2)
        # The last kind is hidden: its weight is 0 and its bias 1, `kinds` holds what to take off.
        how = F.linear(q, F.pad(self.kinds, (0, 0, 0, 1)), F.pad(self.kinds_bias, (0, 1), value=1.)).reshape(b, h, t, n, KINDS)
        scores = q @ keys + (how @ kinds).reshape(b, h, t * n, -1)
        a = (scores.softmax(-1) @ values).transpose(1, 2).reshape(b, t, n, d)
        x = x + (1 + m[2]) * self.o(a)
        return x + (1 + m[5]) * self.f2(F.gelu(self.f1(norm(x, d) * (1 + m[3]) + m[4]))), k, v


class Local(nn.Module):
    """A residual block of two 3x3 convolutions at the latents' resolution, told the noise level and the prompt's gist.

    It sees its input of the frame before as well. For the next call this is kept like an attention's keys and values, 4*c
    numbers a token of the 2*d there are."""

    def __init__(self, c: int, d: int):
        super().__init__()
        if 4 * c > 2 * d:
            raise ValueError(f"{c} features of four latents do not fit into keys and values of {d}")
        self.a, self.b = nn.Conv2d(2 * c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.level = nn.Linear(d, 2 * c)
        nn.init.normal_(self.level.weight, std=.005)
        nn.init.zeros_(self.level.bias)
        nn.init.normal_(self.a.weight, std=(9 * c) ** -.5)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x, condition, past_k, past_v):
        """x [B*T, c, h, w], condition [B, T, d], past [B, P, N, d].  Returns x and what to keep of this call, two of [B, T, N, d]."""
        (_, c, h, w), (b, _, n, d) = x.shape, past_k.shape
        kept = keep(x, b, n, d)
        past = torch.cat([torch.zeros_like(kept[:, :1]), torch.cat([past_k, past_v], -1)], 1)[:, -1:, :, :4 * c]
        past = from_tokens(past, h // 2, w // 2)
        before = torch.cat([past[:, None], x.reshape(b, -1, c, h, w)[:, :-1]], 1).reshape(x.shape)
        scale, shift = self.level(condition).reshape(x.shape[0], -1, 1, 1).chunk(2, 1)
        return x + self.b(F.gelu(self.a(torch.cat([x, before], 1)) * (1 + scale) + shift)), *kept.chunk(2, -1)


class Draft(nn.Module):
    """Guesses the frames of a chunk from the SINK that a video began with, the LOOK_BACK before it, the prompt's gist and the time.

    What the prompt does to the features is a linear function of the place in the frame, as the way of things under a zoom is.
    In the end these features weigh what filters see in these frames: to move a picture is linear in it, how far is what is to be told.
    On the last frames the filters are as large as the fastest moves in a chunk's time, most of which go along x.
    Where a scene begins means go `lead` times as far from the frame before as is guessed, 1 where the networks learn."""

    def __init__(self, channels: int, text: int, width: int = 128, blocks: int = 4, filters: int = 768):
        super().__init__()
        self.channels, self.lead = channels, 1.
        self.enter = nn.Conv2d((SINK + LOOK_BACK) * (channels + 1) + POSITIONS, width, 3, padding=1)
        self.a = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks)])
        self.b = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks)])
        self.when, self.said = Timed(text, text), nn.Linear(text, 3 * 2 * width * blocks)
        self.leave = nn.Conv2d(width, CHUNK * 2 * channels, 3, padding=1)
        self.recall = nn.Conv2d(SINK * (channels + 1), filters, 3, padding=1, bias=False)
        self.look, self.weigh = nn.Conv2d(LOOK_BACK * (channels + 1), filters, (5, 9), padding=(2, 4)), nn.Conv2d(width, filters, 1)
        self.move = nn.Conv2d(filters, CHUNK * channels, 1)
        for m in (*self.b, self.leave, self.move):
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)

    def forward(self, known, gist, first, coordinates, positions):
        """known [B, (SINK + LOOK_BACK)*(channels + 1), h, w]: frames, each with a channel that is 1 if it is known, else 0 as all of it is;
        gist [B, text], first [B] the time of the chunk's first frame, coordinates [2, h, w] and positions [POSITIONS, h, w] -> mean and logarithm of
        the variance, both [B, CHUNK, channels, h, w].  `lead` fades with that time."""
        b, _, h, w = known.shape
        lead = 1 + (self.lead - 1) * (-first / (FADES * LATENT_RATE)).exp()[:, None, None, None, None]
        gist = gist + self.when(gist, clock(first))
        x = self.enter(torch.cat([known, positions[None].expand(b, -1, -1, -1)], 1))
        places = torch.cat([torch.ones_like(coordinates[:1]), coordinates]).flatten(1)
        said = (self.said(gist).reshape(b, self.said.out_features // 3, 3) @ places).reshape(b, self.said.out_features // 3, h, w)
        for first, second, of_block in zip(self.a, self.b, said.chunk(len(self.a), 1)):
            scale, shift = of_block.chunk(2, 1)
            x = x + second(F.gelu(first(F.gelu(x)) * (1 + scale) + shift))
        x = F.gelu(x)
        change, log_variance = self.leave(x).reshape(b, CHUNK, 2 * self.channels, h, w).chunk(2, 2)
        first, last = known.split([m.in_channels for m in (self.recall, self.look)], 1)
        change = change + self.move((self.recall(first) + self.look(last)) * self.weigh(x)).reshape(change.shape)
        last, is_known = known[:, None, -self.channels - 1:-1], known[:, None, -1:]
        return last + lead * change * is_known, (log_variance - 1).clamp(-4., .5) * is_known


class Beginning(nn.Module):
    """Guesses the first frame of a scene from the prompt's gist, each place for itself: a network of coordinates (CPPN), whose
    features the prompt scales and shifts by a linear function of the place."""

    def __init__(self, channels: int, text: int, width: int = 256, layers: int = 3):
        super().__init__()
        self.enter = nn.Linear(POSITIONS + 4, width)
        self.a = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.said = nn.Linear(text, 3 * 2 * width * layers)
        self.leave = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, gist, coordinates, positions):
        """gist [B, text], coordinates [2, h, w] and positions [POSITIONS, h, w] -> mean and logarithm of the variance, both [B, channels, h, w]."""
        _, h, w = coordinates.shape
        fine = 8 * math.pi * coordinates
        x = self.enter(torch.cat([positions, fine.sin(), fine.cos()]).flatten(1).T)
        places = torch.cat([torch.ones_like(coordinates[:1]), coordinates]).flatten(1)
        said = (self.said(gist).reshape(gist.shape[0], self.said.out_features // 3, 3) @ places).transpose(1, 2)
        for layer, of_layer in zip(self.a, said.chunk(len(self.a), -1)):
            scale, shift = of_layer.chunk(2, -1)
            x = x + layer(F.gelu(x * (1 + scale) + shift))
        mean, log_variance = self.leave(F.gelu(x)).transpose(1, 2).reshape(gist.shape[0], self.leave.out_features, h, w).chunk(2, 1)
        return mean, log_variance.clamp(-4., .5)


class Transformer(nn.Module):
    def __init__(self, d: int = 256, layers: int = 6, text: int = 256, ratio: int = 4, channels: int = LATENT_CHANNELS,
                 width: int = 128, before: int = 1, after: int = 2):
        super().__init__()
        heads = d // 64
        self.d, self.n_caches, self.channels, self.head_dim = d, before + layers + after + 1, channels, d // heads
        self.draft, self.beginning = Draft(channels, text), Beginning(channels, text)
        self.enter = nn.Conv2d(channels + POSITIONS + 3 * channels, width, 3, padding=1)
        self.before = nn.ModuleList([Local(width, d) for _ in range(before)])
        self.inp, self.out = nn.Linear(4 * width, d), nn.Linear(d, 4 * width)
        self.after = nn.ModuleList([Local(width, d) for _ in range(after)])
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(128, d), nn.SiLU(), nn.Linear(d, d))
        self.pooled, self.when = nn.Linear(text, d), Timed(text, d)
        self.mods, self.last = nn.Linear(d, 6 * d), nn.Linear(d, 2 * d)
        self.blocks = nn.ModuleList([Block(d, heads, text, ratio) for _ in range(layers)])
        for m, std in ((self.mods, .005), (self.last, .005), (self.enter, (9 * channels) ** -.5), (self.inp, (4 * width) ** -.5), (self.out, .02),
                       (self.leave, .1 * (9 * width) ** -.5)):
            nn.init.normal_(m.weight, std=std)
            nn.init.zeros_(m.bias)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0., 4., 64)), persistent=False)
        # A quarter of a head's pairs of numbers is not turned, so that what is alike can be found wherever it lies.
        turned = (self.head_dim // 2 - self.head_dim // 8) // 2
        self.unturned = self.head_dim // 2 - 2 * turned
        self.register_buffer("turns", 2. * .04 ** (torch.arange(turned) / (turned - 1)), persistent=False)
        self.register_buffer("waves", math.pi * torch.tensor([.5, 1., 2., 4.]), persistent=False)

    @staticmethod
    def coordinates(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
        """[2, rows, columns]: y and x of a latent from the middle, in units of the world (the height of a landscape frame)."""
        y, x = (torch.arange(n, device=like.device, dtype=like.dtype) - (n - 1) * .5 for n in (rows, columns))
        unit = torch.minimum(torch.ones_like(y[:1]) * rows, torch.ones_like(y[:1]) * 1.12 * columns)
        flat = torch.zeros(rows, columns, device=like.device, dtype=like.dtype)
        return torch.stack([(y / unit)[:, None] + flat, x / unit + flat])

    def positions(self, coordinates: torch.Tensor) -> torch.Tensor:
        """[POSITIONS, rows, columns]: waves of the coordinates."""
        angles = coordinates[:, None] * self.waves[:, None, None]
        return torch.cat([angles.sin(), angles.cos()], 1).flatten(0, 1)

    def angles(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [rows*columns, 1, head]; rows and columns are counted from the middle of the frame."""
        y, x = ((torch.arange(n, device=self.turns.device) - (n - 1) * .5)[:, None] * self.turns for n in (rows, columns))
        flat = torch.zeros(rows, columns, self.unturned, device=self.turns.device)
        a = torch.cat([flat, y[:, None] + flat[..., :1], x[None] + flat[..., :1]], -1).reshape(rows * columns, 1, -1)
        return torch.cat([a.cos(), a.cos()], -1), torch.cat([-a.sin(), a.sin()], -1)

    def no_past(self, latents):
        """What a scene's first call takes for keys and values of the past, [caches, B, 0, N, d]; latents [B, C, T, h, w]."""
        b, _, _, h, w = latents.shape
        return latents.new_zeros(self.n_caches, b, 0, h * w // 4, self.d)

    def begin(self, gist, like):
        """Mean and logarithm of the variance of a scene's first frame, [B, 1, C, h, w] each; like [..., h, w]."""
        coordinates = self.coordinates(*like.shape[-2:], like)
        return [x[:, None] for x in self.beginning(gist, coordinates, self.positions(coordinates))]

    def follow(self, before, gist, first, frames: int):
        """The same of the `frames` that follow on others, [B, frames, C, h, w] each, and zeros where there are none; before
        [B, (SINK + LOOK_BACK)*(C + 1), h, w] and first [B] as Draft takes them."""
        coordinates = self.coordinates(*before.shape[2:], before)
        mean, log_variance = self.draft(before, gist, first, coordinates, self.positions(coordinates))
        ahead = torch.arange(frames, device=before.device).clamp(max=CHUNK - 1)
        return mean[:, ahead], log_variance[:, ahead]

    @staticmethod
    def known(latents):
        """What a draft sees of the clean frames [B, C, T, h, w] before its chunk: [B, (SINK + LOOK_BACK)*(C + 1), h, w]."""
        known = F.pad(latents, (0, 0, 0, 0, 0, 0, 0, 1), value=1.).transpose(1, 2)
        return ends(known, known[:, :1]).flatten(1, 2)

    def draft_after(self, latents, gist, first, frames: int):
        """The draft of so many frames behind clean latents [B, C, T, h, w], or of a scene's first where T is 0: mean and logarithm of the variance,
        [B, frames, C, h, w] each."""
        if latents.shape[2]:
            return self.follow(self.known(latents), gist, first, frames)
        return [x.expand(-1, frames, -1, -1, -1) for x in self.begin(gist, latents)]

    def drafts_of_chunks(self, latents, gist, frame_chunks, times):
        """The same for every frame of clean latents [B, C, T, h, w], chunk by chunk: what training sees at once.  times [B, T]: when in their
        scenes they are, in latent frames, with gaps for all alike; no draft reaches over one."""
        lengths, first, out = frame_chunks.unique_consecutive(return_counts=True)[1].tolist(), 0, []
        for n in lengths:
            if not first or times[0, first] - times[0, first - 1] < 1.5:
                out.append(self.draft_after(latents[:, :, :first], gist, times[:, first], n))
            else:
                out.append([torch.zeros_like(latents[:, :, :n]).transpose(1, 2)] * 2)
            first += n
        return tuple(torch.cat(x, 1) for x in zip(*out))

    @staticmethod
    def kinds(t: int, past: int, n: int, prompt_mask: torch.Tensor, frame_chunks: torch.Tensor | None) -> torch.Tensor:
        """[B, 1, t, KINDS, L + (past + t)*n]: of what kind each key is to each current frame; the last kind holds what hides it."""
        device = prompt_mask.device
        frame, key = torch.arange(t, device=device) + past, torch.arange(past + t, device=device)
        distance = (frame[:, None] - key[None]).clamp(-AHEAD, BEHIND) + AHEAD
        one = (distance[:, None] == torch.arange(TEXT, device=device)[:, None]).to(prompt_mask.dtype)
        hidden = torch.zeros_like(one[:, :1])
        if frame_chunks is not None:
            hidden[:, 0, past:] = (frame_chunks[None] > frame_chunks[:, None]).to(prompt_mask.dtype) * -1e4
        frames = torch.cat([one, torch.zeros_like(hidden), hidden], 1)[..., None].expand(t, KINDS, past + t, n).reshape(1, t, KINDS, -1)
        masked = ((prompt_mask - 1) * 1e4)[:, None, None]
        words = torch.cat([torch.zeros_like(masked).expand(-1, -1, TEXT, -1), torch.ones_like(masked), masked], 2).expand(-1, t, -1, -1)
        return torch.cat([words, frames.expand(prompt_mask.shape[0], -1, -1, -1)], -1)[:, None]

    @staticmethod
    def excess(frames, velocity, s):
        """What to add to velocities [B, T, C, h, w], so that the clean frames they lead to are no larger than any there are, one by one and in
        their root mean square; frames as they are now, s [B, T, 1, 1, 1] their noise levels.  Nothing, unless a video has lost its way: then its
        next chunk is kept from losing more."""
        clean = frames - s * velocity
        size = clean.clamp(-MOST, MOST).square().mean((2, 3, 4), keepdim=True).sqrt()
        return (clean - clean.clamp(-MOST, MOST) * (LOUDEST / size.clamp(min=LOUDEST))) / s.clamp(min=.05)

    def of_past(self, latents, past_key, past_value):
        """What a draft sees of the past [caches, B, P, N, d], as `known` has it, and the times [B, T] of the latents [B, C, T, h, w] that follow on it."""
        b, c, t, h, w = latents.shape
        before = torch.cat([past_key[-1], past_value[-1]], -1)
        before = ends(before, before.new_zeros(b, 1, h * w // 4, 2 * self.d))[..., :4 * (c + 2)]
        last = before[:, -1, 0, 4 * c:].reshape(b, 2, 4)[:, :, 0]  # whether there is a frame before, and when it was
        first = last[:, 0] * (last[:, 1] + 1)
        first = first - ROUND * (first >= LATEST)
        before = from_tokens(before[..., :4 * (c + 1)], h // 2, w // 2).reshape(b, (SINK + LOOK_BACK) * (c + 1), h, w)
        return before, first[:, None] + torch.arange(t, device=first.device)

    def draft_of(self, latents, gist, before, times, past: int):
        """The draft of the frames of latents [B, C, T, h, w] from prompts' gists [B, text], and `before` and `times` as `of_past` tells them of so many
        frames: mean and logarithm of the variance [B, T, C, h, w], the same in all calls of a chunk."""
        begins = self.begin(gist[None][past:].flatten(0, 1), latents)  # of nothing, where there is a past: that costs nothing
        follows = self.follow(before, gist, times[:, 0], latents.shape[2])
        return [x + torch.cat([y, torch.zeros_like(x[:, :1])])[:len(x)] for x, y in zip(follows, begins)]

    def forward(self, latents, timestep, prompt_embeds, prompt_mask, past_key, past_value, frame_chunks=None, draft=None, times=None):
        """latents [B, C, T, h, w], timestep [B, T] = 1000*sigma, prompt [B, L, text], mask [B, L],
        past [caches, B, P, N, d] -> velocity [B, C, T, h, w], keys and values [caches, B, T, N, d], one of each
        for every convolution and layer, and the last for the draft.  Other calls of the same chunk can be given its draft, as `draft_of` makes it.
        For many chunks at once: frame_chunks int [T], which chunk each frame is in (no frame sees a later chunk), their
        `drafts_of_chunks` and times [B, T]."""
        b, c, t, h, w = latents.shape
        past, rows, columns = past_key.shape[2], h // 2, w // 2
        n, frames = rows * columns, latents.transpose(1, 2)
        sigma = timestep * .001
        angle = sigma[..., None] * self.frequencies
        gist = prompt_embeds[:, 0]
        if draft is None or times is None:
            before, counted = self.of_past(latents, past_key, past_value)
            draft = draft or self.draft_of(latents, gist, before, counted, past)
            times = counted if times is None else times
        condition = self.time(torch.cat([angle.cos(), angle.sin()], -1)) + self.pooled(gist)[:, None]
        condition = F.silu(condition + self.when(gist[:, None].expand(-1, t, -1), clock(times)))
        ones = torch.ones_like(frames[:, :, :1])
        kept = keep(torch.cat([frames, ones, ones * times[..., None, None, None]], 2).flatten(0, 1), b, n, self.d)
        mean, variance = draft[0].clamp(-MOST, MOST), draft[1].exp()
        s = sigma[..., None, None, None]
        rest, spread = frames - (1 - s) * mean, torch.rsqrt((1 - s).square() * variance + s.square())
        positions = self.positions(self.coordinates(h, w, latents)).expand(b, t, -1, -1, -1)
        x = self.enter(torch.cat([frames * torch.rsqrt((1 - s).square() + s.square()), positions, rest * spread, mean, variance], 2).flatten(0, 1))
        keys, values = [], []

        def through(block, x, *others):
            i = len(keys)
            x, k, v = block(x, *others, past_key[i], past_value[i])
            keys.append(k)
            values.append(v)
            return x

        for block in self.before:
            x = through(block, x, condition)
        skip = x
        x = self.inp(to_tokens(x, b, n))
        mods = self.mods(condition).reshape(b, t, 1, 6, self.d).permute(3, 0, 1, 2, 4)
        kinds = self.kinds(t, past, n, prompt_mask, frame_chunks)
        cos, sin = self.angles(rows, columns)
        for block in self.blocks:
            x = through(block, x, rows, columns, mods, prompt_embeds, kinds, cos, sin)
        scale, shift = self.last(condition)[:, :, None].chunk(2, -1)
        x = self.out(norm(x, self.d) * (1 + scale) + shift)
        x = from_tokens(x, rows, columns) + skip
        for block in self.after:
            x = through(block, x, condition)
        f = self.leave(x).reshape(b, t, c, h, w).clamp(-MOST, MOST)
        velocity = (s - (1 - s) * variance) * spread.square() * rest - mean - f * variance.sqrt() * spread
        key, value = kept.chunk(2, -1)
        return (velocity + self.excess(frames, velocity, s)).transpose(1, 2), torch.stack([*keys, key]), torch.stack([*values, value])
