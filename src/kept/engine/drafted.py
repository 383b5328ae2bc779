"""The drafts of a text while a draft model makes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kept.engine.continuation import Continuation
from kept.engine.draft_keys import DraftSlot
from kept.engine.model_worth import Sureness
from kept.sampling import ResolvedParams, TokenHistory


@dataclass(slots=True, eq=False)
class Drafted:
    """The drafts of a text in the making. slot: of its keys; number: of its work; most: drafts."""

    slot: DraftSlot
    number: int
    most: int
    continuation: Continuation
    params: ResolvedParams
    history: TokenHistory
    tokens: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    how: list[Sureness] = field(default_factory=list)
    goes_on: bool = True

    @property
    def chance(self) -> float:
        """That all of them come."""
        return self.chances[-1] if self.chances else 1.0

    def take(self, token: int, how: Sureness, chance: float) -> None:
        """Add one, which comes so often where those before it do."""
        self.tokens.append(token)
        self.how.append(how)
        self.chances.append(self.chance * chance)
        if self.history is not self.continuation.history:
            self.history.append(token)
        ends = token in self.params.eos_token_ids
        self.goes_on = not ends and len(self.tokens) < self.most
