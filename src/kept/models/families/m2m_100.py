"""M2M-100 and dense NLLB: tensor2tensor's positions behind the padding token's, norms before what
is added, one behind all blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.seq2seq import Seq2Seq
from kept.models.seq2seq_config import Seq2SeqConfig, Seq2SeqFamily, read_seq2seq
from kept.models.seq2seq_weights import seq2seq_weight_map

_M2M_100 = Seq2SeqFamily(
    norms_first=True,
    embedding_norm=False,
    positions="tensor2tensor",
    positions_from=2,
    logit_bias=False,
    vocab_size=128112,
    activation="relu",
    scales=True,
)


def read_m2m_100_config(config: dict[str, Any]) -> Seq2SeqConfig:
    """Read config.json of model type m2m_100."""
    fields = Fields(config)
    first = fields.integer("pad_token_id", 1, minimum=0) + 1
    return replace(read_seq2seq(fields, _M2M_100), positions_from=first)


FAMILIES = {
    "m2m_100": Family(
        "M2M100ForConditionalGeneration", read_m2m_100_config, Seq2Seq, seq2seq_weight_map
    )
}
