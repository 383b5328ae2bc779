"""Text on its way in and out of a model: tokenizer, detokenizer, stop strings, chat templates."""

from kept.text.chat_template import ChatTemplate
from kept.text.detokenizer import IncrementalDetokenizer
from kept.text.stop import StopChecker, StopMatch, check_stop_strings
from kept.text.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "IncrementalDetokenizer",
    "StopChecker",
    "StopMatch",
    "Tokenizer",
    "check_stop_strings",
]
