"""Tokenizers out of GGUF files: the ids that transformers gives for the same file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, trainers
from transformers import AutoTokenizer

from kept.errors import TemplateError, TokenizerError
from kept.text import ChatTemplate, Tokenizer, find_tokenizer

from .conftest import BYTE_TOKENS, CORPUS, byte_level

TEXTS = (
    "",
    " ",
    "The quick brown fox isn't 12345 lazy.",
    "  two spaces,   three\n\n\nlines\t\ttabs  ",
    "naïve café 你好,世界 🙂 \u00a0",
    "<|im_start|>user\nhi<|im_end|><think>no</think>",
    "<s>[INST] x </s>",
    "HTTPServer camelCase DÉJÀ 3,50€ I'LL",
)
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6


def write(path: Path, architecture: str, **metadata: Any) -> Path:
    """A file with no tensors; in names of metadata two underlines are a dot."""
    writer = gguf.GGUFWriter(path, architecture)
    config = {"block_count": 1, "context_length": 8, "embedding_length": 8, "vocab_size": 8}
    for name, value in {
        **config,
        **{"feed_forward_length": 8, "attention.head_count": 1},
    }.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6)
    for key, value in metadata.items():
        name = f"tokenizer.ggml.{key}" if "__" not in key else key.replace("__", ".")
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
        add.get(type(value), writer.add_array)(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level_fields(pre: str | None) -> dict[str, Any]:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    state = json.loads(byte_level(specials).to_str())
    vocabulary = state["model"]["vocab"]
    tokens = [*sorted(vocabulary, key=vocabulary.get), "<think>", "</think>", "[PAD423]"]
    kinds = {**dict.fromkeys(specials, CONTROL), "<think>": USER, "</think>": USER, "[PAD423]": 5}
    found: dict[str, Any] = {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": [kinds.get(token, NORMAL) for token in tokens],
        "merges": [" ".join(pair) for pair in state["model"]["merges"]],
        "eos_token_id": tokens.index("<|im_end|>"),
        "padding_token_id": 0,
        "bos_token_id": 0,
    }
    return found if pre is None else {**found, "pre": pre}


def pieces_fields(*, spaces: bool = False, merges: bool = False) -> dict[str, Any]:
    backend = Library(models.BPE(unk_token="<unk>", byte_fallback=True))
    named = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=[*named, *BYTE_TOKENS], show_progress=False
    )
    backend.train_from_iterator([("▁" + t).replace(" ", "▁") for t in CORPUS], trainer)
    state = json.loads(backend.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    tokens = [token for token in tokens if "▁" not in token[1:]]
    if spaces:  # as Gemma's files have them
        tokens = ["<pad>", "<eos>", "<bos>", *tokens, "  ", "   ", "\n\n"]
    kinds = {**dict.fromkeys(["<s>", "</s>", "<pad>", "<eos>", "<bos>"], CONTROL), "<unk>": UNKNOWN}
    kinds |= dict.fromkeys(BYTE_TOKENS, BYTE) | dict.fromkeys(["  ", "   ", "\n\n"], USER)
    found = {
        "model": "llama",
        "tokens": tokens,
        "scores": [float(-i) for i in range(len(tokens))],
        "token_type": [kinds.get(token, NORMAL) for token in tokens],
        "bos_token_id": tokens.index("<bos>" if spaces else "<s>"),
        "eos_token_id": tokens.index("<eos>" if spaces else "</s>"),
        "unknown_token_id": tokens.index("<unk>"),
    }
    if merges:
        kept = {*tokens}
        pairs = (pair for pair in state["merges"] if {*pair, "".join(pair)} <= kept)
        found["merges"] = [" ".join(pair) for pair in pairs]
    return found


def check_as_transformers(path: Path) -> Tokenizer:
    ours = find_tokenizer(path)
    assert ours is not None
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text).input_ids, text
        plain = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_special_tokens=False) == plain, text
        assert ours.decode(plain, skip_special_tokens=False) == theirs.decode(plain), text
        whole = theirs.decode(plain, skip_special_tokens=True)
        assert ours.decode(plain, skip_special_tokens=True) == whole, text
    return ours


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "tekken", "gpt-4o", "gpt-2"])
@pytest.mark.parametrize("bos", [False, True])
def test_byte_level(pre: str, bos: bool, tmp_path: Path) -> None:
    architecture = "qwen2" if pre == "qwen2" else "llama"
    path = write(tmp_path / "m.gguf", architecture, **byte_level_fields(pre), add_bos_token=bos)
    tokenizer = check_as_transformers(path)
    assert tokenizer.eos_token_id == 2
    assert (tokenizer.encode("x")[0] == tokenizer.bos_token_id) == bos


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "phi3"])
@pytest.mark.parametrize("flags", [{}, {"add_bos_token": False, "add_eos_token": True}])
def test_sentence_pieces(architecture: str, flags: dict[str, bool], tmp_path: Path) -> None:
    fields = pieces_fields(spaces=architecture.startswith("gemma"))
    path = write(tmp_path / "m.gguf", architecture, **fields, **flags)
    tokenizer = check_as_transformers(path)
    assert (tokenizer.encode("x")[0] == tokenizer.bos_token_id) == (not flags)


def test_merges_of_the_file_come_first(tmp_path: Path) -> None:
    check_as_transformers(write(tmp_path / "m.gguf", "llama", **pieces_fields(merges=True)))


def test_what_transformers_does_not_read(tmp_path: Path) -> None:
    """A prefix space that is off, digits one by one, and words that are tokens before any merge."""
    fields = pieces_fields()
    with_space, without = (
        find_tokenizer(write(tmp_path / f"{on}.gguf", "llama", **fields, add_space_prefix=on))
        for on in (True, False)
    )
    assert with_space is not None
    assert without is not None
    assert with_space.encode("The") == without.encode(" The")
    assert without.decode(without.encode("The"), skip_special_tokens=True) == "The"
    digits = find_tokenizer(write(tmp_path / "d.gguf", "llama", **byte_level_fields("smollm")))
    assert digits is not None
    assert [digits.id_to_token(i) for i in digits.encode("3,50 42")][-2:] == ["4", "2"]
    fields = byte_level_fields("llama-bpe")
    fields["tokens"][-1] = "zzzz"  # which no merge makes
    fields["token_type"][-1] = NORMAL
    llama3 = find_tokenizer(write(tmp_path / "w.gguf", "llama", **fields))
    assert llama3 is not None
    assert llama3.encode("zzzz") == [llama3.bos_token_id, len(fields["tokens"]) - 1]


def test_older_files_of_qwen(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "qwen2", **byte_level_fields(None))
    named = write(tmp_path / "n.gguf", "qwen2", **byte_level_fields("qwen2"))
    ours, theirs = find_tokenizer(path), find_tokenizer(named)
    assert ours is not None
    assert theirs is not None
    assert all(ours.encode(text) == theirs.encode(text) for text in TEXTS)
    assert ours.encode("e\u0301") == ours.encode("\u00e9")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "deepseek-v9"}, r"pre = 'deepseek-v9', a way to cut text .* gpt-2, gpt-4o"),
        ({"pre": None}, "pre = '', a way to cut"),
        ({"model": "rwkv"}, "of kind 'rwkv', and kept reads"),
        ({"tokens": [1, 2]}, "tokens, which must be a list of str"),
        ({"token_type": [1]}, "tokens and 1 types"),
        ({"eos_token_id": 5000}, "eos_token_id = 5,000, of 421 tokens"),
        ({"merges": ["ab"]}, "merge 'ab', which is no pair"),
        ({"merges": ["a nothing"]}, "cannot be made"),
        ({"add_bos_token": 1}, "add_bos_token = 1, which must be bool"),
    ],
)
def test_what_cannot_be_read_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    fields = {**byte_level_fields("gpt-2"), **changes}
    given = {key: value for key, value in fields.items() if value is not None}
    with pytest.raises(TokenizerError, match=message):
        find_tokenizer(write(tmp_path / "m.gguf", "llama", **given))


def test_tokens_too_long_to_be_cut(tmp_path: Path) -> None:
    fields = pieces_fields()
    fields["tokens"][-1] = "x" * 20_000
    with pytest.raises(TokenizerError, match="longer than any vocabulary's"):
        find_tokenizer(write(tmp_path / "m.gguf", "llama", **fields))


def test_no_tokenizer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert find_tokenizer(write(tmp_path / "m.gguf", "llama")) is None
        assert find_tokenizer(write(tmp_path / "n.gguf", "llama", model="none")) is None


def test_chat_templates(tmp_path: Path) -> None:
    text = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    path = write(tmp_path / "m.gguf", "llama", tokenizer__chat_template=text)
    template = ChatTemplate.from_folder(path, {"bos_token": "<s>"})
    assert template.render([{"role": "user", "content": "hi"}]) == "<s>hi"
    named = write(
        tmp_path / "n.gguf",
        "llama",
        tokenizer__chat_template=text,
        tokenizer__chat_template__tool_use="tools",
    )
    assert ChatTemplate.from_folder(named).templates == {"default": text, "tool_use": "tools"}
    with pytest.raises(TemplateError, match=r"has no chat template \(tokenizer.chat_template\)"):
        ChatTemplate.from_folder(write(tmp_path / "o.gguf", "llama"))
    with pytest.raises(TemplateError, match="is no text"):
        ChatTemplate.from_folder(write(tmp_path / "p.gguf", "llama", tokenizer__chat_template=1))
