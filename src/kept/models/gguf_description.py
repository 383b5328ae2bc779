"""The files of a checkpoint folder that say what a GGUF file's metadata says.

They are what a folder written from one needs beside its weights, so that the tokens of a text, the
chat template and the ends of a text are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kept.errors import TemplateError
from kept.options import GENERATION_CONFIG
from kept.text import ChatTemplate, find_tokenizer


def describe_gguf(path: Path, generation_config: Mapping[str, Any]) -> dict[str, str]:
    """Texts by the names of their files. Raises TokenizerError as `find_tokenizer`."""
    found = {GENERATION_CONFIG: _json(generation_config)}
    tokenizer = find_tokenizer(path)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if tokenizer is not None:
        found["tokenizer.json"] = tokenizer.backend.to_str()
        config |= tokenizer.special_tokens
    templates = _templates(path)
    if set(templates) == {"default"}:
        found["chat_template.jinja"] = templates["default"]
    elif templates:  # not as files: their names are the file's own
        config["chat_template"] = [
            {"name": name, "template": text} for name, text in templates.items()
        ]
    return {**found, "tokenizer_config.json": _json(config)}


def _templates(path: Path) -> Mapping[str, str]:
    try:
        return ChatTemplate.from_folder(path).templates
    except TemplateError:
        return {}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
