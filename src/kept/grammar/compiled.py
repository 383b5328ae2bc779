"""Grammars over a tokenizer's vocabulary, made once for all that ask for the same."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import numpy as np

from kept.errors import OptionError
from kept.grammar.grammar import Grammar, Kind
from kept.text import Tokenizer
from kept.turns import Turn

if TYPE_CHECKING:
    import llguidance

MOST_KEPT: Final = 64  # compiled grammars of a tokenizer, the late ones
# Of what an expression comes to, in numbers of llguidance's own: a second to compile, 15 ms and
# 5 MB a step, and 100 MB in all.
_LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_grammar_size": 100_000,
    "max_lexer_states": 50_000,
    "verbose_errors": False,
}
_NAMES: Final[dict[Kind, str]] = {
    "json_schema": "the JSON schema",
    "regex": "the regular expression",
    "lark": "the grammar",
}
_LISTING: Final = re.compile(r"^\s*\d+ \| ", re.MULTILINE)  # the lines around a fault
_PLACE: Final = re.compile(r"^at 1\(8\): |failed to compile JSON schema: |\(in regex\): ")
_NOTHING: Final = "a part of it that has to come allows no text at all; correct that part"
_STOPS: Final = {  # why it goes no further, where it has nothing more to say
    "NoExtension": _NOTHING,
    "NoExtensionBias": _NOTHING,
    "LexerTooComplex": "it takes too much to tell its words apart; make it simpler",
    "ParserTooComplex": "it can be read in too many ways at once; make it less ambiguous",
}
_END: Final = "<|the end of a grammar|>"
_REMEDY: Final = (
    "grammars need the package llguidance, which is not installed; pip install 'kept-llm[grammar]'"
)


class Compiled:
    """A grammar over a vocabulary.

    first: its matcher before any token, to be copied. num_tokens: of the vocabulary, one more than
    the tokenizer's. end: the last of them, which stands for an end of the text. special: tokens
    that no text spells. name: what errors call it.
    """

    def __init__(
        self,
        first: llguidance.LLMatcher,
        num_tokens: int,
        end: int,
        special: frozenset[int],
        name: str,
    ) -> None:
        self.first, self.num_tokens, self.end = first, num_tokens, end
        self.special, self.name = special, name

    @property
    def num_words(self) -> int:
        """How many words of 32 bits a mask has."""
        return (self.num_tokens + 31) // 32


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises OptionError, by name, where llguidance is not installed, or where the tokenizer
        spells text in a way that masks cannot follow."""
        backend = tokenizer.backend
        decoder = type(backend.decoder).__name__
        if tokenizer.clean_up_spaces or decoder not in ("ByteLevel", "Sequence", "ByteFallback"):
            raise OptionError(
                f"no grammar can be kept to with this tokenizer, whose decoder is {decoder}: its "
                "tokens are no bytes of a text. Tokenizers of GPT-2, Llama, Mistral, Qwen and "
                "Gemma spell bytes"
            )
        self._special = tokenizer.special_ids
        self._turn = Turn()
        self._kept: OrderedDict[Grammar, Compiled] = OrderedDict()
        self._vocabulary = _vocabulary(backend, self._special)
        self._end: int = self._vocabulary.eos_token

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> GrammarCompiler:
        """The one of a tokenizer, made at its first use: a second for a large vocabulary."""
        with _made.lock:
            found = _compilers.get(tokenizer)
            if found is None:
                found = _compilers[tokenizer] = cls(tokenizer)
            return found

    def compile(self, grammar: Grammar) -> Compiled:
        """Compile a grammar, or find what was compiled before. Raises OptionError for one that
        cannot be, that no text satisfies, or that is too large."""
        with self._turn.lock:
            found = self._kept.get(grammar)
            if found is not None:
                self._kept.move_to_end(grammar)
                return found
        found = self._compile(grammar)
        with self._turn.lock:
            self._kept[grammar] = found
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return found

    def _compile(self, grammar: Grammar) -> Compiled:
        import llguidance

        name, limits = _NAMES[grammar.kind], llguidance.LLParserLimits(**_LIMITS)
        source = llguidance.LLMatcher.grammar_from_lark(grammar.source())
        matcher = llguidance.LLMatcher(self._vocabulary, source, log_level=0, limits=limits)
        size = self._vocabulary.vocab_size
        found = Compiled(matcher, size, self._end, self._special, name)
        # Some faults show only as a first mask is made, so it is made here.
        words = np.zeros(found.num_words, dtype=np.uint32)
        if not matcher.is_error():
            matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if matcher.is_error():
            raise OptionError(f"{name} cannot be used: {explained(matcher.get_error())}")
        if not words.any():
            raise OptionError(f"{name} allows no text at all; correct it")
        return found


def explained(message: str) -> str:
    """The sense of an error of llguidance, in a line of bounded length."""
    told = _LISTING.split(message.replace("<non-verbose/>", ""))[0]
    said = " ".join(_PLACE.sub("", told).split())
    if said in _STOPS:
        return _STOPS[said]
    if "oneOf constraints" in said:
        return (
            "oneOf is supported only where no two of its schemas can hold at once (other types, or "
            "objects with a required property of other constants); use anyOf, or tell them apart"
        )
    return said if len(said) <= 300 else f"{said[:300]}..."


def _vocabulary(backend: Any, special: frozenset[int]) -> llguidance.LLTokenizer:
    try:
        import llguidance
    except ImportError:
        raise OptionError(_REMEDY) from None
    import tokenizers

    # An end of its own, which no checkpoint's tokens can be mistaken for.
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    copy.add_special_tokens([_END])
    end = copy.token_to_id(_END)
    assert end is not None, "it has just been added"
    slices = llguidance.LLTokenizer.json_slices()
    try:
        read = llguidance.LLTokenizer(copy.to_str(), n_vocab=end + 1, eos_token=end, slices=slices)
        if not any(read.is_special_token(i) for i in range(end) if i not in special):
            return read
        # It takes added tokens as <think> for special, whatever their checkpoint calls them.
        spelled = llguidance.TokenizerWrapper(_Spelled(copy, read, {*special, end}))
        return llguidance.LLTokenizer(spelled, n_vocab=end + 1, eos_token=end, slices=slices)
    except ValueError as error:
        raise OptionError(f"no grammar can be kept to with this tokenizer: {error}") from error


class _Spelled:
    """A vocabulary of which no tokens are special but those that are said to be."""

    def __init__(self, backend: Any, read: llguidance.LLTokenizer, special: set[int]) -> None:
        self._backend = backend
        self.eos_token_id, self.bos_token_id = read.eos_token, None
        self.tokens = [read.decode_bytes([token]) for token in range(read.vocab_size)]
        self.special_token_ids = sorted(special)

    def __call__(self, text: str) -> list[int]:
        found: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return found


_made = Turn()
_compilers: WeakKeyDictionary[Tokenizer, GrammarCompiler] = WeakKeyDictionary()
