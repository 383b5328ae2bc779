"""What a chat keeps between its turns: a cache, and the tokens whose keys it holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from kept.cache import Cache
from kept.errors import CacheError

log = logging.getLogger("kept")


@dataclass(slots=True)
class Conversation:
    """One slot of keys and the tokens they belong to. key: the options the cache was made by.

    tokens: the cache may hold keys beyond them, or fewer, where an exception came in between; what
    both say is right.
    """

    cache: Cache
    tokens: list[int]
    key: tuple[object, ...]

    def reuse(self, prompt: Sequence[int]) -> int:
        """Cut the cache back to the longest beginning it shares with a prompt; returns its length.

        At least the prompt's last token is left to compute, since its logits are needed. A ring
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
