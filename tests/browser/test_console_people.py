"""The console's pages of people and calls: the live board, the log and its export, phones, users and teams."""

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.floor import CALLING, IDLE, TALKING, TEAMS, Floor
from tests.browser.people import HANDSET, People, call_customer, phase, violations

if TYPE_CHECKING:
    from playwright.async_api import Page

EAST, SOUTH = TEAMS


async def test_a_supervisor_sees_the_team_at_work(people: People) -> None:
    """The board shows whom one supervises and nobody else; what happens is seen without a reload."""
    floor = Floor(people)
    await floor.open()
    username = await floor.supervisor(EAST)
    page = await people.page()
    await page.goto(f"{people.origin}/console")
    await page.fill("#username", username)
    await page.fill("#password", people.house.password)
    await page.keyboard.press("Enter")
    await _is(page, floor, TALKING, "talking")
    await _is(page, floor, IDLE, "idle")
    shown = await page.locator("[data-agent]").count()
    masked = await page.inner_text(f"[data-agent='{floor.agents[TALKING]}'] .call")

    await people.rows(
        "UPDATE call SET status = 'ended', outcome = 'connected', ended_at = now(), reap_at = NULL, duration = 90"
        f" WHERE id = '{floor.live[TALKING]}'"
    )
    await _is(page, floor, TALKING, "idle")
    await people.rows(f"DELETE FROM agent_node WHERE user_id = '{floor.agents[IDLE]}'")
    await _is(page, floor, IDLE, "offline")
    await page.click("[data-state=offline]")
    await page.wait_for_selector(f"[data-agent='{floor.agents[TALKING]}']", state="detached")
    offline = await page.locator("[data-agent]").count()
    await page.reload()
    await page.wait_for_selector("[data-state=offline][aria-pressed=true]")

    assert len(TEAMS[EAST]) == shown
    assert "139****5678" in masked
    assert 2 == offline


async def test_a_board_that_is_cut_off_says_so(people: People) -> None:
    """While the server is away the last figures stay, with their time; then the board is live again."""
    floor = Floor(people)
    await floor.open()
    page = await people.console("supervisor", "#/board")
    await page.wait_for_selector("[data-live]")
    await people.node.stop()
    await page.wait_for_selector("[data-stale]")
    await people.node.start()
    await page.wait_for_selector("[data-live]")


async def test_calls_are_found_read_and_taken_out(people: People) -> None:
    """Filters stand in the address; a call is read in detail; the export holds what is listed, and is written down."""
    floor = Floor(people)
    await floor.open()
    page = await people.console("tenant_admin", "#/calls")
    await page.wait_for_selector("[data-call-row]")
    await _choose(page, "[data-outcome]", "占线")
    await page.wait_for_url("**outcome=busy**")
    await page.wait_for_selector("[data-call-row]:not(:has-text('占线'))", state="detached")
    await page.reload()
    await page.wait_for_selector("[data-call-row]")
    listed = await page.locator("[data-call-row]").count()
    async with page.expect_download() as begun:
        await page.click("[data-export]")
    path = await (await begun.value).path()
    rows = list(csv.DictReader(io.StringIO(Path(path).read_text("utf-8-sig"))))  # noqa: ASYNC240 - it is small
    await page.locator("[data-call-row] a").first.click()
    await page.wait_for_selector(".facts")
    told = await page.inner_text("main")
    await page.go_back()
    await page.wait_for_selector("[data-call-row]")
    [line] = await people.rows("SELECT after ->> 'rows' AS rows FROM audit_log WHERE action = 'export'")

    assert {"占线"} == {row["结果"] for row in rows}
    assert (listed, str(listed)) == (len(rows), line["rows"])
    assert "用户忙" in told


async def test_a_call_under_way_is_ended_from_the_console(people: People) -> None:
    """Who may control calls sees them begin, and hangs one up after being asked; the desk sees it end."""
    desk = await people.desk()
    await people.bound_phone(desk)
    page = await people.console("tenant_admin", "#/calls")
    await page.wait_for_selector(".live .quiet")
    await call_customer(desk, "张三")
    await phase(desk, "pending")
    await page.click("[data-hang-up]")
    await page.click(".el-message-box .grave")
    await phase(desk, "ended")
    await page.wait_for_selector("[data-live-call]", state="detached")


async def test_a_phone_is_found_and_unbound(people: People) -> None:
    """Phones online stand first; one that is unbound here says so itself, and both stand in the bind log."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    page = await people.console("tenant_admin", "#/devices")
    await page.wait_for_selector("[data-device] .chip.good")
    await page.click("[data-unbind]")
    await page.click(".el-message-box .grave")
    await page.wait_for_selector(".rows .blank")
    await phone.wait_for_selector("#code")
    await page.click("[data-log]")
    await page.wait_for_selector("table.grid tbody tr >> nth=1")
    log = await page.locator("table.grid tbody tr").all_inner_texts()

    assert ["解绑", "绑定"] == [re.search("解绑|绑定", line).group() for line in log]  # type: ignore[union-attr]


async def test_people_are_made_changed_and_kept_out(people: People) -> None:
    """A password is told once; a team is given; who is disabled is so at once, and a reset gives another password."""
    page = await people.console("tenant_admin", "#/users/teams")
    await page.click("[data-add]")
    await page.fill("[data-name]", "北方组")
    await page.click("[data-save]")
    await page.wait_for_selector("[data-team-row='北方组']")
    await page.goto(f"{people.origin}/console#/users")
    await page.click("[data-add]")
    await page.click("[data-save]")
    missing = page.locator(".about.wrong")
    await missing.first.wait_for()
    await page.fill("[data-username]", "li.lei")
    await page.fill("[data-field=name] input", "李雷")
    await _choose(page, "[data-own-team]", "北方组")
    await page.click("[data-save]")
    password = await page.inner_text("[data-secret]")
    await page.click("[data-kept]")
    await page.wait_for_selector("[data-secret]", state="detached")
    row = page.locator("[data-user-row='li.lei']")
    await row.locator("[data-edit]").click()
    await page.fill("[data-field=name] input", "李大雷")
    await page.click("[data-save]")
    await row.get_by_text("李大雷").wait_for()
    await row.locator("[data-reset]").click()
    await page.click(".el-message-box .grave")
    another = await page.inner_text("[data-secret]")
    await page.click("[data-kept]")
    await row.locator("[data-disable]").click()
    await page.click(".el-message-box .grave")
    await row.locator("[data-enable]").wait_for()
    [made] = await people.rows(
        "SELECT u.name, t.name AS team, u.disabled_at IS NOT NULL AS disabled"
        " FROM app_user u JOIN team t ON t.id = u.team_id"
    )

    assert password != another
    assert ("李大雷", "北方组", True) == tuple(made.values())


async def test_people_come_from_a_file(people: People) -> None:
    """A file is checked first; its good rows are imported, and the others say what is wrong with them."""
    page = await people.console("tenant_admin", "#/users", language="en")
    await page.click("[data-import]")
    content = b"username,name,role\nhan.mei,Han Mei,agent\nhan.mei,Again,agent\nking,King,system_admin\n"
    await page.set_input_files("[data-file]", {"name": "people.csv", "mimeType": "text/csv", "buffer": content})
    checked = await page.inner_text("[data-report]")
    before = await people.rows("SELECT 1 FROM app_user WHERE username = 'han.mei'")
    await page.click("[data-import-now]")
    await page.wait_for_selector("[data-download]")
    report = await page.locator(".el-dialog tbody tr").all_inner_texts()
    after = await people.rows("SELECT 1 FROM app_user WHERE username = 'han.mei'")

    assert "1 rows can be imported, 2 cannot" == checked
    assert (0, 1, 3) == (len(before), len(after), len(report))


async def test_the_installations_admin_looks_after_administrators(people: People) -> None:
    """Who belongs to no company chooses one, sees its administrators, and makes another."""
    await people.rows(
        "INSERT INTO app_user (id, tenant_id, role, username, name, password_hash)"
        " SELECT 'root', NULL, 'system_admin', 'root', 'Root', password_hash FROM app_user LIMIT 1"
    )
    page = await people.page()
    await page.goto(f"{people.origin}/console#/users")
    await page.fill("#username", "root")
    await page.fill("#password", people.house.password)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("[data-user-row]")
    await page.click("[data-add]")
    await page.fill("[data-username]", "second.admin")
    await page.fill("[data-field=name] input", "另一位管理员")
    await page.click("[data-save]")
    await page.click("[data-kept]")
    await page.wait_for_selector("[data-user-row='second.admin']")

    assert [("tenant_admin", people.house.tenant_id)] == [
        tuple(row) for row in await people.rows("SELECT role, tenant_id FROM app_user WHERE username = 'second.admin'")
    ]


async def test_who_only_reads_is_offered_nothing_else(people: People) -> None:
    """A viewer has the pages, without what would be refused."""
    floor = Floor(people)
    await floor.open()
    page = await people.console("viewer", "#/users")
    await page.wait_for_selector("[data-user-row]")
    await page.click("[data-page=calls]")
    await page.wait_for_selector("[data-live-call]")

    assert 0 == await page.locator("[data-add], [data-edit], [data-export], [data-hang-up], [data-page=keys]").count()


@pytest.mark.parametrize(("size", "language"), [((1440, 900), "zh-CN"), (HANDSET, "en")])
async def test_pages_of_people_can_be_used_by_everybody(people: People, size: tuple[int, int], language: str) -> None:
    """axe-core finds nothing serious on any of these pages, light or dark; none is wider than the screen."""
    floor = Floor(people)
    await floor.open()
    found = {}
    for dark in (False, True):
        page = await people.console("tenant_admin", "#/board", size=size, language=language, dark=dark)
        for path, there in (
            ("board", "[data-agent]"),
            ("calls", "[data-call-row]"),
            (f"calls/{floor.live[CALLING]}", ".facts"),
            ("devices", "[data-device]"),
            ("devices/log", ".blank"),
            ("users", "[data-user-row]"),
            ("users/teams", "[data-team-row]"),
        ):
            await page.goto(f"{people.origin}/console#/{path}")
            await page.wait_for_selector(there)
            wide = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
            found[path, dark] = [*await violations(page), *(["too wide"] if wide else [])]
        await page.goto(f"{people.origin}/console#/users")
        await page.click("[data-add]")
        await page.wait_for_selector("[data-username]")
        found["new user", dark] = await violations(page)

    assert {} == {page: wrong for page, wrong in found.items() if wrong}


async def _is(page: "Page", floor: Floor, name: str, state: str) -> None:
    await page.wait_for_selector(f"[data-agent='{floor.agents[name]}'] [data-is={state}]")


async def _choose(page: "Page", select: str, option: str) -> None:
    await page.click(select)
    await page.locator(".el-select-dropdown__item:visible", has_text=option).click()
