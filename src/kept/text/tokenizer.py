"""A checkpoint's tokenizer: text to token ids and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from kept.errors import OptionError, TokenizerError
from kept.json_file import read_json_object
from kept.text.cleanup import clean_up
from kept.text.pipeline import (
    TOKENIZER_FILES,
    add_bos_eos,
    load_backend,
    resolve_tokenizer_class,
)
from kept.text.special_tokens import resolve_special_tokens


class Tokenizer:
    """Turns text into token ids and back, as transformers does for the same folder.

    Immutable once made, and safe to share between threads.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        *,
        clean_up_spaces: bool = False,
    ) -> None:
        """Wrap a library tokenizer.

        `special_tokens` maps names (`bos_token` ...) to their text, `clean_up_spaces` removes
        spaces before punctuation when decoding. Padding and truncation stored in `backend` are
        switched off (this mutates it), because they would cut or lengthen prompts in silence.
        Raises `TokenizerError` for a special token that is not in the vocabulary.
        """
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.clean_up_spaces = clean_up_spaces
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

        Reads tokenizer.json (else vocab.json with merges.txt), tokenizer_config.json,
        special_tokens_map.json, added_tokens.json and, for the model type, config.json.
        Raises `TokenizerError` naming the file and the remedy when one is missing or broken.
        """
        folder = Path(folder)

        def read(name: str) -> dict[str, Any]:
            return read_json_object(folder / name, TokenizerError, optional=True)

        config, model_config = read("tokenizer_config.json"), read("config.json")
        tokenizer_class, backend = _load(folder, config, model_config)
        if "pad_token" not in config and backend.padding is not None:
            config["pad_token"] = backend.padding["pad_token"]
        has_json = (folder / "tokenizer.json").is_file()
        tokens = resolve_special_tokens(
            config,
            read("special_tokens_map.json"),
            read("added_tokens.json"),
            backend.get_added_tokens_decoder() if has_json else {},
            tokenizer_class,
        )
        backend.add_tokens([tokens.added[token_id] for token_id in sorted(tokens.added)])
        backend.add_special_tokens([*tokens.named.values(), *tokens.extra])
        backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
        named = tokens.texts()
        if not has_json:
            add_bos_eos(backend, config, named)
        return cls(backend, named, clean_up_spaces=_cleans_up(backend, config))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text into token ids, with the bos and eos the tokenizer adds by itself.

        Raises `OptionError` for a text that is not valid Unicode.
        """
        try:
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)
        except TypeError as error:  # how the library says that half a surrogate pair has no UTF-8
            raise OptionError(
                f"a prompt has to be valid Unicode, and {text[:40]!r} is not; replace "
                "its lone surrogates, as text.encode(errors='replace').decode() does"
            ) from error

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn token ids into text.

        Ids outside the vocabulary (the padding rows of an embedding matrix) give no text; bytes
        that are not UTF-8 give U+FFFD.
        """
        text: str = self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return clean_up(text) if self.clean_up_spaces else text

    def id_to_token(self, token_id: int) -> str | None:
        """Give the vocabulary's form of a token, None for an id outside the vocabulary."""
        return self.backend.id_to_token(token_id)

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


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the tokenizer of a checkpoint folder; None only where it has no file of one.

    Raises `TokenizerError` as `Tokenizer.from_folder` does, also for a kind of file that kept does
    not read.
    """
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return None
    return Tokenizer.from_folder(folder)


def _load(
    folder: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]
) -> tuple[str, tokenizers.Tokenizer]:
    declared = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    tokenizer_class = resolve_tokenizer_class(declared, model_config.get("model_type"))
    backend, tokenizer_class = load_backend(folder, config, tokenizer_class)
    return tokenizer_class, backend


def _cleans_up(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> bool:
    # BPE text has its own spaces: many folders carry the flag by accident, and transformers
    # ignores it there too unless the second flag, named for its effect, is set.
    if not config.get("clean_up_tokenization_spaces", False):
        return False
    forced = config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
    return type(backend.model).__name__ != "BPE" or bool(forced)
