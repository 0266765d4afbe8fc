"""What lets people, programs and phones in: passwords, logins with their refresh tokens, API keys, device tokens.

Tokens are kept as SHA-256 of 256 random bits and looked up by it, so nothing that is kept lets anybody in, and a lookup
has no time worth measuring. All times are PostgreSQL's. What is decided here in one statement - an attempt, the one use
of a refresh token, the end of a login - holds against any number of requests at once.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from protocol.identifiers import new_id
from protocol.timestamps import Timestamp, rfc3339
from storage.accounts import Page, Reach
from storage.batches import drop_all
from storage.database import Connection, queries

_SQL = queries("credentials")


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a user's password. `locks_until` is set where the user is locked should this one fail."""

    user_id: str
    tenant_id: str | None
    username: str
    password_hash: str
    locks_until: datetime | None


class LoginStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A login and its user, as of now; `over` where it was revoked or has expired."""

    user_id: str
    tenant_id: str | None
    role: str
    reach: Reach
    permissions: frozenset[str]
    teams: tuple[str, ...]
    must_change_password: bool
    over: bool
    disabled: bool
    suspended: bool


class EndedLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A login that was ended, and the nodes that hold pages of its user: their sockets are to be closed."""

    id: str
    user_id: str
    tenant_id: str | None
    nodes: list[str]


class KeyStanding(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, as of now; `over` where it was revoked or has expired."""

    id: str
    tenant_id: str
    scopes: frozenset[str]
    over: bool
    suspended: bool


class PhoneStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A bound phone and its agent, as of now."""

    id: str
    tenant_id: str
    hardware_id: str
    user_id: str
    token_hash: bytes
    disabled: bool
    suspended: bool


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An API key as answers tell it; `prefix` is how a person knows it again."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_by: str
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None = None
    revoked_at: Timestamp | None = None


# --- passwords --------------------------------------------------------------------------------------------------------


async def take_attempt(connection: Connection, username: str, attempts: int, lockout: float) -> Attempt | None:
    """Take one attempt at a user's password, before it is looked at; None where the user is locked or unknown.

    The `attempts`-th in a row locks the user for `lockout` seconds, unless `give_back_attempts` follows. Outside a
    transaction, or a failure that rolls back would not count.
    """
    row = await connection.fetchrow(_SQL["take_attempt"], username, attempts, lockout)
    if row is None:
        return None
    return Attempt(
        user_id=row["id"],
        tenant_id=row["tenant_id"],
        username=row["username"],
        password_hash=row["password_hash"],
        locks_until=row["locked_until"],
    )


async def locked_until(connection: Connection, username: str) -> datetime | None:
    """Return until when a user is locked; None where it is not, or is unknown."""
    until: datetime | None = await connection.fetchval(_SQL["locked_until"], username)
    return until


async def give_back_attempts(
    connection: Connection, user_id: str, checked_hash: str, better_hash: str | None = None
) -> bool:
    """Count attempts anew after the right password, and keep `better_hash` where there is one.

    False where the password has been changed since `checked_hash` was read. Locks the user until the transaction ends.
    """
    return await connection.fetchval(_SQL["give_back_attempts"], user_id, checked_hash, better_hash) is not None


async def change_password(connection: Connection, user_id: str, checked_hash: str, new_hash: str) -> bool:
    """Give a user the password it chose; False where it has been changed since `checked_hash` was read."""
    return await connection.fetchval(_SQL["change_password"], user_id, checked_hash, new_hash) is not None


# --- logins -----------------------------------------------------------------------------------------------------------


async def open_login(
    connection: Connection,
    user_id: str,
    ttl: float,
    *,
    ip: str | None = None,
    user_agent: str | None = None,
    api_key_id: str | None = None,
) -> str:
    """Begin a login that ends unless it is extended within `ttl` seconds, and return its id."""
    login_id = new_id("login")
    await connection.execute(_SQL["open_login"], login_id, user_id, ttl, ip, user_agent, api_key_id)
    return login_id


async def add_refresh_token(connection: Connection, login_id: str, token_hash: bytes) -> None:
    """Keep the digest of the login's next refresh token."""
    await connection.execute(_SQL["add_refresh_token"], token_hash, login_id)


async def spend_refresh_token(connection: Connection, token_hash: bytes) -> str | None:
    """Use a refresh token and return its login; None where it is unknown, or was used before."""
    login_id: str | None = await connection.fetchval(_SQL["spend_refresh_token"], token_hash)
    return login_id


async def login_of_refresh_token(connection: Connection, token_hash: bytes) -> str | None:
    """Return the login of a refresh token, used or not."""
    login_id: str | None = await connection.fetchval(_SQL["login_of_refresh_token"], token_hash)
    return login_id


async def extend_login(connection: Connection, login_id: str, ttl: float) -> str | None:
    """Let a login live for `ttl` seconds from now and return its user; None where it is over."""
    user_id: str | None = await connection.fetchval(_SQL["extend_login"], login_id, ttl)
    return user_id


async def end_login(connection: Connection, login_id: str, reason: str) -> EndedLogin | None:
    """Revoke a login and return it; None where it was revoked before."""
    row = await connection.fetchrow(_SQL["end_login"], login_id, reason)
    return None if row is None else EndedLogin(**row)


async def end_logins(connection: Connection, user_id: str, reason: str, but: str | None = None) -> list[EndedLogin]:
    """Revoke the logins of a user, all or all but one, and return those that were live."""
    return [EndedLogin(**row) for row in await connection.fetch(_SQL["end_logins"], user_id, but, reason)]


async def find_logins(connection: Connection, asked: Sequence[tuple[str, str]]) -> list[LoginStanding | None]:
    """Return all that requests of users are judged on, by (login id, user id), in order and in one query."""
    found: list[LoginStanding | None] = [None] * len(asked)
    for row in await connection.fetch(_SQL["by_logins"], *zip(*asked, strict=True)):
        found[row["n"] - 1] = LoginStanding(
            user_id=row["user_id"],
            tenant_id=row["tenant_id"],
            role=row["role"],
            reach=row["reach"],
            permissions=frozenset(row["permissions"]),
            teams=tuple(row["teams"]),
            must_change_password=row["must_change_password"],
            over=row["over"],
            disabled=row["disabled"],
            suspended=row["suspended"],
        )
    return found


async def over(connection: Connection, login_ids: Collection[str]) -> set[str]:
    """Return which of these logins let nobody in any more, for whatever reason."""
    return {row["id"] for row in await connection.fetch(_SQL["over"], list(login_ids))}


async def expire(connection: Connection) -> int:
    """Drop logins that ended a week ago; returns how many went."""
    return await drop_all(connection, _SQL["expire"])


# --- what a suspended tenant closes -----------------------------------------------------------------------------------


async def pages_of_tenant(connection: Connection, tenant_id: str) -> dict[str, list[str]]:
    """Return the nodes that hold pages of a tenant's agents, by agent."""
    return {row["user_id"]: row["nodes"] for row in await connection.fetch(_SQL["pages_of_tenant"], tenant_id)}


async def phones_of_tenant(connection: Connection, tenant_id: str) -> dict[str, str]:
    """Return the nodes that hold a tenant's phones, by device."""
    return {row["id"]: row["node"] for row in await connection.fetch(_SQL["phones_of_tenant"], tenant_id)}


# --- API keys and device tokens ---------------------------------------------------------------------------------------


async def find_api_key(connection: Connection, key_hash: bytes) -> KeyStanding | None:
    """Return all that a request by API key is judged on; that the key is in use is written down once a minute."""
    row = await connection.fetchrow(_SQL["by_api_key"], key_hash)
    if row is None:
        return None
    if row["unseen"] and not row["over"]:
        await connection.execute(_SQL["seen_api_key"], row["id"])
    return KeyStanding(
        id=row["id"],
        tenant_id=row["tenant_id"],
        scopes=frozenset(row["scopes"]),
        over=row["over"],
        suspended=row["suspended"],
    )


async def find_phones(connection: Connection, token_hashes: Sequence[bytes]) -> dict[bytes, PhoneStanding]:
    """Return all that requests of phones are judged on, by the hashes of their tokens; none for a token of no bound
    phone."""
    rows = await connection.fetch(_SQL["by_device_tokens"], list(token_hashes))
    return {row["token_hash"]: PhoneStanding(**row) for row in rows}


async def hold_api_key(connection: Connection, tenant_id: str, key_id: str) -> bool:
    """Keep a key from being revoked before the transaction ends; False where it is revoked already."""
    return await connection.fetchval(_SQL["hold_api_key"], tenant_id, key_id) is not None


async def create_api_key(
    connection: Connection,
    tenant_id: str,
    *,
    name: str,
    prefix: str,
    key_hash: bytes,
    scopes: Sequence[str],
    created_by: str,
    expires_at: datetime | None,
) -> ApiKey | None:
    """Make an API key; None where the tenant has one of that name."""
    key_id = new_id("key")
    created_at: datetime | None = await connection.fetchval(
        _SQL["create_api_key"], tenant_id, key_id, name, prefix, key_hash, list(scopes), created_by, expires_at
    )
    if created_at is None:
        return None
    return ApiKey(
        id=key_id,
        name=name,
        prefix=prefix,
        scopes=list(scopes),
        created_by=created_by,
        created_at=rfc3339(created_at),
        expires_at=rfc3339(expires_at),
    )


async def list_api_keys(connection: Connection, tenant_id: str, page: Page) -> tuple[int, list[ApiKey]]:
    """Return (how many there are, those of the page) of a tenant's API keys, newest first."""
    total = await connection.fetchval(_SQL["count_api_keys"], tenant_id)
    rows = await connection.fetch(_SQL["api_keys"], tenant_id, page.size, page.offset)
    return total, [
        ApiKey(
            id=row["id"],
            name=row["name"],
            prefix=row["prefix"],
            scopes=row["scopes"],
            created_by=row["created_by"],
            created_at=rfc3339(row["created_at"]),
            expires_at=rfc3339(row["expires_at"]),
            last_used_at=rfc3339(row["last_used_at"]),
            revoked_at=rfc3339(row["revoked_at"]),
        )
        for row in rows
    ]


async def revoke_api_key(connection: Connection, tenant_id: str, key_id: str) -> list[EndedLogin] | None:
    """Revoke a key and the logins that grew from it, and return these.

    None where the key was revoked before or is not the tenant's, which `has_api_key` tells apart.
    """
    if await connection.fetchval(_SQL["revoke_api_key"], tenant_id, key_id) is None:
        return None
    rows = await connection.fetch(_SQL["end_logins_of_key"], key_id, "api_key_revoked")
    return [EndedLogin(**row) for row in rows]


async def has_api_key(connection: Connection, tenant_id: str, key_id: str) -> bool:
    """Whether a key is the tenant's, revoked or not."""
    found: bool = await connection.fetchval(_SQL["has_api_key"], tenant_id, key_id)
    return found
