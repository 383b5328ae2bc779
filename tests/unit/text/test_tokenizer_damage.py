"""Tokenizer files that are broken or hostile: kept's error, never a panic or the process's end."""

import base64
import json
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.errors import KeptError, OptionError, TokenizerError
from kept.text import IncrementalDetokenizer, Tokenizer

VOCABULARY = {"a": 0, "b": 1, " ": 2, "<0x61>": 3, "ab": 4}
A, B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")


def table(trie: bytes, texts: bytes, length: int | None = None) -> dict[str, Any]:
    size = (len(trie) if length is None else length).to_bytes(4, "little")
    encoded = base64.b64encode(size + trie + texts).decode()
    return {"type": "Precompiled", "precompiled_charsmap": encoded}


def replace(old: dict[str, str], new: str, times: int = 1) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": old, "content": new}
    return {"type": "Sequence", "normalizers": [step] * times}


def tokenizer_json(**parts: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": VOCABULARY, "merges": [["a", "b"]]}
    return {"version": "1.0", "added_tokens": [], "model": model, **parts}


# What the library panics on: at once, or with the first text or token.
PANICS: dict[str, dict[str, Any]] = {
    "regex": {
        "pre_tokenizer": {
            **{"type": "Split", "pattern": {"Regex": "("}},
            **{"behavior": "Isolated", "invert": False},
        }
    },
    "table empty": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "table of no base64": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "@"}},
    "table of nothing": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": None}},
    "table cut": {"normalizer": table(b"abcd" * 5, b"", length=400)},
    "table claims too much": {"normalizer": table(b"abcd" * 5, b"", length=2**31 - 4)},
    "table of odd length": {"normalizer": table(b"abcdef", b"x\0")},
    "table with wrong text": {"normalizer": table(b"\xff\xff\xff\x7f" * 256, b"\xff\xfe\0")},
    "table too short": {"normalizer": table(b"abcd", b"x\0")},
    "template": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, A],
            "pair": [A, B],
            "special_tokens": {},
        }
    },
    "merge": {"model": {"type": "BPE", "vocab": VOCABULARY, "merges": ["a x"]}},
    "merge of a prefix": {
        "model": {
            **{"type": "BPE", "vocab": {"a": 0, "é": 1}, "merges": ["a é"]},
            "continuing_subword_prefix": "éé",
        }
    },
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "strip": {"decoder": {"type": "Strip", "content": "a", "start": 9, "stop": 9}},
    "no unknown token": {
        "model": {"type": "WordPiece", "vocab": {"z": 0}, "unk_token": "[UNK]"}
        | {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    },
    "no unknown piece": {"model": {"type": "Unigram", "unk_id": None, "vocab": []}},
    "prepending": {"normalizer": {"type": "Prepend", "prepend": "x" * 10_000}},
    "decoder that grows": {
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 16}] * 12,
        }
    },
}


def write(folder: Path, tokenizer: Any, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def use(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    tokenizer.encode("aab b ab")
    tokenizer.decode([0, 1, 2])
    detokenizer = IncrementalDetokenizer(tokenizer)
    detokenizer.add([0, 1, 2])
    detokenizer.finish()


@pytest.mark.parametrize("name", PANICS)
def test_what_the_library_panics_on_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(TokenizerError, match=r"damaged|correct|download"):
        use(write(tmp_path / "x", tokenizer_json(**PANICS[name])))


def test_a_regex_that_goes_back_without_end_is_an_error(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated"}
    state = tokenizer_json(pre_tokenizer={**split, "invert": False})
    tokenizer = Tokenizer.from_folder(write(tmp_path / "x", state))
    with pytest.raises(TokenizerError, match="retry-limit"):
        tokenizer.encode("x" * 40)


def test_panics_while_text_arrives_are_errors(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", tokenizer_json(**PANICS["strip"]))
    detokenizer = IncrementalDetokenizer(Tokenizer.from_folder(folder))
    with pytest.raises(TokenizerError, match="cannot decode"):
        detokenizer.add([0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_the_library_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    tokenizer = Tokenizer.from_folder(write(tmp_path / "x", tokenizer_json()))

    class Interrupted:
        def encode(self, *_: Any, **__: Any) -> Any:
            raise error

    monkeypatch.setattr(tokenizer, "backend", Interrupted())
    with pytest.raises(error):
        tokenizer.encode("a")


GROWING = {
    "a text": replace({"String": "a"}, "a" * 16, times=12),
    "one long": replace({"String": "a"}, "b" * 200_000),
    "a regex": replace({"Regex": "."}, "aaaaaaaa", times=12),
    "every place": replace({"Regex": ""}, "aaaaaaaa", times=20),
    "a table": table(b"\0" * 1024, b"a" * 100_000 + b"\0"),
}


@pytest.mark.parametrize("name", GROWING)
def test_normalizers_that_grow_are_refused_before_they_do(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "x", tokenizer_json(normalizer=GROWING[name]))
    tokenizer = Tokenizer.from_folder(folder)
    with pytest.raises(OptionError, match="normalizer"):
        tokenizer.encode("a" * 1000)


def test_normalizers_that_only_could_grow_are_not_refused(tmp_path: Path) -> None:
    # Each of the characters is replaced, but no text has all of them everywhere.
    steps = [
        {"type": "Replace", "pattern": {"String": old}, "content": new}
        for old, new in zip("«»¡¿§¶†‡…", ["(quote)"] * 9, strict=True)
    ]
    state = tokenizer_json(normalizer={"type": "Sequence", "normalizers": steps})
    tokenizer = Tokenizer.from_folder(write(tmp_path / "x", state))
    text = "ab «a» … " * 30_000
    assert len(tokenizer.encode(text)) > 30_000


def test_a_process_survives_what_would_end_it(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / "table", tokenizer_json(**PANICS["table claims too much"])),
        write(tmp_path / "grow", tokenizer_json(normalizer=GROWING["a text"])),
        write(tmp_path / "decode", tokenizer_json(**PANICS["decoder that grows"])),
    ]
    code = (
        "import sys, resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))\n"
        "from pathlib import Path\n"
        "from kept.errors import KeptError\n"
        "from kept.text import Tokenizer\n"
        "for folder in sys.argv[1:]:\n"
        "    try:\n"
        "        tokenizer = Tokenizer.from_folder(Path(folder))\n"
        "        tokenizer.decode(tokenizer.encode('a' * 1000))\n"
        "    except KeptError as error:\n"
        "        print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["TokenizerError", "OptionError", "TokenizerError"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_any_damage_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    draw = random.Random(seed)
    normalizer = draw.choice([None, *GROWING.values(), {"type": "NFKC"}])
    broken = draw.choice([{}, *PANICS.values()]) | draw.choice([{}, *PANICS.values()])
    state = tokenizer_json(**{"normalizer": normalizer, **broken})
    text = json.dumps(state)
    for _ in range(draw.randrange(3)):
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice('0129"[]{}:,anul\\') + text[at + draw.randrange(3) :]
    folder = tmp_path_factory.getbasetemp() / "damage"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(text)
    with suppress(KeptError):
        use(folder)


def test_the_library_still_panics() -> None:
    # Where it does not any more, `panics.py` can go.
    with pytest.raises(BaseException, match="charsmap") as caught:
        tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(**PANICS["table cut"])))
    assert not isinstance(caught.value, Exception)
