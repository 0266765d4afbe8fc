"""Messages of providers, from the request to the call: kept, verified, read; and hints, which are none."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from redis.asyncio import Redis

from protocol.call import End, Evidence, Outcome
from protocol.identifiers import new_id
from server import webhooks
from server.config import Config
from server.providers.catalogue import VENDORS
from server.providers.provider import Told
from storage import inbox
from storage.database import Database
from tests.clouds.aliyun import AliyunCloud, aliyun_cloud
from tests.clouds.cloud import WebhookRequestSpec
from tests.clouds.custom import yunhu_cloud
from tests.clouds.ronglian import ronglian_cloud
from tests.clouds.tencent import TencentCloud, tencent_cloud
from tests.clouds.tianrun import tianrun_cloud
from tests.conftest import Office
from tests.server.line_front import Front, line_front
from tests.waiting import until

BARE = "/api/v1/calls/webhook"


@pytest.fixture
async def front(
    database: Database, office: Office, redis: Redis, configure: Callable[..., Config], tmp_path: Path
) -> AsyncIterator[Front]:
    """A node that may speak to this machine, and keeps recordings."""
    config = configure(
        provider_networks="127.0.0.0/8",
        fetch_networks="127.0.0.0/8",
        recordings="local",
        recordings_folder=tmp_path / "recordings",
    )
    async with line_front(database, office, redis, config) as front:
        yield front


@pytest.fixture
async def tencent() -> AsyncIterator[TencentCloud]:
    """A cloud that pushes records, behind a password."""
    async with tencent_cloud() as cloud:
        yield cloud


@pytest.fixture
async def aliyun() -> AsyncIterator[AliyunCloud]:
    """A cloud that tells of every step."""
    async with aliyun_cloud() as cloud:
        yield cloud


def event(cloud: AliyunCloud, call_id: str, kind: str, **fields: object) -> WebhookRequestSpec:
    """One of the events of an answered call."""
    told = next(one for one in reversed(cloud.events(call_id, "answered")) if one["eventType"] == kind)
    return cloud.webhook({**told, **fields})


async def seconds_to_look(front: Front, call_id: str) -> float | None:
    """How long until a call is looked up."""
    row = await front.row("SELECT next_look_at - now() AS wait FROM attempt WHERE call_id = $1", call_id)
    wait: timedelta | None = row["wait"]
    return None if wait is None else wait.total_seconds()


async def put_look_off(front: Front, call_id: str) -> None:
    """Let the next look-up be far away."""
    await front.execute("UPDATE attempt SET next_look_at = now() + interval '1 hour' WHERE call_id = $1", call_id)


# --- kept, and answered -----------------------------------------------------------------------------------------------


async def test_a_message_is_kept_once_and_answered_as_its_vendor_wants(front: Front, tencent: TencentCloud) -> None:
    """A repeat is answered like the first, and read no second time."""
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    [push] = tencent.pushes(call_id, "busy")
    answers = [await front.call_back(line.path(), push) for _ in range(2)]
    await front.read()

    assert [b'{"ErrCode":0,"ErrMsg":""}'] * 2 == [answer.content for answer in answers]
    assert [("applied", 1, None)] == await front.inbox()
    assert "busy" == (await front.call(call_id))["outcome"]


@pytest.mark.parametrize(("status", "content"), [(202, "taken"), (204, "")])
async def test_a_provider_of_ones_own_is_answered_as_described(front: Front, status: int, content: str) -> None:
    """Its status too, where it wants another than 200."""
    async with yunhu_cloud() as cloud:
        form = cloud.line()[0]["webhooks"] | {
            "reply": {"content": content, "mediaType": "text/plain", "status": status}
        }
        line = await front.line("custom", cloud, settings={"webhooks": form})
        answer = await front.call_back(line.path(), WebhookRequestSpec(body=b"{}"))

    assert (status, content) == (answer.status_code, answer.text)


async def test_a_message_may_come_in_a_query(front: Front) -> None:
    """Tianrun's console lets choose GET: what a form would say stands in the URL."""
    async with tianrun_cloud() as cloud:
        line = await front.line("tianrun", cloud)
        call_id = await front.placed(line)

        async def get(message: WebhookRequestSpec) -> None:
            told = dict(parse_qsl(message.body.decode(), keep_blank_values=True))
            await front.send(line, WebhookRequestSpec(method="GET", query=told, body=b""))

        await cloud.play(call_id, "busy", send=get)
        await front.read()

        assert "busy" == (await front.call(call_id))["outcome"]


async def test_a_vendor_may_put_the_kind_behind_the_url(front: Front) -> None:
    """Ronglian appends /CallAuth, /CallEstablish and /Hangup to the URL that it was given."""
    async with ronglian_cloud() as cloud:
        line = await front.line("ronglian", cloud)
        call_id = await front.placed(line)
        message = WebhookRequestSpec(kind="CallEstablish", body=b"{}")
        known = await front.call_back(f"{line.path()}/{message.kind}", message)
        unknown = await front.call_back(f"{line.path()}/Otherwise", message)
        await cloud.play(call_id, "answered", send=lambda told: front.send_behind(line, told))
        await front.read()

        assert (200, 404) == (known.status_code, unknown.status_code)
        assert "connected" == (await front.call(call_id))["outcome"]


@pytest.mark.parametrize("path", ["tencent/not-a-token", "tencent/status/{}", "aliyun/{}", "aliyun/status/{}", "no/{}"])
async def test_a_url_that_is_none_takes_nothing(front: Front, tencent: TencentCloud, path: str) -> None:
    """Another token, another kind, another provider: the path is not there, and nothing is kept."""
    line = await front.line("tencent", tencent)
    token = line.path().rpartition("/")[2]
    answer = await front.call_back(f"{BARE}/{path.format(token)}", WebhookRequestSpec(body=b"{}"))

    assert (404, 0) == (answer.status_code, await front.count("webhook_inbox"))


async def test_other_networks_are_not_heard(front: Front, tencent: TencentCloud) -> None:
    """A line that names its provider's networks takes messages from there alone."""
    line = await front.line("tencent", tencent, allowedNetworks=["192.0.2.0/24"])
    answer = await front.call_back(line.path(), WebhookRequestSpec(body=b"{}"))

    assert (403, 0) == (answer.status_code, await front.count("webhook_inbox"))


# --- read -------------------------------------------------------------------------------------------------------------


async def test_what_is_forged_is_refused_and_moves_nothing(front: Front, tencent: TencentCloud) -> None:
    """It is kept, as evidence, and says nothing; the headers by which it was judged are not kept."""
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    [push] = tencent.pushes(call_id, "busy")
    forged = WebhookRequestSpec(
        query=push.query, headers={**push.headers, "authorization": "Basic bm90OnJlYWw="}, body=push.body
    )
    await front.send(line, forged)
    await front.read()
    [(state, tries, problem)] = await front.inbox()
    kept = await front.row("SELECT headers::text, body FROM webhook_inbox")

    assert ("refused", 1) == (state, tries)
    assert problem is not None
    assert "calling" == (await front.call(call_id))["status"]
    assert ("{}", push.body) == (kept["headers"], kept["body"])


async def test_what_overtakes_the_answer_to_its_order_is_read_again(front: Front, tencent: TencentCloud) -> None:
    """A push may name a session that nobody here knows yet; when it is known the push counts."""
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    record, *recordings = tencent.pushes(call_id, "answered")
    await front.execute("UPDATE attempt SET provider_call_id = NULL")
    for push in recordings:
        await front.send(line, push)
    await front.read()
    early = await front.inbox()
    await front.send(line, record)  # which has our tag
    await front.read()
    await front.read()

    assert [("new", 1, webhooks.UNKNOWN_CALL)] * len(recordings) == early
    assert {"applied"} == {state for state, _, _ in await front.inbox()}
    assert 1 == await front.count("recording_fetch")


async def test_what_names_a_call_that_never_was_is_given_up(front: Front, tencent: TencentCloud) -> None:
    """After twelve readings; it stays kept, with why."""
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    [push] = tencent.pushes(call_id, "busy")
    elsewhere = push.body.replace(call_id.encode(), b"call_of_nobody").replace(
        tencent.session_of(call_id).encode(), b"00000000-0000-0000-0000-000000000000"
    )
    await front.send(line, WebhookRequestSpec(query=push.query, headers=push.headers, body=elsewhere))
    for _ in range(webhooks.TRIES + 1):
        await front.read()

    assert [("failed", webhooks.TRIES, webhooks.UNKNOWN_CALL)] == await front.inbox()
    assert "calling" == (await front.call(call_id))["status"]


async def test_a_line_tells_of_its_own_calls_alone(front: Front, tencent: TencentCloud, aliyun: AliyunCloud) -> None:
    """Who has the URL of one line cannot end a call on another, though he knows its name."""
    line, other = await front.line("tencent", tencent), await front.line("aliyun", aliyun)
    call_id, elsewhere = await front.placed(line), await front.placed(other)
    told = event(aliyun, elsewhere, "Established", tags=call_id, contactId="job-of-nobody")
    await front.send(other, told)
    await front.read()

    assert [("new", 1, webhooks.UNKNOWN_CALL)] == await front.inbox()
    assert "calling" == (await front.call(call_id))["status"]


async def test_a_message_of_a_deleted_line_is_given_up(front: Front, tencent: TencentCloud) -> None:
    """Nobody can verify it any more, and its URL takes no other."""
    line = await front.line("tencent", tencent)
    await front.send(line, WebhookRequestSpec(body=b"{}"))
    assert (await front.ask("DELETE", f"/lines/{line.id}", who=front.admin)).is_success
    await front.read()
    late = await front.call_back(line.path(), WebhookRequestSpec(body=b"{}"))

    assert [("failed", 1, "the line is gone")] == await front.inbox()
    assert 404 == late.status_code


async def test_two_workers_apply_a_message_once(front: Front, aliyun: AliyunCloud) -> None:
    """Whoever of them claims it; and one that was claimed by a worker that died is read by the next."""
    line = await front.line("aliyun", aliyun)
    call_id = await front.placed(line)
    await aliyun.play(call_id, "answered", send=lambda message: front.send(line, message))
    async with front.database.connection() as connection:
        lost = await inbox.due(connection, 0.0, 3)  # whose worker dies now
    await asyncio.gather(*(front.reading.read() for _ in range(4)))
    states = [state for state, _, _ in await front.inbox()]
    call = await front.call(call_id)

    assert (3, {"applied"}) == (len(lost), set(states))
    assert ("ended", "connected") == (call["status"], call["outcome"])


async def test_one_message_that_breaks_does_not_hold_up_the_others(front: Front, aliyun: AliyunCloud) -> None:
    """What nobody can read is refused; what came with it is applied."""
    line = await front.line("aliyun", aliyun)
    call_id = await front.placed(line)
    for body in (b"\xff\0", b"[" * 5000, b'{"eventType": 7}'):
        await front.send(line, WebhookRequestSpec(kind="status", body=body))
    await front.send(line, event(aliyun, call_id, "Established"))
    await front.read()

    assert ["refused"] * 3 + ["applied"] == [state for state, _, _ in await front.inbox()]
    assert "connected" == (await front.call(call_id))["status"]


# --- what is asked because of it --------------------------------------------------------------------------------------


async def test_that_a_record_is_ready_brings_the_look_up_forward(front: Front, aliyun: AliyunCloud) -> None:
    """CDRReady says nothing of how the call went: it is asked in a second, and one such call not all the time."""
    line = await front.line("aliyun", aliyun)
    call_id = await front.placed(line)
    await put_look_off(front, call_id)
    await front.send(line, event(aliyun, call_id, "CDRReady"))
    await front.read()
    first = await seconds_to_look(front, call_id)
    await put_look_off(front, call_id)
    await front.execute("UPDATE attempt SET hinted_at = now() - interval '1 s'")
    await front.send(line, event(aliyun, call_id, "CDRReady", eventTime="2026-01-01T00:00:00.000Z"))
    await front.read()
    second = await seconds_to_look(front, call_id)

    assert first is not None
    assert second is not None
    assert first <= 1
    assert 1 < second <= webhooks.HINTED


async def test_a_hint_that_comes_while_the_provider_is_asked_is_not_lost(front: Front, aliyun: AliyunCloud) -> None:
    """The look-up that is under way may have come too early: it does not put off the one that was hinted at."""
    line = await front.line("aliyun", aliyun)
    call_id = await front.placed(line)
    await front.execute("UPDATE attempt SET hinted_at = now() + interval '4 s'")
    await aliyun.play(call_id, "busy", send=lambda _: _nothing())
    await front.look_up()
    wait = await seconds_to_look(front, call_id)

    assert "provider_record" == (await front.call(call_id))["evidence"]
    assert wait is not None
    assert wait <= 4


async def test_a_recording_told_by_name_is_asked_for_until_it_is_there(front: Front, aliyun: AliyunCloud) -> None:
    """A message that names one for which there is no URL yet is read again."""
    line = await front.line("aliyun", aliyun)
    call_id = await front.placed(line)
    aliyun.calls[call_id].record = None
    await aliyun.play(call_id, "answered", send=lambda _: _nothing())
    ready = event(aliyun, call_id, "RecordingReady", downloadURL="")
    aliyun.answers["GetMonoRecording"] = web.Response(status=503)
    await front.send(line, ready)
    await front.read()
    early = (await front.inbox(), await front.count("recording_fetch"))
    await front.read()

    assert ([("new", 1, webhooks.NO_RECORDING)], 0) == early
    assert [("applied", 2, None)] == [(state, tries, None) for state, tries, _ in await front.inbox()]
    assert 1 == await front.count("recording_fetch")


async def test_a_recording_that_is_slow_to_be_told_delays_no_end(front: Front, aliyun: AliyunCloud) -> None:
    """Who asks for it is not who reads: meanwhile calls of the same line end as they are told to."""
    line = await front.line("aliyun", aliyun)
    slow, call_id = await front.placed(line), await front.placed(line)
    await aliyun.play(slow, "answered", send=lambda _: _nothing())
    gate = aliyun.held["GetMonoRecording"] = asyncio.Event()
    await front.send(line, event(aliyun, slow, "RecordingReady", downloadURL=""))
    await front.reading.read()
    asking = asyncio.create_task(front.reading.ask())
    await until(lambda: "GetMonoRecording" in [action for action, _ in aliyun.asked])
    await aliyun.play(call_id, "busy", send=lambda message: front.send(line, message))
    await front.reading.read()
    meanwhile = (asking.done(), (await front.call(call_id))["status"], await front.count("recording_fetch"))
    gate.set()
    await asking

    assert (False, "ended", 0) == meanwhile
    assert 1 == await front.count("recording_fetch")


async def test_what_is_forged_keeps_nothing_genuine_out(front: Front, tencent: TencentCloud) -> None:
    """Under the name of a message to come; once it was refused the genuine one is read."""
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    [push] = tencent.pushes(call_id, "busy")
    nobody = {name: value for name, value in push.headers.items() if name.lower() != "authorization"}
    await front.send(line, WebhookRequestSpec(query=push.query, headers=nobody, body=push.body))
    await front.read()
    forged = await front.inbox()
    await front.send(line, push)
    await front.read()

    assert ["refused"] == [state for state, _, _ in forged]
    assert [("applied", 1, None)] == await front.inbox()
    assert "busy" == (await front.call(call_id))["outcome"]


async def test_our_tag_beats_an_id_that_a_provider_gave_twice(front: Front, tencent: TencentCloud) -> None:
    """The second call keeps no id, and what is said of it under its tag moves no other."""
    line = await front.line("tencent", tencent)
    one = await front.placed(line)
    session = tencent.session_of(one)
    two = await front.placed(line)
    await front.execute("UPDATE attempt SET provider_call_id = NULL WHERE call_id = $1", two)
    end = End(outcome=Outcome.MISSED, at=datetime.now(UTC), by="provider", evidence=Evidence.PROVIDER_RECORD)
    told = Told(provider_call_id=session, tag=two, event=end, once="end", raw=b"{}")
    problem = await front.reading.tell(front.office.tenant_id, line.id, told)

    assert problem is None
    assert ("calling", "ended") == ((await front.call(one))["status"], (await front.call(two))["status"])
    assert (session, None) == tuple([(await front.attempt(each))["provider_call_id"] for each in (one, two)])


# --- hints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["aliyun/status", "aliyun/recording", "aliyun"])
async def test_a_bare_path_believes_nothing_and_has_the_provider_asked(
    front: Front, aliyun: AliyunCloud, path: str
) -> None:
    """Seed 003 §5.4: what comes without a secret moves no call; but what it names is looked up, and that does."""
    line = await front.line("aliyun", aliyun)
    call_id = await front.placed(line)
    await put_look_off(front, call_id)
    lie = event(aliyun, call_id, "Established", tags="")
    answer = await front.call_back(f"{BARE}/{path}", lie)
    await front.read()

    assert (200, b'{"success":true}') == (answer.status_code, answer.content)
    assert ("calling", 0) == ((await front.call(call_id))["status"], await front.count("webhook_inbox"))
    wait = await seconds_to_look(front, call_id)
    assert wait is not None
    assert wait <= 1


@pytest.mark.parametrize("how", ["json", "form", "query", "xml"])
async def test_a_hint_may_have_any_form(front: Front, tencent: TencentCloud, how: str) -> None:
    """Nothing of it is read but names, which stand out in whatever they stand."""
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    await put_look_off(front, call_id)
    body, query = b"", {}
    match how:
        case "json":
            body = json.dumps({"a": [{"b": call_id}]}).encode()
        case "form":
            body = f"a=1&tag={call_id}&x=%00".encode()
        case "query":
            query = {"tag": call_id}
        case "xml":
            body = f"<a><b>{call_id}</b></a>".encode()
    await front.call_back(f"{BARE}/tencent", WebhookRequestSpec(query=query, body=body))
    wait = await seconds_to_look(front, call_id)

    assert wait is not None
    assert wait <= 1


@pytest.mark.parametrize("body", [b"", b"\xff\0" * 999, b"a" * 70_000, b"\0abcdefgh", b"%00%ff%" * 99])
async def test_a_hint_is_answered_alike_whatever_it_says(front: Front, tencent: TencentCloud, body: bytes) -> None:
    """Whether a call is known here cannot be told from outside."""
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    answers = [
        await front.call_back(f"{BARE}/tencent", WebhookRequestSpec(body=said)) for said in (body, call_id.encode())
    ]

    assert {(200, b'{"ErrCode":0,"ErrMsg":""}')} == {(answer.status_code, answer.content) for answer in answers}


async def test_hints_of_another_provider_and_old_calls_do_nothing(front: Front, tencent: TencentCloud) -> None:
    """Only who carries the call is asked, and not of calls of last week."""
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    await put_look_off(front, call_id)
    await front.call_back(f"{BARE}/ronglian", WebhookRequestSpec(body=call_id.encode()))
    other = await seconds_to_look(front, call_id)
    await front.execute("UPDATE attempt SET ordered_at = ordered_at - interval '3 days'")
    await front.call_back(f"{BARE}/tencent", WebhookRequestSpec(body=call_id.encode()))
    old = await seconds_to_look(front, call_id)

    assert other is not None
    assert old is not None
    assert min(other, old) > 60


async def test_hints_are_counted(front: Front, tencent: TencentCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends too many is answered alike, and nobody is asked for it."""
    monkeypatch.setattr(webhooks, "HINTS_A_MINUTE", 2)
    line = await front.line("tencent", tencent)
    call_id = await front.placed(line)
    for _ in range(2):
        await front.call_back(f"{BARE}/tencent", WebhookRequestSpec(body=b"{}"))
    await put_look_off(front, call_id)
    answer = await front.call_back(f"{BARE}/tencent", WebhookRequestSpec(body=call_id.encode()))
    wait = await seconds_to_look(front, call_id)

    assert 200 == answer.status_code
    assert wait is not None
    assert wait > 60


async def test_every_provider_takes_hints(front: Front) -> None:
    """Each is answered as it wants to be; who is no provider has no path."""
    answers = {
        name: await front.call_back(f"{BARE}/{name}", WebhookRequestSpec(body=new_id("call").encode()))
        for name in (*VENDORS, "nobody")
    }
    nobody = answers.pop("nobody")

    assert 404 == nobody.status_code
    assert {name: vendor.reply.content for name, vendor in VENDORS.items()} == {
        name: answer.content for name, answer in answers.items()
    }


async def _nothing() -> None:
    """What becomes of a message that is lost."""
