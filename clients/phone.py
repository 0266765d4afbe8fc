"""A scriptable handset that keeps all of a phone's duties (docs/protocol.md, "The phone's duties").

It stands in for the app: in tests, in load runs (thousands in one process) and as the example to write an app by. The
conversation is sequential and nothing in it waits: each message is written down, acted on and answered before the next
is read. Only the course of a call (behaviour.py) takes time, in a task of its own.
"""

import asyncio
import contextlib
import logging
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, NoReturn, Self, TypeVar, assert_never

import msgspec

from clients.api import Api
from clients.behaviour import Behaviour, NetworkLost, answers
from clients.connection import USUAL, Link, Stopped, Timing, elapsed, stay_connected
from clients.history import History
from clients.memory import (
    Binding,
    Bound,
    CallMemory,
    Connecting,
    Handset,
    Memory,
    Received,
    Recording,
    Report,
    Started,
    Unbound,
)
from clients.outbox import Outbox
from clients.uploads import Uploads
from protocol.call import HangupCause, Outcome
from protocol.errors import CloseCode, DialdeskError
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
    Envelope,
    Error,
    Heartbeat,
    HeartbeatAck,
    Reconnect,
    RecordingUpload,
    ToPhone,
    WelcomePhone,
    encode_data,
    encode_raw,
    new_message_id,
    to_phone,
)
from protocol.pairing import BindPayload, clean_typed_code, origin_of, read_payload

R = TypeVar("R", CallStatus | CallEnd, RecordingUpload)

log = logging.getLogger(__name__)


class Dialled(NamedTuple):
    """The handset dialled: the proof that nothing is dialled twice. `at` is wall-clock seconds."""

    call_id: str
    number: str
    at: float


class _OnCall(msgspec.Struct):
    """The call the handset is on: what it has seen of it, the task that plays it, and what a recorder would leave."""

    call_id: str
    task: asyncio.Task[None]
    audio: Path | bytes | None
    status: str = "calling"
    answered_at: float | None = None


class PhoneClient:
    """One bound phone. Make it by `bind`, or on a Memory that holds a binding; run it as a context manager.

    `behaviour` is what happens when it dials; assign another at any time, it counts from the next call. `timing` has
    the times of the wire. `keep` bounds the histories. `dialled` goes on from that of the handset's former life.
    """

    def __init__(
        self,
        memory: Memory,
        behaviour: Behaviour | None = None,
        *,
        timing: Timing = USUAL,
        tls: ssl.SSLContext | None = None,
        keep: int = 200,
        clock: Callable[[], float] = elapsed,
        dialled: list[Dialled] | None = None,
    ) -> None:
        if memory.binding is None:
            raise ValueError("this phone is not bound: bind it by a QR code first")
        self.memory = memory
        self.behaviour = behaviour or answers()
        self.timing = timing
        self.dialled: list[Dialled] = [] if dialled is None else dialled
        self.heard: History[ToPhone] = History(keep)
        self.reported: History[CallStatus | CallEnd] = History(keep)
        """Reports as they were made, each once, however often sent."""
        self.uploaded: History[RecordingUpload] = History(keep)
        """Reports of recordings that were brought, likewise."""
        self.refused: dict[str, str] = {}
        """Reports that the server will not have: code by message id."""
        self.online = asyncio.Event()
        """Set from WELCOME to the loss of the socket."""
        self.stopped: Stopped | None = None
        """Why the phone has stopped for good."""
        self.withhold_acks = False
        """A fault for tests: commands are obeyed, but not acked."""
        self._binding = memory.binding
        self._tls = tls
        self._keep = keep
        self._clock = clock
        self._boot_id = secrets.token_hex(8)
        self._network = asyncio.Event()
        self._network.set()
        self._link: Link[ToPhone] | None = None
        self._online_sent_at = 0.0
        self._server_ahead: float | None = None
        self._on_call: _OnCall | None = None
        self._private_call = False
        self._prompted: set[str] = set()
        self._outbox = Outbox(memory, timing)
        self.settled = self._outbox.empty
        """Set while no report waits to be acked."""
        self.uploads = Uploads(
            memory,
            timing,
            origin_of(self._binding.websocket_url),
            credentials=self._credentials,
            report=self._report_upload,
            tls=tls,
        )
        """The recordings on their way, to wait for and to play faults on."""
        self._calls: asyncio.TaskGroup
        self._running: asyncio.Task[NoReturn] | None = None

    @classmethod
    async def bind(
        cls,
        code: str | BindPayload,
        handset: Handset,
        behaviour: Behaviour | None = None,
        *,
        origin: str | None = None,
        store: Path | None = None,
        fsync: bool = True,
        timing: Timing = USUAL,
        tls: ssl.SSLContext | None = None,
        keep: int = 200,
        api: Api | None = None,
    ) -> Self:
        """Bind a handset by the text of a QR code, its payload, or the eight characters to type instead.

        `origin` is needed with a typed code only: a QR code tells it. What the phone must not forget goes to the file
        `store`, or nowhere. Many phones to be bound share one `api`. Raises ValueError for a text that is no code of
        ours, Refused and Unreachable.
        """
        payload = _read_code(code)
        if isinstance(payload, BindPayload):
            token, origin = payload.token, origin or origin_of(payload.server_url)
        else:
            token = payload
        described = {name: value for name, value in msgspec.to_builtins(handset).items() if value is not None}
        async with contextlib.AsyncExitStack() as stack:
            if api is None:
                if origin is None:
                    raise ValueError("a typed code does not tell where the server is: give its origin")
                api = await stack.enter_async_context(Api(origin, tls=tls))
            answer = await api.ask("POST", "/api/v1/calls/device/bind", {"token": token, **described})
        memory = Memory(store, fsync=fsync)
        memory.note(Bound(msgspec.convert({**answer, "handset": described}, Binding)))
        return cls(memory, behaviour, timing=timing, tls=tls, keep=keep)

    # --- its life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()
        self.memory.close()

    async def run(self) -> NoReturn:
        """Keep the phone connected, and its duties. Raises Stopped when the server does not want it back."""
        try:
            await self._live()
        except Exception as end:  # Stopped, or a fault of a script's: nothing will be heard or reported any more
            self.heard.end(end)
            self.reported.end(end)
            self.uploaded.end(end)
            raise

    async def _live(self) -> NoReturn:
        try:
            async with asyncio.TaskGroup() as self._calls:
                self._own_up()
                self.uploads.bring(self._calls)
                await stay_connected(
                    self._binding.websocket_url,
                    self._converse,
                    decoder=to_phone,
                    headers=self._credentials,
                    timing=self.timing,
                    tls=self._tls,
                )
        except* Stopped as group:  # a group, for the calls under way are ended with it
            (self.stopped,) = (told for told in group.exceptions if isinstance(told, Stopped))
        assert self.stopped is not None
        if self.stopped.code == CloseCode.UNBOUND or self.stopped.reason == "DEVICE_UNBOUND":
            self.memory.note(Unbound())
        raise self.stopped

    async def kill(self) -> None:
        """End as a process does that is killed: at once, without a close, leaving only what is written down."""
        if self._link is not None:
            self._link.drop()
        await self._end()

    def restarted(self) -> Self:
        """Return the app as it starts again on the same handset after `kill`: with nothing but its memory."""
        return type(self)(
            self.memory.reopened(),
            self.behaviour,
            timing=self.timing,
            tls=self._tls,
            keep=self._keep,
            clock=self._clock,
            dialled=self.dialled,
        )

    @property
    def link(self) -> Link[ToPhone]:
        """The open socket, to play faults on: `phone.link.drop()`. Raises RuntimeError where there is none."""
        if self._link is None:
            raise RuntimeError("the phone has no socket now")
        return self._link

    async def go_offline(self, reason: str | None = None) -> None:
        """Say DEVICE_OFFLINE, leave, and stay away until `come_back`."""
        self._network.clear()
        self.uploads.cut()
        if self._link is not None:
            self._link.send(DeviceOffline(reason=reason))
            await self._link.close()

    def lose_network(self) -> None:
        """Lose the socket and an upload without a word, and stay away until `come_back`."""
        self._network.clear()
        self.uploads.cut()
        if self._link is not None:
            self._link.drop()

    def come_back(self) -> None:
        """Connect again after `go_offline` or `lose_network`."""
        self._network.set()

    def private_call(self, busy: bool) -> None:
        """Begin or end a call of the handset's own; while it lasts, dials are refused with DEVICE_BUSY."""
        self._private_call = busy
        if self._link is not None and self.online.is_set():
            self._link.send(Heartbeat(handset_busy=busy))

    async def _end(self) -> None:
        """End the running task. Raises what it died of, if that was a fault of the script's or ours."""
        if self._running is None:
            return
        self._running.cancel()
        await asyncio.wait({self._running})  # bounded, for closing a Link is
        if not self._running.cancelled() and not isinstance(error := self._running.exception(), Stopped):
            assert error is not None
            raise error

    # --- the conversation -------------------------------------------------------------------------------------------

    async def _credentials(self) -> Mapping[str, str]:
        await self._network.wait()
        return {
            "Authorization": f"Bearer {self._binding.auth_token}",
            "X-Device-Id": self._binding.handset.device_id,
        }

    async def _converse(self, link: Link[ToPhone]) -> None:
        self.memory.note(Connecting(self.memory.connection + 1))
        self._link = link
        self._online_sent_at = self._clock()
        link.send(self._device_online())
        try:
            async for envelope in link:
                self._hear(link, envelope)
        finally:
            self._link = None
            self.online.clear()
            self._outbox.close()

    def _device_online(self) -> DeviceOnline:
        handset = self._binding.handset
        active = ActiveCall() if self._private_call else None
        if self._on_call is not None:
            active = ActiveCall(call_id=self._on_call.call_id, status=self._on_call.status)
        return DeviceOnline(
            app_version=handset.app_version,
            os_type=handset.os_type,
            os_version=handset.os_version,
            device_token=handset.device_token,
            capabilities=self.behaviour.capabilities,
            boot_id=self._boot_id,
            connection=self.memory.connection,
            active_call=active,
            pending_reports=len(self.memory.unacked),
        )

    def _hear(self, link: Link[ToPhone], envelope: Envelope[ToPhone]) -> None:
        self.heard.add(envelope)
        match envelope.message:
            case WelcomePhone() as welcome:
                self._begin(link, welcome)
            case DialCommand() | CancelDial() as command:
                if envelope.message_id is not None:
                    self._obey(link, envelope.message_id, command)
            case Ack(message_id=message_id):
                self._settle(message_id)
            case Error() as error:
                log.info("%s: %s", error.code, error.message)
                if error.message_id is not None and not error.retry:
                    self._settle(error.message_id, error.code)
            case DeviceUnbind(reason=reason):
                raise Stopped(CloseCode.UNBOUND, reason)
            case Heartbeat() | HeartbeatAck() | Reconnect():
                pass  # the Link's share
            case _:
                assert_never(envelope.message)

    def _begin(self, link: Link[ToPhone], welcome: WelcomePhone) -> None:
        """The session stands: set the clock, send what is unacked, obey what waited."""
        # The server's time was taken after DEVICE_ONLINE left here, so this is never behind its clock.
        self._server_ahead = welcome.server_time / 1000 - self._online_sent_at
        self._outbox.open(link)
        for waiting in welcome.commands:
            try:
                envelope = to_phone.decode(encode_raw(waiting.type, bytes(waiting.data), waiting.message_id))
            except DialdeskError as error:  # as for a frame of a newer server
                log.warning("passed over: %s", error)
                continue
            self._hear(link, envelope)
        for call_id, call in list(self.memory.calls.items()):
            self._consider(call_id, call)  # written down and acked in a former life, or before a WELCOME
        self.online.set()

    # --- commands ---------------------------------------------------------------------------------------------------

    def _obey(self, link: Link[ToPhone], message_id: str, command: DialCommand | CancelDial) -> None:
        """Write a command down, ack it, and act on it; to a repeated one say again what was said last of its call."""
        repeated = self.memory.knows(message_id)
        if not repeated:
            dial = command if isinstance(command, DialCommand) else None
            self.memory.note(Received(message_id, command.call_id, dial))
        if not self.withhold_acks:
            link.send(Ack(message_id=message_id))
        call = self.memory.calls[command.call_id]
        if call.last is not None and (repeated or call.ended):
            self._outbox.repeat(call.last)
            return
        match command:
            case DialCommand(call_id=call_id):
                self._consider(call_id, call)
            case CancelDial(call_id=call_id):
                self._cancel(call_id, call)
            case _:
                assert_never(command)

    def _consider(self, call_id: str, call: CallMemory, *, tapped: bool = False) -> None:
        """Dial, or say why not. Nothing is done of a call that was dialled before, or while server time is unknown."""
        if call.dial is None or call.started or call.ended or self._server_ahead is None:
            return
        objection = self._objection(call.dial, call)
        if objection is not None:
            self._report_unmade(call_id, *objection)
        elif self.behaviour.auto_dial or tapped:
            self._dial(call.dial)
        elif call_id not in self._prompted:
            self._prompted.add(call_id)
            self._calls.create_task(self._prompt(call_id, call))

    def _objection(self, command: DialCommand, call: CallMemory) -> tuple[Outcome, HangupCause] | None:
        assert self._server_ahead is not None
        if call.cancelled:
            return Outcome.CANCELLED, HangupCause.CANCELLED
        if (self._clock() + self._server_ahead) * 1000 >= command.expires_at:
            return Outcome.FAILED, HangupCause.EXPIRED
        if self._on_call is not None or self._private_call:
            return Outcome.FAILED, HangupCause.DEVICE_BUSY
        if self.behaviour.refuse is not None:
            return Outcome.FAILED, HangupCause(self.behaviour.refuse)
        return None

    async def _prompt(self, call_id: str, call: CallMemory) -> None:
        """Where the app may not dial by itself: show the number, and wait for a person to tap on it."""
        await asyncio.sleep(self.behaviour.tap_after)
        self._prompted.discard(call_id)
        self._consider(call_id, call, tapped=True)

    def _dial(self, command: DialCommand) -> None:
        self.memory.note(Started(command.call_id))
        self.dialled.append(Dialled(command.call_id, command.customer_phone, time.time()))
        audio = self.behaviour.recording if command.record else None
        self._on_call = _OnCall(command.call_id, self._calls.create_task(self._play(command)), audio)

    async def _play(self, command: DialCommand) -> None:
        async for step in self.behaviour.play(command):
            match step:
                case CallStatus() | CallEnd():
                    self._report(step)
                case NetworkLost(seconds):
                    self.lose_network()
                    asyncio.get_running_loop().call_later(seconds, self.come_back)
                case _:
                    assert_never(step)
        if self._on_call is not None and self._on_call.call_id == command.call_id:
            self._on_call = None  # a script that does not tell how the call ended

    def _cancel(self, call_id: str, call: CallMemory) -> None:
        on_call = self._on_call
        if on_call is not None and on_call.call_id == call_id:
            if self.behaviour.hang_up:
                self._hang_up(on_call)
        elif not call.started:
            self._report_unmade(call_id, Outcome.CANCELLED, HangupCause.CANCELLED)

    def _hang_up(self, on_call: _OnCall) -> None:
        on_call.task.cancel()
        answered = on_call.answered_at is not None
        self._report(
            CallEnd(
                call_id=on_call.call_id,
                status=Outcome.CONNECTED if answered else Outcome.CANCELLED,
                end_time=datetime.now(UTC),
                duration=0.0 if on_call.answered_at is None else round(self._clock() - on_call.answered_at, 3),
                hangup_cause=HangupCause.NORMAL_CLEARING if answered else HangupCause.CANCELLED,
                evidence=self.behaviour.evidence,
            )
        )

    # --- reports ----------------------------------------------------------------------------------------------------

    def _own_up(self) -> None:
        """What a former life dialled, and did not see end, is not dialled again: nobody knows how it went."""
        for call_id, call in list(self.memory.calls.items()):
            if call.started and not call.ended:
                self._report_unmade(call_id, Outcome.UNKNOWN, HangupCause.UNKNOWN)

    def _report_unmade(self, call_id: str, outcome: Outcome, cause: HangupCause) -> None:
        """Report the end of a call that this phone did not see."""
        self._report(CallEnd(call_id=call_id, status=outcome, end_time=datetime.now(UTC), hangup_cause=cause))

    def _report(self, message: CallStatus | CallEnd) -> None:
        """Write a report down and send it as soon as may be; it is sent again until the server has it."""
        on_call = self._on_call
        if on_call is not None and on_call.call_id == message.call_id:
            match message:
                case CallStatus(status=status):
                    on_call.status = status
                    if status == "connected":
                        on_call.answered_at = self._clock()
                case CallEnd(status=status):
                    self._on_call = None
                    if status == Outcome.CONNECTED and on_call.audio is not None:
                        self._record(message.call_id, on_call.audio)
                case _:
                    assert_never(message)
        if isinstance(message, CallEnd):
            message = self._with_recording(message)
        self.reported.add(self._put(message))

    def _settle(self, message_id: str, code: str | None = None) -> None:
        """The server has a report, or refused it for good with this code."""
        report = self.memory.unacked.get(message_id)
        if report is None:
            return
        if code is not None:
            self.refused[message_id] = code
        if report.type == RecordingUpload.type:
            self.uploads.answered(report.call_id, code)
        self._outbox.settle(message_id)
        self.uploads.bring(self._calls)

    def _put(self, message: R) -> Envelope[R]:
        """Write a report down, and send it as soon as may be."""
        now = time.time_ns() // 1_000_000
        report = Report(
            message_id=new_message_id(),
            call_id=message.call_id,
            type=message.type,
            data=msgspec.Raw(encode_data(message)),
            timestamp=now,
        )
        self._outbox.put(report)
        return Envelope(message, report.message_id, now)

    # --- recordings -------------------------------------------------------------------------------------------------

    def _record(self, call_id: str, audio: Path | bytes) -> None:
        """The recorder has left a file, which is to be brought."""
        path = self.memory.keep_audio(call_id, audio) if isinstance(audio, bytes) else audio.absolute()
        self.uploads.put(Recording(call_id=call_id, path=str(path), size=path.stat().st_size))

    def _with_recording(self, end: CallEnd) -> CallEnd:
        call = self.memory.calls.get(end.call_id)
        if call is None or call.recording is None:
            return end
        return msgspec.structs.replace(end, has_recording=True, recording_size=call.recording.size)

    def _report_upload(self, message: RecordingUpload) -> None:
        self.uploaded.add(self._put(message))


def _read_code(code: str | BindPayload) -> BindPayload | str:
    """Return the payload of a QR code, or the token that was typed."""
    if isinstance(code, BindPayload):
        return code
    if code.lstrip().startswith("{"):
        try:
            return read_payload(code)
        except msgspec.DecodeError as error:
            raise ValueError(f"this QR code does not bind a phone: {error}") from error
    typed = clean_typed_code(code)
    if len(typed) != 8 or not typed.isalnum():
        raise ValueError("this is neither a QR code that binds a phone nor a code of eight characters")
    return typed
