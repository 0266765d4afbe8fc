"""A child process: desks that dial over HTTP, each with a phone at another node.

It reads its task from stdin, a JSON object, opens all sockets, and for each stretch tells on stdout, a line of JSON
each, that it begins to count, and what it counted. In a closed loop a connection dials for the next desk when its last
dial was answered; in an open one a dial is due at a fixed rate. A dial takes from when it is asked, or due, until its
command is at the phone.
"""

import asyncio
import gc
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.dialects import BEATS, Text, connect
from tests.bench.pairs import End, between, percentile

AT_ONCE = 32
"""Sockets that are opened at a time."""

ENDING = 30.0
"""Seconds in which the calls of a stretch must have ended."""

OPEN_LOOP = 16
"""How many times the connections of a closed loop an open one has, so that dials do not wait for one."""

BEAT = 30.0
"""Seconds between two heartbeats of a phone."""

BEGIN, END = "begin", "end"

BODY = b'{"customerPhone":"13912345678","customerName":"A customer"}'


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """One desk: the port it dials at, its page, whose credential it dials by, and its phone."""

    port: int
    page: End
    phone: End


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """What to do for some seconds after a warm-up. `rate` is dials a second; without, as many as are answered. `whole`:
    a phone acknowledges its command and ends the call at once, and a desk dials again; else phones say nothing before
    the stretch is over, and a desk dials once."""

    warm_up: float
    seconds: float
    whole: bool
    rate: float | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. The first `paged` desks have a page open, and theirs are the whole calls; `connections` are those
    that a closed loop dials on."""

    seats: list[Seat]
    paged: int
    stretches: list[Stretch]
    connections: int
    cores: list[int] | None = None


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a stretch: `dials` whose commands came to their phones and how long they took in milliseconds, those
    refused, and commands that came twice. None is lost: a stretch is over when every call that was accepted has ended,
    or fails. `cpu` is this process's own."""

    dials: int
    seconds: float
    p50: float
    p99: float
    most: float
    refused: int
    doubled: int
    cpu: float


class Desk:
    """A desk and its phone, with at most one call."""

    def __init__(self, number: int, seat: Seat, door: "Door") -> None:
        self._number = number
        self._seat = seat
        self._door = door
        self._count = 0
        self._call = b""
        self._command = b""
        self._phone: Text | None = None
        self._asked_at = 0.0

    async def open(self, *, page: bool) -> None:
        """Have the phone online, and where asked for a page open."""
        self._phone = await connect("dialdesk", self._seat.phone.url, "phone", self._heard, self._seat.phone.headers)
        if page:
            await connect("dialdesk", self._seat.page.url, "agent", lambda _: None, self._seat.page.headers)

    def request(self, at: float) -> bytes:
        """A dial, asked or due then."""
        self._count += 1
        self._asked_at = at
        return (
            b"POST /api/v1/calls/dial HTTP/1.1\r\nhost: bench\r\nauthorization: %b\r\nidempotency-key: bench-%d-%d\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        ) % (self._seat.page.headers["Authorization"].encode(), self._number, self._count, len(BODY), BODY)

    def end(self) -> None:
        """Have the phone acknowledge its command, and tell that the call is over."""
        assert self._phone is not None
        self._phone.say(b'{"type":"ACK","data":{"messageId":"%b"}}' % self._command)
        self._phone.say(
            b'{"type":"CALL_END","messageId":"end-%b","timestamp":1703491200000,"data":{"callId":"%b",'
            b'"status":"missed","evidence":"in_call_service"}}' % (self._call, self._call)
        )

    def beat(self) -> None:
        """Say that the phone lives."""
        assert self._phone is not None
        self._phone.say(BEATS["dialdesk"])

    def _heard(self, frame: bytes) -> None:
        if frame.startswith(b'{"type":"DIAL_COMMAND"'):
            call = between(frame, b'"callId":"')
            if call == self._call:
                self._door.doubled += 1
                return
            self._call, self._command = call, between(frame, b'"messageId":"')
            self._door.arrived(self, time.perf_counter() - self._asked_at)
        elif frame.startswith(b'{"type":"ACK"') and b"end-" in frame:
            self._door.ended(self)


class Line(asyncio.Protocol):
    """One connection over which desks of one node dial in turns."""

    def __init__(self, door: "Door") -> None:
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own do not say that they are

    def write(self, request: bytes) -> None:
        """Ask."""
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        self._heard += data
        head, ended, body = self._heard.partition(b"\r\n\r\n")
        if not ended or len(body) < int(head.partition(b"content-length: ")[2].partition(b"\r")[0]):
            return
        self._heard = b""
        accepted = head.startswith(b"HTTP/1.1 200")
        if not accepted:
            print(body.decode(), file=sys.stderr, flush=True)
        self._door.answered(self, accepted=accepted)


class Door:
    """The desks of one node, and the connections over which they dial."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._lines: deque[Line] = deque()
        self._free: deque[Desk] = deque()
        self._due: deque[float] = deque()
        self._held: list[Desk] = []
        self._stretch: Stretch | None = None
        self._living = 0
        self.took: list[float] = []
        self.refused = self.doubled = 0

    async def open_lines(self, count: int) -> None:
        """Have so many connections."""
        while len(self._lines) < count:
            line = (await asyncio.get_running_loop().create_connection(lambda: Line(self), "127.0.0.1", self.port))[1]
            self._lines.append(line)

    def begin(self, stretch: Stretch, desks: Iterable[Desk], connections: int) -> None:
        """Dial from now on."""
        self._stretch = stretch
        self._free = deque(desks)
        self.took, self.refused, self.doubled = [], 0, 0
        if stretch.rate is None:
            for _ in range(connections):
                self.ask(time.perf_counter())

    def ask(self, at: float) -> None:
        """A dial is due."""
        self._due.append(at)
        self._go()

    def stop(self) -> None:
        """Dial no more, and let what is held end."""
        self._stretch = None
        self._due.clear()
        held, self._held = self._held, []
        for desk in held:
            desk.end()

    @property
    def goes_on(self) -> bool:
        """Whether there is a desk that may still dial, now or when its call has ended."""
        return bool(self._free) or (self._stretch is not None and self._stretch.whole)

    @property
    def over(self) -> bool:
        """Whether every dial that was accepted came to its phone, and no call lives."""
        return self._living == 0

    def arrived(self, desk: Desk, took: float) -> None:
        """A command is at its phone."""
        self.took.append(took)
        if self._stretch is None or self._stretch.whole:
            desk.end()
        else:
            self._held.append(desk)

    def ended(self, desk: Desk) -> None:
        """The end of a call is committed."""
        self._living -= 1
        if self._stretch is not None:
            self._free.append(desk)
            self._go()

    def answered(self, line: Line, *, accepted: bool) -> None:
        """A dial was answered."""
        self._lines.append(line)
        if not accepted:
            self.refused += 1
            self._living -= 1
        if self._stretch is not None and self._stretch.rate is None:
            self._due.append(time.perf_counter())
        self._go()

    def _go(self) -> None:
        while self._due and self._lines and self._free:
            self._living += 1
            self._lines.popleft().write(self._free.popleft().request(self._due.popleft()))


class Dialling:
    """All of them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._doors = {port: Door(port) for port in sorted({seat.port for seat in task.seats})}
        self._desks: dict[int, list[Desk]] = {port: [] for port in self._doors}
        self._paged: dict[int, list[Desk]] = {port: [] for port in self._doors}

    async def run(self) -> None:
        """Open everything, and go from stretch to stretch."""
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._open(number, seat, gate) for number, seat in enumerate(self._task.seats)))
        gc.freeze()
        gc.disable()  # nothing here makes a circle
        beating = asyncio.create_task(self._beat())
        for stretch in self._task.stretches:
            await self._do(stretch)
        beating.cancel()

    async def _open(self, number: int, seat: Seat, gate: asyncio.Semaphore) -> None:
        desk = Desk(number, seat, self._doors[seat.port])
        async with gate:
            await desk.open(page=number < self._task.paged)
        self._desks[seat.port].append(desk)
        if number < self._task.paged:
            self._paged[seat.port].append(desk)

    async def _do(self, stretch: Stretch) -> None:
        doors, each = list(self._doors.values()), self._task.connections // len(self._doors)
        for door in doors:
            await door.open_lines(each if stretch.rate is None else OPEN_LOOP * each)
            door.begin(stretch, (self._paged if stretch.whole else self._desks)[door.port], each)
        await _pace(doors, stretch.rate, stretch.warm_up)
        for door in doors:
            door.took.clear()
        if not all(door.goes_on for door in doors):
            raise ValueError("too few desks: all have dialled before the stretch began")
        _tell(BEGIN)
        begin, spent = time.perf_counter(), time.process_time()
        await _pace(doors, stretch.rate, stretch.seconds)
        lasted, spent = time.perf_counter() - begin, time.process_time() - spent
        arrived = sum(len(door.took) for door in doors)
        _tell(END)
        for door in doors:
            door.stop()
        async with asyncio.timeout(ENDING):
            while not all(door.over for door in doors):
                await asyncio.sleep(0.05)
        took = sorted(one * 1000 for door in doors for one in door.took)
        _tell(
            Counted(
                dials=arrived,
                seconds=lasted,
                p50=percentile(took, 50),
                p99=percentile(took, 99),
                most=took[-1] if took else float("nan"),
                refused=sum(door.refused for door in doors),
                doubled=sum(door.doubled for door in doors),
                cpu=spent,
            )
        )

    async def _beat(self) -> None:
        desks = [desk for some in self._desks.values() for desk in some]
        while True:
            for desk in desks:
                desk.beat()
                await asyncio.sleep(BEAT / len(desks))


async def _pace(doors: Sequence[Door], rate: float | None, seconds: float) -> None:
    """Let time go by, in a closed loop at most until a door is out of desks; in an open one with dials due, at one door
    after the other."""
    begin = time.perf_counter()
    if rate is None:
        while (left := begin + seconds - time.perf_counter()) > 0 and all(door.goes_on for door in doors):
            await asyncio.sleep(min(0.01, left))
        return
    for number in range(round(rate * seconds)):
        at = begin + number / rate
        if (wait := at - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        doors[number % len(doors)].ask(at)


def _tell(what: msgspec.Struct | str) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


def main() -> None:
    """Do the task."""
    task = msgspec.json.decode(sys.stdin.readline(), type=Task)
    if task.cores is not None:
        os.sched_setaffinity(0, task.cores)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Dialling(task).run())
    os._exit(0)  # thousands of sockets need no good-bye


if __name__ == "__main__":
    main()
