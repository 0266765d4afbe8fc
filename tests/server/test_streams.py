"""Which bytes a Range asks for, what a file may be called, and what a Content-Type says."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DialdeskError
from server.streams import ContentType, byte_range, content_disposition, read_content_type


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        # the examples of RFC 9110 section 14.1.2, of ten thousand bytes
        ("bytes=0-499", 10000, (0, 500)),
        ("bytes=500-999", 10000, (500, 1000)),
        ("bytes=-500", 10000, (9500, 10000)),
        ("bytes=9500-", 10000, (9500, 10000)),
        # as far as there are bytes
        ("bytes=0-0", 1, (0, 1)),
        ("bytes=5-99999999999999999999999999", 10, (5, 10)),
        ("bytes=-11", 10, (0, 10)),
        ("Bytes= 0-4 ", 10, (0, 5)),
        # nothing to be served in part: the whole is
        ("", 10, None),
        ("bytes=", 10, None),
        ("bytes=-", 10, None),
        ("bytes=5-4", 10, None),
        ("bytes=20-10", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=0x1-2", 10, None),
        ("bytes=+1-2", 10, None),
        ("bytes=١-٢", 10, None),
        ("bytes 0-4", 10, None),
        ("seconds=0-4", 10, None),
        ("bytes=0-0,-1", 10, None),
        ("bytes=0-4,bytes=5-6", 10, None),
        ("bytes=-5", 0, None),
        (f"bytes={'9' * 30000}-", 10, None),
    ],
)
def test_a_range_is_one_of_bytes_or_none(header: str, size: int, expected: tuple[int, int] | None) -> None:
    """One range is answered in part, cut at the end of the file; several and malformed ones by the whole."""
    assert expected == byte_range(header, size)


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-10", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-0", 0)]
)
def test_a_range_without_a_byte_is_refused(header: str, size: int) -> None:
    """A range that begins behind the last byte cannot be answered in part."""
    with pytest.raises(DialdeskError) as refusal:
        byte_range(header, size)

    assert ("RANGE_NOT_SATISFIABLE", {"size": size}) == (refusal.value.code, refusal.value.details)


@given(content=st.binary(max_size=20), first=st.integers(0, 25), last=st.integers(0, 25))
def test_a_range_is_what_its_words_say(content: bytes, first: int, last: int) -> None:
    """Whatever is answered in part is the bytes from the first to the last, both counted."""
    numbered = {at: byte for at, byte in enumerate(content) if first <= at <= last}
    try:
        part = byte_range(f"bytes={first}-{last}", len(content))
    except DialdeskError:
        part = (0, 0)

    assert (None if last < first else bytes(numbered.values())) == (None if part is None else content[slice(*part)])


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("call.mp3", 'attachment; filename="call.mp3"'),
        ("a b.mp3", 'attachment; filename="a b.mp3"'),
        ('a"b\\c/d.mp3', 'attachment; filename="a_b_c_d.mp3"'),
        ("a\r\nSet-Cookie: x\x00", 'attachment; filename="a__Set-Cookie: x_"'),
        ("通话.mp3", "attachment; filename=\"__.mp3\"; filename*=UTF-8''%E9%80%9A%E8%AF%9D.mp3"),
        ("100%41.mp3", "attachment; filename=\"100_41.mp3\"; filename*=UTF-8''100%2541.mp3"),
    ],
)
def test_a_file_is_named_in_ascii_and_in_full(filename: str, expected: str) -> None:
    """Every browser reads the first name, and those that can read the second."""
    assert expected == content_disposition(filename)


@given(st.text())
def test_no_name_leaves_its_header(filename: str) -> None:
    """Whatever a file is called, the header stays one, in ASCII, and names no folder."""
    header = content_disposition(filename)
    told = re.fullmatch(r"attachment; filename=\"([^\"\\/]*)\"(?:; filename\*=UTF-8''([!-~]*))?", header)

    assert told is not None
    assert header.isascii()
    assert header.isprintable()
    assert not {"/", "\\", '"'} & set(unquote(told[2] or ""))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, ContentType("")),
        ("", ContentType("")),
        ("Audio/MPEG", ContentType("audio/mpeg")),
        ('multipart/form-data; Boundary="a b;c"', ContentType("multipart/form-data", {"boundary": "a b;c"})),
        ("audio/ogg ; codecs=opus", ContentType("audio/ogg", {"codecs": "opus"})),
    ],
)
def test_a_content_type_is_a_kind_with_parameters(header: str | None, expected: ContentType) -> None:
    """The kind and the names of parameters count in lower case; values are without quotes."""
    assert expected == read_content_type(header)
