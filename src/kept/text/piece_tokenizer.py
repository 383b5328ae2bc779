"""Marian's and M2M-100's tokenizers: pieces of a SentencePiece file, whose ids vocab.json says.

The package sentencepiece cuts a text. Ids to text needs none of it: pieces joined, less the spaces
around them.

    "Hello you"  --source.spm-->  ▁Hello ▁you  --vocab.json-->  41 7  --its end-->  41 7 0
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, decoders, models

from kept.errors import OptionError, TokenizerError
from kept.json_file import check_regular, read_json_object
from kept.text.class_rules import content
from kept.text.languages import Languages
from kept.text.panics import refusing
from kept.text.tokenizer import Tokenizer
from kept.text.tokenizer_config import TokenizerConfig

_MAX_BYTES: Final = 256 << 20
_VOCABULARY: Final = "vocab.json"
# The file that cuts a text, by class.
PIECE_FILES: Final[Mapping[str, str]] = {
    "M2M100Tokenizer": "sentencepiece.bpe.model",
    "MarianTokenizer": "source.spm",
}
_NAMES: Final = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_MORE_NAMES: Final = {**_NAMES, "bos_token": "<s>", "sep_token": "</s>"}
# In the order of their ids, which follow the vocabulary's.
_M2M_100: Final = """
    af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha
    he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne
    nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo
    xh yi yo zh zu
"""
_CODES: Final[Mapping[str, str]] = {"m2m100": _M2M_100, "wmt21": "en ha is ja cs ru zh de"}
_MISSING: Final = (
    "is read by the package sentencepiece, which is not here; pip install 'kept-llm[sentencepiece]'"
)


@dataclass(frozen=True, slots=True)
class _Around:
    """Tokens before and behind every text."""

    before: tuple[int, ...]
    behind: tuple[int, ...]


class PieceTokenizer(Tokenizer):
    """A tokenizer whose pieces and ids come from two files."""

    trims = True

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str],
        cut: Any,
        around: _Around,
        *,
        prefixed: bool,
        languages: Languages | None = None,
    ) -> None:
        """backend: the vocabulary and the way back to text. cut: the processor of the package.
        prefixed: whether a text may begin with >>code<<, one token."""
        super().__init__(backend, special_tokens, languages=languages)
        self._cut, self._around, self._prefixed = cut, around, prefixed
        unk = backend.token_to_id(special_tokens["unk_token"])
        assert unk is not None, "it is verified"
        self._ids, self._unk = self.tokens(), unk
        longest_first = sorted(self._special_texts, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """See `Tokenizer.encode`."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise OptionError(
                f"a prompt has to be valid Unicode, and {text[:40]!r} is not; replace "
                "its lone surrogates, as text.encode(errors='replace').decode() does"
            ) from error
        pieces: list[str] = []
        for index, part in enumerate(self._special.split(text)):
            pieces += [part] if index % 2 else self._pieces(part)
        ids = [self._ids.get(piece, self._unk) for piece in pieces]
        if not add_special_tokens:
            return ids
        return [*self._around.before, *ids, *self._around.behind]

    def _pieces(self, text: str) -> list[str]:
        """What the package cuts a text into that has no special tokens."""
        code, end = [], text.find("<<")
        if self._prefixed and text.startswith(">>") and end != -1:
            code, text = [text[: end + 2]], text[end + 2 :]
        with refusing("the tokenizer cannot encode this text", "its SentencePiece file is damaged"):
            return [*code, *self._cut.encode(text, out_type=str)]

    def decode(self, token_ids: Any, skip_special_tokens: bool = True) -> str:
        """See `Tokenizer.decode`."""
        return super().decode(token_ids, skip_special_tokens).strip(" ")


def has_pieces(folder: Path, tokenizer_class: str) -> bool:
    """Whether a folder has the files of this kind of class."""
    name = PIECE_FILES.get(tokenizer_class)
    return name is not None and (folder / name).exists() and (folder / _VOCABULARY).exists()


def piece_tokenizer(folder: Path, tokenizer_class: str, config: TokenizerConfig) -> PieceTokenizer:
    """The tokenizer of a folder, as transformers makes it.

    Raises TokenizerError for a file that is damaged or missing, and where the package is.
    """
    marian = tokenizer_class == "MarianTokenizer"
    if config.fields.get("separate_vocabs"):
        raise TokenizerError(
            f"{folder} has a vocabulary for each side (separate_vocabs), and kept runs models that "
            "share one"
        )
    vocabulary = _read_vocabulary(folder / _VOCABULARY)
    declared = {**(_NAMES if marian else _MORE_NAMES), **config.special_tokens_map, **config.fields}
    named = {
        name: content(declared[name], _MORE_NAMES[name]) for name in _MORE_NAMES if name in declared
    }
    missing = [text for text in dict.fromkeys(named.values()) if text not in vocabulary]
    if missing:
        raise TokenizerError(
            f"{folder / _VOCABULARY} has no token {missing[0]!r}, which the tokenizer names; "
            "download it again"
        )
    end = vocabulary[named["eos_token"]]
    tokens = {} if marian else _language_tokens(config.fields, len(vocabulary))
    with refusing(f"{folder / _VOCABULARY} cannot be made into a tokenizer", "download it again"):
        everything = vocabulary | {f"__{code}__": at for code, at in tokens.items()}
        backend = tokenizers.Tokenizer(models.WordLevel(everything, unk_token=named["unk_token"]))
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
        special = [*dict.fromkeys(named.values()), *(f"__{code}__" for code in tokens)]
        backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    languages, around = None, _Around((), (end,))
    if not marian:
        languages = Languages(tokens, end, behind=False, starts=False)
        source = languages.find("src_lang", config.fields.get("src_lang") or "en")
        around = _Around((source,), (end,))
    cut = _read_pieces(folder / PIECE_FILES[tokenizer_class])
    return PieceTokenizer(backend, named, cut, around, prefixed=marian, languages=languages)


def _language_tokens(config: Mapping[str, Any], first: int) -> dict[str, int]:
    known = config.get("language_codes") or "m2m100"
    if not isinstance(known, str) or known not in _CODES:
        raise TokenizerError(
            f"tokenizer_config.json has language_codes = {known!r:.80}, which must be one of "
            f"{', '.join(_CODES)}"
        )
    return {code: first + i for i, code in enumerate(_CODES[known].split())}


def _read_vocabulary(path: Path) -> dict[str, int]:
    found = read_json_object(path, TokenizerError, max_bytes=_MAX_BYTES)
    ids = list(found.values())
    if not ids or not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise TokenizerError(
            f"{path} must give each token one of the numbers from 0 to {max(len(ids) - 1, 0)}, and "
            "does not; copy or download it again"
        )
    return found


def _read_pieces(path: Path) -> Any:
    check_regular(path, TokenizerError, max_bytes=_MAX_BYTES)
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise TokenizerError(f"{path} {_MISSING}") from error
    processor = SentencePieceProcessor()
    with refusing(f"{path} is no SentencePiece file", "it is damaged, copy or download it again"):
        processor.LoadFromSerializedProto(path.read_bytes())
    return processor
