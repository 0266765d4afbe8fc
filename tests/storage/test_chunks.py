"""Sealing a recording in chunks: any range of it opens, and nothing that was touched does."""

import hmac
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from hashlib import sha256
from itertools import cycle

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.chunks import CHUNK, SEALED_CHUNK, ChunkCipher, Tampered, sealed_size
from storage.objects import StoreError

Read = Callable[[int, int], AsyncIterator[bytes]]

KEY = b"a tenant's key of 32 bytes, fake"
SALT = b"a recording's salt, 32 bytes too"
CALL = "call_20261121_k3v9"

BYTES = random.Random(3).randbytes(5 * CHUNK)
"""What recordings are made of here: no chunk of it is like another."""

SIZES = st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK + 5]) | st.integers(
    0, len(BYTES)
)
PIECES = st.lists(st.integers(0, 3 * CHUNK), min_size=1, max_size=5).filter(any)
slow_is_fine = settings(deadline=None)


@st.composite
def recordings_with_range(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """A recording and a range of it, often one that begins or ends beside a border of chunks."""
    size = draw(SIZES)
    beside = [at for border in range(0, size + 1, CHUNK) for at in (border - 1, border, border + 1) if 0 <= at <= size]
    places = st.sampled_from([*beside, size]) | st.integers(0, size)
    start, end = sorted((draw(places), draw(places)))
    return BYTES[:size], start, end


def cipher(*, key: bytes = KEY, salt: bytes = SALT, name: str = CALL) -> ChunkCipher:
    """The cipher of the recording of these tests, or of one that differs as said."""
    return ChunkCipher(key, salt, name)


def reader(sealed: bytes, pieces: Sequence[int] = (CHUNK,)) -> Read:
    """Read from `sealed` in pieces of these lengths, over and over; what is not there is not given."""

    async def read(start: int, end: int) -> AsyncIterator[bytes]:
        lengths = cycle(pieces)
        while start < min(end, len(sealed)):
            piece = sealed[start : min(start + next(lengths), end)]
            start += len(piece)
            yield piece

    return read


async def opened(size: int, start: int, end: int, read: Read) -> bytes:
    """All bytes of a range."""
    return b"".join([piece async for piece in cipher().open(size, start, end, read)])


async def refused(size: int, start: int, end: int, read: Read) -> bytes:
    """What is yielded before the range proves to be tampered with."""
    got = b""
    try:
        async for piece in cipher().open(size, start, end, read):
            got += piece
    except Tampered:
        return got
    pytest.fail("all of it was opened")


# --- what opens -------------------------------------------------------------------------------------------------------


@slow_is_fine
@given(recordings_with_range(), PIECES)
@example((b"", 0, 0), [1])
@example((BYTES[: 2 * CHUNK], 0, 2 * CHUNK), [SEALED_CHUNK])
@example((BYTES[: 2 * CHUNK], 2 * CHUNK, 2 * CHUNK), [SEALED_CHUNK + 1])
@example((BYTES[: CHUNK + 1], CHUNK, CHUNK + 1), [1])
async def test_any_range_is_exactly_what_was_sealed(recording: tuple[bytes, int, int], pieces: list[int]) -> None:
    """Whatever the size, the range, and the pieces in which the store gives the bytes."""
    plain, start, end = recording
    sealed = cipher().seal(0, plain, last=True)

    assert plain[start:end] == await opened(len(plain), start, end, reader(sealed, pieces))


@slow_is_fine
@given(SIZES)
def test_the_sealed_size_is_known_beforehand(size: int) -> None:
    """A recording takes 16 bytes more for each chunk."""
    assert sealed_size(size) == len(cipher().seal(0, BYTES[:size], last=True))


@slow_is_fine
@given(SIZES, st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_a_stream_sealed_in_parts_is_the_recording_sealed_at_once(size: int, lengths: list[int]) -> None:
    """Parts of whole chunks, of which only the one that proves to be the newest at the end is the last."""
    plain, chunks = BYTES[:size], cycle(lengths)
    sealed, first = b"", 0
    while len(plain) > first * CHUNK + (length := next(chunks)) * CHUNK:
        sealed += cipher().seal(first, plain[first * CHUNK : (first + length) * CHUNK], last=False)
        first += length
    sealed += cipher().seal(first, plain[first * CHUNK :], last=True)

    assert cipher().seal(0, plain, last=True) == sealed


@pytest.mark.parametrize("size", [0, 3, CHUNK, 2 * CHUNK, 2 * CHUNK + 3])
def test_the_bytes_are_those_of_the_construction(size: int) -> None:
    """HKDF written out as in RFC 5869, and GCM of the plain cipher, give the same bytes."""
    extracted = hmac.digest(SALT, KEY, sha256)
    subkey = hmac.digest(extracted, b"dialdesk chunks 1\0" + CALL.encode() + b"\x01", sha256)
    chunks = [BYTES[at : min(at + CHUNK, size)] for at in range(0, size, CHUNK)] or [b""]
    expected = b""
    for number, chunk in enumerate(chunks):
        nonce = number.to_bytes(11, "big") + (b"\x01" if number == len(chunks) - 1 else b"\x00")
        gcm = Cipher(AES(subkey), GCM(nonce)).encryptor()
        expected += gcm.update(chunk) + gcm.finalize() + gcm.tag

    assert expected == cipher().seal(0, BYTES[:size], last=True)


def test_the_format_stays() -> None:
    """What was sealed by a release opens with every later one, so these bytes never change."""
    sealed = cipher().seal(0, b"Hello, this call may be recorded.", last=True)

    assert (
        "f0f62c738de3386e6e968c4801b3a396c400496cd7c742d995cc3cb3a96206d0855cadcfc19c33e14afebabe80b802bf0e"
        == sealed.hex()
    )


@pytest.mark.parametrize(
    ("start", "end", "first", "after"),
    [
        (0, 1, 0, SEALED_CHUNK),
        (CHUNK - 1, CHUNK + 1, 0, 2 * SEALED_CHUNK),
        (CHUNK, 2 * CHUNK, SEALED_CHUNK, 2 * SEALED_CHUNK),
        (2 * CHUNK + 9, 3 * CHUNK + 5, 2 * SEALED_CHUNK, 3 * SEALED_CHUNK + 21),
        (3 * CHUNK + 5, 3 * CHUNK + 5, 3 * SEALED_CHUNK, 3 * SEALED_CHUNK + 21),
    ],
)
async def test_only_the_chunks_of_the_range_are_read(start: int, end: int, first: int, after: int) -> None:
    """A player that jumps to the end does not cost the whole recording."""
    size = 3 * CHUNK + 5
    read = reader(cipher().seal(0, BYTES[:size], last=True))
    asked = []

    def watched(start: int, end: int) -> AsyncIterator[bytes]:
        asked.append((start, end))
        return read(start, end)

    assert BYTES[start:end] == await opened(size, start, end, watched)
    assert [(first, after)] == asked


# --- what does not open -----------------------------------------------------------------------------------------------


@slow_is_fine
@given(recordings_with_range(), PIECES, st.data())
async def test_a_flipped_bit_is_refused(
    recording: tuple[bytes, int, int], pieces: list[int], data: st.DataObject
) -> None:
    """Any bit of the chunks that are read: what came before its chunk is right, and nothing comes after."""
    plain, start, end = recording
    last = max(0, (len(plain) - 1) // CHUNK)
    first = min(start // CHUNK, last)
    sealed = bytearray(cipher().seal(0, plain, last=True))
    touched = min((max(first, (end - 1) // CHUNK) + 1) * SEALED_CHUNK, len(sealed))
    place = data.draw(st.integers(first * SEALED_CHUNK, touched - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))

    got = await refused(len(plain), start, end, reader(bytes(sealed), pieces))

    assert plain[start : place // SEALED_CHUNK * CHUNK] == got


@slow_is_fine
@given(SIZES, PIECES, st.data())
async def test_a_truncated_object_is_refused(size: int, pieces: list[int], data: st.DataObject) -> None:
    """Cut off anywhere, also between chunks, the whole recording does not come to its end."""
    sealed = cipher().seal(0, BYTES[:size], last=True)
    length = data.draw(st.integers(0, len(sealed) - 1) | st.sampled_from(range(0, len(sealed), SEALED_CHUNK)))

    got = await refused(size, 0, size, reader(sealed[:length], pieces))

    assert BYTES[: length // SEALED_CHUNK * CHUNK] == got


@pytest.mark.parametrize(("size", "told"), [(2 * CHUNK + 5, 2 * CHUNK), (2 * CHUNK, CHUNK), (5, 4), (5, 0), (CHUNK, 0)])
async def test_a_recording_cannot_be_told_shorter(size: int, told: int) -> None:
    """Where the row's size is cut with the object, the chunk that would be the last was not sealed as the last."""
    sealed = cipher().seal(0, BYTES[:size], last=True)

    got = await refused(told, 0, told, reader(sealed[: sealed_size(told)]))

    assert BYTES[: max(0, told - 1) // CHUNK * CHUNK] == got


@pytest.mark.parametrize(("size", "told"), [(CHUNK, CHUNK + 5), (CHUNK, 2 * CHUNK), (5, 6), (0, 1), (0, CHUNK)])
async def test_a_recording_cannot_be_told_longer(size: int, told: int) -> None:
    """Where bytes are appended and the row's size says so, the last chunk is no longer where it was sealed."""
    sealed = cipher().seal(0, BYTES[:size], last=True)
    appended = bytes(sealed_size(told) - len(sealed))

    assert b"" == await refused(told, 0, told, reader(sealed + appended))


async def test_more_than_was_asked_is_refused() -> None:
    """A store that gives more than the range was not asked by us."""
    plain = BYTES[: CHUNK + 5]
    sealed = cipher().seal(0, plain, last=True)

    async def read(_start: int, _end: int) -> AsyncIterator[bytes]:
        yield sealed
        yield b"x"

    assert plain == await refused(len(plain), 0, len(plain), read)


async def test_a_recording_that_was_never_ended_is_refused() -> None:
    """Whole chunks, each of them right, without the last one are half a recording."""
    sealed = cipher().seal(0, BYTES[: 2 * CHUNK], last=False)

    assert BYTES[:CHUNK] == await refused(2 * CHUNK, 0, 2 * CHUNK, reader(sealed))


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (0, 3), (2, 3)])
async def test_swapped_chunks_are_refused(one: int, other: int) -> None:
    """Each chunk opens at its own place only."""
    plain = BYTES[: 4 * CHUNK]
    sealed = cipher().seal(0, plain, last=True)
    chunks = [sealed[at : at + SEALED_CHUNK] for at in range(0, len(sealed), SEALED_CHUNK)]
    chunks[one], chunks[other] = chunks[other], chunks[one]

    assert plain[: one * CHUNK] == await refused(len(plain), 0, len(plain), reader(b"".join(chunks)))


@pytest.mark.parametrize(
    "other", [cipher(key=KEY[::-1]), cipher(salt=SALT[::-1]), cipher(name="call_20261121_k3va"), cipher(name="")]
)
async def test_another_recordings_bytes_are_refused(other: ChunkCipher) -> None:
    """Under another tenant's key, another salt or another call's name nothing opens."""
    plain = BYTES[: CHUNK + 5]
    sealed = other.seal(0, plain, last=True)

    assert b"" == await refused(len(plain), 0, len(plain), reader(sealed))
    assert b"" == await refused(len(plain), CHUNK + 1, CHUNK + 2, reader(sealed))


# --- what the caller does ---------------------------------------------------------------------------------------------


async def test_who_stops_listening_lets_go_of_the_store() -> None:
    """Closed in the middle, it closes what it reads from: a player hangs up more often than it hears all."""
    sealed = cipher().seal(0, BYTES, last=True)
    closed = []

    async def read(_start: int, _end: int) -> AsyncIterator[bytes]:
        try:
            yield sealed
        finally:
            closed.append(True)

    async with aclosing(cipher().open(len(BYTES), 0, len(BYTES), read)) as plain:
        first = await anext(plain)

    assert BYTES[:CHUNK] == first
    assert [True] == closed


async def test_a_refusal_lets_go_of_the_store() -> None:
    """The same where a chunk does not open."""
    closed = []

    async def read(_start: int, end: int) -> AsyncIterator[bytes]:
        try:
            yield bytes(end)
        finally:
            closed.append(True)

    assert b"" == await refused(CHUNK, 0, 1, read)
    assert [True] == closed


async def test_a_failing_store_is_not_a_tampered_recording() -> None:
    """What the store raises passes: it may be asked again."""
    sealed = cipher().seal(0, BYTES, last=True)

    async def read(_start: int, _end: int) -> AsyncIterator[bytes]:
        yield sealed[:SEALED_CHUNK]
        raise StoreError("the connection was lost")

    with pytest.raises(StoreError, match="lost"):
        await opened(len(BYTES), 0, len(BYTES), read)


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (3, 2), (0, 6), (6, 6)])
async def test_a_range_beyond_the_recording_is_refused(start: int, end: int) -> None:
    """Asking for what is not there is an error of whoever asks."""
    with pytest.raises(ValueError, match="no range of 5 bytes"):
        await opened(5, start, end, reader(cipher().seal(0, b"12345", last=True)))


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK + 1])
def test_a_part_between_others_is_of_whole_chunks(size: int) -> None:
    """A short chunk that is not the last could not be found again."""
    with pytest.raises(ValueError, match="shorter"):
        cipher().seal(0, BYTES[:size], last=False)


def test_a_recording_does_not_end_with_an_empty_part() -> None:
    """Its size would say that the chunk before is the last: the caller must hold the last part back."""
    with pytest.raises(ValueError, match="hold the last part back"):
        cipher().seal(80, b"", last=True)


@pytest.mark.parametrize(("key", "salt"), [(KEY[:16], SALT), (KEY, SALT[:16]), (b"", SALT), (KEY, b"")])
def test_short_keys_and_salts_are_refused(key: bytes, salt: bytes) -> None:
    """A cipher is not made of less than 32 bytes each."""
    with pytest.raises(ValueError, match="32 bytes"):
        ChunkCipher(key, salt, CALL)
