"""The answer of `/v1/chat/completions`, whole or told as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kept.answers import Arguments, CallBegun, Content, Message, Part, Reasoning
from kept.engine import Completion
from kept.entropy import random_name
from kept.sampling import TokenLogprobs
from kept.serve.answer import Answer
from kept.serve.events import Delta, Event, Finished, Started
from kept.serve.openai.heard import Envelope, Telling
from kept.serve.openai.logprobs import chat_logprobs
from kept.serve.openai.usage import timings_of, usage_of
from kept.serve.service import Service
from kept.serve.sse import sse
from kept.serve.template import TEXT
from kept.text import Tokenizer


def chat_body(
    service: Service, answer: Answer, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The whole answer."""
    tokenizer = service.llm.tokenizer
    assert tokenizer is not None
    messages = [answer.message(found) for found in completions]
    choices = [
        {
            "index": index,
            "message": _message(messages[index]),
            "logprobs": None
            if found.logprobs is None
            else chat_logprobs(tokenizer, found.logprobs),
            "finish_reason": _reason(found, len(messages[index].calls)),
        }
        for index, found in enumerate(completions)
    ]
    return Envelope(service, "chatcmpl", "chat.completion", answer.model).around(
        choices, usage=usage_of(answer.counts), timings=timings_of(answer.count(0))
    )


def _message(parts: Message) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": parts.content, "refusal": None}
    if parts.reasoning:
        message["reasoning_content"] = parts.reasoning
    if parts.calls:
        message["content"] = parts.content or None
        message["tool_calls"] = [
            {
                "id": _call_id(),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in parts.calls
        ]
    return message


def _call_id() -> str:
    return f"call_{random_name(12)}"


def _reason(found: Completion, num_calls: int) -> str | None:
    return "tool_calls" if num_calls and found.finish_reason == "stop" else found.finish_reason


def _delta(part: Part) -> dict[str, Any]:
    match part:
        case Reasoning(text):
            return {"reasoning_content": text}
        case Content(text):
            return {"content": text}
        case CallBegun(index, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": _call_id(), "type": "function", "function": function}
            return {"tool_calls": [call]}
        case Arguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


class ChatTelling(Telling):
    """The stream of chunks."""

    def __init__(
        self, service: Service, answer: Answer, include_usage: bool, continuous: bool, per: bool
    ) -> None:
        """per: each chunk says what its text has taken so far, as llama.cpp's timings_per_token."""
        envelope = Envelope(service, "chatcmpl", "chat.completion.chunk", answer.model)
        super().__init__(answer, envelope, include_usage, continuous)
        assert service.llm.tokenizer is not None
        self._tokenizer: Tokenizer = service.llm.tokenizer
        self._per = per
        self._parsers = [answer.parser(index) for index in range(answer.num_texts)]

    def tell_text(self, event: Event) -> Iterator[bytes]:
        """See `Telling.tell_text`."""
        if isinstance(event, Started):
            for index in range(self._answer.num_texts):
                delta = {"role": "assistant", "content": ""}
                yield sse(self.around([self._choice(index, delta)]))
        elif isinstance(event, Delta) and (event.text or event.logprobs):
            parser, whole = self._parsers[event.index], Content(event.text)
            parts: list[Part] = [whole] if parser is None else parser.add(event.text)
            if not parts and event.logprobs:
                parts = [Content("")]
            # Where a text is told in parts, its characters are no longer where drafts foresaw them.
            foreseen = event.foreseen if parts == [whole] else ()
            for i, part in enumerate(parts):
                yield self._told(event.index, part, () if i else event.logprobs, foreseen)

    def tell(self, event: Event) -> Iterator[bytes]:
        """See `Telling.tell`."""
        if isinstance(event, Finished) and event.failure is None:
            parser = self._parsers[event.index]
            for part in () if parser is None else parser.finish():
                yield self._told(event.index, part)
        yield from super().tell(event)

    def last_choice(self, event: Finished) -> dict[str, Any]:
        """See `Telling.last_choice`."""
        parser = self._parsers[event.index]
        reason = _reason(event.completion, 0 if parser is None else parser.num_calls)
        return {**self._choice(event.index, {}), "finish_reason": reason}

    def _told(
        self,
        index: int,
        part: Part,
        drawn: tuple[TokenLogprobs, ...] = (),
        foreseen: tuple[tuple[int, int], ...] = (),
    ) -> bytes:
        is_plain = not (drawn or foreseen or self._per or self._continuous)
        if is_plain and isinstance(part, Content | Reasoning):
            name = "content" if isinstance(part, Content) else "reasoning_content"
            return self.filled((index, name), part.text, lambda: self._choice(index, {name: TEXT}))
        choice = self._choice(index, _delta(part), drawn)
        if foreseen:
            choice["kept"] = {"drafted": foreseen}
        more = {"timings": timings_of(self._answer.count(index))} if self._per else {}
        return sse(self.around([choice], **more))

    def _choice(
        self, index: int, delta: dict[str, Any], drawn: tuple[TokenLogprobs, ...] = ()
    ) -> dict[str, Any]:
        logprobs = chat_logprobs(self._tokenizer, drawn) if drawn else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
