"""The record of a call at the desk: it is worked on in several tabs, over reloads, and by one person alone."""

from playwright.async_api import expect

from tests.browser.people import People, call_customer, phase


async def test_a_record_is_made_anew_in_every_tab_and_after_a_reload(people: People) -> None:
    """Who edits a record that was saved keeps what is typed: it stands in the other tab, and survives a reload."""
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk)
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-missed]")
    await phase(desk, "ended")
    await desk.fill("#note", "first")
    await desk.locator(".record button[type=submit]").click()
    await desk.wait_for_selector(".pad")
    other = await people.tab(desk.context)
    await other.goto(people.origin)
    await other.wait_for_selector(".pad")

    await desk.click("[data-tab=log]")
    await desk.locator(".row a", has_text="张三").click()
    await desk.get_by_role("button", name="Change the record").click()
    await expect(desk.locator("#note")).to_have_value("first")
    await expect(other.locator("#note")).to_have_value("first")
    await desk.fill("#note", "first, and then more")
    await expect(other.locator("#note")).to_have_value("first, and then more")
    await desk.reload()
    await expect(desk.locator("#note")).to_have_value("first, and then more")
    await other.locator(".record button[type=submit]").click()
    await desk.wait_for_selector(".pad")

    assert ["first, and then more"] == [
        row["note"] for row in await people.rows("SELECT follow_up_note AS note FROM call")
    ]


async def test_a_draft_is_shown_to_nobody_else(people: People) -> None:
    """Who signs in next at this browser finds neither the call nor the words of the one before; that one does."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-missed]")
    await phase(desk, "ended")
    await desk.fill("#note", "for my eyes")
    first = people.username

    async def sign_in(username: str) -> None:
        await desk.click(".me")
        await desk.fill("#username", username)
        await desk.fill("#password", people.house.password)
        await desk.keyboard.press("Enter")
        await desk.wait_for_selector(".row a")

    async with desk.expect_response("**/unrecorded**"):
        await sign_in(await people.house.user("agent"))
    await desk.wait_for_selector(".pad")
    shown = await desk.locator("#note").count()
    await sign_in(first)

    await expect(desk.locator("#note")).to_have_value("for my eyes")
    assert 0 == shown


async def test_a_language_is_that_of_every_tab(people: People) -> None:
    """Chosen in one tab, all of the other speaks it, and so does what the server tells it."""
    desk = await people.desk(language="en")
    other = await people.tab(desk.context)
    await other.goto(people.origin)
    await other.wait_for_selector(".row a")
    asked: list[str | None] = []
    other.on(
        "request",
        lambda request: asked.append(request.headers.get("accept-language")) if "/options" in request.url else None,
    )

    async with other.expect_response("**/calls/options"):
        await desk.click("[data-language]")
    await other.locator("[data-tab=log]", has_text="通话记录").wait_for()

    assert "zh-CN" == await other.evaluate("document.documentElement.lang")
    assert ["zh-CN"] == asked
