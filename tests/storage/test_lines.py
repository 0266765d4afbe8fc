"""Lines as rows: sealed, masked, audited, erased; what a dial sees of them, and who gets the last place."""

import asyncio
from datetime import date, time
from typing import Any

import msgspec
import pytest

from protocol.errors import DialdeskError
from protocol.identifiers import new_call_id
from storage import audit, lines
from storage.accounts import Page
from storage.audit import Actor, AuditSearch
from storage.database import Connection, Database, Duplicate
from storage.lines import LineSearch, SeatAt, Setup
from storage.tenant_keys import TenantKeys
from storage.vault import SealError, Vault
from tests.conftest import Office
from tests.waiting import until_blocked

KEY = "not-a-real-key-but-long-enough"
MASTER_KEY = b"a master key, 32 bytes, no secret"[:32]
SECRETS = {"accessKey": KEY}
SETUP = Setup(provider="infinity", name="West", account_id="app", settings={"appId": "app"})


@pytest.fixture
def keys() -> TenantKeys:
    """The keys as a node finds them."""
    return TenantKeys(Vault({"master": MASTER_KEY}))


def actor(tenant_id: str) -> Actor:
    """Who changes lines."""
    return Actor(kind="user", id="admin", tenant_id=tenant_id)


async def make(connection: Connection, keys: TenantKeys, tenant_id: str, **fields: Any) -> str:
    """Make a line and return its id."""
    setup = msgspec.structs.replace(SETUP, **fields)
    return await lines.create(connection, keys, actor(tenant_id), tenant_id, setup, SECRETS)


async def call(connection: Connection, tenant_id: str, user_id: str, line_id: str) -> str:
    """Let a call live on a line."""
    call_id = new_call_id()
    await connection.execute(
        "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, line_id, customer_phone, reap_at)"
        " VALUES ($1, $2, $3, $3, 'cloud', $4, '+8613800138000', now())",
        call_id,
        tenant_id,
        user_id,
        line_id,
    )
    return call_id


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_credentials_come_back_and_rest_sealed(database: Database, office: Office, keys: TenantKeys) -> None:
    """What was given is opened again, with a token; the row holds neither, and a hint that is masked."""
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)
        account = await lines.open_secrets(connection, keys, office.tenant_id, line_id)
        row = await connection.fetchval("SELECT to_jsonb(l)::text || encode(l.secrets, 'escape') FROM call_line l")
        line = await lines.get(connection, office.tenant_id, line_id)

    assert SECRETS == msgspec.json.decode(account.secrets)
    assert {"appId": "app"} == msgspec.json.decode(account.settings)
    assert KEY not in row
    assert account.token not in row
    assert {"accessKey": "not-a-********ough"} == line.hints
    assert account.token not in repr(account)
    assert KEY not in repr(account)


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("", "********"),
        ("short", "********"),
        ("nineteen characters", "********"),
        ("twenty characters ok", "twenty********s ok"),
        ("x" * 200, "xxxxxx********xxxx"),
    ],
)
def test_secrets_are_masked(secret: str, shown: str) -> None:
    """Six characters and the last four of long ones (seed 000 §4), nothing of short ones, and never how long it is."""

    assert shown == lines.mask(secret)
    assert lines.is_masked(shown)


async def test_secrets_are_bound_to_their_line(database: Database, office: Office, keys: TenantKeys) -> None:
    """Moved to another row they do not open."""
    async with database.connection() as connection:
        one = await make(connection, keys, office.tenant_id)
        two = await make(connection, keys, office.tenant_id, name="East", account_id="east")
        await connection.execute(
            "UPDATE call_line SET secrets = (SELECT secrets FROM call_line WHERE id = $1) WHERE id = $2", one, two
        )

        with pytest.raises(SealError):
            await lines.open_secrets(connection, keys, office.tenant_id, two)


async def test_secrets_open_after_the_tenants_key_was_rotated(
    database: Database, office: Office, keys: TenantKeys
) -> None:
    """The old key opens what it sealed; what is given anew is sealed under the new one."""
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)
        another = Vault({"master": MASTER_KEY}).seal(bytes(32), f"tenant/{office.tenant_id}/key/2")
        await connection.execute(
            "INSERT INTO tenant_key (tenant_id, id, sealed) VALUES ($1, 2, $2)", office.tenant_id, another
        )
        before = await lines.open_secrets(connection, keys, office.tenant_id, line_id)
        line = await lines.get(connection, office.tenant_id, line_id)
        given = {"accessKey": "another key"}
        assert await lines.change(connection, keys, actor(office.tenant_id), office.tenant_id, line, line.setup, given)
        after = await lines.open_secrets(connection, keys, office.tenant_id, line_id)
        key_id = await connection.fetchval("SELECT key_id FROM call_line")

    assert SECRETS == msgspec.json.decode(before.secrets)
    assert given == msgspec.json.decode(after.secrets)
    assert before.token == after.token
    assert (1, 2) == (before.version, after.version)
    assert 2 == key_id


async def test_a_deleted_lines_secrets_are_gone(database: Database, office: Office, keys: TenantKeys) -> None:
    """Neither the row nor its token leads to them; its name and its account may be used again."""
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)
        agent = await office.agent()
        await connection.execute("UPDATE app_user SET default_line_id = $1 WHERE id = $2", line_id, agent)
        token = (await lines.open_secrets(connection, keys, office.tenant_id, line_id)).token
        found = await lines.by_token(connection, token)
        assert found is not None
        assert line_id == found.line_id
        line = await lines.get(connection, office.tenant_id, line_id, lock=True)
        await lines.delete(connection, actor(office.tenant_id), office.tenant_id, line)
        row = await connection.fetchrow("SELECT secrets, key_id, hints::text FROM call_line")
        assert row is not None

        assert (None, None, "{}") == tuple(row)
        assert await lines.by_token(connection, token) is None
        assert await connection.fetchval("SELECT default_line_id FROM app_user WHERE id = $1", agent) is None
        with pytest.raises(DialdeskError, match="line does not exist"):
            await lines.open_secrets(connection, keys, office.tenant_id, line_id)
        assert line_id != await make(connection, keys, office.tenant_id)


async def test_a_line_with_living_calls_stays(database: Database, office: Office, keys: TenantKeys) -> None:
    """Deleting it is IN_USE until they have ended."""
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)
        await call(connection, office.tenant_id, await office.agent(), line_id)
        line = await lines.get(connection, office.tenant_id, line_id, lock=True)

        with pytest.raises(DialdeskError, match="in use"):
            await lines.delete(connection, actor(office.tenant_id), office.tenant_id, line)


# --- what is kept of changes ------------------------------------------------------------------------------------------


async def test_a_change_is_told_by_its_fields(database: Database, office: Office, keys: TenantKeys) -> None:
    """The audit log has what differs, credentials masked and numbers too; that a secret was replaced, even where its
    mask is the same; and nothing where nothing changed."""
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)
        who = actor(office.tenant_id)
        for fields, credentials in (
            ({"priority": 7, "caller_number": "+862066247698"}, None),
            ({}, {"accessKey": KEY.replace("real", "fake")}),
            ({}, {"accessKey": KEY.replace("real", "fake")}),
        ):
            line = await lines.get(connection, office.tenant_id, line_id, lock=True)
            after = msgspec.structs.replace(line.setup, **fields)
            await lines.change(connection, keys, who, office.tenant_id, line, after, credentials)
        search = AuditSearch(resource="line", resource_id=line_id)
        found, _ = await audit.lines(connection, office.tenant_id, search, None, 10)

    assert ["update", "update", "create"] == [line.action for line in found]
    assert ({}, {"credentialsReplaced": True}) == (found[0].before, found[0].after)
    assert {"priority": 100, "caller_number": None} == found[1].before
    assert "2066247698" not in str(found)
    assert "not-a-real-key" not in str(found)


async def test_one_account_is_one_line(database: Database, office: Office, keys: TenantKeys) -> None:
    """Another line of the same account, or of the same name, is a Duplicate that says which."""

    async def twice(**fields: Any) -> None:
        async with database.transaction() as connection:
            await make(connection, keys, office.tenant_id)
            await make(connection, keys, office.tenant_id, **fields)

    with pytest.raises(Duplicate, match="call_line_account"):
        await twice(name="East")
    with pytest.raises(Duplicate, match="call_line_name"):
        await twice(account_id="east")


async def test_a_line_that_was_put_aside_is_restored(database: Database, office: Office, keys: TenantKeys) -> None:
    """By a test that succeeds, or by a change; of one that was well all the time nothing is told."""
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)
        who = actor(office.tenant_id)
        assert not await lines.restore(connection, who, office.tenant_id, line_id)
        await connection.execute("UPDATE call_line SET health = 'frozen', failures = 10, health_reason = 'refused'")
        assert await lines.restore(connection, who, office.tenant_id, line_id)
        well = await lines.get(connection, office.tenant_id, line_id)
        await connection.execute("UPDATE call_line SET health = 'frozen', failures = 10, health_reason = 'refused'")
        after = msgspec.structs.replace(well.setup, weight=2)
        await lines.change(connection, keys, who, office.tenant_id, well, after)
        changed = await lines.get(connection, office.tenant_id, line_id)

    assert [("ok", 0, None)] * 2 == [(line.health, line.failures, line.health_reason) for line in (well, changed)]


async def test_lines_are_found(database: Database, office: Office, keys: TenantKeys) -> None:
    """By name, provider, status and seat, in the order in which they are taken."""
    agent = await office.agent()
    async with database.connection() as connection:
        west = await make(connection, keys, office.tenant_id, priority=2)
        east = await make(connection, keys, office.tenant_id, name="East", account_id="east", status=1, priority=1)
        who = actor(office.tenant_id)
        await lines.put_seat(connection, who, office.tenant_id, west, agent, SeatAt(seat_id="7", number=""))
        found = [
            [line.id for line in (await lines.list_lines(connection, office.tenant_id, search, Page(1, 10)))[1]]
            for search in (
                LineSearch(),
                LineSearch(text="eAS"),
                LineSearch(status=1),
                LineSearch(provider="aliyun"),
                LineSearch(seat_of=agent),
            )
        ]
        total, page = await lines.list_lines(connection, office.tenant_id, LineSearch(), Page(2, 1))
        elsewhere = await lines.list_lines(connection, "tenant_other", LineSearch(), Page(1, 10))

    assert [[east, west], [east], [east], [], [west]] == found
    assert (2, [west]) == (total, [line.id for line in page])
    assert (0, []) == elsewhere


# --- dialling ---------------------------------------------------------------------------------------------------------


async def test_a_dial_sees_every_line(database: Database, office: Office, keys: TenantKeys) -> None:
    """Also those that are off, or on which the agent is nobody; how much each is used; and which need an extension."""
    agent = await office.agent()
    async with database.connection() as connection:
        west = await make(connection, keys, office.tenant_id, priority=2, tags=["vip"], window_start=time(10))
        east = await make(
            connection, keys, office.tenant_id, provider="custom", name="East", account_id="east", status=1
        )
        seat = SeatAt(seat_id="7", number="+8613800138000")
        await lines.put_seat(connection, actor(office.tenant_id), office.tenant_id, east, agent, seat)
        await call(connection, office.tenant_id, agent, east)
        room = await lines.hold_for_dial(connection, office.tenant_id, east)
        assert room is not None
        await lines.count_attempt(connection, office.tenant_id, east, room.day)
        await lines.count_attempt(connection, office.tenant_id, east, room.day)
        await lines.count_attempt(connection, office.tenant_id, east, date(2020, 1, 1))
        seen = await lines.for_dial(connection, office.tenant_id, agent)
        another = await lines.for_dial(connection, office.tenant_id, await office.agent())
        elsewhere = await lines.for_dial(connection, "tenant_other", agent)

    assert [west, east] == [line.id for line in seen]
    assert [(0, 0, 0, None, True), (1, 1, 2, seat, False)] == [
        (line.status, line.concurrent, line.today, line.seat, line.needs_extension) for line in seen
    ]
    assert (["vip"], time(10), time(20)) == (seen[0].tags, seen[0].window_start, seen[0].window_end)
    assert [None, None] == [line.seat for line in another]
    assert [] == elsewhere


async def test_a_day_is_the_tenants(database: Database, office: Office, keys: TenantKeys) -> None:
    """Where it is tomorrow already, another count begins."""
    async with database.connection() as connection:
        await make(connection, keys, office.tenant_id)
        days, hours = [], []
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 25 hours apart
            await connection.execute("UPDATE tenant SET timezone = $1", zone)
            days += [line.day for line in await lines.for_dial(connection, office.tenant_id, "nobody")]
            hours.append(await lines.local_time(connection, office.tenant_id))

    assert 1 <= (days[0] - days[1]).days <= 2
    assert hours[0] != hours[1]


async def test_the_last_place_goes_once(database: Database, office: Office, keys: TenantKeys) -> None:
    """Who comes second waits for the first, and counts the call that it made."""
    agent = await office.agent()
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)

    async def second() -> int:
        async with database.transaction() as connection:
            room = await lines.hold_for_dial(connection, office.tenant_id, line_id)
            assert room is not None
            return room.concurrent

    async with asyncio.TaskGroup() as group:
        async with database.transaction() as connection:
            await lines.hold_for_dial(connection, office.tenant_id, line_id)
            waiting = group.create_task(second())
            await until_blocked(database)
            await call(connection, office.tenant_id, agent, line_id)

    assert 1 == waiting.result()


async def test_a_line_that_was_deleted_is_not_held(database: Database, office: Office, keys: TenantKeys) -> None:
    """Nor one of another tenant."""
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)
        assert await lines.hold_for_dial(connection, "tenant_other", line_id) is None
        line = await lines.get(connection, office.tenant_id, line_id, lock=True)
        await lines.delete(connection, actor(office.tenant_id), office.tenant_id, line)

        assert await lines.hold_for_dial(connection, office.tenant_id, line_id) is None


async def test_test_numbers_are_the_tenants(database: Database, office: Office) -> None:
    """A number is one for the tenant that listed it."""
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO test_number (tenant_id, phone, created_by) VALUES ($1, '+8613800138000', 'admin')",
            office.tenant_id,
        )
        known = [
            await lines.is_test_number(connection, tenant_id, phone)
            for tenant_id, phone in (
                (office.tenant_id, "+8613800138000"),
                (office.tenant_id, "+8613800138001"),
                ("tenant_other", "+8613800138000"),
            )
        ]

    assert [True, False, False] == known


async def test_seats_are_given_and_taken(database: Database, office: Office, keys: TenantKeys) -> None:
    """To users of the tenant only, each with a line of the audit log that masks the number."""
    agent = await office.agent()
    who, one = actor(office.tenant_id), SeatAt(seat_id="7", number="+8613800138000")
    async with database.connection() as connection:
        line_id = await make(connection, keys, office.tenant_id)
        await lines.put_seat(connection, who, office.tenant_id, line_id, agent, one)
        await lines.put_seat(connection, who, office.tenant_id, line_id, agent, one)
        listed = await lines.seats(connection, office.tenant_id, line_id)
        nobodys = await lines.seats(connection, office.tenant_id, line_id, only_user="nobody")
        await lines.delete_seat(connection, who, office.tenant_id, line_id, agent)
        search = AuditSearch(resource="line", resource_id=line_id)
        told, _ = await audit.lines(connection, office.tenant_id, search, None, 10)

        with pytest.raises(DialdeskError, match="seat does not exist"):
            await lines.delete_seat(connection, who, office.tenant_id, line_id, agent)
        with pytest.raises(DialdeskError, match="user does not exist"):
            await lines.put_seat(connection, who, office.tenant_id, line_id, "nobody", one)

    assert [(agent, "7", "+8613800138000")] == [(seat.user_id, seat.seat_id, seat.number) for seat in listed]
    assert [] == nobodys
    assert ["delete_seat", "put_seat", "create"] == [line.action for line in told]
    assert {"userId": agent, "seatId": "7", "number": "138****8000"} == told[1].after
