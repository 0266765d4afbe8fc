"""How lines do: counted by what becomes of their orders at a fake cloud, probed, and put back into service by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from server.config import Config, master_keys
from server.line_config import open_accounts
from server.line_health import LineHealth
from server.telemetry import Metrics
from storage.database import Database
from storage.line_health import FROZEN_AFTER, SUSPENDED_AFTER
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.clouds.cloud import How
from tests.clouds.tencent import SECRET_ID, TencentCloud, tencent_cloud
from tests.conftest import Office
from tests.server.line_front import Front, Line, line_front
from tests.waiting import until

NO_MONEY = "LimitExceeded.BasePackageExpired"
BUSY_SEAT = "FailedOperation.SeatStatusBusy"
BLOCKED = "FailedOperation.CalleeIsBlackUser"
TOO_FAST = "RequestLimitExceeded"
TEST = "DescribeTelCdr"


class Desk:
    """A line at a cloud, its health as a worker keeps it, and calls that become of orders what a test says."""

    def __init__(self, front: Front, line: Line, cloud: TencentCloud, health: LineHealth) -> None:
        self.front = front
        self.line = line
        self.cloud = cloud
        self.health = health

    async def order(self, how: How = "refuse", code: str = NO_MONEY) -> None:
        """Dial over the line, and wait until what became of the order is kept, and counted."""
        self.cloud.next_place(how, code)
        call_id = await self.front.dial(self.line)
        before = await self.row()
        if how == "refuse":
            await self.front.until_order(call_id, "refused")
            await until(lambda: self._over(call_id))
        elif how == "normal":
            await self.front.until_order(call_id, "placed")
            await until(lambda: self._counts(0))
        else:
            await self.front.until_order(call_id, "uncertain")
            await until(lambda: self._counts(before["failures"] + 1))

    async def fail(self, times: int) -> None:
        """Let so many orders fail in a row."""
        for _ in range(times):
            await self.health.failed(self.front.office.tenant_id, self.line.id, "line: NoMoney")

    async def probe(self) -> None:
        """Let the time of probes come, and have a worker make those that are due."""
        await self.front.execute("UPDATE call_line SET probe_at = now() WHERE probe_at IS NOT NULL")
        await self.health.probe()

    async def row(self) -> dict[str, Any]:
        """The line as its row stands, with the seconds until it is probed."""
        return await self.front.row(
            "SELECT *, round(extract(epoch FROM probe_at - now()))::integer AS probe_in FROM call_line WHERE id = $1",
            self.line.id,
        )

    async def stands(self) -> tuple[str, int]:
        """How the line does, and failures in a row."""
        row = await self.row()
        return row["health"], row["failures"]

    async def audited(self) -> list[tuple[str, str]]:
        """What was done to the line's health: (by whom, what)."""
        async with self.front.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT actor_kind, action FROM audit_log WHERE resource_id = $1 AND action = ANY ($2) ORDER BY at, id",
                self.line.id,
                ["suspend", "freeze", "restore"],
            )
        return [(row["actor_kind"], row["action"]) for row in rows]

    async def unfreeze(self, body: dict[str, Any] | None = None, who: dict[str, str] | None = None) -> dict[str, Any]:
        """Ask that the line be put back into service."""
        answer = await self.front.ask(
            "POST", f"/lines/{self.line.id}/unfreeze", body or {}, who=who or self.front.admin
        )
        told: dict[str, Any] = answer.json()
        return told

    async def _over(self, call_id: str) -> bool:
        return (await self.front.call(call_id))["ended_at"] is not None

    async def _counts(self, failures: int) -> bool:
        return failures == (await self.stands())[1]


@pytest.fixture
def local(configure: Callable[..., Config], tmp_path: Path) -> Config:
    """A node that may speak to this machine."""
    return configure(provider_networks="127.0.0.0/8", recordings="local", recordings_folder=tmp_path / "recordings")


@pytest.fixture
async def desk(database: Database, office: Office, redis: Redis, local: Config) -> AsyncIterator[Desk]:
    """A line that is well."""
    async with (
        tencent_cloud() as cloud,
        line_front(database, office, redis, local) as front,
        open_accounts(local, TenantKeys(Vault(master_keys(local)))) as accounts,
    ):
        yield Desk(front, await front.line("tencent", cloud), cloud, LineHealth(database, accounts, Metrics()))


# --- what orders tell -------------------------------------------------------------------------------------------------


async def test_a_line_that_refuses_five_times_in_a_row_is_suspended(desk: Desk) -> None:
    """Nothing is dialled over it then, whoever manages it sees why, and the audit log says that the machine did it."""
    for _ in range(SUSPENDED_AFTER):
        await desk.order()
    refused = await desk.front.ask(
        "POST", "/dial", {"customerPhone": "13912345678", "callMethod": "cloud"}, who=desk.front.agent
    )
    shown = (await desk.front.ask("GET", f"/lines/{desk.line.id}", who=desk.front.admin)).json()

    assert ("suspended", SUSPENDED_AFTER) == await desk.stands()
    assert "NO_LINE" == refused.json()["code"]
    assert ("suspended", f"line: {NO_MONEY}") == (shown["line"]["health"], shown["config"]["healthReason"])
    assert [("system", "suspend")] == await desk.audited()


async def test_a_call_that_is_placed_ends_the_row_of_failures(desk: Desk) -> None:
    """Failures before it count no more."""
    await desk.fail(SUSPENDED_AFTER - 1)
    await desk.order("normal")
    await desk.fail(SUSPENDED_AFTER - 1)

    assert ("ok", SUSPENDED_AFTER - 1) == await desk.stands()


async def test_an_order_without_an_answer_is_a_failure(desk: Desk) -> None:
    """A provider that cannot be understood is no better than one that refuses."""
    await desk.order("garbage")

    assert ("ok", 1) == await desk.stands()
    assert "no answer" == (await desk.row())["health_reason"]


@pytest.mark.parametrize("code", [BUSY_SEAT, BLOCKED, TOO_FAST])
async def test_what_is_not_the_lines_fault_does_not_count(desk: Desk, code: str) -> None:
    """A busy agent, a number that may not be called, too many orders at a time."""
    await desk.order(code=code)

    assert ("ok", 0) == await desk.stands()


async def test_what_fails_beside_does_not_freeze_a_line(desk: Desk) -> None:
    """Of a burst of orders that all fail, those after the fifth count for nothing: only probes do."""
    await desk.fail(3 * FROZEN_AFTER)

    assert ("suspended", SUSPENDED_AFTER) == await desk.stands()


async def test_a_call_that_is_placed_after_all_restores_a_suspended_line(desk: Desk) -> None:
    """Its order was under way when the line was suspended: it works."""
    await desk.fail(SUSPENDED_AFTER)
    await desk.health.placed(desk.front.office.tenant_id, desk.line.id)

    assert ("ok", 0) == await desk.stands()
    assert [("system", "suspend"), ("system", "restore")] == await desk.audited()


async def test_no_call_restores_a_frozen_line(desk: Desk) -> None:
    """That is for people."""
    await desk.front.execute("UPDATE call_line SET health = 'frozen', failures = 10 WHERE id = $1", desk.line.id)
    await desk.health.placed(desk.front.office.tenant_id, desk.line.id)

    assert ("frozen", 10) == await desk.stands()


# --- what probes tell -------------------------------------------------------------------------------------------------


async def test_a_probe_that_succeeds_restores_a_line(desk: Desk) -> None:
    """It may be dialled over at once."""
    await desk.fail(SUSPENDED_AFTER)
    await desk.probe()
    await desk.order("normal")

    assert ("ok", 0) == await desk.stands()
    assert [("system", "suspend"), ("system", "restore")] == await desk.audited()


async def test_probes_that_fail_come_later_and_later_and_freeze_the_line(desk: Desk) -> None:
    """After the tenth failure nothing asks any more, though the provider be well again."""
    desk.cloud.refusals[TEST] = "AuthFailure.SecretIdNotFound"
    await desk.fail(SUSPENDED_AFTER)
    waits = [(await desk.row())["probe_in"]]
    for _ in range(FROZEN_AFTER - SUSPENDED_AFTER):
        await desk.probe()
        waits.append((await desk.row())["probe_in"])
    del desk.cloud.refusals[TEST]
    await desk.probe()
    row = await desk.row()

    assert ("frozen", FROZEN_AFTER) == (row["health"], row["failures"])
    assert [30, 60, 120, 240, 480, None] == waits
    assert [("system", "suspend"), ("system", "freeze")] == await desk.audited()
    assert SECRET_ID not in row["health_reason"]


async def test_a_line_is_probed_by_one_worker(desk: Desk) -> None:
    """Of two, one asks the provider."""
    await desk.fail(SUSPENDED_AFTER)
    await desk.front.execute("UPDATE call_line SET probe_at = now()")
    await asyncio.gather(desk.health.probe(), desk.health.probe())

    assert [TEST] == [action for action, _ in desk.cloud.asked]


async def test_a_line_that_is_well_is_not_probed(desk: Desk) -> None:
    """Nor is one that failed now and then."""
    await desk.fail(SUSPENDED_AFTER - 1)
    await desk.probe()

    assert [] == desk.cloud.asked


# --- by hand ----------------------------------------------------------------------------------------------------------


async def test_a_frozen_line_is_put_back_once_its_provider_answers(desk: Desk) -> None:
    """Who manages it asks; while the provider refuses, the answer says why."""
    await desk.front.execute("UPDATE call_line SET health = 'frozen', failures = 10 WHERE id = $1", desk.line.id)
    desk.cloud.refusals[TEST] = "AuthFailure.SecretIdNotFound"
    unwell = await desk.unfreeze()
    still = await desk.stands()
    del desk.cloud.refusals[TEST]
    answer = await desk.unfreeze()

    assert ("LINE_UNWELL", ("frozen", 10)) == (unwell["code"], still)
    assert "AuthFailure.SecretIdNotFound" in unwell["message"]
    assert ("ok", None) == (answer["health"], answer["problem"])
    assert ("ok", 0) == await desk.stands()
    assert [("user", "restore")] == await desk.audited()


async def test_a_frozen_line_is_put_back_by_force(desk: Desk) -> None:
    """The answer says what is still wrong with it."""
    await desk.front.execute("UPDATE call_line SET health = 'frozen', failures = 10 WHERE id = $1", desk.line.id)
    desk.cloud.refusals[TEST] = "AuthFailure.SecretIdNotFound"
    answer = await desk.unfreeze({"force": True})

    assert ("ok", "line: AuthFailure.SecretIdNotFound") == (answer["health"], answer["problem"])
    assert ("ok", 0) == await desk.stands()


async def test_a_line_is_put_back_by_who_manages_it(desk: Desk) -> None:
    """Not by an agent, and for another tenant it is not there."""
    _, stranger = await desk.front.person("tenant_admin", await _another(desk.front.database))

    assert "FORBIDDEN" == (await desk.unfreeze(who=desk.front.agent))["code"]
    assert "NOT_FOUND" == (await desk.unfreeze(who=stranger))["code"]


async def _another(database: Database) -> Office:
    async with database.connection() as connection:
        await connection.execute("INSERT INTO tenant (id, code, name) VALUES ('tenant_other', 'other', 'Other')")
    return Office(database, "tenant_other")
