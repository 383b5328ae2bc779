"""The access log: a line of JSON for each request, without what was asked."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kept.entropy import random_name
from kept.serve.tenants import Tenant

log = logging.getLogger("kept.serve")

REQUEST_ID: Final = b"x-request-id"
_FITTING: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class AccessLog:
    """Gives each request an id, its client's own where that is a fit one, and tells how it ended.

    What a route puts into `scope["state"]["log"]`, a dict, stands in the line too. With
    `is_on=False` only the id is given.
    """

    def __init__(self, app: ASGIApp, *, is_on: bool = True) -> None:
        self._app, self._is_on = app, is_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, began = _id_of(scope), time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"], state["log"] = name, {}
        status = [0]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, name.encode())]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            if self._is_on:
                took, tenant = time.perf_counter() - began, state.get("tenant")
                note(name, scope["method"], scope["path"], status[0], took, tenant, state["log"])


def _id_of(scope: Scope) -> str:
    for key, value in scope["headers"]:
        if key.lower() == REQUEST_ID and 0 < len(value) <= 64 and _FITTING.issuperset(value):
            return str(value.decode())
    return new_id()


def new_id() -> str:
    """A request's, of a client that gives it none."""
    return f"req_{random_name(12)}"


def note(
    name: str,
    method: str,
    path: str,
    status: int,
    seconds: float,
    tenant: Tenant | None,
    more: Mapping[str, Any],
) -> None:
    """Write the line of a request, by its id."""
    _write(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": name,
            "method": method,
            "path": path[:200],
            "status": status,
            "seconds": round(seconds, 6),
            **({"tenant": tenant.name} if tenant is not None and tenant.name else {}),
            **more,
        }
    )


def _write(entry: dict[str, Any]) -> None:
    try:
        sys.stderr.write(json.dumps(entry) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # whoever read the log has gone
        log.debug("the access log cannot be written")
