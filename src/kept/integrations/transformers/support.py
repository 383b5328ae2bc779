"""Which models attn_implementation="kept" is for: those that attend through an interface.

A model that computes attention by itself is handed kept's masks all the same, True and False, and
may add them to its scores as 1 and 0. transformers asks a model whether it does what is asked of it
for its own sdpa and flash attention alone, so kept asks in the same place: as the model is built,
or its attention is changed. There it also finds what its attention does not compute: attention in
chunks, which a config names, and what modules hand on of their own, once all of them are there.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from transformers import PreTrainedModel

from kept.errors import OptionError
from kept.integrations.transformers.model import ATTENTION
from kept.integrations.transformers.scores import check_built


def refuse_unsupported(arguments: frozenset[str]) -> None:
    """Have transformers' models refuse attn_implementation="kept" where they do not go through the
    interface, or ask more of it than these arguments. Wraps methods of PreTrainedModel, once."""
    asked = PreTrainedModel.get_correct_attn_implementation
    ended: Any = PreTrainedModel.post_init
    if getattr(asked, "kept_asks", False):
        return

    @wraps(asked)
    def ask(self: Any, requested_attention: str | None, *args: Any, **kwargs: Any) -> Any:
        if requested_attention == ATTENTION:
            check_supported(type(self))
            check_chunks(self)
            check_built(self, arguments)  # nothing yet, unless its attention is changed
        return asked(self, requested_attention, *args, **kwargs)

    @wraps(ended)
    def end(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.config._attn_implementation == ATTENTION:
            check_built(self, arguments)
        return ended(self, *args, **kwargs)

    ask.kept_asks = True  # type: ignore[attr-defined]
    PreTrainedModel.get_correct_attn_implementation = ask  # type: ignore[method-assign]
    PreTrainedModel.post_init = end  # type: ignore[method-assign]


def check_chunks(model: PreTrainedModel) -> None:
    """Raise OptionError for a model whose config has layers that attend in chunks."""
    kinds = getattr(model.config, "layer_types", None) or ()
    if "chunked_attention" in kinds:
        raise OptionError(
            f"layer {list(kinds).index('chunked_attention')} of {type(model).__name__} attends in "
            f"chunks, which attn_implementation={ATTENTION!r} does not; load it with "
            "attn_implementation='sdpa', which takes a KeptCache as well"
        )


def check_supported(model: type[PreTrainedModel]) -> None:
    """Raise OptionError for a class of models that computes its attention by itself.

    One that takes any function for its attention says so (`_supports_attention_backend`). Older
    ones say that they take sdpa, by way of the interface or, as Falcon, by classes of their own:
    what tells them apart is whether they can change their attention later, which transformers finds
    in their source.
    """
    if model._supports_attention_backend:
        return
    if model._supports_sdpa and model._can_set_attn_implementation():
        return
    raise OptionError(
        f"{model.__name__} does not attend through transformers' attention interface, so "
        f"attn_implementation={ATTENTION!r} cannot compute its attention; load it with "
        "attn_implementation='eager', which takes a KeptCache as well. Of a model with parts, name "
        f"those that are to have it: attn_implementation={{'text_config': {ATTENTION!r}}}"
    )
