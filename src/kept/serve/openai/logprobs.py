"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from kept.sampling import TokenLogprob, TokenLogprobs
from kept.text import Tokenizer

LEAST: Final = -9999.0  # what clients are told of probability 0, as JSON has no infinity


def chat_logprobs(tokenizer: Tokenizer, drawn: Iterable[TokenLogprobs]) -> dict[str, Any]:
    """Those of `/v1/chat/completions`."""
    content = []
    for each in drawn:
        top = [_entry(tokenizer, other) for other in each.top]
        content.append({**_entry(tokenizer, each.chosen), "top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, drawn: Iterable[TokenLogprobs], offset: int
) -> dict[str, Any]:
    """Those of `/v1/completions`. offset: characters of the text before them."""
    found: dict[str, list[Any]] = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    for each in drawn:
        text = spelled(tokenizer, each.chosen.token_id)
        found["tokens"].append(text)
        found["token_logprobs"].append(finite(each.chosen.logprob))
        top = {spelled(tokenizer, o.token_id): finite(o.logprob) for o in reversed(each.top)}
        found["top_logprobs"].append(dict(reversed(top.items())))
        found["text_offset"].append(offset)
        offset += len(text)
    return found


def spelled(tokenizer: Tokenizer, token_id: int) -> str:
    """A token alone, special ones shown."""
    return tokenizer.decode([token_id], skip_special_tokens=False)


def finite(logprob: float) -> float:
    """A number that JSON can say."""
    return max(logprob, LEAST)


def _entry(tokenizer: Tokenizer, token: TokenLogprob) -> dict[str, Any]:
    text = spelled(tokenizer, token.token_id)
    return {"token": text, "logprob": finite(token.logprob), "bytes": list(text.encode())}
