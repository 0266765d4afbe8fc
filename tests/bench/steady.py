"""Desks that dial at a low and steady rate beside whatever else is measured: what a call takes that has the time."""

import asyncio
import time
from collections.abc import Sequence
from typing import Self

import aiohttp
import msgspec

from tests.bench.dialects import BEATS, Text, connect
from tests.bench.pairs import End, between
from tests.bench.processes import ProcessError

ASKED = b'{"type":"HEARTBEAT"'
"""How the server asks who has said nothing for a while whether he lives."""

PATIENCE = 30.0
"""Seconds that any step of a call may take before it counts as failed."""


class Desk:
    """An agent with a page open, who dials over HTTP, and a phone that ends each call as soon as it comes."""

    def __init__(self, http: aiohttp.ClientSession, origin: str, page: End) -> None:
        self._http = http
        self._url = f"{origin}/api/v1/calls/dial"
        self._authorization = {"Authorization": page.headers["Authorization"]}
        self._phone: Text | None = None
        self._page: Text | None = None
        self._dialled_at = self._commanded_at = 0.0
        self._ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, http: aiohttp.ClientSession, origin: str, page: End, phone: End) -> Self:
        """Have the phone online and the page open; dials go to `origin`."""
        desk = cls(http, origin, page)
        desk._phone = await connect("dialdesk", phone.url, phone.me, desk._heard_by_phone, phone.headers)
        desk._page = await connect("dialdesk", page.url, page.me, desk._heard_by_page, page.headers)
        return desk

    async def call(self) -> tuple[float, float]:
        """Dial, and wait for the end of the call: milliseconds until the command was at the phone, and until the page
        was told that the call is over. Raises ProcessError, TimeoutError."""
        self._ended = asyncio.get_running_loop().create_future()
        self._dialled_at = time.perf_counter()
        async with asyncio.timeout(PATIENCE):
            body = {"customerPhone": "13912345678", "customerName": "A customer"}
            async with self._http.post(self._url, json=body, headers=self._authorization) as answer:
                if answer.status != 200:
                    raise ProcessError(await answer.text())
            ended_at = await self._ended
        return (self._commanded_at - self._dialled_at) * 1000, (ended_at - self._dialled_at) * 1000

    def _heard_by_phone(self, frame: bytes) -> None:
        assert self._phone is not None
        if frame.startswith(ASKED):
            self._phone.say(BEATS["dialdesk"])
        if not frame.startswith(b'{"type":"DIAL_COMMAND"'):
            return
        self._commanded_at = time.perf_counter()
        call = between(frame, b'"callId":"')
        self._phone.say(b'{"type":"ACK","data":{"messageId":"%b"}}' % between(frame, b'"messageId":"'))
        self._phone.say(
            b'{"type":"CALL_END","messageId":"end-%b","timestamp":1703491200000,"data":{"callId":"%b",'
            b'"status":"missed","evidence":"in_call_service"}}' % (call, call)
        )

    def _heard_by_page(self, frame: bytes) -> None:
        assert self._page is not None
        if frame.startswith(ASKED):
            self._page.say(BEATS["dialdesk"])
        elif frame.startswith(b'{"type":"CALL_ENDED"') and not self._ended.done():
            self._ended.set_result(time.perf_counter())


class Made(msgspec.Struct, frozen=True):
    """A call that was made: whose, when it was due (perf_counter), and what `Desk.call` told of it."""

    desk: Desk
    due: float
    commanded: float
    ended: float


class Steady:
    """Some desks, which make `rate` calls a second in turns, from the first `begin` on; a desk that is still at a call
    when its turn comes is waited for by nobody."""

    def __init__(self, desks: Sequence[Desk], rate: float) -> None:
        self._desks = desks
        self._rate = rate
        self.calls: list[Made] = []
        self.failed = 0

    async def run(self, seconds: float) -> None:
        """Call for so long."""
        begin = time.perf_counter()
        busy: set[Desk] = set()
        async with asyncio.TaskGroup() as group:
            for number in range(int(self._rate * seconds)):
                at = begin + number / self._rate
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                if (desk := self._desks[number % len(self._desks)]) not in busy:
                    busy.add(desk)
                    group.create_task(self._call(desk, at, busy))

    async def _call(self, desk: Desk, at: float, busy: set[Desk]) -> None:
        try:
            self.calls.append(Made(desk, at, *await desk.call()))
        except (ProcessError, TimeoutError, aiohttp.ClientError):
            self.failed += 1
        finally:
            busy.discard(desk)
