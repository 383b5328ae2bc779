"""Where an answer of a chat ends: the tokens its model's files name, beside the settings'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kept.errors import TemplateError
from kept.sampling import ResolvedParams
from kept.text import ChatTemplate, Tokenizer

_MARK = "TEXT-OF-AN-ANSWER"


def with_turn_ends(
    params: ResolvedParams,
    tokenizer: Tokenizer,
    named: Iterable[str | None],
    config: Mapping[str, Any],
) -> ResolvedParams:
    """End an answer also at config.json's end of sequence, and at tokens known by their text.

    Many checkpoints name one of them in a single file only, and an answer that runs past it goes on
    with what the user might say. A turn's end that the tokenizer does not hold for special is a
    stop string besides, so that it stays out of the text.
    """
    asked = config.get("eos_token_id")
    found = {*params.eos_token_ids, *(asked if isinstance(asked, list) else [asked])}
    stops = list(params.stop_strings)
    for text in named:
        if text is not None:
            found.add(tokenizer.backend.token_to_id(text))
            if not tokenizer.is_special(text) and text not in stops:
                stops.append(text)
    ends = frozenset(token for token in found if isinstance(token, int) and token >= 0)
    return replace(params, eos_token_ids=ends, stop_strings=tuple(stops))


def turn_end(template: ChatTemplate, tokenizer: Tokenizer) -> str | None:
    """The token a template puts behind an answer (`<|im_end|>` and its like), if it is one.

    Found in a conversation that is rendered for it; None where the template refuses that.
    """
    messages = [{"role": "user", "content": "."}, {"role": "assistant", "content": _MARK}]
    try:
        rendered = template.render(messages)
    except TemplateError:
        return None
    _, mark, rest = rendered.rpartition(_MARK)
    rest = rest.lstrip()
    added = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values()}
    begins = [text for text in added if mark and text.strip() and rest.startswith(text)]
    return max(begins, key=len, default=None)
