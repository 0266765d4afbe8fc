"""Ronglian: how requests are signed, what its records and events mean, and what is never told of it."""

import itertools
import json
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from xml.sax.saxutils import escape

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from protocol.call import CallState, End, Evidence, HangupCause, Moved, Outcome, Progress, Status, advance
from server.providers import ronglian
from server.providers.provider import (
    CallReference,
    Heard,
    Order,
    Placed,
    PlacementRefused,
    Provider,
    Recording,
    Refusal,
    Reply,
    Seat,
    Told,
    Uncertain,
    Unsupported,
    Webhook,
    WebhookRefused,
)
from server.providers.ronglian import REFUSALS, UNANSWERED, Ronglian, RonglianSecrets, RonglianSettings, signed
from server.ssrf import guarded_session
from tests.clouds.cloud import Cloud, Sequence, Story, WebhookRequestSpec
from tests.clouds.ronglian import (
    APP_ID,
    AUDIO,
    CALLBACK_URL,
    MADE_UP_NO_SUCH_CALL,
    SUB_SID,
    SUB_TOKEN,
    TALKED,
    RonglianCloud,
    ronglian_cloud,
)
from tests.server.fake_origin import origin

TAG = "call_0123456789abcdef"
CALL_SID = "160606162442635300010185003810f4"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

OUTCOMES: dict[Story, tuple[Outcome, HangupCause]] = {
    "answered": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "no_answer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "busy": (Outcome.BUSY, HangupCause.USER_BUSY),
    "rejected": (Outcome.MISSED, HangupCause.NO_ANSWER),  # the vendor does not tell the two apart
    "invalid": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
}


class Account:
    """An adapter and the cloud that it speaks to."""

    def __init__(self, cloud: RonglianCloud, http: aiohttp.ClientSession) -> None:
        self.cloud = cloud
        self._http = http
        self.ronglian = self.adapter()

    def adapter(self, *, deadline: float = ronglian.DEADLINE, token: str = "", **settings: Any) -> Ronglian:
        """An adapter of this line, or of one with other settings."""
        told, hidden = self.cloud.line()
        return Ronglian(
            msgspec.convert(told | settings, RonglianSettings),
            msgspec.convert(hidden | ({"subAccountToken": token} if token else {}), RonglianSecrets),
            self._http,
            deadline=deadline,
        )


@asynccontextmanager
async def account(pushes: Literal["json", "xml"] = "json", *, asks_first: bool = False) -> AsyncIterator[Account]:
    """A cloud, and an account there."""
    async with ronglian_cloud(pushes, asks_first=asks_first) as cloud, aiohttp.ClientSession() as http:
        yield Account(cloud, http)


@pytest.fixture
async def line() -> AsyncIterator[Account]:
    """An account to which records are pushed in JSON."""
    async with account() as opened:
        yield opened


@pytest.fixture(params=["json", "xml", "json of 鉴权", "xml of 鉴权"])
async def pushed(request: pytest.FixtureRequest) -> AsyncIterator[Account]:
    """An account, by each way of being told."""
    pushes, _, mode = request.param.partition(" of ")
    async with account(pushes, asks_first=bool(mode)) as opened:
        yield opened


def order(tag: str = TAG, **parts: Any) -> Order:
    """An order to call a customer for an agent with a mobile."""
    parts = {"callee": "+8613912345678", "caller": None, "seat": Seat(number="+8613800000001")} | parts
    return Order(tag=tag, **parts)


def reference(tag: str = TAG, **parts: Any) -> CallReference:
    """The call of that order."""
    usual: dict[str, Any] = {
        "provider_call_id": CALL_SID,
        "seat": Seat(number="+8613800000001"),
        "extension": None,
        "callee": "+8613912345678",
        "ordered_at": datetime.now(UTC),
    }
    return CallReference(tag=tag, **usual | parts)


def webhook(body: bytes | dict[str, Any], received_at: datetime = NOW, kind: str = "") -> Webhook:
    """A push with this body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Webhook(kind=kind, query={}, headers={}, body=content, received_at=received_at)


def leg(**fields: Any) -> dict[str, Any]:
    """The record of a leg as the vendor writes it, of which nothing came but for these fields."""
    return {
        "appId": APP_ID,
        "beginCallTime": "",
        "byetype": "",
        "callSid": CALL_SID,
        "called": "13912345678",
        "caller": "13800000001",
        "duration": "0",
        "endtime": "",
        "lineNumber": "263",
        "lostRate": "",
        "ringingBeginTime": "",
        "ringingEndTime": "",
        "starttime": "",
        "subId": SUB_SID,
        "userData": TAG,
    } | fields


ANSWERED: dict[str, Any] = {
    "starttime": "20261122172014",
    "endtime": "20261122172056",
    "duration": "42",
    "byetype": "4",
}


def record(agent: dict[str, Any] | None = None, recordurl: str = "", **customer: Any) -> dict[str, Any]:
    """A record of both legs, in which the agent answered and nobody else, but for these fields of the customer's."""
    answered = {"starttime": "20261122172000", "endtime": "20261122172100", "duration": "60", "byetype": "-9"}
    return {
        "callerCdr": leg(**(answered if agent is None else agent)),
        "calledCdr": leg(**customer),
        "orderid": "CM1018520160606162442331008",
        "recordurl": recordurl,
    }


def xml(root: str, said: dict[str, Any]) -> bytes:
    """An element, and in it a flat message."""
    inner = "".join(f"<{name}>{escape(str(told))}</{name}>" for name, told in said.items())
    return f'<?xml version="1.0" encoding="UTF-8"?><{root}>{inner}</{root}>'.encode()


def unasked(**settings: Any) -> Ronglian:
    """An adapter for what needs no vendor: nothing is asked, so there is no session."""
    told = {"appId": APP_ID, "subAccountSid": SUB_SID} | settings
    nobody: Any = None
    return Ronglian(msgspec.convert(told, RonglianSettings), RonglianSecrets(sub_account_token=SUB_TOKEN), nobody)


def end_of(told: list[Told]) -> End:
    """The one end among what was told."""
    (end,) = [each.event for each in told if isinstance(each.event, End)]
    return end


async def played(line: Account, story: Story, order: Sequence = "right") -> list[list[Told]]:
    """What each push of a story tells, once the call is placed."""
    told: list[list[Told]] = []

    async def send(request: WebhookRequestSpec) -> None:
        told.append(line.ronglian.read_webhook(webhook(request.body, datetime.now(UTC), request.kind)))

    await line.cloud.play(TAG, story, send=send, order=order)
    return told


def test_it_has_the_faces_that_are_asked_for() -> None:
    """The adapter is a Provider, and its fake a Cloud: mypy says so."""
    provider: Provider = unasked()
    cloud: Cloud = RonglianCloud()

    assert frozenset({"hang_up"}) == provider.controls
    assert [] == cloud.placed


# --- the signature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sid", "token", "at", "sig", "authorization"),
    [
        (
            "sid-not-real",
            "token-not-real",
            datetime(2026, 11, 22, 9, 30, tzinfo=UTC),
            "CEBF028569A7132FBFF5DBC739DBA0C3",
            "c2lkLW5vdC1yZWFsOjIwMjYxMTIyMTczMDAw",
        ),
        (
            SUB_SID,
            SUB_TOKEN,
            datetime(2025, 12, 31, 16, 0, tzinfo=UTC),
            "E4005220A122F7BBF13E0EF9C0B2D61C",
            "NXViNTFkMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA6MjAyNjAxMDEwMDAwMDA=",
        ),
    ],
)
def test_requests_are_signed_as_recorded(sid: str, token: str, at: datetime, sig: str, authorization: str) -> None:
    """Both vectors are of md5sum and base64: SID, token and the time of Beijing, which is that of the header."""
    assert (sig, authorization) == signed(sid, token, at)


async def test_a_wrong_token_is_the_fault_of_the_line(line: Account) -> None:
    """The cloud verifies what is sent, and no call is placed."""
    with pytest.raises(PlacementRefused) as refused:
        await line.adapter(token="another").place(order())

    assert (Refusal.LINE, "111109") == (refused.value.refusal, refused.value.code)
    assert [] == line.cloud.placed


# --- placing ----------------------------------------------------------------------------------------------------------


async def test_an_order_is_placed_with_our_tag(line: Account) -> None:
    """The agent's telephone is `from`, and both records are asked for, at our URL."""
    placed = await line.ronglian.place(order(caller="+8675566834205"))

    assert Placed(line.cloud.call_sids[TAG]) == placed
    assert [
        {
            "from": "13800000001",
            "to": "13912345678",
            "customerSerNum": "075566834205",
            "userData": TAG,
            "needBothCdr": "1",
            "needRecord": "1",
            "hangupCdrUrl": CALLBACK_URL,
        }
    ] == line.cloud.orders


async def test_what_is_not_set_is_not_sent(line: Account) -> None:
    """The vendor chooses the numbers that are shown; recording is off unless it is wanted."""
    await line.adapter(record=False, agentSees="+8675566834206").place(order())

    (fields,) = line.cloud.orders
    assert ("0", "075566834206") == (fields["needRecord"], fields["fromSerNum"])
    assert "customerSerNum" not in fields


async def test_numbers_abroad_are_dialled_with_two_zeros(line: Account) -> None:
    """A plus cannot be dialled; at home the national number is."""
    await line.ronglian.place(order(callee="+525512345678"))

    assert "00525512345678" == line.cloud.placed[0].callee


@pytest.mark.parametrize(
    ("parts", "refusal", "code"),
    [
        ({"seat": Seat(id="1001")}, Refusal.SEAT, "no_seat"),
        ({"callee": "+8613800000001"}, Refusal.CALLEE, "callee_is_seat"),
        ({"tag": "标" * 86}, Refusal.LINE, "user_data"),
    ],
)
async def test_what_cannot_be_placed_is_not_asked(
    line: Account, parts: dict[str, Any], refusal: Refusal, code: str
) -> None:
    """No telephone to begin with, one telephone for both, or more than 256 bytes of `userData`."""
    with pytest.raises(PlacementRefused) as refused:
        await line.ronglian.place(order(**parts))

    assert (refusal, code) == (refused.value.refusal, refused.value.code)
    assert [] == line.cloud.asked


@pytest.mark.parametrize("code", sorted(REFUSALS))
async def test_every_error_has_a_class(line: Account, code: str) -> None:
    """Each code is a refusal of its class, under HTTP 200, and repeats nothing of the vendor's."""
    line.cloud.next_place("refuse", code)

    with pytest.raises(PlacementRefused) as refused:
        await line.ronglian.place(order())

    assert (REFUSALS[code][0], code, True) == (refused.value.refusal, refused.value.code, refused.value.known)
    assert f"{REFUSALS[code][1]} ({code})" == str(refused.value)


async def test_an_unknown_error_is_the_fault_of_the_line(line: Account) -> None:
    """The vendor said that it failed, and not how far it came: no other line may be asked."""
    line.cloud.next_place("refuse", "112999")

    with pytest.raises(PlacementRefused) as refused:
        await line.ronglian.place(order())

    assert (Refusal.LINE, "112999", False) == (refused.value.refusal, refused.value.code, refused.value.known)


@pytest.mark.parametrize("status", [302, 409, 500])
async def test_an_unknown_error_under_a_status_that_is_no_answer_leaves_everything_open(status: int) -> None:
    """HTTP says that it broke, and the code does not say when."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"statusCode": "112999"}, status=status)

    async with origin(answer) as server, aiohttp.ClientSession() as http:
        line = Ronglian(
            RonglianSettings(app_id="a", sub_account_sid="s", base_url=f"http://127.0.0.1:{server.port}"),
            RonglianSecrets(sub_account_token="not-real"),
            http,
        )
        with pytest.raises(Uncertain):
            await line.place(order())


@pytest.mark.parametrize("code", ["160000", "\x1b[31m", " ", "1" * 33])
async def test_an_error_that_tells_nothing_leaves_everything_open(line: Account, code: str) -> None:
    """A system error, or what is no code, does not say how far the order came."""
    line.cloud.next_place("refuse", code)

    with pytest.raises(Uncertain):
        await line.ronglian.place(order())


@pytest.mark.parametrize("how", ["garbage", "drop"])
async def test_an_answer_that_cannot_be_read_leaves_everything_open(
    line: Account, how: Literal["garbage", "drop"]
) -> None:
    """The order was taken once, and is not sent again."""
    line.cloud.next_place(how)

    with pytest.raises(Uncertain):
        await line.ronglian.place(order())

    assert [TAG] == [call.tag for call in line.cloud.placed]
    assert ["Callback"] == line.cloud.asked


async def test_silence_leaves_everything_open(line: Account) -> None:
    """When the deadline has come nobody knows, and nothing is sent again."""
    line.cloud.next_place("silent")

    with pytest.raises(Uncertain):
        await line.adapter(deadline=1.0).place(order())

    assert ["Callback"] == line.cloud.asked


async def test_a_vendor_that_cannot_be_reached_was_asked_for_nothing(line: Account) -> None:
    """A refused connection is a refusal: another line may do."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        adapter = line.adapter(baseUrl=f"http://127.0.0.1:{unused.getsockname()[1]}/")
        with pytest.raises(PlacementRefused) as refused:
            await adapter.place(order())

    assert (Refusal.LINE, "unreachable") == (refused.value.refusal, refused.value.code)


async def test_an_address_that_is_not_allowed_was_asked_for_nothing(line: Account) -> None:
    """The guarded session refuses to connect, which is a refusal too."""
    async with guarded_session(timeout=aiohttp.ClientTimeout(total=20)) as guarded:
        told, hidden = line.cloud.line()
        adapter = Ronglian(msgspec.convert(told, RonglianSettings), msgspec.convert(hidden, RonglianSecrets), guarded)
        with pytest.raises(PlacementRefused) as refused:
            await adapter.place(order())

    assert "unreachable" == refused.value.code


async def test_an_answer_without_end_is_not_read_to_the_end(line: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than any answer has are not read; what became of the order nobody knows."""
    monkeypatch.setattr(ronglian, "ANSWER_BOUND", 20)

    with pytest.raises(Uncertain):
        await line.ronglian.place(order())


# --- ending a call ----------------------------------------------------------------------------------------------------


async def test_a_call_is_ended_at_any_time(line: Account) -> None:
    """CallCancel names the application, the call, and type 0."""
    placed = await line.ronglian.place(order())

    await line.ronglian.hang_up(reference(provider_call_id=placed.provider_call_id))

    assert [{"appId": APP_ID, "callSid": placed.provider_call_id, "type": "0"}] == line.cloud.cancelled


async def test_a_call_that_is_over_cannot_be_told_from_a_failure(line: Account) -> None:
    """The vendor publishes no code for it, so it is refused."""
    placed = await line.ronglian.place(order())
    await played(line, "answered")

    with pytest.raises(PlacementRefused) as refused:
        await line.ronglian.hang_up(reference(provider_call_id=placed.provider_call_id))

    assert MADE_UP_NO_SUCH_CALL == refused.value.code


async def test_a_call_that_is_over_is_ended_by_a_code_of_the_settings(line: Account) -> None:
    """Whoever has seen the code says so in the settings."""
    placed = await line.ronglian.place(order())
    await played(line, "answered")

    await line.adapter(overCodes=[MADE_UP_NO_SUCH_CALL]).hang_up(reference(provider_call_id=placed.provider_call_id))

    assert 1 == len(line.cloud.cancelled)


async def test_a_call_without_an_id_cannot_be_ended(line: Account) -> None:
    """An order that was not answered has none, until something is pushed."""
    with pytest.raises(PlacementRefused) as refused:
        await line.ronglian.hang_up(reference(provider_call_id=None))

    assert "no_call_id" == refused.value.code
    assert [] == line.cloud.asked


# --- what the vendor cannot do ----------------------------------------------------------------------------------------


async def test_a_call_cannot_be_muted_nor_transferred() -> None:
    """There are no functions for it, and nothing is asked."""
    for control in (unasked().mute(reference(), on=True), unasked().transfer(reference(), "+8613800000002")):
        with pytest.raises(Unsupported):
            await control


async def test_a_call_cannot_be_looked_up() -> None:
    """That is never an answer: None would say that there was no such call."""
    with pytest.raises(Unsupported):
        await unasked().look_up(reference())


async def test_neither_balance_nor_recording_is_told_again() -> None:
    """The one is told to the main account, the other once, with the record."""
    assert None is await unasked().balance()
    assert None is await unasked().recording_url(reference(), "a.wav")


# --- records ----------------------------------------------------------------------------------------------------------


def test_an_answered_call_is_read() -> None:
    """The customer's leg is the call: its beginning the answer, its length the talk; times are Beijing's."""
    told = unasked().read_webhook(webhook(record(recordurl="http://r.example/1.wav?sign=s3cret", **ANSWERED)))

    assert [
        End(
            outcome=Outcome.CONNECTED,
            at=datetime(2026, 11, 22, 9, 20, 56, tzinfo=UTC),
            by="provider",
            evidence=Evidence.PROVIDER_RECORD,
            started_at=datetime(2026, 11, 22, 9, 20, 14, tzinfo=UTC),
            duration=42,
            cause=HangupCause.NORMAL_CLEARING,
            raw_cause="4",
            has_recording=True,
        ),
        Recording("http://r.example/1.wav?sign=s3cret"),
    ] == [each.event for each in told]
    assert {(TAG, CALL_SID)} == {(each.tag, each.provider_call_id) for each in told}


def test_a_record_from_the_wild_is_read() -> None:
    """A real one: the agent's telephone rang for 25 s, and nobody was called after that."""
    body = {
        "calledCdr": leg(userData=""),
        "callerCdr": leg(
            userData="", beginCallTime="20160606162442", byetype="-10", lostRate="0.00",
            ringingBeginTime="20160606162447", ringingEndTime="20160606162512",
        ),
        "orderid": "CM1018520160606162442331008",
        "recordurl": "",
    }  # fmt: skip

    (told,) = unasked().read_webhook(webhook(body))

    assert (CALL_SID, None) == (told.provider_call_id, told.tag)
    assert (
        End(
            outcome=Outcome.CANCELLED,
            at=datetime(2016, 6, 6, 8, 25, 12, tzinfo=UTC),
            by="provider",
            evidence=Evidence.PROVIDER_RECORD,
            cause=HangupCause.CANCELLED,
            raw_cause="-10",
        )
        == told.event
    )


def test_the_agents_answer_is_not_the_customers() -> None:
    """The agent talked to nobody for a minute, and what was recorded meanwhile is not offered."""
    (told,) = unasked().read_webhook(webhook(record(recordurl="http://r.example/1.wav")))

    assert isinstance(told.event, End)
    assert (Outcome.MISSED, None, None) == (told.event.outcome, told.event.started_at, told.event.duration)
    assert None is told.event.has_recording


@pytest.mark.parametrize("fields", [{"starttime": ANSWERED["starttime"]}, {"duration": "42"}, {"duration": 42}])
def test_either_a_beginning_or_a_length_proves_an_answer(fields: dict[str, Any]) -> None:
    """One of them is enough, of the customer's leg."""
    assert Outcome.CONNECTED is end_of(unasked().read_webhook(webhook(record(**fields)))).outcome


@pytest.mark.parametrize(
    "nothing", ["", None, "00000000000000", "2026112217201", "soon", "２０２６１１２２１７２０１４"]
)
def test_what_is_no_time_is_no_answer(nothing: str | None) -> None:
    """Without a length, a beginning that cannot be read is none."""
    assert Outcome.MISSED is end_of(unasked().read_webhook(webhook(record(starttime=nothing)))).outcome


@pytest.mark.parametrize("byetype", sorted(UNANSWERED))
@pytest.mark.parametrize("of", ["customer", "agent"])
def test_every_cause_of_an_unanswered_call_is_read(byetype: str, of: str) -> None:
    """Each row gives its outcome and its cause, from either leg, the customer's first."""
    body = record(agent={"byetype": byetype}) if of == "agent" else record(byetype=byetype)

    end = end_of(unasked().read_webhook(webhook(body)))

    assert (*UNANSWERED[byetype], byetype) == (end.outcome, end.cause, end.raw_cause)


@pytest.mark.parametrize("byetype", ["", "1", "4", "-99", "soon"])
def test_an_unknown_cause_is_kept_as_it_is(byetype: str) -> None:
    """It is an end nevertheless: the record says that the customer did not answer."""
    end = end_of(unasked().read_webhook(webhook(record(agent={}, byetype=byetype))))

    assert (Outcome.FAILED, HangupCause.UNKNOWN, byetype or None) == (end.outcome, end.cause, end.raw_cause)


@pytest.mark.parametrize(
    ("byetype", "cause"),
    [
        ("1", HangupCause.NORMAL_CLEARING),
        ("2", HangupCause.UNKNOWN),
        ("3", HangupCause.NORMAL_CLEARING),
        ("-10", HangupCause.UNKNOWN),
    ],
)
def test_an_answered_call_is_answered_whatever_the_cause_says(byetype: str, cause: HangupCause) -> None:
    """The cause of an answered call says why it ended, not how."""
    end = end_of(unasked().read_webhook(webhook(record(**ANSWERED | {"byetype": byetype}))))

    assert (Outcome.CONNECTED, cause, byetype) == (end.outcome, end.cause, end.raw_cause)


def test_a_record_without_times_ends_when_it_is_heard() -> None:
    """Records are of calls that are over."""
    assert NOW == end_of(unasked().read_webhook(webhook(record(agent={})))).at


def test_a_record_of_the_whole_call_is_read_by_its_hang_up_type() -> None:
    """Its times are the agent's where the customer did not answer; this one is of an integration's test, in XML."""
    said = {
        "appId": APP_ID, "callSid": "14080711103332060001000200000003", "userData": TAG, "subId": SUB_SID,
        "caller": "07175322232", "called": "18701696245", "starttime": "20150327145921", "endtime": "20150327145941",
        "duration": "20", "beginCallTime": "20150327145858", "ringingBeginTime": "20150327145906",
        "ringingEndTime": "20150327145921", "byetype": "3", "recordurl": "http://r.example/20150327145912.wav",
    }  # fmt: skip

    answered = unasked().read_webhook(webhook(xml("CDR", said)))
    not_answered = unasked().read_webhook(webhook(xml("CDR", said | {"byetype": "-9"})))

    assert [End, Recording] == [type(each.event) for each in answered]
    assert (Outcome.CONNECTED, 20, datetime(2015, 3, 27, 6, 59, 21, tzinfo=UTC)) == (
        end_of(answered).outcome,
        end_of(answered).duration,
        end_of(answered).started_at,
    )
    assert [End] == [type(each.event) for each in not_answered]
    assert (Outcome.MISSED, None, None) == (
        end_of(not_answered).outcome,
        end_of(not_answered).duration,
        end_of(not_answered).started_at,
    )


def test_a_record_of_the_agents_leg_alone_is_a_record_of_the_call() -> None:
    """Where one leg is told, its hang-up type is all that tells of the other."""
    body = record(agent=ANSWERED | {"byetype": "-3"})
    del body["calledCdr"]

    assert Outcome.CANCELLED is end_of(unasked().read_webhook(webhook(body))).outcome


@pytest.mark.parametrize("wrapped", [lambda said: said, lambda said: {"CDR": said}, lambda said: {"request": said}])
def test_json_may_be_wrapped_and_names_may_be_written_otherwise(
    wrapped: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """The vendor's JSON and XML differ in the case of names."""
    body = {name.upper(): told for name, told in record(**ANSWERED).items()}

    assert Outcome.CONNECTED is end_of(unasked().read_webhook(webhook(wrapped(body)))).outcome


def test_a_recording_has_a_url_of_the_web() -> None:
    """Others are not taken for one."""
    told = unasked().read_webhook(webhook(record(recordurl="file:///etc/passwd", **ANSWERED)))

    assert [End] == [type(each.event) for each in told]


# --- events of 鉴权 --------------------------------------------------------------------------------------------------


def event(action: str, **fields: Any) -> dict[str, Any]:
    """An event as the vendor writes it, but for these fields."""
    common = {"action": action, "type": "1", "subtype": "0", "orderid": "CM1", "appId": APP_ID}
    return common | {"callSid": CALL_SID, "userData": TAG, "caller": "1", "called": "2"} | fields


@pytest.mark.parametrize("form", ["json", "xml"])
def test_events_are_live_signals(form: str) -> None:
    """The call is about to be dialled, then both talk, then it is over; each says no more than a live signal does."""

    def read(said: dict[str, Any]) -> list[Any]:
        body = said if form == "json" else xml("request", said)
        return [each.event for each in unasked().read_webhook(webhook(body))]

    assert [Progress(Status.CALLING, NOW, Evidence.IN_CALL_SERVICE)] == read(event("CallAuth"))
    assert [Progress(Status.CONNECTED, NOW, Evidence.IN_CALL_SERVICE)] == read(event("CallEstablish"))
    end, recording = read(event("Hangup", talkDuration="41", recordurl="https://r.example/1.wav", **ANSWERED))
    assert (Evidence.IN_CALL_SERVICE, Outcome.CONNECTED, 41) == (end.evidence, end.outcome, end.duration)
    assert Recording("https://r.example/1.wav") == recording


def test_a_hang_up_of_a_call_that_was_not_answered_is_read() -> None:
    """Its times and its length are the agent's, so the hang-up type tells."""
    end = end_of(unasked().read_webhook(webhook(event("Hangup", **ANSWERED | {"byetype": "-9"}))))

    assert (Outcome.MISSED, HangupCause.NO_ANSWER, None) == (end.outcome, end.cause, end.duration)


@pytest.mark.parametrize("kind", ["CallAuth", "callauth"])
def test_an_event_may_be_named_by_its_path(kind: str) -> None:
    """What the vendor puts behind the URL tells where the body does not."""
    (told,) = unasked().read_webhook(webhook(event(""), kind=kind))

    assert isinstance(told.event, Progress)


def test_an_unknown_event_moves_nothing() -> None:
    """It is kept as it came."""
    (told,) = unasked().read_webhook(webhook(event("Dtmf")))

    assert Heard("Dtmf") == told.event
    assert b"Dtmf" in told.raw


# --- webhooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app_id", ["another", 1])
def test_messages_of_another_application_are_refused(app_id: object) -> None:
    """In either leg; one that names none is not refused, for not every event is known to."""
    for body in (record(appId=app_id), record(agent={"appId": app_id}), event("Hangup", appId=app_id)):
        with pytest.raises(WebhookRefused):
            unasked().read_webhook(webhook(body))

    assert [] != unasked().read_webhook(webhook(event("Hangup", appId="")))


@pytest.mark.parametrize(
    "body",
    [
        record(callSid="another"),
        record(userData="another"),
        event("Hangup", callSid="", userData=""),
        event("Hangup", callSid="x" * 257, userData="\x00"),
    ],
    ids=range(4),
)
def test_a_message_must_name_one_call(body: dict[str, Any]) -> None:
    """Not none, and not two."""
    with pytest.raises(WebhookRefused):
        unasked().read_webhook(webhook(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"record"',
        b"{" * 30_000,
        b'{"callSid":' + b"[" * 30_000,
        b'{"callSid":{}}',
        b'{"callSid":"\xff"}',
        b'{"callSid":"c","unread":"\xff"}',
        b'{"callSid":"\\ud800"}',
        b'{"callSid":"c"}',
        b'{"callSid":"c","calledCdr":[]}',
        b"<",
        b"<CDR/>",
        b"<CDR>text</CDR>",
        b"<CDR><callSid>c</callSid></CDR>",
        b"<CDR><callSid>c</callSid><byetype>1</byetype>",
        b"<CDR>" * 1000 + b"</CDR>" * 1000,
        b'<?xml version="1.0" encoding="GB2312"?><CDR><callSid>c</callSid><byetype>1</byetype></CDR>',
        b'<?xml version="1.0" encoding="no-such"?><CDR><callSid>c</callSid><byetype>1</byetype></CDR>',
        b'<!DOCTYPE CDR [<!ENTITY a "b">]><CDR><callSid>&a;</callSid><byetype>1</byetype></CDR>',
        b'<!DOCTYPE CDR SYSTEM "file:///etc/passwd"><CDR><callSid>c</callSid><byetype>1</byetype></CDR>',
        b"<CDR><callSid>&a;</callSid><byetype>1</byetype></CDR>",
        json.dumps(record(unread="x" * ronglian.WEBHOOK_BOUND)).encode(),
    ],
    ids=range(25),
)
def test_what_is_neither_record_nor_event_is_refused(body: bytes) -> None:
    """Nonsense, nests, other encodings, declared entities and what is too large."""
    with pytest.raises(WebhookRefused):
        unasked().read_webhook(webhook(body))


def test_text_in_xml_is_read_as_it_is_meant() -> None:
    """A mark before, the five entities that everybody knows, CDATA, comments and attributes change nothing."""
    body = (
        b"\xef\xbb\xbf \n<?xml version='1.0'?><CDR kind='x'><!-- c --><callSid><![CDATA[c]]>1</callSid>"
        b"<byetype> 3 </byetype><recordurl>http://r.example/?a=1&amp;b=2</recordurl></CDR>\n"
    )

    end, recording = unasked().read_webhook(webhook(body))

    assert "c1" == end.provider_call_id
    assert Recording("http://r.example/?a=1&b=2") == recording.event


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_values = _scalars | st.lists(_scalars) | st.dictionaries(st.text(), _scalars)
_names = st.sampled_from([*leg(), "action", "type", "talkDuration", "recordurl", "CallerCdr", "calledCdr"])
_hostile = st.dictionaries(_names, _values)
_elements = st.dictionaries(_names, st.text()).map(lambda said: xml("request", event("Hangup") | said))
_bodies = (
    st.binary()
    | _hostile.map(lambda fields: json.dumps(record() | {"calledCdr": leg(**fields)}).encode())
    | _hostile.map(lambda fields: json.dumps(event("Hangup") | fields).encode())
    | _elements
    | st.binary().map(lambda inner: b"<CDR>" + inner + b"</CDR>")
)


@settings(deadline=None)
@given(_bodies, st.sampled_from(["", "CallAuth", "x"]))
def test_no_body_raises_anything_else(body: bytes, kind: str) -> None:
    """Whatever the bytes, they are refused or read; and what is read can be weighed and written down."""
    adapter = unasked()
    adapter.key_of(webhook(body))
    try:
        told = adapter.read_webhook(webhook(body, kind=kind))
    except WebhookRefused:
        return

    for each in told:
        each.raw.decode()
        assert each.tag is None or (each.tag.isprintable() and len(each.tag) <= 256)
        if isinstance(each.event, End | Progress):
            advance(CallState(created_at=NOW), each.event, NOW)


def test_a_repeated_delivery_has_the_same_key() -> None:
    """The vendor gives no ids to deliveries, so path and body are what counts."""
    adapter = unasked()

    assert adapter.key_of(webhook(record())) == adapter.key_of(webhook(record(), NOW + timedelta(hours=1)))
    assert adapter.key_of(webhook(record())) != adapter.key_of(webhook(record(duration="43")))
    assert adapter.key_of(webhook(event(""), kind="CallAuth")) != adapter.key_of(webhook(event(""), kind="Hangup"))


def test_the_reply_serves_events_and_records() -> None:
    """Without it the vendor refuses the call that it asked about; what a record is answered does not matter."""
    expected = Reply(b"<Response><statuscode>000000</statuscode></Response>", "application/xml", 200)

    assert expected == unasked().reply()


@pytest.mark.parametrize("story", OUTCOMES)
async def test_every_story_ends_as_it_went(pushed: Account, story: Story) -> None:
    """By record or event, in JSON or XML; a repetition says the same, with the same key."""
    placed = await pushed.ronglian.place(order())

    told = [each for push in await played(pushed, story, "twice") for each in push]

    half = len(told) // 2
    assert [each.once for each in told[:half]] == [each.once for each in told[half:]]
    assert len({each.once for each in told}) == half
    assert {(placed.provider_call_id, TAG)} == {(each.provider_call_id, each.tag) for each in told}
    end = end_of(told[:half])
    assert OUTCOMES[story] == (end.outcome, end.cause)
    assert (TALKED if story == "answered" else None) == end.duration


@pytest.mark.parametrize("story", OUTCOMES)
async def test_any_order_and_repetition_ends_in_the_same_record(pushed: Account, story: Story) -> None:
    """Whatever is pushed, once or twice and in any order, makes the same call."""
    created = datetime.now(UTC) - timedelta(hours=1)
    await pushed.ronglian.place(order())
    told = [each.event for push in await played(pushed, story) for each in push]
    events = [each for each in told if isinstance(each, End | Progress)]
    now = datetime.now(UTC)

    def ended(arrivals: tuple[End | Progress, ...]) -> CallState:
        state = CallState(created_at=created, dialing_at=created)
        for arrival in arrivals:
            match advance(state, arrival, now):
                case Moved(moved):
                    state = moved
        return state

    assert 1 == len({ended(arrivals) for arrivals in itertools.permutations(events * 2)})


async def test_an_order_that_was_not_answered_is_known_by_what_is_pushed(line: Account) -> None:
    """The record has our tag, and tells the id that the answer would have told."""
    line.cloud.next_place("drop")
    with pytest.raises(Uncertain):
        await line.ronglian.place(order())

    ((told, *_),) = await played(line, "busy")

    assert (TAG, line.cloud.call_sids[TAG]) == (told.tag, told.provider_call_id)


async def test_a_recording_is_offered_until_its_link_expires(line: Account) -> None:
    """The URL of the record is all there is."""
    await line.ronglian.place(order())
    ((_, told),) = await played(line, "answered")
    assert isinstance(told.event, Recording)
    url = told.event.url
    assert url is not None

    async def fetched() -> bytes | int:
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return await response.read() if response.status == 200 else response.status

    assert AUDIO == await fetched()
    line.cloud.void_links()
    assert 403 == await fetched()


# --- the account ------------------------------------------------------------------------------------------------------


async def test_an_account_is_tested_by_ending_no_call(line: Account) -> None:
    """Any code but those of credentials shows that they were accepted, and no call is ended."""
    await line.ronglian.place(order())

    tested = await line.ronglian.test()

    assert (
        f"the credentials are accepted; to a call that does not exist it says {MADE_UP_NO_SUCH_CALL}" == tested.message
    )
    assert tested.latency_ms >= 0
    assert line.cloud.call_sids[TAG] not in [fields["callSid"] for fields in line.cloud.cancelled]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"token": "another"}, "111109"),
        ({"subAccountSid": "another"}, "111141"),
        ({"baseUrl": "http://["}, "unreachable"),
    ],
)
async def test_an_account_that_does_not_work_says_why(line: Account, settings: dict[str, Any], code: str) -> None:
    """The vendor's code is kept."""
    with pytest.raises(PlacementRefused) as refused:
        await line.adapter(**settings).test()

    assert code == refused.value.code


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"appId": APP_ID},
        {"appId": APP_ID, "subAccountSid": "../Accounts"},
        {"appId": "", "subAccountSid": SUB_SID},
        {"appId": APP_ID, "subAccountSid": SUB_SID, "subAccountToken": "in the wrong place"},
    ],
    ids=range(5),
)
def test_settings_that_cannot_work_are_refused(told: dict[str, str]) -> None:
    """What is missing, misspelt or unknown is said when the line is saved, not when it is used."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(told, RonglianSettings)


def test_a_callback_url_must_be_one() -> None:
    """And is not quoted, for it is a secret."""
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert({"subAccountToken": "t", "callbackUrl": "ftp://secret"}, RonglianSecrets)

    assert "secret" not in str(refused.value)


def test_the_vendors_own_address_is_asked_unless_another_is_set() -> None:
    """The default is the vendor's for production."""
    assert "https://app.cloopen.com:8883" == RonglianSettings(app_id=APP_ID, sub_account_sid=SUB_SID).base_url


async def test_no_credential_is_ever_told(line: Account) -> None:
    """Neither repr nor exceptions nor logs nor what is kept of a call hold the token, a signature or a secret URL."""
    _, hidden = line.cloud.line()
    secrets = msgspec.convert(hidden, RonglianSecrets)
    said = [repr(secrets), str(secrets), repr(line.ronglian)]
    with capture_logs() as logs:
        await line.ronglian.place(order())
        ((*told,),) = await played(line, "answered")
        said += [each.raw.decode() for each in told]
        failures: list[Callable[[], Awaitable[object]]] = [
            lambda: line.ronglian.place(order()),
            lambda: line.ronglian.hang_up(reference()),
            lambda: line.adapter(token="another-token-not-real").test(),
            lambda: line.adapter(baseUrl="http://[").place(order()),
            lambda: line.adapter(deadline=1.0).place(order()),
        ]
        line.cloud.next_place("refuse", "111109")
        for ask in failures:
            if ask is failures[-1]:
                line.cloud.next_place("silent")
            with pytest.raises((PlacementRefused, Uncertain)) as failed:
                await ask()
            said += ["".join(traceback.format_exception(failed.value))]
        said += [json.dumps(logs, default=repr)]

    hidden_words = [SUB_TOKEN, "another-token-not-real", CALLBACK_URL, "sig=", "sign="]
    assert [] == [word for word in hidden_words for text in said if word in text]
    assert "13912345678" not in said[-1]
    assert {"ronglian_refused", "ronglian_not_hung_up", "ronglian_uncertain"} == {entry["event"] for entry in logs}
