"""What this node writes of its phones' presence: claims in batches, and losses that are written even if late."""

import asyncio
from collections.abc import Sequence
from typing import Literal

import structlog

from protocol.errors import CloseCode, DialdeskError
from server.batch import Batch
from server.hub import Hub
from server.lease import Lease
from server.relay import NO_FRAME, ClosePhone, Relay
from storage import nodes
from storage.database import Database
from storage.nodes import Claim, Claimed, Presence

log = structlog.get_logger()

Refusal = Literal["replaced", "unbound"]

CHUNK = 2000
"""Phones that one statement is asked about."""

_CLOSES = {
    "unbound": (CloseCode.UNBOUND, "unbound"),
    "replaced": (CloseCode.REPLACED, "replaced by a newer connection"),
    "lost": (CloseCode.DRAINING, "presence lost"),
}


class Presences:
    """The presence of the phones whose sessions this node holds."""

    def __init__(self, database: Database, relay: Relay, lease: Lease, hub: Hub, *, resend_after: float) -> None:
        self._database = database
        self._relay = relay
        self._lease = lease
        self._hub = hub
        self._resend_after = resend_after
        self._claims: Batch[Claim, Claimed | Refusal] = Batch(self._claim)
        self._unsaid: dict[tuple[str, int], Presence] = {}
        self._wake = asyncio.Event()

    async def claim(self, claim: Claim) -> Claimed | Refusal:
        """Make this node's the session of a phone, or tell that a newer connection is known, or its token void.

        The older session, wherever it is, is closed 4501.
        """
        return await self._claims.ask(claim)

    def say(self, presence: Presence) -> None:
        """File what is to be written; a later word about the same session takes the place of an earlier one."""
        self._unsaid[presence.device_id, presence.epoch] = presence
        self._wake.set()

    async def write(self) -> None:
        """Write what is said, for ever; what PostgreSQL does not take now is said again a second later."""
        while True:
            await self._wake.wait()
            if not await self.flush():
                await asyncio.sleep(1)

    async def flush(self) -> bool:
        """Write what is said and not written yet; False where PostgreSQL does not take it now."""
        self._wake.clear()
        unsaid, self._unsaid = self._unsaid, {}
        if not unsaid:
            return True
        try:
            async with self._database.transaction() as connection:
                emitted = await nodes.tell_presence(connection, list(unsaid.values()))
        except DialdeskError as error:
            log.warning("presence not written", count=len(unsaid), cause=repr(error.__cause__))
            self._unsaid = unsaid | self._unsaid
            self._wake.set()
            return False
        self._relay.announce(emitted)
        return True

    async def check(self, now: float, heard: Sequence[tuple[str, int, float]]) -> None:
        """Write when phones were last heard from, and close sessions that are no longer the true ones.

        `heard` is (device id, epoch, when), by the clock of `now`.
        """
        node = self._lease.boot_id
        async with self._database.connection() as connection:
            fenced = []
            for begin in range(0, len(heard), CHUNK):
                part = heard[begin : begin + CHUNK]
                fenced += await nodes.heard(connection, node, [(name, epoch, now - at) for name, epoch, at in part])
            for device_id, epoch in await nodes.said_to_be_here(connection, node):
                if not self._hub.holds(device_id):
                    self.say(Presence(device_id, epoch, "lost"))
        for device_id, epoch, why in fenced:
            code, reason = _CLOSES[why]
            log.warning("session fenced", device_id=device_id, why=why)
            self._hub.receive(ClosePhone(device_id, code, reason, NO_FRAME, epoch + 1))

    async def _claim(self, claims: Sequence[Claim]) -> Sequence[Claimed | Refusal]:
        """One transaction for a batch. A phone that asks twice in it is claimed for its newest connection."""
        newest = {claim.device_id: claim for claim in sorted(claims, key=lambda claim: claim.connection)}
        node = self._lease.boot_id
        async with self._database.transaction() as connection:
            claimed, emitted = await nodes.claim(connection, node, list(newest.values()))
            refused = [claim for claim in claims if claim.device_id not in claimed]
            bound = await nodes.still_bound(connection, refused) if refused else set()
        self._relay.announce(emitted)
        commands = [command.message_id for session in claimed.values() for command in session.commands]
        if commands:
            await self._note_sent(commands)
        for session in claimed.values():
            if session.old_node != node:
                self._relay.close_phone(
                    session.old_node,
                    session.device_id,
                    CloseCode.REPLACED,
                    "replaced by a newer connection",
                    epoch=session.epoch,
                )
        return [
            claimed[claim.device_id]
            if claim.device_id in claimed and newest[claim.device_id] is claim
            else "replaced"
            if claim.device_id in claimed or claim.device_id in bound
            else "unbound"
            for claim in claims
        ]

    async def _note_sent(self, commands: Sequence[str]) -> None:
        """The claim stands. A count that cannot be written now costs a sending, or this socket, too soon."""
        try:
            async with self._database.connection() as connection:
                await nodes.sent(connection, commands, self._resend_after)
        except DialdeskError as error:
            log.warning("sendings not counted", count=len(commands), cause=repr(error.__cause__))
