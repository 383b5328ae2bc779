"""Weights: what numpy finds is what the kernels find, and sums do not depend on who adds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.machine import NATIVE_AVAILABLE
from kept.sampling import kernels, weights
from kept.sampling.draw import uniforms, uniforms_of
from kept.sampling.weights import CHUNK, num_in_nucleus, sums_of_chunks, weights_of

needs_native = pytest.mark.skipif(not NATIVE_AVAILABLE, reason="built without the native module")


def _row(size: int, seed: int, spread: float) -> weights.Floats:
    row = (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)
    row[seed % size :: 7] = -np.inf
    row[seed % size] = 0.5  # at least one is finite
    return row


@needs_native
@given(
    size=st.sampled_from([1, 7, 16, 255, 256, 257, 1000]),
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 0.1, 3.0, 1e30]),
    temperature=st.sampled_from([1.0, 0.7, 1.3]),
    threads=st.integers(1, 3),
)
def test_kernels_find_the_bits_of_numpy(
    size: int, seed: int, spread: float, temperature: float, threads: int
) -> None:
    from kept import _native

    rows = [_row(size, seed + i, spread) for i in range(3)]
    peaks = [float(row.max() / np.float32(temperature)) for row in rows]
    before = _native.num_threads()
    _native.set_num_threads(threads)
    try:
        found = sums_of_chunks(rows, peaks, [temperature] * 3)
    finally:
        _native.set_num_threads(before)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernels, "weigh", None)
        np.testing.assert_array_equal(found, sums_of_chunks(rows, peaks, [temperature] * 3))


@needs_native
@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**63))
def test_many_random_numbers_are_those_of_numpy(seed: int, position: int) -> None:
    keys = [(seed, position), (0, position), (seed, 0)]
    np.testing.assert_array_equal(uniforms_of(keys), [uniforms(key, 1)[0] for key in keys])


def test_weights_are_probabilities_to_rounding() -> None:
    scores = np.linspace(-40, 0, 5000, dtype=np.float32)
    found, expected = weights_of(scores, np.float32(0)), np.exp(scores.astype(np.float64)) * 2**42
    assert found[-1] == 2**42
    assert found[0] == 0
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=0.6)


def test_sums_are_of_chunks_in_order() -> None:
    row = _row(2 * CHUNK + 3, 4, 2.0)
    found = sums_of_chunks([row], [float(row.max())], [1.0])[0]
    each = weights_of(row, row.max())
    assert found.tolist() == [each[i : i + CHUNK].sum() for i in (0, CHUNK, 2 * CHUNK)]


@pytest.mark.parametrize(("mass", "count"), [(1e-9, 1), (0.5, 1), (0.51, 2), (0.75, 2), (1.0, 3)])
def test_a_nucleus_ends_where_the_mass_is_reached(mass: float, count: int) -> None:
    assert num_in_nucleus(np.array([4, 2, 2, 0]), 8, mass) == count
