"""What became of a completion: counts and times for people, everything for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kept.format import format_bytes, format_rate, format_seconds, pairs, table

if TYPE_CHECKING:
    from kept.engine import Completion
    from kept.sampling import TokenLogprob
    from kept.text import Tokenizer


def stats(completions: Sequence[Completion], loading: float | None = None) -> str:
    """Counts and times; a row for each completion where there are several. loading: seconds."""
    rows = [] if loading is None else [("loading", format_seconds(loading))]
    if len(completions) == 1:
        return pairs([*rows, *_rows(completions[0])])
    header = ("prompt", "text", "tokens", "new", "ended by", "first token", "speed", "total")
    cells = [
        (
            str(c.prompt_index + 1),
            str(c.index + 1),
            f"{c.prompt_tokens:,}",
            f"{len(c.token_ids):,}",
            c.finish_reason,
            format_seconds(c.time_to_first_token),
            format_rate(c.tokens_per_second),
            format_seconds(c.total_time),
        )
        for c in completions
    ]
    rows.append(("seed", str(completions[0].seed)))
    rows.append(("cache", f"{format_bytes(completions[0].cache_bytes)} a sequence"))
    return f"{table(header, cells)}\n{pairs(rows)}"


def _rows(c: Completion) -> list[tuple[str, str]]:
    new = c.prompt_tokens - c.cached_tokens
    return [
        ("prompt", f"{c.prompt_tokens:,} tokens: {c.cached_tokens:,} cached, {new:,} new"),
        ("written", f"{len(c.token_ids):,} tokens, ended by {c.finish_reason}"),
        ("first token", format_seconds(c.time_to_first_token)),
        ("speed", f"{format_rate(c.tokens_per_second)} after the first"),
        ("total", format_seconds(c.total_time)),
        ("cache", format_bytes(c.cache_bytes) if c.cache_bytes else "none"),
        *([("drafts", _drafts(c))] if c.drafted_tokens else []),
        ("seed", str(c.seed)),
    ]


def _drafts(c: Completion) -> str:
    parts = [f"{c.accepted_from.get(x, 0):,} of {n:,} by {x}" for x, n in c.drafted_from.items()]
    return f"{c.num_steps:,} steps; accepted {', '.join(parts)}"


def to_json(c: Completion, prompt: str, tokenizer: Tokenizer | None) -> str:
    """One line of JSON with every field of the completion, and the prompt."""
    found = {field.name: getattr(c, field.name) for field in fields(c)}
    found |= {"prompt": prompt, "new_tokens": len(c.token_ids)}
    if c.logprobs is not None:
        found["logprobs"] = [
            _token(step.chosen, tokenizer) | {"top": [_token(t, tokenizer) for t in step.top]}
            for step in c.logprobs
        ]
    return json.dumps(found, allow_nan=False)


def _token(token: TokenLogprob, tokenizer: Tokenizer | None) -> dict[str, Any]:
    text = None
    if tokenizer is not None:
        text = tokenizer.decode([token.token_id], skip_special_tokens=False)
    logprob = token.logprob if math.isfinite(token.logprob) else None  # JSON has no -Infinity
    return {"token_id": token.token_id, "token": text, "logprob": logprob}
