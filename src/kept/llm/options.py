"""What a call asks for: two kinds of options, and keywords of either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from kept.errors import OptionError
from kept.models import Checkpoint
from kept.options import CacheOptions, ResolvedCacheOptions
from kept.sampling import ResolvedParams, SamplingParams, check_keywords

_KINDS: dict[str, type[object]] = {"params": SamplingParams, "cache_options": CacheOptions}
_OF_PARAMS = frozenset(field.name for field in fields(SamplingParams))
_OF_CACHE = frozenset(field.name for field in fields(CacheOptions))


def resolve_options(
    checkpoint: Checkpoint,
    vocab_size: int,
    params: SamplingParams | None,
    cache_options: CacheOptions | None,
    keywords: Mapping[str, Any],
) -> tuple[ResolvedParams, ResolvedCacheOptions]:
    """Options made concrete by the checkpoint's generation_config.json.

    keywords: fields of either object, which win over both. Raises OptionError for an object of the
    wrong kind, a keyword that neither has, and as the `resolve` of both.
    """
    _check_kind("params", params, SamplingParams, "max_new_tokens=20")
    _check_kind("cache_options", cache_options, CacheOptions, "kv_dtype='int8'")
    given = check_keywords(keywords, _OF_PARAMS | _OF_CACHE)
    of_params = {name: value for name, value in given.items() if name in _OF_PARAMS}
    of_cache = {name: value for name, value in given.items() if name in _OF_CACHE}
    config, source = checkpoint.generation_config, checkpoint.generation_source
    return (
        replace(params or SamplingParams(), **of_params).resolve(
            config, vocab_size=vocab_size, source=source
        ),
        replace(cache_options or CacheOptions(), **of_cache).resolve(config, source=source),
    )


def _check_kind(name: str, given: object, kind: type[object], example: str) -> None:
    if given is None or isinstance(given, kind):
        return
    other = next((n for n, k in _KINDS.items() if isinstance(given, k)), None)
    if other is not None:
        raise OptionError(f"{name} is a {type(given).__name__}; pass it as {other}")
    raise OptionError(
        f"{name} is a {type(given).__name__}; pass {kind.__name__}(...), or its fields as "
        f"keywords, as in {example}"
    )


def check_single(params: ResolvedParams) -> None:
    """Raise OptionError for options whose text is known only at the end, so that none streams."""
    if params.num_beams > 1 or params.num_return_sequences > 1:
        raise OptionError(
            f"num_beams={params.num_beams} and num_return_sequences={params.num_return_sequences}: "
            "a stream shows one text as it is written, and this one is known only at the end; use "
            "generate()"
        )


def read_template_options(asked: object) -> Mapping[str, Any]:
    """What a chat template takes besides the messages, None: nothing. Raises OptionError for what
    is no dict by name, or names what kept itself passes."""
    own = {"self", "messages", "add_generation_prompt", "continue_final_message"}
    options: object = {} if asked is None else asked
    if isinstance(options, Mapping) and all(isinstance(x, str) and x not in own for x in options):
        return options
    raise OptionError(
        f"template_options={asked!r:.200}; pass a dict of the template's own variables by name, "
        f"without {' and '.join(sorted(own))}"
    )
