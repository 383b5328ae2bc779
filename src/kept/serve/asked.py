"""What a request of any protocol comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from kept.sampling import SamplingParams
from kept.serve.tenants import NOBODY, Tenant

SMALL: Final = 2048  # tokens, or characters with their template
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation to be put through the checkpoint's chat template.

    messages: as the template takes them, where they stand. tools: JSON schemas of functions.
    template_options: what else the template reads. goes_on: the answer goes on with the last
    message instead of beginning one. begins_answer: the prompt ends where an answer begins.
    must_call: the answer has to call a tool, several perhaps where `in_parallel`; only_tool: this
    one, once. tool_fields: what the wire calls the schema of each tool's arguments, for errors.
    strict_tools: the names of those whose schema is kept to whenever they are called.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    goes_on: bool = False
    begins_answer: bool = True
    must_call: bool = False
    only_tool: str | None = None
    in_parallel: bool = True
    tool_fields: tuple[str, ...] = ()
    strict_tools: frozenset[str] = frozenset()


Prompt = Chat | str | tuple[int, ...]  # or a text, or token ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, whichever protocol it came by.

    prompts: each is answered by `params.num_return_sequences` texts; text i of prompt p has the
    index p * num_return_sequences + i in all events. params: how; where a field is None, the
    checkpoint's settings decide. max_new_tokens None: up to the end of the context.
    stop_token_ids: end a text beside the tokens that do anyway. tenant: whose it is. priority:
    higher goes first, always. retain: for how many seconds after its end its keys count as used.
    timeout: seconds from now after which nobody wants it, None: never.
    interactive: somebody reads along. wants_progress: say how far the prompt is read. fields: what
    the wire calls fields of `params`, for errors. grammar_field: what it calls the one that holds
    the grammar. adapter: which of the model's the texts go through, None: none. src_lang, tgt_lang:
    the languages of prompts and texts, see `LLM.generate`.
    """

    prompts: tuple[Prompt, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    stop_token_ids: tuple[int, ...] = ()
    tenant: Tenant = NOBODY
    priority: int = 0
    retain: float = 0.0
    timeout: float | None = None
    interactive: bool = False
    wants_progress: bool = False
    fields: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    grammar_field: str | None = None
    adapter: str | None = None
    src_lang: str | None = None
    tgt_lang: str | None = None

    @property
    def num_texts(self) -> int:
        """How many texts it asks for."""
        return len(self.prompts) * (self.params.num_return_sequences or 1)

    @property
    def num_characters(self) -> int:
        """Of all prompts together, as they were given; those of token ids have none."""
        return sum(map(characters_of, self.prompts))

    @property
    def is_small(self) -> bool:
        """Whether reading it takes a millisecond or two: one short prompt, and no grammar."""
        [first, *others] = self.prompts
        params = self.params
        if others or params.json_schema or params.regex or params.grammar:
            return False
        if isinstance(first, Chat) and (first.must_call or first.strict_tools):
            return False
        length = len(first) if isinstance(first, tuple) else characters_of(first)
        return length <= SMALL


def characters_of(prompt: Prompt) -> int:
    """As it was given, what the template reads included; token ids have none."""
    if isinstance(prompt, str):
        return len(prompt)
    if not isinstance(prompt, Chat):
        return 0
    found = 0
    waiting: list[Any] = [prompt.messages, prompt.tools, prompt.template_options]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            found += len(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
    return found
