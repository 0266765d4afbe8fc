"""The loop between a socket and its session, on real sockets: what peers do wrong, and what the session makes of it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

import server.outbox
from protocol.errors import CloseCode, DialdeskError
from protocol.messages import (
    MAX_FRAME,
    Ack,
    CallEnd,
    CallStatus,
    DeviceOffline,
    DeviceOnline,
    Envelope,
    FromPhone,
    Heartbeat,
    HeartbeatAck,
    Message,
    encode,
    from_phone,
)
from protocol.session import Session, SessionLimits
from server.config import Config
from server.outbox import Outbox
from server.serve import Server
from server.telemetry import Metrics
from server.websocket import websocket_of
from server.wheel import Wheel
from server.wire import Wire
from tests.server.serving import raw_client, serving
from tests.waiting import until

LIMITS = SessionLimits()


class Talker:
    """A session that answers HEARTBEAT, refuses CALL_STATUS, fails at CALL_END and gets DEVICE_OFFLINE done."""

    def __init__(self, wire: Wire[FromPhone], opening: Exception | None, over: asyncio.Event) -> None:
        self._wire = wire
        self._opening = opening
        self._over = over
        self.heard_of: list[FromPhone] = []
        self.events: list[str] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def opened(self, envelope: Envelope[FromPhone]) -> None:
        """Welcome."""
        assert isinstance(envelope.message, DeviceOnline)
        if self._opening is not None:
            raise self._opening
        self._wire.outbox.put(encode(HeartbeatAck(last_seq=0)))

    def heard(self, envelope: Envelope[FromPhone]) -> Awaitable[None] | None:
        """Act, at once or when it may go on."""
        self.heard_of.append(envelope.message)
        if not self.may_go_on.is_set():
            return self._act_later(envelope)
        return self._act(envelope)

    async def _act_later(self, envelope: Envelope[FromPhone]) -> None:
        await self.may_go_on.wait()
        self._act(envelope)

    def _act(self, envelope: Envelope[FromPhone]) -> None:
        match envelope.message:
            case Heartbeat():
                self._wire.outbox.put(encode(HeartbeatAck(last_seq=len(self.heard_of))))
            case CallStatus():
                raise DialdeskError("CALL_CHANGED")
            case CallEnd():
                raise ZeroDivisionError("a bug")
            case DeviceOffline():
                assert envelope.message_id is not None
                self._wire.session.done(envelope.message_id)
                self._wire.outbox.put(encode(Ack(message_id=envelope.message_id)))

    def silent(self) -> None:
        """It counts as offline."""
        self.events.append("silent")

    def revived(self) -> None:
        """It is back."""
        self.events.append("revived")

    def gone(self) -> None:
        """It is over."""
        self._over.set()


class Line:
    """An application whose sockets are wires; `talker` is the session of the last one. Its time stands still."""

    def __init__(
        self,
        limits: SessionLimits = LIMITS,
        *,
        opening: Exception | None = None,
        bound: int = 1024 * 1024,
    ) -> None:
        self._limits = limits
        self._opening = opening
        self._bound = bound
        self.metrics = Metrics()
        self.permitted = True
        self.now = 1000.0
        self.wheel = Wheel(1.0, lambda: self.now)
        self.over = asyncio.Event()
        self.wire: Wire[FromPhone] | None = None
        self.talker: Talker | None = None

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        session = Session(from_phone, DeviceOnline, self._limits, self.wheel.now())
        socket = websocket_of(scope)
        outbox = Outbox(socket, self._bound, lambda: self.permitted)
        self.wire = Wire("phone", session, socket, outbox, self.wheel, self.metrics, "en")
        self.talker = Talker(self.wire, self._opening, self.over)
        self.wire.open(scope, self.talker)

    @property
    def closing(self) -> tuple[int, str] | None:
        """Whether the last socket is being closed."""
        return None if self.wire is None else self.wire.outbox.closing

    def let_pass(self, seconds: float) -> None:
        """Let time pass, a second at a time."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1.0
            self.wheel.advance()


class Caller:
    """A client of a line."""

    def __init__(self, socket: ClientConnection, line: Line) -> None:
        self.socket = socket
        self.line = line

    async def say(self, message: Message, message_id: str | None = None) -> None:
        """Send a message."""
        await self.socket.send(encode(message, message_id).decode())

    async def hear(self) -> tuple[str, dict[str, Any]]:
        """The type and data of the next message."""
        async with asyncio.timeout(20):
            told = msgspec.json.decode(await self.socket.recv())
        return told["type"], told["data"]

    async def closed(self) -> tuple[int | None, str]:
        """Code and reason with which the server closes, whatever it says before."""
        try:
            async with asyncio.timeout(20):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "")

    @property
    def talker(self) -> Talker:
        """The session at the other end."""
        assert self.line.talker is not None
        return self.line.talker


@asynccontextmanager
async def calling(line: Line, config: Config, *, welcomed: bool = True) -> AsyncIterator[Caller]:
    """A client of `line`, welcomed if the test does not say otherwise."""
    async with serving(line, config) as node:
        async with connect(f"ws://127.0.0.1:{node.port}/", compression=None, ping_interval=None) as socket:
            caller = Caller(socket, line)
            await until(lambda: line.talker is not None)
            if welcomed:
                await caller.say(DeviceOnline())
                assert ("HEARTBEAT_ACK", {"lastSeq": 0}) == await caller.hear()
            yield caller
        async with asyncio.timeout(20):
            await line.over.wait()


# --- how a session begins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ['{"type": "HEARTBEAT"}', "{", '{"type": "OF_TOMORROW"}', b"\xff\xfe"])
async def test_a_wrong_first_message_closes_4400(config: Config, first: str | bytes) -> None:
    """Whatever it is instead."""
    async with calling(Line(), config, welcomed=False) as caller:
        await caller.socket.send(first)

        assert (CloseCode.FIRST_MESSAGE, "the first message must be DEVICE_ONLINE") == await caller.closed()


async def test_a_peer_that_says_nothing_is_closed_4400(config: Config) -> None:
    """A socket that is open and silent costs nobody anything for long."""
    async with calling(Line(), config, welcomed=False) as caller:
        caller.line.let_pass(LIMITS.first_message + 1)

        assert (CloseCode.FIRST_MESSAGE, "no first message in time") == await caller.closed()


@pytest.mark.parametrize("failure", [DialdeskError("UNAVAILABLE"), ZeroDivisionError("a bug")])
async def test_a_session_that_cannot_be_opened_is_closed(config: Config, failure: Exception) -> None:
    """The peer is told why, and to come back: a socket that nobody welcomed is not left standing."""
    async with calling(Line(opening=failure), config, welcomed=False) as caller:
        await caller.say(DeviceOnline(), "m1")
        kind, data = await caller.hear()
        code, _ = await caller.closed()

    expected = failure.code if isinstance(failure, DialdeskError) else "INTERNAL"
    assert ("ERROR", expected, "m1", CloseCode.DRAINING) == (kind, data["code"], data["messageId"], code)


# --- what a peer may say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("", "BAD_MESSAGE"),
        ("{", "BAD_MESSAGE"),
        ("[]", "BAD_MESSAGE"),
        ("null", "BAD_MESSAGE"),
        ('{"type": 1}', "BAD_MESSAGE"),
        ('{"type": "ACK", "data": {}}', "BAD_MESSAGE"),
        ('{"type": "CALL_STATUS", "data": {"callId": "c", "status": "flying"}}', "BAD_MESSAGE"),
        ('{"type": "CALL_END", "data": {"callId": "\\u0000", "status": "missed"}}', "BAD_MESSAGE"),
        ('{"type": "ACK", "data": {"messageId": "\\ud800"}}', "BAD_MESSAGE"),
        (f'{{"type": {"[" * 20000}', "BAD_MESSAGE"),
        (b"\xff\x00\xfe", "BAD_MESSAGE"),
        ('{"type": "OF_TOMORROW", "data": {}}', "UNKNOWN_TYPE"),
        ('{"type": "DIAL", "data": {}}', "UNKNOWN_TYPE"),
    ],
)
async def test_a_frame_that_cannot_be_read_is_refused_and_the_session_goes_on(
    config: Config, frame: str | bytes, code: str
) -> None:
    """ERROR, not to be repeated; the next message is heard."""
    async with calling(Line(), config) as caller:
        await caller.socket.send(frame)
        kind, data = await caller.hear()
        await caller.say(Heartbeat())

        assert ("ERROR", code, False) == (kind, data["code"], data["retry"])
        assert ("HEARTBEAT_ACK", {"lastSeq": 1}) == await caller.hear()


async def test_a_malformed_report_is_refused_by_its_id(config: Config) -> None:
    """Or its sender would repeat it for ever."""
    async with calling(Line(), config) as caller:
        await caller.socket.send('{"type": "CALL_END", "messageId": "m7", "data": {"callId": "c"}}')
        _, data = await caller.hear()

        assert "m7" == data["messageId"]


async def test_the_tenth_malformed_frame_in_a_minute_closes_4400(config: Config) -> None:
    """Nine are refused."""
    async with calling(Line(), config) as caller:
        for _ in range(9):
            await caller.socket.send("{")
            assert "ERROR" == (await caller.hear())[0]
        await caller.socket.send("{")

        assert (CloseCode.FIRST_MESSAGE, "too many malformed frames") == await caller.closed()


async def test_a_message_of_json_in_a_binary_frame_is_read(config: Config) -> None:
    """What it says counts, not how it was wrapped."""
    async with calling(Line(), config) as caller:
        await caller.socket.send(encode(Heartbeat()))

        assert ("HEARTBEAT_ACK", {"lastSeq": 1}) == await caller.hear()


async def test_a_frame_of_the_greatest_size_is_heard(config: Config) -> None:
    """64 KiB, and not a byte more."""
    empty = len('{"type":"HEARTBEAT","data":{"x":""}}')
    async with calling(Line(), config) as caller:
        await caller.socket.send('{"type":"HEARTBEAT","data":{"x":"' + "a" * (MAX_FRAME - empty) + '"}}')

        assert ("HEARTBEAT_ACK", {"lastSeq": 1}) == await caller.hear()


@pytest.mark.parametrize("size", [MAX_FRAME + 1, 1024 * 1024])
async def test_a_frame_that_is_too_large_closes_1009(config: Config, size: int) -> None:
    """The library refuses it before it is whole, and the session ends."""
    async with calling(Line(), config) as caller:
        await caller.socket.send("a" * size)

        assert 1009 == (await caller.closed())[0]


async def test_a_message_in_many_fragments_is_bounded_too(config: Config) -> None:
    """Small frames that never end are as large as large ones."""
    async with calling(Line(), config) as caller:

        async def for_ever() -> AsyncIterator[str]:
            for _ in range(1000):
                yield "a" * 1024

        with contextlib.suppress(ConnectionClosed):  # in the middle of it, or after it
            await caller.socket.send(for_ever())

        assert 1009 == (await caller.closed())[0]


# --- peers that break off ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def bare(line: Line, config: Config) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, Server]]:
    """A client of `line` that sends bytes as they are, welcomed."""
    async with serving(line, config) as node, raw_client(node.port) as (reader, writer):
        writer.write(Frame(Opcode.TEXT, encode(DeviceOnline())).serialize(mask=True))
        async with asyncio.timeout(20):
            await reader.readexactly(2)
        yield reader, writer, node


async def test_invalid_utf8_closes_1007(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """While frames for the peer are being written: they meet a closed socket, and that is nobody's error."""
    line = Line()
    async with bare(line, config) as (reader, writer, _):
        writer.write(Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True))
        ending = asyncio.create_task(reader.read())
        while not ending.done():
            assert line.wire is not None
            line.wire.outbox.put(encode(Heartbeat()))
            await asyncio.sleep(0)
        writer.close()
        async with asyncio.timeout(20):
            await line.over.wait()
    errors = [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]

    assert b"\x88\x0a\x03\xefno UTF-8" == ending.result()[-12:]
    assert [] == errors


async def test_half_a_frame_and_then_nothing_ends_the_session(config: Config) -> None:
    """The connection goes in the middle of a frame."""
    line = Line()
    frame = Frame(Opcode.TEXT, encode(Heartbeat())).serialize(mask=True)
    async with bare(line, config) as (_, writer, node):
        writer.write(frame[: len(frame) // 2])
        await writer.drain()
        writer.close()
        async with asyncio.timeout(20):
            await line.over.wait()
        await until(lambda: not node.server_state.connections)

    assert line.talker is not None
    assert [] == line.talker.heard_of


async def test_frames_that_break_the_protocol_close_1002(config: Config) -> None:
    """A frame that is not masked is no client's."""
    line = Line()
    async with bare(line, config) as (reader, writer, _):
        writer.write(Frame(Opcode.TEXT, encode(Heartbeat())).serialize(mask=False))
        async with asyncio.timeout(20):
            rest = await reader.read()
            writer.close()
            await line.over.wait()

    assert b"\x03\xea" == rest[rest.index(b"\x88") + 2 :][:2]


async def test_a_peer_that_closes_ends_its_session(config: Config) -> None:
    """Nothing of it is left that would act on the wheel."""
    line = Line()
    async with calling(line, config) as caller:
        await caller.socket.close()
        async with asyncio.timeout(20):
            await line.over.wait()

    assert line.wire is not None
    assert line.wire.turn(line.wheel.now() + 1000) is None


async def test_what_a_peer_said_before_it_went_is_acted_on(config: Config) -> None:
    """Though it came while another message was; only then the session is over."""
    line = Line()
    frame = Frame(Opcode.TEXT, encode(Heartbeat())).serialize(mask=True)
    async with bare(line, config) as (_, writer, node):
        assert line.talker is not None
        line.talker.may_go_on.clear()
        writer.write(frame * 3)
        await until(lambda: len(line.talker.heard_of) == 1)  # type: ignore[union-attr]
        [connection] = node.server_state.connections
        writer.write(frame)
        await writer.drain()
        await until(lambda: len(connection._buffer) == 3 * len(frame))  # type: ignore[union-attr]
        connection.connection_lost(None)
        early = line.over.is_set()
        line.talker.may_go_on.set()
        async with asyncio.timeout(20):
            await line.over.wait()
        connection._transport.abort()  # type: ignore[union-attr]

    assert (False, 4) == (early, len(line.talker.heard_of))


async def test_a_session_that_has_nothing_to_do_has_no_task(config: Config) -> None:
    """A hundred thousand phones would be as many of them."""
    async with bare(Line(), config) as (_, _, node):
        await until(lambda: not node.server_state.tasks)
        sessions = len(node.server_state.connections)

    assert 1 == sessions


# --- peers in a hurry, and peers that are slow ------------------------------------------------------------------------


async def test_ten_thousand_messages_at_once_are_too_many(config: Config) -> None:
    """4429 after the burst; the rest is read and thrown away, and nothing piles up."""
    line = Line(SessionLimits(message_burst=500))
    async with calling(line, config) as caller:

        async def flood() -> None:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(10_000):
                    await caller.say(Heartbeat())

        flooding = asyncio.create_task(flood())
        closed = await caller.closed()
        await flooding

        assert (CloseCode.TOO_MANY_MESSAGES, "too many messages") == closed
        assert 499 == len(caller.talker.heard_of)


async def test_ten_thousand_messages_within_the_limit_are_all_answered(config: Config) -> None:
    """In their order, one after the other."""
    line = Line(SessionLimits(message_burst=20_000))
    async with calling(line, config) as caller:

        async def flood() -> None:
            for _ in range(10_000):
                await caller.say(Heartbeat())

        flooding = asyncio.create_task(flood())
        answers = [(await caller.hear())[1]["lastSeq"] for _ in range(10_000)]
        await flooding

    assert list(range(1, 10_001)) == answers


async def test_what_a_peer_sends_while_it_is_served_waits_in_its_socket(config: Config) -> None:
    """One message is acted on at a time; uvicorn stops reading and holds no more than what it had read."""
    line = Line(SessionLimits(message_burst=100_000))
    frame = Frame(Opcode.TEXT, encode(Ack(message_id="m" * 128))).serialize(mask=True)
    async with bare(line, config) as (_, writer, node):
        assert line.talker is not None
        line.talker.may_go_on.clear()
        for _ in range(40):
            writer.write(frame * 1000)
        await until(lambda: len(line.talker.heard_of) == 1)  # type: ignore[union-attr]
        for _ in range(50):
            await asyncio.sleep(0)
        [connection] = node.server_state.connections
        waiting = len(connection._buffer) // len(frame)  # type: ignore[union-attr]
        line.talker.may_go_on.set()
        await until(lambda: len(line.talker.heard_of) == 40_000)  # type: ignore[union-attr]

    assert waiting < 2000


async def test_a_peer_that_does_not_read_its_refusals_is_closed_4410(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks and asks and never listens: its outbox fills, and its socket is gone soon after."""
    monkeypatch.setattr(server.outbox, "SEND_CLOSE", 0.05)
    line = Line(SessionLimits(message_burst=1e9), bound=64 * 1024)
    frame = Frame(Opcode.TEXT, encode(CallStatus(call_id="c" * 100, status="ringing"), "m" * 100)).serialize(mask=True)
    async with bare(line, config) as (_, writer, node):
        while not line.over.is_set():
            writer.write(frame * 1000)
            try:
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await line.over.wait()
        await until(lambda: not node.server_state.connections)

    assert line.wire is not None
    assert (CloseCode.SLOW_CONSUMER, "slow consumer") == line.wire.outbox.closing


# --- what the session says --------------------------------------------------------------------------------------------


async def test_a_refusal_and_a_bug_are_told_and_the_session_goes_on(config: Config) -> None:
    """ERROR with the id of the message, and whether to send it again."""
    async with calling(Line(), config) as caller:
        await caller.say(CallStatus(call_id="c", status="ringing"), "m1")
        refused = await caller.hear()
        await caller.say(CallEnd(call_id="c", status="missed"), "m2")
        failed = await caller.hear()
        await caller.say(Heartbeat())
        going_on = await caller.hear()

    assert [("ERROR", "CALL_CHANGED", True, "m1"), ("ERROR", "INTERNAL", True, "m2")] == [
        (kind, data["code"], data["retry"], data["messageId"]) for kind, data in (refused, failed)
    ]
    assert ("HEARTBEAT_ACK", {"lastSeq": 3}) == going_on


async def test_a_message_whose_work_is_done_is_acknowledged_again_and_not_acted_on(config: Config) -> None:
    """A repeat is a repeat."""
    async with calling(Line(), config) as caller:
        for _ in range(3):
            await caller.say(DeviceOffline(), "m1")
        answers = [await caller.hear() for _ in range(3)]

        assert [("ACK", {"messageId": "m1"})] * 3 == answers
        assert [DeviceOffline()] == caller.talker.heard_of


async def test_a_silent_peer_is_asked_then_offline_then_closed(config: Config) -> None:
    """HEARTBEAT, then the session is told, then 4408."""
    async with calling(Line(), config) as caller:
        caller.line.let_pass(LIMITS.probe_after + 1)
        probe, before = await caller.hear(), list(caller.talker.events)
        caller.line.let_pass(LIMITS.offline_after - LIMITS.probe_after)
        silent, closing = list(caller.talker.events), caller.line.closing
        caller.line.let_pass(LIMITS.close_after - LIMITS.offline_after)
        closed = await caller.closed()

        assert (("HEARTBEAT", {}), [], ["silent"], None) == (probe, before, silent, closing)
        assert (CloseCode.HEARTBEAT_LOST, "no heartbeat") == closed
        assert ["silent"] == caller.talker.events


async def test_a_peer_that_is_heard_again_is_revived(config: Config) -> None:
    """Any frame will do, also one that is refused; once."""
    async with calling(Line(), config) as caller:
        caller.line.let_pass(LIMITS.offline_after + 1)
        await caller.socket.send("{")
        await until(lambda: len(caller.talker.events) == 2)
        await caller.say(Heartbeat())
        await until(lambda: len(caller.talker.heard_of) == 1)

        assert ["silent", "revived"] == caller.talker.events


async def test_nothing_is_written_while_the_node_may_not_speak(config: Config) -> None:
    """Neither welcome nor ack, though the messages are acted on; all of it comes afterwards."""
    line = Line()
    line.permitted = False
    async with calling(line, config, welcomed=False) as caller:
        await caller.say(DeviceOnline())
        await caller.say(Heartbeat())
        await until(lambda: line.talker is not None and len(line.talker.heard_of) == 1)
        hearing = asyncio.create_task(caller.hear())
        for _ in range(20):
            await asyncio.sleep(0)
        early = hearing.done()
        line.permitted = True
        assert line.wire is not None
        line.wire.outbox.flush()

        assert not early
        assert [0, 1] == [(await hearing)[1]["lastSeq"], (await caller.hear())[1]["lastSeq"]]


async def test_a_close_from_elsewhere_ends_the_session(config: Config) -> None:
    """The peer gets the last frame, the code and the reason; what it says after that is not acted on."""
    async with calling(Line(), config) as caller:
        assert caller.line.wire is not None
        caller.line.wire.outbox.close(CloseCode.UNBOUND, "unbound", encode(HeartbeatAck(last_seq=99)))
        await caller.say(Heartbeat())
        last = await caller.hear()

        assert ("HEARTBEAT_ACK", {"lastSeq": 99}) == last
        assert (CloseCode.UNBOUND, "unbound") == await caller.closed()
        assert [] == caller.talker.heard_of
