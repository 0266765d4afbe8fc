"""The main story: agent on one node, phone on another, from the QR code to the follow-up note."""

from clients.behaviour import Behaviour
from protocol.messages import CallConnected, CallDialing, CallEnded, CallRinging, DeviceBound


async def test_a_call_from_the_qr_code_to_the_follow_up(house) -> None:
    """An agent on node A binds a phone that connects to node B, dials, sees the call live, and keeps the record."""
    phones = await house.node()
    pages = await house.node()
    await house.worker()
    agent = await house.agent(pages)

    phone = await house.phone(agent, Behaviour(ring_after=0.02, answer_after=0.02, talk=0.1, logged_after=0.05))
    bound = await agent.events.wait_for(DeviceBound)
    call_id = await agent.dial(
        customer_phone="139 1234 5678", customer_name="张三", external_id="crm-1", custom_data={"case": 7}
    )
    dialing = await agent.events.wait_for(CallDialing, call_id=call_id)
    ringing = await agent.events.wait_for(CallRinging, call_id=call_id)
    connected = await agent.events.wait_for(CallConnected, call_id=call_id)
    ended = await agent.events.wait_for(CallEnded, call_id=call_id)
    enriched = await agent.events.wait_for(CallEnded, call_id=call_id, where=lambda end: end.enriched)
    await agent.put(
        f"/api/v1/calls/{call_id}/follow-up",
        {"result": "已接通", "intention": "有意向", "note": "回访", "nextFollowUpAt": "2099-01-01T10:00:00+08:00"},
    )
    record = await agent.get(f"/api/v1/calls/{call_id}")

    assert phones.port != pages.port
    assert [(call_id, "13912345678")] == [(dialled.call_id, dialled.number) for dialled in phone.dialled]
    assert bound.device.device_id == phone.memory.binding.handset.device_id
    assert {"139****5678"} == {event.customer_phone for event in (dialing, ringing, connected, ended, enriched)}
    assert {b'{"case": 7}', b'{"case":7}'} >= {bytes(dialing.custom_data)}
    assert ("connected", "in_call_service") == (ended.status, ended.evidence)
    assert "call_log" == enriched.evidence
    assert ("ended", "connected", "call_log") == tuple(
        record["call"][name] for name in ("status", "outcome", "evidence")
    )
    assert "回访" == record["call"]["followUp"]["note"]
    assert ["DIAL", "CALL_STATUS", "CALL_STATUS", "CALL_STATUS", "CALL_END", "CALL_END"] == [
        event["kind"] for event in record["events"]
    ]
    assert (0, 0) == (agent.gaps, agent.repeats)


async def test_hang_up_reaches_a_phone_on_another_node(house) -> None:
    """HANGUP from a page ends the call on the handset, and the page sees it end."""
    await house.node()
    pages = await house.node()
    await house.worker()
    agent = await house.agent(pages)
    await house.phone(agent, Behaviour(talk=60))

    call_id = await agent.dial(customer_phone="13912345678")
    await agent.events.wait_for(CallConnected, call_id=call_id)
    await agent.hang_up(call_id)
    ended = await agent.events.wait_for(CallEnded, call_id=call_id)

    assert ("connected", "phone") == (ended.status, ended.closed_by)
