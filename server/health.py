"""What operators and load balancers ask: alive, ready, and by the numbers."""

import asyncio
import hmac
from typing import Literal

from protocol.errors import DialdeskError
from server.config import Config
from server.http import Answer, Download, RequestInfo
from server.hub import Hub
from server.lease import Lease
from server.relay import Relay
from server.telemetry import Metrics
from storage.database import Database

_DEADLINE = 2.0


class Alive(Answer, frozen=True, kw_only=True):
    """The process runs."""

    status: str = "ok"


class Ready(Answer, frozen=True, kw_only=True):
    """The node serves. A deaf relay makes it slower (rows bring what Redis does not), not unready: Redis away would
    otherwise take every node out of service at once."""

    node: str
    relay: Literal["hears", "deaf"]


class Health:
    """The state of one web node."""

    def __init__(
        self, database: Database, relay: Relay, lease: Lease, hub: Hub, metrics: Metrics, config: Config
    ) -> None:
        self._database = database
        self._relay = relay
        self._lease = lease
        self._hub = hub
        self._metrics = metrics
        self._config = config

    async def alive(self) -> Alive:
        """Tell that the process runs; it says nothing of what it depends on."""
        return Alive()

    async def ready(self) -> Ready:
        """Tell whether this node should be sent work; DRAINING or UNAVAILABLE with what is missing where not."""
        if self._hub.draining:
            raise DialdeskError("DRAINING")
        missing = [
            name
            for name, well in (
                ("lease", self._lease.held()),
                ("database", await self._database_answers()),
            )
            if not well
        ]
        if missing:
            raise DialdeskError("UNAVAILABLE", missing=missing)
        return Ready(node=self._config.node_name, relay="hears" if self._relay.hears() else "deaf")

    async def metrics(self, request: RequestInfo) -> Download:
        """Show Prometheus metrics to who knows METRICS_TOKEN.

        Raises UNAUTHENTICATED to anybody else, and to everybody where none is set.
        """
        told = request.headers.get("authorization", "").removeprefix("Bearer ")
        token = self._config.metrics_token
        if token is None or not hmac.compare_digest(told.encode(), token.encode()):
            raise DialdeskError("UNAUTHENTICATED")
        return Download(self._metrics.render(), "text/plain; version=0.0.4; charset=utf-8")

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(_DEADLINE), self._database.connection() as connection:
                await connection.execute("SELECT 1")
        except (DialdeskError, TimeoutError):
            return False
        return True
