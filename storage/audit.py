"""Who changed what: one line a change, written in the change's own transaction, never updated."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from protocol.timestamps import Timestamp, rfc3339
from storage.database import Connection, queries

_SQL = queries("audit")


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a change, in which tenant, and by which request."""

    kind: Literal["user", "api_key", "phone", "system"]
    id: str
    tenant_id: str | None
    ip: str | None = None
    request_id: str | None = None


class AuditLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change. `before` and `after` hold the fields that it changed."""

    id: str
    actor_kind: str
    actor_id: str
    action: str
    resource: str
    resource_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None
    ip: str | None
    request_id: str | None
    at: Timestamp


class AuditSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines to list: all that match what is given."""

    resource: str | None = None
    resource_id: str | None = None
    actor_id: str | None = None
    action: str | None = None


async def record(
    connection: Connection,
    actor: Actor,
    action: str,
    resource: str,
    resource_id: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Write one line; `before` and `after` hold what changed and never a secret, a hash or an unmasked number."""
    await connection.execute(
        _SQL["record"],
        actor.tenant_id,
        actor.kind,
        actor.id,
        action,
        resource,
        resource_id,
        None if before is None else msgspec.json.encode(before).decode(),
        None if after is None else msgspec.json.encode(after).decode(),
        reason,
        actor.ip,
        actor.request_id,
    )


async def lines(
    connection: Connection, tenant_id: str | None, search: AuditSearch, before: int | None, limit: int
) -> tuple[list[AuditLine], int | None]:
    """Return at most `limit` lines older than `before`, newest first, and what to ask for the next ones with.

    Without a tenant these are the lines of the installation itself. The second is None where there are no more.
    """
    filters = (before, search.resource, search.resource_id, search.actor_id, search.action)
    if tenant_id is None:
        rows = await connection.fetch(_SQL["of_installation"], *filters, limit + 1)
    else:
        rows = await connection.fetch(_SQL["of_tenant"], tenant_id, *filters, limit + 1)
    found = [
        AuditLine(
            id=str(row["id"]),
            actor_kind=row["actor_kind"],
            actor_id=row["actor_id"],
            action=row["action"],
            resource=row["resource"],
            resource_id=row["resource_id"],
            before=_decoded(row["before"]),
            after=_decoded(row["after"]),
            reason=row["reason"],
            ip=row["ip"],
            request_id=row["request_id"],
            at=rfc3339(row["at"]),
        )
        for row in rows[:limit]
    ]
    return found, rows[limit - 1]["id"] if len(rows) > limit else None


def _decoded(json: str | None) -> dict[str, Any] | None:
    return None if json is None else msgspec.json.decode(json, type=dict[str, Any])
