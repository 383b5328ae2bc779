"""What families of the time before gates and root-mean-square norms have in common."""

from __future__ import annotations

from collections.abc import Mapping

from kept.errors import CheckpointError
from kept.models.decoder_config import DecoderConfig, Order, read_sizes
from kept.models.fields import Fields
from kept.ops import ACTIVATIONS

# What several of them call the fields of config.json.
GPT_FIELDS: Mapping[str, str] = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}


def read_ungated(
    fields: Fields,
    defaults: Mapping[str, int | None],
    names: Mapping[str, str],
    *,
    order: Order,
    activation: str,
    eps_field: str = "layer_norm_epsilon",
    activation_field: str = "activation_function",
    tied: bool,
) -> DecoderConfig:
    """A decoder with layer norms and biases in all matrices but the head, that knows no positions.

    defaults, names: see `read_sizes`, and the same of `max_position_embeddings`, the context; heads
    have keys of their own unless there is a name for how many keys have, and the MLP is four times
    as wide as the model where neither says.
    """
    spelled = {name: names.get(name, name) for name in (*defaults, *names)}
    width = fields.integer(spelled["hidden_size"], defaults["hidden_size"])
    heads = fields.integer(spelled["num_attention_heads"], defaults["num_attention_heads"])
    if width % heads:
        raise CheckpointError(
            f"config.json has {spelled['hidden_size']} = {width}, which "
            f"{spelled['num_attention_heads']} = {heads} does not divide"
        )
    sizes = read_sizes(fields, {"intermediate_size": 4 * width, **defaults}, names)
    sizes["head_dim"] = width // heads
    if "num_key_value_heads" not in names:
        sizes["num_kv_heads"] = heads
    context = "max_position_embeddings"
    return DecoderConfig(
        **sizes,
        context=fields.integer(names.get(context, context), defaults[context]),
        norm="layer",
        norm_eps=fields.number(eps_field, 1e-5),
        order=order,
        activation=fields.choice(activation_field, activation, ACTIVATIONS),
        gated=False,
        tied=fields.flag("tie_word_embeddings", tied),
        scale=sizes["head_dim"] ** -0.5,
        windows=(None,) * sizes["num_layers"],
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )
