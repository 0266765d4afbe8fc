"""Recordings as phones and agents bring them: a form with the file, or parts of it, over a network that breaks
(seed 003 §5.5; docs/recordings.md). How they are kept is intake.py.
"""

import asyncio
import hashlib
from datetime import datetime
from typing import Annotated, Any

import msgspec

from protocol.errors import DialdeskError
from protocol.messages import Id, RecordingUpload, Sha256
from protocol.timestamps import Timestamp, rfc3339
from server.audio import by_media_type
from server.auth import actor_of
from server.config import Config
from server.forms import Form
from server.http import Answer, AppBody, Body, Done, RequestInfo
from server.identity import Identity
from server.intake import Intake, PartPlace, Stored, has_arrived, places, stored
from server.streams import RawBytes
from storage import audit, uploads
from storage.calls import Reach
from storage.database import Database
from storage.objects import PART
from storage.recordings import Source, Target
from storage.uploads import Upload

OPEN_AT_ONCE = 8
"""Uploads of one call that may be open at a time; what nobody goes on with expires."""


URLS_AT_ONCE = 32
"""Parts that one answer gives URLs for: the first that are missing. The rest may come here, or be asked for again."""


class PhoneForm(AppBody, frozen=True, kw_only=True):
    """What stands before the file in an upload by a phone."""

    call_id: Id


class AttachForm(Body, frozen=True, kw_only=True):
    """What stands before a file that is attached by hand: nothing, for the path names the call."""


class NewUpload(AppBody, frozen=True, kw_only=True):
    """A recording that will come in parts: its `size` in bytes, the `sha256` of the whole file, and its media type."""

    call_id: Id
    size: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    sha256: Sha256
    media_type: Annotated[str, msgspec.Meta(min_length=3, max_length=128, examples=["audio/mpeg"])]


class PartState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of an upload: its size in bytes, whether it has arrived, and where to PUT it, if not here."""

    number: int
    size: int
    arrived: bool
    url: str | None = None


class UploadAnswer(Answer, frozen=True, kw_only=True):
    """An upload in parts, each but the last of `partSize` bytes. Where `stored` is true the call has this very
    recording already, and nothing need be sent."""

    upload_id: str | None
    part_size: int
    parts: list[PartState]
    expires_at: Timestamp | None
    stored: bool = False


class PartAnswer(Answer, frozen=True, kw_only=True):
    """The part is kept."""

    number: int
    size: int


class Uploads:
    """What phones and agents ask for to bring recordings. Every answer is of what is kept."""

    def __init__(self, database: Database, intake: Intake, config: Config) -> None:
        self._database = database
        self._intake = intake
        self._limit = config.recording_limit
        self._expiry = config.upload_expiry

    # --- by one request -----------------------------------------------------------------------------------------------

    async def upload(self, identity: Identity, body: Form[PhoneForm], request: RequestInfo) -> Stored:
        """Take a recording from the phone that made the call.

        A form with `callId`, then `file`; the header `X-Content-SHA256` may tell the file's digest. The same file again
        is the same answer. Refused, with nothing kept, by NOT_FOUND, RECORDING_OFF, RECORDING_EXISTS, RECORDING_GONE,
        UPLOAD_IN_PROGRESS, UNSUPPORTED_AUDIO, CHECKSUM_MISMATCH, STORAGE_FULL.
        """
        target = await self._of_phone(identity, body.fields.call_id)
        return await self._take(target, "phone", identity, body, request)

    async def attach(self, identity: Identity, call_id: str, body: Form[AttachForm], request: RequestInfo) -> Stored:
        """Attach a recording by hand, where the handset could not bring it (seed 003 §7.4).

        A form with `file`; the recording is marked as brought by an agent. Refused, with nothing kept, by NOT_FOUND,
        RECORDING_OFF, RECORDING_EXISTS, RECORDING_GONE, UPLOAD_IN_PROGRESS, UNSUPPORTED_AUDIO, CHECKSUM_MISMATCH,
        STORAGE_FULL.
        """
        async with self._database.transaction() as connection:
            await audit.record(connection, actor_of(identity, request), "attach", "recording", call_id)
        target = await self._intake.target(identity.calls, call_id)
        return await self._take(target, "agent", identity, body, request)

    # --- in parts -----------------------------------------------------------------------------------------------------

    async def begin(self, identity: Identity, body: NewUpload) -> UploadAnswer:
        """Begin an upload in parts, or go on with the one of the same file that was cut.

        Refused by NOT_FOUND, RECORDING_OFF, RECORDING_EXISTS, RECORDING_GONE, UPLOAD_IN_PROGRESS, UNSUPPORTED_AUDIO,
        BODY_TOO_LARGE, STORAGE_FULL.
        """
        target = await self._of_phone(identity, body.call_id)
        sha256 = bytes.fromhex(body.sha256)
        if target.state == "stored":
            if target.sha256 != sha256:
                raise DialdeskError("RECORDING_EXISTS")
            return UploadAnswer(upload_id=None, part_size=PART, parts=[], expires_at=None, stored=True)
        self._intake.admit(target)
        if body.size > self._limit:
            raise DialdeskError("BODY_TOO_LARGE", limit=self._limit)
        kind = by_media_type(body.media_type)
        if kind is None:
            raise DialdeskError("UNSUPPORTED_AUDIO")
        begun = await self._intake.begun(target, identity.id, body.size, sha256)
        if begun is not None:
            try:
                return await self._state(*begun)
            except DialdeskError as error:
                if error.code != "NOT_FOUND":  # the store has dropped it, by a rule of the bucket perhaps
                    raise
        if target.open_uploads >= OPEN_AT_ONCE:
            raise DialdeskError("UPLOAD_IN_PROGRESS")
        begun = await self._intake.begin(
            target, "phone", identity.id, kind, self._expiry, size=body.size, sha256=sha256
        )
        return await self._state(*begun)

    async def state(self, identity: Identity, upload_id: str) -> UploadAnswer:
        """Tell which parts of an upload have arrived. Raises NOT_FOUND where it is over, or another's."""
        return await self._state(*await self._get(identity, upload_id))

    async def put_part(
        self, identity: Identity, body: RawBytes, upload_id: str, number: str, request: RequestInfo
    ) -> PartAnswer:
        """Take a part; one that is sent again replaces the first, unless it is encrypted: then the first stays.

        Raises NOT_FOUND, INVALID_FIELD for a number or size that the upload has not, CHECKSUM_MISMATCH where the header
        `X-Content-SHA256` tells another digest, STORAGE_FULL.
        """
        upload, _ = await self._get(identity, upload_id)
        place = _place(upload, number)
        told = _told_digest(request)
        async with self._intake.room(place.size, identity.id):
            content = await body.whole()
            if len(content) != place.size:
                raise DialdeskError("INVALID_FIELD", reason=f"part {place.number} has {place.size} bytes")
            if told is not None and told != await asyncio.to_thread(_digest, content):
                raise DialdeskError("CHECKSUM_MISMATCH", reason="sha256")
            await self._intake.put_part(upload, place, content)
        return PartAnswer(number=place.number, size=place.size)

    async def complete(self, identity: Identity, upload_id: str) -> Stored:
        """Make the recording of its parts, after reading it back: what was told of it must be true.

        Asked again, it answers the same. Raises NOT_FOUND, UPLOAD_INCOMPLETE, CHECKSUM_MISMATCH, UNSUPPORTED_AUDIO,
        RECORDING_EXISTS, RECORDING_GONE, UPLOAD_IN_PROGRESS, STORAGE_FULL.
        """
        upload, _ = await self._get(identity, upload_id)
        return await self._intake.complete(upload)

    async def abandon(self, identity: Identity, upload_id: str) -> Done:
        """Drop an upload and its parts. Raises NOT_FOUND where it is over already."""
        upload, _ = await self._get(identity, upload_id)
        await self._intake.drop(upload)
        return Done()

    # --- over the socket ----------------------------------------------------------------------------------------------

    async def confirm(self, tenant_id: str, device_id: str, message: RecordingUpload) -> None:
        """RECORDING_UPLOAD: the phone holds that it has brought this recording.

        Raises NOT_FOUND where it is not here, so that the phone brings it again, RECORDING_EXISTS where another is,
        RECORDING_GONE where it was dropped since, UPLOAD_IN_PROGRESS while one is being stored.
        """
        target = await self._intake.target(Reach.whole(tenant_id), message.call_id)
        if target.device_id != device_id or target.state is None:
            raise DialdeskError("NOT_FOUND", what="recording")
        match target.state:
            case "storing":
                raise DialdeskError("UPLOAD_IN_PROGRESS")
            case "stored":
                if (target.size, target.sha256) != (message.size, bytes.fromhex(message.sha256)):
                    raise DialdeskError("RECORDING_EXISTS")
            case _:
                raise DialdeskError("RECORDING_GONE")

    # ------------------------------------------------------------------------------------------------------------------

    async def _of_phone(self, identity: Identity, call_id: str) -> Target:
        """A phone brings the recordings of the calls that it was told to dial, whoever owns it today."""
        target = await self._intake.target(Reach.whole(identity.tenant_id), call_id)
        if target.device_id != identity.id:
            raise DialdeskError("NOT_FOUND", what="call")
        return target

    async def _take(
        self, target: Target, source: Source, identity: Identity, form: Form[Any], request: RequestInfo
    ) -> Stored:
        told = _told_digest(request)
        if target.state == "stored" and target.size is not None and told is not None:
            if told != target.sha256:
                raise DialdeskError("RECORDING_EXISTS")
            return stored(target.call_id, target.size, told)
        return await self._intake.take(target, source, identity.id, aiter(form), length=form.length, sha256=told)

    async def _get(self, identity: Identity, upload_id: str) -> tuple[Upload, datetime]:
        async with self._database.connection() as connection:
            found = await uploads.get(connection, identity.tenant_id, upload_id, identity.id)
        if found is None or found[0].size is None:
            raise DialdeskError("NOT_FOUND", what="upload")
        return found

    async def _state(self, upload: Upload, expires_at: datetime) -> UploadAnswer:
        arrived = await self._intake.arrived(upload)
        parts = []
        urls = 0
        for place in places(upload):
            there = has_arrived(upload, place, arrived)
            url = None
            if not there and urls < URLS_AT_ONCE:
                url = await self._intake.part_url(upload, place)
                urls += 1
                await asyncio.sleep(0)  # signing takes a millisecond of the processor: others first
            parts.append(PartState(number=place.number, size=place.size, arrived=there, url=url))
        return UploadAnswer(upload_id=upload.id, part_size=PART, parts=parts, expires_at=rfc3339(expires_at))


def _place(upload: Upload, number: str) -> PartPlace:
    parts = places(upload)
    if not (number.isascii() and number.isdecimal() and len(number) <= 5 and 1 <= int(number) <= len(parts)):
        raise DialdeskError("INVALID_FIELD", reason=f"the upload has parts 1 to {len(parts)}")
    return parts[int(number) - 1]


def _told_digest(request: RequestInfo) -> bytes | None:
    told = request.headers.get("x-content-sha256")
    if told is None:
        return None
    try:
        digest = bytes.fromhex(told)
    except ValueError:
        digest = b""
    if len(digest) != 32 or len(told) != 64:
        raise DialdeskError("INVALID_FIELD", reason="X-Content-SHA256 must be 64 hexadecimal digits")
    return digest


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
