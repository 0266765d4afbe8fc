"""The phone page alone: how it is bound, what it keeps, and how it opens where there is no network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segno

from clients.agent import AgentClient
from tests.audio_files import make_audio
from tests.browser.conftest import CHROMIUM
from tests.browser.people import HANDSET, KEPT, People, call_customer, phase, violations

if TYPE_CHECKING:
    from playwright.async_api import Page

NOBODYS = "ABCD-2345"
"""Looks like a code to type."""

TAKEN_OVER = """
new Promise((resolve) => {
  navigator.serviceWorker.addEventListener("controllerchange", () => resolve())
  navigator.serviceWorker.register("/phone-worker.js?next", { scope: "/phone" })
})
"""
"""Registers the worker under another name, as a newer one, and resolves once that one answers for the page."""

ALL_KEPT = """
caches.keys().then(async (names) => {
  const requests = await Promise.all(names.map(async (name) => (await caches.open(name)).keys()))
  return requests.flat().map(({url}) => new URL(url).pathname)
})
"""


async def test_the_camera_reads_the_code(people: People, tmp_path: Path) -> None:
    """Held before the desk's screen, the phone binds itself, and the desk's code turns into the phone."""
    desk = await people.desk()
    await desk.click("[data-device]")
    code = await desk.get_attribute("[data-qr]", "data-text")
    assert code is not None
    film = tmp_path / "code.y4m"
    film.write_bytes(filmed(code))

    async with carrying_a_camera(people, "--use-fake-ui-for-media-stream", film) as handheld:
        phone = await opened(handheld)
        await phone.click("[data-scan]")
        await phone.wait_for_selector("[data-link].good")
    await desk.wait_for_selector(".bound")

    assert 1 == len(await people.rows("SELECT 1 FROM device WHERE unbound_at IS NULL"))


async def test_who_refuses_the_camera_is_told_the_other_way(people: People) -> None:
    """A camera that may not be used is no dead end: the page says why, and takes the typed code."""
    code = (await codes(people))["typedCode"]

    async with carrying_a_camera(people, "--deny-permission-prompts") as handheld:
        phone = await opened(handheld, language="en")
        await phone.click("[data-scan]")
        await phone.wait_for_selector("text=does not allow the camera")
        found = await violations(phone)
        await phone.fill("#code", code.lower())
        await phone.keyboard.press("Enter")
        await phone.wait_for_selector("[data-link].good")

    assert [] == found


async def test_codes_that_bind_nothing_say_why(people: People) -> None:
    """Something else, a code of nobody, a used one and one that is too old: each is told, and the page goes on."""
    phone = await opened(people, language="en")
    other = await opened(people, language="en")
    await phone.fill("#code", "hello")
    await phone.keyboard.press("Enter")
    await phone.wait_for_selector("text=This is not a code of Dialdesk.")
    nobodys = await refusal(phone, NOBODYS)
    code = (await codes(people))["typedCode"]
    await other.fill("#code", code)
    await other.keyboard.press("Enter")
    await other.wait_for_selector("[data-link].good")
    used = await refusal(phone, code)
    late = (await codes(people))["typedCode"]
    await people.rows("UPDATE bind_token SET expires_at = now() - interval '1 second' WHERE used_at IS NULL")
    old = await refusal(phone, late)
    await phone.fill("#code", (await codes(people))["typedCode"])
    await phone.keyboard.press("Enter")
    await phone.wait_for_selector("[data-link].good")

    assert "code" in nobodys
    assert {nobodys} == {used, old}
    refused_as(people, 410, times=3)


async def test_a_link_that_binds_nothing_leaves_the_phone_bound(people: People) -> None:
    """Opened on a bound phone, a code that was used says so, and the way back is one touch."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)

    await phone.goto(f"{people.origin}/phone#{NOBODYS}")
    await phone.wait_for_selector("[data-back]")
    address = phone.url
    await phone.click("[data-back]")
    await phone.wait_for_selector("[data-link].good")
    await phone.reload()
    await phone.wait_for_selector("[data-link].good")

    refused_as(people, 410, times=1)
    assert f"{people.origin}/phone" == address
    assert 1 == len(await people.rows("SELECT 1 FROM device WHERE unbound_at IS NULL"))


async def test_reports_wait_for_a_server_that_is_away(people: People) -> None:
    """What the person said while the server was away is kept over a reload, with the page itself, and sent after it."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    await phone.evaluate(KEPT)
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-connected]")
    await phase(desk, "connected")

    await people.node.stop()
    await phone.wait_for_selector("[data-link].wait")
    await phone.click("[data-end]")
    await phone.wait_for_selector("[data-unacked]")
    await phone.reload()
    await phone.wait_for_selector("[data-unacked]")
    before = await people.rows("SELECT status FROM call")
    await people.node.start()
    await phone.wait_for_selector("[data-unacked]", state="detached")
    await phase(desk, "ended")

    [after] = await people.rows("SELECT status, outcome FROM call")
    assert ["connected"] == [call["status"] for call in before]
    assert ("ended", "connected") == (after["status"], after["outcome"])


async def test_the_page_opens_without_a_network_and_says_so(people: People) -> None:
    """Bound or not, the page comes from the handset's own copy; nothing that the API said is in it."""
    desk = await people.desk()
    bound = await people.bound_phone(desk)
    unbound = await opened(people)
    for page in (bound, unbound):
        await page.evaluate(KEPT)
    kept = await bound.evaluate(ALL_KEPT)

    await people.node.stop()
    for page in (bound, unbound):
        await page.context.set_offline(True)
        await page.reload()
    await bound.wait_for_selector("[data-link].wait")
    await unbound.wait_for_selector("[data-offline]")
    found = [*await violations(bound), *await violations(unbound)]
    await people.node.start()
    for page in (bound, unbound):
        await page.context.set_offline(False)
    await bound.wait_for_selector("[data-link].good")
    await unbound.wait_for_selector("[data-offline]", state="detached")

    assert "/phone" in kept
    assert [] == [path for path in kept if not path.startswith(("/assets/", "/phone", "/icon"))]
    assert [] == found


async def test_a_new_version_takes_over_behind_the_open_page(people: People) -> None:
    """The page that is open goes on with its files and offers to renew itself; of older versions one is kept."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    await phone.evaluate(KEPT)
    for name in ("phone older", "phone old"):
        await phone.evaluate("(name) => caches.open(name).then(() => {})", name)
    [newest] = [name for name in await phone.evaluate("caches.keys()") if name not in {"phone older", "phone old"}]

    await phone.evaluate(TAKEN_OVER)
    same = await phone.locator("[data-renewed]").count()
    await phone.evaluate("navigator.serviceWorker.dispatchEvent(new MessageEvent('message', {data: '/assets/new.js'}))")
    await phone.wait_for_selector("[data-renewed]")
    await phone.click("[data-renewed] button")
    await phone.wait_for_selector("[data-renewed]", state="detached")
    await phone.wait_for_selector("[data-link].good")

    assert 0 == same
    assert {newest, "phone old"} == set(await phone.evaluate("caches.keys()"))


async def test_the_page_can_be_installed(people: People) -> None:
    """Chromium reads the manifest and its icons without a complaint, and would install it but for the test's private
    window."""
    phone = await opened(people)
    await phone.evaluate(KEPT)
    browser = await phone.context.new_cdp_session(phone)

    manifest = await browser.send("Page.getAppManifest")
    errors = (await browser.send("Page.getInstallabilityErrors"))["installabilityErrors"]

    assert [] == manifest["errors"]
    assert f"{people.origin}/phone.webmanifest" == manifest["url"]
    assert {"in-incognito"} >= {error["errorId"] for error in errors}


async def test_a_second_tab_waits_for_the_first(people: People) -> None:
    """One tab at a time is the phone: the other says so, and takes over when the first is closed."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    second = await people.tab(phone.context)
    await second.goto(f"{people.origin}/phone")
    await second.wait_for_selector("[data-link].wait")
    waiting = await second.inner_text("[data-link]")
    await phone.bring_to_front()
    await call_customer(desk, "张三")
    await phone.wait_for_selector("[data-stage=prompt]")
    rung = await second.locator("[data-stage]").count()
    await second.reload()
    await second.wait_for_selector("text=另一个标签页在使用")
    drawn = await second.locator("[data-stage]").count()

    await phone.close()
    await second.click("[data-dial]")
    await phase(desk, "calling")

    assert ("另一个标签页在使用", 0, 0) == (waiting, rung, drawn)


async def test_a_link_opened_in_another_tab_makes_that_one_the_phone(people: People) -> None:
    """A camera opens the link in a new tab: that one is the phone then, also after a reload, and the older one says
    so."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    second = await people.tab(phone.context)

    await second.goto(await link(desk))
    await second.wait_for_selector("[data-link].good")
    await phone.wait_for_selector("text=此页已停止")
    await second.reload()
    await second.wait_for_selector("[data-link].good")


async def test_a_link_ends_no_call_unasked(people: People) -> None:
    """Opened in mid-call, also in another tab, it changes nothing; where the page cannot know of the call it says so,
    and ends it only by a button of that name."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-connected]")
    await phase(desk, "connected")
    code = (await codes(people))["typedCode"]
    handset = await phone.evaluate("({...localStorage})")

    second = await people.tab(phone.context)
    await second.goto(f"{people.origin}/phone#{code}")
    await second.wait_for_selector("text=通话中不能更换绑定")
    other = await opened(people)
    await other.evaluate("(handset) => void Object.assign(localStorage, handset)", handset)
    await other.reload()
    await other.fill("#code", code)
    await other.keyboard.press("Enter")
    await other.wait_for_selector("text=这部手机正在通话")
    [before] = await people.rows("SELECT status FROM call")
    await other.click("[data-force]")
    await other.wait_for_selector("[data-link].good")
    await phase(desk, "ended")

    refused_as(people, 409, times=1)
    assert "connected" == before["status"]


async def test_a_page_without_https_is_bound_by_the_typed_code(people: People) -> None:
    """In an office's network without certificates a page has no camera, and less of the browser; typing does."""
    code = (await codes(people))["typedCode"]

    async with another_browser(people, "--host-resolver-rules=MAP phone.example 127.0.0.1") as plain:
        plain.origin = people.origin.replace("127.0.0.1", "phone.example")
        plain.complaints = []
        phone = await opened(plain)
        secure = await phone.evaluate("isSecureContext")
        await phone.fill("#code", code)
        await phone.keyboard.press("Enter")
        await phone.wait_for_selector(".handset")

    assert not secure
    assert [] == [complaint for complaint in plain.complaints if "untrustworthy" not in complaint]
    assert 1 == len(await people.rows("SELECT 1 FROM device WHERE unbound_at IS NULL"))


async def test_a_recording_that_waits_outlives_a_new_binding(people: People, tmp_path: Path) -> None:
    """A link asks before what waits may be lost; bound again for the same agent, the phone brings it."""
    recording = tmp_path / "recording.m4a"
    recording.write_bytes(make_audio("m4a"))
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-connected]")
    await phone.click("[data-end]")
    await phase(desk, "ended")
    uploads = "**/api/v1/calls/mobile/recording/**"
    await phone.route(uploads, lambda route: route.abort())
    await phone.set_input_files("input[type=file]", recording)
    await phone.wait_for_selector("[data-recording=waiting]")

    await phone.goto(await link(desk))
    await phone.wait_for_selector("[data-waiting]")
    await phone.unroute(uploads)
    await phone.click("form [type=submit]")
    await phone.wait_for_selector("[data-recording=stored]")

    assert 1 == len(await people.rows("SELECT 1 FROM recording WHERE state = 'stored'"))


async def test_an_unbound_phone_shows_the_scanner(people: People) -> None:
    """Unbound while it is open, the page says so and forgets what it was; bound anew, it works again."""
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    [device] = await people.rows("SELECT id FROM device")

    await people.administrator.delete(f"/api/v1/calls/device/{device['id']}")
    await phone.wait_for_selector("#code")
    told = await phone.inner_text(".failure")
    await phone.reload()
    await phone.wait_for_selector("#code")
    await phone.fill("#code", (await codes(people))["typedCode"])
    await phone.keyboard.press("Enter")
    await phone.wait_for_selector("[data-link].good")

    assert "已解绑。请重新扫描二维码。" == told


async def test_a_chosen_recording_is_played_at_the_desk(people: People, tmp_path: Path) -> None:
    """A file that is no recording is told so; a real one is brought, and the desk has it at once."""
    letter, recording = tmp_path / "letter.wav", tmp_path / "recording.m4a"
    letter.write_text("this is a letter")
    recording.write_bytes(make_audio("m4a"))
    desk = await people.desk()
    phone = await people.bound_phone(desk)
    await call_customer(desk, "张三")
    await phone.click("[data-dial]")
    await phone.click("[data-connected]")
    await phase(desk, "connected")
    await phone.click("[data-end]")
    await phase(desk, "ended")
    await desk.click("[data-tab=log]")
    await desk.locator(".row a", has_text="张三").click()
    await desk.wait_for_selector(".timeline li")

    await phone.set_input_files("input[type=file]", letter)
    await phone.wait_for_selector("text=这个文件不是可用的录音")
    await phone.set_input_files("input[type=file]", recording)
    await phone.wait_for_selector("[data-recording=stored]")
    await desk.wait_for_selector("[data-play]")

    refused_as(people, 415, times=1)
    [stored] = await people.rows("SELECT media_type, size FROM recording WHERE state = 'stored'")
    assert ("audio/mp4", recording.stat().st_size) == (stored["media_type"], stored["size"])


async def opened(people: People, **how: object) -> "Page":
    """The phone page in a browser that has not seen it yet."""
    page = await people.page(**{"size": HANDSET, **how})  # type: ignore[arg-type]
    await page.goto(f"{people.origin}/phone")
    await page.wait_for_selector("#code")
    return page


async def codes(people: People) -> dict[str, Any]:
    """What the desk shows for a phone to be bound to the agent: another each time, and the one before is void."""
    async with await AgentClient.login(people.node.origin, people.username, people.house.password) as agent:
        return await agent.bind_qr()


async def link(desk: "Page") -> str:
    """What a system's camera opens to bind the phone that is bound already."""
    await desk.click("[data-device]")
    await desk.locator(".binding button").last.click()
    await desk.wait_for_selector("[data-link-qr]")
    text = await desk.get_attribute("[data-link-qr]", "data-text")
    assert text is not None
    return text


async def refusal(phone: "Page", code: str) -> str:
    """Type a code that the server refuses, and return what the page says to it."""
    await phone.fill("#code", code)
    async with phone.expect_response("**/api/v1/calls/device/bind"):
        await phone.keyboard.press("Enter")
    await phone.wait_for_selector(".failure:not(:empty)")
    return await phone.inner_text(".failure")


def refused_as(people: People, status: int, *, times: int) -> None:
    """Browsers complain of every refusal: these were meant."""
    meant = [complaint for complaint in people.complaints if f"status of {status} " in complaint]
    people.complaints[:] = [complaint for complaint in people.complaints if complaint not in meant]

    assert times == len(meant), people.complaints


@asynccontextmanager
async def carrying_a_camera(people: People, consent: str, film: Path | None = None) -> AsyncIterator[People]:
    """The same people with another browser, whose camera sees a film, or Chromium's own."""
    seen = [] if film is None else [f"--use-file-for-fake-video-capture={film}"]
    async with another_browser(people, "--use-fake-device-for-media-stream", consent, *seen) as handheld:
        yield handheld


@asynccontextmanager
async def another_browser(people: People, *settings: str) -> AsyncIterator[People]:
    """The same people with a browser that is set otherwise."""
    browser = await people.browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", *settings])
    try:
        others = People(people.house, browser)
        others.origin, others.complaints = people.origin, people.complaints
        yield others
    finally:
        await browser.close()


def filmed(text: str, width: int = 640, height: int = 480) -> bytes:
    """A QR code before a camera: a film of two pictures (YUV4MPEG2), grey around a white card."""
    code = segno.make_qr(text, error="m")
    lines = list(code.matrix_iter(scale=(height - 40) // code.symbol_size()[1], border=4))
    side = len(lines)
    margin = bytes([128]) * ((width - side) // 2)
    card = b"".join((margin + bytes(16 if dark else 235 for dark in line)).ljust(width, b"\x80") for line in lines)
    above = bytes([128]) * width * ((height - side) // 2)
    picture = (above + card).ljust(width * height * 3 // 2, b"\x80")  # after the light comes the colour: none
    return f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420mpeg2\n".encode() + 2 * (b"FRAME\n" + picture)
