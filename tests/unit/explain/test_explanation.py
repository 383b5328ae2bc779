"""An explanation holds together: its steps, its rows, what it refuses."""

import itertools
import math
from typing import Any

import pytest

from kept import LLM
from kept.errors import OptionError
from kept.explain.explanation import Explanation, Settings, explain
from kept.explain.json_record import as_json
from kept.explain.recording import MAX_TOKENS
from kept.explain.tokens import spell_tokens

PROMPT = "for i in range(10):"


def test_the_text_is_the_one_generate_writes(bundled: LLM, found: Explanation) -> None:
    [completion] = bundled.generate(PROMPT, max_new_tokens=6, do_sample=False, kv_dtype="float32")
    assert tuple(step.drawn for step in found.recording.steps) == completion.token_ids
    assert "".join(found.texts).startswith("for\u2423i\u2423in\u2423range(10):")


def test_a_seed_draws_what_generate_draws(bundled: LLM) -> None:
    found = explain(bundled, "bundled", PROMPT, Settings(max_new_tokens=5, seed=3, kv_dtypes=()))
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": True, "seed": 3}
    [completion] = bundled.generate(PROMPT, kv_dtype="float32", **options)
    assert tuple(step.drawn for step in found.recording.steps) == completion.token_ids


def test_steps_follow_each_other_and_read_each_token_once(found: Explanation) -> None:
    steps = found.recording.steps
    assert steps[0].start == 0
    assert steps[0].end == found.recording.num_prompt
    for before, after in itertools.pairwise(steps):
        assert (after.start, after.end) == (before.end, before.end + 1)
        assert found.recording.token_ids[after.start] == before.drawn
    assert sum(c.model_with.rows for c in found.counts) == found.recording.num_read
    assert sum(c.model_without.rows for c in found.counts) == sum(step.end for step in steps)


def test_rows_are_attention(bundled: LLM, found: Explanation) -> None:
    assert len(found.views) == bundled.model.config.num_layers + bundled.model.config.num_heads
    assert (found.shown.layer, found.shown.head) == (3, None)
    for view in found.views:
        assert [len(row) for row in view.rows] == list(range(1, found.recording.num_read + 1))
        assert all(math.isclose(sum(row), 1, abs_tol=1e-4) for row in view.rows)
        assert all(w >= 0 for row in view.rows for w in row)
    heads = [view for view in found.views if view.head is not None]
    last = [sum(view.rows[-1][j] for view in heads) / len(heads) for j in range(5)]
    assert found.shown.rows[-1][:5] == pytest.approx(last, abs=1e-5)


def test_a_window_that_reaches_over_everything_writes_the_same_text(bundled: LLM) -> None:
    settings = Settings(max_new_tokens=4, window=64, sinks=0, kv_dtypes=("float32",))
    found = explain(bundled, "bundled", PROMPT, settings)
    assert [p.agreeing for p in found.policies] == [4, None]
    assert [c.agreeing for c in found.codecs] == [4]


def test_progress_counts_every_generation_to_its_end(bundled: LLM) -> None:
    seen: list[tuple[int, int]] = []
    settings = Settings(max_new_tokens=3, kv_dtypes=("int8",))
    explain(bundled, "bundled", PROMPT, settings, lambda *at: seen.append(at))
    # Three tokens of the first run, its end, and two windows and a codec to compare it with.
    assert seen == [(1, 12), (2, 12), (3, 12), (3, 12), (6, 12), (9, 12), (12, 12)]


def test_the_record_is_what_was_found(found: Explanation) -> None:
    record = as_json(found)
    assert [token["id"] for token in record["tokens"]] == list(found.recording.token_ids)
    assert record["views"][record["shown"]]["rows"] == found.shown.rows
    totals = record["totals"]
    for name in ("model_with", "model_without"):
        for key in ("multiply_adds", "kv_bytes_read", "rows"):
            assert totals[name][key] == sum(step[name][key] for step in record["steps"])
    for policy in record["policies"]:
        assert policy["mean_lost"] <= policy["max_lost"] < 1
        assert len(policy["steps"]) == len(record["steps"])
    for codec in record["codecs"]:
        assert len(codec["views"]) == len(record["views"])
        for view in codec["views"]:
            assert [len(row) for row in view["rows"]] == [s["end"] for s in record["steps"]]
    assert record["model"]["name"] == "bundled"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": 6}, "--layer 6: this model has 6 layers; give one from 0 to 5"),
        ({"head": 4}, "--head 4: this model has 4 heads"),
        ({"layer": -1}, "--layer -1: give at least 0"),
        ({"window": 0}, "--window 0: give at least 1"),
        ({"budget": 0}, "--budget 0: give at least 1"),
        ({"sinks": -1}, "--sinks -1: give at least 0"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0: give at least 1"),
        ({"max_new_tokens": MAX_TOKENS}, f"at most {MAX_TOKENS} together"),
        ({"kv_dtypes": ("int3",)}, "int3"),
    ],
)
def test_what_cannot_be_explained(bundled: LLM, change: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        explain(bundled, "bundled", PROMPT, Settings(**{"max_new_tokens": 2, **change}))


def test_tokens_are_shown_as_one_can_see_them(bundled: LLM) -> None:
    tokenizer = bundled.tokenizer
    assert tokenizer is not None
    text = "if a:\n\tb = '\x1b[2J\u00e9\U0001f600'"
    spelled = spell_tokens(tokenizer, tokenizer.encode(text))
    shown = "".join(spelled)
    assert shown.startswith("if\u2423a:\u21b5\u21e5b\u2423=")
    assert "\\x1b" in shown
    assert all(each.isprintable() and each for each in spelled)
    assert spell_tokens(None, [5, 17]) == ("5", "17")
