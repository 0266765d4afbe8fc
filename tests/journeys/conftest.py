"""What the stories are told with."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from storage.embedded import Servers, running
from storage.migrate import migrate
from tests.journeys.house import DEADLINE, House


@pytest.fixture
async def house(database_url: str, neighbours: Any) -> AsyncIterator[House]:
    """An installation on the run's PostgreSQL and Valkey."""
    async with AsyncExitStack() as stack:
        house = House(database_url, neighbours.redis_url, stack)
        await house.open()
        yield house


@pytest.fixture
async def own_house(tmp_path: Path) -> AsyncIterator[tuple[House, Servers]]:
    """An installation on servers of its own, to be stopped and started by the story."""
    async with running(tmp_path / "data", s3=False) as servers, AsyncExitStack() as stack:
        await migrate(servers.database_url)
        house = House(servers.database_url, servers.redis_url, stack)
        await house.open()
        yield house, servers


@pytest.fixture
async def own_s3(tmp_path: Path) -> AsyncIterator[Servers]:
    """An S3 server of the story's own, to be stopped, killed and started."""
    async with running(tmp_path / "bucket", postgres=False, valkey=False) as servers:
        yield servers


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Ask until it is so: `await until(condition)`."""

    async def ask(condition: Callable[[], Awaitable[bool]], seconds: float = DEADLINE) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.02)

    return ask
