"""How tests wait for what nothing announces: one function that asks until it is so, with a deadline."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

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
