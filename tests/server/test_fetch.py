"""Fetching recordings of providers: whole or failed, within bounds, and telling no secret."""

import asyncio
import gzip
import socket
import ssl
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from aiohttp import web

from server.config import Config, Secret
from server.fetch import PIECE, Fetcher, FetchFailed, back_off, open_fetcher
from tests.server.fake_origin import Names, origin
from tests.waiting import until

AUDIO = bytes(range(256)) * 1500
"""A body of two pieces and the rest of a third."""


def config(**settings: Any) -> Config:
    """A configuration by which 127.0.0.1 may be asked, and no other address of loopback."""
    none = Secret("")
    given = {"fetch_networks": ("127.0.0.1/32",), "fetch_timeout": 20.0, **settings}
    return Config(database_url=none, redis_url=none, secret_key=none, master_keys=none, **given)


async def fetched(fetcher: Fetcher, url: str, keep: Callable[[bytes], None] = lambda _: None) -> bytes:
    """The body, each piece of which `keep` was told of."""
    body = b""
    async with fetcher.fetch(url) as begun:
        async for piece in begun:
            keep(piece)
            body += piece
    return body


async def failure(fetcher: Fetcher, url: str, keep: Callable[[bytes], None] = lambda _: None) -> FetchFailed:
    """How a fetch fails."""
    with pytest.raises(FetchFailed) as failed:
        await fetched(fetcher, url, keep)
    return failed.value


async def _audio(_: web.Request) -> web.Response:
    return web.Response(body=AUDIO, content_type="audio/mpeg")


async def _silence() -> None:
    await asyncio.Event().wait()


async def test_a_recording_is_fetched_in_pieces() -> None:
    """The body comes in pieces of one size but for the last, with what the origin says of it."""
    async with origin(_audio) as server, open_fetcher(config()) as fetcher:
        async with fetcher.fetch(f"http://127.0.0.1:{server.port}/a.mp3?s=%2Fa%2Bb+c") as begun:
            pieces = [piece async for piece in begun]

    assert "audio/mpeg" == begun.content_type
    assert len(AUDIO) == begun.length
    assert [PIECE, PIECE, len(AUDIO) - 2 * PIECE] == [len(piece) for piece in pieces]
    assert AUDIO == b"".join(pieces)
    assert "/a.mp3?s=%2Fa%2Bb+c" == server.requests[0].raw_path
    assert "identity" == server.requests[0].headers["Accept-Encoding"]


@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE])
async def test_bodies_of_every_size_come_whole(size: int) -> None:
    """No piece is empty, and a body of whole pieces ends with the last of them."""

    async def sized(_: web.Request) -> web.Response:
        return web.Response(body=bytes(size))

    async with origin(sized) as server, open_fetcher(config()) as fetcher:
        pieces: list[bytes] = []
        await fetched(fetcher, f"http://127.0.0.1:{server.port}/", pieces.append)

    assert [PIECE] * (size // PIECE) + [1] * (size % PIECE) == [len(piece) for piece in pieces]


async def test_a_body_in_chunks_has_no_length() -> None:
    """An origin that sends chunks need not say the length."""

    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(AUDIO), 1000):
            await response.write(AUDIO[start : start + 1000])
        await response.write_eof()
        return response

    async with origin(chunked) as server, open_fetcher(config()) as fetcher:
        url = f"http://127.0.0.1:{server.port}/"
        async with fetcher.fetch(url) as begun:
            assert begun.length is None
        assert AUDIO == await fetched(fetcher, url)


# --- statuses and redirects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "final"),
    [
        *((status, False) for status in (202, 204, 206, 403, 404, 408, 425, 429, 500, 502, 503, 504)),
        *((status, True) for status in (300, 304, 400, 401, 402, 405, 410, 451)),
    ],
)
async def test_a_status_says_whether_to_try_again(status: int, final: bool) -> None:
    """Only 200 is a recording; what may be ready later, or is the origin's fault, is tried again."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with origin(answer) as server, open_fetcher(config()) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/")

    assert f"127.0.0.1 answered {status}" == failed.reason
    assert final == failed.final


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_without_what_the_origin_set(status: int) -> None:
    """A relative and an absolute redirect are followed, and nothing but the URL is taken along."""

    async def answer(request: web.Request) -> web.Response:
        moved = {"/1": "2?s=%2F", "/2": f"http://other:{request.url.port}/3"}
        if request.path not in moved:
            return await _audio(request)
        response = web.Response(status=status, headers={"Location": moved[request.path]})
        response.set_cookie("session", "not-a-secret")
        return response

    names = Names(other=[["127.0.0.1"]])
    async with origin(answer) as server, open_fetcher(config(), resolver=names) as fetcher:
        assert AUDIO == await fetched(fetcher, f"http://127.0.0.1:{server.port}/1")

    assert ["/1", "/2?s=%2F", "/3"] == [request.raw_path for request in server.requests]
    for request in server.requests:
        assert {"Host", "Accept", "Accept-Encoding", "User-Agent", "Connection"} == set(request.headers)


async def test_the_body_of_a_redirect_is_not_read() -> None:
    """The connection of a redirect is closed before the next is asked for, whatever it still sends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/next":
            await until(server.connections[0].is_closing)
            return await _audio(request)
        response = web.StreamResponse(status=302, headers={"Location": "/next"})
        await response.prepare(request)
        while True:
            await response.write(bytes(64 * 1024))

    async with origin(answer) as server, open_fetcher(config()) as fetcher:
        assert AUDIO == await fetched(fetcher, f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize(("redirects", "arrives"), [(3, True), (4, False)])
async def test_only_so_many_redirects_are_followed(redirects: int, arrives: bool) -> None:
    """Three redirects are followed; at a fourth the fetch has failed for good."""

    async def answer(request: web.Request) -> web.Response:
        done = int(request.path[1:])
        if done == redirects:
            return await _audio(request)
        raise web.HTTPFound(f"/{done + 1}")

    async with origin(answer) as server, open_fetcher(config()) as fetcher:
        url = f"http://127.0.0.1:{server.port}/0"
        if arrives:
            assert AUDIO == await fetched(fetcher, url)
        else:
            failed = await failure(fetcher, url)
            assert ("more than 3 redirects, the last to 127.0.0.1", True) == (failed.reason, failed.final)
            assert 4 == len(server.requests)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:8080/",
        "http://2130706434:8080/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "http://[::1/",
        "http://inside/",
        "//inside:8080/",
        "http://user:pass-word@here/",
        "file:///etc/passwd",
        "http://here:22/",
    ],
)
async def test_a_redirect_is_judged_like_a_url(location: str) -> None:
    """A redirect that leads inside is final, by its address and by its name, and is not followed."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    names = Names(here=[["127.0.0.1"]], inside=[["192.168.0.1"]])
    async with origin(answer) as server, open_fetcher(config(), resolver=names) as fetcher:
        failed = await failure(fetcher, f"http://here:{server.port}/")

    assert failed.final
    assert 1 == len(server.requests)


async def test_a_name_that_turns_inwards_is_refused_at_the_next_hop() -> None:
    """A redirect to the same name is resolved and judged afresh."""

    async def answer(_: web.Request) -> web.Response:
        raise web.HTTPFound("/next")

    names = Names(turning=[["127.0.0.1"], ["10.0.0.1"]])
    async with origin(answer) as server, open_fetcher(config(), resolver=names) as fetcher:
        failed = await failure(fetcher, f"http://turning:{server.port}/")

    assert failed.final
    assert ["turning", "turning"] == names.asked
    assert 1 == len(server.requests)


def _tls(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("recordings.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_https_is_asked_by_name_and_does_not_go_down_to_http() -> None:
    """The certificate is of the name, though the address was judged; from https no redirect leads to http."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/down":
            raise web.HTTPFound(f"http://recordings.example:{request.url.port}/")
        return await _audio(request)

    serve, trust = _tls(trustme.CA())
    names = Names(**{"recordings.example": [["127.0.0.1"]]})
    async with origin(answer, serve) as server, open_fetcher(config(), resolver=names, tls=trust) as fetcher:
        url = f"https://recordings.example:{server.port}"
        assert AUDIO == await fetched(fetcher, f"{url}/")
        down = await failure(fetcher, f"{url}/down")

    assert ("recordings.example redirects from https to http", True) == (down.reason, down.final)


async def test_a_certificate_of_another_name_fails() -> None:
    """Who cannot prove its name sends us nothing; it may have proved it by the next time."""
    serve, trust = _tls(trustme.CA())
    names = Names(**{"other.example": [["127.0.0.1"]]})
    async with origin(_audio, serve) as server, open_fetcher(config(), resolver=names, tls=trust) as fetcher:
        failed = await failure(fetcher, f"https://other.example:{server.port}/")

    assert [] == server.requests
    assert "other.example did not answer: ClientConnectorCertificateError" == failed.reason
    assert not failed.final


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_a_length_beyond_the_limit_is_refused_before_the_body() -> None:
    """An origin that announces too much is not listened to."""

    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 10**15
        await response.prepare(request)
        await _silence()
        return response

    async with origin(huge) as server, open_fetcher(config(recording_limit=1000)) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/")

    assert ("127.0.0.1 sends more than 1000 bytes", True) == (failed.reason, failed.final)


async def test_a_body_without_end_is_cut_off_at_the_limit() -> None:
    """Of a body that says no length no more than the limit is handed on, and its connection is closed."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            await response.write(bytes(64 * 1024))

    limit = 3 * PIECE + 1
    arrived: list[bytes] = []
    async with origin(endless) as server, open_fetcher(config(recording_limit=limit)) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/", arrived.append)
        await until(server.connections[0].is_closing)

    assert failed.final
    assert [PIECE] * 3 == [len(piece) for piece in arrived]


@pytest.mark.parametrize("size", [1000, 1001])
async def test_the_limit_itself_is_allowed(size: int) -> None:
    """A recording of exactly the limit is fetched; one byte more is too large."""

    async def sized(_: web.Request) -> web.Response:
        response = web.Response(body=bytes(size))
        response.enable_chunked_encoding()
        return response

    async with origin(sized) as server, open_fetcher(config(recording_limit=1000)) as fetcher:
        url = f"http://127.0.0.1:{server.port}/"
        if size == 1000:
            assert bytes(1000) == await fetched(fetcher, url)
        else:
            assert (await failure(fetcher, url)).final


async def test_a_packed_body_is_refused() -> None:
    """A body that is packed though `identity` was asked may be a bomb; it is neither unpacked nor taken."""

    async def bomb(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(bytes(1024 * 1024)), headers={"Content-Encoding": "gzip"})

    async with origin(bomb) as server, open_fetcher(config()) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/")

    assert ("127.0.0.1 sent it packed, unasked", True) == (failed.reason, failed.final)


@pytest.mark.parametrize("headers", [False, True])
async def test_a_silent_origin_is_left(headers: bool) -> None:
    """An origin that says nothing for the idle time, before or after its headers, is left, and asked again later."""

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1000
        if headers:
            await response.prepare(request)
        await _silence()
        return response

    async with origin(silent) as server, open_fetcher(config(fetch_timeout=600.0), idle=0.2) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/")

    assert ("127.0.0.1 took too long", False) == (failed.reason, failed.final)


async def test_a_drip_does_not_outlast_the_deadline() -> None:
    """An origin that is never silent, and never done, is left at the deadline of the whole fetch."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1000 * 1000
        await response.prepare(request)
        never = asyncio.Event()
        while True:
            await response.write(b".")
            try:
                await asyncio.wait_for(never.wait(), 0.02)
            except TimeoutError:
                continue

    async with origin(drip) as server, open_fetcher(config(fetch_timeout=1.0)) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/")
        await until(server.connections[0].is_closing)

    assert ("127.0.0.1 took too long", False) == (failed.reason, failed.final)


async def test_redirects_share_one_deadline() -> None:
    """The deadline is of the fetch, not of each hop."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/0":
            raise web.HTTPFound("/1")
        await _silence()
        raise AssertionError

    async with origin(answer) as server, open_fetcher(config(fetch_timeout=0.3)) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/0")

    assert ("127.0.0.1 took too long", False) == (failed.reason, failed.final)


# --- broken connections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_connection_cut_half_way_is_a_failure(chunked: bool) -> None:
    """Half a recording is no recording: the pieces that arrived are followed by a failure, to be tried again."""

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(AUDIO)
        await response.prepare(request)
        await response.write(AUDIO[: len(AUDIO) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    arrived: list[bytes] = []
    async with origin(cut) as server, open_fetcher(config()) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/", arrived.append)

    assert ("the answer of 127.0.0.1 was cut short", False) == (failed.reason, failed.final)
    assert AUDIO[:PIECE] == b"".join(arrived)


async def test_a_body_that_ends_with_its_connection_is_refused() -> None:
    """Where neither a length nor chunks say where the body ends, a cut one would pass for a whole one."""

    async def as_of_old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n" + AUDIO)
        writer.close()

    server = await asyncio.start_server(as_of_old, "127.0.0.1", 0)
    async with server, open_fetcher(config()) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert ("127.0.0.1 does not say where the body ends", True) == (failed.reason, failed.final)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "ServerDisconnectedError"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "ClientResponseError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "ClientResponseError"),
    ],
)
async def test_what_is_not_http_is_a_failure(said: bytes, error: str) -> None:
    """An origin that hangs up, or speaks something else, is asked again later; the failure does not tell the URL."""

    async def strange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(strange, "127.0.0.1", 0)
    async with server, open_fetcher(config()) as fetcher:
        failed = await failure(fetcher, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/secret?s=secret")

    assert (f"127.0.0.1 did not answer: {error}", False) == (failed.reason, failed.final)
    assert "/secret" not in "".join(traceback.format_exception(failed))


async def test_nobody_listening_is_a_failure() -> None:
    """A refused connection may be taken another time."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        async with open_fetcher(config()) as fetcher:
            failed = await failure(fetcher, f"http://127.0.0.1:{deaf.getsockname()[1]}/")

    assert ("127.0.0.1 did not answer: ClientConnectorError", False) == (failed.reason, failed.final)


async def test_a_name_that_is_not_known_is_a_failure() -> None:
    """A resolver that knows no answer may know one another time."""

    class Nobody(Names):
        async def resolve(self, *_: Any) -> Any:
            raise OSError("no such name")

    async with open_fetcher(config(), resolver=Nobody()) as fetcher:
        failed = await failure(fetcher, "http://nowhere.example/")

    assert ("nowhere.example did not answer: ClientConnectorDNSError", False) == (failed.reason, failed.final)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancelled_fetch_closes_its_connection(begun: bool) -> None:
    """A fetch that is cancelled, while it waits for the answer or for a piece, leaves no connection behind."""
    asked = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if begun:
            await response.prepare(request)
        asked.set()
        await _silence()
        return response

    async with origin(slow) as server, open_fetcher(config()) as fetcher:
        fetching = asyncio.create_task(fetched(fetcher, f"http://127.0.0.1:{server.port}/"))
        await asked.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await until(server.connections[0].is_closing)


async def test_an_error_of_the_caller_is_the_callers() -> None:
    """What goes wrong while a piece is kept is not told as a failure of the origin, and closes the connection."""

    def full(_: bytes) -> None:
        raise TimeoutError

    async with origin(_audio) as server, open_fetcher(config()) as fetcher:
        with pytest.raises(TimeoutError):
            await fetched(fetcher, f"http://127.0.0.1:{server.port}/", full)
        await until(server.connections[0].is_closing)


# --- secrets, and waiting ---------------------------------------------------------------------------------------------


async def test_a_failure_does_not_tell_the_url() -> None:
    """Neither the reason nor a logged traceback holds the path or the query, which are credentials."""

    async def answer(request: web.Request) -> web.StreamResponse:
        match request.query["s"]:
            case "secret-loop":
                raise web.HTTPFound(str(request.rel_url))
            case "secret-inside":
                raise web.HTTPFound("http://10.0.0.1/secret?s=secret")
            case "secret-odd":
                raise web.HTTPFound("http://[::1/secret?s=secret")
            case "secret-cut":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case _:
                return web.Response(status=403)

    async with origin(answer) as server, open_fetcher(config()) as fetcher:
        for case in ("secret-loop", "secret-inside", "secret-odd", "secret-cut", "secret-403"):
            failed = await failure(fetcher, f"http://127.0.0.1:{server.port}/secret?s={case}")
            told = "".join(traceback.format_exception(failed))

            assert "s=secret" not in told
            assert "/secret" not in told


def test_waits_double_from_ten_seconds_to_an_hour() -> None:
    """The first wait is 10 to 20 seconds; each is up to twice the last, and none is longer than an hour."""
    least = [back_off(tries, lambda: 0.0) for tries in range(12)]
    most = [back_off(tries, lambda: 1.0) for tries in range(12)]

    assert [10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800, 1800, 1800] == least
    assert [20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600, 3600] == most
    assert 1800 <= back_off(10_000) <= 3600


def test_waits_are_spread() -> None:
    """Fetches that failed together do not come back together."""
    waits = {back_off(8) for _ in range(100)}

    assert len(waits) > 90
