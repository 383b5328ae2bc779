"""What an answer is made of: reasoning, content and calls of tools, told apart as it is written."""

from kept.answers.forced import Tool, forced_calls, reasoned
from kept.answers.form import AnswerForm, CallStyle, form_of
from kept.answers.parser import AnswerParser
from kept.answers.parts import Arguments, CallBegun, Content, Message, Part, Reasoning, ToolCall
from kept.answers.strict import strict_calls

__all__ = [
    "AnswerForm",
    "AnswerParser",
    "Arguments",
    "CallBegun",
    "CallStyle",
    "Content",
    "Message",
    "Part",
    "Reasoning",
    "Tool",
    "ToolCall",
    "forced_calls",
    "form_of",
    "reasoned",
    "strict_calls",
]
