"""What an answer took, and what the cache spared, in the words of OpenAI, llama.cpp and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kept.engine import Completion
from kept.serve.counts import Count

SOURCES: Final = ("tree", "store", "running", "conversation")


def usage_of(counts: Sequence[Count]) -> dict[str, Any]:
    """The usage object of a request's texts; each prompt counts once, its texts together.

    `kept` says where cached tokens came from ("tree": earlier texts, "store": files, "running": a
    text that was being computed) and why no more was found.
    """
    prompts = {found.prompt_index: found for found in counts}.values()
    read = sum(found.prompt_tokens for found in prompts)
    cached = sum(found.cached_tokens for found in prompts)
    written = sum(found.num_tokens for found in counts)
    drafted = sum(found.drafted_tokens for found in counts)
    accepted = sum(found.accepted_tokens for found in counts)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(found.reasoning_tokens for found in counts),
            "audio_tokens": 0,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": max(drafted - accepted, 0),
        },
        "kept": kept_usage(counts),
    }


def kept_usage(counts: Sequence[Count | Completion]) -> dict[str, Any]:
    """What no protocol has a word for, the same in all of them."""
    prompts = {found.prompt_index: found for found in counts}.values()
    return {
        "cached_from": {
            source: sum(found.cached_from.get(source, 0) for found in prompts) for source in SOURCES
        },
        "computed_tokens": sum(found.computed_tokens for found in prompts),
        "miss_reason": next((f.miss_reason for f in prompts if f.miss_reason), None),
        "queue_time": max((f.queue_time or 0.0 for f in prompts), default=0.0),
    }


def timings_of(count: Count) -> dict[str, Any]:
    """The times of one text, as llama.cpp's server tells them; ms."""
    read = count.prompt_tokens - count.cached_tokens
    written = count.num_tokens
    queued = count.queue_time or 0.0
    first = count.time_to_first_token
    reading = max((count.total_time if first is None else first) - queued, 0.0)
    writing = max(count.total_time - queued - reading, 0.0)
    found: dict[str, Any] = {"cache_n": count.cached_tokens}
    # The first token comes with the prompt's last pass.
    for name, number, seconds in (
        ("prompt", read, reading),
        ("predicted", written, writing if written > 1 else reading),
    ):
        found[f"{name}_n"] = number
        found[f"{name}_ms"] = seconds * 1e3
        found[f"{name}_per_token_ms"] = seconds * 1e3 / number if number else 0.0
        found[f"{name}_per_second"] = number / seconds if seconds else 0.0
    if count.drafted_tokens:
        found["draft_n"] = count.drafted_tokens
        found["draft_n_accepted"] = count.accepted_tokens
    return found
