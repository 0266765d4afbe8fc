"""How soon the desk is there: a real Chromium, slowed down, before a node on loopback."""

import asyncio
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
from playwright.async_api import Browser, Page, async_playwright

from tests.bench.ground import open_house
from tests.browser.conftest import CHROMIUM
from tests.browser.people import People

QUIET = """
new Promise((resolve) => {
  let last = performance.now()
  new PerformanceObserver((list) => {
    for (const task of list.getEntries()) last = Math.max(last, task.startTime + task.duration)
  }).observe({ type: "longtask", buffered: true })
  const look = () => (performance.now() - last > 500 ? resolve(last) : setTimeout(look, 50))
  setTimeout(look, 50)
})
"""
"""When the last task of over 50 ms ended before half a second without one: from then on a click is answered at once."""


async def measure_desk(rounds: int, slower: float) -> None:
    """Tell how long a sign-in page and a desk take until they can be used, and what they load, nothing cached."""
    async with AsyncExitStack() as stack, async_playwright() as playwright:
        house, _ = await open_house(stack)
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        stack.push_async_callback(browser.close)
        people = People(house, browser)
        await people.open(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dialdesk-bench-"))))
        desk = await people.desk()
        state: Any = await desk.context.storage_state()
        await desk.context.close()
        click.echo(f"CPU {slower:g} times slower, {rounds} loads each, nothing cached; median (least-most)")
        for name, ready, signed_in in (("sign-in", "#username", None), ("desk", ".row a", state)):
            loads = [await _load(browser, people.origin, ready, signed_in, slower) for _ in range(rounds)]
            drawn, usable, size = ([load[at] for load in loads] for at in range(3))
            click.echo(f"{name:8} drawn {_spread(drawn)} ms   interactive {_spread(usable)} ms   {max(size):.0f} kB")


async def _load(browser: Browser, origin: str, ready: str, state: Any, slower: float) -> tuple[float, float, float]:
    """Milliseconds until what is waited for is drawn, until clicks are answered at once; kB that were transferred."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900}, locale="zh-CN", storage_state=state)
    try:
        page = await context.new_page()
        loaded = 0.0
        inspector = await context.new_cdp_session(page)
        await inspector.send("Emulation.setCPUThrottlingRate", {"rate": slower})
        await inspector.send("Network.enable")

        def finished(event: dict[str, float]) -> None:
            nonlocal loaded
            loaded += event["encodedDataLength"]

        inspector.on("Network.loadingFinished", finished)
        await page.goto(origin, wait_until="commit")
        drawn = await _drawn(page, ready)
        last = await asyncio.wait_for(page.evaluate(QUIET), timeout=60)
        return drawn, max(drawn, last), loaded / 1000
    finally:
        await context.close()


async def _drawn(page: Page, ready: str) -> float:
    await page.wait_for_selector(ready)
    return float(await page.evaluate("performance.now()"))


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"
