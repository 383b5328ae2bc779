"""`kept bench serve` as a user meets it: tables, JSON, PNG, Ctrl-C, options."""

import json
import logging
from pathlib import Path

import pytest
from png_file import png_size
from typer.testing import CliRunner

import kept
from kept.bench.serve_progress import ServeProgress
from kept.bench.serve_record import Record
from kept.bench.serve_scenarios import SCENARIOS
from kept.bench.shapes import SHAPES
from kept.cli.bench import bench_app
from kept.errors import ContextLengthError, KeptError, OptionError

runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "200"})
SERVE = ["serve", "--requests", "5", "--prompt", "3-20", "--output", "4-9", "--max-batch-size", "2"]
BUNDLED = Path(kept.__file__).parent / "bundled"

pytestmark = pytest.mark.usefixtures("bandwidth")


def test_serve(shaped: list[tuple[object, ...]], tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    options = ["--arrivals", "gamma:2", "--rate", "90%", "--goodput", "gap:60", "--shared", "50%"]
    done = runner.invoke(bench_app, [*SERVE, *options, *files])
    assert done.exit_code == 0, done.output
    assert shaped == [("qwen2.5-0.5b", None, 0, None, None, "auto")]  # when nothing is named
    for words in (
        "tiny: random weights",
        "5 requests in bursts (variation 2) at 90% of capacity: prompts of 3-20 tokens, "
        "answers of 4-9, 50% of prompt tokens seen before; 2 at a time at most",
        "first token",
        "5 of 5 requests in ",
        "Capacity, measured before: ",
        "Well served (gap 60 s at most): 5 of 5 requests",
        "at 2.0 GB/s and 4,000 GFLOP/s (fp32 units) in the same run.",
        "Outside the kernels: ",
    ):
        assert words in done.stdout
    assert "measuring the capacity: 5 requests" in done.stderr
    assert "serving: 5 requests" in done.stderr
    assert png_size(tmp_path / "a.png") == (1650, 1200)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["benchmark"] == "serve"
    assert found["interrupted"] is False
    assert found["capacity"] > 0
    assert found["settings"]["max_batch_size"] == 2
    assert found["figures"]["total"]["num_done"] == 5
    for request in found["requests"]:
        assert 3 <= request["prompt_tokens"] <= 20
        assert 4 <= len(request["token_times"]) == request["new_tokens"] <= 9
        cached = sum(request["cached"].values())
        assert cached + request["num_computed"] == (
            request["prompt_tokens"] + request["new_tokens"] - 1
        )
    assert all(moment["running"] <= 2 for moment in found["moments"])


def test_a_checkpoint_and_equal_seeds(tmp_path: Path) -> None:
    options = ["--model", str(BUNDLED), "--kv-dtype", "int8", "--arrivals", "closed:2"]
    records = []
    for name in ("a.json", "b.json"):
        done = runner.invoke(bench_app, [*SERVE, *options, "--json", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        assert "bundled: " in done.stdout
        assert "int8 cache" in done.stdout
        records.append(json.loads((tmp_path / name).read_text()))
    lengths = [[(r["prompt_tokens"], r["new_tokens"]) for r in x["requests"]] for x in records]
    assert lengths[0] == lengths[1]
    first, *others, last = records[0]["requests"]
    assert first["due"] == 0
    assert last["due"] in [request["ended"] for request in (first, *others)]


def test_nothing_is_computed_twice_while_there_is_room(tmp_path: Path) -> None:
    mix = ["--prompt", "70-150", "--output", "3", "--shared", "60%", "--arrivals", "closed:1"]
    options = ["--model", str(BUNDLED), "--requests", "6", "--json", str(tmp_path / "a.json")]
    done = runner.invoke(bench_app, ["serve", *options, *mix])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "a.json").read_text())["figures"]
    assert figures["total"]["cached"]["tree"] > 0
    assert figures["total"]["computed_tokens"] == figures["job"]["distinct_tokens"]


def test_a_small_memory_serves_all_of_them(tmp_path: Path) -> None:
    mix = ["--prompt", "60-90", "--output", "80-100", "--kv-memory", "1MiB"]
    options = ["--model", str(BUNDLED), "--requests", "6", "--json", str(tmp_path / "a.json")]
    done = runner.invoke(bench_app, ["serve", *options, *mix, "--log", str(tmp_path / "a.log")])
    assert done.exit_code == 0, done.output
    told = (tmp_path / "a.log").read_text()
    assert told.count(" arrives: ") == told.count(" ends after ") > 6
    assert " is parked with " in told
    assert not logging.getLogger("kept.engine").handlers
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["figures"]["total"]["num_done"] == 6
    assert found["num_blocks"] == 5  # for at most 190 tokens of each
    assert max(moment["used_blocks"] for moment in found["moments"]) > 3
    for moment in found["moments"]:
        assert moment["used_blocks"] + moment["findable_blocks"] <= 5


def test_what_no_memory_can_serve(tmp_path: Path) -> None:
    mix = ["--prompt", "500", "--output", "9", "--kv-memory", "1MiB", "--requests", "3"]
    done = runner.invoke(bench_app, ["serve", "--model", str(BUNDLED), *mix])
    assert isinstance(done.exception, KeptError)
    assert "not one of 3 requests could be served; the first: " in str(done.exception)
    assert "more memory (kv_memory)" in str(done.exception)


@pytest.mark.usefixtures("shaped")
def test_a_duration_in_which_nothing_comes() -> None:
    late = ["--arrivals", "poisson", "--rate", "0.01", "--duration", "0.001"]
    done = runner.invoke(bench_app, [*SERVE, *late])
    assert isinstance(done.exception, KeptError)
    assert "no request was due in time to be sent; give a longer duration" in str(done.exception)


@pytest.mark.usefixtures("shaped")
def test_ctrl_c_reports_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    press_ctrl_c(monkeypatch, at=9)
    done = runner.invoke(bench_app, [*SERVE, "--json", str(tmp_path / "a.json")])
    assert done.exit_code == 130
    assert "Interrupted: this is what was measured so far." in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["interrupted"] is True
    assert 0 < sum(len(r["token_times"]) for r in found["requests"]) <= 2 * 9


@pytest.mark.usefixtures("shaped")
def test_ctrl_c_before_anything_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    press_ctrl_c(monkeypatch, at=0)
    done = runner.invoke(bench_app, SERVE)
    assert done.exit_code == 130
    assert "before anything was measured" in done.stderr
    assert done.stdout == ""


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """At this step of what is served; before it for 0."""
    steps = None

    def began(_: object, what: str, plan: object) -> None:
        nonlocal steps
        steps = 0 if what == "serving" else None
        if steps == at:
            raise KeyboardInterrupt

    def stepped(_: object, record: Record) -> None:
        nonlocal steps
        if steps is not None:
            steps += 1
            if steps == at:
                raise KeyboardInterrupt

    monkeypatch.setattr(ServeProgress, "began", began)
    monkeypatch.setattr(ServeProgress, "stepped", stepped)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "x", "--shape", "gpt2"], "not both"),
        (["--max-batch-size", "0"], "--max-batch-size"),
        (["--requests", "0"], "--requests"),
        (["--scenario", "mixed", "--rate", "2"], "--rate"),
        (["--scenario", "chats", "--shared", "10%"], "--shared"),
        (["--png", "no/such/folder/a.png"], "does not exist"),
        (["--log", "no/such/folder/a.log"], "does not exist"),
    ],
)
def test_wrong_options(options: list[str], words: str) -> None:
    done = runner.invoke(bench_app, ["serve", *options])
    assert done.exit_code == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (["--arrivals", "often"], OptionError, "arrivals='often': give burst, closed:CLIENTS"),
        (["--arrivals", "poisson"], OptionError, "arrivals='poisson' need a rate"),
        (["--rate", "2"], OptionError, "arrivals='burst' have no rate"),
        (["--prompt", "long"], OptionError, "prompt='long' is no length"),
        (["--goodput", "speed:1"], OptionError, "goodput='speed:1'"),
        (["--scenario", "nightly"], OptionError, "no scenario is called 'nightly'"),
        (["--duration", "0"], OptionError, "duration=0.0: give seconds above 0"),
        (["--kv-memory", "much"], OptionError, "'much' is no size"),
        (["--shape", "gpt2", "--prompt", "2000"], ContextLengthError, "context of 1024"),
    ],
)
def test_what_cannot_be_served_is_known_before_weights_are_made(
    options: list[str], kind: type[KeptError], words: str
) -> None:
    done = runner.invoke(bench_app, ["serve", *options])
    assert isinstance(done.exception, kind)
    assert words in str(done.exception)


def test_help_names_every_shape_scenario_and_option() -> None:
    done = runner.invoke(bench_app, ["serve", "--help"])
    text = "".join(done.stdout.replace("│", "").split())  # as if it had not been wrapped
    assert done.exit_code == 0
    assert ",".join(SHAPES) in text
    for name in SCENARIOS:
        assert name in text
    assert "gamma:V" in text
    for option in ("--arrivals", "--rate", "--kv-memory", "--max-step-time", "--goodput", "--png"):
        assert option in text
