"""IncrementalDetokenizer against decoding everything at once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from kept.text import IncrementalDetokenizer, Tokenizer

TEXTS = [
    "",
    " two  spaces ",
    "It isn't , is it ? We 've ' no ' idea . They 're n't .",
    "naïve é 你好,世界。 🙂👩‍👩‍👧🏽!\r\n\tend",
    "<s>hi</s> <|im_start|>user<tool><|im_end|> [CLS] x",
]
LAW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
IDS = st.lists(st.integers(0, 470), max_size=30)


def stream(detokenizer: IncrementalDetokenizer, chunks: Sequence[Sequence[int]]) -> list[str]:
    return [*map(detokenizer.add, chunks), detokenizer.finish()]


def one_by_one(ids: Sequence[int]) -> list[list[int]]:
    return [[token_id] for token_id in ids]


@LAW
@given(ids=IDS, skip=st.booleans(), size=st.integers(1, 7))
def test_pieces_joined_are_the_text(
    tokenizer: Tokenizer, ids: list[int], skip: bool, size: int
) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    chunks = [ids[i : i + size] for i in range(0, len(ids), size)]
    expected = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(stream(detokenizer, chunks)) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_encoded_text_is_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    pieces = stream(IncrementalDetokenizer(tokenizer), one_by_one(ids))
    assert "".join(pieces) == tokenizer.decode(ids)


@LAW
@given(prompt=st.text(max_size=20) | st.sampled_from(TEXTS), ids=IDS)
def test_after_a_prompt_the_pieces_continue_its_text(
    tokenizer: Tokenizer, prompt: str, ids: list[int]
) -> None:
    prompt_ids = tokenizer.encode(prompt)
    whole, before = tokenizer.decode(prompt_ids + ids), tokenizer.decode(prompt_ids)
    assume(whole.startswith(before))  # bytes that spoil the prompt's, or spaces cleaned up in it
    pieces = stream(IncrementalDetokenizer(tokenizer, prompt_ids), one_by_one(ids))
    assert before + "".join(pieces) == whole


@pytest.mark.parametrize("repeats", [1, 100])
def test_the_first_word_after_a_prompt_keeps_its_space(
    folder_of: Callable[[str], Path], repeats: int
) -> None:
    tokenizer = Tokenizer.from_folder(folder_of("llama_style"))
    prompt_ids = tokenizer.encode("The quick" + " brown" * repeats)
    ids = tokenizer.encode("fox", add_special_tokens=False)
    assert "".join(stream(IncrementalDetokenizer(tokenizer), [ids])) == "fox"
    assert "".join(stream(IncrementalDetokenizer(tokenizer, prompt_ids), [ids])) == " fox"
    only_bos = tokenizer.encode("")
    assert "".join(stream(IncrementalDetokenizer(tokenizer, only_bos), [ids])) == "fox"


def byte_ids(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    """Give one token for each byte, in either way of writing bytes as tokens."""
    ids = [tokenizer.backend.token_to_id(f"<0x{byte:02X}>") for byte in raw]
    if None in ids:
        characters = _characters_of_bytes()
        ids = [tokenizer.backend.token_to_id(characters[byte]) for byte in raw]
    return [token_id for token_id in ids if token_id is not None]


def _characters_of_bytes() -> dict[int, str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


@pytest.fixture
def byte_level(folder_of: Callable[[str], Path]) -> Tokenizer:
    return Tokenizer.from_folder(folder_of("byte_level"))


@pytest.fixture
def byte_fallback(folder_of: Callable[[str], Path]) -> Tokenizer:
    return Tokenizer.from_folder(folder_of("llama_style"))


def test_byte_level_shows_a_character_with_its_last_byte(byte_level: Tokenizer) -> None:
    ids = byte_ids(byte_level, "🙂é!".encode())
    pieces = stream(IncrementalDetokenizer(byte_level), one_by_one(ids))
    assert pieces == ["", "", "", "🙂", "", "é", "!", ""]


def test_byte_level_shows_what_is_certainly_invalid(byte_level: Tokenizer) -> None:
    ids = byte_ids(byte_level, b"\xf0\x9fa\xffb\xe4\xbd")
    pieces = stream(IncrementalDetokenizer(byte_level), one_by_one(ids))
    assert pieces == ["", "", "�a", "�", "b", "", "", "�"]


def test_byte_fallback_shows_a_run_when_it_ends(byte_fallback: Tokenizer) -> None:
    after = byte_fallback.backend.token_to_id("a")
    assert after is not None
    ids = [*byte_ids(byte_fallback, "🙂".encode()), after]
    pieces = stream(IncrementalDetokenizer(byte_fallback), one_by_one(ids))
    assert pieces == ["", "", "", "", "🙂a", ""]
    # One bad byte spoils the run: the library then gives U+FFFD for every byte of it.
    ids = [*byte_ids(byte_fallback, "🙂".encode() + b"\x80"), after]
    pieces = stream(IncrementalDetokenizer(byte_fallback), one_by_one(ids))
    assert "".join(pieces) == "�����a" == byte_fallback.decode(ids)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
def test_a_character_begun_in_the_prompt_comes_whole(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    first, last = "é🙂".encode()[:4], "é🙂".encode()[4:]
    detokenizer = IncrementalDetokenizer(tokenizer, byte_ids(tokenizer, first))
    assert "".join(stream(detokenizer, one_by_one(byte_ids(tokenizer, last)))) == "🙂"


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize("begun", ["é".encode()[:1], "🙂".encode()[:2], "🙂".encode()[:3]])
@pytest.mark.parametrize("rest", [b"", b"b", b"b\xc3"])
def test_a_character_that_nobody_completes_is_of_the_prompt_alone(
    name: str, begun: bytes, rest: bytes, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    prompt, ids = byte_ids(tokenizer, b"a" + begun), byte_ids(tokenizer, rest)
    pieces = stream(IncrementalDetokenizer(tokenizer, prompt), one_by_one(ids))
    assert tokenizer.decode(prompt) + "".join(pieces) == tokenizer.decode(prompt + ids)


def test_bytes_that_end_the_prompt_are_not_shown_again(byte_fallback: Tokenizer) -> None:
    prompt_ids = byte_ids(byte_fallback, "🙂".encode())
    more = byte_ids(byte_fallback, "é".encode())
    pieces = stream(IncrementalDetokenizer(byte_fallback, prompt_ids), [more])
    assert "".join(pieces) == "é"
    broken = byte_ids(byte_fallback, b"\xff\xff")
    pieces = stream(IncrementalDetokenizer(byte_fallback, broken), [more])
    assert "".join(pieces) == "é"


def test_nothing_is_kept_back_without_need(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level)
    ids: list[int] = []
    shown = ""
    for token_id in byte_level.encode("def f(x):\n    return x  # done. isn't it?\n"):
        ids.append(token_id)
        shown += detokenizer.add([token_id])
        assert shown == byte_level.decode(ids)


DECODERS = {
    "ctc": decoders.CTC(pad_token="a", word_delimiter_token="b"),
    "replace_all": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "<>")]),
    "strip_text": decoders.Sequence([decoders.Fuse(), decoders.Strip("a", 1, 0)]),
    "strip_tokens": decoders.Strip("a", 1, 0),
    "suffix_inside": decoders.Sequence([decoders.BPEDecoder("b"), decoders.Replace("a", "c")]),
    "wordpiece": decoders.WordPiece("##", True),
    "metaspace": decoders.Metaspace("b", "first", True),
    "bytes_then_text": decoders.Sequence([decoders.ByteLevel(), decoders.Strip("a", 2, 0)]),
}


@pytest.mark.parametrize("name", sorted(DECODERS))
@settings(parent=LAW, max_examples=100)
@given(ids=st.lists(st.integers(0, 9), max_size=14), num_prompt=st.integers(0, 6))
def test_every_kind_of_decoder(name: str, ids: list[int], num_prompt: int) -> None:
    words = ["a", "b", "ab", "aab", "##a", "ba", ".", "<0xC3>", "<0xA9>", "ccb"]
    library = LibraryTokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "."))
    library.decoder = DECODERS[name]
    tokenizer = Tokenizer(library)
    pieces = stream(IncrementalDetokenizer(tokenizer), one_by_one(ids))
    assert "".join(pieces) == tokenizer.decode(ids)
    prompt, rest = ids[:num_prompt], ids[num_prompt:]
    whole, before = tokenizer.decode(ids), tokenizer.decode(prompt)
    if whole.startswith(before):
        pieces = stream(IncrementalDetokenizer(tokenizer, prompt), one_by_one(rest))
        assert before + "".join(pieces) == whole


def test_added_tokens_that_are_no_bytes_are_plain_text() -> None:
    library = LibraryTokenizer(models.BPE({c: i for i, c in enumerate("abÃ©")}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_tokens([AddedToken("你 好"), AddedToken("é")])
    tokenizer = Tokenizer(library)
    ids = [0, 2, 4, 2, 3, 5, 1]
    pieces = stream(IncrementalDetokenizer(tokenizer), one_by_one(ids))
    assert "".join(pieces) == tokenizer.decode(ids)
