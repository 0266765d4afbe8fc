"""What an agent types and chooses at the desk: a number, an address, days, words, and how a sign-in ends."""

import re

from playwright.async_api import expect

from tests.browser.people import HANDSET, People, call_customer, phase


async def test_a_number_is_typed_key_by_key(people: People) -> None:
    """Each key writes one digit, where the caret is; a key that was held and let go beside it swallows no other. A
    number that is not complete is no error."""
    desk = await people.desk(language="en")
    pad = desk.locator(".pad input")
    answers: list[int] = []
    desk.on("response", lambda answer: answers.append(answer.status) if "/lately" in answer.url else None)

    async def press(*digits: str) -> None:
        for digit in digits:
            await desk.locator(".keys button", has_text=digit).click()

    await press("1")
    await desk.locator(".keys button", has_text="0").hover()
    await desk.mouse.down()
    await expect(pad).to_have_value("1+")
    await pad.hover()
    await desk.mouse.up()
    await press("8", "6")
    slid = await pad.input_value()
    await pad.fill("3912345")
    await pad.press("Home")
    await press("1")
    await pad.press("End")
    async with desk.expect_response("**/lately"):
        await press("6")

    assert "1+86" == slid
    assert "139123456" == await pad.input_value()
    assert {200} == set(answers)


async def test_any_address_opens_the_desk(people: People) -> None:
    """An address that was clipped opens its list. Who signs out is not told so as if it were a mishap; whose sign-in
    was ended is told in words."""
    desk = await people.desk(language="en")
    await desk.goto(f"{people.origin}/#/log/%")
    await desk.reload()
    await desk.wait_for_selector("[data-tab=log][aria-current]")
    await desk.click(".me")
    await desk.wait_for_selector("#username")
    after_leaving = await desk.inner_text(".sign-in .failure")
    await desk.fill("#username", people.username)
    await desk.fill("#password", people.house.password)
    await desk.keyboard.press("Enter")
    await desk.wait_for_selector("[data-tab=log][aria-current]")
    await people.house.rows("UPDATE login SET revoked_at = now() RETURNING id")
    await desk.reload()
    await desk.wait_for_selector("#username")
    people.complaints.clear()  # the browser's own: a request was answered 401

    assert "" == after_leaving
    assert "Your sign-in has ended. Please sign in again." == await desk.inner_text(".sign-in .failure")


async def test_the_log_is_narrowed_by_days_on_a_handset(people: People) -> None:
    """The calendar that is chosen from stands within a small screen, and the list follows what is chosen."""
    desk = await people.desk(language="en", size=HANDSET)
    await desk.goto(f"{people.origin}/#/log")
    await desk.get_by_role("combobox", name="From").click()
    panel = desk.locator(".el-picker-panel:visible")
    await panel.wait_for()
    box = await panel.bounding_box()
    wide = await desk.evaluate("document.scrollingElement.scrollWidth")
    async with desk.expect_response(re.compile(r"/calls\?.*\bfrom=")) as answered:
        await panel.locator("td.today").click()

    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= HANDSET[0]
    assert HANDSET[0] == wide
    assert 200 == (await answered.value).status


async def test_keys_that_are_touched_bring_no_keyboard(people: People) -> None:
    """The pad of a handset writes its digits and leaves the field alone: a keyboard would come up over it."""
    desk = await people.desk(language="en", size=HANDSET)
    await desk.locator(".fold").tap()
    for digit in ("1", "3", "9"):
        await desk.locator(".keys button", has_text=digit).tap()
    await expect(desk.locator(".pad input")).to_have_value("139")

    await expect(desk.locator(".pad input")).not_to_be_focused()


async def test_known_words_are_read_in_ones_own_language(people: People) -> None:
    """The results that a tenant has from its first day are shown in English at an English desk, its own as they are;
    what is stored is the tenant's word."""
    await people.house.rows("UPDATE tenant SET call_results = call_results || '{改签}'::text[] RETURNING id")
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk, language="en")
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-missed]")
    await phase(desk, "ended")
    form = desk.locator(".record")
    await expect(form.locator(".el-select").first).to_contain_text("No answer")
    await form.locator(".el-select").first.click()
    await desk.get_by_role("option", name="改签").wait_for()
    await desk.get_by_role("option", name="Call back later").click()
    await form.locator("button[type=submit]").click()
    await desk.wait_for_selector(".pad")
    await expect(desk.locator(".past")).to_contain_text("Call back later")

    assert ["稍后联系"] == [row["result"] for row in await people.rows("SELECT follow_up_result AS result FROM call")]
