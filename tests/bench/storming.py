"""A child process: phones whose node dies, and who come back to another as docs/protocol.md asks.

It reads its task from stdin, a JSON object, opens all sockets and tells that they are open; when the first socket is
lost it counts, and tells when all are online again. Both are a line of JSON on stdout. A phone whose socket is lost, or
refused, waits a random time between nothing and half a second, a second, two ... thirty, and tries the other node.
"""

import asyncio
import gc
import random
import resource
import sys
import time
from pathlib import Path

import msgspec
import uvloop
from picows import WSError, WSFrame, WSMsgType, WSTransport, ws_connect

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.dialects import BEATS, Text
from tests.bench.pairs import End, percentile
from tests.bench.steady import ASKED

AT_ONCE = 100
"""Sockets that are opened at a time before the storm; in it nobody waits for anybody."""

BASE, CAP = 0.5, 30.0
"""Seconds of the first back-off and of the longest."""

OPENING = 10.0
"""Seconds that a phone waits for its socket, and for WELCOME on it."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Who is online first, and where all come back."""

    then: str
    phones: list[End]


class Online(msgspec.Struct, frozen=True):
    """All are online."""

    seconds: float


class Back(msgspec.Struct, frozen=True, kw_only=True):
    """All are online again. `half`, `p99` and `everybody` are times of the monotonic clock, as is `lost`, when the
    first socket was; `attempts` are sockets that were tried, `failed` why those that were in vain were so; `cpu` is
    this process's own."""

    lost: float
    half: float
    p99: float
    everybody: float
    attempts: int
    failed: dict[str, int]
    cpu: float


class Line(Text):
    """One socket of a phone, whose first message tells how many there were before it."""

    def __init__(self, number: int) -> None:
        super().__init__("phone", lambda _: None)
        self._number = number
        self.ended = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say who is here."""
        self._transport = transport
        self.say(
            b'{"type":"DEVICE_ONLINE","data":{"appVersion":"bench","osType":"android","bootId":"bench","connection":%d,'
            b'"capabilities":{"autoDial":true,"hangUp":true,"answerSignal":true}}}' % self._number
        )

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Wait for WELCOME; later say so whenever the server asks whether the phone lives."""
        if frame.msg_type is WSMsgType.CLOSE:
            return
        heard = frame.get_payload_as_bytes()
        if heard.startswith(ASKED):
            self.say(BEATS["dialdesk"])
        elif not self.ready.done() and b'"WELCOME"' in heard:
            self.ready.set_result(None)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The socket is gone."""
        super().on_ws_disconnected(transport)
        if not self.ended.done():
            self.ended.set_result(None)


class Storm:
    """All of them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lines: dict[int, Line] = {}
        self._lost = 0.0
        self._back: list[float] = []
        self._attempts = 0
        self._failed: dict[str, int] = {}
        self._everybody = asyncio.Event()

    async def run(self) -> None:
        """Open, wait for the storm, and tell when it is over."""
        begin = time.perf_counter()
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._arrive(number, gate) for number in range(len(self._task.phones))))
        tell(Online(time.perf_counter() - begin))
        gc.freeze()
        gc.disable()
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._task.phones)):
                group.create_task(self._live(number))
            await self._everybody.wait()
            back = sorted(self._back)
            tell(
                Back(
                    lost=self._lost,
                    half=percentile(back, 50),
                    p99=percentile(back, 99),
                    everybody=back[-1],
                    attempts=self._attempts,
                    failed=self._failed,
                    cpu=time.process_time() - self._spent,
                )
            )

    async def _arrive(self, number: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            self._lines[number] = await self._open(self._task.phones[number], self._task.phones[number].url, 1)

    async def _live(self, number: int) -> None:
        """Come back for ever, as often as the socket is lost."""
        connection = 1
        while True:
            await self._lines[number].ended
            del self._lines[number]
            if not self._lost:
                self._lost, self._spent = time.perf_counter(), time.process_time()
            backoff = BASE
            while number not in self._lines:
                await asyncio.sleep(random.uniform(0, backoff))
                backoff = min(2 * backoff, CAP)
                connection += 1
                self._attempts += 1
                try:
                    self._lines[number] = await self._open(self._task.phones[number], self._task.then, connection)
                except (OSError, TimeoutError, WSError) as error:
                    why = type(error).__name__
                    self._failed[why] = self._failed.get(why, 0) + 1
            self._back.append(time.perf_counter())
            if len(self._back) == len(self._task.phones):
                self._everybody.set()

    async def _open(self, phone: End, url: str, connection: int) -> Line:
        line = Line(connection)
        async with asyncio.timeout(OPENING):
            transport, _ = await ws_connect(lambda: line, url, extra_headers=phone.headers)
            try:
                await line.ready
            except BaseException:
                transport.disconnect()
                raise
        return line


def tell(what: msgspec.Struct) -> None:
    """Print it for the parent."""
    print(msgspec.json.encode(what).decode(), flush=True)


def main() -> None:
    """Do the task, until killed."""
    task = msgspec.json.decode(sys.stdin.readline(), type=Task)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Storm(task).run())


if __name__ == "__main__":
    main()
