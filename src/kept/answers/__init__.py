"""What an answer is made of: reasoning, content and calls of tools, told apart as it is written."""

from kept.answers.forced import forced_calls, reasoned
from kept.answers.form import AnswerForm, CallStyle, form_of
from kept.answers.harmony import HarmonyParser
from kept.answers.parser import AnswerParser
from kept.answers.parsers import Parser, parser_of
from kept.answers.parts import Arguments, CallBegun, Content, Message, Part, Reasoning, ToolCall
from kept.answers.rules import Tool
from kept.answers.strict import strict_calls

__all__ = [
    "AnswerForm",
    "AnswerParser",
    "Arguments",
    "CallBegun",
    "CallStyle",
    "Content",
    "HarmonyParser",
    "Message",
    "Parser",
    "Part",
    "Reasoning",
    "Tool",
    "ToolCall",
    "forced_calls",
    "form_of",
    "parser_of",
    "reasoned",
    "strict_calls",
]
