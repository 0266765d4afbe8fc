"""A child process: sessions that are open and say nothing but that they live.

It reads its task from stdin, a JSON object, opens them all, and tells on stdout, a line of JSON each, that they are
open, and after as long as it was asked to hold them, how many still are.
"""

import asyncio
import contextlib
import gc
import os
import resource
import sys
import time
from pathlib import Path

import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.dialects import BEATS, Text, connect
from tests.bench.pairs import End

AT_ONCE = 100
"""Sockets that are opened at a time."""

TICK = 0.05


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. A session beats every `beat` seconds, all of them evenly spread; `hold` is how long they stay."""

    dialect: str
    ends: list[End]
    beat: float
    hold: float
    cores: list[int] | None = None


class Told(msgspec.Struct, frozen=True):
    """How many are open, and how long that took."""

    online: int
    seconds: float


class Crowd:
    """All of them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lines: list[Text] = []

    async def run(self) -> None:
        """Open, hold, and tell."""
        begin = time.perf_counter()
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._open(end, gate) for end in self._task.ends))
        self._tell(time.perf_counter() - begin)
        gc.freeze()
        await self._beat()
        self._tell(self._task.hold)

    async def _open(self, end: End, gate: asyncio.Semaphore) -> None:
        async with gate:
            with contextlib.suppress(OSError, TimeoutError):  # it is not online, and so not counted
                self._lines.append(await connect(self._task.dialect, end.url, end.me, _nothing, end.headers))

    async def _beat(self) -> None:
        """Have the next few beat whenever it is their turn, until the time is over."""
        beat = BEATS.get(self._task.dialect)
        begin, beaten = time.perf_counter(), 0
        while (passed := time.perf_counter() - begin) < self._task.hold:
            due = int(passed / self._task.beat * len(self._lines))
            if beat is not None:
                for number in range(beaten, due):
                    line = self._lines[number % len(self._lines)]
                    if line.open:
                        line.say(beat)
            beaten = due
            await asyncio.sleep(TICK)

    def _tell(self, seconds: float) -> None:
        told = Told(sum(line.open for line in self._lines), seconds)
        print(msgspec.json.encode(told).decode(), flush=True)


def _nothing(_: bytes) -> None:
    """What a server says to an idle session is of no interest."""


def main() -> None:
    """Do the task."""
    task = msgspec.json.decode(sys.stdin.readline(), type=Task)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if task.cores is not None:
        os.sched_setaffinity(0, task.cores)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Crowd(task).run())
    os._exit(0)  # thousands of sockets need no good-bye


if __name__ == "__main__":
    main()
