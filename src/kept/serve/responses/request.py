"""`/v1/responses`: its request, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kept.grammar import Grammar
from kept.sampling import SamplingParams
from kept.serve.asked import Asked, Chat
from kept.serve.openai.fields import MAX_TOP_LOGPROBS, ShortText, StreamOptions, Tokens, Wire
from kept.serve.openai.structured import OBJECT, made
from kept.serve.refusal import Refusal, not_done
from kept.serve.responses.choice import Choice, choice_of
from kept.serve.responses.items import Item, to_messages
from kept.serve.tenants import Tenant

MAX_ITEMS: Final = 65_536
MAX_TOOLS: Final = 1024
LOGPROBS: Final = "message.output_text.logprobs"
SECONDS: Final[Mapping[str, float]] = {"30m": 1800.0, "12h": 3600.0}  # 12h: the longest there is

# What the wire calls fields of SamplingParams.
FIELDS: Final[Mapping[str, str]] = {"max_new_tokens": "max_output_tokens"}


class Tool(BaseModel):
    """A tool; only functions are shown to the model, and others passed over."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: ShortText
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def is_known(self) -> bool:
        """Whether the model can be told of it."""
        return self.type == "function" and self.name is not None

    def to_template(self) -> dict[str, Any]:
        """As templates take it."""
        found: dict[str, Any] = {"name": self.name, "parameters": self.parameters or {}}
        if self.description is not None:
            found["description"] = self.description
        return {"type": "function", "function": found}


class Reasoning(Wire):
    """How much the model thinks. What is told of it is all of it, never a summary."""

    effort: ShortText | None = None
    summary: ShortText | None = None
    generate_summary: ShortText | None = None
    context: ShortText | None = None
    mode: ShortText | None = None


class Format(Wire):
    """What form the text has to have."""

    type: ShortText
    name: ShortText | None = None
    description: str | None = None
    content: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None  # it is kept to whatever this says

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.type not in ("text", "json_object", "json_schema"):
            raise not_done("text.format.type", "is none of text, json_object and json_schema")
        if self.type == "json_schema" and self.content is None:
            raise not_done("text.format.schema", "is missing; give the schema there")
        return self

    def grammar(self) -> tuple[Grammar, str] | None:
        """What it comes to, and the field that says so; None: any text. Raises Refusal."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return made(Grammar.json_schema, OBJECT, "text.format")
        return made(Grammar.json_schema, self.content, "text.format.schema")


class Text(Wire):
    """The form of the answer."""

    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class PromptCacheOptions(Wire):
    """What the cache is asked. prewarm: read the prompt and answer nothing. comparison_response_id:
    say how this request's prompt differs from that one's. ttl: for how long it is to be kept."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m", "12h"] | None = None
    prewarm: bool = False
    comparison_response_id: ShortText | None = None


class Context(Wire):
    """What comes before the answer, of both endpoints that take it."""

    model: ShortText = ""
    input: str | Annotated[list[Item], Field(max_length=MAX_ITEMS)] | None = None
    instructions: str | None = None
    previous_response_id: ShortText | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: Text | None = None
    truncation: Literal["auto", "disabled"] | None = None  # one too long is refused, never cut

    @model_validator(mode="after")
    def _can_be_chosen(self) -> Self:
        form = None if self.text is None or self.text.format is None else self.text.format
        if self.choice.must_call and form is not None and form.type != "text":
            raise not_done("tool_choice", "asks for a call, and text.format for its form")
        return self

    @property
    def choice(self) -> Choice:
        """Which tools may, or have to, be called. Raises Refusal."""
        return choice_of(self.tool_choice, [tool.name or "" for tool in self.known_tools])

    @property
    def items(self) -> list[Item]:
        """What is new in this request."""
        if isinstance(self.input, str):
            return [Item(role="user", content=self.input)]
        return self.input or []

    @property
    def known_tools(self) -> list[Tool]:
        """Those that the model is told of."""
        return [tool for tool in self.tools or () if tool.is_known]

    def to_chat(self, before: Sequence[Item], new: Sequence[Item]) -> Chat:
        """The conversation as a template takes it. before: items of the answers that this one goes
        on from. Raises Refusal where there is none."""
        messages = to_messages([*before, *new])
        if not messages:
            raise Refusal(
                "input is missing; give a text, or a list of items",
                400,
                "missing_required_parameter",
                "input",
            )
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        options: dict[str, Any] = {}
        if self.reasoning is not None and self.reasoning.effort is not None:
            options["reasoning_effort"] = self.reasoning.effort
            options["enable_thinking"] = self.reasoning.effort != "none"
        if self.text is not None and self.text.verbosity is not None:
            options["verbosity"] = self.text.verbosity
        choice = self.choice
        tools = [
            (i, tool)
            for i, tool in enumerate(self.tools or ())
            if tool.is_known and tool.name in choice.names
        ]
        return Chat(
            messages=tuple(messages),
            tools=tuple(tool.to_template() for _, tool in tools),
            template_options=options,
            must_call=choice.must_call,
            only_tool=choice.only,
            in_parallel=self.parallel_tool_calls is not False,
            tool_fields=tuple(f"tools.{i}.parameters" for i, _ in tools),
            strict_tools=frozenset(tool.name for _, tool in tools if tool.name and tool.strict),
        )


class CountRequest(Context):
    """The body of `/v1/responses/input_tokens`."""


class ResponsesRequest(Context):
    """The body of `/v1/responses`."""

    stream: bool = False
    stream_options: StreamOptions | None = None  # a stream always ends in what it took
    max_output_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: Annotated[list[ShortText], Field(max_length=64)] | None = None
    store: bool = True
    prompt_cache_options: PromptCacheOptions | None = None
    # Of no effect on the text:
    background: bool = False
    prompt_cache_key: ShortText | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    client_metadata: dict[str, Any] | None = None  # Codex's
    service_tier: ShortText | None = None
    safety_identifier: ShortText | None = None
    user: ShortText | None = None
    max_tool_calls: Annotated[int, Field(ge=0)] | None = None  # of tools that a server runs

    @model_validator(mode="after")
    def _is_done(self) -> Self:
        if self.background:
            raise not_done("background", "is true, and answers are given to who waits for them")
        return self

    @property
    def caching(self) -> PromptCacheOptions:
        """What the cache is asked; nothing by default."""
        return self.prompt_cache_options or PromptCacheOptions()

    @property
    def retain(self) -> float:
        """For how many seconds the prompt is to be kept."""
        if self.caching.ttl is not None:
            return SECONDS[self.caching.ttl]
        return SECONDS["12h"] if self.prompt_cache_retention == "24h" else 0.0

    def parts(self) -> dict[str, object]:
        """What a prefix depends on beside the input, in the words of diagnostics."""
        form = None if self.text is None else self.text.format
        return {
            "model": self.model,
            "prompt_cache_key": self.prompt_cache_key,
            "tools": [tool.model_dump() for tool in self.tools or ()],
            "text_format": None if form is None else form.model_dump(),
            "reasoning_effort": None if self.reasoning is None else self.reasoning.effort,
            "verbosity": None if self.text is None else self.text.verbosity,
            "service_tier": self.service_tier,
        }

    def to_asked(self, tenant: Tenant, chat: Chat) -> Asked:
        """The request in no protocol's words. Raises OptionError."""
        wants = self.top_logprobs is not None or LOGPROBS in (self.include or ())
        form = None if self.text is None else self.text.format
        grammar, field = (None if form is None else form.grammar()) or (None, None)
        return Asked(
            prompts=(chat,),
            params=SamplingParams(
                max_new_tokens=1 if self.caching.prewarm else self.max_output_tokens,
                temperature=self.temperature,
                top_p=1e-9 if self.top_p == 0 else self.top_p,  # the likeliest alone
                logprobs=(self.top_logprobs or 0) if wants else None,
                grammar=grammar,
            ),
            grammar_field=field,
            tenant=tenant,
            retain=self.retain,
            interactive=self.stream,
            fields=FIELDS,
        )
