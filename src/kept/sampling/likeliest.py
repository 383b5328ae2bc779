"""The few likeliest tokens of a row: where the model's pass has found them, they can stand for all.

What they decide is what the whole row would have, bit for bit; where that is not certain, for a tie
at their edge or too many of them ruled out, the whole row is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kept.sampling.history import Ids
from kept.sampling.lowering import only_lowers
from kept.sampling.resolved import ResolvedParams
from kept.sampling.weights import Floats

SMALL_VOCABULARY: Final = 1 << 16
MOST: Final = 256  # beyond so many, finding them takes as long as it spares
_OF_NUCLEUS: Final = 128  # a probability of 0.9 is seldom shared by more
_SPARE: Final = 32


@dataclass(frozen=True, slots=True)
class Likeliest:
    """Of each row the K largest logits (B, K) fp32, the largest first, and their tokens (B, K)
    int64; of equal ones the lower tokens, in order."""

    logits: Floats
    tokens: Ids

    def rows(self, first: int, last: int) -> Likeliest:
        """Rows [first, last), not copied."""
        return Likeliest(self.logits[first:last], self.tokens[first:last])

    def take(self, indices: list[int]) -> Likeliest:
        """Any of the rows, copied."""
        return Likeliest(self.logits[indices], self.tokens[indices])


def num_likeliest(params: Sequence[ResolvedParams], num_rows: int, vocab_size: int) -> int:
    """How many of the largest logits of each row a step can make use of; 0: none.

    params: of its requests, whose rows are `num_rows` together. Where the number of tokens to
    choose from is known, it is one more, which shows that no others tie with them; and where
    penalties or bans put others in their places, as many again and some.
    """
    if num_rows == 1 and _is_read_whole(params[0], vocab_size):
        return 0
    return max(map(_num_of, params), default=0)


def _num_of(params: ResolvedParams) -> int:
    is_one = params.is_plain_greedy or params.is_scanned
    if params.num_beams > 1:
        return num_to_search_from(params) if can_be_searched_from(params) else 0
    if is_one and not params.logprobs:
        return 0
    # Of a grammar's tokens the likeliest are found among those it allows, once it has said which.
    is_few = params.grammar is None and (can_be_chosen_from(params) or can_be_filtered_from(params))
    of_draw = num_to_choose_from(params) if is_few else 0
    of_logprobs = params.logprobs + 1 if params.logprobs else 0
    return max((n for n in (of_draw, of_logprobs) if n <= MOST), default=0)


def _is_read_whole(params: ResolvedParams, vocab_size: int) -> bool:
    """Whether a request alone in its step has its row read sooner than its few likeliest found: a
    greedy one, whose processors look at a small vocabulary once (benchmarks/sampling.py)."""
    return not params.do_sample and not params.logprobs and vocab_size <= SMALL_VOCABULARY


def can_be_chosen_from(params: ResolvedParams) -> bool:
    """Whether a few likeliest tokens may decide: those outside must not come to be likelier."""
    lowers = not params.is_plain_greedy and only_lowers(params)
    return lowers and not params.rules.filters_draws and _is_cut(params)


def can_be_filtered_from(params: ResolvedParams) -> bool:
    """Whether a few likeliest tokens may decide a draw that `typical_p` and its like filter: those
    that `top_k` leaves are among them."""
    draws = params.do_sample and params.top_k > 0 and params.num_beams == 1
    return draws and params.rules.filters_few and only_lowers(params)


def can_be_searched_from(params: ResolvedParams) -> bool:
    """Whether a few likeliest tokens of each beam may decide how a search goes on: nothing but bans
    may act on scores, which are log-probabilities."""
    return (
        params.num_beams > 1
        and not params.do_sample
        and params.grammar is None
        and params.repetition_penalty == 1.0
        and only_lowers(params)
        and not params.rules.renormalize_logits
        and num_to_search_from(params) <= MOST
    )


def num_to_search_from(params: ResolvedParams) -> int:
    """How many of each beam's likeliest tokens that takes; one more than it goes on with shows that
    no others tie with them."""
    count = params.num_candidates + 1
    return count + _SPARE if params.has_penalties else count


def can_be_chosen_once_ruled(params: ResolvedParams) -> bool:
    """Whether the few likeliest may decide that are left by all that comes before the temperature,
    where that has been done to the whole row."""
    return not params.is_plain_greedy and not params.rules.filters_draws and _is_cut(params)


def _is_cut(params: ResolvedParams) -> bool:
    """Whether a draw takes no more than the likeliest tokens."""
    if params.num_beams > 1:
        return False
    return not params.do_sample or params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def num_once_ruled(params: ResolvedParams) -> int:
    """How many of them it takes; one more shows that no others tie with them."""
    return _OF_NUCLEUS if params.do_sample and params.top_k == 0 else max(params.top_k, 1) + 1


def num_to_choose_from(params: ResolvedParams) -> int:
    """How many of the likeliest tokens a draw is likely to need."""
    if params.do_sample and params.top_k == 0:
        return _OF_NUCLEUS
    count = params.top_k if params.do_sample else 1
    if not params.has_penalties or count >= MOST:
        return count + 1
    return min(2 * count + _SPARE, MOST)
