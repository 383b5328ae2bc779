"""What a step computes and reads, with the cache and without."""

from __future__ import annotations

from dataclasses import dataclass, fields

from kept.bench.work import Costs


@dataclass(frozen=True, slots=True)
class Count:
    """What a step, or several, take of a layer or of the whole model.

    rows: tokens whose query, key and value are computed. keys_read: tokens whose key and value are
    read from the cache, in the layer that reads most. multiply_adds: of matrix products, those of
    queries by keys and of weights by values among them. weight_bytes: of weights read.
    kv_bytes_computed, kv_bytes_read: of the keys and values of `rows`, and from the cache, in the
    layers' heads and codec.
    """

    rows: int = 0
    keys_read: int = 0
    multiply_adds: int = 0
    weight_bytes: int = 0
    kv_bytes_computed: int = 0
    kv_bytes_read: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def count_step(costs: Costs, start: int, end: int, use_cache: bool) -> Count:
    """A step after which `end` tokens have been read, `start` of them in earlier steps.

    The logits of the last token alone are computed. With the cache it is the whole prompt (start 0)
    or one token; without it every step is a prompt of `end` tokens.
    """
    if use_cache and start and end - start != 1:
        raise ValueError(f"a step from {start} to {end}: read the prompt whole, or one token")
    first = start if use_cache else 0
    work = costs.decode_step([end]) if first else costs.prompt(end)
    kept = [_num_read(first, shape.window) for shape in costs.kv_shapes]
    sizes = [shape.num_bytes(costs.codec) for shape in costs.kv_shapes]
    return Count(
        rows=end - first,
        keys_read=max(kept),
        multiply_adds=work.operations // 2,
        weight_bytes=work.weight_bytes,
        kv_bytes_computed=(end - first) * sum(sizes),
        kv_bytes_read=sum(n * size for n, size in zip(kept, sizes, strict=True)),
    )


def _num_read(start: int, window: int | None) -> int:
    """Cached tokens that the token at `start` sees; it is one of its window's tokens itself."""
    return start if window is None else min(start, window - 1)
