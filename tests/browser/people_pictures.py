"""Pictures of the console's pages of people and calls."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tests.browser.floor import Floor
from tests.browser.people import HANDSET, People

if TYPE_CHECKING:
    from playwright.async_api import Page

Shoot = Callable[["Page", str], Awaitable[None]]

LOOKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {}),
    ("-dark-en", {"dark": True, "language": "en"}),
    ("-narrow", {"size": HANDSET}),
)

PAGES = {
    "board": "[data-agent]",
    "calls": "[data-call-row]",
    "devices": "[data-device]",
    "users": "[data-user-row]",
    "users/teams": "[data-team-row]",
}
"""The pages, and what is there when one is."""


async def shoot_people(people: People, shoot: Shoot) -> None:
    """Go through the pages by day and by night, at a desk and on a phone."""
    floor = Floor(people)
    await floor.open()
    for suffix, how in LOOKS:
        page = await people.console("tenant_admin", "#/board", **how)
        for path, there in PAGES.items():
            await page.goto(f"{people.origin}/console#/{path}")
            await page.wait_for_selector(there)
            await shoot(page, f"console-{path.replace('/', '-')}{suffix}")
        await page.goto(f"{people.origin}/console#/calls")
        await page.locator("[data-call-row] a").first.click()
        await page.wait_for_selector(".timeline, .facts")
        await shoot(page, f"console-call{suffix}")
        await page.goto(f"{people.origin}/console#/users")
        await page.click("[data-add]")
        await page.wait_for_selector("[data-username]")
        await shoot(page, f"console-user-new{suffix}")
        await page.context.close()
