"""Keys are of all tokens up to the end of a block and of what keys and values depend on beside."""

from __future__ import annotations

from array import array
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.blocks.keys import FORMAT, Namespace, chain, next_key, num_common, token_bytes, token_ids
from kept.errors import OptionError

NAMESPACE = Namespace("weights", "avx512", "7", "int8/int4", (None, 1024), 64)
token = st.integers(-(2**63), 2**63 - 1)


def test_the_bytes_are_those_that_were_stored() -> None:
    fields = [FORMAT, "weights", "avx512", "7", "int8/int4", "all,1024", "64", "tenant"]
    root = sha256(b"".join(len(x).to_bytes(8, "little") + x.encode() for x in fields)).digest()
    assert NAMESPACE.root("tenant") == root
    assert root.hex() == "1cbac6402f07ae2c7b9bf80aa798e8c0e38779792761b5861a95f1c4280cac8f"
    tokens = list(range(150))
    first = sha256(root + b"".join(x.to_bytes(8, "little") for x in tokens[:64])).digest()
    keys = list(chain(root, tokens))
    assert len(keys) == 2
    assert keys[0] == first
    assert keys[1].hex() == "7807c388dc7c455b396fba292c6cf64e97c9059a195bbde7089c819505cd9adc"
    assert next_key(keys[1], token_bytes(tokens[128:])) not in keys


def test_every_field_counts() -> None:
    roots = {
        replace(NAMESPACE, **change).root(salt)
        for salt in ("", "a")
        for change in (
            {},
            {"model": "others"},
            {"isa": "avx2"},
            {"kernels": "8"},
            {"codec": "int8"},
            {"windows": (None,)},
            {"windows": (1024, None)},
            {"block": 32},
        )
    }
    assert len(roots) == 16


texts = st.text(["a", "é", "\0", "\ud800"], max_size=3)


@given(st.tuples(texts, texts, texts, texts, texts), st.tuples(texts, texts, texts, texts, texts))
def test_fields_do_not_run_into_each_other(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    roots = [Namespace(*fields[:4], (None,)).root(fields[4]) for fields in (a, b)]
    assert (roots[0] == roots[1]) == (a == b)


@given(st.lists(token, max_size=9))
def test_tokens_have_the_same_bytes_however_they_come(tokens: list[int]) -> None:
    data = token_bytes(tokens)
    assert token_ids(data) == tokens
    for same in (
        tuple(tokens),
        array("q", tokens),
        np.array(tokens, "<i8"),
        np.array(tokens, ">i8"),
    ):
        assert token_bytes(same) == data
    strided = np.array([tokens, tokens], "<i8").T[:, 0]
    assert token_bytes(strided) == data


@given(st.data())
def test_common_tokens_are_counted(data: st.DataObject) -> None:
    few = st.lists(st.sampled_from((0, 1, 256, -1)), max_size=5)
    start, a, b = data.draw(few), data.draw(few), data.draw(few)
    count = num_common(token_bytes(start + a), token_bytes(start + b))
    assert (start + a)[:count] == (start + b)[:count]
    assert (start + a)[count : count + 1] != (start + b)[count : count + 1] or count == min(
        len(start + a), len(start + b)
    )


@pytest.mark.parametrize("tokens", [[1.0], [[1, 2]], ["a"], 3, [2**63], [None]])
def test_what_is_no_token_is_refused(tokens: object) -> None:
    with pytest.raises(OptionError, match="no list of token ids"):
        token_bytes(tokens)  # type: ignore[arg-type]


def test_a_block_has_tokens() -> None:
    with pytest.raises(OptionError, match="block=0"):
        replace(NAMESPACE, block=0)
