"""What stands before every route: who asks, by which name and from which page, and how much."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kept.serve.content_type import taken_for_json
from kept.serve.origins import Headers, Origins, preflight, showing
from kept.serve.refusal import Refusal
from kept.serve.settings import Settings
from kept.serve.tenants import Keys

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "::1", "localhost"})
OPEN: Final = frozenset({"/health", "/ready"})  # answered to whom has no key
MAX_HEADERS: Final = 64 << 10  # bytes of all headers together
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OTHER = re.compile(rb"[^\[\]{}]+")

Refuse = Callable[[Scope, Refusal], ASGIApp]


class Guard:
    """Refuses what must not reach a route, and puts the tenant into `scope["state"]`.

    is_local: only this machine can reach the server. open_paths: those that need no key, beside
    health and readiness; one that ends in "/" is all below it. refuse: the answer for a refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        keys: Keys,
        *,
        is_local: bool,
        refuse: Refuse,
        open_paths: Iterable[str] = (),
    ) -> None:
        self._app, self._settings, self._keys, self._refuse = app, settings, keys, refuse
        names = {name.lower() for name in settings.allowed_hosts}
        if not names:
            names = {*LOOPBACK_NAMES, settings.host.lower()} if is_local else {"*"}
        self._hosts = frozenset(names)
        self._origins = Origins(settings.allowed_origins)
        listed = {*OPEN, *open_paths}
        self._open = frozenset(path for path in listed if path == "/" or not path.endswith("/"))
        self._open_below = tuple(path for path in listed if path != "/" and path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no route is a WebSocket
        headers = _headers(scope)
        try:
            self._check_host(headers)
            origin = self._origins.check(headers, scope)
            if origin is not None:
                asked = preflight(origin, headers, scope)
                if asked is not None:
                    await asked(scope, receive, send)
                    return
                send = showing(origin, send)
            self._check(scope, headers)
            receive = await self._bounded(scope, receive)
        except Refusal as refusal:
            await self._refuse(scope, refusal)(scope, receive, send)
            return
        await self._app(taken_for_json(headers, scope), receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            raise Refusal(
                f"the headers have more than {MAX_HEADERS >> 10} KiB together", 431, "too_large"
            )
        if b"content-length" in headers and b"transfer-encoding" in headers:
            raise Refusal(
                "the request gives its length twice, by Content-Length and Transfer-Encoding",
                400,
                "invalid_request",
                headers={"Connection": "close"},  # what follows may be meant as either
            )
        path = scope["path"]
        tenant = self._keys.tenant_of(_key_of(headers))
        is_open = path in self._open or path.startswith(self._open_below)
        if tenant is None and not is_open:
            raise Refusal(
                "this server needs an API key, as `Authorization: Bearer KEY` or `x-api-key: KEY`, "
                "and the request has none that it knows",
                401,
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope.setdefault("state", {})["tenant"] = tenant

    def _check_host(self, headers: Headers) -> None:
        """A name that this server does not go by is a page's that had it point here."""
        given = headers.get(b"host", [])
        if "*" in self._hosts:
            return
        if len(given) != 1 or _name_of(given[0].decode("latin-1")) not in self._hosts:
            raise Refusal(
                "the Host header names no server that this one goes by; --allowed-hosts lists "
                "what it may be called",
                421,
                "unknown_host",
            )

    async def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read whole within its limits; what comes behind it is as it was."""
        length = dict(scope["headers"]).get(b"content-length")
        most = self._settings.max_body
        if length is not None and length.isdigit() and int(length) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        break  # it has left; the route hears so
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        message = {"type": "http.request", "body": bytes(body)}
                        break
        except TimeoutError:
            raise Refusal(
                f"the request did not arrive within {self._settings.body_timeout:g} s",
                408,
                "timeout",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.request":
            check_depth(message["body"], self._settings.max_depth)
        return after(message, receive)


def check_depth(body: bytes, most: int) -> None:
    """Raise Refusal for JSON that is nested deeper, before any of it is parsed."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    depth = 0
    for bracket in _OTHER.sub(b"", _STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > most:
            raise Refusal(
                f"the request's JSON is nested more than {most} deep (--max-depth)", 400, "too_deep"
            )


def after(first: Message, receive: Receive) -> Receive:
    """What receives a message that has been received already, and then on."""
    waiting = [first]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


def _headers(scope: Scope) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def _key_of(headers: Headers) -> bytes | None:
    """The key a request comes with; one that names several has none."""
    bearers = [value.partition(b" ") for value in headers.get(b"authorization", [])]
    given = {key.strip() for kind, _, key in bearers if kind.lower() == b"bearer"}
    given |= {value.strip() for value in headers.get(b"x-api-key", [])}
    return given.pop() if len(given) == 1 else None


def _name_of(host: str) -> str:
    """The name in a Host header, without its port and a dot behind it."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]*)(?::\d*)?", host)
    return "" if found is None else found[1].strip("[]").rstrip(".").lower()


def _too_large(most: int) -> Refusal:
    return Refusal(
        f"the request has more than {most} bytes (--max-body)",
        413,
        "too_large",
        headers={"Connection": "close"},
    )
