"""Tenants and their teams, as admins change them, and the audit log that tells of it.

A system_admin makes, suspends and resumes tenants; a tenant_admin configures its own. Users are in `users`.
"""

from typing import Annotated

import msgspec

from protocol.errors import CloseCode, DialdeskError
from protocol.messages import Id
from server.auth import actor_of
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.limits import USUAL_HOURS
from server.paging import Paging
from server.passwords import Passwords
from server.relay import Relay
from server.users import ADMIN, Name, NewPassword, NewUsername, Search, amended
from storage import accounts, audit, credentials
from storage.accounts import Team, Tenant, User
from storage.audit import AuditLine, AuditSearch
from storage.database import Connection, Database
from storage.idempotency import Once

Code = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]
Timezone = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Region = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}$(?!\n)")]
Choices = Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=32)]], msgspec.Meta(max_length=50)]
Notice = Annotated[str, msgspec.Meta(max_length=500)]
Days = Annotated[int, msgspec.Meta(ge=1, le=3650)]
Clock = Annotated[str, msgspec.Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$(?!\n)")]
"""A time of day, to 24:00, which is the end of it."""


class NewAdmin(Body, frozen=True, kw_only=True):
    """The first admin of a tenant. A password that is not given is made."""

    username: NewUsername
    name: Name
    password: NewPassword | None = None


class NewTenant(Body, frozen=True, kw_only=True):
    """A tenant to be made; `region` is the country of its telephone numbers."""

    code: Code
    name: Name
    timezone: Timezone = "Asia/Shanghai"
    region: Region = "CN"
    admin: NewAdmin


class TenantChange(Body, frozen=True, kw_only=True):
    """What the installation sets for a tenant: its name, and the hours in which it calls; what is not named stays."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    calling_from: Clock | msgspec.UnsetType = msgspec.UNSET
    calling_to: Clock | msgspec.UnsetType = msgspec.UNSET


class TenantConfig(Body, frozen=True, kw_only=True):
    """What a tenant sets for itself; what is not named stays as it is.

    `recordingEnabled` counts from the next dial on. `recordingNotice` is what the agent must tell the customer before
    the call is recorded. `recordingDays` counts for recordings that are there already, too: those that are older, and
    under no legal hold, are deleted. While `callsEnabled` holds, calls are made from `callingFrom` to `callingTo` by
    the tenant's clock: within 08:00 to 21:00, unless the installation gave wider hours.
    """

    name: Name | msgspec.UnsetType = msgspec.UNSET
    timezone: Timezone | msgspec.UnsetType = msgspec.UNSET
    call_results: Choices | msgspec.UnsetType = msgspec.UNSET
    call_intentions: Choices | msgspec.UnsetType = msgspec.UNSET
    recording_enabled: bool | msgspec.UnsetType = msgspec.UNSET
    recording_notice: Notice | msgspec.UnsetType = msgspec.UNSET
    recording_days: Days | msgspec.UnsetType = msgspec.UNSET
    calls_enabled: bool | msgspec.UnsetType = msgspec.UNSET
    calling_from: Clock | msgspec.UnsetType = msgspec.UNSET
    calling_to: Clock | msgspec.UnsetType = msgspec.UNSET


class TenantsQuery(Paging, frozen=True, kw_only=True):
    """Which tenants to list: those in whose code or name `search` occurs."""

    search: Search | None = None


class TenantAnswer(Answer, frozen=True, kw_only=True):
    """A tenant."""

    tenant: Tenant


class TenantMade(Answer, frozen=True, kw_only=True):
    """A tenant and its first admin; `password` is set where one was made, and is told this once."""

    tenant: Tenant
    admin: User
    password: str | None


class TenantList(Answer, frozen=True, kw_only=True):
    """A page of tenants, by code."""

    tenants: list[Tenant]
    page: int
    page_size: int
    total: int


class TeamRequest(Body, frozen=True, kw_only=True):
    """A team's name."""

    name: Name


class TeamAnswer(Answer, frozen=True, kw_only=True):
    """A team."""

    team: Team


class TeamList(Answer, frozen=True, kw_only=True):
    """A page of teams, by name."""

    teams: list[Team]
    page: int
    page_size: int
    total: int


class AuditQuery(Body, frozen=True, kw_only=True):
    """Which lines to tell, newest first: those after `cursor`. A system_admin may name a tenant."""

    cursor: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$(?!\n)")] | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    resource: Id | None = None
    resource_id: Id | None = None
    actor_id: Id | None = None
    action: Id | None = None
    tenant_id: Id | None = None


class AuditList(Answer, frozen=True, kw_only=True):
    """Lines of the audit log; `nextCursor` asks for older ones, and is null where there are none."""

    lines: list[AuditLine]
    next_cursor: str | None


class Admin:
    """Tenants, teams and the audit log."""

    def __init__(self, database: Database, relay: Relay, passwords: Passwords) -> None:
        self._database = database
        self._relay = relay
        self._passwords = passwords

    # --- tenants, by system admins ------------------------------------------------------------------------------------

    async def create_tenant(self, identity: Identity, body: NewTenant, request: RequestInfo) -> TenantMade:
        """Make a tenant with its first admin.

        Raises ALREADY_EXISTS where the code or the user name is taken, and WEAK_PASSWORD for a password that is none.
        """
        password, password_hash = await self._passwords.given_or_new(body.admin.password, body.admin.username)
        actor = actor_of(identity, request)
        async with self._database.transaction() as connection:
            await _demand_timezone(connection, body.timezone)
            tenant_id = await accounts.create_tenant(
                connection, actor, code=body.code, name=body.name, timezone=body.timezone, region=body.region
            )
            user_id = await accounts.create_user(
                connection,
                actor,
                tenant_id,
                username=body.admin.username,
                name=body.admin.name,
                role=ADMIN,
                password_hash=password_hash,
            )
            tenant = await accounts.get_tenant(connection, tenant_id)
            return TenantMade(
                tenant=tenant, admin=await accounts.get_user(connection, tenant_id, user_id), password=password
            )

    async def list_tenants(self, query: TenantsQuery) -> TenantList:
        """List tenants."""
        async with self._database.connection() as connection:
            total, found = await accounts.list_tenants(connection, query.asked, query.search)
        return TenantList(tenants=found, page=query.page, page_size=query.page_size, total=total)

    async def get_tenant(self, tenant_id: str) -> TenantAnswer:
        """Tell one tenant."""
        async with self._database.connection() as connection:
            return TenantAnswer(tenant=await accounts.get_tenant(connection, tenant_id))

    async def rename_tenant(
        self, identity: Identity, tenant_id: str, body: TenantChange, request: RequestInfo
    ) -> TenantAnswer:
        """Give a tenant another name, or other hours in which it calls; also such as it may not give itself."""
        async with self._database.transaction() as connection:
            before = await accounts.get_tenant(connection, tenant_id, lock=True)
            after = amended(before, body)
            if after.calling_from >= after.calling_to:
                raise _no_hours(after)
            await accounts.change_tenant(connection, actor_of(identity, request), before, after, "update")
        return TenantAnswer(tenant=after)

    async def suspend_tenant(self, identity: Identity, tenant_id: str, request: RequestInfo) -> TenantAnswer:
        """Suspend a tenant: nobody of it is let in, and its sockets close; its logins and phones wait for the end."""
        async with self._database.transaction() as connection:
            before = await accounts.get_tenant(connection, tenant_id, lock=True)
            after = msgspec.structs.replace(before, status="suspended")
            await accounts.change_tenant(connection, actor_of(identity, request), before, after, "suspend")
            pages = await credentials.pages_of_tenant(connection, tenant_id)
            phones = await credentials.phones_of_tenant(connection, tenant_id)
        for user_id, nodes in pages.items():
            self._relay.close_agent(nodes, user_id, CloseCode.UNBOUND, "tenant suspended")
        for device_id, node in phones.items():
            self._relay.close_phone(node, device_id, CloseCode.REFRESH_TOKEN, "tenant suspended")
        return TenantAnswer(tenant=after)

    async def resume_tenant(self, identity: Identity, tenant_id: str, request: RequestInfo) -> TenantAnswer:
        """Let a suspended tenant in again."""
        async with self._database.transaction() as connection:
            before = await accounts.get_tenant(connection, tenant_id, lock=True)
            after = msgspec.structs.replace(before, status="active")
            await accounts.change_tenant(connection, actor_of(identity, request), before, after, "resume")
        return TenantAnswer(tenant=after)

    # --- a tenant's own configuration ---------------------------------------------------------------------------------

    async def get_config(self, identity: Identity) -> TenantAnswer:
        """Tell the tenant's own configuration.

        Raises NOT_FOUND for a system_admin, who belongs to no tenant.
        """
        async with self._database.connection() as connection:
            return TenantAnswer(tenant=await accounts.get_tenant(connection, identity.tenant_id))

    async def put_config(self, identity: Identity, body: TenantConfig, request: RequestInfo) -> TenantAnswer:
        """Change the tenant's name, time zone, recording, when it calls, and what agents choose in the quick record.

        Raises INVALID_FIELD for hours wider than they were and than 08:00 to 21:00.
        """
        async with self._database.transaction() as connection:
            if body.timezone is not msgspec.UNSET:
                await _demand_timezone(connection, body.timezone)
            before = await accounts.get_tenant(connection, identity.tenant_id, lock=True)
            after = amended(before, body)
            _demand_hours(before, after)
            await accounts.change_tenant(connection, actor_of(identity, request), before, after, "update")
        return TenantAnswer(tenant=after)

    # --- teams --------------------------------------------------------------------------------------------------------

    async def create_team(self, identity: Identity, body: TeamRequest, request: RequestInfo, once: Once) -> TeamAnswer:
        """Make a team.

        Raises ALREADY_EXISTS where the tenant has one of that name.
        """
        async with self._database.transaction() as connection:
            team = await accounts.create_team(connection, actor_of(identity, request), _own_tenant(identity), body.name)
            answer = TeamAnswer(team=team)
            await once.keep(connection, answer)
        return answer

    async def list_teams(self, identity: Identity, query: Paging) -> TeamList:
        """List the teams within reach.

        Raises NOT_FOUND for a system_admin, who belongs to no tenant.
        """
        async with self._database.connection() as connection:
            total, found = await accounts.list_teams(
                connection, _own_tenant(identity), query.asked, identity.only_teams
            )
        return TeamList(teams=found, page=query.page, page_size=query.page_size, total=total)

    async def rename_team(self, identity: Identity, team_id: str, body: TeamRequest, request: RequestInfo) -> Done:
        """Give a team another name.

        Raises ALREADY_EXISTS where another team of the tenant has it.
        """
        async with self._database.transaction() as connection:
            await accounts.rename_team(
                connection, actor_of(identity, request), _own_tenant(identity), team_id, body.name
            )
        return Done()

    async def delete_team(self, identity: Identity, team_id: str, request: RequestInfo) -> Done:
        """Delete a team that has no users and no calls.

        Raises IN_USE where it has.
        """
        async with self._database.transaction() as connection:
            await accounts.delete_team(connection, actor_of(identity, request), _own_tenant(identity), team_id)
        return Done()

    # --- the audit log ------------------------------------------------------------------------------------------------

    async def list_audit(self, identity: Identity, query: AuditQuery) -> AuditList:
        """List the lines of the audit log: the tenant's, or for a system_admin the installation's or a tenant's.

        Raises NOT_FOUND where another tenant is named, or by a system_admin one that is not there.
        """
        if identity.tenant_id and query.tenant_id not in {None, identity.tenant_id}:
            raise DialdeskError("NOT_FOUND", what="tenant")
        search = AuditSearch(
            resource=query.resource, resource_id=query.resource_id, actor_id=query.actor_id, action=query.action
        )
        async with self._database.connection() as connection:
            if query.tenant_id is not None:
                await accounts.get_tenant(connection, query.tenant_id)
            lines, older = await audit.lines(
                connection,
                identity.tenant_id or query.tenant_id,
                search,
                int(query.cursor) if query.cursor else None,
                query.page_size,
            )
        return AuditList(lines=lines, next_cursor=None if older is None else str(older))


def _own_tenant(identity: Identity) -> str:
    """Raises NOT_FOUND for a system_admin, who has none."""
    if not identity.tenant_id:
        raise DialdeskError("NOT_FOUND", what="tenant")
    return identity.tenant_id


async def _demand_timezone(connection: Connection, name: str) -> None:
    """Raises INVALID_FIELD where PostgreSQL, which counts by the tenant's days, does not know the time zone."""
    if not await accounts.is_timezone(connection, name):
        raise DialdeskError("INVALID_FIELD", reason=f"there is no time zone {name}")


def _demand_hours(before: Tenant, after: Tenant) -> None:
    """Raises INVALID_FIELD for hours that a tenant may not give itself: it narrows them, or has them as is usual."""
    if after.calling_from >= after.calling_to:
        raise _no_hours(after)
    earliest, latest = min(before.calling_from, USUAL_HOURS[0]), max(before.calling_to, USUAL_HOURS[1])
    if after.calling_from < earliest or after.calling_to > latest:
        reason = f"calls are made from {earliest} to {latest} at most; the installation may allow more"
        raise DialdeskError("INVALID_FIELD", reason=reason)


def _no_hours(tenant: Tenant) -> DialdeskError:
    return DialdeskError("INVALID_FIELD", reason=f"{tenant.calling_from} to {tenant.calling_to} is no time to call in")
