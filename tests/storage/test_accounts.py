"""Tenants, teams and users as rows."""

from typing import Any

import pytest

from protocol.errors import DialdeskError
from storage import accounts
from storage.accounts import Page, UserSearch
from storage.audit import Actor
from storage.database import Connection, Database

CLI = Actor(kind="system", id="cli", tenant_id=None)
ALL = Page(1, 100)


async def tenant(connection: Connection, code: str = "acme") -> str:
    """Make a tenant."""
    return await accounts.create_tenant(connection, CLI, code=code, name=code.title())


async def user(connection: Connection, tenant_id: str | None, username: str, role: str = "agent", **more: Any) -> str:
    """Make a user."""
    return await accounts.create_user(
        connection, CLI, tenant_id, username=username, name=username, role=role, password_hash="-", **more
    )


async def test_every_change_writes_its_line(database: Database) -> None:
    """Whoever changes something by these functions leaves a line in the changed tenant's log."""
    async with database.transaction() as connection:
        tenant_id = await tenant(connection)
        team = await accounts.create_team(connection, CLI, tenant_id, "North")
        await accounts.rename_team(connection, CLI, tenant_id, team.id, "South")
        user_id = await user(connection, tenant_id, "ann")
        before = await accounts.get_user(connection, tenant_id, user_id, lock=True)
        await accounts.set_disabled(connection, CLI, tenant_id, user_id, disabled=True)
        await accounts.set_disabled(connection, CLI, tenant_id, user_id, disabled=False)
        await accounts.reset_password(connection, CLI, tenant_id, user_id, "-")
        await accounts.unlock(connection, CLI, tenant_id, user_id)
        await accounts.change_user(connection, CLI, before, before)
        await accounts.delete_team(connection, CLI, tenant_id, team.id)
        rows = await connection.fetch("SELECT tenant_id, resource, action FROM audit_log ORDER BY id")

    assert {tenant_id} == {row["tenant_id"] for row in rows}
    assert [
        ("tenant", "create"),
        ("team", "create"),
        ("team", "update"),
        ("user", "create"),
        ("user", "disable"),
        ("user", "enable"),
        ("user", "reset_password"),
        ("user", "unlock"),
        ("team", "delete"),
    ] == [(row["resource"], row["action"]) for row in rows]


async def test_taken_names_leave_the_transaction_alive(database: Database) -> None:
    """A code, a team name and a user name that are taken are ALREADY_EXISTS, and the transaction may go on."""
    async with database.transaction() as connection:
        tenant_id = await tenant(connection)
        await accounts.create_team(connection, CLI, tenant_id, "North")
        await user(connection, tenant_id, "ann")
        for again in (
            tenant(connection),
            accounts.create_team(connection, CLI, tenant_id, "North"),
            user(connection, tenant_id, "ANN"),
        ):
            with pytest.raises(DialdeskError) as refusal:
                await again

            assert "ALREADY_EXISTS" == refusal.value.code
        ben = await user(connection, tenant_id, "ben")

    assert ben


async def test_user_of_a_tenant_has_a_stream(database: Database) -> None:
    """With each user of a tenant its stream of events is made; a system_admin, who has no tenant, has none."""
    async with database.transaction() as connection:
        tenant_id = await tenant(connection)
        ann = await user(connection, tenant_id, "ann")
        await user(connection, None, "root", "system_admin")
        streams = await connection.fetch("SELECT user_id, tenant_id, last_seq FROM agent_stream")

    assert [(ann, tenant_id, 0)] == [tuple(row) for row in streams]


async def test_user_is_found_within_reach(database: Database) -> None:
    """A user is found in its tenant, by whom it is or by its team, and NOT_FOUND beyond."""
    async with database.transaction() as connection:
        tenant_id, other = await tenant(connection), await tenant(connection, "bolt")
        north = (await accounts.create_team(connection, CLI, tenant_id, "North")).id
        ann = await user(connection, tenant_id, "ann", team_id=north)

        async def found(tenant_id: str | None, **reach: Any) -> bool:
            try:
                return (await accounts.get_user(connection, tenant_id, ann, **reach)).id == ann
            except DialdeskError:
                return False

        assert await found(tenant_id)
        assert await found(tenant_id, only_user=ann)
        assert await found(tenant_id, only_teams=[north])
        assert not await found(other)
        assert not await found(None)
        assert not await found(tenant_id, only_user="ben")
        assert not await found(tenant_id, only_teams=[])


async def test_user_without_a_tenant_is_found_without_one(database: Database) -> None:
    """A system_admin is found where no tenant is named, and can be disabled and given a password there."""
    async with database.transaction() as connection:
        root = await user(connection, None, "root", "system_admin")
        changed = await accounts.set_disabled(connection, CLI, None, root, disabled=True)
        await accounts.reset_password(connection, CLI, None, root, "new")
        found = await accounts.get_user(connection, None, root)

    assert changed
    assert (None, "disabled", True) == (found.tenant_id, found.status, found.must_change_password)


async def test_changes_stay_in_their_tenant(database: Database) -> None:
    """A change that names another tenant changes nothing."""
    async with database.transaction() as connection:
        tenant_id, other = await tenant(connection), await tenant(connection, "bolt")
        ann = await user(connection, tenant_id, "ann")
        north = (await accounts.create_team(connection, CLI, tenant_id, "North")).id
        disabled = await accounts.set_disabled(connection, CLI, other, ann, disabled=True)
        await accounts.reset_password(connection, CLI, other, ann, "new")
        for refused in (
            accounts.rename_team(connection, CLI, other, north, "South"),
            accounts.delete_team(connection, CLI, other, north),
            accounts.hold_teams(connection, other, [north]),
        ):
            with pytest.raises(DialdeskError) as refusal:
                await refused

            assert "NOT_FOUND" == refusal.value.code
        kept = await connection.fetchval("SELECT password_hash FROM app_user WHERE id = $1", ann)

    assert not disabled
    assert "-" == kept


async def test_lists_tell_how_many_there_are(database: Database) -> None:
    """A page that lies beyond the end is empty, and the total is right all the same."""
    async with database.transaction() as connection:
        tenant_id = await tenant(connection)
        for name in ("ann", "ben", "cat"):
            await user(connection, tenant_id, name)
        total, page = await accounts.list_users(connection, tenant_id, UserSearch(), Page(2, 2))
        beyond = await accounts.list_users(connection, tenant_id, UserSearch(), Page(5, 2))
        tenants = await accounts.list_tenants(connection, ALL)
        teams = await accounts.list_teams(connection, tenant_id, ALL)

    assert (3, ["cat"]) == (total, [found.username for found in page])
    assert (3, []) == beyond
    assert (1, ["acme"]) == (tenants[0], [found.code for found in tenants[1]])
    assert (0, []) == teams


async def test_locked_user_shows_until_when(database: Database) -> None:
    """A lock-out shows while it lasts, and not once it is over."""
    async with database.transaction() as connection:
        tenant_id = await tenant(connection)
        ann = await user(connection, tenant_id, "ann")
        await connection.execute("UPDATE app_user SET locked_until = now() + interval '1 minute'")
        locked = await accounts.get_user(connection, tenant_id, ann)
        await connection.execute("UPDATE app_user SET locked_until = now() - interval '1 minute'")
        over = await accounts.get_user(connection, tenant_id, ann)

    assert locked.locked_until is not None
    assert over.locked_until is None


async def test_last_admins_are_counted_enabled(database: Database) -> None:
    """The other admins of a tenant are those that are enabled and its own."""
    async with database.transaction() as connection:
        tenant_id, other = await tenant(connection), await tenant(connection, "bolt")
        first = await user(connection, tenant_id, "first", "tenant_admin")
        second = await user(connection, tenant_id, "second", "tenant_admin")
        await user(connection, other, "third", "tenant_admin")
        two = await accounts.other_admins(connection, tenant_id, first)
        await accounts.set_disabled(connection, CLI, tenant_id, second, disabled=True)
        one = await accounts.other_admins(connection, tenant_id, first)

    assert (1, 0) == (two, one)


async def test_installations_admins_reach_tenant_admins(database: Database) -> None:
    """The tenant of a tenant_admin is told, that of any other user is not."""
    async with database.transaction() as connection:
        tenant_id = await tenant(connection)
        boss, ann = await user(connection, tenant_id, "boss", "tenant_admin"), await user(connection, tenant_id, "ann")

        assert tenant_id == await accounts.tenant_of_admin(connection, boss)
        assert await accounts.tenant_of_admin(connection, ann) is None


async def test_roles_come_with_their_permissions(database: Database) -> None:
    """Roles are rows: what each may do and whom it reaches."""
    async with database.connection() as connection:
        roles = await accounts.roles(connection)

    assert ("teams", "own", "installation") == tuple(
        roles[code].reach for code in ("supervisor", "agent", "system_admin")
    )
    assert "calls.dial" in roles["agent"].permissions
    assert "calls.dial" not in roles["viewer"].permissions
