"""An answer's text to its parts, as it comes; never is a part taken back.

What the parts are does not depend on how the text was cut into pieces: it is looked at a character
at a time, and what may be the beginning of a mark is held back until it is certain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Final

from kept.answers.call_object import CallObject, Nesting, State
from kept.answers.deepseek import DeepSeekCalls
from kept.answers.form import AnswerForm, CallStyle
from kept.answers.listed import ListedCalls
from kept.answers.named import NamedCalls
from kept.answers.parts import Arguments, CallBegun, Content, Part, Reasoning, merged
from kept.answers.section import Section, SectionReader

_BARE: Final = (CallStyle.LLAMA, CallStyle.JSON)  # a call may be the whole answer, without a mark
_SECTIONS: Final[dict[CallStyle, SectionReader]] = {
    CallStyle.DEEPSEEK: DeepSeekCalls,
    CallStyle.DEEPSEEK_V31: DeepSeekCalls,
    CallStyle.PHI: partial(ListedCalls, closing="<|/tool_call|>"),
    CallStyle.GRANITE: ListedCalls,
    CallStyle.COMMAND: partial(ListedCalls, closing="<|END_ACTION|>"),
}
_NAMED: Final = re.compile(r"\[TOOL_CALLS\]\s*([\w.-]{1,256})(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*")
_MOST_NAME: Final = 512
_CLOSING: Final = "</tool_call>"


class AnswerParser:
    """Tells reasoning, content and calls of one answer apart.

    A call that is malformed is content, marks and all: nothing of a text is lost but the marks
    around what was understood, and white space at the edges of reasoning and around calls.
    """

    def __init__(
        self, form: AnswerForm, tools: Collection[str] = (), *, in_reasoning: bool = False
    ) -> None:
        """tools: the names of those that may be called; without any, calls are content.
        in_reasoning: the prompt has opened the reasoning; see `AnswerForm.opens_reasoning`."""
        self._form, self._tools = form, frozenset(tools)
        self._opening = form.opening if tools else None
        self._call: CallObject | None = None
        self._section: Section | None = None
        # The mark around content that may come next, and whether it is the closing one.
        self._is_around = form.in_response
        self._around = form.response[self._is_around] if form.response is not None else None
        self._arguments: Nesting | None = None
        self._held = ""  # perhaps the beginning of a mark, or white space that may be dropped
        self._raw = ""  # the mark of a call that has not been understood yet, and what follows
        self._has_content = False
        self._begins_line = form.style is CallStyle.GLM and not form.in_response
        # As at the beginning of reasoning, and behind it:
        self._drops_space = in_reasoning or self._begins_line
        self.num_calls = 0  # that have begun
        self._num_read = self._num_reasoned = 0  # characters
        self._read: Callable[[str], Iterator[Part]] = self._at_start
        if in_reasoning:
            self._read = self._in_reasoning
        elif form.reasoning is None:
            self._read = self._in_content

    @property
    def reasoned(self) -> int:
        """How many characters of the text so far are its reasoning, the marks and what is before
        them included."""
        return self._num_read if self._read == self._in_reasoning else self._num_reasoned

    def add(self, text: str) -> list[Part]:
        """Take the next piece of text, give what is certain now."""
        return merged(self._add(text))

    def _add(self, text: str) -> Iterator[Part]:
        for character in text:
            self._num_read += 1
            yield from self._read(character)

    def finish(self) -> list[Part]:
        """Say that no more text comes, and give the rest."""
        return merged(self._finish())

    def _finish(self) -> Iterator[Part]:
        rest, self._held = self._held, ""
        if self._read == self._in_reasoning:
            if rest.strip():
                yield Reasoning(rest)
        elif self._section is not None:
            if text := self._section.rest():
                yield Content(text)
        elif self._read == self._behind_call:
            if rest.strip(" \t\r\n;,") and not _CLOSING.startswith(rest.strip()):
                yield Content(rest)
        else:
            undecided = self._call is not None and self._call.state is State.OPEN
            text = self._raw + (self._call.raw if undecided and self._call else "") + rest
            if text.strip() or (text and not self.num_calls and not self._drops_space):
                yield Content(text)

    def _at_start(self, character: str) -> Iterator[Part]:
        assert self._form.reasoning is not None, "only with reasoning is the start a state"
        self._held += character
        mark = self._form.reasoning[0]
        begun = self._held.lstrip()
        if begun == mark:
            self._held, self._drops_space, self._read = "", True, self._in_reasoning
        elif not mark.startswith(begun):
            yield from self._again(self._in_content)

    def _in_reasoning(self, character: str) -> Iterator[Part]:
        assert self._form.reasoning is not None, "only with reasoning is it a state"
        self._held += character
        if self._held.lstrip() == self._form.reasoning[1]:
            self._num_reasoned = self._num_read
            self._held, self._drops_space, self._read = "", True, self._in_content
        elif text := self._let_go(self._form.reasoning[1]):
            yield Reasoning(text)

    def _in_content(self, character: str) -> Iterator[Part]:
        if self._begins_line and self._tools:
            self._begins_line = False
            self._section, self._read = NamedCalls(self._tools, self.num_calls), self._in_section
            yield from self._in_section(character)
            return
        self._held += character
        found = self._held.lstrip()
        begins = found == "{" and not self._has_content
        if found == self._opening and self._form.style in _SECTIONS:
            reader = _SECTIONS[self._form.style]
            self._section, self._read = reader(self._held, self.num_calls), self._in_section
            self._held = ""
        elif found == self._opening:
            self._raw, self._held, self._read = self._held, "", self._behind_mark
        elif found and found == self._around and (not self._has_content or self._is_around):
            self._held, self._drops_space = "", not self._is_around
            self._is_around = not self._is_around
            closing = self._form.response[1] if self._form.response else None
            self._around = closing if self._is_around else None
        elif begins and self._tools and self._form.style in _BARE:
            self._raw, self._held = self._held[:-1], ""
            yield from self._begin_call(character)
        elif text := self._let_go(self._opening, self._around):
            self._has_content = True
            yield Content(text)

    def _in_section(self, character: str) -> Iterator[Part]:
        section = self._section
        assert section is not None, "a mark has opened it"
        yield from section.see(character)
        self.num_calls = section.num_calls
        if section.state in (State.DONE, State.NO_CALL):
            self._section, self._read = None, self._in_content
        if section.state is State.NO_CALL:
            self._raw = section.raw
            yield from self._fail("")

    def _behind_mark(self, character: str) -> Iterator[Part]:
        """Behind what announces a call: the object, a list of them, or a name."""
        is_mistral = self._form.style is CallStyle.MISTRAL
        if character == "{" and (not is_mistral or self._raw.strip().endswith(("[", ","))):
            yield from self._begin_call(character)
        elif character == "[" and self._form.style is CallStyle.HERMES:
            self._section = ListedCalls(self._raw, self.num_calls, closing=_CLOSING)
            self._raw, self._read = "", self._in_section
            yield from self._in_section(character)
        elif character.isspace() or (
            is_mistral and character == "[" and self._raw.strip() == self._opening
        ):
            self._raw += character
        elif is_mistral and self._raw.strip() == self._opening:
            yield from self._again(self._in_name, character)
        else:
            yield from self._fail(character)

    def _in_name(self, character: str) -> Iterator[Part]:
        found = _NAMED.fullmatch(self._raw.lstrip()) if character == "{" else None
        if found is not None:
            self._raw, self._arguments, self._read = "", Nesting(), self._in_arguments
            yield CallBegun(self.num_calls, found[1])
            self.num_calls += 1
            yield from self._in_arguments(character)
        elif character in "{\n" or len(self._raw) > _MOST_NAME:
            yield from self._fail(character)
        else:
            self._raw += character

    def _in_arguments(self, character: str) -> Iterator[Part]:
        assert self._arguments is not None, "a name comes first"
        self._arguments.see(character)
        yield Arguments(self.num_calls - 1, character)
        if self._arguments.is_broken or not self._arguments.depth:
            self._read = self._in_content

    def _begin_call(self, character: str) -> Iterator[Part]:
        self._call, self._read = CallObject(self.num_calls), self._in_call
        yield from self._in_call(character)

    def _in_call(self, character: str) -> Iterator[Part]:
        assert self._call is not None, "a call has begun"
        parts = list(self._call.see(character))
        is_bare = self._form.style in _BARE and not self._raw.strip()
        names = [part.name for part in parts if isinstance(part, CallBegun)]
        if is_bare and not self._tools.issuperset(names):  # an object that looks like a call
            self._call.state, parts, names = State.NO_CALL, [], []
        if names:
            self.num_calls += 1
            self._raw = ""
        yield from parts
        if self._call.state is State.NO_CALL:
            self._raw, self._call = self._raw + self._call.raw, None
            yield from self._fail("")
        elif self._call.state is State.DONE:
            rest, self._call, self._read = self._call.rest, None, self._behind_call
            for each in rest:
                yield from self._read(each)

    def _behind_call(self, character: str) -> Iterator[Part]:
        self._held += character
        rest, style = self._held.strip(), self._form.style
        if style is CallStyle.HERMES:
            if rest == _CLOSING:
                self._held, self._read = "", self._in_content
            elif not _CLOSING.startswith(rest):
                yield from self._again(self._in_content)
        elif style is CallStyle.MISTRAL and rest in (",", "]"):
            self._raw = self._held if rest == "," else ""
            self._read = self._behind_mark if rest == "," else self._in_content
            self._held = ""
        elif (style is not CallStyle.MISTRAL and rest in ("{", ";{", ",{")) or (
            rest[1:].strip() == "{" and rest[0] in ";,"
        ):
            self._held = ""
            yield from self._begin_call("{")
        elif rest and (style is CallStyle.MISTRAL or rest not in (";", ",")):
            yield from self._again(self._in_content)

    def _let_go(self, *marks: str | None) -> str:
        """What of the text held back can be none of a mark, nor of the space before it."""
        shown = ""
        while rest := self._held.lstrip():
            if any(mark is not None and mark.startswith(rest) for mark in marks):
                break
            count = len(self._held) - len(rest) + 1
            skipped = count - 1 if self._drops_space else 0
            shown += self._held[skipped:count]
            self._held, self._drops_space = self._held[count:], False
        if self._drops_space and not rest:
            self._held = ""
        return shown

    def _fail(self, character: str) -> Iterator[Part]:
        """What looked like a call is content."""
        text, self._raw, self._read = self._raw, "", self._in_content
        self._has_content = True
        if self._drops_space:
            text, self._drops_space = text.lstrip(), False
        yield Content(text)
        if character:
            yield from self._read(character)

    def _again(self, read: Callable[[str], Iterator[Part]], character: str = "") -> Iterator[Part]:
        """Look at what was held back, and a character, as at the text of another state."""
        self._read, text, self._held = read, self._held + character, ""
        for each in text:
            yield from self._read(each)
