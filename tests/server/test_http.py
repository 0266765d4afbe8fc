"""Bodies and answers that are too large to hold, over real sockets: who waits for whom, and who is told what."""

import asyncio
import hashlib
import http.client
import io
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import aiohttp
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers

import server.http
import server.streams
from protocol.errors import DialdeskError
from server.config import Config
from server.forms import Form
from server.http import ANYONE, Answer, AppBody, Download, Endpoint, Http
from server.identity import Identity
from server.streams import Incoming, RawBytes, Redirect, Stream
from server.telemetry import Metrics
from storage.database import Database
from tests.server.serving import serving
from tests.waiting import DEADLINE, until

MIB = 1024 * 1024
SONG = bytes(range(256)) * 40
SHA256 = hashlib.sha256(SONG).hexdigest()


class Taken(Answer, frozen=True, kw_only=True):
    """What has been taken."""

    size: int
    sha256: str


class About(AppBody, frozen=True, kw_only=True):
    """What stands before a file."""

    call_id: str


class Desk:
    """A few endpoints that take and give files, and what has become of them."""

    def __init__(self) -> None:
        self.taken = 0
        self.read = 0
        self.largest = 0
        self.closed = asyncio.Event()
        self.more = asyncio.Event()
        self.more.set()
        self.failure: Exception | None = None

    async def take(self, body: Incoming) -> Taken:
        """Take a file."""
        digest = hashlib.sha256()
        self.taken = 0
        async for piece in body:
            await self.more.wait()
            self.taken += len(piece)
            self.largest = max(self.largest, len(piece))
            digest.update(piece)
        return Taken(size=self.taken, sha256=digest.hexdigest())

    async def take_raw(self, body: RawBytes) -> Taken:
        """Take a file of no special kind."""
        return await self.take(body)

    async def hold(self, body: bytes) -> Taken:
        """Take what is small enough to be held."""
        return Taken(size=len(body), sha256="")

    async def refuse(self, body: Incoming) -> Taken:
        """Look at the beginning of a file, and want no more."""
        self.taken = len(await anext(aiter(body)))
        raise DialdeskError("RECORDING_EXISTS")

    async def refuse_unread(self, body: Incoming) -> Taken:
        """Want no file at all."""
        assert not body.ended
        raise DialdeskError("RECORDING_OFF")

    async def take_form(self, body: Form[About]) -> Taken:
        """Take a file and what it is about."""
        content = b"".join([piece async for piece in body])
        return Taken(size=len(content), sha256=body.fields.call_id)

    async def listen(self) -> Annotated[Stream, msgspec.Meta(extra_json_schema={"contentMediaType": "audio/*"})]:
        """Listen to a song."""
        return Stream(read=self._song, size=len(SONG), media_type="audio/mpeg", etag=SHA256, filename="通话 1.mp3")

    async def endless(self) -> Stream:
        """Give more than anybody reads."""
        return Stream(read=self._zeros, size=1 << 40, media_type="application/octet-stream")

    async def broken(self) -> Stream:
        """Begin with a mebibyte, and fail."""
        return Stream(read=self._fails, size=2 * MIB, media_type="application/octet-stream")

    async def missing(self) -> Stream:
        """Fail before the first byte."""
        return Stream(read=self._is_missing, size=1, media_type="application/octet-stream")

    async def moved(self) -> Stream | Redirect:
        """Be elsewhere."""
        return Redirect("https://store.test/song?signature=1")

    async def document(self) -> Download:
        """A document of some size."""
        return Download(b"x" * 1000, "text/plain", filename='a"b.txt')

    async def _song(self, start: int, end: int) -> AsyncIterator[bytes]:
        for at in range(start, end, 1000):
            yield SONG[at : min(at + 1000, end)]

    async def _zeros(self, _start: int, _end: int) -> AsyncIterator[bytes]:
        try:
            while True:
                await self.more.wait()
                self.read += MIB
                yield bytes(MIB)
        finally:
            self.closed.set()

    async def _fails(self, _start: int, _end: int) -> AsyncIterator[bytes]:
        yield bytes(MIB)
        if self.failure is not None:
            raise self.failure

    async def _is_missing(self, _start: int, _end: int) -> AsyncIterator[bytes]:
        if not self.taken:
            raise DialdeskError("RECORDING_MISSING")
        yield b""


class Site(msgspec.Struct, frozen=True):
    """The desk, where it is served."""

    desk: Desk
    url: str
    port: int


Open = Callable[..., Any]


@pytest.fixture
def opened(database: Database, config: Config) -> Open:
    """Serve a desk: `async with opened(idle=…) as site`."""

    async def nobody(headers: Headers) -> Identity:
        raise DialdeskError("UNAUTHENTICATED")

    @asynccontextmanager
    async def open_site(
        *, idle: float = 20.0, timeout: float = 30.0, limit: int = 512 * MIB, work: float = 30.0
    ) -> AsyncIterator[Site]:
        desk = Desk()
        http = Http(database, nobody, Metrics(), body_limit=64 * 1024, timeout=work, idle=idle)
        long: Mapping[str, Any] = {"needs": ANYONE, "body_limit": limit, "timeout": timeout}
        routes = http.routes(
            [
                Endpoint("PUT", "/take", desk.take, **long),
                Endpoint("PUT", "/raw", desk.take_raw, **long),
                Endpoint("PUT", "/hold", desk.hold, **long),
                Endpoint("PUT", "/refuse", desk.refuse, **long),
                Endpoint("PUT", "/off", desk.refuse_unread, **long),
                Endpoint("PUT", "/locked", desk.refuse, needs="phone", body_limit=limit),
                Endpoint("POST", "/form", desk.take_form, **long),
                Endpoint("GET", "/song", desk.listen, needs=ANYONE),
                Endpoint("GET", "/endless", desk.endless, needs=ANYONE),
                Endpoint("GET", "/broken", desk.broken, needs=ANYONE),
                Endpoint("GET", "/missing", desk.missing, needs=ANYONE),
                Endpoint("GET", "/moved", desk.moved, needs=ANYONE),
                Endpoint("GET", "/document", desk.document, needs=ANYONE),
            ]
        )
        app = Starlette(routes=routes)
        app.router.default = http.not_found
        async with serving(app, config) as running:
            yield Site(desk, running.url, running.port)

    return open_site


@asynccontextmanager
async def line(
    port: int, *, buffer: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection, which buffers little where it is told so."""
    bare = socket.socket()
    if buffer is not None:
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    bare.setblocking(False)
    await asyncio.get_running_loop().sock_connect(bare, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=bare, limit=64 * 1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Read an answer's status and headers."""
    async with asyncio.timeout(DEADLINE):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    return int(first.split()[1]), {
        name.lower(): value for name, _, value in (one.partition(": ") for one in lines) if name
    }


async def told(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """Read an answer that is JSON."""
    status, headers = await head(reader)
    async with asyncio.timeout(DEADLINE):
        return status, headers, msgspec.json.decode(await reader.readexactly(int(headers["content-length"])))


def put(path: str, length: int, *more: str) -> bytes:
    """The head of a request that brings a body."""
    lines = [f"PUT {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


async def send_on(writer: asyncio.StreamWriter, size: int, sent: list[int] | None = None) -> None:
    """Send so many zeros, as they are taken; note what has been."""
    for _ in range(0, size, 64 * 1024):
        writer.write(bytes(64 * 1024))
        await writer.drain()
        if sent is not None:
            sent.append(64 * 1024)


# --- bodies -----------------------------------------------------------------------------------------------------------


async def test_a_body_is_taken_as_it_comes(opened: Open) -> None:
    """Twenty mebibytes go through whole and in pieces of a few hundred KiB, with a length and without."""
    content = bytes(range(256)) * 4096 * 20

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 100_000):
            yield content[at : at + 100_000]

    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        answers = [
            await (await client.put("/take", data=io.BytesIO(content))).json(),
            await (await client.put("/take", data=chunks())).json(),
        ]

    expected = {"success": True, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert [expected, expected] == answers
    assert site.desk.largest <= 512 * 1024


async def test_what_nobody_asks_for_is_not_read(opened: Open) -> None:
    """A sender waits while the endpoint does not read: the server holds little of what it has not asked for."""
    async with opened() as site, line(site.port) as (reader, writer):
        site.desk.more.clear()
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(put("/take", 64 * MIB))
        sent: list[int] = []
        looked: list[int] = []

        def stuck() -> bool:
            looked.append(len(sent))
            return looked[-50:] == [len(sent)] * 50

        sending = asyncio.create_task(send_on(writer, 64 * MIB, sent))
        await until(stuck)
        blocked_after = sum(sent)
        site.desk.more.set()
        status, _, answer = await told(reader)
        await sending

    assert blocked_after < 32 * MIB
    assert (200, 64 * MIB) == (status, answer["size"])


@pytest.mark.parametrize("path", ["/take", "/form", "/raw", "/hold"])
async def test_a_length_beyond_the_limit_is_refused_unread(opened: Open, path: str) -> None:
    """What says that it is too large is refused by its head."""
    async with opened(limit=1000) as site, line(site.port) as (reader, writer):
        kind = "multipart/form-data; boundary=x" if path == "/form" else "application/octet-stream"
        method = b"POST" if path == "/form" else b"PUT"
        writer.write(put(path, 1001, f"Content-Type: {kind}", "Expect: 100-continue").replace(b"PUT", method))
        status, headers, answer = await told(reader)

    assert (413, "BODY_TOO_LARGE", {"limit": 1000}) == (status, answer["code"], answer["details"])
    assert "close" == headers["connection"]


async def test_a_body_that_does_not_say_its_length_is_refused_at_the_limit(opened: Open) -> None:
    """A chunked body is counted as it comes."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(100)

    async with opened(limit=1000) as site, aiohttp.ClientSession(site.url) as client:
        answer = await client.put("/take", data=chunks())

        assert (413, "BODY_TOO_LARGE") == (answer.status, (await answer.json())["code"])


async def test_silence_is_refused(opened: Open) -> None:
    """A body of which nothing comes for too long is told REQUEST_TIMEOUT."""
    async with opened(idle=0.2) as site, line(site.port) as (reader, writer):
        writer.write(put("/take", 100) + b"a")
        status, headers, answer = await told(reader)

    assert (408, "REQUEST_TIMEOUT", "close") == (status, answer["code"], headers["connection"])


async def test_a_body_that_takes_too_long_is_refused(opened: Open) -> None:
    """However steadily it drips, a body has its time: then it is the sender who is told, not the server blamed."""
    async with opened(timeout=0.5) as site, line(site.port) as (reader, writer):
        writer.write(put("/take", 10_000))
        answering = asyncio.create_task(told(reader))
        for _ in range(10_000):
            if answering.done():
                break
            writer.write(b"a")
            await asyncio.wait({answering}, timeout=0.02)
        status, _, answer = await answering

    assert (408, "REQUEST_TIMEOUT") == (status, answer["code"])


async def test_a_sender_that_goes_away_is_nobodys_fault(opened: Open) -> None:
    """Where the connection closes before the end, the endpoint is told so, and the server goes on."""
    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        async with line(site.port) as (_, writer):
            writer.write(put("/take", 100_000) + bytes(50_000))
            await until(lambda: site.desk.taken == 50_000)
        answer = await client.put("/take", data=b"abc")

        assert 200 == answer.status


async def test_only_the_kind_that_is_asked_for_is_taken(opened: Open) -> None:
    """An endpoint that takes octets refuses what says it is something else, and takes what says nothing."""
    async with opened() as site, line(site.port) as (reader, writer):
        writer.write(put("/raw", 1, "Content-Type: text/plain") + b"a")
        refused = await told(reader)
        writer.write(put("/raw", 1, "Content-Type: Application/Octet-Stream") + b"a")
        named = await told(reader)
        writer.write(put("/raw", 1) + b"a")
        unnamed = await told(reader)

    assert (415, {"expected": "application/octet-stream"}) == (refused[0], refused[2]["details"])
    assert (200, 200) == (named[0], unnamed[0])


async def test_a_sender_that_waits_to_be_told_is_told(opened: Open) -> None:
    """`Expect: 100-continue` is answered once the endpoint asks for the body, and a refusal comes in its place."""
    async with opened() as site:
        async with line(site.port) as (reader, writer):
            writer.write(put("/take", 3, "Expect: 100-continue"))
            asked = await head(reader)
            writer.write(b"abc")
            taken = await told(reader)
        async with line(site.port) as (reader, writer):
            writer.write(put("/off", 3, "Expect: 100-continue"))
            refused = await told(reader)

    assert (100, {}) == asked
    assert (200, 3) == (taken[0], taken[2]["size"])
    assert (403, "RECORDING_OFF", "close") == (refused[0], refused[2]["code"], refused[1]["connection"])


@pytest.mark.parametrize("path", ["/refuse", "/off", "/locked", "/nowhere"])
async def test_a_refusal_amid_an_upload_arrives(opened: Open, path: str) -> None:
    """A client that sends on gets the answer, which is whole before the connection closes."""
    async with opened() as site, line(site.port) as (reader, writer):
        writer.write(put(path, 500 * MIB))
        sending = asyncio.create_task(send_on(writer, 500 * MIB))
        _, headers, answer = await told(reader)
        sending.cancel()

    expected = {"/refuse": "RECORDING_EXISTS", "/off": "RECORDING_OFF", "/locked": "UNAUTHENTICATED"}
    assert expected.get(path, "NOT_FOUND") == answer["code"]
    assert "close" == headers["connection"]


async def test_a_refusal_amid_an_upload_arrives_at_clients_that_people_use(opened: Open) -> None:
    """aiohttp, which reads while it sends, gets the answer to a body of 200 MiB; so does http.client, which reads only
    when it has sent, where the body is within what is drained."""

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield bytes(MIB)

    def ask(port: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        connection.request("PUT", "/refuse", body=bytes(12 * MIB))
        return connection.getresponse().status

    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        async with client.put("/refuse", data=zeros()) as answer:
            first = await answer.json()
        second = await asyncio.to_thread(ask, site.port)

    assert "RECORDING_EXISTS" == first["code"]
    assert 409 == second


async def test_who_sends_on_after_an_answer_is_cut(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent after a refusal is drained for a while and no longer, silent or not."""
    monkeypatch.setattr(server.http, "LINGER", 0.2)
    async with opened() as site:
        for sends_on in (True, False):
            async with line(site.port) as (reader, writer):
                writer.write(put("/off", 500 * MIB))
                await told(reader)
                sending = asyncio.create_task(send_on(writer, 500 * MIB)) if sends_on else None
                async with asyncio.timeout(DEADLINE):
                    try:
                        assert b"" == await reader.read()
                    except ConnectionError:
                        pass  # how it is cut where bytes were on their way
                if sending is not None:
                    await asyncio.wait({sending})
                    assert isinstance(sending.exception(), ConnectionError)


async def test_a_refusal_of_a_small_request_keeps_the_connection(opened: Open) -> None:
    """A body that has come with its head is no reason to close, be it asked for or not."""
    async with opened() as site, line(site.port) as (reader, writer):
        answers = []
        for _ in range(3):
            writer.write(put("/off", 3) + b"abc")
            answers.append(await told(reader))

    assert [(403, None)] * 3 == [(status, headers.get("connection")) for status, headers, _ in answers]


async def test_a_form_is_read_for_its_endpoint(opened: Open) -> None:
    """An endpoint that takes a Form is called when its fields are there; else the asker is told what is missing."""
    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        form = aiohttp.FormData()
        form.add_field("callId", "call_1")
        form.add_field("file", SONG * 100, filename="song.mp3", content_type="audio/mpeg")
        taken = await (await client.post("/form", data=form)).json()
        backwards = aiohttp.FormData()
        backwards.add_field("file", SONG * 100, filename="song.mp3")
        backwards.add_field("callId", "call_1")
        refused = await (await client.post("/form", data=backwards)).json()
        other = await (await client.post("/form", json={})).json()

    assert (100 * len(SONG), "call_1") == (taken["size"], taken["sha256"])
    assert ("INVALID_FIELD", {"reason": "callId must stand before the file"}) == (refused["code"], refused["details"])
    assert {"expected": "multipart/form-data"} == other["details"]


def test_what_is_streamed_does_not_happen_once() -> None:
    """An endpoint cannot both read its body as it comes and compare it with the one before."""

    async def take(identity: Identity, body: Incoming, once: object) -> Taken:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match="cannot be compared"):
        Endpoint("PUT", "/take", take, needs="phone")


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "told_range", "expected"),
    [
        ({}, 200, None, SONG),
        ({"Range": "bytes=0-"}, 206, "bytes 0-10239/10240", SONG),
        ({"Range": "bytes=100-2500"}, 206, "bytes 100-2500/10240", SONG[100:2501]),
        ({"Range": "bytes=-5"}, 206, "bytes 10235-10239/10240", SONG[-5:]),
        ({"Range": "bytes=10239-99999"}, 206, "bytes 10239-10239/10240", SONG[-1:]),
        ({"Range": "bytes=0-1,4-5"}, 200, None, SONG),
        ({"Range": "pages=0-1"}, 200, None, SONG),
        ({"Range": "bytes=0-1", "If-Range": f'"{SHA256}"'}, 206, "bytes 0-1/10240", SONG[:2]),
        ({"Range": "bytes=0-1", "If-Range": f'W/"{SHA256}"'}, 200, None, SONG),
        ({"Range": "bytes=0-1", "If-Range": "Sat, 21 Nov 2026 10:00:00 GMT"}, 200, None, SONG),
        ({"If-None-Match": '"another"', "Range": "bytes=0-1"}, 206, "bytes 0-1/10240", SONG[:2]),
    ],
)
async def test_a_file_is_answered_in_part(
    opened: Open, asked: dict[str, str], status: int, told_range: str | None, expected: bytes
) -> None:
    """GET gives the whole, or the one range that is asked for while the file is the one that the asker knows."""
    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        answer = await client.get("/song", headers=asked)
        content = await answer.read()

    assert (status, told_range, expected) == (answer.status, answer.headers.get("content-range"), content)
    assert f'"{SHA256}"' == answer.headers["etag"]
    assert ("bytes", "audio/mpeg") == (answer.headers["accept-ranges"], answer.headers["content-type"])
    assert str(len(expected)) == answer.headers["content-length"]
    assert "no-store" == answer.headers["cache-control"]
    assert "filename*=UTF-8''%E9%80%9A%E8%AF%9D%201.mp3" in answer.headers["content-disposition"]


async def test_a_file_is_told_without_being_read(opened: Open) -> None:
    """HEAD tells the whole file's headers, whatever range; a file that the asker has is not told again; a range beyond
    the end is told how much there is. The connection goes on."""
    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        head = await client.head("/song", headers={"Range": "bytes=0-1"})
        known = await client.get("/song", headers={"If-None-Match": f'"x", W/"{SHA256}"'})
        any_known = await client.head("/song", headers={"If-None-Match": "*"})
        beyond = await client.get("/song", headers={"Range": "bytes=10240-"})
        code = (await beyond.json())["code"]
        again = await client.get("/song")
        assert SONG == await again.read()

    assert (200, "10240") == (head.status, head.headers["content-length"])
    assert (304, f'"{SHA256}"', b"") == (known.status, known.headers["etag"], await known.read())
    assert "content-type" not in known.headers
    assert 304 == any_known.status
    assert (416, "bytes */10240", "RANGE_NOT_SATISFIABLE") == (beyond.status, beyond.headers["content-range"], code)


async def test_what_fails_before_its_first_byte_is_answered_as_an_error(opened: Open) -> None:
    """The first bytes are read before the status is told, so that what cannot be read at all is no cut answer."""
    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        answer = await client.get("/missing")

        assert (404, "RECORDING_MISSING") == (answer.status, (await answer.json())["code"])


@pytest.mark.parametrize("failure", [None, ZeroDivisionError("a bug"), DialdeskError("UNAVAILABLE")])
async def test_what_fails_later_is_never_taken_for_the_whole(opened: Open, failure: Exception | None) -> None:
    """Where there are fewer bytes than were told, the connection is cut, and the client knows."""
    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        site.desk.failure = failure
        answer = await client.get("/broken")
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
        again = await client.get("/song")

        assert (200, SONG) == (again.status, await again.read())


async def test_reading_ends_when_the_client_goes_away(opened: Open) -> None:
    """Both while it is told bytes and while there are none for it, a client that leaves ends the reading."""
    async with opened() as site:
        for waits in (False, True):
            site.desk.closed.clear()
            site.desk.more.set()
            async with line(site.port) as (reader, writer):
                writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
                await head(reader)
                if waits:
                    site.desk.more.clear()
                    writer.close()  # says goodbye, while the server has nothing to say
            async with asyncio.timeout(DEADLINE):
                await site.desk.closed.wait()


async def test_a_client_that_does_not_read_is_waited_for_and_then_cut(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Little is read beyond what the client takes; and when it takes nothing for too long, the reading ends and the
    client, should it read again, sees that the answer was cut."""
    monkeypatch.setattr(server.streams, "SEND_DEADLINE", 0.5)
    async with opened() as site, line(site.port, buffer=4096) as (reader, writer):
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            await site.desk.closed.wait()
            try:
                rest = len(await reader.read(-1))
            except ConnectionError:
                rest = 0

    assert rest < site.desk.read <= 16 * MIB


async def test_a_redirect_leads_elsewhere_for_now(opened: Open) -> None:
    """What is elsewhere is told by 302, which nobody keeps."""
    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        answer = await client.get("/moved", allow_redirects=False)

    assert (302, "https://store.test/song?signature=1") == (answer.status, answer.headers["location"])
    assert "no-store" == answer.headers["cache-control"]


async def test_a_document_is_a_file_to_keep(opened: Open) -> None:
    """A Download's name can say nothing but a name."""
    async with opened() as site, aiohttp.ClientSession(site.url) as client:
        answer = await client.get("/document")

        assert b"x" * 1000 == await answer.read()
    assert 'attachment; filename="a_b.txt"' == answer.headers["content-disposition"]
