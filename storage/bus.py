"""Batches between processes over Redis pub/sub: one server, one that Sentinel watches, or a Cluster.

What costs here is paid for every message of every call. So this speaks the protocol itself, over its own connections
and by hiredis, the parser in C that redis-py uses too: a batch takes one write and one wake-up, and makes no task, no
timer and no time-out object. In a Cluster it is sharded pub/sub: a channel lives at the master of its slot, and each
master has a lane of its own, so that one which hangs holds up only what goes to it.
"""

import asyncio
import math
import socket
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import hiredis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.crc import key_slot
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as Silent

T = TypeVar("T")

IDLE: Final = 15.0
"""Seconds after which an unused connection is not trusted any more: a firewall may have forgotten it."""

PAUSE: Final = 0.1
"""Seconds between two attempts of a lane whose server is in trouble."""

Address = tuple[str, int]

NOWHERE: Final = ("", 0)
"""The server of a channel that no known server has."""


def cause_of(error: BaseException | None) -> str:
    """What went wrong, for a log: redis-py's errors show all but their text."""
    return f"{type(error).__name__}: {error}"


class Line(asyncio.Protocol):
    """One connection, and a watch on it: whoever asks has the answers, or an error after `deadline` seconds."""

    def __init__(self, deadline: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._transport: asyncio.Transport | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._asked: asyncio.Future[list[Any]] | None = None
        self._answers: list[Any] = []
        self._missing = 0
        self._due = math.inf
        self._used_at = self._loop.time()
        self._hear: Callable[[bytes], None] | None = None
        self._problem: Exception | None = None
        self._gone = self._loop.create_future()

    async def ask(self, *commands: bytes) -> list[Any]:
        """Send packed commands in one write and return their answers; what the server refuses is an answer too.

        One at a time. Raises what ended the line, if it ends before.
        """
        self._demand_open()
        assert self._transport is not None
        assert self._missing == 0, "somebody else asks"
        self._answers = []
        self._missing = len(commands)
        self._asked = self._loop.create_future()
        self._due = self._loop.time() + self._deadline
        self._transport.write(b"".join(commands))
        try:
            return await self._asked
        except asyncio.CancelledError:
            self.end(Disconnected("given up"))  # or the answers would be taken for those of the next question
            raise

    async def tell(self, *words: str | bytes) -> Any:
        """Send one command and return its answer. Raises `ResponseError` where it is refused."""
        (answer,) = await self.ask(_packed(*words))
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    async def listen(self, verb: str, channel: str, hear: Callable[[bytes], None]) -> None:
        """Subscribe; `hear` is called for every message from when this returns. It ends the line where it raises."""
        self._hear = hear
        await self.tell(verb, channel)

    async def wait(self, seconds: float) -> None:
        """Wait so long, and raise what ended the line if it ends before."""
        await asyncio.wait([self._gone], timeout=seconds)
        self._demand_open()

    def stale(self) -> bool:
        """Whether another should be opened before the next question."""
        return self._problem is not None or self._loop.time() - self._used_at > IDLE

    def end(self, problem: Exception) -> None:
        """Hang up; whoever waits is told this problem."""
        self._problem = self._problem or problem
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Hang up, and wait until it is done."""
        self.end(Disconnected("closed"))
        await self._gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to watch."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Sort what the server says into messages and answers."""
        self._parser.feed(data)
        while (said := self._parser.gets()) is not False:
            if self._hear is not None and type(said) is list and said[0] in _MESSAGES:
                self._hear(said[2])
            elif self._missing:
                self._answers.append(said)
                self._missing -= 1
                if self._missing == 0:
                    self._answered()
            else:  # too many clients; a slot that went to another server
                self.end(said if isinstance(said, ResponseError) else Disconnected(f"unasked: {said!r}"))
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._problem = self._problem or exc or Disconnected("the server hung up")
        if self._watching is not None:
            self._watching.cancel()
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(self._problem)
        self._gone.set_result(None)

    def _answered(self) -> None:
        self._due = math.inf
        self._used_at = self._loop.time()
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(self._answers)

    def _watch(self) -> None:
        """The one timer of a connection: asks a few times within each deadline whether an answer is overdue."""
        self._watching = self._loop.call_later(self._deadline / 4, self._watch)
        if self._loop.time() > self._due:
            self.end(Silent(f"no answer within {self._deadline:g} s"))

    def _demand_open(self) -> None:
        if self._problem is not None:
            raise self._problem


_MESSAGES: Final = frozenset({b"message", b"smessage"})


def _packed(*words: str | bytes) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # it says a tuple of one, and takes any
    return packed


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
        self._servers = _servers(redis, deadline)
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
                        _packed(self._servers.publish, channel, self._encode(things))
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


class _Servers(Protocol):
    """Which server has a channel, and the way to it."""

    publish: str
    subscribe: str

    def of(self, channel: str) -> Address:
        """Name the server that has it, as far as is known."""

    async def locate(self) -> None:
        """Find out anew which server has what. Raises `RedisError` or `OSError` where nobody can tell."""

    async def open(self, server: Address) -> Line:
        """Open a line. Raises `RedisError` or `OSError`."""


def _servers(redis: Redis | RedisCluster, deadline: float) -> _Servers:
    if isinstance(redis, RedisCluster):
        return _Cluster(redis, deadline)
    if isinstance(redis.connection_pool, SentinelConnectionPool):
        return _Watched(redis.connection_pool, deadline)
    return _One(redis.connection_pool, deadline)


class _One:
    """One server has every channel."""

    publish = "PUBLISH"
    subscribe = "SUBSCRIBE"

    def __init__(self, pool: ConnectionPool, deadline: float) -> None:
        self._entrance = _Entrance(pool.connection_class, pool.connection_kwargs)
        self._deadline = deadline
        self._server = self._entrance.address()

    def of(self, channel: str) -> Address:  # noqa: ARG002
        return self._server

    async def locate(self) -> None:
        """It is where it is."""

    async def open(self, server: Address) -> Line:
        return await self._entrance.open(server, self._deadline)


class _Watched:
    """The master that Sentinel names has every channel; it is asked for before each connection."""

    publish = "PUBLISH"
    subscribe = "SUBSCRIBE"

    def __init__(self, pool: SentinelConnectionPool, deadline: float) -> None:
        self._entrance = _Entrance(pool.connection_class, pool.connection_kwargs)
        self._service: str = pool.service_name
        self._deadline = deadline
        pools = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
        self._sentinels = _InTurn(_Entrance(pools[0].connection_class, pools[0].connection_kwargs), deadline)
        self._sentinels.know(_Entrance(each.connection_class, each.connection_kwargs).address() for each in pools)

    def of(self, channel: str) -> Address:  # noqa: ARG002
        return (self._service, 0)

    async def locate(self) -> None:
        """`open` asks anyway."""

    async def open(self, server: Address) -> Line:  # noqa: ARG002
        _, told = await self._sentinels.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        if told is None:
            raise Disconnected(f"Sentinel knows no {self._service}")
        host, port = told
        line = await self._entrance.open((host.decode(), int(port)), self._deadline)
        try:
            role, *_ = await line.tell("ROLE")
            if role != b"master":  # a fail-over is under way, or Sentinel does not know yet of one
                raise Disconnected(f"{host.decode()}:{int(port)} is no master")
        except BaseException:
            await line.close()
            raise
        return line


class _Cluster:
    """The master of a channel's slot has it: sharded pub/sub, of Redis 7."""

    publish = "SPUBLISH"
    subscribe = "SSUBSCRIBE"

    def __init__(self, cluster: RedisCluster, deadline: float) -> None:
        settings = cluster.connection_kwargs
        self._entrance = _Entrance(settings["connection_class"], settings)
        self._deadline = deadline
        self._nodes = _InTurn(self._entrance, deadline)
        self._seeds = [(node.host, int(node.port)) for node in cluster.startup_nodes]
        self._nodes.know(self._seeds)
        self._locating = asyncio.Lock()
        self._located_at = -math.inf
        self._begins: list[int] = []
        self._ranges: list[tuple[int, Address]] = []  # last slot and master of what begins there

    def of(self, channel: str) -> Address:
        slot = key_slot(channel.encode())
        number = bisect_right(self._begins, slot) - 1
        if number < 0 or self._ranges[number][0] < slot:
            return NOWHERE
        return self._ranges[number][1]

    async def locate(self) -> None:
        """Ask, unless somebody else just did."""
        async with self._locating:
            now = asyncio.get_running_loop().time()
            if now - self._located_at < PAUSE:
                return
            (asked, _), told = await self._nodes.ask("CLUSTER", "SLOTS")
            self._located_at = now

            def address(node: list[Any]) -> Address:
                return (node[0].decode() if node[0] else asked, int(node[1]))  # one that knows no name of itself

            parts = sorted((int(part[0]), int(part[1]), [address(node) for node in part[2:]]) for part in told)
            self._begins = [first for first, _, _ in parts]
            self._ranges = [(last, nodes[0]) for _, last, nodes in parts]
            self._nodes.know([*(node for _, _, nodes in parts for node in nodes), *self._seeds])

    async def open(self, server: Address) -> Line:
        if server == NOWHERE:
            raise Disconnected("no server of the cluster has the slot")
        return await self._entrance.open(server, self._deadline)


class _Entrance:
    """How to get into servers: what redis-py was told for it, which has read the URL."""

    def __init__(self, kind: type, settings: Mapping[str, Any]) -> None:
        self._tls = (
            SSLConnection(**{key: value for key, value in settings.items() if key.startswith("ssl_")}).ssl_context
            if issubclass(kind, SSLConnection)
            else None
        )
        self._path: str | None = settings.get("path")
        self._address = (settings.get("host") or "localhost", int(settings.get("port") or 6379))
        self._username: str | None = settings.get("username")
        self._password: str | None = settings.get("password")

    def address(self) -> Address:
        """The server that the settings name."""
        return (self._path, 0) if self._path else self._address

    async def open(self, server: Address, deadline: float) -> Line:
        """Connect and sign in."""
        loop = asyncio.get_running_loop()
        host, port = server
        async with asyncio.timeout(deadline):
            if self._path:
                _, line = await loop.create_unix_connection(lambda: Line(deadline), self._path)
            else:
                # reading the authorities takes tens of milliseconds: it keeps the context that it made first
                tls = self._tls.get() if self._tls is not None else None
                _, line = await loop.create_connection(lambda: Line(deadline), host, port, ssl=tls)
        if self._username or self._password:
            try:
                await line.tell("AUTH", *([self._username] if self._username else []), self._password or "")
            except BaseException:
                await line.close()
                raise
        return line


class _InTurn:
    """Servers any of which can tell: one after the other is asked, each a little while, until one does."""

    def __init__(self, entrance: _Entrance, deadline: float) -> None:
        self._entrance = entrance
        self._deadline = deadline / 4
        self._addresses: deque[Address] = deque()

    def know(self, addresses: Iterable[Address]) -> None:
        """Ask these from now on."""
        self._addresses = deque(dict.fromkeys(addresses))

    async def ask(self, *words: str) -> tuple[Address, Any]:
        """Return who told, and what. The next time it begins with another, for one may be cut off from the rest."""
        problem: Exception | None = None
        for _ in range(len(self._addresses)):
            address = self._addresses[0]
            self._addresses.rotate(-1)
            try:
                line = await self._entrance.open(address, self._deadline)
                try:
                    return address, await line.tell(*words)
                finally:
                    await line.close()
            except (RedisError, OSError) as error:
                problem = error
        raise Disconnected(f"nobody answers {' '.join(words)}: {cause_of(problem)}") from problem
