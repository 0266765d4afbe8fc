"""API keys of a tenant: what a CRM shows instead of a password. Each is told once, when it is made."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec

from protocol.errors import DialdeskError
from protocol.timestamps import Instant
from server.auth import EXCHANGE, actor_of, close_pages
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.paging import Paging
from server.relay import Relay
from server.tokens import digest, new_api_key
from storage import audit, credentials
from storage.audit import Actor
from storage.credentials import ApiKey
from storage.database import Connection, Database
from storage.idempotency import Once

FOR_AGENTS: Final = frozenset({EXCHANGE, "calls.dial_for", "devices.bind_for"})
"""What a key may do that no user does: act for an agent."""
NEVER: Final = frozenset({"api_keys.manage"})
"""A key makes no keys: behind each stands a person who made it."""
LONGEST: Final = timedelta(days=36_525)
"""How long a key may be good for, unless for ever: some way before the end of the calendar."""
PREFIX: Final = 8
"""Characters of a key that are kept, for people to know it again: `ddk_` and four of its 32."""


class NewApiKey(Body, frozen=True, kw_only=True):
    """A key to be made. Its scopes are permissions that its maker holds, and those of acting for an agent."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    scopes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=50)]
    expires_at: Instant | None = None


class ApiKeyMade(Answer, frozen=True, kw_only=True):
    """The key itself is in `key`: this once, and null where the answer is repeated for the same Idempotency-Key."""

    api_key: ApiKey
    key: str | None


class ApiKeyList(Answer, frozen=True, kw_only=True):
    """A page of the tenant's keys, newest first; revoked ones stay in the list."""

    api_keys: list[ApiKey]
    page: int
    page_size: int
    total: int


class ApiKeys:
    """The API keys of all tenants."""

    def __init__(self, database: Database, relay: Relay) -> None:
        self._database = database
        self._relay = relay

    async def create(self, identity: Identity, body: NewApiKey, request: RequestInfo, once: Once) -> ApiKeyMade:
        """Make an API key.

        It goes on working when its maker is disabled: it is the tenant's. Raises FORBIDDEN for a scope that the maker
        cannot give, ALREADY_EXISTS where a key that is not revoked has the name.
        """
        for scope in body.scopes:
            if scope in NEVER or not (scope in FOR_AGENTS or identity.may(scope)):
                raise DialdeskError("FORBIDDEN", permission=scope)
        now = datetime.now(UTC)
        if body.expires_at is not None and not now < body.expires_at <= now + LONGEST:
            raise DialdeskError("INVALID_FIELD", reason="expiresAt lies within the next hundred years")
        async with self._database.transaction() as connection:
            api_key, key = await make(
                connection,
                actor_of(identity, request),
                identity.tenant_id,
                identity.id,
                name=body.name,
                scopes=body.scopes,
                expires_at=body.expires_at,
            )
            await once.keep(connection, ApiKeyMade(api_key=api_key, key=None))
        return ApiKeyMade(api_key=api_key, key=key)

    async def list_keys(self, identity: Identity, query: Paging) -> ApiKeyList:
        """List the tenant's API keys."""
        async with self._database.connection() as connection:
            total, found = await credentials.list_api_keys(connection, identity.tenant_id, query.asked)
        return ApiKeyList(api_keys=found, page=query.page, page_size=query.page_size, total=total)

    async def revoke(self, identity: Identity, key_id: str, request: RequestInfo) -> Done:
        """Revoke an API key, with the sessions of agents that it was exchanged for."""
        async with self._database.transaction() as connection:
            ended = await credentials.revoke_api_key(connection, identity.tenant_id, key_id)
            if ended is not None:
                await audit.record(connection, actor_of(identity, request), "revoke", "api_key", key_id)
            elif not await credentials.has_api_key(connection, identity.tenant_id, key_id):
                raise DialdeskError("NOT_FOUND", what="API key")
        close_pages(self._relay, ended or (), "API key revoked")
        return Done()


async def make(
    connection: Connection,
    actor: Actor,
    tenant_id: str,
    created_by: str,
    *,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Make a key and return it with its text, of which only the digest is kept. Raises ALREADY_EXISTS."""
    key = new_api_key()
    api_key = await credentials.create_api_key(
        connection,
        tenant_id,
        name=name,
        prefix=key[:PREFIX],
        key_hash=digest(key),
        scopes=sorted(set(scopes)),
        created_by=created_by,
        expires_at=expires_at,
    )
    if api_key is None:
        raise DialdeskError("ALREADY_EXISTS", what="API key")
    after = {"name": name, "scopes": api_key.scopes, "expiresAt": api_key.expires_at}
    await audit.record(connection, actor, "create", "api_key", api_key.id, after=after)
    return api_key, key
