"""Agents' streams: seqs without holes, kept for a day, told to the nodes that hold pages."""

import asyncio

import msgspec

from protocol.call import Evidence
from protocol.messages import CallRinging, DeviceStatus, to_agent
from storage import events, nodes
from storage.database import Database
from tests.conftest import Office


def online(name: str) -> DeviceStatus:
    """An event, told from others by its phone."""
    return DeviceStatus(device_id=name, online_status="online")


async def emit(database: Database, *happened: tuple[str, DeviceStatus]) -> list[events.Emitted]:
    """Let events happen in one transaction."""
    async with database.transaction() as connection:
        return await events.emit(connection, happened)


async def test_each_agent_gets_its_events_in_the_order_given(database: Database, office: Office) -> None:
    """Agents ascending, whatever the order they were named in; each stream counts for itself."""
    ann, ben = sorted([await office.agent(), await office.agent()])
    await emit(database, (ben, online("0")))

    emitted = await emit(database, (ben, online("1")), (ann, online("2")), (ben, online("3")), (ann, online("4")))

    assert [(ann, 1, "2"), (ann, 2, "4"), (ben, 2, "1"), (ben, 3, "3")] == [
        (event.user_id, event.seq, msgspec.json.decode(event.frame)["data"]["deviceId"]) for event in emitted
    ]


async def test_an_event_names_the_nodes_that_hold_pages(database: Database, office: Office) -> None:
    """All of them, and of nobody else's pages."""
    ann, ben = await office.agent(), await office.agent()
    async with database.connection() as connection:
        for name in ("a", "b"):
            await nodes.enlist(connection, name, name, "web", 60)
            await nodes.attend(connection, [ann], name)

    emitted = {event.user_id: event.nodes for event in await emit(database, (ann, online("1")), (ben, online("2")))}

    assert ({"a", "b"}, []) == (set(emitted[ann]), emitted[ben])


async def test_what_is_read_again_is_what_was_sent(database: Database, office: Office) -> None:
    """The same id and seq and the very same bytes of data; `timestamp` is when it happened."""
    ann = await office.agent()
    ringing = CallRinging(
        call_id="call_1",
        at=1,
        evidence=Evidence.CX_CALL,
        source="phone",
        customer_phone="139****9000",
        custom_data=msgspec.Raw(b'{"z": 1, "a":  [1.0, "\\u4e2d"]}'),
    )
    async with database.transaction() as connection:
        [sent] = await events.emit(connection, [(ann, ringing)])
    async with database.connection() as connection:
        [(seq, frame)] = await events.since(connection, ann, 0, 10)
    first, again = to_agent.decode(sent.frame), to_agent.decode(frame)

    assert (1, 1, 1) == (seq, first.seq, again.seq)
    assert (f"evt_{ann}_1", first.message) == (again.message_id, again.message)
    assert abs(first.timestamp - again.timestamp) < 60_000
    assert b'{"z": 1, "a":  [1.0, "\\u4e2d"]}' in frame


async def test_events_after_a_seq_are_read_oldest_first_up_to_a_limit(database: Database, office: Office) -> None:
    """One agent's, and no more than asked for."""
    ann, ben = await office.agent(), await office.agent()
    await emit(database, *((user_id, online("1")) for user_id in (ann, ben) for _ in range(5)))
    async with database.connection() as connection:
        read = [
            [seq for seq, _ in await events.since(connection, ann, after, limit)]
            for after, limit in ((0, 100), (2, 100), (2, 2), (5, 100), (99, 100))
        ]

    assert [[1, 2, 3, 4, 5], [3, 4, 5], [3, 4], [], []] == read


async def test_how_far_streams_are(database: Database, office: Office) -> None:
    """Of one agent or many; one without a stream is at 0, and is left out of many."""
    ann, ben = await office.agent(), await office.agent()
    await emit(database, (ann, online("1")), (ann, online("2")))
    async with database.connection() as connection:
        at = [(await events.position(connection, user_id))[0] for user_id in (ann, ben, "nobody")]
        many = await events.last_seqs(connection, [ann, ben, "nobody"])

    assert ([2, 0, 0], {ann: 2, ben: 0}) == (at, many)


async def test_nothing_happens_without_events(database: Database) -> None:
    """No statement, no seq."""
    assert [] == await emit(database)


async def test_an_event_that_comes_to_nothing_leaves_no_hole(database: Database, office: Office) -> None:
    """Rolled back with its transaction, its seq is the next one's."""
    ann = await office.agent()
    try:
        async with database.transaction() as connection:
            await events.emit(connection, [(ann, online("1"))])
            raise ZeroDivisionError
    except ZeroDivisionError:
        [emitted] = await emit(database, (ann, online("2")))

    assert 1 == emitted.seq


async def test_transactions_about_the_same_agents_do_not_lock_each_other_out(
    database: Database, office: Office
) -> None:
    """Whatever order they name them in: no deadlock, and no hole."""
    people = [await office.agent() for _ in range(5)]

    async def happen(turn: int) -> None:
        order = people[turn % 5 :] + people[: turn % 5]
        await emit(database, *((user_id, online("1")) for user_id in (order if turn % 2 else reversed(order))))

    await asyncio.gather(*(happen(turn) for turn in range(40)))
    async with database.connection() as connection:
        seqs = [[seq for seq, _ in await events.since(connection, user_id, 0, 100)] for user_id in people]

    assert [list(range(1, 41))] * 5 == seqs


async def test_old_events_are_dropped_and_the_stream_goes_on(database: Database, office: Office) -> None:
    """Those older than told; the next seq does not begin anew."""
    ann = await office.agent()
    await emit(database, (ann, online("1")), (ann, online("2")))
    async with database.connection() as connection:
        await connection.execute("UPDATE agent_event SET at = now() - interval '2 hours' WHERE seq = 1")
        gone = [await events.expire(connection, 3600.0) for _ in range(2)]
        left = [seq for seq, _ in await events.since(connection, ann, 0, 10)]
    [emitted] = await emit(database, (ann, online("3")))

    assert ([1, 0], [2], 3) == (gone, left, emitted.seq)
