"""Orders at providers as rows: who may write one, what is given up, what is looked up, and whom a provider means."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from protocol.call import Evidence, Status
from protocol.identifiers import new_call_id
from protocol.messages import CallDialing
from storage import attempts, calls, lines
from storage.attempts import Attempt
from storage.audit import Actor
from storage.calls import Change, Explanation, NewCloudCall
from storage.database import Database, Duplicate
from storage.idempotency import Once
from storage.lines import Setup
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.conftest import Office
from tests.waiting import until_blocked


class Answer(msgspec.Struct):
    """What the asker of a dial is told."""

    call_id: str


class Desk:
    """An agent with a seat on a line, by its rows."""

    def __init__(self, database: Database, office: Office, user_id: str, line_id: str) -> None:
        self.database = database
        self.office = office
        self.tenant_id = office.tenant_id
        self.user_id = user_id
        self.line_id = line_id

    async def line(self, name: str) -> str:
        """Set up another line."""
        return await make_line(self.database, self.tenant_id, name)

    async def dial(self, *, key: str | None = None, expires_in: float = 20.0, line_id: str | None = None) -> str:
        """Commit to a call, and return its id."""
        call = NewCloudCall(
            id=new_call_id(),
            tenant_id=self.tenant_id,
            user_id=self.user_id,
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
            expires_at=datetime.now(UTC) + timedelta(seconds=expires_in),
            reap_after_expiry=10.0,
        )
        once = Once(self.tenant_id, self.user_id, "dial", key, b"body")
        async with self.database.transaction() as connection:
            await attempts.dial(
                connection,
                call,
                once,
                Answer(call.id),
                line_id=line_id or self.line_id,
                provider="infinity",
                caller=None,
                seat_id="1001",
                seat_number="",
                extension="8001",
                extension_fence=1,
            )
        return call.id

    async def send(self, call_id: str, tenant_id: str | None = None) -> Attempt | None:
        """Try to take the right to write an order."""
        async with self.database.connection() as connection:
            return await attempts.send(connection, tenant_id or self.tenant_id, call_id, 18.0)

    async def placed(self, provider_call_id: str | None = "theirs", **more: Any) -> str:
        """Make a call of which the provider said so."""
        call_id = await self.dial(**more)
        assert await self.send(call_id) is not None
        async with self.database.connection() as connection:
            await attempts.answered(
                connection, self.tenant_id, call_id, 1, "placed", provider_call_id=provider_call_id, look_after=3.0
            )
        return call_id

    async def fail_over(self, attempt: Attempt, line_id: str) -> bool:
        """Take a call that was refused to another line."""
        async with self.database.transaction() as connection:
            return await attempts.fail_over(connection, attempt, "line", "NoMoney", **place(line_id))

    async def call_off(self, call_id: str) -> str | None:
        """Call an order off; how it stands."""
        async with self.database.connection() as connection:
            attempt = await attempts.call_off(connection, self.tenant_id, call_id)
        return None if attempt is None else attempt.state

    async def unsent(self) -> list[tuple[str, str]]:
        """Give up what was not written in time."""
        async with self.database.connection() as connection:
            return await attempts.unsent(connection, 100)

    async def to_look_up(self) -> list[str]:
        """Claim what is to be looked up."""
        async with self.database.connection() as connection:
            return [one.call_id for one in await attempts.to_look_up(connection, 30.0, 100)]

    async def find(self, provider_call_id: str | None, tag: str | None, **where: str) -> str | None:
        """The call that a provider means, on this line unless told."""
        place = {"tenant_id": self.tenant_id, "line_id": self.line_id, **where}
        async with self.database.connection() as connection:
            found = await attempts.find(
                connection, place["tenant_id"], place["line_id"], provider_call_id=provider_call_id, tag=tag
            )
        return None if found is None else found.call_id

    async def attempt(self, call_id: str) -> Attempt:
        """The order of a call as it stands."""
        async with self.database.connection() as connection:
            attempt = await attempts.of_call(connection, self.tenant_id, call_id)
        assert attempt is not None
        return attempt

    async def make_due(self) -> None:
        """Let the time of all look-ups come."""
        async with self.database.connection() as connection:
            await connection.execute("UPDATE attempt SET next_look_at = now() WHERE next_look_at IS NOT NULL")


def place(line_id: str) -> dict[str, Any]:
    """What another line gives to a call."""
    return {
        "line_id": line_id,
        "provider": "tencent",
        "caller": "+862066247698",
        "seat_id": "agent@acme",
        "seat_number": "",
        "extension": None,
        "extension_fence": None,
    }


async def make_line(database: Database, tenant_id: str, name: str) -> str:
    """Set up a line and return its id."""
    keys = TenantKeys(Vault({"master": b"a master key, 32 bytes, no secret"[:32]}))
    setup = Setup(provider="infinity", name=name, account_id=name)
    async with database.transaction() as connection:
        actor = Actor(kind="user", id="admin", tenant_id=tenant_id)
        return await lines.create(connection, keys, actor, tenant_id, setup, {"accessKey": "not a real key"})


@pytest.fixture
async def desk(database: Database, office: Office) -> Desk:
    """An agent and a line."""
    return Desk(database, office, await office.agent(), await make_line(database, office.tenant_id, "West"))


# --- dial -------------------------------------------------------------------------------------------------------------


async def test_a_twin_of_a_dial_makes_nothing(desk: Desk) -> None:
    """Under one key there is one call and one order."""
    call_id = await desk.dial(key="the-key")
    with pytest.raises(Duplicate):
        await desk.dial(key="the-key")
    async with desk.database.connection() as connection:
        rows = await connection.fetch("SELECT c.id, a.call_id FROM call c FULL JOIN attempt a ON a.call_id = c.id")

    assert [(call_id, call_id)] == [tuple(row) for row in rows]


# --- the fence --------------------------------------------------------------------------------------------------------


async def test_one_order_is_written_once(desk: Desk) -> None:
    """Of two who take it at the same moment one gets it, with all that the order says; and nobody after."""
    call_id = await desk.dial()
    async with desk.database.transaction() as connection:
        await connection.execute("SELECT FROM attempt WHERE call_id = $1 FOR UPDATE", call_id)
        twins = [asyncio.create_task(desk.send(call_id)) for _ in range(2)]
        await until_blocked(desk.database, 2)
    taken = [attempt for attempt in await asyncio.gather(*twins) if attempt is not None]

    assert 1 == len(taken)
    assert ("sent", "8001", "1001", "+8613900139000") == (
        taken[0].state,
        taken[0].extension,
        taken[0].seat_id,
        taken[0].callee,
    )
    assert await desk.send(call_id) is None


async def test_an_expired_order_is_never_written(desk: Desk) -> None:
    """Nobody gets it, though nobody has given it up yet."""
    call_id = await desk.dial(expires_in=-1.0)

    assert await desk.send(call_id) is None
    assert "committed" == (await desk.attempt(call_id)).state


async def test_an_order_is_written_for_its_own_tenant(desk: Desk) -> None:
    """Under the name of another it is not there."""
    assert await desk.send(await desk.dial(), tenant_id="tenant_other") is None


async def test_what_was_not_written_in_time_is_given_up(desk: Desk) -> None:
    """Once, and for ever; what was written, or may still be, is not."""
    late, _, sent = await desk.dial(expires_in=-1.0), await desk.dial(), await desk.dial()
    await desk.send(sent)
    async with desk.database.connection() as connection:
        await connection.execute("UPDATE attempt SET expires_at = now() WHERE call_id = $1", sent)

    assert [(desk.tenant_id, late)] == await desk.unsent()
    assert [] == await desk.unsent()
    assert "over" == (await desk.attempt(late)).state
    async with desk.database.connection() as connection:
        await connection.execute("UPDATE attempt SET expires_at = now() + interval '1 hour'")
    assert await desk.send(late) is None


# --- the answer -------------------------------------------------------------------------------------------------------


async def test_an_answer_is_kept_of_what_was_sent(desk: Desk) -> None:
    """Not of what never was; and what is placed does not become uncertain by a late word."""
    never, placed = await desk.dial(), await desk.placed()
    async with desk.database.connection() as connection:
        for call_id in (never, placed):
            await attempts.answered(connection, desk.tenant_id, call_id, 1, "uncertain")

    assert ("committed", None) == ((await desk.attempt(never)).state, (await desk.attempt(never)).provider_call_id)
    assert ("placed", "theirs") == ((await desk.attempt(placed)).state, (await desk.attempt(placed)).provider_call_id)


# --- fail-over --------------------------------------------------------------------------------------------------------


async def test_a_refused_call_goes_to_another_line_once(desk: Desk) -> None:
    """The next attempt is committed as the first was, under the same expiry; the call is on that line now."""
    call_id, other = await desk.dial(), await desk.line("East")
    first = await desk.send(call_id)
    assert first is not None
    went = [await desk.fail_over(first, other), await desk.fail_over(first, other)]
    second = await desk.send(call_id)
    async with desk.database.connection() as connection:
        expiries = await connection.fetch("SELECT DISTINCT expires_at FROM attempt WHERE call_id = $1", call_id)
        row = await connection.fetchrow("SELECT line_id, caller_number, status FROM call WHERE id = $1", call_id)

    assert [True, False] == went
    assert second is not None
    assert (2, other, "sent") == (second.n, second.line_id, second.state)
    assert 1 == len(expiries)
    assert row is not None
    assert (other, "+862066247698", "pending") == (row["line_id"], row["caller_number"], row["status"])


async def test_what_was_read_of_a_call_is_stale_when_it_goes_on(desk: Desk) -> None:
    """Whoever weighs a word of the first line has to read again, and sees that another has the call."""
    call_id, other = await desk.dial(), await desk.line("East")
    first = await desk.send(call_id)
    assert first is not None
    async with desk.database.connection() as connection:
        before = await calls.read(connection, desk.tenant_id, call_id)
        await desk.fail_over(first, other)
        assert before is not None
        state = msgspec.structs.replace(before.state, status=Status.CALLING)
        why = Explanation(source="provider", kind="PROGRESS", effect="moved", data=b"{}")
        tell = CallDialing(call_id=call_id, at=0, evidence=Evidence.ASSUMED, source="provider", customer_phone="1")
        moved = await calls.change(connection, Change(before, state, None, why, tell))
        after = await calls.read(connection, desk.tenant_id, call_id)

    assert moved is None
    assert after is not None
    assert (1, 2) == (before.attempt, after.attempt)


async def test_the_order_of_a_call_that_has_ended_is_not_written(desk: Desk) -> None:
    """Somebody ended the call between its commit and its order."""
    call_id = await desk.dial()
    async with desk.database.connection() as connection:
        await connection.execute(
            "UPDATE call SET status = 'ended', ended_at = now(), outcome = 'failed', closed_by = 'provider',"
            " evidence = 'provider_record', hangup_cause = 'UNKNOWN', reap_at = NULL WHERE id = $1",
            call_id,
        )

    assert await desk.send(call_id) is None


async def test_a_refusal_of_what_rings_is_not_believed(desk: Desk) -> None:
    """Its attempt is uncertain and is looked up; nothing else keeps a refusal from being one."""
    quiet, ringing = await desk.dial(), await desk.dial()
    believed = []
    for call_id in (quiet, ringing):
        attempt = await desk.send(call_id)
        assert attempt is not None
        async with desk.database.transaction() as connection:
            await connection.execute("UPDATE call SET status = 'ringing' WHERE id = $1", ringing)
            believed.append(await attempts.refuse(connection, attempt, "line", 3.0))
    await desk.make_due()

    assert [True, False] == believed
    assert ["refused", "uncertain"] == [(await desk.attempt(call_id)).state for call_id in (quiet, ringing)]
    assert [ringing] == await desk.to_look_up()


async def test_only_what_was_refused_while_it_was_sent_goes_on(desk: Desk) -> None:
    """Not what is placed or uncertain, was called off, has expired, or rings."""
    other = await desk.line("East")
    placed = await desk.attempt(await desk.placed())
    changes = {
        "uncertain": "UPDATE attempt SET state = 'uncertain' WHERE call_id = $1",
        "called off": "UPDATE attempt SET called_off_at = now() WHERE call_id = $1",
        "expired": "UPDATE attempt SET expires_at = now() WHERE call_id = $1",
        "ringing": "UPDATE call SET status = 'ringing' WHERE id = $1",
    }
    went = {"placed": await desk.fail_over(placed, other)}
    for what, change in changes.items():
        attempt = await desk.send(await desk.dial())
        assert attempt is not None
        async with desk.database.connection() as connection:
            await connection.execute(change, attempt.call_id)
        went[what] = await desk.fail_over(attempt, other)

    assert dict.fromkeys(["placed", *changes], False) == went


async def test_what_is_called_off_before_it_was_written_never_is(desk: Desk) -> None:
    """What was written is only kept from going on; who has no order is told so."""
    early, late = await desk.dial(), await desk.dial()
    await desk.send(late)

    assert "over" == await desk.call_off(early)
    assert "sent" == await desk.call_off(late)
    assert await desk.send(early) is None
    assert await desk.call_off("no call") is None


async def test_hanging_up_and_failing_over_meet(desk: Desk) -> None:
    """What has gone on while somebody hung up is called off where it is now."""
    other = await desk.line("East")
    call_id = await desk.dial()
    first = await desk.send(call_id)
    assert first is not None
    async with desk.database.transaction() as connection:
        assert await attempts.fail_over(connection, first, "line", "NoMoney", **place(other))
        hanging_up = asyncio.create_task(desk.call_off(call_id))
        await until_blocked(desk.database)
    seen = await hanging_up

    assert ("refused", "over") == (seen, await desk.call_off(call_id))
    assert await desk.send(call_id) is None


# --- looking up -------------------------------------------------------------------------------------------------------


async def test_what_is_due_is_claimed_once(desk: Desk) -> None:
    """By one of two workers, until the claim ends; what was never sent is not looked up."""
    await desk.dial()
    placed = {await desk.placed(f"theirs {n}") for n in range(5)}
    early = await desk.to_look_up()
    await desk.make_due()
    one, other = await asyncio.gather(desk.to_look_up(), desk.to_look_up())
    again = await desk.to_look_up()
    await desk.make_due()

    assert [] == early
    assert sorted(placed) == sorted([*one, *other])
    assert [] == again
    assert placed == set(await desk.to_look_up())


async def test_one_line_does_not_take_all_the_places(desk: Desk) -> None:
    """Of each line come so many at a time, less those of which the worker asks already."""
    other = await desk.line("East")
    calls = {await desk.placed(f"theirs {n}") for n in range(3)}
    elsewhere = await desk.placed(line_id=other)
    await desk.make_due()
    async with desk.database.connection() as connection:
        first = await attempts.to_look_up(connection, 30.0, 100, of_each=2, busy={desk.line_id: 1})
        second = await attempts.to_look_up(connection, 30.0, 100, of_each=2, busy={desk.line_id: 2})

    assert 2 == len(first)
    assert elsewhere in {one.call_id for one in first}
    assert 1 == len(calls & {one.call_id for one in first})
    assert [] == second


async def test_a_refusal_that_comes_during_a_look_up_ends_the_asking(desk: Desk) -> None:
    """Whoever asked plans no other look-up of what was refused meanwhile."""
    call_id = await desk.dial()
    sent = await desk.send(call_id)
    assert sent is not None
    async with desk.database.connection() as connection:
        assert await attempts.refuse(connection, sent, "line", 3.0)
        await attempts.look_again(connection, sent, 5.0)
    await desk.make_due()

    assert [] == await desk.to_look_up()


async def test_an_order_without_an_answer_is_looked_up(desk: Desk) -> None:
    """Its node died after it was taken: nobody writes it again, and the provider is asked."""
    call_id = await desk.dial()
    await desk.send(call_id)
    await desk.make_due()

    assert [call_id] == await desk.to_look_up()


async def test_what_was_refused_is_not_looked_up(desk: Desk) -> None:
    """Nor what is not to be asked of again."""
    refused, settled = await desk.dial(), await desk.placed()
    await desk.send(refused)
    async with desk.database.connection() as connection:
        assert await attempts.refuse(connection, await desk.attempt(refused), "line", 3.0)
        await attempts.look_again(connection, await desk.attempt(settled), None)
    await desk.make_due()

    assert [] == await desk.to_look_up()


# --- whom a provider means --------------------------------------------------------------------------------------------


async def test_a_provider_means_a_call_by_either_name(desk: Desk) -> None:
    """By its own id, or by our tag; by neither it means nobody."""
    call_id = await desk.placed()
    await desk.placed(None)

    assert call_id == await desk.find("theirs", None)
    assert call_id == await desk.find(None, call_id)
    assert call_id == await desk.find("never told", call_id)
    assert await desk.find(None, None) is None
    assert await desk.find("other", "other") is None


async def test_an_id_that_a_provider_gives_twice_names_one_call(desk: Desk) -> None:
    """The first that had it; the other is known by our tag, which beats the id."""
    one, two, three = await desk.placed("same"), await desk.placed("same"), await desk.placed(None)
    async with desk.database.connection() as connection:
        await attempts.named(connection, desk.tenant_id, three, 1, "same")

    assert one == await desk.find("same", None)
    assert (two, three) == (await desk.find("same", two), await desk.find("same", three))
    assert ["same", None, None] == [(await desk.attempt(each)).provider_call_id for each in (one, two, three)]


async def test_a_provider_means_calls_of_its_own_line_alone(desk: Desk) -> None:
    """On another line, or of another tenant, neither name leads to the call."""
    call_id, other = await desk.placed(), await desk.line("East")
    same = await desk.placed("theirs", line_id=other)

    assert same == await desk.find("theirs", None, line_id=other)
    assert await desk.find(None, call_id, line_id=other) is None
    assert await desk.find("theirs", call_id, tenant_id="tenant_other") is None


async def test_a_line_that_refused_is_overtaken_by_the_next(desk: Desk) -> None:
    """It still finds the call by our tag, and is told that another line has it."""
    call_id, other = await desk.dial(), await desk.line("East")
    first = await desk.send(call_id)
    assert first is not None
    await desk.fail_over(first, other)
    async with desk.database.connection() as connection:
        found = [
            await attempts.find(connection, desk.tenant_id, line_id, None, call_id) for line_id in (desk.line_id, other)
        ]

    assert [(1, True), (2, False)] == [(one.n, one.overtaken) for one in found if one is not None]


async def test_a_providers_name_is_learned_once(desk: Desk) -> None:
    """The first one that it tells stays."""
    call_id = await desk.placed(None)
    async with desk.database.connection() as connection:
        for name in ("first", "second"):
            await attempts.named(connection, desk.tenant_id, call_id, 1, name)

    assert (call_id, None) == (await desk.find("first", None), await desk.find("second", None))
