"""Which lines may be dialled over, as their providers' answers tell: suspended by failures, proved well by probes.

What fails by the line's fault counts: the vendor refuses the line, or gives no readable answer. What it finds wrong
with the agent's seat, an extension or the customer's number says nothing of the line, nor does that it asks for
patience.
"""

import asyncio
from collections import Counter
from typing import Literal

import structlog

from protocol.errors import DialdeskError
from server.auth import actor_of
from server.http import Answer, Body, RequestInfo
from server.identity import Identity
from server.line_config import Accounts
from server.providers.provider import PlacementRefused, Uncertain
from server.rounds import work_off
from server.ssrf import Refused
from server.telemetry import Metrics
from storage import line_health, lines
from storage.database import Database
from storage.line_health import DueLine
from storage.vault import SealError

log = structlog.get_logger()

AT_ONCE = 50
"""Lines that one worker probes at a time."""

DEADLINE = 10.0
"""Seconds for a probe."""

LEASE = 30.0
"""Seconds after which a probe of which nothing was heard, for its worker died, is made by another."""

NO_ANSWER = "no answer"


class UnfreezeRequest(Body, frozen=True, kw_only=True):
    """`force` puts the line into service though its provider does not answer."""

    force: bool = False


class Unfrozen(Answer, frozen=True, kw_only=True):
    """The line is in service. `problem` is what the probe found, where it was forced."""

    health: Literal["ok"] = "ok"
    problem: str | None


class LineHealth:
    """Counts what fails and what is placed, and asks suspended lines how they do."""

    def __init__(self, database: Database, accounts: Accounts, metrics: Metrics) -> None:
        self._database = database
        self._accounts = accounts
        self._metrics = metrics

    async def failed(self, tenant_id: str, line_id: str, reason: str) -> None:
        """An order failed by the line's fault. `reason` quotes no text of the vendor, which may hold a secret."""
        async with self._database.transaction() as connection:
            suspended = await line_health.failed(connection, tenant_id, line_id, reason)
        if suspended:
            self._tell(line_id, "suspended", reason)

    async def placed(self, tenant_id: str, line_id: str) -> None:
        """An order was taken: what failed before is forgotten."""
        async with self._database.connection() as connection:
            if not await line_health.ails(connection, tenant_id, line_id):
                return
            async with connection.transaction():
                restored = await line_health.placed(connection, tenant_id, line_id)
        if restored:
            self._tell(line_id, "ok", None)

    async def probe(self) -> None:
        """Ask the providers of suspended lines something harmless: a worker's chore."""
        await work_off(self._claim, self._attend, AT_ONCE)

    async def unfreeze(self, identity: Identity, line_id: str, body: UnfreezeRequest, request: RequestInfo) -> Unfrozen:
        """Put a line that was suspended or frozen back into service, once its provider answers a probe.

        Raises NOT_FOUND, and LINE_UNWELL where the provider does not, unless that is forced.
        """
        try:
            problem = await self._problem(identity.tenant_id, line_id)
        except SealError as error:
            raise DialdeskError("UNAVAILABLE") from error
        if problem is not None and not body.force:
            raise DialdeskError("LINE_UNWELL", reason=problem)
        async with self._database.transaction() as connection:
            restored = await lines.restore(connection, actor_of(identity, request), identity.tenant_id, line_id)
        if restored:
            self._tell(line_id, "ok", problem)
        return Unfrozen(problem=problem)

    async def _claim(self, room: int, _: Counter[str]) -> list[DueLine]:
        async with self._database.connection() as connection:
            return await line_health.due(connection, LEASE, room)

    async def _attend(self, line: DueLine) -> None:
        try:
            problem = await self._problem(line.tenant_id, line.line_id)
            async with self._database.transaction() as connection:
                health = await line_health.probed(connection, line, problem)
        except (DialdeskError, SealError) as error:  # the claim ends by itself
            log.warning("probe put off", line_id=line.line_id, cause=repr(error))
        else:
            if health in {"ok", "frozen"}:
                self._tell(line.line_id, health, problem)

    async def _problem(self, tenant_id: str, line_id: str) -> str | None:
        """What is wrong with a line, in words that hold no secret; None where its provider answers as it should.

        Raises NOT_FOUND, SealError.
        """
        async with self._database.connection() as connection:
            provider = await self._accounts.open(connection, tenant_id, line_id)
        try:
            async with asyncio.timeout(DEADLINE):
                await provider.test()
        except PlacementRefused as refused:
            return told(refused)
        except Refused:
            return "the address is none that may be asked"
        except (Uncertain, TimeoutError):
            return NO_ANSWER
        return None

    def _tell(self, line_id: str, health: str, reason: str | None) -> None:
        self._metrics.line_health.labels(health).inc()
        log.warning("line health", line_id=line_id, health=health, reason=reason)


def told(refused: PlacementRefused) -> str:
    """A refusal without its text, which may quote what the vendor was shown."""
    return f"{refused.refusal}: {refused.code}"[:200]
