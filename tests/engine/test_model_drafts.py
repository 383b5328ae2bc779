"""Drafts of a smaller model: whose keys they are, what they may cost, and what they learn."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from laws.planted import drafting_freely
from laws.tiny import VOCAB, native_model

from kept import machine
from kept.cache import make_cache
from kept.engine import ContextRule, DraftModel, Engine, Request, Room, make_group
from kept.engine.model_drafts import ModelDrafts
from kept.engine.model_worth import MOST_SAVED, SHARE, ModelWorth, sureness
from kept.ops import use_threads
from kept.sampling import SamplingParams

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
PROMPT = [Random(5).randrange(VOCAB - 1) for _ in range(70)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    use_threads()


def engine_of(kind: str = "dynamic", *, slots: int = 3, limit: int | None = None) -> Engine:
    """A model, and the same one rounded to int8, which drafts for it."""
    model = native_model("llama", "bf16")
    fields: dict[str, Any] = {"max_cache_len": 200} if kind == "static" else {}
    if limit is not None:
        fields["pool_bytes"] = limit
    cache = make_cache(model.kv_shapes, kind, num_slots=slots, dtype=model.dtype, **fields)
    draft = DraftModel(native_model("llama", "int8"))
    return Engine(model, cache, ContextRule(200), room=Room(limit), draft=draft)


def ask(engine: Engine, prompt: list[int], salt: str = "", **options: Any) -> Request:
    given = {"max_new_tokens": 40, "seed": 1, "num_assistant_tokens": 6, **options}
    group = make_group(prompt, SamplingParams(**given).resolve(vocab_size=VOCAB), engine.rule)
    return engine.submit(Request(group, salt=salt))


def finish(engine: Engine, seed: int = 1) -> ModelDrafts:
    with drafting_freely(engine, seed):
        while engine.has_work:
            engine.step()
    assert engine._drafting.by_model is not None
    return engine._drafting.by_model


def tokens(request: Request) -> list[tuple[int, ...]]:
    return [c.completion().token_ids for c in request.group.results]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_model_drafts_and_its_share_is_counted_apart(kind: str) -> None:
    engine = engine_of(kind)
    both = {"prompt_lookup_num_tokens": 8, "do_sample": True, "temperature": 0.4}
    requests = [
        ask(engine, PROMPT, **both),
        ask(engine, PROMPT[:5], do_sample=True, temperature=0.4),
        ask(engine, PROMPT * 2, num_assistant_tokens=0),
    ]
    finish(engine)
    done = [request.group.results[0].completion() for request in requests]
    counted = engine.counters.drafts
    assert counted.accepted["model"] == sum(x.accepted_from.get("model", 0) for x in done) > 0
    assert counted.drafted["suffix"] == done[0].drafted_from.get("suffix", 0)
    assert engine.counters.accepted_tokens == counted.accepted.total()
    assert not done[2].drafted_tokens
    for one in done:
        assert one.drafted_tokens == sum(one.drafted_from.values())
        assert one.num_steps == len(one.token_ids) - one.accepted_tokens


def test_draws_are_coupled() -> None:
    """A model that is the same but for its rounding mostly draws the same token, at any
    temperature; one that drew by noise of its own would not."""
    engine = engine_of()
    for seed in range(6):
        ask(engine, PROMPT, do_sample=True, temperature=1.0, top_k=0, seed=seed)
    finish(engine)
    counted = engine.counters.drafts
    assert counted.accepted["model"] > 0.5 * engine.counters.drafted_steps


def test_what_it_has_read_is_gone_on_from() -> None:
    engine = engine_of()
    first = ask(engine, PROMPT, salt="a")
    keys = finish(engine).keys
    [slot] = [slot for slot in keys.slots if slot.num]
    assert slot.continuation is None
    assert slot.tokens.tolist() == [*PROMPT, *tokens(first)[0]][: slot.num]
    before = slot.num
    text = [*PROMPT, *tokens(first)[0]]
    ask(engine, text, salt="another")
    finish(engine)
    assert slot.num == before  # of another salt nothing is found
    ask(engine, text, salt="a")
    finish(engine)
    assert slot.num > before


def test_samples_of_a_prompt_share_what_it_has_read() -> None:
    engine = engine_of(slots=4)
    request = ask(engine, PROMPT, num_return_sequences=3, do_sample=True, temperature=0.5)
    with drafting_freely(engine, 3):
        while engine.has_work:
            engine.step()
            by_model = engine._drafting.by_model
            assert by_model is not None
            slots = [s.number for s in by_model.keys.slots if s.continuation and s.num > 64]
            if len(slots) == 3:
                tables = [by_model.keys.cache.share(number)[0].blocks[0] for number in slots]
                assert len({block.id for block in tables if block is not None}) == 1
                break
        else:
            pytest.fail("no three of them were drafted at once")
    engine.end([request])


def test_its_keys_go_before_anything_that_a_text_needs() -> None:
    """In a room that holds what a text comes to and one block more."""
    each = make_cache(native_model("llama", "bf16").kv_shapes, dtype=native_dtype()).block_bytes
    engine = engine_of(limit=3 * each)
    for _ in range(3):
        request = ask(engine, PROMPT, max_new_tokens=120)
        by_model = finish(engine)
        assert request.group.results[0].completion().finish_reason == "length"
        assert engine.room.budget.taken <= 3 * each
    assert by_model.keys.returnable <= 2 * each
    assert engine.counters.parked == 0
    engine.forget()
    assert not by_model.keys.returnable


def native_dtype() -> Any:
    return native_model("llama", "bf16").dtype


def test_a_draft_model_that_fails_ends_no_text(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of()
    by_model = engine._drafting.by_model
    assert by_model is not None

    def fail(*_: Any) -> Any:
        raise RuntimeError("a draft model that fails")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_model._passes, "run", fail)
        request = ask(engine, PROMPT)
        finish(engine)
    assert request.group.results[0].completion().finish_reason == "length"
    assert "a draft model that fails" in caplog.text


def learned() -> ModelWorth:
    worth = ModelWorth()
    for rows in (1, 2, 64, 256) * 8:
        worth.step_time.observe(rows, rows * 100, 1e-3 + 1e-5 * rows)
    return worth


def test_as_many_are_drafted_as_are_worth_while() -> None:
    plain = 1e-2
    for come, draft, expected in (
        (1.0, 1e-3, range(8, 17)),
        (0.6, 1e-3, range(1, 5)),
        (0.1, 5e-3, range(1)),
    ):
        worth = learned()
        for _ in range(200):
            worth.verified(sureness(True, 1.0), Random(_).random() < come)
        worth.balance = 0.01
        assert worth.depth(1, 1, 16, plain, 1.05 * plain, draft, 1e-4) in expected


def test_how_sure_it_was_tells_how_likely_a_draft_is() -> None:
    worth, draws = learned(), Random(1)
    for _ in range(400):
        lead = draws.choice([0.1, 5.0])
        worth.verified(sureness(True, lead), draws.random() < (0.95 if lead > 1 else 0.3))
    assert worth.chance(sureness(True, 5.0)) > 0.85
    assert worth.chance(sureness(True, 0.1)) < 0.45
    assert worth.chance(sureness(False, 5.0)) == pytest.approx(worth.mean)


def test_one_that_is_never_right_costs_its_share() -> None:
    """However cheap it seems, over a long run."""
    worth, plain, spent, total = learned(), 1e-2, 0.0, 0.0
    for step in range(20_000):
        left = 256 - step % 256
        cost = 0.02 * plain if step % 256 == 0 else 0.0
        depth = worth.depth(1, 1, 16, plain, 1.05 * plain, 1e-3, 1e-4)
        if depth and depth * 1e-3 + cost <= worth.spare(plain, left):
            worth.verified(sureness(True, 1.0), False)
            cost += depth * 1e-3 + 0.05 * plain
            worth.earn(-cost, plain)
        else:
            worth.earn(SHARE * plain, plain)
        spent, total = spent + cost, total + plain
    assert 0.0 < spent <= SHARE * (total + 256 * plain) + 16e-3
    assert worth.balance <= MOST_SAVED * plain
