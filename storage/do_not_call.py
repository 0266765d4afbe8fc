"""Numbers that a tenant does not call: whoever asked for it, until when, and why (seed 000 §5).

A function that changes something writes the line of the audit log itself: call it in a transaction.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from protocol.errors import DialdeskError
from protocol.identifiers import new_id
from protocol.phone_number import mask
from protocol.timestamps import rfc3339
from storage.audit import Actor, record
from storage.calls import Reach
from storage.database import Connection, queries

_SQL = queries("do_not_call")

AT_ONCE = 5000
"""Numbers that one statement enters: well within its deadline."""

Source = Literal["agent", "api", "import", "provider"]


class NewEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A number (E.164) that is not to be called, until `expires_at` or for good."""

    phone: str
    reason: str = ""
    expires_at: datetime | None = None


class Entry(NewEntry, frozen=True, kw_only=True):
    """A number that is not called, as it stands."""

    id: str
    source: Source
    created_by: str
    created_at: datetime


async def is_listed(connection: Connection, tenant_id: str, phone: str) -> bool:
    """Whether the tenant does not call this number (E.164) now."""
    listed: bool = await connection.fetchval(_SQL["is_listed"], tenant_id, phone)
    return listed


async def listed(connection: Connection, tenant_id: str, phones: Sequence[str]) -> dict[str, str]:
    """Return which of these numbers are not called now, each with the id of its entry."""
    rows = await connection.fetch(_SQL["listed"], tenant_id, list(phones))
    return {row["phone"]: row["id"] for row in rows}


async def number_of_call(connection: Connection, asker: Reach, call_id: str) -> str | None:
    """Return the number that a call was made to; None where there is no such call within the asker's reach."""
    number: str | None = await connection.fetchval(_SQL["number_of_call"], asker.tenant_id, call_id, *asker.filters)
    return number


async def add(connection: Connection, actor: Actor, tenant_id: str, new: NewEntry, source: Source) -> Entry:
    """Enter a number. One that stands already keeps its id, and is never kept for a shorter time than before."""
    entry = (await _enter(connection, actor, tenant_id, [new], source))[0]
    await record(connection, actor, "add", "do_not_call", entry.id, after=_audited(entry))
    return entry


async def import_all(connection: Connection, actor: Actor, tenant_id: str, new: Sequence[NewEntry]) -> int:
    """Enter numbers, each named once; returns how many of them did not stand before."""
    added = 0
    ordered = sorted(new, key=lambda entry: entry.phone)
    for first in range(0, len(ordered), AT_ONCE):
        part = ordered[first : first + AT_ONCE]
        before = await listed(connection, tenant_id, [entry.phone for entry in part])
        added += len(part) - len(before)
        await _enter(connection, actor, tenant_id, part, "import")
    await record(connection, actor, "import", "do_not_call", "*", after={"numbers": len(ordered), "added": added})
    return added


async def entries(connection: Connection, tenant_id: str, after: str | None, limit: int) -> list[Entry]:
    """Return numbers that are not called now: those entered before the entry `after`, the last entered first."""
    return [Entry(**dict(row)) for row in await connection.fetch(_SQL["entries"], tenant_id, after, limit)]


async def lift(connection: Connection, actor: Actor, tenant_id: str, entry_id: str, reason: str) -> None:
    """Let a number be called again, for a reason that the audit log keeps. Raises NOT_FOUND."""
    row = await connection.fetchrow(_SQL["lift"], tenant_id, entry_id)
    if row is None:
        raise DialdeskError("NOT_FOUND", what="do-not-call entry")
    before = _audited(Entry(**dict(row)))
    await record(connection, actor, "lift", "do_not_call", entry_id, before=before, reason=reason)


async def _enter(
    connection: Connection, actor: Actor, tenant_id: str, new: Sequence[NewEntry], source: Source
) -> list[Entry]:
    rows = [{"id": new_id("dnc"), **msgspec.structs.asdict(entry)} for entry in new]
    entered = await connection.fetch(_SQL["add"], tenant_id, msgspec.json.encode(rows).decode(), source, actor.id)
    return [Entry(**dict(row)) for row in entered]


def _audited(entry: Entry) -> dict[str, str | None]:
    return {
        "phone": mask(entry.phone),
        "reason": entry.reason,
        "source": entry.source,
        "expiresAt": rfc3339(entry.expires_at),
    }
