"""Work phones: the tokens that bind them, whose they are, the log of it, and how their agents call out.

What an agent has bound changes only under the lock of the agent's row, which `lock_agents` takes first of all; then
come device, call, command and stream (rule 6). Presence is written elsewhere (`nodes`), under its epoch.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import asyncpg
import msgspec

from protocol.identifiers import new_id
from protocol.messages import Capabilities, DeviceView
from protocol.timestamps import rfc3339
from storage.batches import drop_all
from storage.database import Connection, queries

_SQL = queries("devices")

BindType = Literal["qrcode", "manual"]
Action = Literal["bind", "unbind", "move"]


class Reach(msgspec.Struct, frozen=True):
    """Whose phones are meant: all of the tenant where `teams` is None, else those of the teams and of `user_id`."""

    tenant_id: str
    user_id: str | None = None
    teams: Sequence[str] | None = None


class FoundToken(msgspec.Struct, frozen=True, kw_only=True):
    """A bind token that may be used, and the row of the handset that wants to use it, with its last owner."""

    hash: bytes
    tenant_id: str
    user_id: str
    created_by: str
    typed: bool
    region: str
    device_id: str | None
    owner_id: str | None


class Handset(msgspec.Struct, frozen=True, kw_only=True):
    """What an app tells of the phone it runs on; `hardware_id` is the seed's deviceId."""

    hardware_id: str
    phone_number: str
    name: str
    model: str
    os_type: Literal["android", "ios"]
    os_version: str
    app_version: str


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A handset that was just bound: its row, from whom it was taken, and where the session of the old binding is."""

    id: str
    conn_epoch: int
    old_user_id: str | None
    old_node: str | None


class Freed(msgspec.Struct, frozen=True, kw_only=True):
    """A phone that was just unbound; `node` holds a session of it, which is older than `conn_epoch`."""

    id: str
    conn_epoch: int
    node: str | None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A bound phone."""

    id: str
    hardware_id: str
    user_id: str
    user_name: str
    phone_number: str
    name: str
    model: str
    os_type: str
    online_status: Literal["online", "offline"]
    capabilities: Capabilities
    bound_at: datetime
    last_heartbeat: datetime | None
    is_default: bool

    def view(self) -> DeviceView:
        """Return the phone as its agent sees it."""
        return DeviceView(
            id=self.id,
            device_id=self.hardware_id,
            phone_number=self.phone_number,
            device_name=self.name,
            device_model=self.model,
            os_type=self.os_type,
            online_status=self.online_status,
            bind_time=rfc3339(self.bound_at),
            last_active_at=rfc3339(self.last_heartbeat),
            capabilities=self.capabilities,
            is_default=self.is_default,
        )


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the bind log (seed 003 §4.2.4)."""

    id: int
    user_id: str
    user_name: str
    device_id: str
    hardware_id: str
    phone_number: str
    device_name: str
    device_model: str
    os_type: str
    bind_type: BindType
    action: Action
    reason: str | None
    ip: str | None
    at: datetime


class Outbound(msgspec.Struct, frozen=True, kw_only=True):
    """How an agent calls out (seed 003 §6.1). `call_parameters` is a JSON object."""

    call_method: Literal["mobile", "cloud"]
    device_id: str | None
    line_id: str | None
    call_parameters: bytes


def push_token_place(device_id: str) -> str:
    """Return the name of the place for which the push token of a phone is sealed (`Vault.seal`)."""
    return f"device/{device_id}/push_token"


# --- binding --------------------------------------------------------------------------------------------------------


async def lock_agents(connection: Connection, reach: Reach, user_ids: Iterable[str]) -> dict[str, bool]:
    """Hold still what agents have bound, until commit: the first thing in a transaction that changes it.

    Returns those within reach, each with whether the account is enabled.
    """
    rows = await connection.fetch(_SQL["lock_agents"], *_within(reach), list(user_ids))
    return {row["id"]: row["enabled"] for row in rows}


async def make_token(
    connection: Connection, tenant_id: str, user_id: str, created_by: str, token: bytes, typed: bytes, ttl: float
) -> tuple[datetime, datetime]:
    """Keep the digests of a new bind token and of its typed code for `ttl` seconds: (made at, expires at).

    The agent's earlier tokens are void; hold the agent by `lock_agents`, or two made at once may both live.
    """
    row = await connection.fetchrow(_SQL["make_token"], tenant_id, user_id, created_by, token, typed, ttl)
    assert row is not None
    return row["created_at"], row["expires_at"]


async def find_token(connection: Connection, token: bytes, typed: bytes, hardware_id: str) -> FoundToken | None:
    """Return the bind token with the digest `token`, or whose code to type has the digest `typed`.

    None where there is none, it was used, has expired, or its tenant is suspended. It locks nothing.
    """
    row = await connection.fetchrow(_SQL["find_token"], token, typed, hardware_id)
    return None if row is None else FoundToken(**row)


async def use_token(connection: Connection, tenant_id: str, token: bytes) -> bool:
    """Use a bind token up; False where it was used or has expired since it was found."""
    return await connection.fetchval(_SQL["use_token"], tenant_id, token) is not None


async def void_tokens(connection: Connection, tenant_id: str, user_id: str) -> None:
    """Drop the unused bind tokens of an agent."""
    await connection.execute(_SQL["void_tokens"], tenant_id, user_id)


async def expire_tokens(connection: Connection) -> int:
    """Drop bind tokens that expired a day ago; returns how many went."""
    return await drop_all(connection, _SQL["expire_tokens"])


async def bind(connection: Connection, tenant_id: str, user_id: str, handset: Handset, token_hash: bytes) -> Bound:
    """Bind a handset to an agent: in a new row, or in the row that this tenant has for it, and in no other tenant's.

    The token of an earlier binding is void, its session fenced off and its presence forgotten.
    """
    values = (
        tenant_id,
        handset.hardware_id,
        user_id,
        handset.phone_number,
        handset.name,
        handset.model,
        handset.os_type,
        handset.os_version,
        handset.app_version,
        token_hash,
    )
    row = await connection.fetchrow(_SQL["add"], *values, new_id("dev"))
    row = row or await connection.fetchrow(_SQL["rebind"], *values)
    assert row is not None
    return Bound(id=row["id"], conn_epoch=row["conn_epoch"], old_user_id=row["old_user_id"], old_node=row["old_node"])


async def keep_push_token(connection: Connection, tenant_id: str, device_id: str, sealed: bytes) -> None:
    """Keep the push token of a phone, sealed for `push_token_place`."""
    await connection.execute(_SQL["keep_push_token"], tenant_id, device_id, sealed)


async def sealed_push_tokens(connection: Connection, after: str, limit: int) -> list[tuple[str, bytes]]:
    """Return push tokens of the whole installation, as they are sealed, by phone, from after one on."""
    rows = await connection.fetch(_SQL["sealed_push_tokens"], after, limit)
    return [(row["id"], row["push_token"]) for row in rows]


async def reseal_push_tokens(connection: Connection, anew: Sequence[tuple[str, bytes, bytes]]) -> int:
    """Keep push tokens under another seal: (phone, as it was sealed, as it is now). One that is another token by now
    stays. Returns how many were kept."""
    return len(
        await connection.fetch(_SQL["reseal_push_tokens"], *(list(column) for column in zip(*anew, strict=True)))
    )


async def hold(connection: Connection, tenant_id: str, device_ids: Sequence[str]) -> None:
    """Keep the rows of these phones: first in the order of locks (device, call, command, agents)."""
    await connection.execute(_SQL["hold"], tenant_id, list(device_ids))


async def unbind(connection: Connection, tenant_id: str, user_id: str, device_ids: Sequence[str]) -> list[Freed]:
    """Take phones from the agent; those that are not the agent's, or not any more, are left out."""
    rows = await connection.fetch(_SQL["unbind"], tenant_id, user_id, list(device_ids))
    await connection.execute(_SQL["forget_default"], tenant_id, user_id, [row["id"] for row in rows])
    return [Freed(id=row["id"], conn_epoch=row["conn_epoch"], node=row["node"]) for row in rows]


async def on_call(connection: Connection, tenant_id: str, device_id: str) -> bool:
    """Whether a phone is on a call. After `bind` or `unbind` in the same transaction nobody can dial it any more."""
    return bool(await connection.fetchval(_SQL["on_call"], tenant_id, device_id))


async def log(
    connection: Connection,
    tenant_id: str,
    device_ids: Sequence[str],
    action: Action,
    *,
    bind_type: BindType | None = None,
    reason: str | None = None,
    ip: str | None = None,
) -> None:
    """Write a line of the bind log for each phone, as its row stands; without `bind_type` it is the last one's."""
    await connection.execute(_SQL["log"], tenant_id, list(device_ids), bind_type, action, reason, ip)


# --- reading --------------------------------------------------------------------------------------------------------


async def bound_to(connection: Connection, tenant_id: str, user_id: str) -> list[str]:
    """Return the ids of an agent's phones."""
    return [row["id"] for row in await connection.fetch(_SQL["bound_to"], tenant_id, user_id)]


async def find(connection: Connection, reach: Reach, device_id: str) -> Device | None:
    """Return a bound phone, if it lies within reach."""
    row = await connection.fetchrow(_SQL["find"], *_within(reach), device_id)
    return None if row is None else _device(row)


async def page(
    connection: Connection,
    reach: Reach,
    user_id: str | None,
    *,
    online_status: str | None = None,
    limit: int,
    offset: int = 0,
) -> tuple[list[Device], int]:
    """Return the bound phones within reach, or those of one agent or one status, the newest first, and how many there
    are."""
    which = *_within(reach), user_id, online_status
    rows = await connection.fetch(_SQL["list"], *which, limit, offset)
    return [_device(row) for row in rows], await connection.fetchval(_SQL["count"], *which)


async def read_log(
    connection: Connection, reach: Reach, user_id: str | None, before: int | None, limit: int
) -> list[LogLine]:
    """Return lines of the bind log within reach, or of one agent, the newest first, older than the line `before`."""
    rows = await connection.fetch(_SQL["read_log"], *_within(reach), user_id, before, limit)
    return [LogLine(**row) for row in rows]


# --- how an agent calls out -----------------------------------------------------------------------------------------


async def choose_first(connection: Connection, tenant_id: str, user_id: str, device_id: str) -> None:
    """Make a phone the agent's default, if the agent has none."""
    await connection.execute(_SQL["choose_first"], tenant_id, user_id, device_id)


async def forget_default(connection: Connection, tenant_id: str, user_id: str, device_id: str) -> None:
    """See to it that a phone is not the agent's default."""
    await connection.execute(_SQL["forget_default"], tenant_id, user_id, [device_id])


async def outbound(connection: Connection, tenant_id: str, user_id: str) -> Outbound | None:
    """Return how an agent calls out; None where there is no such agent in this tenant."""
    row = await connection.fetchrow(_SQL["outbound"], tenant_id, user_id)
    if row is None:
        return None
    return Outbound(
        call_method=row["call_method"],
        device_id=row["default_device_id"],
        line_id=row["default_line_id"],
        call_parameters=row["call_parameters"].encode(),
    )


async def put_outbound(connection: Connection, tenant_id: str, user_id: str, how: Outbound) -> None:
    """Set how an agent calls out; hold the agent by `lock_agents`, so that the phone named stays the agent's."""
    await connection.execute(
        _SQL["put_outbound"],
        tenant_id,
        user_id,
        how.call_method,
        how.device_id,
        how.line_id,
        how.call_parameters.decode(),
    )


def _within(reach: Reach) -> tuple[str, str | None, Sequence[str] | None]:
    """The first three parameters of every query that is narrowed to what the asker reaches."""
    return reach.tenant_id, reach.user_id, reach.teams


def _device(row: asyncpg.Record) -> Device:
    known = dict(row)
    known["capabilities"] = msgspec.json.decode(row["capabilities"], type=Capabilities)
    return Device(**known)
