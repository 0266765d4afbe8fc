"""How a line does, as far as its provider's answers tell: in service, suspended until a probe succeeds, or frozen.

`failures` counts those in a row. Orders that fail take a line out of service, and after that only probes count, so that
a burst of calls in one bad second suspends a line and never freezes it.
"""

import msgspec

from storage import lines
from storage.audit import Actor, record
from storage.database import Connection, queries
from storage.lines import Health

_SQL = queries("line_health")

SUSPENDED_AFTER = 5
"""Failures in a row after which nothing is dialled over a line until a probe succeeds."""

FROZEN_AFTER = 10
"""Failures in a row, probes counted, after which it is for people to put it back into service."""

FIRST_PROBE = 30.0
"""Seconds after which a suspended line is probed; twice as long after each probe that fails."""


class DueLine(msgspec.Struct, frozen=True):
    """A suspended line that is to be probed, after so many failures."""

    tenant_id: str
    line_id: str
    failures: int


async def failed(connection: Connection, tenant_id: str, line_id: str, reason: str) -> bool:
    """Count, in a transaction, an order that failed by the line's fault; True where that takes it out of service.

    `reason` is shown to who manages the line: words of ours and codes of the vendor, no text that may quote a secret.
    """
    row = await connection.fetchrow(_SQL["failed"], tenant_id, line_id, reason, SUSPENDED_AFTER, FIRST_PROBE)
    if row is None or row["health"] == "ok":
        return False
    await _audit(connection, "suspend", tenant_id, line_id, row["failures"], reason)
    return True


async def ails(connection: Connection, tenant_id: str, line_id: str) -> bool:
    """Whether a call that is placed now would prove anything: every dial locks its line, so nothing is written of one
    that is well."""
    found: bool = await connection.fetchval(_SQL["ails"], tenant_id, line_id)
    return found


async def placed(connection: Connection, tenant_id: str, line_id: str) -> bool:
    """Note, in a transaction, that a call was placed: failures before it are no longer in a row. True where that puts
    the line back into service; a frozen one stays frozen."""
    if await connection.fetchval(_SQL["placed"], tenant_id, line_id) != "suspended":
        return False
    await record(connection, _worker(tenant_id), "restore", "line", line_id, reason="a call was placed")
    return True


async def due(connection: Connection, lease: float, limit: int) -> list[DueLine]:
    """Claim suspended lines that are to be probed; the claim lasts `lease` seconds."""
    return [DueLine(**dict(row)) for row in await connection.fetch(_SQL["due"], lease, limit)]


async def probed(connection: Connection, line: DueLine, problem: str | None) -> Health | None:
    """Keep, in a transaction, what a probe found: no problem puts the line back into service, as much as a problem too
    many freezes it. Returns how the line does now; None where somebody else decided meanwhile.
    """
    if problem is None:
        restored = await lines.restore(connection, _worker(line.tenant_id), line.tenant_id, line.line_id)
        return "ok" if restored else None
    cool_down = FIRST_PROBE * 2.0 ** (line.failures + 1 - SUSPENDED_AFTER)
    arguments = (line.tenant_id, line.line_id, line.failures, problem, FROZEN_AFTER, cool_down)
    health: Health | None = await connection.fetchval(_SQL["probe_failed"], *arguments)
    if health == "frozen":
        await _audit(connection, "freeze", line.tenant_id, line.line_id, line.failures + 1, problem)
    return health


async def _audit(connection: Connection, action: str, tenant_id: str, line_id: str, failures: int, reason: str) -> None:
    await record(connection, _worker(tenant_id), action, "line", line_id, after={"failures": failures}, reason=reason)


def _worker(tenant_id: str) -> Actor:
    return Actor(kind="system", id="line_health", tenant_id=tenant_id)
