"""API keys, as a tenant's admin makes and revokes them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from server.config import Config
from server.tokens import is_api_key
from storage.database import Database
from tests.server.front_desk import Asker, FrontDesk, front_desk


@pytest.fixture
async def desk(database: Database, redis: Redis, config: Config) -> AsyncIterator[FrontDesk]:
    """A node's endpoints, and a tenant with an admin."""
    async with front_desk(database, redis, config) as desk:
        await desk.tenant("acme")
        yield desk


@pytest.fixture
async def admin(desk: FrontDesk) -> Asker:
    """The tenant's admin, signed in."""
    return await desk.signed_in("acme.admin")


def crm(**more: Any) -> dict[str, Any]:
    """A request for a key that dials for agents."""
    return {"name": "crm", "scopes": ["calls.dial_for", "calls.read"], **more}


async def test_key_is_told_once(desk: FrontDesk, admin: Asker) -> None:
    """A key is in the answer that makes it, and nowhere afterwards: only its beginning, and a digest, are kept."""
    made = await admin.post("/admin/api-keys", crm())
    listed = await admin.get("/admin/api-keys")
    kept = await desk.value("SELECT row_to_json(k)::text FROM api_key k")
    log = await desk.value("SELECT string_agg(row_to_json(a)::text, ' ') FROM audit_log a")

    assert is_api_key(made["key"])
    assert made["key"].startswith(made["apiKey"]["prefix"])
    assert 8 == len(made["apiKey"]["prefix"])
    assert [made["apiKey"]] == listed["apiKeys"]
    assert made["key"] not in kept + log
    assert ["calls.dial_for", "calls.read"] == made["apiKey"]["scopes"]


@pytest.mark.parametrize("scope", ["tenants.manage", "api_keys.manage", "calls.fly", ""])
async def test_only_known_scopes_of_the_maker_are_given(admin: Asker, scope: str) -> None:
    """A key gets what its maker may do and what acting for agents takes; it makes no keys, and knows nothing else."""
    answer = await admin.post("/admin/api-keys", crm(scopes=["calls.read", scope]))

    assert ("FORBIDDEN", {"permission": scope}) == (answer["code"], answer["details"])


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": []},
        {"name": ""},
        {"name": "crm\0"},
        {"expiresAt": "2020-01-01T00:00:00Z"},
        {"expiresAt": "2100-01-01T00:00:00"},
        {"expiresAt": "9999-12-31T23:59:59-23:59"},
    ],
)
async def test_bad_request_makes_no_key(desk: FrontDesk, admin: Asker, change: dict[str, Any]) -> None:
    """A key has a name, a scope, and an end that lies ahead, if any, told with its offset."""
    assert "INVALID_FIELD" == (await admin.post("/admin/api-keys", crm(**change)))["code"]
    assert 0 == await desk.value("SELECT count(*) FROM api_key")


async def test_name_serves_once(admin: Asker) -> None:
    """A tenant's keys have different names."""
    await admin.post("/admin/api-keys", crm())

    assert "ALREADY_EXISTS" == (await admin.post("/admin/api-keys", crm()))["code"]


async def test_repeated_request_makes_one_key_and_tells_it_once(desk: FrontDesk, admin: Asker) -> None:
    """The same Idempotency-Key gets the same key's description, but the key itself is kept nowhere to be told again."""
    headers = {"idempotency-key": "once"}
    first = await admin.ask("POST", "/admin/api-keys", crm(), headers=headers)
    second = await admin.ask("POST", "/admin/api-keys", crm(), headers=headers)

    assert first["apiKey"] == second["apiKey"]
    assert second["key"] is None
    assert 1 == await desk.value("SELECT count(*) FROM api_key")
    assert first["key"] not in await desk.value("SELECT convert_from(answer, 'UTF8') FROM idempotency_key")


async def test_revoked_key_lets_nobody_in(desk: FrontDesk, admin: Asker) -> None:
    """A revoked key is void at once and stays in the list; revoking it again changes nothing."""
    made = await admin.post("/admin/api-keys", crm())
    path = f"/admin/api-keys/{made['apiKey']['id']}"
    revoked = [(await admin.delete(path))["success"] for _ in range(2)]
    listed = await admin.get("/admin/api-keys")

    assert [True, True] == revoked
    assert "UNAUTHENTICATED" == (await desk.caller(made["key"]).get("/me"))["code"]
    assert listed["apiKeys"][0]["revokedAt"].endswith("Z")
    assert ["create", "revoke"] == [action for _, _, action in await desk.told(made["apiKey"]["id"])]


async def test_revoking_ends_the_sessions_it_was_exchanged_for(desk: FrontDesk, admin: Asker) -> None:
    """Sessions that grew from a key end with it and their pages close with 4503; the agent's own go on."""
    ann = await desk.user(await desk.value("SELECT id FROM tenant"), "ann")
    made = await admin.post("/admin/api-keys", crm(scopes=["sessions.exchange"]))
    session = await desk.caller(made["key"]).post("/auth/exchange", {"userId": ann})
    own = await desk.sign_in("ann")
    login_id = await desk.value("SELECT id FROM login WHERE api_key_id IS NOT NULL")
    await desk.page(ann)
    await admin.delete(f"/admin/api-keys/{made['apiKey']['id']}")

    assert [(ann, 4503, login_id)] == desk.sockets.closed_pages()
    assert "UNAUTHENTICATED" == (await desk.caller(session["accessToken"]).get("/me"))["code"]
    assert (await desk.caller(own["accessToken"]).get("/me"))["success"]


async def test_no_session_survives_its_key(desk: FrontDesk, admin: Asker) -> None:
    """However an exchange and the revocation of its key meet, no session is left."""
    ann = await desk.user(await desk.value("SELECT id FROM tenant"), "ann")
    made = await admin.post("/admin/api-keys", crm(scopes=["sessions.exchange"]))
    caller = desk.caller(made["key"])
    exchanges = [caller.post("/auth/exchange", {"userId": ann}) for _ in range(4)]
    await asyncio.gather(*exchanges, admin.delete(f"/admin/api-keys/{made['apiKey']['id']}"))

    assert 0 == await desk.value("SELECT count(*) FROM login WHERE api_key_id IS NOT NULL AND revoked_at IS NULL")


async def test_other_tenants_keys_do_not_exist(desk: FrontDesk, admin: Asker) -> None:
    """Another tenant's admin neither sees nor revokes a key."""
    made = await admin.post("/admin/api-keys", crm())
    await desk.tenant("bolt")
    stranger = await desk.signed_in("bolt.admin")

    assert "NOT_FOUND" == (await stranger.delete(f"/admin/api-keys/{made['apiKey']['id']}"))["code"]
    assert [] == (await stranger.get("/admin/api-keys"))["apiKeys"]
    assert (await desk.caller(made["key"]).get("/me"))["success"]


async def test_only_admins_have_to_do_with_keys(desk: FrontDesk) -> None:
    """Neither an agent nor a system_admin makes keys."""
    await desk.user(await desk.value("SELECT id FROM tenant"), "ann")
    await desk.user(None, "root", "system_admin")
    for username in ("ann", "root"):
        asker = await desk.signed_in(username)

        assert "FORBIDDEN" == (await asker.post("/admin/api-keys", crm()))["code"]
        assert "FORBIDDEN" == (await asker.get("/admin/api-keys"))["code"]
