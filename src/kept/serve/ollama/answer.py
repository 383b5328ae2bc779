"""Answers in Ollama's words: lines of JSON, or the last of them with all the text."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from kept.engine import Completion
from kept.sampling import TokenLogprobs
from kept.serve.answer import Answer
from kept.serve.events import Delta, Finished
from kept.serve.ollama.errors import error_body
from kept.serve.openai.logprobs import chat_logprobs
from kept.serve.openai.usage import kept_usage
from kept.serve.refusal import Refusal
from kept.serve.sse import to_json
from kept.text import Tokenizer

log = logging.getLogger("kept.serve")

Worded = Callable[[str], dict[str, Any]]


def as_message(text: str) -> dict[str, Any]:
    """A text as `/api/chat` has it."""
    return {"message": {"role": "assistant", "content": text}}


def as_response(text: str) -> dict[str, Any]:
    """A text as `/api/generate` has it."""
    return {"response": text}


class Telling:
    """Turns the events of an answer into lines. word: how an endpoint gives a text."""

    def __init__(self, model: str, tokenizer: Tokenizer, word: Worded) -> None:
        self._model, self._tokenizer, self._word = model, tokenizer, word
        self._began = time.perf_counter_ns()

    async def pieces(self, answer: Answer) -> AsyncGenerator[bytes, None]:
        """The stream, down to its last line."""
        failure: Refusal | None = None
        try:
            async with aclosing(answer.events()) as events:
                async for event in events:
                    if isinstance(event, Delta) and (event.text or event.logprobs):
                        yield _line(self._object(event.text, event.logprobs, done=False))
                    elif isinstance(event, Finished):
                        failure = event.failure
                        if failure is None:
                            yield _line(self.last("", event.completion, ()))
        except Exception as error:
            log.exception("a stream failed")
            failure = answer.service.refusal_of(error)
        if failure is not None:
            yield _line(error_body(failure))

    def last(
        self, text: str, found: Completion, drawn: Sequence[TokenLogprobs] | None
    ) -> dict[str, Any]:
        """The object of a text that has ended, with what it took; ns."""
        total = time.perf_counter_ns() - self._began
        queued = round((found.queue_time or 0.0) * 1e9)
        first = found.time_to_first_token
        reading = max(round((found.total_time if first is None else first) * 1e9) - queued, 0)
        return {
            **self._object(text, drawn or (), done=True),
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
        return {**self._object("", (), done=True), "done_reason": "load"}

    def _object(self, text: str, drawn: Sequence[TokenLogprobs], done: bool) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        found = {"model": self._model, "created_at": now, **self._word(text), "done": done}
        if drawn:
            found["logprobs"] = chat_logprobs(self._tokenizer, drawn)["content"]
        return found


def _line(value: object) -> bytes:
    return to_json(value) + b"\n"
