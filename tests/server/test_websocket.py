"""The server's side of a WebSocket, on real sockets: what peers send, what they leave unread, and how it ends."""

import asyncio
import struct
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send
from websockets.frames import Frame, Opcode

import server.websocket
from server.config import Config
from server.serve import Server
from server.websocket import WebSocket, websocket_of
from tests.server.serving import raw_client, serving
from tests.waiting import until

MEBIBYTE = b"a" * 1024 * 1024


class Service:
    """An application that lets peers in, sends them frames that no buffer of the kernel can take, and hears."""

    def __init__(self, frames: int = 0) -> None:
        self._frames = frames
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.over = asyncio.Event()
        self.times_over = 0
        self.again = asyncio.Event()
        self.socket: WebSocket | None = None

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        self.socket = websocket_of(scope)
        if scope["path"] == "/refused":
            self.socket.refuse(403, b"no", {"x-why": "because"})
            return
        if scope["path"] == "/forgotten":
            return
        self.socket.accept(scope, self)
        for _ in range(self._frames):
            self.socket.send(MEBIBYTE)

    def message(self, frame: bytes) -> None:
        """Hear."""
        self.heard.put_nowait(frame)

    def writable(self) -> None:
        """The peer reads again."""
        self.again.set()

    def lost(self) -> None:
        """Over."""
        self.times_over += 1
        self.over.set()


def masked(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame of a client."""
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server ends the connection."""
    async with asyncio.timeout(20):
        return await reader.read()


async def gone(node: Server) -> None:
    """Wait until the server holds no connection."""
    await until(lambda: not node.server_state.connections)


# --- the handshake ----------------------------------------------------------------------------------------------------


async def asked(port: int, head: str) -> bytes:
    """What the server answers to the head of a request, until it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n")
        return await ended(reader)
    finally:
        writer.close()


HANDSHAKE = """GET {path} HTTP/1.1
Host: h
Connection: keep-alive, Upgrade
Upgrade: WebSocket
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
"""


async def test_a_handshake_is_answered_by_the_key_of_the_standard(config: Config) -> None:
    """The example of RFC 6455 section 1.3; and what the peer says is heard."""
    service = Service()
    async with serving(service, config) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(HANDSHAKE.format(path="/").replace("\n", "\r\n").encode() + b"\r\n")
        async with asyncio.timeout(20):
            answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(masked(Opcode.TEXT, b"hello"))
        async with asyncio.timeout(20):
            heard = await service.heard.get()
        writer.close()
        await gone(node)

    assert b"HTTP/1.1 101 Switching Protocols" == answer.splitlines()[0]
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer.splitlines()
    assert b"hello" == heard


@pytest.mark.parametrize(
    ("was", "instead", "status", "told"),
    [
        ("Version: 13", "Version: 8", 426, b"sec-websocket-version: 13"),
        ("Sec-WebSocket-Version: 13\n", "", 426, b"sec-websocket-version: 13"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 400, b"connection: close"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "!", 400, b"connection: close"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n", "", 400, b"connection: close"),
        ("GET", "POST", 400, b"connection: close"),
    ],
)
async def test_a_handshake_that_is_none_is_refused(
    config: Config, was: str, instead: str, status: int, told: bytes
) -> None:
    """Before the application is asked."""
    service = Service()
    async with serving(service, config) as node:
        answer = await asked(node.port, HANDSHAKE.format(path="/").replace(was, instead))
        await gone(node)

    assert f"HTTP/1.1 {status} ".encode() == answer[:13]
    assert told in answer.splitlines()
    assert service.socket is None


async def test_an_application_refuses_by_an_http_answer(config: Config) -> None:
    """With its status, its headers and its body, after which the connection ends."""
    async with serving(Service(), config) as node:
        answer = await asked(node.port, HANDSHAKE.format(path="/refused"))
        await gone(node)

    head, body = answer.split(b"\r\n\r\n")
    assert (b"HTTP/1.1 403 Forbidden", b"no") == (head.splitlines()[0], body)
    assert {b"x-why: because", b"content-length: 2"} < set(head.splitlines())


async def test_an_application_that_neither_accepts_nor_refuses_refuses(config: Config) -> None:
    """Nobody is left waiting."""
    async with serving(Service(), config) as node:
        answer = await asked(node.port, HANDSHAKE.format(path="/forgotten"))
        await gone(node)

    assert answer.startswith(b"HTTP/1.1 500 ")


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536])
async def test_a_message_of_any_length_goes_both_ways(config: Config, length: int) -> None:
    """Each form of the length, there and back."""
    service = Service()
    text = b"m" * length
    async with serving(service, config) as node, raw_client(node.port) as (reader, writer):
        writer.write(masked(Opcode.TEXT, text))
        async with asyncio.timeout(20):
            heard = await service.heard.get()
        assert service.socket is not None
        service.socket.send(heard)
        async with asyncio.timeout(20):
            answer = await reader.readexactly(len(expected := Frame(Opcode.TEXT, text).serialize(mask=False)))

    assert text == heard
    assert expected == answer


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """The same bytes, some at a time."""
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_frames_may_come_in_any_pieces(config: Config, size: int) -> None:
    """Whatever the network makes of them."""
    service = Service()
    said = [b"", b"a", "äöü".encode(), b"b" * 130, b"c"]
    data = b"".join(masked(Opcode.TEXT, text) for text in said)
    async with serving(service, config) as node, raw_client(node.port) as (_, _writer):
        [connection] = node.server_state.connections
        for piece in pieces(data, size):
            connection.data_received(piece)

        assert said == [service.heard.get_nowait() for _ in said]


async def test_a_message_in_fragments_is_one_message(config: Config) -> None:
    """Also where a ping comes between them, and where a character is cut in two."""
    service = Service()
    whole = "grüß dich".encode()
    async with serving(service, config) as node, raw_client(node.port) as (reader, writer):
        writer.write(
            masked(Opcode.TEXT, whole[:3], fin=False)
            + masked(Opcode.PING, b"p")
            + masked(Opcode.CONT, b"", fin=False)
            + masked(Opcode.CONT, whole[3:])
            + masked(Opcode.BINARY, b"\xff")
        )
        async with asyncio.timeout(20):
            heard = [await service.heard.get(), await service.heard.get()]
            pong = await reader.readexactly(3)

    assert [whole, b"\xff"] == heard
    assert Frame(Opcode.PONG, b"p").serialize(mask=False) == pong


async def test_what_is_held_is_told_later_in_its_order(config: Config) -> None:
    """And a second hold in the middle of it counts at once."""
    service = Service()
    async with serving(service, config) as node, raw_client(node.port) as (_, _writer):
        assert service.socket is not None
        socket = service.socket
        told: list[bytes] = []

        def message(frame: bytes) -> None:
            told.append(frame)
            socket.hold()

        service.message = message  # type: ignore[method-assign]
        for text in (b"1", b"2", b"3"):
            socket.data_received(masked(Opcode.TEXT, text))
        first = list(told)
        socket.go_on()
        second = list(told)
        socket.go_on()

    assert ([b"1"], [b"1", b"2"], [b"1", b"2", b"3"]) == (first, second, told)


async def test_a_peer_that_breaks_the_protocol_and_goes_while_it_is_held_is_told_as_lost(config: Config) -> None:
    """Once, and what it said before is told first: nobody counts a session that is not there."""
    service = Service()
    async with serving(service, config) as node, raw_client(node.port) as (_, writer):
        assert service.socket is not None
        socket = service.socket
        said: list[bytes] = []

        def message(frame: bytes) -> None:
            said.append(frame)
            socket.hold()

        service.message = message  # type: ignore[method-assign]
        writer.write(masked(Opcode.TEXT, b"1") + masked(Opcode.TEXT, b"2") + b"\x81\x00")
        await until(lambda: said == [b"1"])
        writer.transport.abort()
        await gone(node)
        early = service.times_over
        socket.go_on()
        socket.go_on()
        await until(lambda: service.times_over == 1)

    assert (0, [b"1", b"2"], 1) == (early, said, service.times_over)


async def test_frames_that_are_no_messages_do_not_keep_others_from_their_turn(config: Config) -> None:
    """After some of them the event loop goes on with whatever else there is, and then with the rest."""
    service = Service()
    async with serving(service, config) as node, raw_client(node.port) as (_, _writer):
        assert service.socket is not None
        service.socket.data_received(masked(Opcode.PONG) * 1000 + masked(Opcode.TEXT, b"last"))
        at_once = service.heard.qsize()
        async with asyncio.timeout(20):
            heard = await service.heard.get()

    assert (0, b"last") == (at_once, heard)


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b"", b"\x88\x00"),
        (b"\x03\xe8", b"\x88\x02\x03\xe8"),
        (b"\x0f\xa0bye", b"\x88\x02\x0f\xa0"),
    ],
)
async def test_a_close_is_answered_by_its_code(config: Config, payload: bytes, answer: bytes) -> None:
    """Then the connection ends, and its receiver is told so once."""
    service = Service()
    async with serving(service, config) as node, raw_client(node.port) as (reader, writer):
        writer.write(masked(Opcode.CLOSE, payload) + masked(Opcode.TEXT, b"late"))
        rest = await ended(reader)
        await gone(node)

    assert answer == rest
    assert (1, 0) == (service.times_over, service.heard.qsize())


async def test_our_close_waits_for_the_peers(config: Config) -> None:
    """What it says in between is not told; then the connection ends."""
    service = Service()
    async with serving(service, config) as node, raw_client(node.port) as (reader, writer):
        assert service.socket is not None
        service.socket.send(b"last")
        service.socket.close(4503, "unbound")
        service.socket.send(b"too late")
        async with asyncio.timeout(20):
            said = await reader.readexactly(6 + 11)
        writer.write(masked(Opcode.TEXT, b"late") + masked(Opcode.CLOSE, struct.pack("!H", 4503)))
        rest = await ended(reader)
        await gone(node)

    assert b"\x81\x04last\x88\x09\x11\x97unbound" == said
    assert (b"", 0, 1) == (rest, service.heard.qsize(), service.times_over)


@pytest.mark.parametrize("says", ["nothing", "goodbye", "nonsense"])
async def test_a_peer_that_reads_no_more_is_gone_soon(
    monkeypatch: pytest.MonkeyPatch, config: Config, says: str
) -> None:
    """However it ends, and whatever it left unread: neither side's goodbye waits for ever."""
    monkeypatch.setattr(server.websocket, "LINGER", 0.05)
    service = Service(64)
    said = {"goodbye": masked(Opcode.CLOSE, b"\x03\xe8"), "nonsense": b"\x7f\x00"}
    async with serving(service, config) as node, raw_client(node.port) as (_, writer):
        await until(lambda: service.socket is not None and not service.socket.reads)
        assert service.socket is not None
        if says == "nothing":
            service.socket.close(1012, "draining")
        else:
            writer.write(said[says])
        async with asyncio.timeout(20):
            await service.over.wait()
        await gone(node)

    assert 1 == service.times_over


async def test_pings_of_a_peer_that_does_not_read_cost_no_memory(config: Config) -> None:
    """Pongs are not piled up for it."""
    service = Service(64)
    async with serving(service, config) as node, raw_client(node.port) as (_, writer):
        await until(lambda: service.socket is not None and not service.socket.reads)
        assert service.socket is not None
        before = service.socket._transport.get_write_buffer_size()
        for _ in range(100):
            writer.write(masked(Opcode.PING, b"p" * 125) * 1000)
            await writer.drain()
        writer.write(masked(Opcode.TEXT, b"done"))
        async with asyncio.timeout(20):
            await service.heard.get()
        after = service.socket._transport.get_write_buffer_size()
        writer.transport.abort()
        await gone(node)

    assert after <= before


async def test_a_peer_that_reads_again_is_told_of(config: Config) -> None:
    """Its receiver goes on with what waits."""
    service = Service(16)
    async with serving(service, config) as node, raw_client(node.port) as (reader, writer):
        await until(lambda: service.socket is not None and not service.socket.reads)
        reading = asyncio.create_task(reader.readexactly(16 * (len(MEBIBYTE) + 10)))
        async with asyncio.timeout(60):
            await service.again.wait()
            await reading
        assert service.socket is not None
        reads = service.socket.reads
        writer.transport.abort()
        await gone(node)

    assert reads


async def test_who_does_not_wait_to_be_let_in_is_told_as_lost(config: Config) -> None:
    """A receiver that was given to a connection already gone is told so, and the server stops."""
    service = Service()
    async with serving(service, config) as node, raw_client(node.port, "/") as (_, writer):
        assert service.socket is not None
        socket = service.socket
        writer.transport.abort()
        await gone(node)
        late = Service()
        socket.accept({"headers": []}, late)

    assert (1, 1) == (service.times_over, late.times_over)
