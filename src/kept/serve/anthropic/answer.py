"""A message, whole or told as it comes."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Final

from kept.answers import Content
from kept.engine import Completion
from kept.entropy import random_name
from kept.serve.answer import Answer
from kept.serve.anthropic.diagnosis import Diagnosis
from kept.serve.anthropic.errors import error_body
from kept.serve.anthropic.messages import MessagesRequest
from kept.serve.anthropic.writing import Writing
from kept.serve.events import Delta, Event, Finished, Started
from kept.serve.openai.usage import kept_usage
from kept.serve.refusal import Refusal
from kept.serve.service import Service
from kept.serve.sse import COMMENT, AtOnce, sse

log = logging.getLogger("kept.serve")

PING: Final = sse({"type": "ping"}, "ping")


class Envelope:
    """What a message is, whatever it says: its id, and what it took."""

    def __init__(self, service: Service, body: MessagesRequest, diagnosis: Diagnosis) -> None:
        self.id = f"msg_{random_name(12)}"
        self._body, self._diagnosis = body, diagnosis
        self._model, self._context = service.models[0], service.llm.model.config.context

    def message(
        self, found: Completion, content: list[dict[str, Any]], num_calls: int = 0
    ) -> dict[str, Any]:
        """The message as it stands; without a reason to stop while it goes on."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._body.model or self._model,
            "content": content,
            **self.end(found, num_calls),
            "usage": self.usage(found),
            "diagnostics": self._diagnosis.of(found),
        }

    def end(self, found: Completion, num_calls: int) -> dict[str, Any]:
        """Why a text has ended, which called so many tools."""
        reason: str | None = None
        if found.finish_reason == "stop":
            reason = "tool_use" if num_calls else "end_turn"
            if found.stop_string is not None:
                reason = "stop_sequence"
        elif found.finish_reason == "length":
            is_full = found.prompt_tokens + len(found.token_ids) >= self._context
            reason = "model_context_window_exceeded" if is_full else "max_tokens"
        return {"stop_reason": reason, "stop_sequence": found.stop_string}

    def usage(self, found: Completion) -> dict[str, Any]:
        """What it took. Everything read is kept for others; tokens that cache_control asked to be
        kept for a time count as those that were put into the cache, and others as input."""
        ttl, cached = self._body.ttl, found.cached_tokens
        computed = found.prompt_tokens - cached
        created = computed if ttl is not None else 0
        return {
            "input_tokens": computed - created,
            "cache_creation_input_tokens": created,
            "cache_read_input_tokens": cached,
            "cache_creation": {
                "ephemeral_5m_input_tokens": created if ttl == "5m" else 0,
                "ephemeral_1h_input_tokens": created if ttl == "1h" else 0,
            },
            "output_tokens": 0 if self._body.is_prewarming else len(found.token_ids),
            "service_tier": "standard",
            "kept": kept_usage([found]),
        }

    def whole(self, answer: Answer, found: Completion) -> dict[str, Any]:
        """The message of a text that has ended."""
        writing = Writing(shows_thinking=self._body.shows_thinking)
        for _ in writing.add(() if self._body.is_prewarming else answer.parts(found)):
            continue  # what it tells is in the blocks at the end
        for _ in writing.close():
            continue  # and so is this
        return self.message(found, writing.blocks, writing.num_calls)


class Telling:
    """Turns the events of an answer into the events of a stream, in Anthropic's order:

    message_start, ping, then content_block_start, _delta ... _stop for each block, message_delta,
    message_stop. It begins when what the cache did is known; until then, comments keep it alive,
    and pings after.
    """

    def __init__(self, answer: Answer, body: MessagesRequest, envelope: Envelope) -> None:
        self._answer, self._body, self._envelope = answer, body, envelope
        self._writing = Writing(shows_thinking=body.shows_thinking)
        self._parser = answer.parser(0)
        self._failure: Refusal | None = None
        self._idle = COMMENT

    def idle(self) -> bytes:
        """What is to be sent while nothing happens."""
        return self._idle

    async def pieces(self, at_once: AtOnce) -> AsyncGenerator[bytes, None]:
        """The stream, down to its last event."""

        def pass_on(event: Delta) -> bool:
            return at_once(lambda: b"".join(map(_written, self._tell(event))))

        try:
            async with aclosing(self._answer.events(pass_on)) as events:
                async for event in events:
                    for told in self._tell(event):
                        yield _written(told)
                    if isinstance(event, Started):
                        self._idle = PING
                        yield PING
        except Exception as error:
            log.exception("a stream failed")
            self._failure = self._answer.service.refusal_of(error)
        if self._failure is not None:
            yield sse(error_body(self._failure), "error")

    def _tell(self, event: Event) -> Iterator[dict[str, Any]]:
        if isinstance(event, Started):
            [found] = self._answer.completions
            message = self._envelope.message(found, [])
            message |= {"stop_reason": None, "stop_sequence": None}
            yield {"type": "message_start", "message": message}
        elif isinstance(event, Delta) and event.text and not self._body.is_prewarming:
            parser = self._parser
            parts = [Content(event.text)] if parser is None else parser.add(event.text)
            yield from self._writing.add(parts)
        elif isinstance(event, Finished):
            self._failure = event.failure
            if event.failure is None:
                yield from self._end(event.completion)

    def _end(self, found: Completion) -> Iterator[dict[str, Any]]:
        if self._parser is not None and not self._body.is_prewarming:
            yield from self._writing.add(self._parser.finish())
        yield from self._writing.close()
        end = self._envelope.end(found, self._writing.num_calls)
        yield {"type": "message_delta", "delta": end, "usage": self._envelope.usage(found)}
        yield {"type": "message_stop"}


def _written(told: dict[str, Any]) -> bytes:
    return sse(told, told["type"])
