"""Shares with intervals, peak signal-to-noise ratio, and other small arithmetic of the evaluation."""
from __future__ import annotations

import math

import numpy as np


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval)."""
    if not n:
        return 0., 1.
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def share(right) -> dict:
    """The share of true values, its interval and their number."""
    right = [bool(x) for x in right]
    low, high = wilson(sum(right), len(right))
    return {"share": sum(right) / len(right) if right else None, "low": low, "high": high, "n": len(right)}


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """In dB, of float pictures in 0..1; `mask` (broadcast over colours) limits it to a part."""
    d = np.square(a.astype(np.float64) - b)
    error = d.mean() if mask is None else (d * mask[..., None]).sum() / max(1., mask.sum() * a.shape[-1])
    return -10 * math.log10(max(error, 1e-10))


def movement(frames: np.ndarray) -> float:
    """Mean absolute difference between frames a sixth of a second apart, of values in 0..1, times 255."""
    return float(np.abs(frames[4:] - frames[:-4]).mean() * 255)


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; numbers with two or three significant places."""
    def cell(x) -> str:
        if x is None:
            return ""
        if isinstance(x, float):
            return f"{x:.2f}" if abs(x) < 10 else f"{x:.1f}"
        return str(x)

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell(x) for x in line) + " |" for line in lines)


def interval(s: dict) -> str:
    """".93 (.90 to .95)" of a share."""
    if s["share"] is None:
        return "–"
    short = lambda x: f"{x:.2f}"
    return f"{short(s['share'])} ({short(s['low'])} to {short(s['high'])})"
