"""Data parallelism over processes: on CPUs one process of one thread a core, on a GPU a single one.

On a few busy cores this beats threads: these wait for each other at every layer, processes once a step.
"""
from __future__ import annotations

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .data import cores


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast():
    """bfloat16 on a GPU and on CPUs that have AMX tiles for it, where it is three to four times as fast; float32 on others, where it is slow."""
    kind = device().type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False))


def workers() -> int:
    """How many processes to train in by default."""
    return 1 if device().type == "cuda" else cores()


def _start(rank: int, workers: int, meeting: str, function, args) -> None:
    os.setsid()  # a session of its own, so that the system's scheduler counts every worker
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    try:
        function(rank, workers, args)
    finally:
        dist.destroy_process_group()


def keep_pages() -> None:
    """Lets the allocator of processes that are started from now on keep its pages: big tensors come and go."""
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(4 << 30))
    os.environ.setdefault("MALLOC_TOP_PAD_", str(1 << 26))


def run(function, workers: int, args) -> None:
    """Calls function(rank, workers, args) in `workers` processes; in this one if that is 1."""
    if workers == 1:
        torch.set_float32_matmul_precision("high")
        function(0, 1, args)
        return
    keep_pages()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_start, (workers, os.path.join(folder, "meeting"), function, args), nprocs=workers)


def sum_tensors(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The sums over all processes, as views of one buffer."""
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    out, at = [], 0
    for t in tensors:
        out.append(flat[at:at + t.numel()].view(t.shape))
        at += t.numel()
    return out


def average_gradients(params, workers: int) -> None:
    if workers == 1:
        return
    params = [p for p in params if p.grad is not None]
    for p, g in zip(params, sum_tensors([p.grad for p in params])):
        p.grad = g / workers


def agree(value: bool) -> bool:
    """Rank 0's answer, known to all."""
    if not dist.is_initialized():
        return value
    flag = torch.tensor([float(value)])
    dist.broadcast(flag, 0)
    return bool(flag.item())
