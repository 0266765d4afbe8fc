"""Tencent: what is asked of the vendor, what its answers and pushes mean, and what is never told of it."""

import asyncio
import base64
import contextlib
import ipaddress
import itertools
import json
import logging
import ssl
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import pytest
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tencentcloud.ccc.v20200210 import errorcodes, models  # type: ignore[import-untyped]

from protocol.call import CallState, End, Evidence, HangupCause, Moved, Outcome, Progress, Status, advance
from server.providers import tencent, tencent_sdk
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
from server.providers.tencent import ENDINGS, REFUSALS, Tencent, TencentSecrets, TencentSettings
from server.ssrf import guarded_session
from tests.clouds.cloud import Cloud, Story, WebhookRequestSpec
from tests.clouds.tencent import (
    APPLICATION,
    AUDIO,
    PUSH_PASSWORD,
    SECRET_ID,
    SECRET_KEY,
    TALKED,
    TencentCloud,
    tc3_signature,
    tencent_cloud,
)

# the SDK asks datetime for what Python 3.12 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning")

TAG = "call_0123456789abcdef"
CALLEE = "+8613800138000"
SEAT = Seat(id="agent@example.com", number="+8613900139000")
HIDDEN = (SECRET_KEY, SECRET_ID, PUSH_PASSWORD, "recording-signature-not-real")

OUTCOMES: dict[Story, tuple[Outcome, HangupCause, str]] = {
    "answered": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING, "ok"),
    "no_answer": (Outcome.MISSED, HangupCause.NO_ANSWER, "notAnswer"),
    "busy": (Outcome.BUSY, HangupCause.USER_BUSY, "busy"),
    "rejected": (Outcome.REJECTED, HangupCause.CALL_REJECTED, "userReject"),
    "invalid": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER, "numberNotExist"),
}


class Line(msgspec.Struct):
    """What a line is created with."""

    settings: TencentSettings
    secrets: TencentSecrets


@pytest.fixture
async def cloud() -> AsyncIterator[TencentCloud]:
    """A cloud of this test."""
    async with tencent_cloud() as cloud:
        yield cloud


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that may go to loopback."""
    async with loopback() as session:
        yield session


@pytest.fixture
def provider(cloud: TencentCloud, http: aiohttp.ClientSession) -> Tencent:
    """The adapter for the cloud."""
    return adapter(cloud, http)


@asynccontextmanager
async def loopback() -> AsyncIterator[aiohttp.ClientSession]:
    """Open the client of production, that is let through to this machine."""
    async with guarded_session(
        (ipaddress.ip_network("127.0.0.0/8"),), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        yield session


def adapter(cloud: TencentCloud, http: aiohttp.ClientSession, **settings: Any) -> Tencent:
    """Make an adapter from what a line at the cloud is created with."""
    given_settings, given_secrets = cloud.line()
    return Tencent(
        msgspec.convert({**given_settings, **settings}, TencentSettings),
        msgspec.convert(given_secrets, TencentSecrets),
        http,
    )


def offline(**secrets: str) -> Tencent:
    """Make an adapter that only reads pushes."""
    keys = {"secretId": SECRET_ID, "secretKey": SECRET_KEY, **secrets}
    return Tencent(
        TencentSettings(sdk_app_id=APPLICATION),
        msgspec.convert(keys, TencentSecrets),
        None,  # type: ignore[arg-type] # it is never asked for anything
    )


def order(**changes: Any) -> Order:
    """An order for a call."""
    return msgspec.structs.replace(Order(tag=TAG, callee=CALLEE, caller=None, seat=SEAT), **changes)


def reference(session: str | None, **changes: Any) -> CallReference:
    """The call of `order()`, as it is known after it was placed."""
    call = CallReference(
        tag=TAG, provider_call_id=session, seat=SEAT, extension=None, callee=CALLEE, ordered_at=datetime.now(UTC)
    )
    return msgspec.structs.replace(call, **changes)


def arrived(spec: WebhookRequestSpec) -> Webhook:
    """A push as it reaches the adapter."""
    return Webhook(
        kind=spec.kind, query=spec.query, headers=spec.headers, body=spec.body, received_at=datetime.now(UTC)
    )


def push(action: str, body: object, **headers: str) -> Webhook:
    """A push without credentials."""
    return Webhook(
        kind="",
        query={"action": action},
        headers=headers,
        body=json.dumps(body).encode(),
        received_at=datetime.now(UTC),
    )


def record(**fields: Any) -> dict[str, Any]:
    """The least that a pushed record says."""
    return {"SdkAppId": APPLICATION, "SessionId": "session-1", "Direction": 1, "EndedTimestamp": 1608130651, **fields}


def end_of(told: list[Told] | None) -> End:
    """The end that is told."""
    (end,) = [each.event for each in told or [] if isinstance(each.event, End)]
    return end


def written(error: BaseException) -> str:
    """All that a log would show of an exception."""
    return "".join(traceback.format_exception(error)) + repr(error)


# --- placing ----------------------------------------------------------------------------------------------------------


async def test_an_order_becomes_a_session(cloud: TencentCloud, provider: Tencent) -> None:
    """The agent's mobile is rung, numbers have 0086, our tag is the UUI, and the session's id comes back."""
    placed = await provider.place(order(caller="+8601012345678"))

    assert Placed(cloud.session_of(TAG)) == placed
    ((action, asked),) = cloud.asked
    assert "CreateCallOutSession" == action
    assert {
        "SdkAppId": APPLICATION,
        "UserId": "agent@example.com",
        "Callee": "008613800138000",
        "Callers": ["008601012345678"],
        "IsForceUseMobile": True,
        "UUI": TAG,
    } == asked


@pytest.mark.parametrize(
    ("callers", "asked"), [(["+862066247698", "4001783747"], ["008602066247698", "00864001783747"]), ([], None)]
)
async def test_a_line_lends_its_numbers(
    cloud: TencentCloud, http: aiohttp.ClientSession, callers: list[str], asked: list[str] | None
) -> None:
    """Where the order names no caller, the line's are tried in their order, or the vendor chooses."""
    await adapter(cloud, http, callers=callers).place(order())

    assert asked == cloud.asked[0][1].get("Callers")


async def test_a_number_abroad_keeps_its_country(cloud: TencentCloud, provider: Tencent) -> None:
    """A number of another country is asked for with 00; the vendor decides."""
    with pytest.raises(PlacementRefused):
        await provider.place(order(callee="+85223456789"))

    assert "0085223456789" == cloud.asked[0][1]["Callee"]


async def test_an_agent_does_not_call_the_own_telephone(cloud: TencentCloud, provider: Tencent) -> None:
    """It would be busy with the call itself: refused before anybody is asked."""
    with pytest.raises(PlacementRefused) as refused:
        await provider.place(order(callee=SEAT.number))

    assert Refusal.CALLEE is refused.value.refusal
    assert [] == cloud.asked


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        *REFUSALS.items(),
        ("LimitExceeded.OutOfCountLimit", Refusal.THROTTLED),
        ("RequestLimitExceeded.UinLimitExceeded", Refusal.THROTTLED),
        ("FailedOperation.NoCallOutNumber", Refusal.LINE),
        ("FailedOperation.CallOutFailed", Refusal.LINE),
        ("OperationDenied.NotInWhiteList", Refusal.LINE),
        ("InvalidParameterValue.AccountNotExist", Refusal.LINE),
        ("UnauthorizedOperation", Refusal.LINE),
        ("A.WordOfNextYear", Refusal.LINE),
    ],
)
async def test_refusals_have_classes(cloud: TencentCloud, provider: Tencent, code: str, refusal: Refusal) -> None:
    """Each of the vendor's codes says whose fault it is."""
    cloud.next_place("refuse", code)

    with pytest.raises(PlacementRefused) as refused:
        await provider.place(order())

    assert (refusal, code) == (refused.value.refusal, refused.value.code)
    assert [] == cloud.placed


@pytest.mark.parametrize(
    ("code", "known"),
    [
        ("LimitExceeded.BasePackageExpired", True),
        ("RequestLimitExceeded.UinLimitExceeded", True),
        ("FailedOperation.NoCallOutNumber", True),
        ("AuthFailure.SignatureFailure", True),
        ("FailedOperation", False),
        ("FailedOperation.CallOutFailed", False),
        ("UnsupportedOperation", False),
        ("A.WordOfNextYear", False),
    ],
)
async def test_what_nobody_listed_may_have_rung(cloud: TencentCloud, provider: Tencent, code: str, known: bool) -> None:
    """Only what is listed, or was refused for who asked or how, is known to have come before anything rang."""
    cloud.next_place("refuse", code)

    with pytest.raises(PlacementRefused) as refused:
        await provider.place(order())

    assert known is refused.value.known


@pytest.mark.parametrize("code", ["InternalError.DBError", "ServiceUnavailable", "ResponseSizeLimitExceeded"])
async def test_an_internal_error_says_nothing(cloud: TencentCloud, provider: Tencent, code: str) -> None:
    """After an error of its own nobody knows what the vendor did."""
    cloud.next_place("refuse", code)

    with pytest.raises(Uncertain):
        await provider.place(order())


@pytest.mark.parametrize("how", ["garbage", "drop"])
async def test_an_order_without_a_readable_answer_is_uncertain(
    cloud: TencentCloud, provider: Tencent, how: Any
) -> None:
    """It was taken, and it is not asked again."""
    cloud.next_place(how)

    with pytest.raises(Uncertain):
        await provider.place(order())

    assert 1 == len(cloud.asked)


async def test_an_order_without_an_answer_is_uncertain(
    cloud: TencentCloud, provider: Tencent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the deadline has passed the call may ring; it is not asked again."""
    monkeypatch.setattr(tencent, "DEADLINE", 1.0)
    cloud.next_place("silent")

    with pytest.raises(Uncertain):
        await provider.place(order())

    assert (1, 1) == (len(cloud.asked), len(cloud.placed))


@pytest.mark.parametrize(
    "answer",
    [
        {"body": b"{}"},
        {"body": b"[]"},
        {"body": b"null"},
        {"body": b'{"Response": 1}'},
        {"body": b'{"Response": {}}'},
        {"body": b'{"Response": {"SessionId": 5}}'},
        {"body": b'{"Response": {"SessionId": ""}}'},
        {"body": b'{"Response": {"Error": {"Code": "FailedOperation"}}}'},
        {"body": b'{"Response": {"Error": 1, "RequestId": "1"}}'},
        {"body": b"\xff\xfe"},
        {"body": b"[" * 100_000},
        {"body": b"{}", "status": 500},
        {"body": b"", "status": 302, "headers": {"Location": "/elsewhere"}},
        {"body": b"{}", "content_type": None},
        {"body": b" " * (tencent_sdk.LARGEST_ANSWER + 1)},
    ],
)
async def test_garbage_is_uncertain(cloud: TencentCloud, provider: Tencent, answer: dict[str, Any]) -> None:
    """No answer but the described one means that a call was placed, or was not; redirects are not followed."""
    cloud.answers["CreateCallOutSession"] = web.Response(**{"content_type": "application/json", **answer})

    with pytest.raises(Uncertain):
        await provider.place(order())

    assert 1 == len(cloud.asked)


async def test_an_error_is_seen_whatever_its_type_says(cloud: TencentCloud, provider: Tencent) -> None:
    """The SDK takes an error for success if its media type has parameters; here it has none."""
    error = {"Code": "FailedOperation.SeatStatusBusy", "Message": "", "RequestId": "1"}
    cloud.answers["CreateCallOutSession"] = web.json_response({"Response": {"Error": error, "RequestId": "1"}})

    with pytest.raises(PlacementRefused) as refused:
        await provider.place(order())

    assert "charset" in cloud.answers["CreateCallOutSession"].headers["Content-Type"]
    assert Refusal.SEAT_BUSY is refused.value.refusal


async def test_nobody_there_is_a_refusal(http: aiohttp.ClientSession) -> None:
    """Without a connection nothing was asked, so another line may do."""
    async with tencent_cloud() as cloud:
        gone = adapter(cloud, http)

    with pytest.raises(PlacementRefused) as refused:
        await gone.place(order())

    assert Refusal.LINE is refused.value.refusal


async def test_the_session_guards_the_way(cloud: TencentCloud) -> None:
    """The SDK goes where the given session lets it, and this one lets nobody inside."""
    async with guarded_session(timeout=aiohttp.ClientTimeout(total=None)) as session:
        with pytest.raises(PlacementRefused) as refused:
            await adapter(cloud, session).place(order())

    assert (Refusal.LINE, []) == (refused.value.refusal, cloud.heads)


async def test_a_certificate_that_nobody_knows_is_refused(http: aiohttp.ClientSession, cloud: TencentCloud) -> None:
    """Certificates are verified by the session, whatever the SDK was told about its own client."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    asked: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the client goes away
            asked.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(PlacementRefused) as refused:
            await adapter(cloud, http, baseUrl=f"https://127.0.0.1:{port}").place(order())

    assert "ClientConnectorCertificateError" == refused.value.code
    assert b"" == b"".join(asked)


async def test_proxies_of_the_environment_are_not_asked(
    cloud: TencentCloud, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own client would take them."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

    placed = await adapter(cloud, http).place(order())

    assert Placed(cloud.session_of(TAG)) == placed


async def test_a_wrong_key_is_a_matter_of_the_line(cloud: TencentCloud, http: aiohttp.ClientSession) -> None:
    """The cloud computes the signature by itself, and does not agree."""
    settings, secrets = cloud.line()
    wrong = Tencent(
        msgspec.convert(settings, TencentSettings),
        msgspec.convert({**secrets, "secretKey": "another-key"}, TencentSecrets),
        http,
    )

    with pytest.raises(PlacementRefused) as refused:
        await wrong.place(order())

    assert (Refusal.LINE, "AuthFailure.SignatureFailure") == (refused.value.refusal, refused.value.code)


def test_the_cloud_signs_as_the_vendor_does() -> None:
    """The vendor's published example (cloud.tencent.com/document/api/213/30654), with its published key."""
    body = rb'{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}'

    signature = tc3_signature(
        "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE",
        date="2019-02-25",
        service="cvm",
        timestamp="1551113065",
        content_type="application/json; charset=utf-8",
        host="cvm.tencentcloudapi.com",
        body=body,
    )

    assert "72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168" == signature


# --- control ----------------------------------------------------------------------------------------------------------


async def test_a_session_is_hung_up(cloud: TencentCloud, provider: Tencent) -> None:
    """By its id."""
    placed = await provider.place(order())

    await provider.hang_up(reference(placed.provider_call_id))

    assert {} == cloud.sessions


async def test_hanging_up_what_is_over_succeeds(provider: Tencent) -> None:
    """The vendor knows no such session: it is over."""
    assert None is await provider.hang_up(reference("gone"))  # type: ignore[func-returns-value]


async def test_a_hang_up_may_be_refused(cloud: TencentCloud, provider: Tencent) -> None:
    """Any other refusal is told."""
    for code in ("FailedOperation.SessionNotInControlState", "ResourceNotFound"):
        cloud.refusals["HangUpCall"] = code

        with pytest.raises(PlacementRefused) as refused:
            await provider.hang_up(reference("session"))

        assert code == refused.value.code


async def test_a_call_without_a_session_cannot_be_hung_up(cloud: TencentCloud, provider: Tencent) -> None:
    """Nobody knows whether it is there."""
    with pytest.raises(Uncertain):
        await provider.hang_up(reference(None))

    assert [] == cloud.asked


async def test_there_is_neither_mute_nor_transfer(provider: Tencent) -> None:
    """The controls say so, and so do the methods."""
    with pytest.raises(Unsupported):
        await provider.mute(reference("session"), on=True)
    with pytest.raises(Unsupported):
        await provider.transfer(reference("session"), "+8613700137000")

    assert {"hang_up"} == provider.controls


async def test_an_account_is_tested_by_asking_for_records(cloud: TencentCloud, provider: Tencent) -> None:
    """It takes the key, the application and the right to read."""
    await provider.place(order())
    cloud.pushes(TAG, "busy")

    tested = await provider.test()

    assert "calls in the last hour: 1" == tested.message
    assert tested.latency_ms >= 0


async def test_a_bad_account_fails_its_test(cloud: TencentCloud, provider: Tencent) -> None:
    """The vendor's word is told."""
    cloud.refusals["DescribeTelCdr"] = "UnauthorizedOperation"

    with pytest.raises(PlacementRefused) as refused:
        await provider.test()

    assert "UnauthorizedOperation" == refused.value.code


async def test_the_vendor_does_not_tell_a_balance(provider: Tencent) -> None:
    """It tells minutes that were used."""
    assert None is await provider.balance()


# --- looking up -------------------------------------------------------------------------------------------------------

STARTED, RANG, ANSWERED = (datetime(2026, 11, 22, 9, 30, second, tzinfo=UTC) for second in (1, 11, 21))


@pytest.mark.parametrize(
    ("status", "times", "expected"),
    [
        ("seatJoining", (STARTED, RANG, ANSWERED), [Progress(Status.CALLING, STARTED, Evidence.IN_CALL_SERVICE)]),
        ("ringing", (STARTED, RANG, ANSWERED), [Progress(Status.RINGING, RANG, Evidence.IN_CALL_SERVICE)]),
        ("ringing", (STARTED, None, None), [Progress(Status.CALLING, STARTED, Evidence.IN_CALL_SERVICE)]),
        (
            "inProgress",
            (STARTED, RANG, ANSWERED),
            [
                Progress(Status.RINGING, RANG, Evidence.IN_CALL_SERVICE),
                Progress(Status.CONNECTED, ANSWERED, Evidence.IN_CALL_SERVICE),
            ],
        ),
        ("inProgress", (STARTED, None, None), [Progress(Status.CALLING, STARTED, Evidence.IN_CALL_SERVICE)]),
        ("aWordOfNextYear", (STARTED, RANG, ANSWERED), [Heard("aWordOfNextYear")]),
    ],
)
async def test_a_living_session_is_told(
    cloud: TencentCloud, provider: Tencent, status: str, times: tuple[datetime | None, ...], expected: list[Any]
) -> None:
    """The agent's telephone, or a session without times, only makes it calling; the rest needs the customer's times."""
    placed = await provider.place(order())
    names = ("StartTimestamp", "RingTimestamp", "AcceptTimestamp")
    cloud.live(TAG, status, **{name: int(at.timestamp()) if at else 0 for name, at in zip(names, times, strict=True)})

    told = await provider.look_up(reference(placed.provider_call_id))

    assert told is not None
    assert expected == [each.event for each in told]
    assert {(placed.provider_call_id, TAG)} == {(each.provider_call_id, each.tag) for each in told}
    assert ["CreateCallOutSession", "DescribeTelSession"] == [action for action, _ in cloud.asked]


@pytest.mark.parametrize(("answered", "outcome"), [(0, Outcome.UNKNOWN), (1608130640, Outcome.CONNECTED)])
async def test_a_finished_session_has_ended_before_its_record_is_there(
    cloud: TencentCloud, provider: Tencent, answered: int, outcome: Outcome
) -> None:
    """How it ended is known only where the customer answered; the record will say."""
    placed = await provider.place(order())
    cloud.live(TAG, "finished", AcceptTimestamp=answered)

    end = end_of(await provider.look_up(reference(placed.provider_call_id)))

    assert (outcome, Evidence.IN_CALL_SERVICE) == (end.outcome, end.evidence)


async def test_a_record_says_more_than_a_finished_session(cloud: TencentCloud, provider: Tencent) -> None:
    """Where there are both, the record is told."""
    placed = await provider.place(order())
    session = dict(cloud.sessions[cloud.session_of(TAG)])
    cloud.pushes(TAG, "busy")
    cloud.sessions[cloud.session_of(TAG)] = {**session, "SessionStatus": "finished"}

    end = end_of(await provider.look_up(reference(placed.provider_call_id)))

    assert (Outcome.BUSY, Evidence.PROVIDER_RECORD) == (end.outcome, end.evidence)


@pytest.mark.parametrize("story", list(OUTCOMES))
@pytest.mark.parametrize("by_tag", [False, True])
async def test_a_record_is_found(cloud: TencentCloud, provider: Tencent, story: Story, by_tag: bool) -> None:
    """By its session, or by our tag, among the records of other calls to the same customer."""
    for tag in ("call_before", TAG, "call_after"):
        await provider.place(order(tag=tag))
        cloud.pushes(tag, story)
    session = cloud.session_of(TAG)

    told = await provider.look_up(reference(None if by_tag else session))

    assert told is not None
    end = end_of(told)
    assert OUTCOMES[story] == (end.outcome, end.cause, end.raw_cause)
    assert (TALKED if story == "answered" else None, Evidence.PROVIDER_RECORD) == (end.duration, end.evidence)
    assert {(session, TAG)} == {(each.provider_call_id, each.tag) for each in told}


async def test_pages_are_turned(cloud: TencentCloud, provider: Tencent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page is page 0, and the search ends with the page that is not full."""
    monkeypatch.setattr(tencent, "PAGE_SIZE", 2)
    for tag in ("call_1", "call_2", "call_3", "call_4", TAG):
        await provider.place(order(tag=tag))
        cloud.pushes(tag, "busy")

    assert Outcome.BUSY is end_of(await provider.look_up(reference(None))).outcome
    assert None is await provider.look_up(reference(None, tag="call_9"))
    pages = [asked["PageNumber"] for action, asked in cloud.asked if action == "DescribeTelCdr"]
    assert [0, 1, 2, 0, 1, 2] == pages


async def test_a_search_has_an_end(cloud: TencentCloud, provider: Tencent, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records there are."""
    monkeypatch.setattr(tencent, "PAGE_SIZE", 1)
    await provider.place(order())
    cloud.pushes(TAG, "busy")
    cloud.cdrs *= tencent.PAGES + 5

    assert None is await provider.look_up(reference(None, tag="call_9"))
    assert tencent.PAGES == len([action for action, _ in cloud.asked if action == "DescribeTelCdr"])


async def test_a_search_is_bounded_in_time(cloud: TencentCloud, provider: Tencent) -> None:
    """It begins shortly before the order, and ends a day later, or soon after now."""
    now = datetime.now(UTC)
    await provider.look_up(reference(None, ordered_at=now))
    await provider.look_up(reference(None, ordered_at=now - timedelta(days=9)))

    spans = [(asked["StartTimeStamp"], asked["EndTimeStamp"]) for _, asked in cloud.asked]
    assert int(now.timestamp()) - 300 == spans[0][0]
    assert 0 <= spans[0][1] - int(now.timestamp()) - 300 <= 60
    assert 26 * 3600 + 300 == spans[1][1] - spans[1][0]


@pytest.mark.parametrize("session", [None, "gone"])
@pytest.mark.parametrize("code", sorted(tencent.UNKNOWN))
async def test_an_unknown_call_is_none(cloud: TencentCloud, provider: Tencent, session: str | None, code: str) -> None:
    """Neither a session nor a record."""
    cloud.refusals["DescribeTelSession"] = code

    assert None is await provider.look_up(reference(session))


@pytest.mark.parametrize("action", ["DescribeTelSession", "DescribeTelCdr"])
@pytest.mark.parametrize("code", ["AuthFailure.SecretIdNotFound", "RequestLimitExceeded", "InternalError"])
async def test_a_look_up_that_is_refused_is_uncertain(
    cloud: TencentCloud, provider: Tencent, action: str, code: str
) -> None:
    """That the vendor does not tell does not mean that there is no call."""
    cloud.refusals[action] = code

    with pytest.raises(Uncertain):
        await provider.look_up(reference("gone"))


async def test_a_record_that_cannot_be_read_is_uncertain(cloud: TencentCloud, provider: Tencent) -> None:
    """What was promised as a number is none."""
    await provider.place(order())
    cloud.pushes(TAG, "busy")
    cloud.cdrs[0]["AcceptTimestamp"] = "noon"

    with pytest.raises(Uncertain):
        await provider.look_up(reference(cloud.session_of(TAG)))


# --- recordings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_tag", [False, True])
async def test_a_recording_has_a_url(
    cloud: TencentCloud, provider: Tencent, http: aiohttp.ClientSession, by_tag: bool
) -> None:
    """The whole call's, and it can be fetched."""
    await provider.place(order())
    cloud.pushes(TAG, "answered")
    session = cloud.session_of(TAG)

    url = await provider.recording_url(reference(None if by_tag else session), None)

    assert cloud.recording(session) == url
    async with http.get(url) as answer:
        assert AUDIO == await answer.read()


async def test_a_participants_recording_is_found_by_its_id(cloud: TencentCloud, provider: Tencent) -> None:
    """Where it has a URL; else it is the whole call's."""
    await provider.place(order())
    cloud.pushes(TAG, "answered")
    session = cloud.session_of(TAG)
    cloud.cdrs[0]["ServeParticipants"].append({"RecordId": "third", "CustomRecordURL": "https://own.example/third"})

    assert "https://own.example/third" == await provider.recording_url(reference(session), "third")
    assert cloud.recording(session) == await provider.recording_url(reference(session), f"{session}-seat")


@pytest.mark.parametrize("session", [None, "gone"])
async def test_no_call_has_no_recording(provider: Tencent, session: str | None) -> None:
    """None, as where there is none yet."""
    assert None is await provider.recording_url(reference(session), None)


async def test_a_call_without_a_recording_has_none(cloud: TencentCloud, provider: Tencent) -> None:
    """It was busy."""
    await provider.place(order())
    cloud.pushes(TAG, "busy")

    assert None is await provider.recording_url(reference(cloud.session_of(TAG)), None)


# --- pushes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "ending"), ENDINGS.items())
def test_endings_have_causes(word: str, ending: tencent.Ending) -> None:
    """Each of the vendor's words, told as word or as number."""
    for said in ({"EndStatusString": word}, {"EndStatus": ending.number}):
        end = end_of(offline().read_webhook(push("cdr", record(AcceptTimestamp=0, Duration=15, **said))))

        assert (ending.outcome, ending.cause, word) == (end.outcome, end.cause, end.raw_cause)
        assert (None, Evidence.PROVIDER_RECORD) == (end.duration, end.evidence)


@pytest.mark.parametrize(
    ("said", "raw"),
    [({"EndStatusString": "error"}, "error"), ({"EndStatus": 999}, "999"), ({}, None)],
)
def test_an_unknown_cause_is_kept_raw(said: dict[str, Any], raw: str | None) -> None:
    """That the call is over is known, and how is not."""
    end = end_of(offline().read_webhook(push("cdr", record(**said))))

    assert (Outcome.FAILED, HangupCause.UNKNOWN, raw) == (end.outcome, end.cause, end.raw_cause)


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("ok", HangupCause.NORMAL_CLEARING),
        ("callerCancel", HangupCause.NORMAL_CLEARING),
        ("aWordOfNextYear", HangupCause.NORMAL_CLEARING),
        ("operatorError", HangupCause.NETWORK_ERROR),
    ],
)
def test_a_time_of_answer_is_an_answer(word: str, cause: HangupCause) -> None:
    """Whatever else is said of the end."""
    body = record(EndStatusString=word, RingTimestamp=1608130600, AcceptTimestamp=1608130609, Duration=42)

    told = offline().read_webhook(push("cdr", body))

    rang, answered = datetime.fromtimestamp(1608130600, UTC), datetime.fromtimestamp(1608130609, UTC)
    assert [
        Progress(Status.RINGING, rang, Evidence.PROVIDER_RECORD),
        Progress(Status.CONNECTED, answered, Evidence.PROVIDER_RECORD),
    ] == [each.event for each in told if isinstance(each.event, Progress)]
    end = end_of(told)
    assert (Outcome.CONNECTED, 42, answered, cause) == (end.outcome, end.duration, end.started_at, end.cause)
    assert datetime.fromtimestamp(1608130651, UTC) == end.at


@pytest.mark.parametrize("ended", [0, None, -5, 10**15, 10**30])
def test_an_impossible_time_is_no_time(ended: int | None) -> None:
    """The call ended when the push came."""
    webhook = push("cdr", record(EndedTimestamp=ended))

    assert webhook.received_at == end_of(offline().read_webhook(webhook)).at


def test_the_vendors_own_example_is_read() -> None:
    """From the page on pushed records: it names a duration twice, and a word that its table of today has not."""
    body = (
        b'{"SdkAppId":1400000000,"SessionId":"e97be0ab-1ef6-4ad2-a8c4-2b2bbfb18e55","QueuedSkillGroupId":1072,'
        b'"Direction":1,"StartTimestamp":1608130636,"RingTimestamp":1608130639,"AcceptTimestamp":0,'
        b'"EndedTimestamp":1608130651,"Duration":15,"Duration":0,"EndStatusString":"error","HungUpSide":"seat",'
        b'"Caller":"008602066247698","Callee":"008618600000000","IVRKeyPressed":null,'
        b'"PostIVRKeyPressed":[{"key":"1","label":"good"}],"SeatUser":{"Mail":"agent@example.com","StaffNumber":"007"},'
        b'"ServeParticipants":[{"Mail":"agent@example.com","RecordId":"1608130636","Type":"staffSeat"}]}'
    )

    told = offline().read_webhook(msgspec.structs.replace(push("cdr", {}), body=body))

    assert [Progress, End] == [type(each.event) for each in told]
    assert (Outcome.FAILED, datetime.fromtimestamp(1608130651, UTC)) == (end_of(told).outcome, end_of(told).at)


@pytest.mark.parametrize("name", ["Uui", "UUI"])
def test_the_tag_has_two_spellings(name: str) -> None:
    """Pushes and answers do not agree on it."""
    told = offline().read_webhook(push("cdr", record(**{name: TAG})))

    assert [TAG] == [each.tag for each in told]


def test_a_record_may_bring_its_recording() -> None:
    """Then the end says so, and the recording is told."""
    told = offline().read_webhook(push("cdr", record(RecordURL="https://cos.example/r.mp3?sign=1", RecordId="7")))

    assert True is end_of(told).has_recording
    assert Recording("https://cos.example/r.mp3?sign=1", "7") == told[-1].event


def test_calls_from_outside_are_not_ours() -> None:
    """A record of an inbound call tells of nothing."""
    assert [] == offline().read_webhook(push("cdr", record(Direction=0)))


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"EndpointUser": "008613800138000"}, Recording("https://cos.example/r.mp3?sign=1", "7")),
        ({"EndpointUser": 13800138000}, Recording("https://cos.example/r.mp3?sign=1", "7")),
        ({}, Recording("https://cos.example/r.mp3?sign=1", "7")),
        ({"EndpointUser": "agent@example.com"}, Heard("record")),
        ({"RecordURL": "", "CustomRecordURL": "https://own.example/r"}, Recording("https://own.example/r", "7")),
        ({"RecordURL": None}, Heard("record")),
    ],
)
def test_the_customers_recording_is_taken(fields: dict[str, Any], event: Recording | Heard) -> None:
    """Of the recordings of all participants; the agent's has an e-mail address."""
    body = {"SdkAppId": APPLICATION, "SessionId": "s", "RecordId": "7", "RecordURL": "https://cos.example/r.mp3?sign=1"}

    (told,) = offline().read_webhook(push("record", {**body, **fields}))

    assert (event, "s", None) == (told.event, told.provider_call_id, told.tag)


@pytest.mark.parametrize("action", ["voicemail", "aWordOfNextYear"])
def test_other_pushes_are_heard(action: str) -> None:
    """They move nothing."""
    body = {"SdkAppId": APPLICATION, "SessionId": "s", "EndpointUser": 13123456789, "RecordURL": "http://x.example/v"}

    assert [Heard(action)] == [each.event for each in offline().read_webhook(push(action, body))]


async def test_one_fact_has_one_key(cloud: TencentCloud, provider: Tencent) -> None:
    """What is told by a push, by its repeat and by a look-up is the same once, but for what only one tells; the
    recordings of a call are one."""
    await provider.place(order())
    pushes = [arrived(spec) for spec in cloud.pushes(TAG, "answered")]
    session = cloud.session_of(TAG)

    pushed = [told for each in pushes for told in provider.read_webhook(each) if not isinstance(told.event, Heard)]
    found = await provider.look_up(reference(session))

    assert found is not None
    expected = {f"{session}:{what}" for what in ("ringing", "connected", "ended", "recording")}
    assert expected == {told.once for told in pushed}
    fuller = {f"{session}:ended": f"{session}:ended and recorded"}  # only a look-up tells that there is a recording
    assert {fuller.get(once, once) for once in expected} == {told.once for told in found}
    again = [told for each in pushes for told in provider.read_webhook(each) if not isinstance(told.event, Heard)]
    assert pushed == again


def test_a_push_has_a_key() -> None:
    """The vendor's, where it is one; else it follows from what is said."""
    ours = offline()
    body = record()
    keys = [
        ours.key_of(push("cdr", body, **headers))
        for headers in ({"x-tccc-push-uuid": "0cf5be1b-de75"}, {}, {"x-tccc-push-uuid": "x" * 101}, {"other": "1"})
    ]

    assert "0cf5be1b-de75" == keys[0]
    assert 1 == len(set(keys[1:]))
    assert keys[1] != ours.key_of(push("record", body))


def test_the_vendor_is_told_that_a_push_was_kept() -> None:
    """In its own words."""
    assert Reply(b'{"ErrCode":0,"ErrMsg":""}', "application/json", 200) == offline().reply()


def basic(user: str, password: str) -> str:
    """What a client shows with basic authentication (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("secrets", "shown", "trusted"),
    [
        ({}, "", True),
        ({}, "Bearer anything", True),
        ({"pushUser": "tccc", "pushPassword": "密码:1"}, basic("tccc", "密码:1"), True),
        ({"pushUser": "tccc", "pushPassword": "密码:1"}, basic("tccc", "密码:1").replace("Basic", "basic"), True),
        ({"pushUser": "tccc", "pushPassword": "密码:1"}, basic("tccc", "密码:2"), False),
        ({"pushUser": "tccc", "pushPassword": "密码:1"}, basic("other", "密码:1"), False),
        ({"pushUser": "tccc", "pushPassword": "密码:1"}, "", False),
        ({"pushUser": "tccc", "pushPassword": "密码:1"}, "Basic \ud800", False),
        ({"pushToken": "token-1"}, "Bearer token-1", True),
        ({"pushToken": "token-1"}, "bearer  token-1", True),
        ({"pushToken": "token-1"}, "Bearer token-2", False),
        ({"pushToken": "token-1"}, "Basic token-1", False),
        ({"pushToken": "token-1", "pushUser": "u", "pushPassword": "p"}, basic("u", "p"), True),
        ({"pushToken": "token-1", "pushUser": "u", "pushPassword": "p"}, "Bearer token-1", True),
    ],
)
def test_pushes_show_what_was_agreed(secrets: dict[str, str], shown: str, trusted: bool) -> None:
    """A user with a password, a token, or nothing."""
    ours, webhook = offline(**secrets), push("cdr", record(), authorization=shown)

    if trusted:
        assert Outcome.FAILED is end_of(ours.read_webhook(webhook)).outcome
    else:
        with pytest.raises(WebhookRefused):
            ours.read_webhook(webhook)


@pytest.mark.parametrize(
    "webhook",
    [
        push("", record()),
        push("cdr", record(SdkAppId=1400000001)),
        push("cdr", {**record(), "SdkAppId": None}),
        push("cdr", record(SessionId="")),
        push("cdr", record(AcceptTimestamp="noon")),
        push("cdr", record(Remark="x" * tencent.LARGEST_PUSH)),
        push("cdr", []),
        msgspec.structs.replace(push("cdr", {}), body=b"[" * 100_000),
        msgspec.structs.replace(push("cdr", {}), body=b'{"SdkAppId": 1400000000, "SessionId": "\xff"}'),
    ],
)
def test_what_is_no_push_is_refused(webhook: Webhook) -> None:
    """No action, another application, or not what is described."""
    with pytest.raises(WebhookRefused):
        offline().read_webhook(webhook)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = st.sampled_from([*record(), *tencent._Cdr.__struct_encode_fields__, *tencent._Push.__struct_encode_fields__])
HOSTILE = st.binary() | st.dictionaries(FIELDS, JSON).map(lambda said: json.dumps(record(**said)).encode())


@given(body=HOSTILE, action=st.sampled_from(["cdr", "record", "voicemail"]) | st.text())
def test_hostile_pushes_are_refused_or_read(body: bytes, action: str) -> None:
    """Any bytes are refused or are a list, never another exception; and they have a key."""
    webhook = Webhook(kind="", query={"action": action}, headers={}, body=body, received_at=datetime.now(UTC))
    ours = offline()

    ours.key_of(webhook)
    try:
        told = ours.read_webhook(webhook)
    except WebhookRefused:
        return
    assert all(msgspec.json.decode(each.raw) is not None for each in told)


# --- one call, in any order -------------------------------------------------------------------------------------------


async def settled(cloud: TencentCloud, ours: Tencent, story: Story, lived: bool) -> tuple[datetime, list[Told]]:
    """Play a story, and return when it began and all that is ever told of it: live, pushed and looked up."""
    created = datetime.now(UTC) - timedelta(minutes=2)
    placed = await ours.place(order())
    told: list[Told] = []
    call = reference(placed.provider_call_id)
    if lived:
        told += await ours.look_up(call) or []
        times = {"RingTimestamp": int(created.timestamp()) + 30}
        cloud.live(TAG, "ringing", **times)
        told += await ours.look_up(call) or []
        cloud.live(TAG, "finished", **times)
        told += await ours.look_up(call) or []
    for spec in cloud.pushes(TAG, story):
        told += ours.read_webhook(arrived(spec))
    told += await ours.look_up(call) or []
    return created, told


def concluded(created: datetime, told: list[Told], now: datetime) -> tuple[Any, ...]:
    """What a record says of a call in the end, but for what only an early witness can know."""
    state = CallState(created_at=created)
    seen: set[str] = set()
    for each in told:
        if each.once in seen or not isinstance(each.event, Progress | End):
            continue
        seen.add(each.once)
        moved = advance(state, each.event, now)
        state = moved.state if isinstance(moved, Moved) else state
    return (
        state.status,
        state.outcome,
        state.connected_at,
        state.ended_at,
        state.duration,
        state.evidence,
        state.closed_by,
        state.hangup_cause,
        state.raw_cause,
    )


@pytest.mark.parametrize("lived", [False, True])
@pytest.mark.parametrize("story", list(OUTCOMES))
async def test_order_and_repetition_do_not_matter(
    cloud: TencentCloud, provider: Tencent, story: Story, lived: bool
) -> None:
    """Whatever comes first or twice, the call's record is the same in the end."""
    created, told = await settled(cloud, provider, story, lived)
    now = datetime.now(UTC)
    facts = list({each.once: each for each in told if not isinstance(each.event, Heard | Recording)}.values())
    expected = concluded(created, facts, now)

    assert OUTCOMES[story] == (expected[1], expected[7], expected[8])
    for shuffled in itertools.permutations(facts):
        assert expected == concluded(created, [*shuffled, *told], now)


@pytest.mark.parametrize("deliveries", ["right", "reversed", "twice", "lost_end"])
async def test_a_story_is_told_by_pushes_and_a_look_up(cloud: TencentCloud, provider: Tencent, deliveries: Any) -> None:
    """In any order; a push that is lost is found by looking."""
    cloud_face: Cloud = cloud
    provider_face: Provider = provider
    created = datetime.now(UTC) - timedelta(minutes=2)
    placed = await provider_face.place(order())
    told: list[Told] = []

    async def send(spec: WebhookRequestSpec) -> None:
        told.extend(provider_face.read_webhook(arrived(spec)))

    await cloud_face.play(TAG, "answered", send=send, order=deliveries)
    if deliveries == "lost_end":
        told += await provider_face.look_up(reference(placed.provider_call_id)) or []

    status, outcome, _, _, duration, *_ = concluded(created, told, datetime.now(UTC))
    assert (Status.ENDED, Outcome.CONNECTED, TALKED) == (status, outcome, duration)
    assert 1 == len({each.once for each in told if isinstance(each.event, Recording)})


# --- what is never told, and what the SDK is --------------------------------------------------------------------------


async def test_no_secret_is_told(
    cloud: TencentCloud, provider: Tencent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by repr, nor by an exception, a log at its most talkative, or what is kept raw."""
    settings, secrets = cloud.line()
    said = [repr(msgspec.convert(secrets, TencentSecrets)), repr(msgspec.convert(settings, TencentSettings))]
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        for how in ("refuse", "garbage", "drop", "silent"):
            cloud.next_place(how)
            monkeypatch.setattr(tencent, "DEADLINE", 1.0 if how == "silent" else 10.0)
            with pytest.raises((PlacementRefused, Uncertain)) as raised:
                await provider.place(order(tag=f"call_{how}"))
            said.append(written(raised.value))
        monkeypatch.setattr(tencent, "DEADLINE", 10.0)
        await provider.place(order())
        for spec in cloud.pushes(TAG, "answered"):
            said += [told.raw.decode() for told in provider.read_webhook(arrived(spec))]
            with pytest.raises(WebhookRefused) as forged:
                provider.read_webhook(msgspec.structs.replace(arrived(spec), headers={"authorization": "Basic x"}))
            said.append(written(forged.value))
        said += [told.raw.decode() for told in await provider.look_up(reference(cloud.session_of(TAG))) or []]
    said += [repr(logs), caplog.text]

    everything = "\n".join(said)
    assert [] == [secret for secret in HIDDEN if secret in everything]
    assert "TC3-HMAC-SHA256" not in everything
    assert "13800138000" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "secrets"),
    [
        ({"baseUrl": "ftp://x.example"}, {}),
        ({"baseUrl": "https://x.example/path"}, {}),
        ({"baseUrl": "https://user@x.example"}, {}),
        ({"baseUrl": "nonsense"}, {}),
        ({"sdkAppId": 0}, {}),
        ({"unknown": 1}, {}),
        ({}, {"pushUser": "half"}),
        ({}, {"pushPassword": "half"}),
        ({}, {"secretKey": " "}),
        ({}, {"unknown": 1}),
    ],
)
def test_what_cannot_work_is_not_accepted(settings: dict[str, Any], secrets: dict[str, Any]) -> None:
    """Settings and secrets are judged when they are decoded."""
    line: dict[str, dict[str, Any]] = {
        "settings": {"sdkAppId": APPLICATION},
        "secrets": {"secretId": SECRET_ID, "secretKey": SECRET_KEY},
    }
    line["settings"] |= settings
    line["secrets"] |= secrets

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(line, Line)


def test_our_words_are_the_vendors() -> None:
    """Every code in our table, but those of the API's frame, is in the SDK's."""
    known = {value for name, value in vars(errorcodes).items() if name.isupper()}

    assert {"RequestLimitExceeded"} == set(REFUSALS) - known
    assert tencent.OVER < tencent.UNKNOWN < known


async def test_what_is_asked_is_what_the_sdk_knows(cloud: TencentCloud, provider: Tencent) -> None:
    """Every parameter is one of the SDK's own request models."""
    await provider.place(order())
    cloud.pushes(TAG, "answered")
    session = cloud.session_of(TAG)
    await provider.look_up(reference(session))
    await provider.look_up(reference(None))
    await provider.recording_url(reference(session), None)
    await provider.hang_up(reference(session))

    assert 5 == len({action for action, _ in cloud.asked})
    for action, asked in cloud.asked:
        model = getattr(models, f"{action}Request")()
        assert set(asked) <= {name.removeprefix("_") for name in vars(model)}


async def test_a_connection_serves_one_question(cloud: TencentCloud, provider: Tencent) -> None:
    """So an order is never written to a connection that the vendor has just closed, and nothing is left open."""
    await provider.test()
    await provider.test()

    assert ["close", "close"] == [head.get("Connection") for head in cloud.heads]
    assert ["identity", "identity"] == [head.get("Accept-Encoding") for head in cloud.heads]


def test_the_sdk_is_imported_by_the_first_question() -> None:
    """It is heavy: a server without a line of this vendor does not carry it."""
    script = "import sys, server.providers.tencent; print('tencentcloud' in sys.modules, 'httpx' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert "False False" == printed.stdout.strip()
