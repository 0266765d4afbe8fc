"""Text with placeholders, as users write it into settings: `{callee:national}`.

A placeholder names a value, and a format it is written in: there is nothing to compute and nothing to call, so a
template can do no more than put known values next to one another. Braces that are meant are doubled.

    {timeout}                 the value
    {callee:national}         in a format of its kind
    {caller?}                 may have no value: then the field that it stands in is left out
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
import phonenumbers

from protocol.phone_number import dialable
from protocol.timestamps import epoch_ms, rfc3339

LONGEST = 4096
"""Characters of a template."""

MOST = 16
"""Placeholders of a template; what it is filled into is bounded by this, for values are bounded."""

DEEPEST, LARGEST = 8, 200
"""Levels, and values, of a JSON template."""


class Kind(Enum):
    """What a placeholder stands for, which decides the formats it may have."""

    TEXT = "text"
    PART = "part"  # of a message, which may be empty
    NUMBER = "number"  # of a telephone, in E.164
    WHOLE = "whole"  # a whole number: alone in a JSON string it stays one
    TIME = "time"


Known = Mapping[str, Kind]
"""The placeholders of a template; `secret.*` stands for all that begin with `secret.`."""

Value = str | int | datetime | None


class Missing(Exception):  # noqa: N818 - a fact about the call
    """A placeholder that is needed has no value, or one that cannot be used; `name` says which."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no usable {name}")
        self.name = name


class Values(msgspec.Struct, frozen=True):
    """What placeholders stand for now. Numbers are dialled as in `region`, times written as in `zone`."""

    known: Mapping[str, Value]
    region: str
    zone: ZoneInfo

    def and_also(self, more: Mapping[str, Value]) -> "Values":
        """Return these and more."""
        return Values({**self.known, **more}, self.region, self.zone)


class _Placeholder(msgspec.Struct, frozen=True):
    name: str
    kind: Kind
    optional: bool
    format: str | None


class Template:
    """A text with placeholders, read once and filled often. Raises ValueError where it cannot be read."""

    def __init__(self, text: str, known: Known) -> None:
        if len(text) > LONGEST:
            raise ValueError(f"a template has at most {LONGEST} characters")
        self._parts = [_part(piece, known) for piece in _PIECE.finditer(text)]
        self.placeholders = [part for part in self._parts if isinstance(part, _Placeholder)]
        if len(self.placeholders) > MOST:
            raise ValueError(f"a template has at most {MOST} placeholders")

    @property
    def names(self) -> set[str]:
        """What the placeholders are called."""
        return {placeholder.name for placeholder in self.placeholders}

    def left_out(self, values: Values) -> bool:
        """Tell whether an optional placeholder has no value, for which the whole field is left out."""
        return any(each.optional and _is_nothing(values.known.get(each.name)) for each in self.placeholders)

    def filled(self, values: Values, written: Callable[[str], str] = str) -> str:
        """Return the text; values are `written` so that they cannot break out of it. Raises Missing."""
        return "".join(part if isinstance(part, str) else written(_formatted(part, values)) for part in self._parts)

    def value(self, values: Values) -> str | int:
        """Return the text, or where it is one whole number and nothing else, that number. Raises Missing."""
        match self._parts:
            case [_Placeholder(kind=Kind.WHOLE, name=name)] if isinstance(whole := values.known.get(name), int):
                return whole
            case _:
                return self.filled(values)


class JsonTemplate:
    """A JSON object or array the strings of which are templates. Raises ValueError, naming the path inside it."""

    def __init__(self, shape: object, known: Known) -> None:
        self._count = 0
        self.names: set[str] = set()
        self._shape = self._read(shape, known, "", 0)

    def filled(self, values: Values) -> Any:
        """Return the JSON value; members and elements in which an optional value is missing are left out.

        Raises Missing."""
        return _filled(self._shape, values)

    def _read(self, shape: object, known: Known, at: str, depth: int) -> object:
        self._count += 1
        if self._count > LARGEST or depth > DEEPEST:
            raise ValueError(f"a JSON template has at most {LARGEST} values on {DEEPEST} levels")
        match shape:
            case str():
                try:
                    template = Template(shape, known)
                except ValueError as error:
                    raise ValueError(f"{error} (in {at.lstrip('.') or 'the text'})") from None
                self.names |= template.names
                return template
            case dict():
                return {str(key): self._read(value, known, f"{at}.{key}", depth + 1) for key, value in shape.items()}
            case list() | tuple():
                return [self._read(value, known, f"{at}[{index}]", depth + 1) for index, value in enumerate(shape)]
            case _:
                return shape


def check_pattern(pattern: str) -> None:
    """Judge a pattern of dates such as `%Y-%m-%d %H:%M:%S`, by which times are both written and read.

    Raises ValueError unless it tells a date and a time of day, with plain directives, each of them once."""
    directives = re.findall(r"%(.)", pattern.replace("%%", ""), re.DOTALL)
    if (
        len(pattern) > 64
        or not pattern.isprintable()
        or len(directives) != len(set(directives))
        or not set(directives) <= set("YymdHMSfz")
        or not {"m", "d", "H", "M"} <= set(directives)
        or len({"Y", "y"} & set(directives)) != 1
        or pattern.replace("%%", "").endswith("%")
    ):
        raise ValueError("a pattern of times is made of %Y or %y, %m %d %H %M, and may have %S %f %z, each once")


_PIECE = re.compile(
    r"""(?P<plain> [^{}]+ | \{\{ | \}\} )
      | \{ (?P<name> [A-Za-z][\w.-]*) (?P<optional> \??) (?: : (?P<format> [^{}]+) )? \}
      | (?P<brace> [{}] )""",
    re.VERBOSE | re.ASCII,
)


def _part(piece: re.Match[str], known: Known) -> str | _Placeholder:
    if piece["brace"]:
        raise ValueError("a brace opens or closes no placeholder; double the braces that are meant")
    if piece["plain"]:
        return {"{{": "{", "}}": "}"}.get(piece["plain"], piece["plain"])
    name, style = piece["name"], piece["format"]
    kind = known.get(name) or known.get(f"{name.partition('.')[0]}.*")
    if kind is None or name.endswith("."):
        raise ValueError(f"there is no {{{name}}} here, but: {', '.join(sorted(known)) or 'none'}")
    _check_format(name, kind, style)
    return _Placeholder(name, kind, bool(piece["optional"]), style)


def _check_format(name: str, kind: Kind, style: str | None) -> None:
    formats = _FORMATS[kind]
    if style is None or style in formats:
        return
    if kind is Kind.TIME and "%" in style:
        check_pattern(style)
        return
    raise ValueError(f"{{{name}}} has no format {style!r}, but: {', '.join(formats) or 'none'}")


def _is_nothing(value: Value) -> bool:
    return value is None or value == ""


def _formatted(placeholder: _Placeholder, values: Values) -> str:
    value, style = values.known.get(placeholder.name), placeholder.format
    needed = not placeholder.optional and placeholder.kind is not Kind.PART
    if needed and _is_nothing(value):
        raise Missing(placeholder.name)
    match value:
        case None:
            return ""
        case datetime():
            if style is not None and "%" in style:
                return value.astimezone(values.zone).strftime(style)
            return _TIMES[style or "s"](value)
        case str() if placeholder.kind is Kind.NUMBER:
            return _NUMBERS[style or "e164"](value, values.region)
        case str() if style is not None:
            return _TEXTS[style](value)
        case _:
            return str(value)


def _filled(shape: object, values: Values) -> object:
    match shape:
        case Template():
            return shape.value(values)
        case dict():
            return {key: _filled(each, values) for key, each in shape.items() if not _left_out(each, values)}
        case list():
            return [_filled(each, values) for each in shape if not _left_out(each, values)]
        case _:
            return shape


def _left_out(shape: object, values: Values) -> bool:
    return isinstance(shape, Template) and shape.left_out(values)


# --- formats ----------------------------------------------------------------------------------------------------------


def _national(number: str, region: str) -> str:
    try:
        return dialable(number, region)
    except phonenumbers.NumberParseException:
        return number  # a seat's telephone may be an extension


def _international(number: str, region: str) -> str:
    """Return 008613912345678; numbers without E.164 form, such as 4001234567, are those of the region."""
    if number.startswith("+"):
        return f"00{number[1:]}"
    return f"00{phonenumbers.country_code_for_region(region)}{number}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # bodies that are not UTF-8 pass through unchanged


_NUMBERS: Mapping[str, Callable[[str, str], str]] = {
    "e164": lambda number, _: number,
    "digits": lambda number, _: number.removeprefix("+"),
    "national": _national,
    "00": _international,
}

_TIMES: Mapping[str, Callable[[datetime], str]] = {
    "s": lambda at: str(epoch_ms(at) // 1000),
    "ms": lambda at: str(epoch_ms(at)),
    "rfc3339": lambda at: rfc3339(at.astimezone(UTC)),
}

_TEXTS: Mapping[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "url": lambda text: quote(_bytes(text), safe=""),
    "base64": lambda text: base64.b64encode(_bytes(text)).decode(),
    "md5": lambda text: hashlib.md5(_bytes(text), usedforsecurity=False).hexdigest(),
    "sha256": lambda text: hashlib.sha256(_bytes(text)).hexdigest(),
}

_FORMATS: Mapping[Kind, Mapping[str, object]] = {
    Kind.TEXT: _TEXTS,
    Kind.PART: _TEXTS,
    Kind.NUMBER: _NUMBERS,
    Kind.WHOLE: {},
    Kind.TIME: _TIMES,
}
