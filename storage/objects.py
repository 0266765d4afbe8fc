"""The face of a store of bytes: what recordings ask of a folder (folder.py) and of a bucket (s3.py) alike.

Bytes come in by uploads in parts, also small ones: `begin`, `put_part`, `complete`. The object appears whole with
`complete`, or not at all; after `abort` nothing that is still under way can make it appear, which is what fences off a
node that was paused for too long. Every method has deadlines, and raises what is named here and nothing else, but for
ValueError where a key is none (`require_key`). What has been refused or has not been answered raises StoreError.
"""

import math
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

PART = 5 * 1024 * 1024
"""Bytes of a part, all but the last: the least that S3 takes, so that few of them need to be held in memory."""

_NAME = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*")


class StoreError(Exception):
    """The store did not do it, or did not say. It may be tried again; the text says why."""


class StoreFull(StoreError):  # noqa: N818 - the name tells the fact
    """There is no room for the bytes."""


class NoSuchObject(Exception):  # noqa: N818 - a fact of the store, told to whoever asked for the object
    """There is no object of this key."""


class NoSuchUpload(Exception):  # noqa: N818 - a fact of the store
    """The upload was completed or aborted, or never begun."""


class Part(msgspec.Struct, frozen=True):
    """A part that arrived; `etag` is the store's own word for its bytes, to be handed back as it came."""

    number: int
    etag: str
    size: int


class StoredObject(msgspec.Struct, frozen=True):
    """An object that is there, whole."""

    key: str
    size: int
    modified: datetime


class OpenUpload(msgspec.Struct, frozen=True):
    """An upload that was begun, and neither completed nor aborted."""

    key: str
    upload_id: str
    begun_at: datetime


class Store(Protocol):
    """A store of bytes by key, such as `ten_x/recordings/2026/11/21/call_20261121_k3v9.mp3`."""

    async def begin(self, key: str, media_type: str) -> str:
        """Begin an upload; its id in this store."""
        ...

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> Part:
        """Keep a part: `number` from 1, `offset` its place in the object. One sent again replaces the first.

        Raises NoSuchUpload.
        """
        ...

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        """Return the parts that have arrived, by number, each as it came last. Raises NoSuchUpload.

        Where two came under one number so close together that the store cannot tell which was the last, neither is
        listed, so that it is sent once more.
        """
        ...

    async def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        """Make the object of these parts, numbered from 1 without a gap, in place of one that has the key.

        Raises NoSuchUpload; but one completed before may also be left as it is without a word, for a server that is
        asked again by a client that missed the answer says yes again. StoreError leaves open whether it was done.
        """
        ...

    async def abort(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; one that is not there is dropped already. A completed object stays."""
        ...

    async def stat(self, key: str) -> StoredObject:
        """Return what is known of an object. Raises NoSuchObject."""
        ...

    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Read the bytes from `start` to before `end`, as far as there are any, in pieces of up to 256 KiB.

        Raises NoSuchObject; StoreError where they are cut short.
        """
        ...

    async def delete(self, key: str) -> None:
        """Drop an object; one that is not there is dropped already."""
        ...

    def objects(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """List the objects whose keys begin so, in no order."""
        ...

    def open_uploads(self) -> AsyncIterator[OpenUpload]:
        """List the uploads that are neither completed nor aborted."""
        ...

    async def play_url(self, key: str, seconds: int, *, media_type: str, filename: str | None) -> str | None:
        """Return a URL at which anybody may read the object for so long; None where the store can give none."""
        ...

    async def part_url(self, key: str, upload_id: str, number: int, seconds: int, *, size: int) -> str | None:
        """Return a URL to which anybody may PUT a part of just this size for so long; None where there can be none."""
        ...

    async def check(self) -> str:
        """Say in words that the store can be read and written. Raises StoreError."""
        ...


def require_key(key: str) -> None:
    """Raise ValueError for a key that not every store would keep as it is.

    Names between slashes that are not empty, do not begin with a dot and have no backslash or control character, of at
    most 255 bytes each and 1024 in all: what S3 takes, what SeaweedFS does not rewrite, and what a disk can hold.
    """
    names = key.split("/")
    if len(key.encode()) > 1024 or not all(_NAME.fullmatch(name) and len(name.encode()) <= 255 for name in names):
        raise ValueError(f"{key!r} is no key of an object")


def latest(arrived: Iterable[tuple[float, Part]]) -> list[Part]:
    """Return of parts, each with when it came, the last of each number; none where two came last."""
    last: dict[int, tuple[float, set[Part]]] = {}
    for at, part in arrived:
        before, _ = last.get(part.number, (-math.inf, None))
        if at > before:
            last[part.number] = (at, {part})
        elif at == before:
            last[part.number][1].add(part)
    return [part for number in sorted(last) for part in last[number][1] if len(last[number][1]) == 1]


def require_gapless(parts: Sequence[Part]) -> None:
    """Raise StoreError where these are not all the parts of an object, in order."""
    if not parts or [part.number for part in parts] != list(range(1, len(parts) + 1)):
        raise StoreError(f"parts {[part.number for part in parts]} make no object")


async def rehearse(store: Store) -> None:
    """Do with a small object all that is done with a recording, and drop it. Raises StoreError."""
    key, content = f"dialdesk-check/{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        upload_id = await store.begin(key, "application/octet-stream")
        try:
            await store.put_part(key, upload_id, 1, 0, content)
            await store.complete(key, upload_id, await store.parts(key, upload_id))
            came_back = b"".join([piece async for piece in store.read(key)])
        finally:
            await store.abort(key, upload_id)
            await store.delete(key)
    except (NoSuchObject, NoSuchUpload) as error:
        raise StoreError("what was written just now is not there") from error
    if came_back != content:
        raise StoreError("what was written just now is not what is read")
