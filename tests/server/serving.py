"""uvicorn as production runs it, in the test's own loop, before any application; and a client that does as told."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from server.config import Config
from server.hub import Hub
from server.serve import Server
from server.telemetry import Metrics


@asynccontextmanager
async def serving(app: ASGIApp, config: Config) -> AsyncIterator[Server]:
    """Serve `app` on a free port until the block ends."""
    ready = asyncio.Event()
    server = Server(config, app, Hub(Metrics(), bound=1), ready=lambda _: ready.set())
    running = asyncio.create_task(server.run_until_left())
    try:
        async with asyncio.timeout(20):
            await ready.wait()
        yield server
    finally:
        server.leave()
        await running


@asynccontextmanager
async def raw_client(port: int, path: str = "/") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket after its handshake, as bare bytes. It buffers little, and reads nothing that nobody asks for."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=line, limit=4096)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        async with asyncio.timeout(20):
            answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        yield reader, writer
    finally:
        writer.transport.abort()
