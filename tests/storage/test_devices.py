"""Bind tokens, bindings and the bind log as rows."""

import asyncio
import hashlib
import secrets

import pytest

from storage import devices
from storage.database import Connection, Database
from storage.devices import Handset, Outbound, Reach

TTL = 300.0

pytestmark = pytest.mark.usefixtures("people")


@pytest.fixture
async def people(database: Database) -> None:
    """Two tenants; in the first two teams with an agent each."""
    async with database.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO tenant (id, code, name) VALUES ('t1', 'one', 'One'), ('t2', 'two', 'Two');
            INSERT INTO team (id, tenant_id, name) VALUES ('north', 't1', 'North'), ('south', 't1', 'South');
            INSERT INTO app_user (id, tenant_id, team_id, role, username, name, password_hash) VALUES
                ('ann', 't1', 'north', 'agent', 'ann', 'Ann', '-'),
                ('ben', 't1', 'south', 'agent', 'ben', 'Ben', '-'),
                ('eve', 't2', NULL, 'agent', 'eve', 'Eve', '-');
            """
        )


def handset(hardware_id: str = "hw-1") -> Handset:
    """An Android phone."""
    return Handset(
        hardware_id=hardware_id,
        phone_number="+8613800138000",
        name="Work phone",
        model="Pixel 9",
        os_type="android",
        os_version="16",
        app_version="1.0",
    )


async def bind(connection: Connection, tenant_id: str, user_id: str, hardware_id: str = "hw-1") -> str:
    """Bind a handset and return the id of its row."""
    bound = await devices.bind(connection, tenant_id, user_id, handset(hardware_id), secrets.token_bytes(32))
    return bound.id


async def make(connection: Connection, user_id: str, token: str, ttl: float = TTL) -> None:
    """Make a bind token whose typed code is the token backwards."""
    await devices.make_token(connection, "t1", user_id, "admin", digest(token), digest(token[::-1]), ttl)


def digest(text: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(text.encode()).digest()


async def found(connection: Connection, token: str) -> str | None:
    """Whose token it is, if it may still be used."""
    token_found = await devices.find_token(connection, digest(token), digest(token), "hw-1")
    return token_found.user_id if token_found else None


# --- Bind tokens ------------------------------------------------------------------------------------------------------


async def test_a_token_is_found_by_itself_and_by_its_typed_code(database: Database) -> None:
    """Both lead to the same token, which tells whether it was typed."""
    async with database.transaction() as connection:
        await make(connection, "ann", "token")
        scanned = await devices.find_token(connection, digest("token"), digest("token"), "hw-1")
        typed = await devices.find_token(connection, digest("nekot"), digest("nekot"), "hw-1")

    assert scanned is not None
    assert typed is not None
    assert ("ann", "t1", "admin", "CN", False) == (
        scanned.user_id,
        scanned.tenant_id,
        scanned.created_by,
        scanned.region,
        scanned.typed,
    )
    assert (scanned.hash, True) == (typed.hash, typed.typed)


async def test_a_token_tells_who_has_the_handset(database: Database) -> None:
    """The row of the handset in the token's tenant is told with its owner; another tenant's is not."""
    async with database.transaction() as connection:
        await make(connection, "ann", "token")
        await bind(connection, "t2", "eve")
        elsewhere = await devices.find_token(connection, digest("token"), b"", "hw-1")
        device_id = await bind(connection, "t1", "ben")
        here = await devices.find_token(connection, digest("token"), b"", "hw-1")

    assert elsewhere is not None
    assert here is not None
    assert (None, None) == (elsewhere.device_id, elsewhere.owner_id)
    assert (device_id, "ben") == (here.device_id, here.owner_id)


async def test_a_token_is_used_once(database: Database) -> None:
    """The second to use it is told that it is gone."""
    async with database.transaction() as connection:
        await make(connection, "ann", "token")
        used = [await devices.use_token(connection, "t1", digest("token")) for _ in range(2)]

        assert [True, False] == used
        assert await found(connection, "token") is None


async def test_a_token_expires_by_the_clock_of_postgresql(database: Database) -> None:
    """A token whose time is over is neither found nor used."""
    async with database.transaction() as connection:
        await make(connection, "ann", "token", ttl=0)

        assert await found(connection, "token") is None
        assert not await devices.use_token(connection, "t1", digest("token"))


async def test_the_time_a_token_lasts_is_told(database: Database) -> None:
    """The two times that are told lie `ttl` apart."""
    async with database.transaction() as connection:
        made_at, expires_at = await devices.make_token(connection, "t1", "ann", "ann", b"1", b"2", TTL)

    assert TTL == (expires_at - made_at).total_seconds()


async def test_a_new_token_voids_the_unused_ones_of_its_agent_only(database: Database) -> None:
    """At most one code of an agent lies about; other agents keep theirs, and used ones stay on record."""
    async with database.transaction() as connection:
        await make(connection, "ann", "used")
        await devices.use_token(connection, "t1", digest("used"))
        await make(connection, "ben", "of ben")
        await make(connection, "ann", "first")
        await make(connection, "ann", "second")

        assert await found(connection, "first") is None
        assert "ann" == await found(connection, "second")
        assert "ben" == await found(connection, "of ben")
        assert 1 == await connection.fetchval("SELECT count(*) FROM bind_token WHERE used_at IS NOT NULL")


async def test_the_token_of_a_suspended_tenant_is_not_found(database: Database) -> None:
    """Nobody binds a phone to a tenant that is suspended."""
    async with database.transaction() as connection:
        await make(connection, "ann", "token")
        await connection.execute("UPDATE tenant SET status = 'suspended' WHERE id = 't1'")

        assert await found(connection, "token") is None


async def test_voiding_leaves_an_agent_without_tokens(database: Database) -> None:
    """After it no code of the agent can be used."""
    async with database.transaction() as connection:
        await make(connection, "ann", "token")
        await devices.void_tokens(connection, "t1", "ann")

        assert await found(connection, "token") is None


async def test_old_tokens_are_dropped_a_day_after_they_expired(database: Database) -> None:
    """Used or not, they go; younger ones stay."""
    async with database.transaction() as connection:
        await make(connection, "ann", "old", ttl=-24 * 3600 - 1)
        await make(connection, "ben", "young", ttl=-24 * 3600 + 60)

        assert 1 == await devices.expire_tokens(connection)
        assert 0 == await devices.expire_tokens(connection)


# --- Whose a handset is -----------------------------------------------------------------------------------------------


async def test_a_first_binding_makes_a_row(database: Database) -> None:
    """It was taken from nobody, has had no session, and is offline."""
    async with database.transaction() as connection:
        bound = await devices.bind(connection, "t1", "ann", handset(), digest("token"))
        device = await devices.find(connection, Reach("t1"), bound.id)

    assert (0, None, None) == (bound.conn_epoch, bound.old_user_id, bound.old_node)
    assert device is not None
    assert ("ann", "hw-1", "offline", None) == (
        device.user_id,
        device.hardware_id,
        device.online_status,
        device.last_heartbeat,
    )


async def test_binding_again_takes_the_row_over_and_forgets_its_presence(database: Database) -> None:
    """The new binding begins offline, with its own token, behind the next epoch, and without the old push token."""
    async with database.transaction() as connection:
        device_id = await bind(connection, "t1", "ann")
        await devices.keep_push_token(connection, "t1", device_id, b"sealed")
        await connection.execute(
            """
            INSERT INTO node (boot_id, name, kind, leased_until) VALUES ('boot_1', 'n', 'web', now());
            UPDATE device SET conn_epoch = 7, connection = 40, boot_id = 'boot_of_phone', node = 'boot_1',
                online_status = 'online', lost_at = now(), handset_busy = true, capabilities = '{"autoDial": true}'
            """
        )
        bound = await devices.bind(connection, "t1", "ben", handset(), digest("new"))
        row = await connection.fetchrow("SELECT * FROM device")

    assert (device_id, 8, "ann", "boot_1") == (bound.id, bound.conn_epoch, bound.old_user_id, bound.old_node)
    assert row is not None
    assert {
        "user_id": "ben",
        "token_hash": digest("new"),
        "push_token": None,
        "capabilities": "{}",
        "conn_epoch": 8,
        "connection": 0,
        "boot_id": "",
        "node": None,
        "online_status": "offline",
        "lost_at": None,
        "handset_busy": False,
        "unbound_at": None,
    }.items() <= dict(row).items()


async def test_a_handset_is_another_row_in_another_tenant(database: Database) -> None:
    """Binding never touches what another tenant has of the same handset (house rule 9)."""
    async with database.transaction() as connection:
        theirs = await bind(connection, "t2", "eve")
        before = await connection.fetchrow("SELECT * FROM device WHERE id = $1", theirs)
        ours = await bind(connection, "t1", "ann")

        assert ours != theirs
        assert before == await connection.fetchrow("SELECT * FROM device WHERE id = $1", theirs)


async def test_one_handset_bound_twice_at_once_is_one_row(database: Database) -> None:
    """Whoever comes second waits, and takes it from the first."""

    async def one(user_id: str) -> devices.Bound:
        async with database.transaction() as connection:
            return await devices.bind(connection, "t1", user_id, handset(), secrets.token_bytes(32))

    first, second = sorted(await asyncio.gather(one("ann"), one("ben")), key=lambda bound: bound.conn_epoch)
    async with database.connection() as connection:
        owner = await connection.fetchval("SELECT user_id FROM device")

    assert first.id == second.id
    assert (None, {"ann", "ben"}) == (first.old_user_id, {second.old_user_id, owner})


async def test_a_handset_that_was_unbound_is_taken_from_nobody(database: Database) -> None:
    """Its last owner has not had it any more."""
    async with database.transaction() as connection:
        device_id = await bind(connection, "t1", "ann")
        await devices.unbind(connection, "t1", "ann", [device_id])
        bound = await devices.bind(connection, "t1", "ben", handset(), digest("new"))

    assert (device_id, None) == (bound.id, bound.old_user_id)


async def test_only_what_is_the_agents_is_unbound(database: Database) -> None:
    """Phones of others, of other tenants, and unbound ones are left out."""
    async with database.transaction() as connection:
        ann = await bind(connection, "t1", "ann", "hw-1")
        gone = await bind(connection, "t1", "ann", "hw-2")
        ben = await bind(connection, "t1", "ben", "hw-3")
        eve = await bind(connection, "t2", "eve", "hw-4")
        await devices.unbind(connection, "t1", "ann", [gone])
        freed = await devices.unbind(connection, "t1", "ann", [ann, gone, ben, eve])

        assert [ann] == [phone.id for phone in freed]
        assert [] == await devices.bound_to(connection, "t1", "ann")
        assert [ben] == await devices.bound_to(connection, "t1", "ben")
        assert [] == await devices.bound_to(connection, "t1", "eve")
        assert [eve] == await devices.bound_to(connection, "t2", "eve")


async def test_an_unbound_phone_is_nobodys_default(database: Database) -> None:
    """The first phone is the default; without it the next to be bound is."""
    async with database.transaction() as connection:
        first = await bind(connection, "t1", "ann", "hw-1")
        second = await bind(connection, "t1", "ann", "hw-2")
        for device_id in (first, second):
            await devices.choose_first(connection, "t1", "ann", device_id)
        chosen = await devices.outbound(connection, "t1", "ann")
        await devices.unbind(connection, "t1", "ann", [first])
        cleared = await devices.outbound(connection, "t1", "ann")
        await devices.choose_first(connection, "t1", "ann", second)
        next_one = await devices.outbound(connection, "t1", "ann")

    assert [first, None, second] == [how.device_id if how else "?" for how in (chosen, cleared, next_one)]


async def test_a_living_call_is_seen_and_an_ended_one_is_not(database: Database) -> None:
    """A phone is on a call until the call has ended."""
    async with database.transaction() as connection:
        device_id = await bind(connection, "t1", "ann")
        await connection.execute(
            """
            INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, reap_at)
            VALUES ('call_1', 't1', 'ann', 'ann', $1, 'mobile', '+8613900139000', now())
            """,
            device_id,
        )
        during = await devices.on_call(connection, "t1", device_id)
        await connection.execute("UPDATE call SET status = 'ended', ended_at = now(), outcome = 'missed'")
        after = await devices.on_call(connection, "t1", device_id)

    assert (True, False) == (during, after)


# --- What is told of phones, and to whom ------------------------------------------------------------------------------


async def test_reach_is_a_tenant_teams_or_oneself(database: Database) -> None:
    """Everybody reaches their own phones, a supervisor the teams', an admin the tenant's, nobody another tenant's."""
    async with database.transaction() as connection:
        ann = await bind(connection, "t1", "ann", "hw-1")
        ben = await bind(connection, "t1", "ben", "hw-2")
        eve = await bind(connection, "t2", "eve", "hw-3")

        async def reached(reach: Reach) -> set[str]:
            listed, total = await devices.page(connection, reach, None, limit=10)
            singly = {d for d in (ann, ben, eve) if await devices.find(connection, reach, d) is not None}
            assert total == len(listed)
            assert singly == {device.id for device in listed}
            return singly

        assert {ann, ben} == await reached(Reach("t1"))
        assert {ann} == await reached(Reach("t1", "ann", []))
        assert {ben} == await reached(Reach("t1", None, ["south"]))
        assert {ann, ben} == await reached(Reach("t1", "ann", ["south"]))
        assert set() == await reached(Reach("t1", "eve", []))
        assert set() == await reached(Reach("", None))


async def test_agents_are_locked_within_reach_and_told_whether_enabled(database: Database) -> None:
    """Who is out of reach is missing; who is disabled is said to be."""
    async with database.transaction() as connection:
        await connection.execute("UPDATE app_user SET disabled_at = now() WHERE id = 'ben'")

        assert {"ann": True, "ben": False} == await devices.lock_agents(connection, Reach("t1"), ["ben", "ann", "eve"])
        assert {"ann": True} == await devices.lock_agents(connection, Reach("t1", None, ["north"]), ["ben", "ann"])


async def test_pages_go_from_the_newest_binding_on(database: Database) -> None:
    """A page tells its part and how many there are altogether."""
    made = []
    for number in range(3):
        async with database.transaction() as connection:
            made.append(await bind(connection, "t1", "ann", f"hw-{number}"))
    async with database.connection() as connection:
        first, total = await devices.page(connection, Reach("t1"), None, limit=2)
        second, same_total = await devices.page(connection, Reach("t1"), None, limit=2, offset=2)
        nobody, none = await devices.page(connection, Reach("t1"), "ben", limit=2)

    assert made[::-1] == [device.id for device in [*first, *second]]
    assert (3, 3) == (total, same_total)
    assert ([], 0) == (nobody, none)


async def test_the_log_keeps_each_row_as_it_stood(database: Database) -> None:
    """A line tells the owner and the way of binding at its time; an unbinding repeats the way of the binding."""
    async with database.transaction() as connection:
        device_id = await bind(connection, "t1", "ann")
        await devices.log(connection, "t1", [device_id], "bind", bind_type="manual", ip="192.0.2.7")
        await bind(connection, "t1", "ben")
        await devices.log(connection, "t1", [device_id], "move", bind_type="qrcode", reason="from ann")
        await devices.unbind(connection, "t1", "ben", [device_id])
        await devices.log(connection, "t1", [device_id], "unbind", reason="unbound")
        lines = await devices.read_log(connection, Reach("t1"), None, None, 10)

    assert [
        ("unbind", "ben", "qrcode", "unbound", None),
        ("move", "ben", "qrcode", "from ann", None),
        ("bind", "ann", "manual", None, "192.0.2.7"),
    ] == [(line.action, line.user_id, line.bind_type, line.reason, line.ip) for line in lines]


async def test_the_log_is_read_backwards_within_reach(database: Database) -> None:
    """It goes on before a line that is known; other teams and tenants are not told."""
    async with database.transaction() as connection:
        for tenant_id, user_id, hardware_id in (("t1", "ann", "1"), ("t1", "ben", "2"), ("t2", "eve", "3")):
            device_id = await bind(connection, tenant_id, user_id, hardware_id)
            await devices.log(connection, tenant_id, [device_id], "bind")
        both = await devices.read_log(connection, Reach("t1"), None, None, 10)
        rest = await devices.read_log(connection, Reach("t1"), None, both[0].id, 10)
        south = await devices.read_log(connection, Reach("t1", None, ["south"]), None, None, 10)
        of_ann = await devices.read_log(connection, Reach("t1"), "ann", None, 10)

    assert ["ben", "ann"] == [line.user_id for line in both]
    assert ["ann"] == [line.user_id for line in rest]
    assert ["ben"] == [line.user_id for line in south]
    assert ["ann"] == [line.user_id for line in of_ann]


async def test_how_an_agent_calls_out_is_kept(database: Database) -> None:
    """What is set is read; an agent of another tenant is not there."""
    how = Outbound(call_method="cloud", device_id=None, line_id=None, call_parameters=b'{"timeout": 30}')
    async with database.transaction() as connection:
        initially = await devices.outbound(connection, "t1", "ann")
        await devices.put_outbound(connection, "t1", "ann", how)

        assert Outbound(call_method="mobile", device_id=None, line_id=None, call_parameters=b"{}") == initially
        assert how == await devices.outbound(connection, "t1", "ann")
        assert await devices.outbound(connection, "t2", "ann") is None
