"""vLLM's routes: text to tokens and back, and what the tokenizer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import Response

from kept.serve.asked import Chat, Prompt, characters_of
from kept.serve.http import check_model, json_response, service_of
from kept.serve.openai.chat import MAX_MESSAGES, MAX_TOOLS, Message, Tool
from kept.serve.openai.fields import ShortText, TokenId, Wire
from kept.serve.reading import read_prompt
from kept.serve.refusal import not_done
from kept.serve.service import LONG
from kept.serve.sse import unless_gone
from kept.text import Tokenizer

if TYPE_CHECKING:
    from kept.llm import LLM

router = APIRouter(tags=["vLLM"])

MAX_IDS: Final = 1 << 22


class TokenizeRequest(Wire):
    """The body of `/tokenize`: a text, or a conversation."""

    model: ShortText = ""
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise not_done("prompt", "and messages: give one of the two")
        return self

    def to_prompt(self) -> Prompt:
        """The text or the conversation. Raises Refusal."""
        if self.prompt is not None:
            return self.prompt
        assert self.messages is not None
        messages = tuple(m.to_template(f"messages.{i}") for i, m in enumerate(self.messages))
        tools = tuple(tool.model_dump(exclude_none=True) for tool in self.tools or ())
        return Chat(
            messages=messages,
            tools=tools,
            template_options=self.chat_template_kwargs or {},
            goes_on=self.continue_final_message,
            begins_answer=self.add_generation_prompt,
        )


class DetokenizeRequest(Wire):
    """The body of `/detokenize`."""

    model: ShortText = ""
    tokens: Annotated[list[TokenId], Field(max_length=MAX_IDS)]


@router.post("/tokenize", response_model=None)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """The tokens of a text, or of what the chat template makes of messages."""
    service = service_of(request)
    check_model(service, body.model)
    tokenizer, prompt = _tokenizer(service.llm), body.to_prompt()

    def answer() -> Response:
        if isinstance(prompt, str):
            tokens = tokenizer.encode(prompt, body.add_special_tokens is not False)
        else:
            tokens = list(read_prompt(service.llm, prompt))
        texts = None
        if body.return_token_strs:
            texts = [tokenizer.id_to_token(token) for token in tokens]
        return json_response(
            {
                "count": len(tokens),
                "max_model_len": service.llm.model.config.context,
                "tokens": tokens,
                "token_strs": texts,
            }
        )

    is_long = characters_of(prompt) > LONG
    return await unless_gone(request, service.in_thread(answer, is_long=is_long))


@router.post("/detokenize", response_model=None)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of tokens, special ones shown."""
    service = service_of(request)
    check_model(service, body.model)
    tokenizer = _tokenizer(service.llm)

    size = service.llm.model.config.vocab_size
    strange = next((token for token in body.tokens if token >= size), None)
    if strange is not None:
        raise not_done("tokens", f"holds {strange}, and the vocabulary has {size}")

    def answer() -> Response:
        text = tokenizer.decode(body.tokens, skip_special_tokens=False)
        return json_response({"prompt": text})

    is_long = len(body.tokens) > LONG
    return await unless_gone(request, service.in_thread(answer, is_long=is_long))


@router.get("/tokenizer_info", response_model=None)
async def tokenizer_info(request: Request) -> Response:
    """What a client has to know to do without the tokenizer's files."""
    service = service_of(request)
    tokenizer = _tokenizer(service.llm)
    return json_response(
        {
            "tokenizer_class": type(tokenizer.backend.model).__name__,
            "vocab_size": tokenizer.vocab_size,
            "model_max_length": service.llm.model.config.context,
            "chat_template": service.templates.get("default"),
            **{name: text for name, text in tokenizer.special_tokens.items() if "_token" in name},
        }
    )


def _tokenizer(llm: LLM) -> Tokenizer:
    assert llm.tokenizer is not None, "a service has one"
    return llm.tokenizer
