"""The file of a recording, and the two ways of bringing it: whole in one request, or in parts that outlive a cut line.

Neither way tries again by itself; uploads.py does. Both may be begun anew at any time, and again after they are done.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from clients.api import Api, Refused, Unreachable
from protocol.messages import new_message_id

log = logging.getLogger(__name__)

UPLOAD = "/api/v1/calls/mobile/recording/upload"
"""Where a phone brings a recording whole."""

UPLOADS = "/api/v1/calls/mobile/recording/uploads"
"""Where a phone brings one in parts."""

_MEDIA_TYPES = [
    (re.compile(beginning, re.DOTALL), media_type)
    for beginning, media_type in (
        (rb"RIFF....WAVE", "audio/wav"),
        (rb"OggS", "audio/ogg"),
        (rb"#!AMR\n", "audio/amr"),
        (rb"#!AMR-WB\n", "audio/amr-wb"),
        (rb"....ftyp3g", "audio/3gpp"),
        (rb"....ftyp", "audio/mp4"),
        (rb"\xff[\xf0\xf1\xf8\xf9]", "audio/aac"),
        (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "audio/mpeg"),
    )
]
"""By how a file begins. An app that knows what its recorder writes need not look."""

_BLOCK = 256 * 1024

Pieces = AsyncGenerator[bytes]
Wire = Callable[[Pieces], Pieces]
"""What the bytes of a file go through on their way out; tests cut it."""


class AudioFile(msgspec.Struct, frozen=True):
    """A file as it was when it was opened. It is never held in memory, and may be read any number of times."""

    path: Path
    size: int
    sha256: str
    media_type: str
    wire: Wire

    @classmethod
    async def open(cls, path: Path, wire: Wire = lambda pieces: pieces) -> "AudioFile":
        """Measure a file. Raises OSError where it cannot be read."""
        size, sha256, media_type = await asyncio.to_thread(_measure, path)
        return cls(path, size, sha256, media_type, wire)

    def read(self, start: int, end: int) -> Pieces:
        """Read the bytes from `start` to before `end`."""
        return self.wire(_read(self.path, start, end))


async def bring_whole(
    api: Api, path: str, file: AudioFile, headers: Mapping[str, str], **fields: str
) -> dict[str, Any]:
    """Send a file in one form (RFC 7578), behind its fields, and return the answer: recordingUrl, size, sha256.

    Raises Refused and Unreachable.
    """
    boundary = new_message_id()
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="recording"\r\n'
    head += f"Content-Type: {file.media_type}\r\n\r\n"
    tail = f"\r\n--{boundary}--\r\n"
    return await api.send(
        "POST",
        path,
        _between(head.encode(), file.read(0, file.size), tail.encode()),
        len(head.encode()) + file.size + len(tail),
        headers={
            **headers,
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "X-Content-SHA256": file.sha256,
        },
    )


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    number: int
    size: int
    arrived: bool = False
    url: str | None = None


class _Upload(msgspec.Struct, frozen=True, rename="camel"):
    upload_id: str | None
    parts: list[_Part]
    stored: bool = False


async def bring_in_parts(
    api: Api,
    call_id: str,
    file: AudioFile,
    headers: Mapping[str, str],
    upload_id: str | None,
    begun: Callable[[str | None], None],
) -> None:
    """Send what has not arrived yet of an upload, or of a new one, and complete it.

    `begun` is told the id of a new upload before anything is sent, and None where it is over: whoever comes back with
    the id goes on where this ended. Raises Refused, with `retry` also where going on mends it, and Unreachable.
    """
    try:
        if upload_id is not None:
            answer = await api.ask("GET", f"{UPLOADS}/{upload_id}", headers=headers)
        else:
            answer = await api.ask("POST", UPLOADS, _told(call_id, file), headers=headers)
        upload = msgspec.convert(answer, _Upload)
        if upload.stored:
            return
        if upload_id is None:
            upload_id = upload.upload_id
            begun(upload_id)
        start = 0
        for part in upload.parts:
            if not part.arrived:
                await _bring_part(api, f"{UPLOADS}/{upload_id}/parts/{part.number}", part, file, start, headers)
            start += part.size
        await api.ask("POST", f"{UPLOADS}/{upload_id}/complete", headers=headers, reads=file.size)
    except Refused as refusal:
        over = refusal.code in {"NOT_FOUND", "CHECKSUM_MISMATCH"} and upload_id is not None
        if over:
            begun(None)
        if over or refusal.code == "UPLOAD_INCOMPLETE":
            raise Refused(refusal.code, refusal.message, retry=True, status=refusal.status) from refusal
        raise


async def _bring_part(
    api: Api, path: str, part: _Part, file: AudioFile, start: int, headers: Mapping[str, str]
) -> None:
    """Send a part to its URL, if it has one; the server takes it too where that is out of reach, or too old."""
    end = start + part.size
    if part.url is not None:
        try:
            await api.put_away(part.url, file.read(start, end), part.size)
        except (Refused, Unreachable) as failure:
            log.info("part %d goes to the server: %s", part.number, failure)
        else:
            return
    typed = {**headers, "Content-Type": "application/octet-stream"}
    await api.send("PUT", path, file.read(start, end), part.size, headers=typed)


def _told(call_id: str, file: AudioFile) -> dict[str, str | int]:
    return {"callId": call_id, "size": file.size, "sha256": file.sha256, "mediaType": file.media_type}


async def _between(head: bytes, middle: Pieces, tail: bytes) -> Pieces:
    yield head
    async for piece in middle:
        yield piece
    yield tail


async def _read(path: Path, start: int, end: int) -> Pieces:
    while start < end and (block := await asyncio.to_thread(_block, path, start, min(_BLOCK, end - start))):
        yield block
        start += len(block)


def _block(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _measure(path: Path) -> tuple[int, str, str]:
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        media_type = next((told for begins, told in _MEDIA_TYPES if begins.match(head)), "application/octet-stream")
        return file.tell(), sha256, media_type
