"""How GGUF stores numbers: a row is cut into blocks of so many weights and bytes.

Numbers, names and sizes are ggml's (`enum ggml_type` and `type_traits` of ggml.c), which the
package gguf repeats as GGML_QUANT_SIZES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockType:
    """name: ggml's. weights, num_bytes: of a block."""

    name: str
    weights: int
    num_bytes: int

    @property
    def is_plain(self) -> bool:
        """Whether a block is one number, stored as it is."""
        return self.weights == 1


BLOCK_TYPES: Mapping[int, BlockType] = {
    number: BlockType(name, weights, num_bytes)
    for number, name, weights, num_bytes in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
    )
}
