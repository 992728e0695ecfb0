"""tokenizer.json and the table that says how a prompt is tokenized."""
from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any


def write(tokenizer, path: pathlib.Path) -> None:
    """Writes the tokenizer as the tokenizers library reads it, without padding and truncation, which model.toml has."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None or not hasattr(fast, "to_str"):
        from transformers.convert_slow_tokenizer import convert_slow_tokenizer

        fast = convert_slow_tokenizer(tokenizer)
    content = json.loads(fast.to_str())
    content["truncation"] = content["padding"] = None
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def table(tokenizer, file: str, max_length: int, clean: Sequence[str] = (), template: str | None = None) -> dict[str, Any]:
    """The manifest's tokenizer table."""
    fields: dict[str, Any] = {"file": file, "max_length": max_length, "pad_token": tokenizer.pad_token}
    if tokenizer.unk_token is not None:
        fields["unk_token"] = tokenizer.unk_token
    if template is not None:
        fields["template"] = template
    return fields | {"clean": list(clean)}
