"""BART: trained positions, of which the first token has the third, and norms behind the sums."""

from __future__ import annotations

from typing import Any

from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.seq2seq import Seq2Seq
from kept.models.seq2seq_config import Seq2SeqConfig, Seq2SeqFamily, read_seq2seq
from kept.models.seq2seq_weights import seq2seq_weight_map

_BART = Seq2SeqFamily(
    norms_first=False,
    embedding_norm=True,
    positions="learned",
    positions_from=2,
    logit_bias=True,
    vocab_size=50265,
    flags={
        "normalize_before": False,
        "add_final_layer_norm": False,
        "normalize_embedding": True,
        "static_position_embeddings": False,
    },
)


def read_bart_config(config: dict[str, Any]) -> Seq2SeqConfig:
    """Read config.json of model type bart."""
    return read_seq2seq(Fields(config), _BART)


FAMILIES = {
    "bart": Family("BartForConditionalGeneration", read_bart_config, Seq2Seq, seq2seq_weight_map)
}
