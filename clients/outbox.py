"""A phone's reports on their way: in order, so many at a time, again and again until the server has them."""

import asyncio
from typing import Any, NamedTuple

from clients.connection import Link, Timing
from clients.memory import Memory, Report, Reported, Settled


class _UnderWay(NamedTuple):
    again_at: float
    times: int


class Outbox:
    """Sends what `memory` holds unacked while a session stands (`open` to `close`), and keeps it while none does.

    At most `Timing.in_flight` are unacked on a socket; each is sent again after `resend_after`, doubling, and first of
    all on the next socket.
    """

    def __init__(self, memory: Memory, timing: Timing) -> None:
        self._memory = memory
        self._timing = timing
        self._link: Link[Any] | None = None
        self._under_way: dict[str, _UnderWay] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.empty = asyncio.Event()
        """Set while nothing waits to be acked."""
        if not memory.unacked:
            self.empty.set()

    def open(self, link: Link[Any]) -> None:
        """A session stands: send the oldest."""
        self._link = link
        self._fill()

    def close(self) -> None:
        """The socket is gone; what was under way on it counts as not sent."""
        self._link = None
        self._under_way.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def put(self, report: Report) -> None:
        """Write a report down, then send it in its turn."""
        self._memory.note(Reported(report))
        self.empty.clear()
        self._fill()

    def repeat(self, report: Report) -> None:
        """Send a report that was made before once more, acked or not; one whose turn has not come waits for it."""
        waits = report.message_id in self._memory.unacked and report.message_id not in self._under_way
        if self._link is not None and not waits:
            self._link.send_frame(report.frame)

    def settle(self, message_id: str) -> bool:
        """The server has this report, or will never take it. Returns whether it was still to be settled."""
        if message_id not in self._memory.unacked:
            return False
        self._memory.note(Settled(message_id))
        self._under_way.pop(message_id, None)
        if not self._memory.unacked:
            self.empty.set()
        self._fill()
        return True

    def _fill(self) -> None:
        if self._link is None:
            return
        for message_id, report in self._memory.unacked.items():
            if len(self._under_way) >= self._timing.in_flight:
                break
            if message_id not in self._under_way:
                self._send(self._link, report, 1)

    def _send(self, link: Link[Any], report: Report, times: int) -> None:
        link.send_frame(report.frame)
        loop = asyncio.get_running_loop()
        pause = min(self._timing.resend_cap, self._timing.resend_after * 2 ** min(times - 1, 16))
        again_at = loop.time() + pause
        self._under_way[report.message_id] = _UnderWay(again_at, times)
        if self._timer is None or again_at < self._timer.when():
            self._arm(loop, again_at)

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(at, self._send_again)

    def _send_again(self) -> None:
        self._timer = None
        if self._link is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for message_id, sent in list(self._under_way.items()):
            if sent.again_at <= now:
                self._send(self._link, self._memory.unacked[message_id], sent.times + 1)
        if self._under_way:
            self._arm(loop, min(sent.again_at for sent in self._under_way.values()))
