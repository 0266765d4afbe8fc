"""Custom providers: the two of the page are asked, understood and believed as it says, and nothing else is."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_network
from typing import Any, Literal
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from yarl import URL

from protocol.call import CallState, End, Evidence, HangupCause, Moved, Outcome, Progress, Status, advance
from server.providers import custom
from server.providers.custom import Custom, CustomSecrets, CustomSettings
from server.providers.custom_calls import without_secrets
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
from tests.clouds.cloud import Cloud, Story, WebhookRequestSpec
from tests.clouds.cloud import Sequence as Deliveries
from tests.clouds.custom import AUDIO, TALKED, Bellbird, Vendor, Yunhu, bellbird_cloud, described, yunhu_cloud
from tests.server.fake_origin import origin

TAG = "call_0123456789abcdef"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

OUTCOMES: dict[Story, tuple[Outcome, HangupCause | None]] = {
    "answered": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "no_answer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "busy": (Outcome.BUSY, HangupCause.USER_BUSY),
    "rejected": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "invalid": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
}


def changed(told: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings in which what a path such as `place__url` leads to is another, or is gone where it is None."""
    copy: dict[str, Any] = json.loads(json.dumps(told))
    for path, value in changes.items():
        *way, last = path.split("__")
        inner = copy
        for step in way:
            inner = inner[step]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return copy


def adapter(cloud: Bellbird | Yunhu, http: aiohttp.ClientSession, deadline: float = 10.0, **changes: Any) -> Custom:
    """An adapter of the cloud's line, or of one that is described otherwise."""
    told, hidden = cloud.line()
    return Custom(
        msgspec.convert(changed(told, **changes), CustomSettings),
        msgspec.convert(hidden, CustomSecrets),
        http,
        deadline=deadline,
    )


def unasked(vendor: Vendor = "bellbird", **changes: Any) -> Custom:
    """An adapter for what needs no vendor: nothing is asked, so there is no session."""
    told, hidden = described(vendor)
    nobody: Any = None
    return Custom(
        msgspec.convert(changed(told, **changes), CustomSettings), msgspec.convert(hidden, CustomSecrets), nobody
    )


class Account:
    """The two vendors alike: an adapter and the cloud that it speaks to."""

    def __init__(self, cloud: Bellbird | Yunhu, http: aiohttp.ClientSession) -> None:
        self.cloud = cloud
        self.http = http
        self.custom = adapter(cloud, http)

    async def placed(self, tag: str = TAG) -> CallReference:
        """A call that has been placed."""
        told = await self.custom.place(order(tag))
        return reference(tag, provider_call_id=told.provider_call_id)


@asynccontextmanager
async def account(vendor: Vendor) -> AsyncIterator[Account]:
    """A cloud, and an account there."""
    async with bellbird_cloud() as bellbird, yunhu_cloud() as yunhu, aiohttp.ClientSession() as http:
        yield Account(bellbird if vendor == "bellbird" else yunhu, http)


@pytest.fixture(params=["bellbird", "yunhu"])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Account]:
    """An account at either vendor."""
    async with account(request.param) as opened:
        yield opened


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that goes everywhere."""
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
async def bellbird() -> AsyncIterator[Bellbird]:
    """The vendor that has everything."""
    async with bellbird_cloud() as cloud:
        yield cloud


@pytest.fixture
async def yunhu() -> AsyncIterator[Yunhu]:
    """The vendor that has little."""
    async with yunhu_cloud() as cloud:
        yield cloud


@asynccontextmanager
async def answering(status: int, body: bytes | str, **headers: str) -> AsyncIterator[str]:
    """A vendor that always answers the same."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def order(tag: str = TAG, **parts: Any) -> Order:
    """An order to call a customer."""
    seat = Seat(id="8001", number="+8613800000000")
    return Order(tag=tag, **({"callee": "+8613912345678", "caller": None, "seat": seat} | parts))


def reference(tag: str = TAG, **parts: Any) -> CallReference:
    """The call of that order, as it is looked up."""
    parts = {
        "provider_call_id": None,
        "seat": Seat(id="8001", number="+8613800000000"),
        "extension": None,
        "callee": "+8613912345678",
        "ordered_at": datetime.now(UTC),
    } | parts
    return CallReference(tag=tag, **parts)


def webhook(request: WebhookRequestSpec, received_at: datetime | None = None) -> Webhook:
    """A message as it comes in."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    at = received_at or datetime.now(UTC)
    return Webhook(kind="", query=request.query, headers=headers, body=request.body, received_at=at)


async def played(account: Account, story: Story, deliveries: Deliveries = "right") -> list[list[Told]]:
    """What each message of a story tells, once the call is placed."""
    told: list[list[Told]] = []

    async def send(request: WebhookRequestSpec) -> None:
        told.append(account.custom.read_webhook(webhook(request)))

    await account.cloud.play(TAG, story, send=send, order=deliveries)
    return told


def ends(told: list[Told]) -> list[End]:
    """The ends among what was told."""
    return [each.event for each in told if isinstance(each.event, End)]


def test_it_has_the_faces_that_are_asked_for() -> None:
    """The adapter is a Provider, and both fakes are Clouds: mypy says so."""
    provider: Provider = unasked()
    clouds: list[Cloud] = [Bellbird(), Yunhu()]

    assert {"hang_up", "mute", "transfer"} == provider.controls
    assert {"hang_up"} == unasked("yunhu").controls
    assert [[], []] == [cloud.placed for cloud in clouds]


# --- placing ----------------------------------------------------------------------------------------------------------


async def test_an_order_is_placed_as_it_is_described(
    bellbird: Bellbird, yunhu: Yunhu, http: aiohttp.ClientSession
) -> None:
    """One takes JSON with a number that stays one, and answers an id; the other takes a form, and answers none."""
    assert Placed("c_1") == await adapter(bellbird, http).place(order(caller="+8675566834205", ring_timeout=45))
    assert Placed(None) == await adapter(yunhu, http).place(order())

    assert {
        "to": "+8613912345678",
        "callerId": "+8675566834205",
        "agent": {"number": "+8613800000000"},
        "ringSeconds": 45,
        "reference": TAG,
    } == bellbird.asked[0][2]
    time = yunhu.asked[0][2].pop("time")
    assert 14 == len(time)
    assert {"appId": "ent-1001", "agentNo": "8001", "tel": "13912345678", "userData": TAG} == yunhu.asked[0][2]


@pytest.mark.parametrize("code", sorted(described("bellbird")[0]["answer"]["codes"]))
async def test_every_code_has_its_class(bellbird: Bellbird, http: aiohttp.ClientSession, code: str) -> None:
    """A code is a refusal of the class that the settings tell, or leaves everything open; the vendor's text is left."""
    meaning = described("bellbird")[0]["answer"]["codes"][code]
    bellbird.next_place("refuse", code)

    with pytest.raises(Uncertain if meaning == "uncertain" else PlacementRefused) as refused:
        await adapter(bellbird, http).place(order())

    if isinstance(refused.value, PlacementRefused):
        assert (Refusal.LINE if meaning == "unknown_call" else Refusal(meaning), code) == (
            refused.value.refusal,
            refused.value.code,
        )
    assert "not done" not in str(refused.value)
    assert [] == bellbird.placed


@pytest.mark.parametrize("code", ["7777", "2002"])
async def test_a_code_may_come_with_any_status(yunhu: Yunhu, http: aiohttp.ClientSession, code: str) -> None:
    """The other vendor always answers 200; a code that is not in the map is the fault of the line."""
    yunhu.next_place("refuse", code)

    with pytest.raises(PlacementRefused) as refused:
        await adapter(yunhu, http).place(order())

    assert (Refusal.SEAT_BUSY if code == "2002" else Refusal.LINE, code) == (refused.value.refusal, refused.value.code)


@pytest.mark.parametrize(
    ("status", "body", "known"),
    [
        (503, b'{"error":{"code":"agent_busy"}}', True),
        (401, b"", True),
        (429, b"", True),
        (404, b"<html>", False),
        (400, b'{"error":{"code":"whatever"}}', False),
        (200, b'{"error":{"code":"whatever"}}', False),
    ],
)
async def test_what_the_settings_do_not_list_may_have_rung(
    http: aiohttp.ClientSession, status: int, body: bytes, known: bool
) -> None:
    """A code that is listed is known to come before anything rang, and so is a request that was not looked into."""
    async with answering(status, body) as url:
        told, hidden = described("bellbird")
        line = Custom(
            msgspec.convert({**told, "baseUrl": url}, CustomSettings), msgspec.convert(hidden, CustomSecrets), http
        )
        with pytest.raises(PlacementRefused) as refused:
            await line.place(order())

    assert known is refused.value.known


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_an_order_is_sent_once_whatever_its_method(method: str) -> None:
    """A vendor that takes the order and hangs up has it once: what HTTP calls idempotent rings a telephone here."""
    taken = []

    async def dropping(request: web.Request) -> web.Response:
        taken.append(request.method)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with (
        origin(dropping) as server,
        guarded_session((ip_network("127.0.0.0/8"),), timeout=aiohttp.ClientTimeout(total=20)) as guarded,
    ):
        told, hidden = described("bellbird")
        told = changed(told, baseUrl=f"http://127.0.0.1:{server.port}", place__method=method)
        told["place"].pop("json" if method == "GET" else "form", None)
        line = Custom(msgspec.convert(told, CustomSettings), msgspec.convert(hidden, CustomSecrets), guarded)
        with pytest.raises(Uncertain):
            await line.place(order())

    assert [method] == taken


@pytest.mark.parametrize("how", ["garbage", "drop"])
async def test_an_answer_that_cannot_be_read_leaves_everything_open(
    line: Account, how: Literal["garbage", "drop"]
) -> None:
    """The order was taken once, and is not sent again."""
    line.cloud.next_place(how)

    with pytest.raises(Uncertain):
        await line.custom.place(order())

    assert [TAG] == [call.tag for call in line.cloud.placed]
    assert 1 == len(line.cloud.asked)


async def test_silence_leaves_everything_open(line: Account) -> None:
    """When the deadline has come nobody knows, and nothing is sent again."""
    line.cloud.next_place("silent")

    with pytest.raises(Uncertain):
        await adapter(line.cloud, line.http, deadline=1.0).place(order())

    assert 1 == len(line.cloud.asked)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"", Uncertain),
        (200, b"{}", Uncertain),
        (200, b"[1]", Uncertain),
        (200, b'{"ok":true}', Uncertain),
        (200, b'{"ok":true,"call":{"id":{}}}', Uncertain),
        (200, b"[" * 100_000, Uncertain),
        (200, b'{"ok":"\xff"}', Uncertain),
        (200, b'{"error":{"code":"whatever"}}', "line"),
        (302, b"", Uncertain),
        (404, b"<html>", "line"),
        (408, b"", Uncertain),
        (409, b'{"error":{"code":"whatever"}}', Uncertain),
        (425, b"", Uncertain),
        (429, b"", "throttled"),
        (500, b"{}", Uncertain),
        (503, b'{"error":{"code":"agent_busy"}}', "seat_busy"),
        (502, b"<html>", Uncertain),
    ],
)
async def test_what_the_settings_do_not_tell_is_judged_with_care(
    http: aiohttp.ClientSession, status: int, body: bytes, expected: type[Exception] | str
) -> None:
    """A refusal is what says so; what says neither yes nor no leaves everything open."""
    async with answering(status, body, Location="https://elsewhere.example/") as url:
        told, hidden = described("bellbird")
        line = Custom(
            msgspec.convert({**told, "baseUrl": url}, CustomSettings), msgspec.convert(hidden, CustomSecrets), http
        )
        with pytest.raises((PlacementRefused, Uncertain)) as raised:
            await line.place(order())

    if isinstance(raised.value, PlacementRefused):
        assert expected == raised.value.refusal
    else:
        assert expected is Uncertain


async def test_an_answer_without_end_is_not_read_to_the_end(line: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than any answer has are not read; what became of the order nobody knows."""
    monkeypatch.setattr(custom, "ANSWER_BOUND", 5)

    with pytest.raises(Uncertain):
        await line.custom.place(order())


async def test_a_vendor_that_cannot_be_reached_was_asked_for_nothing(http: aiohttp.ClientSession) -> None:
    """A refused connection is a refusal: another line may do."""
    told, hidden = described("bellbird")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        told["baseUrl"] = f"http://127.0.0.1:{unused.getsockname()[1]}"
        line = Custom(msgspec.convert(told, CustomSettings), msgspec.convert(hidden, CustomSecrets), http)
        with pytest.raises(PlacementRefused) as refused:
            await line.place(order())

    assert (Refusal.LINE, "unreachable") == (refused.value.refusal, refused.value.code)


async def test_an_address_that_is_not_allowed_was_asked_for_nothing(bellbird: Bellbird) -> None:
    """The guarded session refuses to connect, which is a refusal too."""
    async with guarded_session(timeout=aiohttp.ClientTimeout(total=20)) as guarded:
        with pytest.raises(PlacementRefused) as refused:
            await adapter(bellbird, guarded).place(order())

    assert "unreachable" == refused.value.code
    assert [] == bellbird.asked


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"place__json__to": "{extension}"}, (Refusal.EXTENSION, "no extension")),
        ({"place__json__callerId": "{caller}"}, (Refusal.LINE, "no caller")),
        ({"place__url": "/v2/{extension}"}, (Refusal.EXTENSION, "no extension")),
    ],
)
async def test_a_value_that_is_missing_is_told_before_anything_is_asked(
    bellbird: Bellbird, http: aiohttp.ClientSession, changes: dict[str, Any], expected: tuple[Refusal, str]
) -> None:
    """There is no request to make."""
    with pytest.raises(PlacementRefused) as refused:
        await adapter(bellbird, http, **changes).place(order())

    assert expected == (refused.value.refusal, refused.value.code)
    assert [] == bellbird.asked


# --- requests ---------------------------------------------------------------------------------------------------------


async def sent(**changes: Any) -> tuple[web.BaseRequest, bytes]:
    """The request by which Bellbird's description, changed so, has a call placed whose tag is hostile."""
    seen: list[tuple[web.BaseRequest, bytes]] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append((request, await request.read()))
        return web.json_response({"ok": True, "call": {"id": "c_1"}})

    server = web.ServerRunner(web.Server(answer))
    await server.setup()
    try:
        await web.TCPSite(server, "127.0.0.1", 0).start()
        told, hidden = described("bellbird")
        told["baseUrl"] = f"http://127.0.0.1:{server.addresses[0][1]}/base"
        async with aiohttp.ClientSession() as http:
            line = Custom(
                msgspec.convert(changed(told, **changes), CustomSettings), msgspec.convert(hidden, CustomSecrets), http
            )
            await line.place(order('a/../b?c=d&e="{}'))
    finally:
        await server.cleanup()
    return seen[0]


async def test_values_cannot_break_out_of_where_they_stand() -> None:
    """A path stays a segment, a query a parameter, a form a field, and JSON a string."""
    hostile = 'a/../b?c=d&e="{}'
    request, body = await sent(place__url="/calls/{tag}/x", place__query={"tag": "{tag}", "n": "{timeout}"})

    assert "/base/calls/a%2F..%2Fb%3Fc%3Dd%26e%3D%22%7B%7D/x" == request.raw_path.partition("?")[0]
    assert {"tag": hostile, "n": "60"} == dict(request.query)
    assert hostile == json.loads(body)["reference"]
    assert "application/json" == request.headers["Content-Type"]
    request, body = await sent(place__json=None, place__form={"tag": "{tag}"})
    assert urlencode({"tag": hostile}).encode() == body
    assert "application/x-www-form-urlencoded" == request.headers["Content-Type"]


async def test_a_value_of_dots_does_not_climb() -> None:
    """An id that a message told must not lead to another function of the vendor."""
    with pytest.raises(PlacementRefused):
        await unasked().transfer(reference(provider_call_id=".."), "+8613900000000")


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    """It would be another header."""
    with pytest.raises(PlacementRefused, match="header X-Tag"):
        await unasked(place__headers={"X-Tag": "{tag}"}).place(order("a\r\nX: y"))


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"type": "bearer", "token": "{secret.key}"}, "Bearer bell-secret-not-real"),
        (
            {"type": "basic", "user": "{secret.keyId}", "password": "{secret.key}"},
            "Basic " + base64.b64encode(b"bell-key-not-real:bell-secret-not-real").decode(),
        ),
    ],
)
async def test_a_request_may_show_a_token_or_a_password(auth: dict[str, str], expected: str) -> None:
    """As RFC 6750 and RFC 7617 say."""
    request, _ = await sent(auth=auth, signing=None)

    assert expected == request.headers["Authorization"]


@pytest.mark.parametrize("put_into", ["header", "query", "body"])
@pytest.mark.parametrize("algorithm", ["hmac-sha256", "hmac-sha512", "hmac-sha1", "hmac-md5", "sha256", "sha1", "md5"])
async def test_every_signature_is_put_where_it_belongs(put_into: str, algorithm: str) -> None:
    """Keyed or plain, in a header, the query or the body."""
    keyed, hashed = algorithm.startswith("hmac"), algorithm.removeprefix("hmac-")
    digest = (
        hmac.new(b"bell-secret-not-real", b"60|POST", hashed).digest()
        if keyed
        else hashlib.new(hashed, b"60|POST|bell-secret-not-real").digest()
    )
    signing = {
        "algorithm": algorithm,
        **({"key": "{secret.key}"} if keyed else {}),
        "text": "60|{method}" if keyed else "60|{method}|{secret.key}",
        "encoding": "base64",
        "putInto": put_into,
        "name": "X-Sign",
        "value": "v1 {signature}",
    }

    bodiless = ("hangUp", "mute", "unmute", "lookUp", "lookUpByTag", "recording", "balance", "test")

    request, body = await sent(signing=signing, **{f"{operation}__signed": False for operation in bodiless})

    found = {
        "header": request.headers.get("X-Sign"),
        "query": request.query.get("X-Sign"),
        "body": json.loads(body).get("X-Sign"),
    }
    assert "v1 " + base64.b64encode(digest).decode() == found.pop(put_into)
    assert [None, None] == list(found.values())


async def test_an_operation_may_go_unsigned_and_elsewhere() -> None:
    """Its own URL is asked, and nothing is signed."""
    request, _ = await sent(place__signed=False)

    assert "Authorization" not in request.headers
    assert {"https://api.bellbird.example/", "http://files.example:8080/"} == msgspec.convert(
        changed(described("bellbird")[0], recording__url="http://files.example:8080/r/{recordingName}"), CustomSettings
    ).hosts


# --- controls ---------------------------------------------------------------------------------------------------------


async def test_a_call_is_controlled(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """Each control is the request that is described."""
    line = adapter(bellbird, http)
    call = reference(provider_call_id=(await line.place(order())).provider_call_id)

    await line.mute(call, on=True)
    await line.mute(call, on=False)
    await line.transfer(call, "+8613900000000")
    await line.hang_up(call)

    assert [
        ("POST", "/v2/calls/c_1/mute", {}),
        ("POST", "/v2/calls/c_1/unmute", {}),
        ("POST", "/v2/calls/c_1/transfer", {"to": "+8613900000000"}),
        ("DELETE", "/v2/calls/c_1", {}),
    ] == bellbird.asked[1:]


async def test_hanging_up_what_is_over_is_a_success(line: Account) -> None:
    """The vendor says that it knows no such call (any more)."""
    call = await line.placed()
    await line.custom.hang_up(call)
    await played(line, "answered")

    await line.custom.hang_up(call)


async def test_other_controls_of_what_is_over_are_refused(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """There is nobody to be muted or handed on."""
    line = adapter(bellbird, http)

    for control in (line.mute(reference(provider_call_id="c_9"), on=True), line.transfer(reference(tag="x"), "8002")):
        with pytest.raises((PlacementRefused, Uncertain)):
            await control


async def test_a_call_whose_id_is_not_known_cannot_be_controlled_by_it() -> None:
    """Nothing is asked: by our tag the vendor cannot end it."""
    with pytest.raises(Uncertain):
        await unasked().hang_up(reference())


async def test_what_is_not_described_is_not_supported() -> None:
    """And nothing is asked."""
    line = unasked("yunhu")

    for control in (line.mute(reference(), on=True), line.mute(reference(), on=False), line.transfer(reference(), "8")):
        with pytest.raises(Unsupported):
            await control
    assert None is await line.balance()
    with pytest.raises(Unsupported):
        await unasked(hangUp=None).hang_up(reference())


async def test_the_account_is_tested_and_its_balance_told(line: Account) -> None:
    """By the harmless request, and the path to an amount."""
    assert 0 <= (await line.custom.test()).latency_ms
    assert (Decimal("12.50") if isinstance(line.cloud, Bellbird) else None) == await line.custom.balance()


async def test_a_balance_that_is_none_is_not_told(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """What is no amount leaves it open."""
    for path in ("account.nothing", "ok"):
        with pytest.raises(Uncertain):
            await adapter(bellbird, http, balance__amount=path).balance()


async def test_wrong_credentials_are_told_by_the_test(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """The vendor verifies the signature, and the line is at fault."""
    told, hidden = bellbird.line()
    hidden["values"]["key"] = "another-not-real"
    line = Custom(msgspec.convert(told, CustomSettings), msgspec.convert(hidden, CustomSecrets), http)

    with pytest.raises(PlacementRefused) as refused:
        await line.test()

    assert (Refusal.LINE, "bad_signature") == (refused.value.refusal, refused.value.code)


# --- looking up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", OUTCOMES)
async def test_a_lost_message_is_found_by_looking_up(line: Account, story: Story) -> None:
    """By the vendor's id or by our tag, the call's end is told as the message would have told it."""
    call = await line.placed()
    whole = [told for message in await played(line, story) for told in message]

    found = await line.custom.look_up(call)
    by_tag = await line.custom.look_up(reference())

    assert found is not None
    assert by_tag is not None
    assert [ends(whole)[-1]] == ends(found) == ends(by_tag)
    assert {TAG} == {each.tag for each in (*found, *by_tag)}
    assert {each.once for each in by_tag} == {each.once for each in found} <= {each.once for each in whole}
    outcome, cause = OUTCOMES[story]
    assert outcome is ends(found)[0].outcome
    assert ends(found)[0].cause in {cause, None, HangupCause.UNKNOWN}
    assert Evidence.PROVIDER_RECORD is ends(found)[0].evidence


async def test_a_call_that_is_not_known_is_none(line: Account) -> None:
    """The vendor says so, or its list does not have it."""
    assert None is await line.custom.look_up(reference("call_nobody"))


async def test_a_live_call_is_read(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """Before it is over there is its state."""
    line = adapter(bellbird, http)
    call = reference(provider_call_id=(await line.place(order())).provider_call_id)
    told: dict[str, list[Told] | None] = {}
    for state in ("dialing", "ringing", "talking", "parked"):
        bellbird.calls["c_1"]["state"] = state
        told[state] = await line.look_up(call)

    events = [each.event for heard in told.values() for each in heard or ()]
    assert [Status.CALLING, Status.RINGING, Status.CONNECTED] == [
        event.status for event in events if isinstance(event, Progress)
    ]
    assert Heard("parked") == events[-1]


async def test_pages_are_read_until_the_call_is_found(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """And no more than the settings say: then nobody knows."""
    line = adapter(bellbird, http)
    for number in range(8):
        await line.place(order(f"call_{number}"))

    found = await line.look_up(reference("call_5"))

    assert found is not None
    assert {"c_6"} == {each.provider_call_id for each in found}
    with pytest.raises(Uncertain):
        await line.look_up(reference("call_7"))
    assert None is await adapter(bellbird, http, lookUpByTag__pages=10).look_up(reference("call_nobody"))


async def test_a_look_up_that_fails_says_nothing(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """An error is not that there is no such call, nor is a 404 by itself."""
    line = adapter(bellbird, http)
    bellbird.refusals["GET /v2/calls/c_1"] = (404, "not_found")

    with pytest.raises(Uncertain):
        await line.look_up(reference(provider_call_id="c_1"))
    with pytest.raises(Uncertain):
        await unasked(lookUpByTag=None).look_up(reference())


async def test_a_call_is_not_taken_for_another(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """What the vendor answers must have the tag, or the id, that was asked for."""
    line = adapter(bellbird, http, lookUp__url="/v2/calls/c_1")
    await line.place(order("call_other"))

    assert None is await line.look_up(reference(provider_call_id="c_2"))


async def test_a_recording_is_asked_for_by_name(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """The link that is told once expires; there is a fresh one as long as the vendor keeps the recording."""
    opened = Account(bellbird, http)
    call = await opened.placed()
    assert None is await opened.custom.recording_url(call, "rec_c_1")
    (*_, last) = await played(opened, "answered")
    (offer,) = [each.event for each in last if isinstance(each.event, Recording)]
    bellbird.void_links()

    url = await opened.custom.recording_url(call, offer.name)

    assert url is not None
    async with http.get(url) as response:
        assert AUDIO == await response.read()


async def test_a_link_that_is_none_is_not_told(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """And of an answer that is no JSON nobody knows whether the call is in it."""
    line = adapter(bellbird, http, recording__url="/v2/account", recording__link="account.balance")
    assert None is await line.recording_url(reference(), "rec_c_1")

    async with answering(200, "<html>") as url:
        lost = adapter(bellbird, http, baseUrl=url, lookUp__answer={}, lookUpByTag__answer={})
        with pytest.raises(Uncertain):
            await lost.look_up(reference(provider_call_id="c_1"))
        with pytest.raises(Uncertain):
            await lost.look_up(reference())


async def test_a_list_that_is_too_long_is_not_searched(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """A page has at most a thousand calls; a list that is missing, or null, has none."""
    line = adapter(bellbird, http)
    for number in range(3):
        await line.place(order(f"call_{number}"))
    bellbird.page_size = 1001
    bellbird.calls |= {f"x_{number}": bellbird.calls["c_1"] for number in range(1000)}

    with pytest.raises(Uncertain, match="1000"):
        await line.look_up(reference("call_2"))
    assert None is await adapter(bellbird, http, lookUpByTag__each="nothing").look_up(reference("call_2"))
    with pytest.raises(Uncertain):
        await adapter(bellbird, http, lookUp__url="/v2/calls", lookUp__query={}).look_up(
            reference(provider_call_id="c_1", tag="call_nobody")
        )


async def test_a_recording_is_found_by_looking_up(yunhu: Yunhu, http: aiohttp.ClientSession) -> None:
    """Where there is no request for a link."""
    opened = Account(yunhu, http)
    call = await opened.placed()
    assert None is await opened.custom.recording_url(call, None)
    await played(opened, "answered")

    url = await opened.custom.recording_url(call, None)

    assert url == yunhu.rows[0]["recordFile"]


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_a_story_is_told_by_messages(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """Live signals rank below the record, which tells the talk and the recording."""
    opened = Account(bellbird, http)
    await opened.placed()

    (begun, answered, hangup, record) = await played(opened, "answered")

    assert [Status.CALLING, Status.RINGING, Status.CONNECTED] == [
        each.event.status for each in (*begun, *answered) if isinstance(each.event, Progress)
    ]
    assert [Evidence.IN_CALL_SERVICE] == [end.evidence for end in ends(hangup)]
    (end,) = ends(record)
    assert (Outcome.CONNECTED, TALKED, "normal", Evidence.PROVIDER_RECORD, True) == (
        end.outcome,
        end.duration,
        end.raw_cause,
        end.evidence,
        end.has_recording,
    )
    assert [("rec_c_1", True)] == [
        (each.event.name, bool(each.event.url)) for each in record if isinstance(each.event, Recording)
    ]
    assert {("c_1", TAG)} == {(each.provider_call_id, each.tag) for each in (*begun, *answered, *hangup, *record)}


@pytest.mark.parametrize("vendor", ["bellbird", "yunhu"])
@pytest.mark.parametrize("story", OUTCOMES)
async def test_any_order_and_repetition_ends_in_the_same_record(vendor: Vendor, story: Story) -> None:
    """Messages and a look-up, in any order and repeated, make the same call: how it ended, when, and the talk."""
    async with account(vendor) as opened:
        call = await opened.placed()
        told = [each for message in await played(opened, story) for each in message]
        told += await opened.custom.look_up(call) or []
    now = datetime.now(UTC)
    events = list(dict.fromkeys(each.event for each in told if isinstance(each.event, End | Progress)))

    def ended(arrivals: tuple[End | Progress, ...]) -> tuple[object, ...]:
        state = CallState(created_at=now - timedelta(hours=1), dialing_at=now - timedelta(hours=1))
        for event in (*arrivals, *arrivals):
            match advance(state, event, now):
                case Moved(moved):
                    state = moved
        return (
            *(state.status, state.outcome, state.hangup_cause, state.raw_cause, state.evidence),
            *(state.connected_at, state.ended_at, state.duration, state.has_recording),
        )

    assert 1 == len({ended(arrivals) for arrivals in itertools.permutations(events)})


async def test_the_agents_leg_moves_nothing(bellbird: Bellbird) -> None:
    """Where `only` does not hold, the message is heard and no more."""
    event = {"type": "call.answered", "leg": "agent", "at": "2026-11-22T09:30:00Z", "call": {"id": "c_1"}}

    (told,) = unasked().read_webhook(webhook(bellbird.message([event])))

    assert Heard("another leg: call.answered") == told.event


async def test_an_unknown_word_moves_nothing(bellbird: Bellbird) -> None:
    """It is kept as it is; what names no call is passed over, and what is no event too."""
    events: list[Any] = [
        {"type": "call.parked", "leg": "customer", "call": {"reference": TAG}},
        {"type": "call.parked", "leg": "customer"},
        "odd",
    ]

    (told,) = unasked().read_webhook(webhook(bellbird.message(events)))

    assert (Heard("call.parked"), TAG, None) == (told.event, told.tag, told.provider_call_id)
    assert events[0] == json.loads(told.raw)


def ended_so(**row: str) -> End:
    """The end that a record of Yunhu's tells."""
    fields = {"userData": TAG, "hangup": "20261122173004"} | row
    (end,) = ends(unasked("yunhu").read_webhook(webhook(Yunhu().message(fields))))
    return end


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"answer": "20261122172904", "result": "2"}, (Outcome.CONNECTED, HangupCause.UNKNOWN)),
        ({"billSec": "7"}, (Outcome.CONNECTED, None)),
        ({"billSec": "7", "result": "0"}, (Outcome.CONNECTED, None)),
        ({"billSec": "0", "result": "77"}, (Outcome.FAILED, HangupCause.UNKNOWN)),
        ({"answer": "00000000000000", "result": "77"}, (Outcome.UNKNOWN, HangupCause.UNKNOWN)),
        ({"answer": "19700101080000", "billSec": "nan", "result": "3"}, (Outcome.REJECTED, None)),
        ({}, (Outcome.UNKNOWN, HangupCause.UNKNOWN)),
    ],
)  # fmt: skip
def test_an_end_is_weighed(row: dict[str, str], expected: tuple[Outcome, HangupCause | None]) -> None:
    """An answer counts for more than a cause; without either, a talk of 0 is a failure, and nothing is nothing."""
    end = ended_so(**row)

    assert expected == (end.outcome, end.cause)
    assert row.get("result") == end.raw_cause


def test_a_status_may_tell_the_outcome_itself() -> None:
    """Then it is believed."""
    statuses = {"": {"status": "ended", "outcome": "cancelled", "cause": "CANCELLED"}}
    line = unasked("yunhu", webhooks__calls__statuses=statuses)

    (end,) = ends(line.read_webhook(webhook(Yunhu().message({"userData": TAG, "billSec": "9"}))))

    assert (Outcome.CANCELLED, HangupCause.CANCELLED, None) == (end.outcome, end.cause, end.duration)


@pytest.mark.parametrize(
    ("times", "told", "expected"),
    [
        ({"format": "epoch"}, "1795339804", NOW.replace(second=4)),
        ({"format": "epoch_ms"}, "1795339804000", NOW.replace(second=4)),
        ({"format": "rfc3339"}, "2026-11-22T17:30:04+08:00", NOW.replace(second=4)),
        ({"format": "rfc3339"}, "2026-11-22 17:30:04", NOW.replace(second=4)),
        ({"format": "rfc3339", "zone": "UTC"}, "2026-11-22T09:30:04", NOW.replace(second=4)),
        ({"format": "%d/%m/%y %H:%M:%S", "zone": "Asia/Jakarta"}, "22/11/26 16:30:04", NOW.replace(second=4)),
        ({"format": "%Y-%m-%d %H:%M:%S %z"}, "2026-11-22 09:30:04 +0000", NOW.replace(second=4)),
        ({"format": "epoch"}, "0", NOW),
        ({"format": "epoch"}, "1e300", NOW),
        ({"format": "epoch"}, "nan", NOW),
        ({"format": "rfc3339"}, "0001-01-01", NOW),
        ({"format": "rfc3339"}, "soon", NOW),
    ],
)
def test_times_are_read_as_they_are_written(times: dict[str, str], told: str, expected: datetime) -> None:
    """What is no time is none: then the end is when it was heard."""
    line = unasked("yunhu", webhooks__calls__times=times)

    (end,) = ends(line.read_webhook(webhook(Yunhu().message({"userData": TAG, "hangup": told}), NOW)))

    assert expected == end.at


def test_talk_may_be_told_in_milliseconds() -> None:
    """Seconds are whole; what is too long to be a duration is none."""
    line = unasked("yunhu", webhooks__calls__durationUnit="ms")

    def talk(told: str) -> int | None:
        return ends(line.read_webhook(webhook(Yunhu().message({"userData": TAG, "billSec": told, "result": "0"}))))[
            0
        ].duration

    assert [42, 1, None, None, None] == [talk(told) for told in ("42999", "1000.5", "1795339804000", "-1", "inf")]


# --- who sent it ------------------------------------------------------------------------------------------------------


def refused(line: Custom, message: Webhook) -> str:
    """Why a message is refused."""
    with pytest.raises(WebhookRefused) as raised:
        line.read_webhook(message)
    return str(raised.value)


def _plain_sha1(data: bytes) -> str:
    digest = hashlib.sha1(data, usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


EVENT = {"type": "call.ringing", "leg": "customer", "at": "2026-11-22T09:30:00Z", "call": {"id": "c_1"}}


async def test_a_forged_message_is_refused(bellbird: Bellbird) -> None:
    """Another key, another body, another time, half a signature or none."""
    line, right = unasked(), bellbird.message([EVENT], at=NOW)
    time, digest = right.headers["bell-signature"].split(",v1=")

    def shown(signature: str | None, body: bytes = right.body, at: datetime = NOW) -> Webhook:
        headers = {} if signature is None else {"bell-signature": signature}
        return webhook(WebhookRequestSpec(headers=headers, body=body), at)

    assert [] != line.read_webhook(shown(f"{time},v1={digest}"))
    assert [] != line.read_webhook(shown(f"{time}, v1=00, v1={digest.upper()}"))
    for wrong in (
        webhook(bellbird.message([EVENT], at=NOW, key="another-not-real"), NOW),
        shown(f"{time},v1={digest}", right.body + b" "),
        shown(f"t=1,v1={digest}"),
        shown(f"{time},v2={digest}"),
        shown(f"{time},v1={digest[:-2]}"),
        shown(f"{time},v1="),
        shown(f"v1={digest}"),
        shown("中,\ud800"),
        shown(""),
        shown(None),
    ):
        assert "the signature is not the provider's" == refused(line, wrong)


async def test_an_old_message_is_refused(bellbird: Bellbird) -> None:
    """What was signed more than the tolerance away from now may be a recording of what was once right."""
    line, right = unasked(), bellbird.message([EVENT], at=NOW)

    for seconds in (-300, 300):
        assert [] != line.read_webhook(webhook(right, NOW + timedelta(seconds=seconds)))
    for seconds in (-301, 301):
        assert "another time" in refused(line, webhook(right, NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize(
    ("verify", "headers"),
    [
        (
            # Standard Webhooks: several signatures, a key in base64, id and time in headers
            {
                "type": "signature", "shown": "{header.webhook-signature}", "algorithm": "hmac-sha256",
                "key": "{secret.std}", "keyEncoding": "base64", "encoding": "base64",
                "text": "{header.webhook-id}.{header.webhook-timestamp}.{body}",
                "time": {"value": "{header.webhook-timestamp}"},
            },
            lambda body: {
                "webhook-id": "msg_1",
                "webhook-timestamp": "1795339800",
                "webhook-signature": "v1,AAAA v1,"
                + base64.b64encode(
                    hmac.new(b"std-key-not-real", b"msg_1.1795339800." + body, hashlib.sha256).digest()
                ).decode(),
            },
        ),
        (
            {
                "type": "signature", "shown": "{header.X-Hub-Signature-256}", "prefix": "sha256=",
                "algorithm": "hmac-sha256", "key": "{secret.key}",
            },
            lambda body: {
                "x-hub-signature-256": "sha256=" + hmac.new(b"bell-secret-not-real", body, hashlib.sha256).hexdigest()
            },
        ),
        (
            {
                "type": "signature", "shown": "{header.x-sign}", "algorithm": "sha1", "encoding": "base64url",
                "text": "{secret.key}{body}",
            },
            lambda body: {"x-sign": _plain_sha1(b"bell-secret-not-real" + body)},
        ),
        (
            {"type": "token", "shown": "{header.Authorization}", "expected": "Bearer {secret.key}"},
            lambda _: {"authorization": "Bearer bell-secret-not-real"},
        ),
        ({"type": "none"}, lambda _: {}),
    ],
    ids=["standard webhooks", "github", "plain digest", "bearer", "none"],
)  # fmt: skip
def test_vendors_sign_in_many_ways(verify: dict[str, Any], headers: Callable[[bytes], dict[str, str]]) -> None:
    """Each of them is believed if it is right, and not if a letter is another."""
    told, hidden = described("bellbird")
    hidden["values"]["std"] = base64.b64encode(b"std-key-not-real").decode()
    nobody: Any = None
    line = Custom(
        msgspec.convert(changed(told, webhooks__verify=verify), CustomSettings),
        msgspec.convert(hidden, CustomSecrets),
        nobody,
    )
    body = json.dumps({"events": [EVENT]}).encode()
    right = headers(body)

    assert [] != line.read_webhook(webhook(WebhookRequestSpec(headers=right, body=body), NOW))
    for name in right:
        wrong = {**right, name: right[name][:-4] + "x" + right[name][-3:]}
        assert "the" in refused(line, webhook(WebhookRequestSpec(headers=wrong, body=body), NOW))


def test_fields_of_a_query_may_be_signed() -> None:
    """Sorted, without empty ones and without the signature itself; in the way of many Chinese vendors."""
    verify = {
        "type": "signature",
        "shown": "{field.sign}",
        "algorithm": "md5",
        "text": "{fields}&key={secret.appKey}",
    }
    line = unasked("yunhu", webhooks__verify=verify, webhooks__format="query")
    text = f"hangup=20261122173004&userData={TAG}&名=中&key=yunhu-key-not-real"
    query = {"userData": TAG, "名": "中", "empty": "", "hangup": "20261122173004"}
    query["sign"] = hashlib.new("md5", text.encode(), usedforsecurity=False).hexdigest()

    assert [] != line.read_webhook(webhook(WebhookRequestSpec(query=query, body=b"", method="GET")))
    wrong = {**query, "userData": "call_other"}
    assert "signature" in refused(line, webhook(WebhookRequestSpec(query=wrong, body=b"", method="GET")))


def test_a_field_is_not_left_unsigned_because_a_header_has_its_name() -> None:
    """Only the field that shows the signature is no part of what is signed."""
    verify = {
        "type": "signature",
        "shown": "{header.userData}",
        "algorithm": "hmac-sha256",
        "key": "{secret.appKey}",
        "text": "{fields}",
    }
    line = unasked("yunhu", webhooks__verify=verify)
    sign = hmac.new(b"yunhu-key-not-real", b"userData=call_a", hashlib.sha256).hexdigest()

    def message(tag: str) -> Webhook:
        return webhook(WebhookRequestSpec(headers={"userdata": sign}, body=urlencode({"userData": tag}).encode()))

    assert [] != line.read_webhook(message("call_a"))
    assert "signature" in refused(line, message("call_b"))


def test_a_token_may_stand_in_the_query() -> None:
    """For vendors that can send no headers."""
    line = unasked("yunhu", webhooks__verify={"type": "token", "shown": "{query.t}", "expected": "{secret.pushToken}"})

    def message(token: str) -> Webhook:
        return webhook(WebhookRequestSpec(query={"t": token}, body=urlencode({"userData": TAG}).encode()))

    assert [] != line.read_webhook(message("yunhu-push-not-real"))
    assert "secret" in refused(line, message("another"))


def test_a_key_that_is_not_encoded_as_it_is_said_to_be_opens_nothing() -> None:
    """The settings are wrong, and no message is believed."""
    line = unasked(webhooks__verify__keyEncoding="hex")

    assert "key" in refused(line, webhook(Bellbird().message([EVENT])))


def test_a_wrong_token_is_refused() -> None:
    """Another, a longer one, or none."""
    for shown in ("", "yunhu-push-not-rea", "yunhu-push-not-real2", "中"):
        message = Yunhu().message({"userData": TAG}, shown)
        assert "secret" in refused(unasked("yunhu"), webhook(message))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":1' + b"0" * 5000 + b"}", b'{"events":"\xff"}', b" " * (256 * 1024 + 1)],
    ids=range(7),
)
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    """Nonsense, nests, other encodings and what is too large."""
    refused(unasked(webhooks__verify={"type": "none"}), webhook(WebhookRequestSpec(body=body)))


def test_messages_are_bounded() -> None:
    """In their events, and in the fields of a form."""
    line = unasked(webhooks__verify={"type": "none"})
    many = json.dumps({"events": [EVENT] * 201}).encode()

    assert "events" in refused(line, webhook(WebhookRequestSpec(body=many)))
    assert "describe" in refused(unasked("yunhu"), webhook(Yunhu().message({f"f{n}": "x" for n in range(201)})))


async def test_a_repeated_message_has_the_same_key(bellbird: Bellbird) -> None:
    """The vendor's id of the message, from its body or a header; else a digest of what was said."""
    message = bellbird.message([EVENT])
    header = unasked(webhooks__keyHeader="X-Delivery")
    digest = unasked(webhooks__key=None)
    none = WebhookRequestSpec(body=b"\xff")

    assert "d_1" == unasked().key_of(webhook(message))
    assert "7" == header.key_of(webhook(WebhookRequestSpec(headers={"x-delivery": "7"}, body=message.body)))
    assert hashlib.sha256(b"()" + message.body).hexdigest() == digest.key_of(webhook(message))
    assert 64 == len(unasked().key_of(webhook(none))) == len(header.key_of(webhook(none)))
    query = unasked("yunhu", webhooks__format="query")
    one, other = (webhook(WebhookRequestSpec(query={"userData": tag}, body=b"")) for tag in "ab")
    assert query.key_of(one) != query.key_of(other)


def test_the_reply_is_the_one_of_the_settings() -> None:
    """Without messages there is nothing to reply to."""
    assert Reply(b'{"received":true}', "application/json") == unasked().reply()
    assert Reply(b"success", "text/plain") == unasked("yunhu").reply()
    silent = unasked(webhooks=None)
    assert Reply(b"", "text/plain") == silent.reply()
    assert "describe no messages" in refused(silent, webhook(WebhookRequestSpec(body=b"{}")))
    with pytest.raises(WebhookRefused):
        silent.key_of(webhook(WebhookRequestSpec(body=b"{}")))


_text = st.text() | st.text(alphabet=st.characters())
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_json = st.recursive(_scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
_call = st.dictionaries(
    st.sampled_from(["id", "reference", "answeredAt", "endedAt", "talkSeconds", "cause", "recording"]), _json
)
_event = st.fixed_dictionaries(
    {"type": st.sampled_from(["call.ringing", "call.answered", "call.record"]) | _text, "leg": st.just("customer")},
    optional={"at": _json, "call": _call | _json},
)
_bodies = st.binary() | st.builds(
    lambda events: json.dumps({"events": events}).encode(), st.lists(_event | _json) | _json
)


@settings(deadline=None)
@given(_bodies, st.dictionaries(_text, _text), _text, st.sampled_from(["json", "form", "query"]))
def test_no_message_raises_anything_else(body: bytes, query: dict[str, str], shown: str, kind: str) -> None:
    """Whatever comes is refused or read; and what is read can be weighed and written down."""
    message = Webhook(kind="", query=query, headers={"bell-signature": shown}, body=body, received_at=NOW)
    for line in (_SIGNED, _OPEN[kind]):
        assert len(line.key_of(message)) <= 256
        try:
            told = line.read_webhook(message)
        except WebhookRefused:
            continue
        for each in told:
            json.loads(each.raw)
            assert (each.tag or "x").isprintable()
            assert (each.provider_call_id or "x").isprintable()
            if isinstance(each.event, End | Progress):
                advance(CallState(created_at=NOW), each.event, NOW)


_SIGNED = unasked()
_OPEN = {kind: unasked(webhooks__verify={"type": "none"}, webhooks__format=kind) for kind in ("json", "form", "query")}


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "changes", "path"),
    [
        ("bellbird", {"place__json__to": "{calle}"}, "place.json"),
        ("bellbird", {"place__json__to": "{providerCallId}"}, "place.json"),
        ("bellbird", {"place__json__to": "{to}"}, "place.json"),
        ("bellbird", {"place__url": "v2/calls"}, "place.url"),
        ("bellbird", {"place__url": "/v2/calls?x=1"}, "place.url"),
        ("bellbird", {"place__url": "https://{tag}.example/"}, "place.url"),
        ("bellbird", {"place__url": "https://u@h{tag}/"}, "place.url"),
        ("bellbird", {"place__url": "ftp://h/"}, "place.url"),
        ("bellbird", {"place__url": "http://[::/"}, "place.url"),
        ("bellbird", {"place__url": "/a b"}, "place.url"),
        ("bellbird", {"baseUrl": "nothing"}, "baseUrl"),
        ("bellbird", {"baseUrl": "https://h.example/{tag}"}, "baseUrl"),
        ("bellbird", {"answer__success__equals": ""}, "answer.success"),
        ("yunhu", {"region": "ZZ"}, "region"),
        ("bellbird", {"baseUrl": "https://{secret.key}.example"}, "baseUrl"),
        ("bellbird", {"place__headers": {"Host": "x"}}, "place.headers.Host"),
        ("bellbird", {"place__headers": {"a b": "x"}}, "place.headers.a b"),
        ("bellbird", {"headers": {"X": "{tag}"}}, "headers.X"),
        ("bellbird", {"place__form": {"a": "b"}}, "place.form"),
        ("bellbird", {"place__query": {"": "b"}}, "place.query"),
        ("bellbird", {"place__answer": {}, "place__providerCallId": None}, "place"),
        ("bellbird", {"place__providerCallId": "a["}, "place.providerCallId"),
        ("bellbird", {"place__providerCallId": 7}, "place.providerCallId"),
        ("bellbird", {"place__unknown": 7}, "place"),
        ("bellbird", {"place__method": "TRACE"}, "place.method"),
        ("bellbird", {"answer__success__path": ""}, "answer.success"),
        ("bellbird", {"answer__codes__x": "nothing"}, "answer.codes[...]"),
        ("bellbird", {"signing__key": None}, "signing.key"),
        ("bellbird", {"signing__text": "{nothing}"}, "signing.text"),
        ("bellbird", {"signing__key": "fixed"}, "signing"),
        ("bellbird", {"signing__name": "a:b"}, "signing.name"),
        ("bellbird", {"signing__putInto": "body"}, "test"),
        ("bellbird", {"unmute": None}, "mute"),
        ("bellbird", {"lookUp__calls__times": {"format": "%Q"}}, "lookUp.calls.times"),
        ("bellbird", {"lookUp__calls__only": {"path": "a[", "equals": 1}}, "lookUp.calls.only"),
        ("bellbird", {"lookUp__pages": 2}, "lookUp.pages"),
        ("bellbird", {"lookUpByTag__pages": 11}, "lookUpByTag.pages"),
        ("bellbird", {"lookUpByTag__query__id": "{providerCallId}"}, "lookUpByTag"),
        (
            "bellbird",
            {"lookUpByTag__calls__tag": None, "lookUpByTag__calls__providerCallId": None},
            "lookUpByTag.calls",
        ),
        ("bellbird", {"recording__link": "]"}, "recording.link"),
        ("bellbird", {"balance__amount": "]"}, "balance.amount"),
        ("bellbird", {"webhooks__verify__text": "{body}"}, "webhooks.verify.time.value"),
        ("bellbird", {"webhooks__verify__key": "plain"}, "webhooks.verify"),
        ("bellbird", {"webhooks__verify__algorithm": "md5"}, "webhooks.verify.key"),
        ("bellbird", {"webhooks__verify__type": "hmac"}, "webhooks.verify.type"),
        ("bellbird", {"webhooks__verify": None}, "webhooks"),
        ("bellbird", {"webhooks__each": "["}, "webhooks.each"),
        ("bellbird", {"webhooks__calls__tag": None, "webhooks__calls__providerCallId": None}, "webhooks.calls"),
        ("bellbird", {"webhooks__calls__statuses__x": {"status": "lost"}}, "webhooks.calls.statuses[...].status"),
        ("yunhu", {"webhooks__verify__expected": "fixed"}, "webhooks.verify.expected"),
        ("yunhu", {"webhooks__verify__shown": "{secret.pushToken}"}, "webhooks.verify.shown"),
        ("bellbird", {"webhooks__verify__shown": "fixed"}, "webhooks.verify.shown"),
        ("bellbird", {"webhooks__verify__shown": "{body}"}, "webhooks.verify.shown"),
        ("yunhu", {"webhooks__reply__status": 500}, "webhooks.reply.status"),
        ("yunhu", {"timeZone": "Asia/Nowhere"}, "timeZone"),
        ("yunhu", {"timeZone": "../../etc/passwd"}, "timeZone"),
        ("yunhu", {"region": "cn"}, "region"),
    ],
)
def test_what_is_wrong_in_the_settings_is_told_with_its_path(
    vendor: Vendor, changes: dict[str, Any], path: str
) -> None:
    """When they are saved, and not when a call is placed."""
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(changed(described(vendor)[0], **changes), CustomSettings)

    assert str(refused.value).endswith(f" - at `$.{path}`")


def test_a_secret_that_is_spoken_of_must_be_there() -> None:
    """And what is wrong is told by name."""
    told, hidden = described("bellbird")
    del hidden["values"]["pushKey"]
    nobody: Any = None

    with pytest.raises(ValueError, match=r"secret\.pushKey"):
        Custom(msgspec.convert(told, CustomSettings), msgspec.convert(hidden, CustomSecrets), nobody)


_settings = st.recursive(
    st.sampled_from(["{tag}", "{secret.key}", "$", "/x", "a.b", "json", 7, True, None]) | _scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@st.composite
def _mutations(draw: st.DrawFn) -> dict[str, Any]:
    """The page's settings, with something else somewhere."""
    told = json.loads(json.dumps(described_once[draw(st.sampled_from(["bellbird", "yunhu"]))]))
    inner = told
    while True:
        key = draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[key], dict) or not inner[key] or draw(st.booleans()):
            inner[key] = draw(_settings)
            return told  # type: ignore[no-any-return] # it is what json.loads made of a dict
        inner = inner[key]


described_once = {vendor: described(vendor)[0] for vendor in ("bellbird", "yunhu")}


class _Nowhere:
    """A session that cannot connect."""

    def request(self, method: str, url: URL, **parts: Any) -> None:
        """Fail as for a URL that leads nowhere."""
        assert method.isupper()
        assert all(value.isprintable() for value in parts["headers"].values())
        raise aiohttp.InvalidURL(url)


@settings(deadline=None)
@given(_mutations())
def test_no_settings_raise_anything_else(told: dict[str, Any]) -> None:
    """They are a ValidationError, or settings with which all is refused, read or told, and nothing else is raised."""
    try:
        described = msgspec.convert(told, CustomSettings)
    except msgspec.ValidationError:
        return
    assert all(isinstance(host, str) for host in described.hosts)
    names = ("key", "keyId", "pushKey", "appKey", "pushToken")
    nowhere: Any = _Nowhere()
    line = Custom(described, CustomSecrets(values=dict.fromkeys(names, "not-real-at-all")), nowhere)
    call = reference(provider_call_id="c_1", extension="7003")

    async def all_of_it() -> None:
        for asked in (
            line.place(order()),
            line.hang_up(call),
            line.look_up(call),
            line.look_up(reference()),
            line.test(),
        ):
            with contextlib.suppress(PlacementRefused, Uncertain, Unsupported):
                await asked

    asyncio.run(all_of_it())
    for body in (b"", b"a=b", json.dumps({"events": [EVENT], "delivery": []}).encode()):
        message = webhook(WebhookRequestSpec(headers={"bell-signature": "t=1,v1=00"}, body=body), NOW)
        line.reply()
        with contextlib.suppress(WebhookRefused):
            line.key_of(message)
            line.read_webhook(message)


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refuse", "garbage", "drop", "silent", "unreachable"])
async def test_no_secret_is_told_by_anything_that_fails(
    line: Account, how: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an exception and its causes, nor a log line, nor what is shown of the adapter."""
    _, hidden = line.cloud.line()
    caplog.set_level(logging.DEBUG)
    changes = {"baseUrl": "http://127.0.0.1:1"} if how == "unreachable" else {}
    failing = adapter(line.cloud, line.http, deadline=0.5, **changes)
    if how != "unreachable":
        line.cloud.next_place(how)
    with capture_logs() as logs, pytest.raises((PlacementRefused, Uncertain)) as raised:
        await failing.place(order())

    secrets = msgspec.convert(hidden, CustomSecrets)
    everything = "".join(traceback.format_exception(raised.value)) + repr((logs, caplog.text, secrets, failing))
    assert 1 == len(logs)
    assert [] == [secret for secret in hidden["values"].values() if secret in everything]


async def test_a_vendor_that_repeats_a_secret_does_not_spread_it(
    bellbird: Bellbird, http: aiohttp.ClientSession
) -> None:
    """Neither by an error code, nor in what is kept of its messages, nor does a signed link."""
    secret = "bell-secret-not-real"
    bellbird.next_place("refuse", f"bad key {secret}")
    with pytest.raises(PlacementRefused) as refused:
        await adapter(bellbird, http).place(order())
    call = {
        "id": "c_1", "cause": f"key {secret}", secret: [secret],
        "recording": {"url": "https://r.example/a.mp3?sign=0123"},
    }  # fmt: skip
    event = {"type": "call.record", "leg": "customer", "call": call, "debug": f"<{secret}>"}

    told = unasked().read_webhook(webhook(bellbird.message([event])))

    assert "http_422" == refused.value.code
    assert ["https://r.example/a.mp3?sign=0123"] == [
        each.event.url for each in told if isinstance(each.event, Recording)
    ]
    for each in told:
        assert secret.encode() not in each.raw
        assert b"sign=0123" not in each.raw
        assert secret not in repr([each.event, each.once])


def test_what_is_kept_is_bounded_in_depth() -> None:
    """Nobody tells of a call in more levels."""
    deep: object = 12345678
    for _ in range(900):
        deep = [deep]

    assert b"12345678" not in msgspec.json.encode(without_secrets(deep, ()))
    assert ["***", True, 1.5] == without_secrets([12345678, True, 1.5], ("12345678",))


def test_secrets_do_not_show_themselves() -> None:
    """Their representation tells nothing, and too short or too many are none."""
    assert "CustomSecrets(values='**********')" == repr(CustomSecrets(values={"key": "not-real-at-all"}))
    for wrong in ({"key": "abc"}, {"a b": "not-real"}, {f"k{n}": "not-real" for n in range(21)}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"values": wrong}, CustomSecrets)


async def test_requests_of_one_line_do_not_wait_for_each_other(bellbird: Bellbird, http: aiohttp.ClientSession) -> None:
    """A line has no state: any number of orders may be under way."""
    line = adapter(bellbird, http)

    placed = await asyncio.gather(*(line.place(order(f"call_{number}")) for number in range(20)))

    assert 20 == len({each.provider_call_id for each in placed})
