"""One timing wheel for all deadlines of a node's sessions: no timer a session, and a heartbeat costs nothing.

An entry lies in the bucket of its deadline. When its bucket comes up the entry says when it is next worth asking, and
is filed there; a session that was heard meanwhile just moves on (a lazy wheel; Varghese and Lauck 1987).
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

LATE = 2.0
"""Seconds by which a tick may be late before its deadlines are shifted: the peers were not silent, we were absent."""


class Entry(Protocol):
    """What turns on the wheel."""

    def turn(self, now: float) -> float | None:
        """Act on what is due at `now` and return the next deadline, or None to leave the wheel."""


class Wheel:
    """Deadlines in buckets of `tick` seconds. `clock` is any monotonic clock; `now` runs by it, less our absences."""

    def __init__(self, tick: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._tick = tick
        self._clock = clock
        self._absent = 0.0
        self._buckets: defaultdict[int, set[Entry]] = defaultdict(set)
        self._turned = int(clock() / tick)
        self._expected = clock() + tick

    def now(self) -> float:
        """The time by which all deadlines on this wheel are told."""
        return self._clock() - self._absent

    def add(self, entry: Entry, deadline: float) -> None:
        """File an entry; it is asked at the first tick after `deadline`."""
        self._buckets[max(self._turned + 1, int(deadline / self._tick) + 1)].add(entry)

    def advance(self) -> None:
        """Ask all entries whose time has come. A tick that is LATE first shifts every deadline by the gap."""
        late = self._clock() - self._expected
        if late > LATE:
            self._absent += late
        now = self.now()
        for bucket in range(self._turned + 1, int(now / self._tick) + 1):
            self._turned = bucket
            for entry in self._buckets.pop(bucket, ()):
                deadline = entry.turn(now)
                if deadline is not None:
                    self.add(entry, deadline)
        self._expected = self._clock() + self._tick

    async def run(self) -> None:
        """Turn for ever."""
        while True:
            await asyncio.sleep(self._tick)
            self.advance()
