"""uvicorn, run our way: a ready line when it serves, and a paced drain before it stops."""

import asyncio
import contextlib
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from protocol.messages import MAX_FRAME
from server.bounded_http import BoundedHttp
from server.config import Config
from server.hub import Hub
from server.websocket import WebSocket

log = structlog.get_logger()

SETTLE = 5.0
"""Seconds that closed sessions have to finish what they are doing after the drain."""


class Server(uvicorn.Server):
    """Serves until a signal, drains, then stops; a second signal stops at once."""

    def __init__(self, config: Config, app: ASGIApp, hub: Hub, *, ready: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                loop="none",
                http=BoundedHttp,
                ws=WebSocket,  # BoundedHttp makes them, each on its own terms
                ws_max_size=MAX_FRAME,
                timeout_graceful_shutdown=10,
                timeout_keep_alive=75,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(config.trusted_proxies),
                forwarded_allow_ips=list(config.trusted_proxies),
                ssl_certfile=config.tls_cert,
                ssl_keyfile=config.tls_key,
            )
        )
        self._settings = config
        self._hub = hub
        self._ready = ready
        self._leave = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def port(self) -> int:
        """The port that is served, also where the configuration left it to the system."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where this node answers."""
        scheme = "https" if self._settings.tls_cert else "http"
        host = self._settings.host if self._settings.host not in {"0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104
        return f"{scheme}://{host}:{self.port}"

    async def run_until_left(self) -> None:
        """Serve until a signal or `leave`, and drain."""
        draining = asyncio.create_task(self._drain(), name="drain")
        try:
            await self.serve()
        finally:
            draining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await draining

    def leave(self) -> None:
        """Begin to leave: what SIGTERM does."""
        self._leave.set()

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Begin to serve, and say so."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            self._ready(self.url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; another ends the drain at once."""
        if self._leave.is_set():
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._leave.set)

    async def _drain(self) -> None:
        await self._leave.wait()
        log.info("draining")
        await self._hub.drain(self._settings.drain)
        with contextlib.suppress(TimeoutError):  # who is not done by now is closed by uvicorn
            await asyncio.wait_for(self._hub.empty(), SETTLE)
        self.should_exit = True
