"""The answer of `/v1/chat/completions`, whole or told as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kept.engine import Completion
from kept.sampling import TokenLogprobs
from kept.serve.answer import Answer
from kept.serve.events import Delta, Event, Finished, Started
from kept.serve.openai.heard import Envelope, Telling
from kept.serve.openai.logprobs import chat_logprobs
from kept.serve.openai.usage import timings_of, usage_of
from kept.serve.service import Service
from kept.text import Tokenizer


def chat_body(service: Service, completions: Sequence[Completion]) -> dict[str, Any]:
    """The whole answer."""
    tokenizer = service.llm.tokenizer
    assert tokenizer is not None
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": found.text, "refusal": None},
            "logprobs": None
            if found.logprobs is None
            else chat_logprobs(tokenizer, found.logprobs),
            "finish_reason": found.finish_reason,
        }
        for index, found in enumerate(completions)
    ]
    return Envelope(service, "chatcmpl", "chat.completion").around(
        choices, usage=usage_of(completions), timings=timings_of(completions[0])
    )


class ChatTelling(Telling):
    """The stream of chunks."""

    def __init__(
        self, service: Service, answer: Answer, include_usage: bool, continuous: bool, per: bool
    ) -> None:
        """per: each chunk says what its text has taken so far, as llama.cpp's timings_per_token."""
        envelope = Envelope(service, "chatcmpl", "chat.completion.chunk")
        super().__init__(answer, envelope, include_usage, continuous)
        assert service.llm.tokenizer is not None
        self._tokenizer: Tokenizer = service.llm.tokenizer
        self._per = per

    def tell_text(self, event: Event) -> Iterator[dict[str, Any]]:
        """See `Telling.tell_text`."""
        if isinstance(event, Started):
            for index in range(self._answer.num_texts):
                yield self.around([self._choice(index, {"role": "assistant", "content": ""})])
        elif isinstance(event, Delta) and (event.text or event.logprobs):
            choice = self._choice(event.index, {"content": event.text}, event.logprobs)
            more = {"timings": timings_of(self._answer.completions[event.index])}
            yield self.around([choice], **(more if self._per else {}))

    def last_choice(self, event: Finished) -> dict[str, Any]:
        """See `Telling.last_choice`."""
        return {**self._choice(event.index, {}), "finish_reason": event.completion.finish_reason}

    def _choice(
        self, index: int, delta: dict[str, Any], drawn: tuple[TokenLogprobs, ...] = ()
    ) -> dict[str, Any]:
        logprobs = chat_logprobs(self._tokenizer, drawn) if drawn else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
