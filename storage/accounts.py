"""Who there is: tenants, their teams, and users with roles.

A function that changes something takes the actor and the tenant in which it is changed, and writes the line of the
audit log itself, so that no change can go without one: call it in a transaction. What it takes for granted - that the
actor may, that a password is strong - is for the caller to judge. Times in what is returned are as answers tell them.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from protocol.errors import DialdeskError
from protocol.identifiers import new_id
from protocol.timestamps import Timestamp, rfc3339
from storage.audit import Actor, record
from storage.database import Connection, queries

_SQL = queries("accounts")

Reach = Literal["own", "teams", "tenant", "installation"]


class Page(msgspec.Struct, frozen=True):
    """Which part of a list: pages count from 1."""

    number: int
    size: int

    @property
    def offset(self) -> int:
        """How many rows stand before the page."""
        return (self.number - 1) * self.size


class Tenant(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A company that uses the installation, with what its agents may choose in the quick record (seed 003 §6.4).

    While `recording_enabled` holds calls are recorded, after the agent has told the customer `recording_notice`, and
    kept for `recording_days`. While `calls_enabled` holds calls are made, from `calling_from` to `calling_to` by the
    tenant's clock: hours and minutes, to 24:00.
    """

    id: str
    code: str
    name: str
    timezone: str
    region: str
    status: Literal["active", "suspended"]
    call_results: list[str]
    call_intentions: list[str]
    recording_enabled: bool
    recording_notice: str
    recording_days: int
    calls_enabled: bool
    calling_from: str
    calling_to: str
    created_at: Timestamp


class Team(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A team of a tenant; `members` counts its enabled users."""

    id: str
    name: str
    members: int
    created_at: Timestamp


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of user may do, and whose rows it reaches."""

    code: str
    name: str
    reach: Reach
    permissions: list[str]


class User(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A user. `tenant_id` is None for a system_admin; `locked_until` is None where no lock-out goes on."""

    id: str
    tenant_id: str | None
    username: str
    name: str
    role: str
    team_id: str | None
    team_name: str | None
    supervised_teams: list[str]
    status: Literal["active", "disabled"]
    must_change_password: bool
    locked_until: Timestamp | None
    created_at: Timestamp


class UserSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Which users to list: those within reach (`only_user`, `only_teams`), of which those that match the rest."""

    only_user: str | None = None
    only_teams: Sequence[str] | None = None
    role: str | None = None
    team_id: str | None = None
    disabled: bool | None = None
    text: str | None = None


# --- tenants ----------------------------------------------------------------------------------------------------------


async def create_tenant(
    connection: Connection,
    actor: Actor,
    *,
    code: str,
    name: str,
    timezone: str = "Asia/Shanghai",
    region: str = "CN",
) -> str:
    """Make a tenant and return its id. Raises ALREADY_EXISTS where the code is taken."""
    tenant_id = new_id("tenant")
    if await connection.fetchval(_SQL["create_tenant"], tenant_id, code, name, timezone, region) is None:
        raise DialdeskError("ALREADY_EXISTS", what="tenant")
    after = {"code": code, "name": name, "timezone": timezone, "region": region}
    await _record(connection, actor, tenant_id, "create", "tenant", tenant_id, after=after)
    return tenant_id


async def get_tenant(connection: Connection, tenant_id: str, *, lock: bool = False) -> Tenant:
    """Return a tenant; with `lock` nobody else changes it, or who its admins are, before the transaction ends.

    Raises NOT_FOUND.
    """
    row = await connection.fetchrow(_SQL["lock_tenant" if lock else "tenant"], tenant_id)
    if row is None:
        raise DialdeskError("NOT_FOUND", what="tenant")
    return _tenant(row)


async def list_tenants(connection: Connection, page: Page, text: str | None = None) -> tuple[int, list[Tenant]]:
    """Return (how many there are, those of the page) of the tenants in whose code or name `text` occurs."""
    total = await connection.fetchval(_SQL["count_tenants"], text)
    rows = await connection.fetch(_SQL["tenants"], text, page.size, page.offset)
    return total, [_tenant(row) for row in rows]


async def is_timezone(connection: Connection, name: str) -> bool:
    """Whether PostgreSQL knows a time zone of that name."""
    known: bool = await connection.fetchval(_SQL["is_timezone"], name)
    return known


async def change_tenant(connection: Connection, actor: Actor, before: Tenant, after: Tenant, action: str) -> None:
    """Turn `before`, which is locked, into `after`: its name, time zone, status, lists, recording and hours."""
    if after == before:
        return
    await connection.execute(
        _SQL["change_tenant"],
        before.id,
        after.name,
        after.timezone,
        after.status,
        after.call_results,
        after.call_intentions,
        after.recording_enabled,
        after.recording_notice,
        after.recording_days,
        after.calls_enabled,
        after.calling_from,
        after.calling_to,
    )
    old, new = _difference(before, after)
    await _record(connection, actor, before.id, action, "tenant", before.id, before=old, after=new)


# --- teams ------------------------------------------------------------------------------------------------------------


async def create_team(connection: Connection, actor: Actor, tenant_id: str, name: str) -> Team:
    """Make a team. Raises ALREADY_EXISTS where the tenant has one of that name."""
    team_id = new_id("team")
    created_at: datetime | None = await connection.fetchval(_SQL["create_team"], tenant_id, team_id, name)
    if created_at is None:
        raise DialdeskError("ALREADY_EXISTS", what="team")
    await _record(connection, actor, tenant_id, "create", "team", team_id, after={"name": name})
    return Team(id=team_id, name=name, members=0, created_at=rfc3339(created_at))


async def list_teams(
    connection: Connection, tenant_id: str, page: Page, only_teams: Sequence[str] | None = None
) -> tuple[int, list[Team]]:
    """Return (how many there are, those of the page) of the teams within reach."""
    total = await connection.fetchval(_SQL["count_teams"], tenant_id, only_teams)
    rows = await connection.fetch(_SQL["teams"], tenant_id, only_teams, page.size, page.offset)
    return total, [
        Team(id=row["id"], name=row["name"], members=row["members"], created_at=rfc3339(row["created_at"]))
        for row in rows
    ]


async def team_ids(connection: Connection, tenant_id: str) -> dict[str, str]:
    """Return the ids of a tenant's teams by name."""
    return {row["name"]: row["id"] for row in await connection.fetch(_SQL["team_ids"], tenant_id)}


async def hold_teams(connection: Connection, tenant_id: str, asked: Iterable[str]) -> None:
    """Keep these teams from being deleted before the transaction ends. Raises NOT_FOUND where one is not there."""
    wanted = set(asked)
    held = {row["id"] for row in await connection.fetch(_SQL["hold_teams"], tenant_id, list(wanted))}
    if held != wanted:
        raise DialdeskError("NOT_FOUND", what="team")


async def rename_team(connection: Connection, actor: Actor, tenant_id: str, team_id: str, name: str) -> None:
    """Rename a team. Raises NOT_FOUND, or ALREADY_EXISTS where another team has the name."""
    team = await _lock_team(connection, tenant_id, team_id)
    try:
        await connection.execute(_SQL["rename_team"], tenant_id, team_id, name)
    except asyncpg.UniqueViolationError as error:
        raise DialdeskError("ALREADY_EXISTS", what="team") from error
    change = {"before": {"name": team["name"]}, "after": {"name": name}}
    await _record(connection, actor, tenant_id, "update", "team", team_id, **change)


async def delete_team(connection: Connection, actor: Actor, tenant_id: str, team_id: str) -> None:
    """Drop a team. Raises NOT_FOUND, or IN_USE where it has users, or calls whose records name it."""
    team = await _lock_team(connection, tenant_id, team_id)
    if await connection.fetchval(_SQL["team_in_use"], tenant_id, team_id):
        raise DialdeskError("IN_USE", what="team")
    await connection.execute(_SQL["delete_team"], tenant_id, team_id)
    await _record(connection, actor, tenant_id, "delete", "team", team_id, before={"name": team["name"]})


# --- users ------------------------------------------------------------------------------------------------------------


async def roles(connection: Connection) -> dict[str, Role]:
    """Return the roles by code."""
    rows = await connection.fetch(_SQL["roles"])
    return {row["code"]: Role(**row) for row in rows}


async def create_user(
    connection: Connection,
    actor: Actor,
    tenant_id: str | None,
    *,
    username: str,
    name: str,
    role: str,
    password_hash: str,
    team_id: str | None = None,
    supervised_teams: Sequence[str] = (),
    must_change_password: bool = True,
) -> str:
    """Make a user, whose teams the caller holds, and return its id; only a system_admin has no tenant.

    Raises ALREADY_EXISTS where the installation has a user of that name; the transaction may go on.
    """
    user_id = new_id("user")
    added = await connection.fetchval(
        _SQL["create_user"],
        user_id,
        tenant_id,
        username,
        name,
        role,
        team_id,
        password_hash,
        must_change_password,
        list(supervised_teams),
    )
    if added is None:
        raise DialdeskError("ALREADY_EXISTS", what="username")
    after = {
        "username": username,
        "name": name,
        "role": role,
        "teamId": team_id,
        "supervisedTeams": list(supervised_teams),
    }
    await _record(connection, actor, tenant_id, "create", "user", user_id, after=after)
    return user_id


async def get_user(
    connection: Connection,
    tenant_id: str | None,
    user_id: str,
    *,
    only_user: str | None = None,
    only_teams: Sequence[str] | None = None,
    lock: bool = False,
) -> User:
    """Return a user within reach; with `lock` nobody else changes it, or signs in as it, before the transaction ends.

    Raises NOT_FOUND.
    """
    if lock:
        await connection.execute(_SQL["lock_user"], tenant_id, user_id)
    row = await connection.fetchrow(_SQL["user"], tenant_id, user_id, only_user, only_teams)
    if row is None:
        raise DialdeskError("NOT_FOUND", what="user")
    return _user(row)


async def list_users(connection: Connection, tenant_id: str, search: UserSearch, page: Page) -> tuple[int, list[User]]:
    """Return (how many there are, those of the page) of the users that are searched for."""
    arguments = (
        tenant_id,
        search.only_user,
        search.only_teams,
        search.role,
        search.team_id,
        search.disabled,
        search.text,
    )
    total = await connection.fetchval(_SQL["count_users"], *arguments)
    rows = await connection.fetch(_SQL["users"], *arguments, page.size, page.offset)
    return total, [_user(row) for row in rows]


async def tenant_of_admin(connection: Connection, user_id: str) -> str | None:
    """Return the tenant of a tenant_admin; None where the user is none."""
    tenant_id: str | None = await connection.fetchval(_SQL["tenant_of_admin"], user_id)
    return tenant_id


async def change_user(connection: Connection, actor: Actor, before: User, after: User) -> None:
    """Turn `before`, which is locked, into `after`: name, role, and the teams, which the caller holds too."""
    if after == before:
        return
    await connection.execute(_SQL["change_user"], before.tenant_id, before.id, after.name, after.role, after.team_id)
    await connection.execute(_SQL["supervise"], before.tenant_id, before.id, after.supervised_teams)
    old, new = _difference(before, after)
    await _record(connection, actor, before.tenant_id, "update", "user", before.id, before=old, after=new)


async def other_admins(connection: Connection, tenant_id: str, user_id: str) -> int:
    """Return how many enabled admins a tenant, which is locked, has beside this user."""
    count: int = await connection.fetchval(_SQL["other_admins"], tenant_id, user_id)
    return count


async def set_disabled(
    connection: Connection, actor: Actor, tenant_id: str | None, user_id: str, *, disabled: bool
) -> bool:
    """Disable or enable a user; False where it is so already.

    Whoever disables also ends the user's logins (`credentials.end_logins`) and unbinds its phones.
    """
    if await connection.fetchval(_SQL["set_disabled"], tenant_id, user_id, disabled) is None:
        return False
    await _record(connection, actor, tenant_id, "disable" if disabled else "enable", "user", user_id)
    return True


async def reset_password(
    connection: Connection, actor: Actor, tenant_id: str | None, user_id: str, password_hash: str
) -> None:
    """Give a user a password to be changed at first use. Whoever resets also ends the user's logins."""
    await connection.execute(_SQL["reset_password"], tenant_id, user_id, password_hash)
    await _record(connection, actor, tenant_id, "reset_password", "user", user_id)


async def unlock(connection: Connection, actor: Actor, tenant_id: str, user_id: str) -> None:
    """End a user's lock-out."""
    await connection.execute(_SQL["unlock"], tenant_id, user_id)
    await _record(connection, actor, tenant_id, "unlock", "user", user_id)


async def _lock_team(connection: Connection, tenant_id: str, team_id: str) -> asyncpg.Record:
    row = await connection.fetchrow(_SQL["lock_team"], tenant_id, team_id)
    if row is None:
        raise DialdeskError("NOT_FOUND", what="team")
    return row


async def _record(
    connection: Connection,
    actor: Actor,
    tenant_id: str | None,
    action: str,
    resource: str,
    resource_id: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write the line where the changed tenant reads it, which for a system_admin's change is not the actor's own."""
    actor = msgspec.structs.replace(actor, tenant_id=tenant_id)
    await record(connection, actor, action, resource, resource_id, before=before, after=after)


def _difference(before: msgspec.Struct, after: msgspec.Struct) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the audit log tells of a change: only the fields that differ, as they were and as they are."""
    old: dict[str, Any] = msgspec.to_builtins(before)
    new: dict[str, Any] = msgspec.to_builtins(after)
    changed = [field for field in old if old[field] != new[field]]
    return {field: old[field] for field in changed}, {field: new[field] for field in changed}


def _tenant(row: asyncpg.Record) -> Tenant:
    return Tenant(**{**row, "created_at": rfc3339(row["created_at"])})


def _user(row: asyncpg.Record) -> User:
    return User(
        id=row["id"],
        tenant_id=row["tenant_id"],
        username=row["username"],
        name=row["name"],
        role=row["role"],
        team_id=row["team_id"],
        team_name=row["team_name"],
        supervised_teams=row["supervised_teams"],
        status="active" if row["disabled_at"] is None else "disabled",
        must_change_password=row["must_change_password"],
        locked_until=rfc3339(row["locked_until"]),
        created_at=rfc3339(row["created_at"]),
    )
