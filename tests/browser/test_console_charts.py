"""The console's charts, API keys and audit log, as an administrator uses them."""

import re

from playwright.async_api import expect

from clients.api import Api, Refused
from tests.browser.lines import go
from tests.browser.numbers import called, in_team, old_entries
from tests.browser.people import HANDSET, People, violations


async def test_calls_are_drawn_and_told_by_day_and_by_agent(people: People) -> None:
    """Charts show each day, those without calls too; a table has the same figures, by day or agent; filters narrow."""
    await in_team(people, people.username, "周敏", "华东组")
    for talked in (60, 120, 180):
        await called(people, 0, talked=talked)
    await called(people, 0, "missed")
    await called(people, 2, talked=30)
    await called(people, 2, talked=90, evidence="assumed")
    await called(people, 2, "unknown")
    page = await people.console(at="#/charts", language="en", dark=True)
    await page.wait_for_selector("[data-picture=talkByDay] svg")
    tiles = [await page.locator(f"[data-tile={name}] dd.num").inner_text() for name in ("calls", "connected", "rate")]
    talk = await page.locator("[data-tile=talk]").inner_text()
    bars = page.locator("[data-picture=byDay] [data-chart]")
    about = await bars.get_attribute("aria-label")
    box = await bars.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] - 40, box["y"] + 100)  # over today
    await expect(bars.locator("svg")).to_contain_text("Not connected")
    days = await page.locator("[data-figure]").count() - 1
    idle = await page.locator("tbody [data-figure]").nth(1).inner_text()
    before_yesterday = await page.locator("tbody [data-figure]").nth(2).locator("td").all_inner_texts()
    serious = await violations(page)

    await page.click("[data-by=agent]")
    await page.locator("[data-figure] .open", has_text="周敏").click()
    await expect(page.locator("[data-by=day]")).to_have_attribute("aria-pressed", "true")
    whose = await page.evaluate("location.hash")
    await page.click("[data-span='7']")
    await expect(page.locator("tbody [data-figure]")).to_have_count(7)
    await page.reload()
    await expect(page.locator("tbody [data-figure]")).to_have_count(7)
    await go(page, "#/charts?method=cloud")
    await page.wait_for_selector("[data-none]")

    assert ["7", "4", "80%"] == tiles  # of seven calls two cannot be counted
    assert "06:30" in talk
    assert "01:30" in talk  # apart from what nobody proved
    assert about is not None
    assert "Calls by day" in about
    assert 14 == days
    assert "No calls" in idle
    assert ["3", "1", "1", "1", "0", "0", "100%", "00:30", "00:30"] == before_yesterday[1:]
    assert "user=" in whose
    assert [] == serious


async def test_an_api_key_is_made_shown_once_and_revoked(people: People) -> None:
    """A key has a name, scopes and an end; it is shown when it is made and works until it is revoked."""
    page = await people.console(at="#/keys", language="en", dark=True)
    await page.wait_for_selector(".blank")
    await page.click("[data-add]")
    await page.click("[data-create]")
    await expect(page.locator(".about.wrong")).to_have_count(2)  # name and scopes
    await page.fill("[data-field=name] input", "CRM")
    await page.check("[data-scope='calls.statistics']")
    offered = await page.locator("[data-scope]").evaluate_all("all => all.map(one => one.dataset.scope)")
    serious = await violations(page)
    await page.click("[data-create]")
    key = await page.inner_text("[data-made-key]")
    serious += await violations(page)
    await page.click("[data-kept]")
    row = page.locator("[data-key-row=CRM]")
    await expect(row.locator("[data-state]")).to_have_text("Good")
    hidden = key not in await page.content()
    serious += await violations(page)
    async with Api(people.origin) as api:
        held = {"Authorization": f"Bearer {key}"}
        counted = await api.ask("GET", "/api/v1/calls/statistics", headers=held)
        await page.click("[data-add]")
        await page.fill("[data-field=name] input", "CRM")
        await page.check("[data-scope='calls.read']")
        await page.click("[data-create]")
        await page.wait_for_selector("[data-field=name] .about.wrong")
        people.complaints[:] = [one for one in people.complaints if "409" not in one]
        await page.click(".back-link")
        await row.locator("[data-revoke]").click()
        await page.click(".el-message-box .grave")
        await expect(row.locator("[data-state]")).to_have_text("Revoked")
        refused = await _refused(api, held)

    assert re.fullmatch(r"ddk_\w+", key)
    assert "sessions.exchange" in offered
    assert "api_keys.manage" not in offered
    assert hidden
    assert 0 == counted["total"]["calls"]
    assert "UNAUTHENTICATED" == refused
    assert [] == serious


async def test_the_audit_log_is_searched_and_read(people: People) -> None:
    """Entries tell who changed what from what to what; they are found by what they are of, and paged by cursor."""
    await old_entries(people, 60)
    made = (await people.administrator.post("/api/v1/admin/teams", {"name": "North"}))["team"]
    await people.administrator.put(f"/api/v1/admin/teams/{made['id']}", {"name": "South"})
    page = await people.console("auditor", at="#/audit", language="en", dark=True)
    await expect(page.locator("[data-entry]")).to_have_count(50)
    await page.click("[data-more]")
    await expect(page.locator("[data-entry]").nth(60)).to_be_visible()
    await page.click("[data-resource]")
    await page.locator(".el-select-dropdown__item:visible", has_text="Team").click()
    await page.locator("[data-entry='team update'] [data-open]").click()
    changed = await page.locator("[data-changed=name] td").all_inner_texts()
    await page.click("[data-only]")
    await expect(page.locator("[data-entry]")).to_have_count(2)
    found = await page.locator("[data-entry]").evaluate_all("all => all.map(one => one.dataset.entry)")
    where = await page.evaluate("location.hash")
    serious = await violations(page)
    await page.click("[data-clear]")
    await expect(page.locator("[data-entry]")).to_have_count(50)

    assert ["name", "North", "South"] == changed
    assert ["team update", "team create"] == found
    assert f"id={made['id']}" in where
    assert [] == serious


async def test_charts_keys_and_the_log_fit_a_handset(people: People) -> None:
    """On a handset nothing is wider than the page."""
    await called(people, 0, talked=60)
    page = await people.console(at="#/charts", size=HANDSET)
    wide = []
    for place, seen in (
        ("#/charts", "[data-picture=talkByDay] svg"),
        ("#/keys/new", "[data-scope]"),
        ("#/audit", "[data-entry]"),
    ):
        await go(page, place)
        await page.locator(seen).first.wait_for()
        wide += [place] if await page.evaluate("document.documentElement.scrollWidth") > HANDSET[0] else []

    assert [] == wide


async def _refused(api: Api, headers: dict[str, str]) -> str:
    try:
        await api.ask("GET", "/api/v1/calls/statistics", headers=headers)
    except Refused as refused:
        return refused.code
    return ""
