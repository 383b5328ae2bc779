"""Requests that come and go at one engine, each held bit for bit against itself alone.

A `Setting` is an engine to be, an `Ask` a request to come. `serve` plays them against each other,
step by step, and looks at the pool after each. `check_alone` then runs what was asked once more:
alone, in a fresh cache that does not lie in blocks, in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from kept import SamplingParams
from kept.blocks import BLOCK
from kept.cache import make_cache
from kept.engine import (
    BeamGroup,
    ContextRule,
    Continuation,
    DraftModel,
    Engine,
    Group,
    Request,
    Room,
    SampleGroup,
)
from kept.models import CausalLM
from kept.ops import KVDtype, use_threads
from kept.sampling import TokenHistory, TokenLogprobs, derive_seed
from kept.store import PrefixStore
from laws.planted import clock, drafting_freely, failing
from laws.pool_sums import check_nothing_is_left, check_pool
from laws.tiny import FORMATS, VOCAB, codec_for, native_model

LONGEST = 140  # tokens of a prompt
MOST_STEPS = 20_000


@dataclass(frozen=True)
class Ask:
    """A request to come, before step `at`.

    text, length: its prompt is the beginning of one of a few texts, of which the token `changed`
    is another; or, where it `follows` an ask before it, that one's text as it stands then without
    its last `cut` tokens. tail: what the prompt ends with. leaves: when it is cancelled, or its
    deadline passes, in steps from `at`. unspellable: which of its new tokens cannot be spelled.
    longest: the most tokens of a prompt that follows another ask.
    """

    at: int
    text: int
    length: int
    changed: int | None
    follows: int | None
    cut: int
    tail: tuple[int, ...]
    options: dict[str, Any]
    tenant: str
    priority: int
    salt: str
    interactive: bool
    cancelled: int | None
    deadline: int | None
    unspellable: int | None
    longest: int = LONGEST

    @property
    def width(self) -> int:
        """Slots that it takes."""
        return max(self.options.get("num_beams", 1), self.options.get("num_return_sequences", 1))

    def prompt(self, before: Sequence[Served]) -> list[int]:
        """The prompt, once those before it stand where they do."""
        if self.follows is not None and before:
            text = before[self.follows % len(before)].text
            found = text[: max(0, len(text) - self.cut)]
        else:
            draws = Random(self.text)
            found = [draws.randrange(VOCAB - 1) for _ in range(self.length)]
            if self.changed is not None and self.changed < self.length:
                found[self.changed] = (found[self.changed] + 1) % (VOCAB - 1)
        return [*found[: self.longest - len(self.tail)], *self.tail] or [1]


@dataclass(frozen=True)
class Setting:
    """An engine to be.

    spare: blocks that its pool has more than the widest request needs. context: how many tokens it
    has, after which texts end, or slide by `hop`; None: the model's. forgotten: the step before
    which it forgets. fails: the pass that raises, and what. seconds: what each step seems to take.
    reckless: drafts are as many as a draw of this seed says, however unlikely; None: as many as
    seem worth while. drafts: whether the same model in another format drafts its texts, out of the
    same room.
    """

    model: str
    format: str
    isa: str | None
    codec: KVDtype
    slots: int
    threads: int
    spare: int
    chunk: int
    max_step_time: float | None
    context: int | None
    hop: int | None
    forgotten: int | None
    fails: tuple[int, Exception] | None
    seconds: tuple[float, ...]
    reckless: int | None = None
    drafts: bool = False

    @property
    def rule(self) -> ContextRule:
        """The rule at the end of the context."""
        length = self.made.config.context if self.context is None else self.context
        if self.hop is None:
            return ContextRule(length)
        return ContextRule(length, slides=True, hop=self.hop)

    @property
    def made(self) -> CausalLM:
        """The model."""
        return self._made_as(self.format)

    def engine(self, asks: Sequence[Ask], store: PrefixStore | None = None) -> Engine:
        """The engine, in whose pool each of the requests has room when it is alone. store: where
        its prefixes outlive it."""
        model = self.made
        fields: dict[str, Any] = {"dtype": model.dtype, "kv_dtype": codec_for(model, self.codec)}
        needed = max(map(self._num_blocks, asks)) + self.spare
        pool_bytes = needed * make_cache(model.kv_shapes, **fields).block_bytes
        slots = max(self.slots, *(ask.width for ask in asks))
        cache = make_cache(model.kv_shapes, num_slots=slots, pool_bytes=pool_bytes, **fields)
        draft, room = None, None
        if self.drafts:
            other = FORMATS[(FORMATS.index(self.format) + 1) % len(FORMATS)]
            draft, room = DraftModel(self._made_as(other)), Room(pool_bytes)
        chunk = self.chunk
        engine = Engine(
            model, cache, self.rule, prefill_chunk=chunk, room=room, store=store, draft=draft
        )
        engine.scheduler.passes.max_step_time = self.max_step_time
        return engine

    def alone(self, served: Served) -> Engine:
        """An engine for one request, over a cache that is a single piece for each sequence."""
        model, rule = self.made, self.rule
        longest = min(rule.length, served.request.group.results[0].limit)
        cache = make_cache(
            model.kv_shapes,
            "static",
            num_slots=served.ask.width,
            max_cache_len=longest,
            dtype=model.dtype,
            kv_dtype=codec_for(model, self.codec),
        )
        return Engine(model, cache, rule)

    def _made_as(self, format: str) -> CausalLM:
        with pytest.MonkeyPatch.context() as patch:
            if self.isa is not None:
                patch.setenv("KEPT_ISA", self.isa)
            return native_model(self.model, format, self.isa)

    def _num_blocks(self, ask: Ask) -> int:
        most = ask.length + len(ask.tail) if ask.follows is None else ask.longest
        longest = min(most + ask.options["max_new_tokens"] - 1, self.rule.length)
        return ask.width * (-(-longest // BLOCK) + (ask.width > 1))


class UnspellableError(Exception):
    """A token that no text can be made of."""


@dataclass(slots=True, eq=False)
class Unspellable(Continuation):
    """A continuation of which one new token cannot be spelled."""

    at: int = 0

    def take(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """See `Continuation.take`."""
        if self.history.num_generated == self.at:
            raise UnspellableError(f"token {token} at {self.at}")
        Continuation.take(self, token, logprobs)


@dataclass
class Served:
    """An ask and what has become of it."""

    ask: Ask
    prompt: list[int]
    rule: ContextRule
    request: Request = field(init=False)

    def __post_init__(self) -> None:
        ask = self.ask
        deadline = None if ask.deadline is None else float(ask.at + ask.deadline)
        self.request = Request(
            self._group(), ask.tenant, ask.priority, deadline, ask.salt,
            interactive=ask.interactive, arrival=ask.at,
        )  # fmt: skip

    @property
    def text(self) -> list[int]:
        """The prompt and what came of it so far."""
        tokens: list[int] = self.request.group.results[0].history.tokens.tolist()
        return tokens

    @property
    def depth(self) -> int:
        """How many tokens were drawn of each text at most."""
        lengths = (len(c.history) for c in (*self.request.group.members, *self.request.live))
        return max(lengths) - len(self.prompt)

    @property
    def outcome(self) -> list[tuple[object, ...]]:
        """Of each result its tokens, log-probabilities, score, reason and error."""
        found = [c.completion() for c in self.request.group.results]
        return [(c.token_ids, c.logprobs, c.score, c.finish_reason, c.error) for c in found]

    def anew(self) -> Served:
        """The same, not submitted, for ever, and without drafts."""
        none = {"prompt_lookup_num_tokens": 0, "num_assistant_tokens": 0}
        options = {**self.ask.options, **none}
        return Served(replace(self.ask, options=options), self.prompt, self.rule)

    def _group(self) -> Group:
        params = SamplingParams(**self.ask.options).resolve(vocab_size=VOCAB)
        num_results, num_beams = params.num_return_sequences, params.num_beams
        if num_beams == 1:
            return SampleGroup([self._continuation(params, i) for i in range(num_results)])
        results = [self._continuation(params, i) for i in range(num_results)]
        return BeamGroup(results, [self._continuation(params, i) for i in range(num_beams)])

    def _continuation(self, params: Any, index: int) -> Continuation:
        fields: dict[str, Any] = {
            "history": TokenHistory(self.prompt),
            "params": params,
            "seed": derive_seed(params.seed, index),
            "limit": self.rule.limit(len(self.prompt), params.max_new_tokens),
            "prompt_index": 0,
            "index": index,
            "tokenizer": None,
            "offset": self.rule.first_offset(len(self.prompt)),
        }
        if self.ask.unspellable is None:
            return Continuation(**fields)
        return Unspellable(**fields, at=self.ask.unspellable)


def serve(setting: Setting, asks: Sequence[Ask], store: PrefixStore | None = None) -> list[Served]:
    """Play the asks, in the order of their steps; the pool adds up after each."""
    engine, rule = setting.engine(asks, store), setting.rule
    served: list[Served] = []
    waiting = sorted(asks, key=lambda ask: ask.at)
    use_threads(setting.threads)
    with (
        clock(setting.seconds) as now,
        failing(engine, setting.fails),
        drafting_freely(engine, setting.reckless),
    ):
        for step in range(MOST_STEPS):
            now.step = step
            if step == setting.forgotten:
                engine.forget()
            while waiting and waiting[0].at <= step:
                ask = waiting.pop(0)
                prompt = ask.prompt(served)
                most = len(prompt) if rule.slides else rule.length
                served.append(Served(ask, prompt[:most], rule))
                engine.submit(served[-1].request)
            for one in served:
                if one.ask.cancelled is not None and one.ask.at + one.ask.cancelled == step:
                    engine.cancel(one.request)
            engine.step()
            check_pool(engine)
            if not waiting and not engine.has_work:
                check_nothing_is_left(engine)
                return served
    raise AssertionError(f"not finished after {MOST_STEPS} steps")


def check_alone(setting: Setting, served: Served) -> None:
    """What was served is what it is alone, or the beginning of that if it ended early."""
    again = served.anew()
    again.request.deadline = None
    engine, request = setting.alone(again), again.request
    use_threads(1)
    engine.submit(request)
    early = ended_early(setting, served)
    while engine.has_work and not (early and again.depth >= served.depth):
        engine.step()
    if early:
        engine.end([request])
    for found, expected in zip(served.outcome, again.outcome, strict=True):
        # Texts that had ended before the others were cut off ended as they would alone.
        cut_off = early and found[3] != expected[3]
        if early:  # drafts bring some of the texts of a request further than others
            expected = (*beginning(expected, len(found[0])), *expected[2:])
        assert found[:3] == expected[:3]
        assert cut_off or found[3:] == expected[3:]
    if not early:
        assert request.finished
    else:
        assert served.depth == again.depth


def beginning(outcome: tuple[Any, ...], count: int) -> tuple[Any, Any]:
    """The first so many tokens, and their log-probabilities."""
    tokens, logprobs = outcome[:2]
    return tokens[:count], None if logprobs is None else logprobs[:count]


def ended_early(setting: Setting, served: Served) -> bool:
    """Whether it was cancelled, or ended by its deadline or a pass that failed."""
    planted = None if setting.fails is None else setting.fails[1]
    return any(
        c.finish_reason == "interrupted"
        or isinstance(c.error, TimeoutError)
        or (planted is not None and c.error is planted)
        for c in served.request.group.results
    )
