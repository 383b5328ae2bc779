"""Spelling: text up to a stop string that may name special tokens, which are not shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.text import Spelling, Tokenizer, ends_in_stop

BEGIN, END = "<|im_start|>", "<|im_end|>"
PIECES = st.lists(st.sampled_from(["a", "b", "é🙂", " ", BEGIN, END]), max_size=12)
STOPS = st.lists(
    st.lists(
        st.sampled_from(["a", "b", "🙂", BEGIN, END, "im_end|>", "<|im"]), min_size=1, max_size=3
    ).map("".join),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="session")
def chat(folder_of: Callable[[str], Path]) -> Tokenizer:
    return Tokenizer.from_folder(folder_of("byte_level_chat"))


def spell(
    tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str], prompt: Sequence[int] = ()
) -> tuple[str, int]:
    """The text, and how many tokens it took to stop; -1 for none of them."""
    spelling = Spelling(tokenizer, prompt, tuple(stops))
    text, after = "", -1
    for number, token_id in enumerate(ids, 1):
        text += spelling.add([token_id])
        if spelling.stopped:
            after = number
            break
    return text + spelling.finish(), after if spelling.stopped else 0


def is_certain(text: str, stops: Sequence[str]) -> bool:
    """Whether a stop string has been said that no other can still begin before."""
    found = min((text.find(stop) for stop in stops if stop in text), default=-1)
    return found >= 0 and not any(
        stop.startswith(text[start:]) for start in range(found) for stop in stops
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pieces=PIECES, stops=STOPS)
def test_stops_are_searched_in_the_whole_text_and_specials_are_not_shown(
    chat: Tokenizer, pieces: list[str], stops: list[str]
) -> None:
    ids = [i for piece in pieces for i in chat.encode(piece, add_special_tokens=False)]
    whole = chat.decode(ids, skip_special_tokens=False)
    assert whole == "".join(pieces)
    starts = [whole.find(stop) for stop in stops if stop in whole]
    shown, left = "", min(starts, default=len(whole))
    for piece in pieces:
        shown += "" if piece in (BEGIN, END) else piece[:left]
        left -= min(left, len(piece))
    told = (chat.decode(ids[: n + 1], skip_special_tokens=False) for n in range(len(ids)))
    certain = (n for n, text in enumerate(told, 1) if is_certain(text.rstrip("\ufffd"), stops))
    assert spell(chat, ids, stops) == (shown, next(certain, -1 if starts else 0))
    prefixes = [tuple(ids[:n]) for n in range(1, len(ids) + 1)]
    assert bool(starts) == any(ends_in_stop(chat, (), ids, tuple(stops)) for ids in prefixes)


@pytest.mark.parametrize(
    ("kind", "special"),
    [
        *[("byte_level_chat", END), ("llama_style", "</s>"), ("llama_legacy_class", "</s>")],
        *[("unigram", "</s>"), ("t5_class", "<extra_id_1>"), ("wordpiece", "[SEP]")],
        *[("bpe_suffix", "<unk>"), ("no_decoder", "<unk>")],
    ],
)
def test_every_kind_of_tokenizer(folder_of: Callable[[str], Path], kind: str, special: str) -> None:
    tokenizer = Tokenizer.from_folder(folder_of(kind))
    words = tokenizer.encode("The quick brown fox", add_special_tokens=False)
    if kind == "t5_class":
        words = words[:-1] if words[-1] == tokenizer.eos_token_id else words
    mark = tokenizer.backend.token_to_id(special)
    ids = [*words, mark, *words]
    before = tokenizer.decode(words)
    assert spell(tokenizer, ids, [special]) == (before.rstrip(), len(words) + 1)
    raw = tokenizer.decode(ids[: len(words) + 1], skip_special_tokens=False)
    # Plain text and a special token, with what this tokenizer puts between the two.
    stop = raw[raw.index("brown") :]
    assert stop.endswith(special)
    text, after = spell(tokenizer, ids, [stop])
    assert (text, after) == (before[: before.index("brown")], len(words) + 1)
    text, after = spell(tokenizer, ids, [special + "never", "never" + special])
    assert (text, after) == (tokenizer.decode(ids), 0)
    assert spell(tokenizer, ids, [special], prompt=[*words, mark])[1] == len(words) + 1


def test_half_a_character_before_a_special_token(chat: Tokenizer) -> None:
    first, second = (chat.backend.token_to_id(c) for c in "ÃĠ")
    accent = chat.backend.token_to_id("©")  # é is Ã© in a byte-level vocabulary
    end = chat.backend.token_to_id(END)
    assert spell(chat, [first, accent], [END]) == ("é", 0)
    assert spell(chat, [first, end, accent], [END]) == ("\ufffd", 2)
    assert spell(chat, [first, end, accent, second], [END + "x"]) == ("é ", 0)
    assert spell(chat, [first, accent, end], [END]) == ("é", 3)


def test_a_text_is_withheld_while_a_special_token_may_complete_its_stop(chat: Tokenizer) -> None:
    line, end = chat.encode("\n", add_special_tokens=False)[0], chat.backend.token_to_id(END)
    spelling = Spelling(chat, (), ("\n" + END,))
    [letter] = chat.encode("a", add_special_tokens=False)
    assert [spelling.add([i]) for i in (letter, line, letter, line)] == ["a", "", "\na", ""]
    assert spelling.add([end]) == ""
    assert spelling.stopped
    assert spelling.finish() == ""


def test_a_special_token_stands_between_the_letters_of_a_stop_string(chat: Tokenizer) -> None:
    """As in transformers: "ab" is not said where a token stands between the two."""
    a, b = (chat.encode(c, add_special_tokens=False)[0] for c in "ab")
    end = chat.backend.token_to_id(END)
    assert spell(chat, [a, end, b], ["ab"]) == ("ab", 0)
