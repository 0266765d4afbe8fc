"""The bucket in which recordings rest: any S3-compatible server."""

import aioboto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


class ObjectsError(Exception):
    """The bucket cannot be used; the text says why."""


async def reach_bucket(endpoint_url: str | None, bucket: str, access_key: str, secret_key: str) -> None:
    """Ask for the bucket with the given keys. Raises ObjectsError where it is not there or not ours to use."""
    session = aioboto3.Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key)
    config = Config(connect_timeout=5, read_timeout=5, retries={"max_attempts": 1}, region_name="us-east-1")
    try:
        async with session.client("s3", endpoint_url=endpoint_url, config=config) as client:
            await client.head_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise ObjectsError(f"bucket {bucket!r}: {error}") from error
