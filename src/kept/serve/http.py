"""What routes of all protocols need of a request, and their plain answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from kept.serve.asked import Asked
from kept.serve.lasting import ends_of
from kept.serve.refusal import Refusal
from kept.serve.sse import to_json, unless_gone
from kept.serve.tenants import Tenant

if TYPE_CHECKING:
    from kept.serve.answer import Answer
    from kept.serve.service import Service


def service_of(request: Request) -> Service:
    """The service behind the routes."""
    found: Service = request.app.state.service
    return found


def tenant_of(request: Request) -> Tenant:
    """Whose request it is, which the guard has found out."""
    found: Tenant = request.state.tenant
    return found


def check_model(service: Service, name: str) -> None:
    """Raise Refusal for the name of a model that is not served; none is the one there is."""
    if name and name not in service.models:
        raise Refusal(
            f"there is no model {name[:100]!r} here; this server has "
            f"{', '.join(service.models)} (--served-model-name)",
            404,
            "model_not_found",
            "model",
        )


def json_response(
    body: object, headers: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    """An answer of JSON."""
    return Response(to_json(body), status, dict(headers or {}), "application/json")


def refusal_response(body: object, refusal: Refusal) -> Response:
    """An error; ASCII, as it may quote a client's half surrogates."""
    return Response(json.dumps(body), refusal.status, dict(refusal.headers), "application/json")


def place_headers(answer: Answer) -> dict[str, str]:
    """What a client that waits may want to know: its place, and for about how long."""
    return {
        "X-Kept-Queue-Place": str(answer.place),
        "X-Kept-Queue-Seconds": f"{answer.wait:.3f}",
    }


async def begin(request: Request, service: Service, asked: Asked, model: str) -> Answer:
    """The answer to a request for a model, whose end is told in its line of the access log.

    It is closed when the request ends, whether its events were heard or not. Raises GoneError where
    the client leaves first, and as `Service.begin`.
    """
    asked = replace(asked, adapter=service.adapter_of(model))
    ends = ends_of(request.scope)

    async def take_in() -> Answer:
        answer = await service.begin(asked)
        # Here, as whoever waits for this may be cancelled just when it is done.
        ends.callback(answer.close)
        return answer

    answer = service.begin_at_once(asked)
    if answer is None:
        answer = await unless_gone(request, take_in())
    else:
        ends.callback(answer.close)
    answer.log = request.scope["state"]["log"]
    if service.settings.log_prompts and service.llm.tokenizer is not None:
        tokenizer = service.llm.tokenizer
        answer.log["prompts"] = [tokenizer.decode(tokens, False) for tokens in answer.prompts]
    return answer
