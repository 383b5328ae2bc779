"""Bodies that are JSON though their client does not say so, as those of plain `curl -d`."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

from kept.serve.origins import Headers

# What `curl -d` calls every body, as do the examples in Ollama's documentation.
_UNSAID: Final = (b"application/x-www-form-urlencoded", b"")
# Any of these comes of a browser with all that a page of another origin has it send unasked.
_OF_BROWSERS: Final = (b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode", b"cookie")


def taken_for_json(headers: Headers, scope: Scope) -> Scope:
    """A request as its route is to see it: JSON where nothing else is said and no browser asks.

    A page may have its reader's browser send a form anywhere, but not JSON, for which the browser
    asks first (`preflight`). So what may come of one has to say that it is JSON.
    """
    given = headers.get(b"content-type", [b""])
    kind = given[0].partition(b";")[0].strip().lower()
    if scope["method"] != "POST" or len(given) > 1 or kind not in _UNSAID:
        return scope
    if any(name in headers for name in _OF_BROWSERS):
        return scope
    rest = [pair for pair in scope["headers"] if pair[0].lower() != b"content-type"]
    return {**scope, "headers": [*rest, (b"content-type", b"application/json")]}
