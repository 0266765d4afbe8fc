"""Who sits before the pages: an agent at the desk, and the agent's phone in a browser of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import asyncpg

from clients.agent import AgentClient
from tests.journeys.desk import LOOPBACK
from tests.journeys.house import House, Process

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

AXE = Path(__file__).parents[2] / "clients/web/node_modules/axe-core/axe.min.js"
DESKTOP, HANDSET = (1440, 900), (390, 844)

CUSTOMERS: Final[tuple[tuple[str, str, str, list[str], list[str]], ...]] = (
    ("C1001", "张三", "13912345678", ["VIP", "老客户"], ["SO-20251101", "SO-20251188"]),
    ("C1002", "李思远", "13800002222", ["新客户"], ["SO-20251120"]),
    ("C1003", "王晓梅", "13700003333", [], []),
    ("C1004", "陈建国", "13600004444", ["续费"], ["SO-20251009"]),
    ("C1005", "赵敏", "13500005555", ["VIP"], []),
)

KEEP_LINKS_TO_THE_TELEPHONE = """
addEventListener("click", (event) => { if (event.target.href?.startsWith("tel:")) event.preventDefault() }, true)
"""
"""A browser without a telephone would ask what to open them with, in a window that takes every later click."""


SETTLED = """
Promise.allSettled(
  document.getAnimations().filter((one) => one.effect.getTiming().iterations !== Infinity).map((one) => one.finished),
)
"""
"""Colours that are still changing are nobody's choice."""

KEPT = "navigator.serviceWorker.ready.then(({active}) => active.state)"
"""Resolves on the phone page once the browser keeps it."""


class People:
    """An installation, a browser, and what its pages complained of."""

    def __init__(self, house: House, browser: "Browser") -> None:
        self.house = house
        self.browser = browser
        self.complaints: list[str] = []

    async def open(self, recordings: Path) -> None:
        """Start a node and have customers; the pages are reached where phones are. Clouds may be at this machine, and
        recordings are kept in a folder."""
        self.settings = {**LOOPBACK, "RECORDINGS": "local", "RECORDINGS_FOLDER": str(recordings)}
        self.node: Process = await self.house.node(**self.settings)
        self.origin = f"http://127.0.0.1:{self.house.balancer.port}"
        self.username = await self.house.user("agent")
        self.administrator: AgentClient = await self.house.administrator(self.node)
        for external_id, name, phone, tags, orders in CUSTOMERS:
            body = {"externalId": external_id, "name": name, "phone": phone, "tags": tags, "orderIds": orders}
            await self.administrator.post("/api/v1/customers", body)

    async def leave(self) -> None:
        """Close every page, with all that its browser has kept."""
        for context in self.browser.contexts:
            await context.close()

    async def worker(self) -> Process:
        """Start a worker: without one nothing is read of what providers tell, and of recordings."""
        return await self.house.worker(**self.settings)

    async def page(
        self,
        *,
        language: str = "zh-CN",
        size: tuple[int, int] = DESKTOP,
        dark: bool = False,
        timezone: str = "Asia/Shanghai",
    ) -> "Page":
        """A page in a browser that has seen nothing of ours yet."""
        context = await self.browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            locale=language,
            timezone_id=timezone,
            color_scheme="dark" if dark else "light",
            has_touch=size == HANDSET,
            is_mobile=size == HANDSET,
        )
        await context.add_init_script(KEEP_LINKS_TO_THE_TELEPHONE)
        return await self.tab(context)

    async def tab(self, context: "BrowserContext") -> "Page":
        """One more tab of a browser; what it complains of is kept, a server that is away aside."""
        page = await context.new_page()
        page.set_default_timeout(40_000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text)
                if said.type == "error" and "net::ERR_" not in said.text and "WebSocket" not in said.text
                else None
            ),
        )
        return page

    async def desk(self, **how: object) -> "Page":
        """The desk of the agent, signed in."""
        page = await self.page(**how)  # type: ignore[arg-type]
        await page.goto(self.origin)
        await page.fill("#username", self.username)
        await page.fill("#password", self.house.password)
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".row a")
        return page

    async def console(self, role: str = "tenant_admin", at: str = "", **how: object) -> "Page":
        """The console at one of its pages, signed in by somebody new of this role."""
        page = await self.page(**how)  # type: ignore[arg-type]
        await page.goto(f"{self.origin}/console{at}")
        await page.fill("#username", await self.house.user(role))
        await page.fill("#password", self.house.password)
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".page h1, [data-refused]")
        return page

    async def bound_phone(self, desk: "Page", **how: object) -> "Page":
        """The phone page, bound by what the desk's QR code holds."""
        await desk.click("[data-device]")
        link = await desk.get_attribute("[data-link-qr]", "data-text")
        assert link is not None
        phone = await self.page(**{"size": HANDSET, **how})  # type: ignore[arg-type]
        await phone.goto(link)
        await phone.wait_for_selector("[data-link].good")
        await desk.wait_for_selector(".bound")
        await desk.keyboard.press("Escape")
        await desk.wait_for_selector(".bound", state="hidden")
        return phone

    async def rows(self, query: str) -> list[asyncpg.Record]:
        """What is in the database."""
        connection = await asyncpg.connect(self.house.database_url, timeout=10)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()


async def call_customer(desk: "Page", name: str) -> None:
    """Choose a customer and click call."""
    await desk.locator(".row a", has_text=name).click()
    await desk.click("[data-call]")


async def phase(desk: "Page", status: Literal["pending", "calling", "ringing", "connected", "ended"]) -> None:
    """Wait until the dock shows a call at this stage."""
    await desk.wait_for_selector(f"[data-phase][data-status={status}]")


async def violations(page: "Page") -> list[str]:
    """What axe-core finds that is serious or worse."""
    await page.evaluate(AXE.read_text())
    await page.evaluate(SETTLED)
    found = await page.evaluate("axe.run({resultTypes: ['violations']}).then(({violations}) => violations)")
    return [
        f"{one['id']}: {', '.join(str(node['target']) for node in one['nodes'])}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
