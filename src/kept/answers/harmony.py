"""The answers of gpt-oss: messages on channels, which tell reasoning, content and calls apart.

A message is `<|start|>HEADER<|message|>BODY<|end|>`; the first of an answer begins behind the
`<|start|>assistant` of the prompt, and `<|return|>` or `<|call|>` ends the last. A header names
the channel and, of a call, whom it goes to: `assistant<|channel|>commentary to=functions.NAME
<|constrain|>json`, or `assistant to=functions.NAME<|channel|>commentary json`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from kept.answers.call_object import Nesting
from kept.answers.form import AnswerForm
from kept.answers.parts import Arguments, CallBegun, Content, Part, Reasoning, merged

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
CONSTRAIN: Final = "<|constrain|>"
END: Final = "<|end|>"
ENDS: Final = (END, "<|return|>", "<|call|>")
ROLE: Final = "assistant"
_MOST_HEADER: Final = 512  # characters that are held back to see whether they are one
_TO: Final = r"(?:to=([^\s<]*)\s*)?"


def _beginnings(marks: Iterable[str]) -> str:
    found = {mark[:end] for mark in marks for end in range(1, len(mark))}
    return "|".join(map(re.escape, sorted(found)))


_CHANNEL: Final = (
    rf"(?:{re.escape(CHANNEL)}\s*(\w*)\s*{_TO}(?:{re.escape(CONSTRAIN)})?\s*[\w.-]*\s*)?"
)
_REST: Final = rf"\s*{_TO}{_CHANNEL}"
_HEADER: Final = re.compile(_REST + re.escape(MESSAGE))
_BEGUN: Final = re.compile(
    rf"{_REST}(?:t|to|{_beginnings((CHANNEL, CONSTRAIN, MESSAGE))}|{re.escape(MESSAGE)})?"
)


class HarmonyParser:
    """Tells reasoning (analysis), content (final, and commentary to nobody) and calls apart.

    As `AnswerParser`, which see: it reads a character at a time, and what is malformed is content
    with its marks. Between messages of one kind there is a line break. A call is one of
    `functions`, or of a tool by its whole name, and its body begins as an object does; its
    arguments end with the object, so that a mark within a string of it is none.
    """

    def __init__(
        self, form: AnswerForm, tools: Collection[str] = (), *, in_reasoning: bool = False
    ) -> None:
        """form: one without reasoning is of an answer that begins within its content. tools,
        in_reasoning: as for `AnswerParser`."""
        self._tools = frozenset(tools)
        self._kind: type[Reasoning] | type[Content] = Reasoning if in_reasoning else Content
        self._last: type[Part] | None = None  # the kind of the last part
        self._breaks = False  # a message has ended, and the next has said nothing yet
        self._raw = ""  # of a header: what it is behind, a part of the text that is not understood
        self._role = ROLE  # of a header: what the prompt has begun it with
        self._held = ""  # a header, white space, or perhaps the beginning of a mark
        self._name: str | None = None  # of a call
        self._arguments = Nesting()
        self.num_calls = 0  # that have begun
        self._num_read = self._num_reasoned = 0  # characters
        self._read: Callable[[str], Iterator[Part]] = self._in_header
        if in_reasoning or form.reasoning is None:
            self._read = self._in_body

    @property
    def reasoned(self) -> int:
        """How many characters of the text so far are its reasoning: those to the end of the last
        thought, the marks and what is before them included."""
        thinks = self._read == self._in_body and self._kind is Reasoning
        return self._num_read if thinks else self._num_reasoned

    def add(self, text: str) -> list[Part]:
        """Take the next piece of text, give what is certain now."""
        return merged(self._add(text))

    def _add(self, text: str) -> Iterator[Part]:
        for character in text:
            self._num_read += 1
            yield from self._read(character)

    def finish(self) -> list[Part]:
        """Say that no more text comes, and give the rest.

        What there is of a header that names nobody is dropped, as marks are.
        """
        text = self._raw + self._held
        if self._read == self._in_header:
            is_mark = text.startswith((START, CHANNEL)) and "to=" not in text
            return merged(self._say(Content, "" if is_mark else text))
        if self._read == self._in_body:
            return merged(self._say(self._kind, self._held))
        if self._read in (self._between, self._behind_call) and not self._held.strip():
            return []
        return merged(self._say(Content, text))

    def _in_header(self, character: str) -> Iterator[Part]:
        self._held += character
        text = self._role + self._held
        if text == ROLE[: len(text)]:
            return
        rest = text.removeprefix(ROLE)
        if character == ">" and (found := _HEADER.fullmatch(rest)):
            yield from self._begin(found[3] or found[1], found[2])
        elif len(text) > _MOST_HEADER or not _BEGUN.fullmatch(rest):
            text, self._held = self._held, ""
            yield from self._fail(text)

    def _begin(self, recipient: str | None, channel: str | None) -> Iterator[Part]:
        """Begin a message, whose header is what is held."""
        self._raw, self._held, self._role = self._raw + self._held, "", ""
        if recipient:
            name = recipient.removeprefix("functions.")
            is_call = bool(self._tools) and (name != recipient or name in self._tools)
            if is_call and name:
                self._name, self._read = name, self._before_arguments
            else:
                yield from self._fail("")
            return
        self._raw, self._read = "", self._in_body
        self._kind = Reasoning if channel == "analysis" else Content

    def _in_body(self, character: str) -> Iterator[Part]:
        self._held += character
        while self._held and not any(mark.startswith(self._held) for mark in ENDS):
            first, self._held = self._held[0], self._held[1:]
            yield from self._say(self._kind, first)
        if self._held in ENDS:
            if self._kind is Reasoning:
                self._num_reasoned = self._num_read
            self._held, self._read, self._breaks = "", self._between, True

    def _between(self, character: str) -> Iterator[Part]:
        """Behind a message: the next one, whose `<|start|>` and role may be left out."""
        self._held += character
        rest = self._held.lstrip()
        if rest == START:
            self._raw, self._held, self._read = rest, "", self._in_header
        elif rest == CHANNEL:
            self._held, self._read = rest, self._in_header
        elif not START.startswith(rest) and not CHANNEL.startswith(rest):
            text, self._held = self._held, ""
            yield from self._fail(text)

    def _before_arguments(self, character: str) -> Iterator[Part]:
        if character == "{":
            assert self._name is not None, "a header has named it"
            yield CallBegun(self.num_calls, self._name)
            self.num_calls += 1
            self._last, self._raw, self._held = CallBegun, "", ""
            self._arguments, self._read = Nesting(), self._in_arguments
            yield from self._in_arguments(character)
        elif character.isspace():
            self._held += character
        else:
            text, self._held = self._held + character, ""
            yield from self._fail(text)

    def _in_arguments(self, character: str) -> Iterator[Part]:
        self._arguments.see(character)
        yield Arguments(self.num_calls - 1, character)
        if self._arguments.is_broken or not self._arguments.depth:
            self._read = self._behind_call

    def _behind_call(self, character: str) -> Iterator[Part]:
        self._held += character
        rest = self._held.lstrip()
        if rest in ENDS:
            self._held, self._read = "", self._between
        elif not any(mark.startswith(rest) for mark in ENDS):
            text, self._held = self._held, ""
            yield from self._fail(text)

    def _fail(self, text: str) -> Iterator[Part]:
        """What is no message is content, and what follows to the next mark that ends one."""
        whole, self._raw, self._role = self._raw + text, "", ""
        self._kind, self._read = Content, self._in_body
        for each in whole:
            yield from self._read(each)

    def _say(self, kind: type[Reasoning] | type[Content], text: str) -> Iterator[Part]:
        if not text:
            return
        if self._breaks and self._last is kind:
            text = f"\n{text}"
        self._breaks, self._last = False, kind
        yield kind(text)
