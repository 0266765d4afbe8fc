"""The head of a request is bounded, in bytes and in time; what follows it is the application's to bound."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn

from server import bounded_http
from server.bounded_http import BoundedHttp
from tests.waiting import until as so

DEADLINE = 20.0

LARGE = 8 * 1024 * 1024
"""Bytes that no buffer of a kernel takes on behalf of a peer who does not read."""

UPGRADE = (
    b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def answer(scope, receive, send) -> None:
    """An application that says how much body it was sent."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    told = b" " * LARGE if scope["path"] == "/large" else str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(told))]})
    await send({"type": "http.response.body", "body": told})


@pytest.fixture
async def node() -> AsyncIterator[uvicorn.Server]:
    """A server of that application."""
    config = uvicorn.Config(answer, port=0, http=BoundedHttp, loop="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())
    async with asyncio.timeout(DEADLINE):
        while not server.started:
            await asyncio.sleep(0)
    yield server
    server.should_exit = True
    await running


@pytest.fixture
def port(node: uvicorn.Server) -> int:
    """Where it is."""
    found: int = node.servers[0].sockets[0].getsockname()[1]
    return found


async def exchange(port: int, *parts: bytes, until: bytes | None = None) -> bytes:
    """Send the parts, and return what comes back until the server closes, or has said `until`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    told = b""
    try:
        async with asyncio.timeout(DEADLINE):
            for part in parts:
                writer.write(part)
                await writer.drain()
            while (until is None or until not in told) and (data := await reader.read(65536)):
                told += data
    except ConnectionError:
        pass  # cut, as some of these are
    finally:
        writer.close()
    return told


async def test_a_head_without_end_is_refused(port: int) -> None:
    """After 32 KiB the server answers 431 and reads no more."""
    told = await exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\nX: ", *[b"a" * 8192] * 40)

    assert told == b"" or told.startswith(b"HTTP/1.1 431 ")


async def test_a_long_body_is_not_a_long_head(port: int) -> None:
    """Only the head is bounded here, also where both come at once, and again for the next request."""
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"b" * 100_000
    once = await exchange(port, request, until=b"100000")
    twice = await exchange(port, request, request.replace(b"x\r\n", b"x\r\nConnection: close\r\n", 1))

    assert once.endswith(b"\r\n\r\n100000")
    assert 2 == twice.count(b"\r\n\r\n100000")


async def test_a_head_that_does_not_come_is_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither silence nor half a head keeps a connection."""
    monkeypatch.setattr(bounded_http, "HEAD_DEADLINE", 0.2)

    silent = await exchange(port)
    half = await exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n")
    second = await exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHo")

    assert (b"", b"") == (silent, half)
    assert second.endswith(b"\r\n\r\n0")


async def test_an_upgrade_behind_a_request_not_yet_answered_is_refused(port: int) -> None:
    """A WebSocket and an answer would write to the same peer."""
    told = await exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /" + UPGRADE)

    assert b"HTTP/1.1 400 " == told[:13]


@pytest.mark.parametrize("url", [b"http://x", b"http://", b"http://[::/", b"http://a:99999/", b"/\xff"])
async def test_an_upgrade_for_no_path_is_refused(port: int, url: bytes) -> None:
    """And nothing of it reaches the event loop as an error."""
    told = await exchange(port, b"GET " + url + UPGRADE)

    assert b"HTTP/1.1 400 " == told[:13]


async def test_an_upgrade_behind_an_answer_that_is_not_taken_is_refused(node: uvicorn.Server, port: int) -> None:
    """A WebSocket would not know that its peer does not read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    await so(lambda: any(connection.flow.write_paused for connection in node.server_state.connections))
    writer.write(b"GET /" + UPGRADE)
    try:
        async with asyncio.timeout(DEADLINE):
            told = await reader.read()
    finally:
        writer.close()

    assert b"HTTP/1.1 400 Bad Request" in told


async def test_a_peer_that_does_not_take_its_last_answer_is_cut(
    node: uvicorn.Server, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where so little waits that the transport does not say so: a close waits until everything is taken."""
    monkeypatch.setattr(bounded_http, "WRITE_DEADLINE", 0.05)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port))
    await asyncio.get_running_loop().sock_sendall(line, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    await so(lambda: any(connection.flow.write_paused for connection in node.server_state.connections))
    [connection] = node.server_state.connections
    connection._unread.cancel()
    connection.timeout_keep_alive_handler()
    await so(lambda: not node.server_state.connections)
    line.close()
