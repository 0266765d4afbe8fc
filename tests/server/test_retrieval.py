"""Recordings that providers offer: fetched from a real origin, whole or not at all, their URLs kept from everybody."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from redis.asyncio import Redis

from server.config import Config, master_keys
from server.fetch import open_fetcher
from server.intake import Intake
from server.retrieval import Retrieval
from storage import recordings
from storage.database import Database
from storage.vault import Vault
from tests.conftest import Bucket
from tests.server.fake_origin import Origin, origin
from tests.server.record_room import AUDIO, LONG, RecordRoom, kept_in, record_room

LINE = "line_of_the_provider"
SIGNATURE = "f0e1d2c3-not-a-real-signature"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Provider:
    """An origin of which each request is answered by the next of `answers`, the last for ever: statuses and bodies."""

    def __init__(self, *answers: int | bytes | str) -> None:
        self._answers = list(answers)

    async def answer(self, _: web.Request) -> web.StreamResponse:
        """A status, a recording, or a redirect to a URL."""
        match self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]:
            case int(status):
                return web.Response(status=status)
            case bytes(body):
                return web.Response(body=body, content_type="audio/mpeg")
            case str(url):
                return web.Response(status=302, headers={"location": url})


class Line:
    """A line of a provider whose recordings are fetched by one worker."""

    def __init__(self, room: RecordRoom, retrieval: Retrieval, provider: Origin) -> None:
        self.room = room
        self.retrieval = retrieval
        self.provider = provider
        self.url = f"http://127.0.0.1:{provider.port}/a.mp3?sign={SIGNATURE}"

    async def offer(self, call_id: str, url: str | None = None, tenant_id: str | None = None) -> bool:
        """The provider says where the recording of a call is."""
        return await self.retrieval.want(tenant_id or self.room.firm.tenant_id, call_id, LINE, url or self.url)

    async def fetch(self) -> None:
        """What is waited for is due, and a worker fetches it."""
        await self.room.execute("UPDATE recording_fetch SET next_at = now()")
        await self.retrieval.fetch()

    async def offered(self, **changed: Any) -> str:
        """A call whose recording the provider offers."""
        call_id = await self.room.call(**changed)
        assert await self.offer(call_id)
        return call_id

    async def waiting(self) -> list[str]:
        """The calls whose recordings are waited for."""
        return await self.room.column("SELECT call_id FROM recording_fetch WHERE state = 'waiting' ORDER BY call_id")

    async def shown(self, call_id: str) -> str | None:
        """What the call shows of its recording."""
        status: str | None = await self.room.value("SELECT recording_status FROM call WHERE id = $1", call_id)
        return status

    async def failure(self, call_id: str) -> str | None:
        """Why the last fetch failed."""
        failure: str | None = await self.room.value("SELECT failure FROM recording_fetch WHERE call_id = $1", call_id)
        return failure

    async def other_keys(self) -> Retrieval:
        """A worker that holds other master keys."""
        return Retrieval(
            self.room.database, Vault({"other": bytes(32)}), self.retrieval._fetcher, self.room.intake, lease=60.0
        )


Open = Callable[..., Any]


@pytest.fixture
def line(database: Database, redis: Redis, configure: Callable[..., Config], s3: Bucket, tmp_path: Path) -> Open:
    """Open a line whose provider answers so: `line(404, AUDIO)`."""

    @asynccontextmanager
    async def open_line(*answers: int | bytes | str, strategy: str = "local", **settings: Any) -> AsyncIterator[Line]:
        config = configure(
            **kept_in(strategy, s3, tmp_path / "folder", **{"fetch_networks": "127.0.0.0/8", **settings})
        )
        async with (
            record_room(database, redis, config) as room,
            open_fetcher(config) as fetcher,
            origin(Provider(*answers).answer) as provider,
        ):
            intake: Intake = room.intake
            yield Line(room, Retrieval(database, Vault(master_keys(config)), fetcher, intake, lease=60.0), provider)

    return open_line


@pytest.mark.parametrize("strategy", ["local", "local encrypted", "s3", "hybrid"])
@pytest.mark.parametrize("audio", [AUDIO, LONG], ids=["one part", "many"])
async def test_what_a_provider_offers_is_fetched_and_kept(line: Open, strategy: str, audio: bytes) -> None:
    """It is a recording like any other, marked as the provider's; its agent is told, and nothing is waited for."""
    async with line(audio, strategy=strategy) as a_line:
        call_id = await a_line.offered()
        await a_line.fetch()
        recording = await a_line.room.recording(call_id)

        assert ("stored", "provider", LINE) == (recording.state, recording.source, recording.actor_id)
        assert audio == await a_line.room.audio(recording)
        assert 1 == await a_line.room.told(recording)
        assert ("ready", []) == (await a_line.shown(call_id), await a_line.waiting())


async def test_nothing_is_fetched_before_it_is_due(line: Open) -> None:
    """Providers ask for a while to make the recording."""
    async with line(AUDIO) as a_line:
        call_id = await a_line.offered()
        await a_line.retrieval.fetch()

        assert [] == a_line.provider.requests
        assert [call_id] == await a_line.waiting()


@pytest.mark.parametrize("answer", [AUDIO, 404, 410], ids=["fetched", "waiting", "failed"])
async def test_the_url_is_in_plain_text_nowhere_in_the_database(line: Open, answer: int | bytes) -> None:
    """Whoever has it may listen: so neither while it waits, nor afterwards, nor in what is told of a failure."""
    async with line(answer) as a_line:
        await a_line.offered()
        before = await _all_rows(a_line.room)
        await a_line.fetch()
        after = await _all_rows(a_line.room)

    for secret in (SIGNATURE, "/a.mp3"):
        assert secret not in before + after
        assert secret.encode().hex() not in before + after


async def test_a_recording_that_is_not_made_yet_is_fetched_later(line: Open) -> None:
    """Whatever providers answer until then: not found, too busy, an empty file, or a page of words."""
    async with line(404, 503, b"", b"<html>Please wait</html>", AUDIO) as a_line:
        call_id = await a_line.offered()
        shown = []
        for _ in range(4):
            await a_line.fetch()
            shown.append((await a_line.shown(call_id), await a_line.waiting()))
        await a_line.fetch()

        assert [(None, [call_id])] * 4 == shown
        assert ("ready", []) == (await a_line.shown(call_id), await a_line.waiting())


async def test_what_is_put_off_waits_its_time(line: Open) -> None:
    """Nobody asks a provider again at once."""
    async with line(404) as a_line:
        await a_line.offered()
        await a_line.fetch()
        await a_line.retrieval.fetch()

        assert 1 == len(a_line.provider.requests)


async def test_what_will_never_go_is_given_up(line: Open) -> None:
    """The call shows it, and its history says why, naming the host at most; nobody asks again."""
    async with line(410) as a_line:
        call_id = await a_line.offered()
        for _ in range(2):
            await a_line.fetch()

        assert "failed" == await a_line.shown(call_id)
        assert ["127.0.0.1 answered 410"] == await a_line.room.column(
            "SELECT data ->> 'reason' FROM call_event WHERE call_id = $1 AND kind = 'RECORDING_FAILED'", call_id
        )
        assert 1 == len(a_line.provider.requests)


async def test_after_a_day_the_last_try_decides(line: Open) -> None:
    """What might be put off otherwise is given up then."""
    async with line(503) as a_line:
        call_id = await a_line.offered()
        await a_line.fetch()
        before = await a_line.shown(call_id)
        await a_line.room.execute("UPDATE recording_fetch SET give_up_at = now()")
        await a_line.fetch()

        assert (None, "failed") == (before, await a_line.shown(call_id))


async def test_a_last_try_may_succeed(line: Open) -> None:
    """It is a try like any other."""
    async with line(AUDIO) as a_line:
        call_id = await a_line.offered()
        await a_line.room.execute("UPDATE recording_fetch SET give_up_at = now()")
        await a_line.fetch()

        assert "ready" == await a_line.shown(call_id)


@pytest.mark.parametrize(("to", "expected"), [("127.0.0.1", "ready"), ("127.0.0.2", "failed"), ("10.0.0.1", "failed")])
async def test_a_redirect_inwards_is_followed_only_where_that_is_set(line: Open, to: str, expected: str) -> None:
    """A URL that somebody gave us leads to no network of ours, unless FETCH_NETWORKS names it."""
    async with origin(Provider(AUDIO).answer) as inside:
        async with line(f"http://{to}:{inside.port}/inside", fetch_networks="127.0.0.1/32") as a_line:
            call_id = await a_line.offered()
            await a_line.fetch()

            assert expected == await a_line.shown(call_id)
            assert (1 if expected == "ready" else 0) == len(inside.requests)


async def test_a_url_on_a_private_network_is_refused(line: Open) -> None:
    """For good: it is nothing that a provider would say."""
    async with line(AUDIO, fetch_networks="") as a_line:
        call_id = await a_line.offered()
        await a_line.fetch()

        assert "failed" == await a_line.shown(call_id)
        assert [] == a_line.provider.requests


async def test_of_two_offers_the_newer_counts(line: Open) -> None:
    """The first URL may have had its time; there is one recording, and it is fetched once."""
    async with line(AUDIO) as a_line:
        call_id = await a_line.offered()
        again = await a_line.offer(call_id, a_line.url.replace("a.mp3", "newer.mp3"))
        await a_line.fetch()

        assert again
        assert ["/newer.mp3"] == [request.path for request in a_line.provider.requests]
        assert "ready" == await a_line.shown(call_id)


async def test_an_offer_after_a_failure_is_taken(line: Open) -> None:
    """The provider offers another URL for what could not be had: the call has its recording then."""
    async with line(410, AUDIO) as a_line:
        call_id = await a_line.offered()
        await a_line.fetch()
        failed = await a_line.shown(call_id)
        await a_line.offer(call_id)
        await a_line.fetch()

        assert ("failed", "ready") == (failed, await a_line.shown(call_id))


async def test_what_is_there_or_was_not_to_be_recorded_is_not_wanted(line: Open) -> None:
    """Nor is a recording of a call that another tenant made; nobody asks for any of them."""
    async with line(AUDIO) as a_line:
        stored = await a_line.room.stored()
        offers = [
            await a_line.offer(stored.call_id),
            await a_line.offer(await a_line.room.call(record=False)),
            await a_line.offer(await a_line.room.call(), tenant_id="tenant_other"),
            await a_line.offer("call_none"),
        ]
        await a_line.fetch()

        assert [False] * 4 == offers
        assert ([], []) == (await a_line.waiting(), a_line.provider.requests)


async def test_what_was_deleted_is_not_fetched_again(line: Open) -> None:
    """Whoever deleted it meant it."""
    async with line(AUDIO) as a_line:
        recording = await a_line.room.stored()
        async with a_line.room.database.connection() as connection:
            await recordings.remove(connection, recording.tenant_id, recording.call_id)

        assert not await a_line.offer(recording.call_id)


async def test_an_offer_beside_an_upload_that_comes_to_nothing_is_kept(line: Open) -> None:
    """While another upload stands in the gate it is put off; when that was withdrawn, it is fetched."""
    async with line(AUDIO) as a_line:
        storing = await a_line.room.overdue(appeared=False)
        wanted = await a_line.offer(storing.call_id)
        await a_line.fetch()
        put_off = await a_line.failure(storing.call_id)
        await a_line.room.archive.settle()
        await a_line.fetch()

        assert (True, "UPLOAD_IN_PROGRESS") == (wanted, put_off)
        fetched = await a_line.room.recording(storing.call_id)
        assert ("stored", "provider") == (fetched.state, fetched.source)


async def test_a_phone_that_is_faster_ends_the_wait(line: Open) -> None:
    """There is one recording of a call: nothing is fetched beside it."""
    async with line(AUDIO) as a_line:
        storing = await a_line.room.overdue(appeared=True)
        await a_line.offer(storing.call_id)
        await a_line.room.archive.settle()
        await a_line.fetch()

        assert ([], []) == (await a_line.waiting(), a_line.provider.requests)
        assert "phone" == (await a_line.room.recording(storing.call_id)).source


async def test_a_missing_key_puts_off_and_one_fetch_does_not_hinder_others(line: Open) -> None:
    """An operator may put the key back; until then the URL is not given up."""
    async with line(AUDIO) as a_line:
        call_id = await a_line.offered()
        await a_line.room.execute("UPDATE recording_fetch SET next_at = now()")
        await (await a_line.other_keys()).fetch()
        failure = await a_line.failure(call_id)
        await a_line.fetch()

        assert failure is not None
        assert failure.startswith("a key is missing: ")
        assert "ready" == await a_line.shown(call_id)


async def test_a_body_that_is_cut_leaves_nothing(line: Open) -> None:
    """Neither a part of a recording nor an upload; it is fetched again."""

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": str(len(LONG))})
        await response.prepare(request)
        await response.write(LONG[:1_000_000])
        assert request.transport is not None
        request.transport.abort()
        return response

    async with line(AUDIO) as a_line, origin(cut) as cutting:
        call_id = await a_line.room.call()
        await a_line.offer(call_id, f"http://127.0.0.1:{cutting.port}/")
        await a_line.fetch()

        assert "the answer of 127.0.0.1 was cut short" == await a_line.failure(call_id)
        assert await a_line.room.find(call_id) is None
        assert [] == await a_line.room.column("SELECT id FROM recording_upload")


async def test_what_is_too_large_is_given_up(line: Open) -> None:
    """RECORDING_LIMIT counts for providers too."""
    async with line(AUDIO, recording_limit=2000) as a_line:
        call_id = await a_line.offered()
        await a_line.fetch()

        assert "failed" == await a_line.shown(call_id)


async def _all_rows(room: RecordRoom) -> str:
    """Every row of every table, as text."""
    tables = await room.column("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
    rows = [text for table in tables for text in await room.column(f"SELECT t::text FROM {table} t")]
    assert any("RECORDING" in text or "waiting" in text for text in rows)
    return "\n".join(rows)
