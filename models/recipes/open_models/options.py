"""What the user chose."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Choices that change a package; the command line's help describes them."""

    dtype: str = "fp32"
    opset: int = 20
    attention: str = "fused"
    max_length: int | None = None
    scheduler: str | None = None
