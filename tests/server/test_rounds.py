"""Rounds of chores: places that are refilled as they become free, and what becomes of jobs that hang or break."""

import asyncio
from collections import Counter

import msgspec
import pytest

from protocol.errors import DialdeskError
from server.rounds import work_off
from tests.waiting import until


class Job(msgspec.Struct, frozen=True):
    """Something to be done for a line."""

    line_id: str
    n: int


class Queue:
    """What is due, claimed from the front; what a job of the line `slow` waits for; and what was done."""

    def __init__(self, *jobs: Job) -> None:
        self.due = list(jobs)
        self.claims: list[tuple[int, Counter[str]]] = []
        self.begun: list[Job] = []
        self.done: list[Job] = []
        self.cancelled: set[Job] = set()
        self.gate = asyncio.Event()

    async def claim(self, room: int, busy: Counter[str]) -> list[Job]:
        """Claim what there is room for."""
        self.claims.append((room, busy))
        claimed, self.due = self.due[:room], self.due[room:]
        return claimed

    async def attend(self, job: Job) -> None:
        """Do a job."""
        self.begun.append(job)
        if job.line_id == "slow":
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.add(job)
                raise
        if job.line_id == "away":
            raise DialdeskError("UNAVAILABLE")
        if job.line_id == "broken":
            raise ValueError("broken")
        self.done.append(job)


async def test_a_slow_job_keeps_one_place_and_no_more() -> None:
    """The others are refilled beside it, also with what becomes due later; the round ends with the slow one."""
    queue = Queue(Job("slow", 0), *(Job("quick", n) for n in range(5)))
    worker = asyncio.create_task(work_off(queue.claim, queue.attend, 2))
    await until(lambda: len(queue.done) == 5)
    queue.due.append(Job("quick", 5))
    await until(lambda: len(queue.done) == 6)
    early = worker.done()
    queue.gate.set()
    await worker

    assert not early
    assert Job("slow", 0) == queue.done[-1]
    assert (2, Counter()) == queue.claims[0]
    assert (1, Counter({"slow": 1})) in queue.claims


@pytest.mark.parametrize("line_id", ["away", "broken"])
async def test_a_job_that_breaks_stops_no_other(line_id: str) -> None:
    """Its claim runs out, and it comes again; its place is free at once."""
    queue = Queue(Job(line_id, 0), Job("quick", 1), Job("quick", 2))
    await work_off(queue.claim, queue.attend, 1)

    assert [Job("quick", 1), Job("quick", 2)] == queue.done
    assert (1, Counter()) == queue.claims[-1]


async def test_who_stops_a_round_stops_what_is_under_way() -> None:
    """A worker that goes leaves nothing behind that still works with its connections."""
    queue = Queue(Job("slow", 0), Job("slow", 1))
    worker = asyncio.create_task(work_off(queue.claim, queue.attend, 5))
    await until(lambda: len(queue.begun) == 2)
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker

    assert {Job("slow", 0), Job("slow", 1)} == queue.cancelled
