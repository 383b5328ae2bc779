"""Token ids to text while they arrive, never half a character."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import tokenizers
from tokenizers import decoders

from kept.text.cleanup import CLEANUP_RULES
from kept.text.decode_steps import (
    ByteLevelText,
    ByteRuns,
    FirstTokenDiffers,
    LastTokenDiffers,
    PerToken,
    ReplaceText,
    SpaceBetween,
    Step,
    StripStart,
    TrimEnd,
    WholeText,
    common_length,
)
from kept.text.pipeline import decoder_steps
from kept.text.tokenizer import Tokenizer

# A character spans at most four byte tokens; the rest is for runs of them, which where all tokens
# are bytes (`ByteLevelText`) have nothing to do with each other.
_PROMPT_WINDOW, _BYTES_WINDOW = 64, 4
_ALL = 2**31  # spaces, more than any text begins with
_MADE = WeakKeyDictionary[Tokenizer, list[Step]]()  # as a text begins, never fed


class IncrementalDetokenizer:
    """Turns token ids into text as they arrive.

    The pieces and `finish()` joined are `tokenizer.decode(ids)`, character for character, while the
    cost of a token does not grow with the text. After a prompt they are what follows
    `decode(prompt)` in `decode(prompt + ids)`, so the space before the first word is there; a
    character the prompt left unfinished comes with the token that completes it, and is the prompt's
    own U+FFFD, which is not shown again, where none does.

    For one text: not to be shared between threads, nor used after `finish()`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        """Begin a text after the tokens `prompt_ids`, of which only the end is looked at."""
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._steps = _build_steps(tokenizer)
        self._of_prompt = self._held = ""
        tokens = filter(None, map(self._token, reversed(prompt_ids)))
        are_bytes = all(isinstance(step, ByteLevelText) for step in self._steps)
        count = _BYTES_WINDOW if are_bytes else _PROMPT_WINDOW
        if window := list(islice(tokens, count))[::-1]:
            self._run(window)
            self._drain("settle")
            self._of_prompt = self._forked()._drain("finish")

    def add(self, token_ids: Sequence[int]) -> str:
        """Take the next token ids, give the text that is now certain (often none)."""
        tokens = [token for token in map(self._token, token_ids) if token is not None]
        return self._beyond_prompt(self._run(tokens))

    def special(self, token_id: int) -> tuple[str, str]:
        """How a special token would be spelled next, and the text withheld that comes before it.

        Changes nothing: the token is not part of the text.
        """
        withheld = self._forked().finish()
        shown = self._forked()
        token = self._tokenizer.id_to_token(token_id)
        whole = shown._beyond_prompt(shown._run([] if token is None else [token]))
        whole += shown.finish()
        common = common_length(withheld, whole)
        return whole[common:], withheld[:common]

    def finish(self) -> str:
        """Say that no more tokens come; give the rest, U+FFFD for bytes that make no character."""
        return self._beyond_prompt(self._drain("finish"), is_over=True)

    def _beyond_prompt(self, text: str, is_over: bool = False) -> str:
        # What the prompt's text ends with if nothing completes it comes again in front of the rest.
        if not self._of_prompt:
            return text
        text, self._held = self._held + text, ""
        if not is_over and len(text) < len(self._of_prompt) and self._of_prompt.startswith(text):
            self._held = text
            return ""
        of_prompt, self._of_prompt = self._of_prompt, ""
        return text.removeprefix(of_prompt)

    def _forked(self) -> IncrementalDetokenizer:
        forked = copy(self)
        forked._steps = [step.fork() for step in self._steps]
        return forked

    def _token(self, token_id: int) -> str | None:
        token = self._tokenizer.id_to_token(token_id)
        if token is None or (self._skip_special_tokens and self._tokenizer.is_special(token)):
            return None
        return token

    def _run(self, tokens: list[str], first_step: int = 0) -> str:
        for step in self._steps[first_step:]:
            if not tokens:
                return ""
            tokens = step.feed(tokens)
        return "".join(tokens)

    def _drain(self, how: str) -> str:
        # What a step gives at the end still passes through the steps after it.
        pieces = []
        for i, step in enumerate(self._steps):
            rest = step.settle() if how == "settle" else step.finish()
            pieces.append(self._run(rest, i + 1))
        return "".join(pieces)


def _build_steps(tokenizer: Tokenizer) -> list[Step]:
    # Made once: steps of the library's take longer to make than a text of some tokens to spell.
    found = _MADE.get(tokenizer)
    if found is None:
        found = _MADE[tokenizer] = _make_steps(tokenizer)
    return [step.fork() for step in found]


def _make_steps(tokenizer: Tokenizer) -> list[Step]:
    steps = _decoder_chain(decoder_steps(tokenizer.backend))
    if tokenizer.clean_up_spaces:
        steps += [ReplaceText(old, new) for old, new in CLEANUP_RULES]
    return [*steps, StripStart(" ", _ALL), TrimEnd()] if tokenizer.trims else steps


def _decoder_chain(descriptions: list[dict[str, Any]]) -> list[Step]:
    if not descriptions:
        return [SpaceBetween()]
    steps: list[Step] = []
    fused = False  # whether a step joined all tokens into one, so that later steps see one text
    for i, description in enumerate(descriptions):
        kind = description["type"]
        if kind == "Fuse":
            fused = True
            continue
        is_last = i == len(descriptions) - 1
        step = _text_step(description) if fused else _token_step(description, is_last)
        if step is None:
            return [*steps, WholeText(_library_decoder(descriptions[i:]))]
        steps.append(step)
        fused = fused or kind == "ByteLevel"
    return steps


def _token_step(description: dict[str, Any], is_last: bool) -> Step | None:
    match description["type"]:
        case "ByteLevel":
            return ByteLevelText()
        case "ByteFallback":
            return ByteRuns()
        case "Replace" | "Strip":
            return PerToken(_library_decoder([description]))
        case "Metaspace" | "WordPiece":
            return FirstTokenDiffers(_library_decoder([description]))
        case "BPEDecoder" if is_last:
            return LastTokenDiffers(_library_decoder([description]))
    return None


def _text_step(description: dict[str, Any]) -> Step | None:
    match description:
        case {"type": "Strip", "content": content, "start": start, "stop": 0}:
            return StripStart(content, start)
        case {"type": "Replace", "pattern": {"String": old}, "content": new} if old:
            return ReplaceText(old, new)
    return None


def _library_decoder(descriptions: list[dict[str, Any]]) -> decoders.Decoder:
    """Make the library's decoder of these steps, by way of an empty tokenizer."""
    empty = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": {}, "merges": []},
        "decoder": {"type": "Sequence", "decoders": descriptions},
    }
    decoder: decoders.Decoder = tokenizers.Tokenizer.from_str(json.dumps(empty)).decoder
    return decoder
