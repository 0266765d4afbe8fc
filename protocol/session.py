"""One side of an authenticated WebSocket, without I/O: the server's view of a phone or a page.

The driver feeds frames with `receive(frame, now)` and acts on what it returns; it calls `due(now)` when the time that
`next_deadline` told has come, and acts on that. `now` is any monotonic clock in seconds; nothing here reads one.

    opening -> ready -> closed
    first message in time and of the right type, else 4400

Liveness (seed 003 §8.4): any frame is a sign of life. After `probe_after` seconds of silence the driver sends a
HEARTBEAT, after `offline_after` it tells that the peer is offline (the socket stays), after `close_after` closes 4408.
"""

from collections import OrderedDict
from enum import Enum, auto
from typing import Generic, TypeVar

import msgspec

from protocol.errors import CloseCode, DialdeskError
from protocol.messages import Decoder, Envelope, Message

M = TypeVar("M")


class SessionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The times (seconds) and bounds of a session."""

    first_message: float = 10.0
    probe_after: float = 25.0
    offline_after: float = 60.0
    close_after: float = 90.0
    bad_frames_per_minute: int = 10
    messages_per_second: float = 50.0
    message_burst: float = 500.0
    duplicate_window: int = 64


class Opened(msgspec.Struct, Generic[M], frozen=True):
    """The first message came, and is of the right type; the driver now claims the session and answers WELCOME."""

    envelope: Envelope[M]


class Heard(msgspec.Struct, Generic[M], frozen=True):
    """A message to act on. `revived` tells that the peer had been declared offline and is back."""

    envelope: Envelope[M]
    revived: bool = False


class Repeated(msgspec.Struct, frozen=True):
    """A message whose work is done already; the driver acknowledges it again and does nothing else."""

    message_id: str
    revived: bool = False


class Refused(msgspec.Struct, frozen=True):
    """A frame that cannot be acted on; the driver answers it with ERROR, and the session goes on."""

    error: DialdeskError
    revived: bool = False


class Close(msgspec.Struct, frozen=True):
    """The session is over; the driver closes the socket with this code and feeds nothing more."""

    code: int
    reason: str


class Due(Enum):
    """What silence calls for."""

    NOTHING = auto()
    PROBE = auto()
    OFFLINE = auto()
    CLOSE = auto()


Inbound = Opened[M] | Heard[M] | Repeated | Refused | Close


class Session(Generic[M]):
    """The state of one session. `first` is the type of message that must open it."""

    __slots__ = (
        "_bad_frames",
        "_decoder",
        "_done",
        "_first",
        "_limits",
        "_opened_at",
        "_probed",
        "_tokens",
        "_tokens_at",
        "last_heard",
        "offline",
        "ready",
    )

    def __init__(self, decoder: Decoder[M], first: type[Message], limits: SessionLimits, now: float) -> None:
        self._decoder = decoder
        self._first = first
        self._limits = limits
        self._opened_at = now
        self._probed = False
        self._bad_frames: list[float] = []
        self._done: OrderedDict[str, None] = OrderedDict()
        self._tokens = limits.message_burst
        self._tokens_at = now
        self.last_heard = now
        self.ready = False
        self.offline = False

    def receive(self, frame: str | bytes, now: float) -> Inbound[M]:
        """Judge one frame. After a Close is returned the session must not be fed again."""
        revived, self.offline, self._probed, self.last_heard = self.offline, False, False, now
        if not self._affords(now):
            return Close(CloseCode.TOO_MANY_MESSAGES, "too many messages")
        try:
            envelope = self._decoder.decode(frame)
        except DialdeskError as error:
            if not self.ready:
                meant = self._first.type in (frame if isinstance(frame, str) else frame.decode(errors="replace"))
                reason = str(error) if meant else f"the first message must be {self._first.type}"
                return Close(CloseCode.FIRST_MESSAGE, reason[:100])
            if error.code == "BAD_MESSAGE" and self._counts_as_flood(now):
                return Close(CloseCode.FIRST_MESSAGE, "too many malformed frames")
            return Refused(error, revived)
        if not self.ready:
            if not isinstance(envelope.message, self._first):
                return Close(CloseCode.FIRST_MESSAGE, f"the first message must be {self._first.type}")
            self.ready = True
            return Opened(envelope)
        if envelope.message_id is not None and envelope.message_id in self._done:
            return Repeated(envelope.message_id, revived)
        return Heard(envelope, revived)

    def done(self, message_id: str) -> None:
        """Note that the work of a message is committed: within the window its repeats come back as Repeated."""
        self._done[message_id] = None
        if len(self._done) > self._limits.duplicate_window:
            self._done.popitem(last=False)

    def due(self, now: float) -> Due:
        """Return what the silence up to `now` calls for; each of PROBE and OFFLINE is returned once per silence."""
        limits = self._limits  # compared by the sums that next_deadline returns: a difference may round below them
        if not self.ready:
            return Due.CLOSE if now >= self._opened_at + limits.first_message else Due.NOTHING
        if now >= self.last_heard + limits.close_after:
            return Due.CLOSE
        if now >= self.last_heard + limits.offline_after and not self.offline:
            self.offline = True
            return Due.OFFLINE
        if now >= self.last_heard + limits.probe_after and not self._probed:
            self._probed = True
            return Due.PROBE
        return Due.NOTHING

    def next_deadline(self) -> float:
        """Return when `due` is next worth asking. It may have moved on by then, which costs nothing but the asking."""
        if not self.ready:
            return self._opened_at + self._limits.first_message
        if not self._probed:
            return self.last_heard + self._limits.probe_after
        if not self.offline:
            return self.last_heard + self._limits.offline_after
        return self.last_heard + self._limits.close_after

    def _affords(self, now: float) -> bool:
        """A token bucket: `messages_per_second` in the long run, `message_burst` at once."""
        limits = self._limits
        refill = (now - self._tokens_at) * limits.messages_per_second
        self._tokens = min(limits.message_burst, self._tokens + refill)
        self._tokens_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _counts_as_flood(self, now: float) -> bool:
        self._bad_frames = [at for at in self._bad_frames if now - at < 60.0]
        self._bad_frames.append(now)
        return len(self._bad_frames) >= self._limits.bad_frames_per_minute
