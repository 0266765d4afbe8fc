"""The console's pages on lines, as an administrator uses them, before a cloud on loopback."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from tests.browser.lines import extensions, freeze, go, infinity_line, lend
from tests.browser.people import HANDSET, People, violations
from tests.clouds.infinity import ACCESS_KEY, APP_ID, COMPANY, infinity_cloud
from tests.journeys.house import within

if TYPE_CHECKING:
    from playwright.async_api import Page


async def test_a_line_is_set_up_in_the_console(people: People) -> None:
    """A line is filled in, tried before and after it is kept, turned on, given a seat, changed and deleted."""
    async with infinity_cloud() as cloud:
        page = await people.console(at="#/lines")
        await page.click("[data-add]")
        await page.check("input[value=infinity]")
        await page.click("[data-save]")
        missing = await page.locator(".about.wrong").count()

        await _fill(page, {"name": "主线路", "providerConfig.appId": APP_ID, "providerConfig.accessKey": "not the key"})
        await _fill(page, {"providerConfig.companyCode": COMPANY, "providerConfig.baseUrl": "not an address"})
        await page.click("[data-save]")
        beside = page.locator("[data-field='providerConfig.baseUrl'] .about.wrong")
        await beside.wait_for()
        complaint = await beside.inner_text()
        _expected(people, 422)

        await _fill(page, {"providerConfig.baseUrl": cloud.url})
        await page.click("[data-test-here]")
        await page.wait_for_selector("[data-test=failed]")
        await _fill(page, {"providerConfig.accessKey": ACCESS_KEY})
        await page.wait_for_selector("[data-test]", state="hidden")
        await page.click("[data-test-here]")
        await page.wait_for_selector("[data-test=ok]")
        await page.click("[data-save]")

        await page.wait_for_selector("h1 [data-status=inactive]")
        await page.click("[data-test-line]")
        await page.wait_for_selector("[data-test=ok]")
        await page.click("[data-turn=active]")
        await page.wait_for_selector("h1 [data-status=active]")
        await page.click("[data-add-seat]")
        await page.click("[data-field=userId] input")
        await page.keyboard.type(people.username)
        await page.locator(".el-select-dropdown__item", has_text=people.username).click()
        await page.fill("[data-field=seatId] input", "1001")
        await page.click("[data-save-seat]")
        await page.wait_for_selector("[data-seat]")
        await _fill(page, {"priority": "7"})
        await page.click("[data-save]")
        await page.wait_for_selector(".el-message:has-text('线路已保存')")
        kept = await people.rows("SELECT priority, status, provider FROM call_line")
        seats = await people.rows("SELECT seat_id FROM line_seat")
        await page.click("[data-remove]")
        await page.click(".el-message-box .grave")
        await page.wait_for_selector(".rows .blank")

    assert 3 == missing  # its name, the account and the key
    assert re.search("baseUrl|字段不合法", complaint)
    assert "`$" not in complaint
    assert [(7, 1, "infinity")] == [tuple(line) for line in kept]
    assert ["1001"] == [seat["seat_id"] for seat in seats]


async def test_a_frozen_line_is_put_back_into_service(people: People) -> None:
    """What froze a line stands on its page; it is unfrozen once its provider answers, or by force."""
    page = await people.console(at="#/lines")
    async with infinity_cloud() as cloud:
        line_id = await infinity_line(people, cloud)
    await freeze(people, line_id)
    await go(page, f"#/lines/{line_id}")
    await page.click("[data-unfreeze]")
    await page.locator(".el-message-box .grave").click()
    await page.wait_for_selector("[data-unwell]", state="hidden")
    _expected(people, 409)

    assert ["ok"] == [line["health"] for line in await people.rows("SELECT health FROM call_line")]


async def test_what_is_typed_of_a_line_stays_while_it_is_tried_and_turned(people: People) -> None:
    """A form keeps what is typed while its line or channel is unfrozen, turned on or off; it is saved as a change of
    what was shown, so not over what somebody else has saved since."""
    page = await people.console(at="#/lines")
    async with infinity_cloud() as cloud:
        line_id = await infinity_line(people, cloud)
        await freeze(people, line_id)
        await go(page, f"#/lines/{line_id}")
        await _fill(page, {"priority": "7"})
        await page.click("[data-unfreeze]")
        await page.wait_for_selector("[data-unwell]", state="hidden")
        await page.click("[data-turn=active]")
        await page.wait_for_selector("h1 [data-status=active]")
        await page.click("[data-save]")
        await page.wait_for_selector(".el-message:has-text('线路已保存')")
        saved = await people.rows("SELECT priority, status FROM call_line")

        await go(page, f"#/channels/{line_id}")
        await _fill(page, {"priority": "8"})
        await page.click("[data-turn=testing]")
        await page.click(".el-message-box__btns .el-button--primary")
        await page.wait_for_selector("h1 [data-status=testing]")
        await page.click("[data-save]")
        await page.click("[data-confirm]")
        await page.wait_for_selector(".el-message:has-text('配置更新成功')")
        changed = await people.rows("SELECT priority, status FROM call_line")

        await go(page, f"#/lines/{line_id}")
        await _fill(page, {"priority": "9"})
        await people.administrator.put(f"/api/v1/calls/lines/{line_id}", {"weight": 3})
        await page.click("[data-turn=active]")
        await page.wait_for_selector(".el-message--error")
        _expected(people, 409)
        await page.click("[data-turn=active]")
        await page.wait_for_selector("h1 [data-status=active]")
        await page.click("[data-save]")
        await page.wait_for_selector(".foot .failure:has-text('已被他人修改')")
        _expected(people, 409)
        typed = await page.input_value("[data-field=priority] input")
        kept = await people.rows("SELECT priority, weight FROM call_line")

    assert [(7, 1)] == [tuple(line) for line in saved]
    assert [(8, 2)] == [tuple(line) for line in changed]
    assert ("9", [(8, 3)]) == (typed, [tuple(line) for line in kept])


async def test_infinity_channels_as_seed_000_has_them(people: People) -> None:
    """A channel is added, changed after a look at what changes, turned, its key seen for a reason, and deleted."""
    page = await people.console(at="#/channels")
    await page.click("[data-add]")
    await _fill(page, {"channel_name": "外呼账号1", "account_id": "app-1", "api_key": "ak_not_real_0123456789"})
    await _fill(page, {"api_secret": "as_not_real", "daily_limit": "500"})
    await page.click("[data-save]")
    await page.wait_for_selector("h1 [data-status=inactive]")
    await _fill(page, {"daily_limit": "800"})
    await page.click("[data-save]")
    change = " ".join((await page.locator(".el-dialog [data-changed]").inner_text()).split())
    await page.click("[data-confirm]")
    await page.wait_for_selector("[data-operation=update]")
    await page.click("[data-turn=testing]")
    await page.click(".el-message-box__btns .el-button--primary")
    await page.wait_for_selector("h1 [data-status=testing]")
    masked = await page.inner_text("[data-key] code")
    await page.click("[data-reveal]")
    await page.fill(".el-message-box input", "与服务商核对")
    await page.click(".el-message-box__btns .el-button--primary")
    await page.wait_for_selector("[data-conceal]")
    key = await page.inner_text("[data-key] code")
    await page.click("[data-remove]")
    words = await page.inner_text(".el-message-box__message")
    await page.click(".el-message-box .grave")
    await page.wait_for_selector(".rows .blank")
    audited = await people.rows("SELECT action, reason FROM audit_log WHERE resource = 'line' ORDER BY id")

    assert "单日限制 500 800" == change
    assert ("ak_not_real_0123456789", True) == (key, "*" in masked)
    assert "确定要删除该外呼账号吗？删除后不可恢复。" == words
    assert ["create", "update", "update", "reveal", "delete"] == [line["action"] for line in audited]
    assert ["与服务商核对"] == [line["reason"] for line in audited if line["reason"]]


async def test_the_pool_of_extensions(people: People) -> None:
    """Extensions are pasted in and each row's fate is told; a lent one is released for a reason, the rest deleted."""
    page = await people.console(at="#/lines")
    async with infinity_cloud() as cloud:
        line_id = await infinity_line(people, cloud)
    await extensions(people, line_id, ["8001~8003"])
    await lend(people, "8002")
    await go(page, "#/extensions")
    await page.click("[data-import]")
    await page.fill("textarea[data-paste], [data-paste] textarea", "8003\n8010\nwhat is this")
    await page.click("[data-submit]")
    await page.wait_for_selector("[data-result]")
    told = [(await row.inner_text()).split() for row in await page.locator("[data-result] tbody tr").all()]
    await page.click("[data-done]")
    await page.wait_for_selector("[data-result]", state="hidden")
    await page.click("[data-extension='8002'] [data-release]")
    await page.fill(".el-message-box input", "通话早已结束")
    await page.click(".el-message-box .grave")
    await page.wait_for_selector("[data-extension='8002'] [data-status=available]")
    await page.click("[data-extension='8001'] [data-turn-off]")
    await page.wait_for_selector("[data-extension='8001'] [data-status=offline]")
    await page.check("[data-extension='8003'] input")
    await page.check("[data-extension='8010'] input")
    await page.fill("input[data-search], [data-search] input", "8002")
    await page.wait_for_selector("[data-extension='8010']", state="hidden")
    unseen = await page.is_enabled("[data-remove-many]")
    await page.fill("input[data-search], [data-search] input", "")
    await page.wait_for_selector("[data-extension='8010']")
    await page.click("[data-remove-many]")
    await page.click(".el-message-box .grave")
    await page.wait_for_selector("[data-extension='8010']", state="hidden")
    left = await people.rows("SELECT number, status FROM extension ORDER BY number")

    assert not unseen
    assert [["1", "8003", "已在池中"], ["3", "what", "is", "this", "格式不对"]] == told
    assert [("8001", "offline"), ("8002", "available")] == [tuple(row) for row in left]


async def test_numbers_that_are_not_called_and_those_for_tests(people: People) -> None:
    """A number is put on the do-not-call list, looked up, and taken off for a reason; test numbers are replaced."""
    page = await people.console(at="#/do-not-call")
    await page.click("[data-add]")
    await page.fill("[data-field=phone] input", "139 5555 6666")
    await page.click("[data-submit]")
    await page.wait_for_selector("[data-entry]")
    await page.click("[data-check]")
    await page.fill("[data-field=phones] textarea", "13955556666\n13955557777")
    await page.click("[data-submit]")
    await page.wait_for_selector("[data-checked] li")
    told = await page.locator("[data-checked] .chip").all_inner_texts()
    await page.keyboard.press("Escape")
    await page.wait_for_selector("[data-checked]", state="hidden")
    await page.click("[data-lift]")
    await page.fill(".el-message-box input", "客户改变主意")
    await page.click(".el-message-box .grave")
    await page.wait_for_selector(".rows .blank")
    await go(page, "#/test-numbers")
    await page.click("[data-add]")
    await page.fill("[data-number] input >> nth=0", "13800138000")
    await page.click("[data-save]")
    await page.wait_for_selector(".el-message:has-text('测试号码已保存')")
    normal = await page.input_value("[data-number] input >> nth=0")

    assert ["免打扰", "可以拨打"] == told
    assert "+8613800138000" == normal


async def test_who_may_not_enter_is_told_so(people: People) -> None:
    """An agent finds the way to the desk; who may only read sees lines without what changes them."""
    agent = await people.console("agent", at="#/lines")
    desk = await agent.get_attribute("[data-refused] a", "href")
    viewer = await people.console("viewer", at="#/lines")
    await viewer.wait_for_selector(".rows .blank")

    assert "/" == desk
    assert ["lines"] == [name for name in await _pages(viewer) if name in {"lines", "channels", "extensions"}]
    assert 0 == await viewer.locator("[data-add]").count()


async def test_a_list_survives_a_reload_and_an_outage(people: People) -> None:
    """What a list is filtered by stands in its address; a server that is away is told, and asked again."""
    page = await people.console(at="#/lines")
    async with infinity_cloud() as cloud:
        await infinity_line(people, cloud, "东区", status="active")
    await page.fill("[data-search] input, input[data-search]", "东")
    await page.wait_for_selector("[data-line]")
    await page.reload()
    await page.wait_for_selector("[data-line]")
    searched = await page.input_value("[data-search] input, input[data-search]")
    await people.node.stop()
    await page.fill("[data-search] input, input[data-search]", "东区")
    await page.wait_for_selector("[data-again]")
    await within(people.node.start())
    await page.click("[data-again]")
    await page.wait_for_selector("[data-line]")

    assert "东" == searched


@pytest.mark.parametrize(("language", "dark"), [("zh-CN", False), ("en", True)])
async def test_the_pages_on_lines_are_accessible(people: People, language: str, dark: bool) -> None:
    """axe-core finds nothing serious on them, in either language, light or dark, wide or narrow."""
    found: dict[str, list[str]] = {}
    async with infinity_cloud() as cloud:
        line_id = await infinity_line(people, cloud, status="testing")
        await extensions(people, line_id, ["8001~8003"])
        await lend(people, "8002")
        await freeze(people, line_id)
        for size in ((1440, 900), HANDSET):
            page = await people.console(at="#/lines", language=language, dark=dark, size=size)
            if size == HANDSET:
                await page.click("[data-menu]")
                found["the menu"] = await violations(page)
            for place, drawn in {
                "lines": "[data-line]",
                f"lines/{line_id}": "[data-unfreeze]",
                "lines/new": "input[value=infinity]",
                "channels": "[data-channel]",
                f"channels/{line_id}": "[data-operation]",
                "channels/new": "[data-save]",
                "extensions": "[data-extension]",
                "do-not-call": ".rows .blank",
                "test-numbers": "[data-add]",
            }.items():
                await go(page, f"#/{place}")
                await page.wait_for_selector(drawn)
                found[f"{place} {size}"] = await violations(page)
            await page.context.close()

    assert {} == {name: problems for name, problems in found.items() if problems}


def _expected(people: People, status: int) -> None:
    """The browser complains of a refusal, which was wanted here."""
    [refusal] = [told for told in people.complaints if f"status of {status}" in told]
    people.complaints.remove(refusal)


async def _fill(page: "Page", fields: Mapping[str, str]) -> None:
    """Type into fields of a form, which stand under their paths in the request."""
    for path, text in fields.items():
        await page.fill(f"[data-field='{path}'] input", text)


async def _pages(page: "Page") -> list[str]:
    """The pages that the navigation offers."""
    names: list[str] = await page.locator("[data-page]").evaluate_all("all => all.map((one) => one.dataset.page)")
    return names
