"""Calls of days gone by, for the console's charts, and the pictures of its charts, API keys and audit log."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from protocol.identifiers import new_call_id
from tests.browser.lines import go
from tests.browser.people import HANDSET, People

if TYPE_CHECKING:
    from playwright.async_api import Page

Shoot = Callable[["Page", str], Awaitable[None]]

_CALLED = """
    INSERT INTO call (id, tenant_id, user_id, team_id, created_by, call_method, customer_phone, status, outcome,
        evidence, closed_by, created_at, ended_at, duration)
    SELECT $2, u.tenant_id, u.id, u.team_id, u.id, 'mobile', '+8613900000000', 'ended', $3, $4, 'phone',
        n.noon, n.noon + interval '5 minutes', $5
    FROM app_user u
    JOIN tenant t ON t.id = u.tenant_id
    CROSS JOIN LATERAL (
        SELECT ((now() AT TIME ZONE t.timezone)::date - $6::integer + time '12:00') AT TIME ZONE t.timezone AS noon
    ) n
    WHERE u.username = $1
    RETURNING id
"""


async def called(
    people: People,
    days_ago: int,
    outcome: str = "connected",
    *,
    talked: int | None = None,
    evidence: str = "call_log",
    username: str = "",
) -> None:
    """Let a call have been made at noon of a day: the agent's, or of another user."""
    await people.house.rows(_CALLED, username or people.username, new_call_id(), outcome, evidence, talked, days_ago)


async def in_team(people: People, username: str, name: str, team: str) -> None:
    """Give somebody a name and a team of their own."""
    made = await people.administrator.post("/api/v1/admin/teams", {"name": team})
    await people.house.rows(
        "UPDATE app_user SET name = $2, team_id = $3 WHERE username = $1 RETURNING id",
        username,
        name,
        made["team"]["id"],
    )


async def old_entries(people: People, count: int) -> None:
    """Let the audit log have this many entries of a line's health."""
    await people.house.rows(
        "INSERT INTO audit_log (tenant_id, actor_kind, actor_id, action, resource, resource_id)"
        " SELECT u.tenant_id, 'system', 'line_health', 'restore', 'line', 'line_gone'"
        " FROM app_user u, generate_series(1, $2) WHERE u.username = $1 RETURNING id",
        people.username,
        count,
    )


async def shoot_numbers(people: People, shoot: Shoot) -> None:
    """Take a picture of the charts, the API keys and the audit log."""
    await _month(people)
    crm = {"name": "CRM 生产环境", "scopes": ["sessions.exchange", "calls.read", "customers.read"]}
    await people.administrator.post("/api/v1/admin/api-keys", crm)
    reports = {"name": "报表", "scopes": ["calls.statistics"]}
    made = await people.administrator.post("/api/v1/admin/api-keys", reports)
    await people.administrator.delete(f"/api/v1/admin/api-keys/{made['apiKey']['id']}")
    for name, how in (("", {}), ("-dark-en", {"language": "en", "dark": True}), ("-narrow", {"size": HANDSET})):
        page = await people.console(at="#/charts", **how)
        await page.wait_for_selector("[data-picture=talkByDay] svg")
        await shoot(page, f"console-charts{name}")
        await page.click("[data-by=agent]")
        await page.wait_for_selector("[data-figure] .open")
        await page.locator("[data-figure=total]").scroll_into_view_if_needed()
        await shoot(page, f"console-figures{name}")
        await _shoot_keys(page, shoot, name)
        await go(page, "#/audit")
        for entry in ("tenant update", "api_key create"):
            await page.locator(f"[data-entry='{entry}'] [data-open]").first.click()
        await shoot(page, f"console-audit{name}")
        await page.context.close()


async def _shoot_keys(page: "Page", shoot: Shoot, name: str) -> None:
    await go(page, "#/keys")
    await page.wait_for_selector("[data-key-row]")
    await shoot(page, f"console-keys{name}")
    await go(page, "#/keys/new")
    await page.click("[data-create]")
    await page.wait_for_selector(".about.wrong")
    await shoot(page, f"console-key-new{name}")
    await page.fill("[data-field=name] input", f"数据仓库{name}")
    await page.check("[data-scope='calls.statistics']")
    await page.click("[data-create]")
    await page.wait_for_selector("[data-made-key]")
    await shoot(page, f"console-key{name}")


async def _month(people: People) -> None:
    """A month of two agents, with days of rest."""
    others = await people.house.user("agent")
    await in_team(people, people.username, "周敏", "华东组")
    await in_team(people, others, "郑洁", "华南组")
    await people.administrator.put("/api/v1/admin/tenant", {"recordingDays": 365, "callResults": ["有意向", "再联系"]})
    for day in range(30):
        if day % 7 in {2, 3}:
            continue
        for turn in range(3 + day * 5 % 4):
            username = people.username if turn % 3 else others
            await called(people, day, talked=240 + 61 * turn + 13 * day, username=username)
        for _ in range(1 + day % 3):
            await called(people, day, "missed", username=others)
        if day % 4 == 0:
            await called(people, day, talked=75, evidence="assumed")
            await called(people, day, "unknown")
