"""Prompts to requests of an engine: templates, tokens and options, away from the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kept.engine import Engine, Request
from kept.errors import ContextLengthError
from kept.options import ResolvedCacheOptions
from kept.sampling import fresh_seed
from kept.serve.asked import Asked, Chat, Prompt
from kept.serve.conversation import for_template, options_for
from kept.serve.forms import Shape, shape_of, shaped
from kept.serve.refusal import Refusal, not_done
from kept.serve.resolving import resolve

if TYPE_CHECKING:
    from kept.llm import LLM


@dataclass(frozen=True, slots=True)
class Read:
    """A prompt, ready for an engine.

    tokens: of the prompt. copies: how many times each text is answered, where all would be the
    same. lives_on: whether the engine is there for others too. shape: how its texts are read,
    None: as they are.
    """

    tokens: tuple[int, ...]
    engine: Engine
    request: Request
    copies: int
    lives_on: bool
    shape: Shape | None = None


def read(llm: LLM, asked: Asked, caching: ResolvedCacheOptions) -> list[Read]:
    """Every prompt of a request. Raises what is wrong with it, before anything is computed."""
    found = []
    for number, prompt in enumerate(asked.prompts):
        tokens = read_prompt(llm, prompt, asked.src_lang)
        shape = shape_of(llm, prompt, tokens)
        wanted = shaped(llm, asked, prompt, shape)
        params, copies = resolve(llm, wanted, isinstance(prompt, Chat))
        if asked.stop_token_ids:
            _check_ends(llm, asked.stop_token_ids)
            ends = params.eos_token_ids.union(asked.stop_token_ids)
            params = replace(params, eos_token_ids=ends)
        if number and asked.params.seed is None:
            params = replace(params, seed=fresh_seed())
        _check_length(llm, tokens, caching)
        params, start = llm.towards(params, asked.tgt_lang)
        generation = llm.begin_tokens(
            tokens,
            params,
            caching,
            interactive=asked.interactive,
            adapter=asked.adapter,
            start=start,
        )
        [request] = generation.requests
        request.tenant, request.salt = asked.tenant.name, asked.tenant.salt
        request.priority, request.retain = asked.priority, asked.retain
        if asked.timeout is not None:
            request.deadline = request.arrival + asked.timeout
        lives_on = llm.finds_texts(caching, params)
        found.append(Read(tuple(tokens), generation.engine, request, copies, lives_on, shape))
    return found


def _check_ends(llm: LLM, ends: Sequence[int]) -> None:
    size = llm.model.config.vocab_size
    if max(ends) >= size:
        raise not_done(
            "stop_token_ids",
            f"names the token {max(ends)}, and the vocabulary has {size}; pass ids below {size}",
        )


def read_prompt(llm: LLM, prompt: Prompt, src_lang: str | None = None) -> Sequence[int]:
    """The tokens of a prompt. Raises OptionError, or TemplateError."""
    if not isinstance(prompt, Chat):
        return llm.read(prompt, src_lang)
    options = options_for(prompt.template_options, llm.chat_template)
    if prompt.tools:
        options["tools"] = list(prompt.tools)
    messages = for_template(prompt.messages, prompt.tools, llm.chat_template)
    return llm.read_chat(
        messages,
        add_generation_prompt=prompt.begins_answer,
        continue_final_message=prompt.goes_on,
        template_options=options,
    )


def _check_length(llm: LLM, tokens: Sequence[int], caching: ResolvedCacheOptions) -> None:
    context = llm.model.config.context
    if caching.overflow == "stop" and len(tokens) > context and not llm.model.is_encoder_decoder:
        raise Refusal(
            f"This model's maximum context length is {context} tokens, and the prompt has "
            f"{len(tokens)}; shorten it by {len(tokens) - context}",
            400,
            "context_length_exceeded",
        ) from ContextLengthError()
