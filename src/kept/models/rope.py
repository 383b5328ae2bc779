"""Rotary position embedding: its scalings, and the tables of one step.

Types (config `rope_scaling` or `rope_parameters`): default, linear (Chen et al. 2023), dynamic (NTK
scaling by the sequence's length), llama3 (Llama 3.1), yarn (Peng et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from kept.batch import Batch
from kept.errors import CheckpointError, UnsupportedModelError
from kept.models.fields import Fields
from kept.ops import RopeTables
from kept.ops.trace import TracedRope, is_traced

_TABLE = 1024  # positions a table begins with
_LARGEST_TABLE = 1 << 17  # positions a table grows to: 32 MiB at R = 64
_MAX_CONTEXT = 2**31 - 1

TYPES = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """How positions become angles.

    type: one of TYPES. theta: the base. dim: R, how much of a head is rotated. original_context:
    positions the model was trained on before scaling. Other fields as in the config.
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


def read_rope(
    fields: Fields,
    head_dim: int,
    context: int,
    *,
    inner: Fields | None = None,
    default_theta: float = 10000.0,
) -> tuple[RopeConfig, int]:
    """The rotary config, and the context length once scaling has stretched it.

    Reads `rope_scaling`, or else `rope_parameters` (since transformers 5); inner: the object to
    read in place of those two. Where a field is in there and beside it too, `rope_theta` in there
    counts, and `original_max_position_embeddings` beside it unless there is an inner. Heads
    are rotated whole: as in transformers, `partial_rotary_factor` changes nothing without a
    scaling.

    Raises UnsupportedModelError for it with one, which transformers cannot run either.
    """
    beside = inner is None
    if inner is None:
        inner = fields.nested("rope_scaling") or fields.nested("rope_parameters") or Fields({})
    theta = inner.number("rope_theta", fields.number("rope_theta", default_theta))
    kind = inner.choice("rope_type" if inner.has("rope_type") else "type", "default", TYPES)
    if head_dim % 2 or (kind == "dynamic" and head_dim == 2):
        raise UnsupportedModelError(
            f"config.json has heads of {head_dim} elements; rotary embedding turns them in pairs, "
            "and its dynamic scaling needs more than one"
        )
    if kind == "default":
        return RopeConfig(kind, theta, head_dim, context), context
    if theta <= 1:
        raise UnsupportedModelError(
            f"config.json has rope_theta = {theta}; scaling a rotary embedding needs one above 1"
        )
    share = inner.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0))
    if int(head_dim * share) != head_dim:
        raise UnsupportedModelError(
            f"config.json has partial_rotary_factor = {share} and rope_type = {kind!r}; models of "
            "this family rotate whole heads. Leave partial_rotary_factor out"
        )
    trained = "original_max_position_embeddings"
    original = (fields if beside and fields.has(trained) else inner).integer(trained, context)
    if kind == "dynamic":
        original = context
    return _scaled(inner, kind, theta, head_dim, original, context)


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


def inverse_frequencies(config: RopeConfig, length: int = 0) -> Tensor:
    """(R / 2,) fp32 angle per position of each pair; `length` only moves the dynamic type."""
    theta = config.theta
    if config.type == "dynamic":
        context, dim = config.original_context, config.dim
        stretch = config.factor * max(length, context) / context - (config.factor - 1)
        theta = theta * stretch ** (dim / (dim - 2))
    exponents = torch.arange(0, config.dim, 2, dtype=torch.float32, device="cpu") / config.dim
    frequencies = 1.0 / theta**exponents
    match config.type:
        case "linear":
            return frequencies / config.factor
        case "llama3":
            return _llama3(frequencies, config)
        case "yarn":
            return _yarn(theta**exponents, config)
    return frequencies


def _llama3(frequencies: Tensor, config: RopeConfig) -> Tensor:
    wavelengths = 2 * math.pi / frequencies
    turns = config.original_context / wavelengths
    low, high = config.low_freq_factor, config.high_freq_factor
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequencies / config.factor + smooth * frequencies


def _yarn(periods: Tensor, config: RopeConfig) -> Tensor:
    def dimension(turns: float) -> float:
        length = config.original_context / (turns * 2 * math.pi)
        return config.dim * math.log(length) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.dim - 1)
    high += 0.001 if low == high else 0
    ramp = (torch.arange(config.dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)
    keep = 1 - ramp.clamp(0, 1)
    return (1 - keep) / (config.factor * periods) + keep / periods


class Rotary:
    """Makes the cosines and sines of a batch's positions."""

    def __init__(self, config: RopeConfig) -> None:
        self.config = config
        self._frequencies = inverse_frequencies(config)
        self._halves: tuple[Tensor, Tensor] | None = None
        self._num_positions = 0  # that they have

    def tables(self, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin (N, 1, R) in `dtype` for the batch's positions.

        The dynamic type takes each sequence's base from `batch.totals`.
        """
        if is_traced(batch):
            stand_in: tuple[Tensor, Tensor] = cast(Any, TracedRope(self.config.dim))
            return stand_in
        angles = self._angles(batch)
        angles = torch.cat((angles, angles), dim=-1)[:, None]  # (N, 1, R)
        scale = self.config.attention_factor
        return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)

    def halves(self, batch: Batch) -> RopeTables:
        """Tables that the native kernels read: one for all positions, kept and grown by doubling,
        or, where the dynamic type moves the base or positions are below zero or far out, a row
        for each row."""
        lowest, highest = (int(x) for x in batch.positions.aminmax())
        needed = highest + 1
        if lowest < 0 or needed > _LARGEST_TABLE or self._moves(batch):
            cos, sin = self._scaled(self._angles(batch))
            return RopeTables(
                cos, sin, torch.arange(batch.num_rows, dtype=torch.int64, device="cpu")
            )
        return RopeTables(*self._for_all(needed), batch.positions)

    def ahead(self, lengths: Sequence[int]) -> RopeTables:
        """One for all positions, for the tokens that come behind so many of each sequence."""
        longest = max(lengths)
        cos, sin = self._for_all(min(longest + 1, _LARGEST_TABLE))
        room = self._num_positions - longest
        if self.config.type == "dynamic":
            room = min(room, self.config.original_context - longest)
        return RopeTables(cos, sin, None, max(room, 0))

    def _for_all(self, needed: int) -> tuple[Tensor, Tensor]:
        """Tables of at least so many positions."""
        if self._halves is None or self._num_positions < needed:
            with torch.inference_mode(False):
                size = _TABLE << max(0, (needed - 1) // _TABLE).bit_length()
                positions = torch.arange(size, dtype=torch.float32, device="cpu")
                self._halves = self._scaled(positions[:, None] * self._frequencies)
            self._num_positions = size
        return self._halves

    def _scaled(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.config.attention_factor
        return angles.cos() * scale, angles.sin() * scale

    def _moves(self, batch: Batch) -> bool:
        longest = max(batch.totals)
        return self.config.type == "dynamic" and longest > self.config.original_context

    def _angles(self, batch: Batch) -> Tensor:  # (N, R / 2)
        device = batch.positions.device
        if self._frequencies.device != device:
            self._frequencies = self._frequencies.to(device)
        frequencies = self._frequencies
        if self._moves(batch):
            each = [inverse_frequencies(self.config, total) for total in batch.totals]
            counts = torch.tensor(batch.counts, dtype=torch.int64, device="cpu")
            frequencies = torch.stack(each).repeat_interleave(counts, 0).to(device)  # (N, R / 2)
        return batch.positions[:, None].float() * frequencies
