"""What waits to be written to one peer: bounded in bytes, and how a socket comes to its end.

What may be written is written at once. A frame waits where the peer does not read, or while this node holds no lease. A
peer that does not read is disconnected, not waited for: when more than the bound waits, everything is dropped, the
socket is closed with 4410 and cut soon after, and what was dropped comes again from rows when the peer is back.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from protocol.errors import CloseCode

SEND_CLOSE = 5.0
"""Seconds a peer has to take the rest of its frames and the close frame before it is cut."""


class Socket(Protocol):
    """An accepted WebSocket, as its outbox needs it. `reads` tells whether its peer does."""

    reads: bool

    def send(self, frame: bytes) -> None:
        """Send a frame."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame after what was sent."""

    def abort(self) -> None:
        """Cut the connection."""


class Outbox:
    """The outgoing side of one accepted WebSocket. `permitted` tells whether this node may speak for sessions now; who
    knows that it may again, or that the peer reads again, calls `flush`."""

    __slots__ = ("_bound", "_bytes", "_closing", "_permitted", "_socket", "_waiting", "dropped")

    def __init__(self, socket: Socket, bound: int, permitted: Callable[[], bool]) -> None:
        self._socket = socket
        self._bound = bound
        self._permitted = permitted
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._closing: tuple[int, str] | None = None
        self.dropped = False
        """Whether the bound was hit."""

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and reason with which this socket is being closed by us."""
        return self._closing

    def put(self, frame: bytes) -> None:
        """Write a frame, or file it. After `close` it is dropped: the peer is to come back anyway."""
        if self._closing is not None:
            return
        if self._bytes + len(frame) > self._bound:
            self.dropped = True
            self.close(CloseCode.SLOW_CONSUMER, "slow consumer", discard=True)
        elif not self._waiting and self._socket.reads and self._permitted():
            self._socket.send(frame)
        else:
            self._waiting.append(frame)
            self._bytes += len(frame)

    def close(self, code: int, reason: str, last: bytes | None = None, *, discard: bool = False) -> None:
        """Close the socket after what waits (or without it, where it is to be discarded) and `last`.

        The first code given counts; `discard` counts whenever it is asked.
        """
        if discard:
            self._waiting.clear()
        if self._closing is None:
            if last is not None:
                self._waiting.append(last)
            self._closing = (code, reason)
            asyncio.get_running_loop().call_later(SEND_CLOSE, self._socket.abort)
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as may be; and after the last of it, the close."""
        written = 0
        for frame in self._waiting:
            if not (self._socket.reads and self._permitted()):
                break
            self._socket.send(frame)
            self._bytes -= len(frame)
            written += 1
        del self._waiting[:written]
        if self._closing is not None and not self._waiting:
            self._socket.close(*self._closing)
