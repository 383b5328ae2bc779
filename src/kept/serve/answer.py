"""A request on its way to its texts, told as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from kept.answers import Content, Message, Parser, Part
from kept.engine import Completion, Continuation, Piece
from kept.serve.admission import Ticket
from kept.serve.asked import Asked
from kept.serve.counts import Count, count_of
from kept.serve.events import Delta, Event, Finished, Progress, Started
from kept.serve.flow import merged, ticking
from kept.serve.reading import Read
from kept.serve.refusal import Refusal
from kept.serve.tenants import own_reason

if TYPE_CHECKING:
    from kept.serve.service import Service

PROGRESS_EVERY: Final = 0.25  # seconds between two tellings of how far a prompt is read


class Answer:
    """A request on its way to its texts.

    place, wait: how many texts were to start before it when it came, and for how many seconds.
    prompts: the tokens of each. log: of the request's line in the access log, to which its end
    adds what it took.
    """

    def __init__(
        self, service: Service, asked: Asked, ticket: Ticket, found: Sequence[Read]
    ) -> None:
        self.service, self._asked, self._ticket, self._read = service, asked, ticket, found
        self.place, self.wait = ticket.place, ticket.wait
        self.log: dict[str, Any] = {}
        self._is_closed = False
        self._parsers: dict[int, Parser] = {}  # the last of each text
        self._ended: dict[int, Completion] = {}
        self.prompts = [each.tokens for each in found]

    @property
    def model(self) -> str:
        """What it is an answer of: the adapter's name, or the model's first."""
        return self._asked.adapter or self.service.models[0]

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts together."""
        return sum(map(len, self.prompts))

    @property
    def num_texts(self) -> int:
        """Of all prompts together."""
        return self._asked.num_texts

    @property
    def texts_of_prompt(self) -> int:
        """How many texts each prompt has."""
        return self._asked.params.num_return_sequences or 1

    @property
    def completions(self) -> list[Completion]:
        """What every text has come to, by index."""
        return [
            self._ended.get(index) or _completion(text, prompt, index)
            for index, (prompt, text) in enumerate(self._texts())
        ]

    @property
    def counts(self) -> list[Count]:
        """What every text has taken so far, by index."""
        return [self._count(i, prompt, text) for i, (prompt, text) in enumerate(self._texts())]

    def count(self, index: int) -> Count:
        """The same of one of them."""
        prompt, text = self._texts()[index]
        return self._count(index, prompt, text)

    def parser(self, index: int) -> Parser | None:
        """A new parser of a text's parts, by its index; None: it has none but its text. Counts say
        of reasoning what the last one of a text has read."""
        shape = self._read[index // self.texts_of_prompt].shape
        if shape is None:
            return None
        found = self._parsers[index] = shape.parser()
        return found

    def message(self, found: Completion) -> Message:
        """The parts of a text that has ended."""
        message = Message()
        message.add(self.parts(found))
        return message

    def parts(self, found: Completion) -> list[Part]:
        """The same, in the order they came in."""
        parser = self.parser(found.index)
        if parser is None:
            return [Content(found.text)] if found.text else []
        return [*parser.add(found.text), *parser.finish()]

    def close(self) -> None:
        """It has been heard, or will not be; what has not begun does not."""
        if self._is_closed:
            return
        self._is_closed = True
        self.service.leave(self._ticket)
        found = self.completions
        self.service.metrics.observe(found)
        first = {completion.prompt_index: completion for completion in found}.values()
        self.log["prompt_tokens"] = self.prompt_tokens
        self.log["cached_tokens"] = sum(completion.cached_tokens for completion in first)
        self.log["completion_tokens"] = sum(len(completion.token_ids) for completion in found)

    async def events(
        self, pass_on: Callable[[Delta], bool] | None = None
    ) -> AsyncGenerator[Event, None]:
        """What happens to it; to be iterated once.

        pass_on: may be called with a Delta while the next event is awaited, in place of it being
        an event; False: it has to be one. Leaving the iteration, or cancelling the task, ends it
        with the engine's next step.
        """
        if len(self._read) > 1:
            pass_on = None  # what one source passes on would overtake what it has yielded
        sources = [self._run(number, each, pass_on) for number, each in enumerate(self._read)]
        source = sources[0] if len(sources) == 1 else merged(sources)
        try:
            async with aclosing(source):
                async for event in source:
                    yield event
        finally:
            self.close()

    async def _run(
        self, number: int, one: Read, pass_on: Callable[[Delta], bool] | None
    ) -> AsyncGenerator[Event, None]:
        texts, has_started = one.request.group.results, False
        first = sum(
            len(before.request.group.results) * before.copies for before in self._read[:number]
        )
        passes: Callable[[Piece], bool] | None = None
        if pass_on is not None and one.copies == 1:
            passes = _passing(first, pass_on)
        async with self.service.runners.running(one.engine, one.lives_on) as engine:
            pieces: AsyncGenerator[Piece | None, None] = engine.generate(one.request, passes)
            if self._asked.wants_progress:
                pieces = ticking(pieces, PROGRESS_EVERY)
            async with aclosing(pieces):
                async for piece in pieces:
                    if piece is None:
                        if not has_started:
                            yield _progress(number, texts[0])
                        continue
                    if not has_started:
                        has_started = True
                        if self._asked.wants_progress:
                            yield _progress(number, texts[0])
                        yield _started(number, texts[0])
                    for index in range(piece.index * one.copies, (piece.index + 1) * one.copies):
                        if piece.text or piece.token_ids:
                            yield _delta(first + index, piece)
                        if piece.is_last:
                            yield self._finished(first + index, number, texts[piece.index])

    def _texts(self) -> list[tuple[int, Continuation]]:
        """The texts by index, each with the number of its prompt."""
        return [
            (number, text)
            for number, each in enumerate(self._read)
            for text in each.request.group.results
            for _ in range(each.copies)
        ]

    def _count(self, index: int, prompt: int, text: Continuation) -> Count:
        parser = self._parsers.get(index)
        return count_of(text, prompt, 0 if parser is None else parser.reasoned)

    def _finished(self, index: int, prompt: int, text: Continuation) -> Finished:
        failure = None
        if text.error is not None:
            failure = self.service.refusal_of(text.error, self._asked)
        elif text.finish_reason == "interrupted":
            failure = Refusal("the request was ended before its text was", 503, "interrupted")
            if self._asked.timeout is not None:
                failure = Refusal(
                    f"the text had not ended after {self._asked.timeout:g} s", 408, "timeout"
                )
        found = self._ended[index] = _completion(text, prompt, index)
        return Finished(index, found, failure)


def _completion(text: Continuation, prompt: int, index: int) -> Completion:
    """What a text has come to, by its place in the request, and with nothing of other tenants."""
    found = text.completion()
    reason = own_reason(found.miss_reason)
    return replace(found, prompt_index=prompt, index=index, miss_reason=reason)


def _passing(first: int, pass_on: Callable[[Delta], bool]) -> Callable[[Piece], bool]:
    return lambda piece: pass_on(_delta(first + piece.index, piece))


def _delta(index: int, piece: Piece) -> Delta:
    return Delta(index, piece.text, piece.token_ids, piece.logprobs, piece.foreseen)


def _started(number: int, text: Continuation) -> Started:
    found = count_of(text, number, 0)
    return Started(
        number, found.prompt_tokens, found.cached_from, found.miss_reason, found.queue_time
    )


def _progress(number: int, text: Continuation) -> Progress:
    found = text.completion()
    admitted = found.queue_time is not None
    return Progress(
        number,
        found.prompt_tokens,
        found.cached_tokens if admitted else None,
        min(text.num_computed, found.prompt_tokens),
        found.total_time,
    )
