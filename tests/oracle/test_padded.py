"""Padded batches through the model's forward face equal single prompts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kept import CausalLMOutput, OptionError, make_cache

from .generation import prompts
from .zoo import FEW, Pair

# Whose positions are a bias and whose residual stream begins behind a norm, or is read as it is.
APART = ("bloom", "olmo2")
CLOSE = {"rtol": 0.0, "atol": 1e-4}
LENGTHS = (9, 4, 6)
# Where each row's tokens begin in a width of 11.
BEGINS = {"left": (2, 7, 5), "right": (0, 0, 0), "both": (1, 3, 5), "mixed": (2, 0, 5)}
WIDTH = 11


def pad(rows: Sequence[Sequence[int]], begins: Sequence[int], width: int) -> tuple[Tensor, Tensor]:
    ids = torch.full((len(rows), width), 5)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(begins[row], begins[row] + len(tokens))
        ids[row, place], mask[row, place] = torch.tensor(tokens, dtype=torch.int64), 1
    return ids, mask


def check_row(
    pair: Pair, output: CausalLMOutput, row: int, tokens: Sequence[int], mask: Tensor, num_new: int
) -> None:
    """Row `row` of an output for `num_new` columns equals transformers on its tokens alone."""
    expected = pair.hf(
        torch.tensor([list(tokens)]), output_hidden_states=True, output_attentions=True
    )
    new = mask[row, mask.shape[1] - num_new :].bool()
    count = int(new.sum())
    begin = len(tokens) - count
    torch.testing.assert_close(output.logits[row, new], expected.logits[0, begin:], **CLOSE)
    assert not output.logits[row, ~new].any()
    assert output.hidden_states is not None
    assert len(output.hidden_states) == len(expected.hidden_states)
    for found, wanted in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(found[row, new], wanted[0, begin:], **CLOSE)
        assert not found[row, ~new].any()
    assert output.attentions is not None
    assert len(output.attentions) == len(expected.attentions)
    for found, wanted in zip(output.attentions, expected.attentions, strict=True):
        assert found.shape == (mask.shape[0], wanted.shape[1], num_new, mask.shape[1])
        of_tokens = found[row][:, new][:, :, mask[row].bool()]
        torch.testing.assert_close(of_tokens, wanted[0, :, begin:], **CLOSE)
        assert found[row].sum().item() == pytest.approx(wanted.shape[1] * count, abs=1e-4)


@pytest.mark.parametrize("padding", BEGINS)
@pytest.mark.parametrize("pair", [*FEW, *APART, "qwen2 layer types"], indirect=True)
@torch.no_grad()
def test_padding_on_either_side(pair: Pair, padding: str) -> None:
    rows = prompts(*LENGTHS)
    ids, mask = pad(rows, BEGINS[padding], WIDTH)
    for use_cache in (True, False):
        output = pair.model(
            ids, mask, use_cache=use_cache, output_attentions=True, output_hidden_states=True
        )
        for row, tokens in enumerate(rows):
            check_row(pair, output, row, tokens, mask, WIDTH)
    assert pair.model(ids, mask).cache.lengths == LENGTHS
    assert pair.model(ids, mask).hidden_states is None
    assert pair.model(ids, mask).attentions is None


@pytest.mark.parametrize("whole_mask", [True, False], ids=["past and new", "new only"])
@pytest.mark.parametrize("kind", ["dynamic", "static", "sliding"])
@pytest.mark.parametrize("pair", FEW, indirect=True)
@torch.no_grad()
def test_continuing_a_padded_batch(pair: Pair, kind: str, whole_mask: bool) -> None:
    fields = {"static": {"max_cache_len": 20}, "sliding": {"sliding_window": 20}}.get(kind, {})
    cache = make_cache(pair.model.kv_shapes, kind, num_slots=3, **fields)
    rows = prompts(*LENGTHS)
    ids, mask = pad(rows, BEGINS["mixed"], WIDTH)
    pair.model(ids, mask, cache=cache)
    for fresh, begins in ((prompts(3, 1, 2), (0, 1, 1)), (prompts(1, 1, 1), (0, 0, 0))):
        width = max(map(len, fresh))
        new_ids, new_mask = pad(fresh, begins, width)
        rows = [old + new for old, new in zip(rows, fresh, strict=True)]
        mask = torch.cat([mask, new_mask], dim=1)
        given = mask if whole_mask else new_mask
        held = [n - len(new) for n, new in zip(cache.lengths, fresh, strict=True)]
        output = pair.model(
            new_ids, given, cache=cache, output_attentions=True, output_hidden_states=True
        )
        assert output.cache is cache
        columns = mask if whole_mask else columns_of(cache.lengths, new_mask)
        for row, tokens in enumerate(rows):
            check_row(pair, output, row, tokens, columns, width)
        assert held == [n - 2 * len(new) for n, new in zip(cache.lengths, fresh, strict=True)]


def columns_of(lengths: Sequence[int], new_mask: Tensor) -> Tensor:
    """Where keys lie if only the new mask is known: what the cache holds, from the left."""
    past = [n - int(count) for n, count in zip(lengths, new_mask.sum(1), strict=True)]
    held = torch.arange(max(past)) < torch.tensor(past)[:, None]
    return torch.cat([held.long(), new_mask], dim=1)


@pytest.mark.parametrize("pair", ["gpt2", "mistral"], indirect=True)
@torch.no_grad()
def test_a_row_that_is_all_padding(pair: Pair) -> None:
    rows = prompts(5, 7)
    ids, mask = pad([rows[0], [], rows[1]], (3, 0, 0), 8)
    output = pair.model(ids, mask, output_attentions=True, output_hidden_states=True)
    assert output.cache is not None
    assert output.cache.lengths == (5, 0, 7)
    assert not output.logits[1].any()
    for row, tokens in ((0, rows[0]), (2, rows[1])):
        check_row(pair, output, row, tokens, mask, 8)
    late = prompts(6)[0]
    ids, new_mask = pad([[], late, []], (0, 1, 0), 7)
    whole = torch.cat([mask, new_mask], dim=1)
    output = pair.model(
        ids, whole, cache=output.cache, output_attentions=True, output_hidden_states=True
    )
    assert output.cache is not None
    assert output.cache.lengths == (5, 6, 7)
    check_row(pair, output, 1, late, whole, 7)


@pytest.mark.parametrize("pair", ["gpt2", "llama", "llama dynamic"], indirect=True)
@torch.no_grad()
def test_explicit_positions(pair: Pair) -> None:
    [tokens] = prompts(8)
    ids = torch.tensor([tokens, tokens[::-1]])
    positions = torch.tensor([[0, 2, 4, 5, 9, 10, 30, 31], [7, 8, 9, 10, 11, 12, 13, 14]])
    for given in (positions, positions[:1]):
        expected = [
            pair.hf(ids[b : b + 1], position_ids=given[b % len(given)][None]).logits[0]
            for b in range(2)
        ]
        found = pair.model(ids, position_ids=given, use_cache=False).logits
        torch.testing.assert_close(found[0], expected[0], **CLOSE)
        if "dynamic" not in pair.name:
            torch.testing.assert_close(found[1], expected[1], **CLOSE)


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_what_the_face_refuses(pair: Pair) -> None:
    model, ids = pair.model, torch.tensor([[1, 2, 3], [4, 5, 6]])
    cache = model(ids).cache
    ones = torch.ones_like(ids)
    refused = [
        ({"input_ids": ids[0]}, r"\(batch, time\)"),
        ({"input_ids": ids.float()}, "integers"),
        ({"input_ids": ids[:, :0]}, "at least one token"),
        ({"input_ids": ids + 95}, "vocabulary from 0 to 96"),
        ({"input_ids": ids - 2}, "run from -1"),
        ({"input_ids": ids[:1], "cache": cache}, r"cache 2 slots.*cache\.select"),
        ({"input_ids": ids, "attention_mask": ones[:, :2]}, r"pass \(2, 3\) for the new"),
        ({"input_ids": ids, "attention_mask": ones[0]}, r"pass \(2, 3\) for the new"),
        ({"input_ids": ids, "attention_mask": 2 * ones}, r"0 \(padding\) and 1 \(token\)"),
        ({"input_ids": ids, "attention_mask": 0 * ones}, "at least one 1"),
        (
            {"input_ids": ids, "attention_mask": torch.ones(2, 5), "cache": cache},
            r"marks \[2, 2\] cached tokens.*holds \[3, 3\].*only of the 3 new ones",
        ),
        ({"input_ids": ids, "position_ids": ids[:, :2]}, "each new token a position"),
        ({"input_ids": ids, "position_ids": -ids}, "position of at least 0"),
        ({"input_ids": ids, "cache": cache, "use_cache": False}, "drop one of the two"),
    ]
    for arguments, message in refused:
        with pytest.raises(OptionError, match=message):
            model(**arguments)
    assert cache is not None
    assert cache.lengths == (3, 3)
