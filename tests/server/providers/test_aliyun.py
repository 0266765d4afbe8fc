"""Aliyun CCC: what is asked of the vendor, what its answers, events and records mean, and what is never told of it."""

import asyncio
import functools
import itertools
import json
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from protocol.call import CallState, End, Evidence, HangupCause, Moved, Outcome, Progress, Status, advance
from server.providers import aliyun
from server.providers.aliyun import DISPOSITIONS, EARLY_MEDIA, SIP, Aliyun, AliyunSecrets, AliyunSettings
from server.providers.aliyun_sdk import ANSWER_BOUND, REFUSALS, Ccc
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
from server.ssrf import guarded_session
from tests.clouds.aliyun import BROKER, INSTANCE, KEY_ID, KEY_SECRET, TALKED, AliyunCloud, aliyun_cloud, signature
from tests.clouds.cloud import Cloud, Story, WebhookRequestSpec

Mode = Literal["agent", "back2back"]

TAG = "call_0123456789abcdef"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
SEAT = Seat(id="agent@ccc-not-real", number="+8613700000001")
CALLEE = "+8613912345678"

OUTCOMES: dict[Story, tuple[Outcome, HangupCause]] = {
    "answered": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "no_answer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "busy": (Outcome.BUSY, HangupCause.USER_BUSY),
    "rejected": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "invalid": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
}


class Clock:
    """A time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Account:
    """An adapter and the cloud that it speaks to."""

    def __init__(self, cloud: AliyunCloud, http: aiohttp.ClientSession, clock: Clock) -> None:
        self.cloud = cloud
        self.clock = clock
        self._http = http
        self.aliyun = self.adapter()

    def adapter(
        self,
        *,
        deadline: float = aliyun.DEADLINE,
        http: aiohttp.ClientSession | None = None,
        secret: str = KEY_SECRET,
        **settings: Any,
    ) -> Aliyun:
        """An adapter of this line, or of one with other settings."""
        told, hidden = self.cloud.line()
        return Aliyun(
            msgspec.convert(told | settings, AliyunSettings),
            msgspec.convert(hidden | {"accessKeySecret": secret}, AliyunSecrets),
            http or self._http,
            deadline=deadline,
        )

    async def played(self, story: Story, tag: str = TAG) -> list[Told]:
        """Place a call, let it go as the story says, a minute long, and return what the webhooks told."""
        await self.aliyun.place(order(tag))
        self.clock.now += timedelta(minutes=1)
        told: list[Told] = []

        async def send(spec: WebhookRequestSpec) -> None:
            told.extend(self.aliyun.read_webhook(webhook(spec.body)))

        await self.cloud.play(tag, story, send=send)
        return told


@asynccontextmanager
async def account(mode: Mode = "agent") -> AsyncIterator[Account]:
    """A cloud, and an account there."""
    clock = Clock()
    async with aliyun_cloud(mode, clock) as cloud, aiohttp.ClientSession() as http:
        yield Account(cloud, http, clock)


@pytest.fixture
async def line() -> AsyncIterator[Account]:
    """An account at which agents sign in."""
    async with account() as opened:
        yield opened


@pytest.fixture
async def back2back() -> AsyncIterator[Account]:
    """An account that calls two telephones."""
    async with account("back2back") as opened:
        yield opened


def order(tag: str = TAG, **parts: Any) -> Order:
    """An order to call a customer."""
    ordered: dict[str, Any] = {"callee": CALLEE, "caller": "+862160000002", "seat": SEAT}
    return Order(tag=tag, **ordered | parts)


def reference(job: str | None = "job-1", **parts: Any) -> CallReference:
    """The call of that order, as it is looked up."""
    known: dict[str, Any] = {"tag": TAG, "seat": SEAT, "extension": None, "callee": CALLEE, "ordered_at": NOW}
    return CallReference(provider_call_id=job, **known | parts)


def webhook(body: bytes) -> Webhook:
    """A request with this body."""
    return Webhook(kind="status", query={}, headers={}, body=body, received_at=NOW)


def event(**fields: Any) -> bytes:
    """An event of the customer's channel, unless other fields are given; those that are None are left out."""
    told = {
        "instanceId": INSTANCE,
        "eventType": "Established",
        "eventTime": "2026-11-22T09:30:18.250Z",
        "contactId": "job-1",
        "channelId": f"ch:user:{BROKER}->13912345678:1:job-1",
        "callType": "OUTBOUND",
        "mediaType": "AUDIO",
        "callee": "13912345678",
        "tags": TAG,
    } | fields
    return json.dumps({name: value for name, value in told.items() if value is not None}).encode()


def record(**fields: Any) -> dict[str, Any]:
    """A record as the vendor lists them, of a call that was answered."""
    begun = int(NOW.timestamp() * 1000)
    return {
        "ContactId": "job-1",
        "ContactType": "OUTBOUND",
        "ContactDisposition": "Success",
        "CallingNumber": "02160000002",
        "CalledNumber": "13912345678",
        "AgentIds": SEAT.id,
        "StartTime": begun,
        "EstablishedTime": begun + 18_000,
        "ReleaseTime": begun + 60_000,
        "CallDuration": 42,
        "ReleaseReason": "200 - Okay",
        "RecordingReady": False,
    } | fields


async def told_of(line: Account, **fields: Any) -> Told:
    """What is told first of a call with such a record."""
    line.cloud.answers["GetCallDetailRecord"] = web.json_response({"Code": "OK", "Data": record(**fields)})
    told = await line.aliyun.look_up(reference())
    assert told is not None
    return told[0]


async def ended(line: Account, **fields: Any) -> End:
    """How a call ended of which there is such a record."""
    end = (await told_of(line, **fields)).event
    assert isinstance(end, End)
    return end


def only(line: Account, body: bytes) -> Told:
    """The one thing that a message tells."""
    [told] = line.aliyun.read_webhook(webhook(body))
    return told


async def test_the_fake_signs_as_the_vendor_does() -> None:
    """The example that the vendor publishes of its signature is signed as it says."""
    query = {"ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd", "RegionId": "cn-shanghai"}
    signed = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }

    assert "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0" == signature(
        "YourAccessKeySecret", "POST", query, signed, b""
    )


async def test_it_has_the_faces(line: Account) -> None:
    """The adapter is a provider, and the fake a cloud."""
    provider: Provider = line.aliyun
    cloud: Cloud = line.cloud

    assert (provider, cloud) == (line.aliyun, line.cloud)


def test_the_sdk_is_imported_when_it_is_needed() -> None:
    """A node without a line at Aliyun carries none of the SDK's 28 MB."""
    script = "import sys, server.providers.aliyun; print([name for name in sys.modules if 'alibaba' in name])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout

    assert "[]\n" == printed


async def test_without_a_base_url_the_region_has_a_host() -> None:
    """The host is the one that the SDK names for the region."""
    async with aiohttp.ClientSession() as http:
        ccc = Ccc(instance_id="i", region="cn-hangzhou", base_url=None, access_key=("a", "b"), http=http)

    assert "https://ccc.cn-hangzhou.aliyuncs.com" == ccc._client._base_url


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "cn-shanghai.evil/"},
        {"mode": "loud"},
        {"instanceId": ""},
        {"baseUrl": "https://ccc.example.com/path"},
        {"baseUrl": "https://user@ccc.example.com"},
        {"x": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """A region is part of a host name, and no field is guessed at."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"instanceId": INSTANCE} | wrong, AliyunSettings)


async def test_a_call_is_made_for_an_agent(line: Account) -> None:
    """The order names the agent, our tag, and numbers as they are dialled; its JobId is the call's id."""
    placed = await line.aliyun.place(order(ring_timeout=60))

    assert Placed("job-1") == placed
    assert [
        (
            "MakeCall",
            {
                "InstanceId": INSTANCE,
                "UserId": SEAT.id,
                "DeviceId": "dialdesk",
                "Caller": "02160000002",
                "Callee": "13912345678",
                "TimeoutSeconds": "60",
                "Tags": TAG,
            },
        )
    ] == line.cloud.asked


async def test_two_telephones_are_called(back2back: Account) -> None:
    """The agent's telephone sees the line's number, the customer's the caller of the order."""
    placed = await back2back.aliyun.place(order(ring_timeout=60))

    assert Placed("job-1") == placed
    assert [
        (
            "StartBack2BackCall",
            {
                "InstanceId": INSTANCE,
                "Broker": BROKER,
                "AdditionalBroker": "02160000002",
                "Caller": "13700000001",
                "Callee": "13912345678",
                "TimeoutSeconds": "60",
                "Tags": TAG,
            },
        )
    ] == back2back.cloud.asked


@pytest.mark.parametrize(("broker", "caller"), [("", "+862160000002"), ("02160000002", None)])
async def test_one_number_is_enough(back2back: Account, broker: str, caller: str | None) -> None:
    """Both telephones see the same number where there is but one, of the order or of the line."""
    await back2back.adapter(broker=broker).place(order(caller=caller))

    assert "02160000002" == back2back.cloud.asked[0][1]["Broker"]
    assert "AdditionalBroker" not in back2back.cloud.asked[0][1]


@pytest.mark.parametrize(("asked", "told"), [(5, "30"), (45, "45"), (900, "300")])
async def test_the_ring_timeout_is_one_that_the_vendor_takes(line: Account, asked: int, told: str) -> None:
    """It is between 30 and 300 seconds."""
    await line.aliyun.place(order(ring_timeout=asked))

    assert told == line.cloud.asked[0][1]["TimeoutSeconds"]


@pytest.mark.parametrize(
    ("mode", "settings", "parts", "refusal", "code"),
    [
        ("agent", {}, {"seat": Seat(number="+8613700000001")}, Refusal.SEAT, "NoSeat"),
        ("back2back", {}, {"seat": Seat(id="agent@ccc-not-real")}, Refusal.SEAT, "NoSeat"),
        ("back2back", {"broker": ""}, {"caller": None}, Refusal.LINE, "NoBroker"),
    ],
)
async def test_an_order_that_lacks_something_is_not_sent(
    mode: Mode, settings: dict[str, Any], parts: dict[str, Any], refusal: Refusal, code: str
) -> None:
    """Without a seat, or a number to call from, another line may do."""
    async with account(mode) as opened:
        with pytest.raises(PlacementRefused) as refused:
            await opened.adapter(**settings).place(order(**parts))

    assert (refusal, code) == (refused.value.refusal, refused.value.code)
    assert [] == opened.cloud.asked


async def test_an_order_without_an_answer_is_uncertain(line: Account) -> None:
    """The order may have been taken; it is not sent again."""
    line.cloud.next_place("silent")
    with pytest.raises(Uncertain):
        await line.adapter(deadline=2.0).place(order())

    assert [TAG] == [call.tag for call in line.cloud.placed]


@pytest.mark.parametrize("how", ["garbage", "drop"])
async def test_an_order_with_an_unreadable_answer_is_uncertain(line: Account, how: Literal["garbage", "drop"]) -> None:
    """The order was taken, and nothing that can be read came back; it is not sent again."""
    line.cloud.next_place(how)
    with pytest.raises(Uncertain):
        await line.aliyun.place(order())

    assert [TAG] == [call.tag for call in line.cloud.placed]


@pytest.mark.parametrize(
    "answer",
    [
        web.json_response({"Code": "OK"}),
        web.json_response({"Code": "OK", "Data": {}}),
        web.json_response({"Code": "OK", "Data": "nonsense"}),
        web.json_response({"Code": "OK", "Data": {"CallContext": {}}}),
        web.json_response({"Code": "OK", "Data": {"CallContext": {"JobId": [1]}}}),
        web.json_response({"Code": "OK", "Data": {"CallContext": ["nonsense"]}}),
        web.json_response([]),
        web.json_response({"Code": 7}),
        web.json_response({"Code": "InternalService.CTI", "Message": "An internal error."}, status=500),
        web.json_response({"Code": "InternalService.CTI", "HttpStatusCode": 500}),
        web.json_response({"Code": "OK", "Data": {}}, status=502),
        web.Response(body=b"\xff\xfe"),
        web.Response(text=" " * (ANSWER_BOUND + 1)),
    ],
    ids=lambda answer: f"{answer.status} {(answer.text or '')[:40]}" if answer.body != b"\xff\xfe" else "bytes",
)
async def test_an_answer_that_says_neither_yes_nor_no_is_uncertain(line: Account, answer: web.Response) -> None:
    """Errors inside the vendor do not say how far the order came, and an OK without an id is no answer."""
    line.cloud.answers["MakeCall"] = web.Response(
        body=answer.body, status=answer.status, content_type=answer.content_type
    )
    with pytest.raises(Uncertain):
        await line.aliyun.place(order())

    assert ["MakeCall"] == [action for action, _ in line.cloud.asked]


async def test_a_redirect_is_not_followed(line: Account) -> None:
    """An order goes to the host that was judged, once."""
    line.cloud.answers["MakeCall"] = web.Response(status=307, headers={"Location": f"{line.cloud.url}/?again"})
    with pytest.raises(Uncertain):
        await line.aliyun.place(order())

    assert ["MakeCall"] == [action for action, _ in line.cloud.asked]


async def test_a_proxy_of_the_environment_is_not_used(line: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where requests go is a matter of the configuration."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    assert Placed("job-1") == await line.aliyun.place(order())


async def test_a_cloud_that_is_not_there_placed_nothing(line: Account) -> None:
    """A connection that is refused is a definite no: another line may do."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        elsewhere = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(PlacementRefused) as refused:
            await line.adapter(baseUrl=elsewhere).place(order())

    assert (Refusal.LINE, "Unreachable") == (refused.value.refusal, refused.value.code)


async def test_requests_go_through_the_guard(line: Account) -> None:
    """The SDK asks by the session that it is given, so an address inside is refused when it is connected to."""
    async with guarded_session((), timeout=aiohttp.ClientTimeout(total=5)) as guarded:
        with pytest.raises(PlacementRefused) as refused:
            await line.adapter(http=guarded).place(order())

    assert (Refusal.LINE, "Unreachable") == (refused.value.refusal, refused.value.code)
    assert [] == line.cloud.asked


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        *((prefix, refusal) for prefix, refusal in REFUSALS),
        ("Throttling.User", Refusal.THROTTLED),
        ("InvalidOperation.UserState", Refusal.SEAT_OFFLINE),
        ("NotExists.InstanceId", Refusal.LINE),
        ("AbnormalService.Ceased", Refusal.LINE),
        ("NoPermission", Refusal.LINE),
        ("Something.New", Refusal.LINE),
    ],
)
async def test_a_refusal_is_classed(line: Account, code: str, refusal: Refusal) -> None:
    """Each error of the vendor means one of the ways in which a call is not placed; one that is not listed may have
    come after a telephone rang."""
    line.cloud.next_place("refuse", code)
    with pytest.raises(PlacementRefused) as refused:
        await line.aliyun.place(order())

    assert (refusal, code) == (refused.value.refusal, refused.value.code)
    assert (code not in {"AbnormalService.Ceased", "Something.New"}) is refused.value.known
    assert [] == line.cloud.placed


@pytest.mark.parametrize("status", [302, 408, 409, 425])
async def test_a_status_that_says_neither_yes_nor_no_leaves_everything_open(line: Account, status: int) -> None:
    """Whatever code stands beside it."""
    line.cloud.answers["MakeCall"] = web.json_response({"Code": "NoPermission"}, status=status)
    with pytest.raises(Uncertain):
        await line.aliyun.place(order())


@pytest.mark.parametrize(("state", "refusal"), [("OFFLINE", "seat_offline"), ("TALKING", "seat_busy")])
@pytest.mark.parametrize("status", [200, 400])
async def test_an_agent_who_cannot_call_is_offline_or_busy(
    line: Account, status: int, state: str, refusal: str
) -> None:
    """The state that the vendor tells decides, whatever the HTTP status: the code is what counts."""
    answer = {"Code": "InvalidOperation.UserState", "Message": "User state", "Params": [state, "READY"]}
    line.cloud.answers["MakeCall"] = web.json_response(answer, status=status)
    with pytest.raises(PlacementRefused) as refused:
        await line.aliyun.place(order())

    assert refusal == refused.value.refusal


async def test_throttling_is_definite_whatever_its_status(line: Account) -> None:
    """Who asked too often was not served."""
    line.cloud.answers["MakeCall"] = web.json_response({"Code": "Throttling.Api"}, status=503)
    with pytest.raises(PlacementRefused) as refused:
        await line.aliyun.place(order())

    assert Refusal.THROTTLED == refused.value.refusal


async def test_a_wrong_key_lies_with_the_line(line: Account) -> None:
    """The fake verifies signatures: another secret is found out."""
    with pytest.raises(PlacementRefused) as refused:
        await line.adapter(secret="another-secret").place(order())

    assert (Refusal.LINE, "SignatureDoesNotMatch") == (refused.value.refusal, refused.value.code)


async def test_a_call_is_hung_up(line: Account) -> None:
    """The call is ended on the agent's channel."""
    await line.aliyun.place(order())
    await line.aliyun.hang_up(reference())

    assert ["job-1"] == line.cloud.released
    assert {"InstanceId": INSTANCE, "JobId": "job-1", "UserId": SEAT.id} == line.cloud.asked[-1][1]


async def test_a_call_that_is_over_is_hung_up_already(line: Account) -> None:
    """The vendor knows no such call any more: that is a success."""
    await line.played("answered")
    await line.aliyun.hang_up(reference())

    assert [] == line.cloud.released


async def test_a_hang_up_may_be_refused(line: Account) -> None:
    """Another error than that the call is over is told."""
    line.cloud.answers["ReleaseCall"] = web.json_response({"Code": "NoPermission"}, status=403)
    with pytest.raises(PlacementRefused):
        await line.aliyun.hang_up(reference())


@pytest.mark.parametrize(
    "ask",
    [
        lambda adapter: adapter.hang_up(reference(None)),
        lambda adapter: adapter.mute(reference(None), on=True),
        lambda adapter: adapter.transfer(reference(None), "+8613700000002"),
    ],
)
async def test_a_call_without_an_id_cannot_be_controlled(
    line: Account, ask: Callable[[Aliyun], Awaitable[None]]
) -> None:
    """Of an order that was not answered the JobId is not known."""
    with pytest.raises(Uncertain):
        await ask(line.aliyun)


@pytest.mark.parametrize(("on", "action"), [(True, "MuteCall"), (False, "UnmuteCall")])
async def test_an_agent_is_muted(line: Account, on: bool, action: str) -> None:
    """The agent's channel is muted, and unmuted."""
    await line.aliyun.place(order())
    await line.aliyun.mute(reference(), on=on)

    assert (action, {"InstanceId": INSTANCE, "JobId": "job-1", "UserId": SEAT.id}) == line.cloud.asked[-1]


@pytest.mark.parametrize(
    ("to", "asked"),
    [
        ("+8613700000002", {"Transferee": "13700000002", "TransfereeType": "EXTERNAL_NUMBER", "Transferor": BROKER}),
        ("other@ccc-not-real", {"Transferee": "other@ccc-not-real", "TransfereeType": "AGENT"}),
    ],
)
async def test_a_customer_is_handed_on(line: Account, to: str, asked: dict[str, str]) -> None:
    """To another agent, or to a number outside, which sees one of the instance's."""
    await line.aliyun.place(order())
    await line.aliyun.transfer(reference(), to)

    assert ("BlindTransfer", {"InstanceId": INSTANCE, "JobId": "job-1", "UserId": SEAT.id} | asked) == (
        line.cloud.asked[-1]
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda adapter: adapter.hang_up(reference()),
        lambda adapter: adapter.mute(reference(), on=True),
        lambda adapter: adapter.transfer(reference(), "+8613700000002"),
    ],
)
async def test_a_back2back_call_has_no_controls(back2back: Account, ask: Callable[[Aliyun], Awaitable[None]]) -> None:
    """The vendor's controls work on an agent's channel, and such a call has none."""
    with pytest.raises(Unsupported):
        await ask(back2back.aliyun)

    assert frozenset() == back2back.aliyun.controls
    assert [] == back2back.cloud.asked


@pytest.mark.parametrize("story", OUTCOMES)
async def test_the_record_tells_how_a_call_ended(line: Account, story: Story) -> None:
    """The record is final evidence, with the vendor's words kept."""
    await line.played(story)
    told = await line.aliyun.look_up(reference())

    assert told is not None
    end = told[0].event
    assert isinstance(end, End)
    assert (*OUTCOMES[story], Evidence.PROVIDER_RECORD) == (end.outcome, end.cause, end.evidence)
    assert NOW + timedelta(minutes=1) == end.at
    answered = story == "answered"
    assert (TALKED if answered else None, answered) == (end.duration, end.has_recording)
    assert (NOW + timedelta(seconds=18) if answered else None) == end.started_at
    assert ("job-1", TAG) == (told[0].provider_call_id, told[0].tag)
    assert ([Recording(None)] if answered else []) == [fact.event for fact in told[1:]]


async def test_a_call_without_a_record_is_not_known(line: Account) -> None:
    """Neither one that never was, nor one that has no record yet."""
    await line.aliyun.place(order())

    assert await line.aliyun.look_up(reference("job-7")) is None
    assert await line.aliyun.look_up(reference("job-1")) is None


async def test_a_record_without_an_end_ends_nothing(line: Account) -> None:
    """A call that goes on was taken at least, whatever else its record says."""
    event = (await told_of(line, ReleaseTime="")).event

    assert isinstance(event, Progress)
    assert (Status.CALLING, Evidence.IN_CALL_SERVICE) == (event.status, event.evidence)


async def test_a_refused_question_says_nothing_of_the_call(line: Account) -> None:
    """With a wrong instance, or without permission, nobody knows."""
    with pytest.raises(Uncertain):
        await line.adapter(instanceId="another").look_up(reference())


async def test_a_call_without_an_id_is_found_by_what_was_ordered(line: Account) -> None:
    """Records do not hold our tag, but the agent, the number and the time."""
    await line.played("busy")
    told = await line.aliyun.look_up(reference(None))

    assert told is not None
    assert ("job-1", TAG) == (told[0].provider_call_id, told[0].tag)


async def test_a_back2back_call_is_found_by_its_telephones(back2back: Account) -> None:
    """Such a call has no agent; the telephone that was called first is its caller."""
    await back2back.played("busy")
    told = await back2back.aliyun.look_up(reference(None))

    assert told is not None
    assert "job-1" == told[0].provider_call_id


@pytest.mark.parametrize(
    "fields",
    [
        {"AgentIds": "other@ccc-not-real"},
        {"StartTime": int(NOW.timestamp() * 1000) + 3_600_000},
        {"StartTime": int(NOW.timestamp() * 1000) - 60_000},
        {"ContactType": "INBOUND"},
        {"CalledNumber": "13912345679"},
    ],
)
async def test_another_call_is_not_taken_for_this_one(line: Account, fields: dict[str, Any]) -> None:
    """Not one of another agent, of another time, or to another number; even if the vendor listed it."""
    listed = {"List": [record(**fields)], "TotalCount": 1}
    if "ContactType" in fields:
        line.cloud.other_records.append(record(**fields))
    else:
        line.cloud.answers["ListCallDetailRecordsV2"] = web.json_response({"Code": "OK", "Data": listed})

    assert await line.aliyun.look_up(reference(None)) is None


async def test_two_calls_that_could_be_it_are_one_too_many(line: Account) -> None:
    """To take the wrong one would be worse than not to know."""
    line.cloud.other_records += [record(ContactId="job-8"), record(ContactId="job-9")]
    with pytest.raises(Uncertain):
        await line.aliyun.look_up(reference(None))


async def test_records_are_read_by_pages(line: Account) -> None:
    """A call on the second page is found, and no page behind the last is asked for."""
    line.cloud.other_records += [record(ContactId=f"job-{n}", AgentIds="other@ccc-not-real") for n in range(120)]
    line.cloud.other_records.append(record(ContactId="job-121"))
    told = await line.aliyun.look_up(reference(None))

    assert told is not None
    assert "job-121" == told[0].provider_call_id
    assert ["1", "2"] == [asked["PageNumber"] for _, asked in line.cloud.asked]


async def test_no_more_than_a_few_pages_are_read(line: Account) -> None:
    """A look-up is bounded, however many calls there were."""
    line.cloud.other_records += [record(ContactId=f"job-{n}", AgentIds="other@ccc-not-real") for n in range(500)]

    assert await line.aliyun.look_up(reference(None)) is None
    assert aliyun.PAGES == len(line.cloud.asked)


@pytest.mark.parametrize(("word", "outcome", "cause"), [(word, *end) for word, end in DISPOSITIONS.items()])
async def test_a_disposition_is_mapped(line: Account, word: str, outcome: Outcome, cause: HangupCause) -> None:
    """Each ContactDisposition has an outcome and a cause."""
    established = record()["EstablishedTime"] if outcome is Outcome.CONNECTED else ""
    end = await ended(line, ContactDisposition=word, EstablishedTime=established, ReleaseReason="")

    assert (outcome, cause, word) == (end.outcome, end.cause, end.raw_cause)


@pytest.mark.parametrize(("word", "outcome", "cause"), [(word, *end) for word, end in EARLY_MEDIA.items()])
@pytest.mark.parametrize("disposition", ["NoAnswer", "Reject", "SomethingNew"])
async def test_an_announcement_is_more_exact(
    line: Account, disposition: str, word: str, outcome: Outcome, cause: HangupCause
) -> None:
    """Each EarlyMediaState says why a call was not answered, whatever else is said."""
    end = await ended(
        line, ContactDisposition=disposition, EarlyMediaState=word, EstablishedTime="", ReleaseReason="480 - Gone"
    )

    assert (outcome, cause) == (end.outcome, end.cause)
    assert f"{disposition}, {word}, 480 - Gone" == end.raw_cause


@pytest.mark.parametrize(("code", "outcome", "cause"), [(code, *end) for code, end in SIP.items() if code != "200"])
@pytest.mark.parametrize("form", ["{} - Some Reason", "{}:SOME_REASON"])
async def test_signalling_says_why_nobody_answered(
    line: Account, form: str, code: str, outcome: Outcome, cause: HangupCause
) -> None:
    """Each code, in both forms, tells a record that says no more than that nobody answered, and a live end."""
    end = await ended(line, ContactDisposition="NoAnswer", EstablishedTime="", ReleaseReason=form.format(code))
    live = only(line, event(eventType="Released", releaseReason=form.format(code))).event

    assert (outcome, cause) == (end.outcome, end.cause)
    assert isinstance(live, End)
    assert (outcome, cause) == (live.outcome, live.cause)


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"ContactDisposition": "SomethingNew"}, Outcome.CONNECTED),  # an outbound call's time of answer is proof
        ({"ContactDisposition": "SomethingNew", "ContactType": "BACK2BACK"}, Outcome.UNKNOWN),
        ({"ContactDisposition": "SomethingNew", "EstablishedTime": ""}, Outcome.UNKNOWN),
        ({"ContactDisposition": "Success", "EstablishedTime": ""}, Outcome.UNKNOWN),
        ({"ContactDisposition": "NoAnswer", "ReleaseReason": "200 - Okay"}, Outcome.MISSED),
        ({"ContactDisposition": "NoAnswer", "ReleaseReason": "999"}, Outcome.MISSED),
    ],
)
async def test_what_a_record_leaves_open_is_not_claimed(
    line: Account, fields: dict[str, Any], outcome: Outcome
) -> None:
    """A call is connected only where the disposition and a time say so; new words are kept raw."""
    end = await ended(line, **fields)

    assert outcome == end.outcome
    assert (end.raw_cause or "").startswith(fields["ContactDisposition"])


async def test_numbers_may_come_as_strings(line: Account) -> None:
    """The vendor's pages and models do not agree on types; no type makes a call endless."""
    begun = int(NOW.timestamp() * 1000)
    end = await ended(line, EstablishedTime=str(begun), ReleaseTime=str(begun + 60_000), CallDuration="42")

    assert (42, NOW, NOW + timedelta(minutes=1)) == (end.duration, end.started_at, end.at)


@pytest.mark.parametrize("time", ["", None, 10**18, "x", "²"])
async def test_a_time_that_is_none_is_no_end(line: Account, time: object) -> None:
    """Without a readable ReleaseTime nothing has ended."""
    assert isinstance((await told_of(line, ReleaseTime=time)).event, Progress)


LIVE = Evidence.IN_CALL_SERVICE
AT = datetime(2026, 11, 22, 9, 30, 18, 250_000, tzinfo=UTC)
AGENTS = f"ch:user:13912345678->80011474:1:{TAG}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"eventType": "Dialing"}, Progress(Status.CALLING, AT, LIVE)),
        ({"eventType": "Ringing"}, Progress(Status.RINGING, AT, LIVE)),
        ({"eventType": "Established"}, Progress(Status.CONNECTED, AT, LIVE)),
        ({"eventType": "AgentDialing", "channelId": None}, Progress(Status.CALLING, AT, LIVE)),
        ({"eventType": "AgentRinging", "channelId": None}, Progress(Status.CALLING, AT, LIVE)),
        ({"eventType": "AgentTalk", "channelId": None}, Heard("AgentTalk")),
        ({"eventType": "AgentRelease", "channelId": None}, Heard("AgentRelease")),
        ({"eventType": "Dialing", "channelId": AGENTS}, Progress(Status.CALLING, AT, LIVE)),
        ({"eventType": "Ringing", "channelId": AGENTS}, Progress(Status.CALLING, AT, LIVE)),
        ({"eventType": "Established", "channelId": AGENTS}, Heard("Established (agent)")),
        ({"eventType": "Released", "channelId": AGENTS}, Heard("Released (agent)")),
        ({"eventType": "CDRReady"}, Heard("CDRReady")),
        ({"eventType": "DualTrackRecordingReady"}, Heard("DualTrackRecordingReady")),
        ({"eventType": "SomethingNew"}, Heard("SomethingNew")),
    ],
)
async def test_an_event_is_mapped(line: Account, fields: dict[str, Any], expected: object) -> None:
    """Only the customer's channel says ringing or connected; what is not known is heard, and ends nothing."""
    told = only(line, event(**fields))

    assert expected == told.event
    assert ("job-1", TAG) == (told.provider_call_id, told.tag)


@pytest.mark.parametrize(
    ("fields", "side"),
    [
        ({"channelId": "19aafd79-ba0c-4102-8e58"}, "customer"),
        ({"channelId": "19aafd79-ba0c-4102-8e58", "agentId": SEAT.id}, "agent"),
        ({"channelId": "19aafd79-ba0c-4102-8e58", "callType": "BACK2BACK"}, "other"),
        ({"channelId": "19aafd79-ba0c-4102-8e58", "callType": "INTERNAL"}, "other"),
        ({"callType": "BACK2BACK"}, "customer"),
        ({"agentId": SEAT.id}, "customer"),
        ({"channelId": "ch:user:02160000001->+8613912345678:1:job-1"}, "customer"),
        ({"channelId": "ch:user:02160000001->13700000001:1:job-1", "callType": "BACK2BACK"}, "agent"),
        ({"callee": None, "agentId": SEAT.id}, "agent"),
        ({"scenario": "MONITORING"}, "other"),
        ({"mediaType": "CHAT"}, "other"),
    ],
)
async def test_whose_channel_it_is(line: Account, fields: dict[str, Any], side: str) -> None:
    """A channel's id tells where it leads, else an agent's names the agent; who is not sure claims no answer."""
    expected = Progress(Status.CONNECTED, AT, LIVE) if side == "customer" else Heard(f"Established ({side})")

    assert expected == only(line, event(**fields)).event


async def test_the_customers_release_is_a_live_end(line: Account) -> None:
    """It frees the line at once; the record, which is stronger, says how long the talk was."""
    body = event(eventType="Released", releaseReason="480 - Temporarily Unavailable", earlyMediaState="PowerOff")

    assert (
        End(
            outcome=Outcome.FAILED,
            at=AT,
            by="provider",
            evidence=Evidence.IN_CALL_SERVICE,
            cause=HangupCause.POWER_OFF,
            raw_cause="PowerOff, 480 - Temporarily Unavailable",
        )
        == only(line, body).event
    )


@pytest.mark.parametrize("reason", [None, "", "799 - What", "Okay", "20"])
async def test_an_unknown_reason_ends_a_call_all_the_same(line: Account, reason: str | None) -> None:
    """The end is known; how is left to the record, and the word is kept."""
    end = only(line, event(eventType="Released", releaseReason=reason)).event

    assert isinstance(end, End)
    assert (Outcome.UNKNOWN, HangupCause.UNKNOWN, reason or None) == (end.outcome, end.cause, end.raw_cause)


async def test_a_recording_is_offered_with_its_url(line: Account) -> None:
    """The URL goes to whoever fetches; in what is kept of the message it is struck out."""
    url = "https://not-real.oss-cn-shanghai.aliyuncs.com/job-1.wav?Signature=not-real"
    told = only(line, event(eventType="RecordingReady", downloadURL=url, fileName="job-1.wav", channelId=None))

    assert Recording(url, "job-1.wav") == told.event
    assert "***" == json.loads(told.raw)["downloadURL"]
    assert url.encode() not in told.raw


@pytest.mark.parametrize("time", ["2026-11-22T17:30:18.250+08:00", "2026-11-22T09:30:18.250", "2026-11-22 09:30:18.25"])
async def test_times_of_events_are_utc(line: Account, time: str) -> None:
    """A time without a zone is Greenwich's, as the vendor says."""
    told = only(line, event(eventTime=time)).event

    assert Progress(Status.CONNECTED, AT, LIVE) == told


@pytest.mark.parametrize("time", ["yesterday", "", "0001-01-01T00:00:00+23:59"])
async def test_an_unreadable_time_was_a_moment_ago(line: Account, time: str) -> None:
    """The fact is not lost with its time."""
    assert Progress(Status.CONNECTED, NOW, LIVE) == only(line, event(eventTime=time)).event


async def test_an_event_of_no_call_tells_nothing(line: Account) -> None:
    """An agent who signs in is none of our business."""
    assert [] == line.aliyun.read_webhook(webhook(event(eventType="AgentCheckIn", contactId=None)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 60_000,
        b" " * (aliyun.WEBHOOK_BOUND + 1),
        event(instanceId="another"),
        event(instanceId=None),
        event(contactId=7),
        event(contactId="j" * 129),
        event(eventType=None),
        event(tags="a\x00b"),
    ],
    ids=range(13),
)
async def test_what_is_no_event_is_refused(line: Account, body: bytes) -> None:
    """Forged for another instance, malformed, or too large."""
    with pytest.raises(WebhookRefused):
        line.aliyun.read_webhook(webhook(body))


async def test_a_repeat_is_known_by_its_key(line: Account) -> None:
    """The same event has the same key however it is written; another channel, type, time or call has another."""
    others = [
        event(channelId=AGENTS),
        event(eventType="Ringing"),
        event(eventTime="2026-11-22T09:30:18.251Z"),
        event(contactId="job-2"),
        b"nonsense",
    ]
    again = json.dumps(json.loads(event()), indent=2, sort_keys=True).encode()
    keys = [line.aliyun.key_of(webhook(body)) for body in (event(), *others)]

    assert len(set(keys)) == len(keys)
    assert keys[0] == line.aliyun.key_of(webhook(again)) == only(line, event()).once


async def test_a_recording_is_one_fact_however_it_is_told(line: Account) -> None:
    """The event and the record offer the same recording."""
    told = await line.played("answered")
    looked_up = await line.aliyun.look_up(reference())

    assert looked_up is not None
    assert [told[-1].once] == [fact.once for fact in looked_up if isinstance(fact.event, Recording)]


@functools.cache
def facts(story: Story, mode: Mode) -> tuple[Told, ...]:
    """All that the vendor tells of such a call, by webhook and by look-up."""

    async def told() -> tuple[Told, ...]:
        async with account(mode) as opened:
            live = await opened.played(story)
            final = await opened.aliyun.look_up(reference())
            return (*live, *(final or ()))

    return asyncio.run(told())


def kept(told: tuple[Told, ...] | list[Told]) -> CallState:
    """What becomes of a call of which this is told; when it first rang is known only to who hears it in order."""
    state = CallState(created_at=NOW)
    for fact in told:
        if isinstance(fact.event, Progress | End):
            moved = advance(state, fact.event, NOW + timedelta(minutes=2))
            state = moved.state if isinstance(moved, Moved) else state
    return msgspec.structs.replace(state, dialing_at=None, ringing_at=None, connected_evidence=None)


@pytest.mark.parametrize("mode", ["agent", "back2back"])
@pytest.mark.parametrize("story", OUTCOMES)
@given(data=st.data())
def test_order_and_repetition_change_nothing(story: Story, mode: Mode, data: st.DataObject) -> None:
    """Whatever order events and record come in, and however often, the call ends in the same record."""
    told = facts(story, mode)
    mixed = data.draw(st.permutations([*told, *data.draw(st.lists(st.sampled_from(told), max_size=5))]))

    assert kept(told) == kept(mixed)
    assert (Status.ENDED, *OUTCOMES[story]) == (kept(told).status, kept(told).outcome, kept(told).hangup_cause)
    assert (TALKED if story == "answered" else 0) == kept(told).duration


@pytest.mark.parametrize("mode", ["agent", "back2back"])
def test_the_agents_answer_is_not_the_customers(mode: Mode) -> None:
    """An agent who takes up the telephone connects nobody."""
    statuses = [fact.event.status for fact in facts("busy", mode) if isinstance(fact.event, Progress)]

    assert [Status.CALLING, Status.RINGING] == [status for status, _ in itertools.groupby(statuses)]


def _reader() -> Aliyun:
    async def made() -> Aliyun:
        async with account() as opened:
            return opened.aliyun

    return asyncio.run(made())


READER = functools.cache(_reader)

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))


@given(
    st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from([*json.loads(event()), "agentId", "scenario", "releaseReason", "downloadURL", "more"]),
        _VALUES | st.sampled_from(["Released", "Established", "RecordingReady", "CDRReady", INSTANCE]),
    ).map(lambda fields: json.dumps(json.loads(event()) | fields).encode(errors="surrogatepass"))
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """A hostile message is refused or tells something; it never breaks the reader."""
    try:
        told = READER().read_webhook(webhook(body))
    except WebhookRefused:
        told = []

    assert all(json.loads(fact.raw) for fact in told)
    assert READER().key_of(webhook(body))


async def test_a_recording_is_fetched_at_a_fresh_url(line: Account) -> None:
    """The URL is asked for when it is needed, for those in events expire."""
    await line.played("answered")
    url = await line.aliyun.recording_url(reference(), None)

    assert url is not None
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert (200, line.cloud.audio) == (response.status, await response.read())


async def test_a_recordings_url_expires(line: Account) -> None:
    """The fake serves no recording for ever, as the vendor does not."""
    line.cloud.recording_lives = -10
    await line.played("answered")
    url = await line.aliyun.recording_url(reference(), None)

    assert url is not None
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert 403 == response.status


async def test_a_recording_is_found_without_an_id(line: Account) -> None:
    """The call is looked up by what was ordered first."""
    await line.played("answered")

    assert "/recordings/job-1.wav?" in (await line.aliyun.recording_url(reference(None), None) or "")


@pytest.mark.parametrize("job", ["job-1", "job-7", None])
async def test_a_call_without_a_recording_has_no_url(line: Account, job: str | None) -> None:
    """Neither one that nobody answered nor one that is not known."""
    await line.played("busy", tag="another" if job is None else TAG)

    assert (
        await line.aliyun.recording_url(reference(job, callee="+8613900000000" if job is None else CALLEE), None)
        is None
    )


async def test_a_refused_recording_is_uncertain(line: Account) -> None:
    """A lack of permission does not say that there is no recording."""
    line.cloud.answers["GetMonoRecording"] = web.json_response({"Code": "NoPermission"}, status=403)
    with pytest.raises(Uncertain):
        await line.aliyun.recording_url(reference(), None)


async def test_an_account_is_tested(line: Account) -> None:
    """The instance tells its name; its balance is told elsewhere."""
    tested = await line.aliyun.test()

    assert "Not real (Normal): 1 numbers" == tested.message
    assert tested.latency_ms >= 0
    assert ["GetInstance"] == [action for action, _ in line.cloud.asked]
    assert await line.aliyun.balance() is None


async def test_a_test_of_a_wrong_account_is_refused(line: Account) -> None:
    """What the vendor has against it is told."""
    with pytest.raises(PlacementRefused) as refused:
        await line.adapter(instanceId="another").test()

    assert "NotExists.InstanceId" == refused.value.code


async def test_the_answer_to_a_webhook_is_a_success(line: Account) -> None:
    """The seed's answer, with status 200."""
    assert Reply(b'{"success":true}', "application/json", 200) == line.aliyun.reply()


@pytest.mark.parametrize("how", ["silent", "refuse", "garbage", "drop"])
async def test_no_secret_is_told(line: Account, how: Literal["silent", "refuse", "garbage", "drop"]) -> None:
    """Neither key nor customer's number is in an exception, what caused it, or a line of the log."""
    line.cloud.next_place(how, "NoPermission")
    with capture_logs() as lines, pytest.raises((PlacementRefused, Uncertain)) as raised:
        await line.adapter(deadline=2.0).place(order())
    told = "".join(traceback.format_exception(raised.value)) + repr(lines) + repr(raised.value)

    assert TAG in repr(lines)
    assert [] == [secret for secret in (KEY_ID, KEY_SECRET, "Signature=", "13912345678") if secret in told]


async def test_secrets_do_not_print(line: Account) -> None:
    """Not in a repr, which is what a log or a debugger shows; and an adapter's settings hold none."""
    settings, secrets = line.cloud.line()
    hidden = msgspec.convert(secrets, AliyunSecrets)
    told = repr(hidden) + str(hidden) + repr(msgspec.convert(settings, AliyunSettings)) + repr(line.aliyun)

    assert KEY_ID not in told
    assert KEY_SECRET not in told
