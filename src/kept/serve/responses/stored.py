"""Answers that can be asked for again, and gone on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kept.serve.refusal import Refusal
from kept.serve.responses.items import Item
from kept.serve.service import Service
from kept.serve.sse import to_json
from kept.serve.tenants import Tenant


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer. body: as its client got it. items: the whole conversation down to its output,
    whose dictionaries those of later answers share; num_before of them came before the input."""

    body: dict[str, Any]
    items: tuple[dict[str, Any], ...]
    num_before: int

    @property
    def input_items(self) -> Sequence[dict[str, Any]]:
        """What its request brought."""
        return self.items[self.num_before : len(self.items) - len(self.body["output"])]


def find(service: Service, tenant: Tenant, name: str, field: str | None = None) -> Stored:
    """The answer of an id. Raises Refusal where the tenant has none of it, or no more."""
    found: Stored | None = service.responses.get(tenant, name)
    if found is None:
        raise Refusal(
            f"there is no response {name[:100]!r}: it was not stored (store: false), was deleted, "
            "had to make room for newer ones (--response-store) or was of before a restart",
            404 if field is None else 400,
            "previous_response_not_found" if field is not None else "not_found",
            field,
        )
    return found


def keep(service: Service, tenant: Tenant, stored: Stored) -> None:
    """Store an answer; its size counts all that it holds."""
    size = len(to_json(stored.body)) + sum(len(to_json(item)) for item in stored.items)
    service.responses.put(tenant, stored.body["id"], stored, size)


def resolved(service: Service, tenant: Tenant, items: Sequence[Item]) -> list[Item]:
    """Items with references replaced by what they refer to. Raises Refusal for an unknown one."""
    return [
        _referred(service, tenant, item, f"input.{i}") if _is_reference(item) else item
        for i, item in enumerate(items)
    ]


def _is_reference(item: Item) -> bool:
    """Its type may be left out."""
    bare = item.type == "message" and item.role is None and item.content is None
    return item.id is not None and (bare or item.type == "item_reference")


def _referred(service: Service, tenant: Tenant, item: Item, where: str) -> Item:
    for stored in service.responses.values(tenant):
        for each in stored.items:
            if each.get("id") == item.id:
                return Item.model_validate(each)
    raise Refusal(
        f"{where} refers to {str(item.id)[:100]!r}, which no stored response holds; send the item",
        400,
        "item_not_found",
        f"{where}.id",
    )
