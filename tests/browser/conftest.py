"""A real Chromium before real nodes. Without Chromium, Playwright or built pages these tests are skipped, loudly; with
REQUIRE_BROWSER set, as in continuous integration, they fail."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from server.pages import BUILT
from tests.browser.people import House, People

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
async def people(database_url: str, neighbours: Any, tmp_path: Path) -> AsyncIterator[People]:
    """An installation with its pages, and people who open them."""
    _demand()
    from playwright.async_api import async_playwright  # may be missing, and that is told

    async with AsyncExitStack() as stack, async_playwright() as playwright:
        house = House(database_url, neighbours.redis_url, stack)
        await house.open()
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        stack.push_async_callback(browser.close)
        people = People(house, browser)
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
