"""uvicorn's HTTP protocol with the bounds it lacks: on the head of a request, and on the time that a peer may take."""

import asyncio
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.websocket import WebSocket

HEAD_BOUND = 32 * 1024
"""Bytes of a request line and its headers."""

HEAD_DEADLINE = 15.0
"""Seconds from the first byte of a connection, or the end of the last request, that a head may take to be complete."""

WRITE_DEADLINE = 60.0
"""Seconds in which a peer must take what waits for it; uvicorn's own close would wait for ever."""

_HAS_BODY = frozenset({b"content-length", b"transfer-encoding"})

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`. A head that is too large is answered 431; who does not send, or read, is cut."""

    _head = 0
    _reading_head = True
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _leaving: asyncio.TimerHandle | None = None
    _gone = False

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._gone = True
        self._stop_waiting()
        self._stop_cutting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before the end of a head; more than the bound is not read."""
        if self._reading_head:
            self._head += len(data)
            if self._head > HEAD_BOUND and b"\r\n\r\n" not in data[:HEAD_BOUND]:
                self._stop_waiting()
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                self._cut_later()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is complete; the application has deadlines of its own for what follows."""
        self._reading_head = False
        self._stop_waiting()
        super().on_headers_complete()
        if self._should_upgrade() and not _HAS_BODY.isdisjoint(name for name, _ in self.headers):
            self.send_400_response("An upgrade is asked for without a body.")  # uvicorn would wait for the end of it

    def on_response_complete(self) -> None:
        """The next head may come; uvicorn's keep-alive bounds how long it may not begin."""
        self._head = 0
        self._reading_head = True
        super().on_response_complete()
        self._cut_later()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and be rid of who sent it."""
        super().send_400_response(msg)
        self._cut_later()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that asked nothing for long."""
        super().timeout_keep_alive_handler()
        self._cut_later()

    def shutdown(self) -> None:
        """The server stops."""
        super().shutdown()
        self._cut_later()

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
        """It reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to a WebSocket, and leave nothing of it here: this object goes with the request.

        One that is asked for behind a request not yet answered is refused: both would write to the same peer.
        """
        if self.transport.is_closing():
            return  # refused already
        asked_before: RequestResponseCycle | None = self.cycle
        if asked_before is not None and not asked_before.response_complete:
            self.send_400_response("An upgrade must wait for the answer to what was asked before.")
            return
        if self.flow.write_paused:
            self.send_400_response("An upgrade must wait until earlier answers are taken.")
            return
        try:
            url = httptools.parse_url(self.url)
            path = url.path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, AttributeError, UnicodeDecodeError):  # no URL, or one without path
            self.send_400_response("Invalid HTTP request received.")
            return
        scope = {
            **self.scope,
            "type": "websocket",
            "scheme": "wss" if self.scheme == "https" else "ws",
            "path": self.root_path + unquote(path),
            "raw_path": url.path,
            "query_string": url.query or b"",
            "subprotocols": [],
        }
        self.connections.discard(self)
        self._stop_cutting()
        self.parser = None  # type: ignore[assignment]  # as uvicorn does: each holds the other
        websocket = WebSocket(self.transport, self.server_state, self.config.ws_max_size)
        websocket.open(self.config.loaded_app, scope)

    def _cut_later(self) -> None:
        """See to it that a connection which is being closed goes: a close waits for ever until everything is taken."""
        if self._leaving is None and not self._gone and self.transport.is_closing():
            self._leaving = self.loop.call_later(WRITE_DEADLINE, self.transport.abort)

    def _stop_cutting(self) -> None:
        for timer in (self._unread, self._leaving):
            if timer is not None:
                timer.cancel()
        self._unread = self._leaving = None

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
