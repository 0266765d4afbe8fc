"""One call, shown: an agent signs in, a simulated phone binds by a real QR code, a customer answers and hangs up.

`dialdesk dev` runs this in its demo tenant. The phone stays online afterwards, so that others can dial on it too.
"""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from clients.agent import AgentClient
from clients.behaviour import Behaviour
from clients.memory import Handset, Memory
from clients.phone import PhoneClient
from clients.tone import tone
from protocol.messages import (
    CallConnected,
    CallDialing,
    CallEnded,
    CallRinging,
    DialCommand,
    RecordingReady,
)

CUSTOMER = "13912345678"

PHONE = Handset(
    device_id="demo-phone", phone_number="13800138000", device_name="Demo phone", device_model="Simulated handset"
)

ANSWERS = Behaviour(ring_after=0.6, answer_after=1.5, talk=3.0, logged_after=0.5, recording=tone(3.0))
"""The customer's phone rings, is answered, and after three seconds of talk, recorded, the call log confirms it."""

_DEADLINE = 20.0


async def show(
    origin: str, username: str, password: str, store: Path, tls: ssl.SSLContext | None, say: Callable[[str], None]
) -> None:
    """Show the call and stay online until cancelled. `say` tells people what happens, a line at a time.

    Raises Refused, Unreachable, Stopped or TimeoutError where it cannot be shown.
    """
    async with await AgentClient.login(origin, username, password, tls=tls) as agent:
        say(f"{username} signed in at {origin}")
        await agent.connect()
        phone = await _phone(agent, store, tls, say)
        async with phone:
            await asyncio.wait_for(phone.online.wait(), _DEADLINE)
            say("phone  online, by its WebSocket")
            call_id = await agent.dial(customer_phone=CUSTOMER, customer_name="张三", order_id="demo-order")
            say(f"desk   dials {CUSTOMER}: {call_id}")
            async with asyncio.TaskGroup() as telling:
                phone_side = [telling.create_task(tell(phone, say)) for tell in (_tell_phone, _tell_uploads)]
                await _tell_desk(agent, call_id, say)
                for told in phone_side:
                    told.cancel()
            await agent.put(
                f"/api/v1/calls/{call_id}/follow-up", {"result": "已接通", "intention": "有意向", "note": "demo"}
            )
            record = await agent.get(f"/api/v1/calls/{call_id}")
            say(f"record {len(record['events'])} events and the follow-up note are kept in PostgreSQL")
            say("the phone stays online: dial on it as agent2, or bind your own as agent1")
            await asyncio.Event().wait()


async def _phone(
    agent: AgentClient, store: Path, tls: ssl.SSLContext | None, say: Callable[[str], None]
) -> PhoneClient:
    """The phone as it was bound at an earlier start, where it still is; else bound anew."""
    memory = Memory(store)
    bound = await agent.get("/api/v1/calls/device/list")
    if memory.binding is not None and any(device["deviceId"] == PHONE.device_id for device in bound["devices"]):
        say("phone  bound already, from an earlier start")
        return PhoneClient(memory, ANSWERS, tls=tls)
    memory.close()
    store.unlink(missing_ok=True)  # noqa: ASYNC240 - a few bytes, once
    qr = await agent.bind_qr()
    say(f"desk   shows a QR code, good until {qr['expiresAt']}")
    phone = await PhoneClient.bind(qr["qrCodeData"], PHONE, ANSWERS, store=store, tls=tls)
    say("phone  scanned it and is bound")
    return phone


async def _tell_phone(phone: PhoneClient, say: Callable[[str], None]) -> None:
    async for envelope in phone.heard:
        if isinstance(envelope.message, DialCommand):
            say(f"phone  is told to dial {envelope.message.customer_phone}")


async def _tell_uploads(phone: PhoneClient, say: Callable[[str], None]) -> None:
    async for envelope in phone.uploaded:
        say(f"phone  has uploaded the recording, {envelope.message.size} bytes")


async def _tell_desk(agent: AgentClient, call_id: str, say: Callable[[str], None]) -> None:
    """Tell what the desk sees of the call, until nothing more will come of it."""
    awaited = {"enriched"}
    async with asyncio.timeout(_DEADLINE):
        async for envelope in agent.events:
            match envelope.message:
                case CallDialing() | CallRinging() | CallConnected() as event if event.call_id == call_id:
                    say(f"desk   {event.type}  {event.customer_phone}  ({event.evidence})")
                case CallEnded() as end if end.call_id == call_id:
                    again = "  enriched from the call log" if end.enriched else ""
                    say(f"desk   {end.type}  {end.status}, {end.duration} s, {end.hangup_cause}{again}")
                    if end.has_recording and not end.enriched:
                        awaited.add("recording")
                    if end.enriched:
                        awaited.discard("enriched")
                case RecordingReady() as ready if ready.call_id == call_id:
                    say(f"desk   {ready.type}  {ready.media_type}, {ready.size} bytes, at {ready.recording_url}")
                    awaited.discard("recording")
                case _:
                    pass  # of a device, or of another call
            if not awaited:
                return
