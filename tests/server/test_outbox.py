"""What waits to be written: its order, its bound, and how a socket comes to its end, read or not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import Message, Receive, Scope, Send
from websockets.frames import Frame, Opcode

import server.outbox
import server.socket
from protocol.errors import CloseCode
from server.config import Config
from server.outbox import Outbox
from server.serve import Server
from server.socket import CuttableWebSocket, abort_of
from tests.server.serving import raw_client, serving
from tests.waiting import until

BOUND = 100


class Peer:
    """The other side of an outbox: what it was sent, and whether it was cut."""

    def __init__(self, *, reads: bool = True) -> None:
        self.frames: list[str] = []
        self.closed: tuple[int, str] | None = None
        self.cut = asyncio.Event()
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()

    async def send(self, message: Message) -> None:
        """Take a frame, when it comes to it."""
        await self.reads.wait()
        if message["type"] == "websocket.close":
            self.closed = message["code"], message["reason"]
        else:
            self.frames.append(message["text"])


async def permitted() -> None:
    """This node holds its lease."""


@asynccontextmanager
async def writing(
    outbox: Outbox, peer: Peer, may: Callable[[], Awaitable[None]] = permitted
) -> AsyncIterator[asyncio.Task[None]]:
    """Write while the block runs."""
    writer = asyncio.create_task(outbox.run(peer.send, may))
    try:
        yield writer
    finally:
        writer.cancel()
        await asyncio.wait([writer])


async def test_frames_are_written_in_order() -> None:
    """Those filed before the writer began and those filed while it writes."""
    peer = Peer()
    outbox = Outbox(BOUND, peer.cut.set)
    outbox.put(b"1")
    async with writing(outbox, peer):
        outbox.put(b"2")
        await until(lambda: len(peer.frames) == 2)
        outbox.put(b"3")
        await until(lambda: len(peer.frames) == 3)

    assert (["1", "2", "3"], None, False) == (peer.frames, peer.closed, outbox.dropped)


async def test_a_close_writes_first_what_waits() -> None:
    """Then its own last frame, then the close; and the writer ends."""
    peer = Peer()
    outbox = Outbox(BOUND, peer.cut.set)
    outbox.put(b"1")
    outbox.put(b"2")
    outbox.close(4503, "unbound", b"last")
    async with writing(outbox, peer) as writer:
        await writer

    assert (["1", "2", "last"], (4503, "unbound")) == (peer.frames, peer.closed)


async def test_the_first_close_counts_and_nothing_is_filed_after_it() -> None:
    """Neither another code, nor another last frame, nor a frame."""
    peer = Peer()
    outbox = Outbox(BOUND, peer.cut.set)
    outbox.close(4503, "unbound", b"last")
    outbox.close(1012, "draining", b"another")
    outbox.put(b"late")
    async with writing(outbox, peer) as writer:
        await writer

    assert (["last"], (4503, "unbound"), (4503, "unbound")) == (peer.frames, peer.closed, outbox.closing)


async def test_a_peer_that_does_not_read_is_closed_at_the_bound() -> None:
    """More than the bound waits: all of it is dropped, and the code is 4410."""
    peer = Peer(reads=False)
    outbox = Outbox(BOUND, peer.cut.set)
    async with writing(outbox, peer) as writer:
        outbox.put(b"a" * BOUND)
        full = outbox.closing
        outbox.put(b"b")
        peer.reads.set()
        await writer

    assert (None, [], (CloseCode.SLOW_CONSUMER, "slow consumer"), True) == (
        full,
        peer.frames,
        peer.closed,
        outbox.dropped,
    )


async def test_what_was_written_does_not_count_against_the_bound() -> None:
    """The bound is of what waits, not of what ever was."""
    peer = Peer()
    outbox = Outbox(BOUND, peer.cut.set)
    async with writing(outbox, peer):
        for number in range(10):
            outbox.put(b"a" * BOUND)
            await until(lambda number=number: len(peer.frames) == number + 1)  # type: ignore[misc]

    assert (10, None) == (len(peer.frames), outbox.closing)


async def test_a_frame_larger_than_the_bound_closes_too() -> None:
    """Nothing is too important for the bound."""
    outbox = Outbox(BOUND, lambda: None)

    outbox.put(b"a" * (BOUND + 1))

    assert (CloseCode.SLOW_CONSUMER, "slow consumer") == outbox.closing


async def test_a_peer_that_never_takes_the_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The abort comes by itself some seconds after the close was filed."""
    monkeypatch.setattr(server.outbox, "SEND_CLOSE", 0.05)
    peer = Peer(reads=False)
    outbox = Outbox(BOUND, peer.cut.set)
    async with writing(outbox, peer):
        outbox.put(b"1")
        outbox.close(1012, "draining")
        async with asyncio.timeout(20):
            await peer.cut.wait()

    assert [] == peer.frames


async def test_nothing_is_said_while_the_lease_is_not_held() -> None:
    """What is filed waits, and is written when the node may speak again."""
    held = asyncio.Event()
    asked = asyncio.Event()

    async def may() -> None:
        asked.set()
        await held.wait()

    peer = Peer()
    outbox = Outbox(BOUND, peer.cut.set)
    async with writing(outbox, peer, may):
        outbox.put(b"1")
        outbox.put(b"2")
        await asked.wait()
        await asyncio.sleep(0)
        before = list(peer.frames)
        held.set()
        await until(lambda: len(peer.frames) == 2)

    assert ([], ["1", "2"]) == (before, peer.frames)


async def test_what_is_discarded_while_the_lease_is_not_held_is_never_said() -> None:
    """A swept lease takes with it what waited; only the close is said."""
    held = asyncio.Event()
    asked = asyncio.Event()

    async def may() -> None:
        asked.set()
        await held.wait()

    peer = Peer()
    outbox = Outbox(BOUND, peer.cut.set)
    async with writing(outbox, peer, may) as writer:
        outbox.put(b"1")
        await asked.wait()
        outbox.close(1012, "lease lost", discard=True)
        held.set()
        await writer

    assert ([], (1012, "lease lost")) == (peer.frames, peer.closed)


async def test_a_discard_counts_though_the_socket_is_closing_already() -> None:
    """What waits before an earlier close may not be said either, once the lease is lost."""
    peer = Peer()
    outbox = Outbox(BOUND, peer.cut.set)
    outbox.put(b"1")
    outbox.close(4503, "unbound", b"last")
    outbox.close(1012, "lease lost", discard=True)
    async with writing(outbox, peer) as writer:
        await writer

    assert ([], (4503, "unbound")) == (peer.frames, peer.closed)


# --- on real sockets --------------------------------------------------------------------------------------------------


class Service:
    """An application that lets one peer in, files frames for it that no buffer of the kernel can take, and reads."""

    def __init__(self, frames: int, bound: int) -> None:
        self._frames = frames
        self._bound = bound
        self.outbox: Outbox | None = None
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.outbox = outbox = Outbox(self._bound, abort_of(scope))
        writer = asyncio.create_task(outbox.run(send, permitted))
        for _ in range(self._frames):
            outbox.put(MEBIBYTE)
            await asyncio.sleep(0)
        while (message := await receive())["type"] == "websocket.receive":
            self.heard.put_nowait(message)
        writer.cancel()
        await asyncio.wait([writer])
        self.over.set()


MEBIBYTE = b"a" * 1024 * 1024
UNBOUNDED = 1024 * 1024 * 1024


async def test_the_socket_of_a_peer_that_stopped_reading_is_gone(
    monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    """Its close frame waits behind what it does not read; it is cut all the same, and its session ends."""
    monkeypatch.setattr(server.outbox, "SEND_CLOSE", 0.05)
    service = Service(64, bound=8 * len(MEBIBYTE))
    async with serving(service, config) as node, raw_client(node.port):
        async with asyncio.timeout(20):
            await service.over.wait()
        await until(lambda: not node.server_state.connections)

    assert service.outbox is not None
    assert (CloseCode.SLOW_CONSUMER, "slow consumer") == service.outbox.closing


async def test_the_socket_of_a_peer_that_says_goodbye_and_reads_no_more_is_gone(
    monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    """uvicorn would wait for ever to be rid of what the peer left unread."""
    monkeypatch.setattr(server.socket, "LINGER", 0.05)
    service = Service(64, bound=UNBOUNDED)
    async with serving(service, config) as node, raw_client(node.port) as (_, writer):
        await until(lambda: service.outbox is not None and stuck(node))
        writer.write(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
        async with asyncio.timeout(20):
            await service.over.wait()
        await until(lambda: not node.server_state.connections)

    assert service.outbox is not None
    assert service.outbox.closing is None


async def test_pings_of_a_peer_that_does_not_read_cost_no_memory(config: Config) -> None:
    """Pongs are not piled up for it."""
    service = Service(64, bound=UNBOUNDED)
    ping = Frame(Opcode.PING, b"p" * 125).serialize(mask=True)
    async with serving(service, config) as node, raw_client(node.port) as (_, writer):
        await until(lambda: service.outbox is not None and stuck(node))
        before = unsent(node)
        for _ in range(100):
            writer.write(ping * 1000)
            await writer.drain()
        writer.write(Frame(Opcode.TEXT, b"done").serialize(mask=True))
        async with asyncio.timeout(20):
            await service.heard.get()
        after = unsent(node)
        writer.transport.abort()
        await until(lambda: not node.server_state.connections)

    assert after <= before


async def test_pings_are_answered(config: Config) -> None:
    """A peer that reads gets its pongs."""
    service = Service(0, bound=UNBOUNDED)
    async with serving(service, config) as node, raw_client(node.port) as (reader, writer):
        writer.write(Frame(Opcode.PING, b"p").serialize(mask=True))
        async with asyncio.timeout(20):
            answer = await reader.readexactly(3)
        writer.transport.abort()

    assert Frame(Opcode.PONG, b"p").serialize(mask=False) == answer


def unsent(node: Server) -> int:
    """Bytes that the server holds for its one peer."""
    [connection] = node.server_state.connections
    assert isinstance(connection, CuttableWebSocket)
    return connection.transport.get_write_buffer_size()


def stuck(node: Server) -> bool:
    """Whether the server waits for its one peer to read."""
    [connection] = node.server_state.connections
    assert isinstance(connection, CuttableWebSocket)
    return not connection.writable.is_set()
