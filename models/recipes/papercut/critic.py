"""Tells latents of renders from what the transformer makes of them, so that it learns to decide.

Where a prompt leaves open what lies behind its subject, or what was seen so far how legs go on, the mean square error alone is least for a mist of all that
may be there, in any number of steps.  As in latent adversarial diffusion distillation (arXiv:2403.12015) a critic sees what the network makes of noised
latents at once; as in R3GAN (arXiv:2501.05441) it compares it with the truth under the same prompt; noise instead of a gradient keeps it smooth (arXiv:2501.08316).
"""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .parallel import autocast

BLUR = .4  # the most noise that both are seen through
SMOOTH, SMALL = 3., .1  # what it counts that values change where latents change by so much
ALONE = 150  # steps in which a new critic learns before it has a say
LEVELS = .2, .95  # noise levels at which the network has something to decide, and knows where


class Critic(nn.Module):
    """Frames of latents [n, C, h, w], those before them, zeros where there is none, and prompts' gists [n, text] -> how true each place is
    [n, h/4, w/4], no unit."""

    def __init__(self, channels: int, text: int, width: int = 128):
        super().__init__()
        conv = lambda a, b, stride=1: nn.Conv2d(a, b, 3, stride, 1)
        self.inp, self.before = conv(channels, width), conv(channels, width)
        self.layers = nn.ModuleList([conv(width, width), conv(width, 2 * width, 2), conv(2 * width, 2 * width), conv(2 * width, 2 * width, 2), conv(2 * width, 2 * width)])
        self.norms = nn.ModuleList([nn.GroupNorm(8, layer.in_channels) for layer in self.layers])
        self.out, self.told = nn.Conv2d(2 * width, 1, 1), nn.Linear(text, 2 * width)

    def forward(self, x: torch.Tensor, before: torch.Tensor, gist: torch.Tensor) -> torch.Tensor:
        x = self.inp(x) + self.before(before)
        for norm, layer in zip(self.norms, self.layers):
            y = layer(F.silu(norm(x)))
            x = x + y if x.shape == y.shape else y
        return (self.out(F.silu(x)) + (self.told(gist)[:, :, None, None] * x).sum(1, keepdim=True) / x.shape[1] ** .5)[:, 0]


class Seen:
    """What a critic sees of a chunk: frames of what was made and of the truth, through the same noise, those before them, and how much each counts.
    Every frame but a chunk's first is seen beside the one before, a single one alone."""

    def __init__(self, made: torch.Tensor, truth: torch.Tensor, sigma: torch.Tensor, gist: torch.Tensor):
        """made, truth [n, C, t, h, w], the noise levels that it was made from, sigma [n, t], and prompts' gists [n, text]."""
        s = BLUR * torch.rand(len(made), 1, 1, 1, 1, device=made.device)
        noise = torch.randn_like(truth)
        frames = lambda x: x.transpose(1, 2).flatten(0, 1)
        alone = truth.shape[2] == 1
        later = slice(0 if alone else 1, None)
        self.pairs = []
        for x in (truth, made):
            x = (1 - s) * x + s * noise
            self.pairs.append((frames(x[:, :, later]), frames(torch.zeros_like(x) if alone else x[:, :, :-1])))
        self.counts = ((sigma > LEVELS[0]) & (sigma < LEVELS[1])).float()[:, later].flatten()
        self.gist = gist.repeat_interleave(truth.shape[2] - (not alone), 0)

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Of values [n * t, h, w]."""
        return (x.float().mean((1, 2)) * self.counts).sum() / self.counts.sum().clamp(min=1)

    def judged(self, critic: Critic, pairs) -> tuple[torch.Tensor, ...]:
        """A critic's values of each of some pairs (frames, those before)."""
        frames, before = zip(*pairs)
        return critic(torch.cat(frames), torch.cat(before), self.gist.repeat(len(pairs), 1)).chunk(len(pairs))

    def doubt(self, critic: Critic) -> torch.Tensor:
        """How far what was made is from passing for the truth; 0 at best."""
        a, b = self.judged(critic, self.pairs)
        return self.mean(F.softplus(a - b))

    def critic_loss(self, critic: Critic) -> tuple[torch.Tensor, torch.Tensor]:
        """The critic's own loss, and the share of pairs that it tells apart."""
        near = [tuple(x + SMALL * torch.randn_like(x) for x in pair) for pair in self.pairs]
        a, b, c, d = self.judged(critic, [*self.pairs, *near])
        return self.mean(F.softplus(b - a) + SMOOTH * ((a - c).square() + (b - d).square())), self.mean((a > b).float())


def at_once(v: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The clean latents that a velocity v [n, C, t, h, w] leads x to in one step from noise levels sigma [n, t]."""
    return x - sigma[:, None, :, None, None] * v


class Sharpener:
    """A critic with its optimiser, and what it asks of the network: one process's share."""

    def __init__(self, channels: int, text: int, device, share: float, state: dict | None = None):
        self.critic = Critic(channels, text).to(device)
        self.share, self.steps, self.told = share, 0, {}
        self.opt = torch.optim.AdamW(self.critic.parameters(), lr=4e-4, betas=(.5, .99), weight_decay=.01)
        if state:
            self.critic.load_state_dict(state["critic"])
            self.opt.load_state_dict(state["opt"])
            self.steps = ALONE

    def state(self) -> dict:
        return {"critic": self.critic.state_dict(), "opt": self.opt.state_dict()}

    def loss(self, error: torch.Tensor, v: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor, truth: torch.Tensor, gist: torch.Tensor) -> torch.Tensor:
        """What to add to the network's `error`, made of its velocity v [n, C, t, h, w] of x at noise levels sigma [n, t]: its gradient of v is `share` times as large
        as that of the error.  Nothing for the first ALONE steps, in which the critic learns."""
        if self.steps < ALONE:
            return torch.zeros((), device=v.device)
        self.critic.requires_grad_(False)
        with autocast():
            loss = Seen(at_once(v, x, sigma), truth, sigma, gist).doubt(self.critic)
        size = lambda loss: torch.autograd.grad(loss, v, retain_graph=True)[0].float().norm()
        return loss * (self.share * size(error) / size(loss).clamp(min=1e-8))

    def learn(self, v: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor, truth: torch.Tensor, gist: torch.Tensor, step) -> None:
        """Trains the critic on the same; step(opt, loss, module) is one step of its optimiser."""
        self.critic.requires_grad_(True)
        with autocast():
            loss, told = Seen(at_once(v.detach().float(), x, sigma), truth, sigma, gist).critic_loss(self.critic)
        step(self.opt, loss, self.critic)
        self.steps += 1
        name = "pictures" if v.shape[2] == 1 else "videos"
        self.told[name] = .96 * self.told.get(name, .5) + .04 * told.item()
