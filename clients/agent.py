"""A desk without a screen: an agent's session over HTTP and over the socket, which misses no event silently.

Events that carry `seq` reach `events` once each and without a gap. What comes twice is dropped; where something is
missing the client asks again from what it has; only RESYNC says that continuity is lost, and it is an event too.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack, assert_never

import msgspec

from clients.api import Api, Refused
from clients.connection import USUAL, Link, Stopped, Timing, elapsed, stay_connected
from clients.history import History
from clients.recording import AudioFile, bring_whole
from protocol.messages import (
    CallConnected,
    CallDialing,
    CallEnded,
    CallRinging,
    DeviceBound,
    DeviceStatus,
    DeviceUnbound,
    Dial,
    DialAccepted,
    Envelope,
    Error,
    HangUp,
    HangUpAccepted,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Reconnect,
    RecordingReady,
    Resync,
    ToAgent,
    WelcomeAgent,
    new_message_id,
    to_agent,
)

log = logging.getLogger(__name__)


class DialFields(TypedDict, total=False):
    """The fields of a dial, as protocol.messages.Dial has them."""

    customer_phone: str
    customer_id: str
    customer_name: str
    call_method: Literal["mobile", "cloud"]
    line_id: str
    case_type: str
    tags: list[str]
    order_id: str
    external_id: str
    custom_data: dict[str, Any]
    device_id: str
    user_id: str


class _Tokens(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to a sign-in, and to a refresh. `expires_in` is seconds."""

    access_token: str
    refresh_token: str
    expires_in: float


class _Asked(msgspec.Struct, frozen=True):
    """A request over the socket that waits for its answer; sent again, under the same id, on a new socket."""

    message: Dial | HangUp
    answer: asyncio.Future[DialAccepted | HangUpAccepted]


class AgentClient:
    """One signed-in agent. Make it by `login`, use it as a context manager; `connect` opens the socket.

    `renew_at` is the share of an access token's life after which it is renewed. `keep` bounds `events`.
    """

    def __init__(
        self, api: Api, tokens: _Tokens, *, timing: Timing, tls: ssl.SSLContext | None, keep: int, renew_at: float
    ) -> None:
        self.events: History[ToAgent] = History(keep)
        """WELCOME, events of devices, calls and recordings, and RESYNC: what a page would act on."""
        self.last_seq: int | None = None
        self.repeats = 0
        """Events that came twice, and were dropped."""
        self.gaps = 0
        """Events that came too early, and were asked for again with those missing before them."""
        self.stopped: Stopped | Refused | None = None
        """Why the socket is gone for good."""
        self._api = api
        self._tokens = tokens
        self._timing = timing
        self._tls = tls
        self._renew_share = renew_at
        self._renew_at = elapsed() + tokens.expires_in * renew_at
        self._renewing = asyncio.Lock()
        self._link: Link[ToAgent] | None = None
        self._asked: dict[str, _Asked] = {}
        self._greeted = False
        self._resuming_from: int | None = None
        self._running: asyncio.Task[None] | None = None

    @classmethod
    async def login(
        cls,
        origin: str,
        username: str,
        password: str,
        *,
        timing: Timing = USUAL,
        tls: ssl.SSLContext | None = None,
        timeout: float = 10.0,
        keep: int = 1000,
        renew_at: float = 0.8,
    ) -> Self:
        """Sign in. Raises Refused (BAD_CREDENTIALS, ACCOUNT_LOCKED …) and Unreachable."""
        async with contextlib.AsyncExitStack() as on_failure:
            api = await on_failure.enter_async_context(Api(origin, tls=tls, timeout=timeout))
            answer = await api.ask("POST", "/api/v1/auth/login", {"username": username, "password": password})
            tokens = msgspec.convert(answer, _Tokens)
            on_failure.pop_all()
        return cls(api, tokens, timing=timing, tls=tls, keep=keep, renew_at=renew_at)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._running is not None:
                self._running.cancel()
                await asyncio.wait({self._running})  # bounded, for closing a Link is
                if not self._running.cancelled():
                    self._running.result()
        finally:
            await self._api.close()

    # --- over HTTP --------------------------------------------------------------------------------------------------

    async def get(self, path: str) -> dict[str, Any]:
        """Ask for something. This and the next three raise Refused and Unreachable."""
        return await self._ask_api("GET", path)

    async def post(self, path: str, body: object = None, *, key: str | None = None) -> dict[str, Any]:
        """Have something done; with the same `key` (Idempotency-Key) it is done once, however often asked."""
        return await self._ask_api("POST", path, body, {"Idempotency-Key": key} if key is not None else {})

    async def put(self, path: str, body: object = None) -> dict[str, Any]:
        """Put something in the place of what is there."""
        return await self._ask_api("PUT", path, body)

    async def delete(self, path: str, body: object = None) -> dict[str, Any]:
        """Remove something."""
        return await self._ask_api("DELETE", path, body)

    async def dial_over_http(self, *, key: str | None = None, **fields: Unpack[DialFields]) -> str:
        """Start a call, and return its id."""
        request = msgspec.to_builtins(Dial(**fields))
        answer = await self.post("/api/v1/calls/dial", request, key=key or new_message_id())
        return str(answer["callId"])

    async def bind_qr(self) -> dict[str, Any]:
        """Have a QR code made that binds a phone to this agent: qrCodeUrl, qrCodeData, typedCode, expiresAt."""
        return await self.post("/api/v1/calls/device/bindQRCode", {})

    # --- recordings -------------------------------------------------------------------------------------------------

    async def play(self, call_id: str, *, range: str | None = None, download: bool = False) -> bytes:  # noqa: A002
        """Return the audio of a call, from here or from the bucket; with `download` as a file to keep.

        `range` is the header of that name, such as `bytes=0-1023`. This and the next three raise Refused and
        Unreachable.
        """
        ranged = {} if range is None else {"Range": range}
        return await self._api.receive(
            f"/api/v1/calls/{call_id}/recording{'?download=true' if download else ''}",
            headers={**await self._credentials(), **ranged},
        )

    async def recording_link(self, call_id: str) -> dict[str, Any]:
        """Have a link made that a player can open without a credential: url, expiresAt, mediaType, size."""
        return await self.post(f"/api/v1/calls/{call_id}/recording/link")

    async def waveform(self, call_id: str) -> dict[str, Any]:
        """Ask for what a player draws: status, duration, codec, sampleRate, channels, peaks, and what is kept of it."""
        return await self.get(f"/api/v1/calls/{call_id}/recording/waveform")

    async def attach_recording(self, call_id: str, path: Path) -> dict[str, Any]:
        """Bring a recording by hand, where the handset could not: recordingUrl, size, sha256.

        Raises OSError too, where the file cannot be read.
        """
        file = await AudioFile.open(path)
        return await bring_whole(self._api, f"/api/v1/calls/{call_id}/recording", file, await self._credentials())

    async def _ask_api(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return await self._api.ask(method, path, body, headers={**await self._credentials(), **(headers or {})})

    async def _credentials(self) -> Mapping[str, str]:
        if elapsed() >= self._renew_at:
            await self._renew()
        return {"Authorization": f"Bearer {self._tokens.access_token}"}

    async def _renew(self) -> None:
        """Trade the refresh token in, once for all who ask meanwhile: one that is used twice ends the sign-in."""
        spent = self._tokens
        async with self._renewing:
            if self._tokens is not spent:
                return
            answer = await self._api.ask("POST", "/api/v1/auth/refresh", {"refreshToken": spent.refresh_token})
            self._tokens = msgspec.convert(answer, _Tokens)
            self._renew_at = elapsed() + self._tokens.expires_in * self._renew_share

    # --- over the socket --------------------------------------------------------------------------------------------

    async def connect(self, *, timeout: float = 10.0) -> WelcomeAgent:
        """Open the socket, to be kept open from now on, and return its first WELCOME.

        Raises Stopped or Refused where it cannot be, TimeoutError where it has not come about in time.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await self.events.wait_for(WelcomeAgent, timeout=timeout)

    async def dial(self, *, key: str | None = None, timeout: float = 10.0, **fields: Unpack[DialFields]) -> str:
        """Start a call, and return its id; asked again with the same `key`, the same call. Raises Refused."""
        return (await self._ask(Dial(**fields), key, timeout)).call_id

    async def hang_up(self, call_id: str, *, timeout: float = 10.0) -> None:
        """Ask for the end of a call; it has ended when CALL_ENDED says so. Raises Refused."""
        await self._ask(HangUp(call_id=call_id), None, timeout)

    @property
    def link(self) -> Link[ToAgent]:
        """The open socket, to play faults on: `agent.link.drop()`. Raises RuntimeError where there is none."""
        if self._link is None:
            raise RuntimeError("the agent has no socket now")
        return self._link

    async def _ask(self, message: Dial | HangUp, key: str | None, timeout: float) -> DialAccepted | HangUpAccepted:
        if self.stopped is not None:
            raise self.stopped
        message_id = key or new_message_id()
        asked = _Asked(message, asyncio.get_running_loop().create_future())
        self._asked[message_id] = asked
        if self._link is not None and self._greeted:
            self._link.send(message, message_id)
        try:
            async with asyncio.timeout(timeout):
                return await asked.answer
        finally:
            del self._asked[message_id]

    async def _run(self) -> None:
        scheme, _, host = self._api.origin.partition("://")
        try:
            await stay_connected(
                f"{'wss' if scheme == 'https' else 'ws'}://{host}/ws/agent",
                self._converse,
                decoder=to_agent,
                headers=self._credentials,
                renew=self._renew,
                timing=self._timing,
                tls=self._tls,
            )
        except (Stopped, Refused) as end:
            self.stopped = end
        self.events.end(self.stopped)
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(self.stopped)

    async def _converse(self, link: Link[ToAgent]) -> None:
        self._link = link
        self._greeted = False
        self._resuming_from = None
        link.send(Hello(last_seq=self.last_seq, client="dialdesk-python"))
        try:
            async for envelope in link:
                self._hear(link, envelope)
        finally:
            self._link = None

    def _hear(self, link: Link[ToAgent], envelope: Envelope[ToAgent]) -> None:
        match envelope.message:
            case WelcomeAgent(last_seq=last_seq):
                if self.last_seq is None:
                    self.last_seq = last_seq
                self.events.add(envelope)
                if not self._greeted:
                    self._greeted = True
                    for message_id, asked in self._asked.items():
                        link.send(asked.message, message_id)
            case (
                DeviceBound()
                | DeviceUnbound()
                | DeviceStatus()
                | CallDialing()
                | CallRinging()
                | CallConnected()
                | CallEnded()
                | RecordingReady()
            ):
                if self._in_order(link, envelope.seq):
                    self.events.add(envelope)
            case Resync(to_seq=to_seq):
                self.last_seq = to_seq
                self.events.add(envelope)
            case HeartbeatAck(last_seq=last_seq):
                if last_seq is not None and last_seq > (self.last_seq or 0):
                    self._resuming_from = None
                    self._resume(link)
            case DialAccepted(message_id=message_id) | HangUpAccepted(message_id=message_id) as answer:
                asked_for = self._asked.get(message_id)
                if asked_for is not None and not asked_for.answer.done():
                    asked_for.answer.set_result(answer)
            case Error() as error:
                log.info("%s: %s", error.code, error.message)
                refused = self._asked.get(error.message_id or "")
                if refused is not None and not refused.answer.done():
                    refused.answer.set_exception(
                        Refused(error.code, error.message, retry=error.retry, details=error.details)
                    )
            case Heartbeat() | Reconnect():
                pass  # the Link's share
            case _:
                assert_never(envelope.message)

    def _in_order(self, link: Link[ToAgent], seq: int | None) -> bool:
        """Whether an event is the next one. One that comes too early is not kept: asking again brings it too."""
        if seq is None or self.last_seq is None:
            return False  # an event before WELCOME, or without its number, continues nothing
        if seq <= self.last_seq:
            self.repeats += 1
            return False
        if seq > self.last_seq + 1:
            self.gaps += 1
            self._resume(link)
            return False
        self.last_seq = seq
        return True

    def _resume(self, link: Link[ToAgent]) -> None:
        """Ask for what follows `last_seq`, once per gap, however many events come behind it."""
        if self._resuming_from != self.last_seq:
            self._resuming_from = self.last_seq
            link.send(Hello(last_seq=self.last_seq, client="dialdesk-python"))
