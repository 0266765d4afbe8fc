"""Hooks as rows: every change leaves word for those who asked, in its own transaction; each word is claimed once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest

from protocol.call import Outcome, Status
from protocol.identifiers import new_call_id, new_id
from protocol.messages import DeviceStatus, RecordingReady
from storage import calls, devices, fetches, hooks, nodes, recordings, uploads
from storage.calls import Change, Explanation, NewCall, NewDial
from storage.database import Connection, Database
from storage.devices import Handset
from storage.hooks import Event, Job
from storage.hooks import Outcome as Sent
from storage.idempotency import Once
from storage.nodes import Presence
from storage.uploads import Upload
from tests.conftest import Office
from tests.storage.test_nodes import claim_of, enlist
from tests.waiting import until_blocked

EVERYTHING: tuple[Event, ...] = get_args(Event)
TELL = DeviceStatus(device_id="p", online_status="online")
TAKEN = Sent(status=200, answer="", failure=None, took_ms=1)
MISSED = Sent(status=500, answer="no", failure="crm answered 500", took_ms=1)


class Desk:
    """An agent of a tenant with hooks."""

    def __init__(self, database: Database, office: Office) -> None:
        self.database = database
        self.office = office
        self.user_id = ""
        self.phone = ""

    async def open(self) -> "Desk":
        """Seat the agent, with a phone on node "a"."""
        await enlist(self.database, "a", "b")
        self.user_id = await self.office.agent()
        self.phone = await self.office.phone(self.user_id)
        async with self.database.transaction() as connection:
            await nodes.claim(connection, "a", [claim_of(self.phone)])
        return self

    async def hook(self, *events: Event, tenant_id: str | None = None, enabled: bool = True) -> str:
        """Add a hook that asks for these events, or for all."""
        hook_id = new_id("hook")
        async with self.database.transaction() as connection:
            assert await hooks.add(
                connection,
                tenant_id or self.office.tenant_id,
                hook_id,
                url="https://crm.example/",
                events=events or EVERYTHING,
                description="",
                enabled=enabled,
                reveal=False,
                created_by=self.user_id,
            )
        return hook_id

    async def dial(self) -> str:
        """Make a call: its id."""
        call = NewCall(
            id=new_call_id(),
            tenant_id=self.office.tenant_id,
            user_id=self.user_id,
            device_id=self.phone,
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
            expires_at=datetime.now(UTC) + timedelta(minutes=1),
            reap_after_expiry=10.0,
            resend_after=3.0,
        )
        once = Once(self.office.tenant_id, self.user_id, "dial", None, b"body")
        async with self.database.connection() as connection:
            (dialled,) = await calls.dial_all(connection, [NewDial(call, once, TELL)])
        assert dialled.refused is None
        return call.id

    async def move(self, call_id: str, status: Status, effect: Any = "moved") -> None:
        """Move a call."""
        async with self.database.connection() as connection:
            read = await calls.read(connection, self.office.tenant_id, call_id)
            assert read is not None
            over = {"ended_at": read.now, "outcome": Outcome.MISSED} if status is Status.ENDED else {}
            state = msgspec.structs.replace(read.state, status=status, **over)
            why = Explanation(source="phone", kind="SAID", effect=effect, data=b"{}")
            assert await calls.change(connection, Change(read, state, read.reap_at, why, TELL))

    async def claim(self, **more: Any) -> list[Job]:
        """Claim what is due, as a worker."""
        async with self.database.connection() as connection:
            return await hooks.claim(connection, **{"lease": 60.0, "most": 100, "of_each": 100, "busy": {}, **more})

    async def execute(self, statement: str, *values: Any) -> None:
        """Change rows."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def told(self) -> list[tuple[str, str]]:
        """What was left word of, in order: (event, subject)."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT event, subject_id FROM hook_delivery ORDER BY at, event")
        return [(row["event"], row["subject_id"]) for row in rows]

    async def state(self, job: Job) -> tuple[str, bool]:
        """Of a delivery: (state, whether it is due)."""
        async with self.database.connection() as connection:
            row = await connection.fetchrow("SELECT state, next_at <= now() FROM hook_delivery WHERE id = $1", job.id)
        assert row is not None
        return row[0], row[1] is True


@pytest.fixture
async def desk(database: Database, office: Office) -> Desk:
    """An agent with a phone that has a session."""
    return await Desk(database, office).open()


# --- who leaves word --------------------------------------------------------------------------------------------------


async def test_a_call_leaves_word_of_its_life(desk: Desk) -> None:
    """Made, answered, over, corrected; that it is dialled or rings is for its agent's page."""
    await desk.hook()
    call_id = await desk.dial()
    for status in (Status.CALLING, Status.RINGING, Status.CONNECTED, Status.ENDED):
        await desk.move(call_id, status)
    await desk.move(call_id, Status.ENDED, "enriched")

    assert [(f"call.{what}", call_id) for what in ("created", "connected", "ended", "corrected")] == await desk.told()


async def test_a_message_tells_the_call_as_the_change_left_it(desk: Desk) -> None:
    """Whatever becomes of it before the message is sent; its version says which is the later."""
    await desk.hook()
    call_id = await desk.dial()
    await desk.move(call_id, Status.CONNECTED)
    await desk.move(call_id, Status.ENDED)
    rows = [msgspec.json.decode(job.content) for job in sorted(await desk.claim(), key=lambda job: job.at)]

    assert [(1, "pending"), (2, "connected"), (3, "ended")] == [(row["version"], row["status"]) for row in rows]


async def test_only_who_asked_for_an_event_is_told(desk: Desk) -> None:
    """Not hooks for other events, nor disabled ones, nor those of another tenant."""
    other = f"tenant_{new_id('t')}"
    await desk.execute("INSERT INTO tenant (id, code, name) VALUES ($1, 'other', 'Other')", other)
    asked = await desk.hook("call.created", "call.ended")
    await desk.hook("call.ended")
    await desk.hook(enabled=False)
    await desk.hook(tenant_id=other)
    await desk.dial()

    assert [(asked, "call.created")] == [(job.hook_id, job.event) for job in await desk.claim()]


async def test_what_is_rolled_back_leaves_no_word(desk: Desk) -> None:
    """The word is in the transaction of the change."""
    await desk.hook()
    call_id = await desk.dial()
    async with desk.database.connection() as connection:
        read = await calls.read(connection, desk.office.tenant_id, call_id)
        assert read is not None
        why = Explanation(source="phone", kind="SAID", effect="moved", data=b"{}")
        state = msgspec.structs.replace(read.state, status=Status.CONNECTED)
        transaction = connection.transaction()
        await transaction.start()
        assert await calls.change(connection, Change(read, state, read.reap_at, why, TELL))
        await transaction.rollback()
        overtaken = Change(msgspec.structs.replace(read, version=9), state, None, why, TELL)
        assert await calls.change(connection, overtaken) is None

    assert [("call.created", call_id)] == await desk.told()


async def test_phones_leave_word_of_where_they_are(desk: Desk) -> None:
    """Once for each change of what they are: silence that everybody knows of is no news."""
    await desk.hook()

    async def tell(epoch: int, said: Any) -> None:
        async with desk.database.transaction() as connection:
            await nodes.tell_presence(connection, [Presence(desk.phone, epoch, said)])

    await tell(1, "online")
    await tell(1, "offline")
    await tell(1, "offline")
    await tell(1, "online")
    await tell(1, "lost")
    await desk.execute("UPDATE device SET lost_at = now() - interval '1 hour'")
    async with desk.database.transaction() as connection:
        await nodes.sweep_grace(connection, 15.0)
        await nodes.claim(connection, "a", [claim_of(desk.phone, 2)])
        await nodes.claim(connection, "b", [claim_of(desk.phone, 3)])
    await desk.execute("UPDATE node SET leased_until = now() - interval '1 hour'")
    async with desk.database.transaction() as connection:
        await nodes.sweep(connection)

    assert ["offline", "online", "offline", "online", "offline"] == [
        event.removeprefix("device.") for event, _ in await desk.told()
    ]


async def test_phones_leave_word_of_whose_they_are(desk: Desk) -> None:
    """Bound for the first time, and again; unbound. What is told holds neither token."""
    await desk.hook()
    handset = Handset(
        hardware_id="hw", phone_number="", name="p", model="m", os_type="ios", os_version="1", app_version="1"
    )
    async with desk.database.transaction() as connection:
        bound = await devices.bind(connection, desk.office.tenant_id, desk.user_id, handset, b"token of the phone")
        await devices.keep_push_token(connection, desk.office.tenant_id, bound.id, b"push token of the phone")
        await devices.bind(connection, desk.office.tenant_id, desk.user_id, handset, b"another token")
        await devices.unbind(connection, desk.office.tenant_id, desk.user_id, [bound.id])

    assert ["device.bound", "device.bound", "device.unbound"] == [event for event, _ in await desk.told()]
    for job in await desk.claim():
        assert not {"token_hash", "push_token"} & msgspec.json.decode(job.content).keys()


async def test_recordings_leave_word_of_what_became_of_them(desk: Desk) -> None:
    """Failed to be fetched here; the others are told by the stories of recordings."""
    await desk.hook()
    call_id = await desk.dial()
    async with desk.database.connection() as connection:
        await fetches.want(connection, desk.office.tenant_id, call_id, "line", b"url", after=0.0, until=10.0)
        (fetch,) = await fetches.due(connection, 60.0, 10)
        await fetches.give_up(connection, fetch, "no")
        await fetches.give_up(connection, fetch, "no")

    assert [("call.created", call_id), ("recording.failed", call_id)] == await desk.told()


async def test_a_recording_that_is_stored_is_told(desk: Desk) -> None:
    """Once, with what the call shows of it."""
    await desk.hook("recording.ready")
    call_id = await desk.dial()
    upload = Upload(
        id=new_id("upl"),
        tenant_id=desk.office.tenant_id,
        call_id=call_id,
        source="phone",
        actor_id=desk.phone,
        place="s3",
        object_key="key",
        store_upload_id="upload",
        media_type="audio/mpeg",
        key_id=None,
        salt=None,
        size=7,
        sha256=bytes(32),
    )
    ready = RecordingReady(
        call_id=call_id, at=0, source="phone", media_type="audio/mpeg", size=7, recording_url="/recording"
    )
    async with desk.database.connection() as connection:
        await uploads.add(connection, upload, 3600)
        await recordings.hold_place(connection, upload.tenant_id, upload.id, 7, bytes(32), settle_after=3600)
        assert await recordings.finish(connection, upload, bytes(32), ready)
        assert not await recordings.finish(connection, upload, bytes(32), ready)
    (job,) = await desk.claim()
    row = msgspec.json.decode(job.content)

    assert ("recording.ready", "ready", 7) == (job.event, row["recording_status"], row["recording_size"])


async def test_a_recording_that_left_is_told(desk: Desk) -> None:
    """Whether its time was over or somebody deleted it, as soon as it can be heard no more."""
    await desk.hook("recording.ready", "recording.expired", "recording.deleted")
    old = await desk.dial()
    await desk.execute("UPDATE call SET status = 'ended', outcome = 'connected', ended_at = now()")
    deleted = await desk.dial()
    await desk.execute(
        "INSERT INTO recording (call_id, tenant_id, state, source, actor_id, place, object_key, store_upload_id,"
        " media_type, size, sha256, stored_at)"
        " SELECT id, $1, 'stored', 'phone', 'p', 's3', id, 'u', 'audio/mpeg', 1, $2,"
        " now() - CASE WHEN id = $3 THEN interval '3651 days' ELSE '1 day' END FROM unnest($4::text[]) id",
        desk.office.tenant_id,
        bytes(32),
        old,
        [old, deleted],
    )
    async with desk.database.connection() as connection:
        assert 1 == await recordings.expire(connection, 10)
        assert await recordings.remove(connection, desk.office.tenant_id, deleted)
        assert not await recordings.remove(connection, desk.office.tenant_id, deleted)

    assert [("recording.expired", old), ("recording.deleted", deleted)] == await desk.told()


# --- claims -----------------------------------------------------------------------------------------------------------


async def test_what_is_claimed_is_claimed_by_one(desk: Desk) -> None:
    """Workers that ask at the same time share what is due; what is claimed is due again when the claim is over."""
    await desk.hook()
    await desk.dial()
    shares = await asyncio.gather(*(desk.claim() for _ in range(4)))
    again = await desk.claim()
    await desk.execute("UPDATE hook_delivery SET next_at = now()")
    after = await desk.claim()

    assert [0, 0, 0, 1] == sorted(map(len, shares))
    assert [] == again
    assert [(2, 2)] == [(job.tries, job.attempts) for job in after]


async def _fill(desk: Desk, hook_id: str, how_many: int) -> None:
    await desk.execute(
        "INSERT INTO hook_delivery (id, tenant_id, hook_id, event, subject_id, at, content, next_at, give_up_at)"
        " SELECT 'msg_' || gen_random_uuid(), $1, $2, 'call.ended', 'c', now(), '{}', now(), now() + interval '1 day'"
        " FROM generate_series(1, $3)",
        desk.office.tenant_id,
        hook_id,
        how_many,
    )


async def test_no_hook_takes_the_room_of_others(desk: Desk) -> None:
    """Of each at most so many, beside those that are being sent; of one that fails, one; in all no more than fit."""
    flooded, busy, failing, quiet = [await desk.hook() for _ in range(4)]
    for hook_id in (flooded, busy, failing):
        await _fill(desk, hook_id, 50)
    await _fill(desk, quiet, 1)
    await desk.execute("UPDATE hook SET failing_since = now() WHERE id = $1", failing)
    jobs = await desk.claim(of_each=4, busy={busy: 3, failing: 1})
    few = await desk.claim(of_each=4, most=2)

    count = {hook_id: sum(job.hook_id == hook_id for job in jobs) for hook_id in (flooded, busy, failing, quiet)}
    assert {flooded: 4, busy: 1, failing: 0, quiet: 1} == count
    assert 2 == len(few)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE hook SET enabled = false",
        "UPDATE hook SET not_before = now() + interval '1 minute'",
        "UPDATE tenant SET status = 'suspended'",
        "DELETE FROM hook",
    ],
)
async def test_nothing_is_sent_to_who_is_not_to_be_asked(desk: Desk, change: str) -> None:
    """Disabled, asked for a pause, suspended, deleted."""
    await desk.hook()
    await desk.dial()
    await desk.execute(change)

    assert [] == await desk.claim()


async def test_a_late_word_does_not_overrule_a_later_attempt(desk: Desk) -> None:
    """A worker that lost its claim may still say that it was taken, but not that it was missed."""
    await desk.hook()
    await desk.dial()
    (first,) = await desk.claim()
    await desk.execute("UPDATE hook_delivery SET next_at = now()")
    (second,) = await desk.claim()
    async with desk.database.connection() as connection:
        await hooks.failed(connection, first, MISSED, again_in=None, hopeless_after=1.0)
        between = await desk.state(first)
        await hooks.failed(connection, second, MISSED, again_in=0.0, hopeless_after=1.0)
        missed = await desk.state(second)
        await hooks.delivered(connection, first, TAKEN)
        await hooks.failed(connection, second, MISSED, again_in=0.0, hopeless_after=1.0)

    assert [("waiting", False), ("waiting", True), ("delivered", False)] == [between, missed, await desk.state(second)]


async def test_a_hook_is_hopeless_after_long_enough_of_nothing_but_failure(desk: Desk) -> None:
    """One success begins it anew."""
    hook_id = await desk.hook()
    await _fill(desk, hook_id, 3)
    one, two, three = await desk.claim()

    async def fail(connection: Connection, job: Job) -> bool:
        return await hooks.failed(connection, job, MISSED, again_in=9.0, hopeless_after=60.0)

    async with desk.database.connection() as connection:
        first = await fail(connection, one)
        await desk.execute("UPDATE hook SET failing_since = now() - interval '2 minutes'")
        second = await fail(connection, two)
        await hooks.delivered(connection, one, TAKEN)
        third = await fail(connection, three)

    assert [False, True, False] == [first, second, third]


async def test_a_tenant_has_at_most_so_many_hooks(desk: Desk) -> None:
    """Also where the last two are made at the same time."""
    for _ in range(hooks.HOOKS - 1):
        await desk.hook()

    async def add(connection: Connection) -> bool:
        return await hooks.add(
            connection,
            desk.office.tenant_id,
            new_id("hook"),
            url="https://crm.example/",
            events=["call.ended"],
            description="",
            enabled=True,
            reveal=False,
            created_by="u",
        )

    async def second() -> bool:
        async with desk.database.transaction() as connection:
            return await add(connection)

    async with desk.database.transaction() as connection:
        first = await add(connection)
        waiting = asyncio.create_task(second())
        await until_blocked(desk.database)

    assert (True, False) == (first, await waiting)


# --- expiry -----------------------------------------------------------------------------------------------------------


async def test_the_log_and_old_secrets_expire(desk: Desk) -> None:
    """What waits for a disabled hook is given up in its time; the newest secret stays for ever."""
    kept, disabled = await desk.hook(), await desk.hook()
    for hook_id in (kept, disabled):
        await _fill(desk, hook_id, 1)
    await desk.execute("UPDATE hook_delivery SET give_up_at = now() - interval '1 hour'")
    await desk.execute("UPDATE hook SET enabled = false WHERE id = $1", disabled)
    await _fill(desk, kept, 2)
    await desk.execute(
        "UPDATE hook_delivery SET at = now() - interval '31 days', state = 'failed', next_at = NULL WHERE id IN"
        " (SELECT id FROM hook_delivery WHERE give_up_at > now() LIMIT 1)"
    )
    await desk.execute(
        "INSERT INTO hook_secret (hook_id, tenant_id, sealed, expires_at)"
        " SELECT $1, 't', '', unnest(ARRAY[now() - interval '1 hour', now() + interval '1 hour', NULL])",
        kept,
    )
    async with desk.database.connection() as connection:
        await hooks.expire(connection, 30 * 86400.0)
        left = await connection.fetch("SELECT hook_id, state FROM hook_delivery ORDER BY hook_id = $1, state", disabled)
        secrets = await connection.fetchval("SELECT count(*) FROM hook_secret")

    assert [(kept, "waiting"), (kept, "waiting"), (disabled, "failed")] == [tuple(row) for row in left]
    assert 2 == secrets
