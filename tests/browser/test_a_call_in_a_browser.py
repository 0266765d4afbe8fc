"""A call as people see it: the desk in one browser, the phone page in another."""

import pytest

from tests.browser.people import People, call_customer, phase, violations
from tests.journeys.house import within


async def test_a_call_from_the_click_to_its_note(people: People) -> None:
    """What the phone reports is seen on the desk as it happens, in every tab, and the note is in the log afterwards."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    other = await people.tab(desk.context)
    await other.goto(people.origin)
    await other.wait_for_selector(".row a")

    await call_customer(desk, "张三")
    await phase(desk, "pending")
    await phone.click("[data-dial]")
    await phase(desk, "calling")
    await phone.click("[data-ringing]")
    await phase(desk, "ringing")
    await phone.click("[data-connected]")
    await phase(desk, "connected")
    await phase(other, "connected")
    await phone.click("[data-end]")
    await phase(desk, "ended")
    await phase(other, "ended")
    await desk.fill("#note", "下周再谈续费")
    await desk.reload()
    await desk.wait_for_selector("#note")
    draft = await desk.input_value("#note")
    await desk.locator(".soon button").nth(1).click()
    await desk.locator(".record button[type=submit]").click()
    await desk.wait_for_selector(".pad")
    await other.wait_for_selector(".pad")
    await desk.click("[data-tab=log]")
    await desk.reload()
    await desk.locator(".row a", has_text="张三").click()
    await desk.wait_for_selector(".note")

    assert "下周再谈续费" == draft == await desk.inner_text(".note")
    assert 1 == len(await people.rows("SELECT 1 FROM call WHERE outcome = 'connected'"))


async def test_a_restarted_server_loses_nothing(people: People) -> None:
    """A node that is stopped and started in mid-call is told to the agent, and the call ends as if it had not been."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    await call_customer(desk, "李思远")
    await phone.click("[data-dial]")
    await phone.click("[data-connected]")
    await phase(desk, "connected")

    await people.node.stop()
    await desk.wait_for_selector(".lost.shown")
    await phase(desk, "connected")
    await phone.click("[data-end]")
    await within(people.node.start())
    await desk.wait_for_selector(".lost.shown", state="hidden")
    await phase(desk, "ended")
    await desk.fill("#note", "服务器重启时的通话")
    await desk.locator(".record button[type=submit]").click()
    await desk.wait_for_selector(".pad")

    [call] = await people.rows("SELECT outcome, follow_up_note AS note FROM call")
    assert ("connected", "服务器重启时的通话") == (call["outcome"], call["note"])


async def test_a_call_that_nobody_answers_says_what_to_do(people: People) -> None:
    """The end of a missed call tells the cause and its advice; skipped, it waits among those not recorded."""
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk, language="en")
    await call_customer(desk, "王晓梅")
    await phone.click("[data-dial]")
    await phone.click("[data-missed]")
    await phase(desk, "ended")

    assert "No answer Advice: Dial again later" == " ".join((await desk.inner_text(".advice")).split())

    await desk.locator(".record .acts button").first.click()
    await desk.click("[data-tab=unrecorded]")
    await desk.wait_for_selector(".row a")

    assert 1 == await desk.locator(".row a", has_text="王晓梅").count()


@pytest.mark.parametrize(("language", "dark"), [("zh-CN", False), ("en", True)])
async def test_the_pages_are_accessible(people: People, language: str, dark: bool) -> None:
    """axe-core finds nothing serious on any page, in either language, light or dark."""
    found: dict[str, list[str]] = {}
    fresh = await people.page(language=language, dark=dark)
    await fresh.goto(people.origin)
    await fresh.wait_for_selector("#username")
    found["sign in"] = await violations(fresh)
    desk = await people.desk(language=language, dark=dark)
    await desk.locator(".row a").first.click()
    await desk.wait_for_selector(".who h1")
    found["desk"] = await violations(desk)
    await desk.click("[data-device]")
    await desk.wait_for_selector(".pane")
    found["settings"] = await violations(desk)
    await desk.keyboard.press("Escape")
    await desk.wait_for_selector(".pane", state="hidden")
    phone = await people.bound_phone(desk, language=language, dark=dark)
    await desk.click("[data-call]")
    await phone.wait_for_selector("[data-stage=prompt]")
    found["phone asked to dial"] = await violations(phone)
    await phone.click("[data-dial]")
    await phase(desk, "calling")
    found["phone dialling"] = await violations(phone)
    found["desk calling"] = await violations(desk)
    await phone.click("[data-connected]")
    await phase(desk, "connected")
    found["phone in call"] = await violations(phone)
    found["desk in call"] = await violations(desk)
    await phone.click("[data-end]")
    await phase(desk, "ended")
    found["phone afterwards"] = await violations(phone)
    found["desk afterwards"] = await violations(desk)
    await desk.click("[data-tab=log]")
    await desk.wait_for_selector(".list .blank, .row a")
    found["log"] = await violations(desk)
    unbound = await people.page(language=language, dark=dark)
    await unbound.goto(f"{people.origin}/phone")
    await unbound.wait_for_selector("#code")
    found["phone unbound"] = await violations(unbound)

    assert {} == {name: problems for name, problems in found.items() if problems}
