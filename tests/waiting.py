"""How tests wait for what nothing announces: one function that asks until it is so, with a deadline."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from storage.database import Database

DEADLINE = 20.0
"""Seconds after which a test has failed; nothing waits that long when all is well."""


async def until(condition: Callable[[], Awaitable[bool] | bool], seconds: float = DEADLINE) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.01)


async def until_blocked(database: Database, how_many: int = 1) -> None:
    """Wait until so many sessions of this database wait for a lock."""

    async def blocked() -> bool:
        async with database.connection() as connection:
            waiting: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        return waiting >= how_many

    await until(blocked)
