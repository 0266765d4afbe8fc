"""Infinity: what is asked of the vendor, what its answers and call records mean, and what is never told of it."""

import asyncio
import itertools
import json
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from protocol.call import CallState, End, Evidence, HangupCause, Moved, Outcome, Progress, Status, advance
from server.providers import infinity
from server.providers.infinity import REFUSALS, UNANSWERED, Infinity, InfinitySecrets, InfinitySettings
from server.providers.provider import (
    CallReference,
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
from server.ssrf import guarded_session
from tests.clouds.cloud import Cloud, Story, WebhookRequestSpec
from tests.clouds.infinity import (
    ACCESS_KEY,
    AUDIO,
    CALL,
    COMPANY,
    DOWNLOAD,
    LOGIN,
    RECORDS,
    STATE,
    TALKED,
    InfinityCloud,
    in_state,
    infinity_cloud,
)
from tests.waiting import until

TAG = "call_0123456789abcdef"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

OUTCOMES: dict[Story, tuple[Outcome, HangupCause]] = {
    "answered": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "no_answer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "busy": (Outcome.BUSY, HangupCause.USER_BUSY),
    "rejected": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "invalid": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
}


class Account:
    """An adapter and the cloud that it speaks to."""

    def __init__(self, cloud: InfinityCloud, http: aiohttp.ClientSession) -> None:
        self.cloud = cloud
        self._http = http
        self.infinity = self.adapter()

    def adapter(self, *, deadline: float = infinity.DEADLINE, access_key: str = "", **settings: Any) -> Infinity:
        """An adapter of this line, or of one with other settings."""
        told, hidden = self.cloud.line()
        return Infinity(
            msgspec.convert(told | settings, InfinitySettings),
            msgspec.convert({"accessKey": access_key or hidden["accessKey"]}, InfinitySecrets),
            self._http,
            deadline=deadline,
        )


@asynccontextmanager
async def account(api: Literal["form", "json"] = "form") -> AsyncIterator[Account]:
    """A cloud, and an account there."""
    async with infinity_cloud(api) as cloud, aiohttp.ClientSession() as http:
        yield Account(cloud, http)


@pytest.fixture(params=["form", "json"])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Account]:
    """An account, by either API."""
    async with account(request.param) as opened:
        yield opened


@pytest.fixture
async def form() -> AsyncIterator[Account]:
    """An account, by the form API, where both do the same."""
    async with account() as opened:
        yield opened


def order(tag: str = TAG, **parts: Any) -> Order:
    """An order to call a customer from a leased extension."""
    parts = {"callee": "+8613912345678", "caller": None, "seat": Seat(), "extension": "7003"} | parts
    return Order(tag=tag, **parts)


def reference(tag: str = TAG, **parts: Any) -> CallReference:
    """The call of that order, as it is looked up."""
    parts = {
        "provider_call_id": None,
        "seat": Seat(),
        "extension": "7003",
        "callee": "+8613912345678",
        "ordered_at": datetime.now(UTC),
    } | parts
    return CallReference(tag=tag, **parts)


def webhook(body: bytes | dict[str, Any], received_at: datetime = NOW) -> Webhook:
    """A callback with this body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Webhook(kind="", query={}, headers={}, body=content, received_at=received_at)


def record(**fields: Any) -> dict[str, Any]:
    """A call record as the vendor's page shows it, of an answered call but for these fields."""
    return {
        "id": 982,
        "companycode": COMPANY,
        "type": "callout",
        "callmethod": 3,
        "starttime": "2026-11-22 17:20:00",
        "answertime": "2026-11-22 17:20:14",
        "endtime": "2026-11-22 17:20:56",
        "duration": 14,
        "billsec": 42,
        "disnumber": "02566823420",
        "destnumber": "13912345678",
        "extnumber": "7003",
        "recordfilename": "20261122172014_7003.mp3",
        "recordurl": "https://records.example/20261122172014_7003.mp3?sign=s3cret",
        "hangupdirection": 10040,
        "hangupcause": 10001,
        "uuid": "cda5c6c4-0a17-11e8-b177-e7cbf2bd1f36",
        "customuuid": TAG,
    } | fields


def unasked(**settings: Any) -> Infinity:
    """An adapter for what needs no vendor: nothing is asked, so there is no session."""
    told = {"appId": "app-not-real", "companyCode": COMPANY} | settings
    nobody: Any = None
    return Infinity(msgspec.convert(told, InfinitySettings), InfinitySecrets(access_key=ACCESS_KEY), nobody)


def end_of(told: list[Told]) -> End:
    """The one end among what was told."""
    (end,) = [each.event for each in told if isinstance(each.event, End)]
    return end


async def played(line: Account, story: Story, order: Any = "right") -> list[list[Told]]:
    """What each webhook of a story tells, once the call is placed."""
    told: list[list[Told]] = []

    async def send(request: WebhookRequestSpec) -> None:
        told.append(line.infinity.read_webhook(webhook(request.body, datetime.now(UTC))))

    await line.cloud.play(TAG, story, send=send, order=order)
    return told


def test_it_has_the_faces_that_are_asked_for() -> None:
    """The adapter is a Provider, and its fake a Cloud: mypy says so."""
    provider: Provider = unasked()
    cloud: Cloud = InfinityCloud("form")

    assert frozenset() == provider.controls
    assert [] == cloud.placed


# --- placing ----------------------------------------------------------------------------------------------------------


async def test_an_order_is_placed_with_our_tag(line: Account) -> None:
    """MakeCall names the extension, the national number and our tag, and the call gets no id of the vendor's."""
    placed = await line.infinity.place(order(caller="+8675566834205"))

    assert Placed(None) == placed
    assert [
        {"extnumber": "7003", "destnumber": "13912345678", "disnumber": "075566834205", "customuuid": TAG}
    ] == line.cloud.orders


async def test_the_vendor_chooses_a_caller_number_where_none_is_given(form: Account) -> None:
    """Without a caller the field is left out."""
    await form.infinity.place(order())

    assert "disnumber" not in form.cloud.orders[0]


async def test_a_seat_has_an_extension_of_its_own(form: Account) -> None:
    """Where none is leased, the seat's id is the extension."""
    await form.infinity.place(order(extension=None, seat=Seat(id="7009", number="+8613800000000")))

    assert "7009" == form.cloud.placed[0].seat


async def test_without_an_extension_nothing_is_asked(form: Account) -> None:
    """There is nothing to ring for the agent."""
    with pytest.raises(PlacementRefused) as refused:
        await form.infinity.place(order(extension=None))

    assert (Refusal.EXTENSION, "no_extension") == (refused.value.refusal, refused.value.code)
    assert [] == form.cloud.asked


async def test_numbers_are_dialled_as_the_line_needs_them(form: Account) -> None:
    """A prefix stands before what is dialled in the line's own country; the plus of others is left out."""
    adapter = form.adapter(region="MX", dialPrefix="521")

    await adapter.place(order(callee="+525512345678"))
    await form.infinity.place(order(tag="call_b", callee="+525512345678"))

    assert ["5215512345678", "525512345678"] == [call.callee for call in form.cloud.placed]


@pytest.mark.parametrize("code", sorted(REFUSALS.keys() - infinity.TOKEN_REFUSED))
async def test_every_error_has_a_class(line: Account, code: str) -> None:
    """Each code of either level is a refusal of its class, which keeps the code and repeats nothing of the vendor's."""
    line.cloud.next_place("refuse", code)

    with pytest.raises(PlacementRefused) as refused:
        await line.infinity.place(order())

    assert (REFUSALS[code][0], code, True) == (refused.value.refusal, refused.value.code, refused.value.known)
    assert f"{REFUSALS[code][1]} ({code})" == str(refused.value)
    assert [] == line.cloud.placed


@pytest.mark.parametrize("code", ["1010", "1011", "1012", "1013", "1014"])
async def test_a_bad_extension_leaves_the_pool(form: Account, code: str) -> None:
    """These five say that the extension is no good, whatever the line is."""
    form.cloud.next_place("refuse", code)

    with pytest.raises(PlacementRefused) as refused:
        await form.infinity.place(order())

    assert Refusal.EXTENSION is refused.value.refusal


async def test_an_unknown_error_is_the_fault_of_the_line(form: Account) -> None:
    """The vendor said that it failed, and not how far it came: no other line may be asked."""
    form.cloud.next_place("refuse", "1099")

    with pytest.raises(PlacementRefused) as refused:
        await form.infinity.place(order())

    assert (Refusal.LINE, "1099", False) == (refused.value.refusal, refused.value.code, refused.value.known)


@pytest.mark.parametrize("code", ["500", "502", "302", "1001", "1003"])
async def test_an_error_inside_the_server_leaves_everything_open(form: Account, code: str) -> None:
    """`ret` 500, a call server that was not reached, an order not carried out: none says how far the order came."""
    form.cloud.next_place("refuse", code)

    with pytest.raises(Uncertain):
        await form.infinity.place(order())


@pytest.mark.parametrize("how", ["garbage", "drop"])
async def test_an_answer_that_cannot_be_read_leaves_everything_open(
    line: Account, how: Literal["garbage", "drop"]
) -> None:
    """The order was taken once, and is not sent again."""
    line.cloud.next_place(how)

    with pytest.raises(Uncertain):
        await line.infinity.place(order())

    assert [TAG] == [call.tag for call in line.cloud.placed]
    assert 1 == line.cloud.times(CALL)


async def test_silence_leaves_everything_open(form: Account) -> None:
    """When the deadline has come nobody knows, and nothing is sent again."""
    adapter = form.adapter(deadline=2.0)
    await adapter.test()
    form.cloud.next_place("silent")

    with pytest.raises(Uncertain):
        await adapter.place(order())

    assert 1 == form.cloud.times(CALL)


async def test_a_vendor_that_cannot_be_reached_was_asked_for_nothing(form: Account) -> None:
    """A refused connection is a refusal: another line may do."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        adapter = form.adapter(baseUrl=f"http://127.0.0.1:{unused.getsockname()[1]}/")
        with pytest.raises(PlacementRefused) as refused:
            await adapter.place(order())

    assert (Refusal.LINE, "unreachable") == (refused.value.refusal, refused.value.code)


async def test_an_address_that_is_not_allowed_was_asked_for_nothing(form: Account) -> None:
    """The guarded session refuses to connect, which is a refusal too."""
    async with guarded_session(timeout=aiohttp.ClientTimeout(total=20)) as guarded:
        told, _ = form.cloud.line()
        adapter = Infinity(msgspec.convert(told, InfinitySettings), InfinitySecrets(access_key="k"), guarded)
        with pytest.raises(PlacementRefused) as refused:
            await adapter.place(order())

    assert "unreachable" == refused.value.code


async def test_an_answer_without_end_is_not_read_to_the_end(form: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than any answer has are not read; what became of the order nobody knows."""
    await form.infinity.test()
    monkeypatch.setattr(infinity, "ANSWER_BOUND", 20)

    with pytest.raises(Uncertain):
        await form.infinity.place(order())


# --- the token --------------------------------------------------------------------------------------------------------


async def test_one_login_serves_many_orders(line: Account) -> None:
    """The token is kept."""
    for tag in ("a", "b", "c"):
        await line.infinity.place(order(tag))

    assert [LOGIN, CALL, CALL, CALL] == line.cloud.asked


async def test_a_void_token_is_replaced_and_the_order_repeated(line: Account) -> None:
    """600 is said before anything is dialled, so the order is sent again, with another token, and placed once."""
    await line.infinity.place(order("a"))
    line.cloud.void_tokens()

    await line.infinity.place(order("b"))

    assert ["a", "b"] == [call.tag for call in line.cloud.placed]
    assert [LOGIN, CALL, CALL, LOGIN, CALL] == line.cloud.asked


@pytest.mark.parametrize("code", sorted(infinity.TOKEN_REFUSED))
async def test_a_token_is_replaced_once_only(form: Account, code: str) -> None:
    """What is refused with the new token too is the fault of the line."""
    form.cloud.fail(CALL, code, code)

    with pytest.raises(PlacementRefused) as refused:
        await form.infinity.place(order())

    assert (Refusal.LINE, code) == (refused.value.refusal, refused.value.code)
    assert [LOGIN, CALL, LOGIN, CALL] == form.cloud.asked


async def test_orders_that_meet_a_void_token_log_in_once(form: Account) -> None:
    """Whoever comes first signs in, and the others take that token."""
    await form.infinity.place(order("first"))
    form.cloud.void_tokens()

    await asyncio.gather(*(form.infinity.place(order(f"call_{number}")) for number in range(20)))

    assert 2 == form.cloud.times(LOGIN)
    assert 21 == len(form.cloud.placed)


async def test_a_login_without_an_answer_has_ordered_nothing(form: Account) -> None:
    """That nobody knows whether one is signed in does not make an order uncertain; whoever waits is told the same."""
    form.cloud.hold_logins = asyncio.Event()
    adapter = form.adapter(deadline=0.5)

    refusals = await asyncio.gather(adapter.place(order("a")), adapter.place(order("b")), return_exceptions=True)

    assert [(Refusal.LINE, "login")] * 2 == [
        (refused.refusal, refused.code) for refused in refusals if isinstance(refused, PlacementRefused)
    ]
    assert [] == form.cloud.placed


async def test_an_order_that_expires_during_the_login_is_not_sent(form: Account) -> None:
    """The agent does something else by now."""
    with pytest.raises(PlacementRefused) as refused:
        await form.infinity.place(order(expires_at=datetime.now(UTC)))

    assert ("expired", True) == (refused.value.code, refused.value.known)
    assert [LOGIN] == form.cloud.asked


async def test_a_login_that_fails_inside_the_server_has_ordered_nothing(form: Account) -> None:
    """What leaves an order open is a plain refusal before it."""
    form.cloud.fail(LOGIN, "500")

    with pytest.raises(PlacementRefused) as refused:
        await form.infinity.place(order())

    assert (Refusal.LINE, "login") == (refused.value.refusal, refused.value.code)
    assert [LOGIN] == form.cloud.asked


async def test_who_gives_up_waiting_does_not_keep_others_from_signing_in(form: Account) -> None:
    """A login that was cancelled leaves the way free."""
    form.cloud.hold_logins = asyncio.Event()
    given_up = asyncio.create_task(form.infinity.place(order("a")))
    await until(lambda: form.cloud.times(LOGIN) == 1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    form.cloud.hold_logins.set()

    await form.infinity.place(order("b"))

    assert ["b"] == [call.tag for call in form.cloud.placed]


async def test_wrong_credentials_are_the_fault_of_the_line(line: Account) -> None:
    """The vendor does not know the pair."""
    with pytest.raises(PlacementRefused) as refused:
        await line.adapter(access_key="another").place(order())

    assert (Refusal.LINE, "601") == (refused.value.refusal, refused.value.code)


async def test_an_abnormal_extension_may_be_newer_than_the_token(form: Account) -> None:
    """After 1010, for which the vendor asks for another token, the next request signs in; the order is not repeated."""
    form.cloud.next_place("refuse", "1010")
    with pytest.raises(PlacementRefused):
        await form.infinity.place(order("a"))

    await form.infinity.place(order("b"))

    assert [LOGIN, CALL, LOGIN, CALL] == form.cloud.asked


# --- what the vendor cannot do ----------------------------------------------------------------------------------------


async def test_a_call_cannot_be_controlled() -> None:
    """Hang-up, mute and transfer are not found at the vendor, and nothing is asked."""
    adapter = unasked()

    for control in (
        adapter.hang_up(reference()),
        adapter.mute(reference(), on=True),
        adapter.transfer(reference(), "7004"),
    ):
        with pytest.raises(Unsupported):
            await control


async def test_the_balance_is_not_told() -> None:
    """There is no function for it."""
    assert None is await unasked().balance()


# --- call records -----------------------------------------------------------------------------------------------------


def test_an_answered_call_is_read() -> None:
    """`answertime` is the answer, `billsec` the talk; `duration`, the time of waiting, is not; times are Beijing's."""
    told = unasked().read_webhook(webhook(record()))

    assert [
        End(
            outcome=Outcome.CONNECTED,
            at=datetime(2026, 11, 22, 9, 20, 56, tzinfo=UTC),
            by="provider",
            evidence=Evidence.PROVIDER_RECORD,
            started_at=datetime(2026, 11, 22, 9, 20, 14, tzinfo=UTC),
            duration=42,
            cause=HangupCause.NORMAL_CLEARING,
            raw_cause="10001",
            has_recording=True,
        ),
        Recording("https://records.example/20261122172014_7003.mp3?sign=s3cret", "20261122172014_7003.mp3"),
    ] == [each.event for each in told]
    assert {(TAG, "cda5c6c4-0a17-11e8-b177-e7cbf2bd1f36")} == {(each.tag, each.provider_call_id) for each in told}


def test_the_vendors_own_example_is_read() -> None:
    """The callback of the vendor's page of 2025: not answered, for another reason."""
    adapter = unasked(companyCode="9513923")
    body = record(
        companycode="9513923", callmethod=6, starttime="2025-10-16 17:31:13", answertime="", duration=8, billsec=0,
        endtime="2025-10-16 17:31:21", extnumber="", hangupdirection=10040, hangupcause=10020, recordfilename="",
        uuid="db4a44cc-aa72-11f0-ad78-1d7ff0749d07", customuuid="76c33d997640d36b033d43b1d2d3964e", recordurl="",
    )  # fmt: skip

    (told,) = adapter.read_webhook(webhook(body))

    assert ("76c33d997640d36b033d43b1d2d3964e", "db4a44cc-aa72-11f0-ad78-1d7ff0749d07") == (
        told.tag,
        told.provider_call_id,
    )
    assert (
        End(
            outcome=Outcome.FAILED,
            at=datetime(2025, 10, 16, 9, 31, 21, tzinfo=UTC),
            by="provider",
            evidence=Evidence.PROVIDER_RECORD,
            cause=HangupCause.UNKNOWN,
            raw_cause="10020",
        )
        == told.event
    )


@pytest.mark.parametrize("cause", sorted(UNANSWERED))
def test_every_cause_of_an_unanswered_call_is_read(cause: str) -> None:
    """Each row of the table gives its outcome and its cause, and the vendor's number beside them."""
    end = end_of(unasked().read_webhook(webhook(record(answertime="", billsec=0, hangupcause=int(cause)))))

    assert (*UNANSWERED[cause], cause) == (end.outcome, end.cause, end.raw_cause)
    assert (None, None) == (end.started_at, end.duration)


@pytest.mark.parametrize("cause", [10020, 99999, "soon", ""])
def test_an_unknown_cause_is_kept_as_it_is(cause: int | str) -> None:
    """It is an end nevertheless: the record says that nobody answered."""
    end = end_of(unasked().read_webhook(webhook(record(answertime="", billsec=0, hangupcause=cause))))

    assert (Outcome.FAILED, HangupCause.UNKNOWN, str(cause) or None) == (end.outcome, end.cause, end.raw_cause)


def test_an_answered_call_is_answered_whatever_the_cause_says() -> None:
    """The cause of an answered call says why it ended, not how."""
    end = end_of(unasked().read_webhook(webhook(record(hangupcause=10016))))

    assert (Outcome.CONNECTED, HangupCause.UNKNOWN, "10016") == (end.outcome, end.cause, end.raw_cause)


@pytest.mark.parametrize("nothing", ["", None, "0000-00-00 00:00:00", "0001-01-01 00:00:00", "soon"])
def test_what_is_no_time_is_no_answer(nothing: str | None) -> None:
    """Without talk, an answer time that cannot be read is none."""
    end = end_of(unasked().read_webhook(webhook(record(answertime=nothing, billsec=0, hangupcause=10016))))

    assert Outcome.MISSED is end.outcome


def test_talk_proves_an_answer() -> None:
    """Seconds that are billed were talked, also where the answer time is missing."""
    end = end_of(unasked().read_webhook(webhook(record(answertime=None, billsec="42"))))

    assert (Outcome.CONNECTED, None, 42) == (end.outcome, end.started_at, end.duration)


def test_a_record_without_an_end_time_ends_when_it_is_heard() -> None:
    """Records are of calls that are over."""
    end = end_of(unasked().read_webhook(webhook(record(endtime=""))))

    assert NOW == end.at


def test_times_are_of_the_lines_time_zone() -> None:
    """The vendor serves many countries, and an account may be kept in another time."""
    end = end_of(unasked(timeZone="Asia/Jakarta").read_webhook(webhook(record())))

    assert datetime(2026, 11, 22, 10, 20, 56, tzinfo=UTC) == end.at


def test_a_recording_may_have_a_link_or_a_name_or_neither() -> None:
    """Older callbacks have only a file name; a link that is none is not taken for one."""
    adapter = unasked()

    def offered(**fields: Any) -> list[Recording]:
        events = [each.event for each in adapter.read_webhook(webhook(record(**fields)))]
        return [event for event in events if isinstance(event, Recording)]

    assert [Recording(None, "a.mp3")] == offered(recordfilename="a.mp3", recordurl="")
    assert [Recording("http://r.example/a.mp3", None)] == offered(recordfilename="", recordurl="http://r.example/a.mp3")
    assert [] == offered(recordfilename=None, recordurl="file:///etc/passwd")


@pytest.mark.parametrize("fields", [{"customuuid": ""}, {"customuuid": None}, {"type": "callin"}])
def test_calls_that_are_not_ours_are_passed_over(fields: dict[str, Any]) -> None:
    """Incoming calls and those that people dial by hand are called back too."""
    assert [] == unasked().read_webhook(webhook(record(**fields)))


# --- webhooks ---------------------------------------------------------------------------------------------------------


def test_records_of_another_company_are_refused() -> None:
    """Where the line tells its company code, it is the one thing about a callback that can be verified."""
    with pytest.raises(WebhookRefused):
        unasked().read_webhook(webhook(record(companycode=1)))
    with pytest.raises(WebhookRefused):
        unasked().read_webhook(webhook(record(companycode=None)))

    assert [] != unasked().read_webhook(webhook(record(companycode=int(COMPANY))))
    assert [] != unasked(companyCode="").read_webhook(webhook(record(companycode=1)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"record"',
        b"{" * 40_000,
        b'{"uuid":' + b"[" * 40_000,
        b'{"uuid":{}}',
        b'{"uuid":"\xff"}',
        b'{"uuid":"u","unread":"\xff"}',
        b'{"uuid":"\\ud800"}',
        b"<xml/>",
        json.dumps(record(memberid="x" * infinity.WEBHOOK_BOUND)).encode(),
    ],
    ids=range(13),
)
def test_what_is_not_a_call_record_is_refused(body: bytes) -> None:
    """Nonsense, nests, other encodings and what is too large."""
    with pytest.raises(WebhookRefused):
        unasked(companyCode="").read_webhook(webhook(body))


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_hostile = st.dictionaries(st.sampled_from(sorted(record())), _scalars | st.lists(_scalars))


@settings(deadline=None)
@given(st.binary() | _hostile.map(lambda fields: json.dumps({**record(), **fields}).encode()))
def test_no_body_raises_anything_else(body: bytes) -> None:
    """Whatever the bytes, they are refused or read; and what is read can be weighed and written down."""
    adapter = unasked(companyCode="")
    try:
        told = adapter.read_webhook(webhook(body))
    except WebhookRefused:
        return

    for each in told:
        each.raw.decode()
        assert each.tag is None or (each.tag.isprintable() and len(each.tag) <= 256)
        if isinstance(each.event, End):
            advance(CallState(created_at=NOW), each.event, NOW)


def test_a_repeated_delivery_has_the_same_key() -> None:
    """The vendor gives no ids to deliveries, so the body is what counts."""
    adapter = unasked()

    assert adapter.key_of(webhook(record())) == adapter.key_of(webhook(record(), NOW + timedelta(hours=1)))
    assert adapter.key_of(webhook(record())) != adapter.key_of(webhook(record(billsec=43)))


def test_the_reply_is_the_one_that_is_known() -> None:
    """A plain 1."""
    assert Reply(b"1", "text/plain", 200) == unasked().reply()


@pytest.mark.parametrize("story", OUTCOMES)
async def test_stories_are_told_alike_by_webhook_and_look_up(line: Account, story: Story) -> None:
    """The list has neither id nor link of a call, and null where the callback has nothing; the facts are the same."""
    await line.infinity.place(order())

    pushed, again = await played(line, story, "twice")
    found = await line.infinity.look_up(reference())

    assert pushed == again
    assert found is not None
    assert [each.once for each in pushed] == [each.once for each in found]
    assert end_of(pushed) == end_of(found)
    assert OUTCOMES[story] == (end_of(found).outcome, end_of(found).cause)


@pytest.mark.parametrize("story", OUTCOMES)
async def test_any_order_and_repetition_ends_in_the_same_record(form: Account, story: Story) -> None:
    """Webhook, look-up and a live state, each once or twice and in any order, make the same call."""
    created = datetime.now(UTC) - timedelta(hours=1)
    await form.infinity.place(order())
    form.cloud.states["7003"] = in_state("7003", 1202, callee="13912345678")
    live = await form.infinity.look_up(reference())
    (pushed,) = await played(form, story)
    found = await form.infinity.look_up(reference())
    assert live is not None
    assert found is not None
    now = datetime.now(UTC)
    events = [each.event for each in (*live, *pushed, *found) if isinstance(each.event, End | Progress)]

    def ended(arrivals: tuple[End | Progress, ...]) -> CallState:
        state = CallState(created_at=created, dialing_at=created)
        for event in arrivals:
            match advance(state, event, now):
                case Moved(moved):
                    state = moved
        return state

    assert 1 == len({ended(arrivals) for arrivals in itertools.permutations(events * 2)})


# --- looking up -------------------------------------------------------------------------------------------------------


async def test_a_lost_webhook_is_found_by_looking_up(line: Account) -> None:
    """The record is found by the tag, and says what the webhook would have said."""
    await line.infinity.place(order())
    assert [] == await played(line, "answered", "lost_end")

    found = await line.infinity.look_up(reference())

    assert found is not None
    assert (Outcome.CONNECTED, TALKED) == (end_of(found).outcome, end_of(found).duration)
    assert [Recording] == [type(each.event) for each in found if not isinstance(each.event, End)]


async def test_a_call_that_is_not_known_is_not_found(line: Account) -> None:
    """There is no record, and the extension is idle; where all records were read, no more are asked for."""
    line.cloud.filters_tags = False
    await line.infinity.place(order())
    await played(line, "answered")

    assert None is await line.infinity.look_up(reference("call_other"))
    assert 1 == line.cloud.times(RECORDS)


async def test_the_list_is_paged(line: Account) -> None:
    """Where the platform does not look for tags itself, the pages are read until the tag is found."""
    line.cloud.filters_tags = False
    await line.infinity.place(order("other"))
    await line.infinity.place(order())
    line.cloud.bills += [line.cloud.record("other", "busy") for _ in range(250)]
    await played(line, "answered")

    found = await line.infinity.look_up(reference())

    assert found is not None
    assert Outcome.CONNECTED is end_of(found).outcome
    assert 3 == line.cloud.times(RECORDS)


async def test_the_list_is_not_read_for_ever(form: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """More records than are read leave open whether the call is among them."""
    monkeypatch.setattr(infinity, "PAGE", 2)
    form.cloud.filters_tags = False
    await form.infinity.place(order("other"))
    form.cloud.bills += [form.cloud.record("other", "busy") for _ in range(30)]

    with pytest.raises(Uncertain):
        await form.infinity.look_up(reference())

    assert infinity.PAGES == form.cloud.times(RECORDS)


async def test_only_the_time_and_the_extension_of_a_call_are_searched(form: Account) -> None:
    """Records of long ago and of other extensions are not asked for."""
    await form.infinity.place(order())
    await played(form, "answered")

    assert None is await form.infinity.look_up(reference(ordered_at=datetime.now(UTC) - timedelta(hours=1)))
    assert None is await form.infinity.look_up(reference(extension="7004"))
    assert None is not await form.infinity.look_up(reference(extension=None))


@pytest.mark.parametrize("status", [1202, 1203, 1204])
async def test_an_extension_at_work_says_that_the_order_was_taken(line: Account, status: int) -> None:
    """Ringing, off the hook or in a call, it is the agent's leg: the call is calling, for the customer is unseen."""
    line.cloud.states["7003"] = in_state("7003", status, callee="013912345678")

    found = await line.infinity.look_up(reference())

    assert found is not None
    (told,) = found
    assert TAG == told.tag
    assert isinstance(told.event, Progress)
    assert (Status.CALLING, Evidence.IN_CALL_SERVICE) == (told.event.status, told.event.evidence)


async def test_an_extension_at_work_on_another_call_says_nothing(form: Account) -> None:
    """Extensions are lent: who is on the phone there may be somebody else."""
    form.cloud.states["7003"] = in_state("7003", 1204, callee="13800000000")

    assert None is await form.infinity.look_up(reference())


async def test_without_an_extension_only_the_records_are_asked(form: Account) -> None:
    """There is nothing that could be at work."""
    assert None is await form.infinity.look_up(reference(extension=None))
    assert [LOGIN, RECORDS] == form.cloud.asked


async def test_a_list_of_an_unknown_form_leaves_everything_open(form: Account) -> None:
    """A record that cannot be read may be the one."""
    await form.infinity.place(order())
    form.cloud.bills.append(form.cloud.record(TAG, "busy") | {"billsec": ["42"]})

    with pytest.raises(Uncertain):
        await form.infinity.look_up(reference())


@pytest.mark.parametrize("code", ["500", "601", "1003"])
async def test_a_look_up_that_fails_leaves_everything_open(form: Account, code: str) -> None:
    """A refusal to tell is not a word about the call."""
    form.cloud.fail(RECORDS, code)

    with pytest.raises(Uncertain):
        await form.infinity.look_up(reference())


# --- extensions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "free"), [(1201, True), (1015, True), (1014, False), (1202, False), (1204, False), (1299, False)]
)
async def test_an_extension_is_free_when_it_is_idle(line: Account, status: int, free: bool) -> None:
    """Neither one that is at work, nor one that is not registered, nor one of an unknown state, is free."""
    line.cloud.states["7003"] = in_state("7003", status)

    assert free is await line.infinity.extension_free("7003")


@pytest.mark.parametrize(("code", "free"), [("1015", True), ("1012", False), ("1014", False)])
async def test_an_error_may_say_how_an_extension_is(form: Account, code: str, free: bool) -> None:
    """The codes of errors and of states are the same."""
    form.cloud.fail(STATE, code)

    assert free is await form.infinity.extension_free("7003")


async def test_whether_an_extension_is_free_may_be_unknown(form: Account) -> None:
    """Other errors say nothing of the extension, and neither does the state of another."""
    form.cloud.fail(STATE, "603")
    with pytest.raises(PlacementRefused):
        await form.infinity.extension_free("7003")

    form.cloud.states["7003"] = in_state("7004", 1201)
    with pytest.raises(Uncertain):
        await form.infinity.extension_free("7003")


# --- recordings -------------------------------------------------------------------------------------------------------


async def test_a_recording_is_offered_until_its_link_expires(line: Account) -> None:
    """The link of the callback is good for a while; another is had by the name."""
    await line.infinity.place(order())
    ((_, told),) = await played(line, "answered")
    assert isinstance(told.event, Recording)
    assert told.event.url is not None

    async def fetched(url: str) -> bytes | int:
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return await response.read() if response.status == 200 else response.status

    assert AUDIO == await fetched(told.event.url)
    line.cloud.void_links()
    assert 403 == await fetched(told.event.url)
    renewed = await line.infinity.recording_url(reference(), told.event.name)
    assert renewed is not None
    assert AUDIO == await fetched(renewed)


async def test_the_name_of_a_recording_is_looked_up(line: Account) -> None:
    """Where it is not known, the call's record has it."""
    await line.infinity.place(order())
    await played(line, "answered", "lost_end")

    url = await line.infinity.recording_url(reference(), None)

    assert url is not None
    assert url.startswith("http://127.0.0.1:")
    assert 1 == line.cloud.times(DOWNLOAD)


async def test_a_record_may_have_a_link_and_no_name(form: Account) -> None:
    """Then the link is all there is, and nothing more is asked."""
    await form.infinity.place(order())
    bill = form.cloud.record(TAG, "answered") | {"recordfilename": "", "recordurl": "http://r.example/a.mp3"}
    form.cloud.bills.append(bill)

    assert "http://r.example/a.mp3" == await form.infinity.recording_url(reference(), None)
    assert 0 == form.cloud.times(DOWNLOAD)


async def test_a_recording_that_is_not_there_has_no_link(form: Account) -> None:
    """The call has no record yet, or nothing was recorded, or the file is gone."""
    await form.infinity.place(order())
    assert None is await form.infinity.recording_url(reference(), None)
    await played(form, "busy")
    assert None is await form.infinity.recording_url(reference(), None)
    assert None is await form.infinity.recording_url(reference(), "gone.mp3")


async def test_a_link_that_is_refused_leaves_everything_open(form: Account) -> None:
    """The recording may be there."""
    form.cloud.fail(DOWNLOAD, "1003")

    with pytest.raises(Uncertain):
        await form.infinity.recording_url(reference(), "a.mp3")


# --- the account ------------------------------------------------------------------------------------------------------


async def test_an_account_is_tested_by_signing_in(line: Account) -> None:
    """Each test is a login, and its token is the one that is used from then on."""
    await line.infinity.place(order())
    tested = await line.infinity.test()
    await line.infinity.place(order("b"))

    assert f"signed in as company {COMPANY} test" == tested.message
    assert tested.latency_ms >= 0
    assert [LOGIN, CALL, LOGIN, CALL] == line.cloud.asked


async def test_an_account_that_does_not_work_says_why(form: Account) -> None:
    """The vendor's code is kept."""
    form.cloud.fail(LOGIN, "604")

    with pytest.raises(PlacementRefused) as refused:
        await form.infinity.test()

    assert "604" == refused.value.code


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"appId": "a", "api": "xml"},
        {"appId": "a", "api": "json"},
        {"appId": "a", "dialPrefix": "+52"},
        {"appId": "a", "timeZone": "Mars/Olympus"},
        {"appId": "a", "timeZone": "../../etc/passwd"},
        {"appId": "a", "accessKey": "in the wrong place"},
    ],
    ids=range(7),
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, str]) -> None:
    """A code that is missing, a name that is unknown: said when the line is saved, not when it is used."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, InfinitySettings)


async def test_no_credential_is_ever_told(form: Account) -> None:
    """Neither repr nor exceptions nor logs nor what is kept of a call hold the key, a token or a signed link."""
    key = InfinitySecrets(access_key=ACCESS_KEY)
    said = [repr(key), str(key), repr(form.infinity)]
    async with AsyncExitStack() as stack:
        logs = stack.enter_context(capture_logs())
        await form.infinity.place(order())
        ((*told,),) = await played(form, "answered")
        said += [each.raw.decode() for each in (*told, *(await form.infinity.look_up(reference()) or []))]
        failures: list[Callable[[], Awaitable[object]]] = [
            lambda: form.infinity.place(order()),
            lambda: form.infinity.look_up(reference()),
            lambda: form.adapter(access_key="another-key-not-real").test(),
            lambda: form.adapter(deadline=2.0).place(order()),
        ]
        form.cloud.next_place("refuse", "1002")
        form.cloud.fail(RECORDS, "1002")
        for ask in failures:
            if ask is failures[-1]:
                form.cloud.next_place("silent")
            with pytest.raises((PlacementRefused, Uncertain)) as failed:
                await ask()
            said += ["".join(traceback.format_exception(failed.value))]
        form.cloud.void_tokens()
        await form.infinity.place(order())
        said += [json.dumps(logs, default=repr)]

    hidden = [ACCESS_KEY, "another-key-not-real", "sign=", "13912345678"]
    tokens = list(form.cloud.tokens_given)
    assert [] == [word for word in (*hidden[:3], *tokens) for text in said if word in text]
    assert hidden[3] not in said[-1]
    assert {"infinity_refused", "infinity_uncertain", "infinity_token_refused"} == {entry["event"] for entry in logs}
