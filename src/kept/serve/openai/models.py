"""`/v1/models`: one body that OpenAI's, Anthropic's and Codex's readers take."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from kept.serve.service import Service

_BEGAN: Final = time.time()


def models_body(service: Service) -> dict[str, Any]:
    """Every name of the model, and its adapters."""
    found = [one_model(service, name) for name in service.models]
    return {
        "object": "list",
        "data": found,
        "has_more": False,  # from here on Anthropic's
        "first_id": found[0]["id"],
        "last_id": found[-1]["id"],
        "models": [{"slug": each["id"], **each} for each in found],  # Codex's
    }


def one_model(service: Service, name: str) -> dict[str, Any]:
    """The model by one of its names."""
    context = service.llm.model.config.context
    return {
        "id": name,
        "object": "model",
        "created": int(_BEGAN),
        "owned_by": "kept",
        "root": service.models[0],
        "parent": None if service.adapter_of(name) is None else service.models[0],
        "max_model_len": context,
        "type": "model",  # from here on Anthropic's
        "display_name": name,
        "created_at": datetime.fromtimestamp(int(_BEGAN), UTC).isoformat().replace("+00:00", "Z"),
        "max_input_tokens": context,
        "max_tokens": context,
        "lifecycle": "active",
    }
