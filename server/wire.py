"""The loop between an accepted socket and the state machine of its session, the same for phones and pages.

It reads one message, has it acted on, and only then reads the next: what a peer sends faster than that waits in its own
socket. Raw ASGI rather than Starlette's WebSocket, which costs 5 KiB a connection more (docs/decisions.md).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar, assert_never

import structlog
from starlette.types import Receive, Send
from uvicorn.protocols.utils import ClientDisconnected

from protocol.errors import CloseCode, DialdeskError, Language
from protocol.messages import Ack, Envelope, Error, Heartbeat, encode
from protocol.session import Close, Due, Heard, Opened, Refused, Repeated, Session
from server.outbox import Outbox
from server.telemetry import Metrics
from server.wheel import Wheel

log = structlog.get_logger()

M = TypeVar("M")


class Speaker(Protocol[M]):
    """What a kind of session makes of what its wire brings."""

    async def opened(self, envelope: Envelope[M]) -> None:
        """The first message came. Answer it with WELCOME, or close the outbox."""

    async def heard(self, envelope: Envelope[M]) -> None:
        """Act on a message. A DialdeskError is told to the peer; any other is logged and told as INTERNAL."""

    def silent(self) -> None:
        """The peer has said nothing for so long that it counts as offline; the socket stays."""

    def revived(self) -> None:
        """A peer that counted as offline was heard again."""


class Wire(Generic[M]):
    """One accepted WebSocket: reads for the session, writes from the outbox, turns on the wheel."""

    def __init__(
        self,
        kind: str,
        session: Session[M],
        outbox: Outbox,
        wheel: Wheel,
        metrics: Metrics,
        language: Language,
    ) -> None:
        self.session = session
        self.outbox = outbox
        self._kind = kind
        self._wheel = wheel
        self._metrics = metrics
        self._language = language
        self._speaker: Speaker[M] | None = None

    async def run(
        self, receive: Receive, send: Send, speaker: Speaker[M], permitted: Callable[[], Awaitable[None]]
    ) -> None:
        """Live until either side closes. `permitted` returns when this node may speak for sessions."""
        self._speaker = speaker
        self._wheel.add(self, self.session.next_deadline())
        writer = asyncio.create_task(self._write(send, permitted), name=f"{self._kind} writer")
        try:
            while (frame := await _next_frame(receive)) is not None:
                await self._act(frame, speaker)
        finally:
            self._speaker = None
            writer.cancel()
            await asyncio.wait([writer])

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

    async def _act(self, frame: str | bytes, speaker: Speaker[M]) -> None:
        if self.outbox.closing is not None:
            return
        inbound = self.session.receive(frame, self._wheel.now())
        if not isinstance(inbound, Opened | Close) and inbound.revived:
            speaker.revived()
        match inbound:
            case Opened(envelope):
                if not await self._attempt(speaker.opened, envelope):
                    self.outbox.close(CloseCode.DRAINING, "not opened")  # or it would stay, welcomed by nobody
            case Heard(envelope):
                await self._attempt(speaker.heard, envelope)
            case Repeated(message_id):
                self.outbox.put(encode(Ack(message_id=message_id)))
            case Refused(error):
                self.refuse(error)
            case Close(code, reason):
                self.outbox.close(code, reason)
            case _:
                assert_never(inbound)

    async def _attempt(self, act: Callable[[Envelope[M]], Awaitable[None]], envelope: Envelope[M]) -> bool:
        """Have a message acted on; False where it was refused."""
        self._metrics.messages.labels(self._kind, type(envelope.message).__name__).inc()
        try:
            await act(envelope)
        except DialdeskError as error:
            if error.status >= 500:
                log.warning("message refused", code=error.code, cause=repr(error.__cause__))
            self.refuse(error, envelope.message_id)
        except Exception:
            log.exception("message failed")
            self.refuse(DialdeskError("INTERNAL"), envelope.message_id)
        else:
            return True
        return False

    async def _write(self, send: Send, permitted: Callable[[], Awaitable[None]]) -> None:
        try:
            await self.outbox.run(send, permitted)
        except ClientDisconnected:
            return  # the reader is told the same by `receive`
        except Exception:
            log.exception("writing failed")
            self.outbox.close(CloseCode.DRAINING, "writing failed", discard=True)  # nobody says so, but it is cut


async def _next_frame(receive: Receive) -> str | bytes | None:
    message = await receive()
    if message["type"] != "websocket.receive":
        return None
    text: str | None = message.get("text")
    return text if text is not None else message["bytes"]
