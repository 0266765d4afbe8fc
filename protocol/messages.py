"""Every WebSocket message, named by who speaks, and the envelope they travel in (seed 003 §2.4.1; docs/protocol.md).

A message is a frozen Struct whose `type` names it on the wire. New fields have defaults and unknown fields are ignored,
so that an older server serves a newer app; tags and meanings never change.
"""

import random
import re
import time
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

import msgspec

from protocol.call import Evidence, HangupCause, Outcome, Status
from protocol.errors import DialdeskError
from protocol.timestamps import Timestamp

M = TypeVar("M")
T = TypeVar("T")

MAX_FRAME = 64 * 1024
"""Bytes of the longest frame either side accepts."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=512)]
OutcomeWord = Annotated[str, msgspec.Meta(max_length=128, examples=[outcome.value for outcome in Outcome])]
"""How a call ended, in a phone's words: one of Outcome; a word of a newer app counts as `unknown` and is kept."""
EvidenceWord = Annotated[
    str, msgspec.Meta(max_length=128, examples=["in_call_service", "cx_call", "call_log", "assumed"])
]
"""On what grounds a phone says so: one of these four; any other word counts as `assumed`."""
PeerClock = float
"""Epoch milliseconds by the sender's own clock: any number is taken, for a wrong clock must not lose a report."""
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", examples=["e3b0c442" + 48 * "0" + "7852b855"])]
"""The SHA-256 of a file: 64 hexadecimal digits in lower case."""
NO_DATA = msgspec.Raw(b"null")
"""The `custom_data` of a call that has none: this very object is left out of frames. An empty Raw would break them."""


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The `data` of an envelope; `type` is its tag."""

    type: ClassVar[str]


# --- from the phone -------------------------------------------------------------------------------------------------


class Capabilities(msgspec.Struct, frozen=True, rename="camel"):
    """What a handset can do and see (docs/handsets.md); a phone that says nothing can do nothing by itself."""

    auto_dial: bool = False
    hang_up: bool = False
    answer_signal: bool = False
    recording: bool = False


class ActiveCall(msgspec.Struct, frozen=True, rename="camel"):
    """The call a handset is on. Without `call_id` it is a call of its own, and dials are refused with DEVICE_BUSY."""

    call_id: Id | None = None
    status: Text | None = None


class DeviceOnline(Message, frozen=True, kw_only=True):
    """The first message of a phone. `connection` is kept on the phone and raised at each attempt to connect."""

    type: ClassVar[str] = "DEVICE_ONLINE"
    app_version: Text = ""
    os_type: Text = "android"
    os_version: Text = ""
    device_token: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    capabilities: Capabilities = Capabilities()
    boot_id: Text = ""
    connection: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    active_call: ActiveCall | None = None
    pending_reports: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0


class DeviceOffline(Message, frozen=True, kw_only=True):
    """The phone goes on purpose: it is offline at once, without grace."""

    type: ClassVar[str] = "DEVICE_OFFLINE"
    reason: Text | None = None


class Heartbeat(Message, frozen=True, kw_only=True):
    """A sign of life. `handset_busy` tells that a private call began or ended since DEVICE_ONLINE."""

    type: ClassVar[str] = "HEARTBEAT"
    battery: float | None = None
    network: Text | None = None
    handset_busy: bool | None = None


class Ack(Message, frozen=True, kw_only=True):
    """From a phone: the command is on its disk. From the server: the report is committed."""

    type: ClassVar[str] = "ACK"
    message_id: Id


class CallStatus(Message, frozen=True, kw_only=True):
    """A call moved on (seed 003 §2.2.3). `timestamp` is the phone's clock and informs only."""

    type: ClassVar[str] = "CALL_STATUS"
    call_id: Id
    status: Literal["calling", "ringing", "connected"]
    timestamp: PeerClock | None = None
    evidence: EvidenceWord | None = None


class CallEnd(Message, frozen=True, kw_only=True):
    """A call is over (seed 003 §2.2.3). May come twice: at once, then enriched from the call log. Times without an
    offset mean UTC: they come naive, and must be made aware before they meet any of ours."""

    type: ClassVar[str] = "CALL_END"
    call_id: Id
    status: OutcomeWord
    start_time: datetime | None = None
    end_time: datetime | None = None
    duration: float | None = None
    hangup_cause: Text | None = None
    evidence: EvidenceWord | None = None
    has_recording: bool | None = None
    recording_size: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None


class RecordingUpload(Message, frozen=True, kw_only=True):
    """The upload over HTTP is complete (seed 003 §2.2.3): checked against what has been stored."""

    type: ClassVar[str] = "RECORDING_UPLOAD"
    call_id: Id
    size: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    sha256: Sha256


# --- to the phone ---------------------------------------------------------------------------------------------------


class DialCommand(Message, frozen=True, kw_only=True):
    """Dial this number, if server time is still before `expires_at` (epoch milliseconds).

    Record the call only where `record` says so; `consent_notice` is what the agent must tell the customer first."""

    type: ClassVar[str] = "DIAL_COMMAND"
    call_id: str
    customer_phone: str
    expires_at: int
    record: bool = False
    consent_notice: str | None = None
    customer_name: str | None = None
    customer_id: str | None = None
    order_id: str | None = None


class CancelDial(Message, frozen=True, kw_only=True):
    """Do not dial this call, or hang it up. One that comes before its DIAL_COMMAND is remembered."""

    type: ClassVar[str] = "CANCEL_DIAL"
    call_id: str
    reason: str


class WaitingCommand(msgspec.Struct, frozen=True, rename="camel"):
    """A command as it stands in WELCOME: the same id and content as when it is sent alone."""

    type: str
    message_id: str
    data: msgspec.Raw


class WelcomePhone(Message, frozen=True, kw_only=True):
    """The session stands. `server_time` (epoch ms) is what the phone judges expiry by; `commands` are still waiting."""

    type: ClassVar[str] = "WELCOME"
    session_id: str
    heartbeat_interval: float
    server_time: int
    node: str
    epoch: int
    commands: list[WaitingCommand] = []


class DeviceUnbind(Message, frozen=True, kw_only=True):
    """The binding is over and its token void; the app forgets it."""

    type: ClassVar[str] = "DEVICE_UNBIND"
    reason: str


# --- from the agent's page ------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True):
    """The first message of a page, and again at any time: resume after `last_seq`."""

    type: ClassVar[str] = "HELLO"
    last_seq: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    client: Text | None = None


class Dial(Message, frozen=True, kw_only=True):
    """Start a call; the same fields as `POST /api/v1/calls/dial`. Its `messageId` is the idempotency key."""

    type: ClassVar[str] = "DIAL"
    customer_phone: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    customer_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    customer_name: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    call_method: Literal["mobile", "cloud"] | None = None
    line_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    case_type: Annotated[str, msgspec.Meta(max_length=50)] | None = None
    tags: Annotated[list[Annotated[str, msgspec.Meta(max_length=50)]], msgspec.Meta(max_length=50)] = []
    order_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    external_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    custom_data: dict[str, Any] | None = None
    device_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    user_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class HangUp(Message, frozen=True, kw_only=True):
    """End a call, or keep it from being dialled."""

    type: ClassVar[str] = "HANGUP"
    call_id: Id


# --- to the agent's page --------------------------------------------------------------------------------------------


class DeviceView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A work phone as its agent sees it (seed 003 §5.1)."""

    id: str
    device_id: str
    phone_number: str
    device_name: str
    device_model: str
    os_type: str
    online_status: Literal["online", "offline"]
    bind_time: Timestamp
    last_active_at: Timestamp | None = None
    capabilities: Capabilities = Capabilities()
    is_default: bool = False


class LiveCall(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A call that has not ended, as a page needs it to draw its window. `customer_phone` is masked."""

    call_id: str
    status: Status
    call_method: str
    customer_phone: str
    created_at: Timestamp
    device_id: str | None = None
    customer_name: str | None = None
    customer_id: str | None = None
    order_id: str | None = None
    external_id: str | None = None
    custom_data: msgspec.Raw = NO_DATA
    connected_at: Timestamp | None = None


class WelcomeAgent(Message, frozen=True, kw_only=True):
    """The session stands; devices and calls are as of `last_seq`."""

    type: ClassVar[str] = "WELCOME"
    session_id: str
    heartbeat_interval: float
    server_time: int
    node: str
    last_seq: int
    devices: list[DeviceView] = []
    calls: list[LiveCall] = []


class DialAccepted(Message, frozen=True, kw_only=True):
    """The answer to DIAL: the call exists and its command is committed. `message_id` is the DIAL's."""

    type: ClassVar[str] = "DIAL_ACCEPTED"
    message_id: str
    call_id: str


class HangUpAccepted(Message, frozen=True, kw_only=True):
    """The answer to HANGUP. The call ends when the phone says so: CALL_ENDED follows."""

    type: ClassVar[str] = "HANGUP_ACCEPTED"
    message_id: str
    call_id: str


class DeviceBound(Message, frozen=True, kw_only=True):
    """A phone was bound to this agent; the QR page learns here that the scan worked."""

    type: ClassVar[str] = "DEVICE_BOUND"
    device: DeviceView


class DeviceUnbound(Message, frozen=True, kw_only=True):
    """A phone is no longer this agent's."""

    type: ClassVar[str] = "DEVICE_UNBOUND"
    device_id: str
    reason: str


class DeviceStatus(Message, frozen=True, kw_only=True):
    """A phone of this agent went online or offline."""

    type: ClassVar[str] = "DEVICE_STATUS"
    device_id: str
    online_status: Literal["online", "offline"]


class OfCall(Message, frozen=True, kw_only=True):
    """What every event of a call says: which one, and what the CRM hung on it. `customer_phone` is masked; `at` is
    epoch milliseconds."""

    type: ClassVar[str] = "OF_CALL"
    call_id: str
    at: int
    evidence: Evidence
    customer_phone: str
    customer_name: str | None = None
    customer_id: str | None = None
    order_id: str | None = None
    external_id: str | None = None
    custom_data: msgspec.Raw = NO_DATA
    device_id: str | None = None


class CallProgress(OfCall, frozen=True, kw_only=True):
    """What the three messages of a living call say; `source` is who told it."""

    type: ClassVar[str] = "CALL_PROGRESS"
    source: str


class CallDialing(CallProgress, frozen=True, kw_only=True):
    """The phone (or provider) says that it is dialling."""

    type: ClassVar[str] = "CALL_DIALING"


class CallRinging(CallProgress, frozen=True, kw_only=True):
    """The customer's phone rings."""

    type: ClassVar[str] = "CALL_RINGING"


class CallConnected(CallProgress, frozen=True, kw_only=True):
    """The customer answered, as far as `evidence` goes."""

    type: ClassVar[str] = "CALL_CONNECTED"


class CallEnded(OfCall, frozen=True, kw_only=True):
    """The call is over. It comes again, marked `enriched`, when a stronger record corrects it. `duration` is in s."""

    type: ClassVar[str] = "CALL_ENDED"
    status: Outcome
    hangup_cause: HangupCause
    closed_by: str
    duration: int | None = None
    has_recording: bool | None = None
    enriched: bool = False


class RecordingReady(Message, frozen=True, kw_only=True):
    """A call's recording is stored, whole: it can be played at `recording_url`. `size` is in bytes, `at` epoch ms."""

    type: ClassVar[str] = "RECORDING_READY"
    call_id: str
    at: int
    source: Literal["phone", "agent", "provider"]
    media_type: str
    size: int
    recording_url: str


class Resync(Message, frozen=True, kw_only=True):
    """Continuity is lost between `from_seq` and `to_seq`: read calls and devices again over HTTP."""

    type: ClassVar[str] = "RESYNC"
    from_seq: int
    to_seq: int


# --- both ways ------------------------------------------------------------------------------------------------------


class HeartbeatAck(Message, frozen=True, kw_only=True):
    """The answer to HEARTBEAT. To a page it tells `last_seq`: one that is behind asks again with HELLO."""

    type: ClassVar[str] = "HEARTBEAT_ACK"
    last_seq: int | None = None


class Reconnect(Message, frozen=True, kw_only=True):
    """This node is leaving: come back after a random share of `after_ms`."""

    type: ClassVar[str] = "RECONNECT"
    after_ms: int
    reason: str


class Error(Message, frozen=True, kw_only=True):
    """Something the peer sent was refused. `retry: false` ends a report: it must not be sent again."""

    type: ClassVar[str] = "ERROR"
    code: str
    message: str
    retry: bool
    message_id: str | None = None
    details: dict[str, Any] = {}


FromPhone = DeviceOnline | DeviceOffline | Heartbeat | HeartbeatAck | Ack | CallStatus | CallEnd | RecordingUpload
ToPhone = WelcomePhone | HeartbeatAck | Heartbeat | Ack | Error | DialCommand | CancelDial | DeviceUnbind | Reconnect
FromAgent = Hello | Heartbeat | HeartbeatAck | Dial | HangUp
ToAgent = (
    WelcomeAgent
    | HeartbeatAck
    | Heartbeat
    | Error
    | DialAccepted
    | HangUpAccepted
    | DeviceBound
    | DeviceUnbound
    | DeviceStatus
    | CallDialing
    | CallRinging
    | CallConnected
    | CallEnded
    | RecordingReady
    | Resync
    | Reconnect
)

SEQUENCED: frozenset[str] = frozenset(
    message.type
    for message in (
        DeviceBound,
        DeviceUnbound,
        DeviceStatus,
        CallDialing,
        CallRinging,
        CallConnected,
        CallEnded,
        RecordingReady,
    )
)
"""The events to agents that carry `seq`: none of these is ever missed silently."""


# --- the envelope ---------------------------------------------------------------------------------------------------


class _Named(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    message_id: Id | None = None


class _Outer(_Named, frozen=True, kw_only=True, rename="camel"):
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    timestamp: PeerClock = 0
    seq: int | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _OuterOut(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    type: str
    message_id: str
    timestamp: int
    data: msgspec.Raw
    seq: int | None = None


class Envelope(msgspec.Struct, Generic[M], frozen=True):
    """One decoded frame. `message_id` is None only where the sender left it out (heartbeats of simple clients)."""

    message: M
    message_id: str | None
    timestamp: float
    seq: int | None = None


_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # an escape, not a backslash that is escaped itself


class Decoder(Generic[M]):
    """Reads the frames of one speaker: `Decoder(FromPhone)` refuses what only an agent may say."""

    def __init__(self, *speech: type[M]) -> None:
        self._named = msgspec.json.Decoder(_Named)
        self._outer = msgspec.json.Decoder(_Outer)
        self._data = {message.type: msgspec.json.Decoder(message) for message in speech}  # type: ignore[attr-defined]

    def decode(self, frame: str | bytes) -> Envelope[M]:
        """Read one text frame. Raises BAD_MESSAGE, or UNKNOWN_TYPE for a well-formed frame of a type not known here;
        the error carries `messageId` in its details where the frame told one."""
        octets = frame.encode(errors="surrogatepass") if isinstance(frame, str) else frame
        try:
            outer = self._outer.decode(octets)
        except _MALFORMED as error:
            raise _bad_message(error, self._named_id(octets)) from error
        if b"\\u0000" in octets and _NUL.search(octets):
            raise _bad_message("no text may hold NUL: it cannot be kept", outer.message_id)
        decoder = self._data.get(outer.type)
        if decoder is None:
            raise DialdeskError("UNKNOWN_TYPE", type=outer.type, messageId=outer.message_id)
        try:
            message = self._read(outer.type, decoder, outer.data)
        except _MALFORMED as error:
            raise _bad_message(error, outer.message_id) from error
        return Envelope(message, outer.message_id, outer.timestamp, outer.seq)

    @staticmethod
    def _read(kind: str, decoder: msgspec.json.Decoder[M], data: msgspec.Raw) -> M:
        try:
            return decoder.decode(data)
        except msgspec.ValidationError:
            if kind not in _REPORTS:
                raise
            return salvage(bytes(data), decoder.type)

    def _named_id(self, octets: bytes) -> str | None:
        """The id of a frame whose envelope is malformed elsewhere: without it in the ERROR the sender never stops."""
        try:
            return self._named.decode(octets).message_id
        except _MALFORMED:
            return None


def salvage(data: bytes, kind: type[T]) -> T:
    """Read a report that tells something unreadable: what only informs is dropped, for a wrong `recordingSize` must not
    lose the end of a call. Raises msgspec.ValidationError where what it cannot do without is unreadable too."""
    given = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    readable: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
        if field.encode_name not in given:
            continue
        try:
            readable[field.encode_name] = msgspec.to_builtins(
                msgspec.json.decode(bytes(given[field.encode_name]), type=field.type)
            )
        except msgspec.ValidationError:
            if field.required or field.name == "message_id":
                raise
    return msgspec.convert(readable, kind)


_REPORTS = frozenset({CallStatus.type, CallEnd.type})


def _bad_message(reason: object, message_id: str | None) -> DialdeskError:
    """The reason may quote the frame, so it is cut: the ERROR that carries it must fit into a frame too."""
    return DialdeskError("BAD_MESSAGE", reason=str(reason)[:200], messageId=message_id)


from_phone: Decoder[FromPhone] = Decoder(*get_args(FromPhone))
to_phone: Decoder[ToPhone] = Decoder(*get_args(ToPhone))
from_agent: Decoder[FromAgent] = Decoder(*get_args(FromAgent))
to_agent: Decoder[ToAgent] = Decoder(*get_args(ToAgent))

_encoder = msgspec.json.Encoder()


def new_message_id() -> str:
    """Return an id that is unique per sender: what makes a repeat a repeat. It is no secret, and so costs no system
    call, which would be a tenth of what a relay costs; a process that is forked draws others."""
    return f"msg_{random.getrandbits(96):024x}"


def encode(message: Message, message_id: str | None = None, *, timestamp: int | None = None) -> bytes:
    """Return the frame of one message. Pass the `message_id` of the first sending when it is sent again."""
    return encode_raw(message.type, _encoder.encode(message), message_id, timestamp=timestamp)


def encode_data(message: Message) -> bytes:
    """Return the JSON of `data` alone: what a row keeps of a command or event, to be framed later by `encode_raw`."""
    return _encoder.encode(message)


def encode_raw(
    kind: str, data: bytes, message_id: str | None = None, *, seq: int | None = None, timestamp: int | None = None
) -> bytes:
    """Return the frame around data that is JSON already: encoded once, sent to any number of receivers."""
    return _encoder.encode(
        _OuterOut(
            type=kind,
            message_id=message_id or new_message_id(),
            timestamp=timestamp if timestamp is not None else time.time_ns() // 1_000_000,
            seq=seq,
            data=msgspec.Raw(data),
        )
    )
