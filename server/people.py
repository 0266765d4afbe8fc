"""People by the command line: for the operator of an installation, where nobody can sign in yet or any more."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from protocol.errors import DialdeskError
from server.calls import Calls
from server.config import Config, master_keys
from server.devices import Devices
from server.passwords import Passwords
from server.relay import Relay
from server.telemetry import Metrics
from server.tokens import AccessTokens, Claims
from storage import accounts, credentials, installation
from storage.audit import Actor, record
from storage.database import Connection, Database, open_database
from storage.live import Live, open_redis
from storage.vault import Vault

_ACTOR = Actor(kind="system", id="command line", tenant_id=None)
_TELL_DEADLINE = 5.0
_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TENANT_CODE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


async def add_user(config: Config, username: str, tenant_code: str | None, role: str, name: str) -> str:
    """Add a user, and its tenant where that is missing; returns a password to be changed at the first sign-in."""
    if not _USERNAME.fullmatch(username):
        raise DialdeskError("INVALID_FIELD", reason=f"user name: {_USERNAME.pattern}")
    if tenant_code is not None and not _TENANT_CODE.fullmatch(tenant_code):
        raise DialdeskError("INVALID_FIELD", reason=f"tenant code: {_TENANT_CODE.pattern}")
    password, password_hash = Passwords.generate()
    async with _database(config) as database, database.transaction() as connection:
        tenant_id = None
        if tenant_code is not None:
            tenant_id = await installation.tenant_by_code(connection, tenant_code)
            if tenant_id is None:
                tenant_id = await accounts.create_tenant(connection, _ACTOR, code=tenant_code, name=tenant_code)
        await accounts.create_user(
            connection,
            _ACTOR,
            tenant_id,
            username=username,
            name=name,
            role="system_admin" if tenant_id is None else role,
            password_hash=password_hash,
        )
    return password


async def reset_password(config: Config, username: str) -> str:
    """Give a user a new password and end its sessions; nodes close its pages at their next look."""
    password, password_hash = Passwords.generate()
    async with _database(config) as database, database.transaction() as connection:
        user_id, tenant_id = await _find(connection, username)
        await accounts.reset_password(connection, _ACTOR, tenant_id, user_id, password_hash)
        await credentials.end_logins(connection, user_id, "password reset")
    return password


async def disable_user(config: Config, username: str) -> None:
    """Disable a user, end its sessions and unbind its phones; its records stay."""
    async with _database(config) as database:
        redis = open_redis(config.redis_url)
        try:
            metrics = Metrics()
            relay = Relay(
                redis,
                config.redis_prefix,
                lambda: "command line",
                metrics,
                canary_every=config.canary,
                deaf_after=config.deaf_after,
            )
            calls = Calls(database, relay, metrics, config)
            live = Live(redis, config.redis_prefix)
            devices = Devices(database, relay, Vault(master_keys(config)), live, config, calls)
            async with database.transaction() as connection:
                user_id, tenant_id = await _find(connection, username)
                await accounts.set_disabled(connection, _ACTOR, tenant_id, user_id, disabled=True)
                await credentials.end_logins(connection, user_id, "disabled")
                unbound = await devices.unbind_all(connection, _in(tenant_id), user_id, "user disabled")
            devices.announce_unbound(unbound)
            async with asyncio.timeout(_TELL_DEADLINE):
                await relay.carry()
        finally:
            await redis.aclose()


async def mint_token(config: Config, username: str) -> str:
    """Open a login for a user and return its access token, to try the API with."""
    async with _database(config) as database, database.transaction() as connection:
        user_id, tenant_id = await _find(connection, username)
        login_id = await credentials.open_login(connection, user_id, config.access_token_ttl, user_agent="command line")
        await record(connection, _in(tenant_id), "mint", "login", login_id)
    return AccessTokens(config.secret_key, config.access_token_ttl).mint(Claims(user_id, login_id))


async def _find(connection: Connection, username: str) -> tuple[str, str | None]:
    found = await installation.user_by_name(connection, username)
    if found is None:
        raise DialdeskError("NOT_FOUND", what=username)
    return found


def _in(tenant_id: str | None) -> Actor:
    return Actor(kind=_ACTOR.kind, id=_ACTOR.id, tenant_id=tenant_id)


@asynccontextmanager
async def _database(config: Config) -> AsyncIterator[Database]:
    async with open_database(
        config.database_url,
        max_size=2,
        timeout=config.database_timeout,
        statement_cache=config.database_statement_cache,
    ) as database:
        yield database
