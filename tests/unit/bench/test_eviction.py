"""What is measured of caches that drop tokens, and the texts that ask for what was said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import kept
from kept.bench import eviction
from kept.bench.eviction import (
    POLICIES,
    Evictions,
    Kept,
    answer,
    late_windows,
    load_recall_model,
    measure_evictions,
    measure_recall,
)
from kept.bench.random_weights import random_model
from kept.bench.recall_tasks import TASKS, VOCABULARY, RecallTask
from kept.bench.windows import Window
from kept.cli.bench import bench_app
from kept.errors import OptionError
from kept.models import CausalLM

runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "80"})
SOURCE = Path(kept.__file__).parent
SMALL = RecallTask("small", body=60, num_pairs=6, num_questions=4)
TINY = {
    "model_type": "gpt2",
    "vocab_size": 61,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 640,
}


@pytest.fixture(scope="module")
def recall_model() -> CausalLM:
    return load_recall_model()


@pytest.mark.parametrize("task", [SMALL, *TASKS], ids=lambda task: task.name)
def test_texts_ask_for_what_they_say(task: RecallTask) -> None:
    texts = task.draw(5, torch.Generator().manual_seed(3))
    assert texts.shape == (5, task.length)
    assert texts.max() < VOCABULARY
    for text in texts.tolist():
        assert text[0] == 0
        body, questions = text[1 : 1 + task.body], text[1 + task.body :]
        said = {k: v for k, v in zip(body[::2], body[1::2], strict=True) if k >= 64}
        assert len(said) == task.num_pairs
        asked = dict(zip(questions[::2], questions[1::2], strict=True))
        assert len(asked) == task.num_questions
        assert asked.items() <= said.items()
        assert text[task.answers] == questions[1::2]
    again = task.draw(5, torch.Generator().manual_seed(3))
    assert torch.equal(texts, again)


def test_the_recall_model_can_do_its_tasks(recall_model: CausalLM) -> None:
    for task in TASKS:
        texts = task.draw(8, torch.Generator().manual_seed(7)).tolist()
        assert answer(recall_model, task, texts, None).share > 0.9


def test_a_window_loses_the_pairs_outside_of_it(recall_model: CausalLM) -> None:
    texts = SMALL.draw(16, torch.Generator().manual_seed(0)).tolist()
    assert answer(recall_model, SMALL, texts, None).share > 0.9
    assert answer(recall_model, SMALL, texts, Kept("window", 0.05)).share < 0.3


def test_a_budget_of_everything_is_the_whole_cache(recall_model: CausalLM) -> None:
    texts = SMALL.draw(4, torch.Generator().manual_seed(0)).tolist()
    whole = answer(recall_model, SMALL, texts, None)
    for policy in POLICIES:
        assert answer(recall_model, SMALL, texts, Kept(policy, 2.0)) == whole
    result = Evictions()
    caches = [Kept("attention", 2.0), Kept("key-norm", 0.3)]
    measure_recall(result, recall_model, [SMALL], caches, 12)
    found = result.recall["small"]
    assert found[None] == found[caches[0]]
    assert {recall.asked for recall in found.values()} == {12 * 4}


def test_only_tokens_with_half_a_context_before_them_are_scored() -> None:
    windows = [
        Window(tuple(range(17)), 16),
        Window(tuple(range(17)), 8),
        Window(tuple(range(12)), 3),
        Window(tuple(range(12)), 11),
        Window(tuple(range(9)), 8),
    ]
    assert [(len(w.tokens), w.num_scored) for w in late_windows(windows, 16)] == [
        (17, 8),
        (17, 8),
        (12, 3),
        (12, 3),
    ]


def test_scores_are_of_the_cache_that_is_named() -> None:
    model = random_model(TINY, torch.float32, 0)
    window = Window(tuple(torch.randint(61, (301,)).tolist()), 150)
    caches = [Kept("expected-attention", 1.0), Kept("window", 0.1), Kept("sinks + window", 0.1)]
    found = measure_evictions(model, [window], 300, caches)
    assert found.num_windows == 1
    full, same, *less = (found.scores[x] for x in (None, *caches))
    assert same.num_tokens == full.num_tokens == 150
    assert same.mean_divergence < 1e-9
    assert less[0].mean_divergence > 1e-6
    assert less[0] != less[1]
    with pytest.raises(OptionError, match="budget of 3 tokens"):
        measure_evictions(model, [window], 300, [Kept("key-norm", 0.01)])


TEXT = ["--text", str(SOURCE / "cache" / "cache.py")]


def test_tables_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.bench.recall_tasks.TASKS", (SMALL,))
    monkeypatch.setattr("kept.cli.bench_eviction._TEXTS", 4)
    out = ["--json", str(tmp_path / "a.json")]
    done = runner.invoke(
        bench_app, ["quality", "--evict", "--budgets", "12.5", *TEXT, "--tokens", "40", *out]
    )
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "40 tokens of cache.py" in text
    assert "…" not in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["benchmark"] == "eviction"
    named = [(x["policy"], x["share"]) for x in found["perplexity"]]
    assert named == [(None, 1.0), *((policy, 0.125) for policy in POLICIES)]
    for policy, share in named[1:]:
        assert f"│ {policy} │ {100 * share:g} % │" in text
    [task] = found["recall"]
    assert task["length"] == SMALL.length
    assert [x["asked"] for x in task["caches"]] == [16] * len(named)


def test_ctrl_c_reports_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(eviction, "answer", interrupted)
    out = ["--json", str(tmp_path / "a.json")]
    options = ["--evict", "--budgets", "50", *TEXT, "--tokens", "9", *out]
    done = runner.invoke(bench_app, ["quality", *options])
    assert done.exit_code == 130
    assert "Interrupted" in done.stdout
    assert json.loads((tmp_path / "a.json").read_text())["recall"][0]["caches"] == []
    monkeypatch.setattr(eviction, "predictions", interrupted)
    done = runner.invoke(bench_app, ["quality", *options])
    assert done.exit_code == 130
    assert "before anything was measured" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--evict", "--budgets", "half"], "'half' is no list of percentages"),
        (["--evict", "--budgets", "50,100"], "'50,100' is no list of percentages"),
        (["--budgets", "50"], "it goes with --evict"),
        (["--evict", "--formats", "int8"], "leave --formats"),
    ],
)
def test_wrong_options(options: list[str], words: str) -> None:
    done = runner.invoke(bench_app, ["quality", *options])
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", "").split())
