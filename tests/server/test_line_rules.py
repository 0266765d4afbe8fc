"""What rules a dial over a line that would take it: the tenant's rules, the case, and the agent's default."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from server.config import Config
from storage.database import Database
from tests.clouds.tencent import TencentCloud, tencent_cloud
from tests.conftest import Office
from tests.server.line_front import CUSTOMER, Front, line_front


@pytest.fixture
async def front(
    database: Database, office: Office, redis: Redis, configure: Callable[..., Config]
) -> AsyncIterator[Front]:
    """A node that may speak to this machine, in a tenant at noon."""
    async with line_front(database, office, redis, configure(provider_networks="127.0.0.0/8")) as front:
        yield front


@pytest.fixture
async def cloud() -> AsyncIterator[TencentCloud]:
    """A cloud that takes every order."""
    async with tencent_cloud() as cloud:
        yield cloud


async def asked(front: Front, **fields: Any) -> Any:
    """The answer to a dial over a line."""
    body = {"customerPhone": CUSTOMER, "callMethod": "cloud", **fields}
    return (await front.ask("POST", "/dial", body, who=front.agent)).json()


async def test_what_a_rule_forbids_goes_over_no_line(front: Front, cloud: TencentCloud) -> None:
    """One rule after the other, by the routes that set them; the line's day and its provider hear nothing of it."""
    await front.line("tencent", cloud)

    async def rule(**fields: Any) -> str:
        answer = await front.client.request("PUT", "/api/v1/admin/tenant", json=fields, headers=front.admin)
        assert answer.is_success, answer.text
        return str((await asked(front))["code"])

    entry = (await front.ask("POST", "/do-not-call", {"phone": CUSTOMER}, who=front.agent)).json()["entry"]
    codes = [
        (await asked(front))["code"],
        await rule(callingFrom="08:00", callingTo="09:00"),
        await rule(callsEnabled=False),
    ]
    nothing = [await front.count(table) for table in ("call", "attempt", "line_day")]
    await rule(callsEnabled=True, callingTo="21:00")
    await front.ask("POST", f"/do-not-call/{entry['id']}/lift", {"reason": "a mistake"}, who=front.admin)

    assert ["DO_NOT_CALL", "LIMIT_HOURS", "CALLS_OFF"] == codes
    assert ([0, 0, 0], []) == (nothing, cloud.placed)
    assert (await asked(front))["success"]


async def test_a_dial_says_of_which_case_it_is(front: Front, cloud: TencentCloud) -> None:
    """Over HTTP, a line for certain cases takes only calls that are of them; the explanation is what then happens."""
    line = await front.line("tencent", cloud, caseTypes=["loan"], tags=["vip", "old"])
    case = {"caseType": "loan", "tags": ["new", "vip"]}
    refused = await asked(front, caseType="loan")
    explained = (
        await front.ask(
            "POST", "/routing/explain", {"customerPhone": CUSTOMER, "callMethod": "cloud", **case}, who=front.agent
        )
    ).json()
    call_id = await front.dial(**case)
    await front.until_order(call_id, "placed")

    assert "NO_LINE" == refused["code"]
    assert (line.id, line.id) == (explained["lineId"], (await front.call(call_id))["line_id"])


async def test_an_agent_chooses_the_line_that_goes_first(front: Front, cloud: TencentCloud) -> None:
    """It is one on which the agent can call, and carries calls though another would be taken before it."""
    first = await front.line("tencent", cloud, priority=1, accountId="first")
    usual = await front.line("tencent", cloud, priority=2, accountId="usual")
    _, stranger = await front.person("agent")
    of_others = await front.ask("PUT", "/config", {"lineId": usual.id}, who=stranger)
    chosen = await front.ask("PUT", "/config", {"lineId": usual.id, "callMethod": "cloud"}, who=front.agent)
    call_id = await front.dial()
    await front.ask("PUT", "/config", {"lineId": None}, who=front.agent)
    explained = await front.ask("POST", "/routing/explain", {"customerPhone": CUSTOMER}, who=front.agent)

    assert ("NOT_FOUND", usual.id) == (of_others.json()["code"], chosen.json()["lineId"])
    assert usual.id == (await front.call(call_id))["line_id"]
    assert first.id == explained.json()["lineId"]


async def test_a_line_under_test_dials_test_numbers(front: Front, cloud: TencentCloud) -> None:
    """None until an administrator names them; and they are no way round the tenant's rules."""
    await front.line("tencent", cloud, status="testing")
    before = await asked(front)
    put = await front.ask("PUT", "/test-numbers", {"numbers": [{"phone": CUSTOMER, "note": "Li"}]}, who=front.admin)
    await front.ask("POST", "/do-not-call", {"phone": CUSTOMER}, who=front.agent)
    listed = await asked(front)
    await front.execute("DELETE FROM do_not_call")

    assert put.is_success
    assert ("TEST_NUMBER_ONLY", "DO_NOT_CALL") == (before["code"], listed["code"])
    assert (await asked(front))["success"]
