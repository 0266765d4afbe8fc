"""Whether every recording has its bytes, and all bytes a recording: each way in which that may not be so is told."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from protocol.errors import DialdeskError
from server import verify
from server.config import Config
from server.verify import Discrepancy, verification
from storage import recordings
from storage.database import Database
from storage.recordings import BUCKET, Recording
from tests.conftest import Bucket
from tests.server.record_room import AUDIO, RecordRoom, kept_in, record_room
from tests.storage.stores import keep

Open = Callable[..., AbstractAsyncContextManager[RecordRoom]]


@pytest.fixture
def keeping(database: Database, redis: Redis, configure: Callable[..., Config], s3: Bucket, tmp_path: Path) -> Open:
    """Open stores of some strategy, `beside` another room whose firm they serve."""

    def keeping(
        strategy: str, beside: RecordRoom | None = None, folder: str = "folder", **settings: Any
    ) -> AbstractAsyncContextManager[RecordRoom]:
        return record_room(database, redis, configure(**kept_in(strategy, s3, tmp_path / folder, **settings)), beside)

    return keeping


@pytest.fixture
async def local(keeping: Open) -> AsyncIterator[RecordRoom]:
    """Recordings in a folder."""
    async with keeping("local") as room:
        yield room


async def found(room: RecordRoom, *, tenant_id: str | None = None, deep: bool = False) -> list[Discrepancy]:
    """What is not as it should be, by the configuration of the room."""
    async with verification(room.config, tenant_id=tenant_id, deep=deep, progress=lambda _: None) as verify:
        return [discrepancy async for discrepancy in verify.run()]


def of(recording: Recording, kind: Any, reason: str = "", place: str | None = None) -> Discrepancy:
    """What is said of a recording."""
    return Discrepancy(kind, place or recording.place, recording.object_key, recording.call_id, reason)


@pytest.mark.parametrize("strategy", ["local", "local encrypted", "s3", "hybrid encrypted"])
@pytest.mark.parametrize("deep", [False, True])
async def test_where_all_is_well_nothing_is_found(keeping: Open, strategy: str, deep: bool) -> None:
    """In every store, be it looked at or read to the end; and all of it was compared, which is told meanwhile."""
    told: list[int] = []
    async with keeping(strategy) as room:
        for _ in range(3):
            await room.stored()
        async with verification(
            room.config, tenant_id=room.firm.tenant_id, deep=deep, progress=told.append
        ) as verification_:
            discrepancies = [discrepancy async for discrepancy in verification_.run()]

    assert [] == discrepancies
    assert 6 == verification_.looked_at == told[-1]


async def test_a_recording_without_its_bytes_is_missing(local: RecordRoom) -> None:
    """Others are not."""
    missing, _ = await local.stored(), await local.stored()
    await local.stores.at(missing.place).delete(missing.object_key)

    assert [of(missing, "missing")] == await found(local)


@pytest.mark.parametrize("strategy", ["local", "local encrypted"])
async def test_bytes_that_are_too_few_are_damaged(keeping: Open, strategy: str) -> None:
    """That is seen without reading them."""
    async with keeping(strategy) as room:
        cut = await room.stored()
        size = room.stores.size_at_rest(cut)
        await keep(room.stores.at(cut.place), cut.object_key, bytes(size - 1))

        assert [of(cut, "damaged", f"{size - 1} bytes, not {size}")] == await found(room)


@pytest.mark.parametrize(
    ("strategy", "reason"), [("local", "another sha256"), ("s3 encrypted", "chunk 0 is not what was sealed for {}")]
)
async def test_other_bytes_are_damaged_where_they_are_read(keeping: Open, strategy: str, reason: str) -> None:
    """A turned bit shows by --deep only."""
    async with keeping(strategy) as room:
        damaged = await room.stored()
        await room.tamper(damaged)

        assert [] == await found(room, tenant_id=damaged.tenant_id)
        assert [of(damaged, "damaged", reason.format(damaged.call_id))] == await found(
            room, tenant_id=damaged.tenant_id, deep=True
        )


async def test_what_cannot_be_decrypted_is_damaged(keeping: Open) -> None:
    """Its key is named."""
    async with keeping("local encrypted") as room:
        locked = await room.stored()
        await room.execute("UPDATE tenant_key SET sealed = $1", b"\1\3old" + bytes(60))
        (discrepancy,) = await found(room, deep=True)

    assert ("damaged", locked.call_id) == (discrepancy.kind, discrepancy.call_id)
    assert "'old'" in discrepancy.reason


async def test_bytes_without_a_recording_are_an_orphan(local: RecordRoom) -> None:
    """So are those of a recording that is gone."""
    deleted = await local.stored()
    async with local.database.connection() as connection:
        await recordings.remove(connection, deleted.tenant_id, deleted.call_id)
    await local.settle()
    keys = sorted([f"{local.firm.tenant_id}/lost.mp3", deleted.object_key])
    for key in keys:
        await keep(local.stores.at(deleted.place), key, b"lost")
    discrepancies = sorted(await found(local), key=lambda discrepancy: discrepancy.key)

    assert [Discrepancy("orphan", deleted.place, key, reason="4 bytes") for key in keys] == discrepancies


async def test_what_is_on_its_way_is_as_it_should_be(keeping: Open) -> None:
    """What is being stored, with its bytes or without, what is being moved, and what leaves."""
    async with keeping("hybrid") as room:
        await room.overdue(appeared=True)
        await room.overdue(appeared=False)
        leaving, moving = await room.stored(), await room.stored()
        async with room.database.connection() as connection:
            await recordings.remove(connection, leaving.tenant_id, leaving.call_id)
        await keep(room.stores.at(BUCKET), moving.object_key, AUDIO)

        assert [] == await found(room, tenant_id=room.firm.tenant_id, deep=True)


async def test_what_moves_or_leaves_while_it_is_looked_for_is_not_missing(keeping: Open) -> None:
    """Its row was read when the bytes were still there."""
    async with keeping("hybrid") as room:
        moved, dropped = await room.stored(), await room.stored()
        async with room.database.connection() as connection:
            await recordings.remove(connection, dropped.tenant_id, dropped.call_id)
        await room.settle()
        await room.archive.move()
        async with verification(room.config, tenant_id=None, deep=False, progress=lambda _: None) as late:
            told = [await late._of_row(recording) for recording in (moved, dropped)]

        assert [None, None] == told


async def test_a_copy_in_the_spool_of_what_rests_in_the_bucket_is_told(keeping: Open) -> None:
    """A sweep takes it."""
    async with keeping("hybrid") as room:
        moved = await room.stored()
        await room.archive.move()
        await keep(room.stores.at(moved.place), moved.object_key, AUDIO)
        copy = Discrepancy("copy", moved.place, moved.object_key, reason="it rests at s3")

        assert [copy] == await found(room, tenant_id=moved.tenant_id)


async def test_what_lies_in_a_folder_elsewhere_is_unreachable(keeping: Open) -> None:
    """It is not called missing: run this there."""
    async with keeping("local") as here, keeping("local", here, folder="elsewhere") as elsewhere:
        recording = await here.stored()

        assert [of(recording, "unreachable", "not a store of this machine")] == await found(elsewhere)
        assert [] == await found(here)


async def test_what_lies_in_a_bucket_that_is_away_is_unreachable(keeping: Open) -> None:
    """Each recording, and the bucket itself."""
    async with keeping("s3") as room, keeping("s3", room, s3_endpoint_url="http://127.0.0.1:1") as away:
        recording = await room.stored()
        of_row, of_store = await found(away)

    assert ("unreachable", recording.call_id) == (of_row.kind, of_row.call_id)
    assert ("unreachable", BUCKET, "") == (of_store.kind, of_store.place, of_store.key)
    assert "not within reach" in of_store.reason


async def test_one_tenant_may_be_looked_at_alone(local: RecordRoom) -> None:
    """What is amiss with others is not told."""
    missing = await local.stored()
    store = local.stores.at(missing.place)
    await store.delete(missing.object_key)
    await local.execute("INSERT INTO tenant (id, code, name) VALUES ('tenant_other', 'other', 'Other')")
    await keep(store, "tenant_other/lost.mp3", b"lost")

    assert {"missing", "orphan"} == {discrepancy.kind for discrepancy in await found(local)}
    assert [of(missing, "missing")] == await found(local, tenant_id=missing.tenant_id)
    assert ["orphan"] == [one.kind for one in await found(local, tenant_id="tenant_other")]


async def test_a_tenant_that_is_not_there_is_refused(local: RecordRoom) -> None:
    """Else a mistyped id would look like a tenant with which all is well."""
    with pytest.raises(DialdeskError, match="tenant_typo"):
        await found(local, tenant_id="tenant_typo")


async def test_everything_is_compared_in_batches(local: RecordRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr(verify, "BATCH", 2)
    stored = [await local.stored() for _ in range(5)]
    for recording in (stored[0], stored[4]):
        await local.stores.at(recording.place).delete(recording.object_key)

    assert [of(stored[0], "missing"), of(stored[4], "missing")] == await found(local)
