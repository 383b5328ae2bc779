"""Prompts as people give them, made into lists of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch

from kept.errors import CheckpointError, OptionError, TokenizerError
from kept.llm.padding import NO_PADDING, Padding, unpack, without_padding
from kept.models import CausalLM, Checkpoint, EncoderDecoderLM
from kept.text import Tokenizer

Prompt = str | Sequence[int]
Prompts = Prompt | Sequence[Prompt] | Mapping[str, Any]


def read_prompts(
    prompts: Prompts,
    tokenizer: Tokenizer | None,
    vocab_size: int,
    attention_mask: object = None,
    padding: Padding = NO_PADDING,
    single: bool = False,
    src_lang: str | None = None,
) -> list[list[int]]:
    """One list of token ids per prompt.

    prompts: a string, a list, array or tensor of token ids, or a list of those; or what a tokenizer
    of transformers gives, a mapping with input_ids and attention_mask. attention_mask: 0 where ids
    are padding, which is left out; None: nothing may be padded. An empty string becomes the
    tokenizer's beginning-of-sequence token. src_lang: the language of the texts, see
    `Tokenizer.encode_prompt`. Raises OptionError for anything else, for no prompt, for what looks
    like `padding`, for an id outside the vocabulary, for an empty prompt where there is no such
    token, and for a language of what is ids.
    """
    given, mask = unpack(prompts, attention_mask)
    if mask is not None:
        given = without_padding(given, mask)
    listed = list(given) if _are_several(given) and not _is_ids(given) else [given]
    if not listed:
        raise OptionError("no prompt was given; pass a string, token ids, or a list of them")
    if single and len(listed) != 1:
        raise OptionError(f"stream() takes one prompt, not {len(listed)}; use generate()")
    found = [_read_prompt(prompt, tokenizer, vocab_size, src_lang) for prompt in listed]
    if mask is None and not any(isinstance(prompt, str) for prompt in listed):
        padding.refuse(found)
    return found


def _are_several(prompts: object) -> TypeGuard[Iterable[object]]:
    if isinstance(prompts, torch.Tensor | np.ndarray):
        return prompts.ndim > 0
    return isinstance(prompts, Iterable) and not isinstance(prompts, str | bytes | Mapping)


def _is_ids(prompt: object) -> bool:
    if isinstance(prompt, torch.Tensor | np.ndarray):
        return prompt.ndim == 1
    return isinstance(prompt, Sequence) and len(prompt) > 0 and _are_ids(prompt)


def _are_ids(tokens: Iterable[object]) -> bool:
    kinds = set(map(type, tokens))  # as there are few, each is looked at once
    return all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds)


def _read_prompt(
    prompt: object, tokenizer: Tokenizer | None, vocab_size: int, src_lang: str | None
) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise TokenizerError(
                "this checkpoint has no tokenizer.json, so a prompt of text cannot be read; "
                "add the file, or pass token ids"
            )
        ids = tokenizer.encode_prompt(prompt, src_lang)
    elif src_lang is not None:
        raise OptionError(
            f"src_lang={src_lang!r:.80} says how a text becomes tokens, and a prompt is token ids "
            "already; leave it out, or pass the text"
        )
    else:
        ids = _read_ids(prompt)
    if not ids:
        return [_begin(tokenizer)]
    if min(ids) < 0 or max(ids) >= vocab_size:
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise OptionError(
            f"token id {wrong} is outside the model's vocabulary of {vocab_size}; "
            "use the tokenizer that belongs to this model"
        )
    return ids


def _read_ids(prompt: object) -> list[int]:
    given = prompt
    if isinstance(prompt, torch.Tensor) and (prompt.is_meta or prompt.layout != torch.strided):
        raise OptionError(f"a prompt is {prompt!r:.100}, whose token ids cannot be read")
    if isinstance(prompt, torch.Tensor | np.ndarray):
        given = prompt.tolist()
    if isinstance(given, bytes) or not isinstance(given, Sequence) or not _are_ids(given):
        raise OptionError(
            f"a prompt is a string or a list of token ids, and {prompt!r} is neither; "
            "for chat messages use chat()"
        )
    return list(map(int, given))


def _begin(tokenizer: Tokenizer | None) -> int:
    begin = None if tokenizer is None else tokenizer.bos_token_id
    if begin is None:
        raise OptionError(
            "the prompt is empty and the tokenizer has no beginning-of-sequence token to start "
            "from; give at least one token"
        )
    return begin


def start_token(model: CausalLM, checkpoint: Checkpoint) -> int | None:
    """What the decoder of an encoder-decoder model starts from, None for a decoder alone.

    By `decoder_start_token_id`, else `bos_token_id`, of the generation settings, as transformers
    does; else by config.json. Raises CheckpointError for what is no token.
    """
    if not isinstance(model, EncoderDecoderLM):
        return None
    names = ("decoder_start_token_id", "bos_token_id")
    found = (checkpoint.generation_config.get(name) for name in names)
    asked = next((token for token in found if token is not None), None)
    start, size = model.config.start_token_id if asked is None else asked, model.config.vocab_size
    if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start < size:
        raise CheckpointError(
            f"{checkpoint.generation_source} has decoder_start_token_id = {start!r}, which must be "
            f"a token id from 0 to {size - 1}"
        )
    return start
