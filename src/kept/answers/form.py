"""How a model's answers mark their parts, as its chat template's own text tells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Final

from kept.answers.deepseek import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, SEPARATOR


class CallStyle(Enum):
    """How calls of tools are written.

    HERMES: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Qwen 2.5 and 3, Hermes),
    or a list of such objects.
    MISTRAL: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, and
    `[TOOL_CALLS]name[ARGS]{...}` of the later ones.
    LLAMA: `{"name": ..., "parameters": {...}}` as the whole answer, perhaps behind
    `<|python_tag|>` (Llama 3.1 and 3.2).
    HARMONY: a message of its own on the channel commentary, see `HarmonyParser` (gpt-oss).
    DEEPSEEK: `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, the arguments
    fenced behind it, `<｜tool▁call▁end｜>`, more of them, `<｜tool▁calls▁end｜>` (V3, R1).
    DEEPSEEK_V31: the same without kind and fence, the name before `<｜tool▁sep｜>` (V3.1).
    PHI: `<|tool_call|>[{"name": ..., "arguments": {...}}, ...]<|/tool_call|>` (Phi 4 mini).
    GRANITE: the same without a mark at the end (Granite 3).
    COMMAND: `<|START_ACTION|>[{"tool_call_id": ..., "tool_name": ..., "parameters": {...}}, ...]
    <|END_ACTION|>` (Command R7B, A).
    GLM: a tool's name as the first line of the answer and its arguments behind it (GLM-4-0414).
    JSON: an object with name and arguments as the whole answer; of templates that say nothing.
    """

    HERMES = "hermes"
    MISTRAL = "mistral"
    LLAMA = "llama"
    HARMONY = "harmony"
    DEEPSEEK = "deepseek"
    DEEPSEEK_V31 = "deepseek-v3.1"
    PHI = "phi"
    GRANITE = "granite"
    COMMAND = "command"
    GLM = "glm"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The marks of a model's answers.

    style: of its calls. reasoning: what stands around its reasoning, None: it has none.
    takes_tools: whether its template shows the model what tools there are. takes_text: whether it
    wants the arguments of calls as the text they are, and objects are nothing to it. response: what
    may stand around content, and is none of it. in_response: the answer begins within that, or
    within content that begins with a line break (GLM).
    """

    style: CallStyle = CallStyle.JSON
    reasoning: tuple[str, str] | None = None
    takes_tools: bool = False
    takes_text: bool = False
    response: tuple[str, str] | None = None
    in_response: bool = False

    @property
    def opening(self) -> str | None:
        """What comes before a call, None: the answer begins with it."""
        return _OPENINGS[self.style]

    @property
    def marks(self) -> tuple[str, ...]:
        """Every mark there may be, which a tokenizer may hold for special tokens."""
        around = (*(self.reasoning or ()), *(self.response or ()))
        found = (self.opening, *_INNER[self.style], *around)
        return tuple(mark for mark in found if mark is not None)

    @property
    def ends(self) -> tuple[str, ...]:
        """The tokens that end an answer whatever a checkpoint's settings say, where an answer in
        the template's own words does not show them all."""
        return _ENDS.get(self.style, ())

    @property
    def within_content(self) -> AnswerForm:
        """The form of an answer that goes on with content that the prompt has begun."""
        is_around = self.style is CallStyle.COMMAND and self.response is not None
        is_around = is_around or self.style is CallStyle.GLM
        return replace(self, reasoning=None, in_response=is_around)

    @property
    def is_plain(self) -> bool:
        """Whether an answer is content and nothing else where no tools may be called."""
        no_marks = self.reasoning is None and self.response is None
        return no_marks and self.style not in (CallStyle.HARMONY, CallStyle.GLM)

    def behind(self, prompt: str) -> AnswerForm:
        """The form of the answer to a prompt that ends so: its reasoning may be over by then."""
        return replace(self, reasoning=None) if self.closes_reasoning(prompt) else self

    def opens_reasoning(self, prompt: str) -> bool:
        """Whether a prompt, or its end, has begun the reasoning that the answer goes on with."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning[0])

    def closes_reasoning(self, prompt: str) -> bool:
        """Whether a prompt, or its end, has left no place for reasoning in the answer."""
        if self.style is CallStyle.HARMONY:
            return prompt.rstrip().endswith("<|channel|>final<|message|>")
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning[1])


_OPENINGS: Final = {
    CallStyle.HERMES: "<tool_call>",
    CallStyle.MISTRAL: "[TOOL_CALLS]",
    CallStyle.LLAMA: "<|python_tag|>",
    CallStyle.HARMONY: "<|channel|>",
    CallStyle.DEEPSEEK: CALLS_BEGIN,
    CallStyle.DEEPSEEK_V31: CALLS_BEGIN,
    CallStyle.PHI: "<|tool_call|>",
    CallStyle.GRANITE: "<|tool_call|>",
    CallStyle.COMMAND: "<|START_ACTION|>",
    CallStyle.GLM: None,
    CallStyle.JSON: None,
}
_DEEPSEEK: Final = (CALL_BEGIN, SEPARATOR, CALL_END, CALLS_END)
_INNER: Final[dict[CallStyle, tuple[str, ...]]] = {
    CallStyle.HERMES: ("</tool_call>",),
    CallStyle.MISTRAL: ("[ARGS]", "[CALL_ID]"),
    CallStyle.LLAMA: (),
    CallStyle.HARMONY: ("<|start|>", "<|message|>", "<|constrain|>", "<|end|>"),
    CallStyle.DEEPSEEK: _DEEPSEEK,
    CallStyle.DEEPSEEK_V31: _DEEPSEEK,
    CallStyle.PHI: ("<|/tool_call|>",),
    CallStyle.GRANITE: (),
    CallStyle.COMMAND: ("<|END_ACTION|>",),
    CallStyle.GLM: (),
    CallStyle.JSON: (),
}
_ENDS: Final = {
    CallStyle.HARMONY: ("<|return|>", "<|call|>"),
    CallStyle.GLM: ("<|endoftext|>", "<|user|>", "<|observation|>"),
}
_ANALYSIS: Final = ("<|channel|>analysis<|message|>", "<|end|>")
_REASONING: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_RESPONSES: Final = (
    (CallStyle.COMMAND, ("<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    (CallStyle.COMMAND, ("<|START_TEXT|>", "<|END_TEXT|>")),
    (CallStyle.GRANITE, ("<response>", "</response>")),
)
_WRITES_JSON: Final = re.compile(r"""arg\w*(['"]\])?\s*\)?\s*\|\s*tojson\b""")
_TOOLS: Final = re.compile(r"\btools\b")


def form_of(templates: Iterable[str]) -> AnswerForm:
    """The form of the answers to prompts of some chat templates, all of one model."""
    return _form_of("\n".join(templates))


@lru_cache(maxsize=8)  # each request asks, and a server has a model or two
def _form_of(text: str) -> AnswerForm:
    takes_tools = bool(_TOOLS.search(text))
    if "<|channel|>" in text:
        return AnswerForm(CallStyle.HARMONY, _ANALYSIS, takes_tools)
    if CALLS_BEGIN in text:
        style = CallStyle.DEEPSEEK if "```json" in text else CallStyle.DEEPSEEK_V31
    elif "<|observation|>" in text and "metadata" in text:
        style = CallStyle.GLM
    elif "<|START_ACTION|>" in text:
        style = CallStyle.COMMAND
    elif "<|tool_call|>" in text or "<|tool|>" in text:
        style = CallStyle.PHI if "<|tool|>" in text else CallStyle.GRANITE
    elif "<tool_call>" in text:
        style = CallStyle.HERMES
    elif "[TOOL_CALLS]" in text:
        style = CallStyle.MISTRAL
    elif "<|python_tag|>" in text or re.search(r'\\?"parameters\\?":', text):
        style = CallStyle.LLAMA
    else:
        style = CallStyle.JSON
    reasoning = next((pair for pair in _REASONING if pair[1] in text), None)
    joins = style in (CallStyle.DEEPSEEK, CallStyle.DEEPSEEK_V31)
    takes_text = joins and not _WRITES_JSON.search(text)
    response = next((pair for x, pair in _RESPONSES if x is style and pair[1] in text), None)
    return AnswerForm(style, reasoning, takes_tools, takes_text, response)
