"""What a user holds: `LLM`, its streams and its results."""

from kept.llm.generation import Generation
from kept.llm.llm import LLM
from kept.llm.stream import Stream

__all__ = ["LLM", "Generation", "Stream"]
