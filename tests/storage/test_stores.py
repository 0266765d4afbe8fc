"""What holds for a store of bytes, be it a folder or a bucket."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.folder import open_folder
from storage.objects import PART, NoSuchObject, NoSuchUpload, Part, Store, StoreError
from storage.s3 import open_s3
from tests.conftest import Bucket
from tests.storage.stores import fetch, keep, keys, s3_config, send, uploads
from tests.waiting import until

SOON = timedelta(minutes=5)


@pytest.fixture
def place() -> str:
    """Where the keys of this test begin: a bucket may be shared."""
    return f"ten_{secrets.token_hex(6)}/"


@pytest.fixture
def key(place: str) -> str:
    """A key as recordings have."""
    return f"{place}recordings/2026/11/21/call_20261121_k3v9.mp3"


@pytest.fixture(params=["folder", "s3"])
async def store(request: pytest.FixtureRequest, place: str, tmp_path: Path) -> AsyncIterator[Store]:
    """Each of the two stores, of which nothing is left under this test's place."""
    if request.param == "folder":
        yield await open_folder(tmp_path / "recordings")
        return
    s3: Bucket = request.getfixturevalue("s3")
    async with open_s3(s3_config(s3)) as bucket:
        yield bucket
        for key, upload_id in await uploads(bucket, place):
            await bucket.abort(key, upload_id)
        for key in await keys(bucket, place):
            await bucket.delete(key)


async def test_an_object_of_one_part_comes_back(store: Store, key: str) -> None:
    """What was completed is there, with its size and when it came."""
    await keep(store, key, b"ringing")
    found = await store.stat(key)

    assert (key, 7) == (found.key, found.size)
    assert abs(datetime.now(UTC) - found.modified) < SOON
    assert b"ringing" == await fetch(store, key)


async def test_a_large_object_is_resumed_and_comes_back(store: Store, key: str) -> None:
    """Three parts that come in any order, one of them twice, make the object, by what the store tells of them, which is
    all that is left to whoever resumes."""
    first, second, third = (secrets.token_bytes(size) for size in (PART, PART, 2 * 1024 * 1024))
    upload_id = await store.begin(key, "audio/mpeg")
    await store.put_part(key, upload_id, 3, 2 * PART, third)
    await store.put_part(key, upload_id, 1, 0, first)
    sent = await store.put_part(key, upload_id, 1, 0, first)
    before = await store.parts(key, upload_id)
    await store.put_part(key, upload_id, 2, PART, second)
    arrived = await store.parts(key, upload_id)
    await store.complete(key, upload_id, arrived)

    assert [(1, PART), (3, len(third))] == [(part.number, part.size) for part in before]
    assert sent == before[0]
    assert [1, 2, 3] == [part.number for part in arrived]
    assert 2 * PART + len(third) == (await store.stat(key)).size
    assert first + second + third == await fetch(store, key)


async def test_the_same_part_again_counts_once(store: Store, key: str) -> None:
    """A phone that missed the answer sends the very same bytes again."""
    upload_id = await store.begin(key, "audio/mpeg")
    sent = [await store.put_part(key, upload_id, 1, 0, b"again") for _ in range(3)]

    assert [sent[0]] == await store.parts(key, upload_id)
    assert sent[0] == sent[1] == sent[2]


async def test_of_a_part_that_came_twice_the_last_counts(store: Store, key: str) -> None:
    """Once it is listed; the first never is again, nor does the object have it."""
    upload_id = await store.begin(key, "audio/mpeg")
    first = await store.put_part(key, upload_id, 1, 0, b"ringing")
    listed: list[Part] = []

    async def told() -> bool:
        listed[:] = [await store.put_part(key, upload_id, 1, 0, b"answered")]
        arrived = await store.parts(key, upload_id)
        assert first not in arrived
        return arrived == listed

    await until(told)
    await store.complete(key, upload_id, listed)

    assert b"answered" == await fetch(store, key)


async def test_parts_at_once(store: Store, key: str) -> None:
    """Parts that come all at the same time all arrive."""
    contents = [secrets.token_bytes(PART) for _ in range(3)]
    upload_id = await store.begin(key, "audio/mpeg")
    await asyncio.gather(
        *(
            store.put_part(key, upload_id, number, (number - 1) * PART, content)
            for number, content in enumerate(contents, 1)
        )
    )
    await store.complete(key, upload_id, await store.parts(key, upload_id))

    assert b"".join(contents) == await fetch(store, key)


async def test_nothing_is_there_before_it_is_complete(store: Store, key: str, place: str) -> None:
    """An upload that goes on shows as an open upload, and as nothing else."""
    upload_id = await store.begin(key, "audio/mpeg")
    assert [] == await store.parts(key, upload_id)
    await send(store, key, upload_id, b"ringing")
    begun = [found.begun_at async for found in store.open_uploads() if found.upload_id == upload_id]

    assert [] == await keys(store, place)
    assert [(key, upload_id)] == await uploads(store, place)
    assert abs(datetime.now(UTC) - begun[0]) < SOON
    with pytest.raises(NoSuchObject):
        await store.stat(key)
    with pytest.raises(NoSuchObject):
        await fetch(store, key)


async def test_an_aborted_upload_is_fenced_off(store: Store, key: str, place: str) -> None:
    """Whoever is late can neither continue nor complete it; aborting again is nothing new."""
    upload_id = await store.begin(key, "audio/mpeg")
    sent = await send(store, key, upload_id, b"ringing")
    await store.abort(key, upload_id)
    await store.abort(key, upload_id)
    with pytest.raises(NoSuchUpload):
        await store.put_part(key, upload_id, 1, 0, b"late")
    with pytest.raises(NoSuchUpload):
        await store.complete(key, upload_id, sent)
    with pytest.raises(NoSuchUpload):
        await store.parts(key, upload_id)

    assert ([], []) == (await keys(store, place), await uploads(store, place))


async def test_an_abort_and_a_completion_at_once(store: Store, place: str) -> None:
    """Either there is the object, whole, or there never will be one."""

    async def race(key: str) -> None:
        upload_id = await store.begin(key, "audio/mpeg")
        sent = await send(store, key, upload_id, b"ringing")
        done, aborted = await asyncio.gather(
            store.complete(key, upload_id, sent), store.abort(key, upload_id), return_exceptions=True
        )
        assert aborted is None
        with pytest.raises(NoSuchUpload):
            await store.put_part(key, upload_id, 1, 0, b"late")
        if done is None:
            assert b"ringing" == await fetch(store, key)
        else:
            assert isinstance(done, NoSuchUpload | StoreError)
            with pytest.raises(NoSuchUpload):
                await store.complete(key, upload_id, sent)

    await asyncio.gather(*(race(f"{place}race/{number}.mp3") for number in range(20)))
    there = await keys(store, place)

    assert [] == await uploads(store, place)
    assert [b"ringing"] * len(there) == [await fetch(store, key) for key in there]


async def test_a_completed_upload_is_over(store: Store, key: str, place: str) -> None:
    """It takes no part and is not listed; an abort that comes late leaves the object alone."""
    upload_id = await keep(store, key, b"ringing")
    with pytest.raises(NoSuchUpload):
        await store.put_part(key, upload_id, 1, 0, b"late")
    with pytest.raises(NoSuchUpload):
        await store.parts(key, upload_id)
    await store.abort(key, upload_id)

    assert [] == await uploads(store, place)
    assert b"ringing" == await fetch(store, key)


async def test_completing_twice_makes_one_object(store: Store, key: str) -> None:
    """The second time nothing happens, whether the store says so or not; and nothing that was deleted comes back."""
    upload_id = await store.begin(key, "audio/mpeg")
    sent = await send(store, key, upload_id, b"ringing")
    await store.complete(key, upload_id, sent)
    try:
        await store.complete(key, upload_id, sent)
    except NoSuchUpload:
        pass  # the store has forgotten it: as good
    assert b"ringing" == await fetch(store, key)
    await store.delete(key)
    with pytest.raises(NoSuchUpload):
        await store.complete(key, upload_id, sent)

    with pytest.raises(NoSuchObject):
        await store.stat(key)


async def test_an_upload_that_never_was(store: Store, key: str) -> None:
    """Is no upload; and dropped already."""
    upload_id = "0" * 32
    with pytest.raises(NoSuchUpload):
        await store.parts(key, upload_id)
    with pytest.raises(NoSuchUpload):
        await store.put_part(key, upload_id, 1, 0, b"ringing")
    with pytest.raises(NoSuchUpload):
        await store.complete(key, upload_id, [Part(1, "etag", 7)])

    await store.abort(key, upload_id)


async def test_an_upload_is_of_its_key(store: Store, key: str) -> None:
    """Under another key there is no such upload, and it is not dropped by that name."""
    upload_id = await store.begin(key, "audio/mpeg")
    other = f"{key}.mp3"
    with pytest.raises(NoSuchUpload):
        await store.put_part(other, upload_id, 1, 0, b"ringing")
    await store.abort(other, upload_id)

    assert [] == await store.parts(key, upload_id)


@pytest.mark.parametrize("wrong", ["none", "a gap", "out of order", "not arrived", "other bytes"])
async def test_an_object_is_made_of_what_arrived_only(store: Store, key: str, wrong: str) -> None:
    """Of parts that are not all there nothing is made, and the upload goes on."""
    content = secrets.token_bytes(PART)
    upload_id = await store.begin(key, "audio/mpeg")
    first, second = await send(store, key, upload_id, content, b"ringing")
    told = {
        "none": [],
        "a gap": [first, Part(3, second.etag, second.size)],
        "out of order": [second, first],
        "not arrived": [first, second, Part(3, second.etag, second.size)],
        "other bytes": [first, Part(2, f'"{"0" * 32}"', second.size)],
    }
    with pytest.raises(StoreError):
        await store.complete(key, upload_id, told[wrong])
    with pytest.raises(NoSuchObject):
        await store.stat(key)
    await store.complete(key, upload_id, [first, second])

    assert content + b"ringing" == await fetch(store, key)


async def test_a_new_object_takes_the_place_of_the_old(store: Store, key: str, place: str) -> None:
    """The key has one object: that which was completed last."""
    await keep(store, key, b"ringing")
    await keep(store, key, b"answered")

    assert ([key], b"answered") == (await keys(store, place), await fetch(store, key))


async def test_an_object_without_a_byte(store: Store, key: str) -> None:
    """Is an object too: of one part, which is empty."""
    await keep(store, key, b"")

    assert 0 == (await store.stat(key)).size
    assert [b"", b"", b""] == [await fetch(store, key), await fetch(store, key, 0, 9), await fetch(store, key, 3)]


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, None), (0, 1), (5, 10), (7, 7), (0, 0), (25, None), (26, None), (30, 40), (3, 10_000), (0, 26)],
)
async def test_a_part_of_an_object(store: Store, key: str, start: int, end: int | None) -> None:
    """Bytes are read from here to there, as far as there are any."""
    content = b"abcdefghijklmnopqrstuvwxyz"
    await keep(store, key, content)

    assert content[start:end] == await fetch(store, key, start, end)


async def test_a_range_over_the_seam_of_two_parts(store: Store, key: str) -> None:
    """Nobody sees where one part ended."""
    content = secrets.token_bytes(PART + 1000)
    await keep(store, key, content[:PART], content[PART:])

    assert content[PART - 500 : PART + 500] == await fetch(store, key, PART - 500, PART + 500)
    assert content[PART:] == await fetch(store, key, PART)


async def test_pieces_are_small(store: Store, key: str) -> None:
    """Nothing is read whole: no piece is larger than 256 KiB, and none is empty."""
    content = secrets.token_bytes(1_000_000)
    await keep(store, key, content)
    pieces = [piece async for piece in store.read(key)]

    assert content == b"".join(pieces)
    assert all(0 < len(piece) <= 256 * 1024 for piece in pieces)


async def test_who_stops_reading_keeps_nobody_waiting(store: Store, key: str) -> None:
    """Listeners go away in the middle, many of them; the next is served all the same."""
    content = secrets.token_bytes(2_000_000)
    await keep(store, key, content)
    for _ in range(200):
        reading = store.read(key)
        await anext(reading)
        await reading.aclose()

    assert content == await fetch(store, key)


async def test_what_is_missing(store: Store, key: str) -> None:
    """Is said to be missing, also where no byte of it was asked for; to delete it is nothing new."""
    for asked in (store.stat(key), fetch(store, key), fetch(store, key, 5, 9), fetch(store, key, 0, 0)):
        with pytest.raises(NoSuchObject):
            await asked

    await store.delete(key)


async def test_a_deleted_object_is_gone(store: Store, key: str, place: str) -> None:
    """And only that."""
    await keep(store, key, b"ringing")
    await keep(store, f"{key}.other", b"answered")
    await store.delete(key)
    with pytest.raises(NoSuchObject):
        await store.stat(key)

    assert [f"{key}.other"] == await keys(store, place)


async def test_objects_are_listed_by_how_their_keys_begin(store: Store, place: str) -> None:
    """Also where that is in the middle of a name."""
    for name in ("a/1.mp3", "a/2.mp3", "ab/1.mp3", "b/c/d/1.mp3"):
        await keep(store, place + name, name.encode())
    listed = {
        prefix: await keys(store, place + prefix) for prefix in ("", "a", "a/", "a/2", "b/c/", "b/c/d/1.mp3", "x")
    }
    sizes = {found.key.removeprefix(place): found.size async for found in store.objects(place)}

    assert {
        "": ["a/1.mp3", "a/2.mp3", "ab/1.mp3", "b/c/d/1.mp3"],
        "a": ["a/1.mp3", "a/2.mp3", "ab/1.mp3"],
        "a/": ["a/1.mp3", "a/2.mp3"],
        "a/2": ["a/2.mp3"],
        "b/c/": ["b/c/d/1.mp3"],
        "b/c/d/1.mp3": ["b/c/d/1.mp3"],
        "x": [],
    } == {prefix: [key.removeprefix(place) for key in found] for prefix, found in listed.items()}
    assert {"a/1.mp3": 7, "a/2.mp3": 7, "ab/1.mp3": 8, "b/c/d/1.mp3": 11} == sizes


@pytest.mark.parametrize(
    "name",
    [
        "a b+c&d=e;f?g#h%20.mp3",
        "录音/通话 é.m4a",
        'it\'s "quoted" <so>.wav',
        "~!@$^*(),:|[]{}`.ogg",
        f"{'n' * 200}.mp3",
        "a.b..c.",
    ],
)
async def test_odd_keys_are_kept_as_they_are(store: Store, place: str, name: str) -> None:
    """What a key may be is the same for every store, and is not changed by any."""
    key = place + name
    upload_id = await store.begin(key, "audio/mpeg")
    open_ones = await uploads(store, place)
    await store.complete(key, upload_id, await send(store, key, upload_id, b"odd"))

    assert ([(key, upload_id)], [key]) == (open_ones, await keys(store, place))
    assert b"odd" == await fetch(store, key)


@pytest.mark.parametrize(
    "key",
    [
        *("", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/./b", "a/.b", ".uploads/a"),
        *("a\\b", "a\0b", "a\nb", "n" * 256, "é" * 128, "a/" * 512 + "a", "\ud800"),
    ],
)
async def test_a_key_that_some_store_would_change_is_none(store: Store, key: str) -> None:
    """It is a mistake of the program: ValueError, whatever is asked."""
    for asked in (
        store.begin(key, "audio/mpeg"),
        store.stat(key),
        fetch(store, key),
        store.delete(key),
    ):
        with pytest.raises(ValueError):
            await asked


async def test_a_store_that_is_checked_is_left_as_it_was(store: Store) -> None:
    """It is tried out with an object of its own, of which nothing stays."""
    told = await store.check()

    assert "written, read and deleted" in told
    assert ([], []) == (await keys(store, "dialdesk-check/"), await uploads(store, "dialdesk-check/"))
