"""Agents' streams on a node: where a page begins, what it is given when the relay lost something, and who attends."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from protocol.errors import CloseCode
from protocol.identifiers import new_id
from protocol.messages import DeviceStatus, to_agent
from server.agents import REPLAY_BOUND, Agents
from server.hub import Hub
from server.lease import Lease
from server.telemetry import Metrics
from storage import nodes
from storage.database import Database, open_database
from storage.events import Emitted, emit
from tests.conftest import Office
from tests.proxy import proxy_to
from tests.server.test_hub import Link
from tests.waiting import until, until_blocked

SELDOM = 3600.0


class Page(Link):
    """A page that takes events in their order and drops the others."""

    def __init__(self, last_seq: int | None = 0, login_id: str | None = None) -> None:
        super().__init__(login_id=login_id)
        self.last_seq = last_seq
        self.resynced: list[int] = []

    def event(self, seq: int, frame: bytes) -> None:
        """Take the next event."""
        assert self.last_seq is not None
        if seq == self.last_seq + 1:
            self.last_seq = seq
            self.events.append((seq, frame))

    def resync(self, seq: int) -> None:
        """Events up to `seq` are lost."""
        assert self.last_seq is not None
        self.resynced.append(seq)
        self.last_seq = seq


class House:
    """A node's agents."""

    def __init__(self, database: Database, refill_every: float = SELDOM) -> None:
        self.metrics = Metrics()
        self.hub = Hub(self.metrics, bound=100)
        self.lease = Lease(database, self.metrics, name="n", kind="web", length=60, renew_every=5)
        self.agents = Agents(database, self.hub, self.lease, self.metrics, refill_every=refill_every)

    def page(self, user_id: str, last_seq: int | None = 0, login_id: str | None = None) -> Page:
        """Open a page of an agent."""
        page = Page(last_seq, login_id)
        self.hub.join_agent(user_id, page)
        return page


@pytest.fixture
async def house(database: Database) -> House:
    """A node with a lease."""
    house = House(database)
    await house.lease.take()
    return house


@pytest.fixture
async def refilling(house: House) -> AsyncIterator[House]:
    """A node that refills when somebody says that something is missing."""
    task = asyncio.create_task(house.agents.refill())
    yield house
    assert not task.done(), "the refill has ended"
    task.cancel()


async def happen(database: Database, user_id: str, how_many: int) -> list[Emitted]:
    """Let events happen to an agent; the relay loses them all."""
    event = DeviceStatus(device_id="p", online_status="online")
    async with database.transaction() as connection:
        return await emit(connection, [(user_id, event)] * how_many)


async def execute(database: Database, statement: str, *values: Any) -> None:
    """Change rows behind the back of the code."""
    async with database.connection() as connection:
        await connection.execute(statement, *values)


# --- where a page begins ----------------------------------------------------------------------------------------------


async def test_a_page_that_saw_nothing_begins_at_the_end(house: House, database: Database, office: Office) -> None:
    """It is told devices and calls as they are, its own and nobody else's, and no event of the past."""
    ann, ben = await office.agent(), await office.agent()
    phone, _ = await office.phone(ann), await office.phone(ben)
    for name, user_id, device_id in (("call_1", ann, phone), ("call_2", ben, None)):
        await execute(
            database,
            "INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, reap_at)"
            " VALUES ($1, $2, $3, $3, $4, 'mobile', '+8613900139000', now())",
            name,
            office.tenant_id,
            user_id,
            device_id,
        )
    await happen(database, ann, 3)

    snapshot = await house.agents.snapshot(office.tenant_id, ann, None)

    assert (3, 3, [], False) == (snapshot.last_seq, snapshot.resume_from, snapshot.missed, snapshot.lost)
    assert [phone] == [device.id for device in snapshot.devices]
    assert [("call_1", "139****9000")] == [(call.call_id, call.customer_phone) for call in snapshot.calls]


async def test_a_page_that_was_away_gets_what_it_missed(house: House, database: Database, office: Office) -> None:
    """The very events, under the same ids, in their order."""
    ann = await office.agent()
    emitted = await happen(database, ann, 5)

    snapshot = await house.agents.snapshot(office.tenant_id, ann, 2)
    missed = [to_agent.decode(frame) for _, frame in snapshot.missed]
    sent = [to_agent.decode(event.frame) for event in emitted[2:]]

    assert (5, 2, False) == (snapshot.last_seq, snapshot.resume_from, snapshot.lost)
    assert [3, 4, 5] == [seq for seq, _ in snapshot.missed] == [envelope.seq for envelope in missed]
    assert [(e.message_id, e.message) for e in sent] == [(e.message_id, e.message) for e in missed]


@pytest.mark.parametrize(
    ("last_seq", "missed"),
    [(REPLAY_BOUND + 1, 0), (1, REPLAY_BOUND), (0, None), (REPLAY_BOUND + 2, None), (2**53, None)],
)
async def test_what_cannot_be_given_whole_is_lost_plainly(
    house: House, database: Database, office: Office, last_seq: int, missed: int | None
) -> None:
    """Up to 500 events are given; more, or a place in the future, and the page must read again."""
    ann = await office.agent()
    await happen(database, ann, REPLAY_BOUND + 1)

    snapshot = await house.agents.snapshot(office.tenant_id, ann, last_seq)

    assert (missed is None, missed or 0, REPLAY_BOUND + 1) == (snapshot.lost, len(snapshot.missed), snapshot.last_seq)


async def test_events_that_expired_are_lost_plainly(house: House, database: Database, office: Office) -> None:
    """One row that is gone makes a replay partial: nothing is given rather than that."""
    ann = await office.agent()
    await happen(database, ann, 5)
    await execute(database, "DELETE FROM agent_event WHERE seq = 3")

    lost, whole = [await house.agents.snapshot(office.tenant_id, ann, seq) for seq in (1, 3)]

    assert (True, [], False, [4, 5]) == (lost.lost, lost.missed, whole.lost, [seq for seq, _ in whole.missed])


async def test_a_snapshot_is_of_one_moment(house: House, database: Database, office: Office) -> None:
    """While events happen all the time, position and missed events always agree."""
    ann = await office.agent()
    done = asyncio.Event()

    async def keep_happening() -> None:
        while not done.is_set():
            await happen(database, ann, 3)

    happening = asyncio.create_task(keep_happening())
    snapshots = [await house.agents.snapshot(office.tenant_id, ann, 0)]
    while len(snapshots) < 20 or snapshots[-1].last_seq == snapshots[0].last_seq:
        snapshots.append(await house.agents.snapshot(office.tenant_id, ann, 0))
    done.set()
    await happening

    assert all(list(range(1, s.last_seq + 1)) == [seq for seq, _ in s.missed] for s in snapshots if not s.lost)
    assert snapshots[-1].last_seq > snapshots[0].last_seq


# --- refill -----------------------------------------------------------------------------------------------------------


async def test_the_refill_gives_pages_what_the_relay_lost(refilling: House, database: Database, office: Office) -> None:
    """Each from where it stands; one that is up to date, or not welcomed yet, is left alone."""
    ann, ben = await office.agent(), await office.agent()
    await happen(database, ann, 4)
    await happen(database, ben, 1)
    behind, further, done, opening = (refilling.page(ann, seq) for seq in (3, 1, 4, None))
    other = refilling.page(ben)

    refilling.agents.behind(ann)
    await until(lambda: other.last_seq == 1 and behind.last_seq == further.last_seq == 4)

    assert [[4], [2, 3, 4], [], [], [1]] == [
        [seq for seq, _ in page.events] for page in (behind, further, done, opening, other)
    ]
    assert 5 == refilling.metrics.registry.get_sample_value("dialdesk_event_refills_total")


async def test_the_refill_looks_by_itself(database: Database, office: Office) -> None:
    """Though nobody noticed that something is missing."""
    house = House(database, refill_every=0.02)
    ann = await office.agent()
    page = house.page(ann)
    refill = asyncio.create_task(house.agents.refill())
    await happen(database, ann, 2)
    await until(lambda: page.last_seq == 2)
    refill.cancel()

    assert [1, 2] == [seq for seq, _ in page.events]


async def test_a_gap_in_the_relay_refills_everybody(refilling: House, database: Database, office: Office) -> None:
    """After a new subscription nobody knows what was missed."""
    people = [await office.agent() for _ in range(3)]
    pages = [refilling.page(user_id) for user_id in people]
    for user_id in people:
        await happen(database, user_id, 2)

    refilling.agents.behind_all()
    await until(lambda: all(page.last_seq == 2 for page in pages))

    assert [[1, 2]] * 3 == [[seq for seq, _ in page.events] for page in pages]


async def test_a_page_too_far_behind_is_told_to_read_again(
    refilling: House, database: Database, office: Office
) -> None:
    """RESYNC to where the stream is, and events go on from there."""
    ann = await office.agent()
    await happen(database, ann, REPLAY_BOUND + 1)
    page = refilling.page(ann)

    refilling.agents.behind(ann)
    await until(lambda: bool(page.resynced))
    await happen(database, ann, 1)
    refilling.agents.behind(ann)
    await until(lambda: bool(page.events))

    assert ([REPLAY_BOUND + 1], [REPLAY_BOUND + 2]) == (page.resynced, [seq for seq, _ in page.events])


@pytest.mark.parametrize(("meanwhile", "resynced"), [(None, []), (7, []), (5, []), (3, [5])])
async def test_a_page_that_says_hello_during_a_refill_is_not_taken_back(
    refilling: House, database: Database, office: Office, meanwhile: int | None, resynced: list[int]
) -> None:
    """While its missing events are read it may begin anew elsewhere: then what was read is not for it."""
    ann = await office.agent()
    await happen(database, ann, 5)
    await execute(database, "DELETE FROM agent_event")
    page = refilling.page(ann, 2)
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE agent_event IN ACCESS EXCLUSIVE MODE")
        refilling.agents.behind(ann)
        await until_blocked(database)
        page.last_seq = meanwhile
    ben = await office.agent()
    other = refilling.page(ben)
    await happen(database, ben, 1)
    refilling.agents.behind(ben)
    await until(lambda: other.last_seq == 1)

    assert resynced == page.resynced


async def test_pages_of_a_login_that_has_ended_are_closed(refilling: House, database: Database, office: Office) -> None:
    """The close that was to tell them may not have arrived, and nothing tells of a login that expired; pages of living
    logins, and of none, stay."""
    ann = await office.agent()
    for login_id in ("revoked", "expired", "living"):
        await execute(
            database,
            "INSERT INTO login (id, user_id, expires_at) VALUES ($1, $2, now() + interval '1 day')",
            login_id,
            ann,
        )
    await execute(database, "UPDATE login SET revoked_at = now() WHERE id = 'revoked'")
    await execute(database, "UPDATE login SET expires_at = now() WHERE id = 'expired'")
    pages = [refilling.page(ann, login_id=login_id) for login_id in ("revoked", "expired", "living", None)]

    refilling.agents.behind_all()
    await until(lambda: pages[0].code is not None and pages[1].code is not None)

    assert [CloseCode.UNBOUND, CloseCode.UNBOUND, None, None] == [page.code for page in pages]


async def test_the_refill_outlives_an_outage_of_postgresql(
    database: Database, database_url: str, office: Office
) -> None:
    """What was missing is given when it is back."""
    ann = await office.agent()
    async with proxy_to(database_url) as line, open_database(line.url, max_size=2, timeout=5) as remote:
        house = House(remote, refill_every=0.05)
        page = house.page(ann)
        refill = asyncio.create_task(house.agents.refill())
        await line.cut()
        await happen(database, ann, 1)
        house.agents.behind(ann)
        await asyncio.sleep(0)
        await line.open()
        await until(lambda: page.last_seq == 1)
        refill.cancel()

    assert [1] == [seq for seq, _ in page.events]


# --- who attends ------------------------------------------------------------------------------------------------------


async def attended(database: Database, user_id: str) -> list[str]:
    """The nodes to which events of an agent are sent."""
    return (await happen(database, user_id, 1))[0].nodes


async def test_events_are_sent_here_while_there_is_a_page(house: House, database: Database, office: Office) -> None:
    """From the first page to the last."""
    ann = await office.agent()
    nodes_told = [await attended(database, ann)]
    first = house.page(ann)
    await house.agents.attend(ann)
    second = house.page(ann)
    await house.agents.attend(ann)
    nodes_told.append(await attended(database, ann))
    for page in (first, second):
        house.hub.leave_agent(ann, page)
        await house.agents.leave(ann)
        nodes_told.append(await attended(database, ann))

    here = [house.lease.boot_id]
    assert [[], here, here, []] == nodes_told


async def test_pages_of_an_agent_on_two_nodes_are_both_told(house: House, database: Database, office: Office) -> None:
    """And a node that leaves takes nothing from the other."""
    ann = await office.agent()
    other = House(database)
    await other.lease.take()
    pages = [(one, one.page(ann)) for one in (house, other)]
    for one, _ in pages:
        await one.agents.attend(ann)
    both = await attended(database, ann)
    house.hub.leave_agent(ann, pages[0][1])
    await house.agents.leave(ann)

    assert {house.lease.boot_id, other.lease.boot_id} == set(both)
    assert [other.lease.boot_id] == await attended(database, ann)


async def test_pages_that_come_and_go_at_once_leave_the_truth(house: House, database: Database, office: Office) -> None:
    """However coming and going overlap, the row stands exactly where a page is left."""
    people = [await office.agent() for _ in range(6)]
    dice = random.Random(3)

    async def visit(user_id: str, *, stay: bool) -> None:
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
        page = house.page(user_id)
        await house.agents.attend(user_id)
        if not stay:
            house.hub.leave_agent(user_id, page)
            await house.agents.leave(user_id)

    await asyncio.gather(
        *(visit(user_id, stay=n == 4 and i % 2 == 0) for i, user_id in enumerate(people) for n in range(10))
    )

    here = [house.lease.boot_id]
    assert [here, [], here, [], here, []] == [await attended(database, user_id) for user_id in people]


async def test_a_leave_that_cannot_be_written_is_written_later(
    database: Database, database_url: str, office: Office
) -> None:
    """Until then it costs messages for nobody; the refill writes it when PostgreSQL is back."""
    ann = await office.agent()
    async with proxy_to(database_url) as line, open_database(line.url, max_size=2, timeout=5) as remote:
        house = House(remote, refill_every=0.05)
        await house.lease.take()
        page = house.page(ann)
        await house.agents.attend(ann)
        house.hub.leave_agent(ann, page)
        await line.cut()
        await house.agents.leave(ann)
        still = await attended(database, ann)
        await line.open()
        refill = asyncio.create_task(house.agents.refill())

        async def forgotten() -> bool:
            return await attended(database, ann) == []

        await until(forgotten)
        refill.cancel()

    assert [house.lease.boot_id] == still


async def test_the_sweep_of_a_node_forgets_its_pages(house: House, database: Database, office: Office) -> None:
    """A dead node is sent nothing."""
    ann = await office.agent()
    await house.agents.attend(ann)
    async with database.transaction() as connection:
        await connection.execute("UPDATE node SET leased_until = now() - interval '1 s'")
        await nodes.sweep(connection)

    assert [] == await attended(database, ann)


async def test_a_page_of_somebody_unknown_has_an_empty_stream(house: House, office: Office) -> None:
    """No stream is a stream at 0, as for a system administrator."""
    snapshot = await house.agents.snapshot(office.tenant_id, new_id("user"), 0)

    assert (0, [], False) == (snapshot.last_seq, snapshot.missed, snapshot.lost)
