"""What must always hold, attacked: nodes killed and stopped, Valkey emptied, PostgreSQL gone for a while."""

import asyncio
import signal

import pytest

from clients.api import Refused
from clients.behaviour import Behaviour
from protocol.messages import CallConnected, CallDialing, CallEnded, WelcomeAgent, WelcomePhone

PATIENT = 30.0
"""Seconds that a client may need to find its way back."""


async def test_a_node_killed_in_mid_call_loses_nothing(house, until) -> None:
    """The phone's node dies by SIGKILL during the talk: the phone comes back to the other node, and the call ends there
    once, with the duration the phone measured."""
    dying = await house.node()
    staying = await house.node()
    await house.worker()
    agent = await house.agent(staying)
    phone = await house.phone(agent, Behaviour(talk=3))

    call_id = await agent.dial(customer_phone="13912345678")
    await agent.events.wait_for(CallConnected, call_id=call_id)
    before = phone.heard.position
    dying.send(signal.SIGKILL)
    await dying.ended()
    await phone.heard.wait_for(WelcomePhone, since=before, timeout=PATIENT)
    ended = await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)
    again = await agent.dial(customer_phone="13912345679")
    await agent.events.wait_for(CallEnded, call_id=again, timeout=PATIENT)

    assert ("connected", "phone") == (ended.status, ended.closed_by)
    assert ended.duration >= 3
    assert [call_id, again] == [dialled.call_id for dialled in phone.dialled]
    assert 1 == len(
        await house.rows("SELECT FROM agent_event WHERE type = 'CALL_ENDED' AND data->>'callId' = $1", call_id)
    )
    assert 0 == agent.gaps


async def test_a_dial_that_its_node_did_not_send_is_sent_by_another(house) -> None:
    """The node dies with the command committed; the phone gets it once on its next socket, within its expiry."""
    dying = await house.node()
    staying = await house.node()
    await house.worker()
    agent = await house.agent(staying)
    phone = await house.phone(agent, Behaviour(talk=0.1))

    before = phone.heard.position
    dying.send(signal.SIGSTOP)  # holds the phone's socket and does not read: the command waits in its row
    call_id = await agent.dial(customer_phone="13912345678")
    dying.send(signal.SIGKILL)
    await dying.ended()
    await phone.heard.wait_for(WelcomePhone, since=before, timeout=PATIENT)
    ended = await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)

    assert "connected" == ended.status
    assert [call_id] == [dialled.call_id for dialled in phone.dialled]


async def test_a_node_stopped_past_its_lease_speaks_for_nobody_when_it_goes_on(house, until) -> None:
    """A node is stopped for longer than its lease and swept; when it goes on it closes its sockets and comes back under
    another boot id, and the call of its phone has one end."""
    stopped = await house.node()
    staying = await house.node()
    await house.worker()
    agent = await house.agent(staying)
    phone = await house.phone(agent, Behaviour(talk=4))

    call_id = await agent.dial(customer_phone="13912345678")
    await agent.events.wait_for(CallConnected, call_id=call_id)
    (held,) = await house.rows("SELECT node FROM device WHERE id = $1", (await house.call(call_id))["device_id"])
    before = phone.heard.position
    stopped.send(signal.SIGSTOP)

    async def swept() -> bool:
        return bool(await house.rows("SELECT FROM node WHERE boot_id = $1 AND swept_at IS NOT NULL", held["node"]))

    await until(swept)
    stopped.send(signal.SIGCONT)
    await phone.heard.wait_for(WelcomePhone, since=before, timeout=PATIENT)
    ended = await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)
    (now,) = await house.rows(
        "SELECT node, online_status FROM device WHERE id = $1", (await house.call(call_id))["device_id"]
    )

    assert "connected" == ended.status
    assert ended.duration >= 4
    assert held["node"] != now["node"]
    assert "online" == now["online_status"]
    assert [call_id] == [dialled.call_id for dialled in phone.dialled]


async def test_a_node_that_drains_sends_its_sessions_elsewhere(house) -> None:
    """SIGTERM in mid-call: the phone is told to come back and does, to the other node; nothing is lost."""
    leaving = await house.node()
    staying = await house.node()
    await house.worker()
    agent = await house.agent(staying)
    phone = await house.phone(agent, Behaviour(talk=3))

    call_id = await agent.dial(customer_phone="13912345678")
    await agent.events.wait_for(CallConnected, call_id=call_id)
    before = phone.heard.position
    leaving.send(signal.SIGTERM)
    code = await leaving.ended()
    await phone.heard.wait_for(WelcomePhone, since=before, timeout=PATIENT)
    ended = await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)

    assert 0 == code
    assert "connected" == ended.status
    assert ended.duration >= 3
    assert [call_id] == [dialled.call_id for dialled in phone.dialled]


async def test_a_valkey_restarted_empty_loses_nothing(own_house) -> None:
    """Valkey is killed and comes back empty while calls go on: events and commands come from rows, in order, once."""
    house, servers = own_house
    await house.node()
    pages = await house.node()
    await house.worker()
    agent = await house.agent(pages)
    phone = await house.phone(agent, Behaviour(ring_after=0.3, answer_after=0.3, talk=1.5))

    first = await agent.dial(customer_phone="13912345678")
    await agent.events.wait_for(CallDialing, call_id=first)
    await servers.valkey.kill()
    ended = await agent.events.wait_for(CallEnded, call_id=first, timeout=PATIENT)
    without = await agent.dial(customer_phone="13912345679")
    await agent.events.wait_for(CallEnded, call_id=without, timeout=PATIENT)
    await servers.valkey.start()
    after = await agent.dial(customer_phone="13912345680")
    await agent.events.wait_for(CallEnded, call_id=after, timeout=PATIENT)

    assert "connected" == ended.status
    assert [first, without, after] == [dialled.call_id for dialled in phone.dialled]
    assert 0 == agent.repeats


async def test_postgresql_gone_for_five_seconds_loses_nothing_acked(own_house, until) -> None:
    """While PostgreSQL is away dials are refused in clear words and reports wait on the phone; afterwards every report
    is in the record, the phone has dialled once, and its node has not lost it."""
    house, servers = own_house
    await house.node()
    pages = await house.node()
    await house.worker()
    agent = await house.agent(pages)
    phone = await house.phone(agent, Behaviour(talk=2))

    call_id = await agent.dial(customer_phone="13912345678")
    await agent.events.wait_for(CallConnected, call_id=call_id)
    await servers.postgres.stop()
    with pytest.raises(Refused) as refused:
        await agent.dial_over_http(customer_phone="13912345679")
    await _outage(5)
    await servers.postgres.start()
    ended = await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)
    await asyncio.wait_for(phone.settled.wait(), PATIENT)
    again = await agent.dial(customer_phone="13912345679", timeout=PATIENT)
    await agent.events.wait_for(CallEnded, call_id=again, timeout=PATIENT)

    assert ("UNAVAILABLE", True) == (refused.value.code, refused.value.retry)
    assert "connected" == ended.status
    assert ended.duration >= 2
    assert [call_id, again] == [dialled.call_id for dialled in phone.dialled]
    kinds = await house.rows("SELECT kind FROM call_event WHERE call_id = $1 ORDER BY id", call_id)
    assert ["DIAL", "CALL_STATUS", "CALL_STATUS", "CALL_STATUS", "CALL_END"] == [row["kind"] for row in kinds]


async def test_the_newer_of_two_sockets_wins_on_any_node(house) -> None:
    """A phone that lost its socket without the server noticing is heard on its new one, on another node, at once."""
    await house.node()
    staying = await house.node()
    await house.worker()
    agent = await house.agent(staying)
    phone = await house.phone(agent, Behaviour(talk=0.1))

    before = phone.heard.position
    house.balancer.ports.reverse()
    phone.link.drop()
    await phone.heard.wait_for(WelcomePhone, since=before, timeout=PATIENT)
    call_id = await agent.dial(customer_phone="13912345678")
    ended = await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)

    assert "connected" == ended.status
    assert [call_id] == [dialled.call_id for dialled in phone.dialled]


async def test_a_page_that_was_away_resumes_where_it_was(house) -> None:
    """A page loses its socket, the call goes on, and on its return every event it missed is there, once, in order."""
    pages = await house.node()
    await house.worker()
    agent = await house.agent(pages)
    await house.phone(agent, Behaviour(ring_after=0.05, answer_after=0.05, talk=0.1))

    before = agent.events.position
    call_id = await agent.dial(customer_phone="13912345678")
    agent.link.drop()
    await agent.events.wait_for(WelcomeAgent, since=before, timeout=PATIENT)
    ended = await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)

    assert "connected" == ended.status
    assert agent.last_seq == (await house.rows("SELECT max(last_seq) AS seq FROM agent_stream"))[0]["seq"]


async def _outage(seconds: float) -> None:
    """The one thing here that is a length of time, not an event: how long PostgreSQL stays away."""
    await asyncio.sleep(seconds)
