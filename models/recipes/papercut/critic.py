"""Tells latents of renders from what the transformer makes of them, and renders from what the decoder makes of such latents, so that both learn to decide.

Where a prompt leaves open what lies behind its subject, or what was seen so far how legs go on, the mean square error alone is least for a mist of all that
may be there, in any number of steps, and a decoder of such latents draws soft edges.  As in latent adversarial diffusion distillation (arXiv:2403.12015) a critic sees what the network makes of noised
latents at once; as in R3GAN (arXiv:2501.05441) it compares it with the truth under the same prompt; noise instead of a gradient keeps it smooth (arXiv:2501.08316).
"""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .optim import descend
from .parallel import autocast

SMOOTH = 3.  # what it counts that values change where what is seen changes by a little
ALONE = 150  # steps in which a new critic learns before it has a say
LEVELS = .2, .95  # noise levels at which the network has something to decide, and knows where


def deeper(layers: nn.ModuleList, norms: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    """Through convolutions one after the other, each beside its input where that is of the same form."""
    for norm, layer in zip(norms, layers):
        y = layer(F.silu(norm(x)))
        x = x + y if x.shape == y.shape else y
    return x


class Critic(nn.Module):
    """Frames of latents [n, C, h, w], those before them, zeros where there is none, and prompts' gists [n, text] -> how true each place is
    [n, h/4, w/4], no unit."""
    blur, small = .4, .1  # the most noise that both are seen through, and what is a little

    def __init__(self, channels: int, text: int, width: int = 128):
        super().__init__()
        conv = lambda a, b, stride=1: nn.Conv2d(a, b, 3, stride, 1)
        self.inp, self.before = conv(channels, width), conv(channels, width)
        self.layers = nn.ModuleList([conv(width, width), conv(width, 2 * width, 2), conv(2 * width, 2 * width), conv(2 * width, 2 * width, 2), conv(2 * width, 2 * width)])
        self.norms = nn.ModuleList([nn.GroupNorm(8, layer.in_channels) for layer in self.layers])
        self.out, self.told = nn.Conv2d(2 * width, 1, 1), nn.Linear(text, 2 * width)

    def forward(self, x: torch.Tensor, before: torch.Tensor, gist: torch.Tensor) -> torch.Tensor:
        x = deeper(self.layers, self.norms, self.inp(x) + self.before(before))
        return (self.out(F.silu(x)) + (self.told(gist)[:, :, None, None] * x).sum(1, keepdim=True) / x.shape[1] ** .5)[:, 0]


class PictureCritic(nn.Module):
    """Frames of pictures in -1..1 [n, 3, H, W] and those before them -> how true each place is [n, H/16, W/16], no unit."""
    blur, small = .1, .03

    def __init__(self, width: int = 48):
        super().__init__()
        wide = [width, width, 2 * width, 2 * width, 4 * width, 4 * width]
        self.inp = nn.Conv2d(2 * 3 * 4, width, 3, 1, 1)
        self.layers = nn.ModuleList([nn.Conv2d(a, b, 3, 1 if a == b else 2, 1) for a, b in zip(wide, [*wide[1:], 4 * width])])
        self.norms = nn.ModuleList([nn.GroupNorm(8, layer.in_channels) for layer in self.layers])
        self.out = nn.Conv2d(4 * width, 1, 3, 2, 1)

    def forward(self, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        x = deeper(self.layers, self.norms, self.inp(F.pixel_unshuffle(torch.cat([x, x - before], 1), 2)))
        return self.out(F.silu(x))[:, 0]


class Seen:
    """What a critic sees of a chunk: frames of what was made and of the truth, through the same noise, those before them, and how much each counts.
    Every frame but a chunk's first is seen beside the one before, a single one alone."""

    def __init__(self, critic: nn.Module, made: torch.Tensor, truth: torch.Tensor, counts: torch.Tensor, *told: torch.Tensor):
        """made, truth [n, C, t, h, w], how much each frame counts [n, t] (a first one only where it is alone), and what else the critic is told [n, ...]."""
        s = critic.blur * torch.rand(len(made), 1, 1, 1, 1, device=made.device)
        noise = torch.randn_like(truth)
        frames = lambda x: x.transpose(1, 2).flatten(0, 1)
        self.critic, self.alone = critic, truth.shape[2] == 1
        later = slice(0 if self.alone else 1, None)
        self.pairs = []
        for x in (truth, made):
            x = (1 - s) * x + s * noise
            self.pairs.append((frames(x[:, :, later]), frames(torch.zeros_like(x) if self.alone else x[:, :, :-1])))
        self.counts = counts[:, later].flatten()
        self.told = [x.repeat_interleave(truth.shape[2] - (not self.alone), 0) for x in told]

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Of values [n * t, h, w]."""
        return (x.float().mean((1, 2)) * self.counts).sum() / self.counts.sum().clamp(min=1)

    def judged(self, pairs) -> tuple[torch.Tensor, ...]:
        """The critic's values of each of some pairs (frames, those before)."""
        frames, before = zip(*pairs)
        return self.critic(torch.cat(frames), torch.cat(before), *(x.repeat(len(pairs), 1) for x in self.told)).chunk(len(pairs))

    def doubt(self) -> torch.Tensor:
        """How far what was made is from passing for the truth; 0 at best."""
        a, b = self.judged(self.pairs)
        return self.mean(F.softplus(a - b))

    def critic_loss(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The critic's own loss, and the share of pairs that it tells apart."""
        near = [tuple(x + self.critic.small * torch.randn_like(x) for x in pair) for pair in self.pairs]
        a, b, c, d = self.judged([*self.pairs, *near])
        return self.mean(F.softplus(b - a) + SMOOTH * ((a - c).square() + (b - d).square())), self.mean((a > b).float())


def latents_seen(critic: Critic, v: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor, truth: torch.Tensor, gist: torch.Tensor, before) -> Seen:
    """What there is to be seen of a velocity v [n, C, t, h, w]: the clean latents that it leads x to in one step from noise levels sigma [n, t], under
    prompts' gists [n, text], behind the frame `before`, in truth and as it was made, [n, C, 1, h, w] each, or of none where a scene begins."""
    at_once = torch.cat([before[1], x - sigma[:, None, :, None, None] * v], 2)
    counts = ((sigma > LEVELS[0]) & (sigma < LEVELS[1])).float()
    return Seen(critic, at_once, torch.cat([before[0], truth], 2), F.pad(counts, (at_once.shape[2] - counts.shape[1], 0)), gist)


class Sharpener:
    """A critic with its optimiser, and what it asks of a network: one process's share."""

    def __init__(self, critic: nn.Module, share: float, state: dict | None = None):
        self.critic, self.share, self.steps, self.told = critic, share, 0, {}
        self.opt = torch.optim.AdamW(self.critic.parameters(), lr=4e-4, betas=(.5, .99), weight_decay=.01)
        if state:
            self.critic.load_state_dict(state["critic"])
            self.opt.load_state_dict(state["opt"])
            self.steps = ALONE

    def state(self) -> dict:
        return {"critic": self.critic.state_dict(), "opt": self.opt.state_dict()}

    def loss(self, error: torch.Tensor, v: torch.Tensor, seen: Seen) -> torch.Tensor:
        """What to add to a network's `error`, made of its output v, as is what was seen: its gradient of v is `share` times as large as that of the error.
        Nothing for the first ALONE steps, in which the critic learns."""
        if self.steps < ALONE:
            return torch.zeros((), device=v.device)
        self.critic.requires_grad_(False)
        with autocast():
            loss = seen.doubt()
        size = lambda loss: torch.autograd.grad(loss, v, retain_graph=True)[0].float().norm()
        return loss * (self.share * size(error) / size(loss).clamp(min=1e-8))

    def learn(self, seen: Seen, workers: int = 1) -> None:
        """Trains the critic on what was seen, without a gradient of its own, in so many processes."""
        self.critic.requires_grad_(True)
        with autocast():
            loss, told = seen.critic_loss()
        descend(self.opt, loss, self.critic, workers)
        self.steps += 1
        name = "pictures" if seen.alone else "videos"
        self.told[name] = .96 * self.told.get(name, .5) + .04 * told.item()

    def say(self) -> str:
        """How much of what it sees it tells apart."""
        return "".join(f" told apart {name} {share:.3f}" for name, share in self.told.items())
