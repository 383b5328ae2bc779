"""Prompts as people give them, made into lists of token ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kept.errors import OptionError, TokenizerError
from kept.text import Tokenizer

Prompt = str | Sequence[int]
Prompts = Prompt | Sequence[Prompt]


def read_prompts(prompts: Prompts, tokenizer: Tokenizer | None, vocab_size: int) -> list[list[int]]:
    """One list of token ids per prompt.

    prompts: a string, a list of token ids, or a list of either. An empty string becomes the
    tokenizer's beginning-of-sequence token. Raises OptionError for anything else, for no prompt,
    for an id outside the vocabulary, and for an empty prompt where there is no such token.
    """
    listed = [prompts] if isinstance(prompts, str) or _is_ids(prompts) else list(prompts)
    if not listed:
        raise OptionError("no prompt was given; pass a string, token ids, or a list of them")
    return [_read_prompt(prompt, tokenizer, vocab_size) for prompt in listed]


def _is_ids(prompt: object) -> bool:
    if isinstance(prompt, torch.Tensor):
        return prompt.ndim == 1
    return (
        isinstance(prompt, Sequence)
        and len(prompt) > 0
        and all(isinstance(token, int) and not isinstance(token, bool) for token in prompt)
    )


def _read_prompt(prompt: object, tokenizer: Tokenizer | None, vocab_size: int) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise TokenizerError(
                "this checkpoint has no tokenizer.json, so a prompt of text cannot be read; "
                "add the file, or pass token ids"
            )
        ids = tokenizer.encode(prompt)
    elif isinstance(prompt, torch.Tensor) and prompt.ndim == 1 and not prompt.is_floating_point():
        ids = [int(token) for token in prompt]
    elif _is_ids(prompt) or (isinstance(prompt, Sequence) and not prompt):
        assert isinstance(prompt, Sequence)
        ids = list(prompt)
    else:
        raise OptionError(
            f"a prompt is a string or a list of token ids, and {prompt!r} is neither; "
            "for chat messages use chat()"
        )
    if not ids:
        return [_begin(tokenizer)]
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise OptionError(
            f"token id {wrong} is outside the model's vocabulary of {vocab_size}; "
            "use the tokenizer that belongs to this model"
        )
    return ids


def _begin(tokenizer: Tokenizer | None) -> int:
    begin = None if tokenizer is None else tokenizer.bos_token_id
    if begin is None:
        raise OptionError(
            "the prompt is empty and the tokenizer has no beginning-of-sequence token to start "
            "from; give at least one token"
        )
    return begin
