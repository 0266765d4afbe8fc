"""Calls go on while Redis, as companies run it, loses a master: with Sentinel, and in a Cluster."""

import asyncio

import aiohttp
import pytest

from clients.agent import AgentClient
from clients.behaviour import Behaviour
from clients.phone import PhoneClient
from protocol.messages import CallConnected, CallEnded, WelcomeAgent
from tests.journeys.house import House, Process
from tests.redises import Cluster, Valkey, Watched
from tests.waiting import until

PATIENT = 60.0
"""Seconds that a fail-over may take; it takes two or three."""


async def test_calls_go_on_while_sentinel_promotes_a_replica(watched_house: tuple[House, Watched]) -> None:
    """The master is killed in mid-call and another is promoted: the relay, tickets and counters find it, and stay there
    when the old one comes back as a replica; no call is lost or dialled twice."""
    house, redis = watched_house
    phones, pages = await house.node(), await house.node()
    await house.worker()
    agent = await house.agent(pages)
    phone = await house.phone(agent, Behaviour(ring_after=0.05, answer_after=0.05, talk=1.0))
    calls = [await _call(agent)]

    master = await redis.master()
    calls.append(await _call(agent, "13912345679", meanwhile=master))
    calls.append(await _call(agent, "13912345680"))
    await until(lambda: _is_other(redis, master), PATIENT)
    await _heal(phones, pages)
    await _reload(agent)
    calls.append(await _call(agent, "13912345681"))
    master.start()
    await until(lambda: _is_replica(master), PATIENT)
    await _heal(phones, pages)
    await _reload(agent)
    calls.append(await _call(agent, "13912345682"))

    _demand_once(calls, agent, phone)


@pytest.mark.parametrize("of", ["phones", "pages"])
async def test_calls_go_on_while_a_cluster_fails_over(clustered_house: tuple[House, Cluster], of: str) -> None:
    """The master that has the channel of a node is killed in mid-call and its replica takes over: the relay, tickets
    and counters find it, and no call is lost or dialled twice."""
    house, redis = clustered_house
    nodes = {"phones": await house.node(NODE_NAME="phones"), "pages": await house.node(NODE_NAME="pages")}
    await house.worker()
    agent = await house.agent(nodes["pages"])
    phone = await house.phone(agent, Behaviour(ring_after=0.05, answer_after=0.05, talk=1.0))
    calls = [await _call(agent)]

    channel = await _channel(house, of)
    master = await redis.owner(channel)
    calls.append(await _call(agent, "13912345679", meanwhile=master))
    calls.append(await _call(agent, "13912345680"))
    await until(lambda: _is_owned_by_other(redis, channel, master), PATIENT)
    await _heal(*nodes.values())
    await _reload(agent)
    calls.append(await _call(agent, "13912345681"))

    _demand_once(calls, agent, phone)


async def test_calls_go_on_when_a_master_of_a_cluster_comes_back(clustered_house: tuple[House, Cluster]) -> None:
    """A master is killed and started again; whether it stays the master or finds its replica in its place, the relay
    goes on and no call is lost or dialled twice."""
    house, redis = clustered_house
    phones, pages = await house.node(NODE_NAME="phones"), await house.node(NODE_NAME="pages")
    await house.worker()
    agent = await house.agent(pages)
    phone = await house.phone(agent, Behaviour(ring_after=0.05, answer_after=0.05, talk=1.0))

    master = await redis.owner(await _channel(house, "phones"))
    calls = [await _call(agent, meanwhile=master)]
    master.start()
    calls.append(await _call(agent, "13912345679"))
    await _heal(phones, pages)
    await _reload(agent)
    calls.append(await _call(agent, "13912345680"))

    _demand_once(calls, agent, phone)


async def _call(agent: AgentClient, number: str = "13912345678", *, meanwhile: Valkey | None = None) -> str:
    """Dial and wait for the end; `meanwhile` dies during the talk."""
    call_id = await agent.dial(customer_phone=number, timeout=PATIENT)
    if meanwhile is not None:
        await agent.events.wait_for(CallConnected, call_id=call_id, timeout=PATIENT)
        await asyncio.to_thread(meanwhile.kill)
    ended = await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)
    assert "connected" == ended.status
    return call_id


async def _reload(agent: AgentClient) -> None:
    """Close the page's socket and wait for the next, which a ticket out of Redis opens."""
    before = agent.events.position
    agent.link.drop()
    await agent.events.wait_for(WelcomeAgent, since=before, timeout=PATIENT)


async def _heal(*nodes: Process) -> None:
    """Wait until each node hears its canary."""
    async with aiohttp.ClientSession() as http:

        async def hears(node: Process) -> bool:
            async with http.get(f"{node.origin}/readyz") as answer:
                told = await answer.json()
            return bool(told.get("relay") == "hears")

        for node in nodes:
            await until(lambda node=node: hears(node), PATIENT)  # type: ignore[misc]


def _demand_once(calls: list[str], agent: AgentClient, phone: PhoneClient) -> None:
    assert calls == [dialled.call_id for dialled in phone.dialled]
    assert 0 == agent.repeats


async def _channel(house: House, name: str) -> str:
    """Where the relay of a node listens."""
    (node,) = await house.rows("SELECT boot_id FROM node WHERE name = $1", name)
    return f"{house.config().redis_prefix}node:{node['boot_id']}"


async def _is_other(redis: Watched, master: Valkey) -> bool:
    return await redis.master() is not master


async def _is_replica(server: Valkey) -> bool:
    role = await server.says("ROLE")
    return isinstance(role, list) and role[0] == b"slave"


async def _is_owned_by_other(redis: Cluster, channel: str, master: Valkey) -> bool:
    return await redis.owner(channel, other_than=master) is not master
