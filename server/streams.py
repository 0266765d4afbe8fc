"""Bytes that are too many to hold: bodies read as they arrive, answers told as they are read, and parts of them.

Both ways the slower side sets the pace: uvicorn stops reading from a socket while the application asks for nothing, and
waits with what is to be sent while the peer does not read.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
import structlog
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.types import Receive, Send

from protocol.errors import DialdeskError

log = structlog.get_logger()

SEND_DEADLINE = 60.0
"""Seconds in which a peer must take the next 64 KiB of an answer; who takes longer is cut."""

_PIECE = 64 * 1024
"""Bytes given to the socket at a time, so that what waits there stays small however large the pieces are read."""

_RANGE = re.compile(r"bytes=[ \t]*([0-9]{1,99})?-([0-9]{1,99})?[ \t]*", re.ASCII | re.IGNORECASE)


class ContentType(msgspec.Struct, frozen=True):
    """What a Content-Type says: `kind` in lower case, empty where none is told, and parameters by lower-case name."""

    kind: str
    parameters: Mapping[str, str] = {}


def read_content_type(header: str | None) -> ContentType:
    """Read the header; what cannot be understood in it is left out."""
    kind, parameters = parse_options_header(header)
    return ContentType(
        kind.decode("latin-1").strip(),
        {name.decode("latin-1"): value.decode("latin-1") for name, value in parameters.items()},
    )


class Incoming:
    """The body of a request as it arrives: `async for piece in body`. What nobody asks for is not read.

    Raises, when asked for more: BODY_TOO_LARGE beyond `limit` bytes, REQUEST_TIMEOUT where no byte comes for `idle`
    seconds or the whole is not there `within` seconds, BAD_REQUEST where the connection closes before the end.
    """

    def __init__(self, receive: Receive, headers: Headers, *, limit: int, idle: float, within: float) -> None:
        self.content_type = read_content_type(headers.get("content-type"))
        told = headers.get("content-length", "")
        self.length = int(told) if told.isdecimal() else None
        self.limit = limit
        self.ended = False
        self._receive = receive
        self._idle = idle
        self._until = asyncio.get_running_loop().time() + within
        self._size = 0
        self._to_be_asked_for = headers.get("expect", "").lower() == "100-continue"

    def demand(self, kind: str | None) -> None:
        """Refuse, before a byte is read, a body that says it is of another kind, or larger than the limit."""
        if kind and self.content_type.kind not in {"", kind} and self.length != 0:
            raise DialdeskError("UNSUPPORTED_MEDIA_TYPE", expected=kind)
        if self.length is not None and self.length > self.limit:
            raise DialdeskError("BODY_TOO_LARGE", limit=self.limit)

    async def whole(self) -> bytes:
        """Read to the end, and return what has not been read before; what is known to be too large is not begun."""
        self.demand(None)
        return b"".join([piece async for piece in self])

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Go on where reading stopped."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes, which are never none."""
        while not self.ended:
            now = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout_at(min(now + self._idle, self._until)):
                    piece = await self._next()
            except TimeoutError as error:
                raise DialdeskError("REQUEST_TIMEOUT") from error
            self._size += len(piece)
            if self._size > self.limit:
                raise DialdeskError("BODY_TOO_LARGE", limit=self.limit)
            if piece:
                return piece
        raise StopAsyncIteration

    async def take_arrived(self) -> None:
        """Read and forget what has arrived already, but do not make a peer send who waits to be told to."""
        if not self.ended and (self._size > 0 or not self._to_be_asked_for):
            await self.discard(seconds=0, most=_PIECE)

    async def discard(self, *, seconds: float, most: int) -> None:
        """Read and forget the rest: at most so many bytes, for so many seconds, or until the peer is gone."""
        try:
            async with asyncio.timeout(seconds):
                while not self.ended and most > 0:
                    most -= len(await self._next())
        except (TimeoutError, DialdeskError):
            return  # that was the rest, as far as anybody waits for it

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise DialdeskError("BAD_REQUEST", reason="the connection closed before the body was complete")
        self.ended = not message.get("more_body", False)
        return bytes(message.get("body", b""))


RawBytes = Annotated[Incoming, msgspec.Meta(extra_json_schema={"contentMediaType": "application/octet-stream"})]
"""A body that is a file and nothing else."""


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of `size` bytes, of which `read(start, end)` reads those from `start` to before `end`.

    It is served whole or in part, as the request asks (RFC 9110 sections 13 and 14). `etag`, given without quotes,
    changes whenever the bytes do. With a `filename` it is a file to keep. Where `read` raises a DialdeskError before
    its first bytes, that is the answer; later, the connection is cut, so that nobody takes a part for the whole.
    """

    read: Callable[[int, int], AsyncIterator[bytes]]
    size: int
    media_type: str
    etag: str | None = None
    filename: str | None = None
    headers: dict[str, str] = {}


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is written while it is told, so that nobody knows its size before: a file to keep.

    Where `pieces` raises a DialdeskError before its first piece, that is the answer; later, the connection is cut.
    """

    pieces: AsyncIterator[bytes]
    media_type: str
    filename: str
    headers: dict[str, str] = {}


class Redirect(msgspec.Struct, frozen=True):
    """What was asked for is at `url`, for this time."""

    url: str


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it goes out: `content`, and where it is longer than that, the `rest` of it; `length` is of both,
    where it is known."""

    status: int
    headers: dict[str, str]
    length: int | None = None
    content: bytes = b""
    rest: AsyncIterator[bytes] | None = None


async def answer_stream(stream: Stream, asked: Headers, method: str) -> Outgoing:
    """Answer a GET or HEAD by what its conditions and its Range ask for. The first bytes are read here.

    Raises RANGE_NOT_SATISFIABLE, and what `read` raises.
    """
    headers = {"content-type": stream.media_type, "accept-ranges": "bytes", **stream.headers}
    tag = None if stream.etag is None else f'"{stream.etag}"'
    if tag is not None:
        headers["etag"] = tag
    if stream.filename is not None:
        headers["content-disposition"] = content_disposition(stream.filename)
    if tag is not None and _is_among(tag, asked.get("if-none-match", "")):
        return Outgoing(status=304, headers={name: headers[name] for name in headers if name != "content-type"})
    if method == "HEAD":
        return Outgoing(status=200, headers=headers, length=stream.size)
    part = None
    if asked.get("if-range") in {None, tag}:
        part = byte_range(",".join(asked.getlist("range")), stream.size)
    start, end = part or (0, stream.size)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{stream.size}"
    rest = stream.read(start, end)
    try:
        content = await anext(rest, b"")
    except BaseException:
        await close(rest)
        raise
    return Outgoing(
        status=200 if part is None else 206, headers=headers, length=end - start, content=content, rest=rest
    )


async def answer_written(written: Written, method: str) -> Outgoing:
    """Answer a GET or HEAD. The first piece is read here. Raises what `pieces` raises."""
    headers = {
        "content-type": written.media_type,
        "content-disposition": content_disposition(written.filename),
        **written.headers,
    }
    if method == "HEAD":
        return Outgoing(status=200, headers=headers)
    try:
        content = await anext(written.pieces, b"")
    except BaseException:
        await close(written.pieces)
        raise
    return Outgoing(status=200, headers=headers, content=content, rest=written.pieces)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the one range of bytes that a Range asks for, as [start, end); None where the whole is to be answered:
    no range or several, one that is malformed, or of another unit (RFC 9110 section 14.2).

    Raises RANGE_NOT_SATISFIABLE where the range has no byte of the whole.
    """
    if (asked := _RANGE.fullmatch(header)) is None:
        return None
    first, last = (None if told is None else int(told) for told in asked.groups())
    if first is None:
        if last is None or (size == 0 and last > 0):
            return None  # neither this nor that; or all of nothing, for which Content-Range has no words
        start, end = max(0, size - last), size
    else:
        start, end = first, size if last is None else min(last + 1, size)
        if last is not None and last < first:
            return None
    if start >= size:
        raise DialdeskError("RANGE_NOT_SATISFIABLE", size=size)
    return start, end


def content_disposition(filename: str) -> str:
    """Say that this is a file to keep under that name (RFC 6266), in ASCII and, where that is not all, in UTF-8."""
    name = "".join("_" if char in '/\\"' or not char.isprintable() else char for char in filename).strip()
    plain = "".join(char if char.isascii() else "_" for char in name)
    if plain == name and "%" not in name:
        return f'attachment; filename="{name}"'
    return f"attachment; filename=\"{plain.replace('%', '_')}\"; filename*=UTF-8''{quote(name, safe='')}"


Ending = Literal["whole", "left", "stalled", "failed"]
"""How an answer ended: told whole, the peer left, it did not read, or there was no more to read."""


async def pour(outgoing: Outgoing, receive: Receive, send: Send) -> Ending:
    """Tell what `read` gives. Unless that was the whole, the caller returns without another word, which cuts the
    connection. Whatever happens, reading has ended when this returns."""
    assert outgoing.rest is not None
    pouring = asyncio.create_task(_pour(outgoing, outgoing.rest, send))
    leaving = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({pouring, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return pouring.result() if pouring.done() else "left"
    finally:
        pouring.cancel()
        leaving.cancel()
        await asyncio.wait({pouring, leaving})
        await close(outgoing.rest)


async def _pour(outgoing: Outgoing, rest: AsyncIterator[bytes], send: Send) -> Ending:
    content, left = outgoing.content, outgoing.length
    while content:
        left = None if left is None else left - len(content)
        if left is not None and left < 0:
            log.error("answer cut", cause=f"{-left} bytes more than were told")
            return "failed"
        for at in range(0, len(content), _PIECE):
            if not await _sent(send, content[at : at + _PIECE], more=True):
                return "stalled"
        try:
            content = await anext(rest, b"")
        except Exception:
            log.exception("answer cut")
            return "failed"
    if left:
        log.error("answer cut", cause=f"{left} bytes fewer than were told")
        return "failed"
    return "whole" if await _sent(send, b"", more=False) else "stalled"


async def _sent(send: Send, piece: bytes, *, more: bool) -> bool:
    """Send; return whether there was room for it in time. Others have their turn meanwhile, in any case: sending to who
    is gone does not wait, and must not keep that from being noticed."""
    try:
        async with asyncio.timeout(SEND_DEADLINE):
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            await asyncio.sleep(0)
    except TimeoutError:
        return False
    return True


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # a body that nobody reads


async def close(pieces: AsyncIterator[bytes]) -> None:
    """End a reading that may not have come to its end."""
    if isinstance(pieces, AsyncGenerator):
        await pieces.aclose()


def _is_among(tag: str, header: str) -> bool:
    """Whether If-None-Match names it, weakly compared (RFC 9110 section 13.1.2)."""
    return header.strip() == "*" or tag in {one.strip().removeprefix("W/") for one in header.split(",")}
