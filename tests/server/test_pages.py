"""The pages of clients/web as the server gives them out."""

from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from server.config import Config
from server.pages import page_routes


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A build of one page, a script of it that was compressed, and a picture."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>desk")
    (tmp_path / "icon.svg").write_text("<svg/>")
    (tmp_path / "assets" / "index-1a2b.js").write_text("plain")
    (tmp_path / "assets" / "index-1a2b.js.br").write_bytes(b"brotli")
    (tmp_path / "assets" / "index-1a2b.js.gz").write_bytes(b"gzip")
    return tmp_path


def browser(config: Config, built: Path) -> httpx.AsyncClient:
    """A client that shows bodies as they come."""
    app = Starlette(routes=page_routes(config, built))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://desk.test", headers={"accept-encoding": "identity"}
    )


async def test_a_page_is_asked_for_anew_and_what_it_names_is_kept(config: Config, built: Path) -> None:
    """A page is checked by its ETag each time; files with a hash in their names are never asked for again."""
    async with browser(config, built) as client:
        page = await client.get("/")
        again = await client.get("/", headers={"if-none-match": page.headers["etag"]})
        script = await client.get("/assets/index-1a2b.js")

    assert (200, "<!doctype html>desk", "no-cache") == (page.status_code, page.text, page.headers["cache-control"])
    assert (304, b"") == (again.status_code, again.content)
    assert "public, max-age=31536000, immutable" == script.headers["cache-control"]
    assert "text/javascript; charset=utf-8" == script.headers["content-type"]


@pytest.mark.parametrize(
    ("accepted", "encoding", "content"),
    [
        ("gzip, br", "br", b"brotli"),
        ("gzip;q=1.0", "gzip", b"gzip"),
        ("identity", None, b"plain"),
        ("gzip, br; q=0", "gzip", b"gzip"),
        ("br;q=0.000, gzip;q=0", None, b"plain"),
    ],
)
async def test_the_smallest_form_that_is_taken_is_sent(
    config: Config, built: Path, accepted: str, encoding: str | None, content: bytes
) -> None:
    """What the build compressed is sent as it is to who takes it."""
    async with (
        browser(config, built) as client,
        client.stream("GET", "/assets/index-1a2b.js", headers={"accept-encoding": accepted}) as answer,
    ):
        body = b"".join([piece async for piece in answer.aiter_raw()])

    assert (encoding, content) == (answer.headers.get("content-encoding"), body)


async def test_a_path_with_a_slash_leads_to_the_page(config: Config, built: Path) -> None:
    """A person who writes the slash is sent to the page, with what was asked of it."""
    async with browser(config, built) as client:
        answers = [await client.get(path) for path in ("/phone/", "/console/?a=b%20c")]
        places = [one.headers["location"] for one in answers]

    assert [307, 307] == [one.status_code for one in answers]
    assert ["/phone", "/console?a=b%20c"] == places


async def test_a_page_may_run_nothing_but_what_comes_with_it(config: Config, built: Path) -> None:
    """The Content-Security-Policy allows no script and no style that is not a file of this origin."""
    async with browser(config, built) as client:
        policy = (await client.get("/")).headers["content-security-policy"]

    assert "unsafe" not in policy
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(
        policy.split("; ")
    )


async def test_pages_that_are_not_built_say_how(config: Config, tmp_path: Path) -> None:
    """Where there is no build the pages tell how to make one; the API does without."""
    async with browser(config, tmp_path) as client:
        answer = await client.get("/phone")

    assert 404 == answer.status_code
    assert "make web" in answer.text
