"""Look-ups at a real fake cloud: while a call lives, after it ended, and until nobody will ever know more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from redis.asyncio import Redis

from server.config import Config
from storage.database import Database
from tests.clouds.aliyun import aliyun_cloud
from tests.clouds.cloud import WebhookRequestSpec
from tests.clouds.ronglian import ronglian_cloud
from tests.clouds.tencent import TencentCloud, tencent_cloud
from tests.conftest import Office
from tests.server.line_front import Front, Line, line_front
from tests.waiting import until


async def _lost(_: WebhookRequestSpec) -> None:
    """What becomes of a message that never arrives."""


class Desk:
    """A line at Tencent's, which tells nothing while a call lasts: what is known of one was asked."""

    def __init__(self, front: Front, line: Line, cloud: TencentCloud) -> None:
        self.front = front
        self.line = line
        self.cloud = cloud

    async def over(self, call_id: str, story: Any) -> None:
        """Let a call end at the provider, whose messages are lost."""
        self.cloud.pushes(call_id, story)

    async def next_look(self, call_id: str) -> timedelta | None:
        """How long it takes until a call is looked up again."""
        row = await self.front.row("SELECT next_look_at - now() AS wait FROM attempt WHERE call_id = $1", call_id)
        wait: timedelta | None = row["wait"]
        return wait

    async def end_earlier(self, call_id: str, seconds: float, evidence: str = "assumed") -> None:
        """Let a call have ended so long ago, on weak grounds."""
        await self.front.execute(
            "UPDATE call SET status = 'ended', outcome = 'connected', closed_by = 'provider', evidence = $3,"
            " hangup_cause = 'NORMAL_CLEARING', ended_at = now() - make_interval(secs => $2), reap_at = NULL"
            " WHERE id = $1",
            call_id,
            seconds,
            evidence,
        )


@pytest.fixture
def local(configure: Callable[..., Config], tmp_path: Path) -> Config:
    """A node that may speak to this machine, and keeps recordings."""
    return configure(
        provider_networks="127.0.0.0/8",
        fetch_networks="127.0.0.0/8",
        recordings="local",
        recordings_folder=tmp_path / "recordings",
    )


@pytest.fixture
async def desk(database: Database, office: Office, redis: Redis, local: Config) -> AsyncIterator[Desk]:
    """A line at a cloud on loopback."""
    async with line_front(database, office, redis, local) as front, tencent_cloud() as cloud:
        yield Desk(front, await front.line("tencent", cloud), cloud)


async def test_a_living_call_is_followed(desk: Desk) -> None:
    """What the provider shows of a call moves it, and it is asked again five seconds later."""
    call_id = await desk.front.placed(desk.line)
    desk.cloud.live(call_id, "ringing", RingTimestamp=int(datetime.now(UTC).timestamp()))
    await desk.front.look_up()

    assert "ringing" == (await desk.front.call(call_id))["status"]
    wait = await desk.next_look(call_id)
    assert wait is not None
    assert timedelta(0) < wait <= timedelta(seconds=5)


async def test_a_record_ends_the_asking(desk: Desk) -> None:
    """A call whose every message was lost ends by its record, which is asked for no more; its recording is fetched."""
    call_id = await desk.front.placed(desk.line)
    await desk.over(call_id, "answered")
    await desk.front.look_up()
    call = await desk.front.call(call_id)

    assert ("ended", "connected", "provider_record") == (call["status"], call["outcome"], call["evidence"])
    assert await desk.next_look(call_id) is None
    wanted = await desk.front.row("SELECT call_id FROM recording_fetch")
    assert call_id == wanted["call_id"]


@pytest.mark.parametrize(("ago", "next_at"), [(1, 120), (300, 600), (1800, 3600), (7200, 86400), (90000, None)])
async def test_a_call_without_a_record_is_asked_for_less_and_less(desk: Desk, ago: int, next_at: int | None) -> None:
    """2 and 10 minutes, an hour and a day after its end; then never."""
    call_id = await desk.front.placed(desk.line)
    await desk.end_earlier(call_id, ago)
    await desk.front.look_up()
    wait = await desk.next_look(call_id)

    if next_at is None:
        assert wait is None
    else:
        assert wait is not None
        assert abs(wait.total_seconds() + ago - next_at) < 30


async def test_an_order_that_the_provider_never_saw_is_closed_after_ten_minutes(desk: Desk) -> None:
    """Until then it may still turn up; after, its outcome is unknown, and a late record corrects it all the same."""
    desk.cloud.next_place("drop")
    call_id = await desk.front.placed(desk.line, "uncertain")
    session = desk.cloud.sessions.pop(desk.cloud.session_of(call_id))
    await desk.front.look_up()
    young = await desk.front.call(call_id)
    await desk.front.execute("UPDATE attempt SET ordered_at = ordered_at - interval '11 minutes'")
    await desk.front.look_up()
    old = await desk.front.call(call_id)
    desk.cloud.sessions[desk.cloud.session_of(call_id)] = session
    await desk.front.play(desk.line, desk.cloud, call_id, "busy")
    late = await desk.front.call(call_id)

    assert "ended" != young["status"]
    assert ("ended", "unknown", "LOST") == (old["status"], old["outcome"], old["hangup_cause"])
    assert ("busy", "provider_record") == (late["outcome"], late["evidence"])


async def test_an_order_whose_node_died_is_found_by_our_tag(desk: Desk) -> None:
    """It was written, and what was answered was never kept: it is not written again, but looked for, and found."""
    call_id = await desk.front.placed(desk.line)
    await desk.front.execute("UPDATE attempt SET state = 'sent', provider_call_id = NULL")
    await desk.front.execute("UPDATE call SET status = 'pending', dialing_at = NULL WHERE id = $1", call_id)
    await desk.over(call_id, "rejected")
    await asyncio.gather(*(desk.front.reconciling.look_up() for _ in range(2)), desk.front.look_up())

    call = await desk.front.call(call_id)

    assert ("rejected", "provider_record") == (call["outcome"], call["evidence"])
    assert [call_id] == [placed.tag for placed in desk.cloud.placed]
    assert desk.cloud.session_of(call_id) == (await desk.front.attempt(call_id))["provider_call_id"]


async def test_a_provider_that_does_not_answer_closes_nothing(desk: Desk) -> None:
    """However old the order: nobody knows, and it is asked again."""
    call_id = await desk.front.placed(desk.line)
    await desk.front.execute("UPDATE attempt SET ordered_at = ordered_at - interval '11 minutes'")
    desk.cloud.refusals = dict.fromkeys(("DescribeTelSession", "DescribeTelCdr"), "InternalError")
    await desk.front.look_up()

    assert "calling" == (await desk.front.call(call_id))["status"]
    assert await desk.next_look(call_id) is not None


async def test_a_slow_provider_delays_nobody_else(
    database: Database, office: Office, redis: Redis, local: Config
) -> None:
    """While one tenant's cloud keeps a worker waiting, calls at another are asked for again and again."""
    async with line_front(database, office, redis, local) as front, tencent_cloud() as slow, tencent_cloud() as quick:
        late = await front.placed(await front.line("tencent", slow, accountId="slow"))
        call_id = await front.placed(await front.line("tencent", quick, accountId="quick"))
        gate = slow.held["DescribeTelSession"] = asyncio.Event()
        worker = asyncio.create_task(front.look_up())
        await until(lambda: "DescribeTelSession" in [action for action, _ in slow.asked])

        async def is_asked() -> bool:
            return await front.count("attempt WHERE next_look_at BETWEEN now() AND now() + interval '5 s'") == 1

        await until(is_asked)
        quick.pushes(call_id, "busy")
        await front.execute("UPDATE attempt SET next_look_at = now() WHERE call_id = $1", call_id)

        async def is_over() -> bool:
            return (await front.call(call_id))["ended_at"] is not None

        await until(is_over)
        waited_for_nobody = not worker.done()
        gate.set()
        await worker

        assert waited_for_nobody
        assert "ended" != (await front.call(late))["status"]


async def test_an_order_that_nobody_wrote_in_time_expires(desk: Desk) -> None:
    """Its node died, say: it is never written after that."""
    call_id = await desk.front.placed(desk.line)
    await desk.front.execute("UPDATE attempt SET state = 'committed', expires_at = now(), next_look_at = NULL")
    await desk.front.execute("UPDATE call SET status = 'pending' WHERE id = $1", call_id)
    await desk.front.reconciling.look_up()
    call = await desk.front.call(call_id)

    assert ("failed", "EXPIRED") == (call["outcome"], call["hangup_cause"])
    assert "over" == (await desk.front.attempt(call_id))["state"]


async def test_a_call_of_a_deleted_line_is_not_asked_for(desk: Desk) -> None:
    """Nobody can be asked any more."""
    call_id = await desk.front.placed(desk.line)
    await desk.end_earlier(call_id, 10)
    deleted = await desk.front.ask("DELETE", f"/lines/{desk.line.id}", who=desk.front.admin)
    assert deleted.is_success
    await desk.front.look_up()

    assert await desk.next_look(call_id) is None


async def test_a_recording_that_is_not_there_yet_is_asked_for_again(
    database: Database, office: Office, redis: Redis, local: Config
) -> None:
    """A record settles how the call went; the recording that it promises is asked for as if it had not."""
    async with line_front(database, office, redis, local) as front, aliyun_cloud() as cloud:
        line = await front.line("aliyun", cloud)
        call_id = await front.placed(line)
        await cloud.play(call_id, "answered", send=_lost)
        cloud.answers["GetMonoRecording"] = web.Response(status=503)
        await front.look_up()
        first = await front.attempt(call_id)
        unasked = await front.count("recording_fetch")
        await front.look_up()

        assert "provider_record" == (await front.call(call_id))["evidence"]
        assert first["next_look_at"] is not None
        assert (0, 1) == (unasked, await front.count("recording_fetch"))
        assert (await front.attempt(call_id))["next_look_at"] is None


async def test_who_cannot_be_asked_is_not_asked_again(
    database: Database, office: Office, redis: Redis, local: Config
) -> None:
    """Ronglian tells what it tells: a call there is no more looked up after the first try, and its message ends it."""
    async with line_front(database, office, redis, local) as front, ronglian_cloud() as cloud:
        line = await front.line("ronglian", cloud)
        call_id = await front.placed(line)
        await front.look_up()
        waits = (await front.attempt(call_id))["next_look_at"]
        await cloud.play(call_id, "busy", send=lambda message: front.send_behind(line, message))
        await front.read()

        assert waits is None
        assert "ended" == (await front.call(call_id))["status"]
