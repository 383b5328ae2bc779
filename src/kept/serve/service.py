"""Runs requests of any protocol over one model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kept.engine import Engine
from kept.errors import CheckpointError, EngineError, OptionError, TemplateError
from kept.models.identity import instructions_of, kernels_of, weights_of
from kept.options import PREFIX_STORE, CacheOptions
from kept.serve.admission import Admission, Ticket
from kept.serve.answer import Answer
from kept.serve.asked import Asked, Prompt, characters_of
from kept.serve.footprint import MAX_REMEMBERED, NUM_BYTES, Footprint
from kept.serve.metrics import Metrics
from kept.serve.reading import Read, read, read_prompt
from kept.serve.refusal import Refusal, refusal_of
from kept.serve.runners import Runners
from kept.serve.settings import Settings
from kept.serve.shelf import Shelf
from kept.serve.tenants import keys_of

if TYPE_CHECKING:
    from kept.llm import LLM

T = TypeVar("T")

NUM_READERS: Final = 2  # threads that put prompts through templates and tokenizer
MAX_RESPONSES: Final = 65_536  # of a tenant
LONG: Final = 1 << 16  # characters; what has more is read by a thread of its own
ENGINE_FAILED: Final = (
    "the engine has ended by a failure, which the log tells, and computes nothing any more; "
    "start the server again"
)


class Service:
    """One model, and everything that has to be known to answer requests with it.

    models: the names it goes by, the first in answers, and behind them those of its adapters.
    fingerprint: names weights, cache,
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
        """Raises OptionError for settings that will not do, or that the model contradicts, and
        CheckpointError for one without a tokenizer."""
        if llm.tokenizer is None:
            raise CheckpointError(
                f"{llm.checkpoint.folder} has no tokenizer.json, and a server reads and writes "
                "text; add it"
            )
        self.llm, self.settings = llm, settings
        self.models = _all_names(settings.served_model_name or (name,), llm)
        self.keys = keys_of(settings)
        _, self.caching = llm.resolve(None, {}, cache_options)
        self.max_n = min(settings.max_n, llm.max_batch_size)
        self.admission = Admission(settings.max_queue_time, llm.max_batch_size)
        self.fingerprint = self._identify()
        self.metrics = Metrics(self)
        self.started_at = monotonic()
        self.responses: Shelf[Any] = Shelf(MAX_RESPONSES, settings.response_store)
        self.footprints: Shelf[Footprint] = Shelf(MAX_REMEMBERED, MAX_REMEMBERED * NUM_BYTES)
        self.is_draining = False
        self._has_engine = False  # that runs what comes; to make one takes a while
        self.runners = Runners()
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="kept scorer")
        self.scoring = Admission(settings.max_queue_time, 1)
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="kept reader")
        # So that prompts of megabytes hold up each other alone.
        self._long_reader = ThreadPoolExecutor(1, thread_name_prefix="kept long reader")

    @property
    def templates(self) -> Mapping[str, str]:
        """The checkpoint's chat templates by name; none: prompts are all that it reads."""
        try:
            return self.llm.chat_template.templates
        except TemplateError:
            return {}

    def adapter_of(self, model: str) -> str | None:
        """The adapter that a request for this model goes through; None: none."""
        return model if any(model == each.name for each in self.llm.model.adapters) else None

    @property
    def engines(self) -> list[Engine]:
        """Those that have run requests and go on."""
        return self.runners.engines

    async def begin(self, asked: Asked) -> Answer:
        """Take a request in: its answer, nothing of which has been computed yet.

        Close it, or hear its events to their end. Raises Refusal where there is too much to do or
        the server drains, and whatever is wrong with the request.
        """
        with self._taking_in(asked) as ticket:
            found = await self.in_thread(
                lambda: read(self.llm, self._bounded(asked), self.caching),
                is_long=asked.num_characters > LONG,
            )
        return self._answer(asked, ticket, found)

    def begin_at_once(self, asked: Asked) -> Answer | None:
        """As `begin`, on the loop's own thread, which costs less than to wait for another; None: it
        might hold up others for long, so that it has to be begun by `begin`."""
        if not (self._has_engine and asked.is_small):
            return None
        with self._taking_in(asked) as ticket:
            found = read(self.llm, self._bounded(asked), self.caching)
        return self._answer(asked, ticket, found)

    async def tokens_of(self, prompts: Sequence[Prompt]) -> list[Sequence[int]]:
        """The tokens of prompts that are not answered. Raises as `read_prompt`."""
        return await self.in_thread(
            lambda: [read_prompt(self.llm, prompt) for prompt in prompts],
            is_long=sum(map(characters_of, prompts)) > LONG,
        )

    async def in_thread(self, do: Callable[[], T], *, is_long: bool = False) -> T:
        """What `do` returns, in a thread of those that read prompts; is_long: in the one of those
        that take seconds."""
        readers = self._long_reader if is_long else self._readers
        return await asyncio.get_running_loop().run_in_executor(readers, do)

    async def score(self, do: Callable[[], T]) -> T:
        """What `do` makes of texts that are all there, one after the other beside the engine.

        Raises Refusal where too much waits for it or the server drains, and what `do` raises.
        """
        self.check_open()
        ticket = self._enter(self.scoring, 1)

        def begin() -> T:
            ticket.has_begun = True
            return do()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._scorer, begin)
        finally:
            self.scoring.leave(ticket)

    def check_open(self) -> None:
        """Raise Refusal where the server takes no more requests."""
        if self.runners.failure is not None:
            self.metrics.refuse("engine_failed")
            raise Refusal(ENGINE_FAILED, 503, "engine_failed")
        if self.is_draining:
            self.metrics.refuse("draining")
            raise Refusal(
                "this server is about to end; ask another one",
                503,
                "draining",
                headers={"Retry-After": "5"},
            )

    @property
    def has_room(self) -> bool:
        """Whether `check_room` would raise nothing."""
        is_open = not self.is_draining and self.runners.failure is None
        return is_open and self.admission.has_room

    def check_room(self) -> None:
        """Raise Refusal where there is no room for any request of a text, however short."""
        self.check_open()
        try:
            self.admission.check(1)
        except Refusal:
            self.metrics.refuse("queue_time")
            raise

    def refusal_of(self, error: Exception, asked: Asked | None = None) -> Refusal:
        """What a client is told of an error: as `refusal_of`, without this machine's paths."""
        if isinstance(error, EngineError):
            return Refusal(ENGINE_FAILED, 503, "engine_failed")
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
        await self.runners.aclose()
        for threads in (self._readers, self._long_reader, self._scorer):
            threads.shutdown(wait=False, cancel_futures=True)

    def leave(self, ticket: Ticket) -> None:
        """An answer has ended."""
        self.admission.leave(ticket)

    @contextmanager
    def _taking_in(self, asked: Asked) -> Iterator[Ticket]:
        """A request's place; it leaves again where the block raises, which is told as a Refusal."""
        self.check_open()
        if asked.num_texts > self.llm.max_batch_size:
            raise Refusal(
                f"{asked.num_texts} texts are asked for at once, and this server computes "
                f"{self.llm.max_batch_size} side by side (--max-batch-size); ask for fewer"
            )
        ticket = self._enter(self.admission, asked.num_texts)
        try:
            yield ticket
        except BaseException as error:
            self.leave(ticket)
            if isinstance(error, Exception):
                raise self.refusal_of(error, asked) from error
            raise

    def _answer(self, asked: Asked, ticket: Ticket, found: Sequence[Read]) -> Answer:
        ticket.requests = tuple(each.request for each in found)
        self._has_engine = self._has_engine or all(each.lives_on for each in found)
        return Answer(self, asked, ticket, found)

    def _bounded(self, asked: Asked) -> Asked:
        """The request with as many tokens as one gets that does not say how many."""
        most = self.settings.default_max_tokens
        if most is None or asked.params.max_new_tokens is not None:
            return asked
        return replace(asked, params=replace(asked.params, max_new_tokens=most))

    def _enter(self, admission: Admission, num_texts: int) -> Ticket:
        try:
            return admission.enter(num_texts)
        except Refusal:
            self.metrics.refuse("queue_time")
            raise

    def _identify(self) -> str:
        llm = self.llm
        memo = Path(PREFIX_STORE).expanduser() if llm.store is None else llm.store.folder
        adapters = [f"{each.name}={each.digest}" for each in llm.model.adapters]
        loaded_as = (repr(self.caching), *adapters)
        weights = weights_of(llm.checkpoint, llm.model, loaded_as, memo)
        return f"{weights[:12]}-{instructions_of(llm.model)}-{kernels_of()[:12]}"


def _all_names(names: Sequence[str], llm: LLM) -> tuple[str, ...]:
    """Those of the model and of its adapters. Raises OptionError for one that both have."""
    adapters = [each.name for each in llm.model.adapters]
    both = sorted({*names}.intersection(adapters))
    if both:
        raise OptionError(
            f"{both[0]!r} is the name of the model and of an adapter; give --served-model-name or "
            "--adapter another one"
        )
    return (*names, *adapters)
