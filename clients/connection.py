"""One WebSocket that comes back: who dials, when it dials again, and when it must not.

`stay_connected` opens a socket and hands it, as a Link, to a conversation; when that ends it waits as the way of its
ending calls for (docs/protocol.md, "Close codes") and opens the next. There is one socket at a time: a Link is dropped
before the next is opened, so a close meant for an older socket (4501) is never heard.

A Link costs one idle task, that of its reader: a writer lives only while there is something to write, and heartbeats
and the watch over silence share one timer of the loop.
"""

import asyncio
import logging
import random
import ssl
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Generic, NoReturn, Self, TypeVar

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from clients.api import Refused
from protocol.errors import CloseCode, DialdeskError
from protocol.messages import (
    MAX_FRAME,
    Decoder,
    Envelope,
    Heartbeat,
    HeartbeatAck,
    Message,
    Reconnect,
    WelcomeAgent,
    WelcomePhone,
    encode,
)

M = TypeVar("M")

log = logging.getLogger(__name__)

_CLOCK = time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The times (seconds) and bounds of a client. Tests and load runs shorten or stretch them."""

    open_timeout: float = 10.0
    write_timeout: float = 10.0
    close_timeout: float = 2.0
    silence: float = 75.0
    """Nothing heard for so long, though two heartbeats went out: the socket is dead."""
    heartbeat: float | None = None
    """None: as often as WELCOME asks for."""
    backoff_base: float = 0.5
    backoff_cap: float = 30.0
    steady_after: float = 5.0
    """A session that stood for so long makes the failures before it forgotten."""
    outgoing: int = 256
    """Frames that may wait to be written. One more means a server that does not read: the socket is dropped, and what
    must arrive is sent again on the next by those who keep it."""
    resend_after: float = 10.0
    resend_cap: float = 300.0
    in_flight: int = 16
    """Reports that may be unacked at a time."""
    upload_whole: int = 8 * 1024 * 1024
    """Bytes of the largest recording that is uploaded in one request; a larger one goes in parts, to be resumed."""


USUAL = Timing()


class Stopped(Exception):  # noqa: N818 - a state, not an error of ours
    """The server does not want this client back: a close code of 4500-4999, or the upgrade refused with 401 or 403.

    `code` is that number; `reason` the reason told, for a refused upgrade the error code.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason or 'the server ended the connection for good'} ({code})")
        self.code = code
        self.reason = reason


def elapsed() -> float:
    """Return seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


def trusting(ca_file: Path) -> ssl.SSLContext:
    """Return the TLS settings under which certificates signed by `ca_file` (PEM), and only those, are believed."""
    return ssl.create_default_context(cafile=ca_file)


class Link(Generic[M]):
    """One open socket: iterate to hear, `send` to speak. Iteration ends when the socket does.

    Before a message reaches the listener the Link does its own share: it answers the server's HEARTBEAT, begins its
    heartbeats at WELCOME, and after RECONNECT leaves.
    """

    def __init__(self, socket: ClientConnection, decoder: Decoder[M], timing: Timing) -> None:
        self._socket = socket
        self._decoder = decoder
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[bytes] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._interval = 0.0
        self._beat_at = float("inf")
        self._opened_at = self._heard_at = self._loop.time()
        self._timer = self._loop.call_at(self._heard_at + timing.silence, self._watch)
        self.welcomed = False
        self.leave_for: float | None = None
        """Seconds for which RECONNECT asks this client to stay away."""

    def send(self, message: Message, message_id: str | None = None) -> None:
        """Queue one message; pass the `message_id` of its first sending when it is sent again."""
        self.send_frame(encode(message, message_id))

    def send_frame(self, frame: bytes) -> None:
        """Queue a frame made before. Never waits; where the queue is full the socket is dropped (Timing.outgoing)."""
        if len(self._outgoing) >= self._timing.outgoing:
            log.warning("the server does not read: socket dropped")
            self.drop()
            return
        self._outgoing.append(frame)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Envelope[M]:
        while self.leave_for is None:
            try:
                frame = await self._socket.recv(decode=False)  # bounded: `_watch` drops a socket that fell silent
            except ConnectionClosed:
                break
            self._heard_at = self._loop.time()
            try:
                envelope = self._decoder.decode(frame)
            except DialdeskError as error:  # a newer server may say more than this client knows
                log.warning("passed over: %s", error)
                continue
            match envelope.message:
                case Heartbeat():
                    self.send(HeartbeatAck())
                case WelcomePhone() | WelcomeAgent() as welcome:
                    self._begin_heartbeats(welcome.heartbeat_interval)
                case Reconnect() as reconnect:
                    self.leave_for = random.random() * reconnect.after_ms / 1000
            return envelope
        raise StopAsyncIteration

    @property
    def steady(self) -> bool:
        """Whether the session stood, and for long enough to forget the failures before it."""
        return self.welcomed and self._loop.time() - self._opened_at >= self._timing.steady_after

    @property
    def closed_with(self) -> tuple[int, str]:
        """Code and reason of the close; 1006 where the socket ended without one."""
        return self._socket.close_code or 1006, self._socket.close_reason or ""

    def drop(self) -> None:
        """Cut the socket without a close, as a lost network does."""
        self._socket.transport.abort()

    def stop_reading(self) -> None:
        """Read nothing more, so that the server's writes back up; nor is its silence noticed."""
        self._heard_at = float("inf")
        self._socket.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again after `stop_reading`."""
        self._heard_at = self._loop.time()
        self._socket.transport.resume_reading()

    async def close(self) -> None:
        """Write what is queued, close the socket, and end what the Link started; bounded by the Timing."""
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=self._timing.close_timeout)
            self._writer.cancel()
        self._timer.cancel()
        await self._socket.close()

    async def _write(self) -> None:
        """Write until nothing waits."""
        try:
            while self._outgoing:
                async with asyncio.timeout(self._timing.write_timeout):
                    await self._socket.send(self._outgoing.popleft(), text=True)
        except TimeoutError:
            self.drop()
        except ConnectionClosed:
            pass  # the reader finds it closed too, and knows why

    def _begin_heartbeats(self, interval: float) -> None:
        self.welcomed = True
        self._interval = self._timing.heartbeat or interval
        self._beat_at = self._loop.time() + self._interval * random.random()  # thousands began at the same moment
        self._watch()

    def _watch(self) -> None:
        """Beat if it is time, drop a socket that fell silent, and look again when either is next due."""
        self._timer.cancel()
        now = self._loop.time()
        if now - self._heard_at >= self._timing.silence:
            log.info("nothing heard for %.1f s: socket dropped", self._timing.silence)
            self.drop()
            return
        if now >= self._beat_at:
            self._beat_at = now + self._interval * random.uniform(0.8, 1.2)
            self.send(Heartbeat())
        due = min(self._beat_at, self._heard_at + self._timing.silence)
        self._timer = self._loop.call_at(min(due, now + self._timing.silence), self._watch)


async def stay_connected(
    url: str,
    converse: Callable[[Link[M]], Awaitable[None]],
    *,
    decoder: Decoder[M],
    headers: Callable[[], Awaitable[Mapping[str, str]]],
    renew: Callable[[], Awaitable[None]] | None = None,
    timing: Timing = USUAL,
    tls: ssl.SSLContext | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> NoReturn:
    """Open sockets to `url`, one after the other, and hold `converse` on each for as long as it lives.

    `headers` is awaited before each attempt, and may hold it back. `renew` replaces the credential when the server
    says by 4401 that it has run out; without it the same one is tried again. Both may raise Unreachable, which counts
    as a failed attempt. `sleep` takes the time between attempts.

    Raises Stopped when there is no coming back, Refused where renewing was refused for good, and whatever `converse`
    raises.
    """
    failures = 0
    stale = False
    while True:
        asked: float | None = None
        try:
            if stale and renew is not None:
                await renew()
            stale = False
            link = Link(await _open(url, await headers(), timing, tls), decoder, timing)
        except InvalidStatus as answer:
            asked = _retry_after(answer) + full_jitter(failures, timing)
            why = f"upgrade refused with HTTP {answer.response.status_code}"
        except (OSError, InvalidHandshake) as error:  # OSError: TimeoutError and Unreachable too
            why = f"no connection: {str(error) or type(error).__name__}"
        except Refused as refusal:
            if not refusal.retry:
                raise
            why = f"credential not renewed: {refusal}"
        else:
            try:
                await converse(link)
            finally:
                await link.close()
            code, reason = link.closed_with
            if 4500 <= code <= 4999:
                raise Stopped(code, reason)
            stale = code == CloseCode.REFRESH_TOKEN
            asked = link.leave_for
            why = f"connection lost ({code} {reason})"
            if link.steady:
                failures = 0
        pause = full_jitter(failures, timing) if asked is None else asked
        failures += 1
        log.info("%s; next attempt in %.1f s", why, pause)
        await sleep(pause)


async def _open(url: str, headers: Mapping[str, str], timing: Timing, tls: ssl.SSLContext | None) -> ClientConnection:
    return await connect(
        url,
        additional_headers=headers,
        compression=None,
        ping_interval=None,
        max_size=MAX_FRAME,
        open_timeout=timing.open_timeout,
        close_timeout=timing.close_timeout,
        proxy=None,
        ssl=(tls or True) if url.startswith("wss:") else None,
    )


def _retry_after(answer: InvalidStatus) -> float:
    """Return the seconds of Retry-After, 0 where there are none. Raises Stopped for 401 and 403."""
    response = answer.response
    if response.status_code in {401, 403}:
        raise Stopped(response.status_code, _error_code(response.body)) from answer
    asked: str = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0  # its other form, a date, would need a right clock


class _Told(msgspec.Struct):
    code: str = ""


def _error_code(body: bytes | bytearray) -> str:
    try:
        return msgspec.json.decode(body, type=_Told).code
    except msgspec.DecodeError:
        return ""


def full_jitter(failures: int, timing: Timing) -> float:
    """Return seconds to wait: anything up to twice as much as last time, so that many clients do not come as one."""
    longest: float = timing.backoff_base * 2 ** min(failures, 16)
    return random.random() * min(timing.backoff_cap, longest)
