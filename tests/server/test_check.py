"""`dialdesk check`: whether Redis lets do what nodes do, and recordings can be kept where they are to be kept."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from server.check import Finding, check
from server.config import Config
from tests.conftest import Bucket

RIGHTS = (
    "+ping +select +client|setinfo +info +publish +subscribe +set +getdel +incrby +pttl +multi +exec"
    # as docs/configuration.md tells
)


async def finding(config: Config, subject: str = "recordings") -> Finding:
    """What is said of one."""
    [found] = [found async for found in check(config) if found.subject == subject]
    return found


@pytest.mark.parametrize(
    ("rights", "missing"),
    [
        (RIGHTS, ""),
        (f"{RIGHTS} resetchannels", "channel"),
        (f"{RIGHTS} -subscribe", "'subscribe'"),
        (f"{RIGHTS} -getdel", "'getdel'"),
        (f"{RIGHTS} -incrby", "'incrby'"),
        (f"{RIGHTS} resetkeys", "key"),
    ],
)
async def test_a_user_of_redis_that_may_not_do_what_nodes_do(
    configure: Callable[..., Config], redis: Redis, neighbours: Any, rights: str, missing: str
) -> None:
    """Is told what is kept from it; it needs no more rights than those that the documentation names."""
    name = f"u{secrets.token_hex(4)}"
    prefix = configure().redis_prefix
    words = ("on", "nopass", f"~{prefix}*", f"&{prefix}*", *rights.split())
    await redis.execute_command("ACL", "SETUSER", name, *words)  # type: ignore[no-untyped-call]
    try:
        at = urlsplit(neighbours.redis_url)
        found = await finding(configure(redis_url=f"redis://{name}@{at.hostname}:{at.port}/0"), "Redis")
    finally:
        await redis.acl_deluser(name)

    assert (not missing) == found.well
    assert missing in found.seen


async def test_recordings_that_are_off(config: Config) -> None:
    """Is no mistake, and is said."""
    assert Finding("recordings", True, "off: no recording is kept") == await finding(config)


async def test_recordings_that_can_be_kept(configure: Callable[..., Config], s3: Bucket, tmp_path: Path) -> None:
    """Each store that is configured is tried out."""
    config = configure(
        recordings="hybrid",
        recordings_folder=tmp_path / "recordings",
        s3_endpoint_url=s3.endpoint_url,
        s3_bucket=s3.bucket,
        s3_access_key=s3.access_key,
        s3_secret_key=s3.secret_key,
    )
    found = await finding(config)

    assert ("recordings", True) == (found.subject, found.well)
    assert f"folder {tmp_path}/recordings: written, read and deleted" in found.seen
    assert f"bucket {s3.bucket}: written, read and deleted" in found.seen


async def test_recordings_that_cannot_be_kept(configure: Callable[..., Config], tmp_path: Path) -> None:
    """The cause is named: a folder that is a file, a server that is away."""
    (tmp_path / "file").touch()
    no_folder = await finding(configure(recordings="local", recordings_folder=tmp_path / "file"))
    no_server = await finding(
        configure(
            recordings="s3",
            s3_bucket="recordings",
            s3_endpoint_url="http://127.0.0.1:1",
            s3_access_key="fake",
            s3_secret_key="fake",
            s3_retries=0,
        )
    )

    assert (False, False) == (no_folder.well, no_server.well)
    assert "File exists" in no_folder.seen
    assert "not within reach" in no_server.seen
