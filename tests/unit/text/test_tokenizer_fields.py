"""Fields of the small files beside a tokenizer: each wrong one is named, and no one crashes."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.errors import KeptError, TokenizerError
from kept.text import Tokenizer

from .test_tokenizer_damage import PANICS, tokenizer_json, use, write

WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "tokenizer_class": ("tokenizer_config", {"tokenizer_class": 7}),
    "tokenizer_class list": ("tokenizer_config", {"tokenizer_class": ["GPT2Tokenizer"]}),
    "tokenizer_class of the model": ("config", {"tokenizer_class": {}}),
    "model_type": ("config", {"model_type": ["llama"]}),
    "added null": ("tokenizer_config", {"added_tokens_decoder": None}),
    "added list": ("tokenizer_config", {"added_tokens_decoder": []}),
    "added id": ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "a"}}}),
    "added far id": ("tokenizer_config", {"added_tokens_decoder": {"9" * 99: {"content": "a"}}}),
    "added text": ("tokenizer_config", {"added_tokens_decoder": {"5": "a"}}),
    "added without content": ("tokenizer_config", {"added_tokens_decoder": {"5": {}}}),
    "added flag": (
        "tokenizer_config",
        {"added_tokens_decoder": {"5": {"content": "a", "lstrip": "yes"}}},
    ),
    "token content": ("tokenizer_config", {"bos_token": {"content": 5}}),
    "token number": ("tokenizer_config", {"bos_token": 5}),
    "token flag": ("tokenizer_config", {"eos_token": True}),
    "token surrogate": ("tokenizer_config", {"eos_token": "\ud800"}),
    "token name surrogate": ("special_tokens_map", {"eos_token": {"content": "\ud800"}}),
    "extra": ("tokenizer_config", {"extra_special_tokens": [5]}),
    "extra text": ("tokenizer_config", {"additional_special_tokens": "<x>"}),
    "extra object": ("tokenizer_config", {"extra_special_tokens": {"a_token": 5}}),
    "extra_ids": ("tokenizer_config", {"extra_ids": 10**9}),
    "flag": ("tokenizer_config", {"add_prefix_space": "no"}),
    "split": ("tokenizer_config", {"split_special_tokens": []}),
    "map": ("special_tokens_map", {"bos_token": []}),
    "older id": ("added_tokens", {"<x>": "5"}),
    "older text": ("added_tokens", {"\udc00": 5}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_fields_are_named(tmp_path: Path, name: str) -> None:
    file, fields = WRONG[name]
    folder = write(tmp_path / "x", tokenizer_json(), **{file: fields})
    with pytest.raises(TokenizerError, match=rf"{file}\.json has .*must be"):
        Tokenizer.from_folder(folder)


def test_a_flag_the_library_does_not_take_is_an_error(tmp_path: Path) -> None:
    state = tokenizer_json(**PANICS["no unknown token"])
    config = {"tokenizer_class": "BertTokenizer", "strip_accents": 1}
    with pytest.raises(TokenizerError, match="cannot be read as a tokenizer"):
        Tokenizer.from_folder(write(tmp_path / "x", state, tokenizer_config=config))


FIELDS = (
    *("added_tokens_decoder", "add_bos_token", "add_prefix_space", "additional_special_tokens"),
    *("bos_token", "clean_up_tokenization_spaces", "eos_token", "extra_special_tokens"),
    *("image_token", "legacy", "pad_token", "split_special_tokens", "tokenizer_class", "unk_token"),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "<s>", "\ud800", "GPT2Tokenizer", "T5Tokenizer", "0", "5", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "lstrip", "special", "0", "7", "x", "__type"]), inner
        )
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1), file=st.integers(0, 2))
def test_any_fields_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any], file: int
) -> None:
    names = ("tokenizer_config", "special_tokens_map", "added_tokens")
    folder = tmp_path_factory.getbasetemp() / "fields"
    write(folder, tokenizer_json(), **{n: {} for n in names} | {names[file]: fields})
    with suppress(KeptError):
        use(folder)
