"""Messages of providers as rows: kept once, claimed once, read again where they must be, and dropped in the end."""

import asyncio
from collections import Counter

import pytest

from storage import inbox, lines
from storage.database import Database
from storage.inbox import Message, Settled
from tests.conftest import Office
from tests.storage.test_attempts import make_line


class Box:
    """The inbox of a line."""

    def __init__(self, database: Database, tenant_id: str, line_id: str) -> None:
        self.database = database
        self.tenant_id = tenant_id
        self.line_id = line_id

    async def keep(self, once: str, body: bytes = b"{}", line_id: str | None = None) -> bool:
        """Keep a message."""
        async with self.database.connection() as connection:
            return await inbox.keep(
                connection,
                self.tenant_id,
                line_id or self.line_id,
                once,
                "status",
                {"q": "\0 ü"},
                {"x-sign": "s"},
                body,
                "192.0.2.7",
            )

    async def due(self) -> list[Message]:
        """Claim what is to be read."""
        async with self.database.connection() as connection:
            return await inbox.due(connection, 30.0, 100)

    async def settle(self, message: Message, state: Settled) -> None:
        """Say what became of a message."""
        async with self.database.connection() as connection:
            await inbox.settle(connection, message, state, None)

    async def execute(self, statement: str) -> None:
        """Change rows."""
        async with self.database.connection() as connection:
            await connection.execute(statement)

    async def make_due(self) -> None:
        """Let the time of all messages come."""
        await self.execute("UPDATE webhook_inbox SET next_at = now() WHERE next_at IS NOT NULL")


@pytest.fixture
async def box(database: Database, office: Office) -> Box:
    """A line that nobody has called yet."""
    return Box(database, office.tenant_id, await make_line(database, office.tenant_id, "West"))


async def test_a_message_is_kept_as_it_came(box: Box) -> None:
    """Also with bytes and characters that text of PostgreSQL does not hold."""
    await box.keep("1", b"\xff\0")
    [message] = await box.due()

    assert (box.tenant_id, box.line_id, "status") == (message.tenant_id, message.line_id, message.kind)
    assert ({"q": "\0 ü"}, {"x-sign": "s"}, b"\xff\0") == (message.query, message.headers, message.body)
    assert 1 == message.tries


async def test_a_message_is_kept_once(box: Box, office: Office) -> None:
    """Also of two that come at the same moment; on another line it is another message."""
    twins = await asyncio.gather(box.keep("1"), box.keep("1"))
    again = await box.keep("1", b"otherwise")
    elsewhere = await box.keep("1", line_id=await make_line(box.database, office.tenant_id, "East"))

    assert [False, True] == sorted(twins)
    assert (False, True) == (again, elsewhere)
    assert [b"{}", b"{}"] == [message.body for message in await box.due()]


async def test_that_a_line_was_heard_is_noted(box: Box) -> None:
    """Administrators see that their provider calls, and the row is not written with every message."""
    seen = []
    for n in range(3):
        if n == 2:
            await box.execute("UPDATE call_line SET heard_at = heard_at - interval '1 minute'")
        await box.keep(str(n))
        async with box.database.connection() as connection:
            seen.append((await lines.get(connection, box.tenant_id, box.line_id)).heard_at)

    first, second, third = seen
    assert first is not None
    assert third is not None
    assert first == second
    assert first < third


async def test_what_is_due_is_claimed_once(box: Box) -> None:
    """By one of two workers, until the claim ends: its worker may have died."""
    for n in range(5):
        await box.keep(str(n))
    one, other = await asyncio.gather(box.due(), box.due())
    meanwhile = await box.due()
    await box.make_due()
    later = await box.due()

    assert 5 == len({message.id for message in (*one, *other)}) == len([*one, *other])
    assert [] == meanwhile
    assert [2] * 5 == [message.tries for message in later]


async def test_a_flood_of_one_line_leaves_room_for_the_others(box: Box, office: Office) -> None:
    """Of each line come so many at a time, less those that the worker reads of it already."""
    other = await make_line(box.database, office.tenant_id, "East")
    for n in range(5):
        await box.keep(str(n))
    await box.keep("late", line_id=other)
    async with box.database.connection() as connection:
        first = await inbox.due(connection, 30.0, 100, of_each=2)
        full = await inbox.due(connection, 30.0, 100, of_each=2, busy={box.line_id: 2, other: 1})
        later = await inbox.due(connection, 30.0, 100, of_each=2, busy={box.line_id: 1})

    assert Counter({box.line_id: 2, other: 1}) == Counter(message.line_id for message in first)
    assert ([], [box.line_id]) == (full, [message.line_id for message in later])


async def test_what_only_asks_is_claimed_by_who_asks(box: Box) -> None:
    """It is read no more, and its tries begin anew."""
    await box.keep("1")
    [message] = await box.due()
    async with box.database.connection() as connection:
        await inbox.ask(connection, message)
        unread = await inbox.due(connection, 30.0, 100)
        asking = await inbox.due(connection, 30.0, 100, asks=True)

    assert [] == unread
    assert [(1, False), (1, True)] == [(one.tries, one.asks) for one in (message, *asking)]


async def test_what_was_refused_makes_way(box: Box) -> None:
    """It may have been anybody's: a message under the same name is read, and is a repeat from there."""
    await box.keep("1", b"forged")
    [message] = await box.due()
    await box.settle(message, "refused")
    kept = [await box.keep("1", b"genuine"), await box.keep("1", b"again")]
    [genuine] = await box.due()

    assert [True, False] == kept
    assert (b"genuine", 1, {"x-sign": "s"}) == (genuine.body, genuine.tries, genuine.headers)


@pytest.mark.parametrize("state", ["applied", "failed"])
async def test_what_is_settled_is_not_read_again(box: Box, state: Settled) -> None:
    """Whatever became of it; and it stays kept, so that a repeat is one."""
    await box.keep("1")
    [message] = await box.due()
    await box.settle(message, state)
    await box.make_due()

    assert [] == await box.due()
    assert not await box.keep("1")


async def test_what_is_put_off_is_read_later(box: Box) -> None:
    """When its time has come, and not before."""
    await box.keep("1")
    [message] = await box.due()
    async with box.database.connection() as connection:
        await inbox.put_off(connection, message, 60.0, "the call is not known")
    early = await box.due()
    await box.make_due()

    assert [] == early
    assert [2] == [message.tries for message in await box.due()]


async def test_only_what_is_old_and_settled_is_dropped(box: Box) -> None:
    """What nobody has read yet stays, however old it is."""
    for once in ("old", "old and unread", "young"):
        await box.keep(once)
    old, _, young = sorted(await box.due(), key=lambda message: message.id)
    await box.settle(old, "applied")
    await box.settle(young, "failed")
    await box.execute("UPDATE webhook_inbox SET received_at = now() - interval '2 days' WHERE once <> 'young'")
    async with box.database.connection() as connection:
        await inbox.expire(connection, 86400.0)
        left = await connection.fetch("SELECT once FROM webhook_inbox ORDER BY id")

    assert ["old and unread", "young"] == [row["once"] for row in left]
