"""Infinity lines by their two other faces: the channels of seed 000 and the configurations of seed 001."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import structlog
from redis.asyncio import Redis

from protocol.errors import ERRORS
from protocol.identifiers import new_call_id
from server import http
from server.app import web_node
from server.config import Config, master_keys
from server.infinity_channels import REVEALS_AN_HOUR
from storage import lines
from storage.database import Database
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.clouds.infinity import infinity_cloud
from tests.server.companies import NOBODY, Company, Person, Town

CHANNELS: Final = "/api/v1/channel/infinity"
CONFIGS: Final = "/api/v1/infinity/configs"
LINES: Final = "/api/v1/calls/lines"
KEY, SECRET = "ak_not-a-real-key-000001", "as_not-a-real-secret-0001"
CHANNEL: Final[dict[str, Any]] = {
    "channel_name": "Infinity外呼账号1",
    "account_id": "infinity_001",
    "api_key": KEY,
    "api_secret": SECRET,
    "callback_url": "https://api.example.com/callback",
    "priority": 1,
    "daily_limit": 10000,
    "user_daily_limit": 3,
    "call_timeout": 60,
    "max_retry": 2,
    "time_range_start": "09:00:00",
    "time_range_end": "20:00:00",
    "interval_minutes": 120,
}
"""The request of seed 000 TRD 2.3, but that its keys are longer."""
LOCAL_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


class Console:
    """A web node, and a tenant's people who ask it; the admin does unless it is said who."""

    def __init__(self, client: httpx.AsyncClient, town: Town, company: Company, keys: TenantKeys) -> None:
        self.town = town
        self.company = company
        self.answers: list[str] = []
        self._client = client
        self._keys = keys

    async def ask(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        who: Person | None = None,
        expect: str = "ok",
        language: str = "en",
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> Any:
        """Send a request and return the answer, which must be this: `ok`, or an error code."""
        told = {**(who or self.company.admin).headers, "accept-language": language, **(headers or {})}
        response = await self._client.request(method, path, json=json, params=query, headers=told)
        self.answers.append(response.text)
        answer = response.json()
        if path.startswith(CHANNELS):
            assert response.status_code == answer["code"], answer
            code = answer.get("error", "ok")
        else:
            code = "ok" if response.is_success else answer["code"]
        assert expect == code, answer
        return answer

    async def channel(self, method: str, path: str = "", json: Any = None, **more: Any) -> Any:
        """Ask below the channels; return what is told."""
        return await self.ask(method, f"{CHANNELS}{path}", json, **more)

    async def make(self, **fields: Any) -> str:
        """Make a channel and return its id."""
        channel_id: str = (await self.channel("POST", json={**CHANNEL, **fields}))["data"]["channel_id"]
        return channel_id

    async def shown(self, channel_id: str) -> dict[str, Any]:
        """How a channel is set up."""
        told: dict[str, Any] = (await self.channel("GET", f"/{channel_id}"))["data"]
        return told

    async def history(self, channel_id: str, **query: Any) -> list[dict[str, Any]]:
        """What was done to a channel, newest first."""
        told: list[dict[str, Any]] = (await self.channel("GET", f"/{channel_id}/history", **query))["data"]["list"]
        return told

    async def opened(self, channel_id: str) -> lines.LineAccount:
        """What a channel keeps secret."""
        async with self.town.database.connection() as connection:
            return await lines.open_secrets(connection, self._keys, self.company.tenant_id, channel_id)

    async def user(self, role: str) -> Person:
        """Somebody else of the tenant."""
        _, person = await self.town.user(self.company.tenant_id, role)
        return person


@pytest.fixture
async def console(
    configure: Callable[..., Config], database: Database, redis: Redis, tmp_path: Path
) -> AsyncIterator[Console]:
    """The API of a tenant whose providers may be on this machine."""
    config = configure(recordings="local", recordings_folder=tmp_path / "recordings", provider_networks="127.0.0.0/8")
    async with web_node(config) as node:
        town = Town(database, config)
        transport = httpx.ASGITransport(node.app, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://desk.test") as client:
            company = await town.company("acme")
            yield Console(client, town, company, TenantKeys(Vault(master_keys(config))))


# --- seed 000: made and shown -----------------------------------------------------------------------------------------


async def test_a_channel_is_made_and_shown_as_the_seed_has_it(console: Console) -> None:
    """TRD 2.2 and 2.3: every field by its name, the key masked six and four, no secret, times of the tenant's clock."""
    made = await console.channel("POST", json=CHANNEL, language="zh-CN")
    shown = await console.channel("GET", f"/{made['data']['channel_id']}")
    data = shown["data"]

    assert ({"code": 200, "message": "配置创建成功"}, {"channel_id"}) == (
        {name: made[name] for name in ("code", "message")},
        made["data"].keys(),
    )
    assert (200, "success") == (shown["code"], shown["message"])
    assert {name: value for name, value in CHANNEL.items() if not name.startswith("api_")} == {
        name: data[name] for name in CHANNEL if not name.startswith("api_")
    }
    assert f"{KEY[:6]}********{KEY[-4:]}" == data["api_key"]
    assert "api_secret" not in data
    assert (0, None) == (data["status"], data["updated_by"])
    assert all(LOCAL_TIME.fullmatch(data[name]) for name in ("created_at", "updated_at"))
    assert ["user_daily_limit", "max_retry", "interval_minutes"] == data["not_enforced"]


async def test_what_is_left_out_is_as_the_seed_has_it(console: Console) -> None:
    """§9: 10000 a day, three for a customer, two hours apart, a minute to ring, two more tries, nine to eight."""
    needed = {name: CHANNEL[name] for name in ("channel_name", "account_id", "api_key", "api_secret")}
    made = await console.channel("POST", json=needed)
    data = await console.shown(made["data"]["channel_id"])

    assert {
        "priority": 100,
        "daily_limit": 10_000,
        "user_daily_limit": 3,
        "call_timeout": 60,
        "max_retry": 2,
        "time_range_start": "09:00:00",
        "time_range_end": "20:00:00",
        "interval_minutes": 120,
        "callback_url": None,
    } == {name: data[name] for name in data.keys() & (CHANNEL.keys() - needed.keys())}


async def test_channels_are_listed(console: Console) -> None:
    """TRD 2.1: by a part of the name and by status, a page at a time, the fields as the sample has them; only
    Infinity's, and only the tenant's own."""
    first, second = await console.make(), await console.make(channel_name="备用 50%", account_id="b", priority=2)
    await console.channel("PUT", f"/{second}/status", {"status": 2})
    await console.town.company("bolt")
    everything = (await console.channel("GET", "/list"))["data"]

    async def found(**query: Any) -> list[str]:
        told = (await console.channel("GET", "/list", **query))["data"]
        return [one["channel_id"] for one in told["list"]]

    assert (3, [first, second, console.company.line_id]) == (
        everything["total"],
        [one["channel_id"] for one in everything["list"]],
    )
    assert {
        "channel_id",
        "channel_name",
        "account_id",
        "status",
        "priority",
        "daily_limit",
        "user_daily_limit",
        "created_at",
        "updated_at",
    } == everything["list"][0].keys()
    assert [second] == await found(channel_name="50%")
    assert [second] == await found(status=2)
    assert [second] == await found(page=2, page_size=1)
    assert [] == await found(channel_name="_", status=0)
    assert [first, second, console.company.line_id] == await found(channel_name="")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"call_timeout": 29}, "`int` >= 30 - at `$.call_timeout`"),
        ({"call_timeout": 181}, "`int` <= 180 - at `$.call_timeout`"),
        ({"daily_limit": 100_001}, "`int` <= 100000 - at `$.daily_limit`"),
        ({"user_daily_limit": 0}, "`int` >= 1 - at `$.user_daily_limit`"),
        ({"user_daily_limit": 11}, "`int` <= 10 - at `$.user_daily_limit`"),
        ({"max_retry": 6}, "`int` <= 5 - at `$.max_retry`"),
        ({"interval_minutes": 29}, "`int` >= 30 - at `$.interval_minutes`"),
        ({"interval_minutes": 481}, "`int` <= 480 - at `$.interval_minutes`"),
        ({"time_range_start": "07:59:59"}, "from 08:00 to 21:00"),
        ({"time_range_end": "21:00:01"}, "from 08:00 to 21:00"),
        ({"time_range_start": "20:00:00"}, "from 08:00 to 21:00"),
        ({"time_range_start": "9:00"}, "at `$.time_range_start`"),
        ({"channel_name": ""}, "at `$.channel_name`"),
        ({"account_id": "x" * 51}, "at `$.account_id`"),
        ({"api_key": None}, "at `$.api_key`"),
        ({"api_key": f"{KEY[:6]}********{KEY[-4:]}"}, "this is masked - at `$.api_key`"),
        ({"api_secret": "********"}, "this is masked - at `$.api_secret`"),
        ({"callback_url": "http://169.254.169.254/latest"}, "not an address of the public internet - at `$.callback"),
        ({"callback_url": "javascript:alert(1)"}, "https:// or http:// - at `$.callback_url`"),
        ({"callback_url": "https://desk.example/api/v1/calls/webhook/infinity/token"}, "paste this one at Infinity"),
        ({"surprise": 1}, "unknown field `surprise`"),
    ],
)
async def test_a_refusal_names_the_field_and_its_range(console: Console, fields: dict[str, Any], reason: str) -> None:
    """§3, §9: a change that is not sound is refused whole, with the field, the rule and the range."""
    refused = await console.channel("POST", json={**CHANNEL, **fields}, expect="INVALID_FIELD")

    assert reason in refused["message"]
    assert 422 == refused["code"]


async def test_one_account_is_one_channel(console: Console) -> None:
    """§4.1: the account, and the name, are unique in the tenant until the channel is deleted."""
    first = await console.make()
    account = await console.channel("POST", json={**CHANNEL, "channel_name": "2"}, expect="ALREADY_EXISTS")
    name = await console.channel("POST", json={**CHANNEL, "account_id": "2"}, expect="ALREADY_EXISTS")
    await console.channel("DELETE", f"/{first}")
    await console.make()

    assert ["line account", "line name"] == [answer["details"]["what"] for answer in (account, name)]


async def test_a_channel_is_made_once(console: Console) -> None:
    """The same Idempotency-Key gives the same channel, and what is kept of the answer has no key in it."""
    headers = {"idempotency-key": "the-key"}
    twins = [await console.channel("POST", json=CHANNEL, headers=headers) for _ in range(2)]
    async with console.town.database.connection() as connection:
        kept = await connection.fetchval("SELECT convert_from(answer, 'UTF8') FROM idempotency_key")

    assert twins[0] == twins[1]
    assert KEY not in kept


async def test_what_is_written_is_kept_as_text(console: Console) -> None:
    """Neither SQL nor markup in a name is anything but a name."""
    name = "'); DROP TABLE call_line; -- <script>alert(1)</script>"
    channel_id = await console.make(channel_name=name)
    found = await console.channel("GET", "/list", channel_name="<script>")

    assert name == (await console.shown(channel_id))["channel_name"]
    assert 1 == found["data"]["total"]


# --- seed 000: changed ------------------------------------------------------------------------------------------------


async def test_a_key_that_comes_back_masked_stays(console: Console) -> None:
    """TRD 2.4: a form may be sent back as it was shown; left out, keys and all else stay; a new key replaces."""
    channel_id = await console.make()
    before = await console.opened(channel_id)
    shown = await console.shown(channel_id)
    changed = await console.channel(
        "PUT", f"/{channel_id}", {name: shown[name] for name in CHANNEL if name != "api_secret"}, language="zh-CN"
    )
    await console.channel("PUT", f"/{channel_id}", {"channel_name": "B", "account_id": "b", "call_timeout": 90})
    same = await console.opened(channel_id)
    after = await console.shown(channel_id)
    await console.channel(
        "PUT", f"/{channel_id}", {"channel_name": "B", "account_id": "b", "api_key": "another-key", "callback_url": ""}
    )
    other = await console.opened(channel_id)

    assert {"code": 200, "message": "配置更新成功", "data": None} == changed
    assert before.secrets == same.secrets
    assert b'{"appId": "b"}' == same.settings
    assert ("B", "b", 90, CHANNEL["callback_url"], 1) == tuple(
        after[name] for name in ("channel_name", "account_id", "call_timeout", "callback_url", "priority")
    )
    assert {"accessKey": "another-key", "api_secret": SECRET} == _decoded(other.secrets)
    assert (await console.shown(channel_id))["callback_url"] is None


def _decoded(told: bytes) -> Any:
    return httpx.Response(200, content=told).json()


async def test_a_change_can_be_looked_at_before_it_is_made(console: Console) -> None:
    """§4.4: with `dry_run` nothing changes and the difference is told, masked; its version, sent as If-Match, is what
    makes the change this one or none."""
    channel_id = await console.make()
    wanted = {**CHANNEL, "daily_limit": 5, "time_range_end": "19:30", "api_key": "ak_quite-another-key-0002"}
    told = (await console.channel("PUT", f"/{channel_id}", wanted, dry_run=True))["data"]
    untouched = await console.shown(channel_id)
    headers = {"if-match": str(told["version"])}
    await console.channel("PUT", f"/{channel_id}", wanted, headers=headers)
    refused = await console.channel("PUT", f"/{channel_id}", CHANNEL, headers=headers, expect="VERSION_CONFLICT")

    assert [
        {"field": "daily_limit", "before": 10_000, "after": 5},
        {"field": "time_range_end", "before": "20:00:00", "after": "19:30:00"},
        {"field": "api_key", "before": untouched["api_key"], "after": "ak_qui********0002"},
    ] == told["changes"]
    assert (10_000, 1) == (untouched["daily_limit"], untouched["version"])
    assert {"current": 2} == refused["details"]
    assert 1 == len([one for one in await console.history(channel_id) if one["operation_type"] == "update"])


async def test_a_status_holds_from_the_next_dial_on(console: Console) -> None:
    """TRD 2.6: off, on, testing; what a dial reads a moment later is the new one. Asked again, it answers the same."""
    channel_id = await console.make()
    seen = []
    for status in (1, 2, 0, 0):
        answer = await console.channel("PUT", f"/{channel_id}/status", {"status": status}, language="zh-CN")
        async with console.town.database.connection() as connection:
            known = await lines.for_dial(connection, console.company.tenant_id, console.company.agent_id)
        seen.append((answer["message"], next(line.status for line in known if line.id == channel_id)))
    await console.channel("PUT", f"/{channel_id}/status", {"status": 3}, expect="INVALID_FIELD")

    assert [("状态更新成功", status) for status in (1, 2, 0, 0)] == seen


async def test_a_deleted_channel_is_gone_and_its_keys_with_it(console: Console) -> None:
    """TRD 2.5: its secrets are erased, its history stays, and deleting it again is the same answer."""
    channel_id = await console.make()
    answers = [await console.channel("DELETE", f"/{channel_id}", language="zh-CN") for _ in range(2)]
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "", CHANNEL),
        ("PUT", "/status", {"status": 1}),
        ("GET", "/health", None),
        ("POST", "/reveal", {"reason": "why"}),
    ):
        await console.channel(method, f"/{channel_id}{path}", body, expect="NOT_FOUND")
    async with console.town.database.connection() as connection:
        left = await connection.fetchrow("SELECT secrets, hints FROM call_line WHERE id = $1", channel_id)

    assert [{"code": 200, "message": "配置删除成功", "data": None}] * 2 == answers
    assert (None, "{}") == tuple(left or ())
    assert ["delete", "create"] == [one["operation_type"] for one in await console.history(channel_id)]


async def test_a_channel_with_living_calls_is_not_deleted(console: Console) -> None:
    """It is in use until they end, and says so."""
    channel_id = await console.make()
    async with console.town.database.connection() as connection:
        await connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, call_method, line_id, customer_phone, reap_at)"
            " VALUES ($1, $2, $3, $3, 'cloud', $4, '+8613800138000', now())",
            new_call_id(),
            console.company.tenant_id,
            console.company.agent_id,
            channel_id,
        )
    refused = await console.channel("DELETE", f"/{channel_id}", expect="IN_USE")
    health = (await console.channel("GET", f"/{channel_id}/health"))["data"]

    assert 409 == refused["code"]
    assert ("ok", 0, 1, 0, None) == tuple(
        health[name] for name in ("health", "failures", "current_concurrent", "today_count", "balance")
    )


async def test_every_change_stands_in_the_history(console: Console) -> None:
    """§4.4, §5: who, when, from where, what it was and what it became, by the names of this face, keys masked."""
    channel_id = await console.make()
    operator = await console.user("operator")
    await console.channel("PUT", f"/{channel_id}", {**CHANNEL, "time_range_end": "19:00:00"}, who=operator)
    await console.channel("PUT", f"/{channel_id}", {**CHANNEL, "time_range_end": "19:00:00"})
    await console.channel("PUT", f"/{channel_id}", {**CHANNEL, "api_key": "ak_another-key-000001", "max_retry": 1})
    await console.channel("PUT", f"/{channel_id}/status", {"status": 1})
    status, replaced, update, made = await console.history(channel_id)
    pages = [(await console.channel("GET", f"/{channel_id}/history", page_size=3))["data"]]
    pages.append(
        (await console.channel("GET", f"/{channel_id}/history", cursor=pages[0]["next_cursor"], page_size=3))["data"]
    )

    assert ["status_change", "update", "update", "create"] == [
        one["operation_type"] for one in (status, replaced, update, made)
    ]
    assert ({"status": 0}, {"status": 1}) == (status["before_data"], status["after_data"])
    assert ({"time_range_end": "20:00:00"}, {"time_range_end": "19:00:00"}) == (
        update["before_data"],
        update["after_data"],
    )
    assert {"time_range_end": "20:00:00", "max_retry": 1, "api_key": "ak_ano********0001", "keys_replaced": True} == {
        **replaced["after_data"]
    }
    assert (None, CHANNEL["channel_name"], "09:00:00") == (
        made["before_data"],
        made["after_data"]["channel_name"],
        made["after_data"]["time_range_start"],
    )
    assert update["operator"] != made["operator"] == (await console.shown(channel_id))["created_by"]
    assert "192.0.2.1" == made["client_ip"]
    assert LOCAL_TIME.fullmatch(made["operation_time"])
    assert [status, replaced, update, made] == pages[0]["list"] + pages[1]["list"]
    assert pages[1]["next_cursor"] is None


# --- seed 000: keys ---------------------------------------------------------------------------------------------------


async def test_a_key_is_shown_to_an_admin_who_says_why(console: Console) -> None:
    """§8: in full, for a reason that stands in the history; to no operator, five times an hour; never the secret."""
    channel_id = await console.make()
    operator = await console.user("operator")
    await console.channel("POST", f"/{channel_id}/reveal", {}, expect="INVALID_FIELD")
    refused = await console.channel("POST", f"/{channel_id}/reveal", {"reason": "x"}, who=operator, expect="FORBIDDEN")
    told = [await console.channel("POST", f"/{channel_id}/reveal", {"reason": "moving"}) for _ in range(5)]
    await console.channel("POST", f"/{channel_id}/reveal", {"reason": "moving"}, expect="RATE_LIMITED")
    seen = [one for one in await console.history(channel_id) if one["operation_type"] == "reveal"]

    assert [{"channel_id": channel_id, "api_key": KEY}] * REVEALS_AN_HOUR == [answer["data"] for answer in told]
    assert {"permission": "lines.reveal"} == refused["details"]
    assert [("moving", None, None)] * REVEALS_AN_HOUR == [
        (one["remark"], one["before_data"], one["after_data"]) for one in seen
    ]
    assert SECRET not in "".join(console.answers)


async def test_keys_are_told_by_nothing_else(console: Console) -> None:
    """No answer, no log line, no row of the audit log and no footprint has a key or a secret, whatever is asked."""
    with structlog.testing.capture_logs() as logged:
        channel_id = await console.make()
        await console.channel("PUT", f"/{channel_id}", {**CHANNEL, "api_key": f"{KEY}2", "api_secret": f"{SECRET}2"})
        await console.channel("PUT", f"/{channel_id}", CHANNEL, dry_run=True)
        await console.channel("POST", json=CHANNEL, expect="ALREADY_EXISTS")
        await console.channel("POST", json={**CHANNEL, "surprise": SECRET}, expect="INVALID_FIELD")
        await console.channel("POST", json={**CHANNEL, "api_key": [KEY]}, expect="INVALID_FIELD")
        await console.channel("GET", "/list")
        await console.shown(channel_id)
        await console.history(channel_id)
        await console.ask("GET", f"{LINES}/{channel_id}")
        await console.ask("GET", f"{CONFIGS}/{channel_id}")
        await console.channel("DELETE", f"/{channel_id}")
        await console.history(channel_id)
    async with console.town.database.connection() as connection:
        audited = await connection.fetch("SELECT to_jsonb(a)::text FROM audit_log a")
    everything = "".join((*console.answers, str(audited), str(logged)))

    assert [] == [secret for secret in (KEY, SECRET) if secret in everything]


async def test_what_the_page_does_is_logged(console: Console) -> None:
    """Seed 000, 二.1: what was submitted, saved, refused or deleted; the page itself tells of the rest."""
    with structlog.testing.capture_logs() as logged:
        await console.ask("POST", "/api/v1/track", {"event": "infinity_config_page_view"})
        await console.ask("POST", "/api/v1/track", {"event": "anything"}, expect="INVALID_FIELD")
        channel_id = await console.make()
        await console.channel("POST", json={**CHANNEL, "time_range_start": "07:00"}, expect="INVALID_FIELD")
        await console.channel("POST", json={**CHANNEL, "callback_url": "x"}, expect="INVALID_FIELD")
        await console.channel("PUT", f"/{channel_id}/status", {"status": 1})
        await console.channel("DELETE", f"/{channel_id}")
    told = [line for line in logged if line["event"].startswith("infinity_config_")]

    assert [
        "page_view",
        *("submit", "save_success"),
        *("submit", "validate_failed", "save_failed") * 2,
        "status_change",
        "delete",
    ] == [line["event"].removeprefix("infinity_config_") for line in told]
    assert {line["user_id"] for line in told} == {console.company.admin_id}
    assert (channel_id, 1) == (told[2]["channel_id"], told[2]["config_data"]["priority"])
    assert [None, "callback_url"] == [line["field_name"] for line in told if line["event"].endswith("validate_failed")]
    assert (0, 1) == (told[-2]["old_status"], told[-2]["new_status"])


# --- seed 000: who, and how it is refused -----------------------------------------------------------------------------


async def test_only_administrators_and_operators_get_in(console: Console) -> None:
    """§4.4: nobody else reads or changes a channel; what is refused carries the integer status and its own code."""
    channel_id = console.company.line_id
    asked = [
        ("GET", "/list", None),
        ("POST", "", CHANNEL),
        *(("GET", f"/{channel_id}{path}", None) for path in ("", "/history", "/health")),
        ("PUT", f"/{channel_id}", {**CHANNEL, "channel_name": "2", "account_id": "2"}),
        ("PUT", f"/{channel_id}/status", {"status": 1}),
        ("DELETE", f"/{channel_id}", None),
        ("POST", f"/{channel_id}/reveal", {"reason": "x"}),
    ]
    for role in ("agent", "supervisor", "viewer", "auditor"):
        person = await console.user(role)
        for method, path, body in asked:
            await console.channel(method, path, body, who=person, expect="FORBIDDEN")
    operator = await console.user("operator")
    for method, path, body in asked[:-2]:
        await console.channel(method, path, body, who=operator)
    refused: dict[str, Any] = {}
    for method, path, body in asked:
        refused = await console.channel(method, path, body, who=NOBODY, expect="UNAUTHENTICATED")

    assert {"success", "code", "error", "message", "details", "timestamp", "requestId"} == refused.keys()
    assert ERRORS["UNAUTHENTICATED"].en == refused["message"]


async def test_another_tenants_and_another_providers_lines_are_no_channels(console: Console) -> None:
    """They are NOT_FOUND, as is a path that is not served below the channels; a wrong method is told the right ones."""
    bolt = await console.town.company("bolt")
    form = {"instanceId": "ccc-1", "accessKeyId": "an id", "accessKeySecret": "a secret"}
    aliyun = await console.ask("POST", LINES, {"name": "West", "providerType": "aliyun", "providerConfig": form})
    for channel_id in (bolt.line_id, aliyun["id"], "none"):
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/history", None),
            ("GET", "/health", None),
            ("PUT", "", CHANNEL),
            ("PUT", "/status", {"status": 1}),
            ("DELETE", "", None),
            ("POST", "/reveal", {"reason": "x"}),
        ):
            await console.channel(method, f"/{channel_id}{path}", body, expect="NOT_FOUND")
        await console.ask("GET", f"{CONFIGS}/{channel_id}", expect="NOT_FOUND")
    await console.channel("GET", "/a/b/c", expect="NOT_FOUND")
    await console.channel("DELETE", "/list/status", expect="METHOD_NOT_ALLOWED")
    own = await console.ask("GET", f"{LINES}/{bolt.line_id}", who=bolt.admin)

    assert "bolt line" == own["line"]["name"]


async def test_a_request_takes_five_seconds_at_most(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRD 2: what takes longer is given up and changes nothing. (Less than five here, for the test's sake.)"""
    channel_id = await console.make()
    usual, least = http.NUMBERED_WITHIN, 0.3
    async with console.town.database.transaction() as connection:
        await lines.get(connection, console.company.tenant_id, channel_id, lock=True)
        monkeypatch.setattr(http, "NUMBERED_WITHIN", least)
        refused = await console.channel("PUT", f"/{channel_id}/status", {"status": 1}, expect="UNAVAILABLE")
        monkeypatch.setattr(http, "NUMBERED_WITHIN", usual)

    assert 5.0 == usual
    assert 503 == refused["code"]
    assert 0 == (await console.shown(channel_id))["status"]


async def test_a_hundred_channels_stand_side_by_side(console: Console) -> None:
    """TRD 4: made at once, they are a hundred, told in two pages of fifty."""
    await asyncio.gather(*(console.make(channel_name=f"c{n}", account_id=f"a{n}") for n in range(100)))
    pages = [(await console.channel("GET", "/list", page=page, page_size=50))["data"] for page in (1, 2, 3)]

    assert [50, 50, 1] == [len(page["list"]) for page in pages]
    assert {101} == {page["total"] for page in pages}


# --- one line, three faces --------------------------------------------------------------------------------------------


async def test_a_channel_a_configuration_and_a_line_are_one(console: Console) -> None:
    """What is changed by one face is changed for the others, and none loses what only another one knows."""
    channel_id = await console.make()
    await console.ask("PUT", f"{CONFIGS}/{channel_id}", {"dialPrefix": "9", "maxConcurrent": 7, "isActive": True})
    form = (await console.ask("GET", f"{LINES}/{channel_id}"))["config"]["providerConfig"]
    form["baseUrl"] = "https://vendor.example/api"
    await console.ask("PUT", f"{LINES}/{channel_id}", {"providerConfig": {**form, "accessKey": KEY}})
    await console.channel("PUT", f"/{channel_id}", {**CHANNEL, "api_key": f"{KEY}2"})
    line = await console.ask("GET", f"{LINES}/{channel_id}")
    config = (await console.ask("GET", f"{CONFIGS}/{channel_id}"))["config"]
    opened = await console.opened(channel_id)

    assert ("active", 7, "infinity_001") == (
        line["line"]["status"],
        line["line"]["maxConcurrent"],
        line["config"]["accountId"],
    )
    assert ("9", "https://vendor.example/api", "infinity_001", "ak_not********0012") == tuple(
        config[name] for name in ("dialPrefix", "baseUrl", "appId", "accessKey")
    )
    assert {"accessKey": f"{KEY}2", "api_secret": SECRET} == _decoded(opened.secrets)
    assert "api_secret" not in str(line)


# --- seed 001 ---------------------------------------------------------------------------------------------------------


async def test_a_configuration_is_kept(console: Console) -> None:
    """Made, listed, shown by its id and by the tenant's, changed, turned on and off, deleted."""
    body = {"name": "Pool", "appId": "app-1", "accessKey": KEY, "callerNumber": "020-66247698", "maxConcurrent": 20}
    made = (await console.ask("POST", CONFIGS, body))["config"]
    twice = await console.ask("POST", CONFIGS, {**body, "name": "Pool 2"}, expect="ALREADY_EXISTS")
    path = f"{CONFIGS}/{made['id']}"
    await console.ask("PUT", path, {"callTimeout": 90, "extensionPolicy": "affinity", "accessKey": "********"})
    off = (await console.ask("GET", f"{CONFIGS}/id/{made['id']}"))["config"]
    on = (await console.ask("POST", f"{path}/toggle", {"isActive": True}))["config"]
    listed = await console.ask("GET", CONFIGS)
    await console.ask("DELETE", f"{CONFIGS}/{console.company.line_id}")
    of_tenant = (await console.ask("GET", f"{CONFIGS}/{console.company.tenant_id}"))["config"]
    await console.ask("PUT", path, {"name": "B"}, headers={"if-match": "1"}, expect="VERSION_CONFLICT")
    await console.ask("PUT", path, {"callTimeout": 29}, expect="INVALID_FIELD")
    await console.ask("DELETE", path)
    await console.ask("GET", f"{CONFIGS}/{console.company.tenant_id}", expect="NOT_FOUND")

    assert "line account" == twice["details"]["what"]
    assert ("+862066247698", "ak_not********0001", False, "form", "CN") == tuple(
        made[name] for name in ("callerNumber", "accessKey", "isActive", "api", "region")
    )
    assert (90, "affinity", False, 20) == tuple(
        off[name] for name in ("callTimeout", "extensionPolicy", "isActive", "maxConcurrent")
    )
    assert on["isActive"]
    assert (2, on) == (listed["total"], of_tenant)


async def test_a_configuration_is_tried_without_dialling(console: Console) -> None:
    """Kept or not: Infinity signs the account in, and a wrong key is told as such."""
    async with infinity_cloud() as cloud:
        settings, credentials = cloud.line()
        form = {**settings, **credentials}
        kept = (await console.ask("POST", CONFIGS, {"name": "Pool", **form}))["config"]
        answers = [
            await console.ask("POST", f"{CONFIGS}/test-connection", form),
            await console.ask("POST", f"{CONFIGS}/{kept['id']}/test-connection"),
            await console.ask("POST", f"{CONFIGS}/test-connection", {**form, "accessKey": "a-wrong-key-0000000001"}),
        ]

    assert [True, True, False] == [answer["success"] for answer in answers]
    assert [] == cloud.placed
    assert "a-wrong-key-0000000001" not in "".join(console.answers)
