"""Calls whose object is not closed behind its arguments: what follows is told as if it were."""

import pytest

from kept.answers import AnswerForm, AnswerParser, CallStyle, Message

CALL, MORE = '{"name": "f", "arguments": {"a": 1}', ', "id": "}"}'
ACTION = '{"tool_name": "f", "parameters": {"a": 1}'


def read(style: CallStyle, text: str) -> Message:
    parser, found = AnswerParser(AnswerForm(style), ("f",)), Message()
    for character in text:
        found.add(parser.add(character))
    found.add(parser.finish())
    return found


@pytest.mark.parametrize(
    ("style", "text", "num_calls", "content"),
    [
        ("HERMES", f"<tool_call>{CALL}</tool_call>and", 1, "and"),
        ("HERMES", f"<tool_call>{CALL}\n</tool_call>\n<tool_call>{CALL}}}</tool_call>", 2, ""),
        ("HERMES", f"<tool_call>[{CALL}, {CALL}]</tool_call>and", 2, "and"),
        ("HERMES", f"<tool_call>{CALL}{MORE}</tool_call>and", 1, "and"),
        ("HERMES", f"<tool_call>{CALL}, and", 1, ", and"),
        ("MISTRAL", f"[TOOL_CALLS][{CALL}, {CALL}]and", 2, "and"),
        ("MISTRAL", f"[TOOL_CALLS][{CALL}{MORE}, {CALL}}}]and", 2, "and"),
        ("LLAMA", f"{CALL} and", 1, "and"),
        ("LLAMA", f"{CALL}; {CALL}", 2, ""),
        ("JSON", f"{CALL}{MORE}", 1, ""),
        ("PHI", f"<|tool_call|>[{CALL}, {CALL}]<|/tool_call|>and", 2, "and"),
        ("PHI", f"<|tool_call|>{CALL}<|/tool_call|>and", 1, "and"),
        ("GRANITE", f"<|tool_call|>{CALL} and", 1, "and"),
        ("GRANITE", f"<|tool_call|>[{CALL}]and", 1, "and"),
        ("COMMAND", f"<|START_ACTION|>[{ACTION}{MORE}, {ACTION}]<|END_ACTION|>", 2, ""),
        ("COMMAND", f"<|START_ACTION|>[{ACTION}, and]<|END_ACTION|>", 1, ", and]<|END_ACTION|>"),
    ],
)
def test_what_follows_is_not_lost(style: str, text: str, num_calls: int, content: str) -> None:
    found = read(CallStyle[style], text)
    assert [call.to_object() for call in found.calls] == [{"a": 1}] * num_calls
    assert found.content.strip() == content
