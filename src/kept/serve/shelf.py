"""What a server remembers of answers it gave, by their ids: bounded, and each tenant's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

from kept.serve.tenants import Tenant

T = TypeVar("T")


class Shelf(Generic[T]):
    """Items by tenant and id; what was longest neither put nor asked for goes first.

    max_items, max_bytes: of each tenant. It lives in one thread, and ends with the server.
    """

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items, self._max_bytes = max_items, max_bytes
        self._items: dict[Tenant, OrderedDict[str, tuple[T, int]]] = {}
        self._bytes: dict[Tenant, int] = {}

    def put(self, tenant: Tenant, name: str, item: T, num_bytes: int) -> None:
        """Keep an item; one that is larger than all there may be is not kept."""
        self.pop(tenant, name)
        if num_bytes > self._max_bytes or not self._max_items:
            return
        items = self._items.setdefault(tenant, OrderedDict())
        items[name] = item, num_bytes
        self._bytes[tenant] = self._bytes.get(tenant, 0) + num_bytes
        while len(items) > self._max_items or self._bytes[tenant] > self._max_bytes:
            self.pop(tenant, next(iter(items)))

    def get(self, tenant: Tenant, name: str) -> T | None:
        """The item of an id, None where the tenant has none."""
        items = self._items.get(tenant)
        if items is None or name not in items:
            return None
        items.move_to_end(name)
        return items[name][0]

    def pop(self, tenant: Tenant, name: str) -> T | None:
        """Take an item away, and give it."""
        items = self._items.get(tenant)
        found = None if items is None else items.pop(name, None)
        if items is None or found is None:
            return None
        self._bytes[tenant] -= found[1]
        if not items:
            del self._items[tenant], self._bytes[tenant]
        return found[0]

    def values(self, tenant: Tenant) -> Iterator[T]:
        """All items of a tenant, those that were put or asked for last first."""
        for item, _ in reversed(self._items.get(tenant, {}).values()):
            yield item

    def num_bytes(self, tenant: Tenant) -> int:
        """What the items of a tenant were said to take."""
        return self._bytes.get(tenant, 0)
