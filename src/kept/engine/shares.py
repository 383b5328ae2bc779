"""What was computed for each tenant, to be looked at. Who goes first is decided by `FairShare`,
whose counters are lifted and forgotten."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

from kept.engine.request import Phase, Request
from kept.engine.view import TenantShare

MOST: Final = 1024  # tenants remembered, the late ones


class Shares:
    """The cost of what each tenant was served, the one served last at the end."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        """weights: see `FairShare`."""
        self._weights = weights or {}
        self._costs: OrderedDict[str, float] = OrderedDict()

    def add(self, tenant: str, cost: float) -> None:
        """Count what was computed."""
        self._costs[tenant] = self._costs.get(tenant, 0.0) + cost
        self._costs.move_to_end(tenant)
        if len(self._costs) > MOST:
            self._costs.popitem(last=False)

    def of(self, requests: Iterable[Request]) -> list[TenantShare]:
        """Each tenant that was served or has one of these unfinished requests, by name."""
        running: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for request in requests:
            (running if request.phase is Phase.RUNNING else waiting)[request.tenant] += 1
        return [
            TenantShare(
                tenant,
                self._weights.get(tenant, 1.0),
                waiting[tenant],
                running[tenant],
                self._costs.get(tenant, 0.0),
            )
            for tenant in sorted({*self._costs, *running, *waiting})
        ]
