"""Chat templates without an end are errors, and those with one read as in transformers."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import _compile_jinja_template

from kept.errors import TemplateError
from kept.text import ChatTemplate, template_budget

MESSAGES = [
    {"role": "system", "content": " Be terse.\n"},
    {"role": "user", "content": "Hi <b>you</b>\n\tthere, 世界 & all"},
    {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": [1, 2.5, None]}}]},
]
GROW = "{% set ns = namespace(x=BEGIN) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
SHARED = [
    "{% set l0 = [] %}",
    *(f"{{% set n{i} = namespace() %}}{{% set l{i} = [n{i}, n{i}] %}}" for i in range(40)),
    *(f"{{% set n{i}.x = l{i + 1} %}}" for i in range(39)),
]


def grow(begin: str, step: str, end: str = "{{ ns.x }}") -> str:
    return GROW.replace("BEGIN", begin).replace("STEP", step) + end


TOO_MUCH = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}"
    "{% endfor %}",
    "text in loops": "{% for a in range(9999) %}" + "x" * 9999 + "{% endfor %}",
    "text in macros": "{% macro f() %}"
    + "x" * 9999
    + "{% endmacro %}{% for a in range(9999) %}{% set b = f() %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "tests in C": "{{ range(99999)|list|select('ge', 0)|map('string')|map('upper')|list }}",
    "printf": "{{ '%*d' % (10**9, 1) }}",
    "printf width": "{{ '%1000000000d' % 1 }}",
    "printf precision": "{{ '%.1000000000f' % 1.0 }}",
    "printf mapping": "{{ ('%(a)s' * 9999) % {'a': 'x' * 99999} }}",
    "printf filter": "{{ '%*d'|format(10**9, 1) }}",
    "printf bytes": "{{ '%1000000000d'.encode() % 1 }}",
    "repeat": "{{ 'a' * 10**9 }}",
    "repeat list": "{{ 10**9 * [0] }}",
    "repeat markup": "{{ ('a'|e) * 10**9 }}",
    "format": "{{ '{:1000000000}'.format('x') }}",
    "format nested": "{{ '{:{}}'.format('x', 10**9) }}",
    "format markup": "{{ ('{:1000000000}'|e).format('x') }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "format fields": "{{ ('{0}' * 9999).format('x' * 99999) }}",
    "center": "{{ 'x'|center(10**9) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "expandtabs": "{{ '\\t'.expandtabs(tabsize=10**9) }}",
    "to_bytes": "{{ (1).to_bytes(length=10**9, byteorder='big') }}",
    "indent": "{{ 'x\\ny'|indent(width=10**9) }}",
    "batch": "{{ [1]|batch(10**9, 0)|list }}",
    "slice": "{{ [1]|slice(10**9)|list }}",
    "tojson": "{{ [[1]]|tojson(indent=10**9) }}",
    "join": "{{ range(99999)|join('a' * 499999) }}",
    "join lazily": "{{ range(99999)|map('string')|join('a' * 499999) }}",
    "replace": "{{ ('a' * 499999)|replace('a', 'b' * 499999) }}",
    "replace method": "{{ ('a' * 499999).replace('a', 'b' * 499999) }}",
    "translate": "{{ ('a' * 499999).translate({97: 'b' * 499999}) }}",
    "map": "{{ range(99999)|map('center', 99999)|list }}",
    "sum": "{{ ([[1]] * 99999)|sum(start=[])|length }}",
    "rfind": "{{ ('a' * 499999).rfind('b' + 'a' * 99999) }}",
    "strip": "{{ ('a' * 499999).strip('b' * 99999 + 'a') }}",
    "punycode": "{{ ('a' * 499999).encode('punycode') }}",
    "wordwrap": "{{ ('a' * 499999)|wordwrap(1) }}",
    "urlize": "{{ ('a.' * 499999)|urlize }}",
    "slices": "{% set s = 'a' * 499999 %}{% for a in range(9999) %}{% set b = s[1:] %}{% endfor %}",
    "doubling ~": grow("'ab'", "ns.x ~ ns.x"),
    "doubling +": grow("'ab'", "ns.x + ns.x"),
    "doubling lists": grow("[1]", "ns.x + ns.x"),
    "doubling join": grow("'ab'", "[ns.x, ns.x]|join"),
    "doubling block": grow("'ab'", "ns.x", "").replace(
        "{% set ns.x = ns.x %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    ),
    "shared lists": grow("'ab'", "[ns.x, ns.x]"),
    "shared tuples": grow("'ab'", "(ns.x, ns.x)"),
    "shared dicts": grow("'ab'", "{'a': ns.x, 'b': ns.x}"),
    "shared calls": grow("'ab'", "dict(a=ns.x, b=ns.x)"),
    "shared views": grow("{'a': 1}", "{'a': ns.x.items(), 'b': ns.x.items()}"),
    "shared namespaces": "".join(SHARED) + "{{ l0 }}",
    "deep tuples": grow("'ab'", "(ns.x,)", "{{ {ns.x: 1} }}").replace("60", "9999"),
    "integers": grow("3", "ns.x * ns.x"),
    "powers": "{{ 2 ** (10 ** 9) }}",
    "rounding": "{{ 1.5|round(10**8, 'floor') }}",
    "dates": "{{ strftime_now('%c' * 99999) }}",
    "long": "x" * 300_000,
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_has_no_end_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A part of the limits, so that the test is quick.
    monkeypatch.setattr(template_budget, "MAX_STEPS", 30_000)
    monkeypatch.setattr(template_budget, "MAX_VALUE", 1_000_000)
    monkeypatch.setattr(template_budget, "MAX_TOTAL", 5_000_000)
    with pytest.raises(TemplateError, match="asks for too much"):
        ChatTemplate(TOO_MUCH[name]).render(MESSAGES)


@pytest.mark.parametrize("name", ["lipsum(n=10**7)", "cycler(1)", "joiner()"])
def test_globals_no_template_needs_are_not_there(name: str) -> None:
    with pytest.raises(TemplateError, match="undefined"):
        ChatTemplate("{{ " + name + " }}").render(MESSAGES)


def test_a_long_conversation_is_not_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MAX_STEPS", 1000)
    monkeypatch.setattr(template_budget, "MAX_VALUE", 1000)
    monkeypatch.setattr(template_budget, "MAX_TOTAL", 1000)
    text = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.role + ': ' + "
        "m.content|trim + '\\n' %}{% endfor %}{{ ns.t }}"
    )
    messages = [{"role": "user", "content": "a question of some words"}] * 500
    assert ChatTemplate(text).render(messages) == "user: a question of some words\n" * 500


def test_messages_nested_without_end_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TemplateError, match="nested too deeply"):
        ChatTemplate("x").render([{"role": "user", "content": loop}])


# Everything that is counted, against the same expression in transformers.
EXPRESSIONS = (
    "messages[0].content[::-1]",
    "messages[1:]|length",
    "messages[:-1][0]['role'][1:4:2]",
    "1 ~ 'a' ~ 2.5 ~ none ~ messages[0].role ~ nothing",
    "'%s-%5d|%-8s|%.3f|%%' % ('a', 3, 'b', 2.5)",
    "'%(a)s%(a)s' % {'a': 'x'}",
    "'%s'|format('x')",
    "'{:>8}|{a!r}|{0.real}'.format(1, a='x')",
    "'{a[b]}'.format_map({'a': {'b': 3}})",
    "'<{}>'|e ~ '<b>'",
    "('<{}>'|e).format('<b>')",
    "'a' * 3 + 'b'",
    "[1, messages[0].role] * 2 + [3]",
    "3 * 4 ** 2 % 7",
    "2.5 * 2",
    "true + 1",
    "(1, nothing, messages[0].role)",
    "{'a': messages[0].role, 1: [2]}",
    "{'a': [1, {'b': none}], 'c': 'é<'}|tojson(indent=2, sort_keys=true)",
    "messages|tojson(separators=(',', ':'))",
    "messages|map(attribute='role')|join(', ')",
    "messages|selectattr('role', 'equalto', 'user')|list|length",
    "messages|groupby('role')|map('first')|list",
    "[3, 1, 2]|sort(reverse=true)|batch(2, 0)|list",
    "range(7)|slice(3, 'x')|map('list')|list",
    "[[1], [2]]|sum(start=[])",
    "[1, 2]|sum",
    "'a b\\nc'|indent(2, first=true)",
    "'x'|center(9) ~ '|' ~ 'x'.rjust(5, '.') ~ 'x'.zfill(3)",
    "'a\\tb'.expandtabs(3)",
    "'a-b-c'|replace('-', '+', 2)",
    "'a-b-c'.replace('-', '+', 1).rsplit('+', 1)",
    "'--a-'.strip('-').join(['x', 'y'])",
    "'abc'.translate({97: 'x'})",
    "'é'.encode()",
    "42.137|round(1, 'ceil')",
    "'one two three four'|wordwrap(7)",
    "'see https://a.b/c now'|urlize",
    "'<p>a</p> b'|striptags",
    "'some words'|title|truncate(6)",
    "'7'|int + '1f'|int(base=16)",
    "dict(a=1, **{'b': 2})",
    "messages[2].tool_calls[0].arguments.items()|list",
    "messages[2].tool_calls[0].arguments.a is iterable and 1 in [1, 2]",
    "messages[0]['content'].startswith((' ', 'B'))",
    "namespace(a=1).a",
    "(1).to_bytes(2, 'big')",
    "[1, [2, (3, 'x')], {'y': namespace(z=1).z}]",
    "messages|first|attr('role')|default('none')",
    "'%' is string and (3 is divisibleby 3)",
)
STATEMENTS = (
    "{% for m in messages if EXPR %}{{ loop.index }}{{ loop.last }}x{% else %}none{% endfor %}",
    "{% for a in [1, 2] %}{% for b in [a, 3] %}{{ loop.length }}{{ loop.changed(b) }}{% endfor %}"
    "{{ loop.previtem }}{{ EXPR }}{% endfor %}",
    "{% macro f(x, y=2) %}[{{ x }}{{ y }}{{ kwargs|length }}]{{ EXPR }}{% endmacro %}{{ f(1) }}",
    "{% set a, b = 1, EXPR %}{{ b }}{{ a }}",
    "{% set c %}  {{ EXPR }} {% endset %}{{ c|trim }}",
    "{% call(u) f() %}{{ u }}{{ EXPR }}{% endcall %}",
    "{% filter upper %}{{ EXPR }}{% endfilter %}",
    "{% if EXPR %}yes{% elif false %}\n\n{% else %}no{% endif %}",
    "{%- for a in [[1, [2]], [3]] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}"
    "{{ a }}{{ loop.depth }}{% endif %}{% endfor -%}",
    "{% for a in [1, 2, 3] %}{% if a == 2 %}{% continue %}{% endif %}{{ a }}{{ EXPR }}{% endfor %}",
    "{% with q = EXPR %}{{ q }}{% endwith %}{% generation %} {{ EXPR }}{% endgeneration %}",
)


def assert_as_in_transformers(text: str) -> None:
    variables = {"messages": MESSAGES, "tools": None, "documents": None}
    try:
        expected = _compile_jinja_template(text).render(
            **variables, add_generation_prompt=False, bos_token="<s>"
        )
    except Exception:
        with pytest.raises(TemplateError, match=r"refused or failed|failed with|not valid"):
            ChatTemplate(text, {"bos_token": "<s>"}).render(MESSAGES)
    else:
        assert ChatTemplate(text, {"bos_token": "<s>"}).render(MESSAGES) == expected


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_equal_transformers(expression: str) -> None:
    assert_as_in_transformers("{{ " + expression + " }}")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statements_equal_transformers(statement: str) -> None:
    for expression in EXPRESSIONS[:6]:
        assert_as_in_transformers(statement.replace("EXPR", expression))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_any_template_equals_transformers_or_fails_as_an_error(seed: int) -> None:
    draw = random.Random(seed)
    pieces = []
    for _ in range(draw.randrange(1, 5)):
        expression = draw.choice(EXPRESSIONS)
        for _ in range(draw.randrange(3)):
            other = draw.choice(EXPRESSIONS)
            form = draw.choice(("(@) ~ ($)", "[@, $]", "(@) + ($)", "(@) if ($) else 1"))
            expression = form.replace("$", other).replace("@", expression)
        statement = draw.choice((*STATEMENTS, "{{ EXPR }}"))
        pieces.append(statement.replace("EXPR", expression))
    text = "\n".join(pieces)
    if draw.random() < 0.3:  # damaged: a piece is missing
        begin = draw.randrange(len(text))
        text = text[:begin] + text[begin + draw.randrange(1, 9) :]
    assert_as_in_transformers(text)
