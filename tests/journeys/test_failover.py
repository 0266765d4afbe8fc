"""The story of a call that its first line refuses: another line carries it, the agent is told one story, and no
telephone rings twice."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from clients.agent import AgentClient
from protocol.messages import CallDialing, CallEnded
from tests.clouds.cloud import WebhookRequestSpec
from tests.clouds.tencent import APPLICATION, TencentCloud, tencent_cloud
from tests.journeys.house import House, Process
from tests.waiting import until

LOOPBACK = {"PROVIDER_NETWORKS": "127.0.0.0/8", "FETCH_NETWORKS": "127.0.0.0/8"}
NO_MONEY = "LimitExceeded.BasePackageExpired"
TOO_FAST = "RequestLimitExceeded"


class Desk:
    """An agent with a seat on each of several lines, of which the first is taken first."""

    def __init__(self, house: House, node: Process, agent: AgentClient, clouds: list[TencentCloud]) -> None:
        self.house = house
        self.agent = agent
        self.clouds = clouds
        self.line_ids: list[str] = []
        self._node = node
        self._callbacks: list[dict[str, str]] = []

    async def open(self) -> None:
        """Set up a line at each cloud."""
        noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
        await self.house.rows("UPDATE tenant SET timezone = $1", noon)
        admin = await self.house.administrator(self._node)
        me = (await self.agent.get("/api/v1/me"))["user"]["id"]
        for n, cloud in enumerate(self.clouds):
            settings, secrets = cloud.line()
            made = await admin.post(
                "/api/v1/calls/lines",
                {
                    "name": f"Line {n}",
                    "providerType": "tencent",
                    "providerConfig": {**settings, **secrets},
                    "accountId": f"account {n}",
                    "callerNumber": f"+8620555500{n:02}",
                    "priority": n,
                    "status": "active",
                },
            )
            self.line_ids.append(made["id"])
            shown = await admin.get(f"/api/v1/calls/lines/{made['id']}")
            self._callbacks.append(shown["config"]["callbackUrls"])
            await admin.put(f"/api/v1/calls/lines/{made['id']}/seats/{me}", {"seatId": "agent@acme"})

    async def dial(self, **more: Any) -> str:
        """Dial; returns the call's id."""
        return await self.agent.dial(customer_phone="13912345678", call_method="cloud", **more)

    async def play(self, n: int, call_id: str) -> None:
        """Let a call that the cloud has placed be answered, talked and ended."""
        await self.clouds[n].play(call_id, "answered", send=lambda message: self.send(n, message))

    async def send(self, n: int, message: WebhookRequestSpec) -> None:
        """Be the provider of a line, who calls back."""
        url = self._callbacks[n][message.kind or "all"]
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                message.method, url, params=dict(message.query), headers=dict(message.headers), data=message.body
            ) as answer,
        ):
            assert 200 == answer.status, await answer.text()

    async def attempts(self, call_id: str) -> list[tuple[str, str]]:
        """At which lines the call was tried, and what came of it."""
        rows = await self.house.rows("SELECT line_id, state FROM attempt WHERE call_id = $1 ORDER BY n", call_id)
        return [(f"line {self.line_ids.index(row['line_id'])}", row["state"]) for row in rows]

    def placed(self) -> list[list[str]]:
        """The calls that each cloud has placed."""
        return [[one.tag for one in cloud.placed] for cloud in self.clouds]

    async def told(self, call_id: str) -> list[tuple[str, str | None]]:
        """The story that the agent's page was told of a call, but for what look-ups add: (event, how it ended)."""
        rows = await self.house.rows(
            "SELECT type, data ->> 'status' AS status FROM agent_event WHERE data ->> 'callId' = $1"
            " AND type IN ('CALL_DIALING', 'CALL_ENDED') AND data ->> 'enriched' IS DISTINCT FROM 'true' ORDER BY seq",
            call_id,
        )
        return [(row["type"], row["status"]) for row in rows]


@pytest.fixture
async def desk(house: House) -> AsyncIterator[Desk]:
    """A house with two lines."""
    async with AsyncExitStack() as stack:
        clouds = [await stack.enter_async_context(tencent_cloud()) for _ in range(2)]
        node = await house.node(**LOOPBACK)
        await house.worker(**LOOPBACK)
        desk = Desk(house, node, await house.agent(node), clouds)
        await desk.open()
        yield desk


async def test_another_line_carries_what_the_first_refuses(desk: Desk) -> None:
    """To the agent it is one call like any other; its record names the line that carried it, and its history the one
    that refused. What the first line says of it afterwards moves it no more."""
    first = desk.clouds[0]
    first.next_place("refuse", NO_MONEY)

    call_id = await desk.dial()
    await desk.agent.events.wait_for(CallDialing, call_id=call_id)
    await desk.send(0, late_record(first, call_id))
    await desk.play(1, call_id)
    await desk.agent.events.wait_for(CallEnded, call_id=call_id, where=lambda end: end.evidence == "provider_record")
    shown = await desk.agent.get(f"/api/v1/calls/{call_id}")
    refusals = [event["data"] for event in shown["events"] if event["kind"] == "ORDER_REFUSED"]

    assert [[], [call_id]] == desk.placed()
    assert [("line 0", "refused"), ("line 1", "placed")] == await desk.attempts(call_id)
    assert [("CALL_DIALING", None), ("CALL_ENDED", "connected")] == await desk.told(call_id)
    assert (desk.line_ids[1], "+862055550001") == (shown["call"]["lineId"], shown["call"]["callerNumber"])
    assert [(desk.line_ids[0], "line", NO_MONEY)] == [(one["lineId"], one["refusal"], one["code"]) for one in refusals]
    assert (0, 0) == (desk.agent.gaps, desk.agent.repeats)


@pytest.mark.parametrize("how", ["garbage", "drop"])
async def test_what_may_be_ringing_is_never_ordered_elsewhere(desk: Desk, how: Any) -> None:
    """The first line took the order and did not say so: the second is not asked, and the first one's record counts."""
    desk.clouds[0].next_place(how)

    call_id = await desk.dial()

    async def uncertain() -> bool:
        return [("line 0", "uncertain")] == await desk.attempts(call_id)

    await until(uncertain)
    await desk.play(0, call_id)
    ended = await desk.agent.events.wait_for(CallEnded, call_id=call_id)

    assert "connected" == ended.status
    assert [[call_id], []] == desk.placed()
    assert [("line 0", "uncertain")] == await desk.attempts(call_id)


async def test_what_every_line_refuses_has_failed(desk: Desk) -> None:
    """The agent learns it once, with the last line's word in the record, and is free to dial again."""
    desk.clouds[0].next_place("refuse", TOO_FAST)
    desk.clouds[1].next_place("refuse", NO_MONEY)

    call_id = await desk.dial()
    ended = await desk.agent.events.wait_for(CallEnded, call_id=call_id)
    record = (await desk.agent.get(f"/api/v1/calls/{call_id}"))["call"]
    again = await desk.dial()
    await desk.agent.events.wait_for(CallDialing, call_id=again)

    assert ("failed", NO_MONEY) == (ended.status, record["rawCause"])
    assert [("CALL_ENDED", "failed")] == await desk.told(call_id)
    assert [("line 0", "refused"), ("line 1", "refused")] == await desk.attempts(call_id)
    assert [[again], []] == desk.placed()


def late_record(cloud: TencentCloud, call_id: str) -> WebhookRequestSpec:
    """A record of a call that this cloud refused to place."""
    now = int(time.time())
    record = {
        "SdkAppId": APPLICATION,
        "SessionId": "of-no-session",
        "Uui": call_id,
        "Caller": "008602066247698",
        "Callee": "008613912345678",
        "Direction": 1,
        "CallType": 1,
        "StartTimestamp": now,
        "RingTimestamp": 0,
        "AcceptTimestamp": 0,
        "EndedTimestamp": now,
        "Duration": 0,
        "EndStatusString": "numberNotExist",
        "HungUpSide": "user",
        "ServeParticipants": [],
    }
    return cloud.push("cdr", record)
