"""What an agent does at the desk beside calling: settings, warnings, reminders, several tabs, the keyboard."""

import json
import re

from playwright.async_api import expect

from tests.browser.desk_scenes import colleague_called
from tests.browser.people import HANDSET, People, call_customer, phase, violations
from tests.journeys.house import within
from tests.waiting import until

RECORDER = """
window.told = []
window.Notification = class {
  static permission = "granted"
  static requestPermission = async () => "granted"
  constructor(title, { body, tag }) { window.told.push([body, tag]) }
  close() {}
}
window.heard = []
window.OscillatorNode = class extends OscillatorNode {
  start(...when) { window.heard.push(this.frequency.value); super.start(...when) }
}
"""
"""Writes down what would be shown on the desktop; tones are heard, and written down too."""

BESIDE = "[...document.querySelectorAll('.dock *')].filter((one) => one.getBoundingClientRect().right > innerWidth)"
BESIDE += ".map((one) => one.className || one.tagName)"
"""What of the dock is out of the window."""


async def test_a_colleagues_call_is_told_before_the_click(people: People) -> None:
    """Who called the same number minutes ago stands at the customer, at a typed number, and in the dock; the call can
    be made all the same, and a long name pushes nothing out of sight."""
    colleague = await colleague_called(people, "+8613800002222", "Konstantin Wassiljewitsch Tschernyschewski")
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk, language="en")
    await desk.locator(".row a", has_text="张三").click()
    await desk.wait_for_selector(".who h1")
    await desk.fill(".pad input", "138 0000 2222")
    typed = await desk.inner_text(".pad [data-colleague]")
    beside_the_pad = await desk.evaluate(BESIDE)
    at_another = await desk.locator(".who [data-colleague]").count()
    await desk.locator(".row a", has_text="李思远").click()
    shown = await desk.inner_text(".who [data-colleague]")
    await desk.click("[data-call]")
    await phase(desk, "pending")
    docked = await desk.inner_text(".dock [data-colleague]")
    beside_the_call = await desk.evaluate(BESIDE)
    await phone.wait_for_selector("[data-stage=prompt]")

    assert 0 == at_another
    assert ([], []) == (beside_the_pad, beside_the_call)
    assert {f"{colleague} called 12 min ago: Missed"} == {typed.strip(), shown.strip(), docked.strip()}


async def test_signing_out_in_one_tab_signs_out_the_other(people: People) -> None:
    """Who leaves has left everywhere: the other tab shows the way in, and its socket is closed."""
    desk = await people.desk()
    other = await people.tab(desk.context)
    await other.goto(people.origin)
    await other.wait_for_selector(".row a")

    await desk.click(".me")
    await desk.wait_for_selector("#username")
    await other.wait_for_selector("#username")
    await other.reload()
    await other.wait_for_selector("#username")

    assert [] == await people.house.rows(
        "SELECT 1 FROM login l JOIN app_user u ON u.id = l.user_id WHERE u.username = $1 AND l.revoked_at IS NULL",
        people.username,
    )


async def test_a_new_password_is_chosen_in_one_tab_for_all(people: People) -> None:
    """Every tab of who has to change the password asks for it, and opens once that is done in one of them."""
    await people.rows(f"UPDATE app_user SET must_change_password = true WHERE username = '{people.username}'")
    desk = await people.page()
    await desk.goto(people.origin)
    await desk.fill("#username", people.username)
    await desk.fill("#password", people.house.password)
    await desk.keyboard.press("Enter")
    await desk.wait_for_selector("#fresh")
    other = await people.tab(desk.context)
    await other.goto(people.origin)
    await other.wait_for_selector("#fresh")
    await desk.fill("#fresh", "another-good-one-9")
    await desk.keyboard.press("Enter")

    await desk.wait_for_selector(".row a")
    await other.wait_for_selector(".row a")


async def test_who_makes_no_calls_is_shown_the_way_to_the_console(people: People) -> None:
    """The desk is not drawn for who may not call: nothing is asked that would be refused."""
    viewer = await people.console("viewer")
    await viewer.goto(people.origin)
    await viewer.wait_for_selector("[data-refused]")
    serious = await violations(viewer)
    await viewer.click("[data-refused] a")
    await viewer.wait_for_selector("[data-page]")

    assert [] == serious


async def test_a_code_becomes_the_phone_and_may_be_shown_again(people: People) -> None:
    """The QR code turns into the phone the moment it is scanned; the phone is unbound and told so; another code binds
    it again."""
    desk = await people.desk()
    await desk.click("[data-device]")
    link = await desk.get_attribute("[data-link-qr]", "data-text")
    shown = json.loads(await desk.get_attribute("[data-qr]", "data-text") or "{}")
    phone = await people.page(size=HANDSET)
    await phone.goto(link or "")
    await desk.wait_for_selector(".bound")
    codes = await desk.locator("[data-qr]").count()
    await desk.locator("[data-bound] .chip.good").wait_for()

    await desk.locator("[data-bound] button").click()
    await desk.locator(".el-message-box__btns .el-button--primary").click()
    await desk.wait_for_selector("[data-bound]", state="detached")
    await phone.wait_for_selector("#code")
    again = await desk.get_attribute("[data-link-qr]", "data-text")
    await phone.goto("about:blank")
    await phone.goto(again or "")
    await desk.locator("[data-bound] .chip.good").wait_for()

    assert 0 == codes
    assert shown["serverUrl"].startswith("ws")
    assert link != again
    assert [(1, 1)] == [
        tuple(row)
        for row in await people.rows("SELECT count(*) FILTER (WHERE unbound_at IS NULL), count(*) FROM device")
    ]


async def test_settings_are_those_of_every_tab(people: People) -> None:
    """How one calls out is saved for the person: the other tab and a reload say the same."""
    desk = await people.desk(language="en")
    other = await people.tab(desk.context)
    await other.goto(people.origin)
    await expect(other.locator("[data-device]")).to_contain_text("No phone bound")
    await desk.click("[data-device]")
    await desk.locator(".choices input[value=cloud]").check()
    await desk.get_by_role("tab", name="Parameters").click()
    await desk.click("[data-add-parameter]")
    await desk.keyboard.type("showAs")
    await desk.keyboard.press("Tab")
    await desk.keyboard.type("021-1234")
    await desk.click("[data-add-parameter]")
    await desk.keyboard.type("ringSeconds")
    await desk.keyboard.press("Tab")
    await desk.keyboard.type("45")
    await desk.click("[data-save]")
    await expect(desk.locator("[data-device]")).to_contain_text("Cloud line")
    await expect(other.locator("[data-device]")).to_contain_text("Cloud line")
    await desk.reload()
    await expect(desk.locator("[data-device]")).to_contain_text("Cloud line")

    [saved] = await people.rows(f"SELECT call_parameters FROM app_user WHERE username = '{people.username}'")
    assert {"showAs": "021-1234", "ringSeconds": 45} == json.loads(saved["call_parameters"])


async def test_an_answer_and_an_end_are_told(people: People) -> None:
    """An answer and an end are heard, once for all tabs, and seen on the desktop by who looks elsewhere."""
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk, language="en")
    for page in (desk, other := await people.tab(desk.context)):
        await page.add_init_script(RECORDER)
        await page.goto(people.origin)
        await page.reload()
        await page.wait_for_selector(".row a")
    await desk.click("[data-device]")
    await desk.get_by_role("tab", name="Alerts").click()
    await desk.locator(".el-switch").nth(1).click()
    await desk.locator(".el-switch.is-checked").nth(1).wait_for()
    await desk.keyboard.press("Escape")
    await desk.wait_for_selector(".pane", state="detached")
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phase(desk, "calling")
    await desk.evaluate("Object.defineProperty(document, 'hidden', { get: () => true })")
    await phone.click("[data-connected]")
    await until(lambda: desk.evaluate("told.length === 1"))
    await phone.click("[data-end]")
    await until(lambda: desk.evaluate("told.length === 2 && heard.length === 4"))
    await phase(other, "ended")

    assert ["张三 answered", "The call with 张三 ended"] == [body for body, _ in await desk.evaluate("told")]
    assert [660, 880, 520, 390] == await desk.evaluate("heard")
    assert ([], []) == (await other.evaluate("told"), await other.evaluate("heard"))


async def test_a_follow_up_is_reminded_of_when_it_comes_due(people: People) -> None:
    """The moment that was planned comes: the page says so, its list has the call, and its badge counts it."""
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk, language="en")
    await call_customer(desk, "王晓梅")
    await phone.click("[data-dial]")
    await phone.click("[data-missed]")
    await phase(desk, "ended")
    await desk.fill("#note", "call back")
    await desk.locator(".record button[type=submit]").click()
    await desk.wait_for_selector(".pad")
    [call] = await people.rows("SELECT id, user_id FROM call")
    await people.house.rows(
        "UPDATE call SET follow_up_next_at = now() + interval '4 seconds' WHERE id = $1", call["id"]
    )

    await desk.evaluate(
        "(id) => dispatchEvent(new StorageEvent('storage', { key: `dialdesk:call:${id}` }))", call["user_id"]
    )
    await desk.locator(".el-message", has_text="Follow-up due: 王晓梅").wait_for()
    await expect(desk.locator("[data-tab=due] .count")).to_have_text("1")
    await desk.click("[data-tab=due]")
    await desk.locator(".row a", has_text="王晓梅").click()
    await desk.get_by_role("button", name="Mark follow-up as done").click()
    await expect(desk.locator("[data-tab=due] .count")).to_have_count(0)


async def test_more_than_can_be_caught_up_is_read_again(people: People) -> None:
    """A page whose missed events are gone is told to read all again, and shows what is so: RESYNC."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-connected]")
    await phase(desk, "connected")
    frames: list[str] = []
    desk.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))

    await people.node.stop()
    await desk.wait_for_selector(".lost.shown")
    await phone.click("[data-end]")
    await people.house.rows("UPDATE agent_stream SET last_seq = last_seq + 600")
    await within(people.node.start())
    await desk.wait_for_selector(".lost.shown", state="hidden")
    await phase(desk, "ended")
    await desk.wait_for_selector("#note")

    assert any('"RESYNC"' in frame for frame in frames)
    assert 1 == len(await people.rows("SELECT 1 FROM call WHERE outcome = 'connected'"))


async def test_the_desk_is_worked_by_keys(people: People) -> None:
    """Lists, search, call, hang-up and the note are reached without a mouse, and ? tells how."""
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk, language="en")
    await desk.keyboard.press("?")
    await desk.wait_for_selector("[data-keys]")
    serious = await violations(desk)
    listed = await desk.locator("[data-keys] dt").count()
    await desk.keyboard.press("Escape")
    await desk.wait_for_selector("[data-keys]", state="detached")
    await desk.keyboard.press("/")
    await desk.keyboard.type("陈建国")
    await expect(desk.locator(".row a")).to_have_count(1)
    await desk.keyboard.press("ArrowDown")
    await desk.keyboard.press("Enter")
    await desk.wait_for_selector(".who h1")
    await desk.keyboard.press("Alt+KeyC")
    await phase(desk, "pending")
    await phone.wait_for_selector("[data-stage=prompt]")
    await desk.keyboard.press("Alt+KeyH")
    await phase(desk, "ended")
    await desk.focus("#note")
    await desk.keyboard.type("by keys alone")
    await desk.keyboard.press("Control+Enter")
    await desk.wait_for_selector(".pad")
    await desk.keyboard.press("Alt+Digit4")
    await desk.wait_for_selector("[data-tab=log][aria-current]")
    await desk.keyboard.press("Alt+KeyP")
    await desk.keyboard.type("1380")

    assert ([], 10) == (serious, listed)
    assert "1380" == await desk.input_value(".pad input")
    assert ["by keys alone"] == [row["note"] for row in await people.rows("SELECT follow_up_note AS note FROM call")]
    assert re.search("#/log$", desk.url)


async def test_a_page_of_an_older_version_asks_to_be_loaded_anew(people: People) -> None:
    """A part that was fetched late is tried again while it cannot be had; where the server has a newer version, the
    page says so, and loading it anew mends it."""
    desk = await people.desk(language="en")
    context = desk.context
    newer = '<script type="module" src="/assets/index-newer.js"></script>'
    await context.route("**/assets/OutboundSettings-*", lambda route: route.abort())
    await context.route(f"{people.origin}/", lambda route: route.fulfill(body=newer, content_type="text/html"))
    await desk.click("[data-device]")
    await desk.get_by_text("There is a new version").wait_for()
    await context.unroute_all()
    await desk.get_by_role("button", name="Load again").click()
    await desk.wait_for_selector(".row a")
    await desk.click("[data-device]")

    await desk.wait_for_selector("[data-qr]")
