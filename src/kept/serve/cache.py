"""`/kept/cache`: the texts that are kept for the caller, and one of them dropped."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from kept.blocks import KnownText
from kept.engine import Engine
from kept.serve.http import json_response, service_of, tenant_of
from kept.serve.live import eyes_of
from kept.serve.looking import text_entry
from kept.serve.refusal import Refusal

MOST: Final = 10_000  # entries of an answer

router = APIRouter(tags=["kept"])

Found = tuple[KnownText, Engine, str | None]


@router.get("/kept/cache", response_model=None)
async def entries(request: Request, limit: Annotated[int, Query(ge=1, le=MOST)] = 1000) -> Response:
    """The caller's texts that can be found, the last used first."""
    found, eyes = await _texts(request), eyes_of(request)
    return json_response(
        {
            "object": "list",
            "data": [text_entry(text, tenant, eyes) for text, _, tenant in found[:limit]],
            "has_more": len(found) > limit,
        }
    )


@router.delete("/kept/cache/{id}", response_model=None)
async def drop(request: Request, id: Annotated[str, Path(pattern="^[0-9a-f]{1,64}$")]) -> Response:
    """Let one of them be found no more, in memory or in files; what runs with it goes on."""
    for text, engine, _ in await _texts(request):
        if text.id == id and await asyncio.to_thread(engine.drop, text):
            return json_response({"id": id, "object": "kept.cache_entry", "deleted": True})
    raise Refusal(
        f"there is no entry {id[:32]} in your cache; GET /kept/cache lists them, and a text that "
        "has grown goes by another id",
        404,
        "not_found",
    )


async def _texts(request: Request) -> list[Found]:
    """What the caller may see, the last used first. Another's is as if it were not there."""
    tenant = tenant_of(request).name
    found: list[Found] = []
    for engine in service_of(request).engines:
        view = await asyncio.to_thread(engine.view)
        pairs = [(text, view.tenant_of(text)) for text in view.texts]
        found += [(text, engine, whose) for text, whose in pairs if whose == tenant]
    return sorted(found, key=lambda entry: -entry[0].last_use)
