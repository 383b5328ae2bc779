"""Where the tensors of an encoder-decoder in the manner of BART go, whatever its family."""

from __future__ import annotations

from collections.abc import Iterator

from kept.models.seq2seq_config import Seq2SeqConfig
from kept.models.weight_map import Placement, WeightMap

_TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
_KINDS = ("weight", "bias")
# Parts of a block by what files call them, and which of the parts of a matrix they are.
_OWN = {
    "self_attn.q_proj": ("attention.qkv", 0),
    "self_attn.k_proj": ("attention.qkv", 1),
    "self_attn.v_proj": ("attention.qkv", 2),
    "self_attn.out_proj": ("attention.out", None),
    "self_attn_layer_norm": ("attention_norm", None),
    "fc1": ("mlp.up", None),
    "fc2": ("mlp.down", None),
    "final_layer_norm": ("mlp_norm", None),
}
_CROSS = {
    "encoder_attn.q_proj": ("cross.q", None),
    "encoder_attn.k_proj": ("cross.kv", 0),
    "encoder_attn.v_proj": ("cross.kv", 1),
    "encoder_attn.out_proj": ("cross.out", None),
    "encoder_attn_layer_norm": ("cross_norm", None),
}


def seq2seq_weight_map(config: Seq2SeqConfig) -> WeightMap:
    """Of a checkpoint, whose one table of tokens files name several times.

    Tables of sines and cosines that old files hold are computed anew.
    """
    vocabulary = ("vocab_size", "d_model")
    tables = {f"model.{name}.weight" for name in _TABLES}
    found = {name: Placement("embedding.weight", config_fields=vocabulary) for name in tables}
    found["lm_head.weight"] = Placement("head.weight", config_fields=vocabulary)
    if config.logit_bias:
        found["final_logits_bias"] = Placement(
            "head.bias", config_fields=("vocab_size",), flat=True
        )
    for side, here, count in (
        ("encoder", "encoder.", config.num_encoder_layers),
        ("decoder", "", config.num_layers),
    ):
        found |= _beside_blocks(config, f"model.{side}", here)
        for layer in range(count):
            there = f"model.{side}.layers.{layer}"
            found |= dict(_of_block(config, side, there, f"{here}blocks.{layer}"))
        if not config.norms_first:  # see `Seq2Seq`
            last = f"model.{side}.layers.{count - 1}.final_layer_norm"
            found |= {f"{last}.{kind}": Placement(f"{here}norm.{kind}") for kind in _KINDS}
    computed = () if config.positions == "learned" else (r"\.embed_positions\.weights?$",)
    return WeightMap(
        found,
        optional=frozenset(tables | ({"lm_head.weight"} if config.tied else set())),
        zeros=frozenset({"final_logits_bias"} if config.logit_bias else ()),
        ignored=(r"(^|\.)(encoder|decoder)\.version$", *computed),
        prefixes=("model.",),
    )


def _beside_blocks(config: Seq2SeqConfig, there: str, here: str) -> dict[str, Placement]:
    """Of the encoder or the decoder."""
    width = ("d_model",)
    found = {}
    if config.positions == "learned":
        fields = ("max_position_embeddings", "d_model")
        found[f"{there}.embed_positions.weight"] = Placement(
            f"{here}places.table.weight", config_fields=fields
        )
    norms = {"layernorm_embedding": "places.norm"} if config.embedding_norm else {}
    if config.norms_first:
        norms["layer_norm"] = "norm"
    for stored, name in norms.items():
        for kind in _KINDS:
            found[f"{there}.{stored}.{kind}"] = Placement(
                f"{here}{name}.{kind}", config_fields=width
            )
    return found


def _of_block(
    config: Seq2SeqConfig, side: str, there: str, here: str
) -> Iterator[tuple[str, Placement]]:
    parts = _OWN | _CROSS if side == "decoder" else _OWN
    for stored, (name, part) in parts.items():
        fields = ("d_model", f"{side}_ffn_dim") if name.startswith("mlp.") else ("d_model",)
        begin = 0 if part is None else part * config.hidden_size
        rows = None if part is None else slice(begin, begin + config.hidden_size)
        for kind in _KINDS:
            yield (
                f"{there}.{stored}.{kind}",
                Placement(f"{here}.{name}.{kind}", rows, config_fields=fields),
            )
