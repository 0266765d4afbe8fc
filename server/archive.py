"""What becomes of recordings that nobody attends to: the chores by which each is at last whole, moved, read, or gone.

Every chore claims rows for `SETTLE_AFTER` seconds, looks at the objects themselves, and may be done twice, by two
workers at once or again after a crash, with the same end.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import structlog

from protocol.errors import DialdeskError
from server.audio import Unreadable, read_audio
from server.config import Config
from server.intake import Intake
from server.stores import Stores
from server.telemetry import Metrics
from storage import recordings, uploads
from storage.chunks import Tampered
from storage.database import Database
from storage.objects import PART, NoSuchObject, NoSuchUpload, Store, StoreError
from storage.recordings import BUCKET, Recording
from storage.uploads import Upload
from storage.vault import SealError

log = structlog.get_logger()

T = TypeVar("T")

AT_ONCE = 8
"""Recordings that one worker attends to at a time."""

EXPIRE_AT_ONCE = 1000
DROP_AT_ONCE = 200

READ_DEADLINE = 120.0
"""Seconds that reading the audio of one recording may take."""

_COPY = "dialdesk-recording-"
"""What begins the names of folders, in the system's temporary one, with copies that are being read."""


class Archive:
    """The chores of a worker that keep recordings. Each returns when what was due is done, or put off."""

    def __init__(self, database: Database, stores: Stores, intake: Intake, metrics: Metrics, config: Config) -> None:
        self._database = database
        self._stores = stores
        self._intake = intake
        self._metrics = metrics
        self._lease = config.settle_after
        self._upload_age = timedelta(seconds=config.upload_expiry + config.upload_timeout)

    async def settle(self) -> None:
        """Look what became of recordings whose storing did not end in time."""
        async with self._database.connection() as connection:
            due = await recordings.unsettled(connection, self._stores.places, self._lease, AT_ONCE)
        await self._each(due, self._settle)

    async def drop(self) -> None:
        """Drop the bytes of recordings that leave, for as long as there are any."""
        while True:
            async with self._database.connection() as connection:
                due = await recordings.to_drop(connection, self._stores.places, self._lease, DROP_AT_ONCE)
            await self._each(due, self._drop_object)
            if len(due) < DROP_AT_ONCE:
                return

    async def move(self) -> None:
        """Move what lies in this machine's spool to the bucket."""
        if self._stores.spool is None:
            return
        async with self._database.connection() as connection:
            due = await recordings.to_move(connection, self._stores.spool, self._lease, AT_ONCE)
        await self._each(due, self._move)

    async def expire(self) -> None:
        """Let recordings leave that are older than their tenants keep them (seed 003 §8.5)."""
        async with self._database.connection() as connection:
            while await recordings.expire(connection, EXPIRE_AT_ONCE) == EXPIRE_AT_ONCE:
                pass

    async def sweep(self) -> None:
        """Drop uploads that nobody goes on with, and those of the stores that nobody here ever heard of."""
        async with self._database.connection() as connection:
            due = await uploads.expired(connection, self._stores.places, self._lease, 20 * AT_ONCE)
        await self._each(due, self._drop)
        await self._each(self._stores.places, self._sweep_store)
        await asyncio.to_thread(_sweep_copies)
        if self._stores.spool is not None:
            await self._each([self._stores.spool], self._sweep_spool)

    async def read(self) -> None:
        """Read what audio new recordings are: duration, codec and the peaks that a player draws."""
        async with self._database.connection() as connection:
            due = await recordings.unread(connection, self._stores.places, READ_DEADLINE * 2, AT_ONCE)
        await self._each(due, self._read)

    # ------------------------------------------------------------------------------------------------------------------

    async def _each(self, due: Sequence[T], attend: Callable[[T], Awaitable[None]]) -> None:
        """Attend to what was claimed; what fails is told, and comes due again by itself when its claim ends."""

        async def one(item: T) -> None:
            try:
                await attend(item)
            except (StoreError, DialdeskError) as error:
                log.warning("put off", chore=attend.__name__, cause=str(error))
            except Exception:
                log.exception("chore failed", chore=attend.__name__)

        places = asyncio.Semaphore(AT_ONCE)

        async def in_turn(item: T) -> None:
            async with places:
                await one(item)

        async with asyncio.TaskGroup() as group:
            for item in due:
                group.create_task(in_turn(item))

    async def _settle(self, recording: Recording) -> None:
        store = self._stores.at(recording.place)
        if not await self._appeared(store, recording):
            # After this nothing can make the object appear any more: but it may have, a moment ago.
            await store.abort(recording.object_key, recording.store_upload_id)
            if not await self._appeared(store, recording):
                await self._withdraw(recording, "it never appeared")
                return
        if await self._is_whole(recording, recording.place):
            await self._intake.finish(recording, recording.size, recording.sha256)
            self._metrics.recordings.labels("settled").inc()
        else:
            await self._intake.take_back(recording)
            self._withdrawn(recording, "it is not what was brought")

    @staticmethod
    async def _appeared(store: Store, recording: Recording) -> bool:
        try:
            await store.stat(recording.object_key)
        except NoSuchObject:
            return False
        return True

    async def _withdraw(self, recording: Recording, reason: str) -> None:
        async with self._database.connection() as connection:
            await recordings.withdraw(connection, recording)
        self._withdrawn(recording, reason)

    def _withdrawn(self, recording: Recording, reason: str) -> None:
        log.warning("recording withdrawn", call_id=recording.call_id, reason=reason)
        self._metrics.recordings.labels("withdrawn").inc()

    async def _is_whole(self, recording: Recording, place: str) -> bool:
        """Whether what lies there is what was brought."""
        try:
            doubt = await self._intake.doubt(recording, recording.size, recording.sha256, place)
        except NoSuchObject:
            doubt = DialdeskError("RECORDING_MISSING")
        if doubt is not None:
            log.warning("recording not whole", call_id=recording.call_id, place=place, reason=str(doubt))
        return doubt is None

    async def _drop_object(self, recording: Recording) -> None:
        """The object first, wherever a move may have left one or is about to, then the row."""
        if recording.move_upload_id is not None and self._stores.reaches(BUCKET):
            await self._stores.at(BUCKET).abort(recording.object_key, recording.move_upload_id)
        for place in {recording.place, *self._stores.places}:
            await self._stores.at(place).delete(recording.object_key)
        async with self._database.connection() as connection:
            await recordings.left(connection, recording)
        log.info("recording dropped", call_id=recording.call_id)
        self._metrics.recordings.labels("dropped").inc()

    async def _move(self, recording: Recording) -> None:
        """Copy to the bucket, read the copy back, say where it is, and only then empty the spool."""
        spool, bucket = self._stores.at(recording.place), self._stores.at(BUCKET)
        try:
            if not await self._copy(recording, spool, bucket):
                return
        except NoSuchObject:
            log.exception("recording missing", call_id=recording.call_id, place=recording.place)
            self._metrics.recordings.labels("missing").inc()
            return
        if not await self._is_whole(recording, BUCKET):
            log.error("recording not moved: the copy is not whole", call_id=recording.call_id)
            self._metrics.recordings.labels("not_moved").inc()
            return
        async with self._database.connection() as connection:
            moved = await recordings.moved(connection, recording)
        if not moved:  # it left, or another worker moved it: what is not there any more has no copy either
            async with self._database.connection() as connection:
                standing = await recordings.lock(connection, recording.tenant_id, recording.call_id)
            if standing is None or standing.state != "stored":
                await bucket.delete(recording.object_key)
                return
        await spool.delete(recording.object_key)
        self._metrics.recordings.labels("moved").inc()

    async def _copy(self, recording: Recording, spool: Store, bucket: Store) -> bool:
        """Copy the bytes as they lie; False where the recording leaves meanwhile. Raises NoSuchObject."""
        key = recording.object_key
        size = (await spool.stat(key)).size
        upload_id = await bucket.begin(key, recording.media_type)
        try:
            async with self._database.connection() as connection:
                if not await recordings.moving(connection, recording, upload_id):
                    await bucket.abort(key, upload_id)
                    return False
            parts = []
            for number, start in enumerate(range(0, size, PART), start=1):
                async with aclosing(spool.read(key, start, min(start + PART, size))) as pieces:
                    content = b"".join([piece async for piece in pieces])
                parts.append(await bucket.put_part(key, upload_id, number, start, content))
            await bucket.complete(key, upload_id, parts)
        except NoSuchUpload as error:
            raise StoreError(f"the copy of {key} was aborted") from error
        except BaseException:
            await bucket.abort(key, upload_id)
            raise
        return True

    async def _drop(self, upload: Upload) -> None:
        await self._stores.at(upload.place).abort(upload.object_key, upload.store_upload_id)
        async with self._database.connection() as connection:
            await uploads.forget(connection, upload)
        self._metrics.recordings.labels("upload_dropped").inc()

    async def _sweep_store(self, place: str) -> None:
        """A crash between the store's beginning and ours leaves an upload that only the store knows."""
        store = self._stores.at(place)
        before = datetime.now(UTC) - self._upload_age
        old = [upload async for upload in store.open_uploads() if upload.begun_at < before]
        async with self._database.connection() as connection:
            known = await uploads.known(connection, [upload.upload_id for upload in old])
        for upload in old:
            if upload.upload_id not in known:
                await store.abort(upload.key, upload.upload_id)
                self._metrics.recordings.labels("upload_dropped").inc()

    async def _sweep_spool(self, place: str) -> None:
        """A crash between saying that a recording was moved and emptying the spool leaves the spool's copy: also of one
        that is gone by now, dropped by a worker that does not see this spool."""
        spool = self._stores.at(place)
        before = datetime.now(UTC) - timedelta(seconds=self._lease)
        old = [found.key async for found in spool.objects() if found.modified < before]
        async with self._database.connection() as connection:
            left = await recordings.left_behind(connection, old)
        for key in left:
            await spool.delete(key)

    async def _read(self, recording: Recording) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix=_COPY) as folder:
                file = Path(folder) / "recording"
                await self._download(recording, file)
                facts = await read_audio(file, timeout=READ_DEADLINE)
        except (Unreadable, NoSuchObject, Tampered, SealError) as error:
            async with self._database.connection() as connection:
                await recordings.unreadable(connection, recording, str(error)[:200])
            log.warning("recording unreadable", call_id=recording.call_id, cause=repr(error))
            self._metrics.recordings.labels("unreadable").inc()
            return
        except OSError as error:  # no room here: it comes due again
            raise StoreError(str(error)) from error
        async with self._database.connection() as connection:
            await recordings.read(
                connection,
                recording,
                duration=facts.duration,
                codec=facts.codec,
                sample_rate=facts.sample_rate,
                channels=facts.channels,
                peaks=facts.peaks,
            )
        self._metrics.recordings.labels("read").inc()

    async def _download(self, recording: Recording, file: Path) -> None:
        with await asyncio.to_thread(file.open, "wb") as target:
            async with aclosing(self._stores.read(recording, recording.size, 0, recording.size)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(target.write, piece)


def _sweep_copies() -> None:
    """Drop copies that a worker left which was killed while it read them: nobody reads one for an hour."""
    before = time.time() - 3600
    for folder in Path(tempfile.gettempdir()).glob(f"{_COPY}*"):
        try:
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder)
        except OSError as error:  # another worker's, of another user, or just gone
            log.info("copy not swept", cause=str(error))
