"""After a master key was put in front: everything rests under it, and nothing is lost on the way."""

import base64
from collections.abc import AsyncIterator, Callable

import pytest

from protocol.identifiers import new_call_id, new_id
from server import reseal as resealing
from server.config import Config, master_keys
from server.reseal import Resealed, reseal
from storage.database import Connection, Database
from storage.devices import push_token_place, reseal_push_tokens, sealed_push_tokens
from storage.fetches import url_place
from storage.tenant_keys import TenantKeys
from storage.vault import Vault, key_id
from tests.conftest import Office

OLD = "old:" + base64.b64encode(b"an old key, 32 bytes: no secret.").decode()
NEW = "new:" + base64.b64encode(b"a new key, 32 bytes, no secret .").decode()


class Safe:
    """What rests sealed in an installation: `sealed_under` makes something of every kind, `kept` reads it."""

    def __init__(self, connection: Connection, office: Office, configure: Callable[..., Config]) -> None:
        self.connection = connection
        self._office = office
        self._configure = configure

    async def sealed_under(self, keys: str) -> tuple[str, str]:
        """A data key, a push token and a URL, sealed under the first of these keys: (phone, call)."""
        vault = self.vault(keys)
        await TenantKeys(vault).current(self.connection, await self._another_tenant())
        user_id, call_id = await self._office.agent(), new_call_id()
        device_id = await self._office.phone(user_id)
        token = vault.seal(f"token of {device_id}".encode(), push_token_place(device_id))
        await self.connection.execute("UPDATE device SET push_token = $2 WHERE id = $1", device_id, token)
        await self.connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, customer_phone, status, ended_at,"
            " outcome) VALUES ($1, $2, $3, $3, 'mobile', '+8613800138000', 'ended', now(), 'connected')",
            call_id,
            self._office.tenant_id,
            user_id,
        )
        await self.connection.execute(
            "INSERT INTO recording_fetch (call_id, tenant_id, line_id, url, next_at, give_up_at)"
            " VALUES ($1, $2, 'line', $3, now(), now())",
            call_id,
            self._office.tenant_id,
            vault.seal(f"url of {call_id}".encode(), url_place(call_id)),
        )
        return device_id, call_id

    async def _another_tenant(self) -> str:
        tenant_id = new_id("tenant")
        await self.connection.execute(
            "INSERT INTO tenant (id, code, name) VALUES ($1, $2, 'Other')", tenant_id, tenant_id.replace("_", "-")
        )
        return tenant_id

    def vault(self, keys: str) -> Vault:
        """What opens secrets under these keys."""
        return Vault(master_keys(self._configure(master_keys=keys)))

    async def reseal(self, keys: str) -> list[Resealed]:
        """What `dialdesk reseal` does where MASTER_KEYS is this."""
        return [done async for done in reseal(self._configure(master_keys=keys))]

    async def masters(self) -> list[str]:
        """Under which keys everything is sealed."""
        rows = await self.connection.fetch(
            "SELECT sealed FROM tenant_key UNION ALL SELECT push_token FROM device WHERE push_token IS NOT NULL"
            " UNION ALL SELECT url FROM recording_fetch"
        )
        return sorted(key_id(row[0]) for row in rows)

    async def opened(self, keys: str, device_id: str, call_id: str) -> tuple[str, str]:
        """A push token and a URL, as whoever holds these keys reads them."""
        vault = self.vault(keys)
        token = await self.connection.fetchval("SELECT push_token FROM device WHERE id = $1", device_id)
        url = await self.connection.fetchval("SELECT url FROM recording_fetch WHERE call_id = $1", call_id)
        return (
            vault.open(token, push_token_place(device_id)).decode(),
            vault.open(url, url_place(call_id)).decode(),
        )


@pytest.fixture
async def safe(database: Database, office: Office, configure: Callable[..., Config]) -> AsyncIterator[Safe]:
    """An installation."""
    async with database.connection() as connection:
        yield Safe(connection, office, configure)


def counts(done: list[Resealed]) -> list[tuple[str, int]]:
    """How many of each kind were sealed anew."""
    return [(one.kind, one.anew) for one in done]


async def test_everything_is_sealed_under_the_first_key(safe: Safe, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches; then the old key is not needed any more, and a second run finds nothing to do."""
    monkeypatch.setattr(resealing, "AT_ONCE", 2)
    secrets = [await safe.sealed_under(OLD) for _ in range(3)]
    first = await safe.reseal(f"{NEW},{OLD}")
    masters = await safe.masters()
    second = await safe.reseal(NEW)

    assert [("keys of tenants", 3), ("push tokens", 3), ("recording URLs", 3)] == counts(first)
    assert ["new"] * 9 == masters
    assert [("keys of tenants", 0), ("push tokens", 0), ("recording URLs", 0)] == counts(second)
    assert [(f"token of {phone}", f"url of {call}") for phone, call in secrets] == [
        await safe.opened(NEW, *secret) for secret in secrets
    ]


async def test_a_phone_without_a_push_token_has_nothing_to_seal(safe: Safe) -> None:
    """Nor has an installation in which nothing is."""
    device_id, _ = await safe.sealed_under(OLD)
    await safe.connection.execute("UPDATE device SET push_token = NULL WHERE id = $1", device_id)

    assert ("push tokens", 0) in counts(await safe.reseal(f"{NEW},{OLD}"))


async def test_what_cannot_be_opened_is_named_and_the_rest_is_done(safe: Safe) -> None:
    """Each secret with the key that it takes; it stays as it is, for the day the key is found."""
    phone, call = await safe.sealed_under(OLD)
    await safe.sealed_under(NEW)
    done = await safe.reseal(f"{NEW},other:{base64.b64encode(bytes(32)).decode()}")
    missing = "sealed under the key 'old', which is not held here"

    assert [0, 0, 0] == [one.anew for one in done]
    assert [f"{push_token_place(phone)}: {missing}"] == done[1].unopened
    assert [f"{url_place(call)}: {missing}"] == done[2].unopened
    assert [True] == [reason.endswith(missing) for reason in done[0].unopened]
    assert ["new"] * 3 + ["old"] * 3 == await safe.masters()


async def test_what_a_node_replaces_meanwhile_stays_replaced(safe: Safe) -> None:
    """A phone told another token after the old one was read: that one is not put back."""
    device_id, call_id = await safe.sealed_under(OLD)
    read = await sealed_push_tokens(safe.connection, "", 10)
    newer = safe.vault(NEW).seal(b"newer", push_token_place(device_id))
    await safe.connection.execute("UPDATE device SET push_token = $2 WHERE id = $1", device_id, newer)
    kept = await reseal_push_tokens(safe.connection, [(*row, b"of the older") for row in read])

    assert 0 == kept
    assert "newer" == (await safe.opened(f"{NEW},{OLD}", device_id, call_id))[0]
