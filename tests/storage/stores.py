"""Stores for tests: a bucket of the run's S3 server with any settings, and what is done in most tests with a store."""

from typing import Any

from server.config import Config, read_config
from storage.objects import Part, Store
from tests.conftest import Bucket


def s3_config(s3: Bucket, **settings: Any) -> Config:
    """The configuration of a node whose recordings are in the bucket; names are Config's, in lower case."""
    environ = {
        "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SECRET_KEY": "not-a-secret-not-a-secret-not-a-secret",
        "MASTER_KEYS": "test:bm90IGEgc2VjcmV0LCAzMiBieXRlcyBvZiBhc2NpaS4=",
        "RECORDINGS": "s3",
        "S3_ENDPOINT_URL": s3.endpoint_url,
        "S3_BUCKET": s3.bucket,
        "S3_ACCESS_KEY": s3.access_key,
        "S3_SECRET_KEY": s3.secret_key,
        "S3_RETRIES": "0",
        **{name.upper(): str(value) for name, value in settings.items()},
    }
    return read_config(environ)


async def send(store: Store, key: str, upload_id: str, *contents: bytes) -> list[Part]:
    """Send parts, numbered from 1."""
    sent, offset = [], 0
    for number, content in enumerate(contents, 1):
        sent.append(await store.put_part(key, upload_id, number, offset, content))
        offset += len(content)
    return sent


async def keep(store: Store, key: str, *contents: bytes, media_type: str = "audio/mpeg") -> str:
    """Make an object of such parts; the id that its upload had."""
    upload_id = await store.begin(key, media_type)
    await store.complete(key, upload_id, await send(store, key, upload_id, *contents))
    return upload_id


async def fetch(store: Store, key: str, start: int = 0, end: int | None = None) -> bytes:
    """Read all of it."""
    return b"".join([piece async for piece in store.read(key, start, end)])


async def keys(store: Store, prefix: str) -> list[str]:
    """The keys of objects, sorted."""
    return sorted([found.key async for found in store.objects(prefix)])


async def uploads(store: Store, prefix: str) -> list[tuple[str, str]]:
    """The key and the id of the uploads that are open."""
    return sorted(
        [(found.key, found.upload_id) async for found in store.open_uploads() if found.key.startswith(prefix)]
    )
