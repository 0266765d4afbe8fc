"""What a dial would come to: by which phone or line, or why by none; and that asking leaves nothing behind."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers

from server.explain import Explain
from server.http import Endpoint, Http
from server.identity import Identity
from server.telemetry import Metrics
from storage import lines
from storage.audit import Actor
from storage.database import Database
from storage.lines import SeatAt, Setup
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.conftest import Office

PATH = "/api/v1/calls/routing/explain"
NUMBER = "13900139000"
AT_NOON = """
    UPDATE tenant SET timezone = (
        SELECT name FROM pg_timezone_names
        WHERE name LIKE 'Etc/GMT%' AND (now() AT TIME ZONE name)::time BETWEEN '11:00' AND '14:00'
        ORDER BY name LIMIT 1)
"""
"""Puts a tenant where lines may call, whenever the test runs."""


LISTED = f"""
    INSERT INTO do_not_call (id, tenant_id, phone, created_by) SELECT 'dnc_1', id, '+86{NUMBER}', 'x' FROM tenant
"""


class Desk:
    """An office at noon with an agent, and the API by which routing is explained."""

    def __init__(self, database: Database, office: Office, agent_id: str) -> None:
        self.database = database
        self.office = office
        self.agent = Identity(
            kind="user",
            id=agent_id,
            user_id=agent_id,
            tenant_id=office.tenant_id,
            reach="own",
            permissions=frozenset({"calls.dial"}),
        )
        self.key = Identity(
            kind="api_key",
            id="key_1",
            tenant_id=office.tenant_id,
            reach="tenant",
            permissions=frozenset({"calls.dial", "calls.dial_for"}),
        )
        self._known: dict[str, Identity] = {}
        http = Http(database, self._authenticate, Metrics(), body_limit=1 << 20, timeout=30)
        endpoint = Endpoint("POST", PATH, Explain(database).explain, needs="calls.dial")
        app = Starlette(routes=http.routes([endpoint]))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk.test")

    async def _authenticate(self, headers: Headers) -> Identity:
        return self._known[headers["authorization"]]

    async def explain(self, who: Identity | None = None, *, expect: str = "ok", **fields: Any) -> Any:
        """Ask what a dial of NUMBER, but for these fields, would come to."""
        token = secrets.token_hex(4)
        self._known[token] = who or self.agent
        response = await self.client.post(
            PATH,
            json={"customerPhone": NUMBER, **fields},
            headers={"authorization": token, "accept-language": "en"},
        )
        answer = response.json()
        assert expect == (answer["code"] if not response.is_success else "ok"), answer
        return answer

    async def line(self, name: str, *, seated: bool = True, **fields: Any) -> str:
        """Set up a line that is on, with a seat for the agent; returns its id."""
        keys = TenantKeys(Vault({"master": b"a master key, 32 bytes, no secret"[:32]}))
        actor = Actor(kind="user", id="admin", tenant_id=self.office.tenant_id)
        setup = msgspec.structs.replace(Setup(provider="custom", name=name, account_id=name, status=1), **fields)
        async with self.database.transaction() as connection:
            line_id = await lines.create(connection, keys, actor, self.office.tenant_id, setup, {"key": "no secret"})
            if seated:
                seat = SeatAt(seat_id="1001", number="")
                await lines.put_seat(connection, actor, self.office.tenant_id, line_id, self.agent.id, seat)
        return line_id

    async def execute(self, statement: str, *values: Any) -> None:
        """Change something behind the API's back."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)


@pytest.fixture
async def desk(database: Database, office: Office) -> AsyncIterator[Desk]:
    """An office with an agent, at noon."""
    desk = Desk(database, office, await office.agent())
    await desk.execute(AT_NOON)
    async with desk.client:
        yield desk


def reasons(answer: Any) -> dict[str, str]:
    """What was made of each line, by its name."""
    return {line["name"]: line["reason"] for line in answer["lines"]}


async def test_a_call_from_a_phone_is_explained(desk: Desk) -> None:
    """The phone that would dial, or why none would; no line is spoken of."""
    without = await desk.explain()
    phone = await desk.office.phone(desk.agent.id)
    with_one = await desk.explain()

    assert ("mobile", "NO_DEVICE", None) == (without["callMethod"], without["code"], without["deviceId"])
    assert "No work phone is bound; bind one by QR first" == without["message"]
    assert (None, phone, None, []) == (
        with_one["code"],
        with_one["deviceId"],
        with_one["lineId"],
        with_one["lines"],
    )


async def test_each_line_has_its_reason(desk: Desk) -> None:
    """The one that would be taken, the one that would come later, and why the others would not."""
    best = await desk.line("best", priority=1)
    await desk.line("next", priority=2)
    await desk.line("off", status=0)
    await desk.line("tried", status=2)
    await desk.line("for loans", case_types=["loan"])
    await desk.line("of others", seated=False)
    answer = await desk.explain(desk.key, userId=desk.agent.id, callMethod="cloud")

    assert ("cloud", None, best, None) == tuple(answer[name] for name in ("callMethod", "code", "lineId", "deviceId"))
    assert {
        "best": "CHOSEN",
        "next": "LATER",
        "off": "LINE_OFF",
        "tried": "TEST_NUMBER_ONLY",
        "for loans": "OTHER_CASES",
        "of others": "NO_SEAT",
    } == reasons(answer)


async def test_case_type_tags_and_test_numbers_choose_lines(desk: Desk) -> None:
    """What the dial says of the case lets lines carry it that would not otherwise."""
    await desk.line("for loans", case_types=["loan"])
    await desk.line("for vips", tags=["vip", "old"])
    await desk.line("tried", status=2)
    plain = await desk.explain(callMethod="cloud")
    loan = await desk.explain(callMethod="cloud", caseType="loan", tags=["new"])
    vip = await desk.explain(callMethod="cloud", tags=["new", "vip"])
    await desk.execute(
        "INSERT INTO test_number (tenant_id, phone, created_by) VALUES ($1, $2, 'x')",
        desk.office.tenant_id,
        f"+86{NUMBER}",
    )
    trial = await desk.explain(callMethod="cloud")

    assert ["TEST_NUMBER_ONLY", None, None, None] == [answer["code"] for answer in (plain, loan, vip, trial)]
    assert ["CHOSEN", "CHOSEN", "CHOSEN"] == [
        reasons(answer)[name] for answer, name in ((loan, "for loans"), (vip, "for vips"), (trial, "tried"))
    ]


async def test_an_agent_is_told_of_its_own_lines_only(desk: Desk) -> None:
    """Yet the refusal is the one that a dial would have."""
    await desk.line("of others", seated=False)
    before = await desk.explain(callMethod="cloud")
    await desk.line("own", status=0)
    after = await desk.explain(callMethod="cloud")

    assert ("NO_SEAT", {}) == (before["code"], reasons(before))
    assert ("NO_SEAT", {"own": "LINE_OFF"}) == (after["code"], reasons(after))


@pytest.mark.parametrize("method", ["mobile", "cloud"])
@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("UPDATE tenant SET calls_enabled = false", "CALLS_OFF"),
        ("UPDATE tenant SET calling_from = '20:00', calling_to = '20:01'", "LIMIT_HOURS"),
        (LISTED, "DO_NOT_CALL"),
        ("UPDATE app_user SET disabled_at = now()", "ACCOUNT_DISABLED"),
    ],
)
async def test_the_rules_come_before_the_way(desk: Desk, method: str, rule: str, code: str) -> None:
    """What a rule forbids goes by no phone and no line, though both could; the line's reason is told all the same."""
    await desk.office.phone(desk.agent.id)
    await desk.line("own")
    await desk.execute(rule)
    answer = await desk.explain(desk.key, userId=desk.agent.id, callMethod=method)

    assert (code, None, None) == (answer["code"], answer["deviceId"], answer["lineId"])
    assert ({"own": "CHOSEN"} if method == "cloud" else {}) == reasons(answer)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"customerPhone": "12"}, "INVALID_PHONE"),
        ({"customerPhone": None}, "INVALID_FIELD"),
        ({"customerPhone": None, "customerId": "none"}, "NOT_FOUND"),
        ({"deviceId": "none"}, "NOT_FOUND"),
        ({"callMethod": "cloud", "lineId": "none"}, "NOT_FOUND"),
        ({"userId": "somebody"}, "FORBIDDEN"),
        ({"tags": ["x"] * 51}, "INVALID_FIELD"),
        ({"caseType": "x" * 51}, "INVALID_FIELD"),
    ],
)
async def test_what_could_be_no_dial_is_refused(desk: Desk, fields: dict[str, Any], code: str) -> None:
    """As the dial itself would be."""
    await desk.office.phone(desk.agent.id)
    await desk.explain(**fields, expect=code)


async def test_explaining_leaves_nothing_behind(desk: Desk) -> None:
    """No call, no attempt, no day of a line."""
    await desk.line("own")
    await desk.explain(callMethod="cloud")
    async with desk.database.connection() as connection:
        left = [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in ("call", "attempt", "line_day")]

    assert [0, 0, 0] == left
