"""Ronglian 容联云 (cloopen), REST API 2013-12-26: two telephones are called and joined, the agent's first (双向回拨).

Calls are placed and cancelled with the SID and the token of a sub-account, the only credentials that are asked for. How
a call went is pushed: by one record when it is over, or, where the application has the vendor ask before each call
(鉴权), by events. Nothing is signed, and nothing can be looked up.

Sources: the vendor's demo SDK, its page of hang-up types (docs.yuntongxun.com, 鉴权挂机类型说明) and integrations, all
as public code has them; docs/providers/ronglian.md says what is from where.
"""

import asyncio
import base64
import hashlib
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated
from urllib.parse import urlsplit
from xml.parsers import expat
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
from server.ssrf import Refused

log = structlog.get_logger()

BASE_URL = "https://app.cloopen.com:8883"
VERSION = "2013-12-26"

CALL_BACK, CALL_CANCEL = "Callback", "CallCancel"

CONNECT = 5.0
"""Seconds in which a connection must stand; until then nothing was asked for."""

DEADLINE = 10.0
"""Seconds for a method as a whole."""

ANSWER_BOUND = 64 * 1024
"""Bytes of an answer, which is a code and an id."""

WEBHOOK_BOUND = 64 * 1024
"""Bytes of a message, which tells of one call."""

USER_DATA_BOUND = 256
"""Bytes of `userData`, in which our tag travels."""

BEIJING = ZoneInfo("Asia/Shanghai")
"""The vendor signs, and tells, by the time of Beijing."""

DONE = "000000"

REPLY = Reply(b"<Response><statuscode>000000</statuscode></Response>", "application/xml")

NOBODY_KNOWS = {"160000"}
"""A "system error" says nothing of how far an order came."""

CREDENTIALS = "111"
"""How codes begin that mean the account, the application or the signature."""

REFUSALS: dict[str, tuple[Refusal, str]] = {
    "111109": (Refusal.LINE, "Ronglian does not accept the signature: sub-account SID or token are wrong"),
    "111141": (Refusal.LINE, "the account does not exist"),
    "111181": (Refusal.LINE, "the application does not exist"),
}
"""Where a code is missing here, it is the line's fault: the vendor said that it failed, and its list is not public. It
may have failed after a telephone rang, so no other line is asked."""

NO_CALL = "0" * 32
"""A callSid that no call has: to ask for its end proves the credentials, and ends nothing."""

TALKED = {"1", "2", "3", "4"}
"""Hang-up types (`byetype`) of a call in which both were joined."""

ORDINARY = {"1", "3", "4"}
"""Hung up by request, by the agent or by the customer; 2 is an account without money or the end of the time allowed."""

UNANSWERED: dict[str, tuple[Outcome, HangupCause]] = {
    "-1": (Outcome.FAILED, HangupCause.UNKNOWN),  # the customer's telephone did not ring
    "-2": (Outcome.MISSED, HangupCause.NO_ANSWER),  # timed out
    "-3": (Outcome.CANCELLED, HangupCause.CANCELLED),  # the agent answered, and hung up before the customer did
    "-4": (Outcome.FAILED, HangupCause.UNKNOWN),  # the agent's telephone was not reached
    "-5": (Outcome.FAILED, HangupCause.UNKNOWN),  # the customer's telephone was not reached
    "-6": (Outcome.FAILED, HangupCause.RESTRICTED),  # the vendor did not allow it
    "-7": (Outcome.FAILED, HangupCause.RESTRICTED),  # who was asked (鉴权) did not allow it
    "-8": (Outcome.MISSED, HangupCause.NO_ANSWER),  # as -9, of calls of another kind
    "-9": (Outcome.MISSED, HangupCause.NO_ANSWER),  # the customer's telephone rang; whether it was refused is not said
    "-10": (Outcome.CANCELLED, HangupCause.CANCELLED),  # the agent's telephone rang, and the customer was not called
    "-11": (Outcome.FAILED, HangupCause.RESTRICTED),  # the account has no money
    "-14": (Outcome.CANCELLED, HangupCause.CANCELLED),  # by CallCancel
    # The vendor's newer platform counts otherwise; its numbers from 5 on mean nothing here, so they are read as there.
    "5": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "6": (Outcome.FAILED, HangupCause.RESTRICTED),
    "7": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "8": (Outcome.BUSY, HangupCause.USER_BUSY),  # busy, or refused
    "18": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
    "19": (Outcome.FAILED, HangupCause.INVALID_NUMBER),
    "20": (Outcome.FAILED, HangupCause.INVALID_NUMBER),
    "21": (Outcome.FAILED, HangupCause.RESTRICTED),  # on a black-list
    "33": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "35": (Outcome.FAILED, HangupCause.POWER_OFF),  # out of coverage
}
"""What `byetype` means of a call that the customer did not answer."""

LIVE = {"callauth": "CallAuth", "callestablish": "CallEstablish", "hangup": "Hangup"}
"""The events of 鉴权, by `action` or by what the vendor puts behind the URL, whatever the case."""

_Id = Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z]{1,64}$")]


class RonglianSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A sub-account, as it may be shown. `app_id` is its application: messages of others are refused.

    Numbers are dialled as in `region`. `agent_sees` is the number (E.164) shown to the agent. `over_codes` are those by
    which the vendor says that a call to be ended is over: it publishes none. An overriding `base_url` has been judged
    before it comes here.
    """

    app_id: _Id
    sub_account_sid: _Id
    base_url: str = BASE_URL
    region: str = "CN"
    agent_sees: str = ""
    record: bool = False
    over_codes: frozenset[str] = frozenset()


class RonglianSecrets(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What must not be shown. `callback_url` is the line's own, to which each order has its record sent: nothing but
    that it is secret protects it. It is empty where the application has the vendor ask before each call (鉴权)."""

    sub_account_token: str
    callback_url: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for a callback URL that is none."""
        if self.callback_url and not self.callback_url.startswith(("http://", "https://")):
            raise ValueError("callbackUrl must begin with https:// or http://")

    def __repr__(self) -> str:
        return "RonglianSecrets(sub_account_token='**********', callback_url='**********')"


class _CallBack(msgspec.Struct, frozen=True, rename="camel"):
    call_sid: str = ""


class _Answer(msgspec.Struct, frozen=True):
    """The body of every answer: `statusCode` tells success, HTTP does not."""

    status_code: str = msgspec.field(name="statusCode")
    call_back: _CallBack | None = msgspec.field(name="CallBack", default=None)


_Word = str | int | float | bool | None
"""What the vendor's JSON has as strings, and as numbers for all that is known."""


class _Leg(msgspec.Struct, frozen=True):
    """The record of one leg. Names are in lower case, for the vendor writes them in several ways."""

    appid: _Word = None
    callsid: _Word = None
    userdata: _Word = None
    starttime: _Word = None
    endtime: _Word = None
    duration: _Word = None
    ringingendtime: _Word = None
    byetype: _Word = None


class _Message(_Leg, frozen=True):
    """A record of both legs, a record of the call as a whole, or an event with an `action`."""

    action: _Word = None
    type: _Word = None
    subtype: _Word = None
    talkduration: _Word = None
    recordurl: _Word = None
    callercdr: _Leg | str | None = None
    calledcdr: _Leg | str | None = None


_Event = Progress | End | Recording | Heard
_Facts = tuple[str, ...]


class _Call(msgspec.Struct, frozen=True):
    """How a call went: for the customer, and by what hang-up type."""

    answered: bool
    answered_at: datetime | None
    talk: int | None
    ended_at: datetime | None
    byetype: str


class Ronglian:
    """One sub-account."""

    controls: frozenset[Control] = frozenset({"hang_up"})

    def __init__(
        self,
        settings: RonglianSettings,
        secrets: RonglianSecrets,
        http: aiohttp.ClientSession,
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._http = http
        self._deadline = deadline

    async def place(self, order: Order) -> Placed:
        """Have the telephone of the seat rung, and then the customer's.

        Raises PlacementRefused, Uncertain. The vendor knows no ring timeout."""
        try:
            answer = await self._ask(CALL_BACK, self._fields(order))
        except PlacementRefused as refused:
            log.info("ronglian_refused", tag=order.tag, code=refused.code)
            raise
        except Uncertain:
            log.warning("ronglian_uncertain", tag=order.tag)
            raise
        return Placed(_word(answer.call_back.call_sid) or None if answer.call_back else None)

    async def hang_up(self, call: CallReference) -> None:
        """End a call, whatever its state; one that is over by a code of the settings is a success.

        Raises PlacementRefused, also where the call's id is not known (yet), and Uncertain."""
        if call.provider_call_id is None:
            raise PlacementRefused(Refusal.LINE, "no_call_id", "Ronglian has not told the id of this call")
        try:
            await self._ask(CALL_CANCEL, self._cancelling(call.provider_call_id))
        except PlacementRefused as refused:
            if refused.code not in self._settings.over_codes:
                log.info("ronglian_not_hung_up", tag=call.tag, code=refused.code)
                raise

    async def mute(self, call: CallReference, *, on: bool) -> None:  # noqa: ARG002 - the face
        """Raise Unsupported."""
        raise Unsupported("Ronglian has no function that mutes a call")

    async def transfer(self, call: CallReference, to: str) -> None:  # noqa: ARG002 - the face
        """Raise Unsupported."""
        raise Unsupported("Ronglian has no function that transfers a call")

    async def look_up(self, call: CallReference) -> list[Told] | None:  # noqa: ARG002 - the face
        """Raise Unsupported, always and at once: a call is known by what is pushed.

        None would say that there is no such call, and an order that nobody answered would be taken for one never made.
        """
        raise Unsupported("Ronglian tells nothing of a call when it is asked")

    def read_webhook(self, webhook: Webhook) -> list[Told]:
        """Read a record or an event of 鉴权, in JSON or XML. Raises WebhookRefused.

        The vendor signs nothing: the secret in the URL and an allow-list of addresses protect it. The application must
        be ours, and a call must be named; whether it is one of ours is for the caller to judge, by tag or id."""
        said = _said(webhook.body)
        try:
            message = msgspec.convert(said, _Message)
        except msgspec.ValidationError:
            raise WebhookRefused("this is neither a record nor an event of Ronglian") from None
        legs = [leg for leg in (message, message.callercdr, message.calledcdr) if isinstance(leg, _Leg)]
        if not _words(leg.appid for leg in legs) <= {self._settings.app_id}:
            raise WebhookRefused("the message is of another application")
        call_sids, tags = _words(leg.callsid for leg in legs), _words(leg.userdata for leg in legs)
        if len(call_sids) > 1 or len(tags) > 1 or not call_sids | tags:
            raise WebhookRefused("the message does not name one call")
        call_sid, tag = "".join(call_sids) or None, "".join(tags) or None
        raw = msgspec.json.encode(_without_query(said))
        return [
            Told(provider_call_id=call_sid, tag=tag, event=event, once=_digest(call_sid or tag or "", *facts), raw=raw)
            for event, facts in _events(message, webhook)
        ]

    def key_of(self, webhook: Webhook) -> str:
        """Return the digest of path and body: the vendor gives its deliveries no ids."""
        return hashlib.sha256(webhook.kind.encode() + b"\n" + webhook.body).hexdigest()

    def reply(self) -> Reply:
        """Return the answer to an event of 鉴权, without which the vendor refuses the call.

        A record may be answered by anything; an integration is known to answer this."""
        return REPLY

    async def recording_url(self, call: CallReference, name: str | None) -> str | None:  # noqa: ARG002 - the face
        """Return None: the URL is told once, with the record, to be fetched no sooner than 10 s after."""
        return None

    async def test(self) -> Tested:
        """Have a call ended that does not exist, to see that the credentials are accepted.

        Raises PlacementRefused, Uncertain."""
        begun = time.monotonic()
        code = DONE
        try:
            await self._ask(CALL_CANCEL, self._cancelling(NO_CALL))
        except PlacementRefused as refused:
            if refused.code == UNREACHABLE or refused.code.startswith(CREDENTIALS):
                raise
            code = refused.code
        latency_ms = round((time.monotonic() - begun) * 1000)
        return Tested(latency_ms, f"the credentials are accepted; to a call that does not exist it says {code}")

    async def balance(self) -> Decimal | None:
        """Return None: it would be told to the main account, whose token is not asked for."""
        return None

    def _fields(self, order: Order) -> dict[str, str]:
        """Return the body of an order. Raises PlacementRefused for what can be seen to fail."""
        if not order.seat.number:
            raise PlacementRefused(
                Refusal.SEAT, "no_seat", "the agent has no telephone number at this line", known=True
            )
        if order.callee == order.seat.number:
            text = "the agent's own telephone is busy with this call"
            raise PlacementRefused(Refusal.CALLEE, "callee_is_seat", text, known=True)
        if len(order.tag.encode()) > USER_DATA_BOUND:
            raise PlacementRefused(Refusal.LINE, "user_data", "the tag is too long for Ronglian", known=True)
        fields = {
            "from": self._number(order.seat.number),
            "to": self._number(order.callee),
            "userData": order.tag,
            "needBothCdr": "1",  # else there is one record, in which the agent's answer looks like the customer's
            "needRecord": "1" if self._settings.record else "0",
            "customerSerNum": self._number(order.caller or ""),
            "fromSerNum": self._number(self._settings.agent_sees),
            "hangupCdrUrl": self._secrets.callback_url,
        }
        return {name: value for name, value in fields.items() if value}

    def _cancelling(self, call_sid: str) -> dict[str, str]:
        return {"appId": self._settings.app_id, "callSid": call_sid, "type": "0"}  # 0: at any time

    async def _ask(self, action: str, fields: Mapping[str, str]) -> _Answer:
        """Send one request, once. Raises PlacementRefused, Uncertain; the vendor's own text may quote what was sent, so
        it is not repeated."""
        body = bytearray()
        sid = self._settings.sub_account_sid
        sig, authorization = signed(sid, self._secrets.sub_account_token, datetime.now(UTC))
        try:
            async with (
                asyncio.timeout(self._deadline),
                self._http.post(
                    f"{self._settings.base_url.rstrip('/')}/{VERSION}/SubAccounts/{sid}/Calls/{action}",
                    params={"sig": sig},
                    headers={
                        "Authorization": authorization,
                        "Accept": "application/json",
                        "Content-Type": "application/json;charset=utf-8",
                    },
                    data=msgspec.json.encode(fields),
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT, sock_connect=CONNECT),
                ) as response,
            ):
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > ANSWER_BOUND:
                        raise Uncertain("Ronglian's answer is too large")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, Refused):
            raise PlacementRefused(Refusal.LINE, UNREACHABLE, "Ronglian cannot be reached", known=True) from None
        except (TimeoutError, aiohttp.ClientError, OSError):
            raise Uncertain("Ronglian did not answer") from None
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except _UNREADABLE:
            raise Uncertain(f"Ronglian's answer cannot be read (HTTP {response.status})") from None
        code = _word(answer.status_code, 32)
        listed = code in REFUSALS
        if not code or code in NOBODY_KNOWS or (response.status in LEFT_OPEN and code != DONE and not listed):
            raise Uncertain(f"an error inside Ronglian ({code})")
        if code != DONE:
            refusal, text = REFUSALS.get(code, (Refusal.LINE, "Ronglian did not carry out the request"))
            raise PlacementRefused(refusal, code, text, known=listed)
        return answer

    def _number(self, number: str) -> str:
        dialled = dialable(number, self._settings.region)
        return "00" + dialled.removeprefix("+") if dialled.startswith("+") else dialled


def signed(sid: str, token: str, at: datetime) -> tuple[str, str]:
    """Return `sig` and the Authorization header of a request at a time, which is the same in both."""
    timestamp = f"{at.astimezone(BEIJING):%Y%m%d%H%M%S}"
    digest = hashlib.md5(f"{sid}{token}{timestamp}".encode(), usedforsecurity=False)  # the vendor's choice
    return digest.hexdigest().upper(), base64.b64encode(f"{sid}:{timestamp}".encode()).decode()


# --- what is pushed ---------------------------------------------------------------------------------------------------

_UNREADABLE = (msgspec.MsgspecError, expat.ExpatError, ValueError, LookupError, OverflowError, RecursionError)
"""What is raised for bytes that are not what they should be."""

_WRAPPERS = {"cdr", "request"}
_DEPTH = 4


def _events(message: _Message, webhook: Webhook) -> list[tuple[_Event, _Facts]]:
    """Return what a message says, each with the facts that make its repetition a repeat. Raises WebhookRefused."""
    action = _word(message.action) or (webhook.kind if webhook.kind.lower() in LIVE else "")
    event = LIVE.get(action.lower(), action)
    facts = (event, _word(message.type), _word(message.subtype))
    match event:
        case "CallAuth":  # about to be dialled
            return [(Progress(Status.CALLING, webhook.received_at, Evidence.IN_CALL_SERVICE), facts)]
        case "CallEstablish":  # both are joined
            at = _time(message.starttime) or webhook.received_at
            return [(Progress(Status.CONNECTED, at, Evidence.IN_CALL_SERVICE), facts)]
        case "Hangup":
            return _ended(message, webhook.received_at, Evidence.IN_CALL_SERVICE)
        case "" if message.calledcdr or message.callercdr or _word(message.byetype):
            return _ended(message, webhook.received_at, Evidence.PROVIDER_RECORD)
        case "":
            raise WebhookRefused("this is neither a record nor an event of Ronglian")
        case _:
            return [(Heard(event), facts)]


def _ended(message: _Message, heard_at: datetime, evidence: Evidence) -> list[tuple[_Event, _Facts]]:
    call = _both(message.calledcdr, message.callercdr) if isinstance(message.calledcdr, _Leg) else _whole(message)
    recording = _url(_word(message.recordurl, 2048)) if call.answered else None  # else it is of the agent, waiting
    if call.answered:
        outcome = Outcome.CONNECTED
        cause = HangupCause.NORMAL_CLEARING if call.byetype in ORDINARY else HangupCause.UNKNOWN
    else:
        outcome, cause = UNANSWERED.get(call.byetype, (Outcome.FAILED, HangupCause.UNKNOWN))
    end = End(
        outcome=outcome,
        at=call.ended_at or heard_at,
        by="provider",
        evidence=evidence,
        started_at=call.answered_at,
        duration=call.talk if call.answered else None,
        cause=cause,
        raw_cause=call.byetype or None,
        has_recording=True if recording else None,
    )
    told: list[tuple[_Event, _Facts]] = [
        (end, ("end", evidence, str(call.answered_at), str(call.ended_at), str(call.talk), call.byetype))
    ]
    if recording is not None:
        told.append((Recording(recording), ("recording", urlsplit(recording).path)))
    return told


def _both(customer: _Leg, agent: _Leg | str | None) -> _Call:
    """Read a record of both legs: the customer answered whose own leg has a beginning, or lasted."""
    agent = agent if isinstance(agent, _Leg) else _Leg()
    answered_at, talk = _time(customer.starttime), _seconds(customer.duration)
    ends = (customer.endtime, agent.endtime, customer.ringingendtime, agent.ringingendtime)
    return _Call(
        answered=answered_at is not None or bool(talk),
        answered_at=answered_at,
        talk=talk,
        ended_at=next((at for at in map(_time, ends) if at is not None), None),
        byetype=_word(customer.byetype) or _word(agent.byetype),
    )


def _whole(message: _Message) -> _Call:
    """Read a record of the call as a whole, in which times are the agent's where the customer did not answer: only the
    hang-up type tells."""
    leg = message.callercdr if isinstance(message.callercdr, _Leg) else message
    byetype = _word(leg.byetype)
    answered = byetype in TALKED
    return _Call(
        answered=answered,
        answered_at=_time(leg.starttime) if answered else None,
        talk=_seconds(message.talkduration) or _seconds(leg.duration),
        ended_at=_time(leg.endtime) or _time(leg.ringingendtime),
        byetype=byetype,
    )


def _said(body: bytes) -> dict[str, object]:
    """Read JSON or XML, with the names in lower case. Raises WebhookRefused."""
    if len(body) > WEBHOOK_BOUND:
        raise WebhookRefused("the message is too large")
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        said = _xml(body) if body.startswith(b"<") else msgspec.json.decode(body, type=dict[str, object])
        if len(said) == 1:
            ((name, inner),) = said.items()
            said = inner if name.lower() in _WRAPPERS and isinstance(inner, dict) else said
        said = {
            name.lower(): {within.lower(): told for within, told in value.items()} if isinstance(value, dict) else value
            for name, value in said.items()
        }
        msgspec.json.encode(said)
    except _UNREADABLE:
        raise WebhookRefused("the message cannot be read") from None
    return said


def _xml(body: bytes) -> dict[str, object]:
    """Read what is inside the root element: texts, and elements with elements as objects. Attributes mean nothing here.

    Entities cannot be declared, so nothing is expanded and nothing fetched. Raises ExpatError, LookupError, ValueError.
    """
    levels: list[dict[str, object]] = [{}]
    text: list[str] = []

    def begin(_name: str, _attributes: Mapping[str, str]) -> None:
        if len(levels) > _DEPTH:
            raise ValueError("the elements are nested too deep")
        levels.append({})
        text.clear()

    def end(name: str) -> None:
        inner = levels.pop()
        levels[-1][name] = inner or "".join(text).strip()
        text.clear()

    def refuse(*_declared: object) -> None:
        raise ValueError("a document type is declared")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(body, True)
    (root,) = levels[0].values()
    return root if isinstance(root, dict) else {}


def _without_query(said: Mapping[str, object]) -> dict[str, object]:
    """Return a message without the query of the recording's URL, which may be a credential."""
    return {
        name: told.partition("?")[0] if name == "recordurl" and isinstance(told, str) else told
        for name, told in said.items()
    }


def _words(told: Iterable[_Word]) -> set[str]:
    return {word for word in map(_word, told) if word}


def _word(told: _Word, bound: int = 256) -> str:
    """Return a field as printable text, or nothing: what is too long, or has control characters, nobody meant."""
    text = "" if told is None else str(told).strip()
    return text if len(text) <= bound and text.isprintable() else ""


def _seconds(told: _Word) -> int | None:
    text = _word(told, 9)
    return int(text) if text.isascii() and text.isdigit() else None


def _time(told: _Word) -> datetime | None:
    text = _word(told, 14)
    if not (len(text) == 14 and text.isascii() and text.isdigit()):
        return None
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=BEIJING).astimezone(UTC)
    except (ValueError, OverflowError):  # the zeros that stand for no time
        return None


def _url(told: str) -> str | None:
    if not told.startswith(("http://", "https://")):
        return None
    try:
        urlsplit(told)
    except ValueError:  # such as of `http://[`
        return None
    return told


def _digest(*facts: str) -> str:
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()
