"""Customers: who can be clicked on. The CRM is the truth; this is its copy, found by our id or the CRM's."""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg
import msgspec

from storage.database import Connection, queries

_SQL = queries("customers")

AT_ONCE = 5000
"""Rows of an import that one statement takes: well within its deadline."""


class Known(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a customer; `id` is ours, for one that is new. The number is E.164.

    Hidden from the garbage collector, which 50,000 of them would hold up for an eighth of a second.
    """

    id: str
    external_id: str | None
    name: str
    phone: str
    tags: tuple[str, ...]
    order_ids: tuple[str, ...]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a listed customer must be; a field that is None asks nothing.

    `text` is part of a name, upper or lower case, or `phone` is the number; either way `text` may be the external id.
    """

    text: str | None = None
    phone: str | None = None
    tag: str | None = None
    order_id: str | None = None


class Saved(NamedTuple):
    """How many customers an import makes and changes; the others stand as they are told already."""

    created: int
    updated: int


async def region(connection: Connection, tenant_id: str) -> str:
    """Return the region in which the tenant's customers have their numbers."""
    region: str = await connection.fetchval(_SQL["region"], tenant_id)
    return region


async def get(connection: Connection, tenant_id: str, customer_id: str) -> asyncpg.Record | None:
    """Return one customer, by our id or the CRM's."""
    return await connection.fetchrow(_SQL["get"], tenant_id, customer_id)


async def search(
    connection: Connection, tenant_id: str, wanted: Wanted, after: str | None, limit: int
) -> list[asyncpg.Record]:
    """Return customers made before the one with the id `after`, the newest first."""
    in_name = None if wanted.text is None or wanted.phone is not None else f"%{_literal(wanted.text)}%"
    return await connection.fetch(
        _SQL["search"], tenant_id, after, limit, wanted.phone, wanted.text, in_name, wanted.tag, wanted.order_id
    )


async def create(connection: Connection, tenant_id: str, new: Known) -> asyncpg.Record:
    """Make a customer. Raises Duplicate where the CRM's id is taken."""
    row = await connection.fetchrow(_SQL["create"], tenant_id, *_columns(new))
    assert row is not None
    return row


async def upsert(connection: Connection, tenant_id: str, new: Known) -> asyncpg.Record:
    """Make or replace the CRM's customer; one that was there keeps its id."""
    row = await connection.fetchrow(_SQL["upsert"], tenant_id, *_columns(new))
    assert row is not None
    return row


async def update(
    connection: Connection,
    tenant_id: str,
    customer_id: str,
    *,
    name: str,
    phone: str | None,
    tags: Sequence[str],
    order_ids: Sequence[str],
) -> asyncpg.Record | None:
    """Replace what is known of a customer that exists, by our id or the CRM's; without `phone` the number stays."""
    return await connection.fetchrow(_SQL["update"], tenant_id, customer_id, name, phone, tags, order_ids)


async def delete(connection: Connection, tenant_id: str, customer_id: str) -> asyncpg.Record | None:
    """Forget a customer, by our id or the CRM's, and return its two ids; None where there is none."""
    return await connection.fetchrow(_SQL["delete"], tenant_id, customer_id)


async def import_all(connection: Connection, tenant_id: str, rows: Sequence[Known], *, dry_run: bool) -> Saved:
    """Make or replace the CRM's customers, each named once in `rows`; with `dry_run` only count what that would do.

    The caller's transaction makes it all or nothing.
    """
    statement = _SQL["compare" if dry_run else "import"]
    ordered = sorted(rows, key=lambda row: row.external_id or "")
    created = updated = 0
    for first in range(0, len(ordered), AT_ONCE):
        part = msgspec.json.encode(ordered[first : first + AT_ONCE]).decode()
        saved = await connection.fetchrow(statement, tenant_id, part)
        assert saved is not None
        created += saved["created"]
        updated += saved["updated"]
    return Saved(created, updated)


def _columns(new: Known) -> tuple[str, str | None, str, str, tuple[str, ...], tuple[str, ...]]:
    return new.id, new.external_id, new.name, new.phone, new.tags, new.order_ids


def _literal(text: str) -> str:
    """Text as LIKE finds it, whatever characters it holds."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
