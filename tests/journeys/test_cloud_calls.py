"""The story of a call over a line: through the API to the provider, its messages, and back to the agent's page."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from clients.agent import AgentClient
from clients.api import Refused
from protocol.messages import CallDialing, CallEnded
from tests.clouds.cloud import Cloud, WebhookRequestSpec
from tests.clouds.tencent import tencent_cloud
from tests.journeys.house import House, Process
from tests.waiting import until

CLOUDS: dict[str, Callable[[], AbstractAsyncContextManager[Any]]] = {"tencent": tencent_cloud}
LOOPBACK = {"PROVIDER_NETWORKS": "127.0.0.0/8", "FETCH_NETWORKS": "127.0.0.0/8"}


@pytest.fixture(params=CLOUDS)
async def cloud(request: Any) -> AsyncIterator[tuple[str, Any]]:
    """A provider on loopback, by its name."""
    async with CLOUDS[request.param]() as cloud:
        yield request.param, cloud


class Desk:
    """An agent with a seat on a line, and the line's callback URLs."""

    def __init__(self, house: House, node: Process, agent: AgentClient, provider: str, cloud: Cloud) -> None:
        self.house = house
        self.node = node
        self.agent = agent
        self._provider = provider
        self._cloud = cloud

    async def open(self) -> None:
        """Set up the line as an administrator does."""
        await self.house.rows("UPDATE tenant SET timezone = $1", _where_it_is_noon())
        settings, secrets = self._cloud.line()
        admin = await self.house.administrator(self.node)
        made = await admin.post(
            "/api/v1/calls/lines",
            {
                "name": "Line",
                "providerType": self._provider,
                "providerConfig": {**settings, **secrets},
                "status": "active",
            },
        )
        self.line_id = made["id"]
        self.callbacks = (await admin.get(f"/api/v1/calls/lines/{self.line_id}"))["config"]["callbackUrls"]
        me = (await self.agent.get("/api/v1/me"))["user"]["id"]
        await admin.put(
            f"/api/v1/calls/lines/{self.line_id}/seats/{me}", {"seatId": "agent@acme", "number": "+8613800138000"}
        )

    async def send(self, message: WebhookRequestSpec) -> None:
        """Be the provider, who calls back."""
        url = self.callbacks[message.kind or "all"]
        async with aiohttp.ClientSession() as http:
            async with http.request(
                message.method, url, params=dict(message.query), headers=dict(message.headers), data=message.body
            ) as answer:
                assert 200 == answer.status, await answer.text()


@pytest.fixture
async def desk(house: House, cloud: tuple[str, Any]) -> Desk:
    """A house with a line."""
    node = await house.node(**LOOPBACK)
    await house.worker(**LOOPBACK)
    desk = Desk(house, node, await house.agent(node), *cloud)
    await desk.open()
    return desk


@pytest.mark.parametrize("order", ["right", "reversed", "twice", "lost_end"])
async def test_a_call_over_a_line(desk: Desk, cloud: tuple[str, Any], order: Any) -> None:
    """In whatever order a provider tells of a call, and whatever is lost, its record is right in the end."""
    _, vendor = cloud

    call_id = await desk.agent.dial(customer_phone="13912345678", call_method="cloud")
    await desk.agent.events.wait_for(CallDialing, call_id=call_id)
    await vendor.play(call_id, "answered", send=desk.send, order=order)
    ended = await desk.agent.events.wait_for(
        CallEnded, call_id=call_id, where=lambda end: end.evidence == "provider_record"
    )
    record = (await desk.agent.get(f"/api/v1/calls/{call_id}"))["call"]

    assert [call_id] == [placed.tag for placed in vendor.placed]
    assert ("connected", "provider") == (ended.status, record["closedBy"])
    assert ("cloud", desk.line_id, "connected") == tuple(record[name] for name in ("callMethod", "lineId", "outcome"))
    assert (0, 0) == (desk.agent.gaps, desk.agent.repeats)


async def test_a_provider_that_refuses_ends_the_call(desk: Desk, cloud: tuple[str, Any]) -> None:
    """A definite refusal ends the call at once, and the agent learns why."""
    _, vendor = cloud
    vendor.next_place("refuse")

    call_id = await desk.agent.dial(customer_phone="13912345678", call_method="cloud")
    ended = await desk.agent.events.wait_for(CallEnded, call_id=call_id)

    assert "failed" == ended.status


@pytest.mark.parametrize("how", ["silent", "garbage", "drop"])
async def test_an_order_that_nobody_knows_of_is_looked_up_and_never_repeated(
    desk: Desk, cloud: tuple[str, Any], how: Any
) -> None:
    """A provider that takes the order and does not say so is not asked again: its record tells how the call went."""
    _, vendor = cloud
    vendor.next_place(how)

    call_id = await desk.agent.dial(customer_phone="13912345678", call_method="cloud")

    async def placed() -> bool:
        return [call_id] == [one.tag for one in vendor.placed]

    await until(placed)
    await vendor.play(call_id, "answered", send=desk.send)
    ended = await desk.agent.events.wait_for(CallEnded, call_id=call_id)

    assert ("connected", 1) == (ended.status, len(vendor.placed))


async def test_without_a_seat_there_is_no_call(desk: Desk, cloud: tuple[str, Any]) -> None:
    """An agent who has no seat on a line is told so, and nothing is ordered."""
    _, vendor = cloud
    other = await desk.house.agent(desk.node)

    with pytest.raises(Refused) as refused:
        await other.dial(customer_phone="13912345678", call_method="cloud")

    assert ("NO_SEAT", []) == (refused.value.code, vendor.placed)


def _where_it_is_noon() -> str:
    """A time zone where lines may call now, whenever the tests run."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
