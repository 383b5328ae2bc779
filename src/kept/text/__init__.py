"""Text on its way in and out of a model: tokenizer, detokenizer, stop strings, chat templates."""

from kept.text.chat_template import ChatTemplate
from kept.text.detokenizer import IncrementalDetokenizer
from kept.text.finding import find_tokenizer
from kept.text.gguf_tokenizer import gguf_tokenizer
from kept.text.languages import Languages, find_language_option
from kept.text.spelling import Spelling, ends_in_stop
from kept.text.stop import StopChecker
from kept.text.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "IncrementalDetokenizer",
    "Languages",
    "Spelling",
    "StopChecker",
    "Tokenizer",
    "ends_in_stop",
    "find_language_option",
    "find_tokenizer",
    "gguf_tokenizer",
]
