"""Answers in Ollama's words: lines of JSON, or the last of them with all the text."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from kept.answers import Content, Message, Parser
from kept.engine import Completion
from kept.sampling import TokenLogprobs
from kept.serve.answer import Answer
from kept.serve.events import Delta, Finished
from kept.serve.ollama.errors import error_body
from kept.serve.ollama.whole_calls import WholeCalls
from kept.serve.openai.logprobs import chat_logprobs
from kept.serve.openai.usage import kept_usage
from kept.serve.refusal import Refusal
from kept.serve.sse import AtOnce, to_json
from kept.text import Tokenizer

log = logging.getLogger("kept.serve")

Worded = Callable[[Message], dict[str, Any]]


def as_message(found: Message) -> dict[str, Any]:
    """What was written as `/api/chat` has it."""
    message: dict[str, Any] = {"role": "assistant", "content": found.content}
    if found.reasoning:
        message["thinking"] = found.reasoning
    if found.calls:
        message["tool_calls"] = [
            {"function": {"name": call.name, "arguments": call.to_object()}} for call in found.calls
        ]
    return {"message": message}


def as_response(found: Message) -> dict[str, Any]:
    """What was written as `/api/generate` has it, whose prompts have no tools."""
    return {"response": found.content, **({"thinking": found.reasoning} if found.reasoning else {})}


class Telling:
    """Turns the events of an answer into lines. word: how an endpoint gives it."""

    def __init__(self, model: str, tokenizer: Tokenizer, word: Worded) -> None:
        self._model, self._tokenizer, self._word = model, tokenizer, word
        self._began = time.perf_counter_ns()

    async def pieces(self, answer: Answer, at_once: AtOnce) -> AsyncGenerator[bytes, None]:
        """The stream, down to its last line."""
        failure: Refusal | None = None
        parser, calls = answer.parser(0), WholeCalls()

        def pass_on(event: Delta) -> bool:
            return at_once(lambda: b"".join(map(_line, self._told(event, parser, calls))))

        try:
            async with aclosing(answer.events(pass_on)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        for found in self._told(event, parser, calls):
                            yield _line(found)
                    elif isinstance(event, Finished):
                        failure = event.failure
                        if failure is not None:
                            continue
                        rest = [] if parser is None else parser.finish()
                        for message in (*calls.add(rest), *calls.finish()):
                            yield _line(self._object(message, (), done=False))
                        yield _line(self.last(Message(), event.completion, ()))
        except Exception as error:
            log.exception("a stream failed")
            failure = answer.service.refusal_of(error)
        if failure is not None:
            yield _line(error_body(failure))

    def whole(self, answer: Answer, found: Completion) -> dict[str, Any]:
        """The object of a text that has ended, with all of it."""
        message, calls = Message(), WholeCalls()
        for each in (*calls.add(answer.parts(found)), *calls.finish()):
            message.reasoning += each.reasoning
            message.content += each.content
            message.calls += each.calls
        return self.last(message, found, found.logprobs)

    def last(
        self, message: Message, found: Completion, drawn: Sequence[TokenLogprobs] | None
    ) -> dict[str, Any]:
        """The object of a text that has ended, with what it took; ns."""
        total = time.perf_counter_ns() - self._began
        queued = round((found.queue_time or 0.0) * 1e9)
        first = found.time_to_first_token
        reading = max(round((found.total_time if first is None else first) * 1e9) - queued, 0)
        return {
            **self._object(message, drawn or (), done=True),
            "done_reason": found.finish_reason,
            "total_duration": total,
            "load_duration": queued,
            "prompt_eval_count": found.prompt_tokens,
            "prompt_eval_duration": reading,
            "eval_count": len(found.token_ids),
            "eval_duration": max(round(found.total_time * 1e9) - queued - reading, 0),
            "kept": kept_usage([found]),
        }

    def loaded(self) -> dict[str, Any]:
        """The object for who asked nothing."""
        return {**self._object(Message(), (), done=True), "done_reason": "load"}

    def _told(
        self, event: Delta, parser: Parser | None, calls: WholeCalls
    ) -> Iterator[dict[str, Any]]:
        parts = [Content(event.text)] if parser is None else parser.add(event.text)
        told = list(calls.add(parts if event.text else ()))
        if not told and event.logprobs:
            told = [Message()]
        for i, message in enumerate(told):
            yield self._object(message, () if i else event.logprobs, done=False)

    def _object(
        self, message: Message, drawn: Sequence[TokenLogprobs], done: bool
    ) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        found = {"model": self._model, "created_at": now, **self._word(message), "done": done}
        if drawn:
            found["logprobs"] = chat_logprobs(self._tokenizer, drawn)["content"]
        return found


def _line(value: object) -> bytes:
    return to_json(value) + b"\n"
