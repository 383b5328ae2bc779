"""Fields that requests of OpenAI's protocol share, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from kept.grammar import Grammar
from kept.sampling import SamplingParams
from kept.serve.openai.structured import (
    Choices,
    GrammarText,
    ResponseFormat,
    Schema,
    StructuredOutputs,
    grammar_of,
)
from kept.serve.refusal import not_done

MAX_STOPS: Final = 16
MAX_STOP_LENGTH: Final = 1024  # characters
MAX_BIASES: Final = 1024
MAX_TOP_LOGPROBS: Final = 20
MAX_DRAFTS: Final = 64
MIN_TEMPERATURE: Final = 1e-4
MAX_TOKENS: Final = 1 << 24
MAX_TEXT: Final = 1024  # characters of names and their like

ShortText = Annotated[str, Field(max_length=MAX_TEXT)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Ids = Annotated[list[TokenId], Field(min_length=1)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Bias = Annotated[float, Field(ge=-100, le=100)]

# What the wire calls fields of SamplingParams.
FIELDS: Final[Mapping[str, str]] = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "stop_strings": "stop",
    "num_return_sequences": "n",
    "sequence_bias": "logit_bias",
    "eos_token_id": "stop_token_ids",
    "template_options": "chat_template_kwargs",
}


def _no_trace(temperature: float) -> float:
    """Refuses a temperature that would have scores outgrow their numbers, where 0 is meant."""
    if 0 < temperature < MIN_TEMPERATURE:
        raise ValueError(f"is less than {MIN_TEMPERATURE}; pass 0 for the likeliest token")
    return temperature


class Wire(BaseModel):
    """A request's object. Fields it does not have are refused, as one that is ignored would change
    the answer without a word; those that are null count as not given."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if value is not None}
        return given


class StreamOptions(Wire):
    """What a stream tells beside its text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False  # nothing is obfuscated


class Sampling(Wire):
    """How tokens are drawn, when a text ends, and whose it is, by OpenAI's names."""

    model: ShortText = ""
    n: Annotated[int, Field(ge=1, le=4096)] = 1
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(_no_trace)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)] | None = None
    user: ShortText | None = None
    # Of vLLM and llama.cpp:
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    ignore_eos: bool = False
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_BIASES)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    cache_prompt: bool = True
    return_progress: bool = False
    timings_per_token: bool = False
    request_id: ShortText | None = None
    # Of kept:
    prompt_lookup_num_tokens: Annotated[int, Field(ge=0, le=MAX_DRAFTS)] | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    priority: int = 0
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: GrammarText | None = None
    guided_choice: Choices | None = None
    guided_grammar: GrammarText | None = None

    @model_validator(mode="after")
    def _is_done(self) -> Self:
        if not self.skip_special_tokens:
            raise not_done("skip_special_tokens", "is false, and special tokens are never shown")
        if self.include_stop_str_in_output:
            raise not_done("include_stop_str_in_output", "is true, and a stop is always cut off")
        if self.priority:
            raise not_done("priority", "is not 0, and clients of this server are equals")
        if self.stream_options is not None and not self.stream:
            raise not_done("stream_options", "is of streams; pass stream: true, or leave it out")
        if self.return_progress and not self.stream:
            raise not_done("return_progress", "is of streams; pass stream: true, or leave it out")
        return self

    def to_params(self, max_new_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """As the library takes them. Raises OptionError, or Refusal where a field is at fault."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            min_new_tokens=self.min_tokens or None,
            temperature=self.temperature,
            top_p=1e-9 if self.top_p == 0 else self.top_p,  # the likeliest alone
            top_k=None if self.top_k is None else max(self.top_k, 0),
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            num_return_sequences=self.n,
            stop_strings=stops or None,
            ignore_eos=self.ignore_eos,
            seed=None if self.seed is None else self.seed % (1 << 64),
            logprobs=logprobs,
            presence_penalty=self.presence_penalty or None,
            frequency_penalty=self.frequency_penalty or None,
            sequence_bias=self._biases(),
            prompt_lookup_num_tokens=self.prompt_lookup_num_tokens,
        )

    def grammar(self, asked: ResponseFormat | None = None) -> tuple[Grammar, str] | None:
        """What the text has to be, and the field that says so; asked: by `response_format`."""
        names = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
        return grammar_of(asked, self.structured_outputs, {n: getattr(self, n) for n in names})

    def _biases(self) -> dict[tuple[int, ...], float] | None:
        if not self.logit_bias:
            return None
        found: dict[tuple[int, ...], float] = {}
        for token, bias in self.logit_bias.items():
            if token.isascii() and token.isdigit() and len(token) < 10:
                found[(int(token),)] = bias
            elif bias:
                raise not_done("logit_bias", f"names {token[:40]!r}, which is no token id")
        return found or None
