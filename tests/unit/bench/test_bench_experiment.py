"""The experiment end to end on a tiny model: what is recorded, and what the figures come from."""

import io
from statistics import mean, median, stdev
from typing import Any

import pytest
import torch
from rich.console import Console

from kept.bench.estimate import Estimate, StepCost, estimate
from kept.bench.experiment import Result, Settings, run_experiment, torch_threads
from kept.bench.progress import BenchProgress
from kept.bench.subject import Subject
from kept.bench.summary import smooth, summarise
from kept.bench.trace import Trace, random_prompt, time_generation
from kept.errors import ContextLengthError, OptionError
from kept.machine import Rate


class Silent:
    """A watcher that counts, and presses Ctrl-C at a token if asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.tokens, self.expected = 0, 0.0
        self.runs: list[tuple[bool, int]] = []
        self._stop_at = stop_at

    def estimated(self, found: object, settings: Settings) -> None:
        self.settings = settings

    def token_drawn(self, trace: Trace, seconds_expected: float) -> None:
        self.tokens += 1
        self.expected += seconds_expected
        if self.tokens == self._stop_at:
            raise KeyboardInterrupt

    def run_done(self, trace: Trace, index: int) -> None:
        self.runs.append((trace.use_cache, index))


@pytest.mark.usefixtures("bandwidth")
def test_runs_are_interleaved_and_complete(tiny: Subject) -> None:
    watcher = Silent()
    result = run_experiment(tiny, Settings(new_tokens=7, prompt_tokens=3, runs=2), watcher)
    assert watcher.runs == [(True, 0), (False, 0), (True, 1), (False, 1)]
    assert watcher.tokens == 4 * 7
    assert watcher.expected > 0
    assert not result.interrupted
    assert result.num_threads == torch.get_num_threads()
    assert len(result.limits.bandwidths) == 2
    for trace in result.traces:
        assert trace.complete
        assert len(trace.token_ids) == len(trace.cache_bytes) == 7
        assert min(trace.step_seconds) > 0


@pytest.mark.usefixtures("bandwidth")
def test_only_the_cached_kind(tiny: Subject) -> None:
    result = run_experiment(tiny, Settings(5, 2, 2, without_cache=False), Silent())
    assert [t.use_cache for t in result.traces] == [True, True]
    summary = summarise(result)
    assert summary.without_cache is None
    assert summary.ratio is None
    assert summary.agreeing is None
    assert summary.steps_without == ()


@pytest.mark.usefixtures("bandwidth")
def test_cached_and_uncached_draw_the_same_tokens(tiny: Subject) -> None:
    result = run_experiment(tiny, Settings(40, 5, 1), Silent())
    assert result.traces[0].token_ids == result.traces[1].token_ids
    assert summarise(result).agreeing == 40


def test_trace_measures_cache_bytes_and_merges_prompt_chunks(tiny: Subject) -> None:
    prompt = random_prompt(61, 20, seed=1)
    trace = Trace(True, 20, 6)
    calls: list[int] = []
    time_generation(
        tiny.model, prompt, trace, lambda: calls.append(len(trace.step_seconds)), prefill_chunk=8
    )
    assert calls == [1, 2, 3, 4, 5, 6]  # three chunks of prompt are one token's time
    assert trace.complete
    # 64 tokens are allocated at first; 2 layers x keys and values x 2 heads of 4 floats.
    assert trace.cache_bytes == [64 * 2 * 2 * 2 * 4 * 4] * 6
    uncached = Trace(False, 20, 6)
    time_generation(tiny.model, prompt, uncached)
    assert uncached.cache_bytes == [0] * 6
    assert uncached.token_ids == trace.token_ids


def test_bytes_a_step_reads(tiny: Subject) -> None:
    # The tied table is the head, so it is read whole.
    assert tiny.step_weight_bytes == tiny.weight_bytes == 4 * tiny.num_parameters
    assert tiny.kv_bytes(10) == 10 * 2 * 2 * 2 * 4 * 4


def test_operations_of_a_pass(tiny: Subject) -> None:
    # Two layers: q 16x16, k and v 8x16, o 16x16, and three of 16x24; the head for one token.
    matrices = 2 * (16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 16 * 24)
    pairs = 1 + 2 + 3 + 4 + 5
    attended = 2 * 2 * 4 * 4 * pairs  # layers, two products, heads, head size
    assert tiny.pass_operations(5) == 2 * (5 * matrices + 61 * 16 + attended)


def made_result(tiny: Subject, with_steps: list[list[float]], without: list[list[float]]) -> Result:
    result = Result(tiny, Settings(new_tokens=3, prompt_tokens=2, runs=len(with_steps)))
    for use_cache, kind in ((True, with_steps), (False, without)):
        for steps in kind:
            trace = Trace(use_cache, 2, 3, steps, [1, 2, 3][: len(steps)], [64, 64, 128])
            result.traces.append(trace)
    return result


def test_figures_come_from_the_raw_times(tiny: Subject) -> None:
    raw_with = [[0.5, 0.1, 0.2], [0.7, 0.3, 0.2], [0.6, 0.1, 0.5]]
    raw_without = [[1.0, 2.0, 3.0], [2.0, 2.0, 5.0]]
    result = made_result(tiny, raw_with, raw_without)
    result.limits.bandwidths = [Rate("a", 1, 1e6, 1e6), Rate("a", 1, 2e6, 1e6)]
    result.passes, result.limits.peaks = ((2, 0.5), (4, 0.5)), [Rate("b", 1, 1e7, 1e6)]
    summary = summarise(result)
    totals = [sum(steps) for steps in raw_with]
    assert summary.with_cache is not None
    assert summary.with_cache.runs == 3
    assert summary.with_cache.mean == pytest.approx(mean(totals))
    assert summary.with_cache.std == pytest.approx(stdev(totals))
    assert summary.with_cache.median == pytest.approx(median(totals))
    assert summary.with_cache.tokens_per_second == pytest.approx(3 / mean(totals))
    assert summary.ratio == pytest.approx(7.5 / mean(totals))
    assert summary.lengths == (2, 3, 4)
    assert summary.steps_with == (0.6, 0.1, 0.2)
    assert summary.steps_without == (1.5, 2.0, 4.0)
    assert summary.cache_bytes == (64, 64, 128)
    # The floor is of the two decode steps, at the better of the two bandwidths.
    assert summary.floor is not None
    weights, keys = 2 * tiny.step_weight_bytes, tiny.kv_bytes(3) + tiny.kv_bytes(4)
    assert summary.floor.seconds == pytest.approx((weights + keys) / 2e6)
    assert summary.floor.share == pytest.approx((weights + keys) / 2e6 / 0.3)
    assert summary.floor.weight_share == pytest.approx(weights / 2e6 / 0.3)
    # The better of the two passes.
    assert summary.prefill is not None
    assert summary.prefill.tokens == 4
    assert summary.prefill.share == pytest.approx(tiny.pass_operations(4) / 0.5 / 1e7)


def test_one_run_has_no_deviation_and_a_partial_one_no_total(tiny: Subject) -> None:
    summary = summarise(made_result(tiny, [[0.5, 0.1, 0.2]], [[1.0, 2.0]]))
    assert summary.with_cache is not None
    assert summary.with_cache.std is None
    assert summary.without_cache is None
    assert summary.ratio is None
    assert summary.steps_without == (1.0, 2.0)
    assert summary.agreeing == 2
    assert summary.floor is None  # no bandwidth was measured


@pytest.mark.usefixtures("bandwidth")
def test_ctrl_c_keeps_what_was_measured(tiny: Subject) -> None:
    result = run_experiment(tiny, Settings(10, 4, 3), Silent(stop_at=13))
    assert result.interrupted
    assert [len(t.step_seconds) for t in result.traces] == [10, 3]
    summary = summarise(result)
    assert summary.with_cache is not None
    assert summary.with_cache.runs == 1
    assert summary.without_cache is None
    assert len(summary.steps_without) == 3


def test_estimate_weighs_later_uncached_steps_more() -> None:
    cost = StepCost(((0, 1.0), (10, 2.0), (20, 5.0)))
    assert [cost.at(n) for n in (0, 10, 20)] == pytest.approx([1, 2, 5])
    assert cost.at(30) == pytest.approx(10)
    assert StepCost(((0, 4.0), (10, 1.0))).at(20) == 0.5  # never nothing, never negative
    assert StepCost(((7, 4.0),)).at(100) == 4.0


def test_time_left_follows_the_pace_of_each_kind() -> None:
    progress = BenchProgress(Console(file=io.StringIO()))
    flat, steep = StepCost(((2, 1.0),)), StepCost(((2, 2.0), (12, 12.0)))
    progress.estimated(Estimate(2, 10, flat, steep), Settings(10, 2, 1))
    # With: the prompt's 2 and nine times 1. Without: 2 + 3 + ... + 11.
    assert progress.seconds_left() == pytest.approx(11 + 65)
    trace = Trace(True, 2, 10, [4.0])
    progress.token_drawn(trace, 2.0)
    assert progress.seconds_left() == pytest.approx(9 * 2 + 65)  # twice as slow as expected
    trace.step_seconds.append(0.5)
    progress.token_drawn(trace, 1.0)
    assert progress.seconds_left() == pytest.approx(8 * 4.5 / 3 + 65)


@pytest.mark.parametrize(("prompt", "new"), [(1, 1), (4, 93), (96, 1), (90, 7)])
def test_estimate_of_any_length_that_fits(tiny: Subject, prompt: int, new: int) -> None:
    found = estimate(tiny.model, prompt, new, seed=0)
    assert found.run_seconds(True) > 0
    assert found.run_seconds(False) > 0


@pytest.mark.parametrize(
    "change", [{"new_tokens": 0}, {"prompt_tokens": 0}, {"runs": 0}, {"threads": 0}, {"seed": -1}]
)
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    [name] = change
    with pytest.raises(OptionError, match=f"{name}={change[name]}"):
        Settings(**change)


def test_more_tokens_than_the_context(tiny: Subject) -> None:
    Settings(new_tokens=93, prompt_tokens=4).check(96)
    with pytest.raises(ContextLengthError, match=r"4 and 94 new .* context of 96; ask for 93 new"):
        run_experiment(tiny, Settings(new_tokens=94, prompt_tokens=4), Silent())
    with pytest.raises(ContextLengthError, match="shorten the prompt"):
        Settings(new_tokens=1, prompt_tokens=98).check(96)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with torch_threads(None):
        assert torch.get_num_threads() == before


def test_smoothing_is_a_running_median() -> None:
    assert smooth([1, 9, 2, 3], 1) == [5, 2, 3, 2.5]
