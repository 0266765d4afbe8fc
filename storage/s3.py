"""A bucket of an S3 server as a store of bytes.

    async with open_s3(config) as bucket: ...

Of the server is asked: parts of 5 MiB and more; that an aborted upload can be neither continued nor completed, also not
by a part that was on its way; and that it lists what is there right after it was written. AWS promises that, and
SeaweedFS 4.48 is tested for it (4.44 let a part that was on its way bring an aborted upload back). A server that is
full and says so with a plain 500, as SeaweedFS does, raises StoreError, not StoreFull.

All connections are used from the one loop, so nothing here may hold it for long. Botocore by itself hashes what it
sends, once or twice, over TLS wraps it in `aws-chunked`, and aiohttp copies it whole. Here the one proof that goes with
a part is made in a thread; requests are signed without their body, for the server checks a part against that proof; and
the bytes go out piece by piece, between which others have their turn.
"""

import asyncio
import base64
import hashlib
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any, Final, Protocol, Self
from urllib.parse import quote

import aioboto3
import msgspec
from aiohttp import ClientError as BrokenLine
from botocore.config import Config as Settings
from botocore.exceptions import BotoCoreError, ClientError

from storage.objects import (
    NoSuchObject,
    NoSuchUpload,
    OpenUpload,
    Part,
    StoredObject,
    StoreError,
    StoreFull,
    latest,
    rehearse,
    require_gapless,
    require_key,
)

PIECE: Final = 256 * 1024
"""Bytes that `read` gives at a time, at most."""

CONNECTIONS: Final = 128
"""To the server, from one node. Each is held for one request, never for as long as a phone or a listener takes; who
finds none free waits for one within the deadline."""

RANGE: Final = 1024 * 1024
"""Bytes that `read` asks for in one request, at most, and holds while whoever reads takes their time: a listener who
stalls costs this much memory and no connection. At 64 kbit/s it is two minutes of a call, so few requests are made."""

_SENT = 64 * 1024
"""Bytes handed to a connection in one go."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

_FULL = {
    "EntityTooLarge",
    "InsufficientStorage",
    "InsufficientStorageSpace",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}
"""What servers say where there is no room; others say 507."""


class _Config(Protocol):
    """What is read of the node's configuration."""

    @property
    def s3_endpoint_url(self) -> str | None: ...
    @property
    def s3_public_url(self) -> str | None: ...
    @property
    def s3_bucket(self) -> str | None: ...
    @property
    def s3_access_key(self) -> str | None: ...
    @property
    def s3_secret_key(self) -> str | None: ...
    @property
    def s3_region(self) -> str: ...
    @property
    def s3_addressing(self) -> str: ...
    @property
    def s3_signature(self) -> str: ...
    @property
    def s3_checksums(self) -> str: ...
    @property
    def s3_encryption(self) -> str | None: ...
    @property
    def s3_kms_key(self) -> str | None: ...
    @property
    def s3_connect_timeout(self) -> float: ...
    @property
    def s3_read_timeout(self) -> float: ...
    @property
    def s3_retries(self) -> int: ...


@asynccontextmanager
async def open_s3(config: _Config) -> AsyncIterator["Bucket"]:
    """Open the bucket that is configured, for the life of the node. Nothing is asked of the server yet.

    Where no keys are given they come from where the AWS libraries look: a role of the machine, say.
    """
    session = aioboto3.Session(
        aws_access_key_id=config.s3_access_key,
        aws_secret_access_key=config.s3_secret_key,
        region_name=config.s3_region,
    )
    settings = Settings(
        connect_timeout=config.s3_connect_timeout,
        read_timeout=config.s3_read_timeout,
        retries={"mode": "standard", "total_max_attempts": config.s3_retries + 1},
        max_pool_connections=CONNECTIONS,
        signature_version=config.s3_signature,
        request_checksum_calculation=config.s3_checksums,
        response_checksum_validation=config.s3_checksums,
        s3={"addressing_style": config.s3_addressing, "payload_signing_enabled": False},
    )
    async with AsyncExitStack() as stack:

        async def client(url: str | None) -> Any:
            return await stack.enter_async_context(session.client("s3", endpoint_url=url, config=settings))

        inside = await client(config.s3_endpoint_url)
        outside = await client(config.s3_public_url) if config.s3_public_url is not None else None
        yield Bucket(inside, outside, config)


class Bucket:
    """A bucket, asked through `inside`; URLs for others are signed by `outside`, if there is one."""

    def __init__(self, inside: Any, outside: Any | None, config: _Config) -> None:
        self._inside = inside
        self._outside = outside
        self._bucket = config.s3_bucket or ""
        self._signs_parts = config.s3_signature != "s3"
        self._crc = config.s3_checksums == "when_supported"
        self._deadline = 2 * (config.s3_connect_timeout + config.s3_read_timeout)
        self._encryption = _encryption(config)

    async def begin(self, key: str, media_type: str) -> str:
        """Begin an upload; the object will have the media type, and be encrypted by the server if so configured."""
        require_key(key)
        async with self._asked():
            begun = await self._inside.create_multipart_upload(
                Bucket=self._bucket, Key=key, ContentType=media_type, **self._encryption
            )
        return str(begun["UploadId"])

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> Part:  # noqa: ARG002 - parts have no place here
        """Send a part, with what proves to the server that it came as it left."""
        proof = await asyncio.to_thread(_crc32 if self._crc else _md5, data)
        async with self._asked():
            kept = await self._inside.upload_part(
                Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=_Body(data), **proof
            )
        return Part(number, kept["ETag"], len(data))

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        """List what has arrived. SeaweedFS lists a part for each time it was sent, with the time to the second."""
        return latest(
            [
                (part["LastModified"].timestamp(), Part(part["PartNumber"], part["ETag"], part["Size"]))
                async for page in self._pages("list_parts", Key=key, UploadId=upload_id)
                for part in page.get("Parts", ())
            ]
        )

    async def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        """Complete an upload. AWS, for a while, and SeaweedFS, as long as the object is there, do it again gladly."""
        require_gapless(parts)
        told = {"Parts": [{"PartNumber": part.number, "ETag": part.etag} for part in parts]}
        async with self._asked():
            await self._inside.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload=told
            )

    async def abort(self, key: str, upload_id: str) -> None:
        """Abort an upload."""
        try:
            async with self._asked():
                await self._inside.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except NoSuchUpload:
            return

    async def stat(self, key: str) -> StoredObject:
        """Ask for the head of an object."""
        require_key(key)
        try:
            async with self._asked():
                head = await self._inside.head_object(Bucket=self._bucket, Key=key)
        except NoSuchObject:
            await self._require_bucket()  # an answer to HEAD has no body to say what it is that is missing
            raise
        return StoredObject(key, head["ContentLength"], head["LastModified"])

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Read an object range by range, each with its deadline and asked for when the one before has been taken.

        No connection is held between ranges. All are of one object: StoreError where it was replaced or dropped
        meanwhile.
        """
        if start == end:
            await self.stat(key)
            return
        require_key(key)
        got = await self._range(key, start, end)
        if got is None:
            return  # it begins where the object has ended
        total, etag = got.total, got.etag
        end = total if end is None else min(end, total)
        while True:
            for at in range(0, len(got.content), PIECE):
                yield got.content[at : at + PIECE]
            start += len(got.content)
            if start >= end:
                return
            try:
                got = await self._range(key, start, end)
            except NoSuchObject as error:
                raise StoreError("the object was dropped while it was read") from error
            if got is None or (got.total, got.etag) != (total, etag):
                raise StoreError("the object was replaced while it was read")

    async def delete(self, key: str) -> None:
        """Delete an object; in a bucket with versions its bytes stay until a rule of the bucket takes them."""
        require_key(key)
        try:
            async with self._asked():
                await self._inside.delete_object(Bucket=self._bucket, Key=key)
        except NoSuchObject:
            return

    async def objects(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """List objects, a page at a time."""
        async for page in self._pages("list_objects_v2", Prefix=prefix):
            for found in page.get("Contents", ()):
                yield StoredObject(found["Key"], found["Size"], found["LastModified"])

    async def open_uploads(self) -> AsyncIterator[OpenUpload]:
        """List uploads, a page at a time."""
        async for page in self._pages("list_multipart_uploads"):
            for found in page.get("Uploads", ()):
                yield OpenUpload(found["Key"], found["UploadId"], found["Initiated"])

    async def play_url(self, key: str, seconds: int, *, media_type: str, filename: str | None) -> str | None:
        """Sign a GET at the public endpoint; with a file name it is a download."""
        require_key(key)
        return await self._signed(
            "get_object",
            seconds,
            Key=key,
            ResponseContentType=media_type,
            ResponseContentDisposition="inline"
            if filename is None
            else f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
        )

    async def part_url(self, key: str, upload_id: str, number: int, seconds: int, *, size: int) -> str | None:
        """Sign a PUT of a part at the public endpoint; the part is listed by `parts` when it has come.

        The length of the body is signed too, so whoever has the URL puts nothing larger into the bucket. None with the
        old signature too: it covers the Content-Type, and phones send what they like.
        """
        if not self._signs_parts:
            return None
        return await self._signed(
            "upload_part", seconds, Key=key, UploadId=upload_id, PartNumber=number, ContentLength=size
        )

    async def check(self) -> str:
        """Try the bucket out. It is asked for first: SeaweedFS makes one that is not there when an upload begins."""
        await self._require_bucket()
        await rehearse(self)
        return f"bucket {self._bucket}: written, read and deleted"

    async def _range(self, key: str, start: int, end: int | None) -> "_Range | None":
        """Fetch what of [start, end) fits a request, whole; None where the object ends before it."""
        stop = start + RANGE if end is None else min(start + RANGE, end)
        try:
            async with self._asked():
                got = await self._inside.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={start}-{stop - 1}")
                with closing(got["Body"]) as body:
                    told = _CONTENT_RANGE.fullmatch(got.get("ContentRange", ""))
                    if got["ResponseMetadata"]["HTTPStatusCode"] != 206 or told is None:
                        raise StoreError("the S3 server does not serve ranges")
                    first, last, total = map(int, told.groups())
                    if (first, last) != (start, min(stop, total) - 1) or got["ContentLength"] != last - first + 1:
                        raise StoreError(f"the S3 server serves other bytes than {start} to {stop}: {told[0]}")
                    return _Range(await body.read(), total, got["ETag"])
        except StoreError as error:
            if _code(error.__cause__) == "InvalidRange":
                return None
            raise

    async def _require_bucket(self) -> None:
        try:
            async with self._asked():
                await self._inside.head_bucket(Bucket=self._bucket)
        except NoSuchObject as error:
            raise StoreError(f"there is no bucket {self._bucket}") from error

    async def _signed(self, operation: str, seconds: int, **asked: Any) -> str | None:
        if self._outside is None:
            return None
        async with self._asked():  # keys of a role may have to be fetched anew
            url: str = await self._outside.generate_presigned_url(
                operation, Params={"Bucket": self._bucket, **asked}, ExpiresIn=seconds
            )
        return url

    async def _pages(self, operation: str, **asked: Any) -> AsyncIterator[Mapping[str, Any]]:
        pages = aiter(self._inside.get_paginator(operation).paginate(Bucket=self._bucket, **asked))
        while True:
            async with self._asked():
                page = await anext(pages, None)
            if page is None:
                return
            yield page

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[None]:
        """Wait for the server until the deadline, and tell what went wrong in the words of objects.py.

        The deadline leaves room for one attempt that hangs and for another: botocore's own hold for each attempt, and
        for silence only.
        """
        try:
            async with asyncio.timeout(self._deadline):
                yield
        except ClientError as error:
            raise _told(error) from error
        except TimeoutError as error:
            raise StoreError(f"the S3 server did not do it within {self._deadline:g} s") from error
        except (BotoCoreError, BrokenLine, OSError) as error:
            raise StoreError(f"the S3 server is not within reach: {error}") from error


class _Range(msgspec.Struct, frozen=True):
    """Bytes of an object, and by what one sees that they are still of the same: their number in all, and its ETag."""

    content: bytes
    total: int
    etag: str


class _Body:
    """Bytes on their way: a file to botocore, which measures and rewinds it; to aiohttp what comes piece by piece."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def __len__(self) -> int:
        return len(self._data)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> memoryview:
        piece = self.read(_SENT)
        if not piece:
            raise StopAsyncIteration
        await asyncio.sleep(0)  # a socket that takes everything at once would keep the loop for itself
        return piece

    def read(self, size: int) -> memoryview:
        """Return what comes next; botocore takes what has a `read` for a file."""
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def seek(self, place: int) -> None:
        """Begin again from a place, for another attempt."""
        self._at = place


def _told(error: ClientError) -> Exception:
    code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchUpload":
        return NoSuchUpload(str(error))
    if code in {"NoSuchKey", "404"}:
        return NoSuchObject(str(error))
    return (StoreFull if code in _FULL or status == 507 else StoreError)(f"the S3 server refuses: {error}")


def _code(error: BaseException | None) -> str | None:
    return error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None


def _encryption(config: _Config) -> dict[str, str]:
    if config.s3_encryption is None:
        return {}
    key = {} if config.s3_kms_key is None else {"SSEKMSKeyId": config.s3_kms_key}
    return {"ServerSideEncryption": config.s3_encryption, **key}


def _crc32(data: bytes) -> dict[str, str]:
    return {"ChecksumCRC32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()}


def _md5(data: bytes) -> dict[str, str]:
    return {"ContentMD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}
