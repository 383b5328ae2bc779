"""mBART and mBART-50: BART with norms before what is added, and one behind all blocks."""

from __future__ import annotations

from typing import Any

from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.seq2seq import Seq2Seq
from kept.models.seq2seq_config import Seq2SeqConfig, Seq2SeqFamily, read_seq2seq
from kept.models.seq2seq_weights import seq2seq_weight_map

_MBART = Seq2SeqFamily(
    norms_first=True,
    embedding_norm=True,
    positions="learned",
    positions_from=2,
    logit_bias=True,
    vocab_size=50265,
    start_token_id=None,
    flags={
        "normalize_before": True,
        "add_final_layer_norm": True,
        "normalize_embedding": True,
        "static_position_embeddings": False,
    },
)


def read_mbart_config(config: dict[str, Any]) -> Seq2SeqConfig:
    """Read config.json of model type mbart."""
    return read_seq2seq(Fields(config), _MBART)


FAMILIES = {
    "mbart": Family("MBartForConditionalGeneration", read_mbart_config, Seq2Seq, seq2seq_weight_map)
}
