"""What happens to a request, as any protocol tells its client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kept.engine import Completion
from kept.sampling import TokenLogprobs
from kept.serve.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a prompt is read.

    prompt: which. total: its tokens. cached: how many were known, None before it has started.
    processed: how many have their keys by now, cached ones included. seconds: since it arrived.
    """

    prompt: int
    total: int
    cached: int | None
    processed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Started:
    """The first token of a prompt's texts has been drawn, so what the cache did is known.

    prompt: which. cached_from: tokens of it that were not computed, by source, see `Completion`.
    miss_reason: why no more was known. queue_time: seconds until it was admitted.
    """

    prompt: int
    prompt_tokens: int
    cached_from: Mapping[str, int]
    miss_reason: str | None
    queue_time: float | None


@dataclass(frozen=True, slots=True)
class Delta:
    """What a text has come to since its last delta.

    text: what has become certain; it never ends inside a character, never shows the beginning of
    a stop string. token_ids: those drawn since, which may spell more. logprobs: one for each of
    them; empty where none were asked for. foreseen: which characters drafts had foreseen, see
    `Piece`.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    foreseen: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A text has ended, and `completion` is all of it.

    failure: why it could not go on, where its finish_reason is "error"; or that its time was over,
    where that is "interrupted".
    """

    index: int
    completion: Completion
    failure: Refusal | None = None


Event = Progress | Started | Delta | Finished
