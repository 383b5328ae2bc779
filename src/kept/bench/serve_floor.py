"""The least that a machine can take for what was served, whoever serves it."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kept.bench.limits import Limits
from kept.bench.serve_record import Served
from kept.bench.work import Costs

_ITEM = 4  # bytes of a token's id in a key of sorting


@dataclass(frozen=True, slots=True)
class Job:
    """What has to be read and computed for some requests at the least.

    Every beginning of a prompt is computed once, however many requests share it, and a request
    computes its last token and those it draws. distinct_tokens: how many that are. num_passes: of
    the model, each over the weights that one token meets: one sequence draws one token in a pass,
    there are only so many sequences in it, and a request that comes after another waits for all of
    its tokens.
    """

    operations: int
    num_bytes: int
    distinct_tokens: int
    num_passes: int

    def floor(self, limits: Limits) -> float | None:
        """Seconds at the machine's limits, reading or arithmetic; None where one is not known."""
        bandwidth, peak = limits.bandwidth, limits.peak
        if bandwidth is None or peak is None:
            return None
        return max(self.operations / peak.best, self.num_bytes / bandwidth)


def job_of(served: Mapping[int, Served], costs: Costs, max_batch_size: int) -> Job:
    """What the requests took at the least, as far as they came; served: by index.

    A pass reads what several sequences share once, and that all of a batch share it is taken for
    granted: the true least is more.
    """
    some = [found for found in served.values() if found.token_times]
    shared = shared_tokens([found.token_ids[:-1] for found in some])
    operations = num_bytes = distinct = 0
    for found, (seen, either) in zip(some, shared, strict=True):
        length, drawn = len(found.token_ids) - 1, len(found.token_times)
        before = min(seen, length - drawn)
        operations += costs.operations(before, length, num_logits=drawn)
        distinct += length - before
        for n in range(length - drawn + 2, length + 1):  # the first token is drawn by the prompt
            common = costs.kv_bytes(min(either, n))
            num_bytes += costs.kv_bytes(n) - common + common // max_batch_size
    total = sum(len(found.token_times) for found in some)
    passes = max(-(-total // max_batch_size), _longest_chain(served))
    return Job(operations, num_bytes + passes * costs.pass_bytes(1), distinct, passes)


def _longest_chain(served: Mapping[int, Served]) -> int:
    """Tokens drawn by requests one after the other."""
    drawn: dict[int, int] = {}
    for index in sorted(served):  # a request comes behind the one it waits for
        found = served[index]
        before = 0 if found.arrival.after is None else drawn[found.arrival.after]
        drawn[index] = before + len(found.token_times)
    return max(drawn.values(), default=0)


def shared_tokens(texts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """For each text: its first tokens that a text counted before it has, and that any other has.

    Over all texts, tokens less those counted before are the nodes of their prefix tree.
    """
    # Of texts in lexicographic order, the one with the most in common stands beside each.
    keys = [_key(text) for text in texts]
    order = sorted(range(len(texts)), key=keys.__getitem__)
    common = [_common(texts[a], texts[b]) for a, b in pairwise(order)]
    before, behind = [0, *common], [*common, 0]
    found = [(0, 0)] * len(texts)
    for place, index in enumerate(order):
        found[index] = before[place], max(before[place], behind[place])
    return found


def _key(text: Sequence[int]) -> bytes:
    words = array("I", text)
    assert words.itemsize == _ITEM
    words.byteswap()  # big-endian numbers sort as their bytes do; any order of tokens would do
    return words.tobytes()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
