"""kept's own engine as a server of requests: greedy, of exactly as many tokens as are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from kept.bench.serve_record import Drawn, Ended, Given, Load, ServeSettings
from kept.bench.serve_work import Arrival
from kept.bench.subject import Subject
from kept.engine import Engine, Request, make_group
from kept.llm.caching import build_cache, context_rule
from kept.llm.memory import room_for
from kept.options import CacheOptions
from kept.sampling import ResolvedParams, SamplingParams


class EngineServer:
    """See `Server`."""

    def __init__(self, engine: Engine) -> None:
        """engine: it should have no other requests."""
        self._engine = engine
        self._requests: dict[int, Request] = {}
        self._indices: dict[Request, int] = {}

    @classmethod
    def of(cls, subject: Subject, settings: ServeSettings) -> EngineServer:
        """One over an engine like that of an `LLM`, on the torch reference, too.

        Raises OptionError for a cache that cannot be had.
        """
        model, slots = subject.model, settings.max_batch_size
        options = CacheOptions(cache_implementation="dynamic", kv_dtype=settings.kv_dtype).resolve()
        rule = context_rule(model, options)
        room = room_for(settings.kv_memory, model.device)
        cache = build_cache(model, options, rule, slots, None, pool_bytes=room)
        step = settings.max_step_time
        return cls(Engine(model, cache, rule, max_slots=slots, max_step_time=step))

    @property
    def num_blocks(self) -> int:
        """See `Server.num_blocks`."""
        blocks = self._engine.snapshot().blocks
        return 0 if blocks is None else blocks.free + blocks.findable + blocks.held

    @property
    def has_work(self) -> bool:
        """See `Server.has_work`."""
        return self._engine.has_work

    def submit(self, index: int, arrival: Arrival, prompt: Sequence[int]) -> None:
        """See `Server.submit`."""
        group = make_group(prompt, self._params(arrival.new_tokens), self._engine.rule, index)
        request = Request(group, tenant=arrival.tenant, interactive=True)
        self._engine.submit(request)
        self._requests[index], self._indices[request] = request, index

    def step(self) -> list[Drawn | Ended]:
        """See `Server.step`."""
        found: list[Drawn | Ended] = []
        for request, continuation in self._engine.step():
            index = self._indices[request]
            if continuation is None:
                error = request.group.results[0].error
                found.append(Ended(index, None if error is None else str(error) or repr(error)))
            else:
                found.append(Drawn(index, int(continuation.history.last)))
        return found

    def given(self, index: int) -> Given:
        """See `Server.given`."""
        completion = self._requests[index].group.results[0].completion()
        return Given(
            completion.queue_time,
            completion.cached_from,
            completion.miss_reason,
            completion.computed_tokens,
            completion.num_parked,
        )

    def load(self) -> Load:
        """See `Server.load`."""
        now = self._engine.snapshot()
        if now.blocks is None:
            return Load(now.running, now.waiting)
        return Load(now.running, now.waiting, now.blocks.held, now.blocks.findable)

    def clear(self) -> None:
        """See `Server.clear`."""
        self._engine.end(self._indices)
        self._engine.forget()
        self._requests.clear()
        self._indices.clear()

    def _params(self, new_tokens: int) -> ResolvedParams:
        params = SamplingParams(max_new_tokens=new_tokens, do_sample=False, ignore_eos=True, seed=0)
        return params.resolve(vocab_size=self._engine.model.config.vocab_size)
