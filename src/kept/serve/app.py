"""The application: routes of every protocol behind one guard."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from kept import __version__
from kept.errors import KeptError
from kept.serve import cache, health, live, page_files
from kept.serve.access import AccessLog
from kept.serve.anthropic.errors import error_body as anthropic_error
from kept.serve.anthropic.router import router as anthropic_router
from kept.serve.callers import Callers
from kept.serve.door import Door
from kept.serve.gate import Gate
from kept.serve.guard import Guard
from kept.serve.http import refusal_response, service_of
from kept.serve.invalid import refusal_of_validation
from kept.serve.lasting import Lasting
from kept.serve.ollama.errors import error_body as ollama_error
from kept.serve.ollama.router import router as ollama_router
from kept.serve.openai.errors import error_body as openai_error
from kept.serve.openai.router import router as openai_router
from kept.serve.refusal import Refusal
from kept.serve.responses.router import router as responses_router
from kept.serve.service import Service
from kept.serve.sse import GoneError
from kept.serve.straight import Straight, endpoints_of
from kept.serve.vllm.router import router as vllm_router

log = logging.getLogger("kept.serve")

CLIENT_GONE: Final = 499  # as nginx notes it; nobody reads it


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol: its routes, and how it words an error on paths that begin with one of `paths`.

    texts: those of its paths to which every POST asks for a text.
    """

    router: APIRouter
    error_body: Callable[[Refusal], Any]
    paths: tuple[str, ...]
    texts: tuple[str, ...] = ()


# The first whose path fits words the error. The last one has every other path.
PROTOCOLS: Final = (
    Protocol(health.router, openai_error, ("/health", "/ready")),
    Protocol(vllm_router, openai_error, ("/tokenize", "/detokenize")),
    Protocol(anthropic_router, anthropic_error, ("/v1/messages",), ("/v1/messages",)),
    Protocol(ollama_router, ollama_error, ("/api/",)),
    Protocol(responses_router, openai_error, ("/v1/responses",), ("/v1/responses",)),
    Protocol(page_files.router, openai_error, ("/page/",)),
    Protocol(cache.router, openai_error, ("/kept/cache",)),
    Protocol(live.router, openai_error, ("/kept/live",)),
    Protocol(openai_router, openai_error, ("/",), ("/v1/chat/completions", "/v1/completions")),
)


def make_app(service: Service, *, is_local: bool = True) -> ASGIApp:
    """The ASGI application of a service, which it closes at its end. is_local: only this machine
    can reach it, so that it goes by names of loopback alone."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.aclose()

    app = FastAPI(
        title="kept",
        version=__version__,
        description=__doc__,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    for protocol in PROTOCOLS:
        app.include_router(protocol.router)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_routing)
    app.add_exception_handler(GoneError, _gone)
    for kind in (KeptError, MemoryError, Exception):
        app.add_exception_handler(kind, _failed)
    texts: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        texts |= endpoints_of(protocol.router, protocol.texts)
    straight = Straight(app, texts, failed=_failed, handled=(KeptError, MemoryError, GoneError))
    door = Door(straight, texts, check_room=service.check_room, refuse=refused)
    callers = _callers(service, is_local)
    guarded = Guard(door, service.settings, callers, refuse=refused)
    return AccessLog(Lasting(guarded), is_on=service.settings.access_log)


def make_gate(service: Service, *, is_local: bool = True) -> Gate:
    """What stands in front of that application, at each connection."""
    return Gate(
        service.settings,
        [path for protocol in PROTOCOLS for path in protocol.texts],
        _callers(service, is_local),
        has_room=lambda: service.has_room,
        check_room=service.check_room,
        refused=_refused_on,
    )


def _callers(service: Service, is_local: bool) -> Callers:
    return Callers(
        service.settings, service.keys, is_local=is_local, open_paths=page_files.OPEN_PATHS
    )


def refused(scope: Scope, refusal: Refusal) -> Response:
    """The answer that a refusal is, in the words of the path's protocol."""
    return _refused_on(scope["path"], refusal)


def _refused_on(path: str, refusal: Refusal) -> Response:
    protocol = next(p for p in PROTOCOLS if path.startswith(p.paths) or p is PROTOCOLS[-1])
    return refusal_response(protocol.error_body(refusal), refusal)


# Handlers are coroutines: Starlette has a thread call what is none.
async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return refused(request.scope, refusal_of_validation(error.errors()))


async def _of_routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    messages = {
        404: f"there is no {request.scope['path'][:100]} here",
        405: "another method is needed",
    }
    codes = {404: "not_found", 405: "method_not_allowed"}
    message = messages.get(error.status_code, str(error.detail))
    code = codes.get(error.status_code, "invalid_request")
    return refused(request.scope, Refusal(message, error.status_code, code, headers=headers))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, GoneError):
        return await _gone(request, error)
    refusal = service_of(request).refusal_of(error)
    is_failure = refusal.status >= 500 and refusal.code not in ("draining", "interrupted")
    if is_failure and isinstance(error, KeptError):  # others the server logs itself
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return refused(request.scope, refusal)
