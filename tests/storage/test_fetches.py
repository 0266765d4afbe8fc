"""Recordings that are waited for, as rows: wanted once, claimed by one, put off, given up, and sealed anew."""

from collections.abc import AsyncIterator

import pytest

from protocol.identifiers import new_call_id
from storage import fetches
from storage.database import Connection, Database
from storage.fetches import Fetch
from tests.conftest import Office

LINE = "line_1"


class Desk:
    """A tenant's calls, and the recordings that are wanted of them."""

    def __init__(self, connection: Connection, office: Office, user_id: str) -> None:
        self.connection = connection
        self.tenant_id = office.tenant_id
        self._user_id = user_id

    async def call(self, *, record: bool = True) -> str:
        """A call that has ended."""
        call_id = new_call_id()
        await self.connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, customer_phone, status, ended_at,"
            " outcome, record) VALUES ($1, $2, $3, $3, 'mobile', '+8613800138000', 'ended', now(), 'connected', $4)",
            call_id,
            self.tenant_id,
            self._user_id,
            record,
        )
        return call_id

    async def want(self, call_id: str, url: bytes = b"url", *, after: float = 0, until: float = 3600) -> bool:
        """A recording is offered; by default it is due at once."""
        return await fetches.want(self.connection, self.tenant_id, call_id, LINE, url, after=after, until=until)

    async def wanted(self, url: bytes = b"url") -> str:
        """A call whose recording is due."""
        call_id = await self.call()
        assert await self.want(call_id, url)
        return call_id

    async def due(self, lease: float = 60.0, limit: int = 10) -> list[Fetch]:
        """What a worker claims."""
        return await fetches.due(self.connection, lease, limit)

    async def row(self, call_id: str) -> tuple[str, int, str | None]:
        """(state, tries, failure)."""
        row = await self.connection.fetchrow(
            "SELECT state, tries, failure FROM recording_fetch WHERE call_id = $1", call_id
        )
        assert row is not None
        return row["state"], row["tries"], row["failure"]

    async def status(self, call_id: str) -> str | None:
        """What the call shows of its recording."""
        status: str | None = await self.connection.fetchval("SELECT recording_status FROM call WHERE id = $1", call_id)
        return status


@pytest.fixture
async def desk(database: Database, office: Office) -> AsyncIterator[Desk]:
    """A tenant with an agent."""
    user_id = await office.agent()
    async with database.connection() as connection:
        yield Desk(connection, office, user_id)


async def test_what_is_wanted_is_due_when_its_time_has_come(desk: Desk) -> None:
    """It carries what a worker needs, and the first try is no last one."""
    later, now = await desk.call(), await desk.wanted()
    await desk.want(later, after=60)

    assert [
        Fetch(call_id=now, tenant_id=desk.tenant_id, line_id=LINE, url=b"url", tries=1, last_try=False)
    ] == await desk.due()


async def test_what_is_claimed_is_nobody_elses_until_the_claim_ends(desk: Desk) -> None:
    """Then it is due again, and counted."""
    await desk.wanted()
    claims = [len(await desk.due(lease=60.0)), len(await desk.due(lease=60.0))]
    await desk.connection.execute("UPDATE recording_fetch SET next_at = now()")

    assert [1, 0] == claims
    assert [2] == [fetch.tries for fetch in await desk.due()]


async def test_two_workers_at_once_claim_different_ones(desk: Desk, database: Database) -> None:
    """One does not wait for the other."""
    await desk.wanted()
    await desk.wanted()
    async with database.transaction() as one:
        first = await fetches.due(one, 60.0, 1)
        second = await desk.due()

    assert (1, 1) == (len(first), len(second))
    assert first[0].call_id != second[0].call_id


async def test_the_longest_due_come_first(desk: Desk) -> None:
    """A worker takes only so many."""
    calls = [await desk.call() for _ in range(3)]
    for call_id, after in zip(calls, (-10.0, -30.0, -20.0), strict=True):
        await desk.want(call_id, after=after)

    assert {calls[1], calls[2]} == {fetch.call_id for fetch in await desk.due(limit=2)}


async def test_what_is_put_off_comes_again_with_its_failure_kept(desk: Desk) -> None:
    """In so many seconds."""
    call_id = await desk.wanted()
    (claimed,) = await desk.due()
    await fetches.put_off(desk.connection, claimed, 60.0, "not yet")
    meanwhile = await desk.due()
    await fetches.put_off(desk.connection, claimed, 0.0, "not yet")

    assert [] == meanwhile
    assert ("waiting", 1, "not yet") == await desk.row(call_id)
    assert [2] == [fetch.tries for fetch in await desk.due()]


async def test_after_the_time_of_the_offer_comes_a_last_try(desk: Desk) -> None:
    """Whoever claims it then is told."""
    call_id = await desk.call()
    await desk.want(call_id, until=0)

    assert [True] == [fetch.last_try for fetch in await desk.due()]


async def test_what_is_given_up_shows_in_the_call_and_is_not_due_again(desk: Desk) -> None:
    """Its history says why."""
    call_id = await desk.wanted()
    (claimed,) = await desk.due(lease=0)
    await fetches.give_up(desk.connection, claimed, "gone")
    told = await desk.connection.fetchval(
        "SELECT data ->> 'reason' FROM call_event WHERE call_id = $1 AND kind = 'RECORDING_FAILED'", call_id
    )

    assert ("failed", 1, "gone") == await desk.row(call_id)
    assert ("failed", "gone") == (await desk.status(call_id), told)
    assert [] == await desk.due()


async def test_what_was_offered_anew_meanwhile_is_not_given_up(desk: Desk) -> None:
    """The failure was the old URL's."""
    call_id = await desk.wanted(b"old")
    (claimed,) = await desk.due(lease=0)
    await desk.want(call_id, b"new")
    await fetches.give_up(desk.connection, claimed, "gone")

    assert "waiting" == (await desk.row(call_id))[0]
    assert await desk.status(call_id) is None
    assert [b"new"] == [fetch.url for fetch in await desk.due()]


async def test_an_offer_after_a_failure_waits_again(desk: Desk) -> None:
    """From the newest URL, for as long as that one is good."""
    call_id = await desk.call()
    await desk.want(call_id, b"old", until=0)
    (claimed,) = await desk.due()
    await fetches.give_up(desk.connection, claimed, "gone")
    await desk.want(call_id, b"new")

    assert [(b"new", False)] == [(fetch.url, fetch.last_try) for fetch in await desk.due()]


async def test_a_later_offer_does_not_put_off_what_is_due_sooner(desk: Desk) -> None:
    """Nor does it shorten the time for which the first was good."""
    call_id = await desk.call()
    await desk.want(call_id, b"old", after=0, until=3600)
    await desk.want(call_id, b"new", after=60, until=0)

    assert [(b"new", False)] == [(fetch.url, fetch.last_try) for fetch in await desk.due()]


async def test_what_was_not_to_be_recorded_is_not_wanted(desk: Desk) -> None:
    """Nor is what belongs to another tenant."""
    off, theirs = await desk.call(record=False), await desk.call()

    assert not await desk.want(off)
    assert not await fetches.want(desk.connection, "tenant_other", theirs, LINE, b"url", after=0, until=60)
    assert [] == await desk.due()


async def test_what_was_fetched_is_dropped(desk: Desk) -> None:
    """Another tenant's claim does not drop it."""
    call_id = await desk.wanted()
    (claimed,) = await desk.due()
    stranger = Fetch(call_id=call_id, tenant_id="tenant_other", line_id=LINE, url=b"", tries=1, last_try=False)
    await fetches.drop(desk.connection, stranger)
    kept = await desk.row(call_id)
    await fetches.drop(desk.connection, claimed)

    assert "waiting" == kept[0]
    assert 0 == await desk.connection.fetchval("SELECT count(*) FROM recording_fetch")


async def test_urls_are_read_in_batches_and_sealed_anew(desk: Desk) -> None:
    """All of them, in order; one that was replaced meanwhile stays what it is."""
    calls = sorted([await desk.wanted(url) for url in (b"1", b"2", b"3")])
    first = await fetches.sealed_urls(desk.connection, "", 2)
    rest = await fetches.sealed_urls(desk.connection, first[-1][0], 2)
    await desk.want(calls[0], b"newer")
    kept = await fetches.reseal_urls(
        desk.connection, [(call_id, url, b"anew " + url) for call_id, url in (*first, *rest)]
    )

    assert calls == [call_id for call_id, _ in (*first, *rest)]
    assert 2 == kept
    assert [b"newer", b"anew " + first[1][1], b"anew " + rest[0][1]] == [
        url for _, url in await fetches.sealed_urls(desk.connection, "", 10)
    ]
