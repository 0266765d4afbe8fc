"""Calls and their commands as rows: who claims what is due, who wins a race, and what a dial finds."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from protocol.call import Outcome, Status
from protocol.identifiers import new_call_id, new_id
from protocol.messages import DeviceStatus
from storage import calls, nodes
from storage.calls import Change, Dialled, DueCommand, Explanation, NewCall, NewDial, StoredCall, Wanted
from storage.database import PLANNED_ONCE, Connection, Database, Duplicate
from storage.idempotency import Once
from tests.conftest import Office
from tests.storage.test_nodes import claim_of, enlist
from tests.waiting import until_blocked

RESEND_AFTER = 3.0


class Answer(msgspec.Struct):
    """What the asker of a dial is told."""

    call_id: str


class Desk:
    """An agent with a phone on node "a"."""

    def __init__(self, database: Database, office: Office, user_id: str, phone: str) -> None:
        self.database = database
        self.office = office
        self.user_id = user_id
        self.phone = phone

    def new(self, *, key: str | None = None, expires_in: float = 20.0, **more: Any) -> NewDial:
        """A call to be made."""
        call = NewCall(
            id=new_call_id(),
            team_id=None,
            created_by=self.user_id,
            source="agent",
            customer_phone="+8613900139000",
            customer_id=None,
            customer_name=None,
            order_id=None,
            external_id=None,
            custom_data=None,
            record=True,
            command_id=new_id("msg"),
            command=b"{}",
            expires_at=datetime.now(UTC) + timedelta(seconds=expires_in),
            reap_after_expiry=10.0,
            resend_after=RESEND_AFTER,
            **{"tenant_id": self.office.tenant_id, "user_id": self.user_id, "device_id": self.phone, **more},
        )
        return NewDial(call, Once(self.office.tenant_id, self.user_id, "dial", key, b"body"), Answer(call.id))

    async def dial(self, **more: Any) -> tuple[Dialled, str]:
        """Make a call: (what became of it, its id)."""
        dial = self.new(**more)
        async with self.database.connection() as connection:
            (dialled,) = await calls.dial_all(connection, [dial])
        return dialled, dial.call.id

    async def read(self, call_id: str) -> StoredCall:
        """The call as reports see it."""
        async with self.database.connection() as connection:
            call = await calls.read(connection, self.office.tenant_id, call_id)
        assert call is not None
        return call

    async def due(self, node: str = "a") -> list[DueCommand]:
        """What a node claims now, to send it again."""
        async with self.database.connection() as connection:
            return await calls.due(connection, node, RESEND_AFTER)

    async def make_due(self) -> None:
        """Let the time of all commands come."""
        await self.execute("UPDATE command SET next_send_at = now() WHERE next_send_at IS NOT NULL")

    async def execute(self, statement: str, *values: Any) -> None:
        """Change rows."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def value(self, statement: str, *values: Any) -> Any:
        """Look at one value."""
        async with self.database.connection() as connection:
            return await connection.fetchval(statement, *values)


@pytest.fixture
async def desk(database: Database, office: Office) -> Desk:
    """An agent with a phone that has a session."""
    await enlist(database, "a", "b")
    user_id = await office.agent()
    phone = await office.phone(user_id)
    async with database.transaction() as connection:
        await nodes.claim(connection, "a", [claim_of(phone)])
    return Desk(database, office, user_id, phone)


# --- dial -------------------------------------------------------------------------------------------------------------


async def test_a_dial_tells_the_node_of_its_phone(desk: Desk) -> None:
    """And without a session, that there is none: the command waits."""
    there, call_id = await desk.dial()
    await desk.execute("DELETE FROM call WHERE id = $1", call_id)
    await desk.execute("UPDATE device SET node = NULL, lost_at = now()")
    in_grace, _ = await desk.dial()

    assert (Dialled(None, "a"), Dialled(None, None)) == (there, in_grace)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ("online_status = 'offline'", "DEVICE_OFFLINE"),
        ("handset_busy = true", "DEVICE_BUSY"),
        ("online_status = 'offline', handset_busy = true", "DEVICE_OFFLINE"),
        ("unbound_at = now()", "NO_DEVICE"),
    ],
)
async def test_what_changed_since_the_phone_was_chosen_refuses_the_dial(desk: Desk, change: str, refused: str) -> None:
    """The row is judged at the moment of the dial; nothing is written."""
    await desk.execute(f"UPDATE device SET {change}")

    dialled, _ = await desk.dial(key="k")

    assert refused == dialled.refused
    assert [0, 0, 0, 0] == [
        await desk.value(f"SELECT count(*) FROM {table}")
        for table in ("call", "call_event", "command", "idempotency_key")
    ]


async def test_a_phone_that_moved_to_another_agent_is_not_dialled_for_the_first(desk: Desk) -> None:
    """Nor is one of another tenant."""
    moved, _ = await desk.dial(user_id=await desk.office.agent())
    foreign, _ = await desk.dial(tenant_id="t2")

    assert ("NO_DEVICE", "NO_DEVICE") == (moved.refused, foreign.refused)


async def test_rules_that_refuse_a_dial_are_told_by_name(desk: Desk) -> None:
    """One living call a phone, one answer a key; neither leaves anything behind."""
    await desk.dial(key="k")
    second = await desk.office.phone(desk.user_id)
    rules = []
    again: list[dict[str, Any]] = [{}, {"key": "k", "device_id": second}]
    for more in again:
        with pytest.raises(Duplicate) as duplicate:
            await desk.dial(**more)
        rules.append(duplicate.value.constraint)

    assert ["call_live_device", "idempotency_key_once"] == rules
    assert 1 == await desk.value("SELECT count(*) FROM call")


async def test_of_many_dials_each_is_judged_by_its_own_phone(desk: Desk) -> None:
    """In one statement: who is refused leaves nothing behind, and the others are dialled."""
    phones = [desk.phone, *[await desk.office.phone(desk.user_id) for _ in range(3)]]
    await desk.execute("UPDATE device SET online_status = 'offline' WHERE id = $1", phones[1])
    await desk.execute("UPDATE device SET handset_busy = true WHERE id = $1", phones[2])
    dials = [desk.new(key=f"k{n}", device_id=phone) for n, phone in enumerate([*phones, "no phone"])]

    async with desk.database.connection() as connection:
        dialled = await calls.dial_all(connection, dials)

    assert [None, "DEVICE_OFFLINE", "DEVICE_BUSY", None, "NO_DEVICE"] == [one.refused for one in dialled]
    assert [dials[0].call.id, dials[3].call.id] == await desk.value(
        "SELECT array_agg(id ORDER BY device_id = $1 DESC) FROM call", desk.phone
    )
    assert [2, 2, 2] == [
        await desk.value(f"SELECT count(*) FROM {table}") for table in ("call_event", "command", "idempotency_key")
    ]


async def test_a_dial_that_waited_until_its_time_was_up_is_not_made(desk: Desk) -> None:
    """Whoever asked for it has been told that it failed; nothing is written, and it may be asked for again."""
    dialled, _ = await desk.dial(key="k", expires_in=-1)

    assert "UNAVAILABLE" == dialled.refused
    assert [0, 0] == [await desk.value(f"SELECT count(*) FROM {table}") for table in ("call", "idempotency_key")]


async def test_an_agent_that_was_disabled_meanwhile_makes_no_call(desk: Desk) -> None:
    """After the dial was judged, and before it is written."""
    await desk.execute("UPDATE app_user SET disabled_at = now() WHERE id = $1", desk.user_id)

    dialled, _ = await desk.dial()

    assert ("NO_DEVICE", 0) == (dialled.refused, await desk.value("SELECT count(*) FROM call"))


# --- batches that cross -----------------------------------------------------------------------------------------------


class Crossed:
    """Two batches over the same rows, one of which asks backwards; both wait for the row in the middle until they have
    locked what they lock before it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def phones(self) -> list[str]:
        """Three phones of the agent."""
        return sorted([self.desk.phone, *[await self.desk.office.phone(self.desk.user_id) for _ in range(2)]])

    async def run(
        self, batches: Sequence[Callable[[Connection], Awaitable[Any]]], hold: str, *values: Any
    ) -> list[Any]:
        """What came of each, planned as by key, but without its bound on waiting: a test waits as long as it takes."""

        async def one(batch: Callable[[Connection], Awaitable[Any]]) -> Any:
            async with self.desk.database.transaction() as connection:
                for setting in PLANNED_ONCE.items():
                    await connection.execute("SELECT set_config($1, $2, true)", *setting)
                return await batch(connection)

        async with self.desk.database.connection() as connection:
            holding = connection.transaction()
            await holding.start()
            await connection.execute(hold, *values)
            asking = []
            for number, batch in enumerate(batches, 1):
                asking.append(asyncio.create_task(one(batch)))
                await until_blocked(self.desk.database, number)
            await holding.rollback()
        return await asyncio.gather(*asking, return_exceptions=True)


@pytest.fixture
def crossed(desk: Desk) -> Crossed:
    """Batches that cross."""
    return Crossed(desk)


async def test_changes_that_cross_do_not_wait_for_each_other(desk: Desk, crossed: Crossed) -> None:
    """Each call is moved once, by whoever locked it first, and no batch comes to nothing."""
    ids = sorted([(await desk.dial(device_id=phone))[1] for phone in await crossed.phones()])
    read = [await desk.read(call_id) for call_id in ids]
    changes = [
        Change(call, msgspec.structs.replace(call.state, status=Status.CALLING), call.reap_at, MOVED, TELL)
        for call in read
    ]

    told = await crossed.run(
        [lambda c: calls.change_all(c, changes), lambda c: calls.change_all(c, changes[::-1])],
        "SELECT FROM call WHERE id = $1 FOR UPDATE",
        ids[1],
    )

    assert [[True] * 3, [False] * 3] == [[one is not None for one in batch] for batch in told]


async def test_acknowledgements_that_cross_do_not_wait_for_each_other(desk: Desk, crossed: Crossed) -> None:
    """Both are written."""
    for phone in await crossed.phones():
        await desk.dial(device_id=phone)
    rows = await desk.value("SELECT array_agg(ARRAY[id, device_id] ORDER BY id) FROM command")
    acks = [(command_id, device_id) for command_id, device_id in rows]

    told = await crossed.run(
        [lambda c: calls.ack_all(c, acks), lambda c: calls.ack_all(c, acks[::-1])],
        "SELECT FROM command WHERE id = $1 FOR UPDATE",
        acks[1][0],
    )

    assert [None, None] == told
    assert 3 == await desk.value("SELECT count(*) FROM command WHERE acked_at IS NOT NULL")


async def test_dials_that_cross_do_not_wait_for_each_other(desk: Desk, crossed: Crossed) -> None:
    """The same keys, for other phones: one batch is made whole, and the other is told that they exist."""
    phones = await crossed.phones()
    others = [await desk.office.phone(desk.user_id) for _ in range(3)]
    once = desk.new(key="1").once
    batches = [
        [desk.new(key=str(n), device_id=phone) for n, phone in enumerate(phones)],
        [desk.new(key=str(2 - n), device_id=phone) for n, phone in enumerate(sorted(others))],
    ]

    first, second = await crossed.run(
        [lambda c: calls.dial_all(c, batches[0]), lambda c: calls.dial_all(c, batches[1])],
        "INSERT INTO idempotency_key (tenant_id, actor_id, operation, key, request_sha256, answer)"
        " VALUES ($1, $2, $3, $4, '', '')",
        once.tenant_id,
        *once.place,
    )

    assert [None] * 3 == [one.refused for one in first]
    assert ("idempotency_key_once", 3) == (second.constraint, await desk.value("SELECT count(*) FROM call"))


async def test_what_dials_need_to_know_is_told_to_each(desk: Desk) -> None:
    """In the order asked: with its phones, whether it was answered before, and nothing beyond the asker's reach."""
    await desk.dial(key="k")
    other = await desk.office.agent()
    own = calls.Reach(tenant_id=desk.office.tenant_id, user_id=desk.user_id, only_user=desk.user_id, only_teams=None)
    foreign = calls.Reach.whole("t2")
    once = [Once(desk.office.tenant_id, desk.user_id, "dial", key, b"") for key in ("k", "k2", None)]
    wanted = [Wanted(own, desk.user_id, one) for one in once] + [
        Wanted(own, other, None),
        Wanted(calls.Reach.whole(desk.office.tenant_id), other, None),
        Wanted(foreign, desk.user_id, None),
    ]

    async with desk.database.connection() as connection:
        told = await calls.contexts(connection, wanted)

    known = [None if one is None else (one.answered, [phone.id for phone in one.phones]) for one in told]
    here = [desk.phone]
    assert [(True, here), (False, here), (False, here), None, (False, []), None] == known


# --- change -----------------------------------------------------------------------------------------------------------


MOVED = Explanation(source="phone", kind="CALL_STATUS", effect="moved", data=b"{}")
TELL = DeviceStatus(device_id="p", online_status="online")


async def test_a_call_is_moved_from_the_version_that_was_read(desk: Desk) -> None:
    """Who read an older one moves nothing, notes nothing and spends no seq."""
    _, call_id = await desk.dial()
    read = await desk.read(call_id)
    ringing = msgspec.structs.replace(read.state, status=Status.RINGING)
    async with desk.database.connection() as connection:
        first = await calls.change(connection, Change(read, ringing, read.reap_at, MOVED, TELL))
        second = await calls.change(connection, Change(read, ringing, read.reap_at, MOVED, TELL))

    assert first is not None
    assert second is None
    assert (2, 2, 1) == (
        (await desk.read(call_id)).version,
        await desk.value("SELECT count(*) FROM call_event"),
        await desk.value("SELECT last_seq FROM agent_stream WHERE user_id = $1", desk.user_id),
    )


async def test_of_many_who_move_a_call_at_once_one_wins(desk: Desk) -> None:
    """The others are told so, and read again."""
    _, call_id = await desk.dial()
    read = await desk.read(call_id)
    ringing = msgspec.structs.replace(read.state, status=Status.RINGING)

    async def move() -> bool:
        async with desk.database.connection() as connection:
            return await calls.change(connection, Change(read, ringing, read.reap_at, MOVED, TELL)) is not None

    assert 1 == sum(await asyncio.gather(*(move() for _ in range(8))))


async def test_many_calls_are_moved_at_once_and_each_agent_is_told_its_own(desk: Desk) -> None:
    """In one statement: of two changes of one call one moves it, and each agent has its own numbers."""
    second = await desk.office.phone(desk.user_id)
    other = await desk.office.agent()
    third = await desk.office.phone(other)
    ids = [
        (await desk.dial())[1],
        (await desk.dial(device_id=second))[1],
        (await desk.dial(device_id=third, user_id=other))[1],
    ]
    read = [await desk.read(call_id) for call_id in ids]

    def ringing(call: StoredCall) -> Change:
        return Change(call, msgspec.structs.replace(call.state, status=Status.RINGING), call.reap_at, MOVED, TELL)

    overtaken = ringing(msgspec.structs.replace(read[0], version=9))
    async with desk.database.connection() as connection:
        told = await calls.change_all(
            connection, [ringing(read[2]), overtaken, ringing(read[1]), ringing(read[0]), ringing(read[0])]
        )

    seqs = [None if one is None else (one.user_id, one.seq) for one in told]
    assert [(other, 1), None, (desk.user_id, 1)] == seqs[:3]
    assert [None, (desk.user_id, 2)] == sorted(seqs[3:], key=bool)
    assert [2, 2, 2] == [(await desk.read(call_id)).version for call_id in ids]


async def test_calls_are_read_in_the_order_asked(desk: Desk) -> None:
    """One that is not there, or another tenant's, is None; the same one twice is told twice."""
    _, call_id = await desk.dial()
    tenant_id = desk.office.tenant_id
    wanted = [
        (tenant_id, "no call", None),
        (tenant_id, call_id, "m"),
        ("t2", call_id, None),
        (tenant_id, call_id, None),
    ]

    async with desk.database.connection() as connection:
        told = await calls.read_all(connection, wanted)

    assert [None, call_id, None, call_id] == [None if call is None else call.id for call in told]


async def test_a_report_that_is_in_the_history_is_seen(desk: Desk) -> None:
    """By its id, in its own call; a note of it again is nothing."""
    _, call_id = await desk.dial()
    read = await desk.read(call_id)
    async with desk.database.connection() as connection:
        for _ in range(2):
            await calls.note(connection, read, msgspec.structs.replace(MOVED, message_id="m1", effect="none"))
        seen = [
            (await calls.read(connection, desk.office.tenant_id, call_id, message_id)).seen  # type: ignore[union-attr]
            for message_id in ("m1", "m2", None)
        ]

    assert ([True, False, False], 2) == (seen, await desk.value("SELECT count(*) FROM call_event"))


async def test_another_tenants_call_is_not_read(desk: Desk) -> None:
    """None, as for a call that is not there."""
    _, call_id = await desk.dial()
    async with desk.database.connection() as connection:
        read = [await calls.read(connection, *of) for of in (("t2", call_id), (desk.office.tenant_id, "call_0"))]

    assert [None, None] == read


@pytest.mark.parametrize(
    ("source", "status", "commands"),
    [
        ("phone", Status.RINGING, {"DIAL_COMMAND": (False, True), "CANCEL_DIAL": (True, False)}),
        ("phone", Status.ENDED, {"DIAL_COMMAND": (False, True), "CANCEL_DIAL": (False, True)}),
        ("reaper", Status.ENDED, {"DIAL_COMMAND": (False, False), "CANCEL_DIAL": (False, False)}),
    ],
)
async def test_a_change_silences_what_it_overtakes(
    desk: Desk, source: Any, status: Status, commands: dict[str, tuple[bool, bool]]
) -> None:
    """Any word of the phone about a call answers its dial; its end answers everything. Only a phone acknowledges."""
    _, call_id = await desk.dial()
    await desk.execute(
        "INSERT INTO command (id, tenant_id, call_id, device_id, type, data, expires_at, next_send_at)"
        " SELECT 'cancel', tenant_id, id, device_id, 'CANCEL_DIAL', '{}', now() + interval '1 day', now() FROM call"
    )
    read = await desk.read(call_id)
    over = {"ended_at": read.now, "outcome": Outcome.MISSED} if status is Status.ENDED else {}
    state = msgspec.structs.replace(read.state, status=status, **over)
    async with desk.database.connection() as connection:
        why = msgspec.structs.replace(MOVED, source=source)
        await calls.change(connection, Change(read, state, read.reap_at, why, TELL))
        rows = await connection.fetch("SELECT type, next_send_at IS NOT NULL, acked_at IS NOT NULL FROM command")

    assert commands == {row[0]: (row[1], row[2]) for row in rows}


# --- commands that are due --------------------------------------------------------------------------------------------


async def test_a_command_is_due_when_it_was_not_acked_in_time(desk: Desk) -> None:
    """Not before; then it is claimed, counted and moved on, as it was."""
    await desk.dial()
    early = await desk.due()
    await desk.make_due()
    [claimed] = await desk.due()
    again = await desk.due()
    left = await desk.value("SELECT extract(epoch FROM next_send_at - now())::float8 FROM command")

    assert ([], []) == (early, again)
    assert (desk.phone, "DIAL_COMMAND", b"{}", 2) == (claimed.device_id, claimed.type, claimed.data, claimed.sends)
    assert 2 < left <= RESEND_AFTER


async def test_a_command_is_claimed_once(desk: Desk) -> None:
    """Whoever else looks passes over what is being claimed, without waiting."""
    await desk.dial()
    await desk.make_due()
    async with desk.database.transaction() as connection:
        first = await calls.due(connection, "a", RESEND_AFTER)
        async with asyncio.timeout(20):
            second = await desk.due()

    assert (1, []) == (len(first), second)


async def test_looks_at_once_share_what_is_due(desk: Desk, office: Office) -> None:
    """A hundred commands, eight looks, as after a lease was lost and another taken: each command once."""
    for _ in range(100):
        await desk.dial(device_id=await office.phone(desk.user_id))
    await desk.execute("UPDATE device SET node = 'a'")
    await desk.make_due()

    claimed = [command.id for share in await asyncio.gather(*(desk.due() for _ in range(8))) for command in share]

    assert (100, 100) == (len(claimed), len(set(claimed)))


async def test_a_claim_that_was_rolled_back_is_claimed_again(desk: Desk) -> None:
    """A node that failed in the middle takes nothing with it."""
    await desk.dial()
    await desk.make_due()
    try:
        async with desk.database.transaction() as connection:
            await calls.due(connection, "a", RESEND_AFTER)
            raise ZeroDivisionError
    except ZeroDivisionError:
        [claimed] = await desk.due()

    assert 2 == claimed.sends


async def test_a_command_is_sent_again_by_the_node_that_holds_its_phone(desk: Desk) -> None:
    """No other node claims it, so that none counts what it cannot send."""
    await desk.dial()
    await desk.make_due()

    assert ([], 1) == (await desk.due("b"), len(await desk.due("a")))


async def test_an_expired_command_falls_silent(desk: Desk) -> None:
    """It is due to nobody, neither to its node nor to a phone that comes back, and leaves the list of what is due."""
    await desk.dial()
    await desk.execute("UPDATE command SET expires_at = now()")
    await desk.dial(device_id=await desk.office.phone(desk.user_id))
    await desk.make_due()
    async with desk.database.transaction() as connection:
        due = await calls.due(connection, "a", RESEND_AFTER)
        await calls.silence(connection)
        back, _ = await nodes.claim(connection, "b", [claim_of(desk.phone, 2)])

    assert ([], []) == (due, back[desk.phone].commands)
    assert 1 == await desk.value("SELECT count(*) FROM command WHERE next_send_at IS NOT NULL")


async def test_sendings_to_a_phone_without_a_node_are_not_counted(desk: Desk) -> None:
    """Nothing is sent, so nothing goes unanswered; with its next session the count begins."""
    await desk.dial()
    await desk.execute("UPDATE device SET node = NULL, lost_at = now()")
    await desk.make_due()
    away = [await desk.due(node) for node in ("a", "b")]
    async with desk.database.transaction() as connection:
        back, _ = await nodes.claim(connection, "b", [claim_of(desk.phone, 2)])
        await nodes.sent(connection, [command.message_id for command in back[desk.phone].commands], RESEND_AFTER)
    soon = await desk.due("b")
    await desk.make_due()
    [claimed] = await desk.due("b")

    assert ([[], []], [], 2) == (away, soon, claimed.sends)


async def test_an_acknowledged_command_is_never_due(desk: Desk) -> None:
    """Acked by its own phone; another phone's word about it does not count."""
    await desk.dial()
    command_id = await desk.value("SELECT id FROM command")
    async with desk.database.connection() as connection:
        await calls.ack_all(connection, [(command_id, "another phone")])
        still = await desk.value("SELECT next_send_at IS NOT NULL FROM command")
        await calls.ack_all(connection, [(command_id, desk.phone)])
    await desk.make_due()

    assert (True, []) == (still, await desk.due())


async def test_an_ack_and_a_resend_at_once_end_in_silence(desk: Desk) -> None:
    """The ack waits for the claim and is not undone by it."""
    await desk.dial()
    await desk.make_due()
    command_id = await desk.value("SELECT id FROM command")

    async def ack() -> None:
        async with desk.database.connection() as connection:
            await calls.ack_all(connection, [(command_id, desk.phone)])

    async with desk.database.transaction() as connection:
        await calls.due(connection, "a", RESEND_AFTER)
        acking = asyncio.create_task(ack())
        await until_blocked(desk.database)
    await acking
    await desk.make_due()

    assert [] == await desk.due()


async def test_no_more_than_five_hundred_are_claimed_at_once(desk: Desk) -> None:
    """The longest waiting first; the rest is the next round's."""
    _, call_id = await desk.dial()
    await desk.execute(
        "INSERT INTO command (id, tenant_id, call_id, device_id, type, data, expires_at, next_send_at)"
        " SELECT 'c' || n, $1, $2, $3, 'DIAL_COMMAND', '{}', now() + interval '1 hour',"
        " now() - make_interval(secs => n)"
        " FROM generate_series(1, 600) n",
        desk.office.tenant_id,
        call_id,
        desk.phone,
    )
    first, second = await desk.due(), await desk.due()

    assert (500, 100) == (len(first), len(second))
    assert {f"c{n}" for n in range(101, 601)} == {command.id for command in first}


# --- calls that are overdue, and living -------------------------------------------------------------------------------


async def test_calls_that_stood_still_too_long_are_overdue(desk: Desk) -> None:
    """The living ones whose time has come, the longest first."""
    _, call_id = await desk.dial()
    async with desk.database.connection() as connection:
        early = await calls.overdue(connection)
        await desk.execute("UPDATE call SET reap_at = now() - interval '1 s'")
        due = await calls.overdue(connection)
        await desk.execute("UPDATE call SET status = 'ended', ended_at = now(), outcome = 'missed'")
        over = await calls.overdue(connection)

    assert ([], [(desk.office.tenant_id, call_id)], []) == (early, due, over)


async def test_the_living_calls_of_phones_are_those_of_their_tenant(desk: Desk) -> None:
    """A phone's id alone opens nothing to another tenant."""
    _, call_id = await desk.dial()
    async with desk.database.transaction() as connection:
        living = [
            await calls.living_of(connection, tenant_id, [desk.phone, "another"])
            for tenant_id in (desk.office.tenant_id, "t2")
        ]

    assert [[call_id], []] == living
