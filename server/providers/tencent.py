"""Tencent Cloud Contact Center (腾讯云联络中心, CCC), API of 2020-02-10; what it is and how it is set up stands in
docs/providers/tencent.md.

A call is a dual call: the platform rings the agent's mobile, and when the agent has answered, the customer. The vendor
pushes records when a call is over and tells nothing of one before: while it lives, it must be looked up.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec
import structlog
from aiohttp import ClientSession
from yarl import URL

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
    without_nul,
)

if TYPE_CHECKING:
    from server.providers.tencent_sdk import Sdk

log = structlog.get_logger()
T = TypeVar("T")


class Ending(NamedTuple):
    """What the vendor's EndStatus means for a call that the customer did not answer."""

    number: int
    outcome: Outcome
    cause: HangupCause


ENDINGS: Mapping[str, Ending] = {
    "ok": Ending(1, Outcome.MISSED, HangupCause.NO_ANSWER),
    "seatGiveUp": Ending(17, Outcome.CANCELLED, HangupCause.CANCELLED),
    "blackList": Ending(100, Outcome.FAILED, HangupCause.RESTRICTED),
    "restrictedCallee": Ending(108, Outcome.FAILED, HangupCause.RESTRICTED),
    "tooManyRequest": Ending(109, Outcome.FAILED, HangupCause.RESTRICTED),
    "restrictedArea": Ending(110, Outcome.FAILED, HangupCause.RESTRICTED),
    "restrictedTime": Ending(111, Outcome.FAILED, HangupCause.RESTRICTED),
    "notAnswer": Ending(202, Outcome.MISSED, HangupCause.NO_ANSWER),
    "userReject": Ending(203, Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "powerOff": Ending(204, Outcome.FAILED, HangupCause.POWER_OFF),
    "numberNotExist": Ending(205, Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
    "busy": Ending(206, Outcome.BUSY, HangupCause.USER_BUSY),
    "outOfCredit": Ending(207, Outcome.FAILED, HangupCause.SUSPENDED),  # the customer's account, 欠费
    "operatorError": Ending(208, Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "callerCancel": Ending(209, Outcome.CANCELLED, HangupCause.CANCELLED),
    "notInService": Ending(210, Outcome.FAILED, HangupCause.POWER_OFF),  # out of coverage, 不在服务区
    "clientError": Ending(211, Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "carrierBlocked": Ending(212, Outcome.FAILED, HangupCause.RESTRICTED),
    "callReminder": Ending(213, Outcome.MISSED, HangupCause.NO_ANSWER),
    "numberInvalid": Ending(215, Outcome.FAILED, HangupCause.INVALID_NUMBER),
    "callRestricted": Ending(216, Outcome.FAILED, HangupCause.RESTRICTED),
    "calleeRestricted": Ending(217, Outcome.FAILED, HangupCause.RESTRICTED),
    "areaRestricted": Ending(218, Outcome.FAILED, HangupCause.RESTRICTED),
    "promptCallForwarding": Ending(219, Outcome.MISSED, HangupCause.NO_ANSWER),
    "callerCancelWhileRing": Ending(220, Outcome.CANCELLED, HangupCause.CANCELLED),
    "callerCancelWithoutRing": Ending(221, Outcome.FAILED, HangupCause.UNKNOWN),  # its text: 未振铃被叫号码异常
    "voiceMailReached": Ending(222, Outcome.MISSED, HangupCause.NO_ANSWER),
    "callTerminatedByAPI": Ending(231, Outcome.CANCELLED, HangupCause.CANCELLED),
}
"""By EndStatusString, for pushes have no EndStatus. Words that concern only calls from outside are not here."""

WORDS: Mapping[int, str] = {ending.number: word for word, ending in ENDINGS.items()}

REFUSALS: Mapping[str, Refusal] = {
    "FailedOperation.SeatStatusBusy": Refusal.SEAT_BUSY,
    "FailedOperation.CalleeIsBlackUser": Refusal.CALLEE,
    "FailedOperation.CalleeIsLimited": Refusal.CALLEE,
    "FailedOperation.CalloutRuleBlindArea": Refusal.CALLEE,
    "FailedOperation.CalloutRuleMaxCallCountCalleeIntervalTime": Refusal.CALLEE,
    "FailedOperation.CalloutRuleMaxCallCountCalleePerDayAppID": Refusal.CALLEE,
    "FailedOperation.CalloutRuleNotWorkTime": Refusal.CALLEE,
    "InvalidParameter.IllegalPhoneNumber": Refusal.CALLEE,
    "InvalidParameter.InvalidPhoneNumber": Refusal.CALLEE,
    "FailedOperation.CallerOverFrequency": Refusal.THROTTLED,
    "FailedOperation.NoCallOutNumber": Refusal.LINE,
    "LimitExceeded.BasePackageExpired": Refusal.LINE,
    "LimitExceeded.InsufficientLicense": Refusal.LINE,
    "LimitExceeded": Refusal.THROTTLED,
    "RequestLimitExceeded": Refusal.THROTTLED,
}
"""By the vendor's code, else by what stands before its first point; what is not here concerns the line."""

AT_THE_DOOR = frozenset(
    {
        "AuthFailure",
        "InvalidAction",
        "InvalidParameter",
        "InvalidParameterValue",
        "IpInBlacklist",
        "IpNotInWhitelist",
        "MissingParameter",
        "OperationDenied",
        "UnauthorizedOperation",
        "UnknownParameter",
    }
)
"""The families of errors of a request that was not carried out for what it says, or for who sent it. Others that are
not in REFUSALS, such as FailedOperation, say that it failed, and not how far it came: no other line is asked."""

UNCLEAR = frozenset({"InternalError", "ResponseSizeLimitExceeded", "ServiceUnavailable"})
"""The families of errors after which nobody knows what was done."""

OVER = frozenset({"FailedOperation.SessionNotExists"})
UNKNOWN = OVER | {"InvalidParameterValue.RecordNotExist", "ResourceNotFound"}
"""What says that a session is over, and what says that the vendor knows none; which it says to what, no page tells."""

REPLY = Reply(b'{"ErrCode":0,"ErrMsg":""}', "application/json")

DEADLINE = 10.0
"""Seconds for everything that one method asks."""

PAGE_SIZE = 100
"""Records of an answer: the vendor's most."""

PAGES = 10
"""Pages read in search of one call: a thousand calls to one customer within `BEFORE` and `AFTER`."""

BEFORE = timedelta(minutes=5)
AFTER = timedelta(hours=26)
"""How long before and after its order a call is looked for: clocks differ, and no call is longer than a day."""

LARGEST_PUSH = 256 * 1024
"""Bytes of a pushed message; a record with a dozen transfers has some ten thousand."""

Word = Annotated[str, msgspec.Meta(pattern=r"^\S{1,200}$")]
SessionId = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class TencentSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What may be shown of an account. `callers` (E.164) are tried in their order where an order names no caller."""

    sdk_app_id: Annotated[int, msgspec.Meta(ge=1)]
    region: Word = "ap-guangzhou"
    callers: Annotated[tuple[Word, ...], msgspec.Meta(max_length=20)] = ()
    base_url: str = "https://ccc.tencentcloudapi.com"

    def __post_init__(self) -> None:
        """Refuse a base URL that the SDK would not ask as it is written: it knows a scheme and a host, no more."""
        url = URL(self.base_url)
        if url.scheme not in {"http", "https"} or not url.host or url.user or url.path not in {"", "/"} or url.query:
            raise ValueError("baseUrl must be http(s)://host[:port]")


class TencentSecrets(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The API's key, and what the vendor shows when it pushes: a user with a password, a bearer token, or nothing."""

    secret_id: Word
    secret_key: Word
    push_user: str | None = None
    push_password: str | None = None
    push_token: Word | None = None

    def __post_init__(self) -> None:
        """Refuse half a user."""
        if (self.push_user is None) != (self.push_password is None):
            raise ValueError("pushUser and pushPassword belong together")

    def __repr__(self) -> str:
        """Tell nothing."""
        return "TencentSecrets(...)"


class _Placed(msgspec.Struct, rename="pascal"):
    session_id: SessionId


class _Session(msgspec.Struct, rename="pascal"):
    """PSTNSession; times are seconds since 1970, 0 where there is none."""

    session_status: str
    start_timestamp: int | None = None
    ring_timestamp: int | None = None
    accept_timestamp: int | None = None


class _SessionAnswer(msgspec.Struct, rename="pascal"):
    session: _Session | None = None


class _Recorded(msgspec.Struct, rename="pascal"):
    """Where a recording is, with the vendor and in one's own bucket, in every message that tells of one."""

    record_id: str | None = None
    record_url: str | None = msgspec.field(name="RecordURL", default=None)
    custom_record_url: str | None = msgspec.field(name="CustomRecordURL", default=None)

    @property
    def url(self) -> str | None:
        """The vendor's own is signed and can be fetched; objects of a bucket of one's own may be private."""
        return self.record_url or self.custom_record_url or None


class _Cdr(_Recorded, rename="pascal", kw_only=True):
    """TelCdrInfo, and the pushed record, which calls the tag `Uui` and has no EndStatus.

    Where the direction is 1, outwards, the times of ringing and of the answer are the customer's."""

    session_id: SessionId
    direction: int | None = None
    ring_timestamp: int | None = None
    accept_timestamp: int | None = None
    ended_timestamp: int | None = None
    duration: int | None = None
    end_status: int | None = None
    end_status_string: str | None = None
    uui: str | None = None
    uui_upper: str | None = msgspec.field(name="UUI", default=None)

    @property
    def tag(self) -> str | None:
        """What was handed in when the call was placed; None for a call that was placed otherwise."""
        return self.uui_upper or self.uui or None


class _CdrPage(msgspec.Struct, rename="pascal"):
    total_count: int | None = None
    tel_cdr_list: list[dict[str, Any]] | None = None


class _SessionDetail(_Recorded, rename="pascal"):
    serve_participants: list[_Recorded] | None = None


class _Push(_Recorded, rename="pascal", kw_only=True):
    """What all pushes have in common. `endpoint_user` of a recording is the customer's number or the agent's e-mail."""

    sdk_app_id: int
    session_id: SessionId
    endpoint_user: str | int | None = None


class Tencent:
    """One application (SdkAppId) of Tencent Cloud Contact Center; see `Provider` for what the methods promise."""

    controls: frozenset[Control] = frozenset({"hang_up"})

    def __init__(self, settings: TencentSettings, secrets: TencentSecrets, http: ClientSession) -> None:
        self._settings = settings
        self._secrets = secrets
        self._http = http
        self._shown = _what_pushes_show(secrets)

    async def place(self, order: Order) -> Placed:
        """Have the agent's mobile rung, then the customer; how long each rings cannot be said."""
        if order.callee == order.seat.number:
            text = "the agent's own telephone is busy with this call"
            raise PlacementRefused(Refusal.CALLEE, "CalleeIsSeat", text, known=True)
        callers = (order.caller,) if order.caller else self._settings.callers
        parameters: dict[str, object] = {
            "UserId": order.seat.id,
            "Callee": _dialled(order.callee),
            "IsForceUseMobile": True,
            "UUI": order.tag,
        }
        if callers:
            parameters["Callers"] = [_dialled(caller) for caller in callers]
        async with _deadline():
            placed = _read(await self._ask("CreateCallOutSession", parameters, tag=order.tag), _Placed)
        return Placed(placed.session_id)

    async def hang_up(self, call: CallReference) -> None:
        """End a session; Uncertain where its id is not known, for by our tag it cannot be ended."""
        if call.provider_call_id is None:
            raise Uncertain("the provider's id of the call is not known")
        with _fine(OVER):
            async with _deadline():
                await self._ask("HangUpCall", {"SessionId": call.provider_call_id}, tag=call.tag)

    async def mute(self, call: CallReference, *, on: bool) -> None:  # noqa: ARG002
        """Only the agent's own workstation can."""
        raise Unsupported("mute")

    async def transfer(self, call: CallReference, to: str) -> None:  # noqa: ARG002
        """Only the agent's own workstation can."""
        raise Unsupported("transfer")

    async def look_up(self, call: CallReference) -> list[Told] | None:
        """Ask for the session while it lives, then for its record; by our tag alone there is only the record."""
        with _refusals_are_no_answer():
            async with _deadline():
                session = await self._session(call) if call.provider_call_id else None
                if session and not _is_over(session):
                    return session
                cdr = await self._cdr(call)
        if cdr is None:
            return session
        return _told_by_record(_read(cdr, _Cdr), _raw(cdr), otherwise=datetime.now(UTC))

    def read_webhook(self, webhook: Webhook) -> list[Told]:
        """Read a push; `action` of the query says which. Records of calls from outside tell of nothing."""
        if self._shown and not self._shows(webhook.headers.get("authorization", "")):
            raise WebhookRefused("the push shows no credentials, or wrong ones")
        action = webhook.query.get("action", "")
        if not action:
            raise WebhookRefused("a push names its action in the query")
        if len(webhook.body) > LARGEST_PUSH:
            raise WebhookRefused(f"the push has more than {LARGEST_PUSH} bytes")
        try:
            said = msgspec.json.decode(without_nul(webhook.body))
            push = msgspec.convert(said, _Push, strict=False)
            cdr = msgspec.convert(said, _Cdr, strict=False) if action == "cdr" else None
            raw = _raw(said)
        except (ValueError, RecursionError):  # of which msgspec's own errors are one kind, and bad UTF-8 is another
            raise WebhookRefused("the push is not what the vendor describes") from None
        if push.sdk_app_id != self._settings.sdk_app_id:
            raise WebhookRefused("the push is for another application")
        if cdr is not None:
            return _told_by_record(cdr, raw, otherwise=webhook.received_at) if cdr.direction != 0 else []
        if action == "record" and push.url and "@" not in str(push.endpoint_user):
            return [_told(push.session_id, None, Recording(push.url, push.record_id), "recording", raw)]
        return [_told(push.session_id, None, Heard(action[:40]), self.key_of(webhook), raw)]

    def key_of(self, webhook: Webhook) -> str:
        """Return the vendor's id of the push, which a repeat has too; where it is missing, a hash of what was said."""
        given = webhook.headers.get("x-tccc-push-uuid", "")
        if re.fullmatch(r"[\w.:-]{1,100}", given, re.ASCII):
            return given
        return hashlib.sha256(
            webhook.query.get("action", "").encode("utf-8", "replace") + b"\0" + webhook.body
        ).hexdigest()

    def reply(self) -> Reply:
        """Return the answer without which the vendor pushes three times more."""
        return REPLY

    async def recording_url(self, call: CallReference, name: str | None) -> str | None:
        """Return a URL that is valid for 24 hours: of the recording with this id, else of the whole call."""
        detail = _SessionDetail()
        with _refusals_are_no_answer(), _fine(UNKNOWN):
            async with _deadline():
                session_id = call.provider_call_id
                if session_id is None:
                    cdr = await self._cdr(call)
                    if cdr is None:
                        return None
                    session_id = _read(cdr, _Cdr).session_id
                start, end = _window(call)
                parameters = {"SessionId": session_id, "StartTimestamp": start, "EndTimestamp": end}
                detail = _read(await self._ask("DescribeSessionDetail", parameters, tag=call.tag), _SessionDetail)
        named = [each for each in detail.serve_participants or () if name is not None and each.record_id == name]
        return next((each.url for each in [*named, detail] if each.url), None)

    async def test(self) -> Tested:
        """Ask for one record of the last hour, which takes the key, the application, and the right to read records."""
        now = datetime.now(UTC)
        loop = asyncio.get_running_loop()
        started = loop.time()
        parameters = {
            "StartTimeStamp": int((now - timedelta(hours=1)).timestamp()),
            "EndTimeStamp": int(now.timestamp()),
            "PageSize": 1,
            "PageNumber": 0,
        }
        async with _deadline():
            page = _read(await self._ask("DescribeTelCdr", parameters), _CdrPage)
        return Tested(round((loop.time() - started) * 1000), f"calls in the last hour: {page.total_count or 0}")

    async def balance(self) -> Decimal | None:
        """The vendor tells minutes that were used, and not what is left."""
        return None

    @cached_property
    def _sdk(self) -> "Sdk":
        from server.providers.tencent_sdk import Sdk  # noqa: PLC0415 - 85 ms and 12 MB, for lines of this vendor alone

        return Sdk(
            secret_id=self._secrets.secret_id,
            secret_key=self._secrets.secret_key,
            region=self._settings.region,
            base_url=URL(self._settings.base_url),
            http=self._http,
        )

    async def _ask(self, action: str, parameters: Mapping[str, object], tag: str | None = None) -> object:
        from server.providers.tencent_sdk import VendorError  # noqa: PLC0415 - as above

        try:
            return await self._sdk.ask(action, {"SdkAppId": self._settings.sdk_app_id, **parameters})
        except VendorError as error:
            log.info("tencent refused", call=tag, action=action, code=error.code)
            family = error.code.partition(".")[0]
            if family in UNCLEAR:
                raise Uncertain(f"{action}: {error.code}") from None
            listed = REFUSALS.get(error.code) or REFUSALS.get(family)
            known = listed is not None or family in AT_THE_DOOR
            text = error.text[:300].replace(self._secrets.secret_id, "***")
            raise PlacementRefused(listed or Refusal.LINE, error.code, text, known=known) from None

    async def _session(self, call: CallReference) -> list[Told] | None:
        answer: object = {}
        with _fine(UNKNOWN):
            answer = await self._ask("DescribeTelSession", {"SessionId": call.provider_call_id}, tag=call.tag)
        session = _read(answer, _SessionAnswer).session
        return None if session is None else _told_by_session(session, call, _raw(answer), now=datetime.now(UTC))

    async def _cdr(self, call: CallReference) -> dict[str, Any] | None:
        """Find the record of a call: by its session, else by our tag among all calls to the customer."""
        start, end = _window(call)
        parameters: dict[str, object] = {"StartTimeStamp": start, "EndTimeStamp": end, "PageSize": PAGE_SIZE}
        if call.provider_call_id is not None:
            parameters["SessionIds"] = [call.provider_call_id]
        else:
            parameters["Phones"] = [_dialled(call.callee)]
        for number in range(PAGES):
            answer = await self._ask("DescribeTelCdr", {**parameters, "PageNumber": number}, tag=call.tag)
            rows = _read(answer, _CdrPage).tel_cdr_list or []
            for row in rows:
                cdr = _read(row, _Cdr)
                if call.provider_call_id == cdr.session_id or (call.provider_call_id is None and call.tag == cdr.tag):
                    return row
            if len(rows) < PAGE_SIZE:
                break
        return None

    def _shows(self, authorization: str) -> bool:
        scheme, _, credentials = authorization.partition(" ")
        shown = f"{scheme.lower()} {credentials.strip()}".encode("utf-8", "replace")
        return any([hmac.compare_digest(shown, expected) for expected in self._shown])  # noqa: C419 - all, always


def _what_pushes_show(secrets: TencentSecrets) -> list[bytes]:
    shown = []
    if secrets.push_user is not None:
        pair = f"{secrets.push_user}:{secrets.push_password}".encode()
        shown.append(b"basic " + base64.b64encode(pair))
    if secrets.push_token is not None:
        shown.append(f"bearer {secrets.push_token}".encode())
    return shown


def _dialled(number: str) -> str:
    """Return a number as the vendor writes it: 008613800138000, 008602066247698, 00864001783747."""
    national = dialable(number)
    return f"00{national[1:]}" if national.startswith("+") else f"0086{national}"


def _window(call: CallReference) -> tuple[int, int]:
    """Return the seconds between which a call is looked for; the vendor takes 90 days, and none that are to come."""
    end = min(call.ordered_at + AFTER, datetime.now(UTC) + BEFORE)
    return int((call.ordered_at - BEFORE).timestamp()), int(end.timestamp())


def _told(session_id: str, tag: str | None, event: Progress | End | Recording | Heard, what: str, raw: bytes) -> Told:
    return Told(provider_call_id=session_id, tag=tag, event=event, once=f"{session_id}:{what}", raw=raw)


def _told_by_session(session: _Session, call: CallReference, raw: bytes, now: datetime) -> list[Told]:
    """Read a session that lives, or has just ended; when it did is not said, so it is when we asked."""
    session_id = call.provider_call_id or ""
    ringing, answered = _at(session.ring_timestamp), _at(session.accept_timestamp)
    calling = Progress(Status.CALLING, _at(session.start_timestamp) or now, Evidence.IN_CALL_SERVICE)
    begun = [_told(session_id, call.tag, calling, "calling", raw)]
    match session.session_status:
        case "seatJoining":  # the agent's mobile rings; times that are told now would be the agent's
            return begun
        case "ringing":
            return _reached(session_id, call.tag, ringing, None, Evidence.IN_CALL_SERVICE, raw) or begun
        case "inProgress":
            return _reached(session_id, call.tag, ringing, answered, Evidence.IN_CALL_SERVICE, raw) or begun
        case "finished":
            told = _reached(session_id, call.tag, ringing, answered, Evidence.IN_CALL_SERVICE, raw)
            end = End(
                outcome=Outcome.CONNECTED if answered else Outcome.UNKNOWN,
                at=now,
                by="provider",
                evidence=Evidence.IN_CALL_SERVICE,
                started_at=answered,
            )
            told.append(_told(session_id, call.tag, end, "finished", raw))
        case _:
            told = []
    heard = Heard(session.session_status[:40])
    return told or [_told(session_id, call.tag, heard, f"heard:{heard.status}", raw)]


def _is_over(session: list[Told]) -> bool:
    return any(isinstance(told.event, End) for told in session)


def _told_by_record(cdr: _Cdr, raw: bytes, *, otherwise: datetime) -> list[Told]:
    """Read a record: that the customer's telephone rang, that it was answered, the end, and the recording.

    Only a time of answer says that there was one. `otherwise` is when the call ended if the record does not say."""
    ringing, answered = _at(cdr.ring_timestamp), _at(cdr.accept_timestamp)
    word = cdr.end_status_string or WORDS.get(cdr.end_status or 0, str(cdr.end_status or ""))
    ending = ENDINGS.get(word, Ending(0, Outcome.FAILED, HangupCause.UNKNOWN))
    cause = ending.cause
    if answered and cause is not HangupCause.NETWORK_ERROR:
        cause = HangupCause.NORMAL_CLEARING
    end = End(
        outcome=Outcome.CONNECTED if answered else ending.outcome,
        at=_at(cdr.ended_timestamp) or otherwise,
        by="provider",
        evidence=Evidence.PROVIDER_RECORD,
        started_at=answered,
        duration=_seconds(cdr.duration) if answered else None,
        cause=cause,
        raw_cause=word[:100] or None,
        has_recording=True if cdr.url else None,
    )
    told = _reached(cdr.session_id, cdr.tag, ringing, answered, Evidence.PROVIDER_RECORD, raw)
    told.append(_told(cdr.session_id, cdr.tag, end, "ended and recorded" if end.has_recording else "ended", raw))
    if cdr.url:
        told.append(_told(cdr.session_id, cdr.tag, Recording(cdr.url, cdr.record_id), "recording", raw))
    return told


def _reached(
    session_id: str,
    tag: str | None,
    ringing: datetime | None,
    answered: datetime | None,
    evidence: Evidence,
    raw: bytes,
) -> list[Told]:
    told = []
    if ringing:
        told.append(_told(session_id, tag, Progress(Status.RINGING, ringing, evidence), "ringing", raw))
    if answered:
        told.append(_told(session_id, tag, Progress(Status.CONNECTED, answered, evidence), "connected", raw))
    return told


def _at(seconds: int | None) -> datetime | None:
    """Return a time of the vendor's; None where it says 0, nothing, or what is no time."""
    if not seconds or seconds < 0:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _seconds(told: int | None) -> int | None:
    """Return how long a call was; None for what cannot be that."""
    return told if told is not None and 0 <= told < 2**31 else None


def _read(answer: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Uncertain(f"the answer is not what the vendor describes: {error}") from None


def _raw(said: object) -> bytes:
    """Return what was said as JSON, but URLs without their queries: they are signed, and are credentials."""
    return msgspec.json.encode(_unsigned(said))


def _unsigned(said: object) -> object:
    match said:
        case dict():
            return {key: _unsigned(value) for key, value in said.items()}
        case list():
            return [_unsigned(value) for value in said]
        case str() if "://" in said:
            return said.partition("?")[0]
        case _:
            return said


@contextlib.asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    """Wait for the vendor no longer than `DEADLINE`, however much is asked."""
    try:
        async with asyncio.timeout(DEADLINE):
            yield
    except TimeoutError:
        raise Uncertain(f"the provider did not answer within {DEADLINE:.0f} s") from None


@contextlib.contextmanager
def _fine(codes: frozenset[str]) -> Iterator[None]:
    """Leave the block where the vendor refuses with one of these."""
    try:
        yield
    except PlacementRefused as refused:
        if refused.code not in codes:
            raise


@contextlib.contextmanager
def _refusals_are_no_answer() -> Iterator[None]:
    """Nothing was to be placed: that the vendor will not tell leaves us where we were."""
    try:
        yield
    except PlacementRefused as refused:
        raise Uncertain(f"the provider did not tell: {refused.code}") from None
