"""An answer heard to its end, or told as it comes: what both endpoints share."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from kept.engine import Completion
from kept.entropy import random_name
from kept.serve.answer import Answer
from kept.serve.events import Delta, Event, Finished, Progress
from kept.serve.openai.errors import error_body
from kept.serve.openai.usage import timings_of, usage_of
from kept.serve.refusal import Refusal
from kept.serve.service import Service
from kept.serve.sse import AtOnce, sse
from kept.serve.template import Template

log = logging.getLogger("kept.serve")


class Envelope:
    """What every object of one answer carries."""

    def __init__(self, service: Service, prefix: str, kind: str, model: str) -> None:
        self._fixed = {
            "id": f"{prefix}-{random_name(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": service.fingerprint,
        }

    def around(self, choices: Sequence[object], **more: Any) -> dict[str, Any]:
        """An object with these choices."""
        return {**self._fixed, "choices": choices, **more}


async def hear(answer: Answer) -> list[Completion]:
    """Every text of an answer, by index. Raises the Refusal of the first that failed."""
    found: dict[int, Completion] = {}
    failure: Refusal | None = None
    async with aclosing(answer.events(lambda _: True)) as events:  # the end has all of it
        async for event in events:
            if isinstance(event, Finished):
                found[event.index] = event.completion
                failure = failure or event.failure
    if failure is not None:
        raise failure
    return [found[index] for index in sorted(found)]


class Telling(ABC):
    """Turns the events of an answer into the pieces of a stream.

    A subclass says how a choice looks. include_usage: one object without choices at the end says
    what it took; else the last choice's does. continuous: each object says so too.
    """

    def __init__(
        self, answer: Answer, envelope: Envelope, include_usage: bool, continuous: bool
    ) -> None:
        self._answer, self._envelope = answer, envelope
        self._include_usage, self._continuous = include_usage, continuous
        self._templates: dict[tuple[int, str], Template] = {}
        self._finished: dict[int, Completion] = {}
        self._failure: Refusal | None = None

    async def pieces(self, at_once: AtOnce) -> AsyncGenerator[bytes, None]:
        """The stream, down to its last line."""
        last = b""

        def pass_on(event: Delta) -> bool:
            return at_once(lambda: b"".join(self.tell_text(event)))

        try:
            async with aclosing(self._answer.events(pass_on)) as events:
                async for event in events:
                    piece = b"".join(self.tell(event))
                    if len(self._finished) == self._answer.num_texts:
                        last = piece  # what follows comes at once
                    else:
                        yield piece
        except Exception as error:
            log.exception("a stream failed")
            self._failure = self._answer.service.refusal_of(error)
        if self._failure is not None:
            yield last + sse(error_body(self._failure))
            return
        if self._include_usage:
            last += sse(self._envelope.around([], usage=self._usage()))
        yield last + sse("[DONE]")

    def tell(self, event: Event) -> Iterator[bytes]:
        """What is sent of an event."""
        if isinstance(event, Progress):
            yield sse(self._envelope.around([], prompt_progress=progress_of(event)))
        elif isinstance(event, Finished):
            if event.failure is not None:
                self._failure = self._failure or event.failure
                return
            self._finished[event.index] = event.completion
            more: dict[str, Any] = {"timings": timings_of(self._answer.count(event.index))}
            is_last = len(self._finished) == self._answer.num_texts
            if is_last and not self._include_usage:
                more["usage"] = self._usage()
            yield sse(self.around([self.last_choice(event)], **more))
        else:
            yield from self.tell_text(event)

    @abstractmethod
    def tell_text(self, event: Event) -> Iterator[bytes]:
        """What is sent of a text that begins or goes on."""

    @abstractmethod
    def last_choice(self, event: Finished) -> dict[str, Any]:
        """The choice that says why a text has ended."""

    def filled(self, key: tuple[int, str], text: str, choice: Callable[[], object]) -> bytes:
        """The object with one choice, in which nothing but this text is new. key: of a text and how
        it is told. choice: as it is with `TEXT` in its place."""
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = Template(self.around([choice()]))
        return template.filled(text)

    def around(self, choices: Sequence[object], **more: Any) -> dict[str, Any]:
        """An object of the stream, with the usage so far where that is wanted."""
        if self._include_usage:
            more.setdefault("usage", self._usage() if self._continuous else None)
        return self._envelope.around(choices, **more)

    def _usage(self) -> dict[str, Any]:
        return usage_of(self._answer.counts)


def progress_of(event: Progress) -> Mapping[str, Any]:
    """As llama.cpp's server tells it."""
    return {
        "total": event.total,
        "cache": event.cached or 0,
        "processed": event.processed,
        "time_ms": event.seconds * 1e3,
    }
