"""Drafts: tokens that a text may go on with, as something guesses.

A pass verifies them: behind each it finds the logits that it would have found had the token been
drawn, so the next token is drawn from these, keyed by seed and position as ever, for as long as the
token before was the one drafted. Whatever is drafted, a text stays the same bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from kept.engine.continuation import Continuation
from kept.engine.draft_worth import LEAST_CHANCE, MODEL, DraftWorth, Hope
from kept.engine.model_drafts import ModelDrafts
from kept.engine.model_worth import SHARE
from kept.engine.passes import Work
from kept.engine.request import Request
from kept.engine.residents import Residents
from kept.engine.suffix_drafts import SuffixDrafts
from kept.engine.window import ContextRule
from kept.models import CausalLM

if TYPE_CHECKING:
    from kept import _native

LEAST_FIRST: Final = 0.25  # chance of a first draft, below which nothing is asked

log = logging.getLogger(__name__)


class Drafting:
    """Says which tokens a pass verifies, of those that have drafts.

    by_model: what asks a draft model; None: there is none. why_not: why there are none, whatever is
    asked; None: there may be.
    """

    def __init__(
        self,
        model: CausalLM,
        rule: ContextRule,
        residents: Residents,
        worth: DraftWorth,
        has_cache: bool,
    ) -> None:
        self._rule, self._residents, self._worth = rule, residents, worth
        self.by_model: ModelDrafts | None = None
        self.suffixes = SuffixDrafts()
        self.why_not = why_not(model, has_cache)
        self._has_said = False

    @property
    def is_asked(self) -> bool:
        """Whether anybody who runs wants drafts."""
        return self.suffixes.is_asked or (self.by_model is not None and self.by_model.is_asked)

    @property
    def spent(self) -> float:
        """Seconds of a draft model since the step began."""
        return 0.0 if self.by_model is None else self.by_model.spent

    def begin_step(self) -> None:
        """Note that a step begins."""
        if self.by_model is not None:
            self.by_model.spent = 0.0

    def begin(self, request: Request) -> None:
        """Note a request that starts, or starts again."""
        params = request.group.params
        by_model = self.by_model is not None and params.num_assistant_tokens > 0
        if not (params.prompt_lookup_num_tokens or by_model) or params.num_beams > 1:
            return
        if self.why_not is not None:
            if not self._has_said:
                log.info("no drafts: %s", self.why_not)
            self._has_said = True
            return
        if params.prompt_lookup_num_tokens:
            self.suffixes.begin(request)
        if self.by_model is not None and by_model:
            self.by_model.begin(request)

    def end(self, request: Request) -> None:
        """Note that a request has ended."""
        self.suffixes.end(request)
        if self.by_model is not None:
            self.by_model.end(request)

    def restart(self) -> None:
        """After an exception in a step, which may have left anything here half done: forget all."""
        self.suffixes.restart()
        if self.by_model is not None:
            self.by_model.restart()

    def forget(self) -> None:
        """Let no text that has ended be drafted from."""
        self.suffixes.forget()
        if self.by_model is not None:
            self.by_model.keys.forget()

    def read(self, work: Sequence[Work]) -> None:
        """Look through what a pass has read of prompts."""
        self.suffixes.read(work)

    def drafted(self, work: Sequence[Work]) -> list[Work] | None:
        """With drafts, what is to be one token of everyone; None: none are worth while, or there is
        no room for them."""
        if not self.is_asked:
            return None
        by_model, least = self.by_model, LEAST_FIRST
        if by_model is not None and by_model.is_asked:
            least = max(least, by_model.worth.mean)
        likely = [
            (number, repeats)
            for number, chance, repeats in self.suffixes.look(work)
            if chance >= (least if self._asks_model(work[number]) else LEAST_FIRST)
            and _goes_on(work[number])
        ]
        hopes = self._hopes(work, likely) if likely and self._worth.may_try else []
        if by_model is not None and by_model.is_asked:
            has_some = {hope.number for hope in hopes}
            most = {
                number: count
                for number, item in enumerate(work)
                if number not in has_some
                and self._asks_model(item)
                and _goes_on(item)
                and (count := self._most(item, item.continuation.params.num_assistant_tokens)) > 0
            }
            hopes += by_model.propose(work, most)
        hopes = [kept for hope in hopes if (kept := _allowed(hope, work[hope.number])).tokens]
        return self._chosen(work, hopes) if hopes else None

    def took(
        self,
        work: Sequence[Work],
        seconds: float,
        num_drawn: int,
        accepted: Mapping[Continuation, int],
        *,
        again: bool,
    ) -> None:
        """Learn from a step that gave everyone one token or more. To be called before another is
        planned. work: of its pass. accepted: see `Settling`. again: whether that needed no
        preparing."""
        by_model = self.by_model
        of_model = [item for item in work if item.source == MODEL]
        brought = sum(accepted.get(item.continuation, 0) for item in of_model)
        seconds -= self.spent
        won = self._worth.took(work, seconds, num_drawn, again=again, num_of_model=brought)
        if by_model is None or not by_model.is_asked:
            return
        for item in of_model:
            by_model.verified(item, accepted.get(item.continuation, 0))
        plain = self._worth.plain(work) or seconds
        if of_model:
            by_model.worth.earn(won, plain)
        elif not any(item.drafts for item in work):
            by_model.worth.earn(SHARE * seconds, plain)

    def _asks_model(self, item: Work) -> bool:
        return self.by_model is not None and self.by_model.wants(item.continuation)

    def _hopes(
        self, work: Sequence[Work], likely: Sequence[tuple[int, _native.Repeats]]
    ) -> list[Hope]:
        found = []
        for number, repeats in likely:
            item = work[number]
            most = self._most(item, item.continuation.params.prompt_lookup_num_tokens)
            if most > 0:
                tokens, chances = repeats.draft(most, LEAST_CHANCE)
                if tokens:
                    found.append(Hope(number, tokens, chances))
        return found

    def _chosen(self, work: Sequence[Work], hopes: Sequence[Hope]) -> list[Work] | None:
        counts = self._worth.choose(work, hopes)
        if not counts:
            return None
        drafted = list(work)
        for hope in hopes:
            count = counts.get(hope.number, 0)
            if count:
                drafts = tuple(hope.tokens[:count])
                drafted[hope.number] = work[hope.number]._replace(
                    num_new=1 + count, drafts=drafts, source=hope.source
                )
        return drafted if self._residents.has_room(drafted) else None

    def _most(self, item: Work, asked: int) -> int:
        """How many of so many drafts a sequence may bring: up to its last token but one and the end
        of its window, and as far as its cache can go back."""
        continuation = item.continuation
        length = len(continuation.history)
        most = min(asked, continuation.limit - length - 1)
        if self._rule.slides and not self._rule.in_place:
            most = min(most, self._rule.length - (length - continuation.offset))
        [step] = self._residents.max_steps([continuation])
        # A step that comes to where tokens leave cannot be taken back.
        return most if step is None else min(most, step - 2)


def why_not(model: CausalLM, has_cache: bool) -> str | None:
    """Why texts of a model have no drafts, None: they may."""
    if model.native is None:
        return "on the torch reference the number of rows of a pass changes its rounding"
    if not has_cache:
        return "without a cache every token is computed anew"
    if model.keys_follow_length:
        return "keys depend on how long the text is, by its rotary scaling"
    return None


def _goes_on(item: Work) -> bool:
    return item.request.group.may_draft and not item.is_prompt


def _allowed(hope: Hope, item: Work) -> Hope:
    """As much of it as a text's grammar lets be drawn."""
    count = item.continuation.history.num_allowed(hope.tokens)
    return hope._replace(tokens=hope.tokens[:count], chances=hope.chances[:count])
