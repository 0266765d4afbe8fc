"""Peers who begin and do not go on: each costs a connection, for as long as a node says, and nobody else waits for it.

In the test's own process, so that what is waited for in production may be short here.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Callable

import pytest

from server import bounded_http, http
from server.app import web_node
from server.config import Config
from tests.abuse.raw import CLOSE, CONTINUATION, DEADLINE, TEXT, Frame, Peer, frame, handshake, peer
from tests.conftest import Office
from tests.server.serving import serving

TOKEN = "ddp_not-a-secret"
FIRST_MESSAGE, HEARTBEAT_LOST = 4400, 4408
ONLINE = b'{"type":"DEVICE_ONLINE","data":{}}'

LOGIN = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class Node:
    """A node in a hurry, and the credential of a phone that is bound."""

    def __init__(self, port: int, device_id: str) -> None:
        self.port = port
        self._device_id = device_id

    def hello(self, *headers: str) -> bytes:
        """The handshake of the phone."""
        return handshake("/ws/phone", f"Authorization: Bearer {TOKEN}", f"X-Device-Id: {self._device_id}", *headers)


@pytest.fixture
async def node(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, office: Office
) -> AsyncIterator[Node]:
    """A node that waits for nothing for long."""
    monkeypatch.setattr(bounded_http, "HEAD_DEADLINE", 1.0)
    monkeypatch.setattr(http, "LINGER", 0.5)
    device_id = await office.phone(await office.agent(), token=TOKEN, online=False)
    config = configure(
        first_message=1, probe_after=1, offline_after=1.5, close_after=2, upload_idle=0.5, request_timeout=2
    )
    async with web_node(config) as web, serving(web.app, config) as server:
        yield Node(server.port, device_id)


async def left_waiting(node: Node, sent: bytes, seconds: float = DEADLINE) -> bytes:
    """What comes until the node closes, where a peer sends this and no more."""

    def wait() -> bytes:
        with peer(node.port) as line:
            line.line.settimeout(seconds)
            line.send(sent)
            return line.everything()

    return await asyncio.to_thread(wait)


async def dripping(node: Node, sent: bytes, drop: bytes) -> bytes:
    """What comes until the node closes, where a peer sends this, and then one drop after the other for ever."""

    def drip() -> bytes:
        with peer(node.port) as line:
            line.send(sent)
            while not select.select([line.line], [], [], 0.02)[0]:
                line.send(drop)
            return line.everything()

    return await asyncio.to_thread(drip)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(node: Node, sent: bytes) -> None:
    """Neither silence nor half a head keeps a connection."""
    assert b"" == await left_waiting(node, sent)


async def test_a_head_that_comes_byte_by_byte_is_not_waited_for(node: Node) -> None:
    """The time is that of the whole head, not of a byte."""
    assert b"" == await dripping(node, b"GET / HTTP/1.1\r\nX: ", b"a")


@pytest.mark.parametrize("head", ["Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"])
async def test_a_body_that_does_not_come_is_answered_408(node: Node, head: str) -> None:
    """Silence within a body has its own time."""
    assert (await left_waiting(node, LOGIN + head.encode())).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_comes_byte_by_byte_is_answered(node: Node) -> None:
    """The request as a whole has its time too."""
    told = await dripping(node, LOGIN + b"Content-Length: 100000\r\n\r\n", b" ")

    assert told.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 503 "))


async def test_a_body_for_nobody_is_answered_and_not_waited_for(node: Node) -> None:
    """Where there is no such path."""
    told = await left_waiting(node, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")

    assert told.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("header", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_a_handshake_with_a_body_is_not_waited_for(node: Node, header: str) -> None:
    """It is opened without, or refused: what does not come keeps no connection."""
    await left_waiting(node, node.hello(header), seconds=4)


async def test_a_first_message_that_does_not_come_closes_4400(node: Node) -> None:
    """A socket that is open costs more than a connection."""
    assert FIRST_MESSAGE == (await _said_last(node, node.hello())).code


@pytest.mark.parametrize(
    ("begun", "drop"),
    [
        (frame(TEXT, length=60_000), b"a"),
        (frame(TEXT, b"{", fin=False), frame(CONTINUATION, b" ", fin=False)),
        (b"", frame(0xA)),
        (b"", frame(0x9, b"a")),
    ],
    ids=["a frame", "fragments", "pongs", "pings"],
)
async def test_a_first_message_that_never_ends_closes_4400(node: Node, begun: bytes, drop: bytes) -> None:
    """Bytes are no message, nor are fragments without an end, pings and pongs."""
    assert FIRST_MESSAGE == (await _said_last(node, node.hello(), begun, drop)).code


@pytest.mark.parametrize(
    ("begun", "drop"),
    [
        (frame(TEXT, length=60_000), b"a"),
        (frame(TEXT, b"{", fin=False), frame(CONTINUATION, b" ", fin=False)),
        (b"", frame(0xA)),
    ],
    ids=["a frame", "fragments", "pongs"],
)
async def test_a_message_that_never_ends_is_no_sign_of_life(node: Node, begun: bytes, drop: bytes) -> None:
    """A phone that said hello, and then drips, has lost its heartbeat."""
    assert HEARTBEAT_LOST == (await _said_last(node, node.hello(), frame(TEXT, ONLINE) + begun, drop)).code


async def _said_last(node: Node, hello: bytes, begun: bytes = b"", drop: bytes = b"") -> Frame:
    """The last frame that a peer hears who opens a WebSocket, sends this, and drips."""

    def hear() -> Frame:
        with peer(node.port) as line:
            line.send(hello)
            assert 101 == line.head()[0]
            line.send(begun)
            return _last(line, drop)

    return await asyncio.to_thread(hear)


def _last(line: Peer, drop: bytes) -> Frame:
    while True:
        while not select.select([line.line], [], [], 0.02)[0]:
            line.send(drop)
        said = line.hear()
        assert said is not None
        if said.opcode == CLOSE:
            return said
