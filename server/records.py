"""Calls as they are read: one, lists, and the agent's record of each (seed 003 §5.3, §6.4).

Nothing here moves a call; `calls` does. Everybody reads within reach: an agent the own calls, a supervisor also those
of the teams, the others and API keys those of the tenant; a call out of reach does not exist. Numbers of customers are
masked unless `customers.reveal` is held.
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import asyncpg
import msgspec

from protocol.call import Evidence, HangupCause, Outcome, Status
from protocol.errors import DialdeskError, Language
from protocol.messages import Id
from protocol.phone_number import mask, normalize
from protocol.timestamps import Instant, Timestamp, rfc3339
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.providers.provider import Control
from storage import records
from storage.database import Connection, Database
from storage.recordings import recording_url
from storage.records import Page, Place, Wanted

MOST_EVENTS = 200
"""Events of a call that one answer shows."""

Order = Literal["newest", "changed", "due", "unrecorded"]

Method = Literal["mobile", "cloud", "sip"]
Recording = Literal["none", "awaited", "ready", "failed", "expired", "deleted"]
CursorText = Annotated[str, msgspec.Meta(max_length=512)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=100)]


# --- what is asked --------------------------------------------------------------------------------------------------


class Filters(Body, frozen=True, kw_only=True):
    """Which calls. `from` and `to` bound the time of the dial (from <= time < to); `outcome` and `recording` may be
    repeated."""

    status: Status | None = None
    outcome: tuple[Outcome, ...] = ()
    recording: tuple[Recording, ...] = ()
    call_method: Method | None = None
    user_id: Id | None = None
    team_id: Id | None = None
    device_id: Id | None = None
    customer_id: Id | None = None
    customer_phone: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    order_id: Id | None = None
    external_id: Id | None = None
    from_: Instant | None = msgspec.field(default=None, name="from")
    to: Instant | None = None


class ListQuery(Filters, frozen=True, kw_only=True):
    """Which calls to list. `from` and `to` bound the time of the dial (from <= time < to).

    `outcome` and `recording` may be repeated. With `updatedSince` the list is a feed of changes, the oldest change
    first.
    """

    updated_since: Instant | None = None
    cursor: CursorText | None = None
    limit: Limit = 20


class FollowUpsQuery(Body, frozen=True, kw_only=True):
    """Which follow-ups: those due at `before`, by default now; of one agent where `userId` names one."""

    before: Instant | None = None
    user_id: Id | None = None
    cursor: CursorText | None = None
    limit: Limit = 20


class UnrecordedQuery(Body, frozen=True, kw_only=True):
    """Which calls without a record: of one agent where `userId` names one."""

    user_id: Id | None = None
    cursor: CursorText | None = None
    limit: Limit = 20


class FollowUpBody(Body, frozen=True, kw_only=True):
    """The quick record after a call; what is left out is empty. `nextFollowUpAt` lies in the future."""

    result: str | None = None
    intention: str | None = None
    note: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    next_follow_up_at: Instant | None = None


# --- what is answered -----------------------------------------------------------------------------------------------


class CallStatusAnswer(Answer, frozen=True, kw_only=True):
    """Where a call stands (seed 003 §5.3).

    `startTime` is when the customer answered. `duration` is seconds of talk: so far while connected, in all once ended,
    and null where nobody can tell. `controls` is what can be done to the call now: `hang_up`, `mute`, `transfer`.
    """

    call_id: str
    status: Status
    duration: int | None
    start_time: Timestamp | None
    end_time: Timestamp | None
    outcome: Outcome | None
    hangup_cause: HangupCause | None
    evidence: Evidence | None
    controls: list[Control]
    updated_at: Timestamp


class FollowUp(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The agent's record of a call; `doneAt` tells that the next follow-up was made or dropped."""

    result: str | None
    intention: str | None
    note: str | None
    next_follow_up_at: Timestamp | None
    done_at: Timestamp | None
    recorded_at: Timestamp
    recorded_by: str


class CallRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A call with all that is known of it (seed 003 §4.2.3); null where it is not.

    Durations are seconds: `ringDuration` from ringing to the answer or the end, `duration` of talk, told at the end.

    `record` tells whether the tenant had calls recorded when this one was dialled. `recording` is `awaited` where the
    phone says that it has one which has not come, `ready` where it can be played at `recordingUrl`, and `failed` where
    it could not be had; an `expired` or `deleted` one was here once. `hasRecording` and `recordingSize` (bytes) are
    what the phone says, until a recording is stored: then they are what is so.
    """

    call_id: str
    status: Status
    outcome: Outcome | None
    closed_by: str | None
    evidence: Evidence | None
    connected_evidence: Evidence | None
    hangup_cause: HangupCause | None
    raw_cause: str | None
    call_method: Method
    user_id: str
    user_name: str
    team_id: str | None
    created_by: str
    device_id: str | None
    line_id: str | None
    provider_call_id: str | None
    provider_job_id: str | None
    caller_number: str | None
    customer_phone: str
    customer_id: str | None
    customer_name: str | None
    order_id: str | None
    external_id: str | None
    custom_data: msgspec.Raw
    created_at: Timestamp
    dialing_at: Timestamp | None
    ringing_at: Timestamp | None
    connected_at: Timestamp | None
    ended_at: Timestamp | None
    ring_duration: int | None
    duration: int | None
    has_recording: bool | None
    recording_size: int | None
    record: bool
    recording: Recording
    recording_url: str | None
    updated_at: Timestamp
    follow_up: FollowUp | None


class CallEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that was said of a call: by whom, what (`kind`, `data`), and what it changed (`effect`)."""

    at: Timestamp
    source: str
    kind: str
    effect: str
    data: msgspec.Raw


class CallAnswer(Answer, frozen=True, kw_only=True):
    """One call, what can be done to it now (`hang_up`, `mute`, `transfer`), and its history, oldest first;
    `eventsTruncated` where there is more of it than is shown."""

    call: CallRecord
    controls: list[Control]
    events: list[CallEvent]
    events_truncated: bool


class CallPage(Answer, frozen=True, kw_only=True):
    """A page of calls. `nextCursor`, sent with the same parameters, brings the next; null on the last page.

    A page may be short, or empty, and not the last, where few calls are of the kind asked for; `hasMore` tells. With
    `updatedSince` the cursor is never null: keep it, and ask again with it for what changes later.
    """

    calls: list[CallRecord]
    next_cursor: str | None
    has_more: bool


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """What a hang-up cause means, and what to do about it."""

    code: HangupCause
    text: str
    advice: str


class OptionsAnswer(Answer, frozen=True, kw_only=True):
    """What agents choose from in the quick record, and the hang-up causes in the asker's language."""

    results: list[str]
    intentions: list[str]
    causes: list[Cause]


# --- what happens ---------------------------------------------------------------------------------------------------


class Records:
    """The reading side of calls, and the agent's record of each.

    `settle` is the seconds by which the feed of changes keeps behind transactions that are still open.
    """

    def __init__(self, database: Database, *, settle: float = 1.0) -> None:
        self._database = database
        self._settle = settle

    async def status(self, identity: Identity, call_id: str) -> CallStatusAnswer:
        """Tell where a call stands."""
        async with self._database.connection() as connection:
            row = await records.get(connection, identity.calls, call_id)
        if row is None:
            raise DialdeskError("NOT_FOUND", what="call")
        return CallStatusAnswer(
            call_id=call_id,
            status=Status(row["status"]),
            duration=_talk(row),
            start_time=rfc3339(row["connected_at"]),
            end_time=rfc3339(row["ended_at"]),
            outcome=row["outcome"],
            hangup_cause=row["hangup_cause"],
            evidence=row["evidence"],
            controls=row["controls"],
            updated_at=rfc3339(row["updated_at"]),
        )

    async def get(self, identity: Identity, call_id: str) -> CallAnswer:
        """Return a call with its history."""
        async with self._database.transaction(snapshot=True) as connection:
            row = await records.get(connection, identity.calls, call_id)
            if row is None:
                raise DialdeskError("NOT_FOUND", what="call")
            events = await records.events(connection, identity.tenant_id, call_id, MOST_EVENTS + 1)
        return CallAnswer(
            call=_record(row, identity),
            controls=row["controls"],
            events=[
                CallEvent(
                    at=rfc3339(event["at"]),
                    source=event["source"],
                    kind=event["kind"],
                    effect=event["effect"],
                    data=msgspec.Raw(event["data"].encode()),
                )
                for event in events[:MOST_EVENTS]
            ],
            events_truncated=len(events) > MOST_EVENTS,
        )

    async def list_calls(self, identity: Identity, query: ListQuery) -> CallPage:
        """List calls, newest first; with `updatedSince`, follow how calls change.

        That feed misses nothing and never goes back, whatever order changes are committed in: a change is served once
        nothing older can be committed any more, about a second after it is made. A call that changes again is served
        again. Its cursor never ends; where `hasMore` is false there is nothing new yet.

        Raises INVALID_PHONE for a `customerPhone` that is no number.
        """
        reach = identity.calls
        async with self._database.search() as connection:
            wanted = await wanted_by(connection, identity, query)
            if query.updated_since is None:
                place = _place(query.cursor, "newest")
                return _told(identity, "newest", await records.newest(connection, reach, wanted, place, query.limit))
            since = _place(query.cursor, "changed") or (_utc(query.updated_since), "")
            settled = await records.settled(connection, self._settle)
            page = await records.changed(connection, reach, wanted, since, query.limit, settled)
        return msgspec.structs.replace(
            _told(identity, "changed", page), next_cursor=_cursor("changed", page.reached or since)
        )

    async def follow_ups_due(self, identity: Identity, query: FollowUpsQuery) -> CallPage:
        """List calls whose next follow-up is due and not done, the longest due first."""
        before = None if query.before is None else _utc(query.before)
        place = _place(query.cursor, "due")
        async with self._database.search() as connection:
            page = await records.due(connection, identity.calls, query.user_id, before, place, query.limit)
        return _told(identity, "due", page)

    async def not_recorded(self, identity: Identity, query: UnrecordedQuery) -> CallPage:
        """List ended calls that the agent has not recorded yet, the last ended first."""
        place = _place(query.cursor, "unrecorded")
        async with self._database.search() as connection:
            page = await records.unrecorded(connection, identity.calls, query.user_id, place, query.limit)
        return _told(identity, "unrecorded", page)

    async def follow_up(self, identity: Identity, call_id: str, body: FollowUpBody) -> Done:
        """Record result, intention, note and the next follow-up of a call.

        The record replaces the one before. It may be made while the call goes on, and counts from then: the call is not
        listed as unrecorded when it ends. It completes the follow-ups that the same agent planned on earlier calls to
        the same customer, by customer id or number.
        """
        record = records.FollowUp(
            result=body.result,
            intention=body.intention,
            note=(body.note or "").strip() or None,
            next_at=None if body.next_follow_up_at is None else _utc(body.next_follow_up_at),
        )
        if record == records.FollowUp(result=None, intention=None, note=None, next_at=None):
            raise DialdeskError("INVALID_FIELD", reason="a record says something: result, intention, note or next time")
        async with self._database.transaction() as connection:
            tenant = await records.tenant(connection, identity.tenant_id)
            _choose("result", record.result, tenant["call_results"])
            _choose("intention", record.intention, tenant["call_intentions"])
            if record.next_at is not None and record.next_at <= tenant["now"]:
                raise DialdeskError("INVALID_FIELD", reason="nextFollowUpAt must lie in the future")
            if not await records.follow_up(connection, identity.calls, call_id, record, identity.id):
                raise DialdeskError("NOT_FOUND", what="call")
        return Done()

    async def complete_follow_up(self, identity: Identity, call_id: str) -> Done:
        """Mark the follow-up planned on a call as done; said again, it changes nothing."""
        async with self._database.transaction() as connection:
            if not await records.complete(connection, identity.calls, call_id):
                raise DialdeskError("NOT_FOUND", what="follow-up")
        return Done()

    async def options(self, identity: Identity, request: RequestInfo) -> OptionsAnswer:
        """Return the results and intentions to choose from, and what hang-up causes mean."""
        async with self._database.connection() as connection:
            tenant = await records.tenant(connection, identity.tenant_id)
        return OptionsAnswer(
            results=tenant["call_results"],
            intentions=tenant["call_intentions"],
            causes=[cause_in(code, request.language) for code in HangupCause],
        )


async def wanted_by(connection: Connection, identity: Identity, query: Filters) -> Wanted:
    """What the calls must be that somebody asks for. Raises INVALID_PHONE for a `customerPhone` that is no number."""
    phone = query.customer_phone
    if phone is not None:
        tenant = await records.tenant(connection, identity.tenant_id)
        phone = normalize(phone, tenant["region"])
    return Wanted(
        status=query.status,
        outcomes=query.outcome,
        recordings=query.recording,
        call_method=query.call_method,
        user_id=query.user_id,
        team_id=query.team_id,
        device_id=query.device_id,
        customer_id=query.customer_id,
        customer_phone=phone,
        order_id=query.order_id,
        external_id=query.external_id,
        created_from=None if query.from_ is None else _utc(query.from_),
        created_to=None if query.to is None else _utc(query.to),
    )


def _choose(name: str, chosen: str | None, choices: Sequence[str]) -> None:
    if chosen is not None and chosen not in choices:
        raise DialdeskError("INVALID_FIELD", reason=f"{name} must be one of {', '.join(choices)}", allowed=choices)


def _utc(at: datetime) -> datetime:
    """The first and last day of the calendar have offsets under which they are no time at all in UTC."""
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise DialdeskError("INVALID_FIELD", reason="a time lies outside the calendar") from error


# --- pages ----------------------------------------------------------------------------------------------------------


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    order: Order
    at: Instant
    call_id: str


def _cursor(order: Order, place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(_Cursor(order, *place))).decode().rstrip("=")


def _place(text: str | None, order: Order) -> Place | None:
    """Read a cursor. It needs no signature: it says where to go on, never what may be seen."""
    if text is None:
        return None
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.json.decode(octets, type=_Cursor)
    except (ValueError, msgspec.MsgspecError) as error:
        raise DialdeskError("INVALID_FIELD", reason="cursor is none that was given out") from error
    if cursor.order != order:
        raise DialdeskError("INVALID_FIELD", reason="cursor belongs to another list")
    return _utc(cursor.at), cursor.call_id


def _told(identity: Identity, order: Order, page: Page) -> CallPage:
    return CallPage(
        calls=[_record(row, identity) for row in page.rows],
        next_cursor=_cursor(order, page.reached) if page.more and page.reached else None,
        has_more=page.more,
    )


# --- rows as they are told ------------------------------------------------------------------------------------------


def _record(row: asyncpg.Record, identity: Identity) -> CallRecord:
    phone: str = row["customer_phone"]
    recording = recording_of(row)
    return CallRecord(
        call_id=row["id"],
        status=Status(row["status"]),
        outcome=row["outcome"],
        closed_by=row["closed_by"],
        evidence=row["evidence"],
        connected_evidence=row["connected_evidence"],
        hangup_cause=row["hangup_cause"],
        raw_cause=row["raw_cause"],
        call_method=row["call_method"],
        user_id=row["user_id"],
        user_name=row["user_name"],
        team_id=row["team_id"],
        created_by=row["created_by"],
        device_id=row["device_id"],
        line_id=row["line_id"],
        provider_call_id=row["provider_call_id"],
        provider_job_id=row["provider_job_id"],
        caller_number=row["caller_number"],
        customer_phone=phone if identity.may("customers.reveal") else mask(phone),
        customer_id=row["customer_id"],
        customer_name=row["customer_name"],
        order_id=row["order_id"],
        external_id=row["external_id"],
        custom_data=msgspec.Raw((row["custom_data"] or "null").encode()),
        created_at=rfc3339(row["created_at"]),
        dialing_at=rfc3339(row["dialing_at"]),
        ringing_at=rfc3339(row["ringing_at"]),
        connected_at=rfc3339(row["connected_at"]),
        ended_at=rfc3339(row["ended_at"]),
        ring_duration=ringing(row),
        duration=row["duration"],
        has_recording=row["has_recording"],
        recording_size=row["recording_size"],
        record=row["record"],
        recording=recording,
        recording_url=recording_url(row["id"]) if recording == "ready" else None,
        updated_at=rfc3339(row["updated_at"]),
        follow_up=_follow_up(row),
    )


def recording_of(row: asyncpg.Record) -> Recording:
    """What stands for the recording; the lists judge by the same words (storage/sql/records.sql)."""
    status: Recording | None = row["recording_status"]
    return status or ("awaited" if row["record"] and row["has_recording"] else "none")


def _follow_up(row: asyncpg.Record) -> FollowUp | None:
    if row["followed_up_at"] is None:
        return None
    return FollowUp(
        result=row["follow_up_result"],
        intention=row["follow_up_intention"],
        note=row["follow_up_note"],
        next_follow_up_at=rfc3339(row["follow_up_next_at"]),
        done_at=rfc3339(row["follow_up_done_at"]),
        recorded_at=rfc3339(row["followed_up_at"]),
        recorded_by=row["followed_up_by"],
    )


def _talk(row: asyncpg.Record) -> int | None:
    talk: int | None
    match Status(row["status"]):
        case Status.PENDING | Status.CALLING | Status.RINGING:
            talk = 0
        case Status.CONNECTED:
            talk = max(0, row["talking"])
        case Status.ENDED:
            talk = row["duration"]
    return talk


def ringing(row: asyncpg.Record) -> int | None:
    """Seconds from the ringing to the answer or the end. A phone's account may put the answer before the ringing; that
    is no time at all."""
    rung: datetime | None = row["ringing_at"]
    until: datetime | None = row["connected_at"] or row["ended_at"]
    if rung is None or until is None:
        return None
    return max(0, (until - rung) // timedelta(seconds=1))


def cause_in(code: HangupCause, language: Language) -> Cause:
    """What a cause means, in a language."""
    zh, zh_advice, en, en_advice = _CAUSES[code]
    text, advice = (zh, zh_advice) if language == "zh-CN" else (en, en_advice)
    return Cause(code=code, text=text, advice=advice)


_CAUSES: dict[HangupCause, tuple[str, str, str, str]] = {
    # meaning and advice: the first eight in the words of seed 003 §8.2
    HangupCause.NORMAL_CLEARING: ("正常挂断", "无需处理", "Hung up normally", "Nothing to do"),
    HangupCause.USER_BUSY: ("用户忙", "稍后重拨", "Busy", "Dial again later"),
    HangupCause.NO_ANSWER: ("无人接听", "稍后重拨", "No answer", "Dial again later"),
    HangupCause.CALL_REJECTED: ("拒接", "标记客户状态", "Rejected", "Mark the customer's status"),
    HangupCause.INVALID_NUMBER: ("无效号码", "核实号码", "Invalid number", "Check the number"),
    HangupCause.UNALLOCATED_NUMBER: ("空号", "标记为无效", "Number not in service", "Mark it as invalid"),
    HangupCause.NETWORK_ERROR: ("网络错误", "检查线路", "Network error", "Check the line"),
    HangupCause.TIMEOUT: ("呼叫超时", "稍后重拨", "Timed out", "Dial again later"),
    HangupCause.DEVICE_OFFLINE: (
        "工作手机离线",
        "打开手机 APP 后重拨",
        "The work phone was offline",
        "Open its app and dial again",
    ),
    HangupCause.DEVICE_BUSY: (
        "工作手机占线",
        "挂断手机上的通话后重拨",
        "The work phone was busy",
        "End the call on it and dial again",
    ),
    HangupCause.EXPIRED: (
        "拨号指令已过期，未曾拨出",
        "确认手机在线（线路呼叫则确认线路正常）后重拨",
        "The dial expired before it was carried out",
        "See that the phone is online, or the line well, and dial again",
    ),
    HangupCause.CANCELLED: ("已取消", "无需处理", "Cancelled", "Nothing to do"),
    HangupCause.LOST: (
        "失去联系，通话可能已经进行",
        "重拨前先核对手机或线路服务商的通话记录",
        "Contact was lost; the call may have been made",
        "Before dialling again, check the call log on the phone or the provider's record",
    ),
    HangupCause.RESTRICTED: ("呼叫受限", "联系运营商或更换线路", "Restricted", "Ask the carrier, or use another line"),
    HangupCause.POWER_OFF: ("关机", "稍后重拨", "Switched off", "Dial again later"),
    HangupCause.SUSPENDED: ("停机", "核实号码", "Suspended", "Check the number"),
    HangupCause.NO_PERMISSION: (
        "手机 APP 没有拨号权限",
        "在手机上授权后重拨",
        "The app may not dial",
        "Allow it on the phone and dial again",
    ),
    HangupCause.NO_SIM: (
        "手机没有 SIM 卡",
        "插入 SIM 卡后重拨",
        "The phone has no SIM card",
        "Put one in and dial again",
    ),
    HangupCause.UNKNOWN: ("原因不明", "查看通话详情", "Cause unknown", "Look at the call's history"),
}
