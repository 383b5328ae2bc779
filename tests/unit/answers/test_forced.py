"""Grammars of answers that have to be calls, over tokens as models with such answers have them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend

from kept import LLM
from kept.answers import AnswerForm, CallStyle, Tool, forced_calls
from kept.grammar import Grammar, GrammarCompiler
from kept.text import Tokenizer

THINKS = ("<think>", "</think>")
DEEP, DEEP_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜>"
V31 = "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = LLM().tokenizer
    assert found is not None
    backend = Backend.from_str(found.backend.to_str())
    backend.add_tokens([*THINKS, "<tool_call>", "</tool_call>"])  # no special ones
    return Tokenizer(backend)


def takes(grammar: Grammar, tokenizer: Tokenizer, text: str) -> bool:
    compiled = GrammarCompiler.of(tokenizer).compile(grammar)
    matcher = compiled.first.deep_copy()
    tokens = tokenizer.encode(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("style", [x for x in CallStyle if x is not CallStyle.HARMONY])
@pytest.mark.parametrize("several", [True, False])
def test_calls_are_as_many_as_asked_for(
    tokenizer: Tokenizer, style: CallStyle, several: bool
) -> None:
    form = AnswerForm(style, THINKS)
    grammar = forced_calls(form, [Tool("f")], tokenizer, several=several)
    key = "parameters" if style is CallStyle.LLAMA else "arguments"
    call = f'{{"name": "f", "{key}": {{}}}}'
    action = '{"tool_call_id": "0", "tool_name": "f", "parameters": {}}'
    one, two = {
        CallStyle.HERMES: (
            f"<tool_call>\n{call}\n</tool_call>",
            "\n".join([f"<tool_call>\n{call}\n</tool_call>"] * 2),
        ),
        CallStyle.DEEPSEEK: (f"{DEEP}{V3}{DEEP_END}", f"{DEEP}{V3}\n{V3}{DEEP_END}"),
        CallStyle.DEEPSEEK_V31: (f"{DEEP}{V31}{DEEP_END}", f"{DEEP}{V31}{V31}{DEEP_END}"),
        CallStyle.PHI: (
            f"<|tool_call|>[{call}]<|/tool_call|>",
            f"<|tool_call|>[{call}, {call}]<|/tool_call|>",
        ),
        CallStyle.GRANITE: (f"<|tool_call|>[{call}]", f"<|tool_call|> [{call}, {call}]"),
        CallStyle.COMMAND: (
            f"<|START_ACTION|>[\n    {action}\n]<|END_ACTION|>",
            f"<|START_ACTION|>[\n    {action},\n    {action}\n]<|END_ACTION|>",
        ),
        CallStyle.GLM: ("f\n{}", None),
        CallStyle.MISTRAL: (f"[TOOL_CALLS][{call}]", f"[TOOL_CALLS][{call}, {call}]"),
    }.get(style, (call, None))
    assert takes(grammar, tokenizer, one)
    assert takes(grammar, tokenizer, f"<think>\nwell\n</think>\n\n{one}")
    assert not takes(grammar, tokenizer, "no call")
    if two is not None:
        assert takes(grammar, tokenizer, two) is several
