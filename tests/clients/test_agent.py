"""A desk misses no event silently, asks once what is to be done once, and says plainly what it was refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from clients.agent import AgentClient, DialFields
from clients.api import Refused, Unreachable
from clients.connection import Stopped
from clients.tone import tone
from protocol.call import Evidence, HangupCause, Outcome
from protocol.messages import (
    CallEnded,
    DeviceStatus,
    Dial,
    DialAccepted,
    Error,
    HangUp,
    HangUpAccepted,
    Heartbeat,
    HeartbeatAck,
    Hello,
    RecordingReady,
    Resync,
)
from tests.clients.fake_server import FAST, FakeServer, Peer
from tests.clients.shelf import Refusal

TONE = tone(0.1)
LOGIN = "POST /api/v1/auth/login"
REFRESH = "POST /api/v1/auth/refresh"
ME = "GET /api/v1/auth/me"


def tokens(name: str, *, expires_in: float = 7200) -> Mapping[str, Any]:
    """The answer to a sign-in or a refresh."""
    return {"accessToken": f"access-{name}", "refreshToken": f"refresh-{name}", "expiresIn": expires_in, "user": {}}


async def sign_in(server: FakeServer, *, expires_in: float = 7200) -> AgentClient:
    """An agent who has signed in."""
    server.answers[LOGIN] = tokens("1", expires_in=expires_in)
    return await AgentClient.login(server.origin, "agent", "not-a-password", timing=FAST)


@contextlib.asynccontextmanager
async def at_the_desk(server: FakeServer) -> AsyncIterator[tuple[AgentClient, Peer]]:
    """An agent whose session stands at event 10, and the server's end of it."""
    async with await sign_in(server) as agent:
        connecting = asyncio.create_task(agent.connect())
        peer = await server.accept()
        await peer.hear(Hello)
        await peer.welcome_agent(last_seq=10)
        await connecting
        yield agent, peer


def ended(call_id: str, *, enriched: bool = False) -> CallEnded:
    """The last event of a call."""
    return CallEnded(
        call_id=call_id,
        at=0,
        status=Outcome.CONNECTED,
        hangup_cause=HangupCause.NORMAL_CLEARING,
        closed_by="phone",
        evidence=Evidence.CALL_LOG,
        customer_phone="139****0001",
        enriched=enriched,
    )


def ready(call_id: str) -> RecordingReady:
    """The news that a recording can be played."""
    return RecordingReady(
        call_id=call_id,
        at=0,
        source="phone",
        media_type="audio/wav",
        size=44,
        recording_url=f"/api/v1/calls/{call_id}/recording",
    )


def device(number: int) -> DeviceStatus:
    """An event that is easily told from another."""
    return DeviceStatus(device_id=f"dev_{number}", online_status="online")


# --- over HTTP ------------------------------------------------------------------------------------------------------


async def test_signs_in_and_asks(server: FakeServer) -> None:
    """After signing in each request carries the access token, and its answer is the object told."""
    server.answers[ME] = {"user": {"id": "user_1"}}
    async with await sign_in(server) as agent:
        answer = await agent.get("/api/v1/auth/me")

    assert {"username": "agent", "password": "not-a-password"} == server.requests[0].body
    assert "Bearer access-1" == server.requests[1].headers["Authorization"]
    assert {"success": True, "user": {"id": "user_1"}} == answer


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (
            Refusal(401, {"code": "BAD_CREDENTIALS", "message": "wrong", "details": {"left": 4}}),
            ("BAD_CREDENTIALS", "wrong", False, 401, {"left": 4}),
        ),
        (
            Refusal(429, {"code": "RATE_LIMITED", "message": "slower"}),
            ("RATE_LIMITED", "slower", True, 429, {}),
        ),
        (
            Refusal(404, {"code": 404, "error": "NOT_FOUND", "message": "gone"}),
            ("NOT_FOUND", "gone", False, 404, {}),
        ),
        (Refusal(502, {}), ("HTTP_502", "", True, 502, {})),
    ],
)
async def test_refusal_tells_why(
    server: FakeServer, refusal: Refusal, expected: tuple[str, str, bool, int, Mapping[str, Any]]
) -> None:
    """What the server refuses is raised with its stable code, whether to try again, and the details."""
    server.answers[LOGIN] = refusal
    with pytest.raises(Refused) as refused:
        await AgentClient.login(server.origin, "agent", "not-a-password")
    told = refused.value

    assert expected == (told.code, told.message, told.retry, told.status, told.details)


async def test_unreachable_server() -> None:
    """Where nobody answers the error says so."""
    with pytest.raises(Unreachable, match="does not answer"):
        await AgentClient.login("http://127.0.0.1:9", "agent", "not-a-password")


async def test_renews_before_expiry_and_once(server: FakeServer) -> None:
    """A token about to run out is traded in before it is used, once for all requests made at the time."""
    server.answers[REFRESH] = tokens("2")
    server.answers[ME] = {}
    async with await sign_in(server, expires_in=0) as agent:
        await asyncio.gather(*(agent.get("/api/v1/auth/me") for _ in range(5)))
    refreshes = [request.body for request in server.requests if request.body and "refreshToken" in request.body]
    asked = [request.headers.get("Authorization") for request in server.requests[2:]]

    assert [{"refreshToken": "refresh-1"}] == refreshes
    assert ["Bearer access-2"] * 5 == asked


async def test_dials_over_http_once(server: FakeServer) -> None:
    """A dial over HTTP carries the fields as the seed names them, and a key that makes a repeat a repeat."""
    server.answers["POST /api/v1/calls/dial"] = {"callId": "call_1", "message": ""}
    async with await sign_in(server) as agent:
        call_id = await agent.dial_over_http(customer_phone="13900000001", call_method="mobile", key="key-1")
    request = server.requests[-1]

    assert "call_1" == call_id
    assert {"customerPhone": "13900000001", "callMethod": "mobile"} == request.body
    assert "key-1" == request.headers["Idempotency-Key"]


async def test_has_a_qr_code_made(server: FakeServer) -> None:
    """The QR code by which a phone is bound is one request away."""
    code = {"qrCodeUrl": "data:", "qrCodeData": "{}", "expiresAt": "2026-11-21T10:30:00.000Z"}
    server.answers["POST /api/v1/calls/device/bindQRCode"] = code
    async with await sign_in(server) as agent:
        assert {"success": True, **code} == await agent.bind_qr()


@pytest.mark.parametrize("presigned", [False, True])
@pytest.mark.parametrize(("asked", "expected"), [(None, TONE), ("bytes=4-7", TONE[4:8]), ("bytes=-3", TONE[-3:])])
async def test_plays_a_recording(server: FakeServer, presigned: bool, asked: str | None, expected: bytes) -> None:
    """A recording is played from here, or from the bucket without the agent's credential, whole or a range of it."""
    server.shelf.kept["call_1"] = TONE
    server.shelf.presigns = presigned
    async with await sign_in(server) as agent:
        assert expected == await agent.play("call_1", range=asked)
        assert 1 == server.shelf.asked["play"]


async def test_downloads_a_recording(server: FakeServer) -> None:
    """A recording to keep is asked for as such."""
    server.shelf.kept["call_1"] = TONE
    async with await sign_in(server) as agent:
        assert TONE == await agent.play("call_1", download=True)
        assert 1 == server.shelf.asked["download"]


async def test_no_recording_to_play(server: FakeServer) -> None:
    """What the server, or the bucket, says instead of audio is raised."""
    async with await sign_in(server) as agent:
        with pytest.raises(Refused, match="NOT_FOUND"):
            await agent.play("call_1")
        server.shelf.presigns, server.shelf.signature = True, "another"
        with pytest.raises(Refused, match="HTTP_403"):
            await agent.play("call_1")
        server.shelf.bucket = "http://127.0.0.1:9"
        with pytest.raises(Unreachable, match="does not answer"):
            await agent.play("call_1")


async def test_asks_for_link_and_waveform(server: FakeServer) -> None:
    """A link for a player, and what it draws, are one request away."""
    server.answers["POST /api/v1/calls/call_1/recording/link"] = {"url": "https://bucket.example/1"}
    server.answers["GET /api/v1/calls/call_1/recording/waveform"] = {"status": "read", "peaks": [0, 255]}
    async with await sign_in(server) as agent:
        assert "https://bucket.example/1" == (await agent.recording_link("call_1"))["url"]
        assert [0, 255] == (await agent.waveform("call_1"))["peaks"]


async def test_attaches_a_recording(server: FakeServer, tmp_path: Path) -> None:
    """A file is attached by hand as it is; one that cannot be read is told before anything is sent."""
    path = tmp_path / "talk"
    path.write_bytes(TONE)
    async with await sign_in(server) as agent:
        answer = await agent.attach_recording("call_1", path)
        with pytest.raises(FileNotFoundError):
            await agent.attach_recording("call_1", tmp_path / "nothing")

    assert ("/api/v1/calls/call_1/recording", len(TONE)) == (answer["recordingUrl"], answer["size"])
    assert ({"call_1": TONE}, {"call_1": "audio/wav"}) == (server.shelf.kept, server.shelf.media_types)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_other_methods(server: FakeServer, method: str) -> None:
    """What is put and deleted goes the same way as what is asked."""
    server.answers[f"{method} /api/v1/calls/lines/line_1"] = {"id": "line_1"}
    async with await sign_in(server) as agent:
        ask = {"PUT": agent.put, "DELETE": agent.delete}[method]
        answer = await ask("/api/v1/calls/lines/line_1", {"name": "north"})

    assert "line_1" == answer["id"]
    assert {"name": "north"} == server.requests[-1].body


def test_dials_with_all_fields_of_the_wire() -> None:
    """The fields that may be given are those that the wire knows."""
    assert set(Dial.__struct_fields__) == set(DialFields.__annotations__)


# --- over the socket ------------------------------------------------------------------------------------------------


async def test_greets_and_resumes(server: FakeServer) -> None:
    """HELLO is the first message; after a lost socket it tells from where to go on."""
    async with await sign_in(server) as agent:
        connecting = asyncio.create_task(agent.connect())
        peer = await server.accept()
        first = (await peer.hear(Hello)).message.last_seq
        await peer.welcome_agent(last_seq=10)
        welcome = await connecting
        await peer.say(device(11), seq=11)
        await agent.events.wait_for(DeviceStatus)
        agent.link.drop()
        again = (await (await server.accept()).hear(Hello)).message.last_seq

    assert "Bearer access-1" == peer.headers["Authorization"]
    assert (None, 10, 11) == (first, welcome.last_seq, again)


async def test_events_come_once_each(server: FakeServer) -> None:
    """What comes twice is dropped and counted."""
    async with at_the_desk(server) as (agent, peer):
        for seq in (9, 11, 11, 12, 11, 13):
            await peer.say(device(seq), seq=seq)
        await agent.events.wait_for(DeviceStatus, where=lambda event: event.device_id == "dev_13")
        heard = [event.seq for event in await so_far(agent) if event.seq]

        assert ([11, 12, 13], 3, 13) == (heard, agent.repeats, agent.last_seq)


async def test_gap_is_asked_for(server: FakeServer) -> None:
    """An event that comes too early makes the client ask, once, for all after what it has."""
    async with at_the_desk(server) as (agent, peer):
        for seq in (11, 13, 14):
            await peer.say(device(seq), seq=seq)
        asked = (await peer.hear(Hello)).message.last_seq
        for seq in (12, 13, 14):
            await peer.say(device(seq), seq=seq)
        await agent.events.wait_for(DeviceStatus, where=lambda event: event.device_id == "dev_14")
        await peer.say(Heartbeat())
        await peer.hear(HeartbeatAck)
        heard = [event.seq for event in await so_far(agent) if event.seq]

        assert (11, [11, 12, 13, 14], 2) == (asked, heard, agent.gaps)
        assert not peer.passed


async def test_heartbeat_tells_that_it_is_behind(server: FakeServer) -> None:
    """Where HEARTBEAT_ACK tells of more events than came, the client asks for them; where it does not, not."""
    async with at_the_desk(server) as (_, peer):
        await peer.say(HeartbeatAck(last_seq=10))
        await peer.say(HeartbeatAck(last_seq=12))
        await peer.hear(Hello)
        await peer.say(HeartbeatAck(last_seq=12))

        assert 10 == (await peer.hear(Hello)).message.last_seq


async def test_resync_is_an_event(server: FakeServer) -> None:
    """RESYNC reaches whoever follows the events, and what comes after it continues from there."""
    async with at_the_desk(server) as (agent, peer):
        await peer.say(Resync(from_seq=11, to_seq=700))
        await peer.say(device(701), seq=701)
        resync = await agent.events.wait_for(Resync)
        await agent.events.wait_for(DeviceStatus)

        assert (11, 700) == (resync.from_seq, resync.to_seq)
        assert (701, 0) == (agent.last_seq, agent.gaps)


async def test_dials(server: FakeServer) -> None:
    """DIAL carries the fields given, and its answer is the id of the call."""
    async with at_the_desk(server) as (agent, peer):
        dialling = asyncio.create_task(agent.dial(customer_phone="13900000001", custom_data={"row": 7}))
        asked = await peer.hear(Dial)
        await peer.say(DialAccepted(message_id=str(asked.message_id), call_id="call_1"))

        assert "call_1" == await dialling
        assert Dial(customer_phone="13900000001", custom_data={"row": 7}) == asked.message


async def test_refused_dial(server: FakeServer) -> None:
    """A dial that is refused raises the server's code, and whether to try again."""
    async with at_the_desk(server) as (agent, peer):
        dialling = asyncio.create_task(agent.dial(customer_phone="13900000001", key="key-1"))
        await peer.hear(Dial)
        await peer.say(Error(code="DEVICE_BUSY", message="later", retry=True, message_id="key-1"))
        with pytest.raises(Refused) as refused:
            await dialling

    assert ("DEVICE_BUSY", True) == (refused.value.code, refused.value.retry)


async def test_dial_outlives_its_socket(server: FakeServer) -> None:
    """A dial that has no answer yet is asked again on the next socket under its id, which makes it the same dial."""
    async with at_the_desk(server) as (agent, peer):
        dialling = asyncio.create_task(agent.dial(customer_phone="13900000001"))
        first = await peer.hear(Dial)
        agent.link.drop()
        peer = await server.accept()
        await peer.hear(Hello)
        await peer.welcome_agent(last_seq=10)
        second = await peer.hear(Dial)
        await peer.say(DialAccepted(message_id=str(second.message_id), call_id="call_1"))

        assert "call_1" == await dialling
        assert first.message_id == second.message_id


async def test_hangs_up(server: FakeServer) -> None:
    """HANGUP is answered when it is accepted; the call ends later."""
    async with at_the_desk(server) as (agent, peer):
        hanging_up = asyncio.create_task(agent.hang_up("call_1"))
        asked = await peer.hear(HangUp)
        await peer.say(HangUpAccepted(message_id=str(asked.message_id), call_id="call_1"))
        await hanging_up

        assert "call_1" == asked.message.call_id


async def test_nobody_waits_for_ever(server: FakeServer) -> None:
    """A request that is not answered in time raises TimeoutError."""
    async with at_the_desk(server) as (agent, _):
        with pytest.raises(TimeoutError):
            await agent.dial(customer_phone="13900000001", timeout=0.01)


async def test_waits_for_an_event_of_a_call(server: FakeServer) -> None:
    """An event can be waited for by its kind, its call and what it says, whether it has come or will."""
    async with at_the_desk(server) as (agent, peer):
        await peer.say(ended("call_1"), seq=11)
        await peer.say(ended("call_2"), seq=12)
        await peer.say(ended("call_2", enriched=True), seq=13)

        assert ended("call_2") == await agent.events.wait_for(CallEnded, call_id="call_2")
        assert ended("call_2", enriched=True) == await agent.events.wait_for(
            CallEnded, call_id="call_2", where=lambda event: event.enriched
        )


async def test_hears_of_recordings(server: FakeServer) -> None:
    """RECORDING_READY is an event like any other: in its order, and to be waited for by its call."""
    async with at_the_desk(server) as (agent, peer):
        await peer.say(ready("call_1"), seq=11)
        await peer.say(ready("call_1"), seq=11)
        await peer.say(ready("call_2"), seq=12)

        assert ready("call_2") == await agent.events.wait_for(RecordingReady, call_id="call_2")
        assert (1, 12) == (agent.repeats, agent.last_seq)


async def test_signed_out_elsewhere(server: FakeServer) -> None:
    """When the session is ended for good, requests and waits under way are told, and later ones too."""
    async with at_the_desk(server) as (agent, peer):
        dialling = asyncio.create_task(agent.dial(customer_phone="13900000001"))
        await peer.hear(Dial)
        await peer.close(4503, "signed out")
        with pytest.raises(Stopped, match="signed out"):
            await agent.events.wait_for(CallEnded)
        with pytest.raises(Stopped):
            await dialling
        with pytest.raises(Stopped):
            await agent.dial(customer_phone="13900000001")


async def test_renews_when_the_socket_says_so(server: FakeServer) -> None:
    """After 4401 the next socket is opened with a new token."""
    server.answers[REFRESH] = tokens("2")
    async with at_the_desk(server) as (_, peer):
        await peer.close(4401)
        peer = await server.accept()

        assert "Bearer access-2" == peer.headers["Authorization"]


async def test_refused_renewal_ends_the_desk(server: FakeServer) -> None:
    """Where the refresh token is refused the agent must sign in again, and is told that."""
    server.answers[REFRESH] = Refusal(401, {"code": "REFRESH_REUSED", "message": "sign in again"})
    async with at_the_desk(server) as (agent, peer):
        await peer.close(4401)
        with pytest.raises(Refused, match="REFRESH_REUSED"):
            await agent.events.wait_for(CallEnded)


async def test_connect_tells_why_not(server: FakeServer) -> None:
    """A desk that may not open a socket learns it from `connect`."""
    server.refusals.append(Refusal(403, {"code": "ORIGIN_NOT_ALLOWED"}))
    async with await sign_in(server) as agent:
        with pytest.raises(Stopped, match="ORIGIN_NOT_ALLOWED"):
            await agent.connect()


async def so_far(agent: AgentClient) -> list[Any]:
    """The events that have come."""
    events = []
    async for envelope in agent.events:
        events.append(envelope)
        if len(events) == agent.events.position:
            break
    return events
