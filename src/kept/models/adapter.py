"""A LoRA adapter of a model, and which of them the sequences of a batch go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kept.batch import Batch
from kept.errors import OptionError
from kept.ops import LowRank


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that has been read.

    name: what requests call it. digest: a hash of its files, on which keys and values depend.
    parts: of each linear layer of the model that it reaches, by its path.
    """

    name: str
    digest: str
    parts: Mapping[str, tuple[LowRank, ...]]

    @property
    def num_parameters(self) -> int:
        """How many numbers it has."""
        each = [part for parts in self.parts.values() for part in parts]
        return sum(part.down.numel() + part.up.numel() for part in each)


def find(adapters: Sequence[Adapter], name: str) -> Adapter:
    """The one of that name. Raises OptionError where there is none."""
    for each in adapters:
        if each.name == name:
            return each
    names = ", ".join(repr(each.name) for each in adapters) or "none"
    raise OptionError(
        f"adapter={name!r:.100} is not one of those that this model was loaded with: {names}"
    )


def check_numbers(batch: Batch, count: int) -> None:
    """Raise OptionError where a batch names an adapter that a model of `count` does not have, or
    not one for each sequence."""
    found = batch.adapters
    if not found:
        return
    wrong = [number for number in found if not -1 <= number < count]
    if wrong or len(found) != batch.num_sequences:
        raise OptionError(
            f"a batch of {batch.num_sequences} sequences names the adapters {list(found)}, and the "
            f"model has {count}; give each sequence a number below that, or -1 for none"
        )
