"""A child process: a closed loop of POST requests without a body, on as many connections as it is told, spread over
as many servers.

It reads its task from stdin, a JSON object, and tells on stdout, as a line of JSON, what was answered. It reads no more
of an answer than where it ends: whoever answers anything but 2xx, or with a body, ends it.
"""

import asyncio
import gc
import itertools
import os
import sys
import time
from typing import cast

import msgspec
import uvloop

REQUEST = b"POST / HTTP/1.1\r\nhost: bench\r\ncontent-length: 0\r\n\r\n"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    ports: list[int]
    connections: int
    warm_up: float
    seconds: float
    cores: list[int] | None = None


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Times are milliseconds; `cpu` is this process's own."""

    answered: int
    seconds: float
    p50: float
    p99: float
    cpu: float


class Knocking(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self._transport: asyncio.Transport | None = None
        self._asked_at = 0.0
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own do not say that they are
        self._ask()

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        self._heard += data
        if not self._heard.endswith(b"\r\n\r\n"):
            return
        if not self._heard.startswith(b"HTTP/1.1 204"):
            print(self._heard.decode(), file=sys.stderr, flush=True)
            os._exit(1)
        self._heard = b""
        self.took.append(time.perf_counter() - self._asked_at)
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._asked_at = time.perf_counter()
        self._transport.write(REQUEST)


async def knock(task: Task) -> Counted:
    """Do the task."""
    loop = asyncio.get_running_loop()
    ports = itertools.islice(itertools.cycle(task.ports), task.connections)
    callers = [(await loop.create_connection(Knocking, "127.0.0.1", port))[1] for port in ports]
    gc.disable()  # nothing here makes a circle
    await asyncio.sleep(task.warm_up)
    for caller in callers:
        caller.took.clear()
    begin, spent = time.perf_counter(), time.process_time()
    await asyncio.sleep(task.seconds)
    lasted, spent = time.perf_counter() - begin, time.process_time() - spent
    took = sorted(one * 1000 for caller in callers for one in caller.took)
    return Counted(
        answered=len(took),
        seconds=lasted,
        p50=took[len(took) // 2],
        p99=took[len(took) * 99 // 100],
        cpu=spent,
    )


def main() -> None:
    """Do the task."""
    task = msgspec.json.decode(sys.stdin.readline(), type=Task)
    if task.cores is not None:
        os.sched_setaffinity(0, task.cores)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        counted = runner.run(knock(task))
    print(msgspec.json.encode(counted).decode(), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
