"""OpenAI's routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from kept.serve.http import (
    begin,
    check_model,
    json_response,
    place_headers,
    service_of,
    tenant_of,
)
from kept.serve.openai.chat import ChatRequest
from kept.serve.openai.chat_answer import ChatTelling, chat_body
from kept.serve.openai.completion_answer import CompletionTelling, completion_body, echo_body
from kept.serve.openai.completions import CompletionRequest, check_width
from kept.serve.openai.echo import Echo, echo_of
from kept.serve.openai.embeddings import EmbeddingRequest, embeddings_body
from kept.serve.openai.fields import Sampling
from kept.serve.openai.heard import hear
from kept.serve.openai.models import models_body, one_model
from kept.serve.service import Service
from kept.serve.sse import EventStream, unless_gone

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    _check(service, body)
    answer = await begin(request, service, body.to_asked(tenant_of(request)), body.model)
    if body.stream:
        telling = ChatTelling(service, answer, *_wants(body), body.timings_per_token)
        return EventStream(telling.pieces, headers=place_headers(answer))
    found = await unless_gone(request, hear(answer))
    return json_response(chat_body(service, answer, found), place_headers(answer))


@router.post("/v1/completions", response_model=None)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several prompts."""
    service = service_of(request)
    _check(service, body)
    if body.max_tokens == 0:
        return json_response(await unless_gone(request, _prompts_alone(service, body)))
    answer = await begin(request, service, body.to_asked(tenant_of(request)), body.model)
    echoes: list[Echo] = []
    if body.echo:
        echoes = await unless_gone(request, _echoes(service, answer.prompts, body))
    if body.stream:
        telling = CompletionTelling(service, answer, *_wants(body), echoes)
        return EventStream(telling.pieces, headers=place_headers(answer))
    found = await unless_gone(request, hear(answer))
    return json_response(completion_body(service, answer, found, echoes), place_headers(answer))


@router.post("/v1/embeddings", response_model=None)
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """Vectors of texts."""
    service = service_of(request)
    check_model(service, body.model)
    return json_response(await unless_gone(request, embeddings_body(service, body)))


@router.get("/v1/models", response_model=None)
async def models(request: Request) -> Response:
    """The model, by every name it goes by."""
    return json_response(models_body(service_of(request)))


@router.get("/v1/models/{name:path}", response_model=None)
async def model(name: str, request: Request) -> Response:
    """One of them; behind a slash and nothing, all."""
    service = service_of(request)
    if not name:
        return json_response(models_body(service))
    check_model(service, name)
    return json_response(one_model(service, name))


async def _prompts_alone(service: Service, body: CompletionRequest) -> dict[str, Any]:
    prompts = await service.tokens_of(body.texts)
    echoes = await _echoes(service, prompts, body)
    model = service.adapter_of(body.model) or service.models[0]
    return echo_body(service, echoes, list(map(len, prompts)), model)


async def _echoes(
    service: Service, prompts: Sequence[Sequence[int]], body: CompletionRequest
) -> list[Echo]:
    adapter = service.adapter_of(body.model)
    return [await echo_of(service, tokens, body.logprobs, adapter) for tokens in prompts]


def _check(service: Service, body: Sampling) -> None:
    check_model(service, body.model)
    check_width(body, service.max_n)


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
