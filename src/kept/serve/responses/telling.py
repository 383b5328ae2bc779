"""A response while it is made: the events that tell of it, one after the other."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from kept.answers import Content
from kept.engine import Completion
from kept.serve.answer import Answer
from kept.serve.events import Delta, Event, Finished
from kept.serve.refusal import Refusal
from kept.serve.responses.item_events import CALL, closing, delta, opening
from kept.serve.responses.resource import Resource
from kept.serve.responses.writing import Writing
from kept.serve.sse import AtOnce, sse
from kept.text import Tokenizer

log = logging.getLogger("kept.serve")

Told = Iterator[dict[str, Any]]


class Telling:
    """Takes the events of an answer, and gives those of OpenAI's, numbered and in their order:

    response.created, .in_progress, for each item output_item.added, its parts or arguments and
    their deltas, output_item.done, and last response.completed, .incomplete or .failed.

    completion, failure: at the end. on_end: told of the object then, unless it failed.
    """

    def __init__(
        self,
        resource: Resource,
        answer: Answer,
        tokenizer: Tokenizer,
        is_silent: bool = False,
        on_end: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """is_silent: whatever is drawn is not told, as the prompt alone was to be read."""
        self._resource, self._answer = resource, answer
        self._writing, self._parser = Writing(tokenizer), answer.parser(0)
        self._is_silent, self._on_end = is_silent, on_end
        self._number = 0
        self.completion: Completion | None = None
        self.failure: Refusal | None = None

    def idle(self) -> bytes:
        """What is sent while nothing happens: Codex gives up where it hears no event for long, and
        does not count comments."""
        told = self._event("response.in_progress", response=self._resource.body([]))
        return _written(told)

    async def pieces(self, at_once: AtOnce) -> AsyncGenerator[bytes, None]:
        """The stream, down to its last event."""

        def pass_on(event: Delta) -> bool:
            return at_once(lambda: b"".join(map(_written, self.tell(event))))

        try:
            for told in self.begin():
                yield _written(told)
            async with aclosing(self._answer.events(pass_on)) as events:
                async for event in events:
                    for told in self.tell(event):
                        yield _written(told)
        except Exception as error:
            log.exception("a stream failed")
            self.failure = self._answer.service.refusal_of(error)
        yield _written(self.end())

    async def hear(self) -> dict[str, Any]:
        """The object at the end, with nothing told before. Raises the Refusal it ended in."""

        def read(event: Event) -> bool:
            for _ in self.tell(event):
                continue  # what it tells is in the object at the end
            return True

        async with aclosing(self._answer.events(read)) as events:
            async for event in events:
                read(event)
        if self.failure is not None:
            raise self.failure
        found: dict[str, Any] = self.end()["response"]
        return found

    def begin(self) -> Told:
        """The events before anything is known."""
        for what in ("created", "in_progress"):
            yield self._event(f"response.{what}", response=self._resource.body([]))

    def tell(self, event: Event) -> Told:
        """The events that one of the answer's becomes."""
        if isinstance(event, Delta) and not self._is_silent:
            if self._parser is not None:
                parts = self._parser.add(event.text)
            else:
                parts = [Content(event.text)] if event.text or event.logprobs else []
            for kind, fields in self._writing.add(parts, event.logprobs):
                yield self._event(kind, **fields)
        elif isinstance(event, Finished):
            self.completion, self.failure = event.completion, event.failure
            yield from self._close(event)

    def end(self) -> dict[str, Any]:
        """The last event."""
        found = None if self.failure is not None else self.completion
        reasoning = self._answer.count(0).reasoning_tokens
        body = self._resource.body(self._writing.output, found, self.failure, reasoning)
        if self._on_end is not None and self.failure is None:
            self._on_end(body)
        return self._event(f"response.{body['status']}", response=body)

    def _close(self, event: Finished) -> Told:
        status = "completed" if event.failure is None else "incomplete"
        if self._resource.status(event.completion, event.failure) == "incomplete":
            status = "incomplete"
        if self._parser is not None and not self._is_silent:
            for kind, fields in self._writing.add(self._parser.finish()):
                yield self._event(kind, **fields)
        for kind, fields in self._writing.close(status):
            yield self._event(kind, **fields)

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **more}


def _written(told: dict[str, Any]) -> bytes:
    return sse(told, told["type"])


def told_again(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a response that has ended; each of its texts comes whole."""
    found: list[dict[str, Any]] = []

    def tell(kind: str, **more: Any) -> None:
        found.append({"type": kind, "sequence_number": len(found), **more})

    begun = {**body, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    for what in ("created", "in_progress"):
        tell(f"response.{what}", response=begun)
    for index, item in enumerate(body["output"]):
        for kind, fields in _told_again(item, index):
            tell(kind, **fields)
    tell(f"response.{body['status']}", response=body)
    return found


def _told_again(item: dict[str, Any], index: int) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from opening(item, index)
    if item["type"] == CALL:
        yield delta(item, index, item["arguments"])
    else:
        part = item["content"][0]
        logprobs = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
        yield delta(item, index, part["text"], **logprobs)
    yield from closing(item, index)
