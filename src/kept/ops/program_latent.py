"""The lines of latent attention, as operations of a native program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.ops import lines
from kept.ops.native_shape import native_shape
from kept.ops.row_buffers import RowBuffers
from kept.ops.spec import AttentionSpec

if TYPE_CHECKING:
    from kept import _native

LatentLine = lines.PlaceLatent | lines.HeadProducts


def add_latent_line(native: _native.Program, buffers: RowBuffers, line: LatentLine) -> None:
    """Add a line to a program. Mutates both."""
    match line:
        case lines.HeadProducts(x, weights, stride, out):
            matrices = native.add_expert_weights([each.handle for each in weights])
            native.head_products(buffers[x], 0, stride, matrices, buffers[out])
        case lines.PlaceLatent(
            absorbed, turning, compressed, queries, layer, spec, norm, rope_begin, rope_stride
        ):
            native.place_latent(
                buffers[absorbed], buffers[turning], spec.plain, spec.plain + spec.turning,
                buffers[compressed], buffers[queries], layer,
                native_shape(spec.heads, AttentionSpec(1.0)), norm, spec.norm_eps,
                spec.turning, rope_begin, rope_stride, spec.neighbours,
            )  # fmt: skip
