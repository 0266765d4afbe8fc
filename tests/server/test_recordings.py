"""Listening to recordings, over HTTP: who may, how much of it, by which link; what is held, and what is deleted."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from redis.asyncio import Redis

from server.config import Config
from server.tokens import Listener, PlayTokens
from storage.database import Database
from tests.conftest import Bucket
from tests.server.companies import NOBODY, Person
from tests.server.record_room import AUDIO, LONG, Desk, desk, kept_in, outcome
from tests.waiting import until

Open = Callable[..., AbstractAsyncContextManager[Desk]]


@pytest.fixture
def keeping(database: Database, redis: Redis, configure: Callable[..., Config], s3: Bucket, tmp_path: Path) -> Open:
    """Open a node that keeps its recordings so: `keeping("s3 encrypted")`."""

    def keeping(strategy: str, audio: bytes = AUDIO, **settings: Any) -> AbstractAsyncContextManager[Desk]:
        return desk(database, redis, configure(**kept_in(strategy, s3, tmp_path / "folder", **settings)), audio)

    return keeping


@pytest.fixture
async def local(keeping: Open) -> AsyncIterator[Desk]:
    """A node that keeps recordings in a folder."""
    async with keeping("local") as opened:
        yield opened


async def supervisor(desk: Desk, *, of_the_team: bool) -> Person:
    """Somebody who supervises the agent's team, or another one."""
    town, firm = desk.room.town, desk.room.firm
    user_id, person = await town.user(firm.tenant_id, "supervisor")
    team_id = firm.team_id
    if not of_the_team:
        team_id = "team_other"
        await desk.room.execute("INSERT INTO team (id, tenant_id, name) VALUES ($1, $2, 'o')", team_id, firm.tenant_id)
    await desk.room.execute(
        "INSERT INTO team_supervisor (tenant_id, team_id, user_id) VALUES ($1, $2, $3)",
        firm.tenant_id,
        team_id,
        user_id,
    )
    return person


async def audited(desk: Desk) -> list[tuple[str, str, str, str]]:
    """What the audit log says of the recording: (kind of actor, its id, what, from where), oldest first."""
    async with desk.room.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT actor_kind, actor_id, action, host(ip) AS ip FROM audit_log"
            " WHERE resource = 'recording' AND resource_id = $1 ORDER BY id",
            desk.recording.call_id,
        )
    return [tuple(row) for row in rows]


async def link(desk: Desk, who: Person | None = None) -> str:
    """The path of a link that somebody makes, by default the agent."""
    told = (await desk.ask(who or desk.agent, "POST", "/link")).json()
    return str(urlsplit(told["url"]).path)


# --- playing ----------------------------------------------------------------------------------------------------------


async def test_the_agent_of_the_call_plays_it(local: Desk) -> None:
    """Its bytes come as they were brought, with what a player must know, and are kept by nobody on the way."""
    played = await local.ask(local.agent)

    assert (200, AUDIO) == (played.status_code, played.content)
    assert {
        "content-type": "audio/mpeg",
        "content-length": str(len(AUDIO)),
        "accept-ranges": "bytes",
        "etag": f'"{local.recording.sha256.hex()}"',
        "cache-control": "no-store",
    }.items() <= dict(played.headers).items()
    assert "content-disposition" not in played.headers


async def test_whoever_reaches_the_call_and_may_listen_hears_it(local: Desk) -> None:
    """Others are refused alike, whether they would play it, link to it, or look at its waveform."""
    town, firm = local.room.town, local.room.firm
    _, colleague = await town.user(firm.tenant_id, "agent", firm.team_id)
    _, viewer = await town.user(firm.tenant_id, "viewer")
    _, auditor = await town.user(firm.tenant_id, "auditor")
    rival = "tenant_rival"
    await local.room.execute("INSERT INTO tenant (id, code, name) VALUES ($1, 'rival', 'Rival')", rival)
    _, stranger = await town.user(rival, "tenant_admin")
    _, key = await town.key(firm.tenant_id, firm.admin_id, {"recordings.listen"})
    _, key_without = await town.key(firm.tenant_id, firm.admin_id, {"calls.read"})
    refusals = {
        "agent": (local.agent, "ok"),
        "colleague": (colleague, "NOT_FOUND"),
        "supervisor": (await supervisor(local, of_the_team=True), "ok"),
        "supervisor of another team": (await supervisor(local, of_the_team=False), "NOT_FOUND"),
        "admin": (firm.admin, "ok"),
        "auditor": (auditor, "ok"),
        "viewer": (viewer, "FORBIDDEN"),
        "key": (key, "ok"),
        "key without the scope": (key_without, "FORBIDDEN"),
        "another company's admin": (stranger, "NOT_FOUND"),
        "phone": (firm.phone, "UNAUTHENTICATED"),
        "nobody": (NOBODY, "UNAUTHENTICATED"),
    }

    ways = [("GET", ""), ("POST", "/link"), ("GET", "/waveform")]
    answers = {name: {outcome(await local.ask(who, *way)) for way in ways} for name, (who, _) in refusals.items()}

    assert {name: {expected} for name, (_, expected) in refusals.items()} == answers


async def test_downloading_takes_a_permission_of_its_own(local: Desk) -> None:
    """An agent may listen but not keep the file; a supervisor gets it under the name of the call."""
    kept = await local.ask(await supervisor(local, of_the_team=True), path="?download=true")

    assert "FORBIDDEN" == await local.hears(local.agent, "?download=true")
    assert f'attachment; filename="{local.recording.call_id}.mp3"' == kept.headers["content-disposition"]
    assert AUDIO == kept.content


async def test_head_tells_what_a_get_would(local: Desk) -> None:
    """Size, type and etag, without a byte."""
    head = await local.ask(local.agent, "HEAD")

    assert (200, b"", str(len(AUDIO))) == (head.status_code, head.content, head.headers["content-length"])
    assert ("audio/mpeg", "bytes") == (head.headers["content-type"], head.headers["accept-ranges"])


@pytest.mark.parametrize("strategy", ["local", "local encrypted", "s3", "s3 encrypted", "hybrid encrypted"])
async def test_a_range_is_played_from_every_store(keeping: Open, strategy: str) -> None:
    """Also across the chunks in which it is encrypted, and to its end; what lies behind the end is refused."""
    async with keeping(strategy, LONG) as open_desk:
        across = await open_desk.ask(open_desk.agent, range="bytes=65000-140000")
        end = await open_desk.ask(open_desk.agent, range="bytes=-1000")
        behind = await open_desk.ask(open_desk.agent, range=f"bytes={len(LONG)}-")
        whole = await open_desk.ask(open_desk.agent)

    assert (206, f"bytes 65000-140000/{len(LONG)}") == (across.status_code, across.headers["content-range"])
    assert LONG[65000:140001] == across.content
    assert LONG[-1000:] == end.content
    assert (416, "RANGE_NOT_SATISFIABLE") == (behind.status_code, outcome(behind))
    assert f"bytes */{len(LONG)}" == behind.headers["content-range"]
    assert LONG == whole.content


async def test_what_a_player_has_already_is_not_sent_again(local: Desk) -> None:
    """If-None-Match with its etag is 304; If-Range with another etag is the whole."""
    etag = (await local.ask(local.agent, "HEAD")).headers["etag"]
    same = await local.ask(local.agent, if_none_match=etag)
    other = await local.ask(local.agent, if_range='"other"', range="bytes=0-9")

    assert (304, b"") == (same.status_code, same.content)
    assert (200, AUDIO) == (other.status_code, other.content)


async def test_a_call_without_a_recording_has_none_to_play(local: Desk) -> None:
    """Neither has one whose recording is being stored, nor one that is not there."""
    without, overdue = await local.room.call(), await local.room.overdue(appeared=True)
    answers = {
        call_id: (await local.client.get(f"/api/v1/calls/{call_id}/recording", headers=local.agent.headers)).json()
        for call_id in (without, overdue.call_id, "call_none")
    }

    assert {"NOT_FOUND"} == {answer["code"] for answer in answers.values()}
    assert ["recording", "recording", "call"] == [answer["details"]["what"] for answer in answers.values()]


# --- from the bucket itself -------------------------------------------------------------------------------------------


async def test_a_bucket_that_listeners_reach_plays_by_itself(keeping: Open, s3: Bucket) -> None:
    """The answer redirects to a URL that is good for a while and needs no credential: the same bytes, also a range."""
    async with keeping("s3", s3_public_url=s3.endpoint_url, recording_link_ttl=120) as open_desk:
        redirected = await open_desk.ask(open_desk.agent)
        url = redirected.headers["location"]
        async with httpx.AsyncClient(trust_env=False) as browser:
            played = await browser.get(url)
            part = await browser.get(url, headers={"range": "bytes=10-19"})

    assert (302, b"") == (redirected.status_code, redirected.content)
    assert url.startswith(s3.endpoint_url)
    assert ["120"] == parse_qs(urlsplit(url).query)["X-Amz-Expires"]
    assert (AUDIO, "audio/mpeg") == (played.content, played.headers["content-type"])
    assert AUDIO[10:20] == part.content


async def test_a_bucket_hands_a_download_out_under_its_name(keeping: Open, s3: Bucket) -> None:
    """What is behind the URL is a file to keep, named for the call."""
    async with keeping("s3", s3_public_url=s3.endpoint_url) as open_desk:
        redirected = await open_desk.ask(open_desk.admin, path="?download=true")
        async with httpx.AsyncClient(trust_env=False) as browser:
            kept = await browser.get(redirected.headers["location"])

    assert AUDIO == kept.content
    assert kept.headers["content-disposition"].startswith("attachment;")
    assert f"{open_desk.recording.call_id}.mp3" in kept.headers["content-disposition"]


@pytest.mark.parametrize(("strategy", "public"), [("s3", False), ("s3 encrypted", True), ("hybrid", True)])
async def test_what_the_bucket_cannot_play_goes_through_the_server(
    keeping: Open, s3: Bucket, strategy: str, public: bool
) -> None:
    """Where nobody reaches the bucket, where it holds what must be decrypted, and before a recording came there."""
    reached = {"s3_public_url": s3.endpoint_url} if public else {}
    async with keeping(strategy, **reached) as open_desk:
        played = await open_desk.ask(open_desk.agent)
        linked = await open_desk.client.get(await link(open_desk))

    assert (200, AUDIO) == (played.status_code, played.content)
    assert (200, AUDIO) == (linked.status_code, linked.content)


async def test_a_link_to_a_bucket_that_listeners_reach_is_one_of_its_own(keeping: Open, s3: Bucket) -> None:
    """A player needs nothing but the URL."""
    async with keeping("s3", s3_public_url=s3.endpoint_url) as open_desk:
        told = (await open_desk.ask(open_desk.agent, "POST", "/link")).json()
        async with httpx.AsyncClient(trust_env=False) as player:
            played = await player.get(told["url"])

    assert told["url"].startswith(s3.endpoint_url)
    assert (AUDIO, "audio/mpeg") == (played.content, played.headers["content-type"])


# --- links ------------------------------------------------------------------------------------------------------------


async def test_a_link_plays_without_a_credential(local: Desk) -> None:
    """Whole and in part, for as long as it says."""
    made = (await local.ask(local.agent, "POST", "/link")).json()
    path = urlsplit(made["url"]).path
    whole = await local.client.get(path)
    part = await local.client.get(path, headers={"range": "bytes=5-9"})

    assert made["url"].startswith(local.room.config.public_url)
    assert ("audio/mpeg", len(AUDIO)) == (made["mediaType"], made["size"])
    assert (AUDIO, AUDIO[5:10]) == (whole.content, part.content)
    assert "content-disposition" not in whole.headers


async def test_a_link_dies_after_its_time(local: Desk) -> None:
    """A player asks for another."""
    spent = PlayTokens(local.room.config.secret_key, -1).mint(
        Listener(local.room.firm.tenant_id, local.recording.call_id)
    )
    answer = await local.client.get(f"/api/v1/recordings/{spent}")

    assert (401, "TOKEN_EXPIRED") == (answer.status_code, outcome(answer))


async def test_what_is_no_link_of_ours_is_not_found(local: Desk) -> None:
    """Whatever was changed in it, and also a token that was made for something else, such as signing in."""
    path = await link(local)
    head, _, token = path.rpartition("/")
    parts = token.split(".")
    other = [part[:9] + ("A" if part[9] != "A" else "B") + part[10:] for part in parts]
    changed = [".".join([*parts[:at], other[at], *parts[at + 1 :]]) for at in range(3)]
    access = local.agent.headers["authorization"].removeprefix("Bearer ")
    answers = [await local.client.get(f"{head}/{text}") for text in (*changed, access, "none", "a" * 600)]

    assert {"NOT_FOUND"} == {outcome(answer) for answer in answers}


async def test_a_link_signs_nobody_in(local: Desk) -> None:
    """It opens one recording and no other door."""
    token = (await link(local)).rpartition("/")[2]
    answer = await local.client.get("/api/v1/me", headers={"authorization": f"Bearer {token}"})

    assert "UNAUTHENTICATED" == outcome(answer)


async def test_a_link_to_what_was_deleted_meanwhile_tells_so(local: Desk) -> None:
    """At once, not when the bytes are dropped."""
    path = await link(local)
    await local.ask(local.admin, "DELETE", "?reason=asked")
    answer = await local.client.get(path)

    assert (410, "RECORDING_GONE") == (answer.status_code, outcome(answer))


async def test_a_link_of_a_suspended_tenant_plays_nothing(local: Desk) -> None:
    """Until the tenant is let in again."""
    path, tenant_id = await link(local), local.room.firm.tenant_id
    answers = []
    for status in ("suspended", "active"):
        await local.room.execute("UPDATE tenant SET status = $2 WHERE id = $1", tenant_id, status)
        answers.append(outcome(await local.client.get(path)))

    assert ["TENANT_SUSPENDED", "ok"] == answers


# --- who listened -----------------------------------------------------------------------------------------------------


async def test_whoever_listens_stands_in_the_audit_log(local: Desk) -> None:
    """Who it was, what he did and from where: playing, keeping, and making a link. Who is refused did not listen."""
    firm = local.room.firm
    _, colleague = await local.room.town.user(firm.tenant_id, "agent", firm.team_id)
    key_id, key = await local.room.town.key(firm.tenant_id, firm.admin_id, {"recordings.listen"})
    await local.ask(local.agent)
    await local.ask(colleague)
    await local.ask(local.agent, path="?download=true")
    await local.ask(firm.admin, path="?download=true")
    await link(local, key)

    assert [
        ("user", firm.agent_id, "listen", "127.0.0.1"),
        ("user", firm.admin_id, "download", "127.0.0.1"),
        ("api_key", key_id, "listen", "127.0.0.1"),
    ] == await audited(local)


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["local", "s3", "local encrypted"])
async def test_bytes_that_were_removed_behind_our_back_are_missed(keeping: Open, strategy: str) -> None:
    """The listener is told that they are missing, by the call's path and by a link."""
    async with keeping(strategy) as open_desk:
        path = await link(open_desk)
        recording = open_desk.recording
        await open_desk.room.stores.at(recording.place).delete(recording.object_key)
        answers = [await open_desk.ask(open_desk.agent), await open_desk.client.get(path)]

    assert [(404, "RECORDING_MISSING")] * 2 == [(answer.status_code, outcome(answer)) for answer in answers]


@pytest.mark.parametrize("strategy", ["local encrypted", "s3 encrypted"])
async def test_not_a_byte_is_played_that_was_tampered_with(keeping: Open, strategy: str) -> None:
    """What is encrypted is verified before it is played."""
    async with keeping(strategy) as open_desk:
        await open_desk.room.tamper(open_desk.recording)

        assert "RECORDING_MISSING" == await open_desk.hears(open_desk.agent)


async def test_what_is_damaged_in_its_midst_is_not_taken_for_the_whole(keeping: Open) -> None:
    """The connection is cut where the damage begins."""
    async with keeping("local encrypted", LONG) as open_desk:
        await open_desk.room.tamper(open_desk.recording)

        with pytest.raises(httpx.RemoteProtocolError):
            await open_desk.ask(open_desk.agent)


@pytest.mark.parametrize("place", ["s3", "folder:of-another-machine"])
async def test_a_store_that_is_away_is_told(keeping: Open, place: str) -> None:
    """The listener may try again; the recording is not called missing."""
    async with keeping("hybrid", s3_endpoint_url="http://127.0.0.1:1") as open_desk:
        await open_desk.room.execute("UPDATE recording SET place = $1", place)
        answer = await open_desk.ask(open_desk.agent)

    assert (503, "UNAVAILABLE") == (answer.status_code, outcome(answer))
    assert "retry-after" in answer.headers


# --- what is drawn ----------------------------------------------------------------------------------------------------


async def test_the_waveform_is_drawn_when_the_audio_was_read(local: Desk) -> None:
    """Before that it is waited for; what is known without reading is told at once."""
    waiting = (await local.ask(local.agent, path="/waveform")).json()
    await local.room.archive.read()
    read = (await local.ask(local.agent, path="/waveform")).json()

    assert ("waiting", None, None) == (waiting["status"], waiting["duration"], waiting["peaks"])
    assert ("phone", "audio/mpeg", len(AUDIO), local.recording.sha256.hex()) == tuple(
        waiting[name] for name in ("source", "mediaType", "size", "sha256")
    )
    assert ("read", "mp3", 44100, 1) == tuple(read[name] for name in ("status", "codec", "sampleRate", "channels"))
    assert 1.0 == pytest.approx(read["duration"], abs=0.1)
    assert max(read["peaks"][: len(read["peaks"]) // 3]) < 128 < max(read["peaks"]) <= 255


async def test_an_unreadable_recording_is_called_so(keeping: Open) -> None:
    """It is kept, and can be played and downloaded all the same."""
    noise = b"OggS\0" + bytes(5000)
    async with keeping("local", noise) as open_desk:
        await open_desk.room.archive.read()
        told = (await open_desk.ask(open_desk.agent, path="/waveform")).json()
        played = await open_desk.ask(open_desk.agent)

    assert ("unreadable", None) == (told["status"], told["peaks"])
    assert noise == played.content


# --- held and deleted -------------------------------------------------------------------------------------------------


async def test_a_hold_is_put_on_and_lifted(local: Desk) -> None:
    """Both are audited with their reasons; only who manages recordings may."""
    admin = local.admin
    refused = await local.ask(local.agent, "PUT", "/hold", json={"hold": True, "reason": "no"})
    await local.ask(admin, "PUT", "/hold", json={"hold": True, "reason": "a lawsuit"})
    held = (await local.ask(local.agent, path="/waveform")).json()
    await local.ask(admin, "PUT", "/hold", json={"hold": False, "reason": "settled"})
    released = (await local.ask(local.agent, path="/waveform")).json()

    assert "FORBIDDEN" == outcome(refused)
    assert (True, "a lawsuit") == (held["hold"], held["holdReason"])
    assert (False, None) == (released["hold"], released["holdReason"])
    assert ["a lawsuit", "settled"] == await _reasons(local, "hold", "release")


async def test_what_is_held_is_not_deleted(local: Desk) -> None:
    """Not until the hold is lifted."""
    admin = local.admin
    await local.ask(admin, "PUT", "/hold", json={"hold": True, "reason": "a lawsuit"})
    refused = await local.ask(admin, "DELETE", "?reason=asked")
    playing = await local.hears(local.agent)
    await local.ask(admin, "PUT", "/hold", json={"hold": False, "reason": "settled"})
    deleted = await local.ask(admin, "DELETE", "?reason=asked")

    assert (409, "RECORDING_HELD") == (refused.status_code, outcome(refused))
    assert ("ok", "ok") == (playing, outcome(deleted))


async def test_a_deleted_recording_is_gone_at_once_and_its_bytes_soon_after(local: Desk) -> None:
    """Nobody hears it from then on; the worker drops the object, and the call shows what became of it."""
    admin, call_id = local.admin, local.recording.call_id
    await local.ask(admin, "DELETE", "?reason=the customer asked")
    answers = {path: await local.hears(local.agent, path) for path in ("", "/waveform")}
    answers["/link"] = outcome(await local.ask(local.agent, "POST", "/link"))
    again = outcome(await local.ask(admin, "DELETE", "?reason=again"))
    hold = outcome(await local.ask(admin, "PUT", "/hold", json={"hold": True, "reason": "too late"}))
    await local.room.settle()
    call = (await local.client.get(f"/api/v1/calls/{call_id}", headers=local.agent.headers)).json()["call"]

    assert {"RECORDING_GONE"} == {*answers.values(), again, hold}
    assert ["the customer asked"] == await _reasons(local, "delete")
    assert [] == await local.room.places(local.recording)
    assert ("deleted", None) == (call["recording"], call["recordingUrl"])
    assert "RECORDING_GONE" == await local.hears(local.agent)


async def test_deleting_takes_a_reason_and_a_permission(local: Desk) -> None:
    """Nothing happens without either."""
    refused = outcome(await local.ask(await supervisor(local, of_the_team=True), "DELETE", "?reason=no"))
    without = outcome(await local.ask(local.admin, "DELETE"))

    assert ("FORBIDDEN", "INVALID_FIELD") == (refused, without)
    assert "ok" == await local.hears(local.agent)


async def test_a_phone_does_not_bring_back_what_was_deleted(local: Desk) -> None:
    """Neither before nor after its bytes are dropped."""
    answers = []
    await local.ask(local.admin, "DELETE", "?reason=asked")
    for _ in range(2):
        answers.append(
            outcome(
                await local.client.post(
                    "/api/v1/calls/mobile/recording/upload",
                    data={"callId": local.recording.call_id},
                    files={"file": ("a.mp3", AUDIO, "audio/mpeg")},
                    headers=local.room.firm.phone.headers,
                )
            )
        )
        await local.room.settle()

    assert ["RECORDING_GONE"] * 2 == answers
    assert [] == await local.room.places(local.recording)


async def test_a_listener_who_leaves_lets_go(keeping: Open) -> None:
    """Nothing is read on for who is gone: the node answers others, and closes its stores without waiting."""
    async with keeping("s3", LONG) as open_desk:
        async with open_desk.client.stream("GET", open_desk.path, headers=open_desk.agent.headers) as begun:
            first = await anext(begun.aiter_raw())
        assert LONG.startswith(first)

        async def answered() -> bool:
            return (await open_desk.client.get("/healthz")).status_code == 200

        await until(answered)


async def _reasons(desk: Desk, *actions: str) -> list[str]:
    reasons: list[str] = await desk.room.column(
        "SELECT reason FROM audit_log WHERE resource = 'recording' AND resource_id = $1 AND action = ANY ($2)"
        " AND actor_id = $3 ORDER BY id",
        desk.recording.call_id,
        list(actions),
        desk.room.firm.admin_id,
    )
    return reasons
