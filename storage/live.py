"""What Redis holds for a moment: one-time tickets and rate counters. What is lost with it, a retry mends."""

import asyncio
import hashlib
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from protocol.errors import DialdeskError

log = structlog.get_logger()

DEADLINE: Final = 2.0
"""Seconds that anything here waits for Redis."""


def open_redis(url: str) -> Redis:
    """Return a client that waits for nothing longer than two seconds and repeats nothing by itself.

    Whoever waits decides about a repeat: the client's own retries would multiply every deadline. RESP2, since nothing
    here needs more and every server speaks it. Close it with `aclose`.
    """
    return Redis.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=DEADLINE,
        socket_connect_timeout=DEADLINE,
        socket_keepalive=True,
        health_check_interval=15,
    )


class Live:
    """Tickets and counters under `prefix`, waiting no longer than `deadline` seconds for Redis."""

    def __init__(self, redis: Redis, prefix: str, *, deadline: float = DEADLINE) -> None:
        self._redis = redis
        self._prefix = prefix
        self._deadline = deadline

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
        counter = f"{self._prefix}rate:{key}"
        try:
            async with self._answering(), self._redis.pipeline(transaction=True) as pipeline:
                pipeline.set(counter, 0, nx=True, px=round(per_seconds * 1000))
                pipeline.incr(counter)
                pipeline.pttl(counter)
                _, used, left = await pipeline.execute()
        except DialdeskError as error:
            log.warning("rate not limited", key=key, cause=repr(error.__cause__))
            return None
        return None if used <= limit else max(1, math.ceil(left / 1000))

    def _ticket(self, ticket: str) -> str:
        """The key of a ticket: whoever lists the keys of Redis sees no ticket that could be taken."""
        return f"{self._prefix}ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise DialdeskError("UNAVAILABLE") from error
