"""JSON schemas of the types that decode and encode, made from msgspec's own account of them.

`msgspec.json.schema_components` would do but for two things: it refuses a `Raw` default, and it renames types of
one name silently, where here they are refused.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import msgspec
from msgspec import inspect as mi

from protocol.errors import ERRORS

Json = dict[str, Any]

CODE = re.compile(rf"\b(?:{'|'.join(ERRORS)})\b")
"""An error code named in a text."""

NAMES = re.compile(rf"(`[^`]+`|{CODE.pattern})")
"""What a text names: something in backticks, or an error code."""

API = "/api/v1/"


class Schemas:
    """JSON Schemas of types; each Struct and each enum once, in `named`, by its own name.

    Not msgspec's own, which fails on a default that is Raw, gives two Structs of one name names of its making, and does
    not know that what is told tells every field. A Struct that is both heard and told is to be heard first: what may be
    left out when it is heard is then not promised when it is told.
    """

    def __init__(self) -> None:
        self.named: dict[str, Json] = {}
        self._types: dict[str, type] = {}

    def heard(self, kind: Any) -> Json:
        """Describe what peers say: a field with a default may be left out."""
        return self._schema(mi.type_info(kind), told=False)

    def told(self, kind: Any) -> Json:
        """Describe what we say: a field is left out only where its Struct omits defaults, or it is UNSET."""
        return self._schema(mi.type_info(kind), told=True)

    def fields(self, kind: type[msgspec.Struct]) -> Iterator[tuple[str, mi.Field, Json]]:
        """Describe the fields of a Struct that is heard, one by one."""
        info = mi.type_info(kind)
        assert isinstance(info, mi.StructType)
        yield from self._fields(info, told=False)

    def _schema(self, kind: mi.Type, *, told: bool) -> Json:
        match kind:
            case mi.Metadata():
                return {**self._schema(kind.type, told=told), **(kind.extra_json_schema or {})}
            case mi.StructType():
                return self._reference(kind.cls, lambda: self._struct(kind, told=told))
            case mi.EnumType():
                return self._reference(kind.cls, lambda: _enumeration(kind.cls))
            case mi.UnionType():
                return {"anyOf": [self._schema(member, told=told) for member in kind.types]}
            case mi.LiteralType():
                return _one_of(kind.values)
            case mi.CollectionType():
                items = self._schema(kind.item_type, told=told)
                return _limited("array", items=items, minItems=kind.min_length, maxItems=kind.max_length)
            case mi.DictType():
                names = {
                    name: limit for name, limit in self._schema(kind.key_type, told=told).items() if name != "type"
                }
                values = self._schema(kind.value_type, told=told)
                return _limited(
                    "object",
                    propertyNames=names or None,
                    additionalProperties=values or None,
                    minProperties=kind.min_length,
                    maxProperties=kind.max_length,
                )
            case mi.StrType():
                return _limited("string", minLength=kind.min_length, maxLength=kind.max_length, pattern=kind.pattern)
            case mi.IntType() | mi.FloatType():
                return _limited(
                    "integer" if isinstance(kind, mi.IntType) else "number",
                    minimum=kind.ge,
                    exclusiveMinimum=kind.gt,
                    maximum=kind.le,
                    exclusiveMaximum=kind.lt,
                )
            case mi.BoolType():
                return {"type": "boolean"}
            case mi.NoneType():
                return {"type": "null"}
            case mi.DateTimeType():
                return {"type": "string", "format": "date-time"}
            case mi.DateType():
                return {"type": "string", "format": "date"}
            case mi.AnyType() | mi.RawType():
                return {}
            case _:
                raise TypeError(f"no JSON Schema for {kind}")

    def _reference(self, cls: type, describe: Callable[[], Json]) -> Json:
        name = cls.__name__
        if (other := self._types.setdefault(name, cls)) is not cls:
            raise TypeError(f"two types are named {name}: one of {other.__module__}, one of {cls.__module__}")
        if name not in self.named:
            self.named[name] = {}  # stands for a type within itself
            self.named[name] = describe()
        return {"$ref": f"#/components/schemas/{name}"}

    def _struct(self, kind: mi.StructType, *, told: bool) -> Json:
        properties: Json = {}
        required: list[str] = []
        if kind.tag_field is not None:
            properties[kind.tag_field] = {"const": kind.tag}
            required.append(kind.tag_field)
        says_all = told and not kind.cls.__struct_config__.omit_defaults
        for name, field, schema in self._fields(kind, told=told):
            properties[name] = schema
            if field.required or (says_all and _has_default(field)):
                required.append(name)
        return {
            "description": about_struct(kind.cls),
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if kind.forbid_unknown_fields else {}),
        }

    def _fields(self, kind: mi.StructType, *, told: bool) -> Iterator[tuple[str, mi.Field, Json]]:
        for field in kind.fields:
            schema = self._schema(field.type, told=told)
            if not told and field.default is not None and field.default is not msgspec.NODEFAULT:
                schema["default"] = field.default
            yield field.encode_name, field, schema


def _has_default(field: mi.Field) -> bool:
    return field.default is not msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT


def about_struct(kind: type[msgspec.Struct]) -> str:
    """What its docstring says, with the fields by their names on the wire."""
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    text = inspect.cleandoc(kind.__doc__ or "")
    return re.sub(r"`(\w+)`", lambda found: f"`{names.get(found[1], found[1])}`", text)


def _enumeration(kind: type[Enum]) -> Json:
    return {"description": inspect.cleandoc(kind.__doc__ or ""), **_one_of([member.value for member in kind])}


def _one_of(values: Sequence[Any]) -> Json:
    return {"const": values[0]} if len(values) == 1 else {"enum": list(values)}


def _limited(name: str, **limits: object) -> Json:
    return {"type": name, **{limit: value for limit, value in limits.items() if value is not None}}


def split_docstring(docstring: str | None) -> tuple[str, str]:
    """The first line of a docstring, and the rest."""
    first, _, rest = inspect.cleandoc(docstring or "").partition("\n")
    return first, rest.strip()
