"""Muon for matrices and convolutions, AdamW for the rest, in one optimiser with one learning rate.

Muon's update is the momentum with its singular values brought to about 1 (a quintic Newton-Schulz iteration), scaled
to the size an Adam step would have, so the same learning rate suits both.
"""
from __future__ import annotations

import torch


def orthogonalise(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """g [n, rows, columns] with rows <= columns -> the nearest semi-orthogonal matrices, roughly."""
    x = g.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x


class MuonAdam(torch.optim.Optimizer):
    def __init__(self, named_parameters, lr: float, is_matrix, momentum: float = .95, betas=(.9, .98), weight_decay: float = .01):
        groups = {True: [], False: []}
        for name, p in named_parameters:
            groups[bool(p.ndim >= 2 and is_matrix(name, p))].append(p)
        super().__init__([{"params": groups[True], "muon": True}, {"params": groups[False], "muon": False}],
                         {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            (self._muon if group["muon"] else self._adam)(group)

    def _muon(self, group) -> None:
        lr, m, buckets = group["lr"], group["momentum"], {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - m)
            update = p.grad.lerp(state["momentum"], m).reshape(p.shape[0], -1)
            flip = update.shape[0] > update.shape[1]
            update = update.T if flip else update
            buckets.setdefault(tuple(update.shape), []).append((p, update, flip))
        for (_, columns), items in buckets.items():
            for (p, _, flip), u in zip(items, orthogonalise(torch.stack([u for _, u, _ in items]))):
                u = (u.T if flip else u).reshape(p.shape).float()
                p.mul_(1 - lr * group["weight_decay"]).add_(u, alpha=-lr * .2 * columns ** .5)

    def _adam(self, group) -> None:
        lr, (b1, b2) = group["lr"], group["betas"]
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            state = self.state[p]
            if not state:
                state["step"], state["a"], state["b"] = 0, torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            state["a"].lerp_(p.grad, 1 - b1)
            state["b"].lerp_(p.grad.square(), 1 - b2)
            a, b = state["a"] / (1 - b1 ** state["step"]), state["b"] / (1 - b2 ** state["step"])
            p.add_(a / (b.sqrt() + 1e-8), alpha=-lr)
