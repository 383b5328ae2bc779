"""A request's options made concrete, once for all requests that ask for the same."""

from __future__ import annotations

from dataclasses import fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from kept.sampling import ResolvedParams, SamplingParams, fresh_seed

if TYPE_CHECKING:
    from kept.llm import LLM

_FILTERS = ("top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_REMEMBERED: Final = 256  # of each model
_LARGE: Final = ("grammar", "json_schema", "regex", "sequence_bias", "bad_words_ids")
_but_seed: Final = attrgetter(*(x.name for x in fields(SamplingParams) if x.name != "seed"))
_large: Final = attrgetter(*_LARGE)

Resolved = tuple[ResolvedParams, int]
_known = WeakKeyDictionary["LLM", dict[object, Resolved]]()


def resolve(llm: LLM, params: SamplingParams, is_chat: bool) -> Resolved:
    """Options made concrete, and how many times each text is answered.

    Clients of the protocols expect more of some options than the library allows: filters of a draw
    are without effect at temperature 0, several of the likeliest text are copies of it, and
    without `top_k` all tokens can be drawn.
    """
    if any(_large(params)):  # not to be held on to
        return _resolve(llm, params, is_chat)
    known = _known.setdefault(llm, {})
    key = _but_seed(params), is_chat
    found = known.get(key)
    if found is None:
        if len(known) >= _REMEMBERED:
            known.clear()
        found = known[key] = _resolve(llm, params, is_chat)
        return found
    seed = fresh_seed() if params.seed is None else params.seed
    return replace(found[0], seed=seed), found[1]


def _resolve(llm: LLM, params: SamplingParams, is_chat: bool) -> Resolved:
    config = llm.checkpoint.generation_config
    asked: dict[str, Any] = {
        "num_return_sequences": None,
        "max_new_tokens": params.max_new_tokens or llm.model.config.context,
    }
    if params.temperature == 0:
        asked |= dict.fromkeys(_FILTERS)
    draws = params.temperature or params.top_p is not None or params.min_p is not None
    if draws and params.top_k is None and config.get("top_k") is None:
        asked["top_k"] = 0
    resolved, _ = llm.resolve(replace(params, **asked), {})
    width = params.num_return_sequences or 1
    if is_chat and params.eos_token_id is None and not params.ignore_eos:
        resolved = llm.with_turn_ends(resolved)
    if resolved.do_sample and width > 1:
        return replace(resolved, num_return_sequences=width), 1
    return resolved, width
