"""The kernels that sampling calls; None where the native module was not built, and numpy does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Weigh = Callable[
    [
        Sequence[npt.NDArray[np.float32]],
        Sequence[float],
        Sequence[float],
        npt.NDArray[np.int64],
    ],
    None,
]
RandomBits = Callable[[Sequence[int], Sequence[int]], list[int]]
# edge, temperature, draws, top_k, top_p, log_min_p, total, uniform
FewOptions = tuple[float, float, bool, int, float, float, int, float]
ChooseFromFew = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.int64], Sequence[FewOptions]], list[int]
]
Largest = Callable[
    [Sequence[npt.NDArray[np.float32]], npt.NDArray[np.float32], npt.NDArray[np.int64]], None
]
# row, repetition penalty, the tokens (V,) that it is for, and a mask of those that are allowed
LikeliestOptions = tuple[int, float, npt.NDArray[np.bool_] | None, npt.NDArray[np.uint32] | None]
Likeliest = Callable[[npt.NDArray[np.float32], Sequence[LikeliestOptions]], list[int]]
# logits (B, V), rows (R,), their masks, and room for values and tokens (R, K)
LargestAllowed = Callable[
    [
        npt.NDArray[np.float32],
        Sequence[int],
        Sequence[npt.NDArray[np.uint32]],
        npt.NDArray[np.float32],
        npt.NDArray[np.int64],
    ],
    None,
]

weigh: Weigh | None
random_bits: RandomBits | None
choose_from_few: ChooseFromFew | None
largest: Largest | None
largest_allowed: LargestAllowed | None
likeliest: Likeliest | None
try:
    from kept import _native
except ImportError:
    weigh, random_bits, choose_from_few, largest = None, None, None, None
    largest_allowed, likeliest = None, None
else:
    weigh, random_bits = _native.weigh, _native.random_bits
    choose_from_few, largest = _native.choose_from_few, _native.largest
    largest_allowed, likeliest = _native.largest_allowed, _native.likeliest
