"""The answer of `/v1/completions`, whole or told as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kept.engine import Completion
from kept.serve.events import Delta, Event, Finished
from kept.serve.openai.heard import Envelope, Telling
from kept.serve.openai.logprobs import completion_logprobs
from kept.serve.openai.usage import timings_of, usage_of
from kept.serve.service import Answer, Service


def completion_body(service: Service, completions: Sequence[Completion]) -> dict[str, Any]:
    """The whole answer."""
    tokenizer = service.llm.tokenizer
    assert tokenizer is not None
    choices = [
        {
            "index": index,
            "text": found.text,
            "logprobs": None
            if found.logprobs is None
            else completion_logprobs(tokenizer, found.logprobs, 0),
            "finish_reason": found.finish_reason,
        }
        for index, found in enumerate(completions)
    ]
    return Envelope(service, "cmpl", "text_completion").around(
        choices, usage=usage_of(completions), timings=timings_of(completions[0])
    )


class CompletionTelling(Telling):
    """The stream of objects."""

    def __init__(
        self, service: Service, answer: Answer, include_usage: bool, continuous: bool
    ) -> None:
        envelope = Envelope(service, "cmpl", "text_completion")
        super().__init__(answer, envelope, include_usage, continuous)
        assert service.llm.tokenizer is not None
        self._tokenizer = service.llm.tokenizer
        self._lengths: dict[int, int] = {}  # of the texts so far, in characters

    def tell_text(self, event: Event) -> Iterator[dict[str, Any]]:
        """See `Telling.tell_text`."""
        if isinstance(event, Delta) and (event.text or event.logprobs):
            offset = self._lengths.get(event.index, 0)
            self._lengths[event.index] = offset + len(event.text)
            logprobs = None
            if event.logprobs:
                logprobs = completion_logprobs(self._tokenizer, event.logprobs, offset)
            yield self.around([_choice(event.index, event.text, logprobs, None)])

    def last_choice(self, event: Finished) -> dict[str, Any]:
        """See `Telling.last_choice`."""
        return _choice(event.index, "", None, event.completion.finish_reason)


def _choice(index: int, text: str, logprobs: object, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
