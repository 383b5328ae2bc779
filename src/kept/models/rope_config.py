"""What config.json says of a rotary position embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kept.errors import CheckpointError, UnsupportedModelError
from kept.models.fields import Fields

_MAX_CONTEXT = 2**31 - 1

TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
PROPORTIONAL = "proportional"  # Gemma 4's alone


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """How positions become angles.

    type: one of TYPES, or PROPORTIONAL. theta: the base. dim: R, how much of a head is rotated.
    original_context: positions the model was trained on before scaling. short, long: (R / 2,) what
    periods are multiplied with up to that many positions, and beyond them. turned: pairs that turn
    at all under the proportional type, whose angles are those of whole heads. Other fields as in
    the config.
    """

    type: str
    theta: float
    dim: int
    original_context: int
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    turned: int = 0

    @property
    def follows_length(self) -> bool:
        """Whether a position's angles depend on how long the text is."""
        return self.type == "dynamic" or self.short != self.long

    @property
    def reread_at(self) -> int | None:
        """Beyond how many tokens every position has other angles, and the same from there on."""
        return self.original_context if self.type == "longrope" and self.follows_length else None


def read_rope(
    fields: Fields,
    head_dim: int,
    context: int,
    *,
    inner: Fields | None = None,
    default_theta: float = 10000.0,
    partial: float | None = None,
) -> tuple[RopeConfig, int]:
    """The rotary config, and the context length once scaling has stretched it.

    Reads `rope_scaling`, or else `rope_parameters` (since transformers 5); inner: the object to
    read in place of those two. Where a field is in there and beside it too, `rope_theta` in there
    counts, and `original_max_position_embeddings` beside it unless there is an inner. partial: the
    share of a head that is rotated where `partial_rotary_factor` does not say; None: heads are
    rotated whole, and as in transformers the field changes nothing without a scaling.

    Raises UnsupportedModelError for it with one, which transformers cannot run either.
    """
    beside = inner is None
    if inner is None:
        inner = fields.nested("rope_scaling") or fields.nested("rope_parameters") or Fields({})
    theta = inner.number("rope_theta", fields.number("rope_theta", default_theta))
    kind = inner.choice("rope_type" if inner.has("rope_type") else "type", "default", TYPES)
    dim = head_dim if partial is None else _rotated(inner, fields, head_dim, partial)
    if dim % 2 or (kind == "dynamic" and dim == 2):
        raise UnsupportedModelError(
            f"config.json has heads of {head_dim} elements, {dim} of which are rotated; rotary "
            "embedding turns them in pairs, and its dynamic scaling needs more than one, in "
            "transformers too. Is it the config of this model, complete?"
        )
    if kind == "default":
        return RopeConfig(kind, theta, dim, context), context
    if theta <= 1:
        raise UnsupportedModelError(
            f"config.json has rope_theta = {theta}; scaling a rotary embedding needs one above 1"
        )
    share = inner.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0))
    if partial is None and int(head_dim * share) != head_dim:
        raise UnsupportedModelError(
            f"config.json has partial_rotary_factor = {share} and rope_type = {kind!r}; models of "
            "this family rotate whole heads. Leave partial_rotary_factor out"
        )
    trained = "original_max_position_embeddings"
    original = (fields if beside and fields.has(trained) else inner).integer(trained, context)
    if kind == "dynamic":
        original = context
    if kind == "longrope":
        return _by_length(inner, theta, dim, original, context), context
    return _scaled(inner, kind, theta, dim, original, context)


def _rotated(inner: Fields, fields: Fields, head_dim: int, partial: float) -> int:
    share = inner.number("partial_rotary_factor", fields.number("partial_rotary_factor", partial))
    dim = int(head_dim * share)
    if not 2 <= dim <= head_dim:
        raise CheckpointError(
            f"config.json has partial_rotary_factor = {share}, which rotates {dim} of a head's "
            f"{head_dim} elements; it must leave 2 to {head_dim}"
        )
    return dim


def _scaled(
    inner: Fields, kind: str, theta: float, dim: int, original: int, context: int
) -> tuple[RopeConfig, int]:
    factor = context / original if kind == "yarn" else None
    factor = inner.number("factor", factor)
    # Where the config's context does not say so itself, scaling is what stretches it.
    stretched = context if kind == "llama3" else max(context, int(original * factor))
    if kind == "linear":
        stretched = int(context * factor)
    if not 1 <= stretched <= _MAX_CONTEXT:
        raise CheckpointError(
            f"config.json stretches a context of {original} by factor = {factor}, to {stretched}; "
            f"it must be 1 to {_MAX_CONTEXT} tokens long"
        )
    config = RopeConfig(
        type=kind,
        theta=theta,
        dim=dim,
        original_context=original,
        factor=factor,
        low_freq_factor=inner.number("low_freq_factor", None if kind == "llama3" else 1.0),
        high_freq_factor=inner.number("high_freq_factor", None if kind == "llama3" else 4.0),
        beta_fast=inner.number("beta_fast", 32.0),
        beta_slow=inner.number("beta_slow", 1.0),
        attention_factor=_attention_factor(inner, factor) if kind == "yarn" else 1.0,
        truncate=inner.flag("truncate", True),
    )
    return config, stretched


def _attention_factor(inner: Fields, factor: float) -> float:
    """YaRN's temperature, section 3.4 of the paper; `mscale` fields as DeepSeek's configs use."""
    if inner.has("attention_factor"):
        return inner.number("attention_factor")

    def scale(by: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0

    if inner.has("mscale") and inner.has("mscale_all_dim"):
        above = inner.number("mscale", positive=False)
        below = inner.number("mscale_all_dim", positive=False)
        if above and below:
            return scale(above) / scale(below)
    return scale(1.0)


def _by_length(inner: Fields, theta: float, dim: int, original: int, context: int) -> RopeConfig:
    """LongRoPE's two tables of factors, and its temperature (section 3.3 of the paper)."""
    factor = inner.number("factor", context / original)
    temperature = 1.0
    if factor > 1 and original > 1:
        temperature = math.sqrt(1 + math.log(factor) / math.log(original))
    return RopeConfig(
        type="longrope",
        theta=theta,
        dim=dim,
        original_context=original,
        factor=factor,
        attention_factor=inner.number("attention_factor", temperature),
        short=inner.numbers("short_factor", dim // 2),
        long=inner.numbers("long_factor", dim // 2),
    )
