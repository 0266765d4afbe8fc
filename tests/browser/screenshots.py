"""Take pictures of every page: `python -m tests.browser.screenshots FOLDER`. They are to be looked at."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from playwright.async_api import Page, async_playwright

from storage.embedded import running
from storage.migrate import migrate
from tests.browser.conftest import CHROMIUM
from tests.browser.desk_scenes import shoot_desk, shoot_readme
from tests.browser.lines import shoot_lines
from tests.browser.numbers import shoot_numbers
from tests.browser.people import HANDSET, People, call_customer, phase
from tests.browser.people_pictures import shoot_people
from tests.browser.phone_pictures import phone_alone
from tests.journeys.house import House

Shoot = Callable[[Page, str], Awaitable[None]]


async def take(folder: Path) -> None:
    """Play a day of an agent and take a picture at each turn."""

    async def shoot(page: Page, name: str) -> None:
        await page.screenshot(path=folder / f"{name}.png", animations="disabled")

    with tempfile.TemporaryDirectory() as data:
        async with (
            running(Path(data), s3=False) as servers,
            AsyncExitStack() as stack,
            async_playwright() as playwright,
        ):
            await migrate(servers.database_url)
            house = House(servers.database_url, servers.redis_url, stack)
            await house.open()
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            stack.push_async_callback(browser.close)
            people = People(house, browser)
            await people.open(Path(data) / "recordings")
            await _desk_and_phone(people, shoot)
            await _narrow_and_dark(people, shoot)
            await shoot_lines(people, shoot)
            await shoot_people(people, shoot)
            await phone_alone(people, shoot)
            await shoot_desk(people, shoot, Path(data))
            await shoot_readme(people, shoot)
            await shoot_numbers(people, shoot)


async def _desk_and_phone(people: People, shoot: Shoot) -> None:
    page = await people.page()
    await page.goto(people.origin)
    await page.wait_for_selector("#username")
    await shoot(page, "sign-in")
    await page.context.close()
    unbound = await people.page(size=HANDSET)
    await unbound.goto(f"{people.origin}/phone")
    await unbound.wait_for_selector("#code")
    await shoot(unbound, "phone-bind")
    desk = await people.desk()
    await shoot(desk, "desk")
    await desk.click("[data-device]")
    await desk.wait_for_selector("[data-qr]")
    await shoot(desk, "desk-settings")
    await desk.keyboard.press("Escape")
    phone = await people.bound_phone(desk)
    await shoot(phone, "phone-waiting")
    await call_customer(desk, "张三")
    await phone.wait_for_selector("[data-stage=prompt]")
    await shoot(desk, "desk-pending")
    await shoot(phone, "phone-prompt")
    await phone.click("[data-dial]")
    await phase(desk, "calling")
    await shoot(desk, "desk-calling")
    await shoot(phone, "phone-calling")
    await phone.click("[data-ringing]")
    await phase(desk, "ringing")
    await shoot(desk, "desk-ringing")
    await phone.click("[data-connected]")
    await phase(desk, "connected")
    await shoot(desk, "desk-connected")
    await shoot(phone, "phone-connected")
    await people.node.stop()
    await desk.wait_for_selector(".lost.shown")
    await shoot(desk, "desk-reconnecting")
    await people.node.start()
    await desk.wait_for_selector(".lost.shown", state="hidden")
    await phone.click("[data-end]")
    await phase(desk, "ended")
    await desk.fill("#note", "下周再谈续费，先发报价单")
    await shoot(desk, "desk-ended")
    await shoot(phone, "phone-history")
    await desk.locator(".soon button").nth(1).click()
    await desk.locator(".record button[type=submit]").click()
    await desk.wait_for_selector(".pad")
    await desk.click("[data-tab=log]")
    await desk.locator(".row a").first.click()
    await desk.wait_for_selector(".timeline li")
    await shoot(desk, "desk-log")
    await desk.click("[data-tab=due]")
    await desk.wait_for_selector(".list .blank")
    await shoot(desk, "desk-nothing-due")
    await desk.context.close()
    await phone.context.close()


async def _narrow_and_dark(people: People, shoot: Shoot) -> None:
    desk = await people.desk(language="en", dark=True)
    await desk.locator(".row a", has_text="张三").click()
    await desk.wait_for_selector(".who h1")
    await shoot(desk, "desk-dark-en")
    narrow = await people.desk(size=HANDSET)
    await shoot(narrow, "desk-narrow")
    await narrow.locator(".row a", has_text="张三").click()
    await narrow.wait_for_selector(".who h1")
    await shoot(narrow, "desk-narrow-customer")


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1] if len(sys.argv) > 1 else "screenshots")))
