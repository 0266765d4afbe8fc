"""Lines over HTTP: made, shown without their secrets, changed, tried at a fake cloud, given to agents, deleted."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import structlog
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.datastructures import Headers

from protocol.errors import DialdeskError
from protocol.identifiers import new_call_id
from server.config import Config, master_keys
from server.http import Endpoint, Http
from server.identity import Identity
from server.line_config import Accounts, open_accounts
from server.lines import TESTS_A_MINUTE, Lines
from server.providers.catalogue import VENDORS
from server.telemetry import Metrics
from storage import audit, lines
from storage.audit import AuditSearch
from storage.database import Database
from storage.lines import ProviderName
from storage.live import Live
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.clouds.aliyun import aliyun_cloud
from tests.clouds.cloud import Cloud
from tests.clouds.custom import bellbird_cloud
from tests.clouds.infinity import ACCESS_KEY, InfinityCloud, infinity_cloud
from tests.clouds.ronglian import ronglian_cloud
from tests.clouds.tencent import tencent_cloud
from tests.clouds.tianrun import tianrun_cloud
from tests.conftest import Office

BASE = "/api/v1/calls/lines"
KEY_ID, KEY_SECRET = "LTAI-not-a-real-key-id-1", "not-a-real-key-secret-000001"
ALIYUN: dict[str, Any] = {
    "name": "West",
    "providerType": "aliyun",
    "callerNumber": "020-66247698",
    "providerConfig": {"instanceId": "ccc-1", "accessKeyId": KEY_ID, "accessKeySecret": KEY_SECRET},
    "maxConcurrent": 5,
    "dailyLimit": 0,
}


def person(tenant_id: str, user_id: str, role: str = "tenant_admin") -> Identity:
    """Somebody who has signed in, with what the role may."""
    own = role == "agent"
    permissions = {"lines.read"} | (set() if own or role == "supervisor" else {"lines.manage"})
    return Identity(
        kind="user",
        id=user_id,
        user_id=user_id,
        tenant_id=tenant_id,
        role=role,
        reach="own" if own else "teams" if role == "supervisor" else "tenant",
        permissions=frozenset(permissions),
    )


class Desk:
    """The API in front of the lines of an office, asked by its admin unless it is said who asks."""

    def __init__(self, database: Database, office: Office, admin_id: str, accounts: Accounts, live: Live) -> None:
        self.database = database
        self.office = office
        self.accounts = accounts
        self.admin = person(office.tenant_id, admin_id)
        self.answers: list[str] = []
        self._known: dict[str, Identity] = {}
        served = Lines(database, accounts, live)
        http = Http(database, self._authenticate, Metrics(), body_limit=1 << 20, timeout=30)
        endpoints = [
            Endpoint("GET", BASE, served.list_lines, needs="lines.read"),
            Endpoint("POST", BASE, served.create, needs="lines.manage"),
            Endpoint("GET", f"{BASE}/providers", served.list_providers, needs="lines.manage"),
            Endpoint("POST", f"{BASE}/test", served.test_config, needs="lines.manage"),
            Endpoint("GET", f"{BASE}/{{line_id}}", served.get, needs="lines.read"),
            Endpoint("PUT", f"{BASE}/{{line_id}}", served.update, needs="lines.manage"),
            Endpoint("DELETE", f"{BASE}/{{line_id}}", served.delete, needs="lines.manage"),
            Endpoint("POST", f"{BASE}/{{line_id}}/test", served.test, needs="lines.manage"),
            Endpoint("GET", f"{BASE}/{{line_id}}/seats", served.list_seats, needs="lines.read"),
            Endpoint("PUT", f"{BASE}/{{line_id}}/seats/{{user_id}}", served.put_seat, needs="lines.manage"),
            Endpoint("DELETE", f"{BASE}/{{line_id}}/seats/{{user_id}}", served.delete_seat, needs="lines.manage"),
        ]
        app = Starlette(routes=http.routes(endpoints))
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk.test")

    async def _authenticate(self, headers: Headers) -> Identity:
        known = self._known.get(headers.get("authorization", ""))
        if known is None:
            raise DialdeskError("UNAUTHENTICATED")
        return known

    async def ask(
        self,
        method: str,
        path: str = "",
        json: Any = None,
        *,
        who: Identity | None = None,
        expect: str = "ok",
        **headers: str,
    ) -> Any:
        """Send a request below the lines; return the answer, which must be this: `ok`, or an error code."""
        token = secrets.token_hex(4)
        self._known[token] = who or self.admin
        told = {"authorization": token, "accept-language": "en"}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self._client.request(method, f"{BASE}{path}", json=json, headers=told)
        self.answers.append(response.text)
        answer = response.json()
        assert expect == (answer["code"] if not response.is_success else "ok"), answer
        return answer

    async def make(self, body: dict[str, Any] = ALIYUN, **fields: Any) -> str:
        """Make a line and return its id."""
        line_id: str = (await self.ask("POST", json={**body, **fields}))["id"]
        return line_id

    async def opened(self, line_id: str) -> lines.LineAccount:
        """What a line keeps secret."""
        async with self.database.connection() as connection:
            return await lines.open_secrets(connection, self.accounts.keys, self.office.tenant_id, line_id)

    async def audited(self) -> str:
        """All that the audit log tells of lines."""
        async with self.database.connection() as connection:
            found, _ = await audit.lines(connection, self.office.tenant_id, AuditSearch(resource="line"), None, 100)
        return str(found)


@asynccontextmanager
async def desk_of(database: Database, office: Office, redis: Redis, config: Config) -> AsyncIterator[Desk]:
    """Open the API."""
    async with open_accounts(config, TenantKeys(Vault(master_keys(config)))) as accounts:
        live = Live(redis, config.redis_prefix)
        yield Desk(database, office, await office.agent("tenant_admin"), accounts, live)


@pytest.fixture
async def desk(
    database: Database, office: Office, redis: Redis, configure: Callable[..., Config]
) -> AsyncIterator[Desk]:
    """The API, from which providers on this machine can be reached."""
    config = configure(provider_networks="127.0.0.0/8", public_url="https://desk.example/")
    async with desk_of(database, office, redis, config) as desk:
        yield desk


def infinity(cloud: InfinityCloud, **fields: Any) -> dict[str, Any]:
    """A line at the fake cloud."""
    settings, credentials = cloud.line()
    return {"name": "Cloud", "providerType": "infinity", "providerConfig": {**settings, **credentials, **fields}}


# --- made and shown ---------------------------------------------------------------------------------------------------


async def test_a_line_is_shown_as_the_seed_has_it(desk: Desk) -> None:
    """Seed 003 §5.2: its fields, the number in one form, how much it is used; the rest is as seed 000 has it."""
    line_id = await desk.make()
    listed = await desk.ask("GET")
    answer = await desk.ask("GET", f"/{line_id}")

    assert {
        "id": line_id,
        "name": "West",
        "providerType": "aliyun",
        "callerNumber": "+862066247698",
        "status": "inactive",
        "health": "ok",
        "maxConcurrent": 5,
        "currentConcurrent": 0,
        "dailyLimit": 0,
        "todayCount": 0,
        "seats": 0,
    } == answer["line"]
    assert ([answer["line"]], 1) == (listed["lines"], listed["total"])
    config = answer["config"]
    assert ("ccc-1", 100, 60, 2, 3, 120) == tuple(
        config[name]
        for name in ("accountId", "priority", "callTimeout", "maxRetry", "userDailyLimit", "intervalMinutes")
    )
    assert ("09:00", "20:00") == (config["windowStart"], config["windowEnd"])
    assert ["userDailyLimit", "maxRetry", "intervalMinutes"] == config["notEnforced"]


async def test_no_answer_and_no_audit_row_and_no_log_line_has_a_secret(desk: Desk) -> None:
    """Whatever is asked: credentials are masked six and four, and the token stands in the URLs of `get` alone."""
    with structlog.testing.capture_logs() as logged:
        body = {**ALIYUN}
        line_id = await desk.make(body)
        token = (await desk.opened(line_id)).token
        again = {"providerConfig": {**ALIYUN["providerConfig"], "accessKeySecret": f"{KEY_SECRET}2"}}
        await desk.ask("PUT", f"/{line_id}", again)
        await desk.ask("GET")
        await desk.ask("POST", json=body, expect="ALREADY_EXISTS")
        await desk.ask("POST", json={**body, "surprise": KEY_SECRET}, expect="INVALID_FIELD")
        odd = {"instanceId": "x", "accessKeyId": KEY_ID, "accessKeySecret": [KEY_SECRET]}
        await desk.ask("POST", json={**body, "providerConfig": odd}, expect="INVALID_FIELD")
        without_urls = list(desk.answers)
        shown = await desk.ask("GET", f"/{line_id}")
        await desk.ask("DELETE", f"/{line_id}")
    everything = "".join((*desk.answers, await desk.audited(), str(logged)))

    assert {
        "instanceId": "ccc-1",
        "accessKeyId": "LTAI-n********id-1",
        "accessKeySecret": "not-a-********0012",
    } == shown["config"]["providerConfig"]
    assert [] == [secret for secret in (KEY_ID, KEY_SECRET) if secret in everything]
    assert token not in "".join((*without_urls, await desk.audited(), str(logged)))


async def test_what_is_kept_of_an_answer_has_no_secret(desk: Desk) -> None:
    """The same key gives the same answer, and its row holds neither a credential nor the token."""
    answers = [await desk.ask("POST", json=ALIYUN, idempotency_key="the-key") for _ in range(2)]
    token = (await desk.opened(answers[0]["id"])).token
    async with desk.database.connection() as connection:
        kept = await connection.fetchval("SELECT convert_from(answer, 'UTF8') FROM idempotency_key")

    assert answers[0] == answers[1]
    assert [] == [secret for secret in (KEY_ID, KEY_SECRET, token) if secret in kept]


@pytest.mark.parametrize(
    ("provider", "kinds"), [("aliyun", {"status", "recording"}), ("tencent", {"all"}), ("infinity", {"all"})]
)
async def test_callback_urls_are_told(desk: Desk, provider: str, kinds: set[str]) -> None:
    """One for each thing that the provider sends, composed from PUBLIC_URL, ending in the line's own token."""
    forms = {
        "aliyun": ALIYUN["providerConfig"],
        "tencent": {"sdkAppId": 1400000001, "secretId": "id", "secretKey": "key"},
        "infinity": {"appId": "app", "accessKey": "key"},
    }
    line_id = await desk.make(providerType=provider, providerConfig=forms[provider])
    urls = (await desk.ask("GET", f"/{line_id}"))["config"]["callbackUrls"]
    token = (await desk.opened(line_id)).token
    async with desk.database.connection() as connection:
        found = await lines.by_token(connection, token)

    base = f"https://desk.example/api/v1/calls/webhook/{provider}"
    assert {kind: f"{base}/{'' if kind == 'all' else f'{kind}/'}{token}" for kind in kinds} == urls
    assert found is not None
    assert (line_id, provider) == (found.line_id, found.provider)


async def test_forms_tell_what_each_provider_asks_for(desk: Desk) -> None:
    """Every field of every provider, which of them are secret, and what it is called in the asker's language."""
    told = (await desk.ask("GET", "/providers"))["providers"]
    chinese = (await desk.ask("GET", "/providers", accept_language="zh-CN"))["providers"]
    aliyun = {field["name"]: field for field in told[0]["fields"]}

    assert list(VENDORS) == [form["providerType"] for form in told]
    assert {"accessKeyId", "accessKeySecret"} == {name for name, field in aliyun.items() if field["secret"]}
    assert {"accessKeyId", "accessKeySecret", "instanceId"} == {
        name for name, field in aliyun.items() if field["required"]
    }
    assert ["agent", "back2back"] == aliyun["mode"]["choices"]
    assert all(field["help"] for form in (*told, *chinese) for field in form["fields"])
    assert "实例 ID" == next(field["help"] for field in chinese[0]["fields"] if field["name"] == "instanceId")
    assert "callbackUrl" not in str(told)  # of Ronglian: it is the line's own


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"providerConfig": {"accessKeyId": "a", "accessKeySecret": "b"}}, "missing required field `instanceId`"),
        ({"providerConfig": {"instanceId": "a", "accessKeyId": "b"}}, "missing required field `accessKeySecret`"),
        ({"providerConfig": {**ALIYUN["providerConfig"], "mode": "loud"}}, "`$.providerConfig.mode`"),
        ({"providerConfig": {**ALIYUN["providerConfig"], "color": "red"}}, "unknown field `color`"),
        ({"providerConfig": {**ALIYUN["providerConfig"], "accessKeyId": "LTAI-n********id-1"}}, "this is masked"),
        ({"callTimeout": 29}, "`int` >= 30 - at `$.callTimeout`"),
        ({"dailyLimit": 100_001}, "`int` <= 100000 - at `$.dailyLimit`"),
        ({"userDailyLimit": 11}, "`int` <= 10 - at `$.userDailyLimit`"),
        ({"maxRetry": 6}, "`int` <= 5 - at `$.maxRetry`"),
        ({"intervalMinutes": 481}, "`int` <= 480 - at `$.intervalMinutes`"),
        ({"windowStart": "07:59"}, "from 08:00 to 21:00"),
        ({"windowEnd": "21:01"}, "from 08:00 to 21:00"),
        ({"windowStart": "12:00", "windowEnd": "12:00"}, "from 08:00 to 21:00"),
        ({"windowStart": "25:00"}, "`$.windowStart`"),
        ({"allowedNetworks": ["203.0.113.0/33"]}, "is not a network"),
        ({"status": "on"}, "`$.status`"),
        ({"providerType": "nobody"}, "`$.providerType`"),
    ],
)
async def test_a_refusal_names_the_field_and_what_it_may_be(desk: Desk, fields: dict[str, Any], reason: str) -> None:
    """Seed 000 §3, §9: the field, the rule and its range."""
    answer = await desk.ask("POST", json={**ALIYUN, **fields}, expect="INVALID_FIELD")

    assert reason in answer["message"]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9000", "https://10.0.0.1", "http://[::1]", "http://169.254.169.254", "ftp://vendor.example"],
)
async def test_addresses_lead_to_the_public_internet(
    database: Database, office: Office, redis: Redis, config: Config, url: str
) -> None:
    """An address within is refused, when it is kept and when it is tried, unless PROVIDER_NETWORKS has it."""
    async with desk_of(database, office, redis, config) as desk:
        form = {"appId": "app", "accessKey": "key", "baseUrl": url}
        body = {"providerType": "infinity", "providerConfig": form}
        refusals = [
            await desk.ask("POST", json={**body, "name": "In"}, expect="INVALID_FIELD"),
            await desk.ask("POST", "/test", body, expect="INVALID_FIELD"),
        ]

    assert ["`$.providerConfig.baseUrl`"] * 2 == [answer["message"].rpartition("at ")[2] for answer in refusals]


async def test_one_account_is_one_line(desk: Desk) -> None:
    """Another line of the same account is refused, unless it is given a name of its own; and so is the same name."""
    await desk.make()
    account = await desk.ask("POST", json={**ALIYUN, "name": "East"}, expect="ALREADY_EXISTS")
    name = await desk.ask("POST", json={**ALIYUN, "accountId": "another"}, expect="ALREADY_EXISTS")
    await desk.make(name="East", accountId="ccc-1/east")

    assert ["line account", "line name"] == [answer["details"]["what"] for answer in (account, name)]


# --- changed ----------------------------------------------------------------------------------------------------------


async def test_what_is_not_named_stays(desk: Desk) -> None:
    """Credentials too: left out, or sent back as they were shown. The rest of `providerConfig` is set as a whole."""
    line_id = await desk.make(providerConfig={**ALIYUN["providerConfig"], "broker": "02066247698"})
    before = await desk.opened(line_id)
    shown = (await desk.ask("GET", f"/{line_id}"))["config"]["providerConfig"]
    await desk.ask("PUT", f"/{line_id}", {"status": "active", "windowStart": "10:30", "callerNumber": None})
    await desk.ask("PUT", f"/{line_id}", {"providerConfig": shown})
    await desk.ask("PUT", f"/{line_id}", {"providerConfig": {"instanceId": "ccc-2"}})
    after = await desk.opened(line_id)
    answer = await desk.ask("GET", f"/{line_id}")

    assert (before.secrets, before.token) == (after.secrets, after.token)
    assert ("active", None, "West") == tuple(answer["line"][name] for name in ("status", "callerNumber", "name"))
    assert ("10:30", "20:00", "ccc-1") == tuple(
        answer["config"][name] for name in ("windowStart", "windowEnd", "accountId")
    )
    assert {"instanceId": "ccc-2"} == {
        name: value for name, value in answer["config"]["providerConfig"].items() if not name.startswith("access")
    }


async def test_a_credential_is_replaced_or_taken_away(desk: Desk) -> None:
    """A new one takes the old one's place; null takes away what need not be there."""
    form = {"sdkAppId": 1400000001, "secretId": "id", "secretKey": "key", "pushToken": "token"}
    line_id = await desk.make(providerType="tencent", providerConfig=form)
    await desk.ask(
        "PUT", f"/{line_id}", {"providerConfig": {"sdkAppId": 1400000001, "secretKey": "2", "pushToken": None}}
    )
    missing = {"providerConfig": {"sdkAppId": 1400000001, "secretKey": None}}
    await desk.ask("PUT", f"/{line_id}", missing, expect="INVALID_FIELD")

    assert b'{"secretId":"id","secretKey":"2"}' == (await desk.opened(line_id)).secrets


async def test_kept_credentials_go_to_no_other_address(desk: Desk) -> None:
    """Whoever may change the address may not have a credential sent there that somebody else gave."""
    form = {"appId": "app", "accessKey": "key", "baseUrl": "https://vendor.example/api"}
    line_id = await desk.make(providerType="infinity", providerConfig=form)
    elsewhere = {"appId": "app", "baseUrl": "https://thief.example/api"}
    refused = await desk.ask("PUT", f"/{line_id}", {"providerConfig": elsewhere}, expect="INVALID_FIELD")
    await desk.ask(
        "PUT", f"/{line_id}", {"providerConfig": {**elsewhere, "accessKey": "********"}}, expect="INVALID_FIELD"
    )
    await desk.ask("PUT", f"/{line_id}", {"providerConfig": {"appId": "app", "baseUrl": "https://vendor.example/v2"}})
    await desk.ask("PUT", f"/{line_id}", {"providerConfig": {**elsewhere, "accessKey": "key"}})

    assert "give the credentials again" in refused["message"]


async def test_who_read_an_older_version_is_told(desk: Desk) -> None:
    """If-Match refuses what somebody changed since, and tells the version; without it the last one wins."""
    line_id = await desk.make()
    changed = await desk.ask("PUT", f"/{line_id}", {"priority": 1}, if_match='"1"')
    refused = await desk.ask("PUT", f"/{line_id}", {"priority": 2}, if_match="1", expect="VERSION_CONFLICT")
    await desk.ask("PUT", f"/{line_id}", {"priority": 3}, if_match="*")
    last = await desk.ask("PUT", f"/{line_id}", {"priority": 3})

    assert 2 == changed["config"]["version"]
    assert {"current": 2} == refused["details"]
    assert (3, 3) == (last["config"]["version"], last["config"]["priority"])


async def test_a_line_with_living_calls_is_not_deleted(desk: Desk) -> None:
    """It is IN_USE until they end, and then gone; the call keeps naming it."""
    line_id = await desk.make()
    async with desk.database.connection() as connection:
        await connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, line_id, customer_phone, reap_at)"
            " VALUES ($1, $2, $3, $3, 'cloud', $4, '+8613800138000', now())",
            new_call_id(),
            desk.office.tenant_id,
            desk.admin.id,
            line_id,
        )
    busy = await desk.ask("GET", f"/{line_id}")
    await desk.ask("DELETE", f"/{line_id}", expect="IN_USE")
    async with desk.database.connection() as connection:
        await connection.execute(
            "UPDATE call SET status = 'ended', ended_at = now(), outcome = 'missed', reap_at = NULL"
        )
    await desk.ask("DELETE", f"/{line_id}")
    for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/seats")):
        await desk.ask(method, f"/{line_id}{path}", {} if method == "PUT" else None, expect="NOT_FOUND")

    assert 1 == busy["line"]["currentConcurrent"]
    assert 0 == (await desk.ask("GET"))["total"]


# --- tried ------------------------------------------------------------------------------------------------------------


async def test_a_line_is_tried_without_dialling(desk: Desk) -> None:
    """Kept or not: the account answers after some time, nothing rings, and the credentials are not told."""
    async with infinity_cloud() as cloud:
        line_id = await desk.make(infinity(cloud))
        body = infinity(cloud)
        del body["name"]
        kept = await desk.ask("POST", f"/{line_id}/test")
        unsaved = await desk.ask("POST", "/test", body)
        body["providerConfig"]["accessKey"] = "a-wrong-access-key-that-is-long"
        wrong = await desk.ask("POST", "/test", body)

    assert [True, True, False] == [answer["success"] for answer in (kept, unsaved, wrong)]
    assert all(isinstance(answer["latency"], int) and answer["message"] for answer in (kept, unsaved, wrong))
    assert [] == cloud.placed
    assert ACCESS_KEY not in "".join(desk.answers)
    assert "a-wrong-access-key-that-is-long" not in wrong["message"]


CLOUDS: dict[str, tuple[ProviderName, Callable[[], AbstractAsyncContextManager[Cloud]]]] = {
    "aliyun": ("aliyun", aliyun_cloud),
    "tencent": ("tencent", tencent_cloud),
    "ronglian": ("ronglian", ronglian_cloud),
    "clink2": ("tianrun", tianrun_cloud),
    "cticloud": ("tianrun", lambda: tianrun_cloud("cticloud")),
    "infinity": ("infinity", infinity_cloud),
    "custom": ("custom", bellbird_cloud),
}


@pytest.mark.parametrize("name", CLOUDS)
async def test_every_provider_is_tried_through_its_line(desk: Desk, name: str) -> None:
    """What its cloud says of an account makes a line that works; its credentials are in nothing told or kept."""
    provider, cloud_of = CLOUDS[name]
    async with cloud_of() as cloud:
        settings, credentials = cloud.line()
        credentials.pop("callbackUrl", None)  # Ronglian's, which the line itself gives
        line_id = await desk.make(
            {"name": "West", "providerType": provider, "providerConfig": {**settings, **credentials}}
        )
        tested = await desk.ask("POST", f"/{line_id}/test")
        shown = await desk.ask("GET", f"/{line_id}")
        await desk.ask("PUT", f"/{line_id}", {"providerConfig": shown["config"]["providerConfig"]})
        again = await desk.ask("POST", f"/{line_id}/test")
        everything = "".join((*desk.answers, await desk.audited()))

    assert (True, True) == (tested["success"], again["success"]), tested
    assert [] == cloud.placed
    assert [] == [secret for secret in _texts(credentials) if secret in everything]


def _texts(credentials: dict[str, Any]) -> Iterator[str]:
    """All credentials, also those within others."""
    for value in credentials.values():
        yield from _texts(value) if isinstance(value, dict) else [str(value)]


async def test_a_provider_that_is_not_there_is_told(desk: Desk) -> None:
    """The test is done, and its result is that there was no connection."""
    form = {"appId": "app", "accessKey": "key", "baseUrl": "http://127.0.0.1:65535/"}
    answer = await desk.ask("POST", "/test", {"providerType": "infinity", "providerConfig": form})

    assert not answer["success"]
    assert answer["message"]


async def test_a_name_that_leads_inside_is_not_asked(
    database: Database, office: Office, redis: Redis, config: Config
) -> None:
    """What a name leads to is judged when it is connected to."""
    async with desk_of(database, office, redis, config) as desk:
        form = {"appId": "app", "accessKey": "key", "baseUrl": "http://localhost:65535/"}
        answer = await desk.ask("POST", "/test", {"providerType": "infinity", "providerConfig": form})

    assert not answer["success"]


async def test_a_frozen_line_that_answers_is_in_service_again(desk: Desk) -> None:
    """By hand: a test that succeeds is what unfreezes it, and it stands in the audit log."""
    async with infinity_cloud() as cloud:
        line_id = await desk.make(infinity(cloud))
        async with desk.database.connection() as connection:
            await connection.execute("UPDATE call_line SET health = 'frozen', failures = 10")
        frozen = await desk.ask("GET", f"/{line_id}")
        await desk.ask("POST", f"/{line_id}/test")
        well = await desk.ask("GET", f"/{line_id}")

    assert ("frozen", "ok") == (frozen["line"]["health"], well["line"]["health"])
    assert "'restore'" in await desk.audited()


async def test_tests_are_rationed(desk: Desk) -> None:
    """Six a minute for one who asks, however they ask; another has six of their own."""
    form = {"appId": "app", "accessKey": "key", "baseUrl": "http://127.0.0.1:65535/"}
    body = {"providerType": "infinity", "providerConfig": form}
    for _ in range(TESTS_A_MINUTE):
        await desk.ask("POST", "/test", body)
    refused = await desk.ask("POST", "/test", body, expect="RATE_LIMITED")
    await desk.ask("POST", "/test", body, who=person(desk.office.tenant_id, await desk.office.agent("operator")))

    assert 0 < refused["details"]["retryAfter"] <= 60


async def test_a_provider_is_held_open_until_its_line_changes(desk: Desk) -> None:
    """Its connections and its login serve many calls; a change of the line has it opened anew."""
    line_id = await desk.make()

    async def opened() -> object:
        async with desk.database.connection() as connection:
            return await desk.accounts.open(connection, desk.office.tenant_id, line_id)

    first, second = await opened(), await opened()
    await desk.ask("PUT", f"/{line_id}", {"priority": 1})

    assert first is second
    assert first is not await opened()


# --- seats ------------------------------------------------------------------------------------------------------------


async def test_agents_see_the_lines_they_have_a_seat_on(desk: Desk) -> None:
    """And nothing of how they are set up; supervisors see all lines, and the seats of their teams."""
    agent_id = await desk.office.agent()
    agent = person(desk.office.tenant_id, agent_id, "agent")
    supervisor = person(desk.office.tenant_id, await desk.office.agent("supervisor"), "supervisor")
    west, east = await desk.make(), await desk.make(name="East", accountId="east")
    await desk.ask("PUT", f"/{west}/seats/{agent_id}", {"seatId": "agent@ccc-1", "number": "13800138000"})
    await desk.ask("PUT", f"/{west}/seats/{desk.admin.id}", {"seatId": "admin@ccc-1"})
    listed, seen = await desk.ask("GET", who=agent), await desk.ask("GET", f"/{west}", who=agent)
    await desk.ask("GET", f"/{east}", who=agent, expect="NOT_FOUND")
    await desk.ask("GET", f"/{east}/seats", who=agent, expect="NOT_FOUND")
    seats = [(await desk.ask("GET", f"/{west}/seats", who=who))["seats"] for who in (desk.admin, agent, supervisor)]
    supervised = await desk.ask("GET", f"/{east}", who=supervisor)
    for method, path in (("POST", ""), ("PUT", f"/{west}"), ("DELETE", f"/{west}"), ("POST", f"/{west}/test")):
        await desk.ask(method, path, {}, who=agent, expect="FORBIDDEN")

    assert [west] == [line["id"] for line in listed["lines"]]
    assert (None, None) == (seen["config"], supervised["config"])
    assert [{agent_id, desk.admin.id}, {agent_id}, set()] == [{seat["userId"] for seat in some} for some in seats]
    assert ("agent@ccc-1", "+8613800138000") == (seats[1][0]["seatId"], seats[1][0]["number"])


async def test_seats_are_changed_and_taken(desk: Desk) -> None:
    """A seat says something, of a user of the tenant; a number is one that can be dialled."""
    line_id, agent_id = await desk.make(), await desk.office.agent()
    path = f"/{line_id}/seats/{agent_id}"
    await desk.ask("PUT", path, {}, expect="INVALID_FIELD")
    await desk.ask("PUT", path, {"number": "12"}, expect="INVALID_PHONE")
    await desk.ask("PUT", f"/{line_id}/seats/nobody", {"seatId": "1"}, expect="NOT_FOUND")
    await desk.ask("DELETE", path, expect="NOT_FOUND")
    await desk.ask("PUT", path, {"seatId": "1"})
    await desk.ask("PUT", path, {"seatId": "2", "number": "010-62247698"})
    seats = (await desk.ask("GET", f"/{line_id}/seats"))["seats"]
    await desk.ask("DELETE", path)

    assert [("2", "+861062247698")] == [(seat["seatId"], seat["number"]) for seat in seats]
    assert [] == (await desk.ask("GET", f"/{line_id}/seats"))["seats"]


async def test_another_tenants_lines_do_not_exist(desk: Desk) -> None:
    """Whatever is asked of one: it is NOT_FOUND, and nothing of it changes."""
    line_id = await desk.make()
    stranger = person("tenant_other", "eve")
    agent_id = await desk.office.agent()
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "", {"name": "Mine"}),
        ("DELETE", "", None),
        ("POST", "/test", None),
        ("GET", "/seats", None),
        ("PUT", f"/seats/{agent_id}", {"seatId": "1"}),
        ("DELETE", f"/seats/{agent_id}", None),
    ):
        await desk.ask(method, f"/{line_id}{path}", body, who=stranger, expect="NOT_FOUND")

    assert [] == (await desk.ask("GET", who=stranger))["lines"]
    assert "West" == (await desk.ask("GET", f"/{line_id}"))["line"]["name"]


async def test_changes_at_once_are_one_after_another(desk: Desk) -> None:
    """Of those that read the same version one is saved, and the others are told."""
    line_id = await desk.make()

    async def save(priority: int) -> bool:
        try:
            await desk.ask("PUT", f"/{line_id}", {"priority": priority}, if_match="1")
        except AssertionError:
            return False
        return True

    assert 1 == sum(await asyncio.gather(*(save(priority) for priority in range(5))))
