"""A real Chromium before real nodes. Without Chromium, Playwright or built pages these tests are skipped, loudly; with
REQUIRE_BROWSER set, as in continuous integration, they fail.

One Chromium serves a run, since starting it costs as much as what many a test does with it; each test has browser
contexts of its own, which share nothing, and they end with it. So all these tests run in one loop, that of the browser.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from server.pages import BUILT
from tests.browser.people import People
from tests.journeys.house import House

if TYPE_CHECKING:
    from playwright.async_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

WINDOWLESS = shutil.which("chromium-headless-shell") or CHROMIUM
"""The same engine for less, where it is installed: a page in a context of its own costs it a quarter. It draws nothing
of a browser around pages, so it asks nobody for permission; whoever wants to be asked takes CHROMIUM."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is in this folder in the loop of the run."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator["Browser"]:
    """The Chromium of this run."""
    _demand()
    from playwright.async_api import async_playwright  # may be missing, and that is told

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=WINDOWLESS, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def people(browser: "Browser", database_url: str, neighbours: Any, tmp_path: Path) -> AsyncIterator[People]:
    """An installation with its pages, and people who open them."""
    async with AsyncExitStack() as stack:
        house = House(database_url, neighbours.redis_url, stack)
        await house.open()
        people = People(house, browser)
        stack.push_async_callback(people.leave)
        await people.open(tmp_path / "recordings")
        yield people
        assert people.complaints == []


def _demand() -> None:
    """Skip where something is missing; fail where nothing may be."""
    missing = [
        what
        for what, there in {
            "Chromium": CHROMIUM is not None,
            "built pages (make web)": (BUILT / "index.html").exists(),
        }.items()
        if not there
    ]
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        missing.append("playwright")
    if missing:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(f"no {', no '.join(missing)}")
