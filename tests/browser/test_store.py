"""The SDK's store in the browser it is for: what a phone page writes down is there after a reload, or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser.people import People

if TYPE_CHECKING:
    from playwright.async_api import Page, Route

SDK = Path(__file__).parents[2] / "clients/web/sdk/dist"

OPENED = "const { IndexedDbStore } = await import('/sdk/store.js'); const store = new IndexedDbStore('a phone');"

KEPT = """
const kept = await Promise.all([...await store.load()].map(async ([key, value]) =>
  [key, value instanceof Blob ? `a file: ${await value.text()}` : value]))
"""


async def test_what_is_written_down_outlives_the_page(people: People) -> None:
    """Entries and files are there after a reload; what was taken away is not."""
    page = await with_sdk(people)
    await run(page, "await store.write(new Map([['call/1', {number: 1}], ['call/2', {number: 2}]]))")
    await run(page, "await store.write(new Map([['recording/1', new Blob(['spoken'])], ['call/2', undefined]]))")

    await page.reload()
    kept = await run(page, f"{KEPT}; return kept")

    assert [["call/1", {"number": 1}], ["recording/1", "a file: spoken"]] == kept


async def test_of_changes_that_cannot_all_be_kept_none_is(people: People) -> None:
    """What the browser cannot keep fails the whole write, and the store goes on."""
    page = await with_sdk(people)

    refused = await run(
        page,
        """
        await store.write(new Map([['first', 1]]))
        return await store.write(new Map([['first', 2], ['second', () => {}]])).then(() => '', (error) => error.name)
        """,
    )
    kept = await run(page, f"await store.write(new Map([['third', 3]])); {KEPT}; return kept")

    assert "DataCloneError" == refused
    assert [["first", 1], ["third", 3]] == kept


async def test_two_tabs_have_one_store(people: People) -> None:
    """What one tab writes the other reads; it shuts neither out when the store is cleared, and begins anew."""
    page = await with_sdk(people)
    other = await people.tab(page.context)
    await other.route("**/sdk/*.js", served)
    await other.goto(people.origin)
    await run(page, "await store.write(new Map([['binding', {id: 'dev_1'}]])); window.held = store")

    seen = await run(other, f"{KEPT}; return kept")
    await run(other, "await new Promise((done) => { indexedDB.deleteDatabase('a phone').onsuccess = done })")
    after = await run(page, "await held.write(new Map([['later', 1]])); return [...await held.load()]")

    assert [["binding", {"id": "dev_1"}]] == seen
    assert [["later", 1]] == after


async def with_sdk(people: People) -> "Page":
    """A page that can import what the SDK's package holds."""
    page = await people.page()
    await page.route("**/sdk/*.js", served)
    await page.goto(people.origin)
    return page


async def served(route: "Route") -> None:
    """The built module of that name."""
    await route.fulfill(path=SDK / route.request.url.rpartition("/")[2], content_type="text/javascript")


async def run(page: "Page", script: str) -> Any:
    """Do something with the store `store`, in a module of the page's."""
    return await page.evaluate(f"async () => {{ {OPENED} {script} }}")
