"""A child process: agents on one server, each with its phone on another, as fast as they answer one another.

It reads its task from stdin, a JSON object, and tells on stdout, a line of JSON each: `begin` when everybody has been
answered once and the warm-up is over, and then what was counted until the end. A closed loop: an agent says the next
thing when the last was answered. What is not answered within LOST seconds is counted as lost, and said no more.
"""

import asyncio
import gc
import os
import sys
import time
from pathlib import Path

import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.dialects import OPENING, Text, connect

LOST = 10.0
"""Seconds after which an answer comes no more."""

FIRST = 1.0
"""The same for the first, since between two servers a subscription takes a moment to be known; twice as long with every
time, since with many pairs a slow server is not a deaf one."""

AT_ONCE = 32
"""Sockets that are opened at a time."""


class End(msgspec.Struct, frozen=True):
    """One end of a pair: where it connects, as whom, and with which headers."""

    url: str
    me: str
    headers: dict[str, str] = {}


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `committed` is the whole protocol: a dial, its command, the end of the call, its event."""

    dialect: str
    pairs: list[tuple[End, End]]
    warm_up: float
    seconds: float
    cores: list[int] | None = None
    committed: bool = False


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `took` are milliseconds; `cpu` is this process's own."""

    round_trips: int
    seconds: float
    p50: float
    p99: float
    most: float
    lost: int
    stray: int
    cpu: float


class Pair:
    """A dial of some 150 bytes, handed on as it is, and a status of as many back."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._count = 0
        self._mark = b""
        self.agent: Text | None = None
        self.phone: Text | None = None
        self.asked_at = 0.0
        self.took: list[float] = []
        self.stray = 0

    def ask(self) -> None:
        """Say the next thing."""
        self._count += 1
        self._mark = b"bench-%04d-%08d" % (self._number, self._count)
        self.asked_at = time.perf_counter()
        assert self.agent is not None
        self.agent.say(
            b'{"type":"DIAL","messageId":"%b","timestamp":1703491200000,"data":{"customerPhone":"13912345678",'
            b'"customerName":"A customer","orderId":"order-20231225"}}' % self._mark
        )

    def heard_by_phone(self, frame: bytes) -> None:
        """Answer."""
        at = frame.find(b"bench-")
        if at < 0:
            return
        mark = frame[at : at + 19]
        assert self.phone is not None
        self.phone.say(
            b'{"type":"CALL_STATUS","messageId":"r%b","timestamp":1703491200000,"data":{"callId":"%b",'
            b'"status":"ringing","evidence":"in_call_service"}}' % (mark, mark)
        )

    def heard_by_agent(self, frame: bytes) -> None:
        """It is answered."""
        if self._mark in frame:
            self.answered()
        elif b"bench-" in frame:
            self.stray += 1

    def answered(self) -> None:
        """Note how long it took, and go on."""
        self.took.append(time.perf_counter() - self.asked_at)
        self.ask()


class Called(Pair):
    """A call as it is: the dial is committed before its command is sent, and its end before the event that tells it."""

    _ended = b""

    def ask(self) -> None:
        """Dial."""
        self._count += 1
        self.asked_at = time.perf_counter()
        assert self.agent is not None
        self.agent.say(
            b'{"type":"DIAL","messageId":"bench-%04d-%08d","timestamp":1703491200000,"data":{"customerPhone":'
            b'"13912345678","customerName":"A customer"}}' % (self._number, self._count)
        )

    def heard_by_phone(self, frame: bytes) -> None:
        """Acknowledge the command, and tell that the call is over."""
        if not frame.startswith(b'{"type":"DIAL_COMMAND"'):
            return
        call = between(frame, b'"callId":"')
        assert self.phone is not None
        self.phone.say(b'{"type":"ACK","data":{"messageId":"%b"}}' % between(frame, b'"messageId":"'))
        self.phone.say(
            b'{"type":"CALL_END","messageId":"end-%b","timestamp":1703491200000,"data":{"callId":"%b",'
            b'"status":"missed","evidence":"in_call_service"}}' % (call, call)
        )

    def heard_by_agent(self, frame: bytes) -> None:
        """The call is over. One that was refused is asked for again when it counts as lost."""
        if frame.startswith(b'{"type":"ERROR"'):
            print(frame.decode(), file=sys.stderr)
        elif frame.startswith(b'{"type":"CALL_ENDED"'):
            call = between(frame, b'"callId":"')
            if call == self._ended:
                self.stray += 1
            else:
                self._ended = call
                self.answered()


class Pairs:
    """All of them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._pairs = [(Called if task.committed else Pair)(number) for number in range(len(task.pairs))]
        self._lost = 0

    async def run(self) -> Counted:
        """Connect, warm up, and count."""
        task = self._task
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(
            *(self._open(pair, *ends, gate) for pair, ends in zip(self._pairs, task.pairs, strict=True))
        )
        gc.freeze()
        gc.disable()  # nothing here makes a circle
        for pair in self._pairs:
            pair.ask()
        await self._everybody_answered()
        await self._watch(task.warm_up)
        print('{"begin":true}', flush=True)
        self._lost = 0
        for pair in self._pairs:
            pair.took.clear()
            pair.stray = 0
        begin, spent = time.perf_counter(), time.process_time()
        await self._watch(task.seconds)
        lasted, spent = time.perf_counter() - begin, time.process_time() - spent
        took = sorted(one * 1000 for pair in self._pairs for one in pair.took)
        return Counted(
            round_trips=len(took),
            seconds=lasted,
            p50=percentile(took, 50),
            p99=percentile(took, 99),
            most=took[-1] if took else float("nan"),
            lost=self._lost,
            stray=sum(pair.stray for pair in self._pairs),
            cpu=spent,
        )

    async def _open(self, pair: Pair, agent: End, phone: End, gate: asyncio.Semaphore) -> None:
        async with gate:
            dialect = self._task.dialect
            pair.phone = await connect(dialect, phone.url, phone.me, pair.heard_by_phone, phone.headers)
            pair.agent = await connect(dialect, agent.url, agent.me, pair.heard_by_agent, agent.headers)

    async def _everybody_answered(self) -> None:
        patience = FIRST
        async with asyncio.timeout(2 * OPENING):
            while silent := [pair for pair in self._pairs if not pair.took]:
                if self._ask_again(silent, patience):
                    patience = min(2 * patience, LOST)
                await asyncio.sleep(0.1)

    async def _watch(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            await asyncio.sleep(min(0.5, left))
            self._lost += self._ask_again(self._pairs, LOST)

    def _ask_again(self, pairs: list[Pair], after: float) -> int:
        late = time.perf_counter() - after
        silent = [pair for pair in pairs if pair.asked_at < late]
        for pair in silent:
            pair.ask()
        return len(silent)


def between(frame: bytes, mark: bytes) -> bytes:
    """The text after a mark, up to the next quote."""
    begin = frame.index(mark) + len(mark)
    return frame[begin : frame.index(b'"', begin)]


def percentile(ordered: list[float], percent: int) -> float:
    """The percentile of some values in their order; not a number where there are none."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def main() -> None:
    """Do the task."""
    task = msgspec.json.decode(sys.stdin.readline(), type=Task)
    if task.cores is not None:
        os.sched_setaffinity(0, task.cores)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        counted = runner.run(Pairs(task).run())
    print(msgspec.json.encode(counted).decode(), flush=True)
    os._exit(0)  # thousands of sockets need no good-bye


if __name__ == "__main__":
    main()
