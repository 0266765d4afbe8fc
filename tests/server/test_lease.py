"""The right of a node to hold sessions: how long it lasts, and what is done when it is gone."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import server.lease
from protocol.errors import DialdeskError
from server.lease import Lease
from server.telemetry import Metrics
from storage import nodes
from storage.database import Database, open_database
from tests.proxy import Proxy, proxy_to
from tests.waiting import until, until_blocked

LENGTH = 15.0


class Clock:
    """The clock since boot, standing until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The machine's clock."""
    clock = Clock()
    monkeypatch.setattr(server.lease, "_boottime", clock)
    return clock


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[Proxy]:
    """The line to PostgreSQL, which may be cut."""
    async with proxy_to(database_url) as line:
        yield line


@pytest.fixture
async def remote(line: Proxy) -> AsyncIterator[Database]:
    """The database at the end of the line."""
    async with open_database(line.url, max_size=4, timeout=5) as remote:
        yield remote


def lease_of(database: Database, renew_every: float = 5.0) -> Lease:
    """The lease of a web node, not taken yet."""
    return Lease(database, Metrics(), name="n", kind="web", length=LENGTH, renew_every=renew_every)


async def sweep(database: Database, lease: Lease) -> list[str]:
    """Let the lease run out in PostgreSQL, and take it."""
    async with database.transaction() as connection:
        await connection.execute(
            "UPDATE node SET leased_until = now() - interval '1 s' WHERE boot_id = $1", lease.boot_id
        )
        swept, _ = await nodes.sweep(connection)
    return swept


async def test_a_lease_is_held_from_when_it_was_asked_for(database: Database, clock: Clock) -> None:
    """Not before it is taken, and for its length."""
    lease = lease_of(database)
    before = lease.held()
    await lease.take()
    held = []
    for later in (0.0, LENGTH - 0.001, LENGTH, LENGTH + 100):
        clock.now = 1000.0 + later
        held.append(lease.held())

    assert (False, [True, True, False, False]) == (before, held)


async def test_a_renewal_extends_the_lease(database: Database, clock: Clock) -> None:
    """From the moment of the renewal on; and in PostgreSQL too."""
    lease = lease_of(database)
    await lease.take()
    clock.now += 10
    await lease.renew()
    clock.now += LENGTH - 0.001
    held = lease.held()
    clock.now += 0.001
    async with database.connection() as connection:
        left = await connection.fetchval(
            "SELECT extract(epoch FROM leased_until - now())::float8 FROM node WHERE boot_id = $1", lease.boot_id
        )

    assert (True, False, 2) == (held, lease.held(), lease.renewals)
    assert 5 < left <= LENGTH


async def test_an_answer_that_came_late_does_not_lengthen_the_lease(database: Database, clock: Clock) -> None:
    """It is counted from the asking, so that it ends here before it ends in PostgreSQL."""
    lease = lease_of(database)
    await lease.take()
    async with database.transaction() as connection:
        await connection.execute("SELECT FROM node FOR UPDATE")
        renewing = asyncio.create_task(lease.renew())
        await until_blocked(database)
        clock.now += 4
    await renewing
    clock.now = 1000.0 + LENGTH - 0.001
    held = lease.held()
    clock.now = 1000.0 + LENGTH

    assert (True, False) == (held, lease.held())


async def test_a_swept_lease_ends_this_life_and_begins_another(database: Database, clock: Clock) -> None:
    """All who asked for it are told while nothing is held, then a new boot id holds a new lease."""
    lease = lease_of(database)
    await lease.take()
    old = lease.boot_id
    told: list[tuple[str, bool]] = []
    lease.on_lost(lambda: told.append((lease.boot_id, lease.held())))
    lease.on_lost(lambda: told.append((lease.boot_id, lease.held())))

    swept = await sweep(database, lease)
    await lease.renew()

    assert ([old], [(lease.boot_id, False)] * 2) == (swept, told)
    assert old != lease.boot_id
    assert (True, 1) == (lease.held(), lease.renewals)
    assert [lease.boot_id] == await _living(database)


async def _living(database: Database) -> list[str]:
    async with database.connection() as connection:
        return [row["boot_id"] for row in await connection.fetch("SELECT boot_id FROM node WHERE swept_at IS NULL")]


async def test_an_outage_of_postgresql_is_waited_out(remote: Database, line: Proxy, clock: Clock) -> None:
    """The lease is held to its end and not beyond; a sweeper of this process begins to count anew."""
    lease = lease_of(remote)
    await lease.take()
    await lease.renew()
    boot_id, renewals = lease.boot_id, lease.renewals
    await line.cut()
    clock.now += 5
    await lease.renew()
    during = lease.held(), lease.renewals
    clock.now += 10
    await lease.renew()
    after = lease.held()
    await line.open()
    await lease.renew()

    assert (2, (True, 0), False) == (renewals, during, after)
    assert (True, 1, boot_id) == (lease.held(), lease.renewals, lease.boot_id)


async def test_a_new_life_that_cannot_begin_now_begins_later(line: Proxy, database: Database) -> None:
    """PostgreSQL goes away between the news and the new life: nothing is held until a renewal finds it back."""
    async with open_database(line.url, max_size=4, timeout=1) as remote:
        lease = lease_of(remote)
        await lease.take()
        lease.on_lost(line.swallow)
        await sweep(database, lease)
        await lease.renew()
        held = lease.held()
        line.let_pass()
        lease._on_lost.clear()
        async with asyncio.timeout(20):
            while not lease.held():
                await lease.renew()

    assert not held
    assert lease.boot_id in await _living(database)


async def test_a_process_that_was_stopped_holds_nothing_when_it_goes_on(database: Database, clock: Clock) -> None:
    """SIGSTOP for longer than the lease: who has something to say is told when the next renewal succeeded, once."""
    lease = lease_of(database)
    await lease.take()
    told: list[bool] = []
    lease.on_held(lambda: told.append(lease.held()))
    await lease.renew()
    before = list(told)
    clock.now += LENGTH + 1
    held = lease.held()
    await lease.renew()
    await lease.renew()

    assert ([], False, [True]) == (before, held, told)


async def test_a_failed_renewal_lets_nobody_speak(remote: Database, line: Proxy, clock: Clock) -> None:
    """Nobody is told until one succeeds."""
    lease = lease_of(remote)
    await lease.take()
    told: list[bool] = []
    lease.on_held(lambda: told.append(lease.held()))
    clock.now += LENGTH
    await line.cut()
    await lease.renew()
    early = list(told)
    await line.open()
    await lease.renew()

    assert ([], [True]) == (early, told)


async def test_a_swept_lease_is_told_as_lost_before_it_is_held_again(database: Database, clock: Clock) -> None:
    """So what waited under the old one is thrown away before anybody says what waits."""
    lease = lease_of(database)
    await lease.take()
    told: list[str] = []
    lease.on_lost(lambda: told.append("lost"))
    lease.on_held(lambda: told.append("held"))
    clock.now += LENGTH
    await sweep(database, lease)
    await lease.renew()

    assert ["lost", "held"] == told


async def test_a_lease_is_kept_by_itself(database: Database) -> None:
    """`keep` renews in its rhythm, and finds out that it was swept."""
    lease = lease_of(database, renew_every=0.01)
    lost = asyncio.Event()
    lease.on_lost(lost.set)
    await lease.take()
    keeping = asyncio.create_task(lease.keep())
    await until(lambda: lease.renewals >= 3)
    await sweep(database, lease)
    async with asyncio.timeout(20):
        await lost.wait()
    await until(lambda: lease.renewals >= 2)
    keeping.cancel()

    assert lease.held()


async def test_a_lease_that_is_given_up_is_nobodys(database: Database) -> None:
    """Nothing is held, and the sweep finds nothing left to do."""
    lease = lease_of(database)
    await lease.take()
    await lease.give_up()
    async with database.transaction() as connection:
        swept, _ = await nodes.sweep(connection)

    assert (False, [], []) == (lease.held(), swept, await _living(database))


async def test_a_lease_cannot_be_taken_without_postgresql(remote: Database, line: Proxy) -> None:
    """UNAVAILABLE, and nothing is held."""
    lease = lease_of(remote)
    await line.cut()

    with pytest.raises(DialdeskError) as refused:
        await lease.take()

    assert ("UNAVAILABLE", False) == (refused.value.code, lease.held())
