"""A constraint allows exactly what goes on with its grammar, however it got there."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models

import kept
from kept import NoTokenError, OptionError
from kept.grammar import Ahead, Constraint, Grammar, GrammarCompiler, allowed_of
from kept.text import Tokenizer, find_tokenizer

END = frozenset({0})
TEXT = '{"a": 1, "b": ["x", "y"]}'
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "b": {"type": "array", "items": {"enum": ["x", "y"]}},
    },
    "required": ["a"],
    "additionalProperties": False,
}


def byte_level() -> Tokenizer:
    found = find_tokenizer(Path(kept.__file__).parent / "bundled")
    assert found is not None
    return found


def byte_fallback(ends: tuple[str, ...] = ("</s>",)) -> Tokenizer:
    """As Llama's and Gemma's are: words begin with a mark, and bytes stand for what is missing."""
    words = ["\u2581", '"', "{", "}", "a", "1", ":", ",", "\u2581[", "[", "]", "x", "b", '":', "y"]
    names = [*ends, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocab = {name: i for i, name in enumerate(names)}
    model = models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.normalizer = tokenizers.normalizers.Replace(" ", "\u2581")
    backend.add_special_tokens([AddedToken(end, special=True) for end in ends])
    return Tokenizer(backend)


TOKENIZERS = {"byte level": byte_level, "byte fallback": byte_fallback}


def made(tokenizer: Tokenizer, grammar: Grammar, ends: frozenset[int] = END) -> Constraint:
    return Constraint(GrammarCompiler.of(tokenizer).compile(grammar), ends)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_of_the_grammar_is_allowed_token_by_token(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    constraint = made(tokenizer, Grammar.json_schema(SCHEMA))
    ids = np.array(tokenizer.encode(TEXT), dtype=np.int64)
    for i, token in enumerate(ids.tolist()):
        assert constraint.allows(ids[:i], token)
        assert not constraint.allows(ids[:i], 0)
    assert np.flatnonzero(allowed_of(constraint.words(ids), 5000)).tolist() == [0]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_special_token_spells_text(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    constraint = made(tokenizer, Grammar.regex("(.|\n)*"), frozenset())
    allowed = allowed_of(constraint.words(np.empty(0, dtype=np.int64)), tokenizer.vocab_size)
    assert allowed.sum() > 150
    assert not allowed[sorted(tokenizer.special_ids)].any()


def test_what_was_taken_is_taken_back() -> None:
    tokenizer = byte_level()
    constraint = made(tokenizer, Grammar.json_schema(SCHEMA))
    ids = np.array(tokenizer.encode(TEXT), dtype=np.int64)
    other = np.array(tokenizer.encode('{"a": 7}'), dtype=np.int64)
    draw = random.Random(3)
    for _ in range(60):
        text = draw.choice((ids, other))
        count = draw.randint(0, text.size)
        if draw.random() < 0.3 and count < text.size:
            constraint.take(int(draw.choice((ids, other))[count if count < other.size else 0]))
        fresh = made(tokenizer, Grammar.json_schema(SCHEMA))
        assert (constraint.words(text[:count]) == fresh.words(text[:count])).all()


def test_drafts_are_allowed_up_to_the_first_that_is_not() -> None:
    tokenizer = byte_level()
    constraint = made(tokenizer, Grammar.json_schema(SCHEMA))
    ids = tokenizer.encode(TEXT)
    begun = np.array(ids[:3], dtype=np.int64)
    before = constraint.words(begun).copy()
    assert constraint.num_allowed(begun, ids[3:7]) == 4
    assert constraint.num_allowed(begun, [*ids[3:5], tokenizer.encode("}")[0]]) == 2
    assert (constraint.words(begun) == before).all()


def test_masks_ahead_are_those_asked_for() -> None:
    tokenizer = byte_level()
    rows = [made(tokenizer, Grammar.json_schema(SCHEMA)) for _ in range(40)]
    rows += [made(tokenizer, Grammar.regex("[a-z]*"), frozenset({0, 5})) for _ in range(9)]
    ahead, nothing = Ahead(), np.empty(0, dtype=np.int64)
    ahead.start(rows)
    alone = [Constraint(row.compiled, frozenset(row.ends)) for row in rows]
    for row, other in zip(rows, alone, strict=True):
        assert (row.words(nothing) == other.words(nothing)).all()


def test_a_job_that_fails_is_done_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the thread goes on: who starts the next job waits until that has been begun."""
    tokenizer = byte_level()
    rows = [made(tokenizer, Grammar.json_schema(SCHEMA)) for _ in range(40)]
    more = [made(tokenizer, Grammar.json_schema(SCHEMA)) for _ in range(40)]
    ahead, nothing = Ahead(), np.empty(0, dtype=np.int64)
    ends_in = Constraint.ends_in

    def fail(row: Constraint, words: Any) -> None:
        if len(words) > 1:
            raise MemoryError("too much")
        ends_in(row, words)

    monkeypatch.setattr(Constraint, "ends_in", fail)
    ahead.start(rows)
    alone = made(tokenizer, Grammar.json_schema(SCHEMA)).words(nothing)
    assert all((row.words(nothing) == alone).all() for row in rows)
    assert "too much" in caplog.text
    starting = threading.Thread(target=ahead.start, args=(more,), daemon=True)
    starting.start()
    starting.join(60)
    assert not starting.is_alive()
    assert all((row.words(nothing) == alone).all() for row in more)


def test_a_grammar_is_compiled_once() -> None:
    compiler = GrammarCompiler.of(byte_level())
    same = Grammar.json_schema(json.dumps(SCHEMA))
    assert compiler.compile(same) is compiler.compile(Grammar.json_schema(SCHEMA))


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (Grammar.regex("("), "the regular expression cannot be used: .*unclosed group"),
        (Grammar.lark("start: other"), "the grammar cannot be used: .*other"),
        (Grammar.lark("start: a\na: /(/"), r"at 2\(4\)"),
        (Grammar.json_schema({"type": "string", "minLength": 2, "maxLength": 1}), "minLength"),
        (Grammar.json_schema({"oneOf": [{"minimum": 1}, {"maximum": 3}]}), "use anyOf"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_said_in_a_line(grammar: Grammar, says: str) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        GrammarCompiler.of(byte_level()).compile(grammar)
    assert "\n" not in str(caught.value)
    assert "llguidance {" not in str(caught.value)


def test_a_tokenizer_whose_tokens_are_no_bytes_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(OptionError, match="no bytes of a text"):
        GrammarCompiler.of(Tokenizer(backend))


@pytest.mark.parametrize("kind", ["first", "later"])
def test_a_dead_end_is_told_in_words(kind: str) -> None:
    """llguidance says "NoExtensionBias"."""
    compiler, words = GrammarCompiler.of(byte_level()), "allows no text at all; correct that part"
    if kind == "first":
        with pytest.raises(OptionError, match=words):
            compiler.compile(Grammar.lark("start: T\nT: /ab/ & /cd/"))
        return
    constraint = Constraint(compiler.compile(Grammar.lark('start: "a" T\nT: /ab/ & /cd/')), END)
    taken = np.array(byte_level().encode("a"))
    with pytest.raises(NoTokenError, match=words):
        constraint.words(taken)
