"""The keys of tenants' data: made once, found again, and wrapped anew under another master key."""

import asyncio

import pytest

from protocol.identifiers import new_id
from storage import tenant_keys
from storage.database import Connection, Database
from storage.tenant_keys import TenantKeys
from storage.vault import SealError, Vault, key_id
from tests.conftest import Office
from tests.waiting import until_blocked

OLD = b"an old key, 32 bytes: no secret."
NEW = b"a new key, 32 bytes, no secret ."


@pytest.fixture
def keys() -> TenantKeys:
    """The keys as a node finds them."""
    return TenantKeys(Vault({"old": OLD}))


async def another_tenant(connection: Connection) -> str:
    """One more tenant, and its id."""
    tenant_id = new_id("tenant")
    await connection.execute(
        "INSERT INTO tenant (id, code, name) VALUES ($1, $2, 'Other')", tenant_id, tenant_id.replace("_", "-")
    )
    return tenant_id


async def masters(connection: Connection) -> list[str]:
    """Under which master key each tenant key is sealed."""
    return [key_id(row["sealed"]) for row in await connection.fetch("SELECT sealed FROM tenant_key")]


async def test_a_tenant_gets_a_key_when_it_first_needs_one(
    database: Database, office: Office, keys: TenantKeys
) -> None:
    """Later calls, and other nodes, find the same."""
    async with database.connection() as connection:
        made = await keys.current(connection, office.tenant_id)

        assert (1, 32) == (made[0], len(made[1]))
        assert made == await keys.current(connection, office.tenant_id)
        assert made == await TenantKeys(Vault({"old": OLD})).current(connection, office.tenant_id)
        assert made[1] == await TenantKeys(Vault({"old": OLD})).key(connection, office.tenant_id, 1)


async def test_tenants_do_not_share_a_key(database: Database, office: Office, keys: TenantKeys) -> None:
    """Each has its own first key, and its row opens for no other."""
    async with database.connection() as connection:
        other = await another_tenant(connection)
        _, mine = await keys.current(connection, office.tenant_id)
        _, theirs = await keys.current(connection, other)

        assert mine != theirs

        await connection.execute(
            "UPDATE tenant_key SET sealed = (SELECT sealed FROM tenant_key WHERE tenant_id = $1) WHERE tenant_id = $2",
            office.tenant_id,
            other,
        )
        with pytest.raises(SealError):
            await keys.current(connection, other)


async def test_nodes_that_need_a_first_key_at_once_get_the_same(database: Database, office: Office) -> None:
    """The one that comes second waits for the first, and takes its key."""
    async with database.connection() as there:
        async with database.transaction() as here:
            first = await TenantKeys(Vault({"old": OLD})).current(here, office.tenant_id)
            second = asyncio.create_task(TenantKeys(Vault({"old": OLD})).current(there, office.tenant_id))
            await until_blocked(database)

        assert first == await second


async def test_a_key_whose_transaction_came_to_nothing_is_forgotten(
    database: Database, office: Office, keys: TenantKeys
) -> None:
    """The next key is another one under the same id, and the node that made the first does not mistake it."""
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        lost = await keys.current(connection, office.tenant_id)
        await transaction.rollback()
        made = await TenantKeys(Vault({"old": OLD})).current(connection, office.tenant_id)

        assert lost != made
        assert made == await keys.current(connection, office.tenant_id)
        assert made[1] == await keys.key(connection, office.tenant_id, 1)


async def test_a_key_that_was_opened_is_held(database: Database, office: Office, keys: TenantKeys) -> None:
    """Keys never change, so the second time nothing is read: not even a row that is gone is missed."""
    async with database.connection() as connection:
        await keys.current(connection, office.tenant_id)
        opened = await keys.key(connection, office.tenant_id, 1)
        await connection.execute("DELETE FROM tenant_key")

        assert opened == await keys.key(connection, office.tenant_id, 1)


async def test_only_so_many_keys_are_held(
    database: Database, keys: TenantKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more, the one that was not asked for the longest is forgotten."""
    monkeypatch.setattr(tenant_keys, "_HELD", 2)
    async with database.connection() as connection:
        first, second, third = [await another_tenant(connection) for _ in range(3)]
        for tenant_id in (first, second, third):
            await keys.current(connection, tenant_id)
        for asked in (first, second, first, third):
            await keys.key(connection, asked, 1)
        await connection.execute("DELETE FROM tenant_key")

        assert 32 == len(await keys.key(connection, first, 1))
        assert 32 == len(await keys.key(connection, third, 1))
        with pytest.raises(SealError, match="no key 1"):
            await keys.key(connection, second, 1)


async def test_another_tenants_key_is_not_found(database: Database, office: Office, keys: TenantKeys) -> None:
    """An id says nothing without its tenant, also where the key is held already."""
    async with database.connection() as connection:
        other = await another_tenant(connection)
        await keys.current(connection, office.tenant_id)
        await keys.key(connection, office.tenant_id, 1)

        with pytest.raises(SealError, match=f"the tenant {other} has no key 1"):
            await keys.key(connection, other, 1)


async def test_a_missing_master_key_is_named(database: Database, office: Office, keys: TenantKeys) -> None:
    """Whoever dropped it too early is told which, and no second key is made in its place."""
    without = TenantKeys(Vault({"new": NEW}))
    async with database.connection() as connection:
        await keys.current(connection, office.tenant_id)

        with pytest.raises(SealError, match="'old'"):
            await without.current(connection, office.tenant_id)
        with pytest.raises(SealError, match="'old'"):
            await without.key(connection, office.tenant_id, 1)
        assert ["old"] == await masters(connection)


async def test_resealing_names_what_it_cannot_open_and_does_the_rest(
    database: Database, office: Office, keys: TenantKeys
) -> None:
    """One key whose master key is lost does not keep the others under the old one."""
    lost = TenantKeys(Vault({"lost": bytes(32)}))
    both = TenantKeys(Vault({"new": NEW, "old": OLD}))
    async with database.connection() as connection:
        await lost.current(connection, office.tenant_id)
        for _ in range(2):
            await keys.current(connection, await another_tenant(connection))

        resealed, unopened = await both.reseal(connection)

        assert 2 == resealed
        assert [f"tenant/{office.tenant_id}/key/1: sealed under the key 'lost', which is not held here"] == unopened
        assert ["lost", "new", "new"] == sorted(await masters(connection))


async def test_resealing_takes_every_key_to_the_first_master_key(
    database: Database, office: Office, keys: TenantKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tenants', in batches; then the old master key is not needed, and a second run finds nothing to do."""
    monkeypatch.setattr(tenant_keys, "_AT_ONCE", 2)
    both = TenantKeys(Vault({"new": NEW, "old": OLD}))
    async with database.connection() as connection:
        tenants = [office.tenant_id, *[await another_tenant(connection) for _ in range(3)]]
        before = [await keys.current(connection, tenant_id) for tenant_id in tenants]
        await both.current(connection, await another_tenant(connection))

        assert (4, []) == await both.reseal(connection)
        assert ["new"] * 5 == await masters(connection)
        assert (0, []) == await both.reseal(connection)

        without = TenantKeys(Vault({"new": NEW}))
        assert before == [await without.current(connection, tenant_id) for tenant_id in tenants]
