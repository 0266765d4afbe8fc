"""The extensions that a line dials from, and who has which (seed 001). An extension is leased to one call at a time.

A lease ends with its call, with the provider's definite refusal, or by force; these stand in the statements that end
calls and keep refusals. Where neither comes, its time runs out: then the provider is asked, and until it says that the
extension is idle the lease is renewed. A lease has a fence, which grows with each: whoever speaks of an earlier one
changes nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import asyncpg
import msgspec

from protocol.errors import DialdeskError
from protocol.identifiers import new_id
from storage.accounts import Page
from storage.audit import Actor, record
from storage.database import Connection, queries

_SQL = queries("extensions")

LEASE = 60.0
"""Seconds after which it is asked whether an extension is idle again; a provider is given time to ring it first."""

Status = Literal["available", "in_use", "offline"]


class Leased(msgspec.Struct, frozen=True):
    """What a call was lent."""

    number: str
    fence: int


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """A lease whose time has run out. `age` is how long it has lasted; `ended` whether its call is over, as far as is
    known here."""

    id: str
    tenant_id: str
    line_id: str
    number: str
    fence: int
    call_id: str
    age: timedelta
    ended: bool


class Extension(msgspec.Struct, frozen=True, kw_only=True):
    """An extension as it is. Before `cool_until` it is lent to nobody, for its provider refused it."""

    id: str
    line_id: str
    line_name: str
    number: str
    status: Status
    user_id: str | None
    user_name: str | None
    call_id: str | None
    lease_until: datetime | None
    cool_until: datetime | None
    last_used_at: datetime | None
    uses: int
    created_at: datetime


class ExtensionSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Which extensions to list: those that match what is given; `number` is how it begins."""

    id: str | None = None
    line_id: str | None = None
    status: Status | None = None
    user_id: str | None = None
    number: str | None = None


class PoolUse(msgspec.Struct, frozen=True, kw_only=True):
    """How a line's pool is used now: each extension is one of available, in use, cooling, offline."""

    line_id: str
    line_name: str
    total: int
    available: int
    in_use: int
    cooling: int
    offline: int
    uses: int


# --- lending ----------------------------------------------------------------------------------------------------------


async def lease(
    connection: Connection,
    tenant_id: str,
    line_id: str,
    user_id: str,
    call_id: str,
    order_expires_at: datetime,
) -> Leased | None:
    """Lend a call, which has none, an extension of a line that this transaction has locked; None where none is free.

    The lease lasts LEASE seconds from the last moment at which the call's order may be written.
    """
    row = await connection.fetchrow(_SQL["lease"], tenant_id, line_id, user_id, call_id, order_expires_at, LEASE)
    return None if row is None else Leased(row["number"], row["fence"])


async def give_back(connection: Connection, tenant_id: str, call_id: str, n: int, refusal: str) -> bool:
    """End the lease of a call whose attempt `n` its provider refused, in the transaction that settles the refusal and
    before the call is lent another extension. It locks the call. False where that rings, or is over, all the same: then
    it keeps its extension.

    One that the provider does not accept (`extension`) is lent to nobody for five minutes, one that it finds busy or
    offline (`seat_busy`, `seat_offline`) for 15 seconds.
    """
    pending: bool = await connection.fetchval(_SQL["give_back"], tenant_id, call_id, n, refusal)
    return pending


async def ending(
    connection: Connection, limit: int, *, of_each: int | None = None, busy: Mapping[str, int] = {}
) -> list[Ending]:
    """Claim leases whose time has run out, and renew them. Of each line come `of_each` at most, less those that the
    worker has already (`busy`)."""
    arguments = (LEASE, limit, of_each or limit, list(busy), list(busy.values()))
    return [Ending(**dict(row)) for row in await connection.fetch(_SQL["ending"], *arguments)]


async def release(connection: Connection, lease: Ending) -> bool:
    """End a lease; False where it has ended meanwhile."""
    return await connection.fetchval(_SQL["release"], lease.tenant_id, lease.id, lease.fence) is not None


# --- the pool ---------------------------------------------------------------------------------------------------------


async def add(connection: Connection, actor: Actor, tenant_id: str, line_id: str, numbers: Sequence[str]) -> set[str]:
    """Put distinct numbers into a line's pool, and return those that it did not have."""
    ids = [new_id("ext") for _ in numbers]
    in_order = sorted(numbers)  # two imports of the same numbers wait for each other, and not in a circle
    rows = await connection.fetch(_SQL["import"], tenant_id, line_id, ids, in_order)
    await record(connection, actor, "import", "extension", line_id, after={"extensions": len(rows)})
    return {row["number"] for row in rows}


async def search(
    connection: Connection, tenant_id: str, wanted: ExtensionSearch, page: Page
) -> tuple[int, list[Extension]]:
    """Return (how many there are, those of the page) of the extensions that are searched for."""
    arguments = (tenant_id, wanted.id, wanted.line_id, wanted.status, wanted.user_id, wanted.number)
    total = await connection.fetchval(_SQL["count_extensions"], *arguments)
    rows = await connection.fetch(_SQL["extensions"], *arguments, page.size, page.offset)
    return total, [Extension(**dict(row)) for row in rows]


async def get(connection: Connection, tenant_id: str, extension_id: str) -> Extension:
    """Return one extension. Raises NOT_FOUND."""
    _, found = await search(connection, tenant_id, ExtensionSearch(id=extension_id), Page(1, 1))
    if not found:
        raise DialdeskError("NOT_FOUND", what="extension")
    return found[0]


async def statistics(connection: Connection, tenant_id: str, line_id: str | None) -> list[PoolUse]:
    """Return how the pools of a tenant are used, or that of one line; lines without a pool are left out."""
    return [PoolUse(**dict(row)) for row in await connection.fetch(_SQL["statistics"], tenant_id, line_id)]


async def turn(
    connection: Connection, actor: Actor, tenant_id: str, extension_id: str, status: Literal["available", "offline"]
) -> None:
    """Take an extension out of the pool, or back into it, at once if it was cooling. Raises NOT_FOUND, and IN_USE where
    it is lent."""
    (before,) = await _locked(connection, tenant_id, [extension_id])
    if before["status"] == "in_use":
        raise DialdeskError("IN_USE", what="extension")
    await connection.execute(_SQL["turn"], tenant_id, extension_id, status)
    if before["status"] != status:
        then, now = {"status": before["status"]}, {"status": status}
        await record(connection, actor, "update", "extension", extension_id, before=then, after=now)


async def delete(connection: Connection, actor: Actor, tenant_id: str, extension_ids: Sequence[str]) -> list[str]:
    """Forget extensions, and return the ids of those that are lent: these stay. Raises NOT_FOUND where any is not
    there; then all stay."""
    known = await _locked(connection, tenant_id, sorted(set(extension_ids)))
    idle = [row for row in known if row["status"] != "in_use"]
    await connection.execute(_SQL["delete"], tenant_id, [row["id"] for row in idle])
    for row in idle:
        before = {"lineId": row["line_id"], "number": row["number"]}
        await record(connection, actor, "delete", "extension", row["id"], before=before)
    return [row["id"] for row in known if row["status"] == "in_use"]


async def force_release(
    connection: Connection,
    actor: Actor,
    tenant_id: str,
    *,
    extension_id: str | None = None,
    user_id: str | None = None,
    reason: str | None = None,
) -> int:
    """End the lease of one extension, or all of one agent, whatever their calls do; return how many there were."""
    rows = await connection.fetch(_SQL["force_release"], tenant_id, extension_id, user_id)
    for row in rows:
        before = {"callId": row["call_id"], "userId": row["user_id"]}
        await record(connection, actor, "force_release", "extension", row["id"], before=before, reason=reason)
    return len(rows)


async def _locked(connection: Connection, tenant_id: str, extension_ids: list[str]) -> list[asyncpg.Record]:
    rows = await connection.fetch(_SQL["lock"], tenant_id, extension_ids)
    if len(rows) < len(extension_ids):
        raise DialdeskError("NOT_FOUND", what="extension")
    return rows
