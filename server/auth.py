"""Credentials to Identity: sign-in and its sessions, and who a request or a socket is for.

Every request reads its login and its user in one query, so that whatever ends a login - signing out, a reset password,
a disabled user, a suspended tenant - holds from the next request on. Sockets are closed through the relay.

A refresh token is used once. The second use of one, be it a thief's, its owner's, or a client's whose answer was lost,
ends the login: there is no grace, because within it a stolen token would be as good as its owner's. So a client
refreshes one at a time (pages of one browser under a lock), and signs in again where an answer never came.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, Literal, assert_never

import msgspec

from protocol.errors import CloseCode, DialdeskError
from protocol.messages import Id
from protocol.timestamps import rfc3339
from server.batch import Batch
from server.config import Config
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.passwords import Passwords
from server.relay import Relay
from server.tokens import AccessTokens, Claims, digest, is_api_key, new_token
from storage import accounts, audit, credentials
from storage.accounts import Tenant, User
from storage.audit import Actor
from storage.credentials import Attempt, EndedLogin, LoginStanding, PhoneStanding
from storage.database import Connection, Database
from storage.live import Live

EXCHANGE: Final = "sessions.exchange"
"""The scope of an API key that may become an agent's session."""

Username = Annotated[str, msgspec.Meta(max_length=64)]
Password = Annotated[str, msgspec.Meta(max_length=1024)]


class LoginRequest(Body, frozen=True, kw_only=True):
    """Who signs in."""

    username: Username
    password: Password


class RefreshRequest(Body, frozen=True, kw_only=True):
    """The newest refresh token of a session."""

    refresh_token: Annotated[str, msgspec.Meta(max_length=128)]


class ExchangeRequest(Body, frozen=True, kw_only=True):
    """The agent whose session a CRM asks for."""

    user_id: Id


class PasswordRequest(Body, frozen=True, kw_only=True):
    """A change of one's own password."""

    old_password: Password
    new_password: Password


class TicketRequest(Body, frozen=True, kw_only=True):
    """For an API key, the agent whose ticket it asks for; others ask for their own."""

    user_id: Id | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A user, as it sees itself."""

    id: str
    tenant_id: str | None
    username: str
    name: str
    role: str
    team_id: str | None
    team_name: str | None
    supervised_teams: list[str]
    permissions: list[str]
    must_change_password: bool


class SignedIn(Answer, frozen=True, kw_only=True):
    """A session: `accessToken` is good for `expiresIn` seconds, `refreshToken` for one use at /auth/refresh."""

    access_token: str
    refresh_token: str
    expires_in: int
    user: Profile


class Ticket(Answer, frozen=True, kw_only=True):
    """What opens one WebSocket within `expiresIn` seconds."""

    ticket: str
    expires_in: int


class Me(Answer, frozen=True, kw_only=True):
    """Who asks: a user, or an API key with its scopes as `permissions`."""

    kind: Literal["user", "api_key"]
    permissions: list[str]
    user: Profile | None
    tenant: Tenant | None


class PhoneClaims(msgspec.Struct, frozen=True, tag="phone"):
    """What a phone's ticket says: its device token, by the digest, so that unbinding voids the ticket too."""

    token_hash: bytes


class Auth:
    """The one place where a credential becomes an Identity."""

    def __init__(self, database: Database, live: Live, relay: Relay, passwords: Passwords, config: Config) -> None:
        self._database = database
        self._live = live
        self._relay = relay
        self._passwords = passwords
        self._config = config
        self._access_tokens = AccessTokens(config.secret_key, config.access_token_ttl)
        self._phones = Batch(self._find_phones)
        self._logins = Batch(self._find_logins, at_once=2)

    async def authenticate(self, headers: Mapping[str, str]) -> Identity:
        """Return who asks over HTTP: by access token, API key, or device token with X-Device-Id.

        Raises UNAUTHENTICATED, TOKEN_EXPIRED, DEVICE_UNBOUND, ACCOUNT_DISABLED, TENANT_SUSPENDED.
        """
        token = _bearer(headers)
        if token is None:
            raise DialdeskError("UNAUTHENTICATED")
        if token.startswith("ddp_"):
            return await self._by_device_token(digest(token), headers.get("x-device-id", ""))
        if token.startswith("ddk_"):
            if not is_api_key(token):
                raise DialdeskError("UNAUTHENTICATED")
            async with self._database.connection() as connection:
                return await _by_api_key(connection, digest(token))
        return await self._by_login(self._access_tokens.read(token))

    async def authenticate_socket(
        self, headers: Mapping[str, str], query: Mapping[str, str], kind: Literal["phone", "agent"]
    ) -> Identity:
        """Return who opens a socket for phones or agents: by `?ticket=`, or by header as over HTTP.

        Raises what `authenticate` does, PASSWORD_CHANGE_REQUIRED, FORBIDDEN for who has no tenant, and UNAVAILABLE
        where Redis, which knows the tickets, is away.
        """
        ticket = query.get("ticket")
        if ticket is not None and _bearer(headers) is None:
            identity = await self._by_ticket(ticket)
        else:
            identity = await self.authenticate(headers)
        if identity.kind != {"phone": "phone", "agent": "user"}[kind]:
            raise DialdeskError("UNAUTHENTICATED")
        if identity.must_change_password:
            raise DialdeskError("PASSWORD_CHANGE_REQUIRED")
        if not identity.tenant_id:
            raise DialdeskError("FORBIDDEN", permission="calls.read")
        return identity

    async def refreshed(self, identity: Identity) -> Identity:
        """Return who holds an agent's socket, with the rights of this moment; raises what `authenticate` does."""
        return await self._by_login(_claims_of(identity))

    async def login(self, body: LoginRequest, request: RequestInfo) -> SignedIn:
        """Sign in with user name and password.

        Raises BAD_CREDENTIALS, which does not tell whether there is such a user, ACCOUNT_LOCKED after too many of them,
        RATE_LIMITED where an address asks too often, and ACCOUNT_DISABLED or TENANT_SUSPENDED where the password was
        right and does not help.
        """
        await self._slow_down(request.ip)
        attempt = await self._right_password(body.username, body.password, request)
        better_hash = await self._passwords.improve(attempt.password_hash, body.password)
        async with self._database.transaction() as connection:
            if not await credentials.give_back_attempts(
                connection, attempt.user_id, attempt.password_hash, better_hash
            ):
                raise DialdeskError("BAD_CREDENTIALS")
            return await self._open(connection, attempt.user_id, request)

    async def refresh(self, body: RefreshRequest, request: RequestInfo) -> SignedIn:
        """Get a new access token, and the refresh token to use next time.

        Raises UNAUTHENTICATED where the session is over, ACCOUNT_DISABLED or TENANT_SUSPENDED where that is why, and
        REFRESH_REUSED, which ends the session, where the token was used before.
        """
        used = digest(body.refresh_token)
        async with self._database.transaction() as connection:
            login_id = await credentials.spend_refresh_token(connection, used)
            if login_id is not None:
                user_id = await credentials.extend_login(connection, login_id, self._config.refresh_token_ttl)
                if user_id is None:
                    raise DialdeskError("UNAUTHENTICATED")
                identity = await _read_login(connection, Claims(user_id, login_id))
                return await self._signed_in(connection, identity)
            login_id = await credentials.login_of_refresh_token(connection, used)
            if login_id is None:
                raise DialdeskError("UNAUTHENTICATED")
            ended = await credentials.end_login(connection, login_id, "refresh_reused")
            if ended is None:
                raise DialdeskError("REFRESH_REUSED")
            actor = Actor(kind="system", id="auth", tenant_id=ended.tenant_id, ip=request.ip, request_id=request.id)
            await audit.record(connection, actor, "revoke", "login", login_id, reason="refresh_reused")
        close_pages(self._relay, [ended], "refresh token reused")
        raise DialdeskError("REFRESH_REUSED")

    async def logout(self, identity: Identity) -> Done:
        """Sign out: this session's tokens are void and its pages' sockets close.

        Raises UNAUTHENTICATED for an API key, which has no session.
        """
        own = _claims_of(identity)
        async with self._database.connection() as connection:
            ended = await credentials.end_login(connection, own.login_id, "logout")
        close_pages(self._relay, [ended] if ended else [], "signed out")
        return Done()

    async def change_password(self, identity: Identity, body: PasswordRequest, request: RequestInfo) -> Done:
        """Change one's own password, which signs out one's other sessions.

        Raises BAD_CREDENTIALS where the old one is wrong, ACCOUNT_LOCKED after too many of these, WEAK_PASSWORD where
        the new one is none, and UNAUTHENTICATED for an API key, which has none.
        """
        own = _claims_of(identity)
        async with self._database.connection() as connection:
            user = await _user(connection, identity)
        self._passwords.demand_strength(body.new_password, user.username)
        if body.new_password == body.old_password:
            raise DialdeskError("INVALID_FIELD", reason="newPassword must differ from oldPassword")
        attempt = await self._right_password(user.username, body.old_password, request)
        new_hash = await self._passwords.hash(body.new_password)
        async with self._database.transaction() as connection:
            if not await credentials.change_password(connection, user.id, attempt.password_hash, new_hash):
                raise DialdeskError("BAD_CREDENTIALS")
            others = await credentials.end_logins(connection, user.id, "password_changed", but=own.login_id)
            await audit.record(connection, actor_of(identity, request), "change_password", "user", user.id)
        close_pages(self._relay, others, "password changed")
        return Done()

    async def exchange(self, identity: Identity, body: ExchangeRequest, request: RequestInfo) -> SignedIn:
        """Become an agent by API key: a session for a page that a CRM embeds, without a second sign-in.

        Raises NOT_FOUND where the tenant has no such user, ACCOUNT_DISABLED where it is disabled, and
        ROLE_NOT_GRANTABLE for who reaches more than its own calls and those of its teams: a key becomes no
        administrator.
        """
        async with self._database.transaction() as connection:
            return await self._open_for_key(connection, identity, body.user_id, request)

    async def ws_ticket(self, body: TicketRequest, request: RequestInfo) -> Ticket:
        """Get a ticket that opens one WebSocket where headers cannot be set.

        It takes the credential of a user, an API key or a phone: raises UNAUTHENTICATED, TOKEN_EXPIRED, DEVICE_UNBOUND,
        ACCOUNT_DISABLED and TENANT_SUSPENDED as other operations do. A ticket for somebody else takes what
        `POST /api/v1/auth/exchange` takes: raises FORBIDDEN or PASSWORD_CHANGE_REQUIRED for who may not ask for it,
        NOT_FOUND and ROLE_NOT_GRANTABLE for whom it is not to be had.
        """
        identity = await self.authenticate(request.headers)
        if identity.kind != "api_key" and body.user_id in {None, identity.user_id}:
            of_phone = identity.kind == "phone"
            own = PhoneClaims(digest(_bearer(request.headers) or "")) if of_phone else _claims_of(identity)
            return await self._ticket(own)
        identity.require(EXCHANGE)
        if body.user_id is None:
            raise DialdeskError("INVALID_FIELD", reason="userId says whose ticket it is")
        async with self._database.transaction() as connection:
            session = await self._open_for_key(connection, identity, body.user_id, request)
        return await self._ticket(self._access_tokens.read(session.access_token))

    async def me(self, identity: Identity) -> Me:
        """Tell who asks, with the tenant whose choices an agent's page offers."""
        async with self._database.connection() as connection:
            tenant = await accounts.get_tenant(connection, identity.tenant_id) if identity.tenant_id else None
            user = await _user(connection, identity) if identity.kind == "user" else None
        return Me(
            kind="api_key" if user is None else "user",
            permissions=sorted(identity.permissions),
            user=None if user is None else _profile(user, identity),
            tenant=tenant,
        )

    async def _slow_down(self, ip: str | None) -> None:
        wait = await self._live.allow(f"sign-in:{neighbourhood(ip)}", self._config.login_rate, 60)
        if wait is not None:
            raise DialdeskError("RATE_LIMITED", retryAfter=wait)

    async def _right_password(self, username: str, password: str, request: RequestInfo) -> Attempt:
        """Return the attempt that was right. Raises BAD_CREDENTIALS or ACCOUNT_LOCKED.

        The attempt is counted before the password is looked at: however many guess at once, no more than
        `login_attempts` of them are looked at.
        """
        self._passwords.demand_room()
        async with self._database.connection() as connection:
            attempt = await credentials.take_attempt(
                connection, username, self._config.login_attempts, self._config.login_lockout
            )
            locked_until = None if attempt else await credentials.locked_until(connection, username)
        if locked_until is not None:
            raise DialdeskError("ACCOUNT_LOCKED", until=rfc3339(locked_until))
        if await self._passwords.check(attempt.password_hash if attempt else None, password) and attempt:
            return attempt
        if attempt and attempt.locks_until:
            actor = Actor(kind="system", id="auth", tenant_id=attempt.tenant_id, ip=request.ip, request_id=request.id)
            async with self._database.connection() as connection:
                after = {"lockedUntil": rfc3339(attempt.locks_until)}
                await audit.record(connection, actor, "lock", "user", attempt.user_id, after=after)
        raise DialdeskError("BAD_CREDENTIALS")

    async def _open_for_key(
        self, connection: Connection, identity: Identity, user_id: str, request: RequestInfo
    ) -> SignedIn:
        """Open an agent's login by API key: never of somebody who administers, or the key would become its maker."""
        if not await credentials.hold_api_key(connection, identity.tenant_id, identity.id):
            raise DialdeskError("UNAUTHENTICATED")
        await accounts.get_user(connection, identity.tenant_id, user_id, lock=True)
        return await self._open(connection, user_id, request, key=identity)

    async def _open(
        self,
        connection: Connection,
        user_id: str,
        request: RequestInfo,
        key: Identity | None = None,
    ) -> SignedIn:
        """Open a login of a user whose row is locked, so that nobody disables it at the same time unseen."""
        login_id = await credentials.open_login(
            connection,
            user_id,
            self._config.refresh_token_ttl,
            ip=request.ip,
            user_agent=request.user_agent,
            api_key_id=key.id if key else None,
        )
        identity = await _read_login(connection, Claims(user_id, login_id))
        if key is not None and identity.reach not in {"own", "teams"}:
            raise DialdeskError("ROLE_NOT_GRANTABLE", role=identity.role)
        actor = actor_of(key or identity, request)
        await audit.record(
            connection, actor, "exchange" if key else "login", "user", user_id, after={"login": login_id}
        )
        return await self._signed_in(connection, identity)

    async def _signed_in(self, connection: Connection, identity: Identity) -> SignedIn:
        claims = _claims_of(identity)
        refresh_token = new_token("ddr")
        await credentials.add_refresh_token(connection, claims.login_id, digest(refresh_token))
        return SignedIn(
            access_token=self._access_tokens.mint(claims),
            refresh_token=refresh_token,
            expires_in=self._access_tokens.ttl,
            user=_profile(await _user(connection, identity), identity),
        )

    async def _ticket(self, value: Claims | PhoneClaims) -> Ticket:
        ttl = self._config.ticket_ttl
        return Ticket(ticket=await self._live.put_ticket(msgspec.json.encode(value), ttl), expires_in=round(ttl))

    async def _by_ticket(self, ticket: str) -> Identity:
        value = await self._live.take_ticket(ticket)
        if value is None:
            raise DialdeskError("UNAUTHENTICATED")
        match msgspec.json.decode(value, type=Claims | PhoneClaims):
            case Claims() as claims:
                return await self._by_login(claims)
            case PhoneClaims(token_hash):
                return await self._by_device_token(token_hash, None)
            case unknown:
                assert_never(unknown)

    async def _by_login(self, claims: Claims) -> Identity:
        """Whoever asks in the same moment is read in the same query; nothing is remembered from one to the next."""
        return _identity(await self._logins.ask(claims), claims)

    async def _find_logins(self, asked: Sequence[Claims]) -> list[LoginStanding | None]:
        async with self._database.by_key() as connection:
            return await credentials.find_logins(connection, [(claims.login_id, claims.user_id) for claims in asked])

    async def _by_device_token(self, token_hash: bytes, device_id: str | None) -> Identity:
        """A ticket (`device_id` None) was given to a phone that had named itself. Phones come back by the thousand when
        a node dies: one query reads all that ask at a time, or they would keep everybody else from the pool."""
        phone = await self._phones.ask(token_hash)
        if phone is None:
            raise DialdeskError("DEVICE_UNBOUND")
        if device_id is not None and device_id not in {phone.hardware_id, phone.id}:
            raise DialdeskError("UNAUTHENTICATED")
        if phone.disabled:
            raise DialdeskError("ACCOUNT_DISABLED")
        if phone.suspended:
            raise DialdeskError("TENANT_SUSPENDED")
        return Identity(
            kind="phone", id=phone.id, tenant_id=phone.tenant_id, user_id=phone.user_id, token_hash=token_hash
        )

    async def _find_phones(self, token_hashes: Sequence[bytes]) -> list[PhoneStanding | None]:
        async with self._database.by_key() as connection:
            found = await credentials.find_phones(connection, token_hashes)
        return [found.get(token_hash) for token_hash in token_hashes]


def actor_of(identity: Identity, request: RequestInfo) -> Actor:
    """Return who stands in the audit log for what this request changes in the identity's own tenant."""
    return Actor(
        kind=identity.kind, id=identity.id, tenant_id=identity.tenant_id or None, ip=request.ip, request_id=request.id
    )


def close_pages(relay: Relay, ended: Iterable[EndedLogin], reason: str) -> None:
    """Close the sockets of logins that were ended, now that it is committed."""
    for login in ended:
        relay.close_agent(login.nodes, login.user_id, CloseCode.UNBOUND, reason, login.id)


async def _read_login(connection: Connection, claims: Claims) -> Identity:
    (login,) = await credentials.find_logins(connection, [(claims.login_id, claims.user_id)])
    return _identity(login, claims)


def _identity(login: LoginStanding | None, claims: Claims) -> Identity:
    if login is None:
        raise DialdeskError("UNAUTHENTICATED")
    if login.disabled:
        raise DialdeskError("ACCOUNT_DISABLED")
    if login.suspended:
        raise DialdeskError("TENANT_SUSPENDED")
    if login.over:
        raise DialdeskError("UNAUTHENTICATED")
    return Identity(
        kind="user",
        id=login.user_id,
        tenant_id=login.tenant_id or "",
        user_id=login.user_id,
        role=login.role,
        reach=login.reach,
        teams=login.teams,
        permissions=login.permissions,
        login_id=claims.login_id,
        must_change_password=login.must_change_password,
    )


async def _by_api_key(connection: Connection, key_hash: bytes) -> Identity:
    key = await credentials.find_api_key(connection, key_hash)
    if key is None or key.over:
        raise DialdeskError("UNAUTHENTICATED")
    if key.suspended:
        raise DialdeskError("TENANT_SUSPENDED")
    return Identity(kind="api_key", id=key.id, tenant_id=key.tenant_id, reach="tenant", permissions=key.scopes)


async def _user(connection: Connection, identity: Identity) -> User:
    return await accounts.get_user(connection, identity.tenant_id or None, identity.id)


def _profile(user: User, identity: Identity) -> Profile:
    return Profile(
        id=user.id,
        tenant_id=user.tenant_id,
        username=user.username,
        name=user.name,
        role=user.role,
        team_id=user.team_id,
        team_name=user.team_name,
        supervised_teams=user.supervised_teams,
        permissions=sorted(identity.permissions),
        must_change_password=identity.must_change_password,
    )


def _claims_of(identity: Identity) -> Claims:
    """The user and the login of who signed in. Raises UNAUTHENTICATED for an API key, which has neither."""
    if identity.user_id is None or identity.login_id is None:
        raise DialdeskError("UNAUTHENTICATED")
    return Claims(identity.user_id, identity.login_id)


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def neighbourhood(ip: str | None) -> str:
    """What counts as one address: for IPv6 the /64, of which any one machine has all 2^64."""
    if ip is None or "." in ip:
        return ip or "unknown"
    try:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    except ValueError:
        return ip
