"""What lies between an accepted socket and the state machine of its session, the same for phones and pages.

A message is acted on when it comes. Where that has to wait for something, PostgreSQL mostly, it goes on in a task, and
the next message is not told before it is done: what a peer sends faster than that waits in its own socket.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar, assert_never

import structlog
from starlette.types import Scope

from protocol.errors import CloseCode, DialdeskError, Language
from protocol.messages import Ack, Envelope, Error, Heartbeat, encode
from protocol.session import Close, Due, Heard, Opened, Refused, Repeated, Session
from server.outbox import Outbox
from server.telemetry import Metrics
from server.websocket import WebSocket
from server.wheel import Wheel

log = structlog.get_logger()

M = TypeVar("M")

_HELD = 5.0
"""Seconds after which a socket that was held is looked at again."""


class Speaker(Protocol[M]):
    """What a kind of session makes of what its wire brings. What cannot be done at once is returned, to be awaited.

    A DialdeskError, raised or awaited, is told to the peer; any other is logged and told as INTERNAL.
    """

    def opened(self, envelope: Envelope[M]) -> Awaitable[None] | None:
        """The first message came. Answer it with WELCOME, or close the outbox."""

    def heard(self, envelope: Envelope[M]) -> Awaitable[None] | None:
        """Act on a message."""

    def silent(self) -> None:
        """The peer has said nothing for so long that it counts as offline; the socket stays."""

    def revived(self) -> None:
        """A peer that counted as offline was heard again."""

    def gone(self) -> Awaitable[None] | None:
        """The socket is gone, and this session with it."""


class Wire(Generic[M]):
    """One accepted WebSocket: tells its session what comes, writes by its outbox, turns on the wheel."""

    __slots__ = ("_kind", "_language", "_metrics", "_socket", "_speaker", "_wheel", "outbox", "session")

    def __init__(
        self,
        kind: str,
        session: Session[M],
        socket: WebSocket,
        outbox: Outbox,
        wheel: Wheel,
        metrics: Metrics,
        language: Language,
    ) -> None:
        self.session = session
        self.outbox = outbox
        self._kind = kind
        self._socket = socket
        self._wheel = wheel
        self._metrics = metrics
        self._language = language
        self._speaker: Speaker[M] | None = None

    def open(self, scope: Scope, speaker: Speaker[M]) -> None:
        """Accept the socket. The speaker is told what comes until it is told `gone`."""
        self._speaker = speaker
        self._wheel.add(self, self.session.next_deadline())
        self._socket.accept(scope, self)

    def refuse(self, error: DialdeskError, message_id: str | None = None) -> None:
        """Tell the peer that something it sent was refused."""
        told = error.details.get("messageId")
        self.outbox.put(
            encode(
                Error(
                    code=error.code,
                    message=error.message(self._language),
                    retry=error.retry,
                    message_id=message_id or told,
                    details={name: value for name, value in error.details.items() if name != "messageId"},
                )
            )
        )

    def turn(self, now: float) -> float | None:
        """Act on silence; called by the wheel."""
        if self._speaker is None or self.outbox.closing is not None:
            return None
        if self._socket.held:  # what it says waits for us: that is no silence of its own
            return now + _HELD
        match self.session.due(now):
            case Due.NOTHING:
                pass
            case Due.PROBE:
                self.outbox.put(encode(Heartbeat()))
            case Due.OFFLINE:
                self._speaker.silent()
            case Due.CLOSE if self.session.ready:
                self.outbox.close(CloseCode.HEARTBEAT_LOST, "no heartbeat")
            case Due.CLOSE:
                self.outbox.close(CloseCode.FIRST_MESSAGE, "no first message in time")
            case never:
                assert_never(never)
        return self.session.next_deadline()

    def message(self, frame: bytes) -> None:
        """Act on what the peer says."""
        speaker = self._speaker
        if speaker is None or self.outbox.closing is not None:
            return
        inbound = self.session.receive(frame, self._wheel.now())
        if not isinstance(inbound, Opened | Close) and inbound.revived:
            speaker.revived()
        match inbound:
            case Heard(envelope):
                self._act(speaker.heard, envelope)
            case Opened(envelope):
                self._act(speaker.opened, envelope, is_first=True)
            case Repeated(message_id):
                self.outbox.put(encode(Ack(message_id=message_id)))
            case Refused(error):
                self.refuse(error)
            case Close(code, reason):
                self.outbox.close(code, reason)
            case _:
                assert_never(inbound)

    def writable(self) -> None:
        """The peer reads again."""
        self.outbox.flush()

    def lost(self) -> None:
        """The session is over."""
        speaker, self._speaker = self._speaker, None
        assert speaker is not None
        if (rest := speaker.gone()) is not None:
            self._socket.do(_awaited(rest))

    def _act(
        self, act: Callable[[Envelope[M]], Awaitable[None] | None], envelope: Envelope[M], *, is_first: bool = False
    ) -> None:
        """Have a message acted on; the socket is held while that takes."""
        self._metrics.heard(self._kind, type(envelope.message).__name__)
        try:
            rest = act(envelope)
        except Exception as error:  # noqa: BLE001 - it is told, and logged where it is ours
            self._tell(error, envelope, is_first)
        else:
            if rest is not None:
                self._socket.hold()
                self._socket.do(self._finish(rest, envelope, is_first))

    async def _finish(self, rest: Awaitable[None], envelope: Envelope[M], is_first: bool) -> None:
        try:
            await rest
        except Exception as error:  # noqa: BLE001 - it is told, and logged where it is ours
            self._tell(error, envelope, is_first)
        finally:
            self._socket.go_on()

    def _tell(self, error: Exception, envelope: Envelope[M], is_first: bool) -> None:
        """Tell the peer that its message failed. If it was to open the session, nobody welcomed it: close."""
        if not isinstance(error, DialdeskError):
            log.error("message failed", exc_info=error)
            error = DialdeskError("INTERNAL")
        elif error.status >= 500:
            log.warning("message refused", code=error.code, cause=repr(error.__cause__))
        self.refuse(error, envelope.message_id)
        if is_first:
            self.outbox.close(CloseCode.DRAINING, "not opened")


async def _awaited(rest: Awaitable[None]) -> None:
    await rest
