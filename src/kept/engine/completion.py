"""What a generation gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kept.errors import SamplingError
from kept.sampling import TokenLogprobs

FinishReason = Literal["stop", "length", "interrupted", "error"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One text that continues one prompt.

    text: what follows the prompt, cut before a stop string. token_ids: the tokens drawn, the
    end-of-sequence token or those of the stop string included. finish_reason: "stop" for an
    end-of-sequence token or a stop string (stop_string: which one, else None), "length" for
    max_new_tokens or the end of the context, "interrupted" for Ctrl-C, "error" for what `error`
    says. logprobs: one entry per token, or None if not asked for. score: the beam's score (sum of
    log-probabilities over length ** length_penalty), None without beams. prompt_index, index: which
    prompt, and which of its `num_return_sequences`. seed: as the `seed` of a request for one text
    of this prompt it draws the same text again; with beams, where one search finds every text of a
    prompt, it repeats that search and the text is at this index.

    Counts and times: prompt_tokens; cached_tokens of them were in the cache already, which
    cached_from divides by where they were found ("tree": the keys of earlier texts, "store":
    those that were read from the prefix store, "running": those of a text that was being computed,
    "conversation": the turns before); computed_tokens:
    rows that the model computed for the request, all of its texts together; miss_reason: why no
    more of the prompt was found (None: nothing was missing, or nothing is shared);
    time_to_first_token, total_time and queue_time (until it was admitted) in seconds from the
    request's arrival; tokens_per_second after the first token (None for fewer than two);
    cache_bytes that its keys and values took, unused room included; num_parked: how often its
    request gave up its room to others and went on later; drafted_tokens: rows that were computed
    for what it might go on with; accepted_tokens: of its own those that needed no step of their
    own, as a draft had foreseen what they go on from; drafted_from and accepted_from divide these
    by who drafted them ("suffix": what came behind the same tokens before, "model": the draft
    model).
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] | None
    score: float | None
    seed: int
    prompt_index: int
    index: int
    prompt_tokens: int
    cached_tokens: int
    time_to_first_token: float | None
    total_time: float
    tokens_per_second: float | None
    cache_bytes: int
    error: str | None = None
    cached_from: Mapping[str, int] = field(default_factory=dict)
    computed_tokens: int = 0
    queue_time: float | None = None
    num_parked: int = 0
    miss_reason: str | None = None
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    stop_string: str | None = None
    drafted_from: Mapping[str, int] = field(default_factory=dict)
    accepted_from: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Passes of the model that its tokens were drawn from."""
        return len(self.token_ids) - self.accepted_tokens


class GenerationError(SamplingError):
    """Some texts of a call could not be finished; `completions` holds all of them as they are.

    Those that failed have the finish_reason "error" and say why in `error`; the others are what
    they would have been alone. A SamplingError, since that is what nearly always has happened; the
    cause is the first one's own exception.
    """

    def __init__(self, completions: Sequence[Completion]) -> None:
        failed = [c for c in completions if c.error is not None]
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        super().__init__(
            f"{failed[0].error}{others}; {len(completions) - len(failed)} of {len(completions)} "
            "texts were finished, and .completions holds all as far as they came"
        )
        self.completions = list(completions)


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a generation; `completions` holds what each prompt had produced by then.

    A KeyboardInterrupt and no KeptError, so that `except Exception` does not swallow Ctrl-C.
    """

    def __init__(self, completions: Sequence[Completion]) -> None:
        super().__init__("generation was interrupted; .completions holds the text so far")
        self.completions = list(completions)
