"""The one way by which recordings come to be kept, whoever brings them (docs/recordings.md).

The bytes go to the store while they arrive, and then through one gate: the recording's row is inserted before its
object appears, and becomes `stored`, with the agent told, after it was seen to be whole. What fails before the gate
leaves nothing behind; what fails within it is settled by the worker (archive.py), which looks at the object itself.
"""

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from io import BytesIO
from typing import Self

import msgspec
import structlog

from protocol.errors import DialdeskError
from protocol.identifiers import new_id
from protocol.messages import RecordingReady
from protocol.timestamps import epoch_ms
from server.audio import AudioType, audio_type
from server.config import Config
from server.http import Answer
from server.relay import Relay
from server.room import Room
from server.stores import Stores
from server.telemetry import Metrics
from storage import recordings, uploads
from storage.calls import Reach
from storage.chunks import CHUNK, ChunkCipher, Tampered, sealed_size
from storage.database import Database
from storage.objects import PART, NoSuchObject, NoSuchUpload, Part, Store, StoreError, StoreFull
from storage.recordings import Bytes, Source, Target, recording_url
from storage.uploads import Upload

log = structlog.get_logger()

HEAD = 4096
"""Bytes from which the kind of audio is told."""

_UNDER_WAY = 2
"""Parts of one upload that are on their way to the store at a time."""

_SHARE = (_UNDER_WAY + 1) * PART
"""Bytes that one upload holds in memory at most: the parts on their way, and one that fills; a part that is sealed, of
which there are two then, takes the room of one on its way."""

_SLOWEST = 5 * 1024 * 1024
"""Bytes a second at which a store puts parts together, or reads them back, at the slowest: so long a worker waits."""

_AT_ONCE_EACH = 3
"""Requests that one phone or person may bring files by at a time, so that none holds all the memory there is."""

_DROP_DEADLINE = 20.0
"""Seconds that dropping an upload may take; the worker drops what is left."""


class Stored(Answer, frozen=True, kw_only=True):
    """The recording is kept, whole; it is played at `recordingUrl`."""

    recording_url: str
    size: int
    sha256: str


class PartPlace(msgspec.Struct, frozen=True):
    """A part's place in a file: its number, from 1, its size, and whether the file ends with it."""

    number: int
    size: int
    last: bool


class Intake:
    """Takes recordings in: whole with `take`, or in parts between `begin` and `complete`."""

    def __init__(self, database: Database, stores: Stores, relay: Relay, metrics: Metrics, config: Config) -> None:
        self._database = database
        self._stores = stores
        self._relay = relay
        self._metrics = metrics
        self._idle = config.upload_idle
        self._timeout = config.upload_timeout
        self._settle_after = config.settle_after
        self._room = Room(config.upload_memory)
        self._bringing: Counter[str] = Counter()

    async def target(self, reach: Reach, call_id: str) -> Target:
        """Return the call whose recording is brought. Raises NOT_FOUND."""
        async with self._database.connection() as connection:
            target = await recordings.for_upload(connection, reach, call_id)
        if target is None:
            raise DialdeskError("NOT_FOUND", what="call")
        return target

    @staticmethod
    def admit(target: Target) -> None:
        """Pass if a recording may come in. Raises RECORDING_OFF, RECORDING_GONE, UPLOAD_IN_PROGRESS."""
        if not target.record:
            raise DialdeskError("RECORDING_OFF")
        match target.state:
            case "leaving" | "expired" | "deleted":
                raise DialdeskError("RECORDING_GONE")
            case "storing":
                raise DialdeskError("UPLOAD_IN_PROGRESS")

    @asynccontextmanager
    async def room(self, length: int, actor_id: str) -> AsyncIterator[None]:
        """Hold memory for an upload of so many bytes while the block runs.

        Raises UPLOAD_IN_PROGRESS where the same actor brings several already, UNAVAILABLE where there is no room."""
        if self._bringing[actor_id] >= _AT_ONCE_EACH:
            raise DialdeskError("UPLOAD_IN_PROGRESS")
        self._bringing[actor_id] += 1
        try:
            async with self._room.take(min((_UNDER_WAY + 1) * length, _SHARE), self._idle):
                yield
        finally:
            self._bringing[actor_id] -= 1
            if not self._bringing[actor_id]:
                del self._bringing[actor_id]

    # --- whole --------------------------------------------------------------------------------------------------------

    async def take(
        self,
        target: Target,
        source: Source,
        actor_id: str,
        pieces: AsyncIterator[bytes],
        *,
        length: int | None,
        sha256: bytes | None = None,
    ) -> Stored:
        """Keep what `pieces` brings as the recording of a call: about `length` bytes, where that is known, and exactly
        those of the digest `sha256`, where that was told."""
        self.admit(target)
        with _Counted(self._metrics, source) as count:
            async with self.room(length or _SHARE, actor_id):
                kind, head = await _read_head(pieces)
                upload, _ = await self.begin(target, source, actor_id, kind, self._timeout + 60)
                try:
                    size, digest, parts = await self._send(upload, head, pieces)
                    if sha256 is not None and sha256 != digest:
                        raise DialdeskError("CHECKSUM_MISMATCH", reason="sha256")
                except BaseException:
                    await self._drop_or_leave(upload)
                    raise
            return count(await self._store(upload, size, digest, parts, read_back=False))

    # --- in parts -----------------------------------------------------------------------------------------------------

    async def begin(
        self,
        target: Target,
        source: Source,
        actor_id: str,
        kind: AudioType,
        expires_after: float,
        *,
        size: int | None = None,
        sha256: bytes | None = None,
    ) -> tuple[Upload, datetime]:
        """Begin an upload: at the store, and then in its row, without which it is swept from the store by its age.

        Its key is the seed's (003 §8.5) with the tenant before it and the true extension; the day is the tenant's."""
        place = self._stores.place
        # What was withdrawn may still be being deleted, by a node that is slow: it must not meet what comes after it.
        name = f"{target.call_id}.{target.withdrawn + 1}" if target.withdrawn else target.call_id
        key = f"{target.tenant_id}/recordings/{target.day:%Y/%m/%d}/{name}.{kind.extension}"
        with _told():
            store_upload_id = await self._stores.at(place).begin(key, kind.media_type)
        async with self._database.connection() as connection:
            key_id, salt = await self._stores.new_key(connection, target.tenant_id)
            upload = Upload(
                id=new_id("upl"),
                tenant_id=target.tenant_id,
                call_id=target.call_id,
                source=source,
                actor_id=actor_id,
                place=place,
                object_key=key,
                store_upload_id=store_upload_id,
                media_type=kind.media_type,
                key_id=key_id,
                salt=salt,
                size=size,
                sha256=sha256,
            )
            return upload, await uploads.add(connection, upload, expires_after)

    async def begun(self, target: Target, actor_id: str, size: int, sha256: bytes) -> tuple[Upload, datetime] | None:
        """Return the open upload in parts of the same file by the same actor, if this node can go on with it."""
        async with self._database.connection() as connection:
            return await uploads.begun_by(
                connection, target.tenant_id, target.call_id, actor_id, size, sha256, self._stores.places
            )

    async def arrived(self, upload: Upload) -> dict[int, Part]:
        """Return the parts that have arrived, by number. Raises NOT_FOUND where the upload is over."""
        with _told():
            parts = await self._stores.at(upload.place).parts(upload.object_key, upload.store_upload_id)
        return {part.number: part for part in parts}

    async def part_url(self, upload: Upload, place: PartPlace) -> str | None:
        """Return where a part may be PUT in the bucket itself; None where it must come through the server."""
        if upload.key_id is not None:
            return None
        store, ttl = self._stores.at(upload.place), round(self._timeout)
        return await store.part_url(upload.object_key, upload.store_upload_id, place.number, ttl, size=place.size)

    async def put_part(self, upload: Upload, place: PartPlace, content: bytes) -> None:
        """Keep a part. Raises NOT_FOUND where the upload is over, STORAGE_FULL, UNAVAILABLE."""
        store, cipher = self._stores.at(upload.place), await self._stores.cipher(upload)
        if cipher is not None:
            digest = await asyncio.to_thread(lambda: hashlib.sha256(content).digest())
            async with self._database.connection() as connection:
                if not await uploads.bring_part(connection, upload, place.number, digest):
                    raise DialdeskError(
                        "CHECKSUM_MISMATCH", reason=f"part {place.number} was sent with other bytes before"
                    )
        with _told():
            await _put(store, upload, place.number, await _sealed(cipher, place.number, content, last=place.last))

    async def complete(self, upload: Upload) -> Stored:
        """Make the recording of its parts, and read it back: what was told of it must be true.

        Raises UPLOAD_INCOMPLETE, CHECKSUM_MISMATCH, UNSUPPORTED_AUDIO, or why it is stopped at the gate.
        """
        assert upload.size is not None
        assert upload.sha256 is not None
        try:
            parts = _in_place(upload, await self.arrived(upload))
        except DialdeskError as error:
            completed = error.code == "UPLOAD_INCOMPLETE" and await self._is_in_gate(upload)  # its parts are leaving
            if error.code != "NOT_FOUND" and not completed:
                raise
            return await self._stopped_at_gate(upload, upload.sha256)  # completed before, or dropped
        with _Counted(self._metrics, "phone") as count:
            return count(await self._store(upload, upload.size, upload.sha256, parts, read_back=True))

    async def drop(self, upload: Upload) -> None:
        """Drop an upload and its parts."""
        with _told():
            await self._stores.at(upload.place).abort(upload.object_key, upload.store_upload_id)
        async with self._database.connection() as connection:
            await uploads.forget(connection, upload)

    # --- the gate -----------------------------------------------------------------------------------------------------

    async def finish(self, brought: Bytes, size: int, sha256: bytes) -> None:
        """The object is there and whole: the recording is stored and its agent told, by us or by a worker before us.

        Raises UNAVAILABLE where a worker, meanwhile, made nothing of it: it must be brought again.
        """
        tell = RecordingReady(
            call_id=brought.call_id,
            at=epoch_ms(datetime.now(UTC)),
            source=brought.source,
            media_type=brought.media_type,
            size=size,
            recording_url=recording_url(brought.call_id),
        )
        async with self._database.connection() as connection:
            emitted = await recordings.finish(connection, brought, sha256, tell)
            if emitted is None:
                standing = await recordings.standing(connection, brought.tenant_id, brought.call_id)
                if standing is None or standing.store_upload_id != brought.store_upload_id:
                    raise DialdeskError("UNAVAILABLE")
                return
        log.info("recording stored", call_id=brought.call_id, source=brought.source, size=size)
        self._relay.announce([emitted])

    async def doubt(self, brought: Bytes, size: int, sha256: bytes, place: str | None = None) -> DialdeskError | None:
        """Read the object back, where it rests or at another place; return why it is not what was told, if it is not.

        Raises NoSuchObject, StoreError.
        """
        digest = hashlib.sha256()
        head = b""
        try:
            async with aclosing(self._stores.read(brought, size, 0, size, place)) as pieces:
                async for piece in pieces:
                    head += piece[: HEAD - len(head)]
                    digest.update(piece)
        except Tampered:  # what came back is not even what was encrypted
            return DialdeskError("CHECKSUM_MISMATCH", reason="sha256")
        if digest.digest() != sha256:
            return DialdeskError("CHECKSUM_MISMATCH", reason="sha256")
        kind = audio_type(head)
        if kind is None or not brought.object_key.endswith(f".{kind.extension}"):
            return DialdeskError("UNSUPPORTED_AUDIO")
        return None

    async def take_back(self, brought: Bytes) -> None:
        """What was stored is not what was told: the object goes, then the row; what fails a worker settles.

        The row is held meanwhile: whoever was stopped on the way here, while another took it back, must not drop what
        has been brought since.
        """
        async with self._database.transaction() as connection:
            standing = await recordings.lock(connection, brought.tenant_id, brought.call_id)
            if standing is None or standing.state != "storing" or standing.store_upload_id != brought.store_upload_id:
                return
            with _told():
                await self._stores.at(brought.place).delete(brought.object_key)
            await recordings.withdraw(connection, brought)

    async def _store(self, upload: Upload, size: int, sha256: bytes, parts: list[Part], *, read_back: bool) -> Stored:
        """Pass the gate, make the object appear, see that it is whole, and say so."""
        async with self._database.connection() as connection:
            passed = await recordings.hold_place(
                connection, upload.tenant_id, upload.id, size, sha256, self._settle_after + size / _SLOWEST
            )
        if not passed:
            return await self._stopped_at_gate(upload, sha256)
        store = self._stores.at(upload.place)
        try:
            await store.complete(upload.object_key, upload.store_upload_id, parts)
            if (await store.stat(upload.object_key)).size != sum(part.size for part in parts):
                raise StoreError(f"{upload.object_key} is not as large as its parts")
            doubt = await self.doubt(upload, size, sha256) if read_back else None
        except (StoreError, NoSuchUpload, NoSuchObject) as error:  # what became of it is for a worker to find out
            log.warning("recording not stored yet", call_id=upload.call_id, cause=str(error))
            raise DialdeskError("STORAGE_FULL" if isinstance(error, StoreFull) else "UNAVAILABLE") from error
        if doubt is not None:
            await self.take_back(upload)
            raise doubt
        await self.finish(upload, size, sha256)
        return stored(upload.call_id, size, sha256)

    async def _is_in_gate(self, upload: Upload) -> bool:
        async with self._database.connection() as connection:
            standing = await recordings.standing(connection, upload.tenant_id, upload.call_id)
        return standing is not None and standing.store_upload_id == upload.store_upload_id

    async def _stopped_at_gate(self, upload: Upload, sha256: bytes) -> Stored:
        """Say what stands in the gate: the same recording is a success, and whatever else why this one is not taken."""
        async with self._database.connection() as connection:
            standing = await recordings.standing(connection, upload.tenant_id, upload.call_id)
        if standing is None:
            raise DialdeskError("NOT_FOUND", what="upload")
        if standing.store_upload_id != upload.store_upload_id:
            await self._drop_or_leave(upload)
        match standing.state:
            case "stored" if standing.sha256 == sha256:
                return stored(upload.call_id, standing.size, sha256)
            case "stored":
                raise DialdeskError("RECORDING_EXISTS")
            case "storing":
                raise DialdeskError("UPLOAD_IN_PROGRESS")
            case _:
                raise DialdeskError("RECORDING_GONE")

    async def _drop_or_leave(self, upload: Upload) -> None:
        """Drop an upload that came to nothing; where that fails a worker does it when the upload expires."""
        try:
            async with asyncio.timeout(_DROP_DEADLINE):
                await self.drop(upload)
        except (DialdeskError, TimeoutError) as error:
            log.warning("upload left to the worker", upload_id=upload.id, cause=repr(error))

    async def _send(self, upload: Upload, head: bytes, pieces: AsyncIterator[bytes]) -> tuple[int, bytes, list[Part]]:
        """Send the file in parts while it arrives: size, digest, and the parts."""
        outgoing = _Outgoing(self._stores.at(upload.place), upload, await self._stores.cipher(upload))
        size, part = len(head), BytesIO()  # whose value is had without copying it
        part.write(head)
        try:
            async for piece in pieces:
                size += len(piece)
                rest = memoryview(piece)
                while len(rest) > (room := PART - part.tell()):  # a full part is held back: it may be the last
                    part.write(rest[:room])
                    rest = rest[room:]
                    with _told():
                        await outgoing.put(part.getvalue(), last=False)
                    part = BytesIO()
                part.write(rest)
            with _told():
                await outgoing.put(part.getvalue(), last=True)
                return size, outgoing.digest.digest(), await outgoing.arrived()
        finally:
            await outgoing.stop()


class _Outgoing:
    """The parts of one upload on their way to the store, and the digest of all that they brought."""

    def __init__(self, store: Store, upload: Upload, cipher: ChunkCipher | None) -> None:
        self.digest = hashlib.sha256()
        self._store = store
        self._upload = upload
        self._cipher = cipher
        self._count = 0
        self._under_way: deque[asyncio.Task[Part]] = deque()
        self._parts: list[Part] = []

    async def put(self, content: bytes, *, last: bool) -> None:
        """Send the next part, as soon as fewer than _UNDER_WAY are on their way."""
        await self._land(_UNDER_WAY - 1)
        await asyncio.to_thread(self.digest.update, content)
        self._count += 1
        content = await _sealed(self._cipher, self._count, content, last=last)
        self._under_way.append(asyncio.create_task(_put(self._store, self._upload, self._count, content)))

    async def arrived(self) -> list[Part]:
        """Wait for the last parts; return them all."""
        await self._land(0)
        return self._parts

    async def stop(self) -> None:
        """Leave nothing on its way."""
        for part in self._under_way:
            part.cancel()
        # Another error is being told: those of the parts need not be.
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()

    async def _land(self, left: int) -> None:
        """Wait until no more than so many parts are on their way."""
        while len(self._under_way) > left:
            self._parts.append(await self._under_way[0])
            self._under_way.popleft()


async def _sealed(cipher: ChunkCipher | None, number: int, content: bytes, *, last: bool) -> bytes:
    """A part as it will rest."""
    if cipher is None:
        return content
    return await asyncio.to_thread(cipher.seal, (number - 1) * PART // CHUNK, content, last=last)


async def _put(store: Store, upload: Upload, number: int, content: bytes) -> Part:
    offset = (number - 1) * _size_at_rest(upload, PART)
    return await store.put_part(upload.object_key, upload.store_upload_id, number, offset, content)


async def _read_head(pieces: AsyncIterator[bytes]) -> tuple[AudioType, bytes]:
    """Read enough of a file to tell what it is. Raises UNSUPPORTED_AUDIO."""
    head = b""
    async for piece in pieces:
        head += piece
        if len(head) >= HEAD:
            break
    kind = audio_type(head[:HEAD])
    if kind is None:
        raise DialdeskError("UNSUPPORTED_AUDIO")
    return kind, head


def stored(call_id: str, size: int, sha256: bytes) -> Stored:
    """The answer for a recording that is kept."""
    return Stored(recording_url=recording_url(call_id), size=size, sha256=sha256.hex())


def places(upload: Upload) -> list[PartPlace]:
    """The parts that an upload in parts has."""
    assert upload.size is not None
    count = -(-upload.size // PART)
    return [
        PartPlace(number, PART if number < count else upload.size - (count - 1) * PART, number == count)
        for number in range(1, count + 1)
    ]


def has_arrived(upload: Upload, place: PartPlace, arrived: dict[int, Part]) -> bool:
    """Whether a part is there, as large as it must be."""
    return place.number in arrived and arrived[place.number].size == _size_at_rest(upload, place.size)


def _in_place(upload: Upload, arrived: dict[int, Part]) -> list[Part]:
    """The parts in their order. Raises UPLOAD_INCOMPLETE where one has not arrived."""
    missing = [place.number for place in places(upload) if not has_arrived(upload, place, arrived)]
    if missing:
        raise DialdeskError("UPLOAD_INCOMPLETE", missing=missing[:100])
    return [arrived[place.number] for place in places(upload)]


def _size_at_rest(upload: Upload, size: int) -> int:
    return size if upload.key_id is None else sealed_size(size)


class _told:  # noqa: N801 - used as a statement
    """Turn what a store raises into what its callers are promised."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case StoreFull():
                raise DialdeskError("STORAGE_FULL") from error
            case StoreError():
                raise DialdeskError("UNAVAILABLE") from error
            case NoSuchUpload():
                raise DialdeskError("NOT_FOUND", what="upload") from error


class _Counted:
    """Counts an upload by what becomes of it."""

    def __init__(self, metrics: Metrics, source: Source) -> None:
        self._metrics = metrics
        self._source = source

    def __enter__(self) -> Self:
        return self

    def __call__(self, answer: Stored) -> Stored:
        self._metrics.uploads.labels(self._source, "stored").inc()
        self._metrics.upload_bytes.inc(answer.size)
        return answer

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DialdeskError):
            self._metrics.uploads.labels(self._source, error.code).inc()
