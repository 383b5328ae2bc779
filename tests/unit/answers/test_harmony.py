"""Answers in messages on channels, as gpt-oss writes them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

import kept
from kept import OptionError
from kept.answers import (
    AnswerForm,
    CallStyle,
    HarmonyParser,
    Message,
    Parser,
    Tool,
    forced_calls,
    form_of,
    parser_of,
    reasoned,
    strict_calls,
)
from kept.grammar import Grammar, GrammarCompiler
from kept.text import Tokenizer

FORM = form_of(["{% if tools %}{% endif %}<|start|>assistant<|channel|>analysis<|message|>"])
INSIDE = AnswerForm(CallStyle.HARMONY)  # an answer that begins within its content
MARKS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>")
THINK = "<|channel|>analysis<|message|>well<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"n": 1}'
PIECES = (
    *(*MARKS, "<|return|>", "<|call|>", "assistant", "analysis", "final", "commentary", " json"),
    *(" to=functions.f", " to=f", "to=", "user", "{", "}", '"', '{"n": 1}', " ", "\n", "text"),
    *("<", "<|", "|>", "<|start|>assistant", "<|channel|>final<|message|>", THINK, CALL),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def read(text: list[str], form: AnswerForm = FORM, **options: bool) -> Message:
    parser, found = HarmonyParser(form, ("f",), **options), Message()
    for piece in text:
        found.add(parser.add(piece))
    found.add(parser.finish())
    assert parser.num_calls == len(found.calls)
    return found


@given(
    text=TEXTS,
    cuts=st.lists(st.integers(0, 80), max_size=6),
    form=st.sampled_from([FORM, INSIDE]),
    in_reasoning=st.booleans(),
)
@settings(max_examples=examples(200, 1000))
def test_the_parts_do_not_depend_on_how_the_text_was_cut(
    text: str, cuts: list[int], form: AnswerForm, in_reasoning: bool
) -> None:
    whole, edges = read([text], form, in_reasoning=in_reasoning), [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert read(pieces, form, in_reasoning=in_reasoning) == whole
    assert read(list(text), form, in_reasoning=in_reasoning) == whole
    told = whole.reasoning + whole.content + "".join(x.name + x.arguments for x in whole.calls)
    assert told.count("text") >= text.count("text") - text.count("assistant")  # but for roles


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls"),
    [
        (f"{THINK}<|channel|>final<|message|>Yes.", "well", "Yes.", []),
        (f"{THINK}<|channel|>final <|constrain|>json<|message|>{{}}", "well", "{}", []),
        (f"{THINK}{CALL}", "well", "", [("f", '{"n": 1}')]),
        (f"{THINK}{CALL}<|call|>", "well", "", [("f", '{"n": 1}')]),
        (' to=functions.g<|channel|>commentary json<|message|>{}', "", "", [("g", "{}")]),
        ("<|channel|>commentary to=f<|message|>{}", "", "", [("f", "{}")]),
        ("<|channel|>analysis to=functions.f code<|message|>\n{}", "", "", [("f", "{}")]),
        (
            "<|channel|>commentary<|message|>First.<|end|><|start|>assistant" + CALL,
            "", "First.", [("f", '{"n": 1}')],
        ),
        (f"{CALL}<|end|><|start|>assistant{CALL}", "", "", [("f", '{"n": 1}')] * 2),
        (f"{CALL[:-3]}\"<|end|>\"}}", "", "", [("f", '{"n":"<|end|>"}')]),
        (f"{CALL[:-2]}]", "", "", [("f", '{"n": ]')]),
        (f"{CALL[:-1]}", "", "", [("f", '{"n": 1')]),
        (f"{THINK}{THINK}<|channel|>final<|message|>a", "well\nwell", "a", []),
        ("<|channel|>final<|message|>a<|end|><|channel|>final<|message|>b", "", "a\nb", []),
        ("<|channel|>analysis<|message|>unended", "unended", "", []),
        (f"{THINK}<|channel|>fin", "well", "", []),
        ("Hello, you.", "", "Hello, you.", []),
        ("<|message|>Hello", "", "Hello", []),
        (" to be", "", " to be", []),
        ("<|channel|>commentary to=python<|message|>1+1", "",
         "<|channel|>commentary to=python<|message|>1+1", []),
        (f"{THINK}<|channel|>commentary to=functions.f<|message|>n=1", "well",
         "<|start|>assistant<|channel|>commentary to=functions.f<|message|>n=1", []),
        ("<|channel|>commentary to=functions.f", "", "<|channel|>commentary to=functions.f", []),
        (f"{THINK[:-9]}user<|message|>hi", "well", "<|start|>user<|message|>hi", []),
        ("<|channel|>final<|message|>a<|end|>b", "", "a\nb", []),
        ("a <|channel|> b", "", "a <|channel|> b", []),
    ],
)  # fmt: skip
def test_messages(text: str, reasoning: str, content: str, calls: list[tuple[str, str]]) -> None:
    found = read([text])
    told = [(call.name, call.arguments) for call in found.calls]
    assert (found.reasoning, found.content, told) == (reasoning, content, calls)


def test_without_tools_calls_are_content() -> None:
    parser, found = parser_of(FORM, in_reasoning=False), Message()
    found.add([*parser.add(CALL), *parser.finish()])
    assert found == Message(content=CALL)


def test_a_name_is_told_at_once_and_text_as_it_comes() -> None:
    parser: Parser = parser_of(FORM, ("f",), in_reasoning=False)
    assert parser.add("<|channel|>analysis<|message|") == []
    assert [len(parser.add(each)) for each in ">wel"] == [0, 1, 1, 1]
    assert parser.add("<|end|><|start|>assistant" + CALL[:-8]) == []
    first = parser.add('{"n"')
    assert [type(part).__name__ for part in first] == ["CallBegun", "Arguments"]


@pytest.mark.parametrize("step", [1, 3, 100])
def test_where_reasoning_has_ended(step: int) -> None:
    parser, text = HarmonyParser(FORM), f"{THINK}<|channel|>final<|message|>Yes"
    assert parser.reasoned == 0
    counts = []
    for begin in range(0, len(text), step):
        parser.add(text[begin : begin + step])
        counts.append(parser.reasoned)
    assert counts == sorted(counts)
    assert counts[-1] == text.index("<|end|>") + len("<|end|>")


def test_where_an_answer_begins() -> None:
    assert FORM.style is CallStyle.HARMONY
    assert FORM.takes_tools
    assert FORM.opens_reasoning("<|start|>assistant<|channel|>analysis<|message|>")
    assert FORM.closes_reasoning("<|start|>assistant<|channel|>final<|message|>")
    assert not FORM.closes_reasoning("<|end|>")
    assert read(["ll<|end|>"], in_reasoning=True) == Message("ll")
    assert read(["Yes<|end|>"], INSIDE) == Message(content="Yes")


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOLS = [Tool("f", SCHEMA, is_strict=True), Tool("g")]
BEFORE = ' to=functions.f<|channel|>commentary json<|message|>{"n": 1}'


def with_marks(special: bool) -> Tokenizer:
    backend = Tokenizer.from_folder(Path(kept.__file__).parent / "bundled").backend
    (backend.add_special_tokens if special else backend.add_tokens)(list(MARKS))
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return with_marks(True)


def takes(grammar: Grammar, tokenizer: Tokenizer, text: str) -> bool:
    matcher = GrammarCompiler.of(tokenizer).compile(grammar).first.deep_copy()
    tokens = tokenizer.encode(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("thought", ["", THINK])
def test_a_call_that_has_to_be_made(tokenizer: Tokenizer, thought: str) -> None:
    grammar = forced_calls(FORM, TOOLS, tokenizer)
    for call in (CALL, CALL.replace("<|constrain|>", ""), BEFORE):
        assert takes(grammar, tokenizer, thought + call)
        assert not takes(grammar, tokenizer, thought + call.replace("1", '"1"'))
        assert not takes(grammar, tokenizer, thought + call.replace("functions.f", "functions.h"))
    for other in ("", "Yes", "<|channel|>final<|message|>Yes", THINK, CALL + CALL):
        assert not takes(grammar, tokenizer, thought + other)
    opened = forced_calls(FORM, TOOLS, tokenizer, in_reasoning=True)
    inside = forced_calls(INSIDE, TOOLS, tokenizer)
    for found in (opened, inside):
        assert takes(found, tokenizer, f"ll<|end|><|start|>assistant{thought}{CALL}")
        assert not takes(found, tokenizer, thought + CALL)


@pytest.mark.parametrize("thought", ["", THINK])
def test_calls_of_strict_tools(tokenizer: Tokenizer, thought: str) -> None:
    grammar = strict_calls(FORM, TOOLS, tokenizer)
    preamble = "<|channel|>commentary<|message|>Sure.<|end|><|start|>assistant"
    loose = CALL.replace("functions.f", "functions.g").replace("1", '"1"')
    for text in (CALL, BEFORE, loose, preamble + CALL, "<|channel|>final<|message|>Yes\n."):
        assert takes(grammar, tokenizer, thought + text), text
    bad = CALL.replace("1", '"1"')
    for text in (bad, preamble + bad, BEFORE[:-2] + "}", CALL.replace("functions.f", "h")):
        assert not takes(grammar, tokenizer, thought + text), text
    inside = strict_calls(INSIDE, TOOLS, tokenizer)
    assert takes(inside, tokenizer, "on.")
    assert takes(inside, tokenizer, f"on.<|end|><|start|>assistant{CALL}")
    assert not takes(inside, tokenizer, f"on.<|end|><|start|>assistant{bad}")


def test_content_of_a_form(tokenizer: Tokenizer) -> None:
    grammar = reasoned(FORM, Grammar.json_schema(SCHEMA), tokenizer, in_reasoning=False)
    for final in ("<|channel|>final", "<|channel|>final <|constrain|>json"):
        assert takes(grammar, tokenizer, f'{THINK}{final}<|message|>{{"n": 1}}')
        assert takes(grammar, tokenizer, f'{final}<|message|>{{"n": 1}}')
        assert not takes(grammar, tokenizer, f"{final}<|message|>one")
    opened = reasoned(FORM, Grammar.regex("ab"), tokenizer, in_reasoning=True)
    assert takes(opened, tokenizer, "ll<|end|><|start|>assistant<|channel|>final<|message|>ab")
    assert takes(
        reasoned(INSIDE, Grammar.regex("ab"), tokenizer, in_reasoning=False), tokenizer, "ab"
    )


def test_what_cannot_be_kept_to(tokenizer: Tokenizer) -> None:
    with pytest.raises(OptionError, match=r"<\|end\|> is no special token"):
        forced_calls(FORM, TOOLS, with_marks(False))
    with pytest.raises(OptionError, match="'a b' cannot be called"):
        forced_calls(FORM, [Tool("a b")], tokenizer)
    with pytest.raises(OptionError, match=r"tools\.type is 'string'"):
        strict_calls(FORM, [Tool("f", {"type": "string"}, is_strict=True)], tokenizer)
