"""A node's right to hold sessions: a lease in PostgreSQL, renewed in time or lost with all it covers (rule 5).

Whoever is about to act for a session asks `held`; it is judged by this machine's clock, counting sleep, from the moment
the last successful renewal was *asked*, so that it always ends here before it ends in PostgreSQL. A process that was
stopped for longer than its lease thus holds nothing when it goes on, until a renewal says what became of it.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Literal

import structlog

from protocol.errors import DialdeskError
from server.telemetry import Metrics
from storage import nodes
from storage.database import Database

log = structlog.get_logger()


class Lease:
    """The lease of this process. `boot_id` names this life of it; a swept lease begins another."""

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        *,
        name: str,
        kind: Literal["web", "worker"],
        length: float,
        renew_every: float,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._name = name
        self._kind: Literal["web", "worker"] = kind
        self._length = length
        self._renew_every = renew_every
        self._until = 0.0
        self._on_lost: list[Callable[[], None]] = []
        self._on_held: list[Callable[[], None]] = []
        self.boot_id = _new_boot_id()
        self.renewals = 0
        """Successful renewals in a row; a sweeper acts only after two."""

    def held(self) -> bool:
        """Whether this node may deliver and acknowledge now."""
        return _boottime() < self._until

    def on_held(self, call: Callable[[], None]) -> None:
        """Call this whenever the lease is held again after it was not, under whatever boot id."""
        self._on_held.append(call)

    def on_lost(self, call: Callable[[], None]) -> None:
        """Call this, at once, when the lease was swept: before any session can act under the new boot id."""
        self._on_lost.append(call)

    async def take(self) -> None:
        """Begin a life. Raises UNAVAILABLE where PostgreSQL does not answer."""
        asked = _boottime()
        async with self._database.connection() as connection:
            await nodes.enlist(connection, self.boot_id, self._name, self._kind, self._length)
        self._hold_from(asked)

    async def keep(self) -> None:
        """Renew for ever. An outage of PostgreSQL is waited out: everybody renews when it ends."""
        while True:
            await asyncio.sleep(self._renew_every)
            await self.renew()

    async def renew(self) -> None:
        """Renew once, or find that the lease was swept and begin a new life."""
        asked = _boottime()
        try:
            async with self._database.connection() as connection:
                alive = await nodes.renew(connection, self.boot_id, self._length)
        except DialdeskError as error:
            self.renewals = 0
            log.warning("lease not renewed", boot_id=self.boot_id, cause=repr(error.__cause__))
            return
        if alive:
            self._hold_from(asked)
            return
        self._metrics.lease_lost.inc()
        log.error("lease lost", boot_id=self.boot_id)
        self._until = 0.0
        self.renewals = 0
        self.boot_id = _new_boot_id()
        for call in self._on_lost:
            call()
        try:
            await self.take()
        except DialdeskError:
            log.warning("no new lease yet")

    async def give_up(self) -> None:
        """End this life on purpose."""
        self._until = 0.0
        async with self._database.transaction() as connection:
            await nodes.retire(connection, self.boot_id)

    def _hold_from(self, asked: float) -> None:
        had_lapsed = not self.held()
        self._until = asked + self._length
        self.renewals += 1
        if had_lapsed:
            for call in self._on_held:
                call()


def _new_boot_id() -> str:
    return f"node_{secrets.token_hex(8)}"


def _boottime() -> float:
    """Seconds since boot, counting those in which the machine slept or this process was stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
