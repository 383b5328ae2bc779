"""The steps of a tokenizer's decoder, one token at a time.

A decoder turns a list of vocabulary tokens into text through a chain of steps. Each step here does
to a growing list what the library's step does to a whole one: `feed` gives the outputs that no
later token can change and keeps the rest. What concerns one token alone is left to the library.

    ▁caf <0xC3> <0xA9> ▁!   Replace ▁ by space, ByteFallback, Fuse, Strip 1 on the left
    fed "▁caf" gives "caf"; "<0xC3>", "<0xA9>" give "" (a third byte could spoil both); "▁!" "é !"
"""

from __future__ import annotations

import codecs
import re
from copy import copy
from functools import lru_cache
from typing import Protocol, Self

from tokenizers import decoders, pre_tokenizers

from kept.text.panics import DECODING

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNKNOWN = "\ufffd"
_UTF_8 = codecs.getincrementaldecoder("utf-8")


class Step(Protocol):
    """One step of a decoder over a growing list of tokens; every call but `fork` mutates it."""

    def fork(self) -> Step:
        """A copy that goes on by itself."""

    def feed(self, tokens: list[str]) -> list[str]:
        """Take tokens, give the outputs that are certain."""

    def settle(self) -> list[str]:
        """Take what was fed as text already shown: give all of it but an unfinished character."""

    def finish(self) -> list[str]:
        """Say that no more tokens come, and give what was kept."""


class _Forks:
    """A step whose state is replaced, and never changed in place."""

    def fork(self) -> Self:
        return copy(self)


class PerToken(_Forks):
    """A step that looks at each token alone: Replace, or Strip before Fuse."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder

    def feed(self, tokens: list[str]) -> list[str]:
        with DECODING:
            return [self._decoder.decode([token]) for token in tokens]

    def settle(self) -> list[str]:
        return []

    def finish(self) -> list[str]:
        return []


class FirstTokenDiffers(PerToken):
    """A step that treats the very first token apart: Metaspace, WordPiece."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        super().__init__(decoder)
        self._started = False

    def feed(self, tokens: list[str]) -> list[str]:
        outputs = []
        for token in tokens:
            # An empty token in front makes this one not the first, and adds no text.
            with DECODING:
                outputs.append(self._decoder.decode(["", token] if self._started else [token]))
            self._started = True
        return outputs


class SpaceBetween(_Forks):
    """What the library does without a decoder: tokens with a space between."""

    def __init__(self) -> None:
        self._started = False

    def feed(self, tokens: list[str]) -> list[str]:
        outputs = [f" {token}" if self._started or i else token for i, token in enumerate(tokens)]
        self._started = self._started or bool(tokens)
        return outputs

    def settle(self) -> list[str]:
        return []

    def finish(self) -> list[str]:
        return []


class LastTokenDiffers(_Forks):
    """BPEDecoder: an end-of-word suffix is a space, but nothing at the end of the text."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._if_more = ""
        self._if_end = ""

    def feed(self, tokens: list[str]) -> list[str]:
        outputs = []
        for token in tokens:
            with DECODING:
                inner, last = self._decoder.decode([token, ""]), self._decoder.decode([token])
            certain = common_length(inner, last)
            outputs += [self._if_more, last[:certain]]
            self._if_more, self._if_end = inner[certain:], last[certain:]
        return outputs

    def settle(self) -> list[str]:
        return []

    def finish(self) -> list[str]:
        return [self._if_end]


class ByteRuns(_Forks):
    """ByteFallback: a run of `<0xNN>` tokens is their text, or one U+FFFD per byte.

    One bad byte spoils its whole run, so nothing of a run is certain before it ends.
    """

    def __init__(self) -> None:
        self._run = b""

    def feed(self, tokens: list[str]) -> list[str]:
        outputs = []
        for token in tokens:
            if byte := _BYTE_TOKEN.fullmatch(token):
                self._run += bytes([int(byte[1], 16)])
            else:
                outputs += [*self.finish(), token]
        return outputs

    def settle(self) -> list[str]:
        decoder = _UTF_8()
        try:
            text = decoder.decode(self._run)
        except UnicodeDecodeError:
            return self.finish()
        self._run = decoder.getstate()[0]
        return [text] if text else []

    def finish(self) -> list[str]:
        run, self._run = self._run, b""
        if not run:
            return []
        try:
            return [run.decode("utf-8")]
        except UnicodeDecodeError:
            return [_UNKNOWN] * len(run)


class ByteLevelText:
    """ByteLevel: every character of a token stands for a byte, the bytes are UTF-8."""

    def __init__(self) -> None:
        self._decoder = _UTF_8("replace")

    def fork(self) -> Self:
        forked = type(self)()
        forked._decoder.setstate(self._decoder.getstate())
        return forked

    def feed(self, tokens: list[str]) -> list[str]:
        return [self._decoder.decode(b"".join(map(_token_bytes, tokens)))]

    def settle(self) -> list[str]:
        return []

    def finish(self) -> list[str]:
        return [self._decoder.decode(b"", final=True)]


class StripStart(_Forks):
    """Strip after Fuse: up to `limit` times `content` at the start of the whole text."""

    def __init__(self, content: str, limit: int) -> None:
        self._content = content
        self._left = limit

    def feed(self, tokens: list[str]) -> list[str]:
        text = "".join(tokens)
        while self._left and text:
            if not text.startswith(self._content):
                self._left = 0
                break
            text = text[len(self._content) :]
            self._left -= 1
        return [text]

    def settle(self) -> list[str]:
        return []

    def finish(self) -> list[str]:
        return []


class ReplaceText(_Forks):
    """Replace in the whole text: keeps back an end that could begin `old`."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new
        self._held = ""

    def feed(self, tokens: list[str]) -> list[str]:
        *done, last = (self._held + "".join(tokens)).split(self._old)
        lengths = range(min(len(self._old) - 1, len(last)), 0, -1)
        held = next((n for n in lengths if last.endswith(self._old[:n])), 0)
        shown, self._held = last[: len(last) - held], last[len(last) - held :]
        return [self._new.join([*done, shown])]

    def settle(self) -> list[str]:
        return self.finish()

    def finish(self) -> list[str]:
        held, self._held = self._held, ""
        return [held]


class TrimEnd(_Forks):
    """No spaces at the end of the whole text: those of an end so far are kept back."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, tokens: list[str]) -> list[str]:
        text = self._held + "".join(tokens)
        shown = text.rstrip(" ")
        self._held = text[len(shown) :]
        return [shown]

    def settle(self) -> list[str]:
        return []

    def finish(self) -> list[str]:
        return []


class WholeText(_Forks):
    """Any steps whose output at one place may depend on all the tokens: decoded at the end."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._tokens: list[str] = []
        self._settled = ""

    def fork(self) -> Self:
        forked = copy(self)
        forked._tokens = list(self._tokens)
        return forked

    def feed(self, tokens: list[str]) -> list[str]:
        self._tokens.extend(tokens)
        return []

    def settle(self) -> list[str]:
        with DECODING:
            self._settled = self._decoder.decode(self._tokens)
        return [self._settled]

    def finish(self) -> list[str]:
        with DECODING:
            text = self._decoder.decode(self._tokens)
        return [text[common_length(text, self._settled) :]]


def common_length(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    differences = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differences, min(len(a), len(b)))


def _byte_of_character() -> dict[str, int]:
    # Printable Latin-1 characters stand for themselves, the other bytes for 256, 257, ... in order.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    themselves = {ord(c) for c in alphabet if ord(c) < 256}
    others = (byte for byte in range(256) if byte not in themselves)
    return {c: ord(c) if ord(c) < 256 else next(others) for c in alphabet}


_BYTES = _byte_of_character()


@lru_cache(1 << 15)  # texts are made of few tokens, again and again
def _token_bytes(token: str) -> bytes:
    try:
        return bytes([_BYTES[c] for c in token])
    except KeyError:  # an added token, written as plain text
        return token.encode("utf-8")
