"""Recordings as they are listened to, held and deleted. How they come in is uploads.py, what becomes of them later
archive.py.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
import structlog

from protocol.errors import DialdeskError
from protocol.timestamps import Timestamp, rfc3339
from server.auth import actor_of
from server.config import Config
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.stores import Stores
from server.streams import Redirect, Stream
from server.tokens import Listener, PlayTokens
from storage import accounts, audit, recordings
from storage.calls import Reach
from storage.chunks import Tampered
from storage.database import Connection, Database
from storage.objects import NoSuchObject, StoreError
from storage.recordings import BUCKET, Recording
from storage.vault import SealError

log = structlog.get_logger()

Audio = Annotated[Stream, msgspec.Meta(extra_json_schema={"contentMediaType": "audio/*"})]
"""The bytes of a recording, whole or a range of them."""

Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class ListenQuery(Body, frozen=True, kw_only=True):
    """With `download` the answer is a file to keep, which takes the permission recordings.download."""

    download: bool = False


class LinkAnswer(Answer, frozen=True, kw_only=True):
    """Where a player finds the recording, without a credential, until `expiresAt`."""

    url: str
    expires_at: Timestamp
    media_type: str
    size: int


class WaveformAnswer(Answer, frozen=True, kw_only=True):
    """What a player draws: `peaks` from 0 to 255 over the whole `duration` (s). Null while `waiting` to be read.

    An `unreadable` recording is kept and can be downloaded; what is in it, nobody could tell.
    """

    status: Literal["read", "waiting", "unreadable"]
    source: Literal["phone", "agent", "provider"]
    media_type: str
    size: int
    sha256: str
    stored_at: Timestamp
    duration: float | None
    codec: str | None
    sample_rate: int | None
    channels: int | None
    peaks: list[int] | None
    hold: bool
    hold_reason: str | None


class HoldRequest(Body, frozen=True, kw_only=True):
    """Whether to keep the recording whatever its age, and why."""

    hold: bool
    reason: Reason


class RemoveQuery(Body, frozen=True, kw_only=True):
    """Why the recording is deleted; it stands in the audit log."""

    reason: Reason


class Recordings:
    """What is done with recordings that are kept. Every listen is a line of the audit log."""

    def __init__(self, database: Database, stores: Stores, config: Config) -> None:
        self._database = database
        self._stores = stores
        self._tokens = PlayTokens(config.secret_key, config.recording_link_ttl)
        self._public_url = config.public_url.rstrip("/")
        self._ttl = round(config.recording_link_ttl)

    async def listen(
        self, identity: Identity, call_id: str, query: ListenQuery, request: RequestInfo
    ) -> Audio | Redirect:
        """Play or download a recording: its bytes, of which a Range may be asked, or a redirect to the bucket.

        Raises NOT_FOUND, RECORDING_GONE, RECORDING_MISSING, FORBIDDEN.
        """
        filename = None
        if query.download:
            identity.require("recordings.download")
        async with self._database.transaction() as connection:
            recording = await self._stored(connection, identity.calls, call_id)
            action = "download" if query.download else "listen"
            await audit.record(connection, actor_of(identity, request), action, "recording", call_id)
        if query.download:
            filename = recording.object_key.rpartition("/")[2]
        if (url := await self._play_url(recording, filename)) is not None:
            return Redirect(url)
        return self._stream(recording, filename)

    async def link(self, identity: Identity, call_id: str, request: RequestInfo) -> LinkAnswer:
        """Make a link for a player that cannot send a credential, such as an audio element; whoever has it may listen.

        Raises NOT_FOUND, RECORDING_GONE.
        """
        async with self._database.transaction() as connection:
            recording = await self._stored(connection, identity.calls, call_id)
            await audit.record(connection, actor_of(identity, request), "listen", "recording", call_id)
        expires_at = datetime.now(UTC) + timedelta(seconds=self._ttl)
        url = await self._play_url(recording, None)
        if url is None:
            token = self._tokens.mint(Listener(identity.tenant_id, call_id))
            url = f"{self._public_url}/api/v1/recordings/{token}"
        return LinkAnswer(url=url, expires_at=rfc3339(expires_at), media_type=recording.media_type, size=recording.size)

    async def play(self, token: str) -> Audio:
        """Play the recording of a link, which must belong to a tenant that is not suspended.

        Raises NOT_FOUND, TOKEN_EXPIRED, TENANT_SUSPENDED, RECORDING_GONE, RECORDING_MISSING.
        """
        listener = self._tokens.read(token)
        reach = Reach.whole(listener.tenant_id)
        async with self._database.connection() as connection:
            if (await accounts.get_tenant(connection, listener.tenant_id)).status == "suspended":
                raise DialdeskError("TENANT_SUSPENDED")
            recording = await self._stored(connection, reach, listener.call_id)
        return self._stream(recording, None)

    async def waveform(self, identity: Identity, call_id: str) -> WaveformAnswer:
        """Tell what a player draws of a recording, and what is known of it. Raises NOT_FOUND, RECORDING_GONE."""
        async with self._database.connection() as connection:
            recording = await self._stored(connection, identity.calls, call_id)
        return WaveformAnswer(
            status="read" if recording.read_at else "unreadable" if recording.unreadable else "waiting",
            source=recording.source,
            media_type=recording.media_type,
            size=recording.size,
            sha256=recording.sha256.hex(),
            stored_at=rfc3339(recording.stored_at or datetime.now(UTC)),
            duration=None if recording.duration_ms is None else recording.duration_ms / 1000,
            codec=recording.codec,
            sample_rate=recording.sample_rate,
            channels=recording.channels,
            peaks=None if recording.peaks is None else list(recording.peaks),
            hold=recording.held_at is not None,
            hold_reason=recording.hold_reason,
        )

    async def hold(self, identity: Identity, call_id: str, body: HoldRequest, request: RequestInfo) -> Done:
        """Put a recording under legal hold, or lift it: while held it neither expires nor can be deleted.

        Raises NOT_FOUND, RECORDING_GONE.
        """
        async with self._database.transaction() as connection:
            await self._stored(connection, identity.calls, call_id)
            before = await recordings.lock(connection, identity.tenant_id, call_id)
            if before is None or before.state != "stored":
                raise DialdeskError("RECORDING_GONE")
            await recordings.hold(connection, identity.tenant_id, call_id, held=body.hold, reason=body.reason)
            await audit.record(
                connection,
                actor_of(identity, request),
                "hold" if body.hold else "release",
                "recording",
                call_id,
                before={"hold": before.held_at is not None},
                after={"hold": body.hold},
                reason=body.reason,
            )
        return Done()

    async def remove(self, identity: Identity, call_id: str, query: RemoveQuery, request: RequestInfo) -> Done:
        """Delete a recording for good, as when its customer asks for it: it can be heard no more from now on.

        A worker drops the bytes at once after. One that has not come yet is refused when it comes. Raises NOT_FOUND,
        RECORDING_HELD, RECORDING_GONE, UPLOAD_IN_PROGRESS.
        """
        async with self._database.transaction() as connection:
            reached, recording = await recordings.get(connection, identity.calls, call_id)
            if not reached:
                raise DialdeskError("NOT_FOUND", what="call")
            if recording is None:
                gone = await recordings.forbid(connection, identity.tenant_id, call_id)
            else:
                gone = await recordings.remove(connection, identity.tenant_id, call_id)
            if not gone:
                raise await self._why_it_stays(connection, identity.tenant_id, call_id)
            await audit.record(
                connection, actor_of(identity, request), "delete", "recording", call_id, reason=query.reason
            )
        return Done()

    # ------------------------------------------------------------------------------------------------------------------

    @staticmethod
    async def _why_it_stays(connection: Connection, tenant_id: str, call_id: str) -> DialdeskError:
        standing = await recordings.lock(connection, tenant_id, call_id)
        match None if standing is None else standing.state:
            case "stored":
                return DialdeskError("RECORDING_HELD")
            case "storing":
                return DialdeskError("UPLOAD_IN_PROGRESS")
            case _:
                return DialdeskError("RECORDING_GONE")

    @staticmethod
    async def _stored(connection: Connection, reach: Reach, call_id: str) -> Recording:
        """Return the recording of a call within reach. Raises NOT_FOUND where there is none yet, or RECORDING_GONE."""
        reached, recording = await recordings.get(connection, reach, call_id)
        if not reached:
            raise DialdeskError("NOT_FOUND", what="call")
        if recording is None or recording.state == "storing":
            raise DialdeskError("NOT_FOUND", what="recording")
        if recording.state != "stored":
            raise DialdeskError("RECORDING_GONE")
        return recording

    async def _play_url(self, recording: Recording, filename: str | None) -> str | None:
        """Where the bucket itself plays it; None where it cannot be reached, or holds what must be decrypted."""
        if recording.place != BUCKET or recording.key_id is not None:
            return None
        try:
            return await self._stores.at(BUCKET).play_url(
                recording.object_key, self._ttl, media_type=recording.media_type, filename=filename
            )
        except StoreError as error:
            raise DialdeskError("UNAVAILABLE") from error

    def _stream(self, recording: Recording, filename: str | None) -> Stream:
        return Stream(
            read=lambda start, end: self._read(recording, start, end),
            size=recording.size,
            media_type=recording.media_type,
            etag=recording.sha256.hex(),
            filename=filename,
        )

    async def _read(self, recording: Recording, start: int, end: int) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._stores.read(recording, recording.size, start, end)) as pieces:
                async for piece in pieces:
                    yield piece
        except (NoSuchObject, Tampered, SealError) as error:
            log.exception("recording missing", call_id=recording.call_id, place=recording.place)
            raise DialdeskError("RECORDING_MISSING") from error
        except StoreError as error:
            raise DialdeskError("UNAVAILABLE") from error
