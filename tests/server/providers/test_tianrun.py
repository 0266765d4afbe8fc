"""Tianrun: what is asked of either platform, what records and pushes mean, and what is never told of an account."""

import itertools
import json
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from protocol.call import CallState, End, Evidence, HangupCause, Moved, Outcome, Progress, Status, advance
from server.providers import clink2, cticloud, tianrun_http, tianrun_record
from server.providers.cticloud import CTICLOUD_STATUSES, REFUSALS
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
from server.providers.tianrun import TianrunSecrets, TianrunSettings, tianrun
from server.providers.tianrun_record import SIP_CAUSES, STATUSES
from server.ssrf import guarded_session
from tests.clouds.cloud import Cloud, Story, WebhookRequestSpec
from tests.clouds.tianrun import AUDIO, ENTERPRISE, KEY_ID, SECRET, TALKED, Platform, TianrunCloud, tianrun_cloud

TAG = "call_0123456789abcdef"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
CALLEE = "+8613912345678"

PLACE: dict[Platform, str] = {"clink2": "/cc/callout", "cticloud": "/previewOutcall"}
RECORDS: dict[Platform, str] = {"clink2": "/cc/list_cdr_obs", "cticloud": "/cdr/ob/query"}
SEAT: dict[Platform, str] = {"clink2": "/cc/agent_status", "cticloud": "/agentStatus/get"}
UNLINK: dict[Platform, str] = {"clink2": "/cc/unlink", "cticloud": "/agent/unlink"}
CANCEL: dict[Platform, str] = {"clink2": "/cc/callout_cancel", "cticloud": "/previewOutcallCancel"}
RECORDING: dict[Platform, str] = {"clink2": "/cc/describe_record_file_url", "cticloud": "/record/getUrl"}

OUTCOMES: dict[Story, tuple[Outcome, HangupCause]] = {
    "answered": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "no_answer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "busy": (Outcome.BUSY, HangupCause.USER_BUSY),
    "rejected": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "invalid": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
}


class Account:
    """An account on one of the platforms, and the cloud that it is at."""

    def __init__(self, platform: Platform, cloud: TianrunCloud, http: aiohttp.ClientSession) -> None:
        self.platform = platform
        self.cloud = cloud
        self._http = http
        self.provider = self.adapter()

    def adapter(
        self,
        *,
        secret: str = SECRET,
        http: aiohttp.ClientSession | None = None,
        deadline: float = tianrun_http.DEADLINE,
        **changed: Any,
    ) -> Provider:
        """An adapter of this line, or of one with other settings."""
        told, _ = self.cloud.line()
        return tianrun(read({**told, **changed}), TianrunSecrets(secret=secret), http or self._http, deadline=deadline)

    def asked_without(self, *paths: str) -> list[str]:
        """What was asked for, but for these."""
        return [path for path in self.cloud.asked if path not in paths]


async def _account(platform: Platform) -> AsyncIterator[Account]:
    async with tianrun_cloud(platform) as cloud, aiohttp.ClientSession() as http:
        yield Account(platform, cloud, http)


@pytest.fixture(params=["clink2", "cticloud"])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Account]:
    """An account on either platform."""
    async for account in _account(request.param):
        yield account


@pytest.fixture
async def clink() -> AsyncIterator[Account]:
    """An account on Clink2."""
    async for account in _account("clink2"):
        yield account


@pytest.fixture
async def cti() -> AsyncIterator[Account]:
    """An account on CtiCloud."""
    async for account in _account("cticloud"):
        yield account


def read(told: dict[str, Any]) -> TianrunSettings:
    """Settings as they are kept."""
    kind: Any = TianrunSettings
    made: TianrunSettings = msgspec.convert(told, kind)
    return made


def order(tag: str = TAG, **parts: Any) -> Order:
    """An order to call a customer from a seat."""
    return Order(tag=tag, **({"callee": CALLEE, "caller": None, "seat": Seat(id="2000")} | parts))


def reference(tag: str = TAG, **parts: Any) -> CallReference:
    """The call of that order, as it is looked up."""
    parts = {
        "provider_call_id": None,
        "seat": Seat(id="2000"),
        "extension": None,
        "callee": CALLEE,
        "ordered_at": datetime.now(UTC),
    } | parts
    return CallReference(tag=tag, **parts)


def push(fields: dict[str, Any] | bytes, query: dict[str, str] | None = None) -> Webhook:
    """A push as a form, or with this body."""
    body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
    return Webhook(kind="", query=query or {}, headers={}, body=body, received_at=NOW)


def hung_up(**fields: Any) -> dict[str, Any]:
    """The push at the end of an answered call but for these fields."""
    return {
        "cdr_main_unique_id": "medias_1-1795339600.9",
        "cdr_enterprise_id": ENTERPRISE,
        "cdr_customer_number": "13912345678",
        "cdr_start_time": "1795339600",
        "cdr_answer_time": "1795339603",
        "cdr_bridge_time": "1795339614",
        "cdr_end_time": "1795339656",
        "cdr_call_type": "4",
        "cdr_status": "33",
        "cdr_request_unique_id": TAG,
        "cdr_record_file_1": "medias_1-1795339600.9.mp3",
        "sipCause": "200",
        "endReason": "1001",
    } | fields


def unasked(platform: Platform = "cticloud", **changed: Any) -> Provider:
    """An adapter for what needs no vendor: nothing is asked, so there is no session."""
    nobody: Any = None
    told = {"platform": platform, "enterpriseId": ENTERPRISE} | (
        {"accessKeyId": KEY_ID} if platform == "clink2" else {}
    )
    return tianrun(read({**told, **changed}), TianrunSecrets(secret=SECRET), nobody)


def end_of(told: list[Told] | None) -> End:
    """The one end among what was told."""
    assert told is not None
    (end,) = [each.event for each in told if isinstance(each.event, End)]
    return end


async def played(line: Account, story: Story, sequence: Any = "right") -> list[list[Told]]:
    """What each push of a story tells, once the call is placed."""
    told: list[list[Told]] = []

    async def send(request: WebhookRequestSpec) -> None:
        told.append(line.provider.read_webhook(push(request.body)))

    await line.cloud.play(TAG, story, send=send, order=sequence)
    return told


def test_they_have_the_faces_that_are_asked_for() -> None:
    """The adapters are Providers, and their fake a Cloud: mypy says so."""
    cloud: Cloud = TianrunCloud("clink2")

    assert [] == cloud.placed
    assert frozenset({"hang_up", "transfer"}) == unasked("clink2").controls
    assert frozenset({"hang_up"}) == unasked("cticloud").controls


# --- signing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "fields", "signature"),
    [
        ("POST", "/cc/callout", {}, "fqy1dncxt3GT9158meaB0Bfwuc8="),
        ("GET", "/cc/agent_status", {"cnos[0]": "2000", "limit": "10"}, "2P2mSf7eC+hYL1I1kctWOQ3XIsU="),
    ],
)
def test_clink2_is_signed_as_the_vendors_package_does(
    method: str, path: str, fields: dict[str, str], signature: str
) -> None:
    """Vectors recorded from tinet-clink2-cli 0.0.4, one of them made with openssl too."""
    query = {"Timestamp": "2026-11-22T09:30:00Z", **fields, "Expires": "60", "AccessKeyId": "key-not-real"}

    assert signature == clink2.signed("secret-not-real", method, "api-bj.clink.cn", path, query)


def test_cticloud_is_signed_as_the_vendor_says() -> None:
    """A vector made with md5sum: who signs, when, and the token."""
    assert "0323f9f8da74cee811cef74687375feb" == cticloud.signed("7000002", 1795339800, "token-not-real")


async def test_a_wrong_secret_is_the_fault_of_the_line(line: Account) -> None:
    """The clouds verify every request."""
    with pytest.raises(PlacementRefused) as refused:
        await line.adapter(secret="another-not-real").place(order())

    assert Refusal.LINE is refused.value.refusal
    assert [] == line.cloud.placed


async def test_a_department_may_sign_instead_of_the_enterprise(cti: Account) -> None:
    """Then its id is the one that is sent and signed."""
    await cti.adapter(departmentId="31", enterpriseId=None).place(order())

    assert [TAG] == [call.tag for call in cti.cloud.placed]


# --- placing ----------------------------------------------------------------------------------------------------------


async def test_clink2_is_told_seat_customer_and_tag(clink: Account) -> None:
    """A mobile of the seat's is rung instead of the telephone that it is signed in at; there is no call id."""
    seat = Seat(id="2000", number="+8613800000001")

    placed = await clink.provider.place(order(seat=seat, caller="+861087128906", ring_timeout=90))

    assert Placed(None) == placed
    (said,) = clink.cloud.said
    signature = {"AccessKeyId", "Expires", "Timestamp", "Signature"}
    assert {
        "cno": "2000",
        "customerNumber": "13912345678",
        "customerTimeout": 60,
        "requestUniqueId": TAG,
        "bindTel": "13800000001",
        "clid": "01087128906",
        "type": 0,
    } == {name: value for name, value in said.items() if name not in signature}


async def test_cticloud_is_told_seat_customer_and_tag(cti: Account) -> None:
    """The telephone that rings is the one at which the seat is signed in."""
    placed = await cti.provider.place(order(caller="+861087128906", ring_timeout=1))

    assert Placed(None) == placed
    assert [
        {"cno": "2000", "tel": "13912345678", "dialTelTimeout": "5", "requestUniqueId": TAG, "obClid": "01087128906"}
    ] == cti.cloud.said


async def test_only_mobiles_are_bound_for_a_call(clink: Account) -> None:
    """Clink2 binds no other telephones, and none at all where the seat has none."""
    await clink.provider.place(order(seat=Seat(id="2000", number="+861087128906")))
    await clink.provider.place(order("call_b"))

    assert [False, False] == ["bindTel" in said for said in clink.cloud.said]


async def test_without_a_seat_nothing_is_asked(line: Account) -> None:
    """There is nobody to ring."""
    with pytest.raises(PlacementRefused) as refused:
        await line.provider.place(order(seat=Seat(number="+8613800000001")))

    assert (Refusal.SEAT_OFFLINE, "no_seat") == (refused.value.refusal, refused.value.code)
    assert [] == line.cloud.asked


@pytest.mark.parametrize("code", sorted(REFUSALS))
async def test_every_code_of_cticloud_has_a_class(cti: Account, code: str) -> None:
    """The numbers of the vendor's control layer."""
    cti.cloud.next_place("refuse", code)

    with pytest.raises(PlacementRefused) as refused:
        await cti.provider.place(order())

    assert (REFUSALS[code], code, True) == (refused.value.refusal, refused.value.code, refused.value.known)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("座席不在线", Refusal.SEAT_OFFLINE),
        ("no such cno", Refusal.SEAT_OFFLINE),
        ("座席忙碌", Refusal.SEAT_BUSY),
        ("device status not idle", Refusal.SEAT_BUSY),
        ("客户号码 13912345678 错误", Refusal.CALLEE),
        ("号码为黑名单", Refusal.CALLEE),
        ("调用频率超限", Refusal.THROTTLED),
        ("余额不足", Refusal.LINE),
        ("", Refusal.LINE),
    ],
)
async def test_a_refusal_is_judged_by_its_words(line: Account, text: str, refusal: Refusal) -> None:
    """Neither platform publishes codes; words do not say how far it came, and what may be a number is not told on."""
    line.cloud.fail(PLACE[line.platform], 400, "1", text)

    with pytest.raises(PlacementRefused) as refused:
        await line.provider.place(order())

    assert (refusal, "1", False) == (refused.value.refusal, refused.value.code, refused.value.known)
    assert "13912345678" not in str(refused.value)
    assert [] == line.cloud.placed


async def test_a_success_under_a_status_that_is_none_leaves_everything_open(cti: Account) -> None:
    """`result` 0 says that it is done, and HTTP that it is not."""
    cti.cloud.fail(PLACE["cticloud"], 404, "0", "")

    with pytest.raises(Uncertain):
        await cti.provider.place(order())


async def test_too_many_requests_are_throttled(line: Account) -> None:
    """HTTP says so, whatever the words."""
    line.cloud.fail(PLACE[line.platform], 429, "2", "no")

    with pytest.raises(PlacementRefused) as refused:
        await line.provider.place(order())

    assert (Refusal.THROTTLED, True) == (refused.value.refusal, refused.value.known)


@pytest.mark.parametrize(
    ("status", "text"),
    [(500, "no"), (503, ""), (302, ""), (408, ""), (409, "no"), (200, "系统异常"), (400, "request timeout")],
)
async def test_an_error_inside_the_vendor_leaves_everything_open(line: Account, status: int, text: str) -> None:
    """It does not say how far the order came, and nothing is sent again."""
    line.cloud.fail(PLACE[line.platform], status, "1", text)

    with pytest.raises(Uncertain):
        await line.provider.place(order())

    assert 1 == line.cloud.times(PLACE[line.platform])


@pytest.mark.parametrize("how", ["garbage", "drop", "silent"])
async def test_an_order_without_a_readable_answer_is_open(
    line: Account, how: Literal["garbage", "drop", "silent"]
) -> None:
    """It was taken once, and is not sent again."""
    line.cloud.next_place(how)
    adapter = line.adapter(deadline=2.0 if how == "silent" else tianrun_http.DEADLINE)

    with pytest.raises(Uncertain):
        await adapter.place(order())

    assert [TAG] == [call.tag for call in line.cloud.placed]
    assert 1 == line.cloud.times(PLACE[line.platform])


async def test_a_vendor_that_cannot_be_reached_was_asked_for_nothing(line: Account) -> None:
    """A connection that is refused, by the other side or by our own guard, is a refusal: another line may do."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = line.adapter(baseUrl=f"http://127.0.0.1:{unused.getsockname()[1]}")
        async with guarded_session(timeout=aiohttp.ClientTimeout(total=20)) as guarded:
            for adapter in (closed, line.adapter(http=guarded)):
                with pytest.raises(PlacementRefused) as refused:
                    await adapter.place(order())
                assert (Refusal.LINE, "unreachable") == (refused.value.refusal, refused.value.code)


async def test_an_answer_without_end_is_not_read_to_the_end(line: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than any answer has are not read; what became of the order nobody knows."""
    monkeypatch.setattr(tianrun_http, "ANSWER_BOUND", 10)

    with pytest.raises(Uncertain):
        await line.provider.place(order())


# --- hanging up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ringing", "talking"])
async def test_the_seats_call_is_ended(line: Account, how: Literal["ringing", "talking"]) -> None:
    """Before the seat talks the order is cancelled; from then on it is unlinked, on CtiCloud by the call's own id."""
    await line.provider.place(order())
    line.cloud.at_work(TAG, how)
    unique_id = line.cloud.seats["2000"].get("mainUniqueId")

    await line.provider.hang_up(reference())

    asked = (UNLINK if how == "talking" else CANCEL)[line.platform]
    assert [asked] == line.asked_without(PLACE[line.platform], SEAT[line.platform])
    assert {} == line.cloud.seats
    if asked == "/agent/unlink":
        assert unique_id == line.cloud.said[-1]["uniqueId"]


async def test_another_customers_call_is_left_alone(clink: Account) -> None:
    """The seat talks to somebody else, and nothing tells that ours is over."""
    await clink.provider.place(order())
    clink.cloud.at_work(TAG, "talking", customerNumber="13800000000")

    with pytest.raises(Uncertain):
        await clink.provider.hang_up(reference())

    assert ["2000"] == list(clink.cloud.seats)
    assert 0 == clink.cloud.times("/cc/unlink")


@pytest.mark.parametrize("number", ["", None])
async def test_a_customer_who_is_not_shown_is_left_alone(clink: Account, number: str | None) -> None:
    """Enterprises may hide numbers."""
    await clink.provider.place(order())
    clink.cloud.at_work(TAG, "talking", customerNumber=number)

    with pytest.raises(Uncertain):
        await clink.provider.hang_up(reference())

    assert ["2000"] == list(clink.cloud.seats)


@pytest.mark.parametrize(
    ("shown", "ours"),
    [
        ("013912345678", True),
        ("139****5678", True),
        ("139xxxx5678", True),
        ("139****5679", False),
        ("*******5678", False),
        ("5678", False),
    ],
)
async def test_a_masked_number_is_compared_where_it_is_shown(clink: Account, shown: str, ours: bool) -> None:
    """Seven digits must be the same: four may be anybody's."""
    await clink.provider.place(order())
    clink.cloud.at_work(TAG, "talking", customerNumber=shown)

    assert ours is (await clink.provider.look_up(reference()) is not None)


@pytest.mark.parametrize("unique_id", ["medias_1-1604542113.9", "test3321.sip33"])
async def test_a_call_that_began_at_another_time_is_left_alone(cti: Account, unique_id: str) -> None:
    """The id of the call that the seat is at work on says when it began; where it does not, nobody knows."""
    await cti.provider.place(order())
    cti.cloud.at_work(TAG, "talking", mainUniqueId=unique_id)

    with pytest.raises(Uncertain):
        await cti.provider.hang_up(reference())

    assert ["2000"] == list(cti.cloud.seats)


async def test_a_call_whose_id_was_told_is_known_by_it(cti: Account) -> None:
    """A push has told the id, and no time needs to be compared."""
    await cti.provider.place(order())
    cti.cloud.at_work(TAG, "talking", mainUniqueId="medias_1-1604542113.9")

    with pytest.raises(Uncertain):
        await cti.provider.hang_up(reference(provider_call_id="medias_1-1604542113.8"))
    await cti.provider.hang_up(reference(provider_call_id="medias_1-1604542113.9"))

    assert {} == cti.cloud.seats


async def test_ending_a_call_that_is_over_succeeds(line: Account) -> None:
    """Its record says so, also where the seat is seen at work and the vendor refuses to end anything."""
    await line.provider.place(order())
    await played(line, "answered")
    await line.provider.hang_up(reference())

    line.cloud.at_work(TAG, "talking")
    line.cloud.fail(UNLINK[line.platform], 400, "9", "no channel")
    await line.provider.hang_up(reference())

    assert 1 == line.cloud.times(UNLINK[line.platform])


async def test_a_refusal_to_end_a_call_that_goes_on_is_told(line: Account) -> None:
    """There is no record, so it is not over."""
    await line.provider.place(order())
    line.cloud.at_work(TAG, "talking")
    line.cloud.fail(UNLINK[line.platform], 400, "9", "no channel")

    with pytest.raises(PlacementRefused) as refused:
        await line.provider.hang_up(reference())

    assert "9" == refused.value.code


async def test_a_call_that_nobody_sees_may_still_begin(line: Account) -> None:
    """The seat is idle and there is no record: that is no success."""
    with pytest.raises(Uncertain):
        await line.provider.hang_up(reference())


# --- transferring and muting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "kind", "number"), [("+8613800000002", 0, "13800000002"), ("2001", 1, "2001")])
async def test_clink2_hands_a_customer_on(clink: Account, to: str, kind: int, number: str) -> None:
    """To a telephone, whose number has a plus, or to another seat."""
    await clink.provider.place(order())
    clink.cloud.at_work(TAG, "talking")

    await clink.provider.transfer(reference(), to)

    said = clink.cloud.said[-1]
    assert ("2000", kind, number) == (said["cno"], said["transferType"], said["transferNumber"])


async def test_only_a_seat_that_talks_in_this_call_is_asked_to_transfer(clink: Account) -> None:
    """Else somebody else's customer would be handed on."""
    await clink.provider.place(order())
    for how, parts in (("ringing", {}), ("talking", {"customerNumber": "13800000000"})):
        clink.cloud.at_work(TAG, "talking" if how == "talking" else "ringing", **parts)
        with pytest.raises(Uncertain):
            await clink.provider.transfer(reference(), "2001")

    assert 0 == clink.cloud.times("/cc/transfer")


async def test_what_is_not_offered_is_not_asked_for() -> None:
    """Neither mutes, and CtiCloud does not transfer."""
    for control in (
        unasked("clink2").mute(reference(), on=True),
        unasked("cticloud").mute(reference(), on=False),
        unasked("cticloud").transfer(reference(), "2001"),
    ):
        with pytest.raises(Unsupported):
            await control


async def test_the_balance_is_not_told() -> None:
    """There is no function for it."""
    assert [None, None] == [await unasked("clink2").balance(), await unasked("cticloud").balance()]


# --- what records mean ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["clink2", "cticloud"])
def test_a_hang_up_push_is_read(platform: Platform) -> None:
    """The bridge time is the answer; the agent's `cdr_answer_time` is not."""
    told = unasked(platform).read_webhook(push(hung_up()))

    assert [
        End(
            outcome=Outcome.CONNECTED,
            at=datetime.fromtimestamp(1795339656, UTC),
            by="provider",
            evidence=Evidence.PROVIDER_RECORD,
            started_at=datetime.fromtimestamp(1795339614, UTC),
            duration=42,
            cause=HangupCause.NORMAL_CLEARING,
            raw_cause="status 33, sip 200, end 1001",
            has_recording=True,
        ),
        Recording(None, "medias_1-1795339600.9.mp3"),
    ] == [each.event for each in told]
    assert {(TAG, "medias_1-1795339600.9")} == {(each.tag, each.provider_call_id) for each in told}


@pytest.mark.parametrize("status", sorted(CTICLOUD_STATUSES))
def test_every_result_of_an_unanswered_call_is_read(status: str) -> None:
    """Each row of both tables; of a call without a bridge time none of them is an answer."""
    end = end_of(unasked().read_webhook(push(hung_up(cdr_bridge_time="0", cdr_status=status, sipCause="0"))))

    assert CTICLOUD_STATUSES[status] == (end.outcome, end.cause)
    assert (None, None, None) == (end.started_at, end.duration, end.has_recording)
    assert Outcome.CONNECTED is not end.outcome


@pytest.mark.parametrize("status", ["21", "22", "24", "28"])
def test_the_older_results_are_cticlouds_alone(status: str) -> None:
    """On Clink2 these numbers belong to calls from web pages, and are unknown here."""
    end = end_of(unasked("clink2").read_webhook(push(hung_up(cdr_bridge_time="", cdr_status=status, sipCause=""))))

    assert (Outcome.FAILED, HangupCause.UNKNOWN) == (end.outcome, end.cause)
    assert status not in STATUSES


@pytest.mark.parametrize("sip", sorted(SIP_CAUSES))
def test_the_customers_sip_answer_tells_more(sip: str) -> None:
    """After the customer was called, or where the result is not known; never of a call that was answered."""
    adapter = unasked()

    def ending(**fields: str) -> tuple[Outcome, HangupCause | None]:
        end = end_of(adapter.read_webhook(push(hung_up(sipCause=sip, **fields))))
        return end.outcome, end.cause

    assert SIP_CAUSES[sip] == ending(cdr_bridge_time="0", cdr_status="32")
    assert SIP_CAUSES[sip] == ending(cdr_bridge_time="0", cdr_status="99")
    assert CTICLOUD_STATUSES["30"] == ending(cdr_bridge_time="0", cdr_status="30")
    assert (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING) == ending()


def test_an_unknown_result_is_an_end_with_its_words_kept() -> None:
    """The push says that the call is over."""
    end = end_of(unasked().read_webhook(push(hung_up(cdr_bridge_time="0", cdr_status="99", sipCause="999"))))

    assert (Outcome.FAILED, HangupCause.UNKNOWN) == (end.outcome, end.cause)
    assert "status 99, sip 999, end 1001" == end.raw_cause


@pytest.mark.parametrize("nothing", ["", "0", "-1", "soon", "2026-11-22 17:20:14", "9" * 17, "9" * 12, "9" * 13])
def test_what_is_no_time_is_no_answer(nothing: str) -> None:
    """Only seconds, or milliseconds, since 1970 are."""
    end = end_of(unasked().read_webhook(push(hung_up(cdr_bridge_time=nothing))))

    assert Outcome.UNKNOWN is end.outcome or end.started_at is not None
    assert (end.started_at is not None) == (nothing == "9" * 13)


# --- pushes -----------------------------------------------------------------------------------------------------------


def live(**fields: Any) -> dict[str, Any]:
    """A push while a call lasts."""
    return {"enterpriseId": ENTERPRISE, "mainUniqueId": "medias_1-1795339600.9", "requestUniqueId": TAG} | fields


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"event": "ringing", "ringingTime": "1795339600"}, Status.CALLING),
        ({"event": "previewOutcallBridge", "bridgeTime": "1795339614000"}, Status.CONNECTED),
        ({"event": "previewOutcallBridge"}, Heard("previewOutcallBridge")),
        ({"event": "status", "state": "通话"}, Heard("status")),
        ({"cdr_record_file_1": "a.mp3"}, Recording(None, "a.mp3")),
        ({"recordFile": "https://r.example/a.mp3?sign=s3cret"}, Recording("https://r.example/a.mp3?sign=s3cret", None)),
    ],
    ids=range(6),
)
def test_live_pushes_are_read(fields: dict[str, str], event: object) -> None:
    """The seat's ringing is calling; that the customer has answered is believed with a bridge time only."""
    (told,) = unasked().read_webhook(push(live(**fields)))

    assert TAG == told.tag
    assert b"s3cret" not in told.raw
    if isinstance(told.event, Progress):
        assert (event, Evidence.IN_CALL_SERVICE) == (told.event.status, told.event.evidence)
    else:
        assert event == told.event


def test_a_push_may_be_a_form_or_json_or_a_query() -> None:
    """The console offers all three, and what they say is the same."""
    adapter = unasked()

    told = adapter.read_webhook(push(hung_up()))

    assert told == adapter.read_webhook(push(json.dumps(hung_up()).encode()))
    assert told == adapter.read_webhook(push(b"", query=hung_up()))


def test_the_names_of_fields_are_a_setting() -> None:
    """Each customer names them in the console."""
    adapter = unasked(fields={"tag": ["order"], "bridgedAt": ["talk_from"], "endedAt": ["until"]})
    fields = {"cdr_enterprise_id": ENTERPRISE, "order": TAG, "talk_from": "1795339614", "until": "1795339656"}

    (told,) = adapter.read_webhook(push(fields))

    assert (TAG, None) == (told.tag, told.provider_call_id)
    assert 42 == end_of([told]).duration


@pytest.mark.parametrize("platform", ["clink2", "cticloud"])
@pytest.mark.parametrize("enterprise", ["7000003", ""])
def test_pushes_of_another_enterprise_are_refused(platform: Platform, enterprise: str) -> None:
    """It is the one thing in a push that can be verified."""
    with pytest.raises(WebhookRefused):
        unasked(platform).read_webhook(push(hung_up(cdr_enterprise_id=enterprise)))


def test_without_an_enterprise_any_is_believed() -> None:
    """On Clink2 the setting may be left out."""
    adapter = unasked("clink2", enterpriseId=None)

    assert [] != adapter.read_webhook(push(hung_up(cdr_enterprise_id="7000003")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b"[1]",
        b"{" * 40_000,
        b'{"cdr_main_unique_id":' + b"[" * 40_000,
        b'{"cdr_main_unique_id":"\xff"}',
        b"cdr_main_unique_id=%ff",
        b"<xml/>",
        b"&".join(b"a%d=1" % number for number in range(300)),
        json.dumps({f"a{number}": 1 for number in range(300)} | hung_up()).encode(),
        urlencode(hung_up(more="x" * tianrun_record.WEBHOOK_BOUND)).encode(),
        urlencode(hung_up(cdr_main_unique_id="", cdr_request_unique_id="")).encode(),
    ],
    ids=range(13),
)
def test_what_is_not_a_push_is_refused(body: bytes) -> None:
    """Nonsense, nests, other encodings, what is too large, and what names no call."""
    with pytest.raises(WebhookRefused):
        unasked("clink2", enterpriseId=None).read_webhook(push(body))


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_hostile = st.dictionaries(
    st.sampled_from(sorted(hung_up() | live(event="", ringingTime=""))), _scalars | st.lists(_scalars)
)


@settings(deadline=None)
@given(
    st.binary()
    | _hostile.map(lambda fields: json.dumps({**hung_up(), **fields}).encode())
    | st.dictionaries(st.sampled_from(sorted(hung_up())), st.text(st.characters(codec="utf-8"))).map(
        lambda fields: urlencode({**hung_up(), **fields}).encode()
    )
)
def test_no_body_raises_anything_else(body: bytes) -> None:
    """Whatever the bytes, they are refused or read; and what is read can be weighed and written down."""
    try:
        told = unasked("clink2", enterpriseId=None).read_webhook(push(body))
    except WebhookRefused:
        return

    for each in told:
        each.raw.decode()
        assert each.tag is None or (each.tag.isprintable() and len(each.tag) <= 256)
        if isinstance(each.event, End):
            advance(CallState(created_at=NOW), each.event, NOW)


@pytest.mark.parametrize("platform", ["clink2", "cticloud"])
def test_a_repeated_delivery_has_the_same_key(platform: Platform) -> None:
    """The vendor gives no ids to deliveries, so what they say is what counts."""
    adapter = unasked(platform)

    assert adapter.key_of(push(hung_up())) == adapter.key_of(push(hung_up()))
    assert adapter.key_of(push(hung_up())) != adapter.key_of(push(hung_up(cdr_end_time="1795339657")))
    assert adapter.key_of(push(b"", query={"a": "1"})) != adapter.key_of(push(b"", query={"a": "2"}))


@pytest.mark.parametrize("platform", ["clink2", "cticloud"])
def test_the_reply_is_the_one_that_is_known(platform: Platform) -> None:
    """What integrations answer."""
    assert Reply(b'{"result":"success"}', "application/json", 200) == unasked(platform).reply()


# --- looking up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", OUTCOMES)
async def test_stories_are_told_alike_by_push_and_look_up(line: Account, story: Story) -> None:
    """The same facts have the same names, however often and by whatever way they are told."""
    await line.provider.place(order())

    pushed = await played(line, story, "twice")
    found = await line.provider.look_up(reference())
    by_id = await line.provider.look_up(reference(provider_call_id=pushed[-1][0].provider_call_id))

    assert pushed[0::2] == pushed[1::2]
    assert found is not None
    assert found == by_id
    assert [each.once for each in pushed[-1]] == [each.once for each in found]
    assert end_of(pushed[-1]) == end_of(found)
    assert OUTCOMES[story] == (end_of(found).outcome, end_of(found).cause)


@pytest.mark.parametrize("story", OUTCOMES)
async def test_any_order_and_repetition_ends_in_the_same_record(line: Account, story: Story) -> None:
    """Pushes and look-ups, each once or twice and in any order, end the same call in the same way."""
    created = datetime.now(UTC) - timedelta(hours=1)
    await line.provider.place(order())
    pushed = await played(line, story)
    found = await line.provider.look_up(reference())
    assert found is not None
    now = datetime.now(UTC)
    told = [each.event for message in (*pushed, found) for each in message]
    events = [event for event in told if isinstance(event, End | Progress)]

    def ended(arrivals: tuple[End | Progress, ...]) -> tuple[object, ...]:
        state = CallState(created_at=created)
        for event in arrivals * 2:
            match advance(state, event, now):
                case Moved(moved):
                    state = moved
        how = (state.status, state.outcome, state.hangup_cause, state.raw_cause, state.has_recording)
        return (*how, state.connected_at, state.ended_at, state.duration)

    assert 1 == len({ended(arrivals) for arrivals in itertools.permutations(events)})


async def test_a_lost_push_is_found_by_looking_up(line: Account) -> None:
    """The record is found by the tag, and says what the push would have said."""
    await line.provider.place(order())
    await played(line, "answered", "lost_end")

    found = await line.provider.look_up(reference())

    assert (Outcome.CONNECTED, TALKED) == (end_of(found).outcome, end_of(found).duration)
    assert found is not None
    assert [End, Recording] == [type(each.event) for each in found]


async def test_a_call_that_is_not_known_is_not_found(line: Account) -> None:
    """There is no record, and the seat is idle."""
    assert None is await line.provider.look_up(reference())
    assert None is await line.provider.look_up(reference(provider_call_id="medias_1-1.1"))


async def test_records_are_compared_and_paged_where_the_vendor_does_not_filter(line: Account) -> None:
    """Those of other seats, customers and times are passed over until ours is found."""
    line.cloud.filters_tags = False
    await line.provider.place(order())
    other = line.cloud.record(TAG, "busy") | {"requestUniqueId": "call_other", "tag_not_told": "call_other"}
    if line.platform == "clink2":
        other = {**other, "requestUniqueId": None}
    line.cloud.rows += [other | {"cno": "2001"}] * 120
    line.cloud.rows += [other | {"cno": "2001", "customerNumber": "13800000000"}] * 120
    await played(line, "answered")

    found = await line.provider.look_up(reference())

    assert Outcome.CONNECTED is end_of(found).outcome
    assert 3 == line.cloud.times(RECORDS[line.platform])


async def test_records_are_not_read_for_ever(line: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """More records than are read leave open whether the call is among them."""
    monkeypatch.setattr(clink2, "PAGE", 2)
    monkeypatch.setattr(cticloud, "PAGE", 2)
    line.cloud.filters_tags = False
    await line.provider.place(order("other"))
    line.cloud.rows += [line.cloud.record("other", "busy") | {"cno": "2001"}] * 30

    with pytest.raises(Uncertain):
        await line.provider.look_up(reference())

    assert 10 == line.cloud.times(RECORDS[line.platform])


async def test_a_row_of_clink2_that_names_another_tag_is_another_call(clink: Account) -> None:
    """Where the list tells the tag, nothing else counts."""
    clink.cloud.filters_tags = False
    await clink.provider.place(order())
    clink.cloud.rows.append(clink.cloud.record(TAG, "busy") | {"requestUniqueId": "call_other"})

    assert None is await clink.provider.look_up(reference())


async def test_cticloud_is_asked_month_by_month(cti: Account) -> None:
    """It takes no time that lies in two months of Beijing's."""
    turn = datetime(2026, 11, 30, 16, 0, tzinfo=UTC)

    assert None is await cti.provider.look_up(reference(ordered_at=turn))

    asked = [said for said in cti.cloud.said if "startTime" in said]
    seconds = int(turn.timestamp())
    assert [(str(seconds - 600), str(seconds - 1)), (str(seconds), str(seconds + 600))] == [
        (said["startTime"], said["endTime"]) for said in asked
    ]


@pytest.mark.parametrize(
    ("platform", "how", "status"),
    [
        ("clink2", "ringing", Status.CALLING),
        ("clink2", "calling", Status.RINGING),
        ("clink2", "talking", Status.CALLING),
        ("cticloud", "ringing", Status.CALLING),
        ("cticloud", "talking", Status.CALLING),
    ],
)
async def test_a_seat_at_work_says_that_the_order_was_taken(
    platform: Platform, how: Literal["ringing", "calling", "talking"], status: Status
) -> None:
    """There is no record before the end; that somebody talks is no answer, for there is no bridge time."""
    async for line in _account(platform):
        await line.provider.place(order())
        line.cloud.at_work(TAG, how)

        found = await line.provider.look_up(reference())

        assert found is not None
        (told,) = found
        assert TAG == told.tag
        assert isinstance(told.event, Progress)
        assert status is told.event.status


async def test_a_record_without_an_end_says_that_the_order_was_taken(line: Account) -> None:
    """The call may still last."""
    await line.provider.place(order())
    line.cloud.rows.append(line.cloud.record(TAG, "no_answer") | {"endTime": 0})

    found = await line.provider.look_up(reference())

    assert found is not None
    assert [Status.CALLING] == [each.event.status for each in found if isinstance(each.event, Progress)]


async def test_a_record_of_an_unknown_form_leaves_everything_open(line: Account) -> None:
    """It may be the one."""
    await line.provider.place(order())
    line.cloud.rows.append(line.cloud.record(TAG, "busy") | {"endTime": ["soon"]})

    with pytest.raises(Uncertain):
        await line.provider.look_up(reference())


@pytest.mark.parametrize("status", [400, 500])
async def test_a_look_up_that_fails_leaves_everything_open(line: Account, status: int) -> None:
    """A refusal to tell is not a word about the call."""
    by_id = {"clink2": "/cc/describe_cdr_ob", "cticloud": "/cdr/ob/query"}[line.platform]
    for path, call in ((RECORDS[line.platform], reference()), (by_id, reference(provider_call_id="medias_1-1.1"))):
        line.cloud.fail(path, status, "1", "no")
        with pytest.raises(Uncertain):
            await line.provider.look_up(call)


# --- recordings -------------------------------------------------------------------------------------------------------


async def test_a_recording_is_offered_by_name_and_fetched_by_url(line: Account) -> None:
    """The name is the call's, or looked up; a URL that has expired is asked for again."""
    await line.provider.place(order())
    *_, (end, recording) = await played(line, "answered")
    assert isinstance(recording.event, Recording)

    async def fetched(url: str | None) -> bytes | int:
        assert url is not None
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return await response.read() if response.status == 200 else response.status

    url = await line.provider.recording_url(reference(), None)
    assert AUDIO == await fetched(url)
    line.cloud.void_links()
    assert 403 == await fetched(url)
    known = reference(provider_call_id=end.provider_call_id)
    assert AUDIO == await fetched(await line.provider.recording_url(known, recording.event.name))


async def test_a_recording_that_is_not_there_has_no_url(line: Account) -> None:
    """The call has no record yet, or the file is gone; a refusal for another reason leaves it open."""
    await line.provider.place(order())
    assert None is await line.provider.recording_url(reference(), None)

    gone = reference(provider_call_id="medias_1-1.1")
    assert None is await line.provider.recording_url(gone, "gone.mp3")
    line.cloud.fail(RECORDING[line.platform], 400, "1", "no permission")
    with pytest.raises(Uncertain):
        await line.provider.recording_url(gone, "gone.mp3")


async def test_files_of_cticloud_may_be_names_or_objects(cti: Account) -> None:
    """Installations tell them differently."""
    await cti.provider.place(order())
    await played(cti, "answered")
    (row,) = cti.cloud.rows
    name = row["recordFile"][0]["file"]

    for told in (name, [name], [{"file": ""}, {"file": name}]):
        row["recordFile"] = told
        found = await cti.provider.look_up(reference())
        assert found is not None
        assert Recording(None, name) == found[-1].event


# --- the account ------------------------------------------------------------------------------------------------------


async def test_an_account_is_tested_by_a_harmless_question(line: Account) -> None:
    """Nothing rings; and one that does not work says why."""
    tested = await line.provider.test()

    assert tested.latency_ms >= 0
    assert {"clink2": "seats signed in: 0", "cticloud": "the account answers"}[line.platform] == tested.message
    with pytest.raises(PlacementRefused):
        await line.adapter(secret="another-not-real").test()


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"platform": "clink3"},
        {"platform": "clink2"},
        {"platform": "cticloud"},
        {"platform": "cticloud", "enterpriseId": "7000002", "accessKeyId": "k"},
        {"platform": "clink2", "accessKeyId": "k", "secret": "in the wrong place"},
        {"platform": "clink2", "accessKeyId": "k", "fields": {"bridgedAt": []}},
        {"platform": "clink2", "accessKeyId": "k", "fields": {"answeredAt": ["a"]}},
    ],
    ids=range(8),
)
def test_settings_that_cannot_work_are_refused(told: dict[str, Any]) -> None:
    """What is missing, or is of the other platform: said when the line is saved, not when it is used."""
    with pytest.raises(msgspec.ValidationError):
        read(told)


def test_a_secret_is_needed() -> None:
    """Nothing can be signed without."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"secret": ""}, TianrunSecrets)


async def test_no_credential_is_ever_told(line: Account) -> None:
    """Neither repr nor exceptions nor logs nor what is kept of a call hold the secret or a signature."""
    key = TianrunSecrets(secret=SECRET)
    said = [repr(key), str(key), repr(line.provider)]
    with capture_logs() as logs:
        await line.provider.place(order())
        pushed = await played(line, "answered")
        said += [each.raw.decode() for told in pushed for each in told]
        said += [each.raw.decode() for each in await line.provider.look_up(reference()) or []]
        failures: list[Callable[[], Awaitable[object]]] = [
            lambda: line.provider.place(order()),
            lambda: line.provider.look_up(reference()),
            lambda: line.adapter(secret="another-not-real").test(),
            lambda: line.provider.place(order()),
        ]
        line.cloud.fail(PLACE[line.platform], 400, "1", f"wrong: Signature={'0123456789abcdef' * 2}, 13912345678")
        line.cloud.fail(RECORDS[line.platform], 400, "1", "no")
        for ask in failures:
            if ask is failures[-1]:
                line.cloud.next_place("drop")
            with pytest.raises((PlacementRefused, Uncertain)) as failed:
                await ask()
            said += ["".join(traceback.format_exception(failed.value))]
        said += [json.dumps(logs, default=repr)]

    hidden = [SECRET, "another-not-real", "0123456789abcdef" * 2]
    assert [] == [word for word in hidden for text in said if word in text.replace('secret="another-not-real"', "")]
    assert "13912345678" not in said[-1]
    assert {f"{line.platform}_refused", f"{line.platform}_uncertain"} == {entry["event"] for entry in logs}
