"""The chores of `work`: what must happen though nobody asks. Any number of workers share them, for each chore claims
its rows with SKIP LOCKED or moves them by compare-and-set."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from protocol.errors import DialdeskError
from server.archive import Archive
from server.calls import Calls
from server.config import Config
from server.extension_leases import ExtensionLeases
from server.hook_delivery import HookDelivery
from server.lease import Lease
from server.line_health import LineHealth
from server.reconciling import Reconciling
from server.relay import Relay
from server.retrieval import Retrieval
from server.telemetry import Metrics
from server.webhooks import Reading
from storage import calls, credentials, devices, events, idempotency, inbox, nodes
from storage.database import Database

log = structlog.get_logger()

_INBOX_RETENTION = 30 * 86400.0


class Worker:
    """One worker's chores; `run` does them all, for ever."""

    def __init__(
        self,
        database: Database,
        relay: Relay,
        lease: Lease,
        all_calls: Calls,
        archive: Archive,
        retrieval: Retrieval,
        hook_delivery: HookDelivery,
        reading: Reading,
        reconciling: Reconciling,
        extension_leases: ExtensionLeases,
        line_health: LineHealth,
        metrics: Metrics,
        config: Config,
    ) -> None:
        self._database = database
        self._relay = relay
        self._lease = lease
        self._calls = all_calls
        self._archive = archive
        self._retrieval = retrieval
        self._hook_delivery = hook_delivery
        self._reading = reading
        self._reconciling = reconciling
        self._extension_leases = extension_leases
        self._line_health = line_health
        self._metrics = metrics
        self._config = config

    async def run(self) -> None:
        """Do every chore in its rhythm until cancelled."""
        sweep, tidy = self._config.sweep, self._config.tidy
        async with asyncio.TaskGroup() as group:
            for name, chore, every in (
                ("silence", self.silence, sweep),
                ("reap", self.reap, sweep),
                ("grace", self.sweep_grace, sweep),
                ("nodes", self.sweep_nodes, sweep),
                ("settle recordings", self._archive.settle, sweep),
                ("drop recordings", self._archive.drop, sweep),
                ("move recordings", self._archive.move, sweep),
                ("read recordings", self._archive.read, sweep),
                ("fetch recordings", self._retrieval.fetch, sweep),
                ("read webhooks", self._reading.read, sweep),
                ("ask for recordings", self._reading.ask, sweep),
                ("look up calls", self._reconciling.look_up, sweep),
                ("check extensions", self._extension_leases.check, sweep),
                ("probe lines", self._line_health.probe, sweep),
                ("deliver hooks", self._hook_delivery.deliver, sweep),
                ("sweep uploads", self._archive.sweep, tidy),
                ("expire recordings", self._archive.expire, tidy),
                ("tidy hooks", self._hook_delivery.tidy, tidy),
                ("tidy", self.tidy, tidy),
            ):
                group.create_task(self._repeat(name, chore, every), name=name)

    async def silence(self) -> None:
        """Stop sending commands that have expired."""
        async with self._database.connection() as connection:
            await calls.silence(connection)

    async def reap(self) -> None:
        """Close calls that have stood still for longer than their state may."""
        async with self._database.connection() as connection:
            overdue = await calls.overdue(connection)
        for tenant_id, call_id in overdue:
            try:
                await self._calls.reap(tenant_id, call_id)
            except DialdeskError:
                raise
            except Exception:  # one call that cannot be closed does not keep the others open
                log.exception("call not reaped", call_id=call_id)

    async def sweep_grace(self) -> None:
        """Take phones offline whose sockets have been gone for too long."""
        async with self._database.transaction() as connection:
            emitted = await nodes.sweep_grace(connection, self._config.presence_grace)
        self._relay.announce(emitted)

    async def sweep_nodes(self) -> None:
        """Take over from nodes that died. After an outage of PostgreSQL everybody may renew first: a sweeper acts only
        after two successful renewals of its own."""
        if self._lease.renewals < 2:
            return
        async with self._database.transaction() as connection:
            swept, emitted = await nodes.sweep(connection)
        for boot_id in swept:
            log.warning("node swept", boot_id=boot_id)
        self._relay.announce(emitted)

    async def tidy(self) -> None:
        """Drop what has had its time."""
        async with self._database.connection() as connection:
            await events.expire(connection, self._config.event_retention)
            await idempotency.expire(connection)
            await inbox.expire(connection, _INBOX_RETENTION)
            await credentials.expire(connection)
            await devices.expire_tokens(connection)
            await nodes.forget(connection)

    async def _repeat(self, name: str, chore: Callable[[], Awaitable[None]], every: float) -> None:
        """Do a chore for ever; one that fails is told, counted, and done again."""
        while True:
            try:
                await chore()
            except DialdeskError as error:
                self._metrics.chores.labels(name, error.code).inc()
                log.warning("chore put off", chore=name, code=error.code, cause=repr(error.__cause__))
            except Exception:
                self._metrics.chores.labels(name, "failed").inc()
                log.exception("chore failed", chore=name)
            else:
                self._metrics.chores.labels(name, "done").inc()
            await asyncio.sleep(every)
