"""`/v1/messages`: its request, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kept.grammar import Grammar
from kept.sampling import SamplingParams
from kept.serve.anthropic.blocks import (
    SECONDS,
    Block,
    CacheControl,
    Content,
    Message,
    blocks_of,
    text_of,
)
from kept.serve.asked import Asked, Chat
from kept.serve.openai.fields import MAX_STOPS, MAX_TOKENS, ShortText, StopText, Wire
from kept.serve.openai.structured import made
from kept.serve.refusal import not_done
from kept.serve.tenants import Tenant

MAX_MESSAGES: Final = 100_000
MAX_TOOLS: Final = 1024

# What the wire calls fields of SamplingParams.
FIELDS: Final[Mapping[str, str]] = {
    "max_new_tokens": "max_tokens",
    "stop_strings": "stop_sequences",
}


class Tool(BaseModel):
    """A tool that the client runs."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: ShortText = "custom"
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None

    def to_template(self, where: str) -> dict[str, Any]:
        """As templates take it. Raises Refusal for a tool that runs at Anthropic."""
        if self.type != "custom" or self.input_schema is None:
            raise not_done(
                where, f"is a {self.type[:40]!r} without input_schema; give it as custom"
            )
        found: dict[str, Any] = {"name": self.name, "parameters": self.input_schema}
        if self.description is not None:
            found["description"] = self.description
        return {"type": "function", "function": found}


class ToolChoice(Wire):
    """Whether and which tool the model calls."""

    type: Literal["auto", "any", "tool", "none"]
    name: ShortText | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _names_a_tool(self) -> Self:
        if self.type == "tool" and self.name is None:
            raise not_done("tool_choice.name", "is missing; say which tool is to be called")
        return self


class Thinking(Wire):
    """Whether the model thinks before it answers. budget_tokens: a hint; max_tokens bounds both."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    display: ShortText | None = None  # "omitted": told of it is that there was some


class OutputFormat(Wire):
    """The JSON schema of an answer."""

    type: Literal["json_schema"]
    content: dict[str, Any] = Field(alias="schema")


class OutputConfig(Wire):
    """How much effort, and in what form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Diagnostics(Wire):
    """Asks why a prefix was not found. previous_message_id: of the answer to compare with."""

    previous_message_id: ShortText | None = None


class Conversation(Wire):
    """What both endpoints take: all that comes before the answer."""

    model: ShortText = ""
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Content | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    # Of no effect on the text:
    speed: Literal["standard", "fast"] | None = None
    betas: list[ShortText] | None = None

    @model_validator(mode="after")
    def _is_done(self) -> Self:
        if not self.must_call:
            return self
        names = [tool.name for tool in self.tools or ()]
        if not names:
            raise not_done("tool_choice", "asks for a call, and there are no tools")
        if self.only_tool is not None and self.only_tool not in names:
            raise not_done("tool_choice.name", "is none of the tools")
        if self.output_config is not None and self.output_config.format is not None:
            raise not_done("tool_choice", "asks for a call, and output_config.format for its form")
        return self

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice is not None and self.tool_choice.type in ("any", "tool")

    @property
    def only_tool(self) -> str | None:
        """The one that has to be called, None: any."""
        choice = self.tool_choice
        return choice.name if choice is not None and choice.type == "tool" else None

    def to_chat(self) -> Chat:
        """The conversation as a template takes it. Raises Refusal."""
        messages: list[Mapping[str, Any]] = []
        if system := text_of(self.system, "system"):
            messages.append({"role": "system", "content": system})
        for i, message in enumerate(self.messages):
            messages += message.to_template(f"messages.{i}")
        options: dict[str, Any] = {}
        if self.thinking is not None:
            options["enable_thinking"] = self.thinking.type != "disabled"
        if self.output_config is not None and self.output_config.effort is not None:
            options["reasoning_effort"] = self.output_config.effort
        tools: tuple[Mapping[str, Any], ...] = ()
        if self.tools and (self.tool_choice is None or self.tool_choice.type != "none"):
            tools = tuple(tool.to_template(f"tools.{i}") for i, tool in enumerate(self.tools))
        last = messages[-1]
        goes_on = last["role"] == "assistant"
        if goes_on and "tool_calls" in last:
            raise not_done("messages", "ends with calls of tools; their results must come behind")
        choice = self.tool_choice
        return Chat(
            messages=tuple(messages),
            tools=tools,
            template_options=options,
            goes_on=goes_on,
            must_call=self.must_call,
            only_tool=self.only_tool,
            in_parallel=choice is None or not choice.disable_parallel_tool_use,
            tool_fields=tuple(f"tools.{i}.input_schema" for i in range(len(tools))),
            strict_tools=frozenset(tool.name for tool in self.tools or () if tool.strict),
        )

    @property
    def ttl(self) -> str | None:
        """The longest that any part of it is to be kept; None: nothing asks for that."""
        asks: list[CacheControl | None] = [self.cache_control]
        asks += [tool.cache_control for tool in self.tools or ()]
        contents: list[Content | None] = [self.system, *(m.content for m in self.messages)]
        blocks: list[Block] = [block for content in contents for block in blocks_of(content)]
        asks += [block.cache_control for block in blocks]
        found = [ask.ttl for ask in asks if ask is not None]
        return max(found, key=SECONDS.__getitem__, default=None)


class CountRequest(Conversation):
    """The body of `/v1/messages/count_tokens`."""

    context_management: dict[str, Any] | None = None  # a prompt is counted as it is


class MessagesRequest(Conversation):
    """The body of `/v1/messages`."""

    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    stream: bool = False
    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    diagnostics: Diagnostics | None = None
    context_management: dict[str, Any] | None = None
    # Of no effect on the text:
    metadata: dict[str, Any] | None = None
    service_tier: ShortText | None = None

    @model_validator(mode="after")
    def _keeps_its_context(self) -> Self:
        edits = (self.context_management or {}).get("edits") or []
        if not isinstance(edits, list) or any(
            not isinstance(edit, dict) or edit.get("keep") != "all" for edit in edits
        ):
            raise not_done(
                "context_management",
                "asks for messages to be taken out, and all of them are read as they stand",
            )
        return self

    @property
    def shows_thinking(self) -> bool:
        """Whether what the model thinks is told."""
        return self.thinking is None or self.thinking.display != "omitted"

    @property
    def grammar(self) -> tuple[Grammar, str] | None:
        """What the answer has to be, and the field that says so; None: any text. Raises Refusal."""
        asked = None if self.output_config is None else self.output_config.format
        if asked is None:
            return None
        return made(Grammar.json_schema, asked.content, "output_config.format.schema")

    @property
    def is_prewarming(self) -> bool:
        """Whether the prompt is to be read and nothing to be answered."""
        return self.max_tokens == 0

    def parts(self) -> dict[str, object]:
        """What a prefix depends on beside messages, as diagnostics tell of it."""
        tools = [tool.model_dump(exclude={"cache_control"}) for tool in self.tools or ()]
        options = self.model_dump(include={"thinking", "tool_choice", "output_config"})
        return {
            "model": [self.model, self.speed or "standard"],
            "tools": tools,
            "system": text_of(self.system, "system"),
            "options": options,
        }

    def to_asked(self, tenant: Tenant) -> Asked:
        """The request in no protocol's words. Raises Refusal, or OptionError."""
        grammar, field = self.grammar or (None, None)
        return Asked(
            prompts=(self.to_chat(),),
            params=SamplingParams(
                max_new_tokens=self.max_tokens or 1,
                temperature=self.temperature,
                top_p=1e-9 if self.top_p == 0 else self.top_p,  # the likeliest alone
                top_k=self.top_k,
                stop_strings=self.stop_sequences or None,
                grammar=grammar,
            ),
            grammar_field=field,
            tenant=tenant,
            retain=0.0 if self.ttl is None else SECONDS[self.ttl],
            interactive=self.stream,
            fields=FIELDS,
        )
