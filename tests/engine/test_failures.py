"""What fails ends alone, and what there is comes with the error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kept import GenerationError

from . import toy
from .requests import expected, resolved
from .test_engine import PROMPTS, RULE, generation
from .toy import Toy

NEXT_LOGITS = toy.next_logits


def by_last(tokens: Sequence[int]) -> Tensor:
    """No numbers where one of two tokens has come last."""
    logits = NEXT_LOGITS(tokens)
    return torch.full_like(logits, torch.nan) if tokens[-1] in (5, 7) else logits


def by_first(tokens: Sequence[int]) -> Tensor:
    """No numbers from some token on, where one of two has come first."""
    logits = NEXT_LOGITS(tokens)
    fails = tokens[0] in (1, 3) and len(tokens) > 3
    return torch.full_like(logits, torch.nan) if fails else logits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "use_cache": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("slots", [3, 16])
def test_one_that_fails_ends_alone(
    monkeypatch: pytest.MonkeyPatch, slots: int, options: dict[str, Any]
) -> None:
    """Every text is what it would be alone, up to where it fails, which only some do."""
    monkeypatch.setattr(toy, "next_logits", by_first if "num_beams" in options else by_last)
    prompts = [[i % 5, *range(i % 3), 3 + i % 2] for i in range(9)]
    options = {"max_new_tokens": 5, "seed": 4, **options}
    with pytest.raises(GenerationError, match=r"^prompt ") as caught:
        generation(Toy(), prompts, slots, **options).run()
    together = caught.value.completions
    alone = []
    for prompt in prompts:
        try:
            alone += generation(Toy(), [prompt], slots, **options).run()
        except GenerationError as error:
            alone += error.completions
    assert [(c.token_ids, c.finish_reason) for c in together] == [
        (c.token_ids, c.finish_reason) for c in alone
    ]
    assert {c.finish_reason for c in together} == {"length", "error"}
    failed = [c for c in together if c.finish_reason == "error"]
    for completion in failed:
        assert f"prompt {completion.prompt_index}" in (completion.error or "")
        if "num_beams" not in options:
            assert completion.token_ids[-1] in (5, 7)
    assert f"{len(together) - len(failed)} of {len(together)} texts" in str(caught.value)


def test_an_error_of_a_pass_carries_what_there_is() -> None:
    for error in (MemoryError("no memory"), OSError("no room")):
        model = Toy()
        model.fail_at[5] = error
        with pytest.raises(type(error)) as caught:
            generation(model, PROMPTS, 2, max_new_tokens=3).run()
        found = caught.value.completions  # type: ignore[attr-defined]
        assert [c.finish_reason for c in found] == ["length", *["error"] * 6]
        assert {c.error for c in found} == {None, str(error)}
        [(tokens, _)] = expected(PROMPTS[1], resolved(max_new_tokens=3), RULE)
        assert 0 < len(found[1].token_ids) < 3
        assert tokens[: len(found[1].token_ids)] == found[1].token_ids


def test_an_error_of_the_callers_progress_carries_what_there_is() -> None:
    def progress(done: int, of: int) -> None:
        if done:
            raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="own") as caught:
        generation(Toy(), PROMPTS, 2, max_new_tokens=3).run(progress)
    assert caught.value.completions[0].finish_reason == "length"  # type: ignore[attr-defined]
