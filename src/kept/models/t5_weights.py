"""Where the tensors of a T5 checkpoint go."""

from __future__ import annotations

from kept.models.t5_config import T5Config
from kept.models.weight_map import Placement, WeightMap


def t5_weight_map(config: T5Config) -> WeightMap:
    """Of a T5 checkpoint. Files name the one table of tokens several times."""
    vocabulary = ("vocab_size", "d_model")
    tables = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    placements = {name: Placement("embedding.weight", config_fields=vocabulary) for name in tables}
    placements["lm_head.weight"] = Placement("head.weight", config_fields=vocabulary)
    for stack, here, layers in (
        ("encoder", "encoder.", config.num_encoder_layers),
        ("decoder", "", config.num_layers),
    ):
        placements[f"{stack}.final_layer_norm.weight"] = Placement(f"{here}norm.weight")
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        placements[first] = Placement(
            f"{here}bias.weight", config_fields=("relative_attention_num_buckets", "num_heads")
        )
        for layer in range(layers):
            there = f"{stack}.block.{layer}.layer"
            block = f"{here}blocks.{layer}"
            placements |= _block_placements(config, there, block, stack == "decoder")
    tied = {"lm_head.weight"} if config.tied else set()
    scaled = config.output_scale != 1.0
    return WeightMap(
        placements,
        optional=frozenset({*tables, *tied}),
        # An old conversion left a bias that nothing reads.
        ignored=(r"EncDecAttention\.relative_attention_bias\.weight$",),
        may_untie=not scaled,
    )


def _block_placements(
    config: T5Config, there: str, here: str, decoder: bool
) -> dict[str, Placement]:
    inner = config.num_heads * config.head_dim
    fields = ("num_heads", "d_kv", "d_model")
    modules = [(f"{there}.0.SelfAttention", "attention", "qkv")]
    if decoder:
        modules.append((f"{there}.1.EncDecAttention", "cross", "kv"))
    found = {}
    for index, (module, name, fused) in enumerate(modules):
        for i, which in enumerate(fused):
            rows = slice(i * inner, (i + 1) * inner)
            found[f"{module}.{which}.weight"] = Placement(
                f"{here}.{name}.{fused}.weight", rows, config_fields=fields
            )
        found[f"{module}.o.weight"] = Placement(f"{here}.{name}.out.weight", config_fields=fields)
        norm = f"{here}.{name}_norm.weight"
        found[f"{there}.{index}.layer_norm.weight"] = Placement(norm, config_fields=("d_model",))
    if decoder:
        found[f"{there}.1.EncDecAttention.q.weight"] = Placement(
            f"{here}.cross.q.weight", config_fields=fields
        )
    return found | _mlp_placements(config, f"{there}.{len(modules)}", here)


def _mlp_placements(config: T5Config, there: str, here: str) -> dict[str, Placement]:
    size, fields, mlp = config.mlp_size, ("d_ff", "d_model"), f"{there}.DenseReluDense"
    found = {
        f"{there}.layer_norm.weight": Placement(f"{here}.mlp_norm.weight"),
        f"{mlp}.wo.weight": Placement(f"{here}.mlp.down.weight", config_fields=fields),
    }
    names = ("wi_0", "wi_1") if config.gated else ("wi",)
    for i, name in enumerate(names):
        rows = slice(i * size, (i + 1) * size) if config.gated else None
        found[f"{mlp}.{name}.weight"] = Placement(
            f"{here}.mlp.up.weight", rows, config_fields=fields
        )
    return found
