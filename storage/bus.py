"""Batches between processes over Redis pub/sub.

All that is put for a channel while one round trip is under way goes with the next one. Each server has a lane of its
own, so that one which hangs holds up only what goes to it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError

from storage.redis_line import Line, packed
from storage.redis_servers import NOWHERE, PAUSE, Address, servers_of

T = TypeVar("T")


class Bus(Generic[T]):
    """Puts things into the batches of channels, and hears a channel.

    All that is put while one round trip is under way goes with the next one, one message a channel, made by `encode`.
    `taken` is told how many things a server took, `lost` how many it did not, and why: nothing is tried twice. No more
    than `bound` things wait for one server, so that one which hangs takes no room from the others.
    """

    def __init__(
        self,
        redis: Redis | RedisCluster,
        encode: Callable[[list[T]], bytes],
        *,
        deadline: float,
        bound: int,
        taken: Callable[[int], None],
        lost: Callable[[int, Exception], None],
    ) -> None:
        self._servers = servers_of(redis, deadline)
        self._encode = encode
        self._bound = bound
        self._taken = taken
        self._lost = lost
        self._lanes: dict[Address, _Lane[T]] = {}  # one for each server there ever was
        self._new_lane = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many things are put and not yet on their way."""
        return sum(lane.waits for lane in self._lanes.values())

    def put(self, channel: str, thing: T) -> bool:
        """Have it carried; returns at once, whatever state Redis is in. False where too much waits for that server."""
        lane = self._lane_of(channel)
        if lane.waits >= self._bound:
            return False
        lane.waiting.setdefault(channel, []).append(thing)
        lane.waits += 1
        lane.wake.set()
        return True

    async def run(self) -> None:
        """Carry what is put, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._new_lane.clear()
                    for lane in self._lanes.values():
                        if not lane.at_work:
                            lane.at_work = True
                            group.create_task(self._work(lane))
                    await self._new_lane.wait()
        finally:
            for lane in list(self._lanes.values()):
                lane.at_work = False
                self._lose(self._take(lane, elsewhere=False), Disconnected("nobody carries any more"))
                await lane.close()

    async def flush(self) -> None:
        """Carry what waits now; returns when all of it, and what was under way, is taken or lost."""
        while busy := [lane for lane in self._lanes.values() if lane.waiting or lane.turn.locked()]:
            await asyncio.gather(*map(self._carry, busy))
        for lane in list(self._lanes.values()):
            if not lane.at_work:
                await lane.close()

    def doubt(self) -> None:
        """Use none of the connections that are open now: they may lead to a server that others have left."""
        for lane in self._lanes.values():
            if lane.line is not None:
                lane.line.end(Disconnected("doubted"))

    @asynccontextmanager
    async def listening(self, channel: str, hear: Callable[[bytes], None]) -> AsyncIterator[Line]:
        """Hear every message of a channel while the block runs: what is sent from its begin on is heard.

        Wait on the line, which raises where it ends. Raises `RedisError` or `OSError` where Redis cannot be heard.
        """
        await self._servers.locate()
        line = await self._servers.open(self._servers.of(channel))
        try:
            await line.listen(self._servers.subscribe, channel, hear)
            yield line
        finally:
            await line.close()

    async def _work(self, lane: "_Lane[T]") -> None:
        while True:
            await lane.wake.wait()
            if not await self._carry(lane):
                await asyncio.sleep(PAUSE)

    async def _carry(self, lane: "_Lane[T]") -> bool:
        """Make one round trip with what waits; tells whether all of it was taken."""
        lane.wake.clear()
        batches: dict[str, list[T]] = {}
        async with lane.turn:
            try:
                if lane.doubted:
                    await self._servers.locate()
                batches = self._take(lane, elsewhere=lane.doubted)
                if not batches:
                    return True
                answers = await (await self._line(lane)).ask(
                    *(
                        packed(self._servers.publish, channel, self._encode(things))
                        for channel, things in batches.items()
                    )
                )
            except (RedisError, OSError) as error:
                batches = batches or self._take(lane, elsewhere=False)
                if not batches:
                    return False  # nobody could tell where things go, and it stays to be asked
                answers = [error] * len(batches)
            except asyncio.CancelledError:
                self._lose(batches, Disconnected("given up"))
                raise
        return self._account(lane, batches, answers)

    def _take(self, lane: "_Lane[T]", *, elsewhere: bool) -> dict[str, list[T]]:
        """What waits in a lane; with `elsewhere`, what another server has by now is put into the lane of that."""
        here, lane.waiting, lane.waits = lane.waiting, {}, 0
        if elsewhere:
            for channel in [channel for channel in here if self._servers.of(channel) != lane.server]:
                things = here.pop(channel)
                there = self._lane_of(channel)
                there.waiting.setdefault(channel, [])[:0] = things  # older than what was put there meanwhile
                there.waits += len(things)
                there.wake.set()
        return here

    def _account(self, lane: "_Lane[T]", batches: dict[str, list[T]], answers: list[Any]) -> bool:
        problem: Exception | None = None
        lost = 0
        for things, answer in zip(batches.values(), answers, strict=True):
            if isinstance(answer, Exception):
                problem = answer
                lost += len(things)
            else:
                self._taken(len(things))
        if problem is not None:
            self._lost(lost, problem)
        lane.doubted = problem is not None or lane.server == NOWHERE
        return problem is None

    def _lose(self, batches: dict[str, list[T]], problem: Exception) -> None:
        if batches:
            self._lost(sum(map(len, batches.values())), problem)

    def _lane_of(self, channel: str) -> "_Lane[T]":
        server = self._servers.of(channel)
        lane = self._lanes.get(server)
        if lane is None:
            lane = self._lanes[server] = _Lane(server)
            self._new_lane.set()
        return lane

    async def _line(self, lane: "_Lane[T]") -> Line:
        if lane.line is None or lane.line.stale():
            await lane.close()
            lane.line = await self._servers.open(lane.server)
        return lane.line


@dataclass(slots=True)
class _Lane(Generic[T]):
    """What goes to one server, in one round trip after the other."""

    server: Address
    waiting: dict[str, list[T]] = field(default_factory=dict)  #: by channel
    waits: int = 0  #: how many things wait
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    line: Line | None = None
    at_work: bool = False
    doubted: bool = True  #: whether what waits may have to go to another server

    async def close(self) -> None:
        """Hang up, if there is a line."""
        if self.line is not None:
            line, self.line = self.line, None
            await line.close()
