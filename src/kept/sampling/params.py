"""The options of a generation, under the names transformers gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kept.grammar import Grammar
from kept.options import CACHE_FIELDS, GENERATION_CONFIG, check_given, refuses_others
from kept.sampling.fields import FIELDS, EarlyStopping
from kept.sampling.resolve import resolve
from kept.sampling.resolved import ResolvedParams
from kept.sampling.rules import RULE_FIELDS

_FIELDS = (*FIELDS, *RULE_FIELDS)
_EMPTY: Mapping[str, object] = MappingProxyType({})
_OF_CACHE = {
    field.name: f"it is one of the cache: pass CacheOptions({field.name}=...) as "
    f"cache_options, or {field.name}=... to generate() itself"
    for field in CACHE_FIELDS
}


@refuses_others(_OF_CACHE)
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to generate: when to stop, how to choose each token, what to report.

    `None` means the value in the checkpoint's generation_config.json, else the default. What is
    given here always wins over the checkpoint. Ranges are checked at once (`OptionError` names
    the value, the limit and the remedy); contradictions between options in `resolve`.

    Length
        max_new_tokens: at most this many tokens after the prompt. Default 256; a checkpoint's
            `max_length` (prompt included) can only lower that default.
        min_new_tokens: no end-of-sequence token before this many. Default 0.
        stop_strings: text ends before the first of these. Default none.
        eos_token_id: tokens that end a text. Default the checkpoint's.
        ignore_eos: let nothing end a text but its length and stop strings.
    Choice
        do_sample: draw (True) or take the likeliest (False). Default: draw if `temperature` > 0,
            `top_k`, `top_p` or `min_p` is given or the checkpoint says so. `temperature=0` never
            draws.
        temperature: logits are divided by this. Default 1.
        top_k: only the k likeliest tokens, and those tied with the last; 0 is off. Default 50, as
            in transformers.
        top_p: only the likeliest tokens that together reach this probability (Holtzman et al.,
            2019, arXiv:1904.09751). Default 1, off.
        min_p: only tokens at least this fraction as likely as the likeliest (Nguyen et al., 2024,
            arXiv:2407.01082). Default 0, off.
        repetition_penalty: positive logits of tokens already in prompt or text are divided by this
            and negative ones multiplied (Keskar et al., 2019, arXiv:1909.05858). Default 1, off.
        no_repeat_ngram_size: no run of this many tokens occurs twice. Default 0, off.
        num_beams: beams of a beam search. Default 1, none.
        length_penalty: beam scores are divided by length to this power. Default 1.
        early_stopping: when a beam search ends: True, False or "never". Default False.
        num_return_sequences: texts per prompt. Default 1.
        seed: makes the draws repeatable. Default: taken from the system once per prompt.
    Rules, each as transformers' GenerationConfig has it. Default none
        suppress_tokens, begin_suppress_tokens: tokens that never come, or not as the first.
        forced_bos_token_id, forced_eos_token_id: the token after a single first one (the start of
            an encoder-decoder model's answer), and those a text that reaches its length ends with.
        bad_words_ids: sequences of tokens that never come. sequence_bias: pairs (sequence, what is
            added to the logit of its last token).
        presence_penalty, frequency_penalty: taken from the logits of tokens that the text, without
            its prompt, has already; the second for each time. Of OpenAI's API.
        exponential_decay_length_penalty: (n, factor): ends get likelier after n tokens.
        encoder_repetition_penalty, encoder_no_repeat_ngram_size: of the tokens that were asked.
        top_h, typical_p, epsilon_cutoff, eta_cutoff: filters of a draw. Given, they draw.
        renormalize_logits: make scores of beams probabilities again after all that.
    What the text has to be, whole; one of these at most, and not with beams. The package llguidance
    keeps it so (`pip install 'kept-llm[grammar]'`): only tokens that go on with it are chosen, and
    an end where it is complete. A text that reaches its length first is cut off there.
        json_schema: JSON that this schema holds for valid, a dict or JSON as text; True: any JSON.
            OptionError names the path of a keyword that cannot be kept to.
        regex: what this regular expression (of Rust's regex) matches from end to end.
        grammar: a grammar in llguidance's dialect of Lark, or a `Grammar`.
    Speed, of the same text bit for bit
        prompt_lookup_num_tokens: at most this many tokens of a text, of up to 48, are drafted in a
            step from what came behind the same tokens before, in its prompt, in itself or in texts
            of its tenant that have ended, where that is measured to be worth while (suffix
            decoding, Oliaro et al., 2024, arXiv:2411.04975). 0 is off.
        num_assistant_tokens: at most this many tokens of a text, of up to 48, are drafted in a step
            by the draft model, where there is one and that is measured to be worth while. Default
            16; 0 is off.
    Report
        logprobs: report the chosen token's log-probability under the model's own distribution,
            and those of this many likeliest tokens. Default: not reported.
        skip_special_tokens: leave special tokens out of the text. Default True. False shows them,
            but for the one that ends a text.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None
    num_return_sequences: int | None = None
    stop_strings: str | Sequence[str] | None = None
    eos_token_id: int | Sequence[int] | None = None
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_lookup_num_tokens: int | None = None
    num_assistant_tokens: int | None = None
    skip_special_tokens: bool | None = None
    json_schema: Mapping[str, object] | str | bool | Grammar | None = None
    regex: str | Grammar | None = None
    grammar: str | Grammar | None = None
    suppress_tokens: int | Sequence[int] | None = None
    begin_suppress_tokens: int | Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Sequence[object]] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    exponential_decay_length_penalty: Sequence[float] | None = None
    encoder_repetition_penalty: float | None = None
    encoder_no_repeat_ngram_size: int | None = None
    top_h: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    renormalize_logits: bool | None = None

    def __post_init__(self) -> None:
        check_given(self, _FIELDS)

    def resolve(
        self,
        generation_config: Mapping[str, object] = _EMPTY,
        *,
        vocab_size: int | None = None,
        source: str = GENERATION_CONFIG,
    ) -> ResolvedParams:
        """Return these options made concrete by a checkpoint's generation_config.json and defaults.

        source: the name of the file that `generation_config` comes from, for errors.
        A `seed` that is None is drawn from the system here, once, so that the result can say how to
        repeat it. With `vocab_size`, an `eos_token_id` given here must be below it, `logprobs` at
        most that, and a `top_k` of more is as many. Raises `OptionError` where options contradict
        each other, where the checkpoint's value of an option in use is out of range, or where it
        asks for something kept does not implement that would change the output.
        """
        given = {field.name: getattr(self, field.name) for field in _FIELDS}
        return resolve(given, generation_config, source, vocab_size)
