"""Users, as their admins change them; every change leaves a line in the audit log.

A tenant_admin has all users of its tenant, a system_admin the tenant_admins of every tenant, and nobody else reaches
another tenant's. Nobody gives, or touches anybody who has, a role that may more than its own, and a tenant keeps one
enabled tenant_admin.

Requests that may hold a password, and answers that may, take no Idempotency-Key: neither is to be kept, not even as a
plain hash. User names are unique, so that a repeat is told ALREADY_EXISTS.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, Protocol, TypeVar

import msgspec

from protocol.errors import DialdeskError
from protocol.messages import Id
from server.auth import actor_of, close_pages
from server.devices import Unbound
from server.http import Answer, Body, Csv, RequestInfo
from server.identity import Identity
from server.paging import Paging
from server.passwords import Passwords
from server.relay import Relay
from server.user_import import Row, read_rows
from storage import accounts, credentials
from storage.accounts import Role, User, UserSearch
from storage.audit import Actor
from storage.database import Connection, Database

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$(?!\n)")]
NewUsername = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$(?!\n)")]
NewPassword = Annotated[str, msgspec.Meta(max_length=1024)]
Search = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
TeamIds = Annotated[tuple[Id, ...], msgspec.Meta(max_length=100)]

ADMIN: Final = "tenant_admin"
_WIDTH: Final = {"own": 0, "teams": 1, "tenant": 2, "installation": 3}

S = TypeVar("S", bound=msgspec.Struct)


class RoleList(Answer, frozen=True, kw_only=True):
    """The roles; those in `grantable` the asker may give."""

    roles: list[Role]
    grantable: list[str]


class NewUser(Body, frozen=True, kw_only=True):
    """A user to be made. A password that is not given is made; either is to be changed at first use, unless told not.

    A system_admin names the tenant, and makes tenant_admins only.
    """

    username: NewUsername
    name: Name
    role: Id
    team_id: Id | None = None
    supervised_teams: TeamIds = ()
    password: NewPassword | None = None
    must_change_password: bool = True
    tenant_id: Id | None = None


class UserChange(Body, frozen=True, kw_only=True):
    """What to change of a user; what is not named stays as it is, and a `teamId` of null takes it out of its team."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    role: Id | msgspec.UnsetType = msgspec.UNSET
    team_id: Id | msgspec.UnsetType | None = msgspec.UNSET
    supervised_teams: TeamIds | msgspec.UnsetType = msgspec.UNSET


class UsersQuery(Paging, frozen=True, kw_only=True):
    """Which users to list; `search` occurs in the user name or the name. A system_admin names the tenant."""

    search: Search | None = None
    role: Id | None = None
    team_id: Id | None = None
    status: Literal["active", "disabled"] | None = None
    tenant_id: Id | None = None


class UserAnswer(Answer, frozen=True, kw_only=True):
    """A user."""

    user: User


class UserMade(Answer, frozen=True, kw_only=True):
    """A user; `password` is set where one was made, and is told this once."""

    user: User
    password: str | None


class UserList(Answer, frozen=True, kw_only=True):
    """A page of users, by user name."""

    users: list[User]
    page: int
    page_size: int
    total: int


class ImportQuery(Body, frozen=True, kw_only=True):
    """With `dryRun` the report is made, and nothing else."""

    dry_run: bool = False


class ImportedRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What became of a row: a user, whose made password is told this once, or why there is none."""

    line: int
    username: str
    user_id: str | None = None
    password: str | None = None
    code: str | None = None
    message: str | None = None


class Imported(Answer, frozen=True, kw_only=True):
    """A report, row by row. Rows stand for themselves: those that can be are made, whatever becomes of others."""

    dry_run: bool
    created: int
    refused: int
    rows: list[ImportedRow]


class Phones(Protocol):
    """What disabling a user does to its phones."""

    async def unbind_all(self, connection: Connection, actor: Actor, user_id: str, reason: str) -> list[Unbound]:
        """Unbind all phones of a user in this transaction."""

    def announce_unbound(self, unbound: Sequence[Unbound]) -> None:
        """Tell of it, once committed."""


class Users:
    """The users of all tenants."""

    def __init__(self, database: Database, relay: Relay, passwords: Passwords, devices: Phones) -> None:
        self._database = database
        self._relay = relay
        self._passwords = passwords
        self._devices = devices

    async def list_roles(self, identity: Identity) -> RoleList:
        """List the roles with their permissions."""
        async with self._database.connection() as connection:
            roles = await accounts.roles(connection)
        grantable = [role.code for role in roles.values() if _may_give(identity, role)]
        return RoleList(roles=list(roles.values()), grantable=grantable)

    async def create(self, identity: Identity, body: NewUser, request: RequestInfo) -> UserMade:
        """Make a user.

        Raises ALREADY_EXISTS where the user name is taken, NOT_FOUND where a team or the tenant is not there,
        ROLE_NOT_GRANTABLE for a role that reaches further or may more than the asker's own, and WEAK_PASSWORD for a
        password that is none.
        """
        password, password_hash = await self._passwords.given_or_new(body.password, body.username)
        async with self._database.transaction() as connection:
            tenant_id = await self._tenant_to_look_after(connection, identity, body.tenant_id)
            role = _grantable(identity, await accounts.roles(connection), body.role)
            await _demand_teams(connection, tenant_id, role, body.team_id, body.supervised_teams)
            user_id = await accounts.create_user(
                connection,
                actor_of(identity, request),
                tenant_id,
                username=body.username,
                name=body.name,
                role=role.code,
                password_hash=password_hash,
                team_id=body.team_id,
                supervised_teams=sorted(set(body.supervised_teams)),
                must_change_password=body.must_change_password,
            )
            return UserMade(user=await accounts.get_user(connection, tenant_id, user_id), password=password)

    async def list_users(self, identity: Identity, query: UsersQuery) -> UserList:
        """List the users within reach.

        Raises NOT_FOUND where another tenant is named, or by a system_admin one that is not there.
        """
        async with self._database.connection() as connection:
            tenant_id = await self._tenant_to_look_after(connection, identity, query.tenant_id)
            search = UserSearch(
                only_user=identity.only_user,
                only_teams=identity.only_teams,
                role=query.role if identity.tenant_id else ADMIN,
                team_id=query.team_id,
                disabled=None if query.status is None else query.status == "disabled",
                text=query.search,
            )
            total, found = await accounts.list_users(connection, tenant_id, search, query.asked)
        return UserList(users=found, page=query.page, page_size=query.page_size, total=total)

    async def get(self, identity: Identity, user_id: str) -> UserAnswer:
        """Tell one user."""
        async with self._database.connection() as connection:
            _, user = await self._find(connection, identity, user_id)
        return UserAnswer(user=user)

    async def update(self, identity: Identity, user_id: str, body: UserChange, request: RequestInfo) -> UserAnswer:
        """Change a user's name, role, team or supervised teams; it holds from the user's next request on.

        Raises ROLE_NOT_GRANTABLE where the role it has, or is to get, reaches further or may more than the asker's own,
        and LAST_ADMIN where the tenant's last enabled admin would be one no more.
        """
        async with self._database.transaction() as connection:
            tenant_id, before = await self._hold(connection, identity, user_id)
            after = amended(before, body)
            role = _grantable(identity, await accounts.roles(connection), after.role)
            leaves_teams = role.reach != "teams" and body.supervised_teams is msgspec.UNSET
            supervised_teams = [] if leaves_teams else sorted(set(after.supervised_teams))
            after = msgspec.structs.replace(after, supervised_teams=supervised_teams)
            await _demand_teams(connection, tenant_id, role, after.team_id, after.supervised_teams)
            if after.role != before.role:
                await _demand_another_admin(connection, tenant_id, before)
            await accounts.change_user(connection, actor_of(identity, request), before, after)
            return UserAnswer(user=await accounts.get_user(connection, tenant_id, user_id))

    async def disable(self, identity: Identity, user_id: str, request: RequestInfo) -> UserAnswer:
        """Disable a user: signs it out everywhere and unbinds its phones; its records stay.

        Raises SELF_CHANGE for the asker, LAST_ADMIN for the tenant's last enabled admin, ROLE_NOT_GRANTABLE for who
        reaches further or may more than the asker, and CALL_CHANGED where one of its phones was dialled at the same
        moment.
        """
        async with self._database.transaction() as connection:
            _demand_somebody_else(identity, user_id)
            tenant_id, user = await self._hold(connection, identity, user_id)
            await _demand_another_admin(connection, tenant_id, user)
            actor = msgspec.structs.replace(actor_of(identity, request), tenant_id=tenant_id)
            await accounts.set_disabled(connection, actor, tenant_id, user_id, disabled=True)
            ended = await credentials.end_logins(connection, user_id, "disabled")
            answer = UserAnswer(user=await accounts.get_user(connection, tenant_id, user_id))
            unbound = await self._devices.unbind_all(connection, actor, user_id, "user disabled")
        self._devices.announce_unbound(unbound)
        close_pages(self._relay, ended, "user disabled")
        return answer

    async def enable(self, identity: Identity, user_id: str, request: RequestInfo) -> UserAnswer:
        """Enable a user again; its phones are to be bound anew.

        Raises ROLE_NOT_GRANTABLE for who reaches further or may more than the asker.
        """
        async with self._database.transaction() as connection:
            tenant_id, _ = await self._hold(connection, identity, user_id)
            await accounts.set_disabled(connection, actor_of(identity, request), tenant_id, user_id, disabled=False)
            return UserAnswer(user=await accounts.get_user(connection, tenant_id, user_id))

    async def reset_password(self, identity: Identity, user_id: str, request: RequestInfo) -> UserMade:
        """Give a user a new password, to be changed at first use; signs it out everywhere and ends a lock-out.

        Raises SELF_CHANGE for the asker, who changes its password by the old one, and ROLE_NOT_GRANTABLE for who
        reaches further or may more than the asker.
        """
        password, password_hash = self._passwords.generate()
        async with self._database.transaction() as connection:
            _demand_somebody_else(identity, user_id)
            tenant_id, _ = await self._hold(connection, identity, user_id)
            await accounts.reset_password(connection, actor_of(identity, request), tenant_id, user_id, password_hash)
            ended = await credentials.end_logins(connection, user_id, "password_reset")
            answer = UserMade(user=await accounts.get_user(connection, tenant_id, user_id), password=password)
        close_pages(self._relay, ended, "password reset")
        return answer

    async def unlock(self, identity: Identity, user_id: str, request: RequestInfo) -> UserAnswer:
        """End a user's lock-out.

        Raises ROLE_NOT_GRANTABLE for who reaches further or may more than the asker.
        """
        async with self._database.transaction() as connection:
            tenant_id, _ = await self._hold(connection, identity, user_id)
            await accounts.unlock(connection, actor_of(identity, request), tenant_id, user_id)
            return UserAnswer(user=await accounts.get_user(connection, tenant_id, user_id))

    async def import_users(self, identity: Identity, body: Csv, query: ImportQuery, request: RequestInfo) -> Imported:
        """Make users from a CSV file, in one transaction, row by row: a row that is refused stops no other.

        Raises NOT_FOUND for a system_admin, who belongs to no tenant.
        """
        tenant_id = identity.tenant_id
        if not tenant_id:
            raise DialdeskError("NOT_FOUND", what="tenant")
        rows = read_rows(body)
        hashes = await self._hashes(rows, dry_run=query.dry_run)
        report: list[ImportedRow] = []
        try:
            async with self._database.transaction() as connection:
                roles = await accounts.roles(connection)
                teams = await accounts.team_ids(connection, tenant_id)
                await accounts.hold_teams(connection, tenant_id, {teams[r.team] for r in rows if r.team in teams})
                for row in rows:
                    try:
                        made = await self._import_row(
                            connection, identity, actor_of(identity, request), row, roles, teams, hashes.get(row.line)
                        )
                    except DialdeskError as error:
                        made = ImportedRow(
                            line=row.line,
                            username=row.username,
                            code=error.code,
                            message=error.message(request.language),
                        )
                    report.append(made)
                if query.dry_run:
                    raise _DryRun
        except _DryRun:
            report = [msgspec.structs.replace(row, user_id=None, password=None) for row in report]
        created = sum(row.code is None for row in report)
        return Imported(dry_run=query.dry_run, created=created, refused=len(report) - created, rows=report)

    async def _tenant_to_look_after(self, connection: Connection, identity: Identity, named: str | None) -> str:
        """The tenant whose users are meant: one's own, or the one that a system_admin names."""
        if identity.tenant_id:
            if named not in {None, identity.tenant_id}:
                raise DialdeskError("NOT_FOUND", what="tenant")
            return identity.tenant_id
        if named is None:
            raise DialdeskError("INVALID_FIELD", reason="tenantId says whose users are meant")
        return (await accounts.get_tenant(connection, named)).id

    async def _find(self, connection: Connection, identity: Identity, user_id: str) -> tuple[str, User]:
        """A user within reach, and its tenant. Raises NOT_FOUND."""
        tenant_id = identity.tenant_id or await accounts.tenant_of_admin(connection, user_id)
        if tenant_id is None:
            raise DialdeskError("NOT_FOUND", what="user")
        return tenant_id, await accounts.get_user(
            connection, tenant_id, user_id, only_user=identity.only_user, only_teams=identity.only_teams
        )

    async def _hold(self, connection: Connection, identity: Identity, user_id: str) -> tuple[str, User]:
        """A user whom this identity may change, held until the transaction ends, as is who the tenant's admins are."""
        tenant_id, _ = await self._find(connection, identity, user_id)
        await accounts.get_tenant(connection, tenant_id, lock=True)
        user = await accounts.get_user(connection, tenant_id, user_id, lock=True)
        _grantable(identity, await accounts.roles(connection), user.role)
        return tenant_id, user

    async def _hashes(self, rows: Sequence[Row], *, dry_run: bool) -> dict[int, str]:
        """The hashes of given passwords by line: before the transaction, since they take time, and one after another,
        so that whoever signs in meanwhile has a turn."""
        if dry_run:
            return {}
        return {row.line: await self._passwords.hash(row.password) for row in rows if row.password}

    async def _import_row(
        self,
        connection: Connection,
        identity: Identity,
        actor: Actor,
        row: Row,
        roles: dict[str, Role],
        teams: dict[str, str],
        given_hash: str | None,
    ) -> ImportedRow:
        """Make the user of a row. Raises why not, and leaves the transaction able to go on."""
        username = _checked(row.username, NewUsername, "username")
        name = _checked(row.name, Name, "name")
        role = _grantable(identity, roles, row.role or "agent")
        if row.team and row.team not in teams:
            raise DialdeskError("NOT_FOUND", what=f"team {row.team}")
        if row.password:
            self._passwords.demand_strength(row.password, username)
        password, password_hash = (None, given_hash) if given_hash else self._passwords.generate()
        user_id = await accounts.create_user(
            connection,
            actor,
            identity.tenant_id,
            username=username,
            name=name,
            role=role.code,
            password_hash=password_hash,
            team_id=teams.get(row.team),
        )
        return ImportedRow(line=row.line, username=username, user_id=user_id, password=password)


def amended(before: S, change: Body) -> S:
    """Return `before` with what the change names; what it leaves UNSET stays."""
    named = {field: value for field, value in msgspec.structs.asdict(change).items() if value is not msgspec.UNSET}
    return msgspec.structs.replace(before, **named)


class _DryRun(Exception):  # noqa: N818 - nothing went wrong
    """Rolls back the transaction whose report is all that was wanted."""


def _may_give(identity: Identity, role: Role) -> bool:
    """Whether an identity may give a role, and change who has it: none that reaches further or may more."""
    if identity.reach == "installation":
        return role.code == ADMIN
    return _WIDTH[role.reach] <= _WIDTH[identity.reach] and identity.permissions.issuperset(role.permissions)


def _grantable(identity: Identity, roles: Mapping[str, Role], code: str) -> Role:
    """The role of that code. Raises INVALID_FIELD where there is none, ROLE_NOT_GRANTABLE where it may not be given."""
    role = roles.get(code)
    if role is None:
        raise DialdeskError("INVALID_FIELD", reason=f"there is no role {code}")
    if not _may_give(identity, role):
        raise DialdeskError("ROLE_NOT_GRANTABLE", role=code)
    return role


def _demand_somebody_else(identity: Identity, user_id: str) -> None:
    """Nobody disables itself, and a password of one's own is changed by who knows the old one. Raises SELF_CHANGE."""
    if user_id == identity.user_id:
        raise DialdeskError("SELF_CHANGE")


async def _demand_another_admin(connection: Connection, tenant_id: str, user: User) -> None:
    """Raise LAST_ADMIN where the user is the last enabled admin of its tenant, which is held."""
    if (
        user.role == ADMIN
        and user.status == "active"
        and not await accounts.other_admins(connection, tenant_id, user.id)
    ):
        raise DialdeskError("LAST_ADMIN")


async def _demand_teams(
    connection: Connection, tenant_id: str, role: Role, team_id: str | None, supervised_teams: Sequence[str]
) -> None:
    """Hold the teams a user is in and supervises. Raises NOT_FOUND, or INVALID_FIELD where its role supervises none."""
    if supervised_teams and role.reach != "teams":
        raise DialdeskError("INVALID_FIELD", reason=f"the role {role.code} supervises no teams")
    await accounts.hold_teams(connection, tenant_id, {*supervised_teams, *([team_id] if team_id is not None else [])})


def _checked(text: str, kind: object, column: str) -> str:
    """The text of a cell. Raises INVALID_FIELD where a request for a single user could not bring it either."""
    try:
        checked: str = msgspec.convert(text, type=kind)
    except msgspec.ValidationError as error:
        raise DialdeskError("INVALID_FIELD", reason=f"{column}: {error}") from error
    return checked
