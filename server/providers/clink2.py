"""Tianrun Clink2 (天润 Clink2, AICC): signed with HMAC-SHA1, answers in JSON.

An order is answered without a call id, so calls are known by `requestUniqueId`, which is our tag. Hanging up and
transferring name a seat (`cno`) and not a call: before either is asked for, the seat must be seen at work with this
call's customer. What happens between that look and the request cannot be known.

Sources: the vendor's packages tinet-clink2-cli 0.0.4 and clink-sdk (com.tinet.clink.cc), and the pages of Alibaba
Cloud, which resells the platform (Dyvmsapi Clink…); see docs/providers/tianrun.md.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
import structlog
from yarl import URL

from protocol.call import Evidence, Progress, Status
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
    REPLY,
    STATUSES,
    CallRecord,
    PushFields,
    instant,
    key_of,
    read_push,
    tell,
    told_by_record,
    word,
)

log = structlog.get_logger()

EXPIRES = 60
"""Seconds for which a signature is valid."""

PAGE, PAGES = 100, 10
"""Call records asked for at a time, and times; the vendor gives no more than 100."""

WINDOW = timedelta(minutes=10)
"""How far the start in a call's record may be from its order: clocks differ."""

SHOWN_DIGITS = 7
"""Digits of a number, which may be masked, that must be shown and be the same for it to be the customer's."""

TALKING = "通话"
RINGING = ("响铃", "振铃")
AT_WORK = (TALKING, *RINGING, "呼叫中", "外呼中")
"""How the words begin, or end, that say how a seat, or its customer, is."""


class Clink2Settings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
    tag_field="platform",
    tag="clink2",
):
    """An account on Clink2, as it may be shown. Pushes of another enterprise are refused where `enterprise_id` is set.

    Numbers are dialled as in `region`. An overriding `base_url` has been judged before it comes here.
    """

    access_key_id: str
    base_url: str = "https://api-bj.clink.cn"
    enterprise_id: str | None = None
    region: str = "CN"
    fields: PushFields = PushFields()


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """Every answer; an error stands beside an HTTP status of 400 or more."""

    request_id: str = ""
    error: _Error | None = None


class _Row(msgspec.Struct, frozen=True, rename="camel"):
    """A call record. The list does not tell `request_unique_id`, by which it can be asked for."""

    unique_id: str
    request_unique_id: str | None = None
    cno: str | None = None
    customer_number: str | None = None
    start_time: int | None = None
    bridge_time: int | None = None
    end_time: int | None = None
    status_code: str | int | None = None
    sip_cause: str | int | None = None
    end_reason: str | int | None = None
    record_file: str | None = None


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    total_count: int
    cdr_obs: list[msgspec.Raw]


class _Detail(msgspec.Struct, frozen=True, rename="camel"):
    cdr_ob: msgspec.Raw = msgspec.Raw(b"null")


class _Seat(msgspec.Struct, frozen=True, rename="camel"):
    """A seat as it is now: in words, its own and its customer's."""

    cno: str
    agent_status: str | None = None
    customer_status: str | None = None
    customer_number: str | None = None


class _Seats(msgspec.Struct, frozen=True, rename="camel"):
    total_count: int = 0
    agent_status: list[_Seat] = []


class _RecordingUrl(msgspec.Struct, frozen=True, rename="camel"):
    record_file_url: str | None = None


class Clink2:
    """One account on Clink2; see `Provider` for what the methods promise."""

    controls: frozenset[Control] = frozenset({"hang_up", "transfer"})

    def __init__(
        self, settings: Clink2Settings, secret: str, http: aiohttp.ClientSession, *, deadline: float = DEADLINE
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._http = http
        self._deadline = deadline
        self._base = URL(settings.base_url)

    async def place(self, order: Order) -> Placed:
        """Have the seat's telephone rung, then the customer's; how long the seat's rings the platform knows."""
        fields: dict[str, object] = {
            "cno": order.seat.id,
            "customerNumber": self._number(order.callee),
            "customerTimeout": min(max(order.ring_timeout, 5), 60),
            "requestUniqueId": order.tag,
        }
        if re.fullmatch(r"1[0-9]{10}", mobile := self._number(order.seat.number)):  # it rings mobiles only
            fields["bindTel"] = mobile
        if order.caller is not None:
            fields |= {"clid": self._number(order.caller), "type": 0}
        try:
            if not order.seat.id:
                raise PlacementRefused(Refusal.SEAT_OFFLINE, "no_seat", "there is no seat to call from", known=True)
            await self._post("/cc/callout", fields, self._until())
        except PlacementRefused as answer:
            log.info("clink2_refused", tag=order.tag, code=answer.code)
            raise
        except Uncertain:
            log.warning("clink2_uncertain", tag=order.tag)
            raise
        return Placed(None)

    async def hang_up(self, call: CallReference) -> None:
        """End the call that the seat is at work on, if that is with this call's customer.

        Raises PlacementRefused, and Uncertain also where it is not, and no record tells that the call is over."""
        until = self._until()
        with only_uncertain():
            seat = await self._seat(call, until)
        try:
            if seat is None:
                raise Uncertain("the seat is not seen in this call, and there is no record of its end yet")
            talking = word(seat.agent_status).endswith(TALKING)
            await self._post("/cc/unlink" if talking else "/cc/callout_cancel", {"cno": seat.cno}, until)
        except (PlacementRefused, Uncertain):
            if not await self._is_over(call, until):
                raise

    async def mute(self, call: CallReference, *, on: bool) -> None:  # noqa: ARG002 - the face
        """Raise Unsupported: the vendor does not say which of its directions silences whom."""
        raise Unsupported("it is not known whom Clink2 would mute")

    async def transfer(self, call: CallReference, to: str) -> None:
        """Hand the customer to a number (E.164, with its plus) or to a seat (its cno), if the seat talks to them."""
        until = self._until()
        with only_uncertain():
            seat = await self._seat(call, until)
        if seat is None or not word(seat.agent_status).endswith(TALKING):
            raise Uncertain("the seat is not seen talking in this call")
        number = to.startswith("+")
        fields = {"cno": seat.cno, "transferType": 0 if number else 1, "transferNumber": self._number(to)}
        await self._post("/cc/transfer", fields, until)

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
        return read_push(webhook, self._settings.fields, STATUSES, self._settings.enterprise_id)

    def key_of(self, webhook: Webhook) -> str:
        """Return a digest."""
        return key_of(webhook)

    def reply(self) -> Reply:
        """Return the answer that the vendor's integrations give."""
        return REPLY

    async def recording_url(self, call: CallReference, name: str | None) -> str | None:  # noqa: ARG002 - the face
        """Ask for a URL, valid for an hour, of the call's recording; a call has one, by whatever name."""
        until = self._until()
        with only_uncertain():
            call_id = call.provider_call_id
            if call_id is None:
                call_id = next((row.unique_id for row, _ in await self._records(call, until)), None)
            if call_id is None:
                return None
            try:
                answer = await self._get("/cc/describe_record_file_url", {"mainUniqueId": call_id}, until)
            except PlacementRefused as missing:
                if says_not_found(missing):
                    return None
                raise
        url = _decoded(answer, _RecordingUrl).record_file_url
        return url if url is not None and url.startswith(("http://", "https://")) else None

    async def test(self) -> Tested:
        """Ask how the seats are. Raises PlacementRefused, Uncertain."""
        begun = time.monotonic()
        seats = _decoded(await self._get("/cc/agent_status", {"limit": "10"}, self._until()), _Seats)
        return Tested(round((time.monotonic() - begun) * 1000), f"seats signed in: {seats.total_count}")

    async def balance(self) -> Decimal | None:
        """Return None: the vendor does not tell."""
        return None

    # --- what the vendor knows of a call ------------------------------------------------------------------------------

    async def _is_over(self, call: CallReference, until: float) -> bool:
        with only_uncertain():
            return any(row.end_time for row, _ in await self._records(call, until))

    async def _records(self, call: CallReference, until: float) -> list[tuple[_Row, bytes]]:
        """Return the records of a call, read and as they came: by the vendor's id, else by our tag."""
        if call.provider_call_id is not None:
            try:
                answer = await self._get("/cc/describe_cdr_ob", {"mainUniqueId": call.provider_call_id}, until)
            except PlacementRefused as missing:
                if says_not_found(missing):
                    return []
                raise
            said = _decoded(answer, _Detail).cdr_ob
            return [] if bytes(said) in {b"null", b"{}"} else [(_decoded(said, _Row), bytes(said))]
        fields = {
            "requestUniqueId": call.tag,
            "startTime": str(int((call.ordered_at - WINDOW).timestamp())),
            "endTime": str(int((call.ordered_at + WINDOW).timestamp())),
            "limit": str(PAGE),
        }
        for number in range(PAGES):
            answer = await self._get("/cc/list_cdr_obs", {**fields, "offset": str(number * PAGE)}, until)
            page = _decoded(answer, _Page)
            rows = [(_decoded(said, _Row), bytes(said)) for said in page.cdr_obs]
            found = [(row, said) for row, said in rows if self._is_of(row, call)]
            if found or not rows or (number + 1) * PAGE >= page.total_count:
                return found
        raise Uncertain("there are more call records of that time than are read")

    def _is_of(self, row: _Row, call: CallReference) -> bool:
        """Tell whether a row is of this call: by the tag where it is told, else by who called whom, and when."""
        if row.request_unique_id:
            return row.request_unique_id == call.tag
        started = instant(row.start_time)
        return (
            row.cno == call.seat.id
            and started is not None
            and abs(started - call.ordered_at) <= WINDOW
            and self._is_callee(row.customer_number, call)
        )

    async def _seat(self, call: CallReference, until: float) -> _Seat | None:
        """Return the seat while it is at work with this call's customer, None where it is not.

        Raises Uncertain where it is at work with somebody who is not shown."""
        answer = await self._get("/cc/agent_status", {"cnos[0]": call.seat.id, "limit": "10"}, until)
        seat = next((seat for seat in _decoded(answer, _Seats).agent_status if seat.cno == call.seat.id), None)
        if seat is None or not word(seat.agent_status).endswith(AT_WORK):
            return None
        if not word(seat.customer_number):
            raise Uncertain("the seat is at work, and its customer's number is not shown")
        return seat if self._is_callee(seat.customer_number, call) else None

    def _is_callee(self, shown: str | None, call: CallReference) -> bool:
        number, digits = word(shown).lstrip("+0"), self._number(call.callee).lstrip("0")
        alike = all(one == other or not one.isdigit() for one, other in zip(number[::-1], digits[::-1], strict=False))
        return alike and sum(map(str.isdigit, number)) >= min(SHOWN_DIGITS, len(digits))

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _get(self, path: str, fields: Mapping[str, str], until: float) -> bytes:
        return await self._ask("GET", path, fields, None, until)

    async def _post(self, path: str, fields: Mapping[str, object], until: float) -> bytes:
        return await self._ask("POST", path, {}, fields, until)

    async def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, object] | None, until: float
    ) -> bytes:
        """Return the answer to a request. Raises PlacementRefused, Uncertain."""
        told = {
            **query,
            "AccessKeyId": self._settings.access_key_id,
            "Expires": str(EXPIRES),
            "Timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        }
        signature = signed(self._secret, method, self._base.authority, path, told)
        url = URL(f"{self._base.origin()}{path}?{_query(told)}&Signature={quote(signature, safe='')}", encoded=True)
        status, content = await exchange(self._http, method, url, body, until)
        try:
            error = msgspec.json.decode(content, type=_Envelope, strict=False).error
        except UNREADABLE:
            raise Uncertain(f"Clink2's answer cannot be read (HTTP {status})") from None
        if error is not None or status >= 300:
            error = error or _Error()
            raise refused(status, error.code, error.message)
        return content

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline

    def _number(self, number: str) -> str:
        return dialable(number, self._settings.region).removeprefix("+")


def signed(secret: str, method: str, host: str, path: str, query: Mapping[str, str]) -> str:
    """Return the signature of a request, which is quoted once more when it is sent; the body is not signed."""
    said = f"{method}{host}{path}?{_query(query)}"
    return base64.b64encode(hmac.digest(secret.encode(), said.encode(), hashlib.sha1)).decode()


_T = TypeVar("_T")


def _query(fields: Mapping[str, str]) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(fields[name], safe='')}" for name in sorted(fields))


def _decoded(content: bytes | msgspec.Raw, kind: type[_T]) -> _T:
    """Read an answer. Raises Uncertain."""
    try:
        return msgspec.json.decode(content, type=kind, strict=False)
    except UNREADABLE:
        raise Uncertain("Clink2's answer has an unknown form") from None


def _told(row: _Row, tag: str, said: bytes) -> list[Told]:
    record = CallRecord(
        call_id=row.unique_id,
        tag=tag,
        bridged_at=instant(row.bridge_time),
        ended_at=instant(row.end_time),
        status=word(row.status_code),
        sip_cause=word(row.sip_cause),
        end_reason=word(row.end_reason),
        recording=word(row.record_file) or None,
    )
    return told_by_record(record, STATUSES, said)


def _live(seat: _Seat, call: CallReference) -> Told:
    """Tell of a seat at work. That somebody talks is not taken for an answer: only a bridge time is."""
    status = Status.RINGING if word(seat.customer_status).endswith(RINGING) else Status.CALLING
    event = Progress(status, datetime.now(UTC), Evidence.IN_CALL_SERVICE)
    return tell(call.provider_call_id, call.tag, event, msgspec.json.encode(seat))
