"""Draw the phone page's icons of its SVG anew: `python -m tests.browser.icons`."""

import asyncio
import re
from pathlib import Path

from playwright.async_api import async_playwright

from tests.browser.conftest import CHROMIUM

PUBLIC = Path(__file__).parents[2] / "clients/web/app/public"

ICONS = {
    "icon-192.png": (192, True),
    "icon-512.png": (512, True),
    "icon-maskable-512.png": (512, False),
    "apple-touch-icon.png": (180, False),
}
"""By their names: pixels a side, and whether the corners are round. A system that cuts icons itself wants the rest."""


async def draw() -> None:
    """Let Chromium draw each, and write them beside the SVG."""
    svg = (PUBLIC / "icon.svg").read_text(encoding="utf-8")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        for name, (side, rounded) in ICONS.items():
            drawn = svg if rounded else re.sub(r' rx="\d+"', "", svg)
            await page.set_viewport_size({"width": side, "height": side})
            await page.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block; width: 100vw }}</style>{drawn}")
            await page.screenshot(path=PUBLIC / name, omit_background=True)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(draw())
