"""A smaller model of the same vocabulary, whose guesses an LLM may verify."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from kept.errors import OptionError
from kept.models import CausalLM, load_model, open_checkpoint
from kept.text import Tokenizer, find_tokenizer

log = logging.getLogger("kept")


def load_draft_model(
    source: str | Path | None,
    model: CausalLM,
    tokenizer: Tokenizer | None,
    *,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    packing: Callable[[int, int], None] | None = None,
) -> CausalLM | None:
    """The draft model for a model that is loaded. None where none is asked for, and where torch
    runs the model, of which the log tells.

    Raises OptionError for one that has another vocabulary or cannot draft, as soon as its files
    tell, CheckpointError and its kinds.
    """
    if source is None:
        return None
    if model.native is None:
        log.warning(
            "draft_model=%s is not used: torch runs this model, and what it rounds depends on how "
            "many tokens a pass reads",
            source,
        )
        return None
    if model.is_encoder_decoder:
        raise OptionError(
            f"draft_model={source} cannot draft for an encoder-decoder model, whose texts go on "
            "from what an encoder has read; leave it out"
        )
    checkpoint = open_checkpoint(source)
    check_tokens(str(source), tokenizer, find_tokenizer(checkpoint.folder))
    draft = load_model(checkpoint, device=device, progress=progress, packing=packing)
    size, own = model.config.vocab_size, draft.config.vocab_size
    if tokenizer is None and size != own:
        raise OptionError(
            f"draft_model={source} knows {own:,} tokens and the model {size:,}, and without a "
            "tokenizer nothing says that they are the same; take a draft model of its family"
        )
    why = "is an encoder-decoder model" if draft.is_encoder_decoder else None
    why = "cannot run on the native kernels" if draft.native is None else why
    if why is not None:
        raise OptionError(
            f"draft_model={source} {why}, so it is not faster than what it drafts for; take a "
            "smaller decoder of the same family"
        )
    return draft


def check_asked(num_drafts: int | None, draft: CausalLM | None, was_given: bool) -> None:
    """Raise OptionError for drafts of a draft model where there is none. was_given: whether one was
    asked for, which the log has told is not used."""
    if num_drafts and draft is None and not was_given:
        raise OptionError(
            f"num_assistant_tokens={num_drafts!r} asks for drafts of a draft model, and there is "
            "none; give LLM(draft_model=...) (--draft-model), or prompt_lookup_num_tokens for "
            "drafts of what a text repeats"
        )


def check_tokens(source: str, tokenizer: Tokenizer | None, own: Tokenizer | None) -> None:
    """Raise OptionError unless both call the same tokens by the same ids."""
    if tokenizer is None and own is None:
        return
    if tokenizer is None or own is None:
        which = "the model" if tokenizer is None else f"draft_model={source}"
        raise OptionError(
            f"{which} has no tokenizer, so nothing says that both models know the same tokens; add "
            "its tokenizer.json"
        )
    tokens, others = tokenizer.tokens(), own.tokens()
    if tokens == others:
        return
    both = {text: i for text, i in tokens.items() if others.get(text) == i}
    odd = min((i, text) for text, i in (tokens | others).items() if text not in both)
    raise OptionError(
        f"draft_model={source} has another vocabulary, of {len(others):,} tokens where the model's "
        f"has {len(tokens):,}: {odd[1]!r} is {_id(tokens, odd[1])} in the model's and "
        f"{_id(others, odd[1])} in its own; take a draft model of the same family"
    )


def _id(tokens: Mapping[str, int], text: str) -> str:
    return f"token {tokens[text]}" if text in tokens else "missing"
