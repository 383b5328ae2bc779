"""`options`: how tokens are drawn, and how Ollama would load a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from kept.grammar import Grammar
from kept.sampling import SamplingParams
from kept.serve.openai.fields import MAX_STOPS, MAX_TOKENS, ShortText, StopText, Wire
from kept.serve.openai.structured import OBJECT, made
from kept.serve.refusal import not_done

# What the wire calls fields of SamplingParams.
FIELDS: Final[Mapping[str, str]] = {
    "max_new_tokens": "options.num_predict",
    "stop_strings": "options.stop",
    "repetition_penalty": "options.repeat_penalty",
    "presence_penalty": "options.presence_penalty",
    "frequency_penalty": "options.frequency_penalty",
    "temperature": "options.temperature",
    "top_k": "options.top_k",
    "top_p": "options.top_p",
    "min_p": "options.min_p",
    "typical_p": "options.typical_p",
    "seed": "options.seed",
}


class Options(Wire):
    """What a request sets apart from what it asks."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    num_predict: Annotated[int, Field(ge=-2, le=MAX_TOKENS)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    mirostat: int = 0
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    tfs_z: float = 1.0
    penalize_newline: bool = True
    # Of how a model is loaded, which this server decided when it began:
    num_ctx: Annotated[int, Field(ge=0)] | None = None
    num_keep: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    numa: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    low_vram: bool | None = None
    vocab_only: bool | None = None
    f16_kv: bool | None = None
    draft_num_predict: int | None = None

    @model_validator(mode="after")
    def _is_done(self) -> Self:
        for name, nothing in (("mirostat", 0), ("tfs_z", 1.0), ("penalize_newline", True)):
            if getattr(self, name) != nothing:
                raise not_done(f"options.{name}", f"is not {nothing}, and is not known here")
        penalizes = self.repeat_penalty not in (None, 1.0) or self.presence_penalty
        penalizes = penalizes or self.frequency_penalty
        if penalizes and self.repeat_last_n not in (None, -1):
            raise not_done("options.repeat_last_n", "is not -1, and all of a text is penalized")
        return self

    def to_params(self, logprobs: int | None) -> SamplingParams:
        """As the library takes them. Raises OptionError."""
        most, stops = self.num_predict, [self.stop] if isinstance(self.stop, str) else self.stop
        return SamplingParams(
            max_new_tokens=most if most is not None and most > 0 else None,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=1e-9 if self.top_p == 0 else self.top_p,  # the likeliest alone
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty or None,
            frequency_penalty=self.frequency_penalty or None,
            stop_strings=stops or None,
            seed=None if self.seed is None else self.seed % (1 << 64),
            logprobs=logprobs,
        )


class Shared(Wire):
    """What both endpoints take beside what is asked. keep_alive: the model stays for as long as the
    server does."""

    model: ShortText
    stream: bool = True
    options: Options | None = None
    format: str | dict[str, object] | None = None
    keep_alive: float | ShortText | None = None
    think: bool | ShortText | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncate: bool | None = None  # a prompt too long is refused, never cut
    shift: bool | None = None

    @model_validator(mode="after")
    def _has_a_form(self) -> Self:
        if isinstance(self.format, str) and self.format not in ("", "json"):
            raise not_done("format", "is neither json nor a JSON schema")
        return self

    @property
    def grammar(self) -> Grammar | None:
        """What the text has to be, None: any. Raises Refusal."""
        if self.format is None or self.format == "":
            return None
        schema = OBJECT if self.format == "json" else self.format
        return made(Grammar.json_schema, schema, "format")[0]

    @property
    def params(self) -> SamplingParams:
        """How tokens are drawn. Raises Refusal for a form that cannot be kept to."""
        top = (self.top_logprobs or 0) if self.logprobs else None
        params = (self.options or Options()).to_params(top)
        return params if self.format is None else replace(params, grammar=self.grammar)

    @property
    def template_options(self) -> dict[str, object]:
        """What templates read of it."""
        if self.think is None:
            return {}
        found: dict[str, object] = {"enable_thinking": bool(self.think)}
        if isinstance(self.think, str):
            found["reasoning_effort"] = self.think
        return found
