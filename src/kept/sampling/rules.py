"""Rules over single tokens and sequences, as transformers' configurations spell them.

Their names, values and meaning are those of transformers' GenerationConfig, but for
`presence_penalty` and `frequency_penalty`, which are those of OpenAI's API. `RULE_FIELDS` read
them, `token_rules.py` applies them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kept.errors import OptionError
from kept.options.field import Field, boolean, integer, items, number

Ids = tuple[int, ...]
Biases = tuple[tuple[Ids, float], ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a request; as they stand here, none acts.

    top_h, typical_p, epsilon_cutoff and eta_cutoff act only where tokens are drawn.
    renormalize_logits acts only on beams: it changes neither a draw nor the likeliest token.
    """

    sequence_bias: Biases = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    encoder_repetition_penalty: float = 1.0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[Ids, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Ids = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: Ids = ()
    begin_suppress_tokens: Ids = ()
    top_h: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    renormalize_logits: bool = False

    def active(self) -> dict[str, Any]:
        """Those that are set, by name, for errors and for telling whether any is."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}

    @property
    def filters_draws(self) -> bool:
        """Whether a rule changes scores after the temperature."""
        return (
            self.top_h is not None
            or self.typical_p < 1.0
            or self.epsilon_cutoff > 0.0
            or self.eta_cutoff > 0.0
            or self.renormalize_logits
        )

    @property
    def filters_few(self) -> bool:
        """Whether what they change after the temperature is what `top_k` has left, and no number of
        it."""
        return self.filters_draws and self.top_h is None and not self.renormalize_logits

    @property
    def only_ban(self) -> bool:
        """Whether all they do before the temperature is to rule tokens out."""
        return (
            not self.sequence_bias
            and not self.counts_tokens
            and self.encoder_repetition_penalty == 1.0
            and self.forced_bos_token_id is None
            and not self.forced_eos_token_id
            and self.exponential_decay_length_penalty is None
        )

    @property
    def counts_tokens(self) -> bool:
        """Whether how often the text has a token changes its score."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def token_ids(self) -> Iterable[tuple[str, int]]:
        """Every token that must be one of the vocabulary, with the rule that names it."""
        if self.forced_bos_token_id is not None:
            yield "forced_bos_token_id", self.forced_bos_token_id
        yield from (("forced_eos_token_id", token) for token in self.forced_eos_token_id)
        yield from (("bad_words_ids", token) for ids in self.bad_words_ids for token in ids)
        yield from (("sequence_bias", token) for ids, _ in self.sequence_bias for token in ids)


NO_RULES = Rules()


def _ids(label: str, value: object) -> Ids:
    """Token ids in any order; negative ones, which some files hold for "none", name no token."""
    single = isinstance(value, int | np.integer) and not isinstance(value, bool)
    listed = (value,) if single else items(label, value, "a token id or a list of token ids")
    whole = integer(-(2**63))
    return tuple(sorted({found for item in listed if (found := whole(label, item)) >= 0}))


def _sequence(label: str, value: object) -> Ids:
    ids = tuple(integer(0)(label, token) for token in items(label, value, "a list of token ids"))
    if not ids:
        raise OptionError(f"{label} holds an empty list of token ids; remove it")
    return ids


def _sequences(label: str, value: object) -> tuple[Ids, ...]:
    listed = items(label, value, "a list of lists of token ids")
    return tuple(dict.fromkeys(_sequence(label, ids) for ids in listed))


def _biases(label: str, value: object) -> Biases:
    wanted = "a list of pairs [token ids, bias]"
    pairs = value.items() if isinstance(value, Mapping) else items(label, value, wanted)
    found: dict[Ids, float] = {}
    for pair in pairs:
        ids, *bias = items(label, pair, wanted) or (None,)
        if len(bias) != 1:
            raise OptionError(f"{label} holds {pair!r}; pass {wanted}")
        found[_sequence(label, ids)] = number()(label, bias[0])
    # The order in which transformers adds them: single tokens, then all sequences of one length.
    lengths = list(dict.fromkeys([1, *map(len, found)]))
    return tuple(sorted(found.items(), key=lambda pair: lengths.index(len(pair[0]))))


def _decay(label: str, value: object) -> tuple[int, float] | None:
    wanted = "a pair [tokens before it begins, factor]"
    pair = items(label, value, wanted)
    if not pair:
        return None
    if len(pair) != 2:
        raise OptionError(f"{label}={value!r} has {len(pair)} items; pass {wanted}")
    return integer(0)(label, pair[0]), number(0, above_low=True)(label, pair[1])


SUPPRESS_TOKENS: Field[Ids] = Field("suppress_tokens", _ids, ())
BEGIN_SUPPRESS_TOKENS: Field[Ids] = Field("begin_suppress_tokens", _ids, ())
FORCED_BOS: Field[int | None] = Field("forced_bos_token_id", integer(0), None)
FORCED_EOS: Field[Ids] = Field("forced_eos_token_id", _ids, ())
BAD_WORDS: Field[tuple[Ids, ...]] = Field("bad_words_ids", _sequences, ())
SEQUENCE_BIAS: Field[Biases] = Field("sequence_bias", _biases, ())
PRESENCE_PENALTY = Field("presence_penalty", number(), 0.0)
FREQUENCY_PENALTY = Field("frequency_penalty", number(), 0.0)
LENGTH_DECAY: Field[tuple[int, float] | None] = Field(
    "exponential_decay_length_penalty", _decay, None
)
ENCODER_PENALTY = Field("encoder_repetition_penalty", number(0, above_low=True), 1.0)
ENCODER_NGRAMS = Field("encoder_no_repeat_ngram_size", integer(0), 0)
TOP_H: Field[float | None] = Field("top_h", number(0, 1, above_low=True), None)
TYPICAL_P = Field("typical_p", number(0, 1, above_low=True), 1.0)
EPSILON_CUTOFF = Field("epsilon_cutoff", number(0, 1), 0.0)
ETA_CUTOFF = Field("eta_cutoff", number(0, 1), 0.0)
RENORMALIZE = Field("renormalize_logits", boolean, False)

DRAWN_RULES: tuple[Field[float | None], ...] = (TOP_H, TYPICAL_P, EPSILON_CUTOFF, ETA_CUTOFF)
RULE_FIELDS: tuple[Field[object], ...] = (
    *(SEQUENCE_BIAS, ENCODER_PENALTY, ENCODER_NGRAMS, BAD_WORDS, FORCED_BOS, FORCED_EOS),
    *(PRESENCE_PENALTY, FREQUENCY_PENALTY),
    *(LENGTH_DECAY, SUPPRESS_TOKENS, BEGIN_SUPPRESS_TOKENS, *DRAWN_RULES, RENORMALIZE),
)
