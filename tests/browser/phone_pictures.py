"""Pictures of the phone page where things are not as they should be, in both languages, light and dark."""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.people import HANDSET, KEPT, People, call_customer, phase

if TYPE_CHECKING:
    from playwright.async_api import Page


async def phone_alone(people: People, shoot: Callable[["Page", str], Awaitable[None]]) -> None:
    """Refused codes, a camera that is missing, a second tab, a server that is away, recordings, a new version."""
    for language, dark in (("zh-CN", False), ("en", True)):
        look = "dark-en" if dark else "light"
        people.username = await people.house.user("agent")  # who has no phone yet
        desk = await people.desk(language=language, dark=dark)
        unbound = await people.page(size=HANDSET, language=language, dark=dark)
        await unbound.goto(f"{people.origin}/phone")
        await unbound.fill("#code", "ABCD-2345")
        await unbound.keyboard.press("Enter")
        await unbound.wait_for_selector(".failure:not(:empty)")
        await shoot(unbound, f"phone-{look}-refused-code")
        await unbound.evaluate(KEPT)
        await unbound.click("[data-scan]")
        await unbound.wait_for_selector(".failure:not(:empty)")
        await unbound.context.set_offline(True)
        await unbound.wait_for_selector("[data-offline]")
        await shoot(unbound, f"phone-{look}-no-camera-no-network")
        await unbound.context.close()

        phone = await people.bound_phone(desk, language=language, dark=dark)
        await phone.goto(f"{people.origin}/phone#ABCD2345")
        await phone.wait_for_selector("[data-back]")
        await phone.wait_for_selector(".failure:not(:empty)")
        await shoot(phone, f"phone-{look}-link-refused")
        await phone.click("[data-back]")
        await phone.wait_for_selector("[data-link].good")
        await phone.reload()
        await phone.wait_for_selector("[data-sound]")
        await shoot(phone, f"phone-{look}-not-touched")
        second = await people.tab(phone.context)
        await second.goto(f"{people.origin}/phone")
        await second.wait_for_selector("[data-link].wait")
        await shoot(second, f"phone-{look}-second-tab")
        await second.close()

        await call_customer(desk, "张三")
        await phone.wait_for_selector("[data-stage=prompt]")
        await shoot(phone, f"phone-{look}-prompt")
        await phone.click("[data-dial]")
        await shoot(phone, f"phone-{look}-calling")
        await phone.click("[data-connected]")
        await phase(desk, "connected")
        await people.node.stop()
        await phone.wait_for_selector("[data-link].wait")
        await phone.click("[data-end]")
        await phone.wait_for_selector("[data-unacked]")
        await shoot(phone, f"phone-{look}-server-away")
        await people.node.start()
        await phone.wait_for_selector("[data-link].good")
        await phase(desk, "ended")
        with tempfile.TemporaryDirectory() as folder:
            letter = Path(folder) / "letter.wav"
            letter.write_text("this is a letter")
            await phone.set_input_files("input[type=file]", letter)
            await phone.wait_for_selector(".history .bad")
        await phone.evaluate(
            "navigator.serviceWorker.dispatchEvent(new MessageEvent('message', {data: '/assets/new.js'}))"
        )
        await phone.wait_for_selector("[data-renewed]")
        await shoot(phone, f"phone-{look}-recording-refused-new-version")
        [device] = await people.rows("SELECT id FROM device WHERE unbound_at IS NULL")
        await people.administrator.delete(f"/api/v1/calls/device/{device['id']}")
        await phone.wait_for_selector("#code")
        await phone.context.close()
        await desk.context.close()
