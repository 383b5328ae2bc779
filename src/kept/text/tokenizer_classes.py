"""What transformers builds for each tokenizer class, whatever tokenizer.json says.

A class with rules takes the vocabulary, the merges and (some) the post-processor of tokenizer.json,
and makes everything else itself out of tokenizer_config.json. Where the two files disagree, that
decides the ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import tokenizers
from tokenizers import (
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from kept.text.class_rules import Build, Config, Finish, Rules, character_table, content
from kept.text.translation_classes import TRANSLATORS

GENERIC: Final = "PreTrainedTokenizerFast"  # tokenizer.json as it is written
_END = "<|endoftext|>"
_ROBERTA_TOKENS = {
    **{"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>"},
    **{"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
}
_BERT_TOKENS = {
    **{"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    **{"cls_token": "[CLS]", "mask_token": "[MASK]"},
}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(*, nfc: bool = False, split: str | None = None, digits: bool = False) -> Build:
    """Make the build of a byte-level BPE.

    nfc: with that normalizer. split: the regex that cuts words, None for GPT-2's. digits: each of
    them is cut apart before.
    """

    def build(backend: tokenizers.Tokenizer, config: Config, _: Config) -> None:
        _set_model(backend.model)
        space = bool(config.get("add_prefix_space"))
        words: Any = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=split is None)
        if split is not None:
            cut = pre_tokenizers.Split(Regex(split), behavior="isolated")
            words = pre_tokenizers.Sequence([cut, words])
        if digits:
            words = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
        backend.normalizer = normalizers.NFC() if nfc else None
        backend.pre_tokenizer, backend.decoder = words, decoders.ByteLevel()

    return build


def _set_model(
    model: Any, *, fuse_unk: bool = False, byte_fallback: bool = False, unk: str | None = None
) -> None:
    model.dropout, model.unk_token = None, unk
    model.continuing_subword_prefix = model.end_of_word_suffix = ""
    model.fuse_unk, model.byte_fallback, model.ignore_merges = fuse_unk, byte_fallback, False


def _llama(backend: tokenizers.Tokenizer, config: Config, _: Config) -> None:
    _set_model(backend.model, fuse_unk=True, byte_fallback=True)
    space = config.get("add_prefix_space")
    prefix_space = True if space is None else bool(space)
    scheme = "never" if not prefix_space else "always" if config.get("legacy") else "first"
    _sentence_pieces(backend, scheme, strip=prefix_space)


def _code_llama(backend: tokenizers.Tokenizer, config: Config, _: Config) -> None:
    unk = content(config.get("unk_token"), "<unk>")
    _set_model(backend.model, fuse_unk=True, byte_fallback=True, unk=unk)
    space = config.get("add_prefix_space")
    _sentence_pieces(backend, "first" if space is None or space else "never", strip=True)


def _sentence_pieces(backend: tokenizers.Tokenizer, scheme: str, *, strip: bool) -> None:
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    backend.decoder = decoders.Sequence(steps)


def _gemma(backend: tokenizers.Tokenizer, config: Config, _: Config) -> None:
    unk = content(config.get("unk_token"), "<unk>")
    _set_model(backend.model, fuse_unk=True, byte_fallback=True, unk=unk)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )


def _t5(backend: tokenizers.Tokenizer, _: Config, file: Config) -> None:
    described = file.get("model", {})
    if described.get("unk_id") != 2 or described.get("byte_fallback"):
        vocabulary = [(piece, score) for piece, score in described.get("vocab", ())]
        backend.model = models.Unigram(vocabulary, unk_id=2, byte_fallback=False)
    backend.normalizer = character_table(file)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")


def _bert(backend: tokenizers.Tokenizer, config: Config, _: Config) -> None:
    model: Any = backend.model
    model.unk_token = content(config.get("unk_token"), "[UNK]")
    model.continuing_subword_prefix, model.max_input_chars_per_word = "##", 100
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")


def _surround(
    before: str | None,
    after: str,
    after_text: str | None = None,
    unnamed: tuple[int, int] | None = None,
) -> Finish:
    """Post-process to: the token named `before`, the text, the token named `after`.

    `unnamed` are the ids of the two where they are declared null; None: the class takes no null.
    """

    def finish(backend: tokenizers.Tokenizer, _: Config, named: Mapping[str, str]) -> None:
        ids: dict[str, int | None] = {}

        def take(name: str, text: str | None, place: int) -> str:
            if unnamed is not None and name not in named:
                ids["None"] = unnamed[place]  # transformers' text for it: of two the last counts
                return "None"
            text = text or named[name]
            ids[text] = backend.token_to_id(named[name])
            return text

        first = [] if before is None else [take(before, None, 0)]
        last = take(after, after_text, 1)
        backend.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", last],
            pair=None,
            special_tokens=list(ids.items()),
        )

    return finish


def add_bos_eos(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]
) -> None:
    """Make `encode` add bos and eos as the two flags of `config` say; mutates `backend`."""
    bos = [named["bos_token"]] if config.get("add_bos_token") and "bos_token" in named else []
    eos = [named["eos_token"]] if config.get("add_eos_token") and "eos_token" in named else []
    backend.post_processor = processors.TemplateProcessing(
        single=[*bos, "$A", *eos],
        pair=None,
        special_tokens=[(token, backend.token_to_id(token)) for token in {*bos, *eos}],
    )


def _code_llama_bos(
    backend: tokenizers.Tokenizer, config: Config, named: Mapping[str, str]
) -> None:
    add_bos_eos(backend, {"add_bos_token": True, **config}, named)


_GPT2_TOKENS = dict.fromkeys(("bos_token", "eos_token", "unk_token"), _END)
_LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_CODE_LLAMA_TOKENS = {
    **_LLAMA_TOKENS,
    **{"prefix_token": "▁<PRE>", "middle_token": "▁<MID>", "suffix_token": "▁<SUF>"},
    **{"eot_token": "▁<EOT>", "fill_token": "<FILL_ME>"},
}
_GEMMA_TOKENS = {
    **{"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"},
    **{"pad_token": "<pad>", "mask_token": "<mask>"},
}
_COHERE_TOKENS = {
    **{"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": "<UNK>"},
    **{"sep_token": "<SEP>", "pad_token": "<PAD>", "cls_token": "<CLS>"},
    "mask_token": "<MASK_TOKEN>",
}
_ROBERTA = Rules(
    "BPE", _ROBERTA_TOKENS, byte_level(), _surround("cls_token", "sep_token"), files=True
)

RULES: Final[Mapping[str, Rules]] = {
    "BartTokenizer": _ROBERTA,
    "BertTokenizer": Rules(
        "WordPiece", _BERT_TOKENS, _bert, _surround("cls_token", "sep_token", unnamed=(2, 3))
    ),
    "CodeGenTokenizer": Rules("BPE", _GPT2_TOKENS, byte_level(), files=True),
    "CohereTokenizer": Rules("BPE", _COHERE_TOKENS, byte_level(nfc=True, digits=True)),
    "CodeLlamaTokenizer": Rules("BPE", _CODE_LLAMA_TOKENS, _code_llama, _code_llama_bos),
    "DebertaTokenizer": Rules(
        "BPE",
        {**_BERT_TOKENS, "bos_token": "[CLS]", "eos_token": "[SEP]"},
        byte_level(),
        _surround("cls_token", "sep_token"),
        files=True,
    ),
    "GPT2Tokenizer": Rules("BPE", _GPT2_TOKENS, byte_level(), files=True),
    "GPTNeoXTokenizer": Rules(
        "BPE",
        {**_GPT2_TOKENS, "pad_token": "<|padding|>"},
        byte_level(nfc=True),
        add_bos_eos,
        files=True,
    ),
    "GemmaTokenizer": Rules("BPE", _GEMMA_TOKENS, _gemma),
    "LEDTokenizer": _ROBERTA,
    "LlamaTokenizer": Rules("BPE", _LLAMA_TOKENS, _llama),
    "MvpTokenizer": _ROBERTA,
    "Qwen2Tokenizer": Rules(
        "BPE",
        dict.fromkeys(("eos_token", "unk_token", "pad_token"), _END),
        byte_level(nfc=True, split=QWEN2_SPLIT),
        files=True,
        adds_again=True,
    ),
    "RobertaTokenizer": _ROBERTA,
    **TRANSLATORS,
    "T5Tokenizer": Rules(
        "Unigram",
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        _t5,
        _surround(None, "eos_token", "</s>"),
        numbered=True,
        reads_file=True,
    ),
}
