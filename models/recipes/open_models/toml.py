"""model.toml from tables, in the order of the package's specification."""
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def dumps(manifest: Mapping[str, Any]) -> str:
    """The manifest as TOML: top-level values, then each table, arrays of tables, and tables inside them."""
    lines: list[str] = []
    table(lines, "", manifest)
    return "\n".join(lines).strip() + "\n"


def table(lines: list[str], path: str, content: Mapping[str, Any]) -> None:
    nested = {k: v for k, v in content.items() if is_table(k, v, path) or is_tables(v)}
    lines += [f"{k} = {value(v)}" for k, v in content.items() if k not in nested]
    for key, inner in nested.items():
        name = f"{path}.{key}" if path else key
        for item in inner if is_tables(inner) else [inner]:
            lines += ["", f"[[{name}]]" if is_tables(inner) else f"[{name}]"]
            table(lines, name, item)


def is_table(key: str, v: Any, path: str) -> bool:
    return isinstance(v, Mapping) and not set(v) == {"min", "max", "default"}


def is_tables(v: Any) -> bool:
    return isinstance(v, list) and bool(v) and all(isinstance(i, Mapping) for i in v)


def value(v: Any) -> str:
    if isinstance(v, Mapping):
        return "{ " + ", ".join(f"{k} = {value(x)}" for k, x in v.items()) + " }"
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(map(value, v)) + "]"
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, str):
        return json.dumps(v, ensure_ascii=False)
    if isinstance(v, float):
        return repr(v)
    if isinstance(v, int):
        return str(v)
    raise TypeError(f"`{v!r}` has no form in TOML")
