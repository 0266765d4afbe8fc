"""The sessions of phones and of agents' pages: admitted, opened, welcomed, heard, gone (docs/protocol.md)."""

import asyncio
from collections.abc import Awaitable
from typing import Literal, TypeVar, assert_never
from urllib.parse import parse_qsl

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from protocol.errors import CloseCode, DialdeskError
from protocol.identifiers import new_id
from protocol.messages import (
    Ack,
    CallEnd,
    CallStatus,
    DeviceOffline,
    DeviceOnline,
    Dial,
    DialAccepted,
    Envelope,
    FromAgent,
    FromPhone,
    HangUp,
    HangUpAccepted,
    Heartbeat,
    HeartbeatAck,
    Hello,
    RecordingUpload,
    Resync,
    WelcomeAgent,
    WelcomePhone,
    encode,
    from_agent,
    from_phone,
)
from protocol.session import Session, SessionLimits
from protocol.timestamps import epoch_ms
from server.agents import Agents
from server.auth import Auth
from server.calls import Calls
from server.config import Config
from server.http import error_answer, origin_allowed, request_info
from server.hub import Hub
from server.identity import Identity
from server.lease import Lease
from server.outbox import Outbox
from server.presence import Presences
from server.telemetry import Metrics
from server.uploads import Uploads
from server.websocket import WebSocket, websocket_of
from server.wheel import Wheel
from server.wire import Wire
from storage import nodes
from storage.database import Database
from storage.devices import push_token_place
from storage.nodes import Claim, Claimed, Presence
from storage.vault import Vault

log = structlog.get_logger()

M = TypeVar("M")

EARLY_BOUND = 256
"""Frames that may wait for a session while it is being opened; rows bring what is more."""


class Sessions:
    """What all sessions of a node share; an ASGI application of the socket routes."""

    def __init__(
        self,
        *,
        database: Database,
        auth: Auth,
        calls: Calls,
        uploads: Uploads,
        presences: Presences,
        agents: Agents,
        hub: Hub,
        wheel: Wheel,
        lease: Lease,
        vault: Vault,
        metrics: Metrics,
        config: Config,
    ) -> None:
        self.database = database
        self.auth = auth
        self.calls = calls
        self.uploads = uploads
        self.presences = presences
        self.agents = agents
        self.hub = hub
        self.wheel = wheel
        self.lease = lease
        self.vault = vault
        self.metrics = metrics
        self.config = config
        self.limits = SessionLimits(
            first_message=config.first_message,
            probe_after=config.probe_after,
            offline_after=config.offline_after,
            close_after=config.close_after,
            messages_per_second=config.messages_per_second,
            message_burst=config.message_burst,
        )

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Serve a WebSocket by its path."""
        socket = websocket_of(scope)
        try:
            match scope["path"]:
                case "/ws/phone" | "/ws":
                    await self._phone(socket, scope)
                case "/ws/agent":
                    await self._agent(socket, scope)
                case _:
                    raise DialdeskError("NOT_FOUND", what="path")
        except DialdeskError as error:
            status, body, headers = error_answer(error, request_info(scope))
            socket.refuse(status, body, headers)

    async def _phone(self, socket: WebSocket, scope: Scope) -> None:
        """`/ws/phone` and `/ws`: a work phone, by its device token."""
        identity = await self._admit("phone", scope)
        session = Session(from_phone, DeviceOnline, self.limits, self.wheel.now())
        wire = self._wire("phone", session, socket, scope)
        self.hub.let_in()
        wire.open(scope, PhoneSession(self, identity, wire))

    async def _agent(self, socket: WebSocket, scope: Scope) -> None:
        """`/ws/agent`: a page of an agent, by an access token or a ticket."""
        identity = await self._admit("agent", scope)
        session = Session(from_agent, Hello, self.limits, self.wheel.now())
        wire = self._wire("agent", session, socket, scope)
        self.hub.let_in()
        wire.open(scope, AgentSession(self, identity, wire))

    def _wire(self, kind: str, session: Session[M], socket: WebSocket, scope: Scope) -> Wire[M]:
        outbox = Outbox(socket, self.config.outbox_bytes, self.lease.held)
        return Wire(kind, session, socket, outbox, self.wheel, self.metrics, request_info(scope).language)

    async def _admit(self, kind: Literal["phone", "agent"], scope: Scope) -> Identity:
        """Return who may come in. What is raised is told before the upgrade, as an HTTP answer."""
        request = request_info(scope)
        self._demand_room()
        if not origin_allowed(request.headers, self.config):
            raise DialdeskError("ORIGIN_NOT_ALLOWED")
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        try:
            async with asyncio.timeout(self.config.request_timeout):
                identity = await self.auth.authenticate_socket(request.headers, query, kind)
        except TimeoutError as error:
            raise DialdeskError("UNAVAILABLE") from error
        self._demand_room()  # others were let in meanwhile
        return identity

    def _demand_room(self) -> None:
        if self.hub.draining:
            raise DialdeskError("DRAINING")
        if self.hub.full or not self.lease.held():
            raise DialdeskError("UNAVAILABLE")


class PhoneSession:
    """The session of a work phone."""

    def __init__(self, shared: Sessions, identity: Identity, wire: Wire[FromPhone]) -> None:
        self._shared = shared
        self._identity = identity
        self._wire = wire
        self._device_id = identity.id
        self._early: list[bytes] | None = []
        self._joined = False
        self._left = False
        self._handset_busy = False
        self._disowned: str | None = None
        self._pending_reports = 0
        self.outbox = wire.outbox
        self.epoch = 0

    def deliver(self, frame: bytes) -> None:
        """Send a frame; one that comes before WELCOME is sent after it."""
        if self._early is None:
            self.outbox.put(frame)
        elif len(self._early) < EARLY_BOUND:
            self._early.append(frame)

    def last_heard(self) -> float:
        """When the phone last said anything, by the wheel's clock."""
        return self._wire.session.last_heard

    async def opened(self, envelope: Envelope[FromPhone]) -> None:
        """DEVICE_ONLINE: claim the phone for this session, welcome it with the commands that wait."""
        online = envelope.message
        assert isinstance(online, DeviceOnline)
        shared = self._shared
        shared.hub.join_phone(self._device_id, self)
        self._joined = True
        try:
            claimed = await shared.presences.claim(self._claim_of(online))
        except DialdeskError:
            self.outbox.close(CloseCode.DRAINING, "cannot be claimed now")
            raise
        if claimed == "unbound":
            self.outbox.close(CloseCode.UNBOUND, "unbound")
            return
        if claimed == "replaced":
            self.outbox.close(CloseCode.REPLACED, "a newer connection is known")
            return
        self.epoch = claimed.epoch
        shared.hub.replace(self._device_id, self)
        self.outbox.put(
            encode(
                WelcomePhone(
                    session_id=new_id("ses"),
                    heartbeat_interval=shared.config.heartbeat_interval,
                    server_time=epoch_ms(claimed.now),
                    node=shared.config.node_name,
                    epoch=claimed.epoch,
                    commands=claimed.commands,
                )
            )
        )
        early, self._early = self._early, None
        for frame in early or ():
            self.outbox.put(frame)
        log.info("phone online", device_id=self._device_id, epoch=claimed.epoch, commands=len(claimed.commands))
        await self._settle_unknown_call(online, claimed)

    def heard(self, envelope: Envelope[FromPhone]) -> Awaitable[None] | None:
        """Act on what the phone says; a report is acknowledged when it is committed."""
        match envelope.message:
            case Heartbeat(handset_busy=busy):
                self.outbox.put(encode(HeartbeatAck()))
                if busy is not None and busy is not self._handset_busy:
                    return self._set_busy(busy)
            case HeartbeatAck():
                pass
            case Ack(message_id=command_id):
                return self._shared.calls.ack(self._device_id, command_id)
            case CallStatus() | CallEnd() as report:
                return self._report(report, envelope.message_id)
            case RecordingUpload() as brought:
                return self._confirm(brought, envelope.message_id)
            case DeviceOffline():
                self._left = True
                self._say("left")
            case DeviceOnline():
                raise DialdeskError("UNEXPECTED_MESSAGE", type=DeviceOnline.type)
            case _:
                assert_never(envelope.message)
        return None

    def silent(self) -> None:
        """Nothing heard for a minute: the phone counts as offline."""
        self._say("offline")

    def revived(self) -> None:
        """Heard again."""
        self._say("online")

    def gone(self) -> None:
        """The socket is gone: unless the phone said that it goes, its grace begins."""
        self._shared.hub.let_go()
        if self._joined:
            self._shared.hub.leave_phone(self._device_id, self)
        if self.epoch and not self._left:
            self._say("lost")

    async def _set_busy(self, busy: bool) -> None:
        async with self._shared.database.connection() as connection:
            await nodes.set_busy(connection, self._device_id, self.epoch, busy=busy)
        self._handset_busy = busy

    async def _confirm(self, brought: RecordingUpload, message_id: str | None) -> None:
        await self._shared.uploads.confirm(self._identity.tenant_id, self._device_id, brought)
        self._acknowledge(message_id)

    async def _report(self, report: CallStatus | CallEnd, message_id: str | None) -> None:
        try:
            await self._shared.calls.apply(self._identity.tenant_id, self._device_id, message_id, report)
        except DialdeskError as error:
            if not error.retry:
                await self._count_report()
            raise
        self._acknowledge(message_id)
        await self._count_report()

    def _acknowledge(self, message_id: str | None) -> None:
        if message_id is not None:  # an app of the seed's form sends none, and gets no ACK
            self._wire.session.done(message_id)
            self.outbox.put(encode(Ack(message_id=message_id)))

    async def _settle_unknown_call(self, online: DeviceOnline, claimed: Claimed) -> None:
        """A phone that comes back after a long absence and does not name its living call has lost it; but first its
        pending reports are heard, for one of them may tell how the call ended."""
        named = online.active_call.call_id if online.active_call else None
        if claimed.live_call_id is None or claimed.live_call_id == named or claimed.away is None:
            return
        if claimed.away >= self._shared.config.reap_away:
            await self._shared.calls.doubt(self._identity.tenant_id, claimed.live_call_id)
            self._disowned = claimed.live_call_id
            self._pending_reports = online.pending_reports + 1
            await self._count_report()

    async def _count_report(self) -> None:
        if self._disowned is None:
            return
        self._pending_reports -= 1
        if self._pending_reports <= 0:
            call_id, self._disowned = self._disowned, None
            await self._shared.calls.disown(self._identity.tenant_id, call_id)

    def _claim_of(self, online: DeviceOnline) -> Claim:
        self._handset_busy = online.active_call is not None and online.active_call.call_id is None
        push_token = None
        if online.device_token is not None:
            push_token = self._shared.vault.seal(online.device_token.encode(), push_token_place(self._device_id))
        return Claim(
            device_id=self._device_id,
            token_hash=self._identity.token_hash,
            connection=online.connection,
            boot_id=online.boot_id,
            app_version=online.app_version,
            os_version=online.os_version,
            capabilities=msgspec.json.encode(online.capabilities),
            handset_busy=self._handset_busy,
            push_token=push_token,
        )

    def _say(self, said: Literal["online", "offline", "lost", "left"]) -> None:
        self._shared.presences.say(Presence(self._device_id, self.epoch, said))


class AgentSession:
    """One page of an agent."""

    def __init__(self, shared: Sessions, identity: Identity, wire: Wire[FromAgent]) -> None:
        assert identity.user_id is not None
        self._shared = shared
        self._identity = identity
        self._wire = wire
        self._early: list[tuple[int, bytes]] = []
        self._joined = False
        self.user_id = identity.user_id
        self.login_id = identity.login_id
        self.outbox = wire.outbox
        self.last_seq: int | None = None

    def event(self, seq: int, frame: bytes) -> None:
        """Take an event: the next is sent, a repeat dropped, and one too far ahead tells that some are missing."""
        if self.last_seq is None:
            if len(self._early) < EARLY_BOUND:
                self._early.append((seq, frame))
        elif seq == self.last_seq + 1:
            self.last_seq = seq
            self.outbox.put(frame)
        elif seq > self.last_seq:
            self._shared.agents.behind(self.user_id)

    def resync(self, seq: int) -> None:
        """Say plainly that events up to `seq` are lost to this page."""
        assert self.last_seq is not None
        self.outbox.put(encode(Resync(from_seq=self.last_seq, to_seq=seq)))
        self.last_seq = seq

    async def opened(self, envelope: Envelope[FromAgent]) -> None:
        """HELLO: register first, then read, then pass only what is newer (docs/architecture.md, 6)."""
        assert isinstance(envelope.message, Hello)
        self._shared.hub.join_agent(self.user_id, self)
        self._joined = True
        try:
            await self._shared.agents.attend(self.user_id)
            await self._welcome(envelope.message)
        except DialdeskError:
            self.outbox.close(CloseCode.DRAINING, "cannot be welcomed now")
            raise

    def heard(self, envelope: Envelope[FromAgent]) -> Awaitable[None] | None:
        """Act on what the page says."""
        match envelope.message:
            case Heartbeat():
                self.outbox.put(encode(HeartbeatAck(last_seq=self.last_seq)))
            case HeartbeatAck():
                pass
            case Hello() as hello:
                return self._welcome(hello)
            case Dial() as dial:
                return self._dial(dial, _required(envelope))
            case HangUp() as hang_up:
                return self._hang_up(hang_up, _required(envelope))
            case _:
                assert_never(envelope.message)
        return None

    def silent(self) -> None:
        """A page has no presence of its own to tell."""

    def revived(self) -> None:
        """A page has no presence of its own to tell."""

    def gone(self) -> Awaitable[None] | None:
        """The socket is gone."""
        self._shared.hub.let_go()
        if not self._joined:
            return None
        self._shared.hub.leave_agent(self.user_id, self)
        return self._shared.agents.leave(self.user_id)

    async def _dial(self, dial: Dial, message_id: str) -> None:
        call_id = await self._shared.calls.dial_message(await self._asker(), dial, message_id)
        self.outbox.put(encode(DialAccepted(message_id=message_id, call_id=call_id)))

    async def _hang_up(self, hang_up: HangUp, message_id: str) -> None:
        await self._shared.calls.hang_up_message(await self._asker(), hang_up)
        self.outbox.put(encode(HangUpAccepted(message_id=message_id, call_id=hang_up.call_id)))

    async def _asker(self) -> Identity:
        """Who asks, with the permissions of this moment: a socket outlives its token, but not its rights."""
        return await self._shared.auth.refreshed(self._identity)

    async def _welcome(self, hello: Hello) -> None:
        before, self.last_seq = self.last_seq, None  # from here on events wait in `_early`
        try:
            snapshot = await self._shared.agents.snapshot(self._identity.tenant_id, self.user_id, hello.last_seq)
        except BaseException:
            self._early, self.last_seq = [], before
            raise
        self.outbox.put(
            encode(
                WelcomeAgent(
                    session_id=new_id("ses"),
                    heartbeat_interval=self._shared.config.heartbeat_interval,
                    server_time=epoch_ms(snapshot.now),
                    node=self._shared.config.node_name,
                    last_seq=snapshot.last_seq,
                    devices=snapshot.devices,
                    calls=snapshot.calls,
                )
            )
        )
        self.last_seq = snapshot.resume_from
        if snapshot.lost:
            self.resync(snapshot.last_seq)
        early, self._early = self._early, []
        for seq, frame in [*snapshot.missed, *early]:
            self.event(seq, frame)


def _required(envelope: Envelope[FromAgent]) -> str:
    if envelope.message_id is None:
        raise DialdeskError("BAD_MESSAGE", reason="messageId is missing: it is what makes a repeat a repeat")
    return envelope.message_id
