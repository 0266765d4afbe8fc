"""The duties of a phone, each against a server whose every word the test says."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trustme

from clients.api import Refused
from clients.behaviour import (
    Behaviour,
    Step,
    answers,
    goes_silent,
    is_busy,
    loses_network,
    never_answers,
    rejects,
    reports_twice,
)
from clients.connection import Stopped, Timing, trusting
from clients.memory import Binding, Bound, Handset, Memory
from clients.phone import PhoneClient
from protocol.call import Evidence, Outcome
from protocol.messages import (
    Ack,
    ActiveCall,
    CallEnd,
    CallStatus,
    CancelDial,
    DeviceOffline,
    DeviceOnline,
    DeviceUnbind,
    DialCommand,
    Error,
    Heartbeat,
    WelcomePhone,
)
from protocol.pairing import BindPayload
from tests.clients.fake_server import DEADLINE, FAST, NOW, FakeServer, Peer, dial
from tests.clients.shelf import Refusal

HANDSET = Handset(device_id="dev-1", phone_number="13800000001")
BIND = "POST /api/v1/calls/device/bind"


def make_phone(
    server: FakeServer, behaviour: Behaviour | None = None, *, store: Path | None = None, timing: Timing = FAST
) -> PhoneClient:
    """A phone that was bound before."""
    memory = Memory(store, fsync=False)
    binding = Binding(websocket_url=server.socket_url, user_id="user_1", auth_token="token-1", handset=HANDSET)
    memory.note(Bound(binding))
    return PhoneClient(memory, behaviour, timing=timing)


@contextlib.asynccontextmanager
async def on_the_air(
    server: FakeServer, behaviour: Behaviour | None = None, *, store: Path | None = None, timing: Timing = FAST
) -> AsyncIterator[tuple[PhoneClient, Peer]]:
    """A bound phone whose session stands, and the server's end of it."""
    async with make_phone(server, behaviour, store=store, timing=timing) as phone:
        peer = await server.accept_phone()
        await within(phone.online)
        yield phone, peer


async def within(event: asyncio.Event) -> None:
    """Wait for an event, but not for ever."""
    async with asyncio.timeout(DEADLINE):
        await event.wait()


async def end_of(peer: Peer, call_id: str = "call_1") -> CallEnd:
    """The next report that a call has ended, which is that of this call."""
    end = (await peer.hear(CallEnd)).message

    assert call_id == end.call_id
    return end


def on_disk(store: Path) -> Memory:
    """What would be found by an app that started now."""
    return Memory(Path(shutil.copy(store, store.with_suffix(".copy"))))


def refusal(end: CallEnd) -> tuple[str, str | None]:
    """What a refusal is known by."""
    return end.status, end.hangup_cause


# --- binding --------------------------------------------------------------------------------------------------------


async def test_binds_by_qr_code(server: FakeServer, tmp_path: Path) -> None:
    """The bind call goes to the origin of the QR code's URL with the seed's fields, and its answer is kept on disk."""
    server.answers[BIND] = {"websocketUrl": server.socket_url, "userId": "user_1", "authToken": "token-1"}
    payload = BindPayload(server_url=server.socket_url, token="bind-1", user_id="user_1", timestamp=NOW)
    handset = Handset(
        device_id="dev-1",
        phone_number="13800000001",
        device_name="Work phone",
        device_model="P1",
        device_token="push-1",
    )
    await PhoneClient.bind(payload.encode(), handset, store=tmp_path / "phone")

    expected = {
        "token": "bind-1",
        "deviceId": "dev-1",
        "phoneNumber": "13800000001",
        "deviceName": "Work phone",
        "deviceModel": "P1",
        "osType": "android",
        "osVersion": "14",
        "appVersion": "1.0.0",
        "deviceToken": "push-1",
    }
    kept = Binding(websocket_url=server.socket_url, user_id="user_1", auth_token="token-1", handset=handset)
    assert expected == server.requests[0].body
    assert kept == Memory(tmp_path / "phone").binding


async def test_binds_by_typed_code(server: FakeServer) -> None:
    """A typed code is sent as the token, without what people put between its characters."""
    server.answers[BIND] = {"websocketUrl": server.socket_url, "userId": "user_1", "authToken": "token-1"}
    await PhoneClient.bind("abcd-2345", HANDSET, origin=server.origin)

    assert "ABCD2345" == server.requests[0].body["token"]


@pytest.mark.parametrize("code", ["", "ABCD", "https://example.invalid/", '{"action":"bind_device"}', "{"])
async def test_refuses_what_is_no_code(code: str) -> None:
    """A text that does not bind a phone is refused before anything is sent."""
    with pytest.raises(ValueError, match="QR code"):
        await PhoneClient.bind(code, HANDSET, origin="http://127.0.0.1:9")


async def test_typed_code_needs_an_origin() -> None:
    """Eight characters do not tell where the server is."""
    with pytest.raises(ValueError, match="origin"):
        await PhoneClient.bind("ABCD2345", HANDSET)


async def test_refused_binding(server: FakeServer) -> None:
    """A code that is used or expired is refused with the server's code for it."""
    server.answers[BIND] = Refusal(410, {"code": "BIND_TOKEN_INVALID", "message": "make a new one"})
    with pytest.raises(Refused) as refused:
        await PhoneClient.bind("ABCD2345", HANDSET, origin=server.origin)

    assert ("BIND_TOKEN_INVALID", False, 410) == (refused.value.code, refused.value.retry, refused.value.status)


def test_needs_a_binding() -> None:
    """A phone that was never bound cannot be made."""
    with pytest.raises(ValueError, match="not bound"):
        PhoneClient(Memory())


async def test_binds_and_connects_over_tls(tmp_path: Path) -> None:
    """With the CA of a private certificate both the bind call and the socket are made over TLS."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = FakeServer()
    await server.start(context)
    server.answers[BIND] = {"websocketUrl": server.socket_url, "userId": "user_1", "authToken": "token-1"}
    tls = trusting(tmp_path / "ca.pem")
    phone = await PhoneClient.bind("ABCD2345", HANDSET, origin=server.origin, tls=tls, timing=FAST)
    async with phone:
        await server.accept_phone()
        await within(phone.online)
    await server.stop()

    assert server.socket_url.startswith("wss://")


# --- the session ----------------------------------------------------------------------------------------------------


async def test_introduces_itself(server: FakeServer) -> None:
    """The socket carries the device's credential, and its first message says what the phone is and can do."""
    behaviour = Behaviour(hang_up=False)
    async with make_phone(server, behaviour):
        peer = await server.accept()
        online = (await peer.hear(DeviceOnline)).message

    assert ("Bearer token-1", "dev-1") == (peer.headers["Authorization"], peer.headers["X-Device-Id"])
    assert (behaviour.capabilities, "1.0.0", None, 0) == (
        online.capabilities,
        online.app_version,
        online.active_call,
        online.pending_reports,
    )


async def test_counts_its_connections(server: FakeServer, tmp_path: Path) -> None:
    """The count in DEVICE_ONLINE is raised for each connection, also across a restart."""
    counts = []
    async with make_phone(server, store=tmp_path / "phone") as phone:
        for _ in range(2):
            peer = await server.accept()
            counts.append((await peer.hear(DeviceOnline)).message.connection)
            await peer.close(1011)
        await (await server.accept()).hear(DeviceOnline)
        await phone.kill()
        async with phone.restarted():
            peer = await server.accept()
            counts.append((await peer.hear(DeviceOnline)).message.connection)

    assert [1, 2, 4] == counts


async def test_comes_back_after_a_lost_socket(server: FakeServer) -> None:
    """A socket cut without a close is replaced by a new one."""
    async with on_the_air(server) as (phone, _):
        since = phone.heard.position
        phone.link.drop()
        await server.accept_phone()

        await phone.heard.wait_for(WelcomePhone, since=since)


async def test_ignores_the_end_of_an_older_socket(server: FakeServer) -> None:
    """4501 on a socket that was replaced is not for the phone of the newer one."""
    async with on_the_air(server) as (phone, old):
        phone.link.drop()
        new = await server.accept_phone()
        await within(phone.online)
        await old.close(4501)
        await new.say(dial())

        assert (await end_of(new)).status == Outcome.CONNECTED


@pytest.mark.parametrize("code", [4500, 4501])
async def test_stops_when_told(server: FakeServer, code: int) -> None:
    """On its newest socket a final close code stops the phone, and whoever waits is told; it stays bound."""
    async with on_the_air(server) as (phone, peer):
        await peer.close(code, "no more")
        with pytest.raises(Stopped):
            await phone.heard.wait_for(DialCommand)

        assert phone.stopped is not None
        assert code == phone.stopped.code
        assert phone.memory.binding is not None


async def test_goes_offline_on_purpose(server: FakeServer) -> None:
    """Going offline is said, and lasts until the phone is to come back."""
    async with on_the_air(server) as (phone, peer):
        going = asyncio.create_task(phone.go_offline("end of shift"))
        said = (await peer.hear(DeviceOffline)).message
        await peer.left()
        await going
        phone.come_back()
        await server.accept_phone()

        assert "end of shift" == said.reason


async def test_forgets_its_binding(server: FakeServer, tmp_path: Path) -> None:
    """DEVICE_UNBIND ends the phone, and nothing of its token stays on disk."""
    store = tmp_path / "phone"
    async with on_the_air(server, store=store) as (phone, peer):
        await peer.say(DeviceUnbind(reason="unbound by the agent"))
        with pytest.raises(Stopped, match="unbound by the agent"):
            await phone.heard.wait_for(DialCommand)

    assert phone.memory.binding is None
    assert "token-1" not in store.read_text()


async def test_forgets_a_revoked_binding(server: FakeServer) -> None:
    """A close with 4503 ends the binding too, when DEVICE_UNBIND was lost."""
    async with on_the_air(server) as (phone, peer):
        await peer.close(4503, "revoked")
        with pytest.raises(Stopped):
            await phone.heard.wait_for(DialCommand)

        assert phone.memory.binding is None


async def test_forgets_a_binding_ended_while_away(server: FakeServer) -> None:
    """A phone that was unbound while it was away learns it from the refused upgrade."""
    server.refusals.append(Refusal(401, {"code": "DEVICE_UNBOUND"}))
    async with make_phone(server) as phone:
        with pytest.raises(Stopped, match="DEVICE_UNBOUND"):
            await phone.heard.wait_for(WelcomePhone)

        assert phone.memory.binding is None


async def test_is_cheap_when_idle(server: FakeServer) -> None:
    """A phone that waits for work is one task, so that thousands fit into a process."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(make_phone(server))
        peers = [await server.accept() for _ in range(20)]
        for peer in peers:
            await peer.hear(DeviceOnline)
        coroutines = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]

        assert ["PhoneClient.run"] * 20 == [name for name in coroutines if name.startswith(("PhoneClient", "Link"))]


# --- commands -------------------------------------------------------------------------------------------------------


async def test_dials_and_reports(server: FakeServer) -> None:
    """A command is acked, dialled once, and its course reported in order with the evidence for it."""
    async with on_the_air(server, answers()) as (phone, peer):
        message_id = await peer.say(dial())
        acked = (await peer.hear(Ack)).message.message_id
        seen = [(await peer.hear(CallStatus)).message for _ in range(3)]
        end = await end_of(peer)

    assert message_id == acked
    assert ["calling", "ringing", "connected"] == [status.status for status in seen]
    assert (Outcome.CONNECTED, Evidence.IN_CALL_SERVICE) == (end.status, end.evidence)
    assert [("call_1", "13900000001")] == [call[:2] for call in phone.dialled]


async def test_acks_what_is_on_disk(server: FakeServer, tmp_path: Path) -> None:
    """When an ACK arrives the command can be read from the phone's disk."""
    async with on_the_air(server, goes_silent(), store=tmp_path / "phone") as (_, peer):
        await peer.say(dial(), "msg-dial")
        await peer.hear(Ack)

        assert on_disk(tmp_path / "phone").knows("msg-dial")


async def test_obeys_commands_of_welcome(server: FakeServer) -> None:
    """A command that waited and stands in WELCOME is acked and dialled as one that comes alone."""
    async with make_phone(server) as phone:
        peer = await server.accept()
        await peer.hear(DeviceOnline)
        await peer.welcome_phone(commands=[("msg-dial", dial())])

        assert "msg-dial" == (await peer.hear(Ack)).message.message_id
        assert dial() == await phone.heard.wait_for(DialCommand)
        assert (await end_of(peer)).status == Outcome.CONNECTED
        assert 1 == len(phone.dialled)


@pytest.mark.parametrize("expires_at", [NOW - 1, NOW])
async def test_never_dials_an_expired_command(server: FakeServer, expires_at: int) -> None:
    """A command whose time is over by the server's clock is refused."""
    async with on_the_air(server) as (phone, peer):
        await peer.say(dial(expires_at=expires_at))

        assert ("failed", "EXPIRED") == refusal(await end_of(peer))
        assert not phone.dialled


async def test_elapsed_time_counts_towards_expiry(server: FakeServer) -> None:
    """Server time is that of WELCOME plus what has passed here since DEVICE_ONLINE went out: an upper bound."""
    now = 1000.0
    async with PhoneClient(make_phone(server).memory, timing=FAST, clock=lambda: now):
        peer = await server.accept_phone()
        now += 19.9
        await peer.say(dial("call_1", expires_at=NOW + 20_000))
        in_time = await end_of(peer, "call_1")
        now += 0.1
        await peer.say(dial("call_2", expires_at=NOW + 20_000))

        assert in_time.status == Outcome.CONNECTED
        assert ("failed", "EXPIRED") == refusal(await end_of(peer, "call_2"))


async def test_repeated_command_is_answered_by_the_last_report(server: FakeServer) -> None:
    """A command that comes again is acked again, its call's last report sent under its old id, and nothing dialled."""
    async with on_the_air(server) as (phone, peer):
        message_id = await peer.say(dial())
        await peer.hear(Ack)
        seen = [await peer.hear_any() for _ in range(4)]
        for report in seen:
            await peer.say(Ack(message_id=str(report.message_id)))
        await within(phone.settled)
        await peer.say(dial(), message_id)
        again = await peer.hear(CallEnd)

        assert message_id == (await peer.hear(Ack)).message.message_id
        assert (seen[-1].message_id, seen[-1].message) == (again.message_id, again.message)
        assert 1 == len(phone.dialled)


async def test_started_call_is_never_dialled_again(server: FakeServer, tmp_path: Path) -> None:
    """After a restart a call that was started and has no end is reported unknown, whatever the server repeats."""
    async with on_the_air(server, goes_silent(), store=tmp_path / "phone") as (phone, peer):
        await peer.say(dial(), "msg-dial")
        await peer.hear(CallStatus)
        await phone.kill()
        async with phone.restarted():
            peer = await server.accept()
            online = (await peer.hear(DeviceOnline)).message
            await peer.welcome_phone(commands=[("msg-dial", dial())])
            end = await end_of(peer)

        assert (None, 2) == (online.active_call, online.pending_reports)
        assert end.status == Outcome.UNKNOWN
        assert 1 == len(phone.dialled)


async def test_started_is_written_before_the_dialler_is_called(server: FakeServer, tmp_path: Path) -> None:
    """When the dialler is called the phone's disk says so already: a crash in between is a call not made, never two."""
    found = []

    async def dialler(command: DialCommand) -> AsyncIterator[Step]:
        found.append(on_disk(tmp_path / "phone").calls[command.call_id].started)
        yield CallEnd(call_id=command.call_id, status=Outcome.MISSED)

    async with on_the_air(server, Behaviour(script=dialler), store=tmp_path / "phone") as (_, peer):
        await peer.say(dial())
        await end_of(peer)

        assert [True] == found


async def test_dials_after_a_restart_what_was_only_acked(server: FakeServer, tmp_path: Path) -> None:
    """An acked command that was not started yet is dialled after a restart, though the server does not repeat it."""
    behaviour = Behaviour(auto_dial=False, tap_after=3600.0)
    async with on_the_air(server, behaviour, store=tmp_path / "phone") as (phone, peer):
        await peer.say(dial())
        await peer.hear(Ack)
        await phone.kill()
        again = phone.restarted()
        again.behaviour = answers()
        async with again:
            peer = await server.accept_phone()

            assert (await end_of(peer)).status == Outcome.CONNECTED
            assert 1 == len(again.dialled)


async def test_waits_for_a_person_where_it_may_not_dial(server: FakeServer) -> None:
    """Without auto_dial the command is acked at once, and dialled when a person taps."""
    async with on_the_air(server, Behaviour(auto_dial=False, tap_after=0.01)) as (phone, peer):
        message_id = await peer.say(dial())
        await peer.hear(Ack)
        await peer.say(dial(), message_id)
        await end_of(peer)

        assert 1 == len(phone.dialled)


async def test_cancel_before_its_dial(server: FakeServer) -> None:
    """A CANCEL of a call never seen is acked and answered as cancelled; its DIAL, when it comes, is refused so too."""
    async with on_the_air(server) as (phone, peer):
        cancel_id = await peer.say(CancelDial(call_id="call_1", reason="agent"))
        acked = (await peer.hear(Ack)).message.message_id
        cancelled = refusal(await end_of(peer))
        dial_id = await peer.say(dial())
        acked_too = (await peer.hear(Ack)).message.message_id

        assert (cancel_id, dial_id) == (acked, acked_too)
        assert [("cancelled", "CANCELLED")] * 2 == [cancelled, refusal(await end_of(peer))]
        assert not phone.dialled


async def test_cancel_before_the_tap(server: FakeServer) -> None:
    """A command that waits for a person is taken back by CANCEL."""
    async with on_the_air(server, Behaviour(auto_dial=False, tap_after=3600.0)) as (phone, peer):
        await peer.say(dial())
        await peer.say(CancelDial(call_id="call_1", reason="agent"))

        assert ("cancelled", "CANCELLED") == refusal(await end_of(peer))
        assert not phone.dialled


@pytest.mark.parametrize(
    ("behaviour", "until", "expected"),
    [
        (Behaviour(talk=3600.0), "connected", ("connected", "NORMAL_CLEARING")),
        (Behaviour(answer_after=3600.0), "ringing", ("cancelled", "CANCELLED")),
    ],
)
async def test_cancel_hangs_up(server: FakeServer, behaviour: Behaviour, until: str, expected: tuple[str, str]) -> None:
    """CANCEL ends a call under way, which is reported as what it had become."""
    async with on_the_air(server, behaviour) as (phone, peer):
        await peer.say(dial())
        await phone.reported.wait_for(CallStatus, where=lambda report: report.status == until)
        await peer.say(CancelDial(call_id="call_1", reason="agent"))

        assert expected == refusal(await end_of(peer))


async def test_cancel_where_the_phone_cannot_hang_up(server: FakeServer) -> None:
    """Where the OS cannot hang up, CANCEL is acked and the call goes its way."""
    async with on_the_air(server, Behaviour(hang_up=False, talk=0.02)) as (_, peer):
        await peer.say(dial())
        await peer.hear(CallStatus)
        cancel_id = await peer.say(CancelDial(call_id="call_1", reason="agent"))
        acked = [(await peer.hear(Ack)).message.message_id for _ in range(2)]

        assert cancel_id in acked
        assert (await end_of(peer)).status == Outcome.CONNECTED


async def test_second_dial_finds_the_phone_busy(server: FakeServer) -> None:
    """A command that comes while the phone is on a call is refused, and the call goes on."""
    async with on_the_air(server, goes_silent()) as (phone, peer):
        await peer.say(dial("call_1"))
        await peer.hear(CallStatus)
        await peer.say(dial("call_2"))

        assert ("failed", "DEVICE_BUSY") == refusal(await end_of(peer, "call_2"))
        assert ["call_1"] == [call.call_id for call in phone.dialled]


async def test_private_call_makes_the_phone_busy(server: FakeServer) -> None:
    """A call of the handset's own is told by heartbeat and at connecting, and dials are refused while it lasts."""
    async with on_the_air(server) as (phone, peer):
        phone.private_call(True)
        beat = (await peer.hear(Heartbeat)).message
        await peer.say(dial("call_1"))
        refused = refusal(await end_of(peer, "call_1"))
        phone.link.drop()
        peer = await server.accept()
        online = (await peer.hear(DeviceOnline)).message
        await peer.welcome_phone()
        await within(phone.online)
        phone.private_call(False)
        free = (await peer.hear(Heartbeat)).message

        assert (True, ActiveCall(), False) == (beat.handset_busy, online.active_call, free.handset_busy)
        assert ("failed", "DEVICE_BUSY") == refused


async def test_commands_can_go_unacked(server: FakeServer) -> None:
    """With its ACKs withheld the phone obeys, and says nothing of having been told."""
    async with on_the_air(server) as (phone, peer):
        phone.withhold_acks = True
        await peer.say(dial())
        await end_of(peer)
        phone.withhold_acks = False
        message_id = await peer.say(dial("call_2"))

        assert message_id == (await peer.hear(Ack)).message.message_id


# --- reports --------------------------------------------------------------------------------------------------------


async def many_ends(command: DialCommand) -> AsyncIterator[Step]:
    """More reports than may be in flight."""
    for number in range(20):
        yield CallEnd(call_id=command.call_id, status=Outcome.CONNECTED, duration=number)


async def test_few_reports_are_in_flight(server: FakeServer) -> None:
    """At most 16 reports are unacked at a time; each ACK lets the next one go, in order."""
    async with on_the_air(server, Behaviour(script=many_ends)) as (phone, peer):
        await peer.say(dial())
        first = [await peer.hear(CallEnd) for _ in range(16)]
        phone.private_call(True)  # whatever was to come before it has come
        await peer.hear(Heartbeat)
        early = [envelope for envelope in peer.passed if isinstance(envelope.message, CallEnd)]
        for envelope in first[:4]:
            await peer.say(Ack(message_id=str(envelope.message_id)))
        rest = [await peer.hear(CallEnd) for _ in range(4)]

        assert not early
        assert list(range(20)) == [envelope.message.duration for envelope in first + rest]


async def test_unacked_report_is_sent_again(server: FakeServer) -> None:
    """A report without an ACK is sent again under its id, and once acked no more."""
    timing = msgspec.structs.replace(FAST, resend_after=0.01)
    async with on_the_air(server, is_busy(), timing=timing) as (phone, peer):
        await peer.say(dial())
        ends = [await peer.hear(CallEnd) for _ in range(3)]
        statuses = {(await peer.hear(CallStatus)).message_id for _ in range(3)}
        for message_id in {ends[0].message_id, *statuses}:
            await peer.say(Ack(message_id=str(message_id)))
        await within(phone.settled)

        assert 1 == len({end.message_id for end in ends})


async def test_refused_report_is_dropped(server: FakeServer) -> None:
    """ERROR with retry:false ends a report; with retry:true it is sent again."""
    timing = msgspec.structs.replace(FAST, resend_after=0.01)
    async with on_the_air(server, is_busy(), timing=timing) as (phone, peer):
        await peer.say(dial())
        status, end = await peer.hear(CallStatus), await peer.hear(CallEnd)
        await peer.say(Error(code="NOT_FOUND", message="no such call", retry=False, message_id=str(status.message_id)))
        await peer.say(Error(code="UNAVAILABLE", message="later", retry=True, message_id=str(end.message_id)))
        again = await peer.hear(CallEnd)
        await peer.say(Ack(message_id=str(end.message_id)))
        await within(phone.settled)

        assert {status.message_id: "NOT_FOUND"} == phone.refused
        assert end.message_id == again.message_id


async def test_reports_survive_a_restart(server: FakeServer, tmp_path: Path) -> None:
    """Unacked reports are told of in DEVICE_ONLINE and come again in order under their ids after a restart."""
    async with on_the_air(server, is_busy(), store=tmp_path / "phone") as (phone, peer):
        await peer.say(dial())
        before = [(await peer.hear(CallStatus)).message_id, (await peer.hear(CallEnd)).message_id]
        await phone.kill()
        async with phone.restarted() as again:
            peer = await server.accept()
            online = (await peer.hear(DeviceOnline)).message
            await peer.welcome_phone()
            after = [(await peer.hear_any()).message_id for _ in range(2)]
            for message_id in after:
                await peer.say(Ack(message_id=str(message_id)))
            await within(again.settled)

        assert (2, before) == (online.pending_reports, after)


async def test_call_goes_on_without_a_network(server: FakeServer) -> None:
    """What happens while the network is away is reported when it is back; DEVICE_ONLINE names the call meanwhile."""
    async with on_the_air(server, answers(talk=3600.0)) as (phone, peer):
        await peer.say(dial())
        await phone.reported.wait_for(CallStatus, where=lambda report: report.status == "connected")
        phone.lose_network()
        phone.come_back()
        peer = await server.accept()
        online = (await peer.hear(DeviceOnline)).message
        await peer.welcome_phone()
        seen = [(await peer.hear(CallStatus)).message.status for _ in range(3)]

        assert (ActiveCall(call_id="call_1", status="connected"), 3) == (online.active_call, online.pending_reports)
        assert ["calling", "ringing", "connected"] == seen


# --- courses of a call ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "statuses", "outcome", "cause"),
    [
        (answers(), ["calling", "ringing", "connected"], Outcome.CONNECTED, None),
        (is_busy(), ["calling"], Outcome.BUSY, "USER_BUSY"),
        (never_answers(), ["calling", "ringing"], Outcome.MISSED, "NO_ANSWER"),
        (rejects(), ["calling", "ringing"], Outcome.REJECTED, "CALL_REJECTED"),
        (Behaviour(answer_signal=False), ["calling"], Outcome.CONNECTED, None),
        (Behaviour(refuse="NO_SIM"), [], Outcome.FAILED, "NO_SIM"),
    ],
)
async def test_courses(
    server: FakeServer, behaviour: Behaviour, statuses: list[str], outcome: Outcome, cause: str | None
) -> None:
    """Each ready-made course of a call reports what a handset would see of it."""
    async with on_the_air(server, behaviour) as (_, peer):
        await peer.say(dial())
        end = await end_of(peer)
        seen = [passed.message.status for passed in peer.passed if isinstance(passed.message, CallStatus)]

        assert statuses == seen
        assert (outcome, cause) == (end.status, end.hangup_cause)


async def test_second_report_from_the_call_log(server: FakeServer) -> None:
    """An end may be reported twice: as it was seen, then with the call log's duration, under another id."""
    async with on_the_air(server, reports_twice(logged_talk=42)) as (_, peer):
        await peer.say(dial())
        seen, logged = await peer.hear(CallEnd), await peer.hear(CallEnd)

        assert [Evidence.IN_CALL_SERVICE, Evidence.CALL_LOG] == [seen.message.evidence, logged.message.evidence]
        assert 42 == logged.message.duration
        assert seen.message_id != logged.message_id


async def test_network_lost_in_mid_call(server: FakeServer) -> None:
    """A network that goes after the answer comes back by itself, and the end is reported on the new socket."""
    async with on_the_air(server, loses_network(away=0.02)) as (_, peer):
        await peer.say(dial())
        await peer.left()
        peer = await server.accept_phone()

        assert (await end_of(peer)).status == Outcome.CONNECTED


async def test_faulty_script_is_not_hidden(server: FakeServer) -> None:
    """A script that fails ends the phone with its own error, for whoever waits and for whoever runs it."""

    async def broken(command: DialCommand) -> AsyncIterator[Step]:
        yield CallStatus(call_id=command.call_id, status="calling")
        raise ZeroDivisionError

    phone = make_phone(server, Behaviour(script=broken))
    running = asyncio.create_task(phone.run())
    await (await server.accept_phone()).say(dial())
    with pytest.raises(ExceptionGroup):
        await phone.heard.wait_for(DeviceUnbind)
    with pytest.raises(ExceptionGroup) as fault:
        await running

    assert fault.group_contains(ZeroDivisionError)
