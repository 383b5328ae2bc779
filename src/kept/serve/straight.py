"""Requests for texts, put to their endpoints without the router's way there."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, get_type_hints

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from kept.serve.guard import after

_JSON: Final = b"application/json"

Endpoint = Callable[[Any, Request], Awaitable[Response]]
Failed = Callable[[Request, Exception], Awaitable[Response]]


class Straight:
    """Calls endpoints as the application would, which is asked for everything else.

    Matching its routes one after the other, and what it has around each, takes a third of what a
    request for a text costs. Whatever is not as it should be in a request is left to the
    application, so that it is told in its words.

    endpoints: by path, each with the model of its body. failed: the answer where one raises;
    handled: what it may raise that is nothing to be logged. Stands behind the guard, which has read
    the body.
    """

    def __init__(
        self,
        app: FastAPI,
        endpoints: Mapping[str, tuple[Endpoint, type[BaseModel]]],
        *,
        failed: Failed,
        handled: tuple[type[Exception], ...],
    ) -> None:
        self._app, self._endpoints = app, endpoints
        self._failed, self._handled = failed, handled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        found = None
        if scope["type"] == "http" and scope["method"] == "POST":
            found = self._endpoints.get(scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, model = found
        message = await receive()
        body = _read(scope, message, model)
        if body is None:
            await self._app(scope, after(message, receive), send)
            return
        scope["app"] = self._app
        request = Request(scope, receive, send)
        try:
            response = await endpoint(body, request)
        except Exception as error:
            await (await self._failed(request, error))(scope, receive, send)
            if isinstance(error, self._handled):
                return
            raise
        await response(scope, receive, send)


def endpoints_of(
    router: APIRouter, paths: Iterable[str]
) -> dict[str, tuple[Endpoint, type[BaseModel]]]:
    """Of a router's endpoints those at these paths, each of which takes a body and the request."""
    found = {}
    for route in router.routes:
        if isinstance(route, APIRoute) and route.path in paths:
            kinds = get_type_hints(route.endpoint)
            assert list(kinds) == ["body", "request", "return"], route.path
            found[route.path] = route.endpoint, kinds["body"]
    return found


def _read(scope: Scope, message: Message, model: type[BaseModel]) -> BaseModel | None:
    """The body, None: it is not as it should be."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    if len(kinds) != 1 or kinds[0].partition(b";")[0].strip().lower() != _JSON:
        return None
    try:
        given = json.loads(message["body"])
        return model.model_validate(given) if isinstance(given, dict) else None
    except Exception:  # a validator's own, too: the application finds it again, and tells it
        return None
