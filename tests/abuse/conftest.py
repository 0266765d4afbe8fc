"""What is attacked: whole nodes, processes of their own, shared by the tests of a module."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.abuse.raw import DEADLINE
from tests.conftest import Neighbours, fresh_database, in_background
from tests.journeys.house import House
from tests.waiting import until

T = TypeVar("T")

UNHURRIED = {
    "LEASE": "15",
    "LEASE_RENEW": "5",
    "DATABASE_TIMEOUT": "10",
    "FIRST_MESSAGE": "10",
    "PROBE_AFTER": "25",
    "OFFLINE_AFTER": "60",
    "CLOSE_AFTER": "90",
    "HEARTBEAT_INTERVAL": "30",
    "LOG_LEVEL": "info",
}
"""Times under which a node says nothing by itself while a test goes on."""


class Target:
    """A house under attack. Its nodes run elsewhere, and its own side in the loop of another thread."""

    def __init__(self, house: House, loop: asyncio.AbstractEventLoop, logs: Path) -> None:
        self.house = house
        self._loop = loop
        self._logs = logs

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done by the house, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE * 3)

    def node(self, **settings: str) -> int:
        """Start a node; returns its port."""
        return self.run(self.house.node(**settings)).port

    def user(self, role: str = "agent") -> str:
        """Make somebody, whose password is that of the house; returns the user name."""
        return self.run(self.house.user(role))

    def signed_in(self, port: int, role: str = "agent") -> dict[str, Any]:
        """Make somebody and sign them in; returns the answer to it."""
        told = httpx.post(
            f"http://127.0.0.1:{port}/api/v1/auth/login",
            json={"username": self.user(role), "password": self.house.password},
            timeout=DEADLINE,
        ).raise_for_status()
        answer: dict[str, Any] = told.json()
        return answer

    def wait(self, condition: Callable[[], bool]) -> None:
        """Ask until it is so."""
        self.run(until(condition))

    def logged(self) -> list[str]:
        """What the processes have logged, line by line."""
        return [line for log in self._logs.iterdir() for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def target(neighbours: Neighbours, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A house with no nodes yet."""
    logs = tmp_path_factory.mktemp("logs")

    @asynccontextmanager
    async def house() -> AsyncIterator[Target]:
        async with fresh_database(neighbours, template) as url, AsyncExitStack() as stack:
            house = House(url, neighbours.redis_url, stack, logs=logs)
            await house.open()
            yield Target(house, asyncio.get_running_loop(), logs)

    with in_background(house()) as target:
        yield target


@pytest.fixture(scope="module")
def port(target: Target) -> int:
    """A node that is in no hurry."""
    return target.node(**UNHURRIED)
