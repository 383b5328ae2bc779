"""Greedy tokens under a penalty and a grammar: a pass's highest, or one reading of the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from kept.grammar import Constraint
from kept.machine import NATIVE_AVAILABLE
from kept.sampling import (
    Key,
    ResolvedParams,
    SamplingParams,
    TokenHistory,
    argmax_of,
    likeliest_of,
    process_scores,
    sample_rows,
)

V = 400  # of seven blocks, the last one short
INF = float("inf")


def params_of(options: dict[str, Any]) -> ResolvedParams:
    return SamplingParams(do_sample=False, eos_token_id=3, **options).resolve()


class Masked(Constraint):
    """One whose mask is given."""

    __slots__ = ("mask",)

    def __init__(self, mask: Any) -> None:
        self.mask = mask

    def words(self, tokens: Any) -> Any:
        return self.mask


@pytest.mark.skipif(not NATIVE_AVAILABLE, reason="built without the native module")
@given(data=st.data())
@settings(max_examples=examples(8, 60))
def test_one_reading_finds_what_a_penalty_and_a_grammar_leave(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    values = rng.choice([-INF, -2.0, -0.0, 0.0, 0.5, 3.0], (3, V)).astype(np.float32)
    values[:, 0] = 0.25
    logits, params, histories = torch.from_numpy(values), [], []
    for _ in values:
        penalty = data.draw(st.sampled_from([0.8, 1.0, 1.2, 1e38]))
        history = TokenHistory(rng.integers(0, V, data.draw(st.integers(1, 60))))
        words = rng.integers(0, 2**32, 11, dtype=np.uint32) & rng.integers(0, 2**32, 11)
        words[2:4], words[6:8] = 2**32 - 1, 0  # blocks that are whole, and that are left out
        words[0] |= 1
        is_masked: bool = data.draw(st.booleans())
        history.constraint = Masked(words.astype(np.uint32)) if is_masked else None
        options = {"repetition_penalty": penalty}
        params.append(params_of(options | ({"regex": "a"} if is_masked else {})))
        histories.append(history)
    best = list(zip(*(x.tolist() for x in logits.max(-1)), strict=True))
    expected = [
        int(process_scores(row, *each).argmax())
        for row, *each in zip(logits, params, histories, strict=True)
    ]
    assert likeliest_of(logits, range(3), params, histories) == expected
    known = argmax_of(params, best, histories, V)
    assert known is not None
    assert [(x, y) for x, y in zip(known, expected, strict=True) if x not in (-1, y)] == []
    found = sample_rows(logits, params, histories, [Key(row, 7) for row in range(3)])
    assert list(found.token_ids) == expected
