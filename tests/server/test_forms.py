"""Forms are read as they arrive, whatever the pieces, and refused where they are not what they should be."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any

import aiohttp
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.types import Message

from protocol.errors import DialdeskError
from server.forms import FIELD_BOUND, FIELDS_BOUND, Form, read_fields, read_form
from server.http import AppBody, Body
from server.streams import ContentType, Incoming

LINE = b"\r\n"


class Upload(AppBody, frozen=True, kw_only=True):
    """What an app says of a file; more is ignored."""

    call_id: str
    seconds: int | None = None


class Strict(Body, frozen=True, kw_only=True):
    """What a page says of a file; more is refused."""

    reason: Annotated[str, msgspec.Meta(max_length=5)] = ""


Part = tuple[Sequence[str], bytes]


def part(name: str, content: bytes | str, *more: str, filename: str | None = None) -> Part:
    """A part of a form: its headers and its content."""
    named = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return (named, *more), content.encode() if isinstance(content, str) else content


CALL, SONG = part("callId", "call_1"), part("file", b"\x00song", "Content-Type: audio/mpeg", filename="a.mp3")


def encoded(parts: Iterable[Part], boundary: str = "edge", end: str = "--") -> bytes:
    """A form as RFC 2046 section 5.1 writes it."""
    opening = f"--{boundary}".encode()
    return (
        b"".join(
            opening + LINE + b"".join(header.encode() + LINE for header in headers) + LINE + content + LINE
            for headers, content in parts
        )
        + opening
        + end.encode()
        + LINE
    )


def incoming(content: bytes, cuts: Iterable[int] = (), kind: str = "multipart/form-data; boundary=edge") -> Incoming:
    """A body that arrives in the pieces between the cuts. Needs a running loop."""
    edges = [0, *sorted({cut for cut in cuts if cut < len(content)}), len(content)]
    pieces = iter([content[start:end] for start, end in pairwise(edges)])

    async def receive() -> Message:
        piece = next(pieces, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    return Incoming(receive, Headers({"content-type": kind}), limit=1 << 30, idle=20, within=20)


async def read(body: Incoming, kind: type[Any] = Upload) -> tuple[Form[Any], bytes]:
    """Read a form to its end: (the form, its file)."""
    form = await read_form(body, kind)
    return form, b"".join([piece async for piece in form])


async def refusal(body: Incoming, kind: type[Any] = Upload) -> tuple[str, str]:
    """Read a form that is refused: (code, reason)."""
    with pytest.raises(DialdeskError) as refused:
        await read(body, kind)
    return refused.value.code, refused.value.details.get("reason", "")


# --- what is read -----------------------------------------------------------------------------------------------------


async def test_fields_come_before_the_file() -> None:
    """The fields are there before the file is read; the file is what came between the boundaries."""
    song = part("file", b"\r\n--edg\r\n\x00", "Content-Type: audio/mpeg; x=1", filename='a \\"b\\".mp3')
    form, content = await read(incoming(encoded([CALL, part("seconds", "12"), part("more", ""), song])))

    assert Upload(call_id="call_1", seconds=12) == form.fields
    assert ('a "b".mp3', ContentType("audio/mpeg", {"x": "1"})) == (form.filename, form.content_type)
    assert b"\r\n--edg\r\n\x00" == content


async def test_every_cut_is_as_good_as_none() -> None:
    """A form reads the same wherever it is cut in two, and byte by byte."""
    body = encoded([CALL, part("file", b"a\r\n--edge-no\r\n--edg", filename="a.mp3")])
    cuts = [[at] for at in range(len(body))] + [list(range(len(body)))]
    read_so = {(await read(incoming(body, each)))[1] for each in cuts}

    assert {b"a\r\n--edge-no\r\n--edg"} == read_so


NEARLY_BOUNDARIES = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n-", b"\r\n--", b"\r\n--e", b"\r\n--edg", b"edge", b"\x00"]
    )
    | st.binary(max_size=8),
    max_size=12,
).map(b"".join)


@given(
    fields=st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(max_size=20), max_size=5),
    content=NEARLY_BOUNDARIES | st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 900), max_size=12),
)
@example(fields={}, content=b"", cuts=[])
@example(fields={}, content=b"\r\n--edg", cuts=[])
def test_whatever_the_pieces_a_form_is_the_same(fields: dict[str, str], content: bytes, cuts: list[int]) -> None:
    """Any fields and any file come out as they went in, however the connection cuts them."""
    if b"\r\n--edge" in LINE + content:
        content = b""  # no form: an encoder would have chosen another boundary
    fields = {name: text for name, text in fields.items() if name not in {"file", "seconds"}}
    parts = [CALL, *(part(name, text) for name, text in fields.items()), part("file", content)]
    form, file = asyncio.run(in_a_loop(encoded(parts), cuts))

    assert ("call_1", content) == (form.fields.call_id, file)


async def in_a_loop(body: bytes, cuts: list[int]) -> tuple[Form[Any], bytes]:
    """Read a form by a loop of its own."""
    return await read(incoming(body, cuts))


@given(body=st.binary(max_size=200) | NEARLY_BOUNDARIES, cuts=st.lists(st.integers(0, 250), max_size=5))
def test_what_is_no_form_is_refused(body: bytes, cuts: list[int]) -> None:
    """Whatever arrives is a form, or is refused as one that is malformed or lacks something; nothing else happens."""
    outcomes = set()
    for content in (body, encoded([CALL])[:-8] + body, encoded([CALL, SONG])[:-10] + body):
        try:
            form, _ = asyncio.run(in_a_loop(content, cuts))
            outcomes.add(form.fields.call_id)
        except DialdeskError as error:
            outcomes.add(error.code)

    assert outcomes <= {"call_1", "BAD_REQUEST", "INVALID_FIELD"}


@given(file=NEARLY_BOUNDARIES, name=st.text(max_size=12), cuts=st.lists(st.integers(0, 900), max_size=12))
def test_another_encoder_says_the_same(file: bytes, name: str, cuts: list[int]) -> None:
    """What aiohttp makes of a form is read as it was meant."""

    async def exchange() -> tuple[Form[Any], bytes]:
        data = aiohttp.FormData(quote_fields=False)
        data.add_field("callId", name)
        data.add_field("file", file, filename="通话.mp3", content_type="audio/mpeg")
        payload = data()
        body = await payload.as_bytes()
        return await read(incoming(body, cuts, payload.content_type))

    if "null" == name:
        return
    form, content = asyncio.run(exchange())

    assert (name, "audio/mpeg", file) == (form.fields.call_id, form.content_type.kind, content)


async def test_a_large_file_is_never_held() -> None:
    """No piece of a file is larger than the piece of the body that brought it, and none is kept."""
    body = encoded([CALL, part("file", bytes(4_000_000))])
    form = await read_form(incoming(body, range(0, len(body), 10_000)), Upload)
    sizes = [len(piece) async for piece in form]

    assert 4_000_000 == sum(sizes)
    assert max(sizes) <= 10_000


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([SONG, CALL], "callId must stand before the file"),
        ([SONG], "callId must stand before the file"),
        ([CALL], "file is missing"),
        ([], "file is missing"),
        ([CALL, SONG, SONG], "only one file may be sent"),
        ([CALL, SONG, part("seconds", "1")], "seconds must stand before the file"),
        ([CALL, CALL, SONG], "callId is given twice"),
        ([CALL, part("seconds", "long"), SONG], "Expected `int | null`, got `str` - at `$.seconds`"),
        ([part("callId", "a" * (FIELD_BOUND + 1)), SONG], f"callId is longer than {FIELD_BOUND} bytes"),
        ([part("callId", b"\xff"), SONG], "a field is not UTF-8"),
        ([part(f"f{at}", "") for at in range(FIELDS_BOUND + 1)], f"there are more than {FIELDS_BOUND} fields"),
    ],
)
async def test_a_form_that_lacks_or_repeats_is_told_so(parts: list[Part], reason: str) -> None:
    """What is missing, comes too late, twice or too large is named."""
    assert ("INVALID_FIELD", reason) == await refusal(incoming(encoded(parts)))


async def test_fields_are_what_their_struct_says() -> None:
    """A page may not say more than is known, nor what the type refuses."""
    more = await refusal(incoming(encoded([part("other", ""), SONG])), Strict)
    long = await refusal(incoming(encoded([part("reason", "longer"), SONG])), Strict)

    assert ("INVALID_FIELD", "Object contains unknown field `other`") == more
    assert ("INVALID_FIELD", "Expected `str` of length <= 5 - at `$.reason`") == long


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        encoded([CALL, SONG]).removesuffix(b"--\r\n"),
        encoded([CALL, SONG]).removesuffix(b"--edge--\r\n"),
        encoded([CALL])[:-14],
        encoded([CALL, SONG], boundary="other"),
        encoded([(["Content-Type: text/plain"], b"")]),
        encoded([(["Content-Disposition: form-data"], b"")]),
        encoded([(['Content-Disposition: attachment; name="file"'], b"")]),
        encoded([(["no header"], b"")]),
        encoded([part("file", b"", "X: " + "a" * 5000)]),
        encoded([part("file", b"", *["X: a"] * 8)]),
    ],
)
async def test_what_is_malformed_or_cut_short_is_a_bad_request(body: bytes) -> None:
    """A form ends with its last boundary; each part of it says what it is, in a few headers."""
    code, reason = await refusal(incoming(body))

    assert "BAD_REQUEST" == code
    assert reason


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("application/json", "UNSUPPORTED_MEDIA_TYPE"),
        ("multipart/mixed; boundary=edge", "UNSUPPORTED_MEDIA_TYPE"),
        ("", "UNSUPPORTED_MEDIA_TYPE"),
        ("multipart/form-data", "BAD_REQUEST"),
        ("multipart/form-data; boundary=", "BAD_REQUEST"),
        (f"multipart/form-data; boundary={'a' * 300}", "BAD_REQUEST"),
    ],
)
async def test_what_does_not_say_that_it_is_a_form_is_none(kind: str, code: str) -> None:
    """The Content-Type tells the kind and the boundary."""
    assert code == (await refusal(incoming(encoded([CALL, SONG]), kind=kind)))[0]


def test_texts_are_read_as_what_they_stand_for() -> None:
    """A text counts as what its field's type makes of it, several as a list; `null` does not leave a field out."""

    class Query(Body, frozen=True, kw_only=True):
        limit: int = 20
        states: tuple[str, ...] = ()

    assert Query(limit=5, states=("a", "b")) == read_fields({"limit": ["5"], "states": ["a", "b"]}, Query)
    with pytest.raises(DialdeskError, match="limit may not be null"):
        read_fields({"limit": ["null"]}, Query)
