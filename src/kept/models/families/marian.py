"""Marian (OPUS-MT): sines and cosines for positions, and norms behind the sums."""

from __future__ import annotations

from typing import Any

from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.seq2seq import Seq2Seq
from kept.models.seq2seq_config import Seq2SeqConfig, Seq2SeqFamily, read_seq2seq
from kept.models.seq2seq_weights import seq2seq_weight_map

_MARIAN = Seq2SeqFamily(
    norms_first=False,
    embedding_norm=False,
    positions="vaswani",
    positions_from=0,
    logit_bias=True,
    vocab_size=58101,
    start_token_id=58100,
    flags={
        "normalize_before": False,
        "add_final_layer_norm": False,
        "normalize_embedding": False,
        "static_position_embeddings": True,
    },
)


def read_marian_config(config: dict[str, Any]) -> Seq2SeqConfig:
    """Read config.json of model type marian."""
    fields = Fields(config)
    why = "encoder and decoder have tables of tokens of their own"
    fields.refuse("share_encoder_decoder_embeddings", True, why)
    found = read_seq2seq(fields, _MARIAN)
    fields.refuse("decoder_vocab_size", found.vocab_size, why)
    return found


FAMILIES = {
    "marian": Family(
        "MarianMTModel", read_marian_config, Seq2Seq, seq2seq_weight_map, ("MarianModel",)
    )
}
