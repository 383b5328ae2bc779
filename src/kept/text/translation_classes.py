"""What transformers builds for the tokenizers of Pegasus, mBART, mBART-50 and NLLB.

The latter three have a token for each language: one stands in a text, and one is what its
translation begins with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from kept.errors import TokenizerError
from kept.text.class_rules import (
    Arrange,
    Config,
    Finish,
    LanguageRules,
    Pieces,
    Rules,
    character_table,
    content,
)

_NAMES: Final = {
    **{"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>"},
    **{"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
}
# In the order of their ids, which no file says.
_MBART_WORDS: Final = """
    ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV
    my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN
"""
_MBART_50_WORDS: Final = """
    af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX
    sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
"""
_MBART_CODES: Final = tuple(_MBART_WORDS.split())
_MBART_50_CODES: Final = (*_MBART_CODES, *_MBART_50_WORDS.split())
_SPACES: Final = " {2,}"  # which become one
_PEGASUS_OFFSET: Final = 103  # tokens before the pieces, less the two that both begin with


def _metaspace(backend: tokenizers.Tokenizer, *, splits: bool) -> None:
    words: Any = pre_tokenizers.Metaspace(prepend_scheme="always")
    if splits:
        words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    backend.pre_tokenizer = words
    backend.decoder = decoders.Metaspace(prepend_scheme="always")


def _unigram(backend: tokenizers.Tokenizer, file: Config, unk: int) -> None:
    described = file.get("model", {})
    if described.get("unk_id") != unk or described.get("byte_fallback"):
        vocabulary = [(piece, score) for piece, score in described.get("vocab", ())]
        backend.model = models.Unigram(vocabulary, unk_id=unk, byte_fallback=False)


def _one_space(file: Config, *, otherwise: list[Any]) -> normalizers.Normalizer:
    """SentencePiece's own normalizer where there is one, and single spaces."""
    table = character_table(file)
    before = otherwise if table is None else [table]
    return normalizers.Sequence([*before, normalizers.Replace(Regex(_SPACES), " ")])


def _mbart(backend: tokenizers.Tokenizer, _: Config, file: Config) -> None:
    _unigram(backend, file, 3)
    backend.normalizer = None
    _metaspace(backend, splits=True)


def _mbart_50(backend: tokenizers.Tokenizer, _: Config, file: Config) -> None:
    _unigram(backend, file, 3)
    backend.normalizer = _one_space(file, otherwise=[])
    _metaspace(backend, splits=False)


def _nllb(backend: tokenizers.Tokenizer, config: Config, file: Config) -> None:
    model: Any = backend.model
    model.dropout, model.unk_token = None, content(config.get("unk_token"), "<unk>")
    model.fuse_unk, model.byte_fallback, model.ignore_merges = True, False, False
    model.continuing_subword_prefix = model.end_of_word_suffix = ""
    backend.normalizer = None if character_table(file) is None else _one_space(file, otherwise=[])
    _metaspace(backend, splits=False)


def _pegasus(backend: tokenizers.Tokenizer, config: Config, file: Config) -> None:
    unk = [content(config.get("unk_token"), "<unk>"), 0.0]
    vocabulary = [list(entry) for entry in file.get("model", {}).get("vocab", ())]
    if unk not in vocabulary[1:]:
        raise TokenizerError(
            f"the vocabulary has no token {unk[0]!r} of score 0 behind its first, which stands for "
            "what is unknown to Pegasus; copy or download it again"
        )
    _unigram(backend, file, vocabulary.index(unk, 1))
    lines = [normalizers.Replace(Regex(r"\n"), " ")]
    backend.normalizer = _one_space(file, otherwise=lines)
    _metaspace(backend, splits=False)


def _with_languages(codes: tuple[str, ...]) -> Arrange:
    """fairseq's first four, the pieces behind SentencePiece's first three, languages, the mask."""

    def arrange(pieces: Pieces, config: Config) -> tuple[Pieces, int]:
        first = (content(config.get(x), _NAMES[x]) for x in _FIRST)
        last = *codes, content(config.get("mask_token"), "<mask>")
        return [*((x, 0.0) for x in first), *pieces[3:], *((x, 0.0) for x in last)], 3

    return arrange


_FIRST: Final = ("bos_token", "pad_token", "eos_token", "unk_token")


def _for_pegasus(pieces: Pieces, config: Config) -> tuple[Pieces, int]:
    first = [content(config.get(name), default) for name, default in _PEGASUS_FIRST.items()]
    unused = [(f"<unk_{i}>", -100.0) for i in range(2, _offset(config))]
    found = [*((x, 0.0) for x in dict.fromkeys(first)), *unused, *pieces[2:]]
    unk = content(config.get("unk_token"), "<unk>")
    return found, next((i for i, piece in enumerate(found) if i and piece == (unk, 0.0)), 0)


_PEGASUS_FIRST: Final = {
    **{"pad_token": "<pad>", "eos_token": "</s>"},
    **{"mask_token": "<mask_1>", "mask_token_sent": "<mask_2>"},
}


def _offset(config: Config) -> int:
    found = config.get("offset", _PEGASUS_OFFSET)
    if type(found) is not int or not 2 <= found <= 10_000:
        raise TokenizerError(
            f"tokenizer_config.json has offset = {found!r:.80}, which must be a number from 2 to "
            "10,000"
        )
    return found


def _around(rules: LanguageRules) -> Finish:
    """Post-process to a text with its end and the language of `src_lang`."""

    def finish(backend: tokenizers.Tokenizer, config: Config, named: Mapping[str, str]) -> None:
        end, source = named["eos_token"], config.get("src_lang") or rules.default
        behind = rules.behind or bool(config.get("legacy_behaviour"))
        ids = {token: backend.token_to_id(token) for token in (end, source)}
        if None in ids.values():
            missing = next(token for token, found in ids.items() if found is None)
            raise TokenizerError(
                f"the tokenizer puts {missing!r} beside every text, and its vocabulary lacks it; "
                "correct src_lang in tokenizer_config.json, or download tokenizer.json again"
            )
        parts = ["$A", end, source] if behind else [source, "$A", end]
        backend.post_processor = processors.TemplateProcessing(
            single=parts, pair=None, special_tokens=list(ids.items())
        )

    return finish


def _end(backend: tokenizers.Tokenizer, _: Config, named: Mapping[str, str]) -> None:
    end = named["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end], pair=None, special_tokens=[(end, backend.token_to_id(end))]
    )


_MBART_LANGUAGES = LanguageRules("^([a-z]{2}_[A-Z]{2})$", "en_XX", behind=True, starts=True)
_MBART_50_LANGUAGES = LanguageRules("^([a-z]{2}_[A-Z]{2})$", "en_XX")
_NLLB_LANGUAGES = LanguageRules("^([a-z]{3}_[A-Z][a-z]{3})$", "eng_Latn")

TRANSLATORS: Final[Mapping[str, Rules]] = {
    "MBart50Tokenizer": Rules(
        "Unigram",
        _NAMES,
        _mbart_50,
        _around(_MBART_50_LANGUAGES),
        reads_file=True,
        loose_mask=True,
        extra=_MBART_50_CODES,
        arrange=_with_languages(_MBART_50_CODES),
        languages=_MBART_50_LANGUAGES,
    ),
    "MBartTokenizer": Rules(
        "Unigram",
        _NAMES,
        _mbart,
        _around(_MBART_LANGUAGES),
        reads_file=True,
        loose_mask=True,
        extra=_MBART_CODES,
        arrange=_with_languages(_MBART_CODES),
        languages=_MBART_LANGUAGES,
    ),
    "NllbTokenizer": Rules(
        "BPE",
        _NAMES,
        _nllb,
        _around(_NLLB_LANGUAGES),
        reads_file=True,
        loose_mask=True,
        languages=_NLLB_LANGUAGES,
    ),
    "PegasusTokenizer": Rules(
        "Unigram",
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask_2>"},
        _pegasus,
        _end,
        reads_file=True,
        extra=("<mask_1>", *(f"<unk_{i}>" for i in range(2, _PEGASUS_OFFSET))),
        arrange=_for_pegasus,
    ),
}
