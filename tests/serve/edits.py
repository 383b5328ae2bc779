"""Conversations, an edit of each, and what a server has to say of the edit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kept
from kept import LLM

from .serving import Served

KINDS: Final = ("model", "tools", "system", "turn", "nothing")
ALIASES: Final = ("kept", "kept-by-another-name")
_WORDS: Final = (
    *("add", "list", "sort", "key", "value", "loop", "test", "read", "write"),
    *("name", "tuple", "graph", "node", "edge", "path"),
)
_TEMPLATE: Final = (
    "{% for tool in tools or [] %}tool {{ tool.function | tojson }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Edit:
    """Two requests of `/v1/messages`, without what is the same in all. kind: what differs."""

    kind: str
    before: dict[str, Any]
    after: dict[str, Any]


def checkpoint(folder: Path) -> Path:
    """The bundled model with a template that shows tools."""
    shutil.copytree(Path(kept.__file__).parent / "bundled", folder, dirs_exist_ok=True)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"chat_template": _TEMPLATE}
    file.write_text(json.dumps(config))
    return folder


def edits(count: int, seed: int = 0) -> Iterator[Edit]:
    """So many edits, of every kind by turns; each of a conversation of its own."""
    draw = random.Random(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        before: dict[str, Any] = {
            "model": ALIASES[0],
            "tools": [_tool(draw, f"{name}_{number}") for name in draw.sample(_WORDS, 2)],
            "system": f"{_text(draw, 20)} {number}",
            "messages": _turns(draw, 2 * draw.randrange(3) + 1),
        }
        after = deepcopy(before)
        after["messages"] += _turns(draw, 3)[1:]
        _change(draw, kind, after, len(before["messages"]))
        yield Edit(kind, before, after)


def wrong(server: Served, llm: LLM, found: Sequence[Edit]) -> list[str]:
    """What a server said of edits that is not so, of the reason and the tokens.

    What it can have known is worked out here, from the tokens of every request and answer.
    """
    known: list[list[int]] = []
    told = []
    for number, edit in enumerate(found):
        first = _ask(server, edit.before)
        previous, _ = _prompt(llm, edit.before, known)
        named = {"previous_message_id": first["id"]}
        answer = _ask(server, {**edit.after, "diagnostics": named})
        prompt, cached = _prompt(llm, edit.after, known)
        missed = max(min(len(previous), len(prompt) - 1) - cached, 0)
        kind = "messages" if edit.kind == "turn" else edit.kind
        expected = {"type": f"{kind}_changed", "cache_missed_input_tokens": missed}
        reason = answer["diagnostics"] and answer["diagnostics"]["cache_miss_reason"]
        if reason != (None if edit.kind == "nothing" else expected):
            told.append(f"edit {number} of {edit.kind}: {reason}, not {expected}")
    return told


def _ask(server: Served, body: dict[str, Any]) -> Any:
    answer = server.http.post("/v1/messages", json={"max_tokens": 1, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def _prompt(llm: LLM, body: dict[str, Any], known: list[list[int]]) -> tuple[list[int], int]:
    """The tokens of a request, and how many of them are known, which all of them are then."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "parameters": tool["input_schema"],
                "description": tool["description"],
            },
        }
        for tool in body["tools"]
    ]
    messages = [{"role": "system", "content": body["system"]}, *body["messages"]]
    tokens = list(llm.read_chat(messages, template_options={"tools": tools}))
    cached = max((_common(tokens, other) for other in known), default=0)
    known.append(tokens)
    return tokens, min(cached, len(tokens) - 1)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _change(draw: random.Random, kind: str, body: dict[str, Any], num_before: int) -> None:
    if kind == "model":
        body["model"] = ALIASES[1]
    elif kind == "tools":
        change = draw.randrange(3)
        if change == 0:
            body["tools"].reverse()
        elif change == 1:
            body["tools"].pop()
        else:
            body["tools"][0]["description"] += " again"
    elif kind == "system":
        words = body["system"].split()
        words[draw.randrange(len(words))] = "otherwise"
        body["system"] = " ".join(words)
    elif kind == "turn":
        turn = body["messages"][draw.randrange(num_before)]
        words = turn["content"].split()
        words[draw.randrange(len(words))] = "otherwise"
        turn["content"] = " ".join(words)


def _turns(draw: random.Random, count: int) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": _text(draw, 12)} for i in range(count)]


def _tool(draw: random.Random, name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {draw.choice(_WORDS): {"type": "string"}}}
    return {"name": name, "description": _text(draw, 6), "input_schema": schema}


def _text(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(_WORDS, k=count))
