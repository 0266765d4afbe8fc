"""A bucket of an S3 server: what only it can do, and what servers do that have a bad day."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from storage import s3 as s3_module
from storage.objects import NoSuchObject, NoSuchUpload, Part, StoreError, StoreFull
from storage.s3 import PIECE, RANGE, open_s3
from tests.conftest import Bucket
from tests.storage.stores import fetch, keep, s3_config, send, uploads

FAKE = Bucket(endpoint_url="http://127.0.0.1:1", bucket="fake", access_key="fake", secret_key="fake")
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def key() -> str:
    """A key of this test: the bucket may be shared."""
    return f"ten_{secrets.token_hex(6)}/recordings/2026/11/21/call_20261121_k3v9.mp3"


@asynccontextmanager
async def fake(answer: Answering, **settings: Any) -> AsyncIterator[s3_module.Bucket]:
    """A bucket of a server that answers like this."""
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with open_s3(s3_config(FAKE, s3_endpoint_url=url, **settings)) as bucket:
            yield bucket
    finally:
        await runner.cleanup()


def refusing(status: int, code: str) -> Answering:
    """A server that refuses whatever it is asked."""

    async def refuse(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, text=f"<Error><Code>{code}</Code><Message>no</Message></Error>")

    return refuse


# --- URLs for others --------------------------------------------------------------------------------------------------


async def test_anybody_may_play_by_a_signed_url(s3: Bucket, key: str) -> None:
    """The URL gives the bytes, ranges of them too, as the media type that was told, to be played in place."""
    async with open_s3(s3_config(s3, s3_public_url=s3.endpoint_url)) as bucket, aiohttp.ClientSession() as anybody:
        await keep(bucket, key, b"ringing")
        url = await bucket.play_url(key, 60, media_type="audio/amr", filename=None)
        assert url is not None
        async with anybody.get(url) as answer:
            whole = (answer.status, answer.content_type, answer.headers["Content-Disposition"], await answer.read())
        async with anybody.get(url, headers={"Range": "bytes=2-4"}) as answer:
            part = (answer.status, await answer.read())
        async with anybody.get(url.replace("Signature=", "Signature=0")) as answer:
            forged = answer.status
        await bucket.delete(key)

    assert (200, "audio/amr", "inline", b"ringing") == whole
    assert (206, b"ngi") == part
    assert 403 == forged


async def test_a_signed_url_with_a_name_is_a_download(s3: Bucket, key: str) -> None:
    """The browser saves it under that name, whatever language it is in."""
    async with open_s3(s3_config(s3, s3_public_url=s3.endpoint_url)) as bucket, aiohttp.ClientSession() as anybody:
        await keep(bucket, key, b"ringing")
        url = await bucket.play_url(key, 60, media_type="audio/mpeg", filename='张伟 "13:05"; a/b.mp3')
        assert url is not None
        async with anybody.get(url) as answer:
            disposition = answer.content_disposition
        await bucket.delete(key)

    assert disposition is not None
    assert ("attachment", '张伟 "13:05"; a/b.mp3') == (disposition.type, disposition.filename)


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
async def test_a_phone_may_send_a_part_by_a_signed_url(s3: Bucket, key: str, checksums: str) -> None:
    """Bare bytes by PUT, beside parts that went through the server; `parts` tells of both alike."""
    settings = {"s3_checksums": checksums, "s3_public_url": s3.endpoint_url}
    first = secrets.token_bytes(5 * 1024 * 1024)
    async with open_s3(s3_config(s3, **settings)) as bucket, aiohttp.ClientSession() as phone:
        upload_id = await bucket.begin(key, "audio/mpeg")
        await bucket.put_part(key, upload_id, 1, 0, first)
        url = await bucket.part_url(key, upload_id, 2, 60, size=7)
        assert url is not None
        async with phone.put(url, data=b"ringing") as answer:
            status = answer.status
        arrived = await bucket.parts(key, upload_id)
        await bucket.complete(key, upload_id, arrived)
        content = await fetch(bucket, key)
        await bucket.delete(key)

    assert 200 == status
    assert [(1, len(first)), (2, 7)] == [(part.number, part.size) for part in arrived]
    assert first + b"ringing" == content


@pytest.mark.parametrize("body", [b"", b"ringin", b"ringing!", b"x" * 900_000])
async def test_a_part_of_another_size_is_refused(s3: Bucket, key: str, body: bytes) -> None:
    """The URL is good for the size it was signed for: nobody fills the bucket with it. A right one may come after."""
    async with open_s3(s3_config(s3, s3_public_url=s3.endpoint_url)) as bucket, aiohttp.ClientSession() as phone:
        upload_id = await bucket.begin(key, "audio/mpeg")
        url = await bucket.part_url(key, upload_id, 1, 60, size=7)
        assert url is not None
        async with phone.put(url, data=body) as answer:
            refused = answer.status
        async with phone.put(url, data=_in_chunks(b"ringing")) as answer:
            unmeasured = answer.status
        arrived = await bucket.parts(key, upload_id)
        async with phone.put(url, data=b"ringing") as answer:
            taken = answer.status
        await bucket.abort(key, upload_id)

    assert (403, 403, [], 200) == (refused, unmeasured, arrived, taken)


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def test_urls_are_for_the_public_endpoint(key: str) -> None:
    """Phones reach the server by another name than this node does; nothing is asked of either to sign."""
    async with open_s3(s3_config(FAKE, s3_public_url="https://media.example.com")) as bucket:
        playing = await bucket.play_url(key, 60, media_type="audio/mpeg", filename=None)
        sending = await bucket.part_url(key, "upload", 1, 60, size=7)

    assert (playing or "").startswith(f"https://media.example.com/fake/{key}?")
    assert (sending or "").startswith(f"https://media.example.com/fake/{key}?")


async def test_without_a_public_endpoint_nothing_is_signed(key: str) -> None:
    """All bytes go through the server then."""
    async with open_s3(s3_config(FAKE)) as bucket:
        assert await bucket.play_url(key, 60, media_type="audio/mpeg", filename=None) is None
        assert await bucket.part_url(key, "upload", 1, 60, size=7) is None


async def test_the_old_signature_signs_no_part(key: str) -> None:
    """It covers the Content-Type, which phones choose themselves: parts go through the server, playing does not."""
    async with open_s3(s3_config(FAKE, s3_signature="s3", s3_public_url="https://media.example.com")) as bucket:
        playing = await bucket.play_url(key, 60, media_type="audio/mpeg", filename=None)

        assert await bucket.part_url(key, "upload", 1, 60, size=7) is None
    assert "Signature=" in (playing or "")


async def test_the_bucket_may_stand_in_the_host(key: str) -> None:
    """As OSS and COS want it."""
    settings = {"s3_public_url": "https://s3.oss-cn-hangzhou.aliyuncs.com", "s3_addressing": "virtual"}
    async with open_s3(s3_config(FAKE, **settings)) as bucket:
        url = await bucket.play_url(key, 60, media_type="audio/mpeg", filename=None)

    assert (url or "").startswith(f"https://fake.s3.oss-cn-hangzhou.aliyuncs.com/{key}?")


async def test_a_part_under_way_does_not_outlive_an_abort(s3: Bucket, key: str) -> None:
    """A phone is in the middle of a part when the upload is aborted: what it sends leads to nothing."""
    reached, aborted = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        reached.set()
        await aborted.wait()
        yield b"y" * 100_000

    async with open_s3(s3_config(s3, s3_public_url=s3.endpoint_url)) as bucket, aiohttp.ClientSession() as phone:
        upload_id = await bucket.begin(key, "audio/mpeg")
        url = await bucket.part_url(key, upload_id, 1, 60, size=200_000)
        assert url is not None
        sending = asyncio.create_task(phone.put(url, data=slowly(), headers={"Content-Length": "200000"}))
        await reached.wait()
        await bucket.abort(key, upload_id)
        aborted.set()
        async with await sending as answer:
            status, etag = answer.status, answer.headers.get("ETag", "none")
        with pytest.raises(NoSuchUpload):
            await bucket.complete(key, upload_id, [Part(1, etag, 200_000)])
        with pytest.raises(NoSuchObject):
            await bucket.stat(key)

        assert (404, []) == (status, await uploads(bucket, key))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"s3_checksums": "when_required"},
        {"s3_signature": "s3", "s3_checksums": "when_required"},
        {"s3_addressing": "path", "s3_encryption": "AES256"},
    ],
)
async def test_each_way_of_asking_keeps_the_bytes(s3: Bucket, key: str, settings: dict[str, str]) -> None:
    """Whatever proves the bytes and signs the request, and whether the server encrypts them."""
    content = secrets.token_bytes(5 * 1024 * 1024)
    async with open_s3(s3_config(s3, **settings)) as bucket:
        await keep(bucket, key, content, b"ringing")
        came_back = await fetch(bucket, key)
        await bucket.delete(key)

    assert content + b"ringing" == came_back


async def test_the_key_of_the_server_side_encryption_is_named() -> None:
    """As an upload begins; its parts and the object follow from that."""
    seen = dict[str, str]()

    async def begun(request: web.Request) -> web.Response:
        seen.update(request.headers)
        return web.Response(
            text=f"<InitiateMultipartUploadResult {NAMESPACE}><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        )

    async with fake(begun, s3_encryption="aws:kms", s3_kms_key="alias/recordings") as bucket:
        await bucket.begin("a", "audio/amr")

    assert "aws:kms" == seen["x-amz-server-side-encryption"]
    assert "alias/recordings" == seen["x-amz-server-side-encryption-aws-kms-key-id"]
    assert "audio/amr" == seen["Content-Type"]


@pytest.mark.parametrize(
    ("checksums", "proof"),
    [
        ("when_supported", ("x-amz-checksum-crc32", "Jj0EBQ==")),
        ("when_required", ("Content-MD5", "H4K2OYQ4oJrav5qKKjnJHQ==")),
    ],
)
async def test_a_part_goes_with_one_proof_of_its_bytes(checksums: str, proof: tuple[str, str]) -> None:
    """By which the server sees that it came as it left; and bare, for not every server knows `aws-chunked`."""
    seen = dict[str, str]()

    async def kept(request: web.Request) -> web.Response:
        seen.update(request.headers, body=(await request.read()).decode())
        return web.Response(headers={"ETag": '"etag"'})

    async with fake(kept, s3_checksums=checksums) as bucket:
        await bucket.put_part("a", "u", 1, 0, b"ringing")
    proofs = {name: value for name, value in seen.items() if name in {"x-amz-checksum-crc32", "Content-MD5"}}

    assert dict([proof]) == proofs
    assert ("ringing", "7", "UNSIGNED-PAYLOAD") == (seen["body"], seen["Content-Length"], seen["X-Amz-Content-SHA256"])
    assert "Content-Encoding" not in seen


async def test_bytes_that_changed_on_the_way_are_refused(s3: Bucket, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server holds a part against its proof."""
    monkeypatch.setattr(s3_module, "_crc32", lambda _: {"ChecksumCRC32": "AAAAAA=="})
    async with open_s3(s3_config(s3)) as bucket:
        upload_id = await bucket.begin(key, "audio/mpeg")
        with pytest.raises(StoreError, match="BadDigest"):
            await bucket.put_part(key, upload_id, 1, 0, b"ringing")
        arrived = await bucket.parts(key, upload_id)
        await bucket.abort(key, upload_id)

    assert [] == arrived


# --- what can go wrong ------------------------------------------------------------------------------------------------


async def _everything(bucket: s3_module.Bucket) -> list[BaseException | None]:
    """How each thing that can be asked failed."""

    async def list_of(generator: AsyncIterator[Any]) -> None:
        async for _ in generator:
            pass

    asked: list[Awaitable[Any]] = [
        bucket.begin("a", "audio/mpeg"),
        bucket.put_part("a", "u", 1, 0, b"ringing"),
        bucket.parts("a", "u"),
        bucket.complete("a", "u", [Part(1, "etag", 7)]),
        bucket.abort("a", "u"),
        bucket.stat("a"),
        list_of(bucket.read("a")),
        bucket.delete("a"),
        list_of(bucket.objects()),
        list_of(bucket.open_uploads()),
        bucket.check(),
    ]
    return [
        one if isinstance(one, BaseException) else None for one in await asyncio.gather(*asked, return_exceptions=True)
    ]


async def test_a_server_that_is_away(s3: Bucket) -> None:
    """Nobody listens: whatever is asked, StoreError says that it is not within reach."""
    async with open_s3(s3_config(FAKE)) as bucket:
        told = await _everything(bucket)

    assert [StoreError] * 11 == [type(one) for one in told]
    assert all("not within reach" in str(one) for one in told)


async def test_a_server_that_says_nothing() -> None:
    """It takes the question and never answers: it is given up after the deadline."""
    asked = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        return web.Response()

    async with fake(wait, s3_connect_timeout=0.1, s3_read_timeout=0.1) as bucket:
        told = await _everything(bucket)

    assert asked.is_set()
    assert [StoreError] * 11 == [type(one) for one in told]


async def test_a_server_that_dawdles_has_a_deadline_too() -> None:
    """One that sends a byte now and then is never silent for long, and is given up all the same."""

    async def dawdle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.02)

    async with fake(dawdle, s3_connect_timeout=0.1, s3_read_timeout=0.2) as bucket:
        with pytest.raises(StoreError, match=r"within 0\.6 s"):
            await bucket.parts("a", "u")


@pytest.mark.parametrize("wrong", ["s3_access_key", "s3_secret_key"])
async def test_wrong_keys(s3: Bucket, wrong: str) -> None:
    """Are a matter of the store, not of what is in it."""
    async with open_s3(s3_config(s3, **{wrong: "wrong"})) as bucket:
        told = await _everything(bucket)

    assert [StoreError] * 11 == [type(one) for one in told]


async def test_a_bucket_that_is_not_there(s3: Bucket) -> None:
    """Does not make recordings missing: it is a mistake in the configuration, and is named by `check`."""
    async with open_s3(s3_config(s3, s3_bucket="no-such-bucket")) as bucket:
        with pytest.raises(StoreError, match="no bucket no-such-bucket"):
            await bucket.check()
        with pytest.raises(StoreError, match="no bucket no-such-bucket"):
            await bucket.stat("a")
        with pytest.raises(StoreError, match="NoSuchBucket"):
            await fetch(bucket, "a")


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "QuotaExceeded"), (400, "XMinioAdminBucketQuotaExceeded"), (507, "XMinioStorageFull"), (507, "Whatever")],
)
async def test_a_server_that_is_full(status: int, code: str) -> None:
    """Whoever asked is told that there is no room."""
    async with fake(refusing(status, code)) as bucket:
        with pytest.raises(StoreFull):
            await bucket.put_part("a", "u", 1, 0, b"ringing")


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown"), (400, "InvalidPart")])
async def test_a_server_that_refuses(status: int, code: str) -> None:
    """StoreError names the server's own word, for whoever reads the log."""
    async with fake(refusing(status, code)) as bucket:
        with pytest.raises(StoreError, match=code):
            await bucket.complete("a", "u", [Part(1, "etag", 7)])


async def test_an_error_behind_a_good_beginning() -> None:
    """S3 says 200 before it completes an upload, and may say afterwards that it did not: that is no success."""
    async with fake(refusing(200, "InternalError")) as bucket:
        with pytest.raises(StoreError):
            await bucket.complete("a", "u", [Part(1, "etag", 7)])


async def test_a_part_is_sent_again_from_its_beginning() -> None:
    """Where the server asks for another attempt, all bytes go out again."""
    content, seen = secrets.token_bytes(1_000_000), list[bytes]()

    async def at_last(request: web.Request) -> web.Response:
        seen.append(await request.read())
        return web.Response(headers={"ETag": '"etag"'}) if len(seen) > 1 else web.Response(status=500)

    async with fake(at_last, s3_retries=1) as bucket:
        part = await bucket.put_part("a", "u", 1, 0, content)

    assert [content, content] == seen
    assert Part(1, '"etag"', 1_000_000) == part


async def test_an_object_that_is_cut_short() -> None:
    """The connection ends before the bytes do: StoreError."""

    async def cut(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Length": "1000", "Content-Range": "bytes 0-999/1000", "ETag": '"etag"'}
        response = web.StreamResponse(status=206, headers=headers)
        await response.prepare(request)
        await response.write(b"x" * 100)
        assert request.transport is not None
        request.transport.close()
        return response

    async with fake(cut) as bucket:
        with pytest.raises(StoreError, match="not within reach"):
            await fetch(bucket, "a")


async def test_a_server_that_knows_no_ranges() -> None:
    """Sends all of it: better no bytes than the wrong ones."""

    async def whole(_: web.Request) -> web.Response:
        return web.Response(body=b"ringing")

    async with fake(whole) as bucket:
        with pytest.raises(StoreError, match="ranges"):
            await fetch(bucket, "a", 2, 4)


@pytest.mark.parametrize("told", ["bytes 3-4/7", "bytes 2-6/7", "bytes 2-3/*", "nonsense"])
async def test_a_server_that_serves_another_range(told: str) -> None:
    """It is not taken for the one that was asked for."""

    async def other(_: web.Request) -> web.Response:
        return web.Response(status=206, body=b"ng", headers={"Content-Range": told, "ETag": '"etag"'})

    async with fake(other) as bucket:
        with pytest.raises(StoreError):
            await fetch(bucket, "a", 2, 4)


# --- listeners who take their time ------------------------------------------------------------------------------------


async def test_listeners_who_stall_keep_nobody_waiting(s3: Bucket, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: uploads go on, and so do they when they ask on."""
    monkeypatch.setattr(s3_module, "CONNECTIONS", 2)
    content = secrets.token_bytes(8 * 1024 * 1024)
    async with open_s3(s3_config(s3, s3_read_timeout=5)) as bucket:
        await keep(bucket, key, content)
        stalled = [bucket.read(key) for _ in range(6)]
        began = [await anext(listener) for listener in stalled]
        await keep(bucket, f"{key}.other", content)
        went_on = [b"".join([piece async for piece in listener]) for listener in stalled]
        for kept in (key, f"{key}.other"):
            await bucket.delete(kept)

    assert [content] * 6 == [first + rest for first, rest in zip(began, went_on, strict=True)]


async def test_no_more_is_fetched_than_a_listener_asks_for() -> None:
    """A range at a time, so that is all that one who stalls holds."""
    content, asked = secrets.token_bytes(RANGE + 7), list[str]()

    async def ranges(request: web.Request) -> web.Response:
        asked.append(request.headers["Range"])
        first, last = (int(at) for at in asked[-1].removeprefix("bytes=").split("-"))
        last = min(last, len(content) - 1)
        told = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "ETag": '"etag"'}
        return web.Response(status=206, body=content[first : last + 1], headers=told)

    async with fake(ranges) as bucket:
        listener = bucket.read("a")
        first_range = [await anext(listener) for _ in range(RANGE // PIECE)]
        asked_for_it = list(asked)
        rest = [piece async for piece in listener]

    assert [f"bytes=0-{RANGE - 1}"] == asked_for_it
    assert [f"bytes=0-{RANGE - 1}", f"bytes={RANGE}-{RANGE + 6}"] == asked
    assert content == b"".join([*first_range, *rest])


@pytest.mark.parametrize("size", [RANGE + 1, 2 * RANGE, RANGE, 1])
async def test_an_object_that_is_replaced_while_it_is_read(s3: Bucket, key: str, size: int) -> None:
    """Its bytes do not go on with those of another, be that as large, larger or smaller: StoreError."""
    async with open_s3(s3_config(s3)) as bucket:
        await keep(bucket, key, secrets.token_bytes(RANGE + 1))
        listener = bucket.read(key)
        await anext(listener)
        await keep(bucket, key, secrets.token_bytes(size))
        with pytest.raises(StoreError, match="replaced"):
            async for _ in listener:
                pass
        await bucket.delete(key)


async def test_an_object_that_is_dropped_while_it_is_read(s3: Bucket, key: str) -> None:
    """It is cut short, which is another matter than one that was never there."""
    async with open_s3(s3_config(s3)) as bucket:
        await keep(bucket, key, secrets.token_bytes(RANGE + 1))
        listener = bucket.read(key)
        await anext(listener)
        await bucket.delete(key)
        with pytest.raises(StoreError, match="dropped"):
            async for _ in listener:
                pass


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_parts_are_listed_to_the_last_page() -> None:
    """A thousand fit on a page; the next is asked for where the last one ended."""

    async def page(request: web.Request) -> web.Response:
        after = int(request.query.get("part-number-marker", 0))
        numbers = range(after + 1, min(after + 1000, 2500) + 1)
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{number}</ETag><Size>1</Size>"
            "<LastModified>2026-11-21T00:00:00.000Z</LastModified></Part>"
            for number in numbers
        )
        more = f"<IsTruncated>{str(numbers[-1] < 2500).lower()}</IsTruncated>"
        marker = f"<NextPartNumberMarker>{numbers[-1]}</NextPartNumberMarker>"
        return web.Response(text=f"<ListPartsResult {NAMESPACE}>{more}{marker}{listed}</ListPartsResult>")

    async with fake(page) as bucket:
        listed = await bucket.parts("a", "u")

    assert [Part(number, str(number), 1) for number in range(1, 2501)] == listed


async def test_a_waiting_upload_holds_nobody_up(s3: Bucket, key: str) -> None:
    """While a part goes out others on the loop have their turn, many times."""
    turns, sent = 0, False

    async def others() -> None:
        nonlocal turns
        while not sent:
            turns += 1
            await asyncio.sleep(0)

    async with open_s3(s3_config(s3)) as bucket:
        upload_id = await bucket.begin(key, "audio/mpeg")
        counting = asyncio.create_task(others())
        await send(bucket, key, upload_id, secrets.token_bytes(5 * 1024 * 1024))
        sent = True
        await counting
        await bucket.abort(key, upload_id)

    assert turns > 80
