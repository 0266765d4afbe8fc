"""The TypeScript SDK against a real node: its tests run in Node, and say themselves what is expected."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.journeys.house import House, Process, free_port, within

WEB = Path(__file__).parents[2] / "clients" / "web"
NODE = shutil.which("node", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
COMPILER = WEB / "node_modules" / "typescript" / "bin" / "tsc"
ALL_OF_IT = 120.0
"""Seconds for the tests of one file."""

pytestmark = pytest.mark.skipif(
    (NODE is None or not COMPILER.exists()) and "REQUIRE_BROWSER" not in os.environ,
    reason="NOT TESTED: the SDK, for Node or its packages are missing (make web)",
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK and its tests as JavaScript, of this run alone."""
    assert NODE is not None
    folder = tmp_path_factory.mktemp("sdk")
    told = subprocess.run(
        [NODE, COMPILER, "-p", WEB / "sdk" / "tsconfig.test.json", "--outDir", folder],
        check=False,
        capture_output=True,
        text=True,
        timeout=ALL_OF_IT,
    )
    assert (0, "") == (told.returncode, told.stdout)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


@pytest.fixture
async def house(database_url: str, neighbours: Any) -> AsyncIterator[House]:
    """An installation on the run's PostgreSQL and Valkey."""
    async with AsyncExitStack() as stack:
        house = House(database_url, neighbours.redis_url, stack)
        await house.open()
        yield house


@pytest.mark.timeout(180)
@pytest.mark.parametrize("story", ["session", "desk", "phone", "away"])
async def test_the_sdk(story: str, compiled: Path, house: House, tmp_path: Path) -> None:
    """Every test of the SDK passes in Node on a node of ours."""
    settings = {"RECORDINGS": "local", "RECORDINGS_FOLDER": str(tmp_path / "recordings"), "DIAL_EXPIRY": "1.5"}
    node = await house.node(**settings)
    await house.worker(**settings)

    async with _at_hand(house, node) as hand:
        code, told = await _run(
            "--experimental-websocket",
            "--enable-source-maps",
            "--test-reporter=spec",
            str(compiled / "test" / f"{story}.test.js"),
            DIALDESK_ORIGIN=node.origin,
            DIALDESK_HOUSE=hand,
            DIALDESK_ADMIN=await house.user("tenant_admin"),
            DIALDESK_PASSWORD=house.password,
        )
    print(told)

    assert 0 == code


@asynccontextmanager
async def _at_hand(house: House, node: Process) -> AsyncIterator[str]:
    """Let the tests do to the house what a bad day does: POST /kill, /start and /forget at the origin that is told."""

    async def act(request: web.Request) -> web.Response:
        match request.match_info["act"]:
            case "kill":
                node.send(signal.SIGKILL)
                await node.ended()
            case "start":
                await node.start()
            case "forget":
                await house.rows("DELETE FROM agent_event")
            case _:
                raise web.HTTPNotFound
        return web.Response()

    app = web.Application()
    app.router.add_post("/{act}", act)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port := free_port())
        await site.start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def _run(*words: str, **environ: str) -> tuple[int, str]:
    """Run Node to its end: its exit code, and what it said."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE,
        *words,
        cwd=WEB,
        env={"PATH": os.environ["PATH"], **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await within(process.communicate(), ALL_OF_IT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()


def test_the_example_in_the_readme_is_the_one_that_is_compiled() -> None:
    """What a CRM's author copies is checked by the compiler, and has ten lines beside blank ones."""
    example = (WEB / "sdk" / "test" / "example.ts").read_text(encoding="utf-8")

    assert f"```ts\n{example}```\n" in (WEB / "sdk" / "README.md").read_text(encoding="utf-8")
    assert 10 == len([line for line in example.splitlines() if line])


def test_the_button_in_the_documentation_is_the_one_that_is_compiled() -> None:
    """So is what docs/integrate-web.md shows."""
    button = (WEB / "sdk" / "test" / "embed.ts").read_text(encoding="utf-8")

    assert f"```ts\n{button}```\n" in (WEB.parents[1] / "docs" / "integrate-web.md").read_text(encoding="utf-8")
