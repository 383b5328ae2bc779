"""A strict tool is called as its schema says, wherever the model calls it, and all else is free."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend

from kept import LLM, OptionError
from kept.answers import AnswerForm, CallStyle, Tool, strict_calls
from kept.grammar import Grammar, GrammarCompiler
from kept.text import Tokenizer

THINKS = ("<think>", "</think>")
AROUND = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")
MARKS = [*THINKS, "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"]
MARKS += ["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"]
MARKS += [*AROUND, "<|tool_call|>", "<|/tool_call|>", "<|START_ACTION|>", "<|END_ACTION|>"]
MARKS += ["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"]
DEEPSEEK = {
    CallStyle.DEEPSEEK: ("function<｜tool▁sep｜>{}\n```json\n", "\n```"),
    CallStyle.DEEPSEEK_V31: ("{}<｜tool▁sep｜>", ""),
}
LISTED = {
    CallStyle.PHI: ("<|tool_call|>[", "]<|/tool_call|>"),
    CallStyle.GRANITE: ("<|tool_call|>[", "]"),
}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
UNKEPT = {"type": "object", "properties": {"z": {"not": {}}}}
TOOLS = [Tool("f", SCHEMA, is_strict=True), Tool("g", UNKEPT)]


@pytest.fixture(scope="module", params=[False, True], ids=["spelled", "special"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found = LLM().tokenizer
    assert found is not None
    backend = Backend.from_str(found.backend.to_str())
    (backend.add_special_tokens if request.param else backend.add_tokens)(MARKS)
    return Tokenizer(backend)


def takes(grammar: Grammar, tokenizer: Tokenizer, text: str) -> bool:
    matcher = GrammarCompiler.of(tokenizer).compile(grammar).first.deep_copy()
    tokens = tokenizer.encode(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("reasoning", [None, THINKS])
@pytest.mark.parametrize("style", [x for x in CallStyle if x is not CallStyle.HARMONY])
def test_calls_of_strict_tools(
    tokenizer: Tokenizer, style: CallStyle, reasoning: tuple[str, str] | None
) -> None:
    around = AROUND if style is CallStyle.COMMAND else None
    form, key = AnswerForm(style, reasoning, response=around), "arguments"
    key = "parameters" if style is CallStyle.LLAMA else key

    def call(name: str, arguments: str) -> str:
        around = {CallStyle.HERMES: ("<tool_call>\n", "\n</tool_call>")}
        around[CallStyle.MISTRAL] = ("[TOOL_CALLS][", "]")
        if style in DEEPSEEK:
            named, fence = DEEPSEEK[style]
            made = f"{named.format(name)}{arguments}{fence}<｜tool▁call▁end｜>"
            return f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{made}<｜tool▁calls▁end｜>"
        if style is CallStyle.COMMAND:
            made = f'"tool_call_id": "0", "tool_name": "{name}", "parameters": {arguments}'
            return f"<|START_ACTION|>[{{{made}}}]<|END_ACTION|>"
        if style is CallStyle.GLM:
            return f"{name}\n{arguments}"
        around |= LISTED
        before, behind = around.get(style, ("", ""))
        return f'{before}{{"name": "{name}", "{key}": {arguments}}}{behind}'

    good, bad = call("f", '{"n": 1}'), call("f", '{"n": "1"}')
    allowed = ["", "hello { there", "  hi", good, call("g", '{"q": [1]}')]
    refused = [bad, call("f", "{}"), call("h", "{}"), good[:-1], f"{good} {bad}"]
    if style in (CallStyle.HERMES, CallStyle.MISTRAL, CallStyle.COMMAND, *DEEPSEEK, *LISTED):
        allowed.append(f"Sure. {good}")
        refused.append(f"Sure. {bad}")
    elif style is CallStyle.GLM:
        allowed += ["\nf", "\nh\n{}", f"Sure. {bad}"]
        refused = [text for text in refused if not text.startswith("h")]
    else:
        refused.append('{"answer": 1}')  # which nothing tells from a call while it is written
    if style is CallStyle.COMMAND:
        allowed.append(f"{AROUND[0]}hello{AROUND[1]}")
        refused.append(f"{AROUND[0]}hello{AROUND[1]}{bad}")
    if style is CallStyle.LLAMA and tokenizer.is_special("<|python_tag|>"):  # as Llama's is
        allowed.append(f"<|python_tag|>{good}")
        refused.append(f"<|python_tag|>{bad}")
    two = f"{good}\n{call('g', '{}')}"
    grammar = strict_calls(form, TOOLS, tokenizer)
    assert takes(grammar, tokenizer, two) is (style is CallStyle.HERMES)
    assert not takes(strict_calls(form, TOOLS, tokenizer, several=False), tokenizer, two)
    for thought in ("", "<think>\nwell\n</think>\n\n") if reasoning else ("",):
        for text in allowed:
            assert takes(grammar, tokenizer, thought + text), text
        for text in refused:
            assert not takes(grammar, tokenizer, thought + text), text
    if reasoning:
        opened = strict_calls(form, TOOLS, tokenizer, in_reasoning=True)
        assert takes(opened, tokenizer, f"well</think>{good}")
        assert not takes(opened, tokenizer, f"well</think>{bad}")


def test_a_mark_in_reasoning_is_none() -> None:
    found = LLM().tokenizer
    assert found is not None
    backend = Backend.from_str(found.backend.to_str())
    backend.add_tokens(MARKS)
    tokenizer = Tokenizer(backend)
    grammar = strict_calls(AnswerForm(CallStyle.HERMES, THINKS), TOOLS, tokenizer)
    assert takes(grammar, tokenizer, "<think>\nno <tool_call> yet\n</think>\n\nDone.")


def test_a_strict_tool_that_cannot_be_kept_to(tokenizer: Tokenizer) -> None:
    tools = [Tool("g", UNKEPT, "tools.3.function.parameters", is_strict=True)]
    with pytest.raises(OptionError, match=r"tools\.3\.function\.parameters\.properties\.z\.not"):
        strict_calls(AnswerForm(CallStyle.HERMES), tools, tokenizer)
