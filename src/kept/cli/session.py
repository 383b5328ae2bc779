"""A conversation: its messages, its answers, and what can be done to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from kept.cli.saved_chat import Saved, SavedChat
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
        self,
        llm: LLM,
        params: SamplingParams,
        cache_options: CacheOptions,
        system: str | None,
        saved: SavedChat | None = None,
        *,
        resume: bool = False,
        adapter: str | None = None,
    ) -> None:
        """saved: where the conversation is saved after each turn, None: nowhere. resume: go on from
        the one that is there, under its system message where none is given. adapter: what answers
        go through, None: nothing.

        Raises TemplateError if the model has no chat template, or refuses the system message, and
        CacheError where there is nothing to resume.
        """
        found = saved.load() if saved is not None and resume else None
        if found is not None and system is None:
            system = found.system
        self._saved = saved
        self._llm, self._params, self._cache_options = llm, params, cache_options
        self._adapter = adapter
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[tuple[str, str]] = [] if found is None else list(found.turns)
        self._completions: list[Completion] = []  # of the last turns, those of this session
        llm.render_chat(self._messages("Hello"))

    def ask(
        self, text: str, say: Callable[[str], None], think: Callable[[str], None]
    ) -> Completion:
        """Answer, handing what is said to `say` and what is thought before it to `think`, which
        has no part in the completion's text and in the turns to come. After Ctrl-C the text so far
        is the answer.

        A turn that was interrupted before any text leaves no trace. Raises as `LLM.chat_stream`,
        the conversation unchanged.
        """
        from kept.cli.told_apart import ToldApart

        messages = self._messages(text)
        told = ToldApart(self._llm, messages, self._params, say=say, think=think)
        stream = self._llm.chat_stream(
            messages,
            told.marked(self._params),
            cache_options=self._cache_options,
            adapter=self._adapter,
        )
        try:
            completion = show(stream, told.add)
        finally:
            told.finish()
        completion = replace(completion, text=told.content)
        if completion.finish_reason != "interrupted" or completion.text:
            self._turns.append((text, completion.text))
            self._completions.append(completion)
            self._save()
        return completion

    @property
    def num_turns(self) -> int:
        """How many questions were answered, before this session too."""
        return len(self._turns)

    def undo(self) -> bool:
        """Drop the last question and its answer; returns whether there was one."""
        if not self._turns:
            return False
        self._turns.pop()
        if self._completions:
            self._completions.pop()
        self._save()
        return True

    def reset(self) -> None:
        """Drop everything but the system message, and the cache."""
        self._turns.clear()
        self._completions.clear()
        self._save()
        self._llm.forget()

    def stats(self) -> str:
        """A row for each turn: tokens that were cached, read and written, and times."""
        if not self._completions:
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
            for number, c in enumerate(
                self._completions, len(self._turns) - len(self._completions) + 1
            )
        ]
        return table(header, rows)

    def _messages(self, text: str) -> list[dict[str, str]]:
        messages = list(self._system)
        for question, answer in self._turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": text}]

    def _save(self) -> None:
        if self._saved is not None:
            system = self._system[0]["content"] if self._system else None
            self._saved.save(Saved(system, tuple(self._turns)))
