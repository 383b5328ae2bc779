"""Pegasus: sines and cosines for positions, norms before what is added, one behind all blocks."""

from __future__ import annotations

from typing import Any

from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.seq2seq import Seq2Seq
from kept.models.seq2seq_config import Seq2SeqConfig, Seq2SeqFamily, read_seq2seq
from kept.models.seq2seq_weights import seq2seq_weight_map

_PEGASUS = Seq2SeqFamily(
    norms_first=True,
    embedding_norm=False,
    positions="vaswani",
    positions_from=0,
    logit_bias=True,
    vocab_size=50265,
    start_token_id=0,
    flags={
        "normalize_before": True,
        "add_final_layer_norm": True,
        "normalize_embedding": False,
        "static_position_embeddings": True,
    },
)


def read_pegasus_config(config: dict[str, Any]) -> Seq2SeqConfig:
    """Read config.json of model type pegasus."""
    return read_seq2seq(Fields(config), _PEGASUS)


FAMILIES = {
    "pegasus": Family(
        "PegasusForConditionalGeneration", read_pegasus_config, Seq2Seq, seq2seq_weight_map
    )
}
