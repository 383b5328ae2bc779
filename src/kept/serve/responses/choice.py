"""`tool_choice` of responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kept.serve.refusal import not_done


@dataclass(frozen=True, slots=True)
class Choice:
    """names: tools that may be called. must_call: one of them has to be. only: this one, once."""

    names: frozenset[str]
    must_call: bool = False
    only: str | None = None


def choice_of(asked: str | dict[str, Any] | None, tools: Sequence[str]) -> Choice:
    """What a request's choice among its tools comes to. Raises Refusal for one it cannot have."""
    known = frozenset(tools)
    if asked in (None, "auto"):
        return Choice(known)
    if asked == "none":
        return Choice(frozenset())
    if asked == "required":
        return _calling(known)
    kind = asked.get("type") if isinstance(asked, dict) else None
    if isinstance(asked, dict) and kind == "function":
        if not isinstance(asked.get("name"), str) or asked["name"] not in known:
            raise not_done("tool_choice.name", "is none of the functions among the tools")
        return Choice(known, True, asked["name"])
    if isinstance(asked, dict) and kind == "allowed_tools":
        return _allowed(asked, known)
    raise not_done(
        "tool_choice",
        "is none of auto, none, required, a function and allowed_tools, which is all there is",
    )


def _allowed(asked: dict[str, Any], known: frozenset[str]) -> Choice:
    mode, listed = asked.get("mode"), asked.get("tools")
    if mode not in ("auto", "required"):
        raise not_done("tool_choice.mode", "is neither auto nor required")
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise not_done("tool_choice.tools", "is no list of tools")
    names = {str(tool.get("name")) for tool in listed if tool.get("type") == "function"}
    if not names <= known:
        raise not_done("tool_choice.tools", "names a function that is none of the tools")
    return _calling(frozenset(names)) if mode == "required" else Choice(frozenset(names))


def _calling(names: frozenset[str]) -> Choice:
    if not names:
        raise not_done("tool_choice", "asks for a call, and there is no function to be called")
    return Choice(names, True)
