"""Calls over a line, as an agent sees them at the desk, and recordings of calls; the cloud is on loopback."""

from pathlib import Path

from playwright.async_api import expect

from tests.browser.desk_scenes import Line, choose_line, recorded_call
from tests.browser.people import People, call_customer, phase, violations
from tests.waiting import until


async def test_a_call_over_a_line(people: People) -> None:
    """A line is chosen, dials, and can be muted and transferred once the customer talks; the cloud's word ends it."""
    async with Line.of(people) as line:
        desk = await people.desk(language="en")
        await choose_line(desk, "阿里云主线路")
        serious = await violations(desk)
        about = await desk.inner_text("p.line")
        await desk.click("[data-save]")
        await call_customer(desk, "张三")
        await phase(desk, "calling")
        early = await desk.locator("[data-mute]").is_disabled(), await desk.inner_text(".reason")
        await line.tell("Ringing", side="customer")
        await phase(desk, "ringing")
        await line.tell("Established", side="customer")
        await phase(desk, "connected")

        await desk.click("[data-mute]")
        await expect(desk.locator("[data-mute]")).to_have_text("Unmute")
        await desk.reload()
        await expect(desk.locator("[data-mute]")).to_have_text("Unmute")
        await desk.keyboard.press("Alt+KeyM")
        await expect(desk.locator("[data-mute]")).to_have_text("Mute")
        await desk.click("[data-transfer]")
        await desk.fill("[data-transfer-to]", "139 0000 8888")
        serious += await violations(desk)
        await desk.keyboard.press("Enter")
        await expect(desk.locator(".reason")).to_contain_text("asked to transfer to 139 0000 8888")
        await line.end()
        await phase(desk, "ended")
        await desk.wait_for_selector("#note")

        assert [] == serious
        assert {"Enabled", "+862160000001"} <= set(about.split())
        assert (True, "Mute and transfer once the customer has answered.") == early
        assert ["MuteCall", "UnmuteCall", "BlindTransfer"] == [
            action for action, _ in line.cloud.asked if action in {"MuteCall", "UnmuteCall", "BlindTransfer"}
        ]
        assert [("cloud", "connected")] == [
            tuple(row) for row in await people.rows("SELECT call_method, outcome FROM call")
        ]


async def test_a_call_on_a_phone_is_muted_there(people: People) -> None:
    """What cannot be done from the desk stands there, disabled, with the reason."""
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk, language="en")
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-connected]")
    await phase(desk, "connected")

    for control in ("[data-mute]", "[data-transfer]", "[data-hang-up]"):
        assert await desk.locator(control).is_disabled()
    assert "Hang up, mute and transfer on the handset" in await desk.inner_text(".reason")


async def test_a_recording_is_played_and_sought_by_keys(people: People, tmp_path: Path) -> None:
    """A recording that was brought by hand has its waveform, plays, and is sought by the arrow keys; what could not be
    read is played when it is asked for again."""
    await people.worker()
    desk = await people.desk(language="en")
    phone = await people.bound_phone(desk, language="en")
    await recorded_call(people, desk, phone, tmp_path, "张三")
    await desk.click("[data-tab=log]")
    await desk.locator(".row a", has_text="张三").click()
    await expect(desk.locator(".player")).to_contain_text("00:30")
    position = desk.locator("[data-position]")
    await position.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "PageUp", "Home", "ArrowRight"):
        await desk.keyboard.press(key)
    sought = await position.input_value()
    told = await position.get_attribute("aria-valuetext")
    links = "**/api/v1/recordings/*"
    await desk.route(links, lambda route: route.abort())
    await desk.keyboard.press("Space")
    await desk.get_by_text("The recording could not be read").wait_for()
    await desk.unroute(links)
    await desk.keyboard.press("Space")
    await until(lambda: desk.evaluate("document.querySelector('audio').currentTime > 5.2"))
    await desk.keyboard.press("Space")
    await expect(desk.locator("[data-play]")).to_have_attribute("aria-label", "Play")
    tall = await desk.evaluate("new Set(document.querySelector('.wave path').getAttribute('d').split('M')).size")

    assert ("5", "00:05 / 00:30") == (sought, told)
    assert tall > 2
    assert [] == await violations(desk)
