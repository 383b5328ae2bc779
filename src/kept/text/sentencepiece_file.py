"""A tokenizer out of a SentencePiece file alone: tokenizer.model or spiece.model.

The package sentencepiece knows the file, and the rules of the class (`tokenizer_classes.py`) make a
tokenizer of its pieces, as transformers does.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, models

from kept.errors import TokenizerError
from kept.json_file import check_regular
from kept.text.class_rules import Config, Pieces
from kept.text.derived_merges import derive_merges
from kept.text.panics import refusing
from kept.text.tokenizer_classes import RULES
from kept.text.tokenizer_file import check_file

# The file that each class reads.
SENTENCEPIECE_FILES: Final[Mapping[str, str]] = {
    "GemmaTokenizer": "tokenizer.model",
    "LlamaTokenizer": "tokenizer.model",
    "MBart50Tokenizer": "sentencepiece.bpe.model",
    "MBartTokenizer": "sentencepiece.bpe.model",
    "PegasusTokenizer": "spiece.model",
    "T5Tokenizer": "spiece.model",
}
_MAX_BYTES: Final = 256 << 20
_CONTROL, _USER_DEFINED = 3, 4
_EXTRA: Final = ("extra_special_tokens", "additional_special_tokens")
_MISSING = (
    "is read by the packages sentencepiece and protobuf, which are not here; pip install "
    "'kept-llm[sentencepiece]', or put the model's tokenizer.json beside it"
)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """tokens and scores: by id. added: control and user-defined tokens by id."""

    tokens: list[str]
    scores: list[float]
    added: dict[int, AddedToken]
    character_table: bytes


def sentencepiece_backend(
    path: Path, tokenizer_class: str, config: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[int, AddedToken]]:
    """The library tokenizer of a file, and its added tokens by id.

    tokenizer_class: one of `SENTENCEPIECE_FILES`; config: tokenizer_config.json. Raises
    TokenizerError for a file that is damaged, and where the packages are missing.
    """
    rules = RULES[tokenizer_class]
    pieces = _read(path)
    if rules.numbered:
        extra = config.get("extra_ids")
        last = reversed(range(100 if extra is None else int(extra)))
        pieces.tokens.extend(f"<extra_id_{i}>" for i in last)
        pieces.scores.extend([0.0] * (len(pieces.tokens) - len(pieces.scores)))
    arrange = rules.arrange or _as_they_come
    # Extra tokens that config names take the place of the file's own, as they do in transformers.
    names_extra = any(config.get(name) for name in _EXTRA)
    added = {} if names_extra else pieces.added
    file: dict[str, Any] = {}
    with refusing(f"{path} cannot be made into a tokenizer", "copy or download it again"):
        if rules.model == "Unigram":
            listed = list(zip(pieces.tokens, pieces.scores, strict=True))
            scored, unk = arrange(listed, config)
            file = {"model": {"unk_id": unk, "vocab": scored}, "normalizer": _normalizer(pieces)}
            check_file(file, path)
            backend = tokenizers.Tokenizer(models.Unigram(scored, unk_id=unk, byte_fallback=False))
        else:
            vocabulary = {token: i for i, token in enumerate(pieces.tokens)}
            merges = derive_merges(vocabulary, None, path)
            backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
        rules.build(backend, config, file)
        for token in added.values():
            add = backend.add_special_tokens if token.special else backend.add_tokens
            add([token])
    return backend, added


def _as_they_come(pieces: Pieces, config: Config) -> tuple[Pieces, int]:
    return pieces, 2


def _normalizer(pieces: _Pieces) -> dict[str, Any] | None:
    if not pieces.character_table:
        return None
    table = base64.b64encode(pieces.character_table).decode()
    return {"type": "Precompiled", "precompiled_charsmap": table}


def _read(path: Path) -> _Pieces:
    check_regular(path, TokenizerError, max_bytes=_MAX_BYTES)
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise TokenizerError(f"{path} {_MISSING}") from error
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    with refusing(f"{path} is no SentencePiece file", "it is damaged, copy or download it again"):
        model.ParseFromString(path.read_bytes())
    if not model.pieces:
        raise TokenizerError(f"{path} holds no pieces; copy or download it again")
    added = {
        i: AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
        for i, piece in enumerate(model.pieces)
        if piece.type in (_CONTROL, _USER_DEFINED)
    }
    return _Pieces(
        [piece.piece for piece in model.pieces],
        [piece.score for piece in model.pieces],
        added,
        model.normalizer_spec.precompiled_charsmap,
    )
