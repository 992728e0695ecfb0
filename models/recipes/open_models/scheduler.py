"""The scheduler table: diffusers' scheduler_config.json under the same names."""
from __future__ import annotations

import inspect
from typing import Any


FLOW = "FlowMatchEulerDiscreteScheduler"


def config_for(cls: type, config: dict[str, Any], own: str) -> dict[str, Any]:
    """What another class of scheduler is made of: the configuration of one that is called `own`, in its words where they differ.  What of rectified flow
    FlowMatchEuler calls `shift`, the solvers of several steps call `flow_shift`, and they have to be told that it is a flow."""
    known = inspect.signature(cls.__init__).parameters
    is_flow, of_flows = own == FLOW or bool(config.get("use_flow_sigmas")), cls.__name__ == FLOW
    if is_flow and not (of_flows or "use_flow_sigmas" in known) or of_flows and not is_flow:
        raise SystemExit(f"`{cls.__name__}` can't sample what {own} does: one is for rectified flow and the other is not")
    if config.get("use_dynamic_shifting") and not of_flows:
        raise SystemExit(f"`{cls.__name__}` can't sample what {own} does: its shift depends on the number of tokens, which only {FLOW} does here")
    if own == FLOW and not of_flows:
        return config | {"flow_shift": config["shift"], "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if own != FLOW and of_flows:
        return config | {"shift": config["flow_shift"]}
    return config


def table(scheduler, **extra: Any) -> dict[str, Any]:
    """All fields of the scheduler's constructor that have a value, with `type` first; `extra` are Latentflow's own."""
    known = inspect.signature(type(scheduler).__init__).parameters
    fields = {k: v for k, v in scheduler.config.items() if k in known and v is not None}
    return {"type": type(scheduler).__name__, **fields, **extra}
