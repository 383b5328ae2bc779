"""The response object: what was asked, what came of it, and what it took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from kept.engine import Completion
from kept.entropy import random_name
from kept.serve.asked import Asked, Chat
from kept.serve.footprint import (
    NUM_BYTES,
    SEAM,
    first_change,
    footprint,
    missed_tokens,
)
from kept.serve.openai.usage import kept_usage
from kept.serve.refusal import Refusal
from kept.serve.responses.request import ResponsesRequest
from kept.serve.service import Service
from kept.serve.tenants import Tenant

_REASONS: Final[Mapping[str, str]] = {"messages": "input_changed"}


class Resource:
    """A response from its request to its end."""

    def __init__(
        self, service: Service, tenant: Tenant, body: ResponsesRequest, asked: Asked
    ) -> None:
        [chat] = asked.prompts
        assert isinstance(chat, Chat)
        self.id = f"resp_{random_name(16)}"
        self._service, self._tenant, self._body, self._chat = service, tenant, body, chat
        self._created = int(time.time())
        self._drawing = _drawing(service, body)
        self._parts = body.parts()
        self._before, self._change = None, None
        if body.caching.comparison_response_id is not None:
            self._before = service.footprints.get(tenant, body.caching.comparison_response_id)
        if self._before is not None:
            self._change = first_change(self._before, self._parts, chat.messages)

    def remember(self, prompt_tokens: int) -> None:
        """Keep what this request was made of, so that others can be compared with it."""
        kept = footprint(self._parts, self._chat.messages, prompt_tokens)
        self._service.footprints.put(self._tenant, self.id, kept, NUM_BYTES)

    def body(
        self,
        output: list[dict[str, Any]],
        found: Completion | None = None,
        failure: Refusal | None = None,
        reasoning_tokens: int = 0,
    ) -> dict[str, Any]:
        """The object with so much output. found: of a text that has ended; failure: why it could
        not go on. reasoning_tokens: how many of its tokens are reasoning."""
        is_over = found is not None or failure is not None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if is_over and failure is None else None,
            "status": self.status(found, failure),
            "error": None if failure is None else _error(failure),
            "incomplete_details": {"reason": "max_output_tokens"}
            if self.status(found, failure) == "incomplete"
            else None,
            "model": self._body.model or self._service.models[0],
            "output": list(output),
            "usage": None if found is None else self._usage(found, reasoning_tokens),
            "prompt_cache_diagnostics": None if found is None else self._diagnosis(found),
            "system_fingerprint": self._service.fingerprint,
            **self._asked(),
        }

    def status(self, found: Completion | None, failure: Refusal | None = None) -> str:
        """How far it is."""
        if failure is not None:
            return "failed"
        if found is None:
            return "in_progress"
        is_cut = found.finish_reason == "length" and not self._body.caching.prewarm
        return "incomplete" if is_cut else "completed"

    def _asked(self) -> dict[str, Any]:
        """The request's fields, those that were not given as they are then."""
        body = self._body
        text: dict[str, Any] = {"format": {"type": "text"}}
        if body.text is not None:
            text |= body.text.model_dump(exclude_none=True, by_alias=True)
        reasoning = {"effort": None, "summary": None}
        if body.reasoning is not None:
            reasoning |= body.reasoning.model_dump(exclude_none=True)
        caching: dict[str, Any] = {"mode": "implicit", "ttl": "30m"}
        caching |= body.caching.model_dump(exclude_none=True, exclude={"prewarm"})
        return {
            "instructions": body.instructions,
            "previous_response_id": body.previous_response_id,
            "tools": [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": bool(tool.strict),
                }
                for tool in body.known_tools
            ],
            "tool_choice": body.tool_choice or "auto",
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "text": text,
            "reasoning": reasoning,
            **self._drawing,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "top_logprobs": body.top_logprobs or 0,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "truncation": body.truncation or "disabled",
            "store": body.store,
            "background": False,
            "service_tier": "default",
            "metadata": body.metadata or {},
            "user": body.user,
            "safety_identifier": body.safety_identifier,
            "prompt_cache_key": body.prompt_cache_key,
            "prompt_cache_options": caching,
        }

    def _usage(self, found: Completion, reasoning_tokens: int) -> dict[str, Any]:
        written = 0 if self._body.caching.prewarm else len(found.token_ids)
        return {
            "input_tokens": found.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": found.cached_tokens,
                "cache_write_tokens": found.prompt_tokens - found.cached_tokens,
            },
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": min(reasoning_tokens, written)},
            "total_tokens": found.prompt_tokens + written,
            "kept": kept_usage([found]),
        }

    def _diagnosis(self, found: Completion) -> dict[str, Any] | None:
        """How the prompt's cached part compares with that of the response that was named."""
        if self._body.caching.comparison_response_id is None:
            return None
        if self._before is None:
            return {"type": "comparison_response_not_found"}
        missed = missed_tokens(self._before, found.prompt_tokens, found.cached_tokens)
        if not missed or (self._change is None and missed <= SEAM):
            return {"type": "cache_hit"}
        if self._change is None:
            return {"type": "unavailable"}
        return {
            "type": "cache_miss",
            "reason": _REASONS.get(self._change, f"{self._change}_changed"),
            "cache_missed_tokens": missed,
            "comparison_reusable_tokens": self._before.prompt_tokens,
        }


def _drawing(service: Service, body: ResponsesRequest) -> dict[str, float]:
    """By which temperature and nucleus tokens are drawn, the checkpoint's where none is given."""
    config = service.llm.checkpoint.generation_config
    draws = body.temperature is not None or body.top_p is not None or config.get("do_sample")
    temperature = config.get("temperature", 1.0) if draws else 0.0
    return {
        "temperature": float(temperature if body.temperature is None else body.temperature),
        "top_p": float(config.get("top_p") or 1.0 if body.top_p is None else body.top_p),
    }


def _error(failure: Refusal) -> dict[str, Any]:
    code = "invalid_prompt" if failure.status < 500 else "server_error"
    if failure.status == 429:
        code = "rate_limit_exceeded"
    return {"code": code, "message": failure.message}
