"""What comes as text under names: fields of a query string or a form, and the one file that a form brings.

A form (multipart/form-data, RFC 7578) is read as it arrives and never held: its fields stand before its file, so that
it is known whose file it is before the first of its bytes is taken.
"""

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from protocol.errors import DialdeskError
from server.streams import ContentType, Incoming, read_content_type

FILE = "file"
"""The name of the part that is the file; all others are fields."""

FIELD_BOUND = 4096
"""Bytes of a field."""

FIELDS_BOUND = 16
"""Fields of a form."""

S = TypeVar("S", bound=msgspec.Struct)


def read_fields(given: Mapping[str, Sequence[str]], kind: type[S]) -> S:
    """Read texts into a Struct; a name given several times becomes a list. What is given counts: neither a blank nor
    `null` is the same as leaving a field out, and a time is RFC 3339, not a number. Raises INVALID_FIELD."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    texts: dict[str, Any] = {}
    for name, values in given.items():
        told = str(fields[name].type) if name in fields else ""
        if told and ("null" in values or ("datetime" in told and values[-1].lstrip("+-").replace(".", "").isdigit())):
            raise DialdeskError("INVALID_FIELD", reason=f"{name} may not be {values[-1]}")
        texts[name] = values if "tuple" in told else values[-1]
    try:
        return msgspec.convert(texts, kind, strict=False)
    except msgspec.ValidationError as error:
        raise DialdeskError("INVALID_FIELD", reason=str(error)) from error


class Form(Generic[S]):
    """A form whose fields have been read: `async for piece in form` reads its file.

    `filename` is what the client calls it, and `content_type` what it says that it is. Read it to its end: only then is
    it known that the form is whole. Raises what Incoming raises, BAD_REQUEST where the form is malformed or cut short,
    INVALID_FIELD where anything stands behind the file.
    """

    def __init__(self, fields: S, filename: str | None, content_type: ContentType, parts: "_Parts") -> None:
        self.fields = fields
        self.filename = filename
        self.content_type = content_type
        self._parts = parts

    @property
    def length(self) -> int | None:
        """Bytes of the whole form, of which the file has hardly fewer; None where the client does not say."""
        return self._parts.length

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Go on where reading stopped."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes of the file, which are never none."""
        match await self._parts.next():
            case bytes(piece):
                return piece
            case _Part(name=name):
                twice = name == FILE
                reason = "only one file may be sent" if twice else f"{name} must stand before the {FILE}"
                raise DialdeskError("INVALID_FIELD", reason=reason)
            case None:
                raise StopAsyncIteration


async def read_form(body: Incoming, kind: type[S]) -> Form[S]:
    """Read the fields of a form, up to the first byte of its file.

    Raises UNSUPPORTED_MEDIA_TYPE where it is no form, INVALID_FIELD where a field is missing before the file, is too
    long or not what its type says, or the file is missing, and what Form raises.
    """
    if body.content_type.kind != "multipart/form-data":
        raise DialdeskError("UNSUPPORTED_MEDIA_TYPE", expected="multipart/form-data")
    parts = _Parts(body)
    given: dict[str, bytearray] = {}
    value = bytearray()
    while (part := await parts.next()) is not None:
        match part:
            case bytes():
                value += part
                if len(value) > FIELD_BOUND:
                    raise DialdeskError("INVALID_FIELD", reason=f"{[*given][-1]} is longer than {FIELD_BOUND} bytes")
            case _Part(name="file"):
                return Form(_before_the_file(given, kind), part.filename, part.content_type, parts)
            case _Part(name=name):
                if name in given:
                    raise DialdeskError("INVALID_FIELD", reason=f"{name} is given twice")
                if len(given) == FIELDS_BOUND:
                    raise DialdeskError("INVALID_FIELD", reason=f"there are more than {FIELDS_BOUND} fields")
                value = given[name] = bytearray()
    raise DialdeskError("INVALID_FIELD", reason=f"{FILE} is missing")


def _before_the_file(given: Mapping[str, bytearray], kind: type[S]) -> S:
    for field in msgspec.structs.fields(kind):
        if field.required and field.encode_name not in given:
            raise DialdeskError("INVALID_FIELD", reason=f"{field.encode_name} must stand before the {FILE}")
    try:
        return read_fields({name: [value.decode()] for name, value in given.items()}, kind)
    except UnicodeDecodeError as error:
        raise DialdeskError("INVALID_FIELD", reason="a field is not UTF-8") from error


class _Part(msgspec.Struct, frozen=True):
    """A part has begun; its bytes follow."""

    name: str
    filename: str | None
    content_type: ContentType


class _Parts:
    """The parts of a form, each followed by its bytes, as they arrive. Holds what one piece of the body brought."""

    def __init__(self, body: Incoming) -> None:
        boundary = body.content_type.parameters.get("boundary", "")
        if not boundary:
            raise DialdeskError("BAD_REQUEST", reason="the Content-Type tells no boundary")
        self._body = body
        self.length = body.length
        self._read: deque[_Part | bytes] = deque()
        self._name, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary.encode("latin-1"),
                {
                    "on_part_begin": self._headers_begin,
                    "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": lambda data, start, end: self._read.append(data[start:end]),
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise DialdeskError("BAD_REQUEST", reason=str(error)) from error

    async def next(self) -> _Part | bytes | None:
        """Return what comes next; None where the form has ended. Raises BAD_REQUEST, and what Incoming raises."""
        while not self._read:
            if not (piece := await anext(self._body, b"")):
                if not self._ended:
                    raise DialdeskError("BAD_REQUEST", reason="the form ends before its last boundary")
                return None
            try:
                self._parser.write(piece)
            except FormParserError as error:
                raise DialdeskError("BAD_REQUEST", reason=str(error)) from error
        return self._read.popleft()

    def _headers_begin(self) -> None:
        self._headers = {}

    def _header_ends(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        told, parameters = parse_options_header(self._headers.get(b"content-disposition"))
        if told != b"form-data" or b"name" not in parameters:
            raise DialdeskError("BAD_REQUEST", reason="a part tells no name")
        filename = parameters.get(b"filename")
        self._read.append(
            _Part(
                parameters[b"name"].decode(errors="replace"),
                None if filename is None else filename.decode(errors="replace"),
                read_content_type(self._headers.get(b"content-type", b"").decode("latin-1")),
            )
        )

    def _end(self) -> None:
        self._ended = True
