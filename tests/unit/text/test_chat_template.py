"""ChatTemplate against transformers' apply_chat_template, byte for byte."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kept.errors import TemplateError
from kept.text import ChatTemplate, Tokenizer

CHATML = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for block in message.content %}{{ block.text }}{% endfor %}
    {%- endif %}
    {%- if message.tool_calls is defined %}
        {{- message.tool_calls | tojson(indent=2, sort_keys=true) }}
    {%- endif %}
{{- '<|im_end|>\\n' -}}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{% endif %}
"""
LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}
{% set system = '<<SYS>>\\n' + messages[0]['content'].strip() + '\\n<</SYS>>\\n\\n' %}
{% set rest = messages[1:] %}
{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if message['role'] == 'user' %}
{{- bos_token + '[INST] ' + (system if loop.index0 == 0 else '') }}
{{- message['content'].strip() + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now("%Y") %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}{{ t | tojson(indent=4) }}{{ "\\n\\n" }}{% endfor %}
{%- endif %}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {{- '{"name": "' + message.tool_calls[0].function.name + '", "parameters": ' }}
        {{- message.tool_calls[0].function.arguments | tojson }}{{ "}<|eot_id|>" }}
        {%- continue %}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- generation %}
    {{- (message['content'] | trim if message['content'] is string else '') + '<|eot_id|>' }}
    {%- if loop.last %}<!-- last -->{% endif %}
    {%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """\
{{ bos_token }}{% set ns = namespace(index=0, self='x') %}
{%- for message in messages if message.role != 'system' %}
  {%- if (message.role == 'user') != (ns.index % 2 == 0) %}
    {{- raise_exception('Conversation roles must alternate user/assistant') }}
  {%- endif %}
  {%- set ns.index = ns.index + 1 %}
  {%- if message.role == 'user' %} [INST] {{ message.content }} [/INST]
  {%- else %} {{ message.content }}{{ eos_token }}
  {%- endif %}
{%- endfor %}
{% for document in documents or [] %}{{ document.title }}: {{ document.text }}
{% endfor %}
{{ dict(a=1) | tojson }}{{ dict.fromkeys(['b']) | tojson }}{{ unk_token }}{{ nothing }}
"""
REASONING = """\
{% for m in messages %}
{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}
{% if m.thinking is defined %}({{ m.thinking }}){% endif %}
{% if m.content is defined %}{{ m.role }}: {{ m.content | trim }}{% endif %}

{% endfor %}
"""
TEMPLATES = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "reasoning": REASONING,
}
USER = {"role": "user", "content": "  Why is <b>2 & 2</b> 'four'? 🙂\r\n"}
ANSWER = {"role": "assistant", "content": " Because… \n"}
SYSTEM = {"role": "system", "content": "Be brief.\n"}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "turns": [USER, ANSWER, {"role": "user", "content": "And 3?"}],
    "system": [SYSTEM, USER, ANSWER],
    "calls": [
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "add", "arguments": {"é": [1, 2.5, None, True]}}}],
        },
    ],
    "blocks": [{"role": "user", "content": [{"type": "text", "text": "a "}, {"text": "b"}]}],
    "reasoning": [USER, {"role": "assistant", "content": "4", "reasoning": "2 + 2"}],
}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Plus <&> é"}}]
DOCUMENTS = [{"title": "T", "text": "words"}]


def make_tokenizer(templates: Any) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=LibraryTokenizer(models.WordLevel({"<unk>": 0}, "<unk>")),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = templates
    return tokenizer


@pytest.fixture(scope="module")
def pair() -> Callable[[str], tuple[ChatTemplate, PreTrainedTokenizerFast]]:
    """Give our template and their tokenizer for a name of TEMPLATES."""
    made: dict[str, tuple[ChatTemplate, PreTrainedTokenizerFast]] = {}

    def get(name: str) -> tuple[ChatTemplate, PreTrainedTokenizerFast]:
        if name not in made:
            theirs = make_tokenizer(TEMPLATES[name])
            made[name] = ChatTemplate(TEMPLATES[name], theirs.special_tokens_map), theirs
        return made[name]

    return get


def assert_same(
    ours: ChatTemplate, theirs: Any, chat: list[dict[str, Any]], **options: Any
) -> None:
    """Both give the same text, or both refuse."""
    try:
        expected = theirs.apply_chat_template(chat, tokenize=False, **options)
    except Exception:  # jinja2's, Python's or transformers' own
        with pytest.raises(TemplateError):
            ours.render(chat, **options)
    else:
        assert ours.render(chat, **options) == expected


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("chat", sorted(CHATS))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": True, "enable_thinking": False},
        {"tools": TOOLS, "documents": DOCUMENTS, "date_string": "26 Jul 2024"},
        {"continue_final_message": True},
        {"continue_final_message": "reasoning"},
    ],
    ids=["plain", "generation", "tools", "continue", "continue_reasoning"],
)
def test_text_equals_transformers(pair: Any, name: str, chat: str, options: Any) -> None:
    assert_same(*pair(name), CHATS[chat], **options)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(max_examples=40, deadline=None, derandomize=True)
@given(contents=st.lists(st.text(max_size=20), min_size=1, max_size=4), go_on=st.booleans())
def test_any_contents_equal_transformers(
    pair: Any, name: str, contents: list[str], go_on: bool
) -> None:
    roles = ["user", "assistant"] * 2
    chat = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    assert_same(*pair(name), chat, continue_final_message=go_on)


def test_the_date_is_todays(pair: Any) -> None:
    ours, _ = pair("llama3")
    years = [str(datetime.datetime.now().year)]
    text = ours.render([USER])
    years.append(str(datetime.datetime.now().year))
    assert any(f"Today Date: {year}\n" in text for year in years)


@pytest.mark.parametrize("jinja_files", [True, False])
@pytest.mark.parametrize(
    "templates",
    [CHATML, {"default": CHATML, "tool_use": LLAMA3, "rag": MISTRAL}],
    ids=["single", "several"],
)
def test_templates_of_a_saved_folder(tmp_path: Path, templates: Any, jinja_files: bool) -> None:
    make_tokenizer(templates).save_pretrained(tmp_path, save_jinja_files=jinja_files)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert (tmp_path / "chat_template.jinja").exists() == jinja_files
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = ChatTemplate.from_folder(tmp_path, Tokenizer.from_folder(tmp_path).special_tokens)
    assert_same(ours, theirs, CHATS["turns"])
    assert_same(ours, theirs, CHATS["turns"], tools=TOOLS, date_string="x")
    if isinstance(templates, dict):
        expected = theirs.apply_chat_template(CHATS["one"], tokenize=False, chat_template="rag")
        assert ours.render(CHATS["one"], template="rag") == expected
    with pytest.raises(TemplateError, match=r"no chat template named 'other'.*one of: default"):
        ours.render([USER], template="other")


def test_a_jinja_file_wins_over_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "config"}')
    assert ChatTemplate.from_folder(tmp_path).render([USER]) == "config"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert ChatTemplate.from_folder(tmp_path).render([USER]) == "file"


def test_a_missing_template_names_the_files_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"neither chat_template\.jinja nor .*write"):
        ChatTemplate.from_folder(tmp_path)


@pytest.mark.parametrize("declared", [7, [{"name": "default"}], ["x"], {"default": 3}, []])
def test_a_template_of_another_type_is_refused(tmp_path: Path, declared: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": declared}))
    with pytest.raises(TemplateError, match=r"tokenizer_config\.json"):
        ChatTemplate.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('system role not supported') }}", "system role not supported"),
        ("a\n{% if %}", r"not valid Jinja \(line 2"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ range(10000000) }}", "OverflowError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{{ raise_exception.__globals__.json }}", "unsafe"),
        ("{{ dict.__class__.__base__ }}", "unsafe"),
        ("{% set ns = namespace(_x=1) %}", "underscore"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "underscore"),
        ("{{ strftime_now(3) }}", "TypeError"),
        ("{% include 'file' %}", "loader"),
    ],
)
def test_failures_name_the_template_and_the_reason(template: str, message: str) -> None:
    broken = ChatTemplate(template, source="chat_template.jinja")
    for _ in range(2):
        with pytest.raises(TemplateError, match=message) as caught:
            broken.render([USER])
        assert "'default' of chat_template.jinja" in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "empty"),
        ("hello", "messages is a str"),
        ({"role": "user", "content": "x"}, "messages is a dict"),
        ([USER, "hello"], r"messages\[1\] is a str"),
        ([{"content": "x"}], r"messages\[0\] has the role None"),
        ([{"role": 3, "content": "x"}], "has the role 3"),
        ([USER, {"role": "user"}], r'messages\[1\] has no "content"'),
        ([{"role": "user", "content": 5}], "content of type int"),
        ([{"role": "user", "content": [{"image": b"x"}]}], r"'image'\] is a bytes"),
    ],
)
def test_messages_are_checked(messages: Any, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(CHATML).render(messages)


def test_options_are_checked() -> None:
    template = ChatTemplate(CHATML)
    with pytest.raises(TemplateError, match="exclude each other"):
        template.render([USER], add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(TemplateError, match=r"tools\[0\] is a function.*schema"):
        template.render([USER], tools=[test_options_are_checked])  # type: ignore[list-item]
    with pytest.raises(TemplateError, match=r"variables\['x'\] is a object"):
        template.render([USER], x=object())
    with pytest.raises(TemplateError, match="no text under 'name'"):
        template.render([USER], continue_final_message="name")
    with pytest.raises(TemplateError, match="does not read"):
        template.render([{**USER, "name": "x"}], continue_final_message="name")
    with pytest.raises(TemplateError, match="no block of text"):
        template.render([{"role": "user", "content": [{"a": "b"}]}], continue_final_message=True)
    with pytest.raises(TemplateError, match="leaves out or changes"):
        ChatTemplate("{{ messages[0].content | upper }}").render(
            [USER], continue_final_message=True
        )
    with pytest.raises(TemplateError, match="no chat template"):
        ChatTemplate({})


def test_the_callers_messages_are_not_touched() -> None:
    chat = [{"role": "user", "content": [{"text": "a"}], "reasoning": "b", "name": None}]
    before = json.dumps(chat)
    ChatTemplate(CHATML).render(chat, continue_final_message=True)
    assert json.dumps(chat) == before


def test_a_mark_of_the_encoding_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xef\xbb\xbf{{ messages[0].role }}")
    assert ChatTemplate.from_folder(tmp_path).render([{"role": "user", "content": "x"}]) == "user"
