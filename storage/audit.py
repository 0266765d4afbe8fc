"""Who changed what: one line a change, written in the change's own transaction, never updated."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from storage.database import Connection, queries

_SQL = queries("audit")


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a change, in which tenant, and by which request."""

    kind: Literal["user", "api_key", "phone", "system"]
    id: str
    tenant_id: str | None
    ip: str | None = None
    request_id: str | None = None


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
