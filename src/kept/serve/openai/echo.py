"""The prompt as a part of the answer (`echo`), with the log-probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kept.llm.scoring import score_tokens
from kept.sampling import TokenLogprobs
from kept.serve.openai.logprobs import completion_logprobs, spelled
from kept.serve.service import Service


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt to be answered before its text.

    text: of all its tokens. tokens: how they are spelled one by one. scores: of all but the first,
    None where no log-probabilities are asked for.
    """

    text: str
    tokens: tuple[str, ...]
    scores: tuple[TokenLogprobs, ...] | None

    def logprobs(self, service: Service) -> dict[str, Any] | None:
        """Of the prompt's tokens; nobody knows that of the first."""
        if self.scores is None:
            return None
        first = self.tokens[0] if self.tokens else ""
        assert service.llm.tokenizer is not None
        found = completion_logprobs(service.llm.tokenizer, self.scores, len(first))
        for name, value in (
            *(("tokens", first), ("token_logprobs", None)),
            *(("top_logprobs", None), ("text_offset", 0)),
        ):
            found[name].insert(0, value)
        return found


async def echo_of(
    service: Service, tokens: Sequence[int], num_top: int | None, adapter: str | None = None
) -> Echo:
    """The echo of a prompt. num_top: of the likeliest tokens in each one's place, None: no
    log-probabilities. adapter: what it goes through, None: nothing. Raises as `Service.score`."""
    tokenizer = service.llm.tokenizer
    assert tokenizer is not None
    text = tokenizer.decode(tokens)
    if num_top is None:
        return Echo(text, (), None)
    model, caching = service.llm.model, service.caching
    used = model.find_adapter(adapter)
    scores = await service.score(lambda: score_tokens(model, tokens, num_top, caching, used))
    return Echo(text, tuple(spelled(tokenizer, token) for token in tokens), tuple(scores))


def joined(before: dict[str, Any] | None, behind: dict[str, Any] | None) -> dict[str, Any] | None:
    """The log-probabilities of a prompt and of what follows it, as one."""
    if before is None or behind is None:
        return before or behind
    return {name: before[name] + behind[name] for name in before}
