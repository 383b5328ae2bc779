"""An answer's parts are the same however its text was cut, and nothing of it is lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from kept.answers import AnswerForm, AnswerParser, CallStyle, Message, form_of

THINKS = ("<think>", "</think>")
AROUND = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")
FORMS = [
    *(AnswerForm(style) for style in CallStyle if style is not CallStyle.HARMONY),
    AnswerForm(CallStyle.COMMAND, response=AROUND),
    AnswerForm(CallStyle.HERMES, THINKS),
]
WHOLE = '{"name": "f", "arguments": {"a": "}<"}}'
EMPTY = '{"name": "f", "parameters": {}}'
DEEP, DEEP_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CLOSE = "<｜tool▁call▁end｜>"
NAMED, FENCED = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n", f"\n```{CLOSE}"
V3 = f'{NAMED}```json\n{{"a": 1}}{FENCED}'
V31 = '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>'
CALLS = f'[{{"name": "f", "arguments": {{"a": 1}}}}, {EMPTY}]'
ACTION = '[\n    {"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}\n]'
LISTED = ("<|tool_call|>", "<|/tool_call|>", "<|START_ACTION|>", "<|END_ACTION|>")
PIECES = (
    *("f\n", "f\n{", "<|assistant|>"),
    *(*LISTED, *AROUND, CALLS, ACTION, f"<|tool_call|>{CALLS}", f"<|START_ACTION|>{ACTION}"),
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "[ARGS]", "f", "g"),
    *("<|python_tag|>", "{", "}", "[", "]", '"', '"name"', '"f"', '"arguments"', '"parameters"'),
    *(":", ",", ";", " ", "\n", "\\", "1", "text", "<", WHOLE, '{"name": "f", "parameters": {}}'),
    *(DEEP, NAMED, f"{DEEP}{V3}", f"{DEEP}{V31}{DEEP_END}", FENCED, "```", "function", "text"),
    *('{"type": "function", "function": ', '"arguments": "{}"', '{"name": "f", "arguments": {'),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def read(form: AnswerForm, pieces: list[str], in_reasoning: bool = False) -> Message:
    parser, found = AnswerParser(form, ("f",), in_reasoning=in_reasoning), Message()
    for piece in pieces:
        found.add(parser.add(piece))
    found.add(parser.finish())
    assert parser.num_calls == len(found.calls)
    return found


@given(text=TEXTS, cuts=st.lists(st.integers(0, 60), max_size=6), form=st.sampled_from(FORMS))
@settings(max_examples=examples(150, 600))
def test_the_parts_do_not_depend_on_how_the_text_was_cut(
    text: str, cuts: list[int], form: AnswerForm
) -> None:
    whole, edges = read(form, [text]), [0, *sorted(cuts), len(text)]
    assert read(form, [text[a:b] for a, b in pairwise(edges)]) == whole
    assert read(form, list(text)) == whole
    if not whole.calls and form.reasoning is None and form.response is None:
        assert whole.content == (text.lstrip() if form.style is CallStyle.GLM else text)


@pytest.mark.parametrize(
    ("style", "text", "content", "calls"),
    [
        ("hermes", f"Sure.\n\n<tool_call>\n{WHOLE}\n</tool_call>", "Sure.", [("f", '{"a": "}<"}')]),
        ("hermes", f"<tool_call>{WHOLE}</tool_call>\n" * 2, "", [("f", '{"a": "}<"}')] * 2),
        ("hermes", '<tool_call>{"arguments": {}, "name": "f"}</tool_call>', "", [("f", "{}")]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1]', "", [("f", '{"a": 1]')]),
        ("hermes", '<tool_call>{"name": "f", "arg', '<tool_call>{"name": "f", "arg', []),
        ("hermes", "a <tool_call> b", "a <tool_call> b", []),
        ("hermes", '<tool_call>{"x": 1}</tool_call>', '<tool_call>{"x": 1}</tool_call>', []),
        ("mistral", f"[TOOL_CALLS][{WHOLE}, {WHOLE}]", "", [("f", '{"a": "}<"}')] * 2),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}', "", [("f", '{"a": 1}')]),
        ("mistral", "[TOOL_CALLS]f{}[TOOL_CALLS]g{}", "", [("f", "{}"), ("g", "{}")]),
        ("mistral", "[TOOL_CALLS] no call", "[TOOL_CALLS] no call", []),
        ("llama", '{"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')]),
        ("llama", f"<|python_tag|>{EMPTY}; {EMPTY}", "", [("f", "{}")] * 2),
        ("deepseek", f"Sure.{DEEP}{V3}\n{V3}{DEEP_END}", "Sure.", [("f", '{"a": 1}')] * 2),
        ("deepseek", f"{DEEP}{V3}{V31}{DEEP_END}\n", "", [("f", '{"a": 1}')] * 2),
        ("deepseek", f"{DEEP}{NAMED}{{}}<｜tool▁call▁end｜>", "", [("f", "{}")]),
        ("deepseek", f"{DEEP}{V3[:-20]}", "", [("f", '{"a": 1}')]),
        ("deepseek", f"{DEEP}{V3} So.", " So.", [("f", '{"a": 1}')]),
        ("deepseek", f"{DEEP}{V3[:-23]}]", "", [("f", '{"a": ]')]),
        ("deepseek", f"{DEEP}{DEEP_END}", f"{DEEP}{DEEP_END}", []),
        ("deepseek", f"{DEEP}{NAMED}```json", f"{DEEP}{NAMED}```json", []),
        ("deepseek", f"{DEEP}{V3}{NAMED}", NAMED, [("f", '{"a": 1}')]),
        ("deepseek", f"a {DEEP}b", f"a {DEEP}b", []),
        ("deepseek-v3.1", f"{DEEP}{V31}{V31}{DEEP_END}", "", [("f", '{"a": 1}')] * 2),
        ("deepseek-v3.1", f"{DEEP}{V31.removesuffix(CLOSE)},", ",", [("f", '{"a": 1}')]),
        ("phi", f"<|tool_call|>{CALLS}<|/tool_call|>", "", [("f", '{"a": 1}'), ("f", "{}")]),
        ("phi", f"Sure.<|tool_call|>{EMPTY}<|/tool_call|>", "Sure.", [("f", "{}")]),
        ("phi", f"<|tool_call|>{CALLS[:-1]}", "", [("f", '{"a": 1}'), ("f", "{}")]),
        ("hermes", f"<tool_call>\n{CALLS}", "", [("f", '{"a": 1}'), ("f", "{}")]),
        ("hermes", f"<tool_call>[{WHOLE}]</tool_call>", "", [("f", '{"a": "}<"}')]),
        ("hermes", "<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
        ("phi", f"<|tool_call|>{CALLS}.", ".", [("f", '{"a": 1}'), ("f", "{}")]),
        ("phi", "<|tool_call|>[]<|/tool_call|>", "<|tool_call|>[]<|/tool_call|>", []),
        ("phi", '<|tool_call|>[{"x": 1}]', '<|tool_call|>[{"x": 1}]', []),
        ("phi", f'<|tool_call|>[{EMPTY}, {{"name"', ', {"name"', [("f", "{}")]),
        ("granite", f"<|tool_call|>{CALLS}\nSo.", "\nSo.", [("f", '{"a": 1}'), ("f", "{}")]),
        ("granite", f"<|tool_call|> {EMPTY}", "", [("f", "{}")]),
        ("granite", "<|tool_call|>", "<|tool_call|>", []),
        ("command", f"<|START_ACTION|>{ACTION}<|END_ACTION|>", "", [("f", '{"a": 1}')]),
        ("glm", 'f\n{"a": 1}', "", [("f", '{"a": 1}')]),
        ("glm", '\nf \n{"a": 1}\n<|assistant|>f\n{}\n', "", [("f", '{"a": 1}'), ("f", "{}")]),
        ("glm", 'f\n{"a": 1}\nSo.', "So.", [("f", '{"a": 1}')]),
        ("glm", "\nHello\n{}", "Hello\n{}", []),
        ("glm", "fun", "fun", []),
        ("glm", "f", "f", []),
        ("glm", "f {}", "f {}", []),
        ("glm", "g\n{}", "g\n{}", []),
        ("json", '{"name": "Bob", "arguments": {}}', '{"name": "Bob", "arguments": {}}', []),
        ("json", '{"answer": 3}', '{"answer": 3}', []),
        ("json", '\n{"type": "function", "name": "f"}', "", [("f", "{}")]),
    ],
)  # fmt: skip
def test_calls_of_every_style(
    style: str, text: str, content: str, calls: list[tuple[str, str]]
) -> None:
    found = read(AnswerForm(CallStyle(style)), [text])
    assert (found.content, [(c.name, c.arguments) for c in found.calls]) == (content, calls)


def test_a_name_is_told_at_once_and_arguments_as_they_come() -> None:
    parser = AnswerParser(FORMS[0], ("f",))
    assert parser.add('<tool_call>{"name": "f", "arguments": ') == []
    first = parser.add('{"a"')
    assert [type(part).__name__ for part in first] == ["CallBegun", "Arguments"]
    assert parser.add(": 1") != []


def test_reasoning_is_apart() -> None:
    form = AnswerForm(CallStyle.HERMES, THINKS)
    found = read(form, ["<think>\nwell <b>\n</think>\n\nYes."])
    assert (found.reasoning, found.content) == ("well <b>", "Yes.")
    found = read(form, ["well\n</think>\nYes <think>"], in_reasoning=True)
    assert (found.reasoning, found.content) == ("well", "Yes <think>")
    assert read(form, ["unended"], in_reasoning=True) == Message("unended")


def test_without_tools_calls_are_content() -> None:
    parser, found = AnswerParser(FORMS[0]), Message()
    text = f"<tool_call>{WHOLE}</tool_call>"
    found.add([*parser.add(text), *parser.finish()])
    assert found == Message(content=text)


@pytest.mark.parametrize(
    ("template", "style", "thinks"),
    [
        ("{%- if tools %}<tool_call>{%- endif %}<think>\n</think>", CallStyle.HERMES, True),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", CallStyle.MISTRAL, False),
        ('tools {"name": function name, "parameters": dict}', CallStyle.LLAMA, False),
        (f"{DEEP}{{{{ tools }}}}\n```json\n</think><think>", CallStyle.DEEPSEEK, True),
        (f"{DEEP}{{% if tools %}}", CallStyle.DEEPSEEK_V31, False),
        ("<|tool|>{{ message['tools'] }}<|/tool|>", CallStyle.PHI, False),
        ("{{ tools }} <|tool_call|> <think></think>", CallStyle.GRANITE, True),
        ("{{ tools }} <|START_ACTION|>", CallStyle.COMMAND, False),
        ("{{ tools }} <|observation|> message.metadata", CallStyle.GLM, False),
        ("{{ messages }}", CallStyle.JSON, False),
    ],
)
def test_a_template_tells_the_form(template: str, style: CallStyle, thinks: bool) -> None:
    found = form_of([template])
    assert (found.style, found.reasoning is not None) == (style, thinks)
    assert found.takes_tools == ("tools" in template)
    assert found.opens_reasoning("x<think>\n") == thinks


@pytest.mark.parametrize("in_reasoning", [False, True])
@pytest.mark.parametrize("step", [1, 3, 100])
def test_where_reasoning_has_ended(step: int, in_reasoning: bool) -> None:
    text = f"{'' if in_reasoning else ' <think>'}a < b</think>\n\nc</think>"
    parser = AnswerParser(FORMS[-1], in_reasoning=in_reasoning)
    assert parser.reasoned == 0
    parser.add(text[:10])
    assert parser.reasoned == 10
    for begin in range(10, len(text), step):
        parser.add(text[begin : begin + step])
    assert parser.reasoned == text.index("</think>") + len("</think>")
    plain = AnswerParser(FORMS[-1])
    plain.add("no <think>of</think> it")
    assert plain.reasoned == 0


def test_what_stands_around_content_is_none_of_it() -> None:
    form = form_of([f"{{{{ tools }}}}<|END_THINKING|><|START_ACTION|>{''.join(AROUND)}"])
    thought = "<|START_THINKING|>well<|END_THINKING|>"
    assert read(form, [f"{thought}{AROUND[0]}Yes.\n{AROUND[1]}"]) == Message("well", "Yes.")
    assert read(form, [f"{thought}Yes."]) == Message("well", "Yes.")
    assert read(form, ["a", *AROUND]).content == f"a{''.join(AROUND)}"
    assert read(form.within_content, [f" so.{AROUND[1]}"]).content == " so."
    assert not form.is_plain
    called = read(form, [f"{thought}<|START_ACTION|>{ACTION}<|END_ACTION|>"])
    assert [(call.name, call.arguments) for call in called.calls] == [("f", '{"a": 1}')]
    texts = form_of(["<|START_ACTION|><|END_TEXT|>"])
    assert read(texts, ["<|START_TEXT|>Yes.<|END_TEXT|>"]).content == "Yes."
    assert form_of(["<tool_call></response>"]).response is None
    granite = form_of(["{{ tools }}<|tool_call|><think></think><response></response>"])
    assert read(granite, ["<think>a</think>\n<response>b</response>"]) == Message("a", "b")
    assert read(granite, ["a </response>"]).content == "a </response>"


@pytest.mark.parametrize(
    ("written", "takes_text"),
    [
        ("'\\n' + call['function']['arguments'] + '\\n'", True),
        ("call['function']['arguments'] | tojson", False),
        ("call.function.arguments|tojson", False),
        ("tool_args | tojson", False),
    ],
)
def test_a_template_tells_how_it_takes_arguments(written: str, takes_text: bool) -> None:
    assert form_of([f"{DEEP}{{{{ {written} }}}}"]).takes_text is takes_text
    assert not form_of([f"<tool_call>{{{{ {written} }}}}"]).takes_text
