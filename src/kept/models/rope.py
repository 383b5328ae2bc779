"""Rotary position embedding: its scalings, and the tables of one step.

Types (config `rope_scaling` or `rope_parameters`): default, linear (Chen et al. 2023), dynamic (NTK
scaling by the sequence's length), llama3 (Llama 3.1), yarn (Peng et al. 2023), longrope (Ding et
al. 2024: one factor a pair up to the trained context, another beyond it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from kept.batch import Batch
from kept.models.rope_config import RopeConfig
from kept.ops import RopeTables
from kept.ops.trace import is_traced
from kept.ops.traced_batch import TracedRope

_TABLE = 1024  # positions a table begins with
_LARGEST_TABLE = 1 << 17  # positions a table grows to: 32 MiB at R = 64


def inverse_frequencies(config: RopeConfig, length: int = 0) -> Tensor:
    """(R / 2,) fp32 angle per position of each pair; `length`, of the text, moves some types."""
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
        case "proportional":
            frequencies = frequencies / config.factor
            frequencies[config.turned :] = 0
        case "longrope":
            factors = config.long if length > config.original_context else config.short
            by = torch.tensor(factors, dtype=torch.float32, device="cpu")
            return 1.0 / (by * theta**exponents)
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
        # Of all positions, and of how many: by whether they are those of long texts.
        self._halves: dict[bool, tuple[tuple[Tensor, Tensor], int]] = {}

    def tables(self, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin (N, 1, R) in `dtype` for the batch's positions.

        Types that follow the length take that of each sequence from `batch.totals`.
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
        or, where texts differ in their angles or positions are below zero or far out, a row for
        each row."""
        lowest, highest = (int(x) for x in batch.positions.aminmax())
        needed = highest + 1
        is_long = self._are_long(batch.totals)
        if lowest < 0 or needed > _LARGEST_TABLE or is_long is None:
            cos, sin = self._scaled(self._angles(batch))
            return RopeTables(
                cos, sin, torch.arange(batch.num_rows, dtype=torch.int64, device="cpu")
            )
        return RopeTables(*self._for_all(needed, is_long)[0], batch.positions)

    def ahead(self, lengths: Sequence[int]) -> RopeTables:
        """One for all positions, for the tokens that come behind so many of each sequence."""
        longest = max(lengths)
        is_long = self._are_long([length + 1 for length in lengths])
        (cos, sin), count = self._for_all(min(longest + 1, _LARGEST_TABLE), bool(is_long))
        room = 0 if is_long is None else count - longest
        if self.config.follows_length and not is_long:
            room = min(room, self.config.original_context - longest)
        return RopeTables(cos, sin, None, max(room, 0))

    def _for_all(self, needed: int, is_long: bool) -> tuple[tuple[Tensor, Tensor], int]:
        """Tables of at least so many positions, and of how many."""
        found = self._halves.get(is_long)
        if found is None or found[1] < needed:
            with torch.inference_mode(False):
                size = _TABLE << max(0, (needed - 1) // _TABLE).bit_length()
                positions = torch.arange(size, dtype=torch.float32, device="cpu")
                length = self.config.original_context + 1 if is_long else 0
                frequencies = inverse_frequencies(self.config, length)
                found = self._scaled(positions[:, None] * frequencies), size
            self._halves[is_long] = found
        return found

    def _scaled(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.config.attention_factor
        return angles.cos() * scale, angles.sin() * scale

    def _are_long(self, totals: Sequence[int]) -> bool | None:
        """Whether texts of so many tokens have the angles of long ones; None: not all the same."""
        if not self.config.follows_length:
            return False
        beyond = [total > self.config.original_context for total in totals]
        if not any(beyond):
            return False
        return True if self.config.reread_at is not None and all(beyond) else None

    def _angles(self, batch: Batch) -> Tensor:  # (N, R / 2)
        device = batch.positions.device
        if self._frequencies.device != device:
            self._frequencies = self._frequencies.to(device)
        frequencies = self._frequencies
        if self._are_long(batch.totals) is not False:
            each = [inverse_frequencies(self.config, total) for total in batch.totals]
            counts = torch.tensor(batch.counts, dtype=torch.int64, device="cpu")
            frequencies = torch.stack(each).repeat_interleave(counts, 0).to(device)  # (N, R / 2)
        return batch.positions[:, None].float() * frequencies
