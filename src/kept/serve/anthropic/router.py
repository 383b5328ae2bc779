"""Anthropic's routes; its list of models is OpenAI's, which says what both want."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from kept.serve.anthropic.answer import Envelope, Telling
from kept.serve.anthropic.diagnosis import Diagnosis
from kept.serve.anthropic.messages import CountRequest, MessagesRequest
from kept.serve.http import begin, check_model, json_response, place_headers, service_of, tenant_of
from kept.serve.openai.heard import hear
from kept.serve.sse import EventStream, unless_gone

router = APIRouter(tags=["Anthropic"])


@router.post("/v1/messages", response_model=None)
async def messages(body: MessagesRequest, request: Request) -> Response:
    """Answer a conversation."""
    service, tenant = service_of(request), tenant_of(request)
    check_model(service, body.model)
    asked = body.to_asked(tenant)
    diagnosis = Diagnosis(service, tenant, body, asked)
    envelope = Envelope(service, body, diagnosis)
    answer = await begin(request, service, asked, body.model)
    diagnosis.remember(envelope.id, answer.prompt_tokens)
    headers = {**place_headers(answer), "request-id": request.state.request_id}
    if body.stream:
        telling = Telling(answer, body, envelope)
        return EventStream(telling.pieces, comment=telling.idle, headers=headers)
    [found] = await unless_gone(request, hear(answer))
    return json_response(envelope.whole(answer, found), headers)


@router.post("/v1/messages/count_tokens", response_model=None)
async def count_tokens(body: CountRequest, request: Request) -> Response:
    """Count a conversation's tokens, those of its template included."""
    service = service_of(request)
    check_model(service, body.model)
    [tokens] = await unless_gone(request, service.tokens_of([body.to_chat()]))
    return json_response({"input_tokens": len(tokens)})
