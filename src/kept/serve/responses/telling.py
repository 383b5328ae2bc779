"""A response while it is made: its items, and the events that tell of them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from kept.engine import Completion
from kept.sampling import TokenLogprobs
from kept.serve.answer import Answer
from kept.serve.events import Delta, Event, Finished
from kept.serve.openai.logprobs import chat_logprobs
from kept.serve.refusal import Refusal
from kept.serve.responses.resource import Resource
from kept.serve.sse import sse
from kept.text import Tokenizer

log = logging.getLogger("kept.serve")

Told = Iterator[dict[str, Any]]


class Telling:
    """Takes the events of an answer, and gives those of OpenAI's, numbered and in their order:

    response.created, .in_progress, for each item output_item.added, its parts and their deltas,
    output_item.done, and last response.completed, .incomplete or .failed.

    output: the items so far. completion, failure: at the end. on_end: told of the object then,
    unless it failed.
    """

    def __init__(
        self,
        resource: Resource,
        tokenizer: Tokenizer,
        is_silent: bool = False,
        on_end: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """is_silent: whatever is drawn is not told, as the prompt alone was to be read."""
        self._resource, self._tokenizer = resource, tokenizer
        self._is_silent, self._on_end = is_silent, on_end
        self._number = 0
        self._is_open = False
        self.output: list[dict[str, Any]] = []
        self.completion: Completion | None = None
        self.failure: Refusal | None = None

    async def pieces(self, answer: Answer) -> AsyncGenerator[bytes, None]:
        """The stream, down to its last event."""
        for told in self.begin():
            yield sse(told, told["type"])
        try:
            async with aclosing(answer.events()) as events:
                async for event in events:
                    for told in self.tell(event):
                        yield sse(told, told["type"])
        except Exception as error:
            log.exception("a stream failed")
            self.failure = answer.service.refusal_of(error)
        last = self.end()
        yield sse(last, last["type"])

    async def hear(self, answer: Answer) -> dict[str, Any]:
        """The object at the end, with nothing told before. Raises the Refusal it ended in."""
        async with aclosing(answer.events()) as events:
            async for event in events:
                for _ in self.tell(event):
                    pass
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
            yield from self.text(event.text, event.logprobs)
        elif isinstance(event, Finished):
            self.completion, self.failure = event.completion, event.failure
            status = "completed" if self.failure is None else "incomplete"
            if self._resource.status(self.completion, self.failure) == "incomplete":
                status = "incomplete"
            yield from self.close(status)

    def end(self) -> dict[str, Any]:
        """The last event."""
        found = None if self.failure is not None else self.completion
        body = self._resource.body(self.output, found, self.failure)
        if self._on_end is not None and self.failure is None:
            self._on_end(body)
        return self._event(f"response.{body['status']}", response=body)

    def text(self, text: str, drawn: Sequence[TokenLogprobs] = ()) -> Told:
        """More of the text that the model says."""
        if not text and not drawn:
            return
        if not self._is_open:
            yield from self._open()
        logprobs = list(chat_logprobs(self._tokenizer, drawn)["content"])
        part = self._part
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._of_part("response.output_text.delta", delta=text, logprobs=logprobs)

    def close(self, status: str) -> Told:
        """The item that is open is all there will be of it."""
        if not self._is_open:
            return
        self._is_open = False
        part, item = self._part, self.output[-1]
        item["status"] = status
        yield self._of_part(
            "response.output_text.done", text=part["text"], logprobs=part["logprobs"]
        )
        yield self._of_part("response.content_part.done", part=dict(part))
        yield self._of_item("response.output_item.done", item=item)

    @property
    def _part(self) -> dict[str, Any]:
        found: dict[str, Any] = self.output[-1]["content"][-1]
        return found

    def _open(self) -> Told:
        self._is_open = True
        item: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(16)}",
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self.output.append(item)
        yield self._of_item("response.output_item.added", item={**item, "content": []})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["content"].append(part)
        yield self._of_part("response.content_part.added", part={**part, "logprobs": []})

    def _of_part(self, kind: str, **more: Any) -> dict[str, Any]:
        item = self.output[-1]
        more = {"item_id": item["id"], "content_index": len(item["content"]) - 1, **more}
        return self._of_item(kind, **more)

    def _of_item(self, kind: str, **more: Any) -> dict[str, Any]:
        return self._event(kind, output_index=len(self.output) - 1, **more)

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **more}


def told_again(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a response that has ended; each of its texts comes whole."""
    found: list[dict[str, Any]] = []

    def tell(kind: str, **more: Any) -> None:
        found.append({"type": kind, "sequence_number": len(found), **more})

    begun = {**body, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    for what in ("created", "in_progress"):
        tell(f"response.{what}", response=begun)
    for index, item in enumerate(body["output"]):
        tell("response.output_item.added", output_index=index, item={**item, "content": []})
        for number, part in enumerate(item["content"]):
            where = {"output_index": index, "item_id": item["id"], "content_index": number}
            empty = {**part, "text": "", "logprobs": []}
            text, logprobs = part["text"], part["logprobs"]
            tell("response.content_part.added", **where, part=empty)
            tell("response.output_text.delta", **where, delta=text, logprobs=logprobs)
            tell("response.output_text.done", **where, text=text, logprobs=logprobs)
            tell("response.content_part.done", **where, part=part)
        tell("response.output_item.done", output_index=index, item=item)
    tell(f"response.{body['status']}", response=body)
    return found
