"""What arrives: lengths meet their statistics, times their rate, prompts share what they should."""

import random
from collections.abc import Callable
from itertools import pairwise
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.bench.serve_arrivals import Arrivals, Rate, parse_arrivals, parse_rate
from kept.bench.serve_floor import shared_tokens
from kept.bench.serve_lengths import PUBLISHED, Between, Lengths, Quantiles, fit, parse_lengths
from kept.bench.serve_scenarios import SCENARIOS, find_scenario
from kept.bench.serve_work import (
    Answer,
    Arrival,
    Text,
    Texts,
    Traffic,
    beginning,
    parse_share,
    sharing,
)
from kept.bench.speed_figures import percentile
from kept.errors import ContextLengthError, OptionError

CONTEXT = 16_384


def draws(lengths: Lengths, count: int) -> list[int]:
    generator = random.Random(7)
    return [lengths.draw(generator) for _ in range(count)]


@pytest.mark.parametrize("found", [side for each in PUBLISHED.values() for side in each.values()])
def test_published_lengths_meet_their_quantiles(found: Quantiles) -> None:
    some = draws(found, 40_000)
    for share, wanted in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
        assert percentile(some, share) == pytest.approx(wanted, rel=0.06)
    assert min(some) >= 1
    assert max(some) <= found.longest


@given(
    names=st.tuples(*2 * [st.sampled_from([*PUBLISHED, "7", "80-240"])]),
    context=st.integers(400, 20_000),
)
def test_published_lengths_are_scaled_to_the_context(names: tuple[str, str], context: int) -> None:
    before = parse_lengths(names[0], "prompt", "x"), parse_lengths(names[1], "output", "x")
    prompt, output = fit(*before, context)
    tops = [max(draws(side, 50)) for side in (prompt, output)]
    for side, was in zip((prompt, output), before, strict=True):
        assert not was.given or side == was
    if not all(side.given for side in before):
        # The last token is drawn and never read; no length is below one.
        assert sum(tops) <= max(context + 1, 2)
    if sum(side.longest for side in before) <= context:
        assert (prompt, output) == before


def test_ranges_reach_both_ends() -> None:
    assert set(draws(Between(3, 5), 100)) == {3, 4, 5}
    assert parse_lengths("12", "prompt", "prompt") == Between(12, 12)
    assert Between(10, 30).scaled(0.5) == Between(5, 15)


@pytest.mark.parametrize(
    ("text", "variation"), [("poisson", 1.0), ("gamma:2.5", 2.5), ("gamma:0.5", 0.5)]
)
def test_random_arrivals_keep_their_rate_and_variation(text: str, variation: float) -> None:
    arrivals = parse_arrivals(text)
    times = arrivals.times(20_000, 4.0, random.Random(3))
    gaps = [b - a for a, b in pairwise([0.0, *times])]
    assert min(gaps) >= 0
    assert mean(gaps) == pytest.approx(0.25, rel=0.05)
    assert stdev(gaps) / mean(gaps) == pytest.approx(variation, rel=0.05)


def test_clients_send_one_request_after_the_other() -> None:
    arrivals = parse_arrivals("closed:3")
    assert [arrivals.before(i) for i in range(7)] == [None, None, None, 0, 1, 2, 3]
    assert arrivals.times(2, None, random.Random(0)) == [0.0, 0.0]
    assert parse_arrivals("burst").before(5) is None


@pytest.mark.parametrize("share", [0.0, 0.37, 0.64, 0.9])
def test_prompts_share_the_part_of_their_tokens_that_was_asked_for(share: float) -> None:
    lengths = draws(PUBLISHED["azure-conversation"]["prompt"], 300)
    prompts = sharing(lengths, share, random.Random(1))
    assert [sum(part.length for part in prompt) for prompt in prompts] == lengths
    plan = [Arrival(0.0, prompt, 1) for prompt in prompts]
    texts = Texts(plan, 50_000, seed=0)
    tokens = [texts.prompt(arrival, {}) for arrival in plan]
    seen = sum(before for before, _ in shared_tokens(tokens))
    assert seen / sum(lengths) == pytest.approx(share, abs=0.03)


def test_a_beginning_cuts_the_part_it_ends_in() -> None:
    prompt = (Text(1, 5), Answer(0, 4), Text(2, 3))
    assert beginning(prompt, 5) == (Text(1, 5),)
    assert beginning(prompt, 7) == (Text(1, 5), Answer(0, 2))
    assert beginning(prompt, 99) == prompt


def test_texts_are_what_their_seed_and_key_say() -> None:
    plan = [Arrival(0.0, (Text(1, 4), Text(2, 3)), 1), Arrival(0.0, (Text(1, 9),), 1)]
    texts = Texts(plan, 1000, seed=5)
    first, second = (texts.prompt(arrival, {}) for arrival in plan)
    assert first[:4] == second[:4]
    assert len(first) == 7
    assert len(second) == 9
    assert Texts(plan[:1], 1000, seed=5).prompt(plan[0], {}) == first
    assert Texts(plan, 1000, seed=6).prompt(plan[0], {}) != first
    going_on = Arrival(0.0, (Text(2, 1), Answer(0, 2)), 1)
    assert texts.prompt(going_on, {0: [8, 9, 10]}) == [first[4], 8, 9]


def traffic(**changes: object) -> Traffic:
    settings = {
        "arrivals": Arrivals("poisson"),
        "rate": Rate(0.5, of_capacity=True),
        "prompt": Between(80, 240),
        "output": Between(32, 96),
        "num_requests": 50,
    }
    return Traffic(**{**settings, **changes})  # type: ignore[arg-type]


def test_a_share_of_the_capacity_is_tried_with_the_same_requests_at_once() -> None:
    work = traffic(shared=0.3)
    trial, plan = work.trial(3, CONTEXT), work.plan(3, CONTEXT, 8.0)
    assert trial is not None
    assert [(a.prompt, a.new_tokens) for a in trial] == [(a.prompt, a.new_tokens) for a in plan]
    assert all(arrival.at == 0 for arrival in trial)
    assert plan[-1].at == pytest.approx(50 / 4, rel=0.5)
    # Twice as fast, and nothing else is different.
    faster = work.plan(3, CONTEXT, 16.0)
    assert [a.at for a in faster] == pytest.approx([a.at / 2 for a in plan])
    assert traffic(rate=Rate(2.0)).trial(3, CONTEXT) is None


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_a_plan_that_can_be_served(name: str) -> None:
    work = find_scenario(name)
    plan = work.plan(0, CONTEXT, 2.0)
    assert plan == work.plan(0, CONTEXT, 2.0)
    for index, arrival in enumerate(plan):
        assert arrival.at >= 0
        assert arrival.prompt_tokens + arrival.new_tokens <= CONTEXT
        assert arrival.after is None or 0 <= arrival.after < index
        behind: set[int] = set()  # those that are answered when this one is sent
        before = arrival.after
        while before is not None:
            behind.add(before)
            before = plan[before].after
        for part in arrival.prompt:
            if isinstance(part, Answer):
                assert part.of in behind
                assert part.length == plan[part.of].new_tokens


def test_chats_go_on_from_what_was_said() -> None:
    plan = find_scenario("chats").plan(0, CONTEXT, None)
    assert len(plan) == 8 + 64 + 4
    for turn in range(1, 8):
        assert plan[turn].prompt[: 2 * turn - 1] == plan[turn - 1].prompt
    edited, before = plan[72].prompt, plan[8 + 8 * 4].prompt
    assert edited[:-1] == before[:-1]
    assert edited[-1] != before[-1]


def test_a_scenario_needs_its_context() -> None:
    with pytest.raises(ContextLengthError, match="model's context of 2048"):
        find_scenario("common-prefix").plan(0, 2048, None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: parse_lengths("many", "prompt", "prompt"), "prompt='many' is no length"),
        (
            lambda: parse_lengths("9-3", "output", "output"),
            "output='9-3': .* the shorter to",
        ),
        (lambda: parse_lengths("0", "prompt", "prompt"), "at least 1"),
        (lambda: parse_arrivals("closed"), "arrivals='closed': give burst, closed:CLIENTS"),
        (lambda: parse_arrivals("gamma:0"), "arrivals='gamma:0'"),
        (lambda: parse_rate("fast"), "rate='fast': give requests a second above 0"),
        (lambda: parse_rate("0%"), "rate='0%'"),
        (lambda: parse_share("37"), "shared='37': give a percentage up to 90%"),
        (lambda: traffic(shared=0.95), "shared=0.95: give a share from 0 to 90%"),
        (lambda: traffic(rate=None), "arrivals='poisson' need a rate"),
        (lambda: traffic(arrivals=Arrivals("burst")), "arrivals='burst' have no rate"),
        (lambda: traffic(num_requests=0), "requests=0"),
        (lambda: find_scenario("nightly"), "no scenario is called 'nightly'; there are mixed, "),
    ],
)
def test_what_is_wrong_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make()
