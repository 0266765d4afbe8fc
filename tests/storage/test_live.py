"""Tickets and rate counters in Redis, and what happens when Redis does not answer."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from protocol.errors import DialdeskError
from storage.live import Live, open_redis
from tests.waiting import DEADLINE


@pytest.fixture
def prefix() -> str:
    """A part of the server that belongs to this test."""
    return f"test-{secrets.token_hex(6)}:"


@pytest.fixture
def live(redis: Redis, prefix: str) -> Live:
    """The run's server."""
    return Live(redis, prefix)


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """The URL of a server that takes connections and never says a word."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass  # heard, and not answered
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()


async def test_ticket_is_taken_once(live: Live) -> None:
    """A ticket gives its value to the first who brings it."""
    ticket = await live.put_ticket(b"value", 30)

    assert b"value" == await live.take_ticket(ticket)
    assert await live.take_ticket(ticket) is None


async def test_ticket_taken_by_many_at_once_is_taken_once(live: Live) -> None:
    """Of many who bring a ticket at the same time one gets its value."""
    ticket = await live.put_ticket(b"value", 30)
    taken = await asyncio.gather(*(live.take_ticket(ticket) for _ in range(20)))

    assert 1 == taken.count(b"value")
    assert 19 == taken.count(None)


async def test_tickets_differ(live: Live) -> None:
    """Tickets for the same value are not the same, and each has 256 random bits behind its prefix."""
    one, two = await live.put_ticket(b"value", 30), await live.put_ticket(b"value", 30)

    assert one != two
    assert 43 == len(one.removeprefix("ddt_"))


async def test_ticket_expires(live: Live, redis: Redis, prefix: str) -> None:
    """A ticket is forgotten by the server after its time."""
    await live.put_ticket(b"value", 30)
    (key,) = [key async for key in redis.scan_iter(f"{prefix}*")]

    assert 0 < await redis.pttl(key) <= 30_000


async def test_keys_show_no_ticket(live: Live, redis: Redis, prefix: str) -> None:
    """Whoever lists the keys of the server cannot take a ticket with what is seen."""
    ticket = await live.put_ticket(b"value", 30)
    keys = [key.decode() async for key in redis.scan_iter(f"{prefix}*")]

    assert 1 == len(keys)
    assert ticket.removeprefix("ddt_") not in keys[0]
    assert await live.take_ticket(keys[0]) is None


async def test_installations_do_not_share_tickets(live: Live, redis: Redis) -> None:
    """A ticket of one prefix is nothing under another."""
    ticket = await live.put_ticket(b"value", 30)

    assert await Live(redis, "other:").take_ticket(ticket) is None


async def test_rate_is_allowed_up_to_its_limit(live: Live) -> None:
    """The uses within the limit pass; the next ones are told in how many whole seconds to come again."""
    allowed = [await live.allow("door", 3, 60) for _ in range(3)]
    refused = [await live.allow("door", 3, 60) for _ in range(2)]

    assert [None] * 3 == allowed
    assert all(wait is not None and 1 <= wait <= 60 for wait in refused)


async def test_rate_counts_each_key_by_itself(live: Live) -> None:
    """One key's uses do not count for another."""
    await live.allow("front door", 1, 60)

    assert await live.allow("back door", 1, 60) is None


async def test_rate_counts_uses_at_once(live: Live) -> None:
    """Uses at the same time are counted each."""
    answers = await asyncio.gather(*(live.allow("door", 5, 60) for _ in range(20)))

    assert 5 == answers.count(None)


async def test_a_crowd_waits_its_turn(neighbours: Any, prefix: str) -> None:
    """More uses at once than the client has connections are neither refused nor left uncounted."""
    async with open_redis(neighbours.redis_url) as client:
        live = Live(client, prefix, deadline=DEADLINE)
        tickets = await asyncio.gather(*(live.take_ticket("ddt_x") for _ in range(150)))
        answers = await asyncio.gather(*(live.allow("door", 5, 60) for _ in range(150)))

    assert {None} == set(tickets)
    assert 5 == answers.count(None)


async def test_window_begins_anew(live: Live, redis: Redis, prefix: str) -> None:
    """A refused use does not lengthen the window, after which all begins again."""
    await live.allow("door", 1, 60)
    await redis.pexpire(f"{prefix}rate:door", 5_000)
    refused = await live.allow("door", 1, 60)
    await redis.delete(f"{prefix}rate:door")

    assert refused is not None
    assert refused <= 5
    assert await live.allow("door", 1, 60) is None


async def test_without_redis_tickets_are_unavailable() -> None:
    """A ticket cannot be made or taken where nobody listens: UNAVAILABLE, which may be retried."""
    async with open_redis("redis://127.0.0.1:1/0") as away:
        live = Live(away, "test:")
        for waiting in (live.put_ticket(b"value", 30), live.take_ticket("ddt_x")):
            with pytest.raises(DialdeskError) as refusal:
                await waiting

            assert ("UNAVAILABLE", True) == (refusal.value.code, refusal.value.retry)


async def test_without_redis_everything_is_allowed() -> None:
    """A limiter that cannot count lets pass."""
    async with open_redis("redis://127.0.0.1:1/0") as away:
        live = Live(away, "test:")

        assert [None, None] == [await live.allow("door", 1, 60) for _ in range(2)]


async def test_silent_redis_is_not_waited_for(silent: str) -> None:
    """A server that takes the connection and does not answer is given up after the deadline."""
    async with open_redis(silent) as client:
        live = Live(client, "test:", deadline=0.05)
        with pytest.raises(DialdeskError) as refusal:
            await live.take_ticket("ddt_x")

        assert "UNAVAILABLE" == refusal.value.code
        assert await live.allow("door", 1, 60) is None


async def test_client_gives_up_soon() -> None:
    """The client that everybody uses repeats nothing by itself and waits for nothing longer than two seconds."""
    async with open_redis("redis://127.0.0.1:1/0") as client:
        settings = client.connection_pool.connection_kwargs

    assert (2.0, 2.0) == (settings["socket_timeout"], settings["socket_connect_timeout"])
    assert 0 == settings["retry"].get_retries()
