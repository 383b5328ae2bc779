"""What `update` hands to a model: tensors of keys and values, expanded only if somebody looks.

A model that attends through kept passes them on to its attention function, which finds the codes
behind them. Whoever computes with them instead gets the numbers themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kept.cache import LayerCache
from kept.errors import CacheError
from kept.integrations.transformers.model import ATTENTION, ModelLayers
from kept.ops import ContiguousView, Span, StoredView


@dataclass(frozen=True)
class Held:
    """What a layer holds after an update, of which the model is handed the last `num_tokens`.

    layer: its number in the model. forgets: (window, sinks) of the cache if it keeps less than the
    model attends, so that no mask of the model's fits what it holds. dtypes: of keys and of values,
    as they came in.
    """

    view: StoredView
    model: ModelLayers
    layer: int
    num_tokens: int
    forgets: tuple[int, int] | None
    dtypes: tuple[torch.dtype, torch.dtype]

    @property
    def length(self) -> int:
        """Tokens of each sequence."""
        return self.view.span.lengths[0]

    @cached_property
    def dense(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, num_tokens, D), oldest first; no copy where they lie so.

        Raises CacheError where only kept's own attention can tell which of them a query sees.
        """
        if self.forgets is not None:
            raise CacheError(
                "this cache keeps fewer tokens than the model attends, and only kept's attention "
                "can honour that, with left padding as the only mask and without gradients; load "
                f"the model with attn_implementation={ATTENTION!r} and run it under no_grad, or "
                "make the cache without sliding_window and num_sinks"
            )
        view = self.view
        if isinstance(view, ContiguousView):
            view = narrowed(view, self.length - self.num_tokens)
        keys, values = view.dense()
        return keys.to(self.dtypes[0]), values.to(self.dtypes[1])

    @cached_property
    def numbers(self) -> tuple[Tensor, Tensor]:
        """`dense`, laid out as a `HeldTensor` says: torch takes operations apart by that."""
        return self.dense[0].contiguous(), self.dense[1].contiguous()

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The pair to hand to a model that attends through kept."""
        return _stand_in(self, 0), _stand_in(self, 1)


class HeldTensor(Tensor):
    """Keys (which = 0) or values (1) of a `Held`, (B, G, S, D), without the numbers."""

    held: Held
    which: int

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own stub is not what it calls
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Compute with the numbers themselves."""
        return func(*tree_map(_expanded, args), **tree_map(_expanded, kwargs or {}))

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.held.numbers[self.which].clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.numbers[self.which].__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<{'values' if self.which else 'keys'} {tuple(self.shape)} in a cache of kept>"


# Torch functions take it for a tensor like any other, and end up in `__torch_dispatch__`.
HeldTensor.__torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def _stand_in(held: Held, which: int) -> HeldTensor:
    span, view = held.view.span, held.view
    width = view.value_width if which else view.head_dim
    size = len(span.slots), view.keys[0].shape[1], held.num_tokens, width
    made: HeldTensor = Tensor._make_wrapper_subclass(
        HeldTensor, size, dtype=held.dtypes[which], device=span.device
    )
    made.held, made.which = held, which
    return made


def _expanded(x: Any) -> Any:
    return x.held.numbers[x.which] if isinstance(x, HeldTensor) else x


def whole(layer: LayerCache, length: int, device: torch.device) -> StoredView:
    """A view of all that a layer holds, whose token i lies in entry i, of `length` tokens."""
    slots = tuple(range(layer.num_slots))
    return layer.view(
        Span((0, *(i + 1 for i in slots)), slots, (length,) * len(slots), length, device)
    )


def narrowed(
    view: ContiguousView, begin: int, members: tuple[int, ...] | None = None
) -> ContiguousView:
    """A view of tokens from `begin` on, to which they are the first ones, of some sequences.

    All of the view's sequences are equally long and bring equally many new tokens, of which those
    before `begin` are left out.
    """
    span = view.span
    slots = span.slots if members is None else members
    length = span.lengths[0] - begin
    count = min(span.counts[0], length)
    starts = tuple(i * count for i in range(len(slots) + 1))
    inner = Span(starts, slots, (length,) * len(slots), length, span.device, window=span.window)
    keys, values = (tuple(x[:, :, begin:] for x in parts) for parts in (view.keys, view.values))
    return replace(view, span=inner, keys=keys, values=values)
