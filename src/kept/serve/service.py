"""Runs requests of any protocol over one model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kept.engine import Completion, Continuation, Engine, Piece
from kept.models.identity import instructions_of, kernels_of, weights_of
from kept.options import PREFIX_STORE, CacheOptions
from kept.serve.admission import Admission, Ticket
from kept.serve.asked import Asked
from kept.serve.events import Delta, Event, Finished, Progress, Started
from kept.serve.flow import merged, ticking
from kept.serve.footprint import MAX_REMEMBERED, NUM_BYTES, Footprint
from kept.serve.reading import Read, read
from kept.serve.refusal import Refusal, refusal_of
from kept.serve.runners import Runners
from kept.serve.settings import Settings
from kept.serve.shelf import Shelf
from kept.serve.tenants import Keys, read_keys

if TYPE_CHECKING:
    from kept.llm import LLM

T = TypeVar("T")

NUM_READERS: Final = 2  # threads that put prompts through templates and tokenizer
MAX_RESPONSES: Final = 65_536  # of a tenant
PROGRESS_EVERY: Final = 0.25  # seconds between two tellings of how far a prompt is read


class Service:
    """One model, and everything that has to be known to answer requests with it.

    models: the names it goes by, the first in answers. fingerprint: names weights, cache,
    instruction set and code; of one fingerprint the same seed and prompt give the same text.
    footprints: what answered requests were made of, by the ids of their answers. responses: answers
    that can be asked for again (see `responses/stored.py`).
    """

    def __init__(
        self,
        llm: LLM,
        settings: Settings,
        cache_options: CacheOptions | None = None,
        name: str = "kept",
    ) -> None:
        """Raises OptionError for settings that will not do, or that the model contradicts."""
        self.llm, self.settings = llm, settings
        self.models = settings.served_model_name or (name,)
        given = list(settings.api_key)
        if settings.api_key_file is not None:
            given += read_keys(settings.api_key_file)
        self.keys = Keys.of(given, settings.salt_secret or "")
        _, self.caching = llm.resolve(None, {}, cache_options)
        self.max_n = min(settings.max_n, llm.max_batch_size)
        self.admission = Admission(settings.max_queue_time, llm.max_batch_size)
        self.fingerprint = self._identify()
        self.started_at = monotonic()
        self.responses: Shelf[Any] = Shelf(MAX_RESPONSES, settings.response_store)
        self.footprints: Shelf[Footprint] = Shelf(MAX_REMEMBERED, MAX_REMEMBERED * NUM_BYTES)
        self.is_draining = False
        self._runners = Runners()
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="kept scorer")
        self.scoring = Admission(settings.max_queue_time, 1)
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="kept reader")

    @property
    def engines(self) -> list[Engine]:
        """Those that have run requests and go on."""
        return self._runners.engines

    async def begin(self, asked: Asked) -> Answer:
        """Take a request in: its answer, nothing of which has been computed yet.

        Close it, or hear its events to their end. Raises Refusal where there is too much to do or
        the server drains, and whatever is wrong with the request.
        """
        self.check_open()
        if asked.num_texts > self.llm.max_batch_size:
            raise Refusal(
                f"{asked.num_texts} texts are asked for at once, and this server computes "
                f"{self.llm.max_batch_size} side by side (--max-batch-size); ask for fewer"
            )
        ticket = self.admission.enter(asked.num_texts)
        try:
            found = await self.in_thread(lambda: read(self.llm, asked, self.caching))
        except BaseException as error:
            self.leave(ticket)
            if isinstance(error, Exception):
                raise self.refusal_of(error, asked) from error
            raise
        ticket.requests = tuple(each.request for each in found)
        return Answer(self, asked, ticket, found)

    async def run(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """The events of a request, from its beginning. Raises as `begin`."""
        answer = await self.begin(asked)
        async with aclosing(answer.events()) as events:
            async for event in events:
                yield event

    async def in_thread(self, do: Callable[[], T]) -> T:
        """What `do` returns, in a thread of those that read prompts."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, do)

    async def score(self, do: Callable[[], T]) -> T:
        """What `do` makes of texts that are all there, one after the other beside the engine.

        Raises Refusal where too much waits for it or the server drains, and what `do` raises.
        """
        self.check_open()
        ticket = self.scoring.enter(1)

        def begin() -> T:
            ticket.has_begun = True
            return do()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._scorer, begin)
        finally:
            self.scoring.leave(ticket)

    def check_open(self) -> None:
        """Raise Refusal where the server takes no more requests."""
        if self.is_draining:
            raise Refusal(
                "this server is about to end; ask another one",
                503,
                "draining",
                headers={"Retry-After": "5"},
            )

    def refusal_of(self, error: Exception, asked: Asked | None = None) -> Refusal:
        """What a client is told of an error: as `refusal_of`, without this machine's paths."""
        found = refusal_of(error, {} if asked is None else asked.fields)
        for private in {str(self.llm.checkpoint.folder), str(Path.home())} - {"/"}:
            found.message = found.message.replace(private, self.models[0])
        return found

    def drain(self) -> None:
        """Take no more requests."""
        self.is_draining = True

    @property
    def is_idle(self) -> bool:
        """Whether every answer has ended."""
        return not self.admission.num_open and not self.scoring.num_open

    async def aclose(self) -> None:
        """Cancel what there is, and end all threads."""
        self.is_draining = True
        await self._runners.aclose()
        for threads in (self._readers, self._scorer):
            threads.shutdown(wait=False, cancel_futures=True)

    def leave(self, ticket: Ticket) -> None:
        """An answer has ended."""
        self.admission.leave(ticket)

    def _identify(self) -> str:
        llm = self.llm
        memo = Path(PREFIX_STORE).expanduser() if llm.store is None else llm.store.folder
        loaded_as = (repr(self.caching),)
        weights = weights_of(llm.checkpoint, llm.model, loaded_as, memo)
        return f"{weights[:12]}-{instructions_of(llm.model)}-{kernels_of()[:12]}"


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
        self.prompts = [each.tokens for each in found]

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts together."""
        return sum(map(len, self.prompts))

    @property
    def texts_of_prompt(self) -> int:
        """How many texts each prompt has."""
        return self._asked.params.num_return_sequences or 1

    @property
    def completions(self) -> list[Completion]:
        """What every text has come to, by index."""
        texts = [
            (number, text)
            for number, each in enumerate(self._read)
            for text in each.request.group.results
            for _ in range(each.copies)
        ]
        return [
            replace(text.completion(), prompt_index=number, index=index)
            for index, (number, text) in enumerate(texts)
        ]

    def close(self) -> None:
        """It has been heard, or will not be; what has not begun does not."""
        self.service.leave(self._ticket)
        found = self.completions
        first = {completion.prompt_index: completion for completion in found}.values()
        self.log["prompt_tokens"] = self.prompt_tokens
        self.log["cached_tokens"] = sum(completion.cached_tokens for completion in first)
        self.log["completion_tokens"] = sum(len(completion.token_ids) for completion in found)

    async def events(self) -> AsyncGenerator[Event, None]:
        """What happens to it; to be iterated once.

        Leaving the iteration, or cancelling the task, ends it with the engine's next step.
        """
        sources = [self._run(number, each) for number, each in enumerate(self._read)]
        source = sources[0] if len(sources) == 1 else merged(sources)
        try:
            async with aclosing(source):
                async for event in source:
                    yield event
        finally:
            self.close()

    async def _run(self, number: int, one: Read) -> AsyncGenerator[Event, None]:
        texts, has_started = one.request.group.results, False
        first = sum(
            len(before.request.group.results) * before.copies for before in self._read[:number]
        )
        async with self.service._runners.running(one.engine, one.lives_on) as engine:
            pieces: AsyncGenerator[Piece | None, None] = engine.generate(one.request)
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
                            yield Delta(first + index, piece.text, piece.token_ids, piece.logprobs)
                        if piece.is_last:
                            yield self._finished(first + index, number, texts[piece.index])

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
        found = replace(text.completion(), prompt_index=prompt, index=index)
        return Finished(index, found, failure)


def _started(number: int, text: Continuation) -> Started:
    found = text.completion()
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
