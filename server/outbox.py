"""What waits to be written to one peer: bounded in bytes, written by one task, and how a socket comes to its end.

A peer that does not read is disconnected, not waited for: when more than the bound waits, everything is dropped, the
socket is closed with 4410 and cut soon after, and what was dropped comes again from rows when the peer is back.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from starlette.types import Message

from protocol.errors import CloseCode

SEND_CLOSE = 5.0
"""Seconds a peer has to take the rest of its frames and the close frame before it is cut."""


class Outbox:
    """The outgoing side of one accepted WebSocket. Every method but `run` only files what is to be done."""

    __slots__ = ("_abort", "_bound", "_bytes", "_closing", "_frames", "_wake", "dropped")

    def __init__(self, bound: int, abort: Callable[[], None]) -> None:
        self._bound = bound
        self._abort = abort
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self.dropped = False
        """Whether the bound was hit."""

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and reason with which this socket is being closed by us."""
        return self._closing

    def put(self, frame: bytes) -> None:
        """File a frame. After `close` it is dropped: the peer is to come back anyway."""
        if self._closing is not None:
            return
        if self._bytes + len(frame) > self._bound:
            self.dropped = True
            self.close(CloseCode.SLOW_CONSUMER, "slow consumer", discard=True)
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._wake.set()

    def close(self, code: int, reason: str, last: bytes | None = None, *, discard: bool = False) -> None:
        """Close the socket after what waits (or without it, where it is to be discarded) and `last`.

        The first code given counts; `discard` counts whenever it is asked.
        """
        if discard:
            self._frames.clear()
        if self._closing is not None:
            return
        if last is not None:
            self._frames.append(last)
        self._closing = (code, reason)
        self._wake.set()
        asyncio.get_running_loop().call_later(SEND_CLOSE, self._abort)

    async def run(self, send: Callable[[Message], Awaitable[None]], permitted: Callable[[], Awaitable[None]]) -> None:
        """Write what is filed until the socket is closed. `permitted` returns when this node may speak for sessions:
        at once while it holds its lease."""
        while True:
            while self._frames:
                await permitted()
                if not self._frames:  # discarded meanwhile
                    break
                frame = self._frames.popleft()
                self._bytes -= len(frame)
                await send({"type": "websocket.send", "text": frame.decode()})
            if self._closing is not None:
                code, reason = self._closing
                await send({"type": "websocket.close", "code": code, "reason": reason})
                return
            self._wake.clear()
            await self._wake.wait()
