"""What too many requests are told before anything is made of them but their headers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from kept.serve.access import REQUEST_ID, new_id, note
from kept.serve.callers import Callers
from kept.serve.refusal import Refusal
from kept.serve.settings import Settings
from kept.serve.tenants import Tenant

# The head of a request as nearly all clients write it, which h11 takes too; what is written
# otherwise h11 decides about.
_HEAD = re.compile(
    rb"POST (/[\w/.-]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)"
)
_END: Final = b"\r\n\r\n"
# Headers of which more hangs than who asks.
_MEANING_MORE: Final = frozenset(
    (b"transfer-encoding", b"expect", b"upgrade", b"origin", REQUEST_ID)
)


@dataclass(frozen=True, slots=True)
class Turned:
    """An answer to a request that is turned away: its status, headers and body. closes: the client
    asked that the connection be closed."""

    response: Response
    closes: bool

    def encoded(self, defaults: list[tuple[bytes, bytes]]) -> bytes:
        """As it is written. defaults: headers of every answer."""
        status = self.response.status_code
        headers = [*defaults, *self.response.raw_headers]
        if self.closes:
            headers.append((b"connection", b"close"))
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        begin = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
        return b"%b%b\r\n%b" % (begin, lines, bytes(self.response.body))


class Gate:
    """Turns requests for texts away where there is no room for any.

    What a request goes through on its way to the `Door`, where it would be told the same, takes
    several times as long, of processors on which those who are being answered are computed. A
    request that is not all there at once, or not as most are, goes that way still.

    texts: the paths to which every POST asks for a text, but those that `echo` a prompt alone.
    callers: who may ask. has_room: whether there is any. check_room: raises the Refusal where there
    is not. refused: the answer for it, on a path.
    """

    def __init__(
        self,
        settings: Settings,
        texts: Iterable[str],
        callers: Callers,
        *,
        has_room: Callable[[], bool],
        check_room: Callable[[], None],
        refused: Callable[[str, Refusal], Response],
    ) -> None:
        self._max_body, self._is_logging = settings.max_body, settings.access_log
        self._texts = {path.encode(): path for path in texts}
        self._callers, self._refused = callers, refused
        self._has_room, self._check_room = has_room, check_room

    @property
    def is_open(self) -> bool:
        """Whether there is room, so that nobody is turned away."""
        return self._has_room()

    def turn_away(self, data: bytes) -> Turned | None:
        """The answer to a request that is refused; None: it has to be looked at. data: all that a
        connection has brought behind the request before."""
        began, end = time.perf_counter(), data.find(_END)
        found = None if end < 0 else _HEAD.fullmatch(data, 0, end + 2)
        path = None if found is None else self._texts.get(found[1])
        if found is None or path is None:
            return None
        headers = _headers(found[2])
        num_bytes = len(data) - end - len(_END)
        if not self._is_plain(headers, num_bytes) or data.find(b'"echo"', end) >= 0:
            return None
        try:
            self._callers.check_host(headers)
            tenant = self._callers.tenant_of(headers, path)
        except Refusal:
            return None
        try:
            self._check_room()
        except Refusal as refusal:
            return self._told(path, tenant, refusal, headers, began)
        return None

    def _is_plain(self, headers: Mapping[bytes, list[bytes]], num_bytes: int) -> bool:
        """Whether a request of these headers is one with a body of so many bytes, and is told
        nothing but that there is no room."""
        if not _MEANING_MORE.isdisjoint(headers) or num_bytes > self._max_body:
            return False
        has_length = headers.get(b"content-length") == [b"%d" % num_bytes]
        return has_length and len(headers.get(b"host", ())) == 1

    def _told(
        self,
        path: str,
        tenant: Tenant | None,
        refusal: Refusal,
        headers: Mapping[bytes, list[bytes]],
        began: float,
    ) -> Turned:
        response, name = self._refused(path, refusal), new_id()
        response.raw_headers.append((REQUEST_ID, name.encode()))
        if self._is_logging:
            note(name, "POST", path, refusal.status, time.perf_counter() - began, tenant, {})
        asked = b",".join(headers.get(b"connection", [])).lower()
        return Turned(response, b"close" in [word.strip() for word in asked.split(b",")])


def _headers(lines: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        found.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return found
