"""Rows of calls, many in one statement."""

import asyncio

from protocol.errors import DialdeskError
from server.call_rows import CallRows
from storage.calls import Dialled
from storage.database import open_database
from tests.storage.test_calls import Desk, desk

__all__ = ["desk"]


async def test_a_phone_whose_row_is_locked_fails_no_other_dial(desk: Desk, database_url: str) -> None:
    """Of two that go in one statement, the one whose phone somebody holds may be tried again; the other is made."""
    other = desk.new(device_id=await desk.office.phone(desk.user_id))
    async with open_database(database_url, max_size=8, timeout=5) as database, desk.database.transaction() as holding:
        await holding.execute("SELECT FROM device WHERE id = $1 FOR UPDATE", desk.phone)
        rows = CallRows(database)
        locked, free = await asyncio.gather(rows.dial(desk.new()), rows.dial(other), return_exceptions=True)

    assert isinstance(locked, DialdeskError)
    assert ("UNAVAILABLE", Dialled(None, None)) == (locked.code, free)
    assert [other.call.id] == await desk.value("SELECT array_agg(id) FROM call")
