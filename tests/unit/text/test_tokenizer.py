"""Tokenizer against transformers' AutoTokenizer on the same folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thinning import examples
from transformers import AutoTokenizer

from kept.errors import TokenizerError
from kept.text import Tokenizer, find_tokenizer

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two leading spaces and two trailing  ",
    "line\r\nline\n\n\tindented",
    "It isn't , is it ? We 've ' no ' idea . They 're n't .",
    "naïve café, é as two code points, ü",
    "你好,世界。こんにちは 안녕하세요",
    "🙂👩‍👩‍👧🏽 \U0001f468\u200d\U0001f4bb �",
    "<s>[INST] hi [/INST] there</s><s>again",
    "<|begin|><|im_start|>user\nhi<tool> <tool>x<|im_end|>",
    "<|endoftext|> [CLS] [SEP] [PAD] <0x41> ünïcode tøken</w>",
    "The <extra_id_0> fox<extra_id_1>.</s> <pad>",
    "word " * 300,
    "naïve 你好 def\n\t🙂 <s> " * 300,  # long enough to be encoded as a batch is
]
LAW = settings(
    max_examples=examples(20, 40),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="session")
def theirs(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def assert_same(ours: Tokenizer, theirs: Any, text: str) -> None:
    for special in (True, False):
        ids = theirs.encode(text, add_special_tokens=special)
        assert ours.encode(text, add_special_tokens=special) == ids
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip)
            assert ours.decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_equal_transformers(tokenizer: Tokenizer, theirs: Any, text: str) -> None:
    assert_same(tokenizer, theirs, text)


@LAW
@given(text=st.text(max_size=40))
def test_any_text_equals_transformers(tokenizer: Tokenizer, theirs: Any, text: str) -> None:
    assert_same(tokenizer, theirs, text)


@LAW
@given(ids=st.lists(st.integers(0, 600), max_size=30))
def test_any_ids_decode_as_transformers(tokenizer: Tokenizer, theirs: Any, ids: list[int]) -> None:
    assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_vocabulary_and_special_ids_equal_transformers(tokenizer: Tokenizer, theirs: Any) -> None:
    assert tokenizer.vocab_size == len(theirs)
    for name in ("bos_token_id", "eos_token_id"):
        assert getattr(tokenizer, name) == getattr(theirs, name)
    assert tokenizer.special_tokens == theirs.special_tokens_map
    assert tokenizer.special_ids >= set(theirs.all_special_ids)
    for token_id in range(len(theirs) + 2):
        assert tokenizer.id_to_token(token_id) == theirs.convert_ids_to_tokens(token_id)


@pytest.fixture
def copy_of(folder_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Give a copy of a kind's folder, to be damaged or changed."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(folder_of(kind), tmp_path / kind))

    return copy


def test_truncation_and_padding_of_the_file_are_off(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("byte_level_chat")
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert state["truncation"]["max_length"] == 5
    assert state["padding"]["strategy"] == {"Fixed": 8}
    tokenizer = Tokenizer.from_folder(folder)
    text = "a long prompt of many more than five tokens " * 4
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("a")) == 2


def test_older_special_token_files(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("byte_level")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"additional_special_tokens": ["<extra>"], "bos_token": None})
    )
    token = {"content": "<|endoftext|>", "lstrip": False, "normalized": False, "rstrip": False}
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": token, "pad_token": "<pad>"})
    )
    (folder / "added_tokens.json").write_text(json.dumps({"<extra>": 420, "<plain>": 421}))
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.special_tokens == theirs.special_tokens_map
    assert ours.special_tokens["pad_token"] == "<pad>"
    assert_same(ours, theirs, "a<extra>b <plain> c<pad><|endoftext|>")


def test_added_tokens_decoder(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("byte_level")
    plain = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "added_tokens_decoder": {
                    "0": {"content": "<|endoftext|>", "special": True, **plain},
                    "420": {"content": "<new>", "special": False, **plain},
                },
                "eos_token": "<|endoftext|>",
                "extra_special_tokens": {"audio_token": "<audio>"},
                "split_special_tokens": True,
                "tokenizer_class": "PreTrainedTokenizerFast",
            }
        )
    )
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.special_tokens == theirs.special_tokens_map
    assert "audio_token" in ours.special_tokens
    assert_same(ours, theirs, "a <new>  b<|endoftext|>  c<audio>")


@pytest.mark.parametrize("flag", ["add_bos_token", "add_eos_token", "add_prefix_space"])
def test_vocab_and_merges_make_a_byte_level_bpe(copy_of: Callable[[str], Path], flag: str) -> None:
    folder = copy_of("gpt2_class")
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *map(" ".join, model["merges"])])
    (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({flag: True}))
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert_same(ours, theirs, text)
    assert ours.special_tokens == theirs.special_tokens_map


def test_clean_up_can_be_forced_on_bpe(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("byte_level_chat")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = True
    path.write_text(json.dumps(config))
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.decode(ours.encode("is it ?")) == "is it?"
    assert_same(ours, theirs, "It is n't , is it ?")


def damage(folder: Path, name: str, text: str | None) -> None:
    path = folder / name
    if text is None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", ""),
        ("tokenizer.json", '{"model": {"type": "Unheard"}}'),
        ("tokenizer_config.json", None),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"eos_token": 7}'),
        ("tokenizer_config.json", "[" * 100_000),
        ("special_tokens_map.json", "{"),
    ],
)
def test_broken_files_are_named(
    copy_of: Callable[[str], Path], name: str, text: str | None
) -> None:
    folder = copy_of("byte_level")
    damage(folder, name, text)
    with pytest.raises(TokenizerError, match="eos_token" if text and "eos" in text else name):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "spiece.model", "vocab.txt", "tekken.json", "tiktoken.model"]
)
def test_other_formats_are_refused_with_the_way_to_convert(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        TokenizerError, match=rf"has {name} but no tokenizer\.json.*save_pretrained"
    ):
        find_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(TokenizerError, match="is not a folder"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    assert find_tokenizer(tmp_path) is None


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_half_of_a_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        find_tokenizer(tmp_path)
