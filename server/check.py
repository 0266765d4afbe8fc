"""`dialdesk check`: what is wrong with the configuration, and which dependency answers."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
from redis.exceptions import RedisError

from protocol.errors import DialdeskError
from server.config import Config
from storage.database import open_database
from storage.live import open_redis
from storage.migrate import MigrationError, pending
from storage.objects import ObjectsError, reach_bucket

_DEADLINE = 15.0


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: whether it is well, and what was seen."""

    subject: str
    well: bool
    seen: str


async def check(config: Config) -> AsyncIterator[Finding]:
    """Look at everything a node needs, one by one; nothing is changed."""
    for subject, look in (("PostgreSQL", _database), ("schema", _schema), ("Redis", _redis), ("S3", _objects)):
        try:
            async with asyncio.timeout(_DEADLINE):
                yield Finding(subject, True, await look(config))
        except TimeoutError:
            yield Finding(subject, False, f"no answer within {_DEADLINE:g} s")
        except (DialdeskError, MigrationError, RedisError, ObjectsError, OSError, ValueError) as error:
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
        told = await redis.info("server")
    finally:
        await redis.aclose()
    return f"{told.get('server_name', 'redis')} {told.get('valkey_version', told.get('redis_version'))}"


async def _objects(config: Config) -> str:
    if config.s3_endpoint_url is None and config.s3_bucket is None:
        return "not configured: recordings are not kept yet"
    await reach_bucket(
        config.s3_endpoint_url, config.s3_bucket or "", config.s3_access_key or "", config.s3_secret_key or ""
    )
    return f"bucket {config.s3_bucket}"
