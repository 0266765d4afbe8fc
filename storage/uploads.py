"""Uploads of recordings that are under way, brought by one request or in parts."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from storage.database import Connection, queries
from storage.recordings import Bytes

_SQL = queries("uploads")


class Upload(Bytes, frozen=True, kw_only=True):
    """An upload. `size` and `sha256` are what was told of it; None where one request brings the file."""

    id: str
    size: int | None
    sha256: bytes | None


async def add(connection: Connection, upload: Upload, expires_after: float) -> datetime:
    """An upload has begun; returns until when it may go on."""
    expires_at: datetime = await connection.fetchval(
        _SQL["add"],
        upload.id,
        upload.tenant_id,
        upload.call_id,
        upload.source,
        upload.actor_id,
        upload.place,
        upload.object_key,
        upload.store_upload_id,
        upload.media_type,
        upload.size,
        upload.sha256,
        upload.key_id,
        upload.salt,
        expires_after,
    )
    return expires_at


async def get(connection: Connection, tenant_id: str, upload_id: str, actor_id: str) -> tuple[Upload, datetime] | None:
    """Return an upload of this actor, and until when it may go on."""
    row = await connection.fetchrow(_SQL["get"], tenant_id, upload_id, actor_id)
    return None if row is None else (_upload(row), row["expires_at"])


async def begun_by(
    connection: Connection,
    tenant_id: str,
    call_id: str,
    actor_id: str,
    size: int,
    sha256: bytes,
    places: Sequence[str],
) -> tuple[Upload, datetime] | None:
    """Return the open upload of the same file by the same actor at one of these places, and until when it may go on."""
    row = await connection.fetchrow(_SQL["begun_by"], tenant_id, call_id, actor_id, size, sha256, list(places))
    return None if row is None else (_upload(row), row["expires_at"])


async def bring_part(connection: Connection, upload: Upload, number: int, sha256: bytes) -> bool:
    """An encrypted part is brought: only the bytes that came first under its number may be sealed."""
    first = await connection.fetchval(_SQL["bring_part"], upload.tenant_id, upload.id, number, sha256)
    return bool(first == sha256)


async def forget(connection: Connection, upload: Upload) -> None:
    """An upload is over."""
    await connection.execute(_SQL["forget"], upload.tenant_id, upload.id)


async def expired(connection: Connection, places: Sequence[str], lease: float, limit: int) -> list[Upload]:
    """Claim uploads at these places that nobody goes on with; the claim lasts `lease` seconds."""
    return [_upload(row) for row in await connection.fetch(_SQL["expired"], lease, list(places), limit)]


async def known(connection: Connection, store_upload_ids: Sequence[str]) -> set[str]:
    """Return which of a store's uploads are known here."""
    return {row["store_upload_id"] for row in await connection.fetch(_SQL["known"], list(store_upload_ids))}


def _upload(row: asyncpg.Record) -> Upload:
    return Upload(**{name: row[name] for name in Upload.__struct_fields__})
