"""Recordings as they are kept: one row a call, from the gate before its object appears to what is left at the end.

    storing -> stored -> leaving -> expired | deleted

`hold_place` is the gate: of several uploads of one call only the one whose row it inserts may complete its object. What
stands in `storing` or `leaving` past its time is settled by the worker, which looks at the object itself.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Literal

import asyncpg
import msgspec

from protocol.messages import RecordingReady, encode_data
from storage.calls import Reach
from storage.database import Connection, queries
from storage.events import Emitted, frame

_SQL = queries("recordings")

Source = Literal["phone", "agent", "provider"]
State = Literal["storing", "stored", "leaving", "expired", "deleted"]

BUCKET = "s3"
"""The place of what rests in the bucket; other places are `folder:<id of the folder>`."""


def recording_url(call_id: str) -> str:
    """The stable path of a call's recording, whatever store holds it."""
    return f"/api/v1/calls/{call_id}/recording"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A call whose recording may come in. `record` says whether recording was on; `state` is None without a recording,
    else `size` and `sha256` are those of the recording it has. `withdrawn` uploads came to nothing in the gate."""

    call_id: str
    tenant_id: str
    user_id: str
    device_id: str | None
    record: bool
    day: date
    state: State | None
    size: int | None
    sha256: bytes | None
    withdrawn: int
    open_uploads: int


class Bytes(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes of a call's recording are, or are on their way to. Without `key_id` they are not encrypted."""

    call_id: str
    tenant_id: str
    source: Source
    actor_id: str
    place: str
    object_key: str
    store_upload_id: str
    media_type: str
    key_id: int | None
    salt: bytes | None


class Recording(Bytes, frozen=True, kw_only=True):
    """The recording of a call. Sizes and `sha256` are those of the audio as it was brought."""

    state: State
    size: int
    sha256: bytes
    stored_at: datetime | None
    held_at: datetime | None
    hold_reason: str | None
    move_upload_id: str | None
    read_at: datetime | None
    unreadable: str | None
    duration_ms: int | None
    codec: str | None
    sample_rate: int | None
    channels: int | None
    peaks: bytes | None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Who stands in the gate of a call."""

    state: State
    size: int
    sha256: bytes
    store_upload_id: str


# --- coming in --------------------------------------------------------------------------------------------------------


async def for_upload(connection: Connection, reach: Reach, call_id: str) -> Target | None:
    """Return the call within reach, and what stands in the way of a recording."""
    row = await connection.fetchrow(_SQL["for_upload"], reach.tenant_id, call_id, *reach.filters)
    return None if row is None else Target(**dict(row))


async def hold_place(
    connection: Connection, tenant_id: str, upload_id: str, size: int, sha256: bytes, settle_after: float
) -> bool:
    """Pass the gate: from here the upload may complete its object. False where another recording stands there.

    Within `settle_after` seconds comes `finish` or `withdraw`, else the worker settles it.
    """
    row = await connection.fetchval(_SQL["hold_place"], tenant_id, upload_id, size, sha256, settle_after)
    return row is not None


async def standing(connection: Connection, tenant_id: str, call_id: str) -> Standing | None:
    """Return who stands in the gate of a call."""
    row = await connection.fetchrow(_SQL["state"], tenant_id, call_id)
    return None if row is None else Standing(**dict(row))


async def finish(connection: Connection, brought: Bytes, sha256: bytes, tell: RecordingReady) -> Emitted | None:
    """The object is there and whole: the recording is stored, and its agent is told. The upload is forgotten with it.

    Returns what to announce; None where the recording is not (any more) this upload's to finish.
    """
    data = encode_data(tell).decode()
    about = {
        "source": brought.source,
        "actorId": brought.actor_id,
        "mediaType": brought.media_type,
        "size": tell.size,
        "sha256": sha256.hex(),
    }
    row = await connection.fetchrow(
        _SQL["finish"],
        brought.tenant_id,
        brought.call_id,
        brought.store_upload_id,
        tell.type,
        data,
        brought.source,
        msgspec.json.encode(about).decode(),
    )
    if row is None:
        return None
    return Emitted(row["user_id"], row["seq"], frame(row["user_id"], row["seq"], tell.type, data), row["nodes"])


async def withdraw(connection: Connection, brought: Bytes) -> None:
    """The upload came to nothing: leave the gate, and forget it. The store must have dropped it before."""
    await connection.execute(_SQL["withdraw"], brought.tenant_id, brought.call_id, brought.store_upload_id)


# --- kept -------------------------------------------------------------------------------------------------------------


async def get(connection: Connection, reach: Reach, call_id: str) -> tuple[bool, Recording | None]:
    """Return whether the call is within reach, and its recording."""
    row = await connection.fetchrow(_SQL["get"], reach.tenant_id, *reach.filters, call_id)
    if row is None:
        return False, None
    return True, None if row["call_id"] is None else _recording(row)


async def lock(connection: Connection, tenant_id: str, call_id: str) -> Recording | None:
    """Return the recording, which nobody else changes before this transaction ends."""
    row = await connection.fetchrow(_SQL["lock"], tenant_id, call_id)
    return None if row is None else _recording(row)


async def hold(connection: Connection, tenant_id: str, call_id: str, *, held: bool, reason: str) -> None:
    """Keep a recording whatever its age (legal hold), or no longer."""
    await connection.execute(_SQL["hold"], tenant_id, call_id, held, reason)


async def unread(connection: Connection, places: Sequence[str], lease: float, limit: int) -> list[Recording]:
    """Claim stored recordings of which nobody has read what audio they are; the claim lasts `lease` seconds."""
    return [_recording(row) for row in await connection.fetch(_SQL["unread"], list(places), lease, limit)]


async def read(
    connection: Connection,
    recording: Recording,
    *,
    duration: float,
    codec: str,
    sample_rate: int,
    channels: int,
    peaks: bytes,
) -> None:
    """Keep what audio a recording is; `duration` is in seconds."""
    await connection.execute(
        _SQL["read"],
        recording.tenant_id,
        recording.call_id,
        round(duration * 1000),
        codec,
        sample_rate,
        channels,
        peaks,
    )


async def unreadable(connection: Connection, recording: Recording, reason: str) -> None:
    """Nobody can tell what audio this is."""
    await connection.execute(_SQL["unreadable"], recording.tenant_id, recording.call_id, reason)


# --- moving on --------------------------------------------------------------------------------------------------------


async def unsettled(connection: Connection, places: Sequence[str], lease: float, limit: int) -> list[Recording]:
    """Claim what is `storing` past its time, at these places; the claim lasts `lease` seconds."""
    return [_recording(row) for row in await connection.fetch(_SQL["unsettled"], lease, list(places), limit)]


async def to_drop(connection: Connection, places: Sequence[str], lease: float, limit: int) -> list[Recording]:
    """Claim what is `leaving`, at these places; the claim lasts `lease` seconds."""
    return [_recording(row) for row in await connection.fetch(_SQL["to_drop"], lease, list(places), limit)]


async def to_move(connection: Connection, folder: str, lease: float, limit: int) -> list[Recording]:
    """Claim recordings that lie in this folder and belong into the bucket."""
    return [_recording(row) for row in await connection.fetch(_SQL["to_move"], folder, lease, limit)]


async def moving(connection: Connection, recording: Recording, upload_id: str) -> bool:
    """A copy to the bucket begins, by this upload of the bucket; False where the recording has left meanwhile."""
    row = await connection.fetchval(_SQL["moving"], recording.tenant_id, recording.call_id, recording.place, upload_id)
    return row is not None


async def moved(connection: Connection, recording: Recording) -> bool:
    """The bytes rest in the bucket now; False where the recording has left meanwhile."""
    row = await connection.fetchval(_SQL["moved"], recording.tenant_id, recording.call_id, recording.place)
    return row is not None


async def expire(connection: Connection, limit: int) -> int:
    """Let recordings leave that are older than their tenants keep them; returns how many."""
    return len(await connection.fetch(_SQL["expire"], limit))


async def remove(connection: Connection, tenant_id: str, call_id: str) -> bool:
    """Let a stored recording leave for good; False where it is held, or not stored."""
    return await connection.fetchval(_SQL["remove"], tenant_id, call_id) is not None


async def forbid(connection: Connection, tenant_id: str, call_id: str) -> bool:
    """Let a recording that has not come yet never come; False where one stands."""
    return await connection.fetchval(_SQL["forbid"], tenant_id, call_id) is not None


async def left(connection: Connection, recording: Recording) -> None:
    """The bytes of a leaving recording are gone."""
    await connection.execute(_SQL["left"], recording.tenant_id, recording.call_id)


# --- verified ---------------------------------------------------------------------------------------------------------


async def kept(connection: Connection, tenant_id: str | None, after: str, limit: int) -> list[Recording]:
    """Return recordings whose bytes should be there, by call id, from after one on."""
    return [_recording(row) for row in await connection.fetch(_SQL["kept"], tenant_id, after, limit)]


async def owned(connection: Connection, keys: Sequence[str]) -> dict[str, str]:
    """Return where each of these keys' recordings rest; a key without a recording is left out."""
    return {row["object_key"]: row["place"] for row in await connection.fetch(_SQL["owner_of"], list(keys))}


async def left_behind(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Return which of these keys of a spool belong to recordings that rest in the bucket, or are gone."""
    return [row["object_key"] for row in await connection.fetch(_SQL["left_behind"], list(keys))]


def _recording(row: asyncpg.Record) -> Recording:
    return Recording(**{name: row[name] for name in Recording.__struct_fields__})
