"""Figures of requests that were made up: each follows from the times, and the floor from counts."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from png_file import png_size
from rich.console import Console

from kept.bench.serve_figures import ServeFigures, parse_bound, serve_figures
from kept.bench.serve_floor import job_of, shared_tokens
from kept.bench.serve_plot import save_timeline
from kept.bench.serve_record import (
    Bound,
    Given,
    Load,
    Moment,
    PassTime,
    Record,
    Served,
    ServeResult,
    ServeSettings,
)
from kept.bench.serve_report import serve_json, serve_report
from kept.bench.serve_work import Arrival, Text
from kept.bench.subject import Subject
from kept.errors import OptionError
from kept.machine import Rate

BOUNDS = (Bound("ttft", 1.0), Bound("gap", 0.4))


def served(
    tokens: list[int], drawn: list[float], due: float = 0.0, tenant: str = "", **changes: object
) -> Served:
    """A request of the first tokens, which drew the rest at these times."""
    num_prompt = len(tokens) - len(drawn)
    found = Served(
        Arrival(due, (Text(0, num_prompt),), len(drawn), tenant=tenant), due, due, tokens, drawn
    )
    found.ended = drawn[-1] if drawn else due
    for name, value in changes.items():
        setattr(found, name, value)
    return found


@pytest.fixture
def result(tiny: Subject) -> ServeResult:
    """Two requests that were answered, one that was refused and one that goes on."""
    one = served(
        [1, 2, 3, 4, 5, 6], [0.5, 0.7, 1.0], tenant="a", given=Given(0.25, {"tree": 2}, "new", 5)
    )
    other = served(
        [1, 2, 3, 9, 8, 7, 6], [1.5, 1.75], due=1.0, tenant="b",
        given=Given(0.125, {"running": 1}, None, 6, 2),
    )  # fmt: skip
    other.sent = 1.0625
    refused = served([4, 4], [], due=0.25, tenant="b", error="too long")
    going_on = served([3, 3, 3, 3], [2.25], due=1.0, tenant="a", ended=None)
    record = Record(
        dict(enumerate([one, other, refused, going_on])),
        [PassTime(0.0, 1.5, 1.2), PassTime(1.5, 0.5, 0.4)],
        [Moment(0.5, Load(2, 1, 7, 0), 1 << 30), Moment(2.0, Load(1, 0, 3, 5), 3 << 30)],
        num_blocks=9,
        seconds=2.5,
    )
    settings = ServeSettings("a mix", 2, bounds=BOUNDS)
    found = ServeResult(tiny, settings, 1, capacity=3.5, record=record)
    found.limits.bandwidths = [Rate("a probe", 1, 1e6, 1e6)]
    found.limits.peaks = [Rate("units", 1, 1e12, 1e12)]
    return found


def test_figures_follow_from_the_times(result: ServeResult) -> None:
    figures = serve_figures(result)
    total = figures.total
    assert (total.num_requests, total.num_done, total.num_failed) == (4, 2, 1)
    assert (total.prompt_tokens, total.drawn_tokens) == (3 + 5 + 3, 3 + 2 + 1)
    assert total.cached == {"tree": 2, "running": 1}
    assert (total.cached_tokens, total.computed_tokens, total.parked) == (3, 11, 2)
    assert total.misses == {"new": 1}
    assert total.ttft is not None
    assert (total.ttft.count, total.ttft.p50, total.ttft.max) == (3, 0.5, 1.25)
    assert total.gap is not None
    assert total.gap.count == 3
    assert total.gap.max == pytest.approx(0.3)
    assert total.tpot is not None
    assert total.tpot.p50 == pytest.approx(0.25)
    assert total.tpot.count == 2
    assert total.e2e is not None
    assert (total.e2e.p50, total.e2e.max) == (pytest.approx(0.875), 1.0)
    assert total.queue is not None
    assert total.queue.max == 0.25
    assert total.queue.p50 == pytest.approx((0.25 + 0.0625 + 0.125) / 2)
    assert total.well_served == 2
    assert figures.requests_per_second == pytest.approx(2 / 2.5)
    assert figures.drawn_per_second == pytest.approx(6 / 2.5)
    assert figures.tokens_per_second == pytest.approx(17 / 2.5)
    assert (figures.busy, figures.num_passes) == (2.0, 2)
    assert figures.outside_share == pytest.approx(0.2)
    assert (figures.peak_blocks, figures.peak_resident) == (7, 3 << 30)
    a, b = figures.tenants
    assert (a.tenant, a.num_requests, a.drawn_tokens) == ("a", 2, 4)
    assert (b.tenant, b.num_failed, b.parked) == ("b", 1, 2)


@pytest.mark.parametrize(("bound", "count"), [("ttft:0.5", 2), ("gap:0.25", 1), ("e2e:0.9", 1)])
def test_a_request_is_well_served_within_its_bounds(
    result: ServeResult, bound: str, count: int
) -> None:
    result.settings = ServeSettings("a mix", 2, bounds=(parse_bound(bound),))
    assert serve_figures(result).total.well_served == count


@pytest.mark.parametrize("text", ["ttft", "speed:1", "gap:0", "gap:-1", "gap:1s"])
def test_bounds_that_say_nothing(text: str) -> None:
    with pytest.raises(OptionError, match=r"goodput=.*: give one of ttft, tpot, gap, e2e, queue"):
        parse_bound(text)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=7))
def test_shared_beginnings_are_those_of_the_prefix_tree(texts: list[list[int]]) -> None:
    found = shared_tokens(texts)
    nodes = {tuple(text[:n]) for text in texts for n in range(1, len(text) + 1)}
    assert sum(len(text) - before for text, (before, _) in zip(texts, found, strict=True)) == len(
        nodes
    )
    for index, (text, (before, either)) in enumerate(zip(texts, found, strict=True)):
        others = {
            tuple(o[:n]) for i, o in enumerate(texts) if i != index for n in range(len(o) + 1)
        }
        assert either == max(n for n in range(len(text) + 1) if n == 0 or tuple(text[:n]) in others)
        assert before <= either


def test_the_floor_counts_every_beginning_once(tiny: Subject) -> None:
    costs = tiny.costs
    one = served([1, 2, 3, 4, 50, 51, 52], [1.0, 2.0, 3.0])
    other = served([1, 2, 3, 9, 60], [1.0])
    job = job_of({0: one, 1: other, 2: served([5, 5], [])}, costs, max_batch_size=2)
    # The last token of either is drawn and never read; the other's first three are the one's.
    whole = costs.operations(0, 6, num_logits=3) + costs.operations(3, 4, num_logits=1)
    assert job.operations == whole
    assert job.distinct_tokens == 6 + 1
    assert job.num_passes == 3
    # The second and third token attend five and six, and three of those may be read with another's.
    keys = sum(costs.kv_bytes(n) - costs.kv_bytes(3) + costs.kv_bytes(3) // 2 for n in (5, 6))
    assert job.num_bytes == keys + 3 * costs.weight_bytes


def test_equal_prompts_draw_for_themselves(tiny: Subject) -> None:
    costs = tiny.costs
    equal = {i: served([1, 2, 3, 4, 5], [1.0, 2.0]) for i in range(2)}
    job = job_of(equal, costs, max_batch_size=4)
    again = costs.operations(2, 4, num_logits=2)  # the last token of the prompt, and one it drew
    assert job.operations == costs.operations(0, 4, num_logits=2) + again


def test_requests_one_after_the_other_share_no_pass(tiny: Subject) -> None:
    some = {i: served([i, i, 7, 8], [1.0, 2.0, 3.0]) for i in range(4)}
    assert job_of(some, tiny.costs, max_batch_size=4).num_passes == 3
    for index in (1, 3):
        some[index].arrival = replace(some[index].arrival, after=index - 1)
    assert job_of(some, tiny.costs, max_batch_size=4).num_passes == 6
    assert job_of(some, tiny.costs, max_batch_size=1).num_passes == 12


def test_the_floor_is_the_slower_of_reading_and_arithmetic(result: ServeResult) -> None:
    figures = serve_figures(result)
    assert figures.floor == pytest.approx(figures.job.num_bytes / 1e6)
    assert figures.share == pytest.approx(figures.floor / 2.0)
    result.limits.peaks = [Rate("units", 1, 1e3, 1e3)]
    assert serve_figures(result).floor == pytest.approx(figures.job.operations / 1e3)
    result.limits.bandwidths = []
    assert serve_figures(result).floor is None


def text_of(result: ServeResult, figures: ServeFigures) -> str:
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(serve_report(result, figures))
    console.file.close()
    return console.export_text()


def test_the_report_says_all_of_it(result: ServeResult) -> None:
    text = text_of(result, serve_figures(result))
    for words in (
        "a mix; 2 at a time at most",
        "first token",
        "until admitted",
        "Each tenant",
        "2 of 4 requests in 2.50 s: 0.80 requests/s, 2.4 tokens/s drawn",
        "Capacity, measured before: 3.50 requests/s.",
        "Well served (ttft 1 s, gap 0.4 s at most): 2 of 4 requests, 0.80 a second.",
        "3 of 11 prompt tokens were cached (27 %; running 1, tree 2), and 11 tokens computed.",
        "Parked for want of room: 2 times.",
        "At most 7 of 9 blocks in use; 3.0 GiB of memory in all.",
        "Failed: 1 requests; the first: too long",
        "Outside the kernels: 20.0 % of the steps' time.",
    ):
        assert words in text
    assert "Interrupted" not in text
    result.interrupted = True
    assert "Interrupted: this is what was measured so far." in text_of(
        result, serve_figures(result)
    )


def test_the_record_is_whole(result: ServeResult) -> None:
    found = serve_json(result, serve_figures(result))
    assert found["benchmark"] == "serve"
    assert found["figures"]["requests_per_second"] == pytest.approx(0.8)
    assert found["figures"]["total"]["ttft"]["max"] == 1.25
    assert [request["tenant"] for request in found["requests"]] == ["a", "b", "b", "a"]
    assert found["requests"][1]["token_times"] == [1.5, 1.75]
    assert found["requests"][1]["num_parked"] == 2
    assert found["moments"][1]["findable_blocks"] == 5
    bounds = [(bound["figure"], bound["seconds"]) for bound in found["settings"]["bounds"]]
    assert bounds == [("ttft", 1.0), ("gap", 0.4)]


@pytest.mark.parametrize("num_blocks", [0, 9, 1000])
def test_the_picture(result: ServeResult, tmp_path: Path, num_blocks: int) -> None:
    generator = random.Random(0)
    result.record.num_blocks = num_blocks
    for index in range(4, 12):
        times = sorted(generator.uniform(0.1, 2.4) for _ in range(9))
        result.record.served[index] = served(list(range(20)), times)
    save_timeline(result, serve_figures(result), tmp_path / "a.png")
    assert png_size(tmp_path / "a.png") == (1650, 1200)
