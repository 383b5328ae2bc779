"""Whether the server is there, whether it takes requests, and what it has done."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from kept.serve.http import json_response, service_of
from kept.serve.metrics import CONTENT_TYPE
from kept.serve.service import ENGINE_FAILED

router = APIRouter(tags=["health"])


@router.head("/health", response_model=None, include_in_schema=False)
@router.get("/health", response_model=None)
async def health(request: Request) -> Response:
    """200 for as long as the process can do its work; 503 where only starting it again helps."""
    if service_of(request).runners.failure is not None:
        return _failed()
    return json_response({"status": "ok"})


@router.head("/ready", response_model=None, include_in_schema=False)
@router.get("/ready", response_model=None)
async def ready(request: Request) -> Response:
    """200 while requests are taken; 503 from the moment the server is told to end, and where its
    engine has ended by a failure."""
    if service_of(request).runners.failure is not None:
        return _failed()
    if service_of(request).is_draining:
        return json_response({"status": "draining"}, {"Retry-After": "5"}, 503)
    return json_response({"status": "ready"})


@router.get("/metrics", response_model=None)
async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    text = await asyncio.to_thread(service_of(request).metrics.text)
    return Response(text, media_type=CONTENT_TYPE)


@router.head("/", response_model=None)
async def head() -> Response:
    """Somebody is there."""
    return Response()


def _failed() -> Response:
    return json_response({"status": "failed", "reason": ENGINE_FAILED}, status=503)
