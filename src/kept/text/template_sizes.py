"""How large the result of a template's operation can become, told before it is computed.

Only what can grow beyond its operands, or takes time out of proportion to them, has a rule here;
other results are measured once they are there. Rules round up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kept.text.template_budget import (
    ELEMENT,
    MAX_BITS,
    ExceededError,
    charge,
    held,
    measure,
    size_of,
)

_PRINTF = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")
_NUMBER = re.compile(r"\d+")
_PROMPT_ENCODINGS = frozenset({"utf8", "utf16", "utf32", "ascii", "latin1"})
_MAX_DIGITS = 1000  # that `round` may be asked for


def operator_size(operator: str, left: Any, right: Any) -> int:
    """Give the size of `left operator right`; 0 where it is about theirs."""
    match operator:
        case "*" if isinstance(left, int) and isinstance(right, int):
            return _bits(left.bit_length() + right.bit_length())
        case "*" if isinstance(right, int):
            return _repeated(left, right)
        case "*" if isinstance(left, int):
            return _repeated(right, left)
        case "**" if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
            return _bits(left.bit_length() * max(right, 0))
        case "%" if isinstance(left, str | bytes):
            return printf_size(left, right)
    return 0


def printf_size(text: str | bytes, values: Any) -> int:
    """Give the size of `text % values`."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    given = values if isinstance(values, tuple) else (values,)
    widest = max((abs(x) for x in given if isinstance(x, int)), default=0)
    size = len(text)
    for fields in _PRINTF.findall(text):
        size += sum(widest if field == "*" else int(field or 0) for field in fields)
    return size + size_of(values) * (text.count("%") if isinstance(values, Mapping) else 1)


def check_format_spec(value: Any, spec: str) -> None:
    """Count what `format(value, spec)` makes."""
    charge(size_of(value) + sum(int(number[:20]) for number in _NUMBER.findall(spec)))


def method_size(method: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Give the size of a call of `method`, where it is a builtin value's; 0 for other callables."""
    me, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    given = [*args, *kwargs.values()]
    first = given[0] if given else None
    if isinstance(me, int) and name == "to_bytes":
        return max((x for x in given if isinstance(x, int)), default=0)
    if not isinstance(me, str | bytes):
        return 0
    match name:
        case "ljust" | "rjust" | "center" | "zfill":
            return _whole(first)
        case "expandtabs":
            tab = "\t" if isinstance(me, str) else b"\t"
            return len(me) + me.count(tab) * (8 if first is None else _whole(first))  # type: ignore[arg-type]
        case "replace":
            return replace_size(me, *given[:2])
        case "join":
            return size_of(first) + len(me) * _length(first)
        case "translate" if isinstance(first, Mapping):
            longest = max((measure(x, None) for x in first.values()), default=1)
            return len(me) * longest
        # Their searches go through the other text again at every place.
        case "rfind" | "rindex" | "rsplit" | "rpartition" | "strip" | "lstrip" | "rstrip":
            return len(me) * _length(first) // 16
        case "encode" | "decode":
            return _codec_size(me, given)
        case "striptags":
            return quadratic(me)
    return 0


def replace_size(text: str | bytes, old: Any = "", new: Any = "", *_: Any) -> int:
    """Give the size of `text.replace(old, new)`."""
    if type(old) is bytes or isinstance(old, str):
        return len(text) + _count(text, old) * _length(new)
    return 0


def quadratic(value: Any, *_: Any, **__: Any) -> int:
    """Give a size for what takes time in proportion to the square of it."""
    size = size_of(value) - ELEMENT
    return size * size // 64


def _center(value: Any, width: Any = 80, *_: Any) -> int:
    return _whole(width)


def _indent(value: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    lines = len(value.splitlines()) + 2 if isinstance(value, str) else 2
    return lines * (len(width) if isinstance(width, str) else _whole(width))


def _pieces(value: Any, count: Any = 0, *_: Any, **__: Any) -> int:
    return _whole(count)


def _replace(value: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> int:
    return replace_size(str(value), str(old), str(new)) if size_of((value, old, new)) else 0


def _join(value: Any, d: Any = "", *_: Any, **__: Any) -> int:
    return size_of(value) + _length(value) * size_of(d)


def _format(value: Any, *args: Any, **kwargs: Any) -> int:
    return printf_size(str(value), kwargs or args)


def _round(value: Any, precision: Any = 0, *_: Any, **__: Any) -> int:
    if abs(_whole(precision)) > _MAX_DIGITS:
        raise ExceededError(f"it rounds to more than {_MAX_DIGITS} digits")
    return 0


def _sum(value: Any, attribute: Any = None, start: Any = 0) -> int:
    # Lists are added one after the other, each time into a new one.
    return 0 if isinstance(start, int | float) else _length(value) * size_of(value)


def _to_json(
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    *_: Any,
    **__: Any,
) -> int:
    size = size_of(value)
    step = len(indent) if isinstance(indent, str) else _whole(indent)
    return size * (1 + size_of(separators)) + (size * step * _depth(value) if step else 0)


FILTERS: Mapping[str, Callable[..., int]] = {
    "batch": _pieces,
    "center": _center,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "pprint": quadratic,
    "replace": _replace,
    "round": _round,
    "slice": _pieces,
    "striptags": quadratic,
    "sum": _sum,
    "tojson": _to_json,
    "urlize": quadratic,
    "wordwrap": quadratic,
    "xmlattr": quadratic,
}


def counted(value: Any) -> Any:
    """Give a generator's values as a list, each counted; anything else as it is."""
    if isinstance(value, Iterable) and not hasattr(value, "__len__"):
        return [held(item) for item in value]
    return value


def _bits(bits: int) -> int:
    if bits > MAX_BITS:
        raise ExceededError(f"it computes integers of more than {MAX_BITS:,} bits")
    return bits // 8


def _repeated(value: Any, times: int) -> int:
    return (size_of(value) - ELEMENT) * max(times, 0)


def _whole(number: Any) -> int:
    return number if isinstance(number, int) else 0


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _count(text: Any, part: Any) -> int:
    try:
        return int(text.count(part))
    except TypeError:  # text and bytes, which the operation itself refuses
        return 0


def _codec_size(me: str | bytes, given: Sequence[Any]) -> int:
    name = str(given[0] if given else "utf8").lower().replace("-", "").replace("_", "")
    return 0 if name in _PROMPT_ENCODINGS else quadratic(me)


def _depth(value: Any) -> int:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return 1 + max(map(_depth, value), default=0)
    return 1
