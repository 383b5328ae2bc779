"""Who may ask: by which name of the server, and with which key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from kept.serve.origins import Headers
from kept.serve.refusal import Refusal
from kept.serve.settings import Settings
from kept.serve.tenants import Keys, Tenant

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "::1", "localhost"})
OPEN: Final = frozenset({"/health", "/ready"})  # answered to whom has no key
MAX_HEADERS: Final = 64 << 10  # bytes of all headers together


class Callers:
    """Tells those who may ask by the headers of their requests.

    is_local: only this machine can reach the server. open_paths: those that need no key, beside
    health and readiness; one that ends in "/" is all below it.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        *,
        is_local: bool,
        open_paths: Iterable[str] = (),
    ) -> None:
        self._keys = keys
        names = {name.lower() for name in settings.allowed_hosts}
        if not names:
            names = {*LOOPBACK_NAMES, settings.host.lower()} if is_local else {"*"}
        self._hosts = frozenset(names)
        listed = {*OPEN, *open_paths}
        self._open = frozenset(path for path in listed if path == "/" or not path.endswith("/"))
        self._open_below = tuple(path for path in listed if path != "/" and path.endswith("/"))

    def check_host(self, headers: Headers) -> None:
        """Raise Refusal for a name that this server does not go by: it is a page's that had it
        point here."""
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

    def tenant_of(self, headers: Headers, path: str) -> Tenant | None:
        """Whose a request for a path is; None: nobody's, and it needs no key.

        Raises Refusal where it needs one, and for headers that are too large or contradict each
        other.
        """
        if (
            sum(len(name) + len(v) for name, values in headers.items() for v in values)
            > MAX_HEADERS
        ):
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
        tenant = self._keys.tenant_of(_key_of(headers))
        if tenant is None and path not in self._open and not path.startswith(self._open_below):
            raise Refusal(
                "this server needs an API key, as `Authorization: Bearer KEY` or `x-api-key: KEY`, "
                "and the request has none that it knows",
                401,
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return tenant


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
