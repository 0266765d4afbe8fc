"""The life of a recording as a row: one passes the gate, and what is claimed, told or left is so once."""

import asyncio
from datetime import date
from typing import Any

import msgspec
import pytest

from storage import nodes, recordings
from storage.calls import Reach
from storage.database import Connection, Database
from storage.events import Emitted
from storage.recordings import BUCKET, Recording
from tests.conftest import Office
from tests.storage.gate import PLACE, SHA256, SIZE, Gate, gate_of
from tests.storage.test_nodes import enlist
from tests.waiting import until_blocked


@pytest.fixture
async def gate(database: Database, office: Office) -> Gate:
    """An agent with a phone."""
    return await gate_of(database, office)


async def target(gate: Gate, call_id: str, reach: Reach | None = None) -> recordings.Target | None:
    """The call as an upload sees it."""
    async with gate.database.connection() as connection:
        return await recordings.for_upload(connection, reach or gate.reach, call_id)


# --- coming in --------------------------------------------------------------------------------------------------------


async def test_a_call_within_reach_takes_a_recording(gate: Gate) -> None:
    """With the day of its tenant; out of reach it is not there."""
    call_id = await gate.call(at="2026-11-21 17:00+00")
    reach = msgspec.structs.replace
    mine = reach(gate.reach, user_id=gate.user_id, only_user=gate.user_id)

    seen = await target(gate, call_id)

    assert seen is not None
    assert (date(2026, 11, 22), gate.phone, True, None) == (seen.day, seen.device_id, seen.record, seen.state)
    assert seen == await target(gate, call_id, mine)
    assert [None] * 3 == [
        await target(gate, call_id, reach(gate.reach, tenant_id="another")),
        await target(gate, call_id, reach(gate.reach, user_id="another", only_user="another")),
        await target(gate, call_id, reach(gate.reach, user_id="another", only_teams=["team"])),
    ]


async def test_one_upload_of_a_call_passes_the_gate(gate: Gate) -> None:
    """Of ten at once; who was stopped may ask who stands there."""
    call_id = await gate.call()
    uploads = [await gate.upload(call_id) for _ in range(10)]

    passed = await asyncio.gather(*(gate.pass_gate(upload) for upload in uploads))
    async with gate.database.connection() as connection:
        standing = await recordings.standing(connection, gate.tenant_id, call_id)

    assert standing is not None
    assert 1 == passed.count(True)
    assert ("storing", SIZE, SHA256, uploads[passed.index(True)].store_upload_id) == msgspec.structs.astuple(standing)


async def test_an_upload_that_is_forgotten_does_not_pass(gate: Gate) -> None:
    """Nor does one under the name of another tenant."""
    upload = await gate.upload(await gate.call())
    async with gate.database.connection() as connection:
        foreign = await recordings.hold_place(connection, "another", upload.id, SIZE, SHA256, 60)
    await gate.execute("DELETE FROM recording_upload")

    assert [False, False] == [foreign, await gate.pass_gate(upload)]
    assert [] == await gate.rows("recording")


async def test_a_recording_that_is_whole_is_stored_and_told(gate: Gate) -> None:
    """In one step: its row, its call, the call's history, the agent's event, and the end of the upload."""
    await enlist(gate.database, "a")
    async with gate.database.connection() as connection:
        await nodes.attend(connection, [gate.user_id], "a")
    upload = await gate.storing()

    emitted = await gate.finish(upload)
    [call] = await gate.rows("call")
    [event] = await gate.rows("call_event")
    recording = await gate.recording(upload.call_id)

    assert isinstance(emitted, Emitted)
    assert (gate.user_id, 1, ["a"]) == (emitted.user_id, emitted.seq, emitted.nodes)
    assert "RECORDING_READY" == msgspec.json.decode(emitted.frame)["type"]
    assert ("stored", SIZE, SHA256) == (recording.state, recording.size, recording.sha256)
    assert (True, SIZE, "ready", 2) == tuple(
        call[name] for name in ("has_recording", "recording_size", "recording_status", "version")
    )
    assert ("phone", "RECORDING_STORED", "enriched") == (event["source"], event["kind"], event["effect"])
    assert [] == await gate.rows("recording_upload")


@pytest.mark.parametrize("source", ["phone", "agent", "provider"])
async def test_a_recording_is_stored_once_whoever_brought_it(gate: Gate, source: str) -> None:
    """Of an upload and a worker that both say so one announces it."""
    upload = await gate.upload(await gate.call(), source=source)
    await gate.pass_gate(upload)

    told = await asyncio.gather(gate.finish(upload), gate.finish(upload), gate.finish(upload))

    assert 2 == told.count(None)
    assert 1 == len(await gate.rows("agent_event"))


async def test_an_upload_in_parts_is_kept_until_it_expires(gate: Gate) -> None:
    """So that whoever missed the answer may ask again."""
    upload = await gate.upload(await gate.call(), size=SIZE, sha256=SHA256)
    await gate.pass_gate(upload)
    await gate.finish(upload)

    assert [upload.id] == [row["id"] for row in await gate.rows("recording_upload")]


async def test_what_was_withdrawn_is_not_finished_and_the_gate_is_open(gate: Gate) -> None:
    """The one that comes too late does not end what another has begun meanwhile, either way."""
    late = await gate.storing()
    await gate.withdraw(late)
    nothing = await gate.finish(late)
    other = await gate.upload(late.call_id)
    passed = await gate.pass_gate(other)
    again = await gate.finish(late)
    await gate.withdraw(late)

    assert (None, True, None) == (nothing, passed, again)
    assert other.store_upload_id == (await gate.recording(late.call_id)).store_upload_id


@pytest.mark.parametrize("parts", [{}, {"size": SIZE, "sha256": SHA256}], ids=["whole", "in parts"])
async def test_a_withdrawn_upload_is_forgotten(gate: Gate, parts: dict[str, Any]) -> None:
    """Nobody goes on with what the store has no more; another upload of the call goes on."""
    call_id = await gate.call()
    upload, other = await gate.upload(call_id, **parts), await gate.upload(call_id, **parts)
    await gate.pass_gate(upload)
    await gate.withdraw(upload)

    assert [other.id] == [row["id"] for row in await gate.rows("recording_upload")]
    assert [] == await gate.rows("recording")


async def test_what_is_stored_is_not_withdrawn(gate: Gate) -> None:
    """A worker that was slow changes nothing."""
    upload = await gate.storing()
    await gate.finish(upload)
    await gate.withdraw(upload)

    assert "stored" == (await gate.recording(upload.call_id)).state


async def test_finishing_and_withdrawing_at_once_end_in_one_of_both(gate: Gate) -> None:
    """An agent is told of a recording exactly where there is one."""
    uploads = [await gate.storing() for _ in range(10)]

    told = await asyncio.gather(
        *(gate.finish(upload) for upload in uploads), *(gate.withdraw(upload) for upload in uploads)
    )
    stored = {row["call_id"] for row in await gate.rows("recording") if row["state"] == "stored"}

    assert {upload.call_id for upload, one in zip(uploads, told, strict=False) if one is not None} == stored
    assert len(stored) == len(await gate.rows("agent_event")) == len(await gate.rows("recording"))


# --- settled ----------------------------------------------------------------------------------------------------------


async def test_what_stands_in_the_gate_too_long_is_claimed_once(gate: Gate) -> None:
    """For as long as a claim lasts, and only what this worker can reach; what is stored is not."""
    due, _ = await gate.storing(settle_after=0), await gate.storing()
    await gate.stored()

    claims = [await gate.unsettled("s3"), await gate.unsettled(), await gate.unsettled()]
    await gate.execute("UPDATE recording SET settle_at = now() WHERE call_id = $1", due.call_id)

    assert [set(), {due.call_id}, set()] == claims
    assert {due.call_id} == await gate.unsettled()


async def test_workers_at_once_share_what_is_unsettled(gate: Gate) -> None:
    """Nothing is claimed by two of them."""
    calls = {(await gate.storing(settle_after=0)).call_id for _ in range(20)}

    claims = await asyncio.gather(*(gate.unsettled(limit=5) for _ in range(4)))
    rest = await gate.unsettled()

    assert calls == set().union(rest, *claims)
    assert len(calls) == len(rest) + sum(map(len, claims))


# --- read and moved ---------------------------------------------------------------------------------------------------


async def unread(gate: Gate) -> list[Recording]:
    """What a worker claims to read now."""
    async with gate.database.connection() as connection:
        return await recordings.unread(connection, [PLACE], 60, 100)


async def test_a_new_recording_is_read_once(gate: Gate) -> None:
    """Its claim counts the tries; what was read, or cannot be, is not claimed again."""
    readable, broken = await gate.stored(), await gate.stored()
    claimed, meanwhile = await unread(gate), await unread(gate)
    async with gate.database.connection() as connection:
        for recording in claimed:
            if recording.call_id == readable:
                await recordings.read(
                    connection, recording, duration=1.2345, codec="mp3", sample_rate=44100, channels=1, peaks=b"\1\2"
                )
            else:
                await recordings.unreadable(connection, recording, "no sound in it")
    await gate.execute("UPDATE recording SET next_read_at = now() WHERE next_read_at IS NOT NULL")
    known, unknown = await gate.recording(readable), await gate.recording(broken)

    assert 2 == len(claimed)
    assert ([], []) == (meanwhile, await unread(gate))
    assert (1234, "mp3", 44100, 1, b"\1\2") == (
        *(known.duration_ms, known.codec, known.sample_rate, known.channels, known.peaks),
    )
    assert ("stored", "no sound in it", None) == (unknown.state, unknown.unreadable, unknown.read_at)


async def test_a_recording_moves_from_its_folder_once(gate: Gate) -> None:
    """What left while it was copied has not moved."""
    moves, leaves = await gate.stored(), await gate.stored()
    async with gate.database.connection() as connection:
        claimed = {one.call_id: one for one in await recordings.to_move(connection, PLACE, 60, 100)}
        meanwhile = await recordings.to_move(connection, PLACE, 60, 100)
        await recordings.remove(connection, gate.tenant_id, leaves)
        moved = [await recordings.moved(connection, claimed[call_id]) for call_id in (moves, leaves, moves)]

    assert {moves, leaves} == claimed.keys()
    assert [] == meanwhile
    assert [True, False, False] == moved
    assert [BUCKET, PLACE] == [(await gate.recording(call_id)).place for call_id in (moves, leaves)]


async def test_who_moves_what_leaves_is_told(gate: Gate) -> None:
    """A copy begins only while the recording stays; who drops it later finds the copy's upload, to abort it."""
    call_id = await gate.stored()
    async with gate.database.connection() as connection:
        [claimed] = await recordings.to_move(connection, PLACE, 60, 100)
        begun = await recordings.moving(connection, claimed, "copy-1")
        await recordings.remove(connection, gate.tenant_id, call_id)
        late = await recordings.moving(connection, claimed, "copy-2")

    assert (True, False) == (begun, late)
    assert "copy-1" == (await gate.recording(call_id)).move_upload_id
    assert {call_id} == await gate.leaving()


# --- leaving ----------------------------------------------------------------------------------------------------------


async def age(gate: Gate, call_id: str, days: int) -> None:
    """Let a recording be so old."""
    await gate.execute(
        "UPDATE recording SET stored_at = now() - make_interval(days => $2, secs => 60) WHERE call_id = $1",
        call_id,
        days,
    )


async def expire(gate: Gate, limit: int = 100) -> int:
    """Let what is old leave."""
    async with gate.database.connection() as connection:
        return await recordings.expire(connection, limit)


async def test_recordings_expire_by_the_days_of_their_tenant(gate: Gate) -> None:
    """Those that are older, and not held, and no more at once than asked for; then there is nothing left to expire."""
    await gate.execute("UPDATE tenant SET recording_days = 30")
    old, older, young, held = [await gate.stored() for _ in range(4)]
    for call_id, days in ((old, 30), (older, 31), (young, 29), (held, 1000)):
        await age(gate, call_id, days)
    async with gate.database.connection() as connection:
        await recordings.hold(connection, gate.tenant_id, held, held=True, reason="a dispute")

    counts = [await expire(gate, 1), await expire(gate, 1), await expire(gate, 1)]
    states = [(await gate.recording(call_id)).state for call_id in (old, older, young, held)]

    assert [1, 1, 0] == counts
    assert ["leaving", "leaving", "stored", "stored"] == states
    assert {old, older} == await gate.leaving()


async def test_a_hold_is_lifted_as_it_was_put(gate: Gate) -> None:
    """While it is on, the recording neither expires nor is removed; put again, it counts from the first time."""
    call_id = await gate.stored()
    await age(gate, call_id, 1000)
    async with gate.database.connection() as connection:
        await recordings.hold(connection, gate.tenant_id, call_id, held=True, reason="a dispute")
        first = await gate.recording(call_id)
        await recordings.hold(connection, gate.tenant_id, call_id, held=True, reason="the same dispute")
        second = await gate.recording(call_id)
        removed, expired = await recordings.remove(connection, gate.tenant_id, call_id), await expire(gate)
        await recordings.hold(connection, gate.tenant_id, call_id, held=False, reason="settled")

    assert (False, 0) == (removed, expired)
    assert first.held_at == second.held_at is not None
    assert "the same dispute" == second.hold_reason
    assert 1 == await expire(gate)


@pytest.mark.parametrize("end", ["expired", "deleted"])
async def test_what_has_left_stays_as_a_fact(gate: Gate, end: str) -> None:
    """When the bytes are gone its row, its call and the call's history say so, once; its peaks are gone with them."""
    call_id = await gate.stored()
    await gate.execute("UPDATE recording SET peaks = '\\x01'")
    await age(gate, call_id, 1000)
    async with gate.database.connection() as connection:
        if end == "deleted":
            assert await recordings.remove(connection, gate.tenant_id, call_id)
        else:
            assert await expire(gate)
        leaving = await gate.recording(call_id)
        for _ in range(2):
            await recordings.left(connection, leaving)
    gone, [call] = await gate.recording(call_id), await gate.rows("call")

    assert ("leaving", end, None) == (leaving.state, gone.state, gone.peaks)
    assert (end, 3) == (call["recording_status"], call["version"])
    assert ["RECORDING_STORED", f"RECORDING_{end.upper()}"] == [row["kind"] for row in await gate.rows("call_event")]
    assert set() == await gate.unsettled()


async def test_what_is_not_stored_is_not_removed(gate: Gate) -> None:
    """Nor is another tenant's, nor what leaves already."""
    storing, stored = await gate.storing(), await gate.stored()
    async with gate.database.connection() as connection:
        removed = [
            await recordings.remove(connection, tenant_id, call_id)
            for tenant_id, call_id in (
                (gate.tenant_id, storing.call_id),
                ("another", stored),
                (gate.tenant_id, stored),
                (gate.tenant_id, stored),
            )
        ]

    assert [False, False, True, False] == removed


async def test_a_hold_that_comes_first_keeps_a_recording_from_being_removed(gate: Gate) -> None:
    """Who removes it waits for who holds it, and then does not."""
    call_id = await gate.stored()

    async def remove() -> bool:
        async with gate.database.connection() as connection:
            return await recordings.remove(connection, gate.tenant_id, call_id)

    async with gate.database.transaction() as connection:
        await locked(connection, gate, call_id)
        removing = asyncio.create_task(remove())
        await until_blocked(gate.database)
        await recordings.hold(connection, gate.tenant_id, call_id, held=True, reason="a dispute")

    assert not await removing
    assert "stored" == (await gate.recording(call_id)).state


async def locked(connection: Connection, gate: Gate, call_id: str) -> None:
    """Lock a recording that is there."""
    assert await recordings.lock(connection, gate.tenant_id, call_id) is not None


# --- verified ---------------------------------------------------------------------------------------------------------


async def test_recordings_whose_bytes_should_be_there_are_told_page_by_page(gate: Gate) -> None:
    """All but those that have left, by call, of one tenant or of all."""
    calls = sorted([await gate.stored(), await gate.stored(), (await gate.storing()).call_id])
    gone = await gate.stored()
    async with gate.database.connection() as connection:
        await recordings.remove(connection, gate.tenant_id, gone)
        await recordings.left(connection, await gate.recording(gone))
        first = await recordings.kept(connection, None, "", 2)
        rest = await recordings.kept(connection, gate.tenant_id, first[-1].call_id, 2)
        others = await recordings.kept(connection, "another", "", 10)
        keys = [f"{gate.tenant_id}/recordings/{call_id}.mp3" for call_id in (*calls, gone)]
        owned = await recordings.owned(connection, [*keys, "nobody's"])

    assert calls == [one.call_id for one in (*first, *rest)]
    assert [] == others
    assert dict.fromkeys(keys[:3], PLACE) == owned
