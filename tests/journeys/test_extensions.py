"""The story of a crowd on a small pool: 100 dials at once on 20 extensions, while calls come and go, and nodes die.

The cloud's extensions are busy from an order to the record of its call, and it counts the orders that meet a busy one.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from clients.agent import AgentClient
from clients.api import Refused, Unreachable
from tests.clouds.cloud import WebhookRequestSpec
from tests.clouds.infinity import InfinityCloud, infinity_cloud
from tests.journeys.desk import Office
from tests.journeys.house import House
from tests.waiting import until

EXTENSIONS = 20
DIALS = 100
PATIENT = {"DATABASE_TIMEOUT": "20", "DIAL_EXPIRY": "3"}
"""A hundred dials wait for one line's lock; and what was not ordered expires soon."""

LONG = 60.0
"""Seconds for a crowd on a machine that has other things to do."""


class Crowd:
    """Agents without seats, at a line whose pool has 20 extensions."""

    def __init__(self, office: Office, cloud: InfinityCloud, agents: Sequence[AgentClient], line_id: str) -> None:
        self.office = office
        self.cloud = cloud
        self.line_id = line_id
        self._agents = agents
        self._callback = ""
        self._told = 0

    @classmethod
    async def gather(cls, office: Office, cloud: InfinityCloud) -> "Crowd":
        """Set up the line and its pool as an administrator does."""
        admin = office.administrator
        cloud.rings_extensions = True
        settings, secrets = cloud.line()
        made = await admin.post(
            "/api/v1/calls/lines",
            {
                "name": "Pool",
                "providerType": "infinity",
                "providerConfig": {**settings, **secrets},
                "status": "active",
                "maxConcurrent": DIALS,
            },
        )
        imported = await admin.post(
            "/api/v1/infinity/extensions/batch-import",
            {"lineId": made["id"], "extensions": [f"8001~{8000 + EXTENSIONS}"]},
        )
        assert EXTENSIONS == imported["imported"]
        agents = [await office.house.agent(office.node) for _ in range(4)]
        crowd = cls(office, cloud, agents, made["id"])
        shown = await admin.get(f"/api/v1/calls/lines/{crowd.line_id}")
        crowd._callback = shown["config"]["callbackUrls"]["all"]
        return crowd

    async def dial(self, turn: int) -> str | Refused | Unreachable:
        """Have a customer called; returns the call's id, or why there is none."""
        try:
            return await self._agents[turn % len(self._agents)].dial_over_http(
                customer_phone=f"1391234{turn:04}", call_method="cloud", line_id=self.line_id
            )
        except (Refused, Unreachable) as error:
            return error

    async def dial_in_time(self, turn: int) -> str:
        """Have a customer called, as soon as an extension is free."""
        told: list[str] = []

        async def dialled() -> bool:
            answer = await self.dial(turn)
            if isinstance(answer, str):
                told.append(answer)
                return True
            assert isinstance(answer, Refused)
            assert "NO_EXTENSION" == answer.code
            return False

        await until(dialled, LONG)
        return told[0]

    async def end_calls(self) -> None:
        """Be the provider: end the calls that it placed since it was here last."""
        for placed in self.cloud.placed[self._told :]:
            self._told += 1
            await self.cloud.play(placed.tag, "no_answer", send=self._send)

    async def pool(self) -> dict[str, int]:
        """How the pool is used."""
        rows = await self.office.house.rows("SELECT status, count(*) FROM extension GROUP BY status")
        return {row["status"]: row["count"] for row in rows}

    async def until_lent(self, *extensions: str) -> None:
        """Wait until only these are lent, while the time of leases runs out."""

        async def settled() -> bool:
            rows = await self.office.house.rows(
                "UPDATE extension SET lease_until = now() WHERE status = 'in_use' RETURNING number"
            )
            return set(extensions) == {row["number"] for row in rows}

        await until(settled, LONG)

    async def lent(self, call_ids: Sequence[str]) -> list[str]:
        """The extensions of these calls."""
        rows = await self.office.house.rows("SELECT extension FROM attempt WHERE call_id = ANY ($1)", list(call_ids))
        return [row["extension"] for row in rows]

    async def _send(self, message: WebhookRequestSpec) -> None:
        async with aiohttp.ClientSession() as http:
            async with http.post(self._callback, headers=dict(message.headers), data=message.body) as answer:
                assert 200 == answer.status, await answer.text()


@pytest.fixture
async def crowd(house: House) -> AsyncIterator[Crowd]:
    """A house, a line and a crowd."""
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(infinity_cloud())
        office = await stack.enter_async_context(Office.at(house, **PATIENT))
        yield await Crowd.gather(office, cloud)


async def test_a_hundred_dials_at_once_on_twenty_extensions(crowd: Crowd) -> None:
    """Twenty are calls, on an extension each, and the others are told when to ask again; they all get through when
    they do, and no extension ever has two calls."""
    answers = await asyncio.gather(*(crowd.dial(turn) for turn in range(DIALS)))
    calls = [answer for answer in answers if isinstance(answer, str)]
    refusals = {(answer.code, answer.retry) for answer in answers if isinstance(answer, Refused)}
    waits = {str(answer.details) for answer in answers if isinstance(answer, Refused)}
    lent = await crowd.lent(calls)
    await until(lambda: len(crowd.cloud.placed) == EXTENSIONS)

    assert EXTENSIONS == len(calls) == len(set(lent))
    assert ({("NO_EXTENSION", True)}, {"{'retryAfter': 5}"}) == (refusals, waits)
    assert {"in_use": EXTENSIONS} == await crowd.pool()

    dialling = asyncio.gather(*(_one_after_the_other(crowd, first) for first in range(25)))

    async def all_through() -> bool:
        await crowd.end_calls()
        return dialling.done()

    await until(all_through, LONG)
    more = [call_id for some in dialling.result() for call_id in some]

    async def all_ended() -> bool:
        await crowd.end_calls()
        return {"available": EXTENSIONS} == await crowd.pool()

    await until(all_ended, LONG)
    assert sorted(calls + more) == sorted(placed.tag for placed in crowd.cloud.placed)
    assert DIALS == len(set(more))
    assert [] == crowd.cloud.collisions


async def test_no_extension_leaks_when_the_node_is_killed(crowd: Crowd) -> None:
    """A node dies in the midst of a hundred dials: what it had ordered is free with the provider's word, what it had
    not is free soon, and no extension has two calls meanwhile."""
    dialling = asyncio.gather(*(crowd.dial(turn) for turn in range(DIALS)))
    await until(lambda: len(crowd.cloud.placed) >= 3)
    crowd.office.node.send(signal.SIGKILL)
    await crowd.office.node.ended()
    await dialling
    await crowd.office.node.start()

    async def expired() -> bool:
        rows: list[Any] = await crowd.office.house.rows("SELECT FROM attempt WHERE state = 'committed'")
        return not rows

    await until(expired, LONG)
    await crowd.until_lent(*crowd.cloud.states)
    await crowd.end_calls()
    await crowd.until_lent()
    calls = await asyncio.gather(*(crowd.dial_in_time(turn) for turn in range(EXTENSIONS)))
    lent = await crowd.lent(calls)

    assert EXTENSIONS == len(set(lent))
    assert [] == crowd.cloud.collisions


async def _one_after_the_other(crowd: Crowd, first: int) -> list[str]:
    """Four of a hundred calls."""
    return [await crowd.dial_in_time(turn) for turn in range(first, DIALS, 25)]
