"""What form an answer has to have, by OpenAI's and vLLM's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from kept.errors import OptionError
from kept.grammar import Grammar
from kept.serve.refusal import Refusal, not_done

MAX_CHOICES: Final = 1024
MAX_GRAMMAR: Final = 128 << 10  # characters
OBJECT: Final[dict[str, Any]] = {"type": "object"}  # a schema of any object

GrammarText = Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR)]
Choices = Annotated[list[GrammarText], Field(min_length=1, max_length=MAX_CHOICES)]
Schema = dict[str, Any] | bool | GrammarText


class NamedSchema(BaseModel):
    """A JSON schema, and what it is called."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(max_length=1024)] | None = None
    description: str | None = None
    content: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None  # it is kept to whatever this says


class ResponseFormat(BaseModel):
    """What form the answer has to have, by OpenAI's name."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: str
    json_schema: NamedSchema | None = None

    def grammar(self) -> tuple[Grammar, str] | None:
        """What it comes to, and the field that says so; None: any text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return made(Grammar.json_schema, OBJECT, "response_format")
        if self.type != "json_schema":
            raise not_done("response_format.type", "is none of text, json_object and json_schema")
        if self.json_schema is None:
            raise not_done("response_format.json_schema", "is missing; give it, with its schema")
        label = "response_format.json_schema.schema"
        return made(Grammar.json_schema, self.json_schema.content, label)


class StructuredOutputs(BaseModel):
    """The same by vLLM's name."""

    model_config = ConfigDict(extra="forbid", strict=True)
    content: Schema | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: GrammarText | None = None
    choice: Choices | None = None
    grammar: GrammarText | None = None


def grammar_of(
    response_format: ResponseFormat | None,
    structured: StructuredOutputs | None,
    guided: dict[str, Any],
) -> tuple[Grammar, str] | None:
    """The one grammar that fields of a request ask for, and the name of the field.

    guided: vLLM's older fields by name, None: not given. Raises Refusal for more than one of all.
    """
    given = {name: value for name, value in guided.items() if value is not None}
    if structured is not None:
        for name, value in structured:
            if value is not None and value is not False:
                wire = "json" if name == "content" else name
                given[f"structured_outputs.{wire}"] = value
    found = [_of(name, value) for name, value in given.items()]
    if response_format is not None and (asked := response_format.grammar()) is not None:
        found.append(asked)
    if len(found) > 1:
        raise not_done(found[1][1], f"and {found[0][1]} both say what the answer has to be")
    return found[0] if found else None


def _of(name: str, value: Any) -> tuple[Grammar, str]:
    kind = name.removeprefix("structured_outputs.").removeprefix("guided_")
    if kind == "json":
        return made(Grammar.json_schema, value, name)
    if kind == "json_object":
        return made(Grammar.json_schema, OBJECT, name)
    if kind == "regex":
        return made(Grammar.regex, value, name)
    if kind == "choice":
        return made(Grammar.choice, value, name)
    return made(Grammar.lark, value, name)


def made(make: Callable[[Any, str], Grammar], value: Any, label: str) -> tuple[Grammar, str]:
    """A grammar and the field that asks for it. Raises Refusal for one that cannot be kept to."""
    try:
        return make(value, label), label
    except OptionError as error:
        raise Refusal(str(error), 400, "invalid_value", label) from error
