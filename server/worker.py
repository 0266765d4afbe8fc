"""The chores of `work`: what must happen though nobody asks. Any number of workers share them, for each chore claims
its rows with SKIP LOCKED or moves them by compare-and-set."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from protocol.errors import CloseCode, DialdeskError
from protocol.messages import encode_raw
from server.calls import Calls
from server.config import Config
from server.lease import Lease
from server.relay import Relay
from server.telemetry import Metrics
from storage import calls, credentials, devices, events, idempotency, nodes
from storage.database import Database

log = structlog.get_logger()

_SENDS = 2
"""Sendings of a command that may go unanswered on one socket before it is closed as dead."""

_TIDY_EVERY = 60.0


class Worker:
    """One worker's chores; `run` does them all, for ever."""

    def __init__(
        self, database: Database, relay: Relay, lease: Lease, all_calls: Calls, metrics: Metrics, config: Config
    ) -> None:
        self._database = database
        self._relay = relay
        self._lease = lease
        self._calls = all_calls
        self._metrics = metrics
        self._config = config

    async def run(self) -> None:
        """Do every chore in its rhythm until cancelled."""
        sweep = self._config.sweep
        async with asyncio.TaskGroup() as group:
            for name, chore, every in (
                ("resend", self.resend, sweep),
                ("reap", self.reap, sweep),
                ("grace", self.sweep_grace, sweep),
                ("nodes", self.sweep_nodes, sweep),
                ("tidy", self.tidy, max(_TIDY_EVERY, sweep)),
            ):
                group.create_task(self._repeat(name, chore, every), name=name)

    async def resend(self) -> None:
        """Send commands again that were not acked; a socket that answered none of its sendings is dead."""
        async with self._database.connection() as connection:
            due = await calls.due(connection, self._config.resend_after)
        for command in due:
            if command.expired or command.node is None:
                continue
            if command.sends > _SENDS:
                log.warning("phone does not answer", device_id=command.device_id)
                self._relay.close_phone(
                    command.node, command.device_id, CloseCode.HEARTBEAT_LOST, "commands unanswered"
                )
                continue
            self._metrics.resends.inc()
            self._relay.to_phone(command.node, command.device_id, encode_raw(command.type, command.data, command.id))

    async def reap(self) -> None:
        """Close calls that have stood still for longer than their state may."""
        async with self._database.connection() as connection:
            overdue = await calls.overdue(connection)
        for tenant_id, call_id in overdue:
            await self._calls.reap(tenant_id, call_id)

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
