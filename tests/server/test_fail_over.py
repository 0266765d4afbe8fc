"""Which refusals take a call to another line, to which, and how far it goes; at fake clouds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from protocol.call import End, Evidence, Outcome
from server.config import Config
from server.fail_over import MOST_ATTEMPTS
from server.line_dial import Place
from server.providers.provider import Told
from storage import attempts
from storage.database import Connection, Database
from tests.clouds.infinity import infinity_cloud
from tests.clouds.tencent import TencentCloud, tencent_cloud
from tests.conftest import Office
from tests.server.line_front import Front, Line, line_front
from tests.waiting import until, until_blocked

NO_MONEY = "LimitExceeded.BasePackageExpired"


class Desk:
    """Lines at clouds of their own, taken one after the other."""

    def __init__(self, front: Front, clouds: list[TencentCloud]) -> None:
        self.front = front
        self.clouds = clouds
        self.lines: list[Line] = []

    async def open(self, how_many: int) -> None:
        """Set up so many of the lines."""
        for n, cloud in enumerate(self.clouds[:how_many]):
            self.lines.append(await self.front.line("tencent", cloud, accountId=f"account {n}", priority=n))

    def refuse(self, *codes: str) -> None:
        """Let the first clouds refuse their next orders, each with a word."""
        for cloud, code in zip(self.clouds, codes, strict=False):
            cloud.next_place("refuse", code)

    async def went(self, call_id: str) -> list[tuple[int, str]]:
        """Where the call was tried, and what came of it, once it is placed or over."""

        async def settled() -> bool:
            call = await self.front.call(call_id)
            return call["dialing_at"] is not None or call["ended_at"] is not None

        await until(settled)
        async with self.front.database.connection() as connection:
            rows = await connection.fetch("SELECT line_id, state FROM attempt WHERE call_id = $1 ORDER BY n", call_id)
        ids = [line.id for line in self.lines]
        return [(ids.index(row["line_id"]), row["state"]) for row in rows]

    async def set(self, n: int, **columns: Any) -> None:
        """Change the row of a line."""
        for name, value in columns.items():
            await self.front.execute(f"UPDATE call_line SET {name} = $2 WHERE id = $1", self.lines[n].id, value)


@pytest.fixture
def local(configure: Callable[..., Config], tmp_path: Path) -> Config:
    """A node that may speak to this machine."""
    return configure(provider_networks="127.0.0.0/8", recordings="local", recordings_folder=tmp_path / "recordings")


@pytest.fixture
async def desk(database: Database, office: Office, redis: Redis, local: Config) -> AsyncIterator[Desk]:
    """An office with lines to come."""
    async with line_front(database, office, redis, local) as front, AsyncExitStack() as stack:
        clouds = [await stack.enter_async_context(tencent_cloud()) for _ in range(MOST_ATTEMPTS + 1)]
        yield Desk(front, clouds)


@pytest.mark.parametrize("code", [NO_MONEY, "RequestLimitExceeded"])
async def test_what_is_the_lines_affair_goes_to_the_next(desk: Desk, code: str) -> None:
    """A line without money, or one that asks for patience; the call counts on the day of both."""
    await desk.open(2)
    desk.refuse(code)
    call_id = await desk.front.dial()
    went = await desk.went(call_id)
    call = await desk.front.call(call_id)
    days = await desk.front.row("SELECT array_agg(attempts) AS attempts FROM line_day")

    assert [(0, "refused"), (1, "placed")] == went
    assert (desk.lines[1].id, "calling", None) == (call["line_id"], call["status"], call["outcome"])
    assert [1, 1] == days["attempts"]


@pytest.mark.parametrize("code", ["FailedOperation.CalleeIsBlackUser", "FailedOperation.SeatStatusBusy"])
async def test_what_no_line_can_help_is_final(desk: Desk, code: str) -> None:
    """A number that may not be called, an agent who is busy."""
    await desk.open(2)
    desk.refuse(code)
    call_id = await desk.front.dial()

    went = await desk.went(call_id)
    call = await desk.front.call(call_id)

    assert [(0, "refused")] == went
    assert ("failed", code) == (call["outcome"], call["raw_cause"])
    assert [] == desk.clouds[1].asked


async def test_a_refusal_that_may_have_rung_is_final(desk: Desk) -> None:
    """A code that nobody listed does not say how far the order came: the call ends there, and goes nowhere else."""
    await desk.open(2)
    desk.refuse("FailedOperation")
    call_id = await desk.front.dial()

    went = await desk.went(call_id)
    call = await desk.front.call(call_id)

    assert [(0, "refused")] == went
    assert ("failed", "FailedOperation") == (call["outcome"], call["raw_cause"])
    assert [] == desk.clouds[1].asked


async def test_a_line_that_was_asked_for_is_not_exchanged(desk: Desk) -> None:
    """Whoever names a line means that one; the default of an agent is only a wish."""
    await desk.open(2)
    await desk.front.execute("UPDATE app_user SET default_line_id = $1", desk.lines[0].id)
    desk.refuse(NO_MONEY)
    named = await desk.went(await desk.front.dial(desk.lines[0]))
    desk.refuse(NO_MONEY)

    assert [(0, "refused")] == named
    assert [(0, "refused"), (1, "placed")] == await desk.went(await desk.front.dial())


async def test_a_call_tries_so_many_lines_and_no_more(desk: Desk) -> None:
    """Each once; the last one's refusal is the call's."""
    await desk.open(MOST_ATTEMPTS + 1)
    desk.refuse(*[NO_MONEY] * MOST_ATTEMPTS)
    call_id = await desk.front.dial()

    assert [(n, "refused") for n in range(MOST_ATTEMPTS)] == await desk.went(call_id)
    assert "failed" == (await desk.front.call(call_id))["outcome"]
    assert [] == desk.clouds[-1].asked


async def test_the_next_line_is_one_that_can_carry_the_call(desk: Desk) -> None:
    """Not one that is frozen, off, or full."""
    await desk.open(4)
    await desk.set(1, health="frozen")
    await desk.set(2, status=0)
    desk.refuse(NO_MONEY)

    assert [(0, "refused"), (3, "placed")] == await desk.went(await desk.front.dial())


async def test_a_call_whose_time_is_over_goes_nowhere(desk: Desk) -> None:
    """The refusal came too late: by now the agent does something else."""
    await desk.open(2)
    await desk.front.execute(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.expires_at := now() - interval '1 s'; RETURN NEW; END $$"
    )
    await desk.front.execute(
        "CREATE TRIGGER late BEFORE UPDATE ON attempt FOR EACH ROW WHEN (NEW.state = 'sent') EXECUTE FUNCTION late()"
    )
    desk.refuse(NO_MONEY)

    assert [(0, "refused")] == await desk.went(await desk.front.dial())
    assert [] == desk.clouds[1].asked


async def test_a_call_that_was_hung_up_goes_nowhere(desk: Desk) -> None:
    """The agent has put down the receiver while the first line was asked."""
    await desk.open(2)
    await desk.front.execute(
        "CREATE FUNCTION hang_up() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.called_off_at := now(); RETURN NEW; END $$"
    )
    await desk.front.execute(
        "CREATE TRIGGER hang_up BEFORE UPDATE ON attempt FOR EACH ROW WHEN (NEW.state = 'sent')"
        " EXECUTE FUNCTION hang_up()"
    )
    desk.refuse(NO_MONEY)

    assert [(0, "refused")] == await desk.went(await desk.front.dial())
    assert [] == desk.clouds[1].asked


async def test_what_the_first_line_says_afterwards_moves_nothing(desk: Desk) -> None:
    """It refused the call: that another line has it now is none of its business."""
    await desk.open(2)
    desk.refuse(NO_MONEY)
    call_id = await desk.front.dial()
    await desk.went(call_id)
    end = End(outcome=Outcome.FAILED, at=datetime.now(UTC), by="provider", evidence=Evidence.PROVIDER_RECORD)
    told = Told(provider_call_id="theirs", tag=call_id, event=end, once="late", raw=b"{}")
    tenant_id = desk.front.office.tenant_id
    problem = await desk.front.reading.tell(tenant_id, desk.lines[0].id, told)
    first = await desk.front.call(call_id)
    await desk.front.reading.tell(tenant_id, desk.lines[1].id, told)

    assert (None, None) == (problem, first["ended_at"])
    assert "failed" == (await desk.front.call(call_id))["outcome"]


async def test_hanging_up_catches_up_with_a_call_that_goes_on_twice(desk: Desk) -> None:
    """However often the call went on while the agent hung up, it is called off where it is at last."""
    await desk.open(3)
    front, tenant_id = desk.front, desk.front.office.tenant_id
    for line in desk.lines:  # so that no order is written but by this test
        await front.execute("UPDATE call_line SET secrets = '\\x00' WHERE id = $1", line.id)
    await front.execute(
        "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$"
    )
    await front.execute(
        "CREATE TRIGGER pause BEFORE UPDATE ON attempt FOR EACH ROW"
        " WHEN (NEW.n = 1 AND NEW.called_off_at IS NOT NULL) EXECUTE FUNCTION pause()"
    )
    call_id = await front.dial()

    async def go_on(connection: Connection, line: Line) -> None:
        attempt = await attempts.send(connection, tenant_id, call_id, 18.0)
        assert attempt is not None
        place = Place(
            line_id=line.id,
            provider="tencent",
            caller=None,
            seat_id="1001",
            seat_number="",
            extension=None,
            extension_fence=None,
        )
        assert await attempts.fail_over(connection, attempt, "line", NO_MONEY, **msgspec.structs.asdict(place))

    async with front.database.connection() as gate, asyncio.TaskGroup() as group:
        await gate.execute("SELECT pg_advisory_lock(1)")
        async with front.database.transaction() as connection:
            await go_on(connection, desk.lines[1])
            hanging_up = group.create_task(front.ask("POST", "/hangup", {"callId": call_id}, who=front.agent))
            await until_blocked(front.database)
        async with front.database.transaction() as connection:
            await go_on(connection, desk.lines[2])
            await gate.execute("SELECT pg_advisory_unlock(1)")
            await until_paused(front)
    answer = await hanging_up

    assert 200 == answer.status_code, answer.text
    assert [(0, "refused"), (1, "refused"), (2, "over")] == await desk.went(call_id)
    assert "cancelled" == (await front.call(call_id))["outcome"]


async def until_paused(front: Front) -> None:
    """Wait until somebody waits for a row, no longer for the advisory lock."""

    async def waits() -> bool:
        row = await front.row(
            "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND wait_event <> 'advisory'"
        )
        return bool(row["n"])

    await until(waits)


async def test_a_word_of_the_first_line_that_was_on_its_way_moves_nothing(desk: Desk) -> None:
    """It was found to be of the call before the next line had it, and is weighed after."""
    await desk.open(2)
    desk.refuse(NO_MONEY)
    call_id = await desk.front.dial()
    await desk.went(call_id)
    end = End(outcome=Outcome.FAILED, at=datetime.now(UTC), by="provider", evidence=Evidence.PROVIDER_RECORD)
    tenant_id, calls = desk.front.office.tenant_id, desk.front.reading._calls
    await calls.hear(tenant_id, call_id, "late", "END", end, b"{}", attempt=1)
    first = await desk.front.call(call_id)
    await calls.hear(tenant_id, call_id, "late", "END", end, b"{}", attempt=2)

    assert None is first["ended_at"]
    assert "failed" == (await desk.front.call(call_id))["outcome"]


async def test_an_extension_is_given_back_before_the_call_goes_on(desk: Desk) -> None:
    """The line that lent it has it again, and it is not lent to the next call at once, for its provider refused it."""
    async with infinity_cloud() as cloud:
        line = await desk.front.line("infinity", cloud, priority=0)
        desk.lines.append(line)
        await desk.front.execute("DELETE FROM line_seat WHERE line_id = $1", line.id)  # so one of the pool is lent
        await desk.front.execute(
            "INSERT INTO extension (id, tenant_id, line_id, number) VALUES ('ext_1', $1, $2, '1001')",
            desk.front.office.tenant_id,
            line.id,
        )
        await desk.open(1)
        await desk.set(1, priority=1)
        cloud.next_place("refuse", "1014")
        call_id = await desk.front.dial()
        went = await desk.went(call_id)
        extension = await desk.front.row("SELECT * FROM extension")

    assert [(0, "refused"), (1, "placed")] == went
    assert ("available", None, True) == (extension["status"], extension["call_id"], bool(extension["cool_until"]))
    assert (await desk.front.attempt(call_id))["extension"] is None
