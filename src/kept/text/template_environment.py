"""The sandbox chat templates run in, with the names Hugging Face templates expect."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import update_wrapper, wraps
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaTemplateError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import (
    ImmutableSandboxedEnvironment,
    SandboxedEscapeFormatter,
    SandboxedFormatter,
)
from jinja2.utils import Namespace
from markupsafe import Markup

from kept.text.template_budget import ExceededError, charge, held
from kept.text.template_code import CountingGenerator
from kept.text.template_sizes import (
    FILTERS,
    check_format_spec,
    counted,
    method_size,
    operator_size,
)

_NO_TEMPLATE_NEEDS = ("lipsum", "cycler", "joiner")
_MAX_DATE_FORMAT = 1000  # characters


class _Environment(ImmutableSandboxedEnvironment):
    """The environment transformers renders chat templates in, with an end to everything.

    Templates come from the network: they cannot change what they are given, nor reach Python's
    internals, nor go on without end. Everything is counted in the `budget_for` around it.
    """

    code_generator_class = CountingGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, LoopControls],
            finalize=held,
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: _counted_filter(name, f) for name, f in self.filters.items()}
        self.tests = {name: _counted_filter("", test) for name, test in self.tests.items()}
        self.globals.update(
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
            dict=_PlainDict(),
            namespace=_PlainNamespace,
        )
        for name in _NO_TEMPLATE_NEEDS:
            del self.globals[name]
        self._own = frozenset({self.count, self.hold, self.cut, self.join_texts})

    def count(self, size: int = 0) -> bool:
        """Count a turn of a loop, or plain text of the template."""
        charge(size)
        return True

    def hold(self, value: Any) -> Any:
        """Count a list that a template writes out."""
        return held(value)

    def cut(self, value: Any, *ends: int | None) -> Any:
        """Slice, counted."""
        return held(value[slice(*ends)])

    def join_texts(self, *values: Any) -> str:
        """The operator `~`, counted."""
        return held("".join(str(held(value)) for value in values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        charge(operator_size(operator, left, right))
        return held(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # Jinja hands a call its keyword arguments as they are, so that `self` may be one of them.
        if __obj in __self._own if isinstance(__obj, MethodType) else False:
            return __obj(*args)
        charge(method_size(__obj, args, kwargs))
        return held(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        # Jinja's own, over formatters that count.
        if not isinstance(value, MethodType | BuiltinMethodType):
            return None
        text, name = value.__self__, value.__name__
        if not isinstance(text, str) or name not in ("format", "format_map"):
            return None
        formatter = (
            _CountingEscapeFormatter(self, escape=text.escape)
            if isinstance(text, Markup)
            else _CountingFormatter(self)
        )

        def run(*args: Any, **kwargs: Any) -> str:
            if name == "format" or kwargs or len(args) != 1:
                return type(text)(formatter.vformat(text, args, kwargs))
            return type(text)(formatter.vformat(text, (), args[0]))

        return update_wrapper(run, value)


def make_environment() -> ImmutableSandboxedEnvironment:
    """Make an environment for chat templates; to compile and render inside a `budget_for`."""
    return _Environment()


class _CountingFormatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        check_format_spec(value, format_spec)
        return super().format_field(value, format_spec)


class _CountingEscapeFormatter(SandboxedEscapeFormatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        check_format_spec(value, format_spec)
        return super().format_field(value, format_spec)


def _counted_filter(name: str, function: Any) -> Callable[..., Any]:
    rule, first = FILTERS.get(name), int(hasattr(function, "jinja_pass_arg"))

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if rule is None:
            charge()
        else:
            args = (*args[:first], *map(counted, args[first:]))
            charge(rule(*args[first:], **kwargs))
        return held(function(*args, **kwargs))

    return run


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words; it adds no text."""

    tags = {"generation"}  # noqa: RUF012 (Extension declares it as an instance variable)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _PlainNamespace(Namespace):
    """Jinja's namespace, without attributes that begin with an underscore."""

    # Without named parameters, so that `namespace(self=1)` is an attribute like any other.
    def __init__(*args: Any, **attributes: Any) -> None:
        self, *positional = args
        values = dict(*positional, **attributes)
        for name in values:
            _check_attribute(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        charge()
        return held(super().__repr__())


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace attribute cannot begin with an underscore: {name!r}")


class _PlainDict:
    """`dict(...)` and `dict.fromkeys(...)`, without the type itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _raise_exception(message: str) -> NoReturn:
    raise JinjaTemplateError(message)


def _strftime_now(format: str) -> str:
    if len(format) > _MAX_DATE_FORMAT:
        raise ExceededError(f"it spells a date in more than {_MAX_DATE_FORMAT} characters")
    return datetime.now().strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, and `<` is what chat tokens are made of.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
