"""uvicorn's WebSocket protocol, lending the application what ASGI lacks: a way to cut a peer that does not read."""

from collections.abc import Callable

from starlette.types import Message, Scope
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

_EXTENSION = "dialdesk.abort"

LINGER = 5.0
"""Seconds a socket may take to close when the application is done with it."""


class CuttableWebSocket(WebSocketsSansIOProtocol):
    """For `uvicorn.Config(ws=...)`. A close frame waits behind what the peer does not read; an abort does not."""

    async def run_asgi(self) -> None:
        """Run the application, and see to it that the socket goes after it: uvicorn's close waits until the peer has
        read everything, which one that said goodbye and reads no more never does."""
        await super().run_asgi()
        if not self.disconnected:
            self.loop.call_later(LINGER, self.transport.abort)

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """Send; where uvicorn closed the socket by itself (1007, 1009), the peer is gone, and nobody made a mistake."""
        try:
            await super().send(message)  # type: ignore[arg-type]
            if message["type"] == "websocket.http.response.body":
                self.handshake_complete = True  # refused, and so complete: uvicorn would log it as an error
        except RuntimeError as error:
            if not self.close_sent:
                raise
            raise ClientDisconnected from error

    def handle_ping(self) -> None:
        """Answer a ping; but the pongs of a peer that does not read would pile up beyond any bound."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_connect(self, event: Request) -> None:
        """Put the abort into the scope, before the application is run with it."""
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][_EXTENSION] = {"abort": self.transport.abort}


def abort_of(scope: Scope) -> Callable[[], None]:
    """Return what cuts the socket of this scope at once."""
    abort: Callable[[], None] = scope["extensions"][_EXTENSION]["abort"]
    return abort
