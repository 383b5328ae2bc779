"""A checkpoint's tokenizer: text to token ids and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import tokenizers

from kept.errors import OptionError, TokenizerError
from kept.text.cleanup import clean_up
from kept.text.languages import Languages, find_language_option, find_languages
from kept.text.panics import DECODING, ENCODING, refusing
from kept.text.pipeline import (
    finish_backend,
    load_backend,
    resolve_tokenizer_class,
)
from kept.text.special_tokens import resolve_special_tokens
from kept.text.tokenizer_classes import RULES
from kept.text.tokenizer_config import TokenizerConfig, read_tokenizer_config
from kept.text.tokenizer_file import Growth

log = logging.getLogger("kept")

# Characters from which on the library is asked as for a batch, as it lets go of Python's lock then
# alone: a text of a megabyte would hold up every other thread for seconds.
_LONG = 1 << 12
_REMEMBERED = 1 << 15  # tokens whose form was asked for of late


class Tokenizer:
    """Turns text into token ids and back, as transformers does for the same folder.

    Its tokens never change, and it is safe to share between threads. trims: whether a text has no
    spaces at its ends.
    """

    trims: ClassVar[bool] = False

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        *,
        clean_up_spaces: bool = False,
        languages: Languages | None = None,
    ) -> None:
        """Wrap a library tokenizer.

        `special_tokens` maps names (`bos_token` ...) to their text, `clean_up_spaces` removes
        spaces before punctuation when decoding, `languages` are those that a text may be in.
        Padding and truncation stored in `backend` are switched off (this mutates it), because they
        would cut or lengthen prompts in silence. Raises `TokenizerError` for a special token that
        is not in the vocabulary.
        """
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self._growth = Growth(backend)
        self._known = lru_cache(_REMEMBERED)(backend.id_to_token)
        self.special_tokens = dict(special_tokens or {})
        self.clean_up_spaces = clean_up_spaces
        self.languages = languages
        self._bos_text = self.special_tokens.get("bos_token", "")
        self._said_bos = False
        for name, token in self.special_tokens.items():
            if backend.token_to_id(token) is None:
                raise TokenizerError(
                    f"{name} is {token!r}, which is not in the vocabulary of {self.vocab_size} "
                    "tokens; add it to the tokenizer or correct tokenizer_config.json"
                )
        special = [t.content for t in backend.get_added_tokens_decoder().values() if t.special]
        self._special_texts = frozenset(special)
        ids = (backend.token_to_id(text) for text in special)
        self.special_ids = frozenset(token_id for token_id in ids if token_id is not None)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Load the tokenizer of a checkpoint folder.

        Reads tokenizer.json (else vocab.json with merges.txt, vocab.txt of BERT's class, or a
        SentencePiece file of a class that `sentencepiece_file.py` names), tokenizer_config.json,
        special_tokens_map.json, added_tokens.json and, for the model type, config.json.
        Raises `TokenizerError` naming the file and the remedy when one is missing or broken.
        """
        folder = Path(folder)
        config = read_tokenizer_config(folder)
        loaded = load_backend(folder, config.fields, tokenizer_class_of(config))
        backend = loaded.backend
        if "pad_token" not in config.fields and backend.padding is not None:
            config.fields["pad_token"] = backend.padding["pad_token"]
        tokens = resolve_special_tokens(
            config.fields,
            config.special_tokens_map,
            config.added_tokens,
            loaded.added,
            loaded.tokenizer_class,
        )
        named = tokens.texts()
        with refusing(f"the special tokens of {folder} cannot be added", "correct its files"):
            backend.add_tokens(tokens.to_add(backend.get_added_tokens_decoder().values()))
            backend.encode_special_tokens = bool(config.fields.get("split_special_tokens", False))
            finish_backend(loaded, config.fields, named, [t.content for t in tokens.extra])
        rules, languages = RULES.get(loaded.tokenizer_class), None
        if rules is not None and rules.languages is not None:
            behind = config.fields.get("legacy_behaviour") is True
            languages = find_languages(backend, rules.languages, behind, named["eos_token"])
        cleans_up = _cleans_up(backend, config.fields)
        return cls(backend, named, clean_up_spaces=cleans_up, languages=languages)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text into token ids, with the bos and eos the tokenizer adds by itself.

        Raises `OptionError` for a text that is not valid Unicode or that the tokenizer's
        normalizer would make too long, `TokenizerError` where a damaged tokenizer fails on it.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise OptionError(
                f"a prompt has to be valid Unicode, and {text[:40]!r} is not; replace "
                "its lone surrogates, as text.encode(errors='replace').decode() does"
            ) from error
        self._growth.check(text)
        with ENCODING:
            if len(text) < _LONG:
                return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)
            [found] = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return list(found.ids)

    def encode_prompt(self, text: str, src_lang: str | None = None) -> list[int]:
        """Encode a prompt: like `encode`, but a bos that the text begins with is not doubled.

        src_lang: the language it is in; None: the one that tokenizer_config.json says, or the
        class. A prompt out of a chat template has its bos already; a second one, which transformers
        adds, costs quality. The log says so once for each tokenizer. Raises as `encode`, and
        OptionError for a language that there is not, also where there are none.
        """
        if src_lang is not None:
            known = find_language_option(self.languages, "src_lang")
            return known.around(self.encode(text, add_special_tokens=False), src_lang)
        ids, bos = self.encode(text), self.bos_token_id
        if bos is None or ids[:2] != [bos, bos] or not text.startswith(self._bos_text):
            return ids
        if not self._said_bos:
            self._said_bos = True
            log.warning(
                "the prompt begins with %s, which the tokenizer adds too: it is read once. To have "
                "it twice, pass token ids",
                self._bos_text,
            )
        return ids[1:]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn token ids into text.

        Ids outside the vocabulary (the padding rows of an embedding matrix) give no text; bytes
        that are not UTF-8 give U+FFFD.
        """
        with DECODING:
            text: str = self.backend.decode(
                list(token_ids), skip_special_tokens=skip_special_tokens
            )
        return clean_up(text) if self.clean_up_spaces else text

    def id_to_token(self, token_id: int) -> str | None:
        """Give the vocabulary's form of a token, None for an id outside the vocabulary."""
        return self._known(token_id)

    def tokens(self) -> dict[str, int]:
        """The ids of all tokens, added ones included, by the vocabulary's form of each."""
        return dict(self.backend.get_vocab(with_added_tokens=True))

    def is_special(self, token: str) -> bool:
        """Say whether `skip_special_tokens` leaves the token out."""
        return token in self._special_texts

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; embedding matrices may have more rows."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a sequence, None when there is none."""
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a sequence, None when there is none."""
        return self._named_id("eos_token")

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)


def tokenizer_class_of(config: TokenizerConfig) -> str:
    """The class that a folder's files name, see `resolve_tokenizer_class`."""
    declared = config.fields.get("tokenizer_class") or config.model.get("tokenizer_class")
    return resolve_tokenizer_class(declared, config.model.get("model_type"))


def _cleans_up(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> bool:
    # BPE text has its own spaces: many folders carry the flag by accident, and transformers
    # ignores it there too unless the second flag, named for its effect, is set.
    if not config.get("clean_up_tokenization_spaces", False):
        return False
    forced = config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
    return type(backend.model).__name__ != "BPE" or bool(forced)
