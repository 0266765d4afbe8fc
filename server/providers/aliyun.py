"""Alibaba Cloud CCC 阿里云云联络中心, API 2020-07-01: a signed-in agent calls, or two telephones are called and joined.

A call is known by its JobId, which events and records call ContactId. Events tell of channels, the agent's and the
customer's: only the customer's moves a call. They are unsigned, and what they say is live; how a call went in the end
is told by its call detail record, which exists when CDRReady has come.

Sources: help.aliyun.com/zh/ccs (event-notification-formats, api-ccc-2020-07-01-…) and the SDK's own models.
docs/providers/aliyun.md says what is known and what is inferred.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Literal, assert_never

import aiohttp
import msgspec
import structlog

from protocol.call import End, Evidence, HangupCause, Outcome, Progress, Status
from protocol.phone_number import dialable
from server.providers.provider import (
    CallReference,
    Control,
    Heard,
    Order,
    Placed,
    PlacementRefused,
    Recording,
    Refusal,
    Reply,
    Tested,
    Told,
    Uncertain,
    Unsupported,
    Webhook,
    WebhookRefused,
)

if TYPE_CHECKING:
    from server.providers.aliyun_sdk import Ccc, Millis, Record

log = structlog.get_logger()

DEADLINE = 10.0
"""Seconds for a method as a whole."""

WEBHOOK_BOUND = 64 * 1024
"""Bytes of an event; those of calls are some 1 KiB."""

PAGES = 3
"""Pages of 100 records that are read to find a call without its JobId."""

BEGUN_BEFORE, BEGUN_AFTER = timedelta(seconds=30), timedelta(minutes=2)
"""How long before and after its order a call may have begun, by the vendor's clock."""

RING_TIMEOUT = (30, 300)
"""Seconds between which the vendor allows a ring timeout."""

GONE = ("NotExists.JobId", "NotExists.ChannelId")
"""Begins what the vendor says of a call that is over."""

MISSING = "NotExists."
"""Begins what it says of a record or a recording that there is not, or not yet."""

NO_INSTANCE = "NotExists.InstanceId"
"""Says nothing of the call: the line's settings are wrong."""

CUSTOMER: dict[str, Status] = {
    "Dialing": Status.CALLING,
    "Ringing": Status.RINGING,
    "Established": Status.CONNECTED,
}
"""What an event of the customer's channel says of the call; Released ends it."""

AGENT: dict[str, Status] = {
    "AgentDialing": Status.CALLING,
    "AgentRinging": Status.CALLING,
    "Dialing": Status.CALLING,
    "Ringing": Status.CALLING,
}
"""What an event of the agent, or of the agent's channel, says: that the calling has begun, and no more."""

_Ended = tuple[Outcome, HangupCause]

DISPOSITIONS: dict[str, _Ended] = {
    "Success": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "ForwardToOutsideNumber": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "NoAnswer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "Reject": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "AbandonedInRing": (Outcome.CANCELLED, HangupCause.CANCELLED),
    # of calls that come in; here for the sake of completeness
    "AbandonedInQueue": (Outcome.CANCELLED, HangupCause.CANCELLED),
    "AbandonedInIVR": (Outcome.CANCELLED, HangupCause.CANCELLED),
    "AbandonedInVoiceNavigator": (Outcome.CANCELLED, HangupCause.CANCELLED),
    "QueuingTimeout": (Outcome.MISSED, HangupCause.TIMEOUT),
    "QueuingFailed": (Outcome.FAILED, HangupCause.UNKNOWN),
    "QueuingOverflow": (Outcome.FAILED, HangupCause.UNKNOWN),
    "Voicemail": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "IVRException": (Outcome.FAILED, HangupCause.UNKNOWN),
}
"""ContactDisposition of a record."""

EARLY_MEDIA: dict[str, _Ended] = {
    "NoAnswer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "Busy": (Outcome.BUSY, HangupCause.USER_BUSY),
    "NotExist": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),  # 空号
    "OutOfService": (Outcome.FAILED, HangupCause.SUSPENDED),  # 停机
    "PowerOff": (Outcome.FAILED, HangupCause.POWER_OFF),
    "NotConnected": (Outcome.FAILED, HangupCause.POWER_OFF),  # 无法接通: Q.850 cause 20 as well
    "Restricted": (Outcome.FAILED, HangupCause.RESTRICTED),
}
"""EarlyMediaState: what the carrier's announcement said, of a call that was not answered."""

SIP: dict[str, _Ended] = {
    "200": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "403": (Outcome.FAILED, HangupCause.RESTRICTED),
    "404": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
    "408": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "410": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
    "480": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "484": (Outcome.FAILED, HangupCause.INVALID_NUMBER),
    "486": (Outcome.BUSY, HangupCause.USER_BUSY),
    "487": (Outcome.CANCELLED, HangupCause.CANCELLED),
    "500": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "502": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "503": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "504": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "600": (Outcome.BUSY, HangupCause.USER_BUSY),
    "603": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
}
"""The code with which a ReleaseReason begins, as in `480 - Temporarily Unavailable`."""

REPLY = Reply(b'{"success":true}', "application/json")

UNKNOWN: _Ended = (Outcome.UNKNOWN, HangupCause.UNKNOWN)

CONTACT_TYPE = {"agent": "OUTBOUND", "back2back": "BACK2BACK"}
"""How records call what each mode places."""

_SIP_CODE = re.compile(r"\s*([0-9]{3})\b")
_LEADS_TO = re.compile(r"ch:[^:]*:[^:]*->([^:]+):.*")

_Filled = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class AliyunSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A call centre instance, as it may be shown.

    With `mode` "agent" a call is made for an agent who is signed in; with "back2back" the seat's telephone is called,
    then the customer's. `broker` is a number of the instance: seats' telephones see it in mode "back2back", and
    outside numbers when a call is handed to them. An overriding `base_url` has been judged before it comes here.
    """

    instance_id: _Filled
    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2}-[a-z0-9-]{1,30}$")] = "cn-shanghai"
    mode: Literal["agent", "back2back"] = "agent"
    broker: str = ""
    base_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/?#@]+/?$")] | None = None


class AliyunSecrets(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The AccessKey of a RAM user, which must not be shown."""

    access_key_id: _Filled
    access_key_secret: _Filled

    def __repr__(self) -> str:
        return "AliyunSecrets('**********')"


class _Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A message about a call. What is not among the fields that all messages have is there by the type of event."""

    event_type: str
    event_time: str
    instance_id: str
    contact_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    channel_id: str | None = None
    call_type: str | None = None
    media_type: str | None = None
    callee: str | None = None
    agent_id: str | None = None
    scenario: str | None = None
    tags: str | None = None
    release_reason: str | None = None
    early_media_state: str | None = None
    file_name: str | None = None
    download_url: str | None = msgspec.field(name="downloadURL", default=None)


class Aliyun:
    """One call centre instance. Its client is made when it is first used, for importing the SDK takes a while."""

    def __init__(
        self,
        settings: AliyunSettings,
        secrets: AliyunSecrets,
        http: aiohttp.ClientSession,
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self.controls: frozenset[Control] = frozenset()
        if settings.mode == "agent":
            self.controls = frozenset({"hang_up", "mute", "transfer"})
        self._settings = settings
        self._secrets = secrets
        self._http = http
        self._deadline = deadline
        self._ccc: Ccc | None = None

    async def place(self, order: Order) -> Placed:
        """Have the agent's telephone rung, then the customer's.

        Raises PlacementRefused, Uncertain."""
        try:
            async with self._asking() as ccc:
                return Placed(await self._place(ccc, order))
        except PlacementRefused as refused:
            log.info("aliyun_refused", tag=order.tag, code=refused.code)
            raise
        except Uncertain as uncertain:
            log.warning("aliyun_uncertain", tag=order.tag, reason=str(uncertain))
            raise

    async def hang_up(self, call: CallReference) -> None:
        """End a call; one that is over is a success. Raises Unsupported, PlacementRefused, Uncertain."""
        self._needs_agent("end")
        async with self._asking() as ccc:
            try:
                await ccc.release_call(job_id=self._job(call), user_id=call.seat.id)
            except PlacementRefused as refused:
                if not refused.code.startswith(GONE):
                    raise

    async def mute(self, call: CallReference, *, on: bool) -> None:
        """Mute the agent towards the customer. Raises Unsupported, PlacementRefused, Uncertain."""
        self._needs_agent("mute")
        async with self._asking() as ccc:
            await ccc.mute_call(job_id=self._job(call), user_id=call.seat.id, on=on)

    async def transfer(self, call: CallReference, to: str) -> None:
        """Hand the customer to another agent (`agent@instance`) or number.

        Raises Unsupported, PlacementRefused, Uncertain."""
        self._needs_agent("transfer")
        to_agent = "@" in to
        async with self._asking() as ccc:
            await ccc.blind_transfer(
                job_id=self._job(call),
                user_id=call.seat.id,
                to=to if to_agent else dialable(to),
                to_agent=to_agent,
                caller=dialable(self._settings.broker) or None,
            )

    async def look_up(self, call: CallReference) -> list[Told] | None:
        """Return what the call's record says, and that there is a recording; None where there is no such record.

        Raises Uncertain, also where several records could be that of a call whose JobId is not known."""
        async with self._looking() as ccc:
            record = await self._record(ccc, call)
        return None if record is None else self._told(record, call)

    def read_webhook(self, webhook: Webhook) -> list[Told]:
        """Read an event, which tells of one call or of none. Raises WebhookRefused.

        Events carry no signature: that the URL was known is for the caller to judge, as a hint."""
        said = _said(webhook.body)
        try:
            event = msgspec.convert(said, _Event)
        except msgspec.ValidationError:
            raise WebhookRefused("not an event of Aliyun CCC") from None
        if event.instance_id != self._settings.instance_id:
            raise WebhookRefused("an event of another instance")
        if not event.contact_id:
            return []
        if "downloadURL" in said:
            said["downloadURL"] = "***"  # whoever has it can fetch the recording
        return [
            Told(
                provider_call_id=event.contact_id,
                tag=event.tags or None,
                event=_heard(event, _event_time(event.event_time, webhook.received_at)),
                once=self._recording_once(event.contact_id) if event.event_type == "RecordingReady" else _key(said),
                raw=msgspec.json.encode(said),
            )
        ]

    def key_of(self, webhook: Webhook) -> str:
        """Return what makes a repeated delivery of this message a repeat; the vendor gives events no id."""
        try:
            return _key(_said(webhook.body))
        except WebhookRefused:
            return sha256(webhook.body).hexdigest()

    def reply(self) -> Reply:
        """Return the answer by which the vendor sends it no more: any with status 200, as far as is known."""
        return REPLY

    async def recording_url(self, call: CallReference, name: str | None) -> str | None:  # noqa: ARG002 - by call
        """Return a URL at which the call's recording can be fetched for a day; None where there is none (yet).

        Raises Uncertain."""
        async with self._looking() as ccc:
            job_id = call.provider_call_id
            if job_id is None:
                record = await self._record(ccc, call)
                job_id = record.contact_id if record is not None else None
            try:
                return None if job_id is None else await ccc.recording(job_id)
            except PlacementRefused as refused:
                if _is_missing(refused):
                    return None
                raise

    async def test(self) -> Tested:
        """Ask what the instance is. Raises PlacementRefused, Uncertain."""
        begun = time.perf_counter()
        async with self._asking() as ccc:
            instance = await ccc.instance()
        message = f"{instance.name} ({instance.status}): {len(instance.number_list)} numbers"
        return Tested(latency_ms=int((time.perf_counter() - begun) * 1000), message=message)

    async def balance(self) -> Decimal | None:
        """Return None: what an account has left is told by another product of the vendor, with other permissions."""
        return None

    async def _place(self, ccc: "Ccc", order: Order) -> str:
        shortest, longest = RING_TIMEOUT
        timeout = min(max(order.ring_timeout, shortest), longest)
        caller = dialable(order.caller) if order.caller is not None else None
        match self._settings.mode:
            case "agent":
                if not order.seat.id:
                    raise PlacementRefused(
                        Refusal.SEAT, "NoSeat", "the agent has no user id at this instance", known=True
                    )
                return await ccc.make_call(
                    user_id=order.seat.id,
                    caller=caller,
                    callee=dialable(order.callee),
                    tag=order.tag,
                    timeout=timeout,
                )
            case "back2back":
                broker = dialable(self._settings.broker) or caller
                if not order.seat.number:
                    text = "the agent has no telephone number at this line"
                    raise PlacementRefused(Refusal.SEAT, "NoSeat", text, known=True)
                if not broker:
                    raise PlacementRefused(Refusal.LINE, "NoBroker", "there is no number to call from", known=True)
                return await ccc.start_back2back_call(
                    broker=broker,
                    additional_broker=caller if caller != broker else None,
                    caller=dialable(order.seat.number),
                    callee=dialable(order.callee),
                    tag=order.tag,
                    timeout=timeout,
                )
            case _:
                assert_never(self._settings.mode)

    async def _record(self, ccc: "Ccc", call: CallReference) -> "Record | None":
        try:
            if call.provider_call_id is not None:
                return await ccc.record(call.provider_call_id)
            return await self._only_record(ccc, call)
        except PlacementRefused as refused:
            if _is_missing(refused):
                return None
            raise

    async def _only_record(self, ccc: "Ccc", call: CallReference) -> "Record | None":
        """Find a call by what was ordered, for records do not hold our tag. Two that fit are one too many."""
        begun = (call.ordered_at - BEGUN_BEFORE, call.ordered_at + BEGUN_AFTER)
        found: list[Record] = []
        for number in range(1, PAGES + 1):
            page = await ccc.records(
                contact_type=CONTACT_TYPE[self._settings.mode], called=dialable(call.callee), begun=begun, page=number
            )
            found += [record for record in page.records if self._fits(record, call, begun)]
            if not page.records or number * 100 >= page.total_count:
                break
        if len(found) > 1:
            raise Uncertain(f"{len(found)} calls could be this one")
        return found[0] if found else None

    def _fits(self, record: "Record", call: CallReference, begun: tuple[datetime, datetime]) -> bool:
        """Whether the record is of a call from this seat to this number, at this time."""
        started_at = _instant(record.start_time)
        of_seat = (
            call.seat.id in record.agent_ids.split(",")
            if self._settings.mode == "agent"
            else _same_number(record.calling_number, call.seat.number)
        )
        return (
            of_seat
            and _same_number(record.called_number, call.callee)
            and (started_at is None or begun[0] <= started_at <= begun[1])
        )

    def _told(self, record: "Record", call: CallReference) -> list[Told]:
        raw = msgspec.json.encode(record)

        def told(event: Progress | End | Recording, once: str) -> Told:
            return Told(provider_call_id=record.contact_id, tag=call.tag, event=event, once=once, raw=raw)

        end = _final(record)
        if end is None:
            begun = Progress(Status.CALLING, _instant(record.start_time) or datetime.now(UTC), Evidence.IN_CALL_SERVICE)
            return [told(begun, _digest(self._settings.instance_id, record.contact_id, "InProgress"))]
        facts = [told(end, _digest(self._settings.instance_id, record.contact_id, "CDR", str(record.release_time)))]
        if record.recording_ready:
            facts.append(told(Recording(None), self._recording_once(record.contact_id)))
        return facts

    def _recording_once(self, contact_id: str) -> str:
        """A call has one recording of both voices: told by RecordingReady and by its record, it is the same fact."""
        return _digest(self._settings.instance_id, contact_id, "RecordingReady")

    def _needs_agent(self, what: str) -> None:
        """The vendor's controls work on an agent's channel; of back2back calls it tells no channel when they begin."""
        if self._settings.mode != "agent":
            raise Unsupported(f"Aliyun CCC offers no way to {what} a back2back call")

    def _job(self, call: CallReference) -> str:
        if call.provider_call_id is None:
            raise Uncertain("the call's JobId is not known")
        return call.provider_call_id

    @asynccontextmanager
    async def _asking(self) -> "AsyncIterator[Ccc]":
        """Lend the client, for as long as a method may take."""
        try:
            async with asyncio.timeout(self._deadline):
                if self._ccc is None:
                    self._ccc = await asyncio.to_thread(self._open)
                yield self._ccc
        except TimeoutError:
            raise Uncertain(f"Aliyun CCC did not answer in {self._deadline:g} s") from None

    @asynccontextmanager
    async def _looking(self) -> "AsyncIterator[Ccc]":
        """The same, for questions: a refusal says nothing of the call."""
        try:
            async with self._asking() as ccc:
                yield ccc
        except PlacementRefused as refused:
            raise Uncertain(str(refused)) from None

    def _open(self) -> "Ccc":
        from server.providers.aliyun_sdk import Ccc  # noqa: PLC0415 - 0.4 s and 28 MB, for those who have a line

        return Ccc(
            instance_id=self._settings.instance_id,
            region=self._settings.region,
            base_url=self._settings.base_url,
            access_key=(self._secrets.access_key_id, self._secrets.access_key_secret),
            http=self._http,
        )


def _said(body: bytes) -> dict[str, object]:
    """Return the object that a body holds. Raises WebhookRefused."""
    if len(body) > WEBHOOK_BOUND:
        raise WebhookRefused(f"more than {WEBHOOK_BOUND} bytes")
    if rb"\u0000" in body:
        raise WebhookRefused("a text with a NUL, which cannot be kept")
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WebhookRefused("not a JSON object") from None


def _key(said: dict[str, object]) -> str:
    parts = ("instanceId", "contactId", "channelId", "eventType", "eventTime")
    return _digest(*(str(said.get(part) or "") for part in parts))


def _digest(*parts: str) -> str:
    return sha256(msgspec.json.encode(parts)).hexdigest()


def _heard(event: _Event, at: datetime) -> Progress | End | Recording | Heard:
    match event.event_type:
        case "AgentDialing" | "AgentRinging":
            return Progress(AGENT[event.event_type], at, Evidence.IN_CALL_SERVICE)
        case "Dialing" | "Ringing" | "Established" | "Released":
            return _of_channel(event, at)
        case "RecordingReady":
            return Recording(event.download_url or None, event.file_name)
        case _:
            return Heard(event.event_type)


def _of_channel(event: _Event, at: datetime) -> Progress | End | Heard:
    side = _side(event)
    if side == "customer" and event.event_type == "Released":
        outcome, cause = _why(event.early_media_state or "", event.release_reason or "")
        return End(
            outcome=outcome,
            at=at,
            by="provider",
            evidence=Evidence.IN_CALL_SERVICE,
            cause=cause,
            raw_cause=_raw_cause(event.early_media_state, event.release_reason),
        )
    moves = CUSTOMER if side == "customer" else AGENT if side == "agent" else {}
    if event.event_type not in moves:
        return Heard(f"{event.event_type} ({side})")
    return Progress(moves[event.event_type], at, Evidence.IN_CALL_SERVICE)


def _side(event: _Event) -> Literal["agent", "customer", "other"]:
    """Whose channel it is. No field says so: a channel's id tells where it leads, or else an agent's names the agent.

    A false "customer" would be a false answer, so what is not sure is somebody else's; the record will tell.
    """
    if event.scenario or event.media_type not in {None, "", "AUDIO", "VIDEO"}:  # transfers, monitors, chats
        return "other"
    leads_to = _LEADS_TO.fullmatch(event.channel_id or "")
    if leads_to is not None and event.callee:
        return "customer" if _same_number(leads_to[1], event.callee) else "agent"
    if event.agent_id:
        return "agent"
    return "customer" if event.call_type == "OUTBOUND" else "other"


def _why(early_media: str, release_reason: str) -> _Ended:
    """What the carrier announced is more exact than the signalling, which says 480 of many things."""
    code = _SIP_CODE.match(release_reason)
    return EARLY_MEDIA.get(early_media) or SIP.get(code[1] if code is not None else "") or UNKNOWN


def _final(record: "Record") -> End | None:
    """Read how a call went; None while it goes on.

    That the customer answered takes both, a disposition that says so and a time: in a back2back call the agent's
    answer may set the time. Where the disposition says no more than "not answered", the signalling may say why."""
    released_at = _instant(record.release_time)
    if released_at is None:
        return None
    established_at = _instant(record.established_time)
    outcome, cause = DISPOSITIONS.get(record.contact_disposition, UNKNOWN)
    if established_at is None and outcome is Outcome.CONNECTED:
        outcome, cause = UNKNOWN
    elif established_at is not None and outcome is Outcome.UNKNOWN and record.contact_type == "OUTBOUND":
        outcome = Outcome.CONNECTED
    if record.early_media_state in EARLY_MEDIA or outcome is Outcome.UNKNOWN or cause is HangupCause.NO_ANSWER:
        finer = _why(record.early_media_state, record.release_reason)
        if outcome is not Outcome.CONNECTED and finer[0] not in {Outcome.CONNECTED, Outcome.UNKNOWN}:
            outcome, cause = finer
    connected = outcome is Outcome.CONNECTED
    return End(
        outcome=outcome,
        at=released_at,
        by="provider",
        evidence=Evidence.PROVIDER_RECORD,
        started_at=established_at if connected else None,
        duration=_whole(record.call_duration) if connected else None,
        cause=cause,
        raw_cause=_raw_cause(record.contact_disposition, record.early_media_state, record.release_reason),
        has_recording=True if record.recording_ready else None if connected else False,
    )


def _raw_cause(*words: str | None) -> str | None:
    return ", ".join(word for word in words if word)[:200] or None


def _is_missing(refused: PlacementRefused) -> bool:
    return refused.code.startswith(MISSING) and refused.code != NO_INSTANCE


def _event_time(told: str, received_at: datetime) -> datetime:
    """Read a time as events have it, `2021-04-14T02:34:00.447Z`; one that cannot be read was a moment ago."""
    try:
        at = datetime.fromisoformat(told)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return received_at


def _instant(millis: "Millis") -> datetime | None:
    whole = _whole(millis)
    try:
        return datetime.fromtimestamp(whole / 1000, UTC) if whole else None
    except (OverflowError, ValueError, OSError):
        return None


def _whole(told: "Millis") -> int | None:
    """A number that may be written as one, as a string, or not at all."""
    if isinstance(told, str):
        return int(told) if told.isascii() and told.isdigit() and len(told) < 20 else None
    return told


def _same_number(one: str, other: str) -> bool:
    """Whether two ways to write a number are of the same: with or without a country code, or a 0 before the area."""
    a, b = sorted((re.sub(r"\D", "", one), re.sub(r"\D", "", other)), key=len)
    return a == b if len(a) < 7 else b.endswith(a.removeprefix("0"))
