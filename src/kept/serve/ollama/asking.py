"""`/api/chat` and `/api/generate`: their requests, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kept.serve.asked import Asked, Chat, Prompt
from kept.serve.ollama.options import FIELDS, Shared
from kept.serve.openai.fields import ShortText
from kept.serve.refusal import not_done
from kept.serve.tenants import Tenant

MAX_MESSAGES: Final = 65_536
MAX_TOOLS: Final = 1024


class Message(BaseModel):
    """One message."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: ShortText | None = None

    def to_template(self, where: str) -> dict[str, Any]:
        """As a template takes it. Raises Refusal for images."""
        if self.images:
            raise not_done(f"{where}.images", "are given, and this model reads text alone")
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            found["reasoning_content"] = self.thinking
        if self.tool_calls:
            found["tool_calls"] = [{"type": "function", **call} for call in self.tool_calls]
        if self.tool_name is not None:
            found["name"] = self.tool_name
        return found


class ChatRequest(Shared):
    """The body of `/api/chat`."""

    messages: Annotated[list[Message], Field(max_length=MAX_MESSAGES)] = Field(default_factory=list)
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None

    @property
    def is_load(self) -> bool:
        """Whether nothing is asked; Ollama loads its model then."""
        return not self.messages

    def to_asked(self, tenant: Tenant) -> Asked:
        """The request in no protocol's words. Raises Refusal, or OptionError."""
        messages = [m.to_template(f"messages.{i}") for i, m in enumerate(self.messages)]
        last = messages[-1]
        return _asked(
            self,
            tenant,
            Chat(
                messages=tuple(messages),
                tools=tuple(self.tools or ()),
                template_options=self.template_options,
                goes_on=last["role"] == "assistant" and "tool_calls" not in last,
            ),
        )


class GenerateRequest(Shared):
    """The body of `/api/generate`."""

    prompt: str = ""
    system: str | None = None
    raw: bool = False
    suffix: str | None = None
    images: list[str] | None = None
    template: str | None = None
    context: list[int] | None = None

    @model_validator(mode="after")
    def _is_done(self) -> Self:
        if self.suffix:
            raise not_done("suffix", "asks for text in the middle, and this model goes on at ends")
        if self.images:
            raise not_done("images", "are given, and this model reads text alone")
        if self.template:
            raise not_done("template", "is given, and templates come with the model alone")
        if self.context:
            raise not_done("context", "is given; /api/chat goes on with a conversation")
        if self.raw and (self.system or self.think is not None):
            raise not_done("raw", "is true, so that neither system nor think can be put in")
        return self

    @property
    def is_load(self) -> bool:
        """Whether nothing is asked; Ollama loads its model then."""
        return not self.prompt and not self.system

    def to_asked(self, tenant: Tenant) -> Asked:
        """The request in no protocol's words. Raises Refusal, or OptionError."""
        if self.raw:
            return _asked(self, tenant, self.prompt)
        messages: list[Mapping[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        messages.append({"role": "user", "content": self.prompt})
        chat = Chat(messages=tuple(messages), template_options=self.template_options)
        return _asked(self, tenant, chat)


def _asked(body: Shared, tenant: Tenant, prompt: Prompt) -> Asked:
    return Asked(
        prompts=(prompt,),
        params=body.params,
        grammar_field="format",
        tenant=tenant,
        interactive=body.stream,
        fields=FIELDS,
    )
