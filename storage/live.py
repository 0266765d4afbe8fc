"""What Redis holds for a moment: one-time tickets and rate counters. What is lost with it, a retry mends.

Each command, and each transaction, is about one key: in a Cluster all of it is at one server.
"""

import asyncio
import hashlib
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from protocol.errors import DialdeskError
from storage.redis_line import cause_of
from storage.redis_url import RedisUrlError, read_redis_url

log = structlog.get_logger()

RedisClient = Redis | RedisCluster

DEADLINE: Final = 2.0
"""Seconds that anything here waits for Redis."""

AT_ONCE: Final = 50
"""Uses of Redis at once; more wait their turn. redis-py refuses the 101st: a flood of sign-ins would not be counted."""


def open_redis(url: str) -> RedisClient:
    """Return a client for what REDIS_URL names, that waits for nothing longer than two seconds and repeats nothing.

    Whoever waits decides about a repeat: the client's own retries would multiply every deadline. RESP2, since nothing
    here needs more and every server speaks it. Close it with `aclose`. Raises `RedisUrlError`.
    """
    told = read_redis_url(url)
    patience: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": DEADLINE,
        "socket_connect_timeout": DEADLINE,
        "socket_keepalive": True,
        "health_check_interval": 15,
    }
    if told.kind == "one":
        if "path" in told.settings:
            del patience["socket_keepalive"]  # of TCP; a socket of the machine knows none
        return Redis.from_url(url, **patience)
    if told.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in told.hosts]
        return RedisCluster(
            startup_nodes=nodes, ssl=told.tls, require_full_coverage=False, **{**patience, **told.settings}
        )
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        told.hosts,
        sentinel_kwargs={
            **patience,
            "socket_timeout": DEADLINE / 4,  # the next one may know
            "socket_connect_timeout": DEADLINE / 4,
            "ssl": told.tls,
            **told.sentinel_settings,
        },
    )
    client: Redis = sentinels.master_for(
        told.service, redis_class=_Watched, ssl=told.tls, **{**patience, **told.settings}
    )
    return client


class _Watched(Redis):
    """A client of the master that Sentinels name, which closes the connections to those too."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        assert isinstance(self.connection_pool, SentinelConnectionPool)
        for sentinel in self.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


async def look_at(redis: RedisClient) -> str:
    """Tell what is there, for `dialdesk check`.

    Raises `RedisUrlError` where it is of another kind than REDIS_URL says, and what the client raises.
    """
    if isinstance(redis, RedisCluster):
        return await _look_at_cluster(redis)
    info: dict[str, Any] = await redis.info()
    version = _version(info)
    match info.get("redis_mode", info.get("server_mode")):
        case "sentinel":
            raise RedisUrlError("names a Sentinel as if it were a server: write redis+sentinel://host:26379/service")
        case "cluster":
            raise RedisUrlError("names a node of a cluster as if it were alone: write redis+cluster://host:6379")
    if isinstance(redis.connection_pool, SentinelConnectionPool):
        pool = redis.connection_pool
        host, port = await pool.get_master_address()  # type: ignore[no-untyped-call]
        sentinels = pool.sentinel_manager.sentinels
        answers = await asyncio.gather(*(sentinel.ping() for sentinel in sentinels), return_exceptions=True)
        return (
            f"{version}, master of {pool.service_name} at {host}:{port} with {info['connected_slaves']} replicas;"
            f" {answers.count(True)} of {len(sentinels)} Sentinels answer"
        )
    if info["role"] != "master":
        raise RedisUrlError("names a replica, which takes no writes: name the master, or its Sentinels")
    return version


def _version(info: dict[str, Any]) -> str:
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info.get('redis_version'))}"


async def _look_at_cluster(redis: RedisCluster) -> str:
    try:
        await redis.initialize()
    except RedisClusterException as error:
        if "not enabled" in str(error):
            raise RedisUrlError("names a server that is in no cluster: write redis://host:6379") from error
        raise OSError(str(error)) from error
    masters, replicas = redis.get_primaries(), redis.get_replicas()
    info: dict[str, Any] = await masters[0].execute_command("INFO")
    state: dict[str, Any] = await masters[0].execute_command("CLUSTER INFO")
    if state["cluster_state"] != "ok":
        raise OSError(f"the cluster is down: {state['cluster_slots_ok']} of 16384 slots are served")
    return f"{_version(info)}, cluster of {len(masters)} masters and {len(replicas)} replicas"


class Live:
    """Tickets and counters under `prefix`, waiting no longer than `deadline` seconds for Redis."""

    def __init__(self, redis: RedisClient, prefix: str, *, deadline: float = DEADLINE) -> None:
        self._redis = redis
        self._prefix = prefix
        self._deadline = deadline
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def put_ticket(self, value: bytes, ttl: float) -> str:
        """Keep `value` for `ttl` seconds and return the ticket that takes it, once. Raises UNAVAILABLE."""
        ticket = f"ddt_{secrets.token_urlsafe(32)}"
        async with self._answering():
            await self._redis.set(self._ticket(ticket), value, px=round(ttl * 1000))
        return ticket

    async def take_ticket(self, ticket: str) -> bytes | None:
        """Return the value of a ticket and forget it; None where it is unknown, was taken, or has expired.

        Raises UNAVAILABLE.
        """
        async with self._answering():
            return cast("bytes | None", await self._redis.getdel(self._ticket(ticket)))

    async def allow(self, key: str, limit: int, per_seconds: float) -> int | None:
        """Count one use of `key`; None where it is within `limit` in `per_seconds`, else after how many seconds it is.

        A fixed window that begins with the first use: around its end up to twice the limit may pass within one length
        of it. Without Redis everything is allowed, and logged: what must hold then stands in PostgreSQL, as the
        lock-out of accounts does.
        """
        try:
            used, left = await self.count(key, per_seconds)
        except DialdeskError as error:
            log.warning("rate not limited", key=key, cause=cause_of(error.__cause__))
            return None
        return None if used <= limit else max(1, math.ceil(left / 1000))

    async def count(self, key: str, per_seconds: float) -> tuple[int, int]:
        """Count one use of `key`; return the uses in its window, and in how many ms that ends. Raises UNAVAILABLE."""
        counter = f"{self._prefix}rate:{key}"
        async with self._answering(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(counter, 0, nx=True, px=round(per_seconds * 1000))
            pipeline.incr(counter)
            pipeline.pttl(counter)
            _, used, left = await pipeline.execute()
        return used, left

    def _ticket(self, ticket: str) -> str:
        """The key of a ticket: whoever lists the keys of Redis sees no ticket that could be taken."""
        return f"{self._prefix}ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline), self._at_once:
                yield
        except (RedisError, RedisClusterException, OSError) as error:
            raise DialdeskError("UNAVAILABLE") from error
