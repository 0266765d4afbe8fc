"""Which server of a Redis has a channel, and the way to it: one server, one that Sentinel watches, or a Cluster.

In a Cluster pub/sub is sharded: a channel lives at the master of its slot.
"""

import asyncio
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.crc import key_slot
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError

from storage.redis_line import Line, cause_of

PAUSE: Final = 0.1
"""Seconds between two searches, or two attempts to reach a server in trouble."""

Address = tuple[str, int]

NOWHERE: Final = ("", 0)
"""The server of a channel that no known server has."""


class Servers(Protocol):
    """Which server has a channel, and the way to it."""

    publish: str
    subscribe: str

    def of(self, channel: str) -> Address:
        """Name the server that has it, as far as is known."""

    async def locate(self) -> None:
        """Find out anew which server has what. Raises `RedisError` or `OSError` where nobody can tell."""

    async def open(self, server: Address) -> Line:
        """Open a line. Raises `RedisError` or `OSError`."""


def servers_of(redis: Redis | RedisCluster, deadline: float) -> Servers:
    """What this client was told to reach; whoever asks a server has an answer, or an error after `deadline` seconds."""
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
