"""The scheduler table: diffusers' scheduler_config.json under the same names."""
from __future__ import annotations

import inspect
from typing import Any


def table(scheduler, **extra: Any) -> dict[str, Any]:
    """All fields of the scheduler's constructor that have a value, with `type` first; `extra` are Latentflow's own."""
    known = inspect.signature(type(scheduler).__init__).parameters
    fields = {k: v for k, v in scheduler.config.items() if k in known and v is not None}
    return {"type": type(scheduler).__name__, **fields, **extra}
