"""Who is where: leases, epochs, presence and sweeps."""

import hashlib

from storage import calls, events, nodes
from storage.database import Database
from storage.nodes import Claim, Presence


def claim_of(device_id: str, connection: int = 1, token: str | None = None, **more: object) -> Claim:
    return Claim(
        device_id=device_id,
        token_hash=hashlib.sha256((token or device_id).encode()).digest(),
        connection=connection,
        boot_id="boot",
        app_version="1.0",
        os_version="14",
        capabilities=b"{}",
        handset_busy=False,
        **more,  # type: ignore[arg-type]
    )


async def enlist(database: Database, *names: str, lease: float = 60) -> None:
    async with database.connection() as connection:
        for name in names:
            await nodes.enlist(connection, name, name, "web", lease)


async def device(database: Database, device_id: str) -> tuple[str | None, str, int]:
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT node, online_status, conn_epoch FROM device WHERE id = $1", device_id)
    assert row is not None
    return row["node"], row["online_status"], row["conn_epoch"]


async def test_a_claim_takes_the_next_epoch_and_tells_the_older_node(database: Database, office) -> None:
    """Each claim raises the epoch and tells which node held the phone before."""
    await enlist(database, "a", "b")
    user = await office.agent()
    phone = await office.phone(user, online=False)

    async with database.transaction() as connection:
        first, told = await nodes.claim(connection, "a", [claim_of(phone)])
    async with database.transaction() as connection:
        second, told_again = await nodes.claim(connection, "b", [claim_of(phone, 2)])

    assert (1, None) == (first[phone].epoch, first[phone].old_node)
    assert (2, "a") == (second[phone].epoch, second[phone].old_node)
    assert ([user], []) == ([event.user_id for event in told], told_again)
    assert ("b", "online", 2) == await device(database, phone)


async def test_a_delayed_handshake_does_not_evict_the_true_session(database: Database, office) -> None:
    """A connection lower than one the server has seen takes no epoch."""
    await enlist(database, "a", "b")
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await nodes.claim(connection, "a", [claim_of(phone, 7)])

    async with database.transaction() as connection:
        claimed, _ = await nodes.claim(connection, "b", [claim_of(phone, 6)])

    assert {} == claimed
    assert ("a", "online", 1) == await device(database, phone)


async def test_many_phones_are_claimed_in_one_statement(database: Database, office) -> None:
    """A batch of claims answers for each phone, and leaves out the one whose token is void."""
    await enlist(database, "a")
    user = await office.agent()
    phones = [await office.phone(user) for _ in range(5)]

    async with database.transaction() as connection:
        claimed, _ = await nodes.claim(
            connection,
            "a",
            [*(claim_of(phone) for phone in phones[:4]), claim_of(phones[4], token="of an earlier binding")],
        )

    assert set(phones[:4]) == set(claimed)


async def test_an_old_session_cannot_speak_for_a_newer_one(database: Database, office) -> None:
    """Presence told under an old epoch changes nothing and tells nobody."""
    await enlist(database, "a", "b")
    user = await office.agent()
    phone = await office.phone(user)
    for node, number in (("a", 1), ("b", 2)):
        async with database.transaction() as connection:
            await nodes.claim(connection, node, [claim_of(phone, number)])

    async with database.transaction() as connection:
        told = [
            *await nodes.tell_presence(connection, [Presence(phone, 1, "lost")]),
            *await nodes.tell_presence(connection, [Presence(phone, 1, "left")]),
        ]

    assert [] == told
    assert ("b", "online", 2) == await device(database, phone)


async def test_a_lost_socket_leaves_the_phone_online_until_its_grace_is_swept(database: Database, office) -> None:
    """`lost` keeps the phone online without a node; the sweep takes it offline once and tells its agent once."""
    await enlist(database, "a")
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await nodes.claim(connection, "a", [claim_of(phone)])
        told = await nodes.tell_presence(connection, [Presence(phone, 1, "lost")])
    in_grace = await device(database, phone)
    async with database.transaction() as connection:
        early = await nodes.sweep_grace(connection, 60)
        swept = await nodes.sweep_grace(connection, -1)
        again = await nodes.sweep_grace(connection, -1)

    assert ([], (None, "online", 1), [], []) == (told, in_grace, early, again)
    assert [user] == [event.user_id for event in swept]
    assert (None, "offline", 1) == await device(database, phone)


async def test_silence_and_revival_are_told_once_each(database: Database, office) -> None:
    """`offline` keeps the node, `online` brings the phone back, and a repeat of either tells nobody."""
    await enlist(database, "a")
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await nodes.claim(connection, "a", [claim_of(phone)])
        told = [
            len(await nodes.tell_presence(connection, [Presence(phone, 1, said)]))
            for said in ("online", "offline", "offline", "online", "left")
        ]

    assert [0, 1, 0, 1, 1] == told
    assert (None, "offline", 1) == await device(database, phone)


async def test_a_dead_node_loses_all_it_held(database: Database, office) -> None:
    """The sweep takes phones and pages of a node that did not renew, and none that went elsewhere meanwhile."""
    await enlist(database, "dead", lease=-1)
    await enlist(database, "alive")
    user = await office.agent()
    stays, moved = await office.phone(user), await office.phone(user)
    async with database.transaction() as connection:
        await nodes.claim(connection, "dead", [claim_of(stays), claim_of(moved)])
        await nodes.claim(connection, "alive", [claim_of(moved, 2)])
        await nodes.attend(connection, [user], "dead")

    async with database.transaction() as connection:
        swept, told = await nodes.sweep(connection)
        again, _ = await nodes.sweep(connection)
        renewed = await nodes.renew(connection, "dead", 60)

    assert (["dead"], [], False) == (swept, again, renewed)
    assert [[]] == [event.nodes for event in told]
    assert (None, "offline", 1) == await device(database, stays)
    assert ("alive", "online", 2) == await device(database, moved)


async def test_what_a_dead_node_is_given_late_is_taken_again(database: Database, office) -> None:
    """A claim that was on its way when its node was swept holds a phone for nobody, until the next sweep."""
    await enlist(database, "dead", lease=-1)
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await nodes.sweep(connection)
    async with database.transaction() as connection:
        await nodes.claim(connection, "dead", [claim_of(phone)])
        await nodes.attend(connection, [user], "dead")
    async with database.transaction() as connection:
        swept, told = await nodes.sweep(connection)
        _, told_again = await nodes.sweep(connection)

    assert ([], [[]], []) == (swept, [event.nodes for event in told], told_again)
    assert (None, "offline", 1) == await device(database, phone)


async def test_a_node_that_leaves_gives_its_phones_their_grace(database: Database, office) -> None:
    """Retiring takes the node off its phones, which stay online to come back elsewhere."""
    await enlist(database, "a")
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await nodes.claim(connection, "a", [claim_of(phone)])
        await nodes.retire(connection, "a")

    assert (None, "online", 1) == await device(database, phone)


async def test_fenced_sessions_are_found_with_their_reason(database: Database, office) -> None:
    """A node learns which of its sessions are no longer true: replaced, unbound, or lost."""
    await enlist(database, "a", "b")
    user = await office.agent()
    true, replaced, unbound, lost = [await office.phone(user) for _ in range(4)]
    async with database.transaction() as connection:
        await nodes.claim(connection, "a", [claim_of(p) for p in (true, replaced, unbound, lost)])
        await nodes.claim(connection, "b", [claim_of(replaced, 2)])
        await connection.execute("UPDATE device SET unbound_at = now() WHERE id = $1", unbound)
        await connection.execute("UPDATE device SET node = NULL WHERE id = $1", lost)
        found = await nodes.heard(connection, "a", [(p, 1, 3.0) for p in (true, replaced, unbound, lost)])

    assert {(replaced, 1, "replaced"), (unbound, 1, "unbound"), (lost, 1, "lost")} == set(found)


async def test_events_of_one_agent_have_no_holes_however_many_write_at_once(database: Database, office) -> None:
    """Concurrent transactions, some rolled back, allocate 1, 2, 3 … in the order of their commits."""
    import asyncio

    user = await office.agent()

    async def emit(number: int) -> None:
        try:
            async with database.transaction() as connection:
                from protocol.messages import DeviceStatus

                await events.emit(connection, [(user, DeviceStatus(device_id=str(number), online_status="online"))])
                if number % 3 == 0:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    await asyncio.gather(*(emit(number) for number in range(30)))
    async with database.connection() as connection:
        seqs = [seq for seq, _ in await events.since(connection, user, 0, 100)]
        reached, _ = await events.position(connection, user)

    assert list(range(1, 21)) == seqs
    assert 20 == reached


async def test_a_phone_learns_at_its_claim_of_commands_and_of_its_living_call(database: Database, office) -> None:
    """WELCOME's commands are those unacked and unexpired, oldest first."""
    await enlist(database, "a")
    user = await office.agent()
    phone = await office.phone(user)
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, reap_at)"
            " VALUES ('call_1', $1, $2, $2, $3, 'mobile', '+8613900000000', now())",
            office.tenant_id,
            user,
            phone,
        )
        for name, expires, due in (("m1", "1 hour", "now()"), ("m2", "-1 hour", "now()"), ("m3", "1 hour", "NULL")):
            await connection.execute(
                "INSERT INTO command (id, tenant_id, call_id, device_id, type, data, expires_at, next_send_at)"
                f" VALUES ('{name}', $1, 'call_1', $2, 'DIAL_COMMAND', '{{}}', now() + interval '{expires}', {due})",
                office.tenant_id,
                phone,
            )
        claimed, _ = await nodes.claim(connection, "a", [claim_of(phone)])
        await calls.ack_all(connection, [("m1", phone)])
        again, _ = await nodes.claim(connection, "a", [claim_of(phone, 2)])

    assert ["m1"] == [command.message_id for command in claimed[phone].commands]
    assert "call_1" == claimed[phone].live_call_id
    assert [] == again[phone].commands
