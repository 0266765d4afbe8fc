"""Extensions as rows: lent once however many ask at a time, by each policy, and back when they should be."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from protocol.errors import DialdeskError
from protocol.identifiers import new_call_id
from storage import audit, extensions, lines
from storage.accounts import Page
from storage.audit import Actor, AuditSearch
from storage.database import Connection, Database, open_database
from storage.extensions import Ending, Extension, ExtensionSearch, Leased
from storage.lines import ExtensionPolicy, SeatAt, Setup
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.conftest import Office

FREE = (
    "UPDATE extension SET status = 'available', user_id = NULL, call_id = NULL, lease_until = NULL"
    " WHERE status = 'in_use'"
)


class Pool:
    """A line of an office, and its extensions."""

    def __init__(self, database: Database, office: Office) -> None:
        self.database = database
        self.office = office
        self.tenant_id = office.tenant_id
        self.actor = Actor(kind="user", id="admin", tenant_id=office.tenant_id)
        self.line_id = ""
        self._names = itertools.count()

    async def line(self, policy: ExtensionPolicy = "lru", provider: Any = "infinity") -> str:
        """Set up another line."""
        name = f"line {next(self._names)}"
        setup = Setup(provider=provider, name=name, account_id=name, extension_policy=policy)
        keys = TenantKeys(Vault({"master": bytes(32)}))
        async with self.database.transaction() as connection:
            return await lines.create(connection, keys, self.actor, self.tenant_id, setup, {})

    async def fill(self, *numbers: str, policy: ExtensionPolicy = "lru") -> None:
        """Set up a line that lends these."""
        self.line_id = await self.line(policy)
        async with self.database.transaction() as connection:
            await extensions.add(connection, self.actor, self.tenant_id, self.line_id, numbers)

    async def lease(self, user_id: str = "user", call_id: str | None = None, **more: Any) -> Leased | None:
        """Lend an extension to a new call."""
        async with self.database.transaction() as connection:
            return await lend(connection, self, user_id, call_id, **more)

    async def numbers(self, how_many: int, user_id: str = "user") -> list[str]:
        """The numbers of so many leases, one after the other, each of which ends before the next."""
        found = []
        for _ in range(how_many):
            leased = await self.lease(user_id)
            assert leased is not None
            found.append(leased.number)
            await self.free()
        return found

    async def free(self) -> None:
        """End all leases, as the ends of their calls do."""
        await self.execute(FREE)

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Do something to the rows."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *arguments)

    async def seen(self, **wanted: Any) -> list[Extension]:
        """The extensions that are there."""
        async with self.database.connection() as connection:
            return (await extensions.search(connection, self.tenant_id, ExtensionSearch(**wanted), Page(1, 100)))[1]

    async def time_is_up(self) -> list[Ending]:
        """Let the time of all leases run out, and claim them."""
        await self.execute("UPDATE extension SET lease_until = now() WHERE status = 'in_use'")
        async with self.database.connection() as connection:
            return await extensions.ending(connection, 100)


async def lend(
    connection: Connection, pool: Pool, user_id: str = "user", call_id: str | None = None, *, line_id: str | None = None
) -> Leased | None:
    """Lend an extension in a transaction that is open."""
    expires_at = datetime.now(UTC) + timedelta(seconds=20)
    return await extensions.lease(
        connection, pool.tenant_id, line_id or pool.line_id, user_id, call_id or new_call_id(), expires_at
    )


@pytest.fixture
def pool(database: Database, office: Office) -> Pool:
    """An office whose line is to be filled."""
    return Pool(database, office)


@pytest.fixture
async def crowd(database_url: str) -> AsyncIterator[Database]:
    """A way to the database of this test for many at a time."""
    async with open_database(database_url, max_size=40, timeout=30) as database:
        yield database


# --- races ------------------------------------------------------------------------------------------------------------


async def test_a_crowd_gets_each_extension_once(pool: Pool, crowd: Database) -> None:
    """Of 100 that ask at once 20 get one of 20 extensions each, and nobody waits for another."""
    await pool.fill(*(str(number) for number in range(8001, 8021)))

    async def ask() -> Leased | None:
        async with crowd.transaction() as connection:
            return await lend(connection, pool)

    leased = await asyncio.gather(*(ask() for _ in range(100)))
    numbers = [one.number for one in leased if one is not None]

    assert 20 == len(numbers) == len(set(numbers))
    assert await pool.lease() is None


async def test_an_extension_is_never_lent_twice_while_leases_come_and_go(pool: Pool, crowd: Database) -> None:
    """30 askers, 200 leases and 7 extensions: each is with one of them at a time, and all are back in the end."""
    await pool.fill(*(str(number) for number in range(7)))
    holders: Counter[str] = Counter()
    most: Counter[str] = Counter()
    left = itertools.count()

    async def ask() -> None:
        while next(left) < 200:
            call_id = new_call_id()
            async with crowd.transaction() as connection:
                leased = await lend(connection, pool, call_id=call_id)
            if leased is None:
                continue
            holders[leased.number] += 1
            most[leased.number] = max(most[leased.number], holders[leased.number])
            await asyncio.sleep(0)
            holders[leased.number] -= 1
            async with crowd.connection() as connection:
                await connection.execute(f"{FREE} AND call_id = $1", call_id)

    await asyncio.gather(*(ask() for _ in range(30)))

    assert {1} == set(most.values())
    assert {"available"} == {one.status for one in await pool.seen()}


async def test_a_dial_that_is_rolled_back_leaves_no_lease(pool: Pool) -> None:
    """Whatever refuses the call after the extension was taken, the extension is as it was."""
    await pool.fill("8001")
    before = await pool.seen()

    async def fail() -> None:
        async with pool.database.transaction() as connection:
            assert await lend(connection, pool) is not None
            raise RuntimeError("the call is refused")

    with pytest.raises(RuntimeError):
        await fail()

    assert before == await pool.seen()


async def test_one_that_is_being_lent_is_passed_over(pool: Pool) -> None:
    """Nobody waits for a transaction that is under way, but gets the next extension, or none."""
    await pool.fill("8001", "8002")
    async with pool.database.transaction() as connection:
        first = await lend(connection, pool)
        second, third = await pool.lease(), await pool.lease()

    assert ["8001", "8002", None] == [None if one is None else one.number for one in (first, second, third)]


# --- which one --------------------------------------------------------------------------------------------------------


async def test_the_one_that_has_rested_longest_goes_first(pool: Pool) -> None:
    """Those that were never used before all others, by number."""
    await pool.fill("8001", "8002", "8003")

    assert ["8001", "8002", "8003", "8001"] == await pool.numbers(4)


async def test_round_robin_goes_on_where_it_was(pool: Pool) -> None:
    """The next number after the last, whenever each was used, numbers being compared as numbers."""
    await pool.fill("9", "10", "11", policy="round_robin")

    assert ["9", "10", "11", "9"] == await pool.numbers(4)
    await pool.execute("UPDATE extension SET status = 'offline' WHERE number = '10'")
    assert ["11", "9"] == await pool.numbers(2)


async def test_an_agent_gets_the_extension_it_had(pool: Pool) -> None:
    """With affinity; a second call of the same agent, and who had none, gets the one that has rested longest."""
    await pool.fill("8001", "8002", "8003", policy="affinity")
    assert ["8001"] == await pool.numbers(1, "ann")
    assert ["8002"] == await pool.numbers(1, "bob")

    assert ["8001", "8001"] == await pool.numbers(2, "ann")
    assert ["8002"] == await pool.numbers(1, "bob")
    together = [await pool.lease("ann"), await pool.lease("ann")]
    assert ["8001", "8003"] == [None if one is None else one.number for one in together]


@pytest.mark.parametrize("why", ["offline", "cooling", "another line's", "another tenant's", "a seat"])
async def test_what_is_not_lent(pool: Pool, why: str) -> None:
    """An extension that is out of the pool, cools down, is elsewhere, or is an agent's own."""
    await pool.fill("8001")
    match why:
        case "offline":
            await pool.execute("UPDATE extension SET status = 'offline'")
        case "cooling":
            await pool.execute("UPDATE extension SET cool_until = now() + interval '1 min'")
        case "another line's":
            pool.line_id = await pool.line()
        case "another tenant's":
            pool.tenant_id = "tenant_other"
        case "a seat":
            agent, seat = await pool.office.agent(), SeatAt(seat_id="8001", number="")
            async with pool.database.transaction() as connection:
                await lines.put_seat(connection, pool.actor, pool.tenant_id, pool.line_id, agent, seat)

    assert await pool.lease() is None


# --- the end of a lease -----------------------------------------------------------------------------------------------


async def test_each_lease_has_a_higher_fence(pool: Pool) -> None:
    """Who holds an earlier lease can be told from who holds it now."""
    await pool.fill("8001")
    first = await pool.lease()
    await pool.free()
    second = await pool.lease()

    assert [Leased("8001", 1), Leased("8001", 2)] == [first, second]


async def test_a_lease_whose_time_is_up_is_renewed_and_told(pool: Pool) -> None:
    """Whoever asks claims it, so that one worker at a time looks what became of it; it is not free."""
    await pool.fill("8001", "8002")
    call_id = new_call_id()
    await pool.lease(call_id=call_id)
    assert [] == await claim(pool)

    told = await pool.time_is_up()

    assert [("8001", call_id, 1, True)] == [(one.number, one.call_id, one.fence, one.ended) for one in told]
    assert [] == await claim(pool)
    assert ["in_use", "available"] == [one.status for one in await pool.seen()]


async def test_a_late_word_about_an_earlier_lease_ends_none(pool: Pool) -> None:
    """Who found out that a lease was over, after it had ended and another had begun, changes nothing."""
    await pool.fill("8001")
    await pool.lease()
    (told,) = await pool.time_is_up()
    await pool.free()
    await pool.lease()

    async with pool.database.connection() as connection:
        assert not await extensions.release(connection, told)
        (now,) = await pool.seen()
        assert "in_use" == now.status
        (told,) = await pool.time_is_up()
        assert await extensions.release(connection, told)

    assert ["available"] == [one.status for one in await pool.seen()]


@pytest.mark.parametrize("by", ["extension", "agent"])
async def test_force_ends_leases_whatever_their_calls_do(pool: Pool, by: str) -> None:
    """Of one extension or of one agent; it is audited, and the fence of the ended lease counts no more."""
    await pool.fill("8001", "8002")
    await pool.lease("ann")
    await pool.lease("bob")
    (told, _) = sorted(await pool.time_is_up(), key=lambda one: one.number)
    one, _ = await pool.seen()
    whose: dict[str, Any] = {"extension_id": one.id} if by == "extension" else {"user_id": "ann"}

    async with pool.database.transaction() as connection:
        ended = await extensions.force_release(connection, pool.actor, pool.tenant_id, reason="stuck", **whose)
        again = await extensions.force_release(connection, pool.actor, pool.tenant_id, **whose)
        elsewhere = await extensions.force_release(connection, pool.actor, "tenant_other", **whose)
    async with pool.database.connection() as connection:
        assert not await extensions.release(connection, told)
        search = AuditSearch(resource="extension", action="force_release")
        audited, _ = await audit.lines(connection, pool.tenant_id, search, None, 10)

    assert (1, 0, 0) == (ended, again, elsewhere)
    assert ["available", "in_use"] == [extension.status for extension in await pool.seen()]
    assert [("stuck", {"callId": told.call_id, "userId": "ann"})] == [(line.reason, line.before) for line in audited]


# --- the pool ---------------------------------------------------------------------------------------------------------


async def test_numbers_that_are_there_stay_as_they_are(pool: Pool) -> None:
    """An import adds what is new, and says what it was; the same number may be on two lines."""
    await pool.fill("8001")
    await pool.lease()
    other = await pool.line()
    async with pool.database.transaction() as connection:
        new = await extensions.add(connection, pool.actor, pool.tenant_id, pool.line_id, ["8001", "8002"])
        there = await extensions.add(connection, pool.actor, pool.tenant_id, other, ["8001"])

    assert ({"8002"}, {"8001"}) == (new, there)
    assert ["in_use", "available"] == [one.status for one in await pool.seen(line_id=pool.line_id)]


async def test_a_pool_is_searched_and_counted(pool: Pool) -> None:
    """By status, by agent, by how the number begins; and each extension is counted as one thing."""
    await pool.fill("8001", "8002", "8003", "9001", "9002")
    agent = await pool.office.agent()
    await pool.lease(agent)
    await pool.execute("UPDATE extension SET status = 'offline' WHERE number = '9001'")
    await pool.execute("UPDATE extension SET cool_until = now() + interval '1 min' WHERE number = '9002'")
    async with pool.database.connection() as connection:
        (used,) = await extensions.statistics(connection, pool.tenant_id, pool.line_id)
        assert [] == await extensions.statistics(connection, "tenant_other", None)

    assert (5, 2, 1, 1, 1, 1) == (used.total, used.available, used.in_use, used.cooling, used.offline, used.uses)
    assert ["8001"] == numbers(await pool.seen(status="in_use")) == numbers(await pool.seen(user_id=agent))
    assert ["9001", "9002"] == numbers(await pool.seen(number="9"))
    assert [agent] == [one.user_name for one in await pool.seen(status="in_use")]


async def test_what_is_lent_is_neither_deleted_nor_turned_off(pool: Pool) -> None:
    """The others are; and where one is not there, nothing is done."""
    await pool.fill("8001", "8002", "8003")
    await pool.lease()
    lent, idle, other = [one.id for one in await pool.seen()]
    async with pool.database.transaction() as connection:
        refusals = [
            await refusal(extensions.turn(connection, pool.actor, pool.tenant_id, lent, "offline")),
            await refusal(extensions.delete(connection, pool.actor, pool.tenant_id, [idle, "ext_none"])),
            await refusal(extensions.turn(connection, pool.actor, "tenant_other", idle, "offline")),
        ]
        await extensions.turn(connection, pool.actor, pool.tenant_id, other, "offline")
        assert [lent] == await extensions.delete(connection, pool.actor, pool.tenant_id, [idle, lent])

    assert ["IN_USE", "NOT_FOUND", "NOT_FOUND"] == refusals
    assert [(lent, "in_use"), (other, "offline")] == [(one.id, one.status) for one in await pool.seen()]


def numbers(found: Sequence[Extension]) -> list[str]:
    """What was found, by number."""
    return [one.number for one in found]


async def refusal(asked: Awaitable[object]) -> str:
    """The code with which something is refused."""
    with pytest.raises(DialdeskError) as refused:
        await asked
    return refused.value.code


async def claim(pool: Pool) -> list[Ending]:
    """Claim what is due."""
    async with pool.database.connection() as connection:
        return await extensions.ending(connection, 100)
