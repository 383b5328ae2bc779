"""What a text may be: JSON of a schema, a regular expression or a grammar, and masks of it."""

from kept.grammar.ahead import Ahead
from kept.grammar.compiled import Compiled, GrammarCompiler
from kept.grammar.constraint import Constraint, Words, allowed_of
from kept.grammar.grammar import (
    Grammar,
    json_rule,
    read_grammar,
    read_json_schema,
    read_regex,
    regex_rule,
)

__all__ = [
    "Ahead",
    "Compiled",
    "Constraint",
    "Grammar",
    "GrammarCompiler",
    "Words",
    "allowed_of",
    "json_rule",
    "read_grammar",
    "read_json_schema",
    "read_regex",
    "regex_rule",
]
