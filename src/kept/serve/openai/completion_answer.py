"""The answer of `/v1/completions`, whole or told as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kept.engine import Completion
from kept.serve.answer import Answer
from kept.serve.events import Delta, Event, Finished, Started
from kept.serve.openai.echo import Echo, joined
from kept.serve.openai.heard import Envelope, Telling
from kept.serve.openai.logprobs import completion_logprobs
from kept.serve.openai.usage import timings_of, usage_of
from kept.serve.service import Service
from kept.serve.sse import sse
from kept.serve.template import TEXT


def completion_body(
    service: Service, answer: Answer, completions: Sequence[Completion], echoes: Sequence[Echo]
) -> dict[str, Any]:
    """The whole answer. echoes: of each prompt, none: it is not answered."""
    tokenizer = service.llm.tokenizer
    assert tokenizer is not None
    choices = []
    for index, found in enumerate(completions):
        text, before = "", None
        if echoes:
            echo = echoes[found.prompt_index]
            text, before = echo.text, echo.logprobs(service)
        behind = None
        if found.logprobs is not None:
            behind = completion_logprobs(tokenizer, found.logprobs, len(text))
        choices.append(_choice(index, text + found.text, joined(before, behind), found))
    return Envelope(service, "cmpl", "text_completion", answer.model).around(
        choices, usage=usage_of(answer.counts), timings=timings_of(answer.count(0))
    )


def echo_body(
    service: Service, echoes: Sequence[Echo], counts: Sequence[int], model: str
) -> dict[str, Any]:
    """The answer that is prompts alone, of so many tokens each (`max_tokens` of 0)."""
    choices = [
        {
            "index": index,
            "text": echo.text,
            "logprobs": echo.logprobs(service),
            "finish_reason": "length",
        }
        for index, echo in enumerate(echoes)
    ]
    usage = {**usage_of([]), "prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    return Envelope(service, "cmpl", "text_completion", model).around(choices, usage=usage)


class CompletionTelling(Telling):
    """The stream of objects."""

    def __init__(
        self,
        service: Service,
        answer: Answer,
        include_usage: bool,
        continuous: bool,
        echoes: Sequence[Echo] = (),
    ) -> None:
        envelope = Envelope(service, "cmpl", "text_completion", answer.model)
        super().__init__(answer, envelope, include_usage, continuous)
        assert service.llm.tokenizer is not None
        self._service, self._tokenizer = service, service.llm.tokenizer
        self._echoes = echoes
        self._lengths: dict[int, int] = {}  # of the texts so far, in characters

    def tell_text(self, event: Event) -> Iterator[bytes]:
        """See `Telling.tell_text`."""
        if isinstance(event, Started) and self._echoes:
            echo, width = self._echoes[event.prompt], self._answer.texts_of_prompt
            for index in range(event.prompt * width, (event.prompt + 1) * width):
                self._lengths[index] = len(echo.text)
                choice = _choice(index, echo.text, echo.logprobs(self._service), None)
                yield sse(self.around([choice]))
        elif isinstance(event, Delta) and (event.text or event.logprobs):
            index, text = event.index, event.text
            offset = self._lengths.get(index, 0)
            self._lengths[index] = offset + len(text)
            if event.logprobs or self._continuous:
                logprobs = None
                if event.logprobs:
                    logprobs = completion_logprobs(self._tokenizer, event.logprobs, offset)
                yield sse(self.around([_choice(index, text, logprobs, None)]))
            else:
                yield self.filled((index, ""), text, lambda: _choice(index, TEXT, None, None))

    def last_choice(self, event: Finished) -> dict[str, Any]:
        """See `Telling.last_choice`."""
        return _choice(event.index, "", None, event.completion)


def _choice(index: int, text: str, logprobs: object, ended: Completion | None) -> dict[str, Any]:
    reason = None if ended is None else ended.finish_reason
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
