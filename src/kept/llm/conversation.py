"""What a chat keeps between its turns: a cache, and the tokens whose keys it holds."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kept.cache import Cache
from kept.engine import Held, Room
from kept.errors import CacheError, OptionError
from kept.models import Adapter
from kept.options import ResolvedCacheOptions

log = logging.getLogger("kept")


@dataclass(slots=True)
class Conversation:
    """One slot of keys and the tokens they belong to. options: what the cache was made by.
    adapter: what the keys come of.

    tokens: the cache may hold keys beyond them, or fewer, where an exception came in between; what
    both say is right. last_use: as `time.monotonic` counts.
    """

    held: Held
    tokens: list[int]
    options: ResolvedCacheOptions
    adapter: Adapter | None = None
    last_use: float = field(default_factory=time.monotonic)

    @property
    def cache(self) -> Cache:
        """What holds the keys."""
        return self.held.cache

    def reuse(self, prompt: Sequence[int]) -> int:
        """Cut the cache back to the longest beginning it shares with a prompt; returns its length.

        At least the prompt's last token is left to compute, since its logits are needed. A cache
        that cannot go back that far is emptied, which is logged.
        """
        shared = 0
        limit = min(len(self.tokens), self.cache.lengths[0], len(prompt) - 1)
        while shared < limit and self.tokens[shared] == prompt[shared]:
            shared += 1
        # Tokens go before their keys: Ctrl-C in between must not leave the cache short of what
        # they say, and other keys in their place by the next turn.
        del self.tokens[shared:]
        try:
            self.cache.truncate(shared)
        except CacheError as error:
            log.warning("the conversation is read again from its start: %s", error)
            shared = 0
            self.tokens.clear()
            self.cache.truncate(0)
        return shared


class LastConversation:
    """The conversation that the next turn may go on from, if there is one: a `Lender`.

    Threads may share it: whoever takes it out has it alone.
    """

    is_busy = is_running = False
    promised = 0

    def __init__(self, room: Room) -> None:
        self._held: deque[Conversation] = deque(maxlen=1)  # taken out and put in by one call each
        room.join(self)

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`."""
        return sum(found.held.reserved.num_bytes for found in list(self._held))

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`."""
        return next((found.last_use for found in list(self._held)), None)

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`."""
        self.drop()

    def help(self) -> None:
        """See `Lender.help`; nobody waits for it."""

    def take(self) -> Conversation | None:
        """What the last turn left behind; there is none from now on."""
        try:
            return self._held.pop()
        except IndexError:
            return None

    def put(self, found: Conversation | None) -> None:
        """Leave one behind, in place of any other; None leaves that."""
        if found is not None:
            self._held.append(found)

    def drop(self) -> None:
        """Forget it."""
        self._held.clear()


def usable(
    kept: Conversation | None,
    options: ResolvedCacheOptions,
    prompt: Sequence[int],
    context: int,
    adapter: Adapter | None = None,
) -> Conversation | None:
    """The kept conversation, if a turn can go on from it; else the log says why not.

    Raises OptionError for a static cache whose length no option says.
    """
    if options.cache_implementation == "static" and options.max_cache_len is None:
        raise OptionError(
            "a chat with a static cache needs max_cache_len, since its turns share one cache; "
            f"give the tokens all of them may come to, up to {context}"
        )
    if kept is None:
        return None
    if kept.options != options:
        log.warning("the conversation is read again: the cache options have changed")
        return None
    if kept.adapter is not adapter:
        log.warning("the conversation is read again: it goes through another adapter")
        return None
    if options.overflow == "slide" and len(prompt) > context:
        log.warning("the conversation is read again: it is longer than the context and slides")
        return None
    return kept
