"""What the stories are told with."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aioboto3
import pytest

from storage.embedded import Servers, running
from storage.migrate import migrate
from tests import redises
from tests.conftest import Bucket, in_background, in_memory
from tests.journeys.house import DEADLINE, House


@pytest.fixture
async def house(database_url: str, neighbours: Any) -> AsyncIterator[House]:
    """An installation on the run's PostgreSQL and Valkey."""
    async with AsyncExitStack() as stack:
        house = House(database_url, neighbours.redis_url, stack)
        await house.open()
        yield house


@pytest.fixture
async def own_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[House, Servers]]:
    """An installation on servers of its own, to be stopped and started by the story."""
    with in_memory(tmp_path_factory) as folder:
        async with running(folder, s3=False) as servers, AsyncExitStack() as stack:
            await migrate(servers.database_url)
            house = House(servers.database_url, servers.redis_url, stack)
            await house.open()
            yield house, servers


@pytest.fixture
async def watched_house(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[House, redises.Watched]]:
    """An installation whose Redis is a master that Sentinels watch."""
    async with redises.watched(tmp_path / "redis") as redis, AsyncExitStack() as stack:
        house = House(database_url, redis.url, stack)
        await house.open()
        yield house, redis


@pytest.fixture
async def clustered_house(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[House, redises.Cluster]]:
    """An installation whose Redis is a cluster of three masters."""
    async with redises.cluster(tmp_path / "redis") as redis, AsyncExitStack() as stack:
        house = House(database_url, redis.url, stack)
        await house.open()
        yield house, redis


@pytest.fixture(scope="module")
def own_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """An S3 server of the module's own, to be stopped, killed and started by its stories."""
    with in_background(running(tmp_path_factory.mktemp("s3"), postgres=False, valkey=False)) as servers:
        yield servers


@pytest.fixture
async def bucket(own_s3: Servers) -> AsyncIterator[Bucket]:
    """A bucket of the story's own at that server, which is up when the story begins."""
    await own_s3.s3.start()
    name = f"story-{secrets.token_hex(6)}"
    session = aioboto3.Session(own_s3.s3_access_key, own_s3.s3_secret_key, region_name=own_s3.s3_region)
    async with session.client("s3", endpoint_url=own_s3.s3_endpoint_url) as s3:
        await s3.create_bucket(Bucket=name)
        yield Bucket(own_s3.s3_endpoint_url, name, own_s3.s3_access_key, own_s3.s3_secret_key)
        await own_s3.s3.start()
        await s3.delete_bucket(Bucket=name)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Ask until it is so: `await until(condition)`."""

    async def ask(condition: Callable[[], Awaitable[bool]], seconds: float = DEADLINE) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.02)

    return ask
