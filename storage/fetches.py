"""Recordings that providers offer at URLs, until fetched or given up. The URLs rest encrypted: they are keys."""

from collections.abc import Sequence

import msgspec

from storage.database import Connection, queries

_SQL = queries("fetches")


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """A recording to be fetched; `url` is sealed for the call. On the `last_try` it is given up."""

    call_id: str
    tenant_id: str
    line_id: str
    url: bytes
    tries: int
    last_try: bool


def url_place(call_id: str) -> str:
    """Return the name of the place for which the URL of a recording is sealed (`Vault.seal`)."""
    return f"call/{call_id}/recording_url"


async def want(
    connection: Connection, tenant_id: str, call_id: str, line_id: str, url: bytes, *, after: float, until: float
) -> bool:
    """A provider offers a recording: fetch it in `after` seconds, and try no longer than `until` seconds from now.

    False where the call has a recording already, or was made while recording was off. One that is being stored, and may
    come to nothing, is none yet.
    """
    return await connection.fetchval(_SQL["want"], tenant_id, call_id, line_id, url, after, until) is not None


async def due(connection: Connection, lease: float, limit: int) -> list[Fetch]:
    """Claim what is to be fetched now; the claim lasts `lease` seconds."""
    return [Fetch(**dict(row)) for row in await connection.fetch(_SQL["due"], lease, limit)]


async def put_off(connection: Connection, fetch: Fetch, seconds: float, failure: str) -> None:
    """It did not go this time: try again in so many seconds."""
    await connection.execute(_SQL["put_off"], fetch.tenant_id, fetch.call_id, seconds, failure)


async def give_up(connection: Connection, fetch: Fetch, failure: str) -> None:
    """It will never go: the call shows that its recording failed, unless it was offered anew meanwhile."""
    await connection.execute(_SQL["give_up"], fetch.tenant_id, fetch.call_id, failure, fetch.url)


async def drop(connection: Connection, fetch: Fetch) -> None:
    """There is nothing to fetch any more."""
    await connection.execute(_SQL["drop"], fetch.tenant_id, fetch.call_id)


async def sealed_urls(connection: Connection, after: str, limit: int) -> list[tuple[str, bytes]]:
    """Return URLs of the whole installation, as they are sealed, by call, from after one on."""
    return [(row["call_id"], row["url"]) for row in await connection.fetch(_SQL["sealed_urls"], after, limit)]


async def reseal_urls(connection: Connection, anew: Sequence[tuple[str, bytes, bytes]]) -> int:
    """Keep URLs under another seal: (call, as it was sealed, as it is now). One that is another URL by now stays.
    Returns how many were kept."""
    return len(await connection.fetch(_SQL["reseal_urls"], *map(list, zip(*anew, strict=True))))
