"""What a codec does to keys and values, and to the attention of the recorded queries over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kept import ops
from kept.batch import pack
from kept.cache import Cache, KVShape, make_cache
from kept.explain.recording import Recording


@dataclass(frozen=True, slots=True)
class CodecEffect:
    """A codec against fp32, for the same queries, keys and values of every layer.

    key_errors, value_errors: (L, S) the norm of a token's error over the norm of what it was, all
    heads together. weights: (L,) of (H, S, S), attention over the coded keys. moved: (L, H, S) half
    the sum of |change| of a token's row: the mass that lies elsewhere, 0 to 1. output_errors:
    (L, H, S) the relative error of the weighted values.
    """

    name: str
    bytes_per_token: int
    key_errors: Tensor
    value_errors: Tensor
    weights: tuple[Tensor, ...]
    moved: Tensor
    output_errors: Tensor


def codec_effects(
    recording: Recording, shapes: tuple[KVShape, ...], names: list[str]
) -> list[CodecEffect]:
    """The effect of each codec. Raises OptionError for one that does not exist."""
    exact = _attend(recording, shapes, "float32")
    return [_effect(recording, shapes, name, exact) for name in names]


@dataclass(frozen=True, slots=True)
class _Attended:
    """(L,) of what attention over one codec's keys and values gave: (H, S, S) and (S, H, D)."""

    cache: Cache
    weights: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def _attend(recording: Recording, shapes: tuple[KVShape, ...], name: str) -> _Attended:
    """Attend all tokens at once: each sees those before it, whatever step brought them."""
    cache = make_cache(shapes, kv_dtype=name, keeps_all=True)
    tokens = recording.token_ids[: recording.num_read]
    weights, outputs = [], []
    with cache.step(pack([tokens])) as stores:
        for store, k, v, q, spec in zip(
            stores,
            recording.keys,
            recording.values,
            recording.queries,
            recording.specs,
            strict=True,
        ):
            view = store.append(k.transpose(0, 1), v.transpose(0, 1))
            out, [found] = ops.attend_with_weights(q, view, spec)
            weights.append(found[0])
            outputs.append(out)
    return _Attended(cache, tuple(weights), tuple(outputs))


def _effect(
    recording: Recording, shapes: tuple[KVShape, ...], name: str, exact: _Attended
) -> CodecEffect:
    coded = _attend(recording, shapes, name)
    stored = [coded.cache.layer(index)[0] for index in range(len(coded.cache.layers))]
    moved = [(a - b).abs().sum(-1) / 2 for a, b in zip(coded.weights, exact.weights, strict=True)]
    outputs = [_relative(a, b, dim=-1).T for a, b in zip(coded.outputs, exact.outputs, strict=True)]
    return CodecEffect(
        name=name,
        bytes_per_token=sum(shape.num_bytes(coded.cache.codec) for shape in shapes),
        key_errors=_errors([k for k, _ in stored], recording.keys),
        value_errors=_errors([v for _, v in stored], recording.values),
        weights=coded.weights,
        moved=torch.stack(moved),
        output_errors=torch.stack(outputs),
    )


def _errors(coded: list[Tensor], exact: tuple[Tensor, ...]) -> Tensor:
    """(L, S) of (L,) of (G, S, D)."""
    return torch.stack([_relative(a, b, dim=(0, 2)) for a, b in zip(coded, exact, strict=True)])


def _relative(coded: Tensor, exact: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    error = torch.linalg.vector_norm(coded.float() - exact, dim=dim)
    size = torch.linalg.vector_norm(exact, dim=dim)
    return torch.where(size > 0, error / size, error)
