"""What an export will need, before it starts."""
from __future__ import annotations

import pathlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from .graph import Part
from .source import Source

BYTES = {"fp32": 4, "fp16": 2, "int8": 1.07}
OVERHEAD = 1 << 30  # PyTorch, the traces and the exporter itself


@dataclass
class Need:
    """Bytes on the disk, and in memory at the worst moment."""

    disk: int
    memory: int
    worst: str


def estimate(source: Source, parts: Sequence[Part], dtype: str, check: bool) -> Need:
    """Counts the weights in the headers of the source's files."""
    disk, memory, worst = 0, 0, ""
    seen: set[str] = set()
    for part in parts:
        count = {c: source.parameters(c) for c in part.components}
        kind = "fp32" if part.codec else dtype
        disk += int(sum(n for c, n in count.items() if c not in seen) * BYTES[kind])
        seen.update(count)
        # A check runs PyTorch and then the runtime, never both, each on mapped weights; halves are held against floats.
        held = sum(count.values()) * (2 if kind == "fp16" and not check else 4)
        if held > memory:
            memory, worst = held, part.name
    return Need(disk + (4 << 20), memory + OVERHEAD, worst)


def require_disk(need: Need, folder: pathlib.Path) -> None:
    """Refuses to start what can't end."""
    existing = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < need.disk:
        raise SystemExit(f"`{folder}` needs about {size(need.disk)} and the disk has {size(free)} free: make room, choose another folder, or --dtype fp16 or int8")


def available_memory() -> int:
    """Memory that programs can have without swapping."""
    lines = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def size(count: float) -> str:
    """Bytes in a form to read."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
