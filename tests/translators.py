"""Tiny random models that translate between languages, with tokenizers, as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import (
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
)
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

CORPUS = ["The house is wonderful and the garden is too.", "La maison est belle, le jardin aussi."]
# The class of the tokenizer, the kind of its pieces, the languages' codes, the model's two classes.
KINDS: dict[str, tuple[str, str, list[str], tuple[type[Any], type[Any]]]] = {
    "nllb": (
        "NllbTokenizer", "bpe", ["eng_Latn", "fra_Latn"],
        (M2M100Config, M2M100ForConditionalGeneration),
    ),
    "m2m_100": (
        "M2M100Tokenizer", "bpe", ["en", "fr"],
        (M2M100Config, M2M100ForConditionalGeneration),
    ),
    "mbart": (
        "MBartTokenizer", "unigram", ["en_XX", "fr_XX"],
        (MBartConfig, MBartForConditionalGeneration),
    ),
    "mbart50": (
        "MBart50Tokenizer", "unigram", ["en_XX", "fr_XX"],
        (MBartConfig, MBartForConditionalGeneration),
    ),
}  # fmt: skip


def train(path: Path, pieces: str, prefix: str = "sentencepiece.bpe") -> list[str]:
    """Write a SentencePiece file, and give its pieces."""
    (path / "corpus.txt").write_text("\n".join(CORPUS * 8))
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "corpus.txt"),
        model_prefix=str(path / prefix),
        model_type=pieces,
        vocab_size=60,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    cut = sentencepiece.SentencePieceProcessor(model_file=str(path / f"{prefix}.model"))
    return [cut.id_to_piece(i) for i in range(cut.get_piece_size())]


def make_model(path: Path, config_class: type[Any], model_class: type[Any], size: int) -> None:
    torch.manual_seed(3)
    sizes = {
        "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
        "decoder_attention_heads": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "max_position_embeddings": 64, "decoder_start_token_id": 2, "forced_eos_token_id": None,
        "pad_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    model = model_class(config_class(vocab_size=size, **sizes))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            computed = model_class is MarianMTModel and "embed_positions" in name
            if "norm" not in name and not computed:
                weights.normal_(0, 0.4)
    # A padding token in a text has no place in transformers' M2M-100.
    model.generation_config.suppress_tokens = [1]
    model.save_pretrained(path)


def make_folder(kind: str, path: Path) -> None:
    """mBART's kinds with SentencePiece's file alone, NLLB with tokenizer.json, as on the hub."""
    name, pieces, codes, classes = KINDS[kind]
    found = train(path, pieces)
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    (path / "config.json").write_text(json.dumps({"model_type": classes[0].model_type}))
    if kind == "m2m_100":
        listed = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *found])
        (path / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(listed)}))
        named = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
        (path / "special_tokens_map.json").write_text(
            json.dumps({"additional_special_tokens": named})
        )
    more = {"extra_special_tokens": codes} if kind == "nllb" else {}
    tokenizer = AutoTokenizer.from_pretrained(path, **more)
    if kind == "nllb":
        tokenizer.save_pretrained(path)
    make_model(path, *classes, len(tokenizer))
