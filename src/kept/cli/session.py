"""A conversation: its messages, its answers, and what can be done to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kept.cli.streaming import show
from kept.format import format_bytes, format_rate, format_seconds, table

if TYPE_CHECKING:
    from kept.engine import Completion
    from kept.llm import LLM
    from kept.options import CacheOptions
    from kept.sampling import SamplingParams


class Session:
    """Messages and answers in turn, after a system message if there is one."""

    def __init__(
        self, llm: LLM, params: SamplingParams, cache_options: CacheOptions, system: str | None
    ) -> None:
        """Raises TemplateError if the model has no chat template, or refuses the system message."""
        self._llm, self._params, self._cache_options = llm, params, cache_options
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[tuple[str, Completion]] = []
        llm.render_chat(self._messages("Hello"))

    def ask(self, text: str, write: Callable[[str], None]) -> Completion:
        """Answer, handing the text to `write`. After Ctrl-C the text so far is the answer.

        A turn that was interrupted before any text leaves no trace. Raises as `LLM.chat_stream`,
        the conversation unchanged.
        """
        stream = self._llm.chat_stream(
            self._messages(text), self._params, cache_options=self._cache_options
        )
        completion = show(stream, write)
        if completion.finish_reason != "interrupted" or completion.text:
            self._turns.append((text, completion))
        return completion

    def undo(self) -> bool:
        """Drop the last question and its answer; returns whether there was one."""
        return bool(self._turns and self._turns.pop())

    def reset(self) -> None:
        """Drop everything but the system message, and the cache."""
        self._turns.clear()
        self._llm.forget()

    def stats(self) -> str:
        """A row for each turn: tokens that were cached, read and written, and times."""
        if not self._turns:
            return "no turns yet"
        header = ("turn", "prompt", "cached", "new", "written", "first token", "speed", "cache")
        rows = [
            (
                str(number),
                f"{c.prompt_tokens:,}",
                f"{c.cached_tokens:,}",
                f"{c.prompt_tokens - c.cached_tokens:,}",
                f"{len(c.token_ids):,}",
                format_seconds(c.time_to_first_token),
                format_rate(c.tokens_per_second),
                format_bytes(c.cache_bytes),
            )
            for number, (_, c) in enumerate(self._turns, 1)
        ]
        return table(header, rows)

    def _messages(self, text: str) -> list[dict[str, str]]:
        messages = list(self._system)
        for question, completion in self._turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": completion.text})
        return [*messages, {"role": "user", "content": text}]
