"""OpenAI's routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from kept.engine import Completion
from kept.serve.asked import Asked
from kept.serve.http import (
    check_model,
    json_response,
    log_usage,
    place_headers,
    service_of,
    tenant_of,
)
from kept.serve.openai.chat import ChatRequest
from kept.serve.openai.chat_answer import ChatTelling, chat_body
from kept.serve.openai.completion_answer import CompletionTelling, completion_body
from kept.serve.openai.completions import CompletionRequest, check_width
from kept.serve.openai.fields import Sampling
from kept.serve.openai.heard import Telling, hear
from kept.serve.openai.models import models_body, one_model
from kept.serve.service import Answer, Service
from kept.serve.sse import EventStream, unless_gone

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    asked = body.to_asked(tenant_of(request))

    def telling(answer: Answer) -> Telling:
        return ChatTelling(service, answer, *_wants(body), body.timings_per_token)

    return await _answer(service, request, body, asked, chat_body, telling)


@router.post("/v1/completions", response_model=None)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several prompts."""
    service = service_of(request)
    asked = body.to_asked(tenant_of(request))

    def telling(answer: Answer) -> Telling:
        return CompletionTelling(service, answer, *_wants(body))

    return await _answer(service, request, body, asked, completion_body, telling)


@router.get("/v1/models", response_model=None)
async def models(request: Request) -> Response:
    """The model, by every name it goes by."""
    return json_response(models_body(service_of(request)))


@router.get("/v1/models/{name:path}", response_model=None)
async def model(name: str, request: Request) -> Response:
    """One of them."""
    service = service_of(request)
    check_model(service, name)
    return json_response(one_model(service, name))


async def _answer(
    service: Service,
    request: Request,
    body: Sampling,
    asked: Asked,
    whole: Callable[[Service, Sequence[Completion]], dict[str, Any]],
    telling: Callable[[Answer], Telling],
) -> Response:
    check_model(service, body.model)
    check_width(body, service.max_n)
    answer = await unless_gone(request, service.begin(asked))
    headers = place_headers(answer)
    if body.stream:
        return EventStream(telling(answer).pieces(), headers=headers)
    found = await unless_gone(request, hear(answer))
    log_usage(request, found)
    return json_response(whole(service, found), headers)


def _wants(body: Sampling) -> tuple[bool, bool]:
    options = body.stream_options
    return (
        (False, False)
        if options is None
        else (
            options.include_usage or options.continuous_usage_stats,
            options.continuous_usage_stats,
        )
    )
