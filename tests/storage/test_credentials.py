"""Attempts, logins, refresh tokens, API keys and device tokens as rows."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import pytest

from storage import accounts, credentials
from storage.accounts import Page
from storage.audit import Actor
from storage.database import Connection, Database

CLI = Actor(kind="system", id="cli", tenant_id=None)
T = TypeVar("T")


@pytest.fixture
async def tenant_id(database: Database) -> str:
    """A tenant."""
    async with database.transaction() as connection:
        return await accounts.create_tenant(connection, CLI, code="acme", name="Acme")


@pytest.fixture
async def ann(database: Database, tenant_id: str) -> str:
    """An agent."""
    async with database.transaction() as connection:
        return await accounts.create_user(
            connection, CLI, tenant_id, username="ann", name="Ann", role="agent", password_hash="hash"
        )


async def at_once(database: Database, times: int, do: Callable[[Connection], Awaitable[T]]) -> list[T]:
    """Do something on several connections at the same time."""

    async def once() -> T:
        async with database.connection() as connection:
            return await do(connection)

    return list(await asyncio.gather(*(once() for _ in range(times))))


async def api_key(connection: Connection, tenant_id: str, maker: str, name: str = "crm") -> str:
    """Make an API key and return its id."""
    made = await credentials.create_api_key(
        connection,
        tenant_id,
        name=name,
        prefix="ddk_abcd",
        key_hash=secrets.token_bytes(32),
        scopes=["sessions.exchange"],
        created_by=maker,
        expires_at=None,
    )
    assert made is not None
    return made.id


async def test_attempts_are_counted_however_they_come(database: Database, ann: str) -> None:
    """Of attempts at the same time as many are given as would be in turn; the last of them would lock."""
    taken = await at_once(database, 8, lambda connection: credentials.take_attempt(connection, "ANN", 3, 60))
    given = [attempt for attempt in taken if attempt is not None]

    assert 3 == len(given)
    assert 1 == len([attempt for attempt in given if attempt.locks_until is not None])
    assert {(ann, "hash")} == {(attempt.user_id, attempt.password_hash) for attempt in given}


async def test_lock_is_told_and_ends(database: Database, ann: str) -> None:
    """A lock is told to who asks; once it is over, attempts count from one."""
    async with database.connection() as connection:
        for _ in range(2):
            await credentials.take_attempt(connection, "ann", 2, 60)
        during = await credentials.locked_until(connection, "ann")
        refused = await credentials.take_attempt(connection, "ann", 2, 60)
        await connection.execute("UPDATE app_user SET locked_until = now() - interval '1 second'")
        after = await credentials.locked_until(connection, "ann")
        again = await credentials.take_attempt(connection, "ann", 2, 60)

    assert during is not None
    assert (None, None) == (refused, after)
    assert again is not None
    assert again.locks_until is None


async def test_attempt_at_nobody_is_none(database: Database) -> None:
    """There is no attempt at, and no lock of, a user that is not there."""
    async with database.connection() as connection:
        assert await credentials.take_attempt(connection, "nobody", 5, 60) is None
        assert await credentials.locked_until(connection, "nobody") is None


async def test_right_password_counts_only_while_it_is_the_password(database: Database, ann: str) -> None:
    """An attempt that was right for a password since changed gives nothing back and changes nothing."""
    async with database.connection() as connection:
        assert not await credentials.give_back_attempts(connection, ann, "older")
        assert not await credentials.change_password(connection, ann, "older", "new")
        assert await credentials.give_back_attempts(connection, ann, "hash", "better")
        assert await credentials.change_password(connection, ann, "better", "new")


async def test_refresh_token_is_spent_once(database: Database, ann: str) -> None:
    """Of many who spend a refresh token at the same time one gets its login; whose it was is known all the same."""
    async with database.connection() as connection:
        login_id = await credentials.open_login(connection, ann, 60)
        await credentials.add_refresh_token(connection, login_id, b"token")
    spent = await at_once(database, 6, lambda connection: credentials.spend_refresh_token(connection, b"token"))
    async with database.connection() as connection:
        known = await credentials.login_of_refresh_token(connection, b"token")
        unknown = await credentials.login_of_refresh_token(connection, b"another")

    assert [login_id] == [login for login in spent if login is not None]
    assert (login_id, None) == (known, unknown)


async def test_login_that_is_over_is_not_extended(database: Database, ann: str) -> None:
    """A login that has expired or was revoked stays so."""
    async with database.connection() as connection:
        revoked, expired, live = [await credentials.open_login(connection, ann, 60) for _ in range(3)]
        await credentials.end_login(connection, revoked, "test")
        await connection.execute("UPDATE login SET expires_at = now() WHERE id = $1", expired)
        extended = [await credentials.extend_login(connection, login, 60) for login in (revoked, expired, live)]

    assert [None, None, ann] == extended


async def test_login_ends_once(database: Database, tenant_id: str, ann: str) -> None:
    """Ending a login tells whose it was and where its pages are; ending it again tells nothing."""
    async with database.connection() as connection:
        await connection.execute("INSERT INTO node (boot_id, name, kind, leased_until) VALUES ('n', 'n', 'web', now())")
        await connection.execute("INSERT INTO agent_node (user_id, node) VALUES ($1, 'n')", ann)
        login_id = await credentials.open_login(connection, ann, 60)
        ended = await credentials.end_login(connection, login_id, "test")
        again = await credentials.end_login(connection, login_id, "test")

    assert ended == credentials.EndedLogin(id=login_id, user_id=ann, tenant_id=tenant_id, nodes=["n"])
    assert again is None


async def test_all_logins_but_one_end(database: Database, tenant_id: str, ann: str) -> None:
    """A user's logins end, but for the one that asks; other users' go on."""
    async with database.transaction() as connection:
        ben = await accounts.create_user(
            connection, CLI, tenant_id, username="ben", name="Ben", role="agent", password_hash="-"
        )
        mine, other, bens = [await credentials.open_login(connection, who, 60) for who in (ann, ann, ben)]
        ended = await credentials.end_logins(connection, ann, "test", but=mine)
        rest = await credentials.end_logins(connection, ann, "test")
        standing, nobody = await credentials.find_logins(connection, [(bens, ben), (bens, ann)])

    assert ([other], [mine]) == ([login.id for login in ended], [login.id for login in rest])
    assert standing is not None
    assert not standing.over
    assert nobody is None


async def test_logins_that_let_nobody_in_are_told(database: Database, tenant_id: str, ann: str) -> None:
    """A login is over that was revoked, expired or dropped, whose user is disabled, or whose tenant is suspended."""
    async with database.transaction() as connection:
        ben, root = [
            await accounts.create_user(connection, CLI, of, username=name, name=name, role=role, password_hash="-")
            for of, name, role in ((tenant_id, "ben", "agent"), (None, "root", "system_admin"))
        ]
        living, revoked, expired, roots = [
            await credentials.open_login(connection, user_id, 60) for user_id in (ann, ann, ann, root)
        ]
        disabled = await credentials.open_login(connection, ben, 60)
        await credentials.end_login(connection, revoked, "test")
        await connection.execute("UPDATE login SET expires_at = now() WHERE id = $1", expired)
        await connection.execute("UPDATE app_user SET disabled_at = now() WHERE id = $1", ben)
        asked = [living, roots, revoked, expired, disabled, "login_none"]
        over = await credentials.over(connection, asked)
        await connection.execute("UPDATE tenant SET status = 'suspended' WHERE id = $1", tenant_id)
        over_when_suspended = await credentials.over(connection, asked)

    assert {revoked, expired, disabled, "login_none"} == over
    assert {*over, living} == over_when_suspended


async def test_key_that_is_held_is_not_revoked(database: Database, tenant_id: str, ann: str) -> None:
    """Revoking waits for who holds the key, and then ends the login that was opened meanwhile."""
    async with database.transaction() as connection:
        key_id = await api_key(connection, tenant_id, ann)
    async with database.transaction() as connection:
        held = await credentials.hold_api_key(connection, tenant_id, key_id)
        login_id = await credentials.open_login(connection, ann, 60, api_key_id=key_id)
        async with database.transaction() as impatient:
            await impatient.execute("SET LOCAL lock_timeout = '1ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await credentials.revoke_api_key(impatient, tenant_id, key_id)
    async with database.transaction() as connection:
        ended = await credentials.revoke_api_key(connection, tenant_id, key_id)

    assert held
    assert ended is not None
    assert [login_id] == [login.id for login in ended]


async def test_revoked_key_is_not_held(database: Database, tenant_id: str, ann: str) -> None:
    """A revoked key cannot be held, nor revoked again, nor another tenant's; that it was there is known."""
    async with database.transaction() as connection:
        key_id = await api_key(connection, tenant_id, ann)
        assert await credentials.revoke_api_key(connection, "another", key_id) is None
        assert not await credentials.hold_api_key(connection, "another", key_id)
        assert [] == await credentials.revoke_api_key(connection, tenant_id, key_id)
        assert not await credentials.hold_api_key(connection, tenant_id, key_id)
        assert await credentials.revoke_api_key(connection, tenant_id, key_id) is None
        assert await credentials.has_api_key(connection, tenant_id, key_id)
        assert not await credentials.has_api_key(connection, "another", key_id)


async def test_keys_are_listed_newest_first(database: Database, tenant_id: str, ann: str) -> None:
    """A tenant's keys are told a page at a time."""
    async with database.transaction() as connection:
        made = [await api_key(connection, tenant_id, ann, name) for name in ("a", "b", "c")]
        total, page = await credentials.list_api_keys(connection, tenant_id, Page(1, 2))
        _, none = await credentials.list_api_keys(connection, "another", Page(1, 2))

    assert (3, sorted(made, reverse=True)[:2]) == (total, [key.id for key in page])
    assert [] == none


async def test_old_logins_are_dropped(database: Database, ann: str) -> None:
    """A login that ended a week ago goes, with its refresh tokens; younger ones stay, so that reuse is noticed."""
    async with database.connection() as connection:
        old, young = [await credentials.open_login(connection, ann, 60) for _ in range(2)]
        for login_id in (old, young):
            await credentials.add_refresh_token(connection, login_id, login_id.encode())
        await connection.execute("UPDATE login SET expires_at = now() - interval '8 days' WHERE id = $1", old)
        dropped = await credentials.expire(connection)
        left = [await credentials.login_of_refresh_token(connection, login.encode()) for login in (old, young)]

    assert 1 == dropped
    assert [None, young] == left
