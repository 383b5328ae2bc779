"""What was asked, made concrete by what the checkpoint says; every contradiction is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kept.errors import OptionError
from kept.grammar import Grammar
from kept.options import Field, Reader
from kept.sampling import fields as f
from kept.sampling.draw import fresh_seed
from kept.sampling.generation_config import refuse_unsupported
from kept.sampling.resolved import ResolvedParams
from kept.sampling.rules import (
    BEGIN_SUPPRESS_TOKENS,
    DRAWN_RULES,
    NO_RULES,
    RULE_FIELDS,
    SUPPRESS_TOKENS,
    Rules,
)

# The values of the sampling options that change nothing, and so contradict nothing.
_NEUTRAL: Mapping[str, float | None] = {
    **{"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    **{field.name: field.default for field in DRAWN_RULES},
}


def resolve(
    given: Mapping[str, object],
    config: Mapping[str, object],
    source: str,
    vocab_size: int | None,
) -> ResolvedParams:
    """Make `given` concrete; see `SamplingParams.resolve`, whose engine this is."""
    read = Reader(given, config, source)
    do_sample = _resolve_do_sample(read)
    num_beams = read.get(f.NUM_BEAMS)
    _check_beams(read, do_sample)
    _check_lengths(read)
    refuse_unsupported(config, source, do_sample=do_sample, num_beams=num_beams)
    seed = read.get_given(f.SEED)
    return ResolvedParams(
        max_new_tokens=read.get(f.MAX_NEW_TOKENS),
        # As in transformers, the limits on new tokens take the place of those on all tokens.
        max_length=None if read.is_set(f.MAX_NEW_TOKENS) else read.get(f.MAX_LENGTH),
        min_new_tokens=read.get(f.MIN_NEW_TOKENS),
        min_length=0 if read.is_set(f.MIN_NEW_TOKENS) else read.get(f.MIN_LENGTH),
        do_sample=do_sample,
        temperature=read.get(f.TEMPERATURE) if do_sample else 1.0,
        top_k=_resolve_top_k(read, vocab_size) if do_sample else 0,
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
        logprobs=_resolve_logprobs(read, vocab_size),
        rules=_resolve_rules(read, do_sample, num_beams, vocab_size),
        prompt_lookup_num_tokens=min(read.get(f.PROMPT_LOOKUP), f.MAX_DRAFTS),
        num_assistant_tokens=min(read.get(f.ASSISTANT), f.MAX_DRAFTS),
        grammar=_resolve_grammar(read, num_beams),
        skip_special_tokens=read.get_given(f.SKIP_SPECIAL),
    )


def _resolve_grammar(read: Reader, num_beams: int) -> Grammar | None:
    given = [field for field in f.GRAMMARS if read.is_given(field)]
    if len(given) > 1:
        names = " and ".join(field.name for field in given)
        raise OptionError(f"{names} each say what the text has to be; pass one of them")
    if given and num_beams > 1:
        raise OptionError(
            f"{given[0].name} with num_beams={num_beams}: a beam search follows no grammar; leave "
            "one of the two out"
        )
    return read.get_given(given[0]) if given else None


def _resolve_top_k(read: Reader, vocab_size: int | None) -> int:
    # More than there are keeps them all; the kernels take no integer of any size.
    top_k = read.get(f.TOP_K)
    return top_k if vocab_size is None else min(top_k, vocab_size)


def _resolve_logprobs(read: Reader, vocab_size: int | None) -> int | None:
    num_top = read.get_given(f.LOGPROBS)
    if num_top is not None and vocab_size is not None and num_top > vocab_size:
        raise OptionError(
            f"logprobs={num_top} is more than the {vocab_size} tokens of the vocabulary; "
            f"pass {vocab_size} or less"
        )
    return num_top


def _resolve_rules(read: Reader, do_sample: bool, num_beams: int, vocab_size: int | None) -> Rules:
    idle = set() if do_sample else {field.name for field in DRAWN_RULES}
    if num_beams == 1:
        idle.add("renormalize_logits")
    values: dict[str, Any] = {f.name: read.get(f) for f in RULE_FIELDS if f.name not in idle}
    rules = Rules(**values)
    if vocab_size is not None:
        _check_tokens(read, rules, vocab_size)
    biases = tuple((ids, bias) for ids, bias in rules.sequence_bias if bias)
    rules = replace(rules, sequence_bias=biases)
    return NO_RULES if rules == NO_RULES else rules


def _check_tokens(read: Reader, rules: Rules, vocab_size: int) -> None:
    """Raise OptionError for a token that is none of the vocabulary."""
    suppressed: tuple[Field[tuple[int, ...]], ...] = (SUPPRESS_TOKENS, BEGIN_SUPPRESS_TOKENS)
    # Those of a checkpoint may be there for a larger vocabulary of its family.
    given = [field for field in suppressed if read.is_given(field)]
    named = ((field.name, token) for field in given for token in read.get(field))
    for name, token in (*rules.token_ids(), *named):
        if token >= vocab_size:
            raise OptionError(
                f"{name} names the token {token}, and the vocabulary has {vocab_size}; pass ids "
                f"below {vocab_size}"
            )


def _resolve_do_sample(read: Reader) -> bool:
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


def _check_beams(read: Reader, do_sample: bool) -> None:
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
        return
    drafted: tuple[Field[int], ...] = (f.PROMPT_LOOKUP, f.ASSISTANT)
    for drafts in drafted:
        if read.is_given(drafts) and read.get(drafts) > 0:
            raise OptionError(
                f"{read.show(drafts)} has no effect on beam search, whose beams go on from one "
                "another; leave it out, or pass num_beams=1"
            )
    if num_sequences > num_beams:
        raise OptionError(
            f"{read.show(f.NUM_RETURN_SEQUENCES)} is more than {read.show(f.NUM_BEAMS)} can give; "
            f"pass num_beams of {num_sequences} or more, or fewer sequences"
        )


def _check_lengths(read: Reader) -> None:
    if read.get(f.MIN_NEW_TOKENS) > read.get(f.MAX_NEW_TOKENS):
        raise OptionError(
            f"{read.show(f.MIN_NEW_TOKENS)} is more than {read.show(f.MAX_NEW_TOKENS)}; "
            "pass a larger max_new_tokens or a smaller min_new_tokens"
        )


def _resolve_eos(read: Reader, vocab_size: int | None) -> frozenset[int]:
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
