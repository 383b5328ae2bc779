"""What was asked, made concrete by what the checkpoint says; every contradiction is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from kept.errors import OptionError
from kept.sampling import fields as f
from kept.sampling.draw import fresh_seed
from kept.sampling.fields import Field
from kept.sampling.generation_config import refuse_unsupported, without_transformers_caches
from kept.sampling.resolved import ResolvedParams
from kept.sampling.rules import DRAWN_RULES, NO_RULES, RULE_FIELDS, Rules

T = TypeVar("T")

# The values of the sampling options that change nothing, and so contradict nothing.
_NEUTRAL: Mapping[str, float | None] = {
    **{"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    **{field.name: field.default for field in DRAWN_RULES},
}

_CACHE_FIELDS: tuple[Field[object], ...] = (
    f.CACHE_IMPLEMENTATION,
    f.KV_DTYPE,
    f.MAX_CACHE_LEN,
    f.SLIDING_WINDOW,
    f.NUM_SINKS,
    f.KV_BUDGET,
    f.EVICTION_SCORE,
    f.NUM_RECENT,
)
_ONLY_ON: tuple[tuple[Field[object], tuple[str, ...]], ...] = (
    (f.MAX_CACHE_LEN, ("static",)),
    (f.SLIDING_WINDOW, ("sliding",)),
    (f.NUM_SINKS, ("sliding", "evicting")),
    (f.KV_BUDGET, ("evicting",)),
    (f.EVICTION_SCORE, ("evicting",)),
    (f.NUM_RECENT, ("evicting",)),
)
_EVICTING_SINKS = 4  # first tokens that an evicting cache keeps, unless asked otherwise


class _Reader:
    """Reads an option from the caller's values, then the checkpoint's, then the defaults."""

    def __init__(
        self, given: Mapping[str, object], config: Mapping[str, object], source: str
    ) -> None:
        self._given, self._config, self._source = given, config, source

    def is_given(self, field: Field[object]) -> bool:
        return self._given.get(field.name) is not None

    def is_set(self, field: Field[object]) -> bool:
        """Whether the caller or the checkpoint sets the option."""
        return self.is_given(field) or self._config.get(field.name) is not None

    def get(self, field: Field[T]) -> T:
        if self.is_given(field):
            return field.check(field.name, self._given[field.name])
        value = self._config.get(field.name)
        if value is None:
            return field.default
        return field.check(f"{self._source}'s {field.name}", value)

    def get_given(self, field: Field[T]) -> T:
        """Read an option that generation_config.json does not have."""
        return self.get(field) if self.is_given(field) else field.default

    def show(self, field: Field[object]) -> str:
        """Name an option, its value and where the value comes from, for an error."""
        text = f"{field.name}={self.get(field)!r}"
        if self.is_given(field):
            return text
        return f"{text} ({f'from {self._source}' if self.is_set(field) else 'the default'})"


def resolve(
    given: Mapping[str, object],
    config: Mapping[str, object],
    source: str,
    vocab_size: int | None,
) -> ResolvedParams:
    """Make `given` concrete; see `SamplingParams.resolve`, whose engine this is."""
    read = _Reader(given, config, source)
    if read.get(f.USE_CACHE) and not read.is_given(f.CACHE_IMPLEMENTATION):
        config = without_transformers_caches(config, source)
        read = _Reader(given, config, source)
    do_sample = _resolve_do_sample(read)
    num_beams = read.get(f.NUM_BEAMS)
    _check_beams(read, do_sample)
    _check_lengths(read)
    _check_cache(read)
    refuse_unsupported(config, source, do_sample=do_sample, num_beams=num_beams)
    use_cache = read.get(f.USE_CACHE)
    cache_implementation = read.get(f.CACHE_IMPLEMENTATION) if use_cache else None
    sliding, evicting = (cache_implementation == kind for kind in ("sliding", "evicting"))
    seed = read.get_given(f.SEED)
    return ResolvedParams(
        max_new_tokens=read.get(f.MAX_NEW_TOKENS),
        # As in transformers, the limits on new tokens take the place of those on all tokens.
        max_length=None if read.is_set(f.MAX_NEW_TOKENS) else read.get(f.MAX_LENGTH),
        min_new_tokens=read.get(f.MIN_NEW_TOKENS),
        min_length=0 if read.is_set(f.MIN_NEW_TOKENS) else read.get(f.MIN_LENGTH),
        do_sample=do_sample,
        temperature=read.get(f.TEMPERATURE) if do_sample else 1.0,
        top_k=read.get(f.TOP_K) if do_sample else 0,
        top_p=read.get(f.TOP_P) if do_sample else 1.0,
        min_p=read.get(f.MIN_P) if do_sample else 0.0,
        repetition_penalty=read.get(f.REPETITION_PENALTY),
        no_repeat_ngram_size=read.get(f.NO_REPEAT_NGRAM_SIZE),
        num_beams=num_beams,
        length_penalty=read.get(f.LENGTH_PENALTY) if num_beams > 1 else 1.0,
        early_stopping=read.get(f.EARLY_STOPPING) if num_beams > 1 else False,
        num_return_sequences=read.get(f.NUM_RETURN_SEQUENCES),
        stop_strings=read.get(f.STOP_STRINGS),
        eos_token_ids=_resolve_eos(read, vocab_size),
        seed=fresh_seed() if seed is None else seed,
        logprobs=read.get_given(f.LOGPROBS),
        use_cache=use_cache,
        cache_implementation=cache_implementation,
        kv_dtype=read.get_given(f.KV_DTYPE),
        sliding_window=read.get(f.SLIDING_WINDOW) if sliding else None,
        num_sinks=_resolve_sinks(read, cache_implementation),
        max_cache_len=read.get(f.MAX_CACHE_LEN) if cache_implementation == "static" else None,
        kv_budget=read.get(f.KV_BUDGET) if evicting else None,
        eviction_score=read.get(f.EVICTION_SCORE) if evicting else None,
        num_recent=read.get(f.NUM_RECENT) if evicting else None,
        overflow=read.get_given(f.OVERFLOW),
        slide_hop=read.get_given(f.SLIDE_HOP),
        rules=_resolve_rules(read, do_sample, num_beams, vocab_size),
    )


def _resolve_rules(read: _Reader, do_sample: bool, num_beams: int, vocab_size: int | None) -> Rules:
    idle = set() if do_sample else {field.name for field in DRAWN_RULES}
    if num_beams == 1:
        idle.add("renormalize_logits")
    values: dict[str, Any] = {f.name: read.get(f) for f in RULE_FIELDS if f.name not in idle}
    rules = Rules(**values)
    if rules == NO_RULES:
        return NO_RULES
    for name, token in rules.token_ids():
        if vocab_size is not None and token >= vocab_size:
            raise OptionError(
                f"{name} names the token {token}, and the vocabulary has {vocab_size}; pass ids "
                f"below {vocab_size}"
            )
    return rules


def _resolve_do_sample(read: _Reader) -> bool:
    """Decide between drawing and taking the likeliest, and refuse options of the other one."""
    filters: tuple[Field[float | None], ...] = (f.TOP_K, f.TOP_P, f.MIN_P, *DRAWN_RULES)
    temperature_given = read.is_given(f.TEMPERATURE)
    asked = read.is_given(f.DO_SAMPLE) and read.get(f.DO_SAMPLE)
    if read.is_given(f.DO_SAMPLE):
        do_sample, reason = asked, "do_sample=False"
    elif temperature_given:
        do_sample, reason = read.get(f.TEMPERATURE) > 0, "temperature=0"
    else:
        asked = any(read.is_given(field) for field in filters)
        do_sample, reason = asked or read.get(f.DO_SAMPLE), ""
    if do_sample and read.get(f.TEMPERATURE) == 0:
        if not asked:
            return False
        raise OptionError(
            f"{read.show(f.TEMPERATURE)} always takes the likeliest token, but sampling was asked "
            "for; pass a temperature above 0, or do_sample=False alone"
        )
    if do_sample:
        return True
    if temperature_given and read.get(f.TEMPERATURE) > 0:
        raise OptionError(
            f"{read.show(f.TEMPERATURE)} has no effect with do_sample=False, which always takes "
            "the likeliest token; leave one of the two out"
        )
    for field in filters:
        if read.is_given(field) and read.get(field) != _NEUTRAL[field.name]:
            raise OptionError(
                f"{read.show(field)} has no effect with {reason}, which always takes the likeliest "
                f"token; leave out {field.name}, or pass a temperature above 0 instead of {reason}"
            )
    return False


def _check_beams(read: _Reader, do_sample: bool) -> None:
    num_beams, num_sequences = read.get(f.NUM_BEAMS), read.get(f.NUM_RETURN_SEQUENCES)
    if num_beams == 1:
        beams_only: tuple[Field[object], ...] = (f.LENGTH_PENALTY, f.EARLY_STOPPING)
        for field in beams_only:
            if read.is_given(field):
                raise OptionError(
                    f"{read.show(field)} acts only on beam search, and there is "
                    f"{read.show(f.NUM_BEAMS)}; pass num_beams of 2 or more, or leave it out"
                )
        if num_sequences > 1 and not do_sample:
            raise OptionError(
                f"{read.show(f.NUM_RETURN_SEQUENCES)} asks for texts that would all be the same, "
                "since greedy search has one result; pass do_sample=True or num_beams, or 1"
            )
    elif num_sequences > num_beams:
        raise OptionError(
            f"{read.show(f.NUM_RETURN_SEQUENCES)} is more than {read.show(f.NUM_BEAMS)} can give; "
            f"pass num_beams of {num_sequences} or more, or fewer sequences"
        )


def _check_lengths(read: _Reader) -> None:
    if read.get(f.MIN_NEW_TOKENS) > read.get(f.MAX_NEW_TOKENS):
        raise OptionError(
            f"{read.show(f.MIN_NEW_TOKENS)} is more than {read.show(f.MAX_NEW_TOKENS)}; "
            "pass a larger max_new_tokens or a smaller min_new_tokens"
        )
    if read.is_given(f.SLIDE_HOP) and read.get_given(f.OVERFLOW) != "slide":
        raise OptionError(
            f"{read.show(f.SLIDE_HOP)} acts only past the end of the context, where "
            "overflow='stop' ends the text; pass overflow='slide', or leave it out"
        )


def _check_cache(read: _Reader) -> None:
    if not read.get(f.USE_CACHE):
        for field in _CACHE_FIELDS:
            if read.is_given(field):
                raise OptionError(
                    f"{read.show(field)} describes a cache, but {read.show(f.USE_CACHE)}; "
                    "pass use_cache=True, or leave it out"
                )
        return
    for field, kinds in _ONLY_ON:
        if read.is_given(field) and read.get(f.CACHE_IMPLEMENTATION) not in kinds:
            raise OptionError(
                f"{read.show(field)} acts only on the {' or '.join(kinds)} cache, and there is "
                f"{read.show(f.CACHE_IMPLEMENTATION)}; pass cache_implementation={kinds[0]!r}, or "
                "leave it out"
            )
    if read.get(f.CACHE_IMPLEMENTATION) == "evicting":
        _check_evicting(read)


def _check_evicting(read: _Reader) -> None:
    if not read.is_set(f.KV_BUDGET):
        raise OptionError(
            "an evicting cache needs kv_budget, the tokens of each sequence that it keeps; pass it"
        )


def _resolve_sinks(read: _Reader, kind: str | None) -> int:
    if kind == "evicting" and not read.is_set(f.NUM_SINKS):
        return _EVICTING_SINKS
    return read.get(f.NUM_SINKS) if kind in ("sliding", "evicting") else 0


def _resolve_eos(read: _Reader, vocab_size: int | None) -> frozenset[int]:
    given = read.is_given(f.EOS_TOKEN_ID)
    if read.get_given(f.IGNORE_EOS):
        if given:
            raise OptionError(
                f"{read.show(f.EOS_TOKEN_ID)} has no effect with ignore_eos=True; leave one of the "
                "two out"
            )
        return frozenset()
    token_ids = frozenset(read.get(f.EOS_TOKEN_ID))
    if given and vocab_size is not None and max(token_ids) >= vocab_size:
        raise OptionError(
            f"eos_token_id={max(token_ids)} can never be generated: the vocabulary has "
            f"{vocab_size} tokens; pass an id below {vocab_size}"
        )
    return token_ids
