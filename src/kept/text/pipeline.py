"""From a checkpoint folder to the library tokenizer that transformers would use for it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from kept.errors import TokenizerError
from kept.json_file import check_regular

GENERIC = "PreTrainedTokenizerFast"
_REGISTERED = {
    "gpt2": "GPT2Tokenizer",
    "mistral": GENERIC,
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "t5": "T5Tokenizer",
}
_SPECIFIC = frozenset({"GPT2Tokenizer", "LlamaTokenizer", "Qwen2Tokenizer", "T5Tokenizer"})
_FOREIGN: Final = (
    *("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "tiktoken.model"),
    *("tekken.json", "vocab.txt"),
)
_MAX_BYTES: Final = 256 << 20  # the largest in use, of 262,144 tokens, have 33 MB
# Any of these says that a folder has a tokenizer, be it one that kept cannot read.
TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.json", "merges.txt", *_FOREIGN)
_CONVERT = (
    "convert it once with transformers: "
    "`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` writes tokenizer.json"
)


def resolve_tokenizer_class(declared: str | None, model_type: str | None) -> str:
    """Name the tokenizer class that decides defaults, by transformers' AutoTokenizer rules.

    `declared` is `tokenizer_class` of tokenizer_config.json (else of config.json), `model_type`
    that of config.json. Classes without rules of their own give `GENERIC`.
    """
    registered = _REGISTERED.get(model_type or "")
    if declared is None:
        return registered or GENERIC
    name = declared.removesuffix("Fast")
    if registered == GENERIC:
        return GENERIC
    if model_type == "qwen2":  # many Qwen2 folders name a class that is not theirs
        return "Qwen2Tokenizer"
    return name if name in _SPECIFIC else GENERIC


def load_backend(
    folder: Path, config: Mapping[str, Any], tokenizer_class: str
) -> tuple[tokenizers.Tokenizer, str]:
    """Build the library tokenizer, and name the class whose defaults apply to it.

    tokenizer.json is taken as written, but for Llama tokenizers of the SentencePiece kind, where
    the place of the leading space follows `legacy` and `add_prefix_space` of the configuration, and
    for T5's, of which only the vocabulary and the table of characters are. Raises
    `TokenizerError` when no file of the folder can be used.
    """
    path = folder / "tokenizer.json"
    if path.is_symlink() or path.exists():
        check_regular(path, TokenizerError, max_bytes=_MAX_BYTES)
    else:
        return _backend_without_json(folder, config, tokenizer_class), tokenizer_class
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the bare class
        raise TokenizerError(
            f"{path} cannot be read as a tokenizer ({error}); "
            "the file is damaged or truncated, copy or download it again"
        ) from error
    if tokenizer_class == "LlamaTokenizer":
        if _is_byte_level(backend):
            return backend, GENERIC
        _set_llama_pipeline(backend, config)
    if tokenizer_class == "T5Tokenizer":
        _set_t5_pipeline(backend, config)
    return backend, tokenizer_class


def _backend_without_json(
    folder: Path, config: Mapping[str, Any], tokenizer_class: str
) -> tokenizers.Tokenizer:
    if not folder.is_dir():
        raise TokenizerError(f"{folder} is not a folder; give the folder of a checkpoint")
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file():
        if tokenizer_class not in (GENERIC, "GPT2Tokenizer"):
            raise TokenizerError(
                f"{folder} has vocab.json and merges.txt but no tokenizer.json, and "
                f"{tokenizer_class} does not split text as GPT-2 does; {_CONVERT}"
            )
        return _gpt2_backend(vocab, merges, config)
    for name in _FOREIGN:
        if (folder / name).is_file():
            raise TokenizerError(
                f"{folder} has {name} but no tokenizer.json, which kept reads; {_CONVERT}"
            )
    raise TokenizerError(
        f"{folder} has no tokenizer.json (nor vocab.json with merges.txt); copy tokenizer.json and"
        " tokenizer_config.json from the model's repository into it"
    )


def _gpt2_backend(vocab: Path, merges: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    for path in (vocab, merges):
        check_regular(path, TokenizerError, max_bytes=_MAX_BYTES)
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises the bare class
        raise TokenizerError(
            f"{vocab} and {merges} cannot be read as a byte-level BPE ({error}); "
            "they are damaged or do not belong together, copy or download both again"
        ) from error
    prefix_space = bool(config.get("add_prefix_space", False))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def add_bos_eos(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]
) -> None:
    """Make `encode` add bos and eos as `add_bos_token` and `add_eos_token` say; mutates `backend`.

    Only for folders without tokenizer.json, whose post-processor says the same and wins.
    """
    bos = [named["bos_token"]] if config.get("add_bos_token") and "bos_token" in named else []
    eos = [named["eos_token"]] if config.get("add_eos_token") and "eos_token" in named else []
    if bos or eos:
        backend.post_processor = processors.TemplateProcessing(
            single=[*bos, "$A", *eos],
            pair=None,
            special_tokens=[(token, backend.token_to_id(token)) for token in {*bos, *eos}],
        )


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    return any(
        b'"ByteLevel"' in part.__getstate__()
        for part in (backend.pre_tokenizer, backend.decoder)
        if part is not None
    )


def _set_llama_pipeline(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    if not isinstance(backend.model, models.BPE):
        return
    prefix_space = config.get("add_prefix_space") is not False
    scheme = "never" if not prefix_space else "always" if config.get("legacy") else "first"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix_space:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    backend.decoder = decoders.Sequence(steps)


def _set_t5_pipeline(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    if not isinstance(backend.model, models.Unigram):
        return
    eos = config.get("eos_token", "</s>")
    eos = eos["content"] if isinstance(eos, Mapping) else eos
    backend.normalizer = _character_table(backend)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    if (eos_id := backend.token_to_id(eos)) is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, eos_id)]
        )


def _character_table(backend: tokenizers.Tokenizer) -> normalizers.Normalizer | None:
    """SentencePiece's own normalizer, out of what may be a sequence of several."""
    if backend.normalizer is None:
        return None
    state = json.loads(backend.normalizer.__getstate__())
    for step in state.get("normalizers", [state]):
        if step["type"] == "Precompiled":
            return normalizers.Precompiled(base64.b64decode(step["precompiled_charsmap"]))
    return None


def decoder_steps(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """Give the decoder as the list of its steps' JSON, sequences flattened; [] for no decoder."""
    if backend.decoder is None:
        return []

    def flatten(step: dict[str, Any]) -> list[dict[str, Any]]:
        if step["type"] != "Sequence":
            return [step]
        return [leaf for child in step["decoders"] for leaf in flatten(child)]

    return flatten(json.loads(backend.decoder.__getstate__()))
