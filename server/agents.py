"""Agents' streams on this node: where a page begins, and the refill of what the relay did not carry."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime

import msgspec
import structlog

from protocol.errors import CloseCode, DialdeskError
from protocol.messages import DeviceView, LiveCall
from server.batch import Batch
from server.hub import Hub
from server.lease import Lease
from server.telemetry import Metrics
from storage import calls, credentials, devices, events, nodes
from storage.database import Connection, Database
from storage.devices import Reach

log = structlog.get_logger()

REPLAY_BOUND = 500
"""Events a page may have missed and still be given; more, and it reads calls and devices again."""


PHONES_BOUND = 50
"""Phones of one agent that a page is told of."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page stands: devices and calls as of `last_seq`, and the events it missed since `resume_from`.

    `lost` tells that they cannot be given: the page must read again.
    """

    now: datetime
    last_seq: int
    resume_from: int
    missed: list[tuple[int, bytes]]
    lost: bool
    devices: list[DeviceView]
    calls: list[LiveCall]


class Agents:
    """The agents that have pages on this node."""

    def __init__(self, database: Database, hub: Hub, lease: Lease, metrics: Metrics, *, refill_every: float) -> None:
        self._database = database
        self._hub = hub
        self._lease = lease
        self._metrics = metrics
        self._refill_every = refill_every
        self._attendance: Batch[str, None] = Batch(self._attend)
        self._wake = asyncio.Event()
        self._unwritten: set[str] = set()
        """Agents whose leave PostgreSQL did not take: no more than there are agents, and written by the next refill."""

    async def attend(self, user_id: str) -> None:
        """Let other nodes know that events for the agent are to be sent here. Join the page to the hub before."""
        await self._attendance.ask(user_id)

    async def leave(self, user_id: str) -> None:
        """A page is gone; with the last of them, events for the agent are sent here no more."""
        try:
            await self._attendance.ask(user_id)
        except DialdeskError:
            log.warning("agent's leave not written", user_id=user_id)
            self._unwritten.add(user_id)

    async def _attend(self, asked: Sequence[str]) -> Sequence[None]:
        """Write for each agent whether it has a page here now. Batches run one by one, so the last word is true."""
        here = sorted({user_id for user_id in asked if self._hub.pages(user_id)})
        gone = sorted(set(asked) - set(here))
        async with self._database.connection() as connection:
            if here:
                await nodes.attend(connection, here, self._lease.boot_id)
            if gone:
                await nodes.leave(connection, gone, self._lease.boot_id)
        return [None] * len(asked)

    async def snapshot(self, tenant_id: str, user_id: str, last_seq: int | None) -> Snapshot:
        """Read where a page stands that has seen `last_seq`, or nothing yet. Register it before."""
        async with self._database.transaction(snapshot=True) as connection:
            reached, now = await events.position(connection, user_id)
            resume_from = reached if last_seq is None else last_seq
            missed = await self._missed(connection, user_id, resume_from, reached)
            phones, _ = await devices.page(connection, Reach(tenant_id, user_id), user_id, limit=PHONES_BOUND)
            return Snapshot(
                now=now,
                last_seq=reached,
                resume_from=resume_from,
                missed=missed or [],
                lost=missed is None,
                devices=[phone.view() for phone in phones],
                calls=await calls.living_of_agent(connection, user_id),
            )

    def behind(self, user_id: str) -> None:
        """A page found that events are missing: refill now."""
        log.info("events missing", user_id=user_id)
        self._wake.set()

    def behind_all(self) -> None:
        """The relay may have missed anything: refill now."""
        self._wake.set()

    async def refill(self) -> None:
        """Compare, for ever, what pages were sent with their agents' rows, and give them what is missing."""
        while True:
            with contextlib.suppress(TimeoutError):  # nothing was missed as far as anybody noticed: look all the same
                async with asyncio.timeout(self._refill_every):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._refill()
            except DialdeskError as error:
                log.warning("refill failed", cause=repr(error.__cause__))
                await asyncio.sleep(min(1.0, self._refill_every))

    async def _refill(self) -> None:
        unwritten, self._unwritten = self._unwritten, set()
        await asyncio.gather(*map(self.leave, unwritten))
        agents = self._hub.agents()
        if not agents:
            return
        async with self._database.connection() as connection:
            for user_id, reached in (await events.last_seqs(connection, agents)).items():
                await self._refill_agent(connection, user_id, reached)
            await self._close_over(connection, agents)

    async def _refill_agent(self, connection: Connection, user_id: str, reached: int) -> None:
        for page in self._hub.pages(user_id):
            seen = page.last_seq
            if seen is None or seen >= reached:
                continue
            missed = await self._missed(connection, user_id, seen, reached)
            seen = page.last_seq
            if seen is None or seen >= reached:
                continue  # it said HELLO meanwhile, and begins elsewhere
            if missed is None:
                page.resync(reached)
                continue
            self._metrics.refills.inc(len(missed))
            for seq, frame in missed:
                page.event(seq, frame)

    async def _close_over(self, connection: Connection, agents: list[str]) -> None:
        """Close pages whose login lets nobody in any more: the close that was to tell them may not have arrived, and
        nothing tells of a login that expired."""
        pages = [page for user_id in agents for page in self._hub.pages(user_id)]
        over = await credentials.over(connection, {page.login_id for page in pages if page.login_id is not None})
        for page in pages:
            if page.login_id in over:
                page.outbox.close(CloseCode.UNBOUND, "signed out")

    @staticmethod
    async def _missed(connection: Connection, user_id: str, seq: int, reached: int) -> list[tuple[int, bytes]] | None:
        """The events after `seq` up to `reached`, or None where not all of them can be given."""
        if seq > reached or reached - seq > REPLAY_BOUND:
            return None
        if seq == reached:
            return []
        rows = [row for row in await events.since(connection, user_id, seq, REPLAY_BOUND) if row[0] <= reached]
        return rows if len(rows) == reached - seq else None
