"""Tianrun CtiCloud (天润 CTICloud): signed with MD5, asked by query string, answers `result` 0 or a description.

An order is answered without a call id, so calls are known by `requestUniqueId`, which is our tag. An order can be
cancelled by its seat (`cno`) only; a call can be ended by the vendor's own id, which the seat's status tells while it
lasts. That this is the id of our call is known from a push, or taken from the time at which it says that it began.

Sources: the vendor's package tinet-cticloud-cli 0.2.9, the pages of Alibaba Cloud, which resells the platform (Dyvmsapi
Cloud…), and public integrations; see docs/providers/tianrun.md.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, TypeVar
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import aiohttp
import msgspec
import structlog
from yarl import URL

from protocol.call import Evidence, HangupCause, Outcome, Progress, Status
from protocol.phone_number import dialable
from server.providers.provider import (
    CallReference,
    Control,
    Order,
    Placed,
    PlacementRefused,
    Refusal,
    Reply,
    Tested,
    Told,
    Uncertain,
    Unsupported,
    Webhook,
)
from server.providers.tianrun_http import DEADLINE, UNREADABLE, exchange, only_uncertain, refused, says_not_found
from server.providers.tianrun_record import (
    NOBODY_TRIED,
    RANG_OUT,
    REPLY,
    STATUSES,
    CallRecord,
    Ending,
    PushFields,
    instant,
    key_of,
    read_push,
    tell,
    told_by_record,
    word,
)

log = structlog.get_logger()

API = "/interface/v10"
BEIJING = ZoneInfo("Asia/Shanghai")

PAGE, PAGES = 100, 10
"""Call records asked for at a time, and times; the vendor would give 1000 at a time."""

WINDOW = timedelta(minutes=10)
"""How far the start in a call's record may be from its order: clocks differ."""

SOON = timedelta(minutes=1)
"""How far from its order the call that a seat is at work on may have begun, to be taken for the one ordered."""

REFUSALS: Mapping[str, Refusal] = {
    "11": Refusal.SEAT_BUSY,  # its telephone is not idle
    "12": Refusal.SEAT_OFFLINE,  # no such seat
    "13": Refusal.CALLEE,  # the number has a wrong form
    "14": Refusal.LINE,  # the caller number is set up wrongly
    "15": Refusal.SEAT_OFFLINE,
    "16": Refusal.SEAT_OFFLINE,  # not signed in
    "20": Refusal.LINE,  # no permission
    "25": Refusal.CALLEE,  # on the block-list
    "26": Refusal.LINE,  # the seat may not call out
    "27": Refusal.LINE,  # no money
    "28": Refusal.LINE,  # no route
    "31": Refusal.SEAT_BUSY,
    "32": Refusal.SEAT_OFFLINE,  # not activated
    "33": Refusal.SEAT_BUSY,  # it is calling out already
    "34": Refusal.SEAT_OFFLINE,
}
"""`result`, as the vendor's published control layer numbers its errors; others are judged by their words."""

OLDER_STATUSES: Mapping[str, Ending] = {
    "21": RANG_OUT,  # the agent answered, the customer did not in time
    "22": (Outcome.FAILED, HangupCause.UNKNOWN),  # the agent answered; empty number or congestion
    "24": NOBODY_TRIED,  # the agent did not answer
    "28": STATUSES["33"],
}
"""Results (`cdr_status`) that pushes of older installations tell, for the same as 32, 32, 30 and 33."""

CTICLOUD_STATUSES = {**STATUSES, **OLDER_STATUSES}

AT_WORK = {"1", "2", "3", "4"}
IN_USE = "4"
"""`deviceStatus`: how the seat's telephone is, locked, inviting, ringing or in use; 0 is idle, -1 an error."""


class CticloudSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
    tag_field="platform",
    tag="cticloud",
):
    """An account on CtiCloud, as it may be shown: an enterprise, or a department, whose id and token sign.

    Pushes of another enterprise are refused where `enterprise_id` is set, which it must be unless a department signs.
    Numbers are dialled as in `region`. An overriding `base_url` has been judged before it comes here.
    """

    enterprise_id: str | None = None
    department_id: str | None = None
    base_url: str = "https://api-1.cticloud.cn"
    region: str = "CN"
    fields: PushFields = PushFields()

    def __post_init__(self) -> None:
        """Raise ValueError where nobody could sign."""
        if not self.enterprise_id and not self.department_id:
            raise ValueError("enterpriseId or departmentId is required")


class _Answer(msgspec.Struct, frozen=True):
    result: str | int
    description: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _File(msgspec.Struct, frozen=True):
    file: str = ""


class _Row(msgspec.Struct, frozen=True, rename="camel"):
    """A call record; numbers come as strings. It has a recording for each part of the call."""

    unique_id: str
    request_unique_id: str | None = None
    bridge_time: str | int | None = None
    end_time: str | int | None = None
    status_code: str | int | None = None
    sip_cause: str | int | None = None
    end_reason: str | int | None = None
    record_file: list[_File | str] | str | None = None


class _Seat(msgspec.Struct, frozen=True, rename="camel"):
    """A seat as it is now; `main_unique_id` is the call that it is at work on."""

    device_status: str | int | None = None
    main_unique_id: str | None = None


class Cticloud:
    """One account on CtiCloud; see `Provider` for what the methods promise."""

    controls: frozenset[Control] = frozenset({"hang_up"})

    def __init__(
        self, settings: CticloudSettings, token: str, http: aiohttp.ClientSession, *, deadline: float = DEADLINE
    ) -> None:
        self._settings = settings
        self._token = token
        self._http = http
        self._deadline = deadline
        self._base = URL(settings.base_url).origin()

    async def place(self, order: Order) -> Placed:
        """Have the telephone rung at which the seat is signed in, then the customer's."""
        fields = {
            "cno": order.seat.id,
            "tel": self._number(order.callee),
            "dialTelTimeout": str(min(max(order.ring_timeout, 5), 60)),
            "requestUniqueId": order.tag,
        }
        if order.caller is not None:
            fields["obClid"] = self._number(order.caller)
        try:
            if not order.seat.id:
                raise PlacementRefused(Refusal.SEAT_OFFLINE, "no_seat", "there is no seat to call from", known=True)
            await self._ask("POST", "/previewOutcall", fields, self._until())
        except PlacementRefused as answer:
            log.info("cticloud_refused", tag=order.tag, code=answer.code)
            raise
        except Uncertain:
            log.warning("cticloud_uncertain", tag=order.tag)
            raise
        return Placed(None)

    async def hang_up(self, call: CallReference) -> None:
        """End the call that the seat is at work on, by its id, if it is this one; before the seat answers, by the seat.

        Raises PlacementRefused, and Uncertain also where it is not, and no record tells that the call is over."""
        until = self._until()
        with only_uncertain():
            seat = await self._seat(call, until)
        try:
            if seat is None or seat.main_unique_id is None:
                raise Uncertain("the seat is not seen in this call, and there is no record of its end yet")
            if word(seat.device_status) == IN_USE:
                await self._ask("GET", "/agent/unlink", {"uniqueId": seat.main_unique_id, "side": "1"}, until)
            else:
                await self._ask("POST", "/previewOutcallCancel", {"cno": call.seat.id}, until)
        except (PlacementRefused, Uncertain):
            if not await self._is_over(call, until):
                raise

    async def mute(self, call: CallReference, *, on: bool) -> None:  # noqa: ARG002 - the face
        """Raise Unsupported."""
        raise Unsupported("CtiCloud has no function that mutes a call")

    async def transfer(self, call: CallReference, to: str) -> None:  # noqa: ARG002 - the face
        """Raise Unsupported: the platform transfers only what was consulted about before."""
        raise Unsupported("CtiCloud has no function that transfers a call at once")

    async def look_up(self, call: CallReference) -> list[Told] | None:
        """Return what the call's record says; before there is one, that its seat is at work on it.

        Raises Uncertain."""
        until = self._until()
        with only_uncertain():
            if found := await self._records(call, until):
                return [told for row, said in found for told in _told(row, call.tag, said)]
            seat = await self._seat(call, until)
        return None if seat is None else [_live(seat, call)]

    def read_webhook(self, webhook: Webhook) -> list[Told]:
        """Read a push. Nothing is signed: the secret in the URL and an allow-list of addresses protect it."""
        return read_push(webhook, self._settings.fields, CTICLOUD_STATUSES, self._settings.enterprise_id)

    def key_of(self, webhook: Webhook) -> str:
        """Return a digest."""
        return key_of(webhook)

    def reply(self) -> Reply:
        """Return the answer without which the vendor pushes up to three times more."""
        return REPLY

    async def recording_url(self, call: CallReference, name: str | None) -> str | None:
        """Ask for a URL of a recording by its file name, which is looked up where it is not known."""
        until = self._until()
        with only_uncertain():
            if name is None:
                records = [_recording(row) for row, _ in await self._records(call, until)]
                name = next((each for each in records if each is not None), None)
            if name is None:
                return None
            try:
                data = await self._ask("GET", "/record/getUrl", {"recordFile": name}, until)
            except PlacementRefused as missing:
                if says_not_found(missing):
                    return None
                raise
        url = _given(data, str)
        return url if url is not None and url.startswith(("http://", "https://")) else None

    async def test(self) -> Tested:
        """Ask for one call record of this month. Raises PlacementRefused, Uncertain."""
        begun = time.monotonic()
        await self._ask("GET", "/cdr/ob/query", {"start": "0", "limit": "1"}, self._until())
        return Tested(round((time.monotonic() - begun) * 1000), "the account answers")

    async def balance(self) -> Decimal | None:
        """Return None: the vendor does not tell."""
        return None

    # --- what the vendor knows of a call ------------------------------------------------------------------------------

    async def _is_over(self, call: CallReference, until: float) -> bool:
        with only_uncertain():
            return any(instant(row.end_time) for row, _ in await self._records(call, until))

    async def _records(self, call: CallReference, until: float) -> list[tuple[_Row, bytes]]:
        """Return the records of a call, read and as they came: by the vendor's id, else by our tag."""
        if call.provider_call_id is not None:
            rows = await self._rows({"uniqueId": call.provider_call_id}, until)
            return [(row, said) for row, said in rows if row.unique_id == call.provider_call_id]
        found: list[tuple[_Row, bytes]] = []
        for start, end in _within_months(call.ordered_at - WINDOW, call.ordered_at + WINDOW):
            fields = {
                "requestUniqueId": call.tag,
                "timeRangeType": "1",  # when it began
                "startTime": str(int(start.timestamp())),
                "endTime": str(int(end.timestamp())),
            }
            rows = await self._rows(fields, until)
            found += [(row, said) for row, said in rows if row.request_unique_id == call.tag]
        return found

    async def _rows(self, fields: Mapping[str, str], until: float) -> list[tuple[_Row, bytes]]:
        rows: list[tuple[_Row, bytes]] = []
        for number in range(PAGES):
            page = {**fields, "start": str(number * PAGE), "limit": str(PAGE)}
            data = await self._ask("GET", "/cdr/ob/query", page, until)
            said = _given(data, list[msgspec.Raw]) or []
            rows += [(_decoded(each, _Row), bytes(each)) for each in said]
            if len(said) < PAGE:
                return rows
        raise Uncertain("there are more call records of that time than are read")

    async def _seat(self, call: CallReference, until: float) -> _Seat | None:
        """Return the seat while it is at work on this call, as far as can be known, None where it is not.

        Raises Uncertain where it is at work and its call's id does not tell when that began."""
        data = await self._ask("GET", "/agentStatus/get", {"cno": call.seat.id}, until)
        seat = _given(data, _Seat)
        if seat is None or word(seat.device_status) not in AT_WORK or seat.main_unique_id is None:
            return None
        if call.provider_call_id is not None:
            return seat if seat.main_unique_id == call.provider_call_id else None
        begun = re.search(r"-([0-9]{10})\.[0-9]+$", seat.main_unique_id)
        if begun is None:
            raise Uncertain("the seat is at work, and it is not known on which call")
        return seat if abs(datetime.fromtimestamp(int(begun[1]), UTC) - call.ordered_at) <= SOON else None

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _ask(
        self, method: Literal["GET", "POST"], path: str, fields: Mapping[str, str], until: float
    ) -> msgspec.Raw:
        """Return the data of an answer. Raises PlacementRefused, Uncertain."""
        query = urlencode({**fields, **self._credentials(int(time.time()))})
        url = URL(f"{self._base}{API}{path}?{query}", encoded=True)
        status, content = await exchange(self._http, method, url, None, until)
        try:
            answer = msgspec.json.decode(content, type=_Answer, strict=False)
        except UNREADABLE:
            raise Uncertain(f"CtiCloud's answer cannot be read (HTTP {status})") from None
        code = word(answer.result, 32)
        if code == "0" and status >= 300:
            raise Uncertain(f"CtiCloud says that it is done, and that it is not (HTTP {status})")
        if code != "0":
            raise refused(status, code, answer.description or "", REFUSALS.get(code))
        return answer.data

    def _credentials(self, now: int) -> dict[str, str]:
        settings = self._settings
        if settings.department_id:
            who = {"validateType": "1", "departmentId": settings.department_id}
        else:
            who = {"validateType": "2", "enterpriseId": settings.enterprise_id or ""}
        signer = settings.department_id or settings.enterprise_id or ""
        return {**who, "timestamp": str(now), "sign": signed(signer, now, self._token)}

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline

    def _number(self, number: str) -> str:
        return dialable(number, self._settings.region).removeprefix("+")


def signed(signer: str, timestamp: int, token: str) -> str:
    """Return the signature that the vendor asks for; it covers who asks and when, and not what is asked."""
    return hashlib.md5(f"{signer}{timestamp}{token}".encode(), usedforsecurity=False).hexdigest()


_T = TypeVar("_T")


def _decoded(data: bytes | msgspec.Raw, kind: type[_T]) -> _T:
    """Read an answer. Raises Uncertain."""
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except UNREADABLE:
        raise Uncertain("CtiCloud's answer has an unknown form") from None


def _given(data: msgspec.Raw, kind: type[_T]) -> _T | None:
    """Read an answer's data, which may be null. Raises Uncertain."""
    return None if bytes(data) == b"null" else _decoded(data, kind)


def _within_months(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Split a time where a month ends in Beijing: the vendor takes no time that lies in two."""
    turn = end.astimezone(BEIJING).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if start < turn:
        yield start, turn - timedelta(seconds=1)
    yield max(start, turn), end


def _recording(row: _Row) -> str | None:
    """Return the name of the first file: of the call itself, before those of transfers and consultations."""
    files = [row.record_file] if isinstance(row.record_file, str) else row.record_file or []
    names = (word(each.file if isinstance(each, _File) else each) for each in files)
    return next((name for name in names if name), None)


def _told(row: _Row, tag: str, said: bytes) -> list[Told]:
    record = CallRecord(
        call_id=row.unique_id,
        tag=tag,
        bridged_at=instant(row.bridge_time),
        ended_at=instant(row.end_time),
        status=word(row.status_code),
        sip_cause=word(row.sip_cause),
        end_reason=word(row.end_reason),
        recording=_recording(row),
    )
    return told_by_record(record, CTICLOUD_STATUSES, said)


def _live(seat: _Seat, call: CallReference) -> Told:
    """Tell of a seat at work. All that is known is its own telephone, so nothing here is an answer; and that the call's
    id is the vendor's for ours may be inferred, so it is not told on."""
    event = Progress(Status.CALLING, datetime.now(UTC), Evidence.IN_CALL_SERVICE)
    return tell(call.provider_call_id, call.tag, event, msgspec.json.encode(seat))
