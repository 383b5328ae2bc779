"""One pool of blocks for all requests: what they share, who makes room, and that no bit tells."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from kept import CacheFullError, OptionError
from kept.engine import ContextRule, Engine, Event, Request, make_group

from .requests import Outcome, expected, outcome, pooled, resolved
from .toy import VOCAB, Toy

RULE = ContextRule(512)


def story(length: int, seed: int = 0) -> list[int]:
    return [(i * i + seed * (i + 3)) % VOCAB for i in range(length)]


def request(prompt: list[int], salt: str = "", **options: Any) -> Request:
    return Request(make_group(prompt, resolved(**options), RULE), salt=salt)


def check_blocks(engine: Engine) -> None:
    """Blocks add up, and what running sequences hold is not counted as free or findable."""
    blocks = engine.snapshot().blocks
    assert engine.cache is not None
    assert engine.cache.pools
    assert blocks is not None
    assert min(blocks.free, blocks.findable, blocks.held) >= 0
    assert blocks.free + blocks.findable + blocks.held == engine.cache.pools[0].num_blocks
    tables = [engine.cache.share(slot) for slot in range(engine.cache.num_slots)]
    assert len({stack.blocks for table in tables for stack in table}) <= blocks.held


def run(engine: Engine, requests: list[Request], max_steps: int = 3000) -> list[Outcome]:
    for one in requests:
        engine.submit(one)
    for _ in range(max_steps):
        if not engine.has_work:
            return [outcome(one.group) for one in requests]
        engine.step()
        check_blocks(engine)
    raise AssertionError(f"not finished after {max_steps} steps")


def check_nothing_is_left(engine: Engine) -> None:
    engine.forget()
    blocks = engine.snapshot().blocks
    assert blocks is not None
    assert (blocks.findable, blocks.held) == (0, 0)


def test_equal_prompts_are_read_once() -> None:
    model, prompt = Toy(512), story(200)
    engine = pooled(model, slots=16, blocks=200, chunk=64)
    requests = [request(prompt, max_new_tokens=4, do_sample=True, seed=i) for i in range(16)]
    found = run(engine, requests)
    assert found == [expected(prompt, one.group.params, RULE) for one in requests]
    # Each of the others computes the last token, whose logits it needs.
    assert sum(model.rows) == 200 + 15 + 16 * 3
    sources = [one.group.results[0].completion().cached_from for one in requests]
    assert sources == [{}, *[{"running": 199}] * 15]
    check_nothing_is_left(engine)


def test_a_text_that_goes_on_from_another_and_one_that_turns_off() -> None:
    model, prompt = Toy(512), story(150)
    engine = pooled(model, slots=2, blocks=20)
    first = request(prompt, max_new_tokens=20)
    [[(tokens, _)]] = run(engine, [first])
    longer = [*prompt, *tokens, 1, 2, 3]
    other = [*prompt[:70], (prompt[70] + 1) % VOCAB, *prompt[71:]]
    for tokens_of, cached, why in ((longer, 169, "known up to"), (other, 70, "diverged at")):
        one = request(tokens_of, max_new_tokens=5)
        before = sum(model.rows)
        assert run(engine, [one]) == [expected(tokens_of, one.group.params, RULE)]
        assert sum(model.rows) - before == len(tokens_of) - cached + 4
        completion = one.group.results[0].completion()
        assert completion.cached_from == {"tree": cached}
        assert completion.miss_reason == f"{why} token {cached}"
    check_nothing_is_left(engine)


def test_what_a_running_text_has_written_is_found_block_by_block() -> None:
    engine = pooled(Toy(512), slots=2, blocks=40)
    first = request(story(50), max_new_tokens=220)
    engine.submit(first)
    [text] = first.group.results
    while len(text.history) < 210:
        engine.step()
        check_blocks(engine)
    second = request([*text.history.tokens[:205].tolist(), 1, 2], max_new_tokens=3)
    engine.submit(second)
    engine.step()
    assert not first.finished
    assert second.group.results[0].usage.cached == {"tree": 192}
    assert engine.snapshot().counters.computed_tokens == 210 + 15
    run(engine, [])
    assert outcome(first.group) == expected(story(50), first.group.params, RULE)
    prompt = second.group.results[0].history.tokens[:207].tolist()
    assert outcome(second.group) == expected(prompt, second.group.params, RULE)
    check_nothing_is_left(engine)


def test_salts_share_nothing() -> None:
    model, prompt = Toy(512), story(150)
    engine = pooled(model, slots=4, blocks=40)
    both = [request(prompt, salt, max_new_tokens=3) for salt in ("a", "b")]
    run(engine, both)
    assert sum(model.rows) == 2 * (150 + 2)
    again = request(prompt, "b", max_new_tokens=3)
    run(engine, [again])
    assert again.group.results[0].completion().cached_tokens == 149


def test_a_request_that_no_pool_could_hold_is_refused() -> None:
    engine = pooled(Toy(512), slots=4, blocks=3)
    with pytest.raises(CacheFullError, match=r"4 blocks of 64 tokens.* has 3;.*kv_memory"):
        engine.submit(request(story(190), max_new_tokens=10))
    run(engine, [request(story(190), max_new_tokens=3)])  # the last token is not stored


def test_a_request_that_needs_the_whole_pool_starts() -> None:
    """Also where a block would be kept for the few tokens that it shares with an earlier text."""
    prompts = [story(5), story(128), [*story(70), 1, 2, 3, *story(55)]]
    engine = pooled(Toy(512), slots=2, blocks=2)
    for prompt in prompts:
        one = request(prompt, max_new_tokens=1)
        assert run(engine, [one], max_steps=9) == [expected(prompt, one.group.params, RULE)]
    check_nothing_is_left(engine)


def test_two_that_begin_alike_finish_one_after_the_other_where_one_fits() -> None:
    """The second comes back to the block that both began in, of which it wants some tokens."""
    engine = pooled(Toy(512), slots=2, blocks=2, chunk=7)
    requests = [request(story(40), max_new_tokens=66) for _ in range(2)]
    for one in requests:
        engine.submit(one)
    engine.step()
    engine.forget()  # so that each of them has blocks of its own
    assert run(engine, []) == []
    whole = expected(story(40), requests[0].group.params, RULE)
    assert [outcome(one.group) for one in requests] == [whole, whole]
    assert engine.snapshot().counters.parked == 1


def test_a_request_that_was_refused_is_asked_again_once_others_need_less() -> None:
    """Although as many blocks are to be had as before: then they were promised."""
    engine = pooled(Toy(512), slots=3, blocks=3)
    first = request(story(65), max_new_tokens=1)
    second = request(story(65, 1), max_new_tokens=1)
    assert run(engine, [first, second], max_steps=9) == [
        expected(one, first.group.params, RULE) for one in (story(65), story(65, 1))
    ]


def test_a_request_does_not_stand_in_its_own_way() -> None:
    """By keeping the block of another that began alike at the same time, beside its own."""
    engine = pooled(Toy(512), slots=2, blocks=2)
    requests = [request(story(5), max_new_tokens=n) for n in (30, 66)]
    found = run(engine, requests)
    assert found == [expected(story(5), one.group.params, RULE) for one in requests]
    assert engine.snapshot().counters.parked == 0


PARKED = {
    "greedy": {"max_new_tokens": 100},
    "samples": {"max_new_tokens": 60, "do_sample": True, "num_return_sequences": 2, "seed": 3},
    "beams": {"max_new_tokens": 40, "num_beams": 2},
}


@pytest.mark.parametrize("kind", PARKED)
def test_who_makes_room_goes_on_later_with_the_same_bits(kind: str) -> None:
    model, options = Toy(512), PARKED[kind]
    prompts = [story(60 + 20 * i, i) for i in range(4)]
    engine = pooled(model, slots=8, blocks=8, chunk=32)
    requests = [request(prompt, **options) for prompt in prompts]
    found = run(engine, requests)
    alone = [run(pooled(Toy(512), slots=2, blocks=100), [request(p, **options)]) for p in prompts]
    assert found == [one for [one] in alone]
    counters = engine.snapshot().counters
    assert counters.parked > 0
    assert counters.evicted_blocks > 0
    parked = [one.group.results[0].completion().num_parked for one in requests]
    assert sum(parked) == counters.parked
    check_nothing_is_left(engine)


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, list[int], str, dict[str, Any], int | None]]:
    """(step it comes at, prompt, salt, options, steps after which it is cancelled)."""
    found = []
    for _ in range(draw(st.integers(1, 7))):
        stem = story(draw(st.sampled_from([3, 64, 130])), draw(st.integers(0, 1)))
        prompt = stem + draw(st.lists(st.integers(0, VOCAB - 1), max_size=70))
        options: dict[str, Any] = {"max_new_tokens": draw(st.integers(1, 30))}
        kind = draw(st.sampled_from(["greedy", "samples", "beams"]))
        if kind == "samples":
            options |= {"do_sample": True, "num_return_sequences": 2}
        elif kind == "beams":
            options["num_beams"] = 2
        salt = draw(st.sampled_from(["", "", "b"]))
        gone = draw(st.none() | st.integers(0, 20))
        found.append((draw(st.integers(0, 20)), prompt, salt, options, gone))
    return found


@settings(max_examples=examples(10, 20))
@given(
    mix=arrivals(), blocks=st.integers(11, 24), slots=st.integers(2, 5), chunk=st.integers(8, 99)
)
def test_any_coming_and_going_in_a_small_pool(
    mix: list[tuple[int, list[int], str, dict[str, Any], int | None]],
    blocks: int,
    slots: int,
    chunk: int,
) -> None:
    engine = pooled(Toy(512), slots=slots, blocks=blocks, chunk=chunk)
    pending = [(at, request(p, salt, **o), gone) for at, p, salt, o, gone in mix]
    everyone, finished = [one for _, one, _ in pending], list[Request]()
    for step in range(3000):
        for at, one, gone in pending:
            if at == step:
                engine.submit(one)
            if gone is not None and at + gone == step:
                engine.cancel(one)
        events = engine.step()
        finished += [event.request for event in events if event.continuation is None]
        check_blocks(engine)
        if step > 41 and not engine.has_work:
            break
    assert sorted(map(id, finished)) == sorted(map(id, everyone))  # each once
    for (_, prompt, _, options, gone), one in zip(mix, everyone, strict=True):
        [alone] = run(pooled(Toy(512), slots=2, blocks=60), [request(prompt, **options)])
        for (tokens, reason), (whole, end) in zip(outcome(one.group), alone, strict=True):
            if gone is None or reason != "interrupted":
                assert (tokens, reason) == (whole, end)
            elif "num_beams" not in options:
                assert whole[: len(tokens)] == tokens
    check_nothing_is_left(engine)


@pytest.mark.parametrize("at", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("error", [RuntimeError("boom"), MemoryError("none left")], ids=repr)
def test_a_pass_that_fails_ends_those_in_it(error: Exception, at: int) -> None:
    """All of them, or where memory is short the least deserving; whoever comes later goes on."""
    model, prompts = Toy(512), [story(70 + i, i) for i in range(3)]
    model.fail_at[at] = error
    engine = pooled(model, slots=2, blocks=20, chunk=100)
    requests = [request(prompt, max_new_tokens=8) for prompt in prompts]
    found = run(engine, requests)
    failed = [i for i, [(_, reason)] in enumerate(found) if reason == "error"]
    assert len(failed) == (1 if isinstance(error, MemoryError) else len(failed)) > 0
    assert 2 not in failed or at > 6
    for i, ([(tokens, _)], prompt) in enumerate(zip(found, prompts, strict=True)):
        [(whole, reason)] = expected(prompt, requests[i].group.params, RULE)
        if i in failed:
            assert whole[: len(tokens)] == tokens
            assert requests[i].group.results[0].error is error
        else:
            assert found[i] == [(whole, reason)]
    check_nothing_is_left(engine)


def test_a_deadline() -> None:
    engine = pooled(Toy(512), slots=2, blocks=20)
    late, early = request(story(9), max_new_tokens=5), request(story(9), max_new_tokens=5)
    late.deadline = 0.0  # of the system's start
    assert [reason for [(_, reason)] in run(engine, [late, early])] == ["error", "length"]
    assert "deadline" in str(late.group.results[0].error)


def test_events_say_who_has_a_token_and_who_is_done() -> None:
    engine = pooled(Toy(512), slots=4, blocks=40)
    one = request(story(5), max_new_tokens=3, do_sample=True, num_return_sequences=2)
    search = request(story(5), max_new_tokens=3, num_beams=2)
    for each in (one, search):
        engine.submit(each)
    events: list[Event] = []
    while engine.has_work:
        events += engine.step()
    texts = [event.continuation for event in events if event.request is one]
    assert texts == [*one.group.results * 3, None]
    assert [event.continuation for event in events if event.request is search] == [None]


def test_a_request_that_is_ended_within_a_step_ends_with_the_next() -> None:
    """As a stream that nobody has any more, where garbage is collected in a step."""
    engine = pooled(Toy(512), slots=2, blocks=20)
    one, other = request(story(9), max_new_tokens=6), request(story(9, 1), max_new_tokens=60)
    one.on_event = lambda event: engine.end([other])
    found = run(engine, [one, other])
    assert found[0] == expected(story(9), one.group.params, RULE)
    [(tokens, reason)] = found[1]
    assert reason == "interrupted"
    assert 1 <= len(tokens) <= 2
    check_nothing_is_left(engine)


def test_a_request_whose_room_somebody_else_holds_is_not_waited_for() -> None:
    engine = pooled(Toy(512), slots=2, blocks=4)
    run(engine, [request(story(99), max_new_tokens=2)])  # whose blocks can be had
    assert engine.cache is not None
    assert engine.cache.pools
    outside = engine.cache.pools[0].take(2)
    one = request(story(190, 1), max_new_tokens=9)
    assert [reason for _, reason in run(engine, [one])[0]] == ["error"]
    assert "no room" in str(one.group.results[0].error)
    del outside
    one = request(story(190, 1), max_new_tokens=9)
    assert run(engine, [one]) == [expected(story(190, 1), one.group.params, RULE)]


def test_a_text_to_be_retained_outlasts_later_ones_for_a_while() -> None:
    def cached(retain: float) -> tuple[int, int]:
        model = Toy(512)
        engine = pooled(model, slots=1, blocks=12)
        first, later = story(256), [story(256, seed) for seed in (1, 2, 3)]
        run(engine, [Request(make_group(first, resolved(max_new_tokens=1), RULE), retain=retain)])
        for prompt in later:  # each as large: they push out whatever was used least recently
            run(engine, [request(prompt, max_new_tokens=1)])
        again = [request(prompt, max_new_tokens=1) for prompt in (first, later[-1])]
        for one in again:
            run(engine, [one])
        found = [one.group.results[0].completion().cached_tokens for one in again]
        check_nothing_is_left(engine)
        return found[0], found[1]

    assert cached(0.0)[0] == 0
    assert cached(3600.0)[0] == 255
    assert cached(1e-9)[0] == 0, "a wish that has ended still counts"


def test_a_wish_to_retain_keeps_nobody_out() -> None:
    engine = pooled(Toy(512), slots=1, blocks=12)
    for seed in range(6):
        group = make_group(story(400, seed), resolved(max_new_tokens=5), RULE)
        [found] = run(engine, [Request(group, retain=3600.0)])
        assert found == expected(story(400, seed), group.params, RULE)
    check_nothing_is_left(engine)


@pytest.mark.parametrize("retain", [-1.0, 3601.0, float("nan")])
def test_a_wish_out_of_bounds_is_refused(retain: float) -> None:
    with pytest.raises(OptionError, match="out of 0 to 3,600 seconds"):
        Request(make_group([1], resolved(), RULE), retain=retain)
