"""`/v1/chat/completions`: its request, and what it comes to."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kept.blocks import LONGEST_RETAIN
from kept.serve.asked import Asked, Chat
from kept.serve.openai.fields import FIELDS, MAX_TOP_LOGPROBS, Sampling, ShortText, Tokens, Wire
from kept.serve.openai.parts import Parts, text_of
from kept.serve.openai.structured import ResponseFormat
from kept.serve.refusal import Refusal, not_done
from kept.serve.tenants import Tenant

MAX_MESSAGES: Final = 65_536
MAX_TOOLS: Final = 1024

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class Message(BaseModel):
    """One message. What it has beside these goes to the template as it is."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Role
    content: str | Parts | None = None
    name: ShortText | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: ShortText | None = None

    def to_template(self, where: str) -> dict[str, Any]:
        """As a template takes it. Raises Refusal for content that is no text."""
        found = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            found["content"] = text_of(self.content, f"{where}.content", ("text", "refusal"))
        if "content" not in found and "tool_calls" not in found and self.role != "assistant":
            raise Refusal(
                f"{where}.content is missing; give the message's text there",
                400,
                "missing_required_parameter",
                f"{where}.content",
            )
        if "content" not in found:
            found["content"] = ""
        return found


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; only functions are known."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["function"]
    function: Function


class ToolChoice(BaseModel):
    """The one function to be called."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["function"]
    function: Function


class PromptCacheOptions(Wire):
    """What the cache is asked; prompts are found without a mark of where they part."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m", "12h"] | None = None


class ChatRequest(Sampling):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    response_format: ResponseFormat | None = None
    functions: Annotated[list[Function], Field(max_length=MAX_TOOLS)] | None = None
    function_call: str | dict[str, Any] | None = None
    # How long its keys count as used after its end:
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    # Read by some templates; others pass them over, as they do what they do not know.
    reasoning_effort: ShortText | None = None
    verbosity: ShortText | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    # Of no effect on the text:
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: ShortText | None = None
    safety_identifier: ShortText | None = None
    prompt_cache_key: ShortText | None = None
    prediction: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_understood(self) -> Self:
        if self.modalities is not None and self.modalities != ["text"]:
            raise not_done("modalities", "asks for more than text, which is all there is")
        if self.functions and self.function_call != "none":
            raise not_done("functions", "is the older name of tools; pass these")
        if self.must_call:
            names = [tool.function.name for tool in self.tools or ()]
            if not names:
                raise not_done("tool_choice", "asks for a call, and there are no tools")
            if self.only_tool is not None and self.only_tool not in names:
                raise not_done("tool_choice", "names a function that is none of the tools")
            if self.grammar(self.response_format) is not None:
                raise not_done("tool_choice", "asks for a call, and another field for its form")
        if self.top_logprobs is not None and not self.logprobs:
            raise not_done("top_logprobs", "is given without logprobs: true; pass both")
        if self.add_generation_prompt is False and not self.continue_final_message:
            raise not_done("add_generation_prompt", "is false, and an answer is what is asked for")
        if self.add_generation_prompt and self.continue_final_message:
            raise not_done("continue_final_message", "excludes add_generation_prompt")
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise not_done("max_tokens", "differs from max_completion_tokens, its newer name")
        return self

    @property
    def retain(self) -> float:
        """For how many seconds the prompt is to be kept."""
        asked = None if self.prompt_cache_options is None else self.prompt_cache_options.ttl
        if asked is None and self.prompt_cache_retention != "24h":
            return 0.0
        return 1800.0 if asked == "30m" else LONGEST_RETAIN

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, ToolChoice)

    @property
    def only_tool(self) -> str | None:
        """The one that has to be called, None: any."""
        choice = self.tool_choice
        return choice.function.name if isinstance(choice, ToolChoice) else None

    def to_asked(self, tenant: Tenant) -> Asked:
        """The request in no protocol's words. Raises Refusal, or OptionError."""
        options = dict(self.chat_template_kwargs or {})
        for name in ("reasoning_effort", "verbosity", "documents"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        tools: tuple[Mapping[str, Any], ...] = ()
        if self.tools and self.tool_choice != "none":
            tools = tuple(tool.model_dump(exclude_none=True) for tool in self.tools)
        messages = tuple(
            message.to_template(f"messages.{i}") for i, message in enumerate(self.messages)
        )
        top = (self.top_logprobs or 0) if self.logprobs else None
        params = self.to_params(self.max_completion_tokens or self.max_tokens, top)
        grammar, field = self.grammar(self.response_format) or (None, None)
        return Asked(
            prompts=(
                Chat(
                    messages=messages,
                    tools=tools,
                    template_options=options,
                    goes_on=self.continue_final_message,
                    must_call=self.must_call,
                    only_tool=self.only_tool,
                    in_parallel=self.parallel_tool_calls is not False,
                    strict_tools=frozenset(
                        tool.function.name for tool in self.tools or () if tool.function.strict
                    ),
                ),
            ),
            params=params if grammar is None else replace(params, grammar=grammar),
            grammar_field=field,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            tenant=salted(tenant, self),
            retain=self.retain,
            interactive=self.stream,
            wants_progress=self.return_progress,
            fields=FIELDS,
        )


def salted(tenant: Tenant, body: Sampling | Wire) -> Tenant:
    """The tenant, with a cache apart where the request asks for one."""
    salt = getattr(body, "cache_salt", None)
    if not getattr(body, "cache_prompt", True):
        return Tenant(tenant.name, secrets.token_hex(16))
    return tenant if salt is None else Tenant(tenant.name, f"{tenant.salt}:{salt}")
