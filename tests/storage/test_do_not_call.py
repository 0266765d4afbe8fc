"""The do-not-call list as it is kept: entered, extended, run out, imported and lifted, each with a line of the log."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from protocol.errors import DialdeskError
from protocol.identifiers import new_id
from storage import audit, do_not_call
from storage.audit import Actor, AuditSearch
from storage.calls import Reach
from storage.database import Database
from storage.do_not_call import Entry, NewEntry, Source
from tests.conftest import Office

NUMBER, OTHER = "+8613900139000", "+8613900139001"
SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
LATER = SOON + timedelta(days=1)

Add = Callable[..., Awaitable[Entry]]


@pytest.fixture
def actor(office: Office) -> Actor:
    """Somebody of the office."""
    return Actor(kind="user", id="ann", tenant_id=office.tenant_id)


@pytest.fixture
def add(database: Database, office: Office, actor: Actor) -> Add:
    """Enter NUMBER, or another."""

    async def entered(phone: str = NUMBER, source: Source = "agent", **fields: Any) -> Entry:
        async with database.transaction() as connection:
            new = NewEntry(phone=phone, **fields)
            return await do_not_call.add(connection, actor, office.tenant_id, new, source)

    return entered


async def run_out(database: Database) -> None:
    """Let all that has an end have ended."""
    async with database.connection() as connection:
        await connection.execute("UPDATE do_not_call SET expires_at = now() - interval '1 second'")


async def test_a_number_is_listed_in_its_own_tenant_only(database: Database, office: Office, add: Add) -> None:
    """What one tenant may not call, another may."""
    entry = await add()
    async with database.connection() as connection:
        here = await do_not_call.is_listed(connection, office.tenant_id, NUMBER)
        elsewhere = await do_not_call.is_listed(connection, "another", NUMBER)
        of_two = await do_not_call.listed(connection, office.tenant_id, [NUMBER, OTHER])

    assert (True, False) == (here, elsewhere)
    assert {NUMBER: entry.id} == of_two


async def test_an_entry_counts_until_it_runs_out(database: Database, office: Office, add: Add) -> None:
    """Nobody has to take it off; what has run out stands in no list."""
    await add(expires_at=SOON)
    async with database.connection() as connection:
        before = await do_not_call.is_listed(connection, office.tenant_id, NUMBER)
    await run_out(database)
    async with database.connection() as connection:
        after = await do_not_call.is_listed(connection, office.tenant_id, NUMBER)
        rest = await do_not_call.entries(connection, office.tenant_id, None, 10)

    assert (True, False, []) == (before, after, rest)


@pytest.mark.parametrize(
    ("first", "again", "kept"),
    [(None, SOON, None), (SOON, None, None), (SOON, LATER, LATER), (LATER, SOON, LATER), (None, None, None)],
)
async def test_who_enters_a_number_again_never_shortens_it(
    add: Add, first: datetime | None, again: datetime | None, kept: datetime | None
) -> None:
    """The entry stays the same one, for as long as anybody has asked."""
    before = await add(reason="asked us", expires_at=first)
    after = await add(expires_at=again)

    assert (before.id, kept, "asked us") == (after.id, after.expires_at, after.reason)


async def test_a_number_whose_entry_ran_out_is_entered_anew(database: Database, add: Add) -> None:
    """Nothing of the old entry stays, not even its reason."""
    before = await add(reason="on holiday", expires_at=SOON)
    await run_out(database)
    after = await add(source="api", expires_at=LATER)

    assert before.id != after.id
    assert ("", "api", LATER) == (after.reason, after.source, after.expires_at)


async def test_the_list_is_told_newest_first_in_parts(database: Database, office: Office, add: Add) -> None:
    """Each part begins after the last entry of the one before."""
    ids = [(await add(f"+861390013900{n}")).id for n in range(3)]
    async with database.connection() as connection:
        first = await do_not_call.entries(connection, office.tenant_id, None, 2)
        rest = await do_not_call.entries(connection, office.tenant_id, first[-1].id, 2)

    assert sorted(ids, reverse=True) == [entry.id for entry in (*first, *rest)]


async def test_an_import_counts_what_is_new(
    database: Database, office: Office, actor: Actor, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stood before is not counted, and stays for good where it was for good; several statements are one import."""
    monkeypatch.setattr(do_not_call, "AT_ONCE", 3)
    known = await add(reason="asked us")
    numbers = [NewEntry(phone=f"+861390013900{n}", reason="list") for n in range(8)]
    async with database.transaction() as connection:
        added = await do_not_call.import_all(connection, actor, office.tenant_id, numbers)
    async with database.connection() as connection:
        kept = {entry.phone: entry for entry in await do_not_call.entries(connection, office.tenant_id, None, 100)}

    assert 7 == added
    assert {number.phone for number in numbers} == kept.keys()
    assert (known.id, "agent", "list") == (kept[NUMBER].id, kept[NUMBER].source, kept[NUMBER].reason)
    assert {"import"} == {entry.source for phone, entry in kept.items() if phone != NUMBER}


async def test_what_is_lifted_may_be_called_again(database: Database, office: Office, actor: Actor, add: Add) -> None:
    """An entry is lifted once; one of another tenant is not there."""
    entry = await add()
    async with database.transaction() as connection:
        with pytest.raises(DialdeskError, match="does not exist"):
            await do_not_call.lift(connection, actor, "another", entry.id, "eve wants it")
    async with database.transaction() as connection:
        await do_not_call.lift(connection, actor, office.tenant_id, entry.id, "asked us to call")
        listed = await do_not_call.is_listed(connection, office.tenant_id, NUMBER)
        with pytest.raises(DialdeskError, match="does not exist"):
            await do_not_call.lift(connection, actor, office.tenant_id, entry.id, "again")

    assert not listed


async def test_the_audit_log_keeps_who_and_why_without_the_number(
    database: Database, office: Office, actor: Actor, add: Add
) -> None:
    """Numbers are masked there, as everywhere."""
    entry = await add(reason="asked us", expires_at=SOON)
    async with database.transaction() as connection:
        await do_not_call.import_all(connection, actor, office.tenant_id, [NewEntry(phone=OTHER)])
        await do_not_call.lift(connection, actor, office.tenant_id, entry.id, "changed their mind")
        lines, _ = await audit.lines(connection, office.tenant_id, AuditSearch(resource="do_not_call"), None, 10)

    lift, imported, added = lines
    assert ("lift", entry.id, "changed their mind") == (lift.action, lift.resource_id, lift.reason)
    assert {"numbers": 1, "added": 1} == imported.after
    assert lift.before == added.after
    assert added.after is not None
    assert "139****9000" == added.after["phone"]
    assert NUMBER.removeprefix("+86") not in str(lines)


async def test_the_number_of_a_call_is_told_to_whom_it_is_within_reach(database: Database, office: Office) -> None:
    """An agent enters its own calls, and nobody another tenant's."""
    ann, bob = await office.agent(), await office.agent()
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, customer_phone, status, reap_at)"
            " VALUES ('call_1', $1, $2, $2, 'cloud', $3, 'pending', now())",
            office.tenant_id,
            ann,
            NUMBER,
        )
        told = [
            await do_not_call.number_of_call(
                connection,
                Reach(tenant_id=tenant_id, user_id=user_id, only_user=only_user, only_teams=None),
                "call_1",
            )
            for tenant_id, user_id, only_user in (
                (office.tenant_id, ann, ann),
                (office.tenant_id, bob, bob),
                (office.tenant_id, bob, None),
                (new_id("tenant"), ann, None),
            )
        ]

    assert [NUMBER, None, NUMBER, None] == told
