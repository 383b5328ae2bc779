"""`/v1/completions`: its request, and what it comes to."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from kept.serve.asked import Asked
from kept.serve.openai.chat import salted
from kept.serve.openai.fields import (
    FIELDS,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
    Ids,
    Sampling,
    ShortText,
)
from kept.serve.refusal import Refusal, not_done
from kept.serve.tenants import Tenant

MAX_PROMPTS: Final = 4096
MAX_NEW_TOKENS: Final = 16  # as in OpenAI's, where none is given


class CompletionRequest(Sampling):
    """The body of `/v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=0, le=4096)] | None = None
    suffix: str | None = None
    # Of kept, for models that translate:
    src_lang: ShortText | None = None
    tgt_lang: ShortText | None = None
    # Of no effect on the text:
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: ShortText | None = None
    safety_identifier: ShortText | None = None
    prompt_cache_key: ShortText | None = None

    @model_validator(mode="after")
    def _is_understood(self) -> Self:
        if self.suffix:
            raise not_done("suffix", "asks for text in the middle, and this model goes on at ends")
        if self.best_of not in (None, 0, self.n):
            raise not_done("best_of", "differs from n, and every text that is made is answered")
        if self.max_tokens == 0 and (self.stream or not self.echo):
            raise not_done("max_tokens", "is 0, which needs echo: true, and no stream")
        return self

    @property
    def texts(self) -> tuple[str | tuple[int, ...], ...]:
        """What is to be continued, one or several."""
        given = self.prompt
        if isinstance(given, str):
            return (given,)
        if isinstance(given[0], int):
            return (tuple(given),)
        return tuple(each if isinstance(each, str) else tuple(each) for each in given)

    def to_asked(self, tenant: Tenant) -> Asked:
        """The request in no protocol's words. Raises Refusal, or OptionError."""
        length = MAX_NEW_TOKENS if self.max_tokens is None else max(self.max_tokens, 1)
        params = self.to_params(length, self.logprobs)
        grammar, field = self.grammar() or (None, None)
        return Asked(
            prompts=self.texts,
            params=params if grammar is None else replace(params, grammar=grammar),
            grammar_field=field,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            tenant=salted(tenant, self),
            interactive=self.stream,
            wants_progress=self.return_progress,
            fields=FIELDS,
            src_lang=self.src_lang,
            tgt_lang=self.tgt_lang,
        )


def check_width(body: Sampling, most: int) -> None:
    """Raise Refusal for more texts of a prompt than a server makes."""
    if body.n > most:
        raise Refusal(
            f"n is {body.n}, and this server makes at most {most} texts of a prompt (--max-n, "
            "--max-batch-size)",
            400,
            "invalid_value",
            "n",
        )
