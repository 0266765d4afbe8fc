"""uvicorn's HTTP protocol with the bounds it lacks: on the head of a request, and on the time that a peer may take."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BOUND = 32 * 1024
"""Bytes of a request line and its headers."""

HEAD_DEADLINE = 15.0
"""Seconds from the first byte of a connection, or the end of the last request, that a head may take to be complete."""

WRITE_DEADLINE = 60.0
"""Seconds in which a peer must take what waits for it; uvicorn's own close would wait for ever."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`. A head that is too large is answered 431; who does not send, or read, is cut."""

    _head = 0
    _reading_head = True
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before the end of a head; more than the bound is not read."""
        if self._reading_head:
            self._head += len(data)
            if self._head > HEAD_BOUND and b"\r\n\r\n" not in data[:HEAD_BOUND]:
                self._stop_waiting()
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is complete; the application has deadlines of its own for what follows."""
        self._reading_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The next head may come; uvicorn's keep-alive bounds how long it may not begin."""
        self._head = 0
        self._reading_head = True
        super().on_response_complete()

    def on_message_begin(self) -> None:
        """A head has begun."""
        super().on_message_begin()
        if self._patience is None:
            self._expect_head()

    def pause_writing(self) -> None:
        """The peer does not read: wait for it, but not for ever."""
        super().pause_writing()
        self._unread = self.loop.call_later(WRITE_DEADLINE, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again, or is gone: uvicorn calls this then as well."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _expect_head(self) -> None:
        self._patience = self.loop.call_later(HEAD_DEADLINE, self._give_up)

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
