"""What a request runs with once every option is concrete."""

from __future__ import annotations

from dataclasses import dataclass

from kept.errors import OptionError
from kept.sampling.fields import (
    Budget,
    CacheImplementation,
    EarlyStopping,
    EvictionScore,
    KVDtype,
    Overflow,
)
from kept.sampling.rules import NO_RULES, Rules


@dataclass(frozen=True, slots=True)
class ResolvedParams:
    """Every option of a request, verified and concrete; made by `SamplingParams.resolve`.

    Where `do_sample` is False, `temperature`, `top_k`, `top_p` and `min_p` stand at the values
    that change nothing (1, 0, 1, 0). `None` is left in ten places: `max_length` (the checkpoint
    sets none, or `max_new_tokens` was given), `logprobs` (not wanted), `cache_implementation` (no
    cache), `kv_dtype` (the model's dtype), `sliding_window` (the model's own), `max_cache_len`
    (prompt plus new tokens), `slide_hop` (chosen from the context's length), `kv_budget` and
    `eviction_score` (no evicting cache) and `num_recent` (half of what sinks leave of the budget).
    """

    max_new_tokens: int
    max_length: int | None  # prompt and new tokens together
    min_new_tokens: int
    min_length: int  # prompt and new tokens together
    do_sample: bool
    temperature: float
    top_k: int  # 0: off
    top_p: float
    min_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int  # 0: off
    num_beams: int
    length_penalty: float
    early_stopping: EarlyStopping
    num_return_sequences: int
    stop_strings: tuple[str, ...]
    eos_token_ids: frozenset[int]  # empty: nothing ends a text but its length and stop strings
    seed: int
    logprobs: int | None
    use_cache: bool
    cache_implementation: CacheImplementation | None
    kv_dtype: KVDtype | None
    sliding_window: int | None
    num_sinks: int
    max_cache_len: int | None
    kv_budget: Budget | None
    eviction_score: EvictionScore | None
    num_recent: int | None
    overflow: Overflow
    slide_hop: int | None
    rules: Rules

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is the argmax of the logits as the model gave them."""
        return not self.do_sample and not self.has_penalties

    @property
    def has_rules(self) -> bool:
        """Whether any rule is switched on. Asked for each token, so identity has to do: `resolve`
        gives NO_RULES itself where there are none."""
        return self.rules is not NO_RULES

    @property
    def has_penalties(self) -> bool:
        """Whether a processor that also acts on greedy and beam search is switched on."""
        return (
            self.repetition_penalty != 1.0
            or self.no_repeat_ngram_size > 0
            or self.has_rules
            or (bool(self.eos_token_ids) and (self.min_new_tokens > 0 or self.min_length > 0))
        )

    @property
    def min_tokens_to_keep(self) -> int:
        """How many tokens `top_k`, `top_p` and `min_p` must leave.

        One; under beam search one more than there are end-of-sequence tokens, so that every beam
        keeps a token to go on with (as transformers does).
        """
        return max(len(self.eos_token_ids), 1) + 1 if self.num_beams > 1 else 1

    def new_token_limit(self, prompt_length: int) -> int:
        """Return how many tokens may follow a prompt of `prompt_length` tokens.

        Raises `OptionError` where the prompt alone reaches the checkpoint's `max_length`.
        """
        if self.max_length is None:
            return self.max_new_tokens
        if prompt_length >= self.max_length:
            raise OptionError(
                f"the prompt has {prompt_length} tokens and generation_config.json sets max_length="
                f"{self.max_length} for prompt and new tokens together; pass max_new_tokens"
            )
        return min(self.max_new_tokens, self.max_length - prompt_length)
