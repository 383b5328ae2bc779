"""Attention outside of a model's program, over what one layer of a cache holds."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor

from kept.ops import reference
from kept.ops.backend import isa, runs_natively, use_threads
from kept.ops.forking import own_openmp
from kept.ops.native_shape import computes_in_floats, native_shape
from kept.ops.plain import plain_torch
from kept.ops.spec import AttentionSpec, HeadSpec
from kept.ops.step_buffers import codec_kinds, layer_buffers, table_of
from kept.ops.views import StoredView
from kept.turns import Turn


@plain_torch()
def attend_stored(q: Tensor, view: StoredView, spec: AttentionSpec) -> Tensor:
    """`attend` of queries that come from elsewhere, on the kernels where they run.

    q: (N, H, D), the packed rows of the view's span. Returns (N, H, D) in q's dtype, or as wide as
    the values are. On the kernels no gradient flows, and each row's bits depend on its own sequence
    alone. Raises BackendError where KEPT_OPS=native and they cannot run it, OptionError for a codec
    they do not read.
    """
    if not runs_natively(q.dtype, q.device, max(view.head_dim, view.value_width)):
        return reference.attend(q, view, spec)
    heads = HeadSpec(
        q.shape[1],
        view.keys[0].shape[1],
        view.head_dim,
        value_dim=view.value_width,
        in_keys=view.values_in_keys,
    )
    return _attention(isa(), heads, spec).run(q, view)


@lru_cache(maxsize=256)
def _attention(name: str, heads: HeadSpec, spec: AttentionSpec) -> _Attention:
    return _Attention(name, heads, spec)


@cache
def _find_torch_team() -> None:
    """Let kernels run on torch's own threads, which spin for a while after each of its operations
    and would be in the way of others. Where torch brings no GNU OpenMP, others it is."""
    from kept import _native

    for library in own_openmp():
        _native.find_torch_team(library)


class _Attention:
    """A program of one operation."""

    def __init__(self, name: str, heads: HeadSpec, spec: AttentionSpec) -> None:
        from kept import _native

        use_threads()
        _find_torch_team()
        self._turn = Turn()  # it has one set of buffers
        self._heads, self._shape = heads, native_shape(heads, spec)
        self._native = _native.Program(name)
        padded = -(-heads.head_dim // 32) * 32
        self._queries = self._native.add_buffer(heads.num_heads * padded, False)
        self._out = self._native.add_buffer(heads.num_heads * heads.value_width, False)
        self._native.attend(self._queries, 0, self._shape, self._out)

    def run(self, q: Tensor, view: StoredView) -> Tensor:
        """See `attend_stored`."""
        from kept import _native

        span, (keys, values) = view.span, codec_kinds(view.codec)
        rows, floats = len(q), computes_in_floats(view.codec)
        turned = view.codec.keys.turned(q.detach().float())
        queries = turned.to(torch.float32 if floats else torch.bfloat16).contiguous()
        codes = view.keys[0]
        buffers = layer_buffers(view.keys, view.values)
        layout = (
            codes.stride(1) // codes.stride(2),  # the capacity, also where entries are left out
            span.sinks,
            -1 if span.window is None else span.window,
        )
        step = _native.step(
            rows=rows,
            tokens=None,
            positions=None,
            starts=span.starts,
            tables=[table_of(span)],
            lengths=[span.lengths],
            wanted=None,
            num_wanted=0,
            cos=None,
            sin=None,
            rope_rows=None,
            layouts=[layout],
            layers=_native.layers(keys, values, [buffers], [0]),
            logits=None,
            vocabulary=0,
            top_k=0,
            inputs=[],
            input_lengths=[],
            input_of=[],
        )
        out = torch.empty(
            rows,
            self._heads.num_heads,
            self._heads.value_width,
            dtype=torch.float32,
            device="cpu",
        )
        with self._turn.lock:
            self._native.write_queries(self._queries, rows, self._shape, floats, queries)
            self._native.run(step, 0, 1, among_torch=True)
            self._native.read_buffer(self._out, rows, out)
        return out.to(q.dtype)
