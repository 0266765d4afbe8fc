"""A local folder as a store of bytes.

An object `a/b` is the file `a/b`, which a rename puts there whole. Until then its parts are files of a folder of their
own, `.uploads/a/b/.<upload id>/`, whose being there is what keeps the upload open: whoever is late finds it gone. A
part is a file too, renamed into place when it is on the disk, so one sent again takes the place of the first and two at
once cannot mix. An upload of a single part, as most recordings are, is completed without copying a byte.

The disk may be a network's, and hang. So everything is done in threads of its own, waited for until a deadline; a
thread that hangs goes on hanging, but nobody with it. And it may not be mounted: that something is missing is said only
while the folder's identity is there.
"""

import asyncio
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, ParamSpec, TypeVar

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

DEADLINE: Final = 30.0
"""Seconds that anything here waits for the disk."""

PIECE: Final = 256 * 1024
"""Bytes that `read` gives at a time, at most."""

THREADS: Final = 16
"""Jobs that wait for the disk at a time. More queue, each no longer than its caller's deadline: then it is dropped."""

_SLOW = 10 * 1024 * 1024
"""Bytes a second in which the slowest disk is expected to copy the parts of an object together."""

_IDENTITY = ".dialdesk-folder"
_UPLOADS = ".uploads"
_UPLOAD = re.compile(r"\.[0-9a-f]{32}")
_GONE = (FileNotFoundError, NotADirectoryError)

P = ParamSpec("P")
T = TypeVar("T")


async def open_folder(root: str | Path, *, deadline: float = DEADLINE) -> "Folder":
    """Open a folder, which is made if it is not there, and so is its identity. Raises StoreError."""
    disk, root = _Disk(deadline), Path(root)
    return Folder(root, await disk.do(_identify, root), disk)


class Folder:
    """A folder whose `id` is kept in it: rows that name it are about this folder, wherever it is mounted."""

    def __init__(self, root: Path, folder_id: str, disk: "_Disk") -> None:
        self.id = folder_id
        self._root = root
        self._disk = disk

    async def begin(self, key: str, media_type: str) -> str:  # noqa: ARG002 - a file has no media type
        """Make the folder of an upload."""
        return await self._disk.do(self._begin, key)

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> Part:  # noqa: ARG002 - each part has a file
        """Write a part; it is on the disk when this returns."""
        return await self._disk.do(self._put_part, key, upload_id, number, data)

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        """List the files of parts."""
        return await self._disk.do(self._parts, key, upload_id)

    async def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        """Copy the parts together, where there are several, and rename."""
        slow = sum(part.size for part in parts) / _SLOW
        await self._disk.do_for(slow, self._complete, key, upload_id, parts)

    async def abort(self, key: str, upload_id: str) -> None:
        """Remove the folder of an upload."""
        await self._disk.do(self._drop_upload, key, upload_id)

    async def stat(self, key: str) -> StoredObject:
        """Look at a file."""
        status = await self._disk.do(self._status, key)
        return StoredObject(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Read a file in pieces, opening it for each, so that nothing is left open by whoever stops in between."""
        status = await self._disk.do(self._status, key)
        end = status.st_size if end is None else min(end, status.st_size)
        while start < end:
            piece = await self._disk.do(self._piece, key, start, min(PIECE, end - start), status)
            start += len(piece)
            yield piece

    async def delete(self, key: str) -> None:
        """Remove a file, and the folders that it leaves empty."""
        await self._disk.do(self._delete, key)

    async def objects(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """List files, a folder at a time."""
        waiting = [""]
        while waiting:
            within = waiting.pop()
            if within.startswith(prefix) or prefix.startswith(within):
                folders, found = await self._disk.do(self._list, within)
                waiting += folders
                for one in found:
                    if one.key.startswith(prefix):
                        yield one

    async def open_uploads(self) -> AsyncIterator[OpenUpload]:
        """List the folders of uploads."""
        waiting = [""]
        while waiting:
            folders, found = await self._disk.do(self._list_uploads, waiting.pop())
            waiting += folders
            for one in found:
                yield one

    async def play_url(self, key: str, seconds: int, *, media_type: str, filename: str | None) -> str | None:  # noqa: ARG002 - the face of a store
        """Return None: a folder serves nobody."""
        return None

    async def part_url(self, key: str, upload_id: str, number: int, seconds: int, *, size: int) -> str | None:  # noqa: ARG002 - the face of a store
        """Return None: a folder serves nobody."""
        return None

    async def check(self) -> str:
        """Try the folder out, and say how much room there is."""
        await rehearse(self)
        free = (await self._disk.do(shutil.disk_usage, self._root)).free
        return f"folder {self._root}: written, read and deleted, {free / 1024**3:.1f} GiB free"

    # --- in a thread --------------------------------------------------------------------------------------------------

    def _begin(self, key: str) -> str:
        self._require_identity()
        upload_id = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
        folder = self._upload(key, upload_id)
        self._within(folder, partial(folder.mkdir, 0o700))
        return upload_id

    def _put_part(self, key: str, upload_id: str, number: int, data: bytes) -> Part:
        part = Part(number, hashlib.md5(data, usedforsecurity=False).hexdigest(), len(data))
        folder = self._upload(key, upload_id)
        with self._upload_there(), _draft(folder) as draft:
            with _durable(draft) as file:
                file.write(data)
            draft.replace(folder / _name(part))
            _sync(folder)
        return part

    def _parts(self, key: str, upload_id: str) -> list[Part]:
        with self._upload_there():
            return latest(_arrived(self._upload(key, upload_id)))

    def _complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        path, folder = self._path(key), self._upload(key, upload_id)
        require_gapless(parts)
        with self._upload_there():
            missing = set(parts) - {part for _, part in _arrived(folder)}
            if missing:
                raise StoreError(f"parts {sorted(part.number for part in missing)} have not arrived")
            if len(parts) == 1:
                self._move(folder / _name(parts[0]), path)
            else:
                with _draft(folder) as whole:
                    _copy([folder / _name(part) for part in parts], whole)
                    self._move(whole, path)
        with suppress(OSError):  # the object is there; what is left of the upload is swept by its age
            self._drop_upload(key, upload_id)

    def _drop_upload(self, key: str, upload_id: str) -> None:
        folder = self._upload(key, upload_id)
        try:
            _empty(folder)
        except FileNotFoundError:  # dropped already, or by somebody else at the same time
            self._require_identity()
        self._prune(folder.parent)

    def _status(self, key: str) -> os.stat_result:
        path = self._path(key)
        try:
            status = path.stat()
        except _GONE as error:
            self._require_identity()
            raise NoSuchObject(key) from error
        if not stat.S_ISREG(status.st_mode):
            raise NoSuchObject(key)
        return status

    def _piece(self, key: str, start: int, length: int, status: os.stat_result) -> bytes:
        with self._path(key).open("rb", buffering=0) as file:
            now = os.fstat(file.fileno())
            if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                raise StoreError(f"{key} was replaced while it was read")
            piece = os.pread(file.fileno(), length, start)
        if not piece:
            raise StoreError(f"{key} is cut short at {start} of {status.st_size} bytes")
        return piece

    def _delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
        except _GONE:
            self._require_identity()
        self._prune(path.parent)

    def _list(self, within: str) -> tuple[list[str], list[StoredObject]]:
        folders, found = [], []
        for entry in self._entries(self._root / within):
            with suppress(FileNotFoundError):  # deleted just now
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(f"{within}{entry.name}/")
                elif entry.is_file():
                    status = entry.stat()
                    modified = datetime.fromtimestamp(status.st_mtime, UTC)
                    found.append(StoredObject(f"{within}{entry.name}", status.st_size, modified))
        return folders, found

    def _list_uploads(self, within: str) -> tuple[list[str], list[OpenUpload]]:
        folders, found = [], []
        for entry in self._entries(self._root / _UPLOADS / within):
            if _UPLOAD.fullmatch(entry.name):
                upload_id = entry.name[1:]
                begun_at = datetime.fromtimestamp(int(upload_id[:12], 16) / 1000, UTC)
                found.append(OpenUpload(within.removesuffix("/"), upload_id, begun_at))
            elif entry.is_dir():
                folders.append(f"{within}{entry.name}/")
        return folders, found

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        self._require_identity()
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            return list(entries)
        return []  # pruned just now, or there never was an upload

    def _path(self, key: str) -> Path:
        require_key(key)
        return self._root / key

    def _upload(self, key: str, upload_id: str) -> Path:
        require_key(key)
        if not upload_id.isalnum():
            raise NoSuchUpload(upload_id)
        return self._root / _UPLOADS / key / f".{upload_id}"

    @contextmanager
    def _upload_there(self) -> Iterator[None]:
        """What is not found within is not there because the upload is not."""
        try:
            yield
        except FileNotFoundError as error:
            self._require_identity()
            raise NoSuchUpload(str(error)) from error

    def _move(self, source: Path, path: Path) -> None:
        self._within(path, partial(source.rename, path), source.exists)

    def _within(self, path: Path, put: Callable[[], object], possible: Callable[[], bool] = lambda: True) -> None:
        """Put something at a path, making the folders it needs - again, if they are pruned before it is there."""
        for again in reversed(range(20)):
            self._make(path.parent)
            try:
                put()
                _sync(path.parent)
            except FileNotFoundError:
                if not again or not possible():
                    raise
            else:
                return

    def _make(self, folder: Path) -> None:
        if folder == self._root or folder.is_dir():
            return
        self._make(folder.parent)
        with suppress(FileExistsError, FileNotFoundError):  # made by another, or pruned: `_within` sees to it
            folder.mkdir(0o700)
            _sync(folder.parent)

    def _prune(self, folder: Path) -> None:
        """Remove folders from here upwards until one is not empty."""
        with suppress(OSError):  # not empty, or removed by another who goes on
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    def _require_identity(self) -> None:
        try:
            found = (self._root / _IDENTITY).read_text()
        except _GONE as error:
            raise StoreError(f"{self._root} is not the folder it was: is its disk mounted?") from error
        if found != self.id:
            raise StoreError(f"{self._root} is another folder than it was")


class _Disk:
    """Threads that wait for the disk, so that the loop does not."""

    def __init__(self, deadline: float) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="folder")
        self._deadline = deadline

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it in a thread. Raises StoreError where the disk refuses, or does not answer within the deadline."""
        return await self.do_for(0.0, work, *args, **kwargs)

    async def do_for(self, longer: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it in a thread, and wait so many seconds longer for it."""
        deadline = self._deadline + longer
        try:
            async with asyncio.timeout(deadline):
                return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        except TimeoutError as error:
            raise StoreError(f"the disk did not do it within {deadline:g} s") from error
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            raise (StoreFull if full else StoreError)(str(error)) from error


def _identify(root: Path) -> str:
    """Return the identity of a folder; where many make it at once they all get the same."""
    root.mkdir(0o700, parents=True, exist_ok=True)
    identity = root / _IDENTITY
    if not identity.exists():
        with _draft(root) as draft:
            with _durable(draft) as file:
                file.write(secrets.token_hex(8).encode())
            with suppress(FileExistsError):  # another made it: his counts
                identity.hardlink_to(draft)
        _sync(root)
    return identity.read_text()


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A path for a file that is on its way to its place, and is removed if it does not get there."""
    draft = folder / f".draft-{secrets.token_hex(8)}"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _name(part: Part) -> str:
    return f"part-{part.number}-{part.size}-{part.etag}"


def _arrived(folder: Path) -> Iterator[tuple[int, Part]]:
    """The parts in a folder, each with when it came; one that was sent again with other bytes is there twice."""
    with os.scandir(folder) as entries:
        for entry in entries:
            match entry.name.split("-"):
                case ["part", number, size, etag]:
                    yield entry.stat().st_mtime_ns, Part(int(number), etag, int(size))


@contextmanager
def _durable(path: Path) -> Iterator[BinaryIO]:
    """A new file, for us alone, which is on the disk when it is closed."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _copy(parts: Sequence[Path], whole: Path) -> None:
    with _durable(whole) as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, 1024 * 1024)


def _empty(folder: Path) -> None:
    """Remove a folder of files, and those that come in meanwhile. Raises FileNotFoundError where it is gone."""
    for again in reversed(range(50)):  # as often as parts may be on their way; NFS keeps open files as others' names
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError as error:
            if not again or error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
