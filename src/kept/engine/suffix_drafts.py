"""Drafts of what came behind the same tokens before, in a text or in others of its tenant."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from kept.engine.continuation import Continuation
from kept.engine.passes import Work
from kept.engine.request import Request

if TYPE_CHECKING:
    from kept import _native

READ: Final = 512  # tokens of prompts that were not computed, looked through in a step
RECENT: Final = 16_384  # tokens of a tenant's texts that have ended
MOST_TENANTS: Final = 16  # that have any, the late ones
PARTS: Final = np.array([-1], dtype=np.int64)  # stands between two texts


@dataclass(slots=True)
class Text:
    """What is known of a continuation. num_read: how many of its tokens."""

    repeats: _native.Repeats
    num_read: int = 0


class SuffixDrafts:
    """A suffix automaton for each text that asks for drafts, and one of each tenant's late ones."""

    def __init__(self) -> None:
        self._texts: dict[Continuation, Text] = {}
        self.recent: OrderedDict[tuple[str, str], _native.SuffixAutomaton] = OrderedDict()

    @property
    def is_asked(self) -> bool:
        """Whether anybody who runs wants these."""
        return bool(self._texts)

    def begin(self, request: Request) -> None:
        """Note a request that starts, or starts again."""
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
        self.recent.clear()

    def forget(self) -> None:
        """Let no text that has ended be drafted from."""
        from kept import _native

        self.recent.clear()
        for continuation in self._texts:
            self._texts[continuation] = _text(continuation, _native.SuffixAutomaton())

    def read(self, work: Sequence[Work]) -> None:
        """Look through what a pass has read of prompts."""
        if self._texts:
            for item in work:
                text = self._texts.get(item.continuation) if item.is_prompt else None
                if text is not None:
                    _read(text, item.continuation, item.num_new)

    def look(self, work: Sequence[Work]) -> list[tuple[int, float, _native.Repeats]]:
        """Take in what was drawn since the last step; of those of `work` that have any drafts their
        numbers, the chance of a first one, and who drafts them."""
        found, left = [], READ
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
            found.append((index, chance, repeats))
        return found

    def _others(self, request: Request) -> _native.SuffixAutomaton:
        """The texts of its tenant that have ended, to which its own are added."""
        from kept import _native

        key = request.tenant, request.key_salt
        found = self.recent.get(key)
        if found is None or found.num_tokens > RECENT:
            late = [] if found is None else found.tokens()[-RECENT // 2 :]
            found = self.recent[key] = _native.SuffixAutomaton()
            found.add(np.array(late, dtype=np.int64))
        self.recent.move_to_end(key)
        if len(self.recent) > MOST_TENANTS:
            self.recent.popitem(last=False)
        return found


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
