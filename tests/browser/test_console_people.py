"""The console's pages of people and calls: the live board, the log and its export, phones, users and teams."""

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser.floor import CALLING, IDLE, TALKING, TEAMS, Floor
from tests.browser.people import HANDSET, People, call_customer, phase, violations
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.async_api import Page

EAST, SOUTH = TEAMS

HALF_A_FILE = """() => {
  const { fetch } = window
  window.given = 0
  window.fetch = async (url, asked) => {
    const answer = await fetch(url, asked)
    if (!url.includes("/export")) return answer
    const { value } = await answer.body.getReader().read()
    return new Response(new ReadableStream({
      start(file) {
        file.enqueue(value)
        window.given = 1
        window.cut = () => file.error(new TypeError("network error"))
      },
      cancel() {
        window.given = 0
      },
    }), { headers: answer.headers })
  }
}"""
"""A network on which files begin, and do not go on."""


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


async def test_a_customers_number_stays_out_of_the_address(people: People) -> None:
    """A number is asked for once it is typed, found again by who comes back from a call, and never in the address."""
    floor = Floor(people)
    await floor.open()
    page = await people.console("tenant_admin", "#/calls")
    await page.wait_for_selector("[data-call-row]")
    await page.click("[data-phone]")
    await page.keyboard.type("138 0000 2222")
    typing = await page.locator("[data-call-row]").count()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("[data-call-row]:not(:has-text('李思远'))", state="detached")
    address = page.url
    await page.locator("[data-call-row] a").first.click()
    await page.wait_for_selector(".facts")
    await page.go_back()
    await page.wait_for_selector("[data-call-row]")
    names = await page.locator("[data-call-row] a").all_inner_texts()

    assert typing > 0
    assert address.endswith("#/calls")
    assert {"李思远"} == {name.strip() for name in names}
    assert "138 0000 2222" == await page.input_value("input[data-phone], [data-phone] input")


async def test_an_export_that_is_stopped_or_left_saves_nothing(people: People) -> None:
    """Stopping ends the download at once, and so does leaving the page; a file that breaks off says so."""
    floor = Floor(people)
    await floor.open()
    page = await people.console("tenant_admin", "#/calls")
    saved: list[str] = []
    page.on("download", lambda download: saved.append(download.url))
    await page.evaluate(HALF_A_FILE)
    await page.click("[data-export]")
    await until(lambda: page.evaluate("window.given === 1"))
    await page.click("[data-stop]")
    await until(lambda: page.evaluate("window.given === 0"))
    await page.click("[data-export]")
    await until(lambda: page.evaluate("window.given === 1"))
    await page.click("[data-page=board]")
    await until(lambda: page.evaluate("window.given === 0"))
    await page.click("[data-page=calls]")
    await page.click("[data-export]")
    await until(lambda: page.evaluate("window.given === 1"))
    await page.evaluate("window.cut()")
    await page.wait_for_selector(".export [role=alert]")

    assert [] == saved
    assert [True, True] == [await page.locator(one).is_visible() for one in ("[data-export]", "h1")]


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
    content = b"username,name,role\nhan.mei,Han Mei,agent\nhan.mei,Again,agent\n=1+1,King,agent\n"
    await page.set_input_files("[data-file]", {"name": "people.csv", "mimeType": "text/csv", "buffer": content})
    checked = await page.inner_text("[data-report]")
    before = await people.rows("SELECT 1 FROM app_user WHERE username = 'han.mei'")
    await page.click("[data-import-now]")
    await page.wait_for_selector("[data-download]")
    report = await page.locator(".el-dialog tbody tr").all_inner_texts()
    await page.keyboard.press("Escape")
    after = await people.rows("SELECT 1 FROM app_user WHERE username = 'han.mei'")
    async with page.expect_download() as begun:
        await page.click("[data-download]")
    path = await (await begun.value).path()
    written = Path(path).read_text("utf-8-sig")  # noqa: ASYNC240 - it is small
    await page.click("[data-close]")
    await page.wait_for_selector(".el-dialog", state="hidden")

    assert "1 rows can be imported, 2 cannot" == checked
    assert (0, 1, 3) == (len(before), len(after), len(report))
    assert '"\'=1+1"' in written


async def test_the_installations_admin_looks_after_administrators(people: People) -> None:
    """Who belongs to no company chooses one, sees its administrators, makes another, and may read its log."""
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
    await page.click("[data-page=audit]")
    await page.wait_for_selector("[data-entry], .rows .blank")
    await page.goto(f"{people.origin}/console#/users/100%")  # clipped: it is nobody's
    await page.wait_for_selector("[data-user-row]")

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


async def test_both_calls_of_an_agent_are_seen_under_way(people: People) -> None:
    """Who has a work phone and a cloud line may be at two calls: board and log show both, and one that is opened is
    followed to its end."""
    floor = Floor(people)
    await floor.open()
    await people.rows(
        "INSERT INTO call (id, tenant_id, user_id, team_id, created_by, call_method, customer_name, customer_phone,"
        " status, reap_at) SELECT 'second', tenant_id, user_id, team_id, created_by, 'cloud', '李思远',"
        f" '+8613800002222', 'ringing', reap_at FROM call WHERE id = '{floor.live[TALKING]}'"
    )
    page = await people.console("tenant_admin", "#/calls")
    await page.locator("[data-live-call=second] [data-hang-up]").wait_for()
    live = await page.locator("[data-live-call]").count()
    await page.click("[data-page=board]")
    links = page.locator(f"[data-agent='{floor.agents[TALKING]}'] .call a")
    await links.first.wait_for()
    names = await links.all_inner_texts()
    await links.last.click()
    await page.wait_for_selector("h1 .chip.ring")
    await people.rows("UPDATE call SET status = 'ended', outcome = 'missed', ended_at = now() WHERE id = 'second'")
    await page.locator("h1 .chip", has_text="未接").wait_for()

    assert (3, ["张三", "李思远"]) == (live, names)


async def test_a_password_that_must_be_changed_is_asked_for_until_it_is(people: People) -> None:
    """Reloading at the choice of a new password comes back to it; then the page opens, now and after a reload."""
    username = await people.house.user("supervisor")
    await people.rows(f"UPDATE app_user SET must_change_password = true WHERE username = '{username}'")
    page = await people.page()
    await page.goto(f"{people.origin}/console")
    await page.fill("#username", username)
    await page.fill("#password", people.house.password)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#fresh")
    asked = await page.locator("#password").count()
    await page.reload()
    await page.fill("#password", people.house.password)
    await page.fill("#fresh", "another-good-one-9")
    await page.keyboard.press("Enter")
    await page.wait_for_selector(".page h1")
    await page.reload()
    await page.wait_for_selector(".page h1")

    assert 0 == asked


async def test_a_list_stays_while_more_of_it_cannot_be_had(people: People) -> None:
    """What was read is not taken away by a page that does not come, and reading goes on where it stopped."""
    floor = Floor(people)
    await floor.open()
    page = await people.console("tenant_admin", "#/calls")
    await page.wait_for_selector("[data-more]")
    listed = await page.locator("[data-call-row]").count()
    await page.route("**/api/v1/calls?*cursor*", lambda route: route.abort())
    await page.click("[data-more]")
    await page.wait_for_selector(".on [role=alert]")
    kept = await page.locator("[data-call-row]").count()
    await page.unroute("**/api/v1/calls?*cursor*")
    await page.click("[data-more]")
    await page.wait_for_selector(f"[data-call-row] >> nth={listed}")

    assert listed == kept


@pytest.mark.parametrize("dark", [False, True])
async def test_what_is_said_in_passing_can_be_read(people: People, *, dark: bool) -> None:
    """A refusal that is shown for some seconds has the contrast of everything else."""
    floor = Floor(people)
    await floor.open()
    page = await people.console("tenant_admin", "#/calls", dark=dark)
    await page.route("**/api/v1/calls/hangup", lambda route: route.abort())
    await page.locator("[data-hang-up]").first.click()
    await page.click(".el-message-box .grave")
    await page.wait_for_selector(".el-message--error")
    await page.wait_for_selector(".el-overlay", state="hidden")

    assert [] == await violations(page)


async def test_a_form_by_bookmark_is_drawn_for_who_may_use_it(people: People) -> None:
    """Who only reads lines has the list where the form of a new one would be, and nothing that is refused."""
    page = await people.console("supervisor", "#/lines/new")
    await page.wait_for_selector(".rows .blank")

    assert 0 == await page.locator(".vendors, .el-message").count()


async def _is(page: "Page", floor: Floor, name: str, state: str) -> None:
    await page.wait_for_selector(f"[data-agent='{floor.agents[name]}'] [data-is={state}]")


async def _choose(page: "Page", select: str, option: str) -> None:
    await page.click(select)
    await page.locator(".el-select-dropdown__item:visible", has_text=option).click()


async def test_the_log_means_the_tenants_days(people: People) -> None:
    """Seen from another time zone, days are still those of the tenant, as in charts and files; and that is said."""
    page = await people.console("tenant_admin", "#/calls", timezone="America/New_York")
    await page.get_by_text("Asia/Shanghai").wait_for()
    async with page.expect_request(lambda request: "/api/v1/calls?" in request.url) as asked:
        await page.fill("[data-from]", "2026-03-01")
        await page.keyboard.press("Tab")
    [begun] = parse_qs(urlsplit((await asked.value).url).query)["from"]

    assert "2026-02-28T16:00:00.000Z" == begun
