"""Lines as they stand before somebody looks at them in the console, and the pictures of its pages on lines."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tests.browser.people import HANDSET, People
from tests.clouds.infinity import InfinityCloud, infinity_cloud

if TYPE_CHECKING:
    from playwright.async_api import Page

Shoot = Callable[["Page", str], Awaitable[None]]


async def infinity_line(people: People, cloud: InfinityCloud, name: str = "Infinity 主线路", **more: Any) -> str:
    """Make a line at a cloud, as an administrator does over the API; returns its id."""
    settings, secrets = cloud.line()
    body = {"name": name, "providerType": "infinity", "providerConfig": {**settings, **secrets}, **more}
    made: str = (await people.administrator.post("/api/v1/calls/lines", body))["id"]
    return made


async def extensions(people: People, line_id: str, numbers: list[str]) -> None:
    """Put extensions into a line's pool."""
    body = {"lineId": line_id, "extensions": numbers}
    await people.administrator.post("/api/v1/infinity/extensions/batch-import", body)


async def freeze(people: People, line_id: str) -> None:
    """Let a line have failed until it was frozen."""
    await people.house.rows(
        "UPDATE call_line SET health = 'frozen', failures = 8, health_reason = 'no answer', health_at = now()"
        " WHERE id = $1 RETURNING id",
        line_id,
    )


async def lend(people: People, number: str) -> None:
    """Let an extension be lent to the agent, for a call of which nothing more is heard."""
    await people.house.rows(
        "UPDATE extension SET status = 'in_use', call_id = 'call_gone', uses = 7, last_used_at = now(),"
        " lease_until = now() + interval '1 hour', user_id = (SELECT id FROM app_user WHERE username = $2)"
        " WHERE number = $1 RETURNING id",
        number,
        people.username,
    )


async def shoot_lines(people: People, shoot: Shoot) -> None:
    """Take a picture of each of the console's pages on lines."""
    async with infinity_cloud() as cloud:
        line_id = await infinity_line(people, cloud, status="active", callerNumber="02161234567", dailyLimit=8000)
        other = await people.administrator.post(
            "/api/v1/calls/lines",
            {
                "name": "阿里云备用线路",
                "providerType": "aliyun",
                "providerConfig": {
                    "instanceId": "not-real",
                    "accessKeyId": "not-real-id",
                    "accessKeySecret": "not-real",
                },
                "status": "testing",
            },
        )
        await freeze(people, other["id"])
        await extensions(people, line_id, ["8001~8012"])
        await lend(people, "8003")
        agent = await people.desk()
        await agent.goto(f"{people.origin}/console")
        await agent.wait_for_selector("[data-refused]")
        await shoot(agent, "console-refused")
        await agent.context.close()
        for name, how in (("", {}), ("-dark-en", {"language": "en", "dark": True}), ("-narrow", {"size": HANDSET})):
            page = await people.console(**how)
            if "size" in how:
                await page.click("[data-menu]")
                await shoot(page, "console-menu-narrow")
            await _shoot_lines(page, shoot, name, line_id, other["id"])
            await _shoot_channels(page, shoot, name, line_id)
            await _shoot_extensions(page, shoot, name)
            await _shoot_numbers(page, shoot, name)
            await page.context.close()


async def _shoot_lines(page: "Page", shoot: Shoot, name: str, line_id: str, frozen_id: str) -> None:
    await go(page, "#/lines")
    await page.wait_for_selector("[data-line]")
    await shoot(page, f"console-lines{name}")
    await go(page, f"#/lines/{frozen_id}")
    await page.wait_for_selector("[data-unfreeze]")
    await shoot(page, f"console-line-frozen{name}")
    await go(page, f"#/lines/{line_id}")
    await page.wait_for_selector("[data-callbacks]")
    await page.click("[data-test-line]")
    await page.wait_for_selector("[data-test]")
    await shoot(page, f"console-line{name}")
    await page.locator("[data-save]").scroll_into_view_if_needed()
    await shoot(page, f"console-line-form{name}")
    await go(page, "#/lines/new")
    await page.check("input[value=infinity]")
    await page.click("[data-save]")
    await page.wait_for_selector(".about.wrong")
    await shoot(page, f"console-line-new{name}")


async def _shoot_channels(page: "Page", shoot: Shoot, name: str, line_id: str) -> None:
    await go(page, "#/channels")
    await page.wait_for_selector("[data-channel]")
    await shoot(page, f"console-channels{name}")
    await go(page, f"#/channels/{line_id}")
    await page.wait_for_selector("[data-operation]")
    await shoot(page, f"console-channel{name}")
    await page.fill("[data-field=priority] input", str(5 + len(name)))
    await page.click("[data-save]")
    await page.wait_for_selector(".el-dialog [data-changed=priority]")
    await shoot(page, f"console-channel-change{name}")
    await page.click("[data-confirm]")
    await page.wait_for_selector(".el-message")
    await page.wait_for_selector("[data-operation=update]")
    await page.evaluate("scrollTo(0, document.body.scrollHeight)")
    await shoot(page, f"console-channel-history{name}")


async def _shoot_extensions(page: "Page", shoot: Shoot, name: str) -> None:
    await go(page, "#/extensions")
    await page.wait_for_selector("[data-extension]")
    await shoot(page, f"console-extensions{name}")
    await page.click("[data-import]")
    await page.fill("[data-paste] textarea, textarea[data-paste]", "8012\n9001\n9001\nwhat is this")
    await page.click("[data-submit]")
    await page.wait_for_selector("[data-result]")
    await shoot(page, f"console-extensions-import{name}")
    await page.click("[data-done]")
    await page.wait_for_selector("[data-result]", state="hidden")


async def _shoot_numbers(page: "Page", shoot: Shoot, name: str) -> None:
    await go(page, "#/do-not-call")
    await page.click("[data-add]")
    await page.fill("[data-field=phone] input", "13955556666")
    await page.fill("[data-field=reason] input", "客户要求不再来电")
    await page.click("[data-submit]")
    await page.wait_for_selector("[data-entry]")
    await page.wait_for_selector(".el-dialog", state="hidden")
    await shoot(page, f"console-do-not-call{name}")
    await go(page, "#/test-numbers")
    await page.click("[data-add]")
    await shoot(page, f"console-test-numbers{name}")


async def go(page: "Page", place: str) -> None:
    """Open a place of the console, as a link does."""
    await page.evaluate("place => { location.hash = place }", place)
