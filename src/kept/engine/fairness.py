"""Equal shares for tenants: virtual token counters.

Sheng et al. 2024, "Fairness in Serving Large Language Models" (arXiv 2401.00588). A tenant's
counter rises by the cost of what it is served, divided by its weight, and the tenant whose counter
is lowest goes first. One that comes back is lifted to where the others are, so that nobody saves up
a claim by staying away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from kept.errors import OptionError

PROMPT_COST: Final = 1.0  # of a prompt token or draft that is computed; what is cached is free
OUTPUT_COST: Final = 2.0  # of a token that is drawn, as in the paper
MAX_IDLE: Final = 4096  # tenants remembered without a request


@dataclass(slots=True)
class Account:
    """One tenant's: served cost over its weight, prompt tokens charged ahead, and its requests.

    read: as `served`, but lifted whenever it has a prompt to read again and had none. num_running:
    requests that have started.
    """

    weight: float
    served: float
    num_promised: int = 0
    num_open: int = 0
    num_running: int = 0
    read: float = 0.0


class Turn(NamedTuple):
    """When a tenant's prompt is read among those of others.

    read: its counter. level: where that would be had it had its share of what was computed. weight:
    by how much the counter rises less.
    """

    read: float
    level: float
    weight: float


class FairShare:
    """The counters of tenants that compete.

    Let U be the most that requests which run at one time can still cost from then on; at most
    slots * (PROMPT_COST * longest prompt + OUTPUT_COST * longest output). Of two tenants f and g
    of weights 1 that wait for slots throughout a time, one is served at most 2 U more than the
    other in it (theorem 4.4); of others, served_f / weight_f and served_g / weight_g differ by at
    most U / weight_f + U / weight_g. It holds whatever they send and whenever, where requests start
    in the order of `standing`, `start` is called for each, and what starts runs to its end.

    Other than in the paper a prompt's cost counts as promised when it starts and as served when it
    is computed, so that one that is cut short costs what was done for it. And who comes back with
    nothing running is lifted past the lowest of those that wait, towards the one that has waited
    longest: however many tenants come, none of them can keep it waiting for ever. The proof of the
    bound needs no more than that the lift stays between the lowest and the highest that wait.

    Who starts and whose prompt is read next are two queues. In the first a tenant that comes late
    is lifted past all that others were promised, which they may have been given little of. So each
    has a second counter, `Account.read`, for the prompts that are being read. What a pass costs
    raises the level of all that run, as if everyone had had its share of it, and a tenant that
    begins to read is lifted to there. Of the prompts whose tenant was not above the level as they
    began, the one goes first that would be read soonest at its tenant's share (worst-case fair
    queueing: Bennett and Zhang 1996, WF2Q). So a short prompt is read nearly as soon as on a
    machine of its own that has its share of the speed, however long the prompts are that have
    started before it.
    """

    def __init__(self, slots: int, weights: Mapping[str, float] | None = None) -> None:
        """slots: requests served at one time at most. weights: by tenant; 1 for others.

        Raises OptionError for a weight that is not above 0.
        """
        self._slots = slots
        self._weights = dict(weights or {})
        for tenant, weight in self._weights.items():
            if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
                raise OptionError(
                    f"tenant {tenant!r} has weight {weight!r}, and a weight is a finite number "
                    "above 0; one twice that of others gets twice their share"
                )
        self._accounts: dict[str, Account] = {}
        self._num_idle = 0
        self._floor = 0.0  # where the last request started
        self._par = 0.0  # where as many tenants as slots would be
        self._running: set[str] = set()
        self._readers: set[str] = set()  # tenants with prompt tokens charged ahead
        self._reached = 0.0  # by what was computed, as if all that ran had had their share of it
        self._is_level_known = True
        self._weight = 0.0  # of all tenants that run

    def __len__(self) -> int:
        """How many tenants are remembered."""
        return len(self._accounts)

    def emptied(self) -> FairShare:
        """Another with the counters of this one, where nobody has a request or was promised any
        tokens yet."""
        twin = FairShare(self._slots, self._weights)
        for tenant, account in self._accounts.items():
            twin._accounts[tenant] = Account(account.weight, account.served, read=account.read)
        twin._reached = self._reached
        twin._num_idle = len(twin._accounts)
        twin._floor, twin._par = self._floor, self._par
        return twin

    def enter(self, tenant: str) -> None:
        """Count a request of the tenant's, new to the scheduler."""
        account = self._accounts.get(tenant)
        if account is None:
            account = Account(self._weights.get(tenant, 1.0), self._floor)
            self._accounts[tenant] = account
        elif not account.num_open:
            self._num_idle -= 1
        account.num_open += 1

    def leave(self, tenant: str) -> None:
        """Count one less: it is done with."""
        account = self._accounts[tenant]
        account.num_open -= 1
        if not account.num_open:
            self._num_idle += 1
            if self._num_idle > MAX_IDLE:
                self._forget()

    @property
    def is_idle(self) -> bool:
        """Whether no tenant has a request."""
        return self._num_idle == len(self._accounts)

    def lift(self, tenant: str, lowest: float | None, oldest: float) -> None:
        """Bring a tenant up to the others, as it waits again and did not before.

        lowest, oldest: of those that wait, the lowest standing and that of the one that has waited
        longest; None: nobody waits.
        """
        account = self._accounts[tenant]
        account.served = max(account.served, self._floor if lowest is None else lowest)
        if lowest is not None and account.num_open == 1:
            account.served = max(account.served, min(self._par, oldest))

    def turn(self, tenant: str) -> Turn:
        """Where it stands among those with prompts to read."""
        account = self._accounts[tenant]
        return Turn(account.read, self._level_of_reading(), account.weight)

    def _level_of_reading(self) -> float:
        """How far everyone who runs would be; somebody who reads is never above."""
        if not self._is_level_known and self._readers:
            lowest = min(self._accounts[name].read for name in self._readers)
            self._reached = max(self._reached, lowest)
        self._is_level_known = True
        return self._reached

    def standing(self, tenant: str) -> float:
        """Its counter with what it is promised: the lowest goes first."""
        account = self._accounts[tenant]
        return account.served + PROMPT_COST * account.num_promised / account.weight

    def start(self, tenant: str, standing: float) -> None:
        """Count a request of the tenant's that starts, and note the lowest standing of those that
        wait."""
        account = self._accounts[tenant]
        self._running.add(tenant)
        if not account.num_running:
            self._weight += account.weight
        account.num_running += 1
        self._floor = max(self._floor, standing)
        self._par = max(self._par, self._floor)

    def stop(self, tenant: str) -> None:
        """Count one less that runs."""
        account = self._accounts[tenant]
        account.num_running -= 1
        if not account.num_running:
            self._running.remove(tenant)
            # Afresh: what is taken off a sum of floats leaves a rounding.
            self._weight = sum(self._accounts[name].weight for name in self._running)

    def promise(self, tenant: str, num_prompt: int) -> None:
        """Charge prompt tokens ahead; fewer than 0: of those charged, which are computed now or
        which nobody will compute."""
        account = self._accounts[tenant]
        account.num_promised += num_prompt
        if account.num_promised and tenant not in self._readers:
            account.read = max(account.read, self._level_of_reading())
            self._readers.add(tenant)
        elif not account.num_promised:
            self._readers.discard(tenant)
        self._is_level_known = False

    def serve(self, tenant: str, cost: float) -> None:
        """Charge what was computed: `PROMPT_COST` and `OUTPUT_COST` for each token."""
        account = self._accounts[tenant]
        account.served += cost / account.weight
        account.read += cost / account.weight
        self._par += cost / self._slots
        self._reached += cost / max(self._weight, account.weight)
        self._is_level_known = False

    def _forget(self) -> None:
        """Forget half of the idle tenants: those that are ahead of the others by least."""
        idle = [name for name, account in self._accounts.items() if not account.num_open]
        idle.sort(key=lambda name: self._accounts[name].served)
        for name in idle[: len(idle) // 2]:
            del self._accounts[name]
        self._num_idle -= len(idle) // 2
