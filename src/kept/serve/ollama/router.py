"""Ollama's routes."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from kept import __version__
from kept.answers import form_of
from kept.serve.http import begin, check_model, json_response, place_headers, service_of, tenant_of
from kept.serve.ollama.answer import Telling, Worded, as_message, as_response
from kept.serve.ollama.asking import ChatRequest, GenerateRequest
from kept.serve.openai.fields import ShortText, Wire
from kept.serve.openai.heard import hear
from kept.serve.openai.models import one_model
from kept.serve.service import Service
from kept.serve.sse import EventStream, unless_gone

router = APIRouter(prefix="/api", tags=["Ollama"])

LINES = "application/x-ndjson"


class ShowRequest(Wire):
    """The body of `/api/show`."""

    model: ShortText = ""
    name: ShortText = ""  # its older name
    verbose: bool = False


@router.post("/chat", response_model=None)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    return await _answer(body, request, as_message)


@router.post("/generate", response_model=None)
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Answer one prompt, or go on with it where it is raw."""
    return await _answer(body, request, as_response)


@router.get("/version", response_model=None)
async def version() -> Response:
    """Of kept."""
    return json_response({"version": __version__})


@router.get("/tags", response_model=None)
async def tags(request: Request) -> Response:
    """The model, by every name it goes by."""
    service = service_of(request)
    return json_response({"models": [_model(service, name) for name in service.models]})


@router.get("/ps", response_model=None)
async def ps(request: Request) -> Response:
    """What is in memory, which is the same."""
    service = service_of(request)
    found = [
        {
            **_model(service, name),
            "expires_at": "9999-12-31T23:59:59Z",  # never
            "size_vram": 0,
            "context_length": service.llm.model.config.context,
        }
        for name in service.models
    ]
    return json_response({"models": found})


@router.post("/show", response_model=None)
async def show(body: ShowRequest, request: Request) -> Response:
    """What is to be known of the model."""
    service = service_of(request)
    name = _known(service, body.model or body.name)
    llm = service.llm
    family = str(llm.checkpoint.config.get("model_type", ""))
    found = _model(service, name)
    return json_response(
        {
            "modelfile": "",
            "parameters": "",
            "license": "",
            "template": service.templates.get("default", ""),
            "details": found["details"],
            "model_info": {
                "general.architecture": family,
                "general.parameter_count": llm.model.num_parameters,
                f"{family}.context_length": llm.model.config.context,
            },
            "capabilities": _capabilities(service),
            "modified_at": found["modified_at"],
        }
    )


async def _answer(body: ChatRequest | GenerateRequest, request: Request, word: Worded) -> Response:
    service = service_of(request)
    name = _known(service, body.model)
    assert service.llm.tokenizer is not None
    telling = Telling(name, service.llm.tokenizer, word)
    if body.is_load:
        return json_response(telling.loaded())
    answer = await begin(request, service, body.to_asked(tenant_of(request)), name)
    headers = place_headers(answer)
    if body.stream:
        # Lines have no comments; their readers wait for as long as the connection stands.
        pieces = partial(telling.pieces, answer)
        return EventStream(pieces, media_type=LINES, comment=None, headers=headers)
    [found] = await unless_gone(request, hear(answer))
    return json_response(telling.whole(answer, found), headers)


def _capabilities(service: Service) -> list[str]:
    form = form_of(service.templates.values())
    found = {"completion": True, "tools": form.takes_tools, "thinking": form.reasoning is not None}
    return [name for name, has in found.items() if has]


def _known(service: Service, name: str) -> str:
    """The model's name, to which Ollama's clients may add a tag. Raises Refusal."""
    bare = name.removesuffix(":latest")
    found = bare if bare in service.models else name
    check_model(service, found)
    return found or service.models[0]


def _model(service: Service, name: str) -> dict[str, Any]:
    model = service.llm.model
    family = str(service.llm.checkpoint.config.get("model_type", ""))
    return {
        "name": name,
        "model": name,
        "modified_at": one_model(service, name)["created_at"],
        "size": sum(tensor.num_bytes for tensor in service.llm.checkpoint.tensors.values()),
        "digest": hashlib.sha256(service.fingerprint.encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "safetensors",
            "family": family,
            "families": [family],
            "parameter_size": f"{model.num_parameters / 1e6:.1f}M",
            "quantization_level": "",
        },
    }
