"""Drafts: tokens that a text may go on with, as it or others of its tenant have before.

A pass verifies them: behind each it finds the logits that it would have found had the token been
drawn, so the next token is drawn from these, keyed by seed and position as ever, for as long as the
token before was the one drafted. Whatever is drafted, a text stays the same bit for bit.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from kept.engine.continuation import Continuation
from kept.engine.draft_worth import LEAST_CHANCE, DraftWorth, Hope
from kept.engine.passes import Work
from kept.engine.request import Request
from kept.engine.residents import Residents
from kept.engine.window import ContextRule
from kept.models import CausalLM

if TYPE_CHECKING:
    from kept import _native

READ: Final = 512  # tokens of prompts that were not computed, looked through in a step
LEAST_FIRST: Final = 0.25  # chance of a first draft, below which nothing is asked
RECENT: Final = 16_384  # tokens of a tenant's texts that have ended
MOST_TENANTS: Final = 16  # that have any, the late ones
PARTS: Final = np.array([-1], dtype=np.int64)  # stands between two texts

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Text:
    """What is known of a continuation. num_read: how many of its tokens."""

    repeats: _native.Repeats
    num_read: int = 0


class Drafting:
    """Says which tokens a pass verifies, of those that have drafts.

    why_not: why there are none, whatever is asked; None: there may be.
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
        self.why_not = _why_not(model, has_cache)
        self._texts: dict[Continuation, Text] = {}
        self._recent: OrderedDict[tuple[str, str], _native.SuffixAutomaton] = OrderedDict()
        self._has_said = False

    @property
    def is_asked(self) -> bool:
        """Whether anybody who runs wants drafts."""
        return bool(self._texts)

    def begin(self, request: Request) -> None:
        """Note a request that starts, or starts again."""
        params = request.group.params
        if not params.prompt_lookup_num_tokens or params.num_beams > 1:
            return
        if self.why_not is not None:
            if not self._has_said:
                log.info("no drafts: %s", self.why_not)
            self._has_said = True
            return
        others = self._others(request)
        for continuation in request.group.members:
            if continuation not in self._texts:
                self._texts[continuation] = _text(continuation, others)

    def end(self, request: Request) -> None:
        """Note that a request has ended: others of its tenant may go on as its texts did."""
        members = request.group.members
        if not any(c in self._texts for c in members):
            return
        others = self._others(request)
        for continuation in members:
            if self._texts.pop(continuation, None) is not None:
                new = continuation.history.tokens[continuation.history.num_prompt :]
                others.add(new[-RECENT:])
                others.add(PARTS)

    def restart(self) -> None:
        """After an exception in a step, which may have left anything here half done: forget all."""
        self._texts.clear()
        self._recent.clear()

    def forget(self) -> None:
        """Let no text that has ended be drafted from."""
        from kept import _native

        self._recent.clear()
        for continuation in self._texts:
            self._texts[continuation] = _text(continuation, _native.SuffixAutomaton())

    def read(self, work: Sequence[Work]) -> None:
        """Look through what a pass has read of prompts."""
        if self._texts:
            for item in work:
                text = self._texts.get(item.continuation) if item.is_prompt else None
                if text is not None:
                    _read(text, item.continuation, item.num_new)

    def drafted(self, work: Sequence[Work]) -> list[Work] | None:
        """With drafts, what is to be one token of everyone; None: none are worth while, or there is
        no room for them."""
        if not self._texts:
            return None
        hopes, left = [], READ
        for index, item in enumerate(work):
            continuation = item.continuation
            text = self._texts.get(continuation)
            if text is None:
                continue
            repeats, behind = text.repeats, len(continuation.history) - text.num_read
            if behind == 1:
                chance = repeats.draw(continuation.history.last)
                text.num_read += 1
            elif not behind:
                chance = repeats.chance()
            else:
                left -= _read(text, continuation, left)
                is_behind = text.num_read < len(continuation.history)
                chance = 0.0 if is_behind else repeats.chance()
            goes_on = item.request.group.may_draft and not item.is_prompt
            if chance >= LEAST_FIRST and goes_on:
                hopes.append((index, repeats))
        if not hopes or not self._worth.may_try:
            return None
        return self._chosen(work, hopes)

    def _chosen(
        self, work: Sequence[Work], hopes: Sequence[tuple[int, _native.Repeats]]
    ) -> list[Work] | None:
        found = []
        for index, repeats in hopes:
            most = self._most(work[index].continuation)
            if most > 0:
                tokens, chances = repeats.draft(most, LEAST_CHANCE)
                if tokens:
                    found.append(Hope(index, tokens, chances))
        counts = self._worth.choose(work, found)
        if not counts:
            return None
        drafted = list(work)
        for hope in found:
            count = counts.get(hope.number, 0)
            if count:
                item = work[hope.number]
                drafts = tuple(hope.tokens[:count])
                drafted[hope.number] = item._replace(num_new=1 + count, drafts=drafts)
        return drafted if self._residents.has_room(drafted) else None

    def _most(self, continuation: Continuation) -> int:
        """How many drafts a sequence may bring: up to its last token but one and the end of its
        window, and as far as its cache can go back."""
        length = len(continuation.history)
        most = continuation.params.prompt_lookup_num_tokens
        most = min(most, continuation.limit - length - 1)
        if self._rule.slides and not self._rule.in_place:
            most = min(most, self._rule.length - (length - continuation.offset))
        [step] = self._residents.max_steps([continuation])
        # A step that comes to where tokens leave cannot be taken back.
        return most if step is None else min(most, step - 2)

    def _others(self, request: Request) -> _native.SuffixAutomaton:
        """The texts of its tenant that have ended, to which its own are added."""
        from kept import _native

        key = request.tenant, request.salt
        found = self._recent.get(key)
        if found is None or found.num_tokens > RECENT:
            late = [] if found is None else found.tokens()[-RECENT // 2 :]
            found = self._recent[key] = _native.SuffixAutomaton()
            found.add(np.array(late, dtype=np.int64))
        self._recent.move_to_end(key)
        if len(self._recent) > MOST_TENANTS:
            self._recent.popitem(last=False)
        return found


def _why_not(model: CausalLM, has_cache: bool) -> str | None:
    if model.native is None:
        return "on the torch reference the number of rows of a pass changes its rounding"
    if not has_cache:
        return "without a cache every token is computed anew"
    if model.keys_follow_length:
        return "keys depend on how long the text is, as rotary scaling is dynamic"
    return None


def _text(continuation: Continuation, others: _native.SuffixAutomaton) -> Text:
    from kept import _native

    repeats = _native.Repeats(others)
    if continuation.source is not None:
        repeats.read(np.array([*continuation.source, -1], dtype=np.int64))
    return Text(repeats)


def _read(text: Text, continuation: Continuation, most: int) -> int:
    """Look through at most so many tokens more of a prompt, and what follows it once that has been
    done; how many these were."""
    history, begin = continuation.history, text.num_read
    end = min(begin + most, history.num_prompt)
    if begin < end:
        text.repeats.read(history.tokens[begin:end])
        text.num_read = end
    if end >= history.num_prompt:
        for token in history.tokens[max(begin, end) :].tolist():
            text.repeats.draw(token)
        text.num_read = len(history)
    return text.num_read - begin
