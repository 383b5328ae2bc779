"""Tiny tokenizers of every kind, trained on the spot and saved as checkpoint folders."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from kept.text import Tokenizer as KeptTokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It isn't here, is it?",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\r\n",
    "Ça coûte 3,50 € — naïve café, déjà vu! 你好,世界。こんにちは 🙂",
    "We've said 'no' and they're done; don't stop. I'm  sure.\tTabs  and   spaces",
] * 4
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = (
    "bpe_suffix",
    "byte_level",
    "byte_level_chat",
    "gpt2_class",
    "llama_class",
    "llama_legacy_class",
    "llama_style",
    "no_decoder",
    "t5_class",
    "t5_class_as_written",
    "unigram",
    "wordpiece",
)


def byte_level(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def with_byte_fallback(tokenizer: Tokenizer, trainer_class: Any, **options: Any) -> Tokenizer:
    """Train with the 256 byte tokens in the vocabulary, as ordinary tokens."""
    named = ["<unk>", "<s>", "</s>"]
    trainer = trainer_class(
        vocab_size=460, special_tokens=[*named, *BYTE_TOKENS], show_progress=False, **options
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in named]
    state["model"]["byte_fallback"] = True
    state["model"].update(
        {"unk_token": "<unk>", "fuse_unk": True} if "merges" in state["model"] else {}
    )
    return Tokenizer.from_str(json.dumps(state))


def llama_style() -> Tokenizer:
    """A SentencePiece BPE as Llama 2 ships it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    tokenizer = with_byte_fallback(tokenizer, trainers.BpeTrainer, max_token_length=8)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair=None, special_tokens=[("<s>", 1)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return with_byte_fallback(tokenizer, trainers.UnigramTrainer, unk_token="<unk>")


def t5_style(as_written: bool) -> Tokenizer:
    """as_written: with a pipeline of its own, of which transformers takes no notice."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if as_written:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.decoder = decoders.ByteFallback()
        return tokenizer
    spaces = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(spaces))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def bpe_suffix() -> Tokenizer:
    """A BPE with end-of-word suffixes, as the first GPT has it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def no_decoder() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level_chat() -> Tokenizer:
    """A byte-level BPE with bos, chat tokens and an added token that is not special."""
    specials = ["<|begin|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(specials)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("ünïcode tøken")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair=None, special_tokens=[("<|begin|>", 0)]
    )
    tokenizer.enable_truncation(max_length=5)
    tokenizer.enable_padding(length=8, pad_token="<|im_end|>", pad_id=2)
    return tokenizer


SPECIALS = {
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "chat": {"bos_token": "<|begin|>", "eos_token": "<|im_end|>"},
    "t5": {
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"],
    },
    "bert": {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
}


def write_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file, which need not exist; None removes one."""
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    value.update(fields)
    value = {name: field for name, field in value.items() if field is not None}
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def save(folder: Path, backend: Tokenizer, model_type: str = "llama", **options: Any) -> Path:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    tokenizer.save_pretrained(folder)
    write_json(folder / "config.json", model_type=model_type)
    return folder


def build(kind: str, folder: Path) -> Path:
    match kind:
        case "byte_level":
            return save(folder, byte_level(["<|endoftext|>"]), eos_token="<|endoftext|>")
        case "byte_level_chat":
            options = {"clean_up_tokenization_spaces": True, "image_token": "<tool>"}
            return save(folder, byte_level_chat(), "qwen3", **SPECIALS["chat"], **options)
        case "gpt2_class":
            save(folder, byte_level(["<|endoftext|>"]), "gpt2")
            (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
            return folder
        case "llama_style":
            return save(folder, llama_style(), "mistral", **SPECIALS["llama"])
        case "llama_class" | "llama_legacy_class":
            save(folder, llama_style(), **SPECIALS["llama"])
            legacy = kind == "llama_legacy_class"
            config = folder / "tokenizer_config.json"
            write_json(config, tokenizer_class="LlamaTokenizer", legacy=legacy)
            return folder
        case "t5_class" | "t5_class_as_written":
            save(folder, t5_style(kind == "t5_class_as_written"), "t5", **SPECIALS["t5"])
            write_json(folder / "tokenizer_config.json", tokenizer_class="T5Tokenizer", extra_ids=2)
            return folder
        case "unigram":
            return save(folder, unigram(), **SPECIALS["llama"])
        case "wordpiece":
            options = {"clean_up_tokenization_spaces": True, "unk_token": "[UNK]"}
            return save(folder, wordpiece(), **SPECIALS["bert"], **options)
        case "bpe_suffix":
            return save(folder, bpe_suffix(), unk_token="<unk>")
        case _:
            return save(folder, no_decoder(), unk_token="<unk>")


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a tokenizer kind, made when first asked for."""
    return cache(lambda kind: build(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(scope="session", params=KINDS)
def folder(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Path:
    return folder_of(str(request.param))


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> KeptTokenizer:
    return KeptTokenizer.from_folder(folder)
