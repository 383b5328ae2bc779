"""The engines of an LLM: one for each kind of cache, for as long as the LLM lives."""

from __future__ import annotations

from kept.engine import Engine
from kept.errors import OptionError
from kept.format import format_bytes
from kept.llm.caching import build_cache, context_rule
from kept.machine import describe_machine
from kept.models import CausalLM
from kept.options import ResolvedCacheOptions
from kept.sampling import ResolvedParams
from kept.turns import Turn


class Engines:
    """Engines whose caches lie in blocks, so that texts of any number share one pool of them.

    num_slots: sequences computed side by side. pool_bytes: of keys and values of all texts
    together, None: half of the memory there is when an engine is made. in_memory: whether they are
    to lie there; else there are no such engines. Threads may share it.
    """

    def __init__(
        self,
        model: CausalLM,
        num_slots: int,
        prefill_chunk: int,
        pool_bytes: int | None,
        in_memory: bool = True,
    ) -> None:
        self._model, self._num_slots, self._prefill_chunk = model, num_slots, prefill_chunk
        self._pool_bytes, self._in_memory = pool_bytes, in_memory
        self._engines: dict[ResolvedCacheOptions, Engine] = {}
        self._turn = Turn()

    def find(self, options: ResolvedCacheOptions, params: ResolvedParams) -> Engine | None:
        """The engine of these options, made if there is none; None where a call has to have an
        engine of its own: its cache does not lie in blocks, it takes more slots than there are, or
        the model runs on the torch reference, where what else is in a pass changes the rounding.

        params: of a request. Raises OptionError as `context_rule` does, and where
        `pool_bytes` do not hold one block.
        """
        in_blocks = self._in_memory and options.cache_implementation == "dynamic"
        if not in_blocks or self._model.native is None:
            return None
        width = max(params.num_beams, params.num_return_sequences)
        rule = context_rule(self._model, options)
        if rule.in_place or width > self._num_slots:
            return None
        with self._turn.lock:
            found = self._engines.get(options)
            if found is None:
                self._drop_idle()
                found = self._engines[options] = self._make(options)
            return found

    def forget(self) -> None:
        """Let no text that has ended be found again, and give the memory of its keys back."""
        with self._turn.lock:
            engines = list(self._engines.values())
        for engine in engines:
            engine.forget()

    def _make(self, options: ResolvedCacheOptions) -> Engine:
        rule, slots = context_rule(self._model, options), self._num_slots
        try:
            cache = build_cache(self._model, options, rule, slots, None, pool_bytes=self._room())
        except OptionError as error:
            if self._pool_bytes is None:
                raise
            if not self._engines:
                raise OptionError(f"kv_memory is too little: {error}") from error
            raise OptionError(
                f"texts of other cache options have the {format_bytes(self._pool_bytes)} of "
                "kv_memory; wait for them to end, or give more"
            ) from error
        return Engine(self._model, cache, rule, max_slots=slots, prefill_chunk=self._prefill_chunk)

    def _room(self) -> int | None:
        """Bytes that the engines there are leave for another one's pool."""
        if self._pool_bytes is None:
            available = describe_machine().available_memory
            return None if available is None else available // 2
        taken = sum(engine.pool_bytes for engine in self._engines.values())
        return max(self._pool_bytes - taken, 1)

    def _drop_idle(self) -> None:
        """Let go of engines that have nothing to do, for the room of their pools."""
        if self._pool_bytes is not None:
            idle = [key for key, engine in self._engines.items() if not engine.has_work]
            for key in idle:
                del self._engines[key]
