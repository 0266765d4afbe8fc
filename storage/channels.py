"""Lines at Infinity, also those that are gone, and what seed 000 shows beside one: local times, and names of users."""

from collections.abc import Iterable
from zoneinfo import ZoneInfo

from protocol.errors import DialdeskError
from storage import lines
from storage.database import Connection, queries
from storage.lines import Line

_SQL = queries("channels")


async def clock(connection: Connection, tenant_id: str) -> ZoneInfo:
    """Return the tenant's time zone. Raises NOT_FOUND where there is no such tenant."""
    name = await connection.fetchval(_SQL["timezone"], tenant_id)
    if name is None:
        raise DialdeskError("NOT_FOUND", what="tenant")
    return ZoneInfo(name)


async def usernames(connection: Connection, tenant_id: str, ids: Iterable[str | None]) -> dict[str, str]:
    """Return what users of the tenant are called, by id; who is no user, as an API key is none, is left out."""
    wanted = sorted({one for one in ids if one is not None})
    rows = await connection.fetch(_SQL["usernames"], tenant_id, wanted)
    return {row["id"]: row["username"] for row in rows}


async def line(connection: Connection, tenant_id: str, line_id: str, *, lock: bool = False) -> Line:
    """Return a line that is one at Infinity. Raises NOT_FOUND. With `lock` see `lines.get`."""
    found = await lines.get(connection, tenant_id, line_id, lock=lock)
    if found.setup.provider != "infinity":
        raise DialdeskError("NOT_FOUND", what="line")
    return found


async def was_there(connection: Connection, tenant_id: str, line_id: str) -> bool:
    """Whether the tenant has a line at Infinity by this id, or had it before it was deleted."""
    known: bool = await connection.fetchval(_SQL["was_there"], tenant_id, line_id)
    return known
