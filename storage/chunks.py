"""A recording at rest: sealed in chunks of 64 KiB, so that any range of it can be read without the rest.

The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, CRYPTO 2015) over AES-256-GCM, as age lays it out. Each recording has a key of its own,
`HKDF-SHA256(tenant's key, salt, "dialdesk chunks 1" | 0 | name it is bound to)`. Its plain bytes are cut into chunks of
CHUNK bytes, of which only the last may be shorter; each is sealed under the nonce `number of the chunk (11 bytes, from
0) | 1 if it is the last, else 0 (1 byte)` and followed by its tag. So chunks cannot be swapped or dropped, nor the end
be moved. There is no header: salt, key id and plain size are kept in the recording's row.

The last chunk is the one the recording ends with, also where that one is full: 128 KiB are two chunks, not two and an
empty one. Only the empty recording has an empty chunk. So whoever seals a stream holds its newest part back until the
next byte or the end of the stream has come, and then knows whether it is the last.

    PART = 80 * CHUNK  # 5 MiB; part n, from 1, begins with chunk (n - 1) * 80
    cipher.seal((n - 1) * 80, part, last=no_more_came)

A salt is for one recording, sealed once. The same chunk may be sealed again only of the same bytes, such as for a part
that is sent once more: GCM under one nonce for two texts gives both away, and the power to forge (NIST SP 800-38D §8).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CHUNK = 65536
"""Plain bytes of a chunk, all but the last: what is read at most too much to serve a byte."""

SEALED_CHUNK = CHUNK + 16
"""Sealed bytes of a chunk: its ciphertext and the tag."""

SALT = 32
"""Bytes of a salt, drawn from `secrets.token_bytes` for each recording."""

_TAG = SEALED_CHUNK - CHUNK
_FORMAT = b"dialdesk chunks 1\0"


class Tampered(Exception):  # noqa: N818 - a fact of the bytes, told to whoever asked for them
    """The bytes are not those that were sealed for this recording: changed, moved, cut off, or of another one."""


def sealed_size(plain_size: int) -> int:
    """Return how many bytes a recording of `plain_size` bytes takes when sealed."""
    return plain_size + _TAG * _chunks(plain_size)


class ChunkCipher:
    """Seals one recording, and opens ranges of it.

    `key` is the tenant's, 32 bytes; `salt` is SALT bytes, of this recording alone; `bound_to` names the recording, such
    as by its call's id: what was sealed under another name does not open.
    """

    def __init__(self, key: bytes, salt: bytes, bound_to: str) -> None:
        if len(key) != 32 or len(salt) != SALT:
            raise ValueError("chunks are sealed with a key and a salt of 32 bytes each")
        self._aead = AESGCM(HKDF(SHA256(), 32, salt, _FORMAT + bound_to.encode()).derive(key))
        self._bound_to = bound_to

    def seal(self, first: int, plain: bytes, *, last: bool) -> bytes:
        """Seal whole chunks, of which the first has the number `first`; with `last`, the recording ends with `plain`.

        Only then may the last of them be shorter, and only the empty recording ends with nothing. Raises ValueError
        for what could not be opened again. 5 MiB take 1 to 7 ms where the processor knows AES, most of it for memory:
        on an event loop, give it to a thread. The interpreter's lock is released while a chunk is encrypted.
        """
        if len(plain) % CHUNK and not last:
            raise ValueError("only the last chunk of a recording may be shorter")
        if last and first and not plain:
            raise ValueError("a recording ends with a chunk that is not empty: hold the last part back")
        view = memoryview(plain)
        count = _chunks(len(plain)) if last else len(plain) // CHUNK
        return b"".join(
            self._aead.encrypt(
                _nonce(first + index, last and index == count - 1), view[index * CHUNK : (index + 1) * CHUNK], None
            )
            for index in range(count)
        )

    async def open(
        self, size: int, start: int, end: int, read: Callable[[int, int], AsyncIterator[bytes]]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the plain bytes from `start` to before `end` of a recording of `size` bytes, a chunk at most at once.

        Calls `read(sealed_start, sealed_end)` once, for the chunks the range touches (one, if it is empty), and closes
        what it gave. No byte is yielded before its chunk is verified. Raises Tampered, also where `read` gives fewer
        bytes than asked or more; ValueError for a range beyond the recording; and whatever `read` raises.

        What is wrong outside the chunks that are read is not seen. An object is whole where `open(size, 0, size, read)`
        gets to its end and the store says that it has `sealed_size(size)` bytes.
        """
        if not 0 <= start <= end <= size:
            raise ValueError(f"no range of {size} bytes: {start} to {end}")
        last = _chunks(size) - 1
        number = min(start // CHUNK, last)
        sealed_start = number * SEALED_CHUNK
        sealed_end = min((max(number, (end - 1) // CHUNK) + 1) * SEALED_CHUNK, sealed_size(size))

        sealed_chunks = self._cut(read(sealed_start, sealed_end), sealed_end - sealed_start)
        try:
            async for sealed in sealed_chunks:
                plain = self._open_chunk(number, sealed, number == last)
                if wanted := plain[max(start - number * CHUNK, 0) : end - number * CHUNK]:
                    yield wanted
                number += 1
        finally:
            await sealed_chunks.aclose()

    def _open_chunk(self, number: int, sealed: bytearray, last: bool) -> bytes:
        try:
            return self._aead.decrypt(_nonce(number, last), sealed, None)
        except InvalidTag as error:
            raise Tampered(f"chunk {number} is not what was sealed for {self._bound_to}") from error

    async def _cut(self, pieces: AsyncIterator[bytes], length: int) -> AsyncGenerator[bytearray, None]:
        """Cut pieces of any size, `length` bytes in all, into sealed chunks; only the last may be shorter."""
        waiting = bytearray()
        try:
            async for piece in pieces:
                waiting += piece
                while length and len(waiting) >= (size := min(length, SEALED_CHUNK)):
                    yield waiting[:size]
                    del waiting[:size]
                    length -= size
                if waiting and not length:
                    raise Tampered(f"there is more than was sealed for {self._bound_to}")
        finally:
            if isinstance(pieces, AsyncGenerator):  # else it holds nothing open
                await pieces.aclose()
        if length:
            raise Tampered(f"{length} bytes are missing of what was sealed for {self._bound_to}")


def _chunks(plain_size: int) -> int:
    return max(1, -(-plain_size // CHUNK))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
