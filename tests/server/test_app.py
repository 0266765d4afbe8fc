"""The wiring: what a process still says when it leaves."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from server.app import worker_node
from server.config import Config
from tests.waiting import until


async def test_what_is_said_last_is_carried(redis: Redis, config: Config) -> None:
    """A process that is told to leave does not take its last messages with it."""
    channel = f"{config.redis_prefix}node:b"
    async with redis.pubsub(ignore_subscribe_messages=True) as listener:
        await listener.subscribe(channel)
        async with worker_node(config) as worker:
            worker._relay.to_phone("b", "p", b"1")
        heard: list[Any] = []

        async def is_heard() -> bool:
            message = await listener.get_message(timeout=1)
            if message is not None:
                heard.extend(msgspec.json.decode(message["data"]))
            return bool(heard)

        await until(is_heard)

    assert [["p", "p", 1]] == heard
