"""From a checkpoint folder to the library tokenizer that transformers would use for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, models

from kept.errors import TokenizerError
from kept.json_file import check_regular, read_text
from kept.text.class_rules import Rules
from kept.text.panics import refusing
from kept.text.sentencepiece_file import SENTENCEPIECE_FILES, sentencepiece_backend
from kept.text.tokenizer_classes import GENERIC, RULES, add_bos_eos
from kept.text.tokenizer_file import check_backend, check_text

log = logging.getLogger("kept")

# What transformers registers for the families of kept, those without one left out.
_REGISTERED = {
    **dict.fromkeys(("cohere", "cohere2"), "CohereTokenizer"),
    **dict.fromkeys(
        ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text"), "GemmaTokenizer"
    ),
    "bart": "RobertaTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "pegasus": "PegasusTokenizer",
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "opt", "phi", "starcoder2"), "GPT2Tokenizer"),
    **dict.fromkeys(("gpt_neox", "mpt", "olmo", "olmoe"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
    **dict.fromkeys(("mt5", "t5"), "T5Tokenizer"),
    **dict.fromkeys(("glm", "glm4", "granite", "internlm2", "mistral", "mistral3"), GENERIC),
    **dict.fromkeys(("mixtral", "olmo2", "olmo3", "phi3", "stablelm"), GENERIC),
}
# Classes that transformers serves with another's.
_ALIASES = {"LongformerTokenizer": "RobertaTokenizer"}
_GENERIC_NAMES = frozenset(
    {GENERIC, "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "BloomTokenizer"}
)
_FOREIGN: Final = (
    *("tokenizer.model", "source.spm", "sentencepiece.bpe.model", "spiece.model", "tiktoken.model"),
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
    """Name the tokenizer class that decides, by transformers' AutoTokenizer rules.

    `declared` is `tokenizer_class` of tokenizer_config.json (else of config.json), `model_type`
    that of config.json. Names that stand for tokenizer.json as it is written give `GENERIC`.
    """
    registered = _REGISTERED.get(model_type or "")
    if declared is None:
        return registered or GENERIC
    name = declared.removesuffix("Fast").replace("PreTrainedTokenizer", GENERIC)
    name = _ALIASES.get(name, name)
    if registered == GENERIC or name in _GENERIC_NAMES:
        return "Qwen2Tokenizer" if model_type == "qwen2" else GENERIC
    # Many Qwen2 folders name a class that is not theirs.
    return "Qwen2Tokenizer" if model_type == "qwen2" else name


@dataclass(frozen=True, slots=True)
class Loaded:
    """A library tokenizer without its class's tokens.

    `tokenizer_class` is the class whose rules apply; `added` are the added tokens by id, of
    tokenizer.json or a SentencePiece file; `has_json` says whether it is the former.
    """

    backend: tokenizers.Tokenizer
    tokenizer_class: str
    added: Mapping[int, AddedToken]
    has_json: bool


def load_backend(folder: Path, config: Mapping[str, Any], tokenizer_class: str) -> Loaded:
    """Build the library tokenizer of a folder.

    Where the class has rules of its own (`tokenizer_classes.py`), tokenizer.json gives vocabulary
    and merges and they the rest; otherwise it is taken as written. `finish_backend` has to follow
    once the tokens are added. Raises `TokenizerError` when no file of the folder can be used.
    """
    path = folder / "tokenizer.json"
    if not (path.is_symlink() or path.exists()):
        backend, added = _backend_without_json(folder, config, tokenizer_class)
        return Loaded(backend, tokenizer_class, added, has_json=False)
    text = read_text(path, TokenizerError, max_bytes=_MAX_BYTES)
    rules = RULES.get(tokenizer_class)
    file = check_text(text, path, needed=rules is not None and rules.reads_file)
    with refusing(f"{path} cannot be read as a tokenizer", "copy or download it again"):
        backend = tokenizers.Tokenizer.from_str(text)
        check_backend(backend, path)
        added = backend.get_added_tokens_decoder()
        rules = _rules(tokenizer_class, backend, text)
        if rules is None:
            return Loaded(backend, GENERIC, added, has_json=True)
        padding, post_processor = backend.padding, backend.post_processor
        backend = tokenizers.Tokenizer(backend.model)
        rules.build(backend, config, file)
        backend.post_processor = post_processor
        if padding is not None:
            backend.enable_padding(**padding)
    return Loaded(backend, tokenizer_class, added, has_json=True)


def finish_backend(
    loaded: Loaded, config: Mapping[str, Any], named: Mapping[str, str], extra: Iterable[str]
) -> None:
    """Do what the class does once all tokens are there, `named` and `extra` its special ones.

    Mutates the backend.
    """
    if loaded.has_json:  # whose post-processor says the same, and wins
        config = {k: v for k, v in config.items() if k not in ("add_bos_token", "add_eos_token")}
    rules = RULES.get(loaded.tokenizer_class)
    if rules is not None and rules.adds_again:
        tokens = dict.fromkeys([*named.values(), *extra])
        loaded.backend.add_tokens([AddedToken(token, special=True) for token in tokens])
    if rules is not None and rules.finish is not None:
        rules.finish(loaded.backend, config, named)
    elif not loaded.has_json:
        add_bos_eos(loaded.backend, config, named)


def _rules(name: str, backend: tokenizers.Tokenizer, text: str) -> Rules | None:
    if name == "LlamaTokenizer" and '"ByteLevel"' in text:
        return None
    rules = RULES.get(name)
    if rules is not None and type(backend.model).__name__ == rules.model:
        return rules
    if name != GENERIC:
        log.info("tokenizer.json is taken as it is written, as kept has no rules of %s", name)
    return None


def _backend_without_json(
    folder: Path, config: Mapping[str, Any], tokenizer_class: str
) -> tuple[tokenizers.Tokenizer, Mapping[int, AddedToken]]:
    if not folder.is_dir():
        raise TokenizerError(f"{folder} is not a folder; give the folder of a checkpoint")
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file():
        rules = RULES.get(tokenizer_class)
        if rules is None or not rules.files:
            raise TokenizerError(
                f"{folder} has vocab.json and merges.txt but no tokenizer.json, and how "
                f"{_named(tokenizer_class)} splits text is not in them; {_CONVERT}"
            )
        return _backend_from_merges(vocab, merges, rules, config), {}
    words, rules = folder / "vocab.txt", RULES.get(tokenizer_class)
    if words.is_file() and rules is not None and rules.model == "WordPiece":
        return _backend_from_words(words, rules, config), {}
    pieces = SENTENCEPIECE_FILES.get(tokenizer_class)
    if pieces is not None and (folder / pieces).is_file():
        return sentencepiece_backend(folder / pieces, tokenizer_class, config)
    for name in _FOREIGN:
        if (folder / name).is_file():
            raise TokenizerError(
                f"{folder} has {name} but no tokenizer.json, and how {_named(tokenizer_class)} "
                f"reads it kept does not know; {_CONVERT}"
            )
    raise TokenizerError(
        f"{folder} has no tokenizer.json (nor vocab.json with merges.txt); copy tokenizer.json and"
        " tokenizer_config.json from the model's repository into it"
    )


def _named(tokenizer_class: str) -> str:
    if tokenizer_class == GENERIC:
        return "a tokenizer without a tokenizer_class"
    return f"tokenizer_class {tokenizer_class!r}"


def _backend_from_merges(
    vocab: Path, merges: Path, rules: Rules, config: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    for path in (vocab, merges):
        check_regular(path, TokenizerError, max_bytes=_MAX_BYTES)
    with refusing(
        f"{vocab} and {merges} cannot be read as a byte-level BPE",
        "they are damaged or do not belong together, copy or download both again",
    ):
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
        rules.build(backend, config, {})
    return backend


def _backend_from_words(
    vocab: Path, rules: Rules, config: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    check_regular(vocab, TokenizerError, max_bytes=_MAX_BYTES)
    with refusing(
        f"{vocab} cannot be read as words and parts of words, one a line",
        "it is damaged, copy or download it again",
    ):
        backend = tokenizers.Tokenizer(models.WordPiece.from_file(str(vocab)))
        rules.build(backend, config, {})
    return backend


def decoder_steps(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """Give the decoder as the list of its steps' JSON, sequences flattened; [] for no decoder."""
    if backend.decoder is None:
        return []

    def flatten(step: dict[str, Any]) -> list[dict[str, Any]]:
        if step["type"] != "Sequence":
            return [step]
        return [leaf for child in step["decoders"] for leaf in flatten(child)]

    return flatten(json.loads(backend.decoder.__getstate__()))
