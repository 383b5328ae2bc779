"""Why a prefix was not found, as `diagnostics` tells it."""

from __future__ import annotations

from typing import Any, Final

from kept.engine import Completion
from kept.serve.anthropic.messages import MessagesRequest
from kept.serve.asked import Asked, Chat
from kept.serve.footprint import (
    NUM_BYTES,
    SEAM,
    Footprint,
    first_change,
    footprint,
    missed_tokens,
)
from kept.serve.service import Service
from kept.serve.tenants import Tenant

_TOLD: Final = frozenset({"model", "tools", "system", "messages"})


class Diagnosis:
    """Compares a request with the one before it, which its client names.

    Nothing of that one is kept but digests, and those of other tenants are not found.
    """

    def __init__(
        self, service: Service, tenant: Tenant, body: MessagesRequest, asked: Asked
    ) -> None:
        [chat] = asked.prompts
        assert isinstance(chat, Chat)
        parts, messages = body.parts(), chat.messages
        self._service, self._tenant = service, tenant
        self._parts = parts
        self._messages = messages[1:] if parts["system"] else messages
        self._before: Footprint | None = None
        self._named = None if body.diagnostics is None else body.diagnostics.previous_message_id
        self._change: str | None = None
        if self._named is not None:
            self._before = service.footprints.get(tenant, self._named)
        if self._before is not None:
            self._change = first_change(self._before, parts, self._messages)

    def of(self, found: Completion) -> dict[str, Any] | None:
        """The object of an answer; None: no question was asked, or nothing was missed."""
        if self._named is None:
            return None
        if self._before is None:
            return {"cache_miss_reason": {"type": "previous_message_not_found"}}
        missed = missed_tokens(self._before, found.prompt_tokens, found.cached_tokens)
        if self._change in _TOLD:
            reason = {"type": f"{self._change}_changed", "cache_missed_input_tokens": missed}
            return {"cache_miss_reason": reason}
        if self._change is None and missed <= SEAM:
            return None
        return {"cache_miss_reason": {"type": "unavailable"}}

    def remember(self, name: str, prompt_tokens: int) -> None:
        """Keep what this request was made of, so that the next can be compared with it."""
        kept = footprint(self._parts, self._messages, prompt_tokens)
        self._service.footprints.put(self._tenant, name, kept, NUM_BYTES)
