"""A phone brings each recording, whole, whatever is cut, refused or forgotten on the way."""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from clients.behaviour import Behaviour, Step, is_busy
from clients.connection import Stopped, Timing
from clients.memory import Memory
from clients.phone import PhoneClient
from clients.tone import tone
from protocol.call import Evidence, Outcome
from protocol.messages import (
    Ack,
    CallEnd,
    CallStatus,
    CancelDial,
    DeviceUnbind,
    DialCommand,
    Error,
    Heartbeat,
    RecordingUpload,
)
from tests.clients.fake_server import DEADLINE, FAST, FakeServer, Peer, dial
from tests.clients.shelf import Refusal, Shelf
from tests.clients.test_phone import make_phone, within

TONE = tone(0.5)
PARTS = msgspec.structs.replace(FAST, upload_whole=0)
"""Every recording goes in parts, of which TONE has nine."""
RECORDS = Behaviour(recording=TONE)


@contextlib.asynccontextmanager
async def after_a_call(
    server: FakeServer, behaviour: Behaviour = RECORDS, *, store: Path | None = None, timing: Timing = FAST
) -> AsyncIterator[tuple[PhoneClient, Peer]]:
    """A phone that has reported a call which it was to record; only the ACK of its end is missing (`settle`)."""
    async with make_phone(server, behaviour, store=store, timing=timing) as phone:
        peer = await server.accept_phone()
        await peer.say(dial(record=True))
        await phone.reported.wait_for(CallEnd)
        yield phone, peer


async def settle(peer: Peer) -> CallEnd:
    """Ack all reports of a call up to its end."""
    while True:
        envelope = await peer.hear_any()
        if isinstance(envelope.message, CallStatus | CallEnd):
            await peer.say(Ack(message_id=str(envelope.message_id)))
        if isinstance(envelope.message, CallEnd):
            return envelope.message


async def confirm(peer: Peer) -> RecordingUpload:
    """Ack the next report of a recording."""
    envelope = await peer.hear(RecordingUpload)
    await peer.say(Ack(message_id=str(envelope.message_id)))
    return envelope.message


def told(audio: bytes, call_id: str = "call_1") -> RecordingUpload:
    """The report of this recording."""
    return RecordingUpload(call_id=call_id, size=len(audio), sha256=hashlib.sha256(audio).hexdigest())


def own_files(store: Path) -> Iterator[Path]:
    """The audio that the phone has beside its memory."""
    return store.with_name(store.name + ".recordings").glob("*")


def parts_sent(shelf: Shelf) -> list[int]:
    """How often each part came here."""
    return [shelf.asked[f"part {number}"] for number in range(1, 10)]


# --- what is recorded -----------------------------------------------------------------------------------------------


async def test_brings_what_it_recorded(server: FakeServer) -> None:
    """A call is recorded, its end says so, the file is brought byte for byte, and then reported."""
    async with after_a_call(server) as (phone, peer):
        end = await settle(peer)
        report = await confirm(peer)
        await within(phone.uploads.empty)

        assert (True, len(TONE)) == (end.has_recording, end.recording_size)
        assert {"call_1": TONE} == server.shelf.kept
        assert {"call_1": "audio/wav"} == server.shelf.media_types
        assert told(TONE) == report == await phone.uploaded.wait_for(RecordingUpload)
        assert {"whole": 1} == server.shelf.asked


@pytest.mark.parametrize(
    ("behaviour", "record"),
    [(RECORDS, False), (Behaviour(), True), (msgspec.structs.replace(is_busy(), recording=TONE), True)],
)
async def test_records_only_what_it_may(server: FakeServer, behaviour: Behaviour, record: bool) -> None:
    """Nothing is recorded unasked, nor by a handset that cannot, nor where nobody talked."""
    async with make_phone(server, behaviour) as phone:
        peer = await server.accept_phone()
        await peer.say(dial(record=record))
        end = await settle(peer)
        await within(phone.settled)

        assert (False, None) == (end.has_recording, end.recording_size)
        assert phone.uploads.empty.is_set()
        assert not phone.memory.recordings


async def test_every_report_of_the_end_tells_of_the_recording(server: FakeServer) -> None:
    """The end that comes from the call log says the same of the recording as the first, though it is long brought."""
    looked_up = asyncio.Event()

    async def course(command: DialCommand) -> AsyncIterator[Step]:
        yield CallEnd(call_id=command.call_id, status=Outcome.CONNECTED)
        await looked_up.wait()
        yield CallEnd(call_id=command.call_id, status=Outcome.CONNECTED, evidence=Evidence.CALL_LOG)

    async with after_a_call(server, Behaviour(script=course, recording=TONE)) as (phone, peer):
        await settle(peer)
        await confirm(peer)
        await within(phone.uploads.empty)
        looked_up.set()
        logged = await settle(peer)

        assert (True, len(TONE)) == (logged.has_recording, logged.recording_size)


async def test_a_call_hung_up_from_the_desk_is_recorded(server: FakeServer) -> None:
    """A talk that CANCEL ends has a recording as any other."""
    async with make_phone(server, msgspec.structs.replace(RECORDS, talk=3600.0)) as phone:
        peer = await server.accept_phone()
        await peer.say(dial(record=True))
        await phone.reported.wait_for(CallStatus, where=lambda report: report.status == "connected")
        await peer.say(CancelDial(call_id="call_1", reason="agent"))
        await settle(peer)

        assert told(TONE) == await confirm(peer)


async def test_recording_follows_the_end_of_its_call(server: FakeServer) -> None:
    """Nothing is uploaded before the server has the end of the call."""
    async with after_a_call(server) as (phone, peer):
        async with asyncio.timeout(DEADLINE):
            while not isinstance((envelope := await peer.hear_any()).message, CallEnd):
                await peer.say(Ack(message_id=str(envelope.message_id)))
        phone.private_call(True)  # whatever was to come before it has come
        await peer.hear(Heartbeat)
        before = dict(server.shelf.asked)
        await peer.say(Ack(message_id=str(envelope.message_id)))
        await confirm(peer)

        assert ({}, {"whole": 1}) == (before, server.shelf.asked)


async def test_file_of_somebody_else_stays(server: FakeServer, tmp_path: Path) -> None:
    """A recording that is given as a path is read where it lies, and left there."""
    path = tmp_path / "talk"
    path.write_bytes(b"OggS" + bytes(3_000_000))
    async with after_a_call(server, Behaviour(recording=path), store=tmp_path / "phone") as (phone, peer):
        await settle(peer)
        await confirm(peer)
        await within(phone.uploads.empty)

        assert {"call_1": path.read_bytes()} == server.shelf.kept


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"OggS\x00", "audio/ogg"),
        (b"#!AMR\n", "audio/amr"),
        (b"#!AMR-WB\n", "audio/amr-wb"),
        (b"\x00\x00\x00\x18ftyp3gp4", "audio/3gpp"),
        (b"\x00\x00\x00\x18ftypM4A ", "audio/mp4"),
        (b"\xff\xf1\x50", "audio/aac"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"ID3\x04", "audio/mpeg"),
        (b"%PDF-1.7", "application/octet-stream"),
    ],
)
@pytest.mark.parametrize("timing", [FAST, PARTS])
async def test_tells_what_it_brings(server: FakeServer, head: bytes, media_type: str, timing: Timing) -> None:
    """The media type told with a recording is that of its content."""
    async with after_a_call(server, Behaviour(recording=head + bytes(1000)), timing=timing) as (_, peer):
        await settle(peer)
        await confirm(peer)

        assert {"call_1": media_type} == server.shelf.media_types


async def test_own_file_goes_when_it_is_brought(server: FakeServer, tmp_path: Path) -> None:
    """What the phone recorded waits beside its memory, and goes when the server has confirmed it."""
    async with after_a_call(server, store=tmp_path / "phone") as (phone, peer):
        await settle(peer)
        await peer.hear(RecordingUpload)
        waiting = [path.read_bytes() for path in own_files(tmp_path / "phone")]
        (report,) = phone.memory.unacked
        await peer.say(Ack(message_id=report))
        await within(phone.uploads.empty)

        assert [TONE] == waiting
        assert [] == list(own_files(tmp_path / "phone"))


async def test_unbound_phone_keeps_no_audio(server: FakeServer, tmp_path: Path) -> None:
    """With the binding the recordings go that were not brought."""
    async with after_a_call(server, store=tmp_path / "phone") as (phone, peer):
        waiting = len(list(own_files(tmp_path / "phone")))
        await peer.say(DeviceUnbind(reason="unbound by the agent"))
        with pytest.raises(Stopped):
            await phone.uploaded.wait_for(RecordingUpload)

    assert (1, []) == (waiting, list(own_files(tmp_path / "phone")))


# --- on the way -----------------------------------------------------------------------------------------------------


async def test_large_recordings_go_in_parts(server: FakeServer) -> None:
    """What is larger than the bound is begun, sent part by part, and completed."""
    async with after_a_call(server, timing=PARTS) as (_, peer):
        await settle(peer)
        report = await confirm(peer)

        assert told(TONE) == report
        assert {"call_1": TONE} == server.shelf.kept
        assert (1, [1] * 9, 1) == (
            server.shelf.asked["begin"],
            parts_sent(server.shelf),
            server.shelf.asked["complete"],
        )


async def test_parts_go_where_they_are_asked_for(server: FakeServer) -> None:
    """Parts that have a URL are PUT there, without the phone's credential."""
    server.shelf.presigns = True
    async with after_a_call(server, timing=PARTS) as (_, peer):
        await settle(peer)
        await confirm(peer)

        assert {"call_1": TONE} == server.shelf.kept
        assert (9, [0] * 9) == (server.shelf.asked["bucket"], parts_sent(server.shelf))


@pytest.mark.parametrize("fault", ["refuses", "is gone"])
async def test_parts_go_to_the_server_where_the_bucket_fails(server: FakeServer, fault: str) -> None:
    """A bucket that refuses a URL, or cannot be reached, does not keep a recording from the server."""
    server.shelf.presigns = True
    if fault == "refuses":
        server.shelf.signature = "another"
    else:
        server.shelf.bucket = "http://127.0.0.1:9"
    async with after_a_call(server, timing=PARTS) as (_, peer):
        await settle(peer)
        await confirm(peer)

        assert {"call_1": TONE} == server.shelf.kept
        assert [1] * 9 == parts_sent(server.shelf)


async def test_signatures_stay_secret(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    """What fails at the bucket is logged without the signature of its URL."""
    server.shelf.presigns = True
    with caplog.at_level(logging.INFO, "clients"):
        async with after_a_call(server, timing=PARTS) as (phone, peer):
            phone.uploads.cut_after = 1500
            await settle(peer)
            await confirm(peer)

    assert "part 2 goes to the server" in caplog.text
    assert "signature" not in caplog.text


async def test_cut_request_is_made_again(server: FakeServer) -> None:
    """A file whose line is cut half way is sent again from its beginning, and nothing was kept of the first try."""
    async with after_a_call(server) as (phone, peer):
        phone.uploads.cut_after = len(TONE) // 2
        await settle(peer)
        await confirm(peer)

        assert {"call_1": TONE} == server.shelf.kept
        assert {"whole": 2} == server.shelf.asked


async def test_cut_upload_goes_on(server: FakeServer) -> None:
    """An upload in parts that is cut asks what has arrived, and sends the rest only."""
    async with after_a_call(server, timing=PARTS) as (phone, peer):
        phone.uploads.cut_after = 4500
        await settle(peer)
        await confirm(peer)
        shelf = server.shelf

        assert {"call_1": TONE} == shelf.kept
        assert [1] * 4 == parts_sent(shelf)[:4]
        assert (1, 1, 1) == (shelf.asked["begin"], shelf.asked["state"], shelf.asked["complete"])


async def test_upload_goes_on_after_a_restart(server: FakeServer, tmp_path: Path) -> None:
    """An app that is killed in mid-upload goes on with the same upload when it starts again."""
    shelf = server.shelf
    async with after_a_call(server, store=tmp_path / "phone", timing=PARTS) as (phone, peer):
        await settle(peer)
        shelf.open.clear()
        await within(shelf.holding)
        await phone.kill()
        shelf.open.set()
        async with phone.restarted() as again:
            peer = await server.accept_phone()
            report = await confirm(peer)
            await within(again.uploads.empty)

        assert told(TONE) == report
        assert {"call_1": TONE} == shelf.kept
        assert (1, 1) == (shelf.asked["begin"], shelf.asked["state"])


async def test_upload_waits_for_the_network(server: FakeServer) -> None:
    """Where the network goes in mid-upload, the upload goes too, and on when the network is back."""
    shelf = server.shelf
    async with after_a_call(server, timing=PARTS) as (phone, peer):
        shelf.open.clear()
        await settle(peer)
        await within(shelf.holding)
        phone.lose_network()
        await peer.left()
        shelf.open.set()
        phone.come_back()
        peer = await server.accept_phone()

        assert told(TONE) == await confirm(peer)
        assert (1, 1) == (shelf.asked["begin"], shelf.asked["state"])


async def test_upload_that_is_over_is_begun_anew(server: FakeServer) -> None:
    """An upload that the server does not know any more is forgotten, and the file brought by another."""
    shelf = server.shelf
    async with after_a_call(server, timing=PARTS) as (phone, peer):
        phone.uploads.cut_after = 4500
        shelf.open.clear()
        await settle(peer)
        await within(shelf.holding)
        shelf.uploads.clear()
        shelf.open.set()
        await confirm(peer)

        assert {"call_1": TONE} == shelf.kept
        assert 2 == shelf.asked["begin"]


async def test_lost_answer_to_complete(server: FakeServer) -> None:
    """Where the recording was stored and the answer lost, the server says so, and nothing is sent again."""
    shelf = server.shelf
    shelf.kept["call_1"] = TONE
    async with after_a_call(server, timing=PARTS) as (_, peer):
        await settle(peer)

        assert told(TONE) == await confirm(peer)
        assert {"begin": 1} == shelf.asked


@pytest.mark.parametrize(
    ("status", "code"), [(503, "UNAVAILABLE"), (422, "CHECKSUM_MISMATCH"), (409, "UPLOAD_IN_PROGRESS"), (502, "")]
)
@pytest.mark.parametrize("timing", [FAST, PARTS])
async def test_tries_again_what_may_succeed(server: FakeServer, status: int, code: str, timing: Timing) -> None:
    """What the server refuses for now is tried again until it is taken."""
    server.shelf.refusals.extend([Refusal(status, {"code": code})] * 3)
    async with after_a_call(server, timing=timing) as (_, peer):
        await settle(peer)
        await confirm(peer)

        assert {"call_1": TONE} == server.shelf.kept


async def test_missing_parts_are_sent(server: FakeServer) -> None:
    """Where the server lacks parts at the end, it is asked which, and gets them."""
    shelf = server.shelf
    shelf.presigns = True
    shelf.open.clear()
    async with after_a_call(server, timing=PARTS) as (_, peer):
        shelf.signature = "another"
        await settle(peer)
        await within(shelf.holding)
        shelf.refusals.extend([Refusal(503, {"code": "UNAVAILABLE"}), Refusal(409, {"code": "UPLOAD_INCOMPLETE"})])
        shelf.open.set()
        await confirm(peer)

        assert {"call_1": TONE} == shelf.kept
        assert (1, 2) == (shelf.asked["begin"], shelf.asked["state"])


@pytest.mark.parametrize("timing", [FAST, PARTS])
@pytest.mark.parametrize("code", ["RECORDING_OFF", "RECORDING_EXISTS", "UNSUPPORTED_AUDIO", "NOT_FOUND"])
async def test_refused_recording_is_let_go(server: FakeServer, tmp_path: Path, code: str, timing: Timing) -> None:
    """What the server will never take is not sent again, and the phone says which recording and why."""
    server.shelf.refusals.append(Refusal(409, {"code": code}))
    async with after_a_call(server, store=tmp_path / "phone", timing=timing) as (phone, peer):
        await settle(peer)
        await within(phone.uploads.empty)

        assert {"call_1": code} == phone.uploads.refused
        assert 1 == server.shelf.asked.total()
        assert [] == list(own_files(tmp_path / "phone"))
        assert 0 == phone.uploaded.position


async def test_refusal_is_heard_before_all_is_sent(server: FakeServer, tmp_path: Path) -> None:
    """A server that refuses while a large file is still coming is understood."""
    path = tmp_path / "long.wav"
    path.write_bytes(bytes(6_000_000))
    server.shelf.refusals.append(Refusal(403, {"code": "RECORDING_OFF"}))
    async with after_a_call(server, Behaviour(recording=path)) as (phone, peer):
        await settle(peer)
        await within(phone.uploads.empty)

        assert {"call_1": "RECORDING_OFF"} == phone.uploads.refused
        assert {"whole": 1} == server.shelf.asked


async def test_lost_file_ends_the_duty(server: FakeServer, tmp_path: Path) -> None:
    """A file that is not there any more cannot be brought, and is not tried for ever."""
    path = tmp_path / "talk.wav"
    path.write_bytes(TONE)
    async with after_a_call(server, Behaviour(recording=path)) as (phone, peer):
        path.unlink()
        await settle(peer)
        await within(phone.uploads.empty)

        assert {"call_1": "RECORDING_MISSING"} == phone.uploads.refused


# --- the report -----------------------------------------------------------------------------------------------------


async def test_recording_that_is_not_there_is_brought_again(server: FakeServer) -> None:
    """Where the server has not what was reported it is brought again, but not for ever."""
    async with after_a_call(server) as (phone, peer):
        await settle(peer)
        reports = []
        for _ in range(3):
            report = await peer.hear(RecordingUpload)
            reports.append(report.message)
            error = Error(code="NOT_FOUND", message="not here", retry=False, message_id=report.message_id)
            await peer.say(error)
        await within(phone.uploads.empty)

        assert [told(TONE)] * 3 == reports
        assert {"whole": 3} == server.shelf.asked
        assert {"call_1": "NOT_FOUND"} == phone.uploads.refused


async def test_refused_report_ends_the_duty(server: FakeServer) -> None:
    """Where the server has another recording of the call the phone lets go of its own."""
    async with after_a_call(server) as (phone, peer):
        await settle(peer)
        report = await peer.hear(RecordingUpload)
        await peer.say(Error(code="RECORDING_EXISTS", message="", retry=False, message_id=report.message_id))
        await within(phone.uploads.empty)

        assert ({"call_1": "RECORDING_EXISTS"}, {"whole": 1}) == (phone.uploads.refused, server.shelf.asked)


async def test_report_survives_a_restart(server: FakeServer, tmp_path: Path) -> None:
    """A recording that was brought and not acked is reported again after a restart, and not uploaded again."""
    async with after_a_call(server, store=tmp_path / "phone") as (phone, peer):
        await settle(peer)
        before = await peer.hear(RecordingUpload)
        await phone.kill()
        async with phone.restarted() as again:
            peer = await server.accept_phone()
            after = await peer.hear(RecordingUpload)
            await peer.say(Ack(message_id=str(after.message_id)))
            await within(again.uploads.empty)

        assert (before.message_id, before.message) == (after.message_id, after.message)
        assert {"whole": 1} == server.shelf.asked
        assert not Memory(tmp_path / "phone").recordings


async def test_can_bring_twice(server: FakeServer) -> None:
    """As a fault, what was brought is brought once more, and reported once."""
    async with after_a_call(server) as (phone, peer):
        phone.uploads.twice = True
        await settle(peer)
        await confirm(peer)
        await within(phone.uploads.empty)

        assert ({"whole": 2}, 1) == (server.shelf.asked, phone.uploaded.position)
