"""Speed measurements on a tiny model: what is recorded, and what the figures come from."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_config import TINY

from kept.bench import subject as subject_module
from kept.bench.model_clock import model_clock
from kept.bench.random_weights import random_model, save_checkpoint
from kept.bench.shapes import SHAPES
from kept.bench.speed import SpeedResult, SpeedSettings, SpeedTrace, Step, run_speed
from kept.bench.speed_figures import percentile, speed_figures
from kept.bench.speed_progress import SpeedProgress
from kept.bench.subject import Subject, checkpoint_subject, random_subject
from kept.bench.trace import greedy, timed_steps
from kept.bench.work import Costs
from kept.errors import ContextLengthError, OptionError
from kept.llm import LLM
from kept.machine import Rate
from kept.models import quantize_checkpoint


class Silent:
    """A watcher that counts, and presses Ctrl-C at a step if asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps = 0
        self.runs: list[tuple[int, int]] = []
        self._stop_at = stop_at

    def expected(self, seconds: float, num_traces: int) -> None:
        assert seconds > 0
        self.num_traces = num_traces

    def spent(self, seconds: float) -> None:
        self.steps += 1
        if self.steps == self._stop_at:
            raise KeyboardInterrupt

    def run_done(self, trace: SpeedTrace, index: int) -> None:
        self.runs.append((trace.prompt_tokens, index))


@pytest.mark.usefixtures("bandwidth")
def test_every_step_of_a_decode_is_recorded(tiny: Subject) -> None:
    watcher = Silent()
    result = run_speed(tiny, SpeedSettings((5,), new_tokens=7, batch=2, runs=2), watcher)
    assert watcher.runs == [(5, 0), (5, 1)]
    assert watcher.num_traces == 2
    assert watcher.steps == 2 * 7
    assert not result.interrupted
    assert result.num_threads == torch.get_num_threads()
    assert len(result.limits.bandwidths) == len(result.limits.peaks) == 2
    for trace in result.traces:
        assert trace.prompt_seconds is not None
        # The second token attends the prompt and itself; the last token is never read.
        assert [step.lengths for step in trace.steps] == [(n, n) for n in range(6, 12)]
        assert all(0 < step.model_seconds < step.seconds for step in trace.steps)


@pytest.mark.usefixtures("bandwidth")
def test_prompts_are_read_in_turn(tiny: Subject) -> None:
    watcher = Silent()
    result = run_speed(tiny, SpeedSettings((3, 20), runs=2), watcher)
    assert watcher.runs == [(3, 0), (20, 0), (3, 1), (20, 1)]
    assert all(trace.prompt_seconds and not trace.steps for trace in result.traces)
    figures = speed_figures(result)
    assert figures.decode is None
    assert [found.tokens for found in figures.prompts] == [3, 20]


@pytest.mark.usefixtures("bandwidth")
def test_only_steps_of_the_whole_batch_count(
    tiny: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Passes of eight rows: the first of three prompts of six is done before the last begins.
    monkeypatch.setattr("kept.bench.speed.PREFILL_CHUNK", 8)
    result = run_speed(tiny, SpeedSettings((6,), new_tokens=9, batch=3, runs=1), Silent())
    [trace] = result.traces
    assert trace.steps
    assert all(len(step.lengths) == 3 for step in trace.steps)
    assert max(trace.steps[-1].lengths) == 6 + 9 - 1
    assert min(trace.steps[0].lengths) == 6 + 1


def test_too_few_tokens_for_a_step_of_the_whole_batch() -> None:
    with pytest.raises(OptionError, match=r"new_tokens=3: .* up to 6 passes.* at least 7"):
        SpeedSettings((160,), new_tokens=3, batch=16)
    assert SpeedSettings((160,), new_tokens=7, batch=16).num_passes(160) == 6


@pytest.mark.usefixtures("bandwidth")
def test_ctrl_c_keeps_what_was_measured(tiny: Subject) -> None:
    result = run_speed(tiny, SpeedSettings((4,), new_tokens=10, runs=3), Silent(stop_at=13))
    assert result.interrupted
    assert [len(trace.steps) for trace in result.traces] == [9, 2]
    figures = speed_figures(result)
    assert figures.decode is not None
    assert [run.num_steps for run in figures.decode.runs] == [9, 2]
    assert figures.decode.total.num_steps == 11


def made_result(tiny: Subject) -> SpeedResult:
    """Two runs of a batch of two, whose times are made up."""
    result = SpeedResult(tiny, SpeedSettings((4,), new_tokens=3, batch=2, kv_dtype="bfloat16"), 1)
    for prompt, seconds in ((0.5, (0.1, 0.3)), (0.7, (0.2, 0.4))):
        steps = [Step((5 + i, 5 + i), s, 0.75 * s) for i, s in enumerate(seconds)]
        result.traces.append(SpeedTrace(4, prompt, steps))
    return result


def test_figures_come_from_the_raw_times(tiny: Subject) -> None:
    result = made_result(tiny)
    result.limits.bandwidths = [Rate("a", 1, 1e5, 1e5), Rate("a", 1, 1e6, 1e5)]
    result.limits.peaks = [Rate("b", 1, 1e9, 1e9)]
    figures = speed_figures(result)
    found = figures.decode
    assert found is not None
    first, total = found.runs[0], found.total
    assert (first.num_steps, total.num_steps) == (2, 4)
    assert first.median == pytest.approx(0.2)
    assert total.median == pytest.approx(0.25)
    assert (total.p10, total.p90) == (pytest.approx(0.13), pytest.approx(0.37))
    assert total.tokens_per_second == pytest.approx(8 / 1.0)
    assert total.outside == pytest.approx(0.25 / 4)
    assert total.outside_share == pytest.approx(0.25)
    # At the better of the two bandwidths; a number of a key takes two bytes.
    read = [tiny.step_weight_bytes + 2 * (n * 32) * 2 for n in (5, 6)]
    floor = sum(read) / 2 / 1e6
    assert total.floor == pytest.approx(floor)
    assert total.share == pytest.approx(4 * floor / 1.0)
    assert total.median_share == pytest.approx(floor / 0.25)
    assert found.length == 6
    assert found.work.num_bytes == read[1]
    [prompt] = figures.prompts
    assert prompt.seconds == (0.5, 0.7)
    assert prompt.tokens_per_second == pytest.approx(2 * 4 / 0.6)
    assert prompt.operations_per_second == pytest.approx(2 * tiny.pass_operations(4) / 0.6)
    assert prompt.share == pytest.approx(prompt.operations_per_second / 1e9)


def test_the_floor_can_be_arithmetic(tiny: Subject) -> None:
    result = made_result(tiny)
    result.limits.bandwidths = [Rate("a", 1, 1e12, 1e12)]
    result.limits.peaks = [Rate("b", 1, 1e6, 1e6)]
    figures = speed_figures(result)
    assert figures.decode is not None
    operations = [tiny.costs.decode_step((n, n)).operations for n in (5, 6)]
    assert figures.decode.total.floor == pytest.approx(sum(operations) / 2 / 1e6)


def test_without_a_bandwidth_there_is_no_floor(tiny: Subject) -> None:
    figures = speed_figures(made_result(tiny))
    assert figures.decode is not None
    assert figures.decode.total.floor is None
    assert figures.decode.total.share is None
    assert figures.prompts[0].share is None


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([3.0], 0.1) == 3.0
    assert percentile([4.0, 1.0, 2.0, 3.0, 5.0], 0.5) == 3.0
    assert percentile([0.0, 10.0], 0.9) == pytest.approx(9.0)


def test_the_model_clock_times_passes_and_leaves_no_trace(tiny: Subject) -> None:
    generation = greedy(tiny.model, [[1, 2, 3]], 3)
    with model_clock(tiny.model) as clock:
        for seconds in timed_steps(generation):
            assert 0 < clock.take() < seconds
            assert clock.take() == 0
    assert "run" not in vars(tiny.model)
    [completion] = generation.completions()
    assert len(completion.token_ids) == 3


@pytest.mark.parametrize(
    "change",
    [{"batch": 0}, {"runs": 0}, {"new_tokens": 0}, {"threads": 0}, {"seed": -1}, {"prompts": ()}],
)
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(change))):
        SpeedSettings(**{"prompts": (4,), **change})


def test_prompts_that_do_not_fit_the_context() -> None:
    SpeedSettings((96,)).check(96)
    with pytest.raises(ContextLengthError, match="prompt of 97 and 1 new"):
        SpeedSettings((4, 97)).check(96)


def test_time_left_follows_the_pace_of_the_runs() -> None:
    progress = SpeedProgress(Console(file=io.StringIO()))
    progress.expected(10.0, 4)
    progress.spent(3.0)
    assert progress.seconds_left() == 7.0
    progress.spent(2.0)
    progress.run_done(SpeedTrace(4, 5.0), 0)
    assert progress.seconds_left() == 15.0


@pytest.mark.usefixtures("bandwidth")
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_packed_models_are_measured_too(
    monkeypatch: pytest.MonkeyPatch, quantize: str | None
) -> None:
    monkeypatch.setattr(subject_module, "shape_config", lambda _: TINY)
    found = random_subject("tiny", "bfloat16", quantize=quantize)
    if found.model.native is None:
        pytest.skip("the native kernels cannot be had here")
    settings = SpeedSettings((5,), new_tokens=4, batch=2, runs=1, threads=1, kv_dtype="int8")
    result = run_speed(found, settings, Silent())
    assert result.num_threads == 1
    assert found.kernels.startswith("native ")
    [trace] = result.traces
    assert all(0 < step.model_seconds < step.seconds for step in trace.steps)
    figures = speed_figures(result)
    assert figures.decode is not None
    assert figures.decode.work.kv_bytes == 2 * Costs.of(found.model, "int8").kv_bytes(7)


@pytest.mark.parametrize("name", ["tiny", "gpt2"])
def test_a_written_checkpoint_loads_as_the_same_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"vocab_size": 61, "n_positions": 32, "n_embd": 48, "n_layer": 2, "n_head": 3}
    config = TINY if name == "tiny" else {**SHAPES["gpt2"], **small}
    model = random_model(config, torch.bfloat16, seed=3)
    save_checkpoint(model, config, tmp_path)
    monkeypatch.setenv("KEPT_OPS", "reference")  # which leaves parameters as they are
    loaded = LLM(tmp_path).model
    assert loaded.dtype == torch.bfloat16
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_folder_of_quantized_weights_counts_as_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    save_checkpoint(random_model(TINY, torch.bfloat16, seed=3), TINY, tmp_path / "plain")
    quantize_checkpoint(tmp_path / "plain", tmp_path / "held", "int4")
    found = checkpoint_subject(tmp_path / "held")
    asked = checkpoint_subject(tmp_path / "plain", quantize="int4")
    assert found.weight_format == asked.weight_format
    assert found.weight_format.startswith("int4")
    assert found.matrix_dtype == asked.matrix_dtype == "int8"
    assert checkpoint_subject(tmp_path / "plain").matrix_dtype == "bf16"


def test_random_weights_are_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject_module, "shape_config", lambda _: TINY)
    found = random_subject("tiny", "bfloat16", quantize="int8")
    assert found.weight_format == f"int8 weights over {found.model.activations or 'bfloat16'}"
    assert found.matrix_dtype == "int8"
    assert found.model.dtype == torch.bfloat16
    plain = random_subject("tiny", "bfloat16")
    assert found.num_parameters == plain.num_parameters
    assert found.weight_bytes < 0.75 * plain.weight_bytes
