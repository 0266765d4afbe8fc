"""`dialdesk check`: what is wrong with the configuration, and which dependency answers."""

import asyncio
import importlib
import secrets
from collections.abc import AsyncIterator

import msgspec
from redis.exceptions import RedisError

from protocol.errors import DialdeskError
from server.config import Config
from storage.bus import Bus
from storage.database import open_database
from storage.folder import open_folder
from storage.live import DEADLINE, Live, RedisClient, look_at, open_redis
from storage.migrate import MigrationError, pending
from storage.objects import StoreError
from storage.s3 import open_s3

_DEADLINE = 15.0


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: whether it is well, and what was seen."""

    subject: str
    well: bool
    seen: str


async def check(config: Config) -> AsyncIterator[Finding]:
    """Look at everything a node needs, one by one; nothing stays of what is written to see whether it can be."""
    for subject, look in (
        ("PostgreSQL", _database),
        ("schema", _schema),
        ("Redis", _redis),
        ("recordings", _recordings),
        ("audio", _audio),
    ):
        try:
            async with asyncio.timeout(_DEADLINE):
                yield Finding(subject, True, await look(config))
        except TimeoutError:
            yield Finding(subject, False, f"no answer within {_DEADLINE:g} s")
        except StoreError as error:
            yield Finding(subject, False, str(error))
        except (DialdeskError, MigrationError, RedisError, ImportError, OSError, ValueError) as error:
            yield Finding(subject, False, str(error.__cause__ or error))


async def _database(config: Config) -> str:
    async with open_database(
        config.database_url, timeout=config.database_timeout, statement_cache=config.database_statement_cache
    ) as database:
        async with database.connection() as connection:
            version: str = await connection.fetchval("SHOW server_version")
    major = int(version.partition(".")[0])
    if major < 15:
        raise OSError(f"PostgreSQL {version} is too old: 15 or newer is needed")
    return f"version {version}"


async def _schema(config: Config) -> str:
    behind = await pending(config.database_url)
    if behind:
        raise MigrationError(f"{behind} migrations are missing: run `dialdesk migrate`")
    return "up to date"


async def _redis(config: Config) -> str:
    redis = open_redis(config.redis_url)
    try:
        seen = await look_at(redis)
        await _use(redis, config.redis_prefix)
    finally:
        await redis.aclose()
    return seen


async def _use(redis: RedisClient, prefix: str) -> None:
    """Do once what nodes do: a user may be kept from keys, from commands, and from channels unless it is given some."""
    problems: list[Exception] = []
    heard = asyncio.Event()
    bus = Bus(
        redis,
        msgspec.json.encode,
        deadline=DEADLINE,
        bound=1,
        taken=lambda _: None,
        lost=lambda _, problem: problems.append(problem),
    )
    channel = f"{prefix}node:check-{secrets.token_hex(8)}"
    async with bus.listening(channel, lambda _: heard.set()):
        bus.put(channel, "check")
        await bus.flush()
        if problems:
            raise problems[0]
        await heard.wait()
    live = Live(redis, prefix)
    await live.take_ticket(await live.put_ticket(b"", 1))
    await live.count("check", 1)


async def _recordings(config: Config) -> str:
    if config.recordings == "off":
        return "off: no recording is kept"
    seen = []
    if config.recordings_folder is not None:
        folder = await open_folder(config.recordings_folder)
        seen.append(await folder.check())
    if config.s3_bucket is not None:
        async with open_s3(config) as bucket:
            seen.append(await bucket.check())
    return "; ".join(seen)


async def _audio(config: Config) -> str:  # noqa: ARG001 - nothing is configured
    """What reads recordings is loaded here as the reader's own process loads it: libraries of the system may lack."""
    av = await asyncio.to_thread(importlib.import_module, "av")
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
