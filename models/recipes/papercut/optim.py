"""Muon for matrices and convolutions, AdamW for the rest, in one optimiser with one learning rate.

Muon's update is the momentum with its singular values brought to about 1 (a quintic Newton-Schulz iteration), scaled
to the size an Adam step would have, so the same learning rate suits both.  The iterations are shared out among the
processes of parallel.py.
"""
from __future__ import annotations

import torch
import torch.distributed as dist

from .parallel import autocast, average_gradients, sum_tensors


def orthogonalise(g: torch.Tensor, steps: int = 3) -> torch.Tensor:
    """g [rows, columns] with rows <= columns -> the nearest semi-orthogonal matrix, roughly."""
    x = g / (g.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


def descend(opt: torch.optim.Optimizer, loss: torch.Tensor, module: torch.nn.Module, workers: int, lr: float | None = None, clip: float = float("inf")) -> None:
    """One step of an optimiser, on the mean of all processes' gradients, at this learning rate or the one it has."""
    for group in opt.param_groups if lr is not None else ():
        group["lr"] = lr
    opt.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(module.parameters(), workers)
    torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    opt.step()


AVERAGED = .003  # of a step in the average that networks are in the end; all steps of a run alike while they are fewer


@torch.no_grad()
def take_average(average: dict[str, torch.Tensor], state: dict[str, torch.Tensor], steps: int) -> None:
    """Leads the running average of a run's weights towards their `state` after so many steps, 1 at first."""
    for k, v in state.items():
        average[k].lerp_(v, max(AVERAGED, 1 / steps))


class MuonAdam(torch.optim.Optimizer):
    def __init__(self, named_parameters, lr: float, is_matrix, momentum: float = .95, betas=(.9, .98), weight_decay: float = .01, adam_scale: float = 1.):
        groups = {True: [], False: []}
        for name, p in named_parameters:
            groups[bool(p.ndim >= 2 and is_matrix(name, p))].append(p)
        super().__init__([{"params": groups[True], "muon": True}, {"params": groups[False], "muon": False}],
                         {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "adam_scale": adam_scale})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            (self._muon if group["muon"] else self._adam)(group)

    def _muon(self, group) -> None:
        lr, m = group["lr"], group["momentum"]
        params = [p for p in group["params"] if p.grad is not None]
        rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        load, mine = [0] * workers, []
        for p in sorted(params, key=lambda p: -p.numel()):  # the heaviest first, each to whoever has least to do
            who = load.index(min(load))
            load[who] += p.numel() * min(p.shape[0], p.numel() // p.shape[0])
            if who == rank:
                mine.append(id(p))
        updates = []
        for p in params:
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
            state["momentum"].lerp_(p.grad, 1 - m)
            if id(p) not in mine:
                updates.append(torch.zeros(p.shape))
                continue
            u = p.grad.lerp(state["momentum"], m).reshape(p.shape[0], -1)
            scale = .2 * max(u.shape) ** .5
            with autocast():
                u = orthogonalise(u.T.contiguous()).T if u.shape[0] > u.shape[1] else orthogonalise(u)
            updates.append((u.float() * scale).reshape(p.shape))
        if workers > 1:
            updates = sum_tensors(updates)
        for p, u in zip(params, updates):
            p.mul_(1 - lr * group["weight_decay"]).sub_(u, alpha=lr)

    def _adam(self, group) -> None:
        lr, (b1, b2) = group["lr"] * group.get("adam_scale", 1.), group["betas"]
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if "step" not in state:
                state["step"], state["a"], state["b"] = 0, torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            state["a"].lerp_(p.grad, 1 - b1)
            state["b"].lerp_(p.grad.square(), 1 - b2)
            a, b = state["a"] / (1 - b1 ** state["step"]), state["b"] / (1 - b2 ** state["step"])
            p.add_(a / (b.sqrt() + 1e-8), alpha=-lr)
