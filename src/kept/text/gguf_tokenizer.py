"""The tokenizer in a GGUF file's metadata, made by the rules of the class that the model had.

A GGUF file has the vocabulary, the kind of each token and perhaps the merges; how text is cut
before it is merged it only names (`tokenizer.ggml.pre`). What names mean is llama.cpp's
(src/llama-vocab.cpp), and the ids are those of transformers for the same file. Where that reads
less than the model's own tokenizer does, kept does as that: a prefix space that is off, tokens that
are taken whole before any merge (Llama 3), characters that are composed (Qwen). A way to cut that
it does not know is refused, and not taken for GPT-2's.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers

from kept.errors import TokenizerError
from kept.gguf import GGUFHeader
from kept.text.derived_merges import derive_merges
from kept.text.gguf_splits import SPLITS, WHOLE_FIRST, cut_by
from kept.text.panics import refusing
from kept.text.tokenizer_classes import RULES, add_bos_eos

_KEY = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4
_BYTES = "".join(chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256)))
_ALPHABET = frozenset(_BYTES + "".join(chr(256 + n) for n in range(68)))
_NAMES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_GEMMA = ("gemma", "gemma2", "gemma3")


def gguf_tokenizer(header: GGUFHeader) -> tuple[tokenizers.Tokenizer, dict[str, str]] | None:
    """The library tokenizer of a GGUF file and its named tokens; None where it has none.

    Raises TokenizerError for one that kept does not know or that is damaged.
    """
    if f"{_KEY}model" not in header.metadata or header.metadata[f"{_KEY}model"] == "none":
        return None
    return _Vocabulary(header).build()


class _Vocabulary:
    """What the metadata says of a tokenizer, each part of the kind it has to be."""

    def __init__(self, header: GGUFHeader) -> None:
        self.path = header.path
        self._metadata = header.metadata
        self.architecture = header.metadata.get("general.architecture")
        self.kind = self._get("model", str, "")
        self.tokens = self._list("tokens", str)
        self.types = self._list("token_type", int, optional=True)
        if not self.tokens:
            raise self.wrong("has no tokens")
        if self.types and len(self.types) != len(self.tokens):
            raise self.wrong(
                f"has {len(self.tokens):,} tokens and {len(self.types):,} types of such"
            )

    def build(self) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
        with refusing(f"the tokenizer of {self.path} cannot be made", "download the file again"):
            if self.kind == "gpt2":
                backend = self._byte_level()
            elif self.kind == "llama":
                backend = self._sentence_pieces()
            else:
                raise TokenizerError(
                    f"{self.path} has a tokenizer of kind {self.kind[:80]!r}, and kept reads those "
                    "of kind 'gpt2' and 'llama'. Load the model from a folder with tokenizer.json."
                )
            named = self._named()
            backend.add_special_tokens(self._added(_CONTROL, backend))
            backend.add_tokens(self._added(_USER_DEFINED, backend))
            specials = set(self._of_kind(_CONTROL))
            missing = [text for text in named.values() if text not in specials]
            backend.add_special_tokens(
                [AddedToken(text, normalized=False, special=True) for text in missing]
            )
            add_bos_eos(backend, self._flags(), named)
        return backend, named

    def _byte_level(self) -> tokenizers.Tokenizer:
        pre = self._get("pre", str, "")
        if not pre and self.architecture == "qwen2":  # files older than the key
            pre = "qwen2"
        if pre not in SPLITS:
            raise TokenizerError(
                f"{self.path} has tokenizer.ggml.pre = {pre[:80]!r}, a way to cut text that kept "
                f"does not know; it knows {', '.join(sorted(SPLITS))}. Load the model from a "
                "folder with tokenizer.json."
            )
        merges = [self._pair(merge) for merge in self._list("merges", str)]
        vocabulary = {token: i for i, token in enumerate(_spelled(self.tokens))}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
        RULES["GPT2Tokenizer"].build(backend, {}, {})
        cut_by(backend, SPLITS[pre])
        model: Any = backend.model
        model.ignore_merges = pre in WHOLE_FIRST
        return backend

    def _sentence_pieces(self) -> tokenizers.Tokenizer:
        tokens = self.tokens
        scores: Mapping[str, float]
        gemma = self.architecture in _GEMMA
        if gemma:  # whose files spell runs of spaces as such, and whose order is that of the merges
            tokens = ["▁" * len(x) if x.strip(" ") == "" else x for x in tokens]
            scores = {token: -i for i, token in enumerate(tokens)}
        else:
            found = self._list("scores", float, optional=True)
            scores = dict(zip(tokens, found, strict=False))
        vocabulary = {token: i for i, token in enumerate(tokens)}
        given = self._list("merges", str, optional=True)
        if not given and len(scores) < len(vocabulary):
            raise self.wrong("has fewer scores than tokens, and no merges")
        merges = (
            [self._pair(merge) for merge in given]
            if given
            else derive_merges(vocabulary, scores, self.path)
        )
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
        space = {"add_prefix_space": self._get("add_space_prefix", bool, True)}
        RULES["GemmaTokenizer" if gemma else "LlamaTokenizer"].build(backend, space, {})
        if self.architecture == "phi3":  # whose tokenizer.json puts the space in front before all
            steps: list[Any] = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            backend.normalizer, backend.pre_tokenizer = normalizers.Sequence(steps), None
        return backend

    def _flags(self) -> dict[str, bool]:
        default = self.kind == "llama" or self._get("pre", str, "") in WHOLE_FIRST
        return {
            "add_bos_token": self._get("add_bos_token", bool, default),
            "add_eos_token": self._get("add_eos_token", bool, False),
        }

    def _named(self) -> dict[str, str]:
        found = {}
        for name, key in _NAMES.items():
            token_id = self._get(key, int, -1)
            if token_id >= len(self.tokens):
                raise self.wrong(f"has {key} = {token_id:,}, of {len(self.tokens):,} tokens")
            if token_id >= 0:
                found[name] = self.tokens[token_id]
        return found

    def _added(self, kind: int, backend: tokenizers.Tokenizer) -> list[AddedToken]:
        """The tokens of a kind that stay whole in any text, all of them in the vocabulary."""
        return [
            AddedToken(token, normalized=False, special=kind == _CONTROL)
            for token in self._of_kind(kind)
            if token and backend.token_to_id(token) is not None
        ]

    def _of_kind(self, kind: int) -> list[str]:
        return list(compress(self.tokens, map(kind.__eq__, self.types)))

    def _pair(self, merge: str) -> tuple[str, str]:
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise self.wrong(f"has a merge {merge[:80]!r}, which is no pair")
        return left, right

    def _get(self, key: str, kind: type, default: Any) -> Any:
        found = self._metadata.get(_KEY + key)
        if found is None:
            return default
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise self.wrong(f"has {_KEY}{key} = {str(found)[:80]}, which must be {kind.__name__}")
        return found

    def _list(self, key: str, kind: type, *, optional: bool = False) -> list[Any]:
        found = self._metadata.get(_KEY + key)
        if found is None and optional:
            return []
        if not isinstance(found, list) or (found and not isinstance(found[0], kind)):
            raise self.wrong(f"has {_KEY}{key}, which must be a list of {kind.__name__}")
        return found

    def wrong(self, what: str) -> TokenizerError:
        return TokenizerError(f"the tokenizer of {self.path} {what}; download the file again")


def _spelled(tokens: list[str]) -> list[str]:
    """Tokens in the letters of their bytes, which those that llama.cpp has added are not in."""
    strange = set("".join(tokens)) - _ALPHABET
    if not strange:
        return tokens
    return [
        token if strange.isdisjoint(token) else "".join(_LETTERS[byte] for byte in token.encode())
        for token in tokens
    ]


def _letters() -> dict[int, str]:
    plain = [ord(letter) for letter in _BYTES]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


_LETTERS = _letters()
