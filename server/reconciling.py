"""Calls looked up at their providers: while they live, where no webhook tells; after, until a record settles them.

A call that was ordered and of which the provider knows nothing, though it was asked for ten minutes, was never placed.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from protocol.call import RANK, End, Evidence, HangupCause, Outcome
from protocol.errors import DialdeskError
from server.calls import Calls
from server.line_config import Accounts
from server.placing import reference
from server.providers.provider import PlacementRefused, Recording, Uncertain, Unsupported
from server.rounds import work_off
from server.ssrf import Refused
from server.telemetry import Metrics
from server.webhooks import Reading
from storage import attempts
from storage.attempts import Attempt, Standing
from storage.database import Database
from storage.vault import SealError

log = structlog.get_logger()

AT_ONCE = 200
"""Calls that one worker asks of at a time."""

OF_EACH = 10
"""Of these on any one line: one whose provider is slow leaves the others their places."""

LEASE = 60.0
DEADLINE = 15.0

LIVING = 5.0
"""Seconds between look-ups of a call that lives."""

AFTER_END = (120.0, 600.0, 3600.0, 86400.0)
"""Seconds after its end at which the final record of a call is looked for."""

GIVEN_UP = timedelta(minutes=10)
"""How long an order is looked for of which the provider knows nothing."""


class Found(msgspec.Struct, frozen=True):
    """What came of asking for a call. `known` is None where the provider did not say whether it knows it. `unready`:
    something that it told cannot be had yet, such as a recording."""

    known: bool | None
    unready: bool = False


class Reconciling:
    """Asks providers what became of calls: a worker's chore."""

    def __init__(
        self, database: Database, accounts: Accounts, calls: Calls, reading: Reading, metrics: Metrics
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._calls = calls
        self._reading = reading
        self._metrics = metrics

    async def look_up(self) -> None:
        """Ask of what is due, and close what will never be known."""
        await work_off(self._claim, self._attend, AT_ONCE)

    async def _claim(self, room: int, busy: Counter[str]) -> list[Attempt]:
        async with self._database.connection() as connection:
            unsent = await attempts.unsent(connection, AT_ONCE)
        for tenant_id, call_id in unsent:
            await self._close(tenant_id, call_id, HangupCause.EXPIRED, "the order was not written in time")
        async with self._database.connection() as connection:
            return await attempts.to_look_up(connection, LEASE, room, of_each=OF_EACH, busy=busy)

    async def _attend(self, attempt: Attempt) -> None:
        try:
            await self._look_again(attempt, await self._ask(attempt))
        except Unsupported:  # what the provider tells of itself is all there is; what it does not, the reaper closes
            async with self._database.connection() as connection:
                await attempts.look_again(connection, attempt, None)
        except (DialdeskError, SealError) as error:
            log.warning("look-up put off", call_id=attempt.call_id, cause=repr(error))
            if isinstance(error, DialdeskError) and error.code == "NOT_FOUND":  # the line is gone: nobody can be asked
                async with self._database.connection() as connection:
                    await attempts.look_again(connection, attempt, None)

    async def _ask(self, attempt: Attempt) -> Found:
        """Ask the provider, and apply what it says. Raises Unsupported, NOT_FOUND, SealError."""
        async with self._database.connection() as connection:
            cloud = await self._accounts.open(connection, attempt.tenant_id, attempt.line_id)
        try:
            async with asyncio.timeout(DEADLINE):
                told = await cloud.look_up(reference(attempt))
        except (Uncertain, PlacementRefused, Refused, TimeoutError) as error:
            self._metrics.look_ups.labels(attempt.provider, "uncertain").inc()
            log.info("look-up uncertain", call_id=attempt.call_id, cause=str(error))
            return Found(None)
        self._metrics.look_ups.labels(attempt.provider, "unknown" if told is None else "known").inc()
        in_turn = sorted(told or (), key=lambda one: isinstance(one.event, Recording))  # no end waits for a recording
        unready = [await self._reading.tell(attempt.tenant_id, attempt.line_id, one) for one in in_turn]
        return Found(told is not None, unready=any(unready))

    async def _look_again(self, attempt: Attempt, found: Found) -> None:
        """When to ask next. A record of the provider, with what it names, ends the asking."""
        async with self._database.connection() as connection:
            call = await attempts.standing(connection, attempt.tenant_id, attempt.call_id)
            age = call.now - attempt.ordered_at
            if call.ended_at is None:
                if found.known is False and attempt.state in {"sent", "uncertain"} and age > GIVEN_UP:
                    await attempts.look_again(connection, attempt, None)
                else:
                    await attempts.look_again(connection, attempt, LIVING)
                    return
            elif _settled(call) and not found.unready:
                await attempts.look_again(connection, attempt, None)
                return
            else:
                since = (call.now - call.ended_at).total_seconds()
                later = next((at - since for at in AFTER_END if at > since), None)
                await attempts.look_again(connection, attempt, later)
                return
        await self._close(attempt.tenant_id, attempt.call_id, HangupCause.LOST, "the provider knows no such call")

    async def _close(self, tenant_id: str, call_id: str, cause: HangupCause, reason: str) -> None:
        """End a call of which nobody will ever say more; a late word corrects it all the same."""
        end = End(
            outcome=Outcome.FAILED if cause is HangupCause.EXPIRED else Outcome.UNKNOWN,
            at=datetime.now(UTC),
            by="reaper",
            evidence=Evidence.SERVER,
            cause=cause,
            raw_cause=reason,
        )
        await self._calls.hear(tenant_id, call_id, f"closed_{cause}", "CLOSED", end, b"{}")


def _settled(call: Standing) -> bool:
    return call.evidence is not None and RANK[Evidence(call.evidence)] >= RANK[Evidence.PROVIDER_RECORD]
