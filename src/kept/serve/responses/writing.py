"""The items of a response while they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from kept.answers import Arguments, CallBegun, Content, Part, Reasoning
from kept.entropy import random_name
from kept.sampling import TokenLogprobs
from kept.serve.openai.logprobs import chat_logprobs
from kept.serve.responses.item_events import CALL, PARTS, Told, closing, delta, opening
from kept.text import Tokenizer

_IDS: Final = {"message": "msg", "reasoning": "rs", CALL: "fc"}


class Writing:
    """Takes the parts of an answer, and gives the events of its items.

    output: the items so far. Log-probabilities are told of tokens that spell a message alone.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._is_open = tokenizer, False
        self._drawn: list[TokenLogprobs] = []  # of tokens whose text has not come yet
        self.output: list[dict[str, Any]] = []

    def add(self, parts: Iterable[Part], drawn: Sequence[TokenLogprobs] = ()) -> Told:
        """The events of more parts. drawn: the tokens that they are of, or those that follow."""
        self._drawn += drawn
        for part in parts:
            match part:
                case Content(text):
                    yield from self._say(text)
                case Reasoning(text):
                    self._drawn.clear()
                    if not self._continues("reasoning"):
                        yield from self._open("reasoning", summary=[])
                    self.output[-1]["content"][0]["text"] += text
                    yield self._delta(text)
                case CallBegun(_, name):
                    self._drawn.clear()
                    call_id = f"call_{random_name(12)}"
                    yield from self._open(CALL, call_id=call_id, name=name, arguments="")
                case Arguments(_, text):
                    self._drawn.clear()
                    self.output[-1]["arguments"] += text
                    yield self._delta(text)

    def close(self, status: str = "completed") -> Told:
        """The events of the end of the item that is open, if any is."""
        if self._drawn and self._continues("message"):
            yield from self._say("")
        self._drawn.clear()
        if self._is_open:
            self._is_open = False
            self.output[-1]["status"] = status
            yield from closing(self.output[-1], len(self.output) - 1)

    def _say(self, text: str) -> Told:
        drawn, self._drawn = self._drawn, []
        if not self._continues("message"):
            yield from self._open("message", role="assistant")
        logprobs = list(chat_logprobs(self._tokenizer, drawn)["content"])
        part = self.output[-1]["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._delta(text, logprobs=logprobs)

    def _open(self, kind: str, **more: Any) -> Told:
        yield from self.close()
        self._is_open = True
        item = {"id": f"{_IDS[kind]}_{random_name(16)}", "type": kind, **more}
        item["status"] = "in_progress"
        if kind in PARTS:
            said: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "message" else {}
            item["content"] = [{"type": PARTS[kind], "text": "", **said}]
        self.output.append(item)
        yield from opening(item, len(self.output) - 1)

    def _continues(self, kind: str) -> bool:
        return self._is_open and bool(self.output[-1]["type"] == kind)

    def _delta(self, text: str, **more: Any) -> tuple[str, dict[str, Any]]:
        return delta(self.output[-1], len(self.output) - 1, text, **more)
