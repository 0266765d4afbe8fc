"""What becomes of recordings that nobody attends to: settled, moved, read, let go, swept; after crashes, and by two."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from server import archive
from server.audio import MP3
from server.config import Config
from storage import recordings
from storage.database import Database
from storage.objects import NoSuchUpload
from storage.recordings import BUCKET, Recording
from storage.uploads import Upload
from tests.conftest import Bucket
from tests.server.record_room import AUDIO, LONG, RecordRoom, kept_in, record_room
from tests.storage.stores import keep, uploads
from tests.waiting import until

Open = Callable[..., AbstractAsyncContextManager[RecordRoom]]

OTHER = AUDIO[:-1] + bytes([AUDIO[-1] ^ 1])
"""As large as AUDIO."""

AWAY = "http://127.0.0.1:1"
"""Where no S3 server is."""

AT_ONCE = 0.001
"""Seconds of a claim that has ended when the next worker comes."""


@pytest.fixture
def keeping(database: Database, redis: Redis, configure: Callable[..., Config], s3: Bucket, tmp_path: Path) -> Open:
    """Open the stores of a worker: `keeping("s3 encrypted")`, `beside` another whose firm it serves."""

    def keeping(
        strategy: str, beside: RecordRoom | None = None, folder: str = "folder", **settings: Any
    ) -> AbstractAsyncContextManager[RecordRoom]:
        config = configure(**kept_in(strategy, s3, tmp_path / folder, **settings))
        return record_room(database, redis, config, beside)

    return keeping


@pytest.fixture
async def local(keeping: Open) -> AsyncIterator[RecordRoom]:
    """Recordings in a folder."""
    async with keeping("local") as room:
        yield room


@pytest.fixture
async def hybrid(keeping: Open) -> AsyncIterator[RecordRoom]:
    """Recordings in a spool, from where they are moved to the bucket."""
    async with keeping("hybrid") as room:
        yield room


async def open_uploads(room: RecordRoom, recording: Recording) -> list[tuple[str, str]]:
    """The uploads at the store that may still become its object."""
    return await uploads(room.stores.at(recording.place), recording.object_key)


# --- settled ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["local", "s3", "local encrypted", "s3 encrypted"])
async def test_what_appeared_whole_is_stored_though_its_node_died(keeping: Open, strategy: str) -> None:
    """The agent is told of it, once, however often the worker looks."""
    async with keeping(strategy) as room:
        recording = await room.overdue(appeared=True)
        await room.settle()
        await room.settle()

        assert "stored" == await room.state(recording)
        assert AUDIO == await room.audio(recording)
        assert ("ready", ["RECORDING_STORED"]) == await room.shown(recording)
        assert 1 == await room.told(recording)


@pytest.mark.parametrize("strategy", ["local", "s3", "local encrypted", "s3 encrypted"])
async def test_what_appeared_but_is_not_what_was_brought_is_withdrawn(keeping: Open, strategy: str) -> None:
    """Its bytes are dropped, and the call may be brought another recording."""
    async with keeping(strategy) as room:
        recording = await room.overdue(appeared=True, told=OTHER)
        await room.settle()

        assert await room.state(recording) is None
        assert [] == await room.places(recording)
        assert (None, ["RECORDING_WITHDRAWN"]) == await room.shown(recording)
        assert 0 == await room.told(recording)
        assert (await room.intake.target(room.reach, recording.call_id)).state is None


@pytest.mark.parametrize("strategy", ["local", "s3"])
async def test_what_never_appeared_is_withdrawn_and_cannot_appear_any_more(keeping: Open, strategy: str) -> None:
    """Its upload is aborted first: a node that wakes up then does not complete it."""
    async with keeping(strategy) as room:
        recording = await room.overdue(appeared=False)
        before = len(await open_uploads(room, recording))
        await room.settle()

        assert (1, []) == (before, await open_uploads(room, recording))
        assert await room.state(recording) is None
        assert [] == await room.places(recording)


async def test_what_is_still_being_stored_is_left_alone(local: RecordRoom) -> None:
    """Its node has until its time is over."""
    recording = await local.overdue(appeared=False)
    await local.execute("UPDATE recording SET settle_at = now() + interval '1 hour'")
    await local.settle()

    assert "storing" == await local.state(recording)
    assert 1 == len(await open_uploads(local, recording))


async def test_while_the_bucket_is_away_nothing_is_judged(keeping: Open) -> None:
    """What stands in the gate, and what leaves, comes due again; then it is settled."""
    async with keeping("s3") as room, keeping("s3", room, s3_endpoint_url=AWAY) as away:
        storing, leaving = await room.overdue(appeared=True), await room.stored()
        async with room.database.connection() as connection:
            await recordings.remove(connection, room.firm.tenant_id, leaving.call_id)
        await away.settle()
        put_off = [await room.state(storing), await room.state(leaving)]
        await room.due_again()
        await room.settle()

        assert ["storing", "leaving"] == put_off
        assert ["stored", "deleted"] == [await room.state(storing), await room.state(leaving)]


async def test_what_lies_in_a_folder_elsewhere_is_left_to_who_sees_it(keeping: Open) -> None:
    """A worker does not judge what it cannot see."""
    async with keeping("local") as here, keeping("local", here, folder="elsewhere") as elsewhere:
        recording = await here.overdue(appeared=True)
        await elsewhere.settle()
        left_alone = await here.state(recording)
        await here.settle()

        assert ("storing", "stored") == (left_alone, await here.state(recording))


@pytest.mark.parametrize("claim", [60.0, AT_ONCE], ids=["shared", "each all"])
async def test_two_workers_at_once_settle_to_the_same_end(keeping: Open, claim: float) -> None:
    """Whether they share what is due, or one takes over what the other is still at."""
    async with keeping("local", settle_after=claim) as one, keeping("local", one, settle_after=claim) as two:
        whole = [await one.overdue(appeared=True) for _ in range(6)]
        wrong = [await one.overdue(appeared=True, told=OTHER) for _ in range(3)]
        lost = [await one.overdue(appeared=False) for _ in range(3)]
        for _ in range(2):
            await asyncio.gather(one.settle(), two.settle())

        assert ["stored"] * 6 == [await one.state(recording) for recording in whole]
        assert [1] * 6 == [await one.told(recording) for recording in whole]
        assert [None] * 6 == [await one.state(recording) for recording in (*wrong, *lost)]


async def test_one_that_cannot_be_settled_does_not_keep_the_others(keeping: Open) -> None:
    """Such as one whose key nobody has: it is neither taken nor withdrawn."""
    async with keeping("local encrypted") as room:
        locked, whole = await room.overdue(appeared=True), await room.overdue(appeared=True)
        other = b"\1\1k" + bytes(60)
        await room.execute(
            "INSERT INTO tenant_key (tenant_id, id, sealed) VALUES ($1, 2, $2)", room.firm.tenant_id, other
        )
        await room.execute("UPDATE recording SET key_id = 2 WHERE call_id = $1", locked.call_id)
        await room.settle()

        assert ["storing", "stored"] == [await room.state(locked), await room.state(whole)]
        assert ["folder"] == await room.places(locked)


# --- let go -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["local", "s3"])
async def test_a_recording_expires_when_its_tenant_keeps_it_no_longer(keeping: Open, strategy: str) -> None:
    """After as many days as the tenant says, not before; its bytes go, and the call says that there was one."""
    async with keeping(strategy) as room:
        await room.execute("UPDATE tenant SET recording_days = 30")
        old, young, held = [await room.stored() for _ in range(3)]
        for recording, days in ((old, 31), (young, 29), (held, 1000)):
            await room.age(recording, days)
        async with room.database.connection() as connection:
            await recordings.hold(connection, held.tenant_id, held.call_id, held=True, reason="a lawsuit")
        await room.archive.expire()
        await room.settle()

        assert ["expired", "stored", "stored"] == [await room.state(one) for one in (old, young, held)]
        assert [] == await room.places(old)
        assert ("expired", ["RECORDING_STORED", "RECORDING_EXPIRED"]) == await room.shown(old)
        assert [AUDIO, AUDIO] == [await room.audio(young), await room.audio(held)]


async def test_what_was_held_expires_when_it_is_released(local: RecordRoom) -> None:
    """The hold only puts it off."""
    recording = await local.stored()
    await local.age(recording, 1000)
    for held in (True, False):
        async with local.database.connection() as connection:
            await recordings.hold(connection, recording.tenant_id, recording.call_id, held=held, reason="a lawsuit")
    await local.archive.expire()

    assert "leaving" == await local.state(recording)


async def test_recordings_expire_in_batches(local: RecordRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that are due, however many a statement takes."""
    monkeypatch.setattr(archive, "EXPIRE_AT_ONCE", 2)
    for recording in (old := [await local.stored() for _ in range(5)]):
        await local.age(recording, 91)
    await local.archive.expire()

    assert ["leaving"] * 5 == [await local.state(recording) for recording in old]


async def test_after_a_crash_between_object_and_row_the_row_is_settled(local: RecordRoom) -> None:
    """The object goes first, so nothing is forgotten that is still there; and nothing is told twice."""
    recording = await local.stored()
    await local.age(recording, 91)
    await local.archive.expire()
    await local.stores.at(recording.place).delete(recording.object_key)
    for _ in range(2):
        await local.settle()
        await local.due_again()

    assert "expired" == await local.state(recording)
    assert ("expired", ["RECORDING_STORED", "RECORDING_EXPIRED"]) == await local.shown(recording)


# --- moved ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["hybrid", "hybrid encrypted"])
@pytest.mark.parametrize("audio", [AUDIO, LONG], ids=["one part", "many"])
async def test_a_recording_moves_from_the_spool_to_the_bucket(keeping: Open, strategy: str, audio: bytes) -> None:
    """It is the same recording there, and the spool is empty."""
    async with keeping(strategy) as room:
        recording = await room.stored(audio)
        before = await room.places(recording)
        await room.archive.move()

        assert (["folder"], [BUCKET]) == (before, await room.places(recording))
        assert BUCKET == (await room.recording(recording.call_id)).place
        assert audio == await room.audio(recording)
        assert 1 == await room.told(recording)


async def test_a_copy_that_is_not_whole_is_not_taken(hybrid: RecordRoom) -> None:
    """The spool keeps what it has; when the copy reads back as what was brought, it is taken."""
    recording = await hybrid.stored()
    whole = await hybrid.tamper(recording)
    await hybrid.archive.move()
    after = await hybrid.recording(recording.call_id)
    kept = await hybrid.places(recording)
    await keep(hybrid.stores.at(recording.place), recording.object_key, whole)
    await hybrid.due_again()
    await hybrid.archive.move()

    assert (recording.place, "stored") == (after.place, after.state)
    assert "folder" in kept
    assert [BUCKET] == await hybrid.places(recording)
    assert AUDIO == await hybrid.audio(recording)


async def test_while_the_bucket_is_away_the_spool_keeps_what_it_has(keeping: Open) -> None:
    """Nothing is lost, and the next time it is moved."""
    async with keeping("hybrid") as room, keeping("hybrid", room, s3_endpoint_url=AWAY) as away:
        recording = await room.stored()
        await away.archive.move()
        heard = await room.audio(recording)
        await room.due_again()
        await room.archive.move()

        assert AUDIO == heard
        assert [BUCKET] == await room.places(recording)


async def test_what_is_missing_in_the_spool_is_not_moved(hybrid: RecordRoom) -> None:
    """No empty object takes its place, and its row stays for `verify` to tell."""
    recording = await hybrid.stored()
    await hybrid.stores.at(recording.place).delete(recording.object_key)
    await hybrid.archive.move()

    assert [] == await hybrid.places(recording)
    assert [] == await uploads(hybrid.stores.at(BUCKET), recording.object_key)
    assert "stored" == await hybrid.state(recording)


async def test_a_recording_that_leaves_while_it_is_moved_leaves_no_copy(hybrid: RecordRoom) -> None:
    """The worker that copied it takes its copy away, also where another has dropped the recording by then."""
    for dropped_by_then in (False, True):
        recording = await hybrid.stored()
        claimed = await _claim(hybrid)
        async with hybrid.database.connection() as connection:
            assert await recordings.remove(connection, recording.tenant_id, recording.call_id)
        if dropped_by_then:
            await hybrid.due_again()
            await hybrid.settle()
            await keep(hybrid.stores.at(recording.place), recording.object_key, AUDIO)  # as it was when it was read
        await hybrid.archive._move(claimed)
        assert BUCKET not in await hybrid.places(recording)
        await hybrid.due_again()
        await hybrid.settle()

        assert "deleted" == await hybrid.state(recording)


async def test_a_copy_cannot_be_completed_once_its_recording_is_dropped(hybrid: RecordRoom) -> None:
    """Who drops it aborts the copy first: a worker that was stopped in its midst leaves nothing in the bucket."""
    recording = await hybrid.stored()
    claimed = await _claim(hybrid)
    bucket = hybrid.stores.at(BUCKET)
    copy = await bucket.begin(recording.object_key, recording.media_type)
    part = await bucket.put_part(recording.object_key, copy, 1, 0, AUDIO)
    async with hybrid.database.connection() as connection:
        await recordings.moving(connection, claimed, copy)
        await recordings.remove(connection, recording.tenant_id, recording.call_id)
    await hybrid.settle()

    with pytest.raises(NoSuchUpload):
        await bucket.complete(recording.object_key, copy, [part])
    assert "deleted" == await hybrid.state(recording)
    assert [] == await hybrid.places(recording)


@pytest.mark.parametrize("claim", [60.0, AT_ONCE], ids=["shared", "each all"])
async def test_two_workers_at_once_move_to_the_same_end(keeping: Open, claim: float) -> None:
    """Every recording is in the bucket, and can be heard."""
    async with keeping("hybrid", settle_after=claim) as one, keeping("hybrid", one, settle_after=claim) as two:
        moved = [await one.stored() for _ in range(6)]
        for _ in range(2):
            await asyncio.gather(one.archive.move(), two.archive.move())

        assert [[BUCKET]] * 6 == [await one.places(recording) for recording in moved]
        assert [AUDIO] * 6 == [await one.audio(recording) for recording in moved]


@pytest.mark.parametrize("strategy", ["hybrid", "hybrid encrypted"])
async def test_who_listens_while_a_recording_is_moved_hears_it_to_the_end(keeping: Open, strategy: str) -> None:
    """Whether he had begun, or had only been told where it rests."""
    async with keeping(strategy) as room:
        recording = await room.stored(LONG)
        async with aclosing(room.stores.read(recording, len(LONG), 0, len(LONG))) as pieces:
            begun = await anext(pieces)
            await room.archive.move()
            rest = b"".join([piece async for piece in pieces])
        later = b"".join([piece async for piece in room.stores.read(recording, len(LONG), 70_000, 90_000)])

        assert [BUCKET] == await room.places(recording)
        assert LONG == begun + rest
        assert LONG[70_000:90_000] == later


async def _claim(room: RecordRoom) -> Recording:
    """What a worker claims that moves the one recording there is to move."""
    assert room.stores.spool is not None
    async with room.database.connection() as connection:
        (claimed,) = await recordings.to_move(connection, room.stores.spool, 60.0, 10)
    return claimed


# --- read -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["local", "local encrypted", "s3 encrypted"])
async def test_what_audio_a_recording_is_is_read_and_kept(keeping: Open, strategy: str) -> None:
    """Duration, codec, rate, channels and peaks."""
    async with keeping(strategy) as room:
        stored = await room.stored()
        await room.archive.read()
        read = await room.recording(stored.call_id)

        assert ("mp3", 44100, 1) == (read.codec, read.sample_rate, read.channels)
        assert 1000 == pytest.approx(read.duration_ms, abs=100)
        assert read.read_at is not None
        assert read.unreadable is None
        assert max(read.peaks or b"") > 128


async def test_what_is_no_audio_is_kept_and_called_unreadable(local: RecordRoom) -> None:
    """Once: nobody tries again what will not go."""
    noise = b"OggS\0" + bytes(5000)
    stored = await local.stored(noise)
    for _ in range(2):
        await local.archive.read()
        await local.due_again()
    read = await local.recording(stored.call_id)

    assert "stored" == read.state
    assert read.unreadable
    assert noise == await local.audio(stored)


async def test_one_that_is_missing_does_not_keep_others_from_being_read(local: RecordRoom) -> None:
    """It is called unreadable."""
    missing, there = await local.stored(), await local.stored()
    await local.stores.at(missing.place).delete(missing.object_key)
    await local.archive.read()

    assert (await local.recording(missing.call_id)).unreadable is not None
    assert (await local.recording(there.call_id)).read_at is not None


async def test_a_store_that_is_away_is_asked_again(keeping: Open) -> None:
    """However long it is away, nothing is said of the audio; when it is back it is read."""
    async with keeping("s3") as room, keeping("s3", room, s3_endpoint_url=AWAY) as away:
        stored = await room.stored()
        for _ in range(6):
            await away.archive.read()
            await room.due_again()
        meanwhile = (await room.recording(stored.call_id)).unreadable
        await room.archive.read()

        assert meanwhile is None
        assert (await room.recording(stored.call_id)).read_at is not None


# --- swept ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["local", "s3"])
async def test_an_upload_that_nobody_goes_on_with_is_dropped(keeping: Open, strategy: str) -> None:
    """Its parts and its row; one that goes on is left alone, and so is one that stands in the gate."""
    async with keeping(strategy) as room:
        given_up, going_on = await _begun(room), await _begun(room)
        storing = await room.overdue(appeared=False)
        await room.execute(
            "UPDATE recording_upload SET expires_at = now() WHERE call_id = ANY ($1)",
            [given_up.call_id, storing.call_id],
        )
        await room.archive.sweep()

        assert sorted([going_on.call_id, storing.call_id]) == await room.column(
            "SELECT call_id FROM recording_upload ORDER BY call_id"
        )
        assert {going_on.object_key, storing.object_key} == {
            key for key, _ in await uploads(room.stores.at(given_up.place), f"{room.firm.tenant_id}/")
        }


@pytest.mark.parametrize("strategy", ["local", "s3"])
async def test_an_upload_that_only_the_store_knows_is_dropped_when_it_is_old(keeping: Open, strategy: str) -> None:
    """What a crash left between the store and us, after the time that any upload may take; no sooner."""
    async with keeping(strategy) as room:
        store, key = room.stores.at(room.stores.place), f"{room.firm.tenant_id}/lost.mp3"
        await store.begin(key, "audio/mpeg")
        known = await _begun(room)
        await room.archive.sweep()
        young = await uploads(store, key)
        room.archive._upload_age = -timedelta(hours=1)
        await room.archive.sweep()

        assert 1 == len(young)
        assert [] == await uploads(store, key)
        assert 1 == len(await uploads(store, known.object_key))


async def test_what_a_crash_left_in_the_spool_is_swept(keeping: Open) -> None:
    """Between saying that a recording rests in the bucket and emptying the spool; what rests in the spool stays."""
    async with keeping("hybrid", settle_after=AT_ONCE) as room:
        moved = await room.stored()
        await room.archive.move()
        await keep(room.stores.at(moved.place), moved.object_key, AUDIO)
        resting = await room.stored()

        async def swept() -> bool:
            await room.archive.sweep()
            return await room.places(moved) == [BUCKET]

        await until(swept)

        assert ["folder"] == await room.places(resting)
        assert AUDIO == await room.audio(moved)


async def test_what_was_deleted_elsewhere_is_swept_from_the_spool(keeping: Open) -> None:
    """A worker that does not see this spool dropped the recording; here a crash had left its bytes."""
    async with keeping("hybrid", settle_after=AT_ONCE) as here, keeping("s3", here) as elsewhere:
        recording = await here.stored()
        await here.archive.move()
        await keep(here.stores.at(recording.place), recording.object_key, AUDIO)
        async with here.database.connection() as connection:
            await recordings.remove(connection, recording.tenant_id, recording.call_id)
        await elsewhere.settle()
        dropped = await here.state(recording), await here.places(recording)

        async def swept() -> bool:
            await here.archive.sweep()
            return await here.places(recording) == []

        await until(swept)

        assert ("deleted", ["folder"]) == dropped


async def test_a_store_that_is_away_does_not_keep_another_from_being_swept(keeping: Open) -> None:
    """The bucket is asked again the next time."""
    async with keeping("hybrid", s3_endpoint_url=AWAY) as room:
        lost = f"{room.firm.tenant_id}/lost.mp3"
        for place in room.stores.places:
            if place != BUCKET:
                await room.stores.at(place).begin(lost, "audio/mpeg")
        room.archive._upload_age = -timedelta(hours=1)
        await room.archive.sweep()

        assert [] == await uploads(room.stores.at(room.stores.place), lost)


async def _begun(room: RecordRoom) -> Upload:
    """An upload by a phone that may go on for an hour."""
    target = await room.intake.target(room.reach, await room.call())
    upload, _ = await room.intake.begin(target, "phone", room.firm.device_id, MP3, 3600)
    return upload
