"""A conversation as the protocols have it, made what a model's chat template takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from kept.answers import AnswerForm, CallStyle, form_of
from kept.text import ChatTemplate

_READS_THINKING: Final = re.compile(r"\bif (not )?thinking\b|(?<![.\w])thinking is (not )?defined")
_TOOLS_OF_SYSTEM: Final = "message['tools']"  # where Phi 4 mini's template finds them


def for_template(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    template: ChatTemplate,
) -> Sequence[Mapping[str, Any]]:
    """The messages with what only this template wants otherwise; they are not changed.

    A developer is a system where the template knows no developers, the arguments of calls are
    objects or text, and what was thought before a call goes by the template's name for it.
    """
    texts = template.templates.values()
    form = form_of(texts)
    if not any("developer" in text for text in texts):
        messages = [_as_system(message) for message in messages]
    given = _as_text if form.takes_text else _as_object
    messages = [_with_arguments(message, given) for message in messages]
    if form.style is CallStyle.HARMONY:
        messages = [_with_one_thought(message) for message in messages]
    if form.style is CallStyle.COMMAND:
        messages = [_with_plan(message) for message in messages]
    shows_calls = any("tool_calls" in text for text in texts)
    if form.style in (CallStyle.PHI, CallStyle.GRANITE) and not shows_calls:
        messages = [_with_calls(message, form) for message in messages]
    if form.style is CallStyle.GLM:
        messages = [each for message in messages for each in _as_metadata(message)]
    if tools and form.style is CallStyle.PHI and any(_TOOLS_OF_SYSTEM in text for text in texts):
        messages = _with_tools(messages, tools)
    return messages


def options_for(options: Mapping[str, Any], template: ChatTemplate) -> dict[str, Any]:
    """What the template reads beside the conversation: whether to think, by the name it has there
    (`thinking` for DeepSeek V3.1 and Granite 3)."""
    found, texts = dict(options), template.templates.values()
    is_known = any("enable_thinking" in text for text in texts)
    if "enable_thinking" in found and not is_known and any(map(_READS_THINKING.search, texts)):
        found.setdefault("thinking", found["enable_thinking"])
    return found


def _with_calls(message: Mapping[str, Any], form: AnswerForm) -> Mapping[str, Any]:
    """Calls as the text they were, for a template that shows an answer's text alone."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple) or not calls:
        return message
    functions = [call.get("function", call) for call in calls if isinstance(call, Mapping)]
    told = [{"name": x.get("name"), "arguments": x.get("arguments", {})} for x in functions]
    closing = "<|/tool_call|>" if form.style is CallStyle.PHI else ""
    text = f"{form.opening}{json.dumps(told, ensure_ascii=False)}{closing}"
    return {**message, "content": f"{message.get('content') or ''}{text}"}


def _as_metadata(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Calls as messages of their own, by a name as metadata, and results as observations."""
    calls = message.get("tool_calls")
    if message.get("role") == "tool":
        yield {**message, "role": "observation"}
        return
    if not isinstance(calls, list | tuple):
        yield message
        return
    if message.get("content"):
        yield {key: value for key, value in message.items() if key != "tool_calls"}
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        arguments = _as_text(function.get("arguments", {}))
        yield {"role": "assistant", "metadata": function.get("name", ""), "content": arguments}


def _with_plan(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is thought before a call is called a plan by Command's templates."""
    plan = message.get("reasoning_content") or message.get("content")
    if not message.get("tool_calls") or not plan or "tool_plan" in message:
        return message
    return {**message, "tool_plan": plan}


def _with_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    """Tools as the text of the first system message, which is made where there is none."""
    functions = [tool.get("function", tool) for tool in tools]
    shown = json.dumps(functions, ensure_ascii=False)
    if not messages or messages[0].get("role") != "system":
        messages = [{"role": "system", "content": ""}, *messages]
    return [{**messages[0], "tools": shown}, *messages[1:]]


def _as_system(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A developer's message for a template that knows only the older name of it."""
    return {**message, "role": "system"} if message.get("role") == "developer" else message


def _with_one_thought(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message that thinks, says something and calls for a template that takes what comes before
    a call as thoughts, and refuses to be given it under two names."""
    thought = message.get("reasoning_content")
    if not (thought and message.get("content") and message.get("tool_calls")):
        return message
    return {**message, "reasoning_content": f"{thought}\n{message['content']}", "content": ""}


def _with_arguments(message: Mapping[str, Any], given: Callable[[Any], Any]) -> Mapping[str, Any]:
    """A message with the arguments of its calls as its template takes them."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple):
        return message
    return {**message, "tool_calls": [_with_argument(call, given) for call in calls]}


def _with_argument(call: Any, given: Callable[[Any], Any]) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    return {**call, "function": {**function, "arguments": given(function["arguments"])}}


def _as_object(arguments: Any) -> Any:
    """What is no object of JSON stays the text it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
