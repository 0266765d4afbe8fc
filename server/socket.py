"""uvicorn's WebSocket protocol, lending the application what ASGI lacks: a way to cut a peer that does not read."""

from collections.abc import Callable

from starlette.types import Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

_EXTENSION = "dialdesk.abort"


class CuttableWebSocket(WebSocketsSansIOProtocol):
    """For `uvicorn.Config(ws=...)`. A close frame waits behind what the peer does not read; an abort does not."""

    def handle_connect(self, event: Request) -> None:
        """Put the abort into the scope, before the application is run with it."""
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][_EXTENSION] = {"abort": self.transport.abort}


def abort_of(scope: Scope) -> Callable[[], None]:
    """Return what cuts the socket of this scope at once."""
    abort: Callable[[], None] = scope["extensions"][_EXTENSION]["abort"]
    return abort
