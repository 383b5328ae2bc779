"""Decoding without preparing each step anew: one token more for the same sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kept.cache import Lease
from kept.models.next_logits import NextLogits, likeliest
from kept.ops import Program

if TYPE_CHECKING:
    from kept import _native


class RepeatedStep:
    """Steps that follow one another and differ in nothing but their tokens.

    Everything a step needs was bound when this was made, so running one is a single call. room:
    how many steps are left. It ends with any other operation on the cache.
    """

    def __init__(
        self,
        program: Program,
        repeat: _native.Repeat,
        lease: Lease,
        logits: Tensor,
        room: int,
        top_k: int,
    ) -> None:
        self._program, self._repeat = program, repeat
        self._lease, self._logits, self._top_k = lease, logits, top_k
        self.room = room

    def run(self, tokens: list[int]) -> NextLogits:
        """Read the next token of each sequence, (B,); mutates the cache, which grows by one.

        Raises what `CausalLM.run` raises, and CacheError after another operation on the cache; the
        cache is then as it was, and this is spent.
        """
        assert self.room > 0, "a repeated step needs room for its tokens"
        try:
            self._lease.check()
            best = self._program.run_again(self._repeat, tokens)
            self._lease.extend()
        except BaseException:
            self.room = 0
            self._lease.end()
            raise
        self.room -= 1
        return NextLogits(self._logits, best, likeliest(self._program) if self._top_k else None)
