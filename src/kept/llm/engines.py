"""The engines of an LLM: one for each kind of cache, for as long as the LLM lives, or a call's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from weakref import WeakValueDictionary

from kept.cache import Offloaded
from kept.engine import ContextRule, DraftModel, Engine, Inputs, Room
from kept.errors import OptionError
from kept.llm.caching import build_cache, context_rule, shared_length, slot_caches, static_length
from kept.llm.conversation import Conversation
from kept.models import CausalLM
from kept.options import ResolvedCacheOptions
from kept.sampling import ResolvedParams
from kept.store import PrefixStore
from kept.turns import Turn

MOST_KEPT = 16  # kinds of cache whose engines are remembered while nobody uses them

_Key = tuple[ResolvedCacheOptions, int | None]


class Engines:
    """What texts are computed in; all keys and values come out of one room.

    num_slots: sequences computed side by side. place: where caches lie, None: in memory. store:
    where prefixes outlive the process, None: nowhere. draft: what texts may be drafted by, None:
    nothing. Threads may share it.
    """

    def __init__(
        self,
        model: CausalLM,
        num_slots: int,
        prefill_chunk: int,
        room: Room,
        place: Offloaded | None = None,
        store: PrefixStore | None = None,
        draft: DraftModel | None = None,
    ) -> None:
        self._model, self.num_slots, self._prefill_chunk = model, num_slots, prefill_chunk
        self.draft = draft
        self.room, self._place, self._inputs, self._store = room, place, Inputs(room), store
        # One that is not remembered is still found while a call has it: there are never two.
        self._engines: WeakValueDictionary[_Key, Engine] = WeakValueDictionary()
        self._recent: OrderedDict[_Key, Engine] = OrderedDict()
        self._turn = Turn()

    def finds_texts(self, options: ResolvedCacheOptions, params: ResolvedParams) -> bool:
        """Whether the engine of these options lives on and finds the texts before by itself, as
        their keys lie in blocks."""
        return self._lives_on(options, params) and self._in_blocks(options)

    def find(
        self,
        options: ResolvedCacheOptions,
        params: ResolvedParams,
        prompt_lengths: Sequence[int],
        num_slots: int,
        conversation: Conversation | None = None,
    ) -> Engine:
        """The engine that requests of these options run in.

        It lives on for others, unless they have to have one of their own: they go on from a
        conversation, take more slots than there are, lie in files, have no cache, or the model runs
        on the torch reference, where what else is in a pass changes the rounding. num_slots: that
        such a one has. Raises OptionError and CacheFullError for options that cannot be had.
        """
        rule = context_rule(self._model, options)
        length = static_length(options, params, rule, prompt_lengths)
        if conversation is not None or not self._lives_on(options, params):
            return self._make(options, rule, num_slots, length, conversation)
        length = shared_length(options, length, rule)
        with self._turn.lock:
            key = (options, length)
            found = self._engines.get(key)
            if found is None:
                found = self._make(options, rule, self.num_slots, length)
                self._engines[key] = found
            self._recent[key] = found
            self._recent.move_to_end(key)
            dropped = []
            while len(self._recent) > MOST_KEPT:
                dropped.append(self._recent.popitem(last=False)[1])
        for engine in dropped:
            engine.forget()
        return found

    def forget(self) -> None:
        """Let no text that has ended be found again, and give the memory of its keys back."""
        for ref in self._engines.valuerefs():
            engine = ref()
            if engine is not None:
                engine.forget()
        with self._model.running():
            self._inputs.forget()

    def _lives_on(self, options: ResolvedCacheOptions, params: ResolvedParams) -> bool:
        width = max(params.num_beams, params.num_return_sequences)
        cached = options.cache_implementation is not None
        in_memory = self._place is None and self._model.native is not None
        return cached and in_memory and width <= self.num_slots

    def _in_blocks(self, options: ResolvedCacheOptions) -> bool:
        in_place = context_rule(self._model, options).in_place
        return options.cache_implementation == "dynamic" and not in_place and self._place is None

    def _make(
        self,
        options: ResolvedCacheOptions,
        rule: ContextRule,
        num_slots: int,
        length: int | None,
        conversation: Conversation | None = None,
    ) -> Engine:
        model = self._model
        made = partial(
            Engine,
            self._model,
            rule=rule,
            max_slots=num_slots,
            prefill_chunk=self._prefill_chunk,
            room=self.room,
            inputs=self._inputs,
            store=self._store,
            draft=self.draft,
        )
        if options.cache_implementation is None:
            return made(None)
        if not self._in_blocks(options):
            first = None if conversation is None else conversation.held
            step = self._prefill_chunk
            return made(slot_caches(model, options, rule, length, self._place, step, first))
        limit = self.room.limit
        try:
            return made(build_cache(model, options, rule, num_slots, None, pool_bytes=limit))
        except OptionError as error:
            if limit is None:
                raise
            raise OptionError(f"kv_memory is too little: {error}") from error
