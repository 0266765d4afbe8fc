"""A line that tests can cut or stall, also at a word: a TCP proxy before a server of any kind."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

_LONGEST_WORD = 1024
"""Bytes that a word to hold at may have, since what is said comes in pieces."""


class Proxy:
    """Forwards to the server of a URL; `url` is the same one through the proxy. Where others stand beside it, each
    connection goes to any of them that takes it. `port` is where it listens, or 0 for one that is free."""

    def __init__(self, url: str, *others: str, port: int = 0) -> None:
        self._target = urlsplit(url)
        self._targets = [self._target, *map(urlsplit, others)]
        self._server: asyncio.Server | None = None
        self._port = port
        self.late = 0.0
        """Seconds by which all that is said comes late."""
        self._lines: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._left_open: asyncio.Event | None = None
        self._word: re.Pattern[bytes] | None = None
        self._said = asyncio.Event()
        self._holds_answer = False

    @property
    def url(self) -> str:
        """Where to come to."""
        user, _, _ = self._target.netloc.rpartition("@")
        place = f"127.0.0.1:{self._port}"
        return urlunsplit(self._target._replace(netloc=f"{user}@{place}" if user else place))

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    async def open(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._line, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End all connections and take no more."""
        assert self._server is not None
        self._server.close()
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    def swallow(self) -> None:
        """Keep connections, but let nothing through."""
        self._passing.clear()
        self._answering.clear()

    def hold(self, word: bytes, *, answer: bool = False) -> asyncio.Event:
        """Swallow from the next `word` (a pattern) on that a client says: before the server hears it, or with `answer`
        when it has heard it, so that the client does not hear what came of it. The event tells that it was said."""
        self._word, self._said, self._holds_answer = re.compile(word), asyncio.Event(), answer
        return self._said

    def linger(self) -> asyncio.Event:
        """From now on a line stays open to the client when its server has ended it. The event tells that one did, and
        that all that the server said before is on its way."""
        self._left_open = asyncio.Event()
        return self._left_open

    def let_pass(self) -> None:
        """Let through what comes, and what was held back."""
        self._passing.set()
        self._answering.set()

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        far = None
        try:
            far_reader, far = await self._reach()
            ways = [asyncio.create_task(self._ask(reader, far)), asyncio.create_task(self._answer(far_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # no server takes it, or the line is cut: what the client hears is the end of its own connection
        finally:
            self._lines.discard(line)
            writer.transport.abort()
            if far is not None:
                far.transport.abort()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to any server; the last that is asked says why not."""
        first, *rest = random.sample(self._targets, len(self._targets))
        for target in rest:
            try:
                return await asyncio.open_connection(target.hostname, target.port)
            except OSError:
                continue
        return await asyncio.open_connection(first.hostname, first.port)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before = b""
        while data := await reader.read(65536):
            before = b"" if self._is_said(before + data) else (before + data)[-_LONGEST_WORD:]
            await self._passing.wait()
            await asyncio.sleep(self.late)
            writer.write(data)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._answering.wait()
            await asyncio.sleep(self.late)
            writer.write(data)
            await writer.drain()
        if self._left_open is not None:
            self._left_open.set()
            await asyncio.Event().wait()

    def _is_said(self, data: bytes) -> bool:
        if self._word is None or not self._word.search(data):
            return False
        self._word = None
        self._answering.clear()
        if not self._holds_answer:
            self._passing.clear()
        self._said.set()
        return True


@asynccontextmanager
async def proxy_to(url: str, *others: str, port: int = 0) -> AsyncIterator[Proxy]:
    """A proxy to the server of `url`, or any of several, open until the block ends."""
    proxy = Proxy(url, *others, port=port)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.cut()
