"""dial · hang_up · apply: the one door by which a call comes to be and changes (docs/architecture.md)."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Protocol, assert_never

import msgspec
import structlog

from protocol.call import (
    AlreadyThere,
    CallState,
    End,
    Evidence,
    HangupCause,
    Illegal,
    Moved,
    Outcome,
    Progress,
    Status,
    advance,
)
from protocol.errors import DialdeskError
from protocol.identifiers import new_call_id
from protocol.messages import (
    CallEnd,
    CallEnded,
    CallStatus,
    CancelDial,
    Dial,
    DialCommand,
    HangUp,
    Id,
    encode_data,
    encode_raw,
    new_message_id,
)
from protocol.phone_number import dialable, normalize
from protocol.timestamps import epoch_ms
from server import limits, routing
from server.call_events import ended, telling
from server.call_rows import CallRows
from server.config import Config
from server.http import Answer, Body
from server.identity import Identity
from server.line_dial import LineOrder, commit_to_line
from server.relay import Relay
from server.reports import AppEnd, AppStatus, EndBatch, ReportResult, ReportsAnswer, StatusBatch, event_of, said
from server.telemetry import Metrics
from storage import calls, do_not_call
from storage.calls import (
    Change,
    DialContext,
    Explanation,
    NewCall,
    NewCloudCall,
    NewDial,
    Source,
    StoredCall,
    Wanted,
)
from storage.database import Connection, Database, Duplicate
from storage.events import Emitted
from storage.idempotency import Once

log = structlog.get_logger()

Short = Annotated[str, msgspec.Meta(max_length=128)]
Word = Annotated[str, msgspec.Meta(max_length=50)]

CUSTOM_DATA_BOUND = 4096
"""Bytes of JSON a CRM may hang on a call."""

DOUBT = 60.0
"""Seconds that a phone has, back after a long absence, to say what became of a call that it does not name."""

_RACES = 8
"""How often a change that lost a race is judged again; each loss means that somebody else moved the call."""


class DialRequest(Body, frozen=True, kw_only=True):
    """A call to make. `customerId` alone suffices for a customer that is known here.

    `customerId`, `orderId`, `externalId` and `customData` come back in every event and record of the call. `deviceId`
    names one of the agent's phones, else the default is used. `userId` dials for another agent (scope calls.dial_for).
    `caseType` and `tags` say which lines may carry a cloud call.
    """

    customer_phone: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    customer_id: Short | None = None
    customer_name: Short | None = None
    call_method: Literal["mobile", "cloud"] | None = None
    line_id: Short | None = None
    case_type: Word | None = None
    tags: Annotated[tuple[Word, ...], msgspec.Meta(max_length=50)] = ()
    order_id: Short | None = None
    external_id: Short | None = None
    custom_data: dict[str, Any] | None = None
    device_id: Short | None = None
    user_id: Short | None = None


class DialAnswer(Answer, frozen=True, kw_only=True):
    """The call is committed; what becomes of it arrives as events."""

    call_id: str
    message: str = "呼叫已提交，等待工作手机执行 / The call is committed and waits for its phone"


class HangUpRequest(Body, frozen=True, kw_only=True):
    """Which call to end."""

    call_id: Id


class HangUpAnswer(Answer, frozen=True, kw_only=True):
    """The wish is committed. The call ends when its phone says so."""


class Orders(Protocol):
    """Who writes orders to providers, for calls that go over a line."""

    def start(self, order: LineOrder) -> None:
        """Write the order of a call that has just been committed, and do not wait."""

    async def hang_up(self, tenant_id: str, call_id: str) -> None:
        """End a call. Raises HANGUP_UNSUPPORTED, UNAVAILABLE."""


class Calls:
    """The life of calls. Every method commits before it tells anybody."""

    def __init__(self, database: Database, relay: Relay, metrics: Metrics, config: Config) -> None:
        self._database = database
        self._relay = relay
        self._metrics = metrics
        self._config = config
        self._orders: Orders | None = None
        self._rows = CallRows(database)

    def connect(self, orders: "Orders") -> None:
        """Give what is committed to lines to whoever writes orders to providers."""
        self._orders = orders

    # --- asked by agents ----------------------------------------------------------------------------------------------

    async def dial(self, identity: Identity, body: DialRequest, once: Once) -> DialAnswer:
        """Start a call on the agent's work phone, or over a line.

        Refused at once, with nothing left behind, by INVALID_PHONE, CALLS_OFF, LIMIT_HOURS, DO_NOT_CALL, NO_DEVICE,
        DEVICE_OFFLINE, DEVICE_BUSY, NO_LINE, NO_SEAT, LINE_BUSY, NO_EXTENSION, LIMIT_LINE_DAY, TEST_NUMBER_ONLY,
        NOT_FOUND, FORBIDDEN.
        """
        try:
            answer = await self._dial(identity, body, once)
        except DialdeskError as error:
            self._metrics.dials.labels(error.code).inc()
            raise
        self._metrics.dials.labels("accepted").inc()
        return answer

    async def dial_message(self, identity: Identity, message: Dial, message_id: str) -> str:
        """DIAL on the agent's socket: the same as the request, its message id being the key. Returns the call id."""
        identity.require("calls.dial")
        try:
            digest = hashlib.sha256(encode_data(message)).digest()
        except RecursionError as error:
            raise DialdeskError("INVALID_FIELD", reason="customData is nested too deeply") from error
        once = Once(identity.tenant_id, identity.id, "Calls.dial", message_id, digest)
        request = DialRequest(**msgspec.structs.asdict(message))
        answer = await once.run(self._database, lambda: self.dial(identity, request, once))
        return msgspec.json.decode(answer, type=DialAnswer).call_id

    async def hang_up(self, identity: Identity, body: HangUpRequest) -> HangUpAnswer:
        """End a call, or keep it from being dialled; a call that has ended is a success.

        Raises NOT_FOUND, and HANGUP_UNSUPPORTED where the handset cannot be hung up from here and has been told to dial
        already.
        """
        await self._hang_up(identity, body.call_id)
        return HangUpAnswer()

    async def hang_up_message(self, identity: Identity, message: HangUp) -> None:
        """HANGUP on the agent's socket."""
        identity.require("calls.control")
        await self._hang_up(identity, message.call_id)

    # --- said by phones -----------------------------------------------------------------------------------------------

    async def apply(self, tenant_id: str, device_id: str, message_id: str | None, report: CallStatus | CallEnd) -> None:
        """Commit what a phone says of a call. When this returns, the report may be acknowledged.

        A repeat changes nothing. Raises NOT_FOUND for a call whose command did not go to this phone (`retry` false: the
        phone drops it), UNAVAILABLE or CALL_CHANGED where it is to be sent again.
        """
        said = encode_data(report)
        if message_id is None:  # an app of the seed's form: what it says is its id, so a repeat is still a repeat
            message_id = f"said_{hashlib.sha256(report.type.encode() + said).hexdigest()[:32]}"
        for _ in range(_RACES):
            call = await self._rows.read(tenant_id, report.call_id, message_id)
            if call is None or call.device_id != device_id:
                raise DialdeskError("NOT_FOUND", what="call")
            if call.seen:
                self._metrics.reports.labels("repeated").inc()
                return
            why = Explanation(source="phone", kind=report.type, effect="none", data=said, message_id=message_id)
            if await self._settle(call, event_of(report, call.now), why):
                return
        raise DialdeskError("CALL_CHANGED")

    async def hear(
        self,
        tenant_id: str,
        call_id: str,
        once: str,
        kind: str,
        event: Progress | End,
        said: bytes,
        *,
        attempt: int | None = None,
    ) -> None:
        """Commit what a provider says of a call; the same fact (`once`) again changes nothing, nor does what is said of
        an `attempt` that another one follows.

        Raises NOT_FOUND, UNAVAILABLE, CALL_CHANGED.
        """
        for _ in range(_RACES):
            call = await self._rows.read(tenant_id, call_id, once)
            if call is None:
                raise DialdeskError("NOT_FOUND", what="call")
            if call.seen:
                self._metrics.reports.labels("repeated").inc()
                return
            if attempt is not None and attempt != call.attempt:
                log.info("overtaken", call_id=call_id, attempt=attempt, said=kind)
                self._metrics.reports.labels("overtaken").inc()
                return
            why = Explanation(source="provider", kind=kind, effect="none", data=said, message_id=once)
            if await self._settle(call, event, why):
                return
        raise DialdeskError("CALL_CHANGED")

    async def report_status(self, identity: Identity, body: StatusBatch | AppStatus) -> ReportsAnswer:
        """Take CALL_STATUS from an app over HTTP, one or a batch after an offline spell."""
        reports = body if isinstance(body, list) else [body]
        return ReportsAnswer(results=[await self._take(identity, report) for report in reports])

    async def report_end(self, identity: Identity, body: EndBatch | AppEnd) -> ReportsAnswer:
        """Take CALL_END from an app over HTTP, one or a batch after an offline spell."""
        reports = body if isinstance(body, list) else [body]
        return ReportsAnswer(results=[await self._take(identity, report) for report in reports])

    async def ack(self, device_id: str, command_id: str) -> None:
        """A phone has a command on its disk."""
        await self._rows.ack(command_id, device_id)

    # --- found by the server ------------------------------------------------------------------------------------------

    async def reap(self, tenant_id: str, call_id: str) -> None:
        """Close a call that has stood still for too long: its outcome is unknown until a late truth corrects it."""
        for _ in range(_RACES):
            call = await self._rows.read(tenant_id, call_id)
            if call is None or call.reap_at is None or call.reap_at > call.now:
                return
            expired = call.state.status is Status.PENDING and call.never_given
            cause = HangupCause.EXPIRED if expired else HangupCause.LOST
            if await self._close(call, cause, "reaper", f"{call.state.status} for too long"):
                return

    async def disown(self, tenant_id: str, call_id: str) -> None:
        """Close a call that its phone, back after a long absence, does not know of any more."""
        for _ in range(_RACES):
            call = await self._rows.read(tenant_id, call_id)
            if call is None or call.state.status is Status.ENDED:
                return
            if await self._close(call, HangupCause.LOST, "reaper", "the phone does not know the call"):
                return

    async def doubt(self, tenant_id: str, call_id: str) -> None:
        """A phone is back after a long absence and does not name this call: unless it says more of it soon, or the call
        is disowned before, the reaper closes it."""
        async with self._database.connection() as connection:
            await calls.doubt(connection, tenant_id, call_id, DOUBT)

    async def close_lost(
        self, connection: Connection, tenant_id: str, device_ids: Sequence[str], reason: str
    ) -> list[Emitted]:
        """End the living calls of phones that are being unbound, inside the caller's transaction.

        The caller announces what this returns after its commit.
        """
        emitted = []
        for call_id in await calls.living_of(connection, tenant_id, device_ids):
            call = await calls.read(connection, tenant_id, call_id)
            assert call is not None
            state, why, tell = self._lost(call, HangupCause.LOST, "server", reason)
            event = await calls.change(connection, Change(call, state, None, why, tell))
            assert event is not None
            emitted.append(event)
        return emitted

    # ------------------------------------------------------------------------------------------------------------------

    async def _dial(self, identity: Identity, request: DialRequest, once: Once) -> DialAnswer:
        user_id = agent_of(identity, request)
        agent = await self._rows.context(Wanted(identity.calls, user_id, once))
        if agent is None:
            raise DialdeskError("NOT_FOUND", what="agent")
        if agent.answered:
            raise Duplicate("idempotency_key_once")
        if agent.disabled:
            raise DialdeskError("ACCOUNT_DISABLED")
        number, name = await self._customer(identity, request, agent.region)
        limits.decide(agent)
        if (request.call_method or agent.call_method) == "cloud":
            return await self._dial_cloud(identity, agent, request, number, name, once)
        phone = routing.choose(agent.phones, asked=request.device_id, default=agent.default_device_id)

        answer = DialAnswer(call_id=new_call_id())
        command_id = new_message_id()
        expiry = self._config.dial_expiry if phone.capabilities.auto_dial else self._config.dial_expiry_tapped
        expires_at = agent.now + timedelta(seconds=expiry)
        record = agent.recording_enabled and phone.capabilities.recording and self._config.recordings != "off"
        command = encode_data(
            DialCommand(
                call_id=answer.call_id,
                customer_phone=dialable(number, agent.region),
                customer_name=name,
                customer_id=request.customer_id,
                order_id=request.order_id,
                expires_at=epoch_ms(expires_at),
                record=record,
                consent_notice=(agent.recording_notice or None) if record else None,
            )
        )
        call = NewCall(
            id=answer.call_id,
            tenant_id=identity.tenant_id,
            user_id=user_id,
            team_id=agent.team_id,
            created_by=identity.id,
            source=_source_of(identity),
            device_id=phone.id,
            customer_phone=number,
            customer_id=request.customer_id,
            customer_name=name,
            order_id=request.order_id,
            external_id=request.external_id,
            custom_data=_bounded(request.custom_data),
            record=agent.recording_enabled,
            command_id=command_id,
            command=command,
            expires_at=expires_at,
            reap_after_expiry=self._config.reap_unreported,
            resend_after=self._config.resend_after,
        )
        try:
            dialled = await self._rows.dial(NewDial(call, once, answer))
        except Duplicate as duplicate:
            if duplicate.constraint == "call_live_device":
                raise DialdeskError("DEVICE_BUSY") from duplicate
            raise
        if dialled.refused is not None:
            raise DialdeskError(dialled.refused)
        log.info("dial", call_id=call.id, device_id=phone.id, user_id=user_id)
        self._relay.to_phone(dialled.node, phone.id, encode_raw(DialCommand.type, command, command_id))
        return answer

    async def _dial_cloud(
        self,
        identity: Identity,
        agent: DialContext,
        request: DialRequest,
        number: str,
        name: str | None,
        once: Once,
    ) -> DialAnswer:
        """Commit to a call over the best line, and have the provider place it."""
        user_id = agent_of(identity, request)
        answer = DialAnswer(
            call_id=new_call_id(), message="呼叫已提交，等待线路接通 / The call is committed and waits for its line"
        )
        call = NewCloudCall(
            id=answer.call_id,
            tenant_id=identity.tenant_id,
            user_id=user_id,
            team_id=agent.team_id,
            created_by=identity.id,
            source=_source_of(identity),
            customer_phone=number,
            customer_id=request.customer_id,
            customer_name=name,
            order_id=request.order_id,
            external_id=request.external_id,
            custom_data=_bounded(request.custom_data),
            record=agent.recording_enabled,
            expires_at=agent.now + timedelta(seconds=self._config.dial_expiry),
            reap_after_expiry=self._config.reap_ringing,
            case_type=request.case_type,
            tags=request.tags,
        )
        async with self._database.connection() as connection:
            if await do_not_call.is_listed(connection, call.tenant_id, number):
                raise DialdeskError("DO_NOT_CALL")
            order = await commit_to_line(connection, call, request.line_id, agent.default_line_id, once, answer)
        log.info("dial", call_id=call.id, line_id=order.line_id, user_id=user_id)
        assert self._orders is not None
        self._orders.start(order)
        return answer

    async def _customer(self, identity: Identity, request: DialRequest, region: str) -> tuple[str, str | None]:
        if request.customer_phone:
            return normalize(request.customer_phone, region), request.customer_name
        async with self._database.connection() as connection:
            return await customer_of(connection, identity.tenant_id, request, region)

    async def _hang_up(self, identity: Identity, call_id: str) -> None:
        async with self._database.connection() as connection:
            call = await calls.visible(connection, identity.calls, call_id)
            if call is None:
                raise DialdeskError("NOT_FOUND", what="call")
        if call.status is Status.ENDED:
            return
        if call.device_id is None:
            assert self._orders is not None
            await self._orders.hang_up(identity.tenant_id, call_id)
            return
        if not call.can_hang_up and call.status is not Status.PENDING:
            raise DialdeskError("HANGUP_UNSUPPORTED")
        command = encode_data(CancelDial(call_id=call_id, reason="hangup"))
        command_id = new_message_id()
        async with self._database.connection() as connection:
            committed = await calls.cancel(
                connection,
                identity.tenant_id,
                call_id,
                command_id,
                command,
                _source_of(identity),
                identity.id,
                self._config.resend_after,
            )
        if committed:
            log.info("hang up", call_id=call_id, device_id=call.device_id)
            self._relay.to_phone(call.node, call.device_id, encode_raw(CancelDial.type, command, command_id))

    async def _take(self, identity: Identity, report: AppStatus | AppEnd) -> ReportResult:
        message = said(report)
        try:
            await self.apply(identity.tenant_id, identity.id, report.message_id, message)
        except DialdeskError as error:
            return ReportResult(
                call_id=report.call_id,
                message_id=report.message_id,
                accepted=False,
                code=error.code,
                retry=error.retry,
            )
        return ReportResult(call_id=report.call_id, message_id=report.message_id, accepted=True)

    async def _settle(self, call: StoredCall, event: Progress | End, why: Explanation) -> bool:
        """Advance the call by one event; False where somebody else moved it first, and it must be judged again."""
        match _advanced(call, event):
            case Moved(state, enriched):
                why = msgspec.structs.replace(why, effect="enriched" if enriched else "moved")
                tell = telling(call, state, event, why.source, enriched=enriched)
                try:
                    emitted = await self._rows.change(Change(call, state, self._reap_at(call, state), why, tell))
                except Duplicate:
                    return False  # a twin of this report was committed a moment ago: judged again, it will be seen
                if emitted is None:
                    return False
                self._relay.announce([emitted])
                if state.status is Status.ENDED and not enriched:
                    self._metrics.calls_ended.labels(str(state.outcome), str(state.closed_by)).inc()
            case AlreadyThere():
                await self._note(call, why)
            case Illegal():
                why = msgspec.structs.replace(why, effect="illegal")
                await self._note(call, why)
        self._metrics.reports.labels(why.effect).inc()
        return True

    async def _note(self, call: StoredCall, why: Explanation) -> None:
        async with self._database.connection() as connection:
            await calls.note(connection, call, why)

    async def _close(self, call: StoredCall, cause: HangupCause, source: Source, reason: str) -> bool:
        state, why, tell = self._lost(call, cause, source, reason)
        emitted = await self._rows.change(Change(call, state, None, why, tell))
        if emitted is None:
            return False
        log.info("call closed", call_id=call.id, cause=cause, reason=reason)
        self._relay.announce([emitted])
        self._metrics.calls_ended.labels(str(state.outcome), str(state.closed_by)).inc()
        return True

    @staticmethod
    def _lost(
        call: StoredCall, cause: HangupCause, source: Source, reason: str
    ) -> tuple[CallState, Explanation, CallEnded]:
        end = End(
            outcome=Outcome.UNKNOWN,
            at=call.now,
            by="reaper" if source == "reaper" else "server",
            evidence=Evidence.SERVER,
            cause=cause,
        )
        moved = _advanced(call, end)
        assert isinstance(moved, Moved)
        said = msgspec.json.encode({"cause": cause, "reason": reason})
        why = Explanation(source=source, kind="CLOSED", effect="moved", data=said)
        return moved.state, why, ended(call, moved.state, enriched=False)

    def _reap_at(self, call: StoredCall, state: CallState) -> datetime | None:
        """When the call has stood still for too long. A phone that cannot see an answer says `calling` for as long as
        people talk, so only one that can is held to the time of ringing."""
        match state.status:
            case Status.ENDED:
                return None
            case Status.PENDING:
                return call.reap_at
            case Status.CALLING | Status.RINGING if call.capabilities.answer_signal:
                return (state.dialing_at or call.now) + timedelta(seconds=self._config.reap_ringing)
            case Status.CALLING | Status.RINGING | Status.CONNECTED:
                return call.now + timedelta(seconds=self._config.reap_talk)
            case _:
                assert_never(state.status)


def agent_of(identity: Identity, request: DialRequest) -> str:
    """For whom the call is made: the asker, or the agent that an API key names."""
    if request.user_id is None or request.user_id == identity.user_id:
        if identity.user_id is None:
            raise DialdeskError("INVALID_FIELD", reason="userId: an API key must name the agent")
        return identity.user_id
    identity.require("calls.dial_for")
    return request.user_id


async def customer_of(
    connection: Connection, tenant_id: str, request: DialRequest, region: str
) -> tuple[str, str | None]:
    """Whom the call is for: (number as it is kept, name). Raises INVALID_FIELD, INVALID_PHONE and NOT_FOUND."""
    if request.customer_phone:
        return normalize(request.customer_phone, region), request.customer_name
    if request.customer_id is None:
        raise DialdeskError("INVALID_FIELD", reason="customerPhone is missing")
    known = await calls.customer_phone(connection, tenant_id, request.customer_id)
    if known is None:
        raise DialdeskError("NOT_FOUND", what="customer")
    number, name = known
    return normalize(number, region), request.customer_name or name


def _advanced(call: StoredCall, event: Progress | End) -> Moved | AlreadyThere | Illegal:
    """Return what an event makes of the call. A recording that was stored is a fact, and what is said of it a claim."""
    if call.recording_stored and isinstance(event, End):
        known = call.state
        event = msgspec.structs.replace(event, has_recording=known.has_recording, recording_size=known.recording_size)
    return advance(call.state, event, call.now)


def _source_of(identity: Identity) -> Source:
    return "api" if identity.kind == "api_key" else "agent"


def _bounded(custom_data: dict[str, Any] | None) -> bytes | None:
    if custom_data is None:
        return None
    try:
        encoded = msgspec.json.encode(custom_data)
    except RecursionError as error:
        raise DialdeskError("INVALID_FIELD", reason="customData is nested too deeply") from error
    if len(encoded) > CUSTOM_DATA_BOUND:
        raise DialdeskError("INVALID_FIELD", reason=f"customData is larger than {CUSTOM_DATA_BOUND} bytes")
    return encoded
