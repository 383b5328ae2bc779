"""What a request runs with once every option is concrete."""

from __future__ import annotations

from dataclasses import dataclass, field

from kept.errors import OptionError
from kept.grammar import Grammar
from kept.sampling.fields import EarlyStopping
from kept.sampling.rules import NO_RULES, Rules


@dataclass(frozen=True, slots=True)
class ResolvedParams:
    """Every option of a request, verified and concrete; made by `SamplingParams.resolve`.

    Where `do_sample` is False, `temperature`, `top_k`, `top_p` and `min_p` stand at the values
    that change nothing (1, 0, 1, 0). `None` is left in two places: `max_length` (the checkpoint
    sets none, or `max_new_tokens` was given) and `logprobs` (not wanted).

    has_penalties: whether a processor that also acts on greedy and beam search is switched on.
    is_plain_greedy: whether the next token is the argmax of the logits as the model gave them.
    is_argmax: whether that is all that is wanted of them.
    is_scanned: whether it is found by reading the row once (`scanned.py`): a repetition penalty or
    a grammar or both act on it, and nothing else. is_scanned_argmax: whether that is all that is
    wanted of them. only_masks: whether the grammar is the only such processor.
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
    rules: Rules
    prompt_lookup_num_tokens: int = 0  # 0: off
    num_assistant_tokens: int = 0  # 0: off
    grammar: Grammar | None = None
    skip_special_tokens: bool = True
    # Asked of every row of every step:
    has_penalties: bool = field(init=False, repr=False, compare=False)
    is_plain_greedy: bool = field(init=False, repr=False, compare=False)
    is_argmax: bool = field(init=False, repr=False, compare=False)
    only_masks: bool = field(init=False, repr=False, compare=False)
    is_scanned: bool = field(init=False, repr=False, compare=False)
    is_scanned_argmax: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        has_others = (
            self.no_repeat_ngram_size > 0
            or self.has_rules
            or (bool(self.eos_token_ids) and (self.min_new_tokens > 0 or self.min_length > 0))
        )
        repels = self.repetition_penalty != 1.0
        has_penalties = has_others or repels or self.grammar is not None
        is_plain_greedy = not self.do_sample and not has_penalties
        only_masks = self.grammar is not None and not has_others and not repels
        is_scanned = not self.do_sample and has_penalties and not has_others
        object.__setattr__(self, "only_masks", only_masks)
        object.__setattr__(self, "has_penalties", has_penalties)
        object.__setattr__(self, "is_plain_greedy", is_plain_greedy)
        object.__setattr__(self, "is_argmax", is_plain_greedy and self.logprobs is None)
        object.__setattr__(self, "is_scanned", is_scanned)
        object.__setattr__(self, "is_scanned_argmax", is_scanned and self.logprobs is None)

    @property
    def has_rules(self) -> bool:
        """Whether any rule is switched on. Asked for each token, so identity has to do: `resolve`
        gives NO_RULES itself where there are none."""
        return self.rules is not NO_RULES

    @property
    def min_tokens_to_keep(self) -> int:
        """How many tokens `top_k`, `top_p` and `min_p` must leave.

        One; under beam search one more than there are end-of-sequence tokens, so that every beam
        keeps a token to go on with (as transformers does).
        """
        return max(len(self.eos_token_ids), 1) + 1 if self.num_beams > 1 else 1

    @property
    def num_candidates(self) -> int:
        """How many next tokens of all its beams a search looks at: twice as many as it has beams
        or, where several tokens end a text, more, so that enough of them go on."""
        return max(2, 1 + len(self.eos_token_ids)) * self.num_beams

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
