"""Randomness: a draw is a function of (seed, position) and of the scores, and of nothing else.

The generator is counter-based (Philox4x64-10, Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011): the seed is its key and the position its counter, so that no draw depends on
which were made before it, and neither the batch nor a rejected draft moves one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kept.entropy import random_bytes
from kept.errors import SamplingError
from kept.sampling import kernels
from kept.sampling.weights import Floats, places, weights_of

Weights = npt.NDArray[np.float64]
_BITS = 53  # of a float64, and of the integers every JSON reader keeps


class Key(NamedTuple):
    """What a draw is keyed by: a request's seed and the index in its sequence of the new token."""

    seed: int
    position: int


def fresh_seed() -> int:
    """Return a seed from the system's entropy, below 2**53 so that JSON carries it exactly."""
    return int.from_bytes(random_bytes(8), "little") >> (64 - _BITS)


def derive_seed(seed: int, index: int) -> int:
    """Return the seed of sequence `index` of a request: `seed` itself for 0, then unrelated ones.

    The derived seed, given as `seed` to a request for one sequence, repeats that sequence.
    """
    if index == 0:
        return seed
    return int(np.random.Philox(key=seed | (index << 64)).random_raw()) >> (64 - _BITS)


def uniforms(key: tuple[int, int], count: int) -> Weights:
    """Return `count` numbers in [0, 1), multiples of 2**-53, that depend on `key` alone."""
    seed, position = key
    # The position in the second word: a long run of draws counts up in the first.
    raw: npt.NDArray[np.uint64]
    raw = np.random.Philox(key=seed, counter=position << 64).random_raw(count)
    return (raw >> np.uint64(64 - _BITS)).astype(np.float64) * np.float64(2.0**-_BITS)


def invert(weights: Weights, u: float) -> int:
    """Return the index at which the running sum of `weights` first exceeds `u` times their sum.

    `weights` (n,) float64, none negative, not all zero, summed in index order; `u` in [0, 1]. An
    index of weight zero is never returned, and 1 gives the last index of positive weight.
    """
    cumulative = np.cumsum(weights)
    total = cumulative[-1]
    index = np.searchsorted(cumulative, u * total, side="right")
    last = np.searchsorted(cumulative, total, side="left")
    return int(min(index, last))


def uniforms_of(keys: Sequence[tuple[int, int]]) -> list[float]:
    """Return the first of `uniforms` of each key, (n,)."""
    if kernels.random_bits is None:
        return [float(uniforms(key, 1)[0]) for key in keys]
    raw = kernels.random_bits([seed for seed, _ in keys], [position for _, position in keys])
    return [(bits >> (64 - _BITS)) * 2.0**-_BITS for bits in raw]


def draw(scores: Tensor, key: tuple[int, int]) -> int:
    """Draw one token id from softmax(`scores`), scores (V,) with -inf for tokens ruled out.

    One uniform number is inverted through the cumulative distribution in order of token id, in
    whole numbers (see `weights`). At least one score must be finite and none NaN or +inf.
    """
    row: Floats = scores.detach().to(device="cpu", dtype=torch.float32).numpy()
    token_ids = np.flatnonzero(row > -np.inf)
    possible = row[token_ids]
    cumulative = np.cumsum(weights_of(possible, possible.max()))
    place = places(cumulative[-1:], uniforms(key, 1))
    return int(token_ids[np.searchsorted(cumulative, place, side="right")[0]])


def draw_distinct(scores: Tensor, count: int, key: tuple[int, int]) -> list[int]:
    """Draw `count` different indices from softmax(`scores`) without replacement, in draw order.

    For sampling in beam search, where `scores` (beams * V,) are the accumulated ones. Raises
    `SamplingError` where fewer than `count` have a positive probability.
    """
    token_ids, weights = _weights(scores)
    drawn: list[int] = []
    for u in uniforms(key, count):
        if not weights.any():
            raise SamplingError(
                f"{count} different tokens are to be drawn and only {len(drawn)} are possible; "
                "lower num_beams, or loosen top_k, top_p or min_p"
            )
        index = invert(weights, float(u))
        drawn.append(int(token_ids[index]))
        weights[index] = 0.0
    return drawn


def _weights(scores: Tensor) -> tuple[npt.NDArray[np.int64], Weights]:
    """Return the possible ids, ascending, and their probabilities as fractions of the highest."""
    row = scores.detach().to(device="cpu", dtype=torch.float32).numpy()
    token_ids = np.flatnonzero(row > -np.inf)
    possible = row[token_ids].astype(np.float64)
    if possible.size:
        possible -= possible.max()
    return token_ids, np.exp(possible)
