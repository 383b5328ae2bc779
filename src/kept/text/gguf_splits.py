"""How byte-level tokenizers cut text into words, by the names that GGUF files have for it.

The patterns are those of the models' own tokenizer.json.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from kept.text.tokenizer_classes import QWEN2_SPLIT

GPT2, DIGITS = "GPT-2's own", "single digits, then GPT-2's own"

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "roberta-bpe"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA3),
    "tekken": _TEKKEN,
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), QWEN2_SPLIT),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
}
# Of these a word that is a token is taken whole before any merge, and texts begin with bos.
WHOLE_FIRST = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2", "tekken"})


def cut_by(backend: tokenizers.Tokenizer, split: str) -> None:
    """Have a byte-level tokenizer cut text by a pattern of `SPLITS`; mutates it.

    Qwen's composes characters before (NFC).
    """
    if split == GPT2:
        return
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split == DIGITS)
    first: Any = pre_tokenizers.Digits(individual_digits=True)
    if split != DIGITS:
        first = pre_tokenizers.Split(Regex(split), behavior="isolated")
    if split == QWEN2_SPLIT:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, plain])
