"""Chores that ask others: what is due is claimed as places become free, so that a slow one keeps no other waiting."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from protocol.errors import DialdeskError

log = structlog.get_logger()

RHYTHM = 1.0
"""Seconds after which a round that still waits for somebody looks whether more is due."""


class OfLine(Protocol):
    """Something to be done for a line."""

    @property
    def line_id(self) -> str:
        """Which."""


Job = TypeVar("Job", bound=OfLine)

Claim = Callable[[int, Counter[str]], Awaitable[Sequence[Job]]]
"""Claims at most so many jobs, beside those that are under way, counted by line."""


async def work_off(claim: Claim[Job], attend: Callable[[Job], Awaitable[None]], at_once: int) -> None:
    """Attend to what is due until nothing is, `at_once` at a time; how many of one line, `claim` decides.

    A job that breaks is told in the log, and is claimed again when its claim has run out. So is what is under way when
    this is cancelled, or when PostgreSQL is away.
    """
    busy: Counter[str] = Counter()
    under_way: set[asyncio.Task[None]] = set()

    async def run(job: Job) -> None:
        try:
            await attend(job)
        except DialdeskError as error:  # PostgreSQL is away: the claim ends by itself
            log.warning("job put off", line_id=job.line_id, cause=repr(error.__cause__))
        except Exception:  # one that breaks does not keep the others from being done
            log.exception("job broke", line_id=job.line_id)
        finally:
            busy[job.line_id] -= 1

    try:
        while True:
            if room := at_once - len(under_way):
                for job in await claim(room, +busy):
                    busy[job.line_id] += 1
                    under_way.add(asyncio.create_task(run(job)))
            if not under_way:
                return
            _, under_way = await asyncio.wait(under_way, timeout=RHYTHM, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
