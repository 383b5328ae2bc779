"""What caches that forget keep: by hand, by law, and against the masks of the caches there are."""

import random

import pytest
import torch

from kept.explain.explanation import Explanation
from kept.explain.policies import keep_heavy_hitters, keep_window
from kept.ops import AttentionSpec, Span
from kept.ops.masks import visibility

# Token 1 gets most attention, then token 0.
ROWS = [
    [1.0],
    [0.25, 0.75],
    [0.25, 0.5, 0.25],
    [0.1, 0.6, 0.1, 0.2],
    [0.1, 0.5, 0.1, 0.1, 0.2],
]
STEPS = [(0, 3), (3, 4), (4, 5)]


def random_rows(count: int, seed: int) -> list[list[float]]:
    draw = random.Random(seed)
    rows = [[draw.random() ** 4 for _ in range(i + 1)] for i in range(count)]
    return [[w / sum(row) for w in row] for row in rows]


def test_a_window_by_hand() -> None:
    found = keep_window(ROWS, STEPS, window=2, sinks=1)
    assert [step.kept for step in found] == [(0, 1, 2), (0, 2, 3), (0, 3, 4)]
    assert [step.lost for step in found] == pytest.approx([0, 0.6, 0.6])


def test_heavy_hitters_by_hand() -> None:
    found = keep_heavy_hitters(ROWS, STEPS, budget=3)
    # Scores of the prompt: 1.5, 1.25, 0.25. Its token 2 goes for token 3, and lives no more.
    assert [step.kept for step in found] == [(0, 1, 2), (0, 1, 3), (0, 1, 4)]
    assert [step.lost for step in found] == pytest.approx([0, 0.1, 0.2])


def test_the_last_half_of_a_budget_is_safe() -> None:
    rows = [[1.0], *([1.0] + [0.0] * i for i in range(1, 6))]
    found = keep_heavy_hitters(rows, [(0, 3), (3, 4), (4, 5), (5, 6)], budget=4)
    # Nothing but token 0 is ever attended; of the rest the oldest go, whatever their score.
    assert [step.kept for step in found] == [(0, 1, 2), (0, 1, 2, 3), (0, 2, 3, 4), (0, 3, 4, 5)]


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("seed", range(5))
def test_heavy_hitters_keep_to_their_budget(budget: int, seed: int) -> None:
    rows, steps = random_rows(12, seed), [(0, 5)] + [(i, i + 1) for i in range(5, 12)]
    found = keep_heavy_hitters(rows, steps, budget)
    before = set(range(5))
    for (_, end), step in zip(steps[1:], found[1:], strict=True):
        assert len(step.kept) == min(budget, end)
        assert set(step.kept) <= before | {end - 1}  # what is gone stays gone
        assert set(range(end - max(1, budget // 2), end)) & (before | {end - 1}) <= set(step.kept)
        held = sum(rows[end - 1][j] for j in step.kept)
        assert step.lost == pytest.approx(1 - held)
        before = set(step.kept)
    assert found[0].lost == 0


def test_room_for_everything_loses_nothing() -> None:
    rows, steps = random_rows(9, seed=1), [(0, 4)] + [(i, i + 1) for i in range(4, 9)]
    for found in (keep_window(rows, steps, 9), keep_heavy_hitters(rows, steps, 9)):
        assert [step.lost for step in found] == pytest.approx([0] * 6, abs=1e-12)
        assert [len(step.kept) for step in found] == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (3, 0), (3, 2), (4, 4), (20, 1)])
def test_a_window_keeps_what_the_cache_lets_a_query_see(window: int, sinks: int) -> None:
    rows = random_rows(10, seed=2)
    steps = [(i, i + 1) for i in range(10)]
    span = Span((0, 10), (0,), (10,), 10, torch.device("cpu"), window=window, sinks=sinks)
    [group] = span.groups
    mask = visibility(span, AttentionSpec(1.0), group).mask
    if mask is None:  # causal alone: the window reaches over everything
        mask = torch.ones(1, 10, 10, dtype=torch.bool).tril()
    for found, row in zip(keep_window(rows, steps, window, sinks), mask[0], strict=True):
        assert list(found.kept) == row.nonzero().flatten().tolist()


def test_a_row_without_dropped_keys_is_attention_over_the_others(found: Explanation) -> None:
    recording, layer = found.recording, 2
    spec, keys = recording.specs[layer], recording.keys[layer]
    share = recording.queries[layer].shape[1] // keys.shape[0]
    for policy in found.policies:
        for step, recorded in zip(policy.steps, recording.steps, strict=True):
            kept, last = list(step.kept), recorded.end - 1
            for head in range(recording.queries[layer].shape[1]):
                query = recording.queries[layer][last, head]
                alone = (keys[head // share, kept] @ query * spec.scale).softmax(0)
                row = recording.attention[layer][head, last, kept]
                torch.testing.assert_close(alone, row / row.sum(), rtol=1e-4, atol=1e-5)
