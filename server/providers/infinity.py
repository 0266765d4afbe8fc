"""Infinity 外呼 (infin8linx "Infinity Linx"): the agent's extension is rung, then the customer.

Two APIs lead to the same platform, one of form fields and one of JSON; both answer in one envelope of two levels. An
order is answered without a call id, so calls are known by `customuuid`, which is our tag. There is neither hang-up nor
a live event of the customer's leg: the call record is what tells how a call went.

Sources: document.infin8linx.com (books voice-api and voice-cn-api) and showdoc.com.cn/ifndCall, the vendor's pages;
what `hangupcause` and the states of an extension mean is from a public integration (docs/providers/infinity.md).
"""

import asyncio
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import aiohttp
import msgspec
import structlog

from protocol.call import End, Evidence, HangupCause, Outcome, Progress, Status
from protocol.phone_number import dialable
from server.providers.provider import (
    LEFT_OPEN,
    UNREACHABLE,
    CallReference,
    Control,
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
from server.ssrf import Refused

log = structlog.get_logger()

FORM_URL = "http://platform.infin8linx.com/api/yunhu"
JSON_URL = "https://in.api.mobi.infin8linx.com:4435"

CONNECT = 5.0
"""Seconds in which a connection must stand; until then nothing was asked for."""

DEADLINE = 10.0
"""Seconds for a method as a whole, signing in included."""

ANSWER_BOUND = 1024 * 1024
"""Bytes of an answer; a page of 100 call records is some 60 KiB."""

WEBHOOK_BOUND = 64 * 1024
"""Bytes of a callback, which tells of one call."""

PAGE, PAGES = 100, 10
"""Call records asked for at a time, and times; the vendor would give 1000 at a time."""

WINDOW = timedelta(minutes=10)
"""How far the vendor's clock may be from ours when a call is looked for by the time at which it was dialled."""

TOKEN_REFUSED = {"600", "602"}
"""The token is void, before anything was dialled. (602 also means an expired account: then it comes again.)"""

NO_RECORDING = "1029"

REPLY = Reply(b"1", "text/plain")

NOBODY_KNOWS = {*map(str, LEFT_OPEN), "1001", "1003"}
"""An error inside the server, a call server that it did not reach, or an order that it could not carry out: none says
how far the order came."""

REFUSALS: dict[str, tuple[Refusal, str]] = {
    # the outer level: `ret`
    "400": (Refusal.LINE, "Infinity finds the request invalid"),
    "600": (Refusal.LINE, "Infinity voids the token it has just given"),
    "601": (Refusal.LINE, "the app id is not authorised"),
    "602": (Refusal.LINE, "the app id's authorisation has expired"),
    "603": (Refusal.LINE, "the account has not licensed this module"),
    "604": (Refusal.LINE, "this server's IP address is not authorised"),
    # the inner level: `data.errors.code`
    "1002": (Refusal.LINE, "Infinity finds the request invalid"),
    "1010": (Refusal.EXTENSION, "the extension is in an abnormal state"),
    "1011": (Refusal.EXTENSION, "the extension belongs to another company"),
    "1012": (Refusal.EXTENSION, "the extension does not exist"),
    "1013": (Refusal.EXTENSION, "the extension is disabled"),
    "1014": (Refusal.EXTENSION, "the extension is not registered"),
    "1032": (Refusal.CALLEE, "the call is against a rule of the account"),
    "1202": (Refusal.SEAT_BUSY, "the extension is ringing"),
    "1203": (Refusal.SEAT_BUSY, "the extension is off the hook"),
    "1204": (Refusal.SEAT_BUSY, "the extension is in a call"),
}
"""Where a code is missing here, it is the line's fault: the vendor said that it failed, and not why, nor how far it
came, so no other line is asked."""

EXTENSION_STATES = {"1010", "1011", "1012", "1013", "1014", "1015"}
"""Errors that answer the question how an extension is."""

UNKNOWN_EXTENSION_STATE = "1010"
"""The token may be older than the extension: the vendor asks for another."""

FREE = {1015, 1201}
"""An extension is "not in a call", or idle."""

LIVE = {1202, 1203, 1204}
"""An extension is ringing, off the hook, or in a call: the order was taken. It is the agent's leg, so of the customer
it says nothing."""

UNANSWERED: dict[str, tuple[Outcome, HangupCause]] = {
    "10001": (Outcome.MISSED, HangupCause.UNKNOWN),  # "hung up normally", by whomever, before an answer
    "10002": (Outcome.CANCELLED, HangupCause.CANCELLED),
    "10003": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "10004": (Outcome.FAILED, HangupCause.NETWORK_ERROR),  # the trunk failed
    "10005": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "10006": (Outcome.BUSY, HangupCause.USER_BUSY),
    "10008": (Outcome.FAILED, HangupCause.DEVICE_OFFLINE),  # the agent's extension is not registered
    "10009": (Outcome.FAILED, HangupCause.NETWORK_ERROR),  # the destination cannot be reached
    "10011": (Outcome.MISSED, HangupCause.TIMEOUT),
    "10014": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
    "10015": (Outcome.MISSED, HangupCause.TIMEOUT),
    "10016": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "10025": (Outcome.FAILED, HangupCause.RESTRICTED),
    "10027": (Outcome.FAILED, HangupCause.INVALID_NUMBER),  # the number has changed
    "10028": (Outcome.FAILED, HangupCause.RESTRICTED),  # intercepted
}
"""What `hangupcause` means of a call that nobody answered; of others, such as 10020, "other", it says nothing."""


class InfinitySettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """An account, as it may be shown. `company_code` is needed by the JSON API; callbacks of others are refused.

    Numbers are dialled as in `region`, after `dial_prefix`; the vendor's times are of `time_zone`. An overriding
    `base_url` has been judged before it comes here.
    """

    app_id: str
    api: Literal["form", "json"] = "form"
    base_url: str | None = None
    company_code: str = ""
    region: str = "CN"
    dial_prefix: str = ""
    time_zone: str = "Asia/Shanghai"

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which no call could be placed or understood."""
        if self.api == "json" and not self.company_code:
            raise ValueError("companyCode is required where api is json")
        if self.dial_prefix and not (self.dial_prefix.isascii() and self.dial_prefix.isdigit()):
            raise ValueError("dialPrefix must be digits")
        _zone(self.time_zone)


class InfinitySecrets(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What must not be shown."""

    access_key: str

    def __repr__(self) -> str:
        return "InfinitySecrets(access_key='**********')"


JSON_NAMES = {
    "appid": "app_id",
    "accesskey": "access_key",
    "extnumber": "ext_number",
    "destnumber": "dest_number",
    "disnumber": "dis_number",
    "customuuid": "custom_id",
    "userid": "user_id",
    "memberid": "member_id",
    "starttime": "start_dt",
    "endtime": "end_dt",
    "syncflag": "sync_flag",
    "callmethod": "call_method",
    "currentpage": "current_page",
    "itemsperpage": "items_per_page",
    "filename": "file_name",
}
"""What the JSON API calls the fields of the form API."""


class _Action(msgspec.Struct, frozen=True):
    """A function of the platform: its name in the form API, its path in the JSON API, and its fields' names there."""

    service: str
    path: str
    names: Mapping[str, str]


LOGIN = _Action("App.Sip_Auth.Login", "/api/user/login", JSON_NAMES)
MAKE_CALL = _Action("App.Sip_Call.MakeCall", "/api/make/call", JSON_NAMES)
EXTENSION = _Action(
    "App.Sip_Status.GetSipCallStatus", "/api/sip/user/call/status", JSON_NAMES | {"extnumber": "sip_user"}
)
CALL_RECORDS = _Action("App.Sip_Cdr.GetBill", "/api/bill/records", JSON_NAMES)
RECORDING = _Action("App.Sip_Cdr.GetRecodeFile", "/api/voice/download", JSON_NAMES)


class _Envelope(msgspec.Struct, frozen=True):
    """The outer level. Where `ret` is not 200, `data` is an empty list."""

    ret: int
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Data(msgspec.Struct, frozen=True):
    """The inner level: `status` is 0, and there may be a result, or it is not, and there are errors."""

    status: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    errors: msgspec.Raw = msgspec.Raw(b"null")


class _Errors(msgspec.Struct, frozen=True):
    code: str | int


class _Answer(msgspec.Struct, frozen=True):
    """Both levels as one: the `code` of an error, from either level, or None and the result."""

    code: str | None
    result: msgspec.Raw = msgspec.Raw(b"null")


class _Login(msgspec.Struct, frozen=True):
    token: str
    companycode: str | int = ""
    companyname: str | None = None


class _Extension(msgspec.Struct, frozen=True):
    extnumber: str | int
    status: int
    caller: str | int | None = None
    callee: str | int | None = None


class _Page(msgspec.Struct, frozen=True):
    totalitems: int
    bills: list[msgspec.Raw]


class _Download(msgspec.Struct, frozen=True):
    downurl: str | None = None


_Word = str | int | float | bool | None
"""What the vendor writes now as a string and now as a number."""


class _Record(msgspec.Struct, frozen=True):
    """A call record: the same in the callback and in the list, but that the list has no `uuid` and no `recordurl`.

    `answertime` is empty or null where the customer did not answer; `billsec` is the talk. The `duration` that stands
    beside them is the time of waiting, and is not read.
    """

    uuid: _Word = None
    customuuid: _Word = None
    companycode: _Word = None
    type: _Word = None
    answertime: _Word = None
    endtime: _Word = None
    billsec: _Word = None
    hangupcause: _Word = None
    recordfilename: _Word = None
    recordurl: _Word = None


class Infinity:
    """One account. Its token, which is valid for 12 hours, is kept in memory and got again when it is refused."""

    controls: frozenset[Control] = frozenset()

    def __init__(
        self,
        settings: InfinitySettings,
        secrets: InfinitySecrets,
        http: aiohttp.ClientSession,
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._http = http
        self._deadline = deadline
        self._zone = _zone(settings.time_zone)
        self._login: _Login | None = None
        self._signing_in = asyncio.Lock()

    async def place(self, order: Order) -> Placed:
        """Have the extension rung, the leased one or the seat's own, and then the customer.

        Raises PlacementRefused, Uncertain. The vendor knows no ring timeout."""
        fields = {
            "extnumber": order.extension or order.seat.id,
            "destnumber": self._settings.dial_prefix + self._number(order.callee),
            "customuuid": order.tag,
        }
        if order.caller is not None:
            fields["disnumber"] = self._number(order.caller)  # else the vendor takes one of the account's
        try:
            if not fields["extnumber"]:
                raise PlacementRefused(
                    Refusal.EXTENSION, "no_extension", "there is no extension to call from", known=True
                )
            await self._ask(MAKE_CALL, fields, self._until(), expires_at=order.expires_at)
        except PlacementRefused as refused:
            log.info("infinity_refused", tag=order.tag, code=refused.code)
            raise
        except Uncertain:
            log.warning("infinity_uncertain", tag=order.tag)
            raise
        return Placed(None)

    async def hang_up(self, call: CallReference) -> None:  # noqa: ARG002 - the face
        """Raise Unsupported."""
        raise Unsupported("Infinity has no function that ends a call")

    async def mute(self, call: CallReference, *, on: bool) -> None:  # noqa: ARG002 - the face
        """Raise Unsupported."""
        raise Unsupported("Infinity has no function that mutes a call")

    async def transfer(self, call: CallReference, to: str) -> None:  # noqa: ARG002 - the face
        """Raise Unsupported."""
        raise Unsupported("Infinity has no function that transfers a call")

    async def look_up(self, call: CallReference) -> list[Told] | None:
        """Return what the call's record says; before there is one, that its extension is at work on it.

        Raises Uncertain."""
        until = self._until()
        with _only_uncertain():
            if found := await self._records(call, until):
                now = datetime.now(UTC)
                return [told for record, said in found for told in self._told(record, said, now)]
            return await self._live(call, until)

    def read_webhook(self, webhook: Webhook) -> list[Told]:
        """Read a callback, which is a call record; of calls that were not placed with a tag it tells nothing.

        The vendor signs nothing: the secret in the callback's path and an allow-list of addresses protect it.
        Raises WebhookRefused."""
        if len(webhook.body) > WEBHOOK_BOUND:
            raise WebhookRefused("the call record is too large")
        try:
            text = webhook.body.decode()
            record = msgspec.json.decode(text, type=_Record)
            said = msgspec.json.encode(msgspec.json.decode(text))  # what is not read is kept too, if it can be
        except _UNREADABLE:
            raise WebhookRefused("this is not a call record") from None
        if not _word(record.uuid) and not _word(record.customuuid):
            raise WebhookRefused("the call record names no call")
        ours, theirs = self._settings.company_code, _word(record.companycode)
        if ours and theirs != ours:
            raise WebhookRefused("the call record is of another company")
        return self._told(record, said, webhook.received_at)

    def key_of(self, webhook: Webhook) -> str:
        """Return the digest of the body: the vendor gives its deliveries no ids."""
        return hashlib.sha256(webhook.body).hexdigest()

    def reply(self) -> Reply:
        """Return "1", which integrations are known to answer; the vendor does not say what it wants."""
        return REPLY

    async def recording_url(self, call: CallReference, name: str | None) -> str | None:
        """Ask for a link to a recording by its file name, which is looked up where it is not known.

        Raises Uncertain."""
        until = self._until()
        with _only_uncertain():
            if name is None:
                offers = [_recording(record) for record, _ in await self._records(call, until)]
                offered = next((offer for offer in offers if offer is not None), None)
                if offered is None:
                    return None
                if offered.name is None:
                    return offered.url
                name = offered.name
            try:
                result = await self._ask(RECORDING, {"filename": name}, until)
            except PlacementRefused as refused:
                if refused.code == NO_RECORDING:
                    return None
                raise
            return _url(_decoded(result, _Download).downurl)

    async def test(self) -> Tested:
        """Sign in anew. Raises PlacementRefused."""
        begun = time.monotonic()
        login = await self._signed_in(self._until(), instead_of=self._login)
        latency_ms = round((time.monotonic() - begun) * 1000)
        return Tested(latency_ms, f"signed in as company {_word(login.companycode)} {_word(login.companyname)}".strip())

    async def balance(self) -> Decimal | None:
        """Return None: the vendor does not tell."""
        return None

    async def extension_free(self, extension: str) -> bool:
        """Tell whether an extension is registered and idle now; the pool asks before it lends it to somebody else.

        Raises PlacementRefused, Uncertain."""
        return (await self._extension(extension, self._until())).status in FREE

    # --- what the vendor knows of a call ------------------------------------------------------------------------------

    async def _records(self, call: CallReference, until: float) -> list[tuple[_Record, bytes]]:
        """Page through the records of a call's time and extension for those with its tag: read, and as they came."""
        fields = {
            "starttime": self._local(call.ordered_at - WINDOW),
            "endtime": self._local(call.ordered_at + WINDOW),
            "syncflag": "3",  # all: else a record is given once, and whoever asks first has it
            "direction": "2",
            "callmethod": "0",
            "itemsperpage": str(PAGE),
            "extnumber": call.extension or call.seat.id,
            "destnumber": "",
            "userid": "",
            "memberid": "",
            "customuuid": call.tag,
        }
        for number in range(1, PAGES + 1):
            page = _decoded(await self._ask(CALL_RECORDS, {**fields, "currentpage": str(number)}, until), _Page)
            records = [(_decoded(said, _Record), bytes(said)) for said in page.bills]
            found = [(record, said) for record, said in records if _word(record.customuuid) == call.tag]
            if found or not page.bills or number * PAGE >= page.totalitems:
                return found
        raise Uncertain("there are more call records of that time than are read")

    async def _live(self, call: CallReference, until: float) -> list[Told] | None:
        extension = call.extension or call.seat.id
        if not extension:
            return None
        state = await self._extension(extension, until)
        if state.status not in LIVE or not _same_number(call.callee, state.callee, state.caller):
            return None
        now = datetime.now(UTC)
        return [
            Told(
                provider_call_id=call.provider_call_id,
                tag=call.tag,
                event=Progress(Status.CALLING, now, Evidence.IN_CALL_SERVICE),
                once=_digest(call.tag, "live", str(state.status)),
                raw=msgspec.json.encode(state),
            )
        ]

    async def _extension(self, extension: str, until: float) -> _Extension:
        try:
            result = await self._ask(EXTENSION, {"extnumber": extension}, until)
        except PlacementRefused as refused:
            if refused.code not in EXTENSION_STATES:
                raise
            return _Extension(extension, int(refused.code))
        one_or_many = b"[" + bytes(result).strip(b"[] \t\r\n") + b"]"  # the JSON API's page leaves open which it is
        for state in _decoded(one_or_many, list[_Extension]):
            if _word(state.extnumber) == extension:
                return state
        raise Uncertain("Infinity does not say how the extension is")

    def _told(self, record: _Record, said: bytes, heard_at: datetime) -> list[Told]:
        """Return what a call record says: the call's end, and its recording."""
        tag, uuid = _word(record.customuuid), _word(record.uuid) or None
        if not tag or _word(record.type) == "callin":
            return []
        raw = _without_signature(said)
        facts = (_word(word) for word in (record.answertime, record.endtime, record.billsec, record.hangupcause))
        end = self._end(record, heard_at)
        told = [Told(provider_call_id=uuid, tag=tag, event=end, once=_digest(tag, "end", *facts), raw=raw)]
        if (offer := _recording(record)) is not None:
            once = _digest(tag, "recording", offer.name or urlsplit(offer.url or "").path)
            told.append(Told(provider_call_id=uuid, tag=tag, event=offer, once=once, raw=raw))
        return told

    def _end(self, record: _Record, heard_at: datetime) -> End:
        answered_at = self._time(record.answertime)
        talk = _seconds(record.billsec)
        cause = _word(record.hangupcause)
        answered = answered_at is not None or bool(talk)
        if answered:
            outcome = Outcome.CONNECTED
            meaning = HangupCause.NORMAL_CLEARING if cause == "10001" else HangupCause.UNKNOWN
        else:
            outcome, meaning = UNANSWERED.get(cause, (Outcome.FAILED, HangupCause.UNKNOWN))
        return End(
            outcome=outcome,
            at=self._time(record.endtime) or heard_at,
            by="provider",
            evidence=Evidence.PROVIDER_RECORD,
            started_at=answered_at,
            duration=talk if answered else None,
            cause=meaning,
            raw_cause=cause or None,
            has_recording=True if answered and _recording(record) is not None else None,
        )

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _ask(
        self, action: _Action, fields: Mapping[str, str], until: float, *, expires_at: datetime | None = None
    ) -> msgspec.Raw:
        """Ask with the token; where that is refused, once more with another; never from `expires_at` on.

        Raises PlacementRefused, Uncertain."""
        login = await self._signed_in(until, instead_of=None)
        _demand_time(expires_at)
        answer = await self._post(action, {**fields, "token": login.token}, until)
        if answer.code in TOKEN_REFUSED:
            log.info("infinity_token_refused", code=answer.code)
            login = await self._signed_in(until, instead_of=login)
            _demand_time(expires_at)
            answer = await self._post(action, {**fields, "token": login.token}, until)
        if answer.code == UNKNOWN_EXTENSION_STATE and self._login is login:
            self._login = None
        return _result(answer)

    async def _signed_in(self, until: float, *, instead_of: _Login | None) -> _Login:
        """Return the login, another than `instead_of`: whoever comes first gets it, and the others wait for theirs.

        Raises PlacementRefused, also where nobody knows: nothing rings by a login."""
        try:
            async with asyncio.timeout_at(until), self._signing_in:
                if self._login is None or self._login is instead_of:
                    self._login = None
                    credentials = {"appid": self._settings.app_id, "accesskey": self._secrets.access_key}
                    self._login = _decoded(_result(await self._post(LOGIN, credentials, until)), _Login)
                return self._login
        except (TimeoutError, Uncertain):
            raise PlacementRefused(Refusal.LINE, "login", "Infinity did not answer the login", known=True) from None
        except PlacementRefused as refused:
            refused.known = True
            raise

    async def _post(self, action: _Action, fields: Mapping[str, str], until: float) -> _Answer:
        """Send one request, once, and return what came back.

        Raises PlacementRefused where it was not sent, Uncertain where no answer came."""
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT, sock_connect=CONNECT)
        url, request = self._request(action, fields)
        body = bytearray()
        try:
            async with (
                asyncio.timeout_at(until),
                self._http.post(url, **request, allow_redirects=False, timeout=timeout) as response,
            ):
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > ANSWER_BOUND:
                        raise Uncertain("Infinity's answer is too large")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, Refused):
            raise PlacementRefused(Refusal.LINE, UNREACHABLE, "Infinity cannot be reached", known=True) from None
        except (TimeoutError, aiohttp.ClientError, OSError):
            raise Uncertain("Infinity did not answer") from None
        try:
            answer = _answer(body)
        except _UNREADABLE:
            raise Uncertain(f"Infinity's answer cannot be read (HTTP {response.status})") from None
        if response.status in LEFT_OPEN and answer.code not in REFUSALS:
            raise Uncertain(f"Infinity's answer leaves open what was done (HTTP {response.status})")
        return answer

    def _request(self, action: _Action, fields: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        settings = self._settings
        if settings.api == "form":
            return settings.base_url or FORM_URL, {"data": {"service": action.service, **fields}}
        named = {action.names.get(name, name): value for name, value in fields.items()}
        url = (settings.base_url or JSON_URL).rstrip("/") + action.path
        return url, {"json": {"company_code": settings.company_code, **named}}

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline

    def _number(self, number: str) -> str:
        return dialable(number, self._settings.region).removeprefix("+")

    def _local(self, at: datetime) -> str:
        return f"{at.astimezone(self._zone):%Y-%m-%d %H:%M:%S}"

    def _time(self, told: _Word) -> datetime | None:
        try:
            return datetime.strptime(_word(told), "%Y-%m-%d %H:%M:%S").replace(tzinfo=self._zone).astimezone(UTC)
        except (ValueError, OverflowError):  # "", and the zeros that stand for no time
            return None


# --- reading what was said --------------------------------------------------------------------------------------------

_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""

_T = TypeVar("_T")


def _answer(body: bytes | bytearray) -> _Answer:
    """Look into both levels of an answer. Raises one of _UNREADABLE."""
    envelope = msgspec.json.decode(body, type=_Envelope, strict=False)
    if envelope.ret != 200:
        return _Answer(str(envelope.ret))
    data = msgspec.json.decode(envelope.data, type=_Data, strict=False)
    if data.status != 0:
        return _Answer(str(msgspec.json.decode(data.errors, type=_Errors).code))
    return _Answer(None, data.result)


def _result(answer: _Answer) -> msgspec.Raw:
    """Return the result of what succeeded. Raises PlacementRefused, Uncertain; the vendor's own text may quote what
    was sent, so it is not repeated."""
    if answer.code is None:
        return answer.result
    if answer.code in NOBODY_KNOWS:
        raise Uncertain(f"an error inside Infinity ({answer.code})")
    refusal, text = REFUSALS.get(answer.code, (Refusal.LINE, "Infinity did not carry out the request"))
    raise PlacementRefused(refusal, answer.code[:32], text, known=answer.code in REFUSALS)


def _decoded(result: bytes | msgspec.Raw, kind: type[_T]) -> _T:
    """Read a result. Raises Uncertain."""
    try:
        return msgspec.json.decode(result, type=kind, strict=False)
    except _UNREADABLE:
        raise Uncertain("Infinity's answer has an unknown form") from None


def _demand_time(expires_at: datetime | None) -> None:
    """Raise PlacementRefused for an order that has expired while the login was waited for."""
    if expires_at is not None and datetime.now(UTC) >= expires_at:
        raise PlacementRefused(Refusal.LINE, "expired", "Infinity was too slow to sign in", known=True)


@contextmanager
def _only_uncertain() -> Iterator[None]:
    """Where nothing is ordered, a refusal only means that nobody knows."""
    try:
        yield
    except PlacementRefused as refused:
        raise Uncertain(str(refused)) from refused


def _recording(record: _Record) -> Recording | None:
    url, name = _url(_word(record.recordurl, 2048)), _word(record.recordfilename)
    return Recording(url, name or None) if url or name else None


def _without_signature(said: bytes) -> bytes:
    """Return a call record as it came, but for the query of `recordurl`, which may be a credential."""
    fields = msgspec.json.decode(said, type=dict[str, msgspec.Raw])
    if "recordurl" in fields:
        url = _word(_decoded(said, _Record).recordurl, 2048)
        fields["recordurl"] = msgspec.Raw(msgspec.json.encode(url.partition("?")[0]))
    return msgspec.json.encode(fields)


def _word(told: _Word, bound: int = 256) -> str:
    """Return a field as printable text, or nothing: what is too long, or has control characters, nobody meant."""
    text = "" if told is None else str(told).strip()
    return text if len(text) <= bound and text.isprintable() else ""


def _seconds(told: _Word) -> int | None:
    text = _word(told, 9)
    return int(text) if text.isascii() and text.isdigit() else None


def _url(told: str | None) -> str | None:
    if told is None or not told.startswith(("http://", "https://")):
        return None
    try:
        urlsplit(told)
    except ValueError:  # such as of `http://[`
        return None
    return told


def _same_number(number: str, *others: _Word) -> bool:
    """Tell whether one of these is the number, in whatever form the platform dials it."""
    return any(_word(other).endswith(number[-8:]) for other in others)


def _digest(*facts: str) -> str:
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _zone(name: str) -> ZoneInfo:
    """Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (LookupError, OSError):
        raise ValueError("timeZone must be a name such as Asia/Shanghai") from None
