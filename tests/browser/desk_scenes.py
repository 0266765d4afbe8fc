"""What an agent's desk may show: a line at a cloud, a colleague's call, and the pictures of it all."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp

from tests.audio_files import make_audio
from tests.browser.people import HANDSET, People, call_customer, phase
from tests.clouds.aliyun import AliyunCloud, aliyun_cloud
from tests.clouds.cloud import WebhookRequestSpec
from tests.journeys.desk import SEAT, where_it_is_noon

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Page

Shoot = Callable[["Page", str], Awaitable[None]]

_CALLED = """
    INSERT INTO call (id, tenant_id, user_id, created_by, call_method, customer_phone, status, outcome, closed_by,
        hangup_cause, created_at, dialing_at, ended_at)
    SELECT 'call_' || u.id, u.tenant_id, u.id, u.id, 'mobile', $2, 'ended', 'missed', 'phone', 'NO_ANSWER',
        now() - interval '12 minutes', now() - interval '12 minutes', now() - interval '11 minutes'
    FROM app_user u WHERE u.username = $1
    RETURNING user_id
"""


async def colleague_called(people: People, number: str, name: str = "") -> str:
    """Let a colleague have called this number (E.164) twelve minutes ago, in vain; returns the colleague's name."""
    username = await people.house.user("agent")
    if name:
        await people.house.rows("UPDATE app_user SET name = $2 WHERE username = $1 RETURNING id", username, name)
    await people.house.rows(_CALLED, username, number)
    return name or username


class Line:
    """A line of the house at a cloud, on which the agent has a seat."""

    def __init__(self, people: People, cloud: AliyunCloud) -> None:
        self.people = people
        self.cloud = cloud
        self.callback = ""

    @classmethod
    @asynccontextmanager
    async def of(cls, people: People) -> AsyncIterator["Line"]:
        """Set it up as an administrator does; the cloud is there until the block ends."""
        await people.house.rows("UPDATE tenant SET timezone = $1", where_it_is_noon())
        await people.worker()
        async with aliyun_cloud() as cloud:
            line = cls(people, cloud)
            settings, secrets = cloud.line()
            form = {
                "name": "阿里云主线路",
                "accountId": "main",
                "providerType": "aliyun",
                "providerConfig": {**settings, **secrets},
                "callerNumber": "02160000001",
                "status": "active",
            }
            line_id = (await people.administrator.post("/api/v1/calls/lines", form))["id"]
            told = await people.administrator.get(f"/api/v1/calls/lines/{line_id}")
            line.callback = told["config"]["callbackUrls"]["status"]
            [agent] = await people.house.rows("SELECT id FROM app_user WHERE username = $1", people.username)
            await people.administrator.put(f"/api/v1/calls/lines/{line_id}/seats/{agent['id']}", SEAT)
            yield line

    async def tell(self, *kinds: str, side: str = "") -> None:
        """Be the cloud, which tells of its only call; `side` is whose channel. Returns when it was read."""
        [placed] = self.cloud.placed
        for event in self.cloud.events(placed.tag, "answered"):
            whose = "customer" if str(event.get("channelId")).startswith("ch:user:02") else "agent"
            if event["eventType"] in kinds and side in {"", whose}:
                await self._send(self.cloud.webhook(event))

    async def end(self) -> None:
        """Be the cloud, at which the call is over and has a record."""
        [placed] = self.cloud.placed
        await self.cloud.play(placed.tag, "answered", send=self._send)

    async def _send(self, message: WebhookRequestSpec) -> None:
        async with (
            aiohttp.ClientSession() as http,
            http.post(self.callback, data=message.body, headers=dict(message.headers)) as answer,
        ):
            assert 200 == answer.status, await answer.text()


async def choose_line(desk: "Page", name: str) -> None:
    """Have the desk call over the line of this name."""
    await desk.click("[data-device]")
    await desk.locator(".choices input[value=cloud]").check()
    await desk.click(".el-select")
    await desk.locator(".el-select-dropdown__item", has_text=name).click()
    await desk.locator("p.line", has_text=name).wait_for()


async def recorded_call(people: People, desk: "Page", phone: "Page", folder: "Path", name: str) -> None:
    """Have a call with a customer that was answered, and a recording of it brought by hand."""
    await call_customer(desk, name)
    await phone.click("[data-dial]")
    await phone.click("[data-connected]")
    await phone.click("[data-end]")
    await phase(desk, "ended")
    await desk.locator(".record .acts button").first.click()
    [call] = await people.rows("SELECT id FROM call ORDER BY created_at DESC LIMIT 1")
    audio = folder / "call.wav"
    audio.write_bytes(make_audio("wav", 30.0))
    await people.administrator.attach_recording(call["id"], audio)


async def shoot_desk(people: People, shoot: Shoot, folder: "Path") -> None:
    """Take pictures of what a call by a phone alone does not show."""
    people.username = await people.house.user("agent")
    async with Line.of(people) as line:
        await people.house.rows("UPDATE app_user SET name = '林静' WHERE username = $1 RETURNING id", people.username)
        await colleague_called(people, "+8613800002222", "周凯")
        desk = await people.desk()
        phone = await people.bound_phone(desk)
        await recorded_call(people, desk, phone, folder, "陈建国")
        await desk.click("[data-tab=log]")
        await desk.locator(".row a", has_text="陈建国").click()
        await desk.locator(".player", has_text="00:30").wait_for()
        await shoot(desk, "desk-recording")
        await desk.keyboard.press("?")
        await desk.wait_for_selector("[data-keys]")
        await shoot(desk, "desk-keys")
        await desk.keyboard.press("Escape")
        await desk.wait_for_selector("[data-keys]", state="detached")
        await desk.click("[data-tab=customers]")
        await desk.locator(".row a", has_text="李思远").click()
        await desk.fill(".pad input", "13800002222")
        await desk.wait_for_selector(".pad [data-colleague]")
        await shoot(desk, "desk-colleague")
        narrow = await people.desk(size=HANDSET, dark=True)
        await narrow.locator(".row a", has_text="李思远").click()
        await narrow.wait_for_selector(".who [data-colleague]")
        await shoot(narrow, "desk-narrow-colleague")
        await narrow.click("[data-device]")
        await narrow.wait_for_selector("[data-bound]")
        await shoot(narrow, "desk-narrow-settings")
        await narrow.context.close()
        await choose_line(desk, "阿里云主线路")
        await shoot(desk, "desk-settings-line")
        await desk.locator("[role=tab]").nth(1).click()
        await desk.click("[data-add-parameter]")
        await shoot(desk, "desk-settings-parameters")
        await desk.click("[data-save]")
        await desk.wait_for_selector(".pane", state="detached")
        await desk.click("[data-call]")
        await phase(desk, "calling")
        await line.tell("Established", side="customer")
        await phase(desk, "connected")
        await desk.click("[data-mute]")
        await desk.locator("[data-mute][aria-pressed=true]").wait_for()
        await desk.click("[data-transfer]")
        await desk.fill("[data-transfer-to]", "13900008888")
        await shoot(desk, "desk-line-transfer")
        narrow = await people.desk(size=HANDSET, language="en")
        await phase(narrow, "connected")
        await shoot(narrow, "desk-narrow-line")
        await line.end()
        await phase(desk, "ended")
        dark = await people.desk(language="en", dark=True)
        await dark.click("[data-tab=unrecorded]")
        await dark.locator(".row a", has_text="李思远").click()
        await dark.wait_for_selector(".timeline li")
        await shoot(dark, "desk-dark-unrecorded")


async def shoot_readme(people: People, shoot: Shoot) -> None:
    """Take the pictures of docs/images, as readme-desk-zh, readme-phone-zh and so on; they are copied there by hand."""
    stories = (
        ("zh-CN", "zh", "林静", "周凯", "有意续费，等报价单"),
        ("en", "en", "Lin Jing", "Zhou Kai", "Would renew; waits for the quotation"),
    )
    for language, name, agent, colleague, note in stories:
        people.username = await people.house.user("agent")
        await people.house.rows("UPDATE call SET created_at = created_at - interval '5 days' RETURNING id")
        await people.house.rows(
            "UPDATE app_user SET name = $2 WHERE username = $1 RETURNING id", people.username, agent
        )
        desk = await people.desk(language=language)
        phone = await people.bound_phone(desk, language=language)
        for customer, words in (("张三", note), ("王晓梅", ""), ("李思远", "")):
            await call_customer(desk, customer)
            await phone.click("[data-dial]")
            await phone.click("[data-connected]" if words else "[data-missed]")
            if words:
                await phone.click("[data-end]")
            await phase(desk, "ended")
            await desk.fill("#note", words)
            await desk.locator(".record button[type=submit]" if words else ".record .acts button").first.click()
            await desk.wait_for_selector(".pad")
        await people.house.rows(
            "UPDATE call SET created_at = created_at - interval '2 days', duration = 214 WHERE ended_at IS NOT NULL"
            " AND follow_up_note <> '' RETURNING id"
        )
        await colleague_called(people, "+8613912345678", colleague)
        await call_customer(desk, "张三")
        await phone.wait_for_selector("[data-stage=prompt]")
        await shoot(phone, f"readme-phone-{name}")
        await phone.click("[data-dial]")
        await phone.click("[data-connected]")
        await phase(desk, "connected")
        await people.house.rows(
            "UPDATE call SET connected_at = now() - interval '95 seconds' WHERE ended_at IS NULL RETURNING id"
        )
        await people.house.rows(  # as if it had the app
            "UPDATE device SET capabilities = capabilities || '{\"hangUp\": true}' RETURNING id"
        )
        await desk.reload()
        await desk.wait_for_selector(".dock [data-colleague]")
        await desk.wait_for_selector(".who [data-colleague]")
        await shoot(desk, f"readme-desk-{name}")
        await phone.click("[data-end]")
        await phase(desk, "ended")
        await phone.context.close()
        await desk.context.close()
