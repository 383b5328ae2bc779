"""The routes of responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from kept.serve.http import begin, check_model, json_response, place_headers, service_of, tenant_of
from kept.serve.openai.fields import ShortText
from kept.serve.responses.items import Item
from kept.serve.responses.request import Context, CountRequest, ResponsesRequest
from kept.serve.responses.resource import Resource
from kept.serve.responses.stored import Stored, find, keep, resolved
from kept.serve.responses.telling import Telling, told_again
from kept.serve.service import Service
from kept.serve.sse import AtOnce, EventStream, sse, unless_gone
from kept.serve.tenants import Tenant

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/responses", response_model=None)
async def create(body: ResponsesRequest, request: Request) -> Response:
    """Answer a conversation of items."""
    service, tenant = service_of(request), tenant_of(request)
    check_model(service, body.model)
    before, new = _items(service, tenant, body)
    asked = body.to_asked(tenant, body.to_chat(before, new))
    resource = Resource(service, tenant, body, asked)
    answer = await begin(request, service, asked, body.model)
    resource.remember(answer.prompt_tokens)

    def store(found: dict[str, Any]) -> None:
        items = [item.model_dump(exclude_none=True) for item in (*before, *new)]
        keep(service, tenant, Stored(found, (*items, *found["output"]), len(before)))

    assert service.llm.tokenizer is not None
    on_end = store if body.store else None
    telling = Telling(resource, answer, service.llm.tokenizer, body.caching.prewarm, on_end)
    headers = place_headers(answer)
    if body.stream:
        return EventStream(telling.pieces, comment=telling.idle, headers=headers)
    found = await unless_gone(request, telling.hear())
    return json_response(found, headers)


@router.post("/v1/responses/input_tokens", response_model=None)
async def input_tokens(body: CountRequest, request: Request) -> Response:
    """Count the tokens of an input, those of its template included."""
    service = service_of(request)
    check_model(service, body.model)
    chat = body.to_chat(*_items(service, tenant_of(request), body))
    [tokens] = await unless_gone(request, service.tokens_of([chat]))
    return json_response({"object": "response.input_tokens", "input_tokens": len(tokens)})


@router.get("/v1/responses/{name}", response_model=None)
async def retrieve(
    name: str,
    request: Request,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """A stored response, again as it was."""
    body = find(service_of(request), tenant_of(request), name).body
    if not stream:
        return json_response(body)

    async def pieces(_: AtOnce) -> AsyncGenerator[bytes, None]:
        for told in told_again(body):
            if starting_after is None or told["sequence_number"] > starting_after:
                yield sse(told, told["type"])

    return EventStream(pieces)


@router.delete("/v1/responses/{name}", response_model=None)
async def delete(name: str, request: Request) -> Response:
    """Forget a stored response."""
    service, tenant = service_of(request), tenant_of(request)
    find(service, tenant, name)
    service.responses.pop(tenant, name)
    return json_response({"id": name, "object": "response", "deleted": True})


@router.get("/v1/responses/{name}/input_items", response_model=None)
async def input_items(
    name: str,
    request: Request,
    limit: Annotated[int, Query(ge=0, le=100)] = 20,
    order: ShortText = "desc",
    after: ShortText | None = None,
) -> Response:
    """What the request of a stored response brought, page by page."""
    stored = find(service_of(request), tenant_of(request), name)
    items = [_shown(name, i, item) for i, item in enumerate(stored.input_items)]
    if order != "asc":
        items.reverse()
    start = next((i + 1 for i, item in enumerate(items) if item["id"] == after), 0)
    page = items[start : start + limit]
    return json_response(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
            "has_more": start + limit < len(items),
        }
    )


def _items(service: Service, tenant: Tenant, body: Context) -> tuple[list[Item], list[Item]]:
    """What comes before a request's input, and the input."""
    before: list[Item] = []
    if body.previous_response_id is not None:
        stored = find(service, tenant, body.previous_response_id, "previous_response_id")
        before = [Item.model_validate(item) for item in stored.items]
    return before, resolved(service, tenant, body.items)


def _shown(name: str, index: int, item: dict[str, Any]) -> dict[str, Any]:
    """An item with what readers want of it."""
    found = {"id": f"item_{name.removeprefix('resp_')}_{index}", "status": "completed", **item}
    if found["type"] == "message" and isinstance(found.get("content"), str):
        kind = "output_text" if found["role"] == "assistant" else "input_text"
        found["content"] = [{"type": kind, "text": found["content"]}]
    return found
