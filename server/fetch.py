"""Fetching a recording from a URL that a provider gave us: guarded, bounded in bytes and time, whole or failed.

    async with open_fetcher(config) as fetcher:
        async with fetcher.fetch(url) as fetched:
            async for piece in fetched: ...

Such URLs are credentials, for they are signed: nothing that leaves this module names more of one than its host.
"""

import asyncio
import ipaddress
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urljoin

from aiohttp import ClientError, ClientPayloadError, ClientResponse, ClientSession, ClientTimeout
from aiohttp.abc import AbstractResolver
from yarl import URL

from server.config import Config
from server.ssrf import Network, Refused, check_url, guarded_session

PIECE = 128 * 1024
"""Bytes of a piece, all but the last."""

IDLE = 20.0
"""Seconds an origin may be silent."""

REDIRECTS = 3
"""Redirects that are followed; providers send one, to their object store."""

REDIRECT = {301, 302, 303, 307, 308}

NOT_YET = {403, 404, 408, 425, 429}
"""What providers answer for a recording that is still being made, or when asked too often."""


class FetchFailed(Exception):  # noqa: N818 - a fact about the fetch
    """Nothing, or not all of it, was fetched. `reason` may be shown and logged; if `final`, trying again is no use."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


class Fetched:
    """An answer that has begun. Iterate once for its pieces, of `PIECE` bytes but for the last; raises FetchFailed.

    When the iteration has ended by itself all of the body has arrived.
    """

    def __init__(self, response: ClientResponse, limit: int, deadline: float) -> None:
        self.content_type = response.content_type
        """What the origin says it is, such as `audio/mpeg`; not to be believed."""
        self.length = response.content_length
        """Bytes of the body; None where the origin does not say."""
        self._response = response
        self._limit = limit
        self._deadline = deadline

    async def __aiter__(self) -> AsyncIterator[bytes]:
        host = _host(self._response.url)
        arrived = 0
        while True:
            async with _asking(host, self._deadline):
                try:
                    piece = await self._response.content.readexactly(PIECE)
                except asyncio.IncompleteReadError as end:
                    piece = end.partial
            arrived += len(piece)
            if arrived > self._limit:
                raise _too_large(host, self._limit)
            if piece:
                yield piece
            if len(piece) < PIECE:
                return


class Fetcher:
    """Fetches with one configuration; opened by `open_fetcher`. Any number of fetches may be under way at a time."""

    def __init__(self, session: ClientSession, networks: tuple[Network, ...], limit: int, timeout: float) -> None:
        self._session = session
        self._networks = networks
        self._limit = limit
        self._timeout = timeout

    @asynccontextmanager
    async def fetch(self, url: str) -> AsyncIterator[Fetched]:
        """Ask for what is at `url`, through redirects. Leaving the block ends the connection. Raises FetchFailed.

        The time that the caller takes between pieces counts, but only waiting for the origin is ever cut short.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        response = await self._answer(url, deadline)
        try:
            _judge(response, self._limit)
            yield Fetched(response, self._limit, deadline)
        finally:
            response.close()

    async def _answer(self, url: str, deadline: float) -> ClientResponse:
        """Return the first answer that is no redirect. The session has no credentials that it could carry along."""
        at = self._checked(url)
        for _ in range(1 + REDIRECTS):
            async with _asking(_host(at), deadline):
                response = await self._session.get(at, allow_redirects=False, headers={"Accept-Encoding": "identity"})
            if response.status not in REDIRECT:
                return response
            response.close()
            at = self._redirected(at, response.headers.get("Location", ""))
        raise FetchFailed(f"more than {REDIRECTS} redirects, the last to {_host(at)}", final=True)

    def _redirected(self, at: URL, location: str) -> URL:
        try:
            to = urljoin(str(at), location)
        except ValueError:
            raise FetchFailed(f"{_host(at)} redirects to what is not a URL", final=True) from None
        checked = self._checked(to)
        if at.scheme == "https" and checked.scheme == "http":
            raise FetchFailed(f"{_host(at)} redirects from https to http", final=True)
        return checked

    def _checked(self, url: str) -> URL:
        try:
            return check_url(url, networks=self._networks)
        except Refused as refused:
            raise FetchFailed(str(refused), final=True) from None


@asynccontextmanager
async def open_fetcher(
    config: Config,
    *,
    idle: float = IDLE,
    resolver: AbstractResolver | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Fetcher]:
    """Open what fetches, by FETCH_NETWORKS, FETCH_TIMEOUT and RECORDING_LIMIT."""
    networks = tuple(ipaddress.ip_network(network) for network in config.fetch_networks)
    timeout = ClientTimeout(total=None, connect=idle, sock_read=idle)  # in total there is the fetch's own deadline
    async with guarded_session(networks, timeout=timeout, resolver=resolver, tls=tls) as session:
        yield Fetcher(session, networks, config.recording_limit, config.fetch_timeout)


def back_off(tries: int, chance: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait before the next fetch, after so many `tries` that failed.

    Between half and all of 20 s, doubled with each try up to an hour: at first no less than the 10 s that Ronglian asks
    for, and never all jobs at once after an outage. `chance` draws from 0 to 1.
    """
    most = min(20.0 * 2.0 ** min(tries, 10), 3600.0)
    return most / 2 * (1 + chance())


def _judge(response: ClientResponse, limit: int) -> None:
    """Raise FetchFailed unless this is the beginning of a body that we want."""
    host = _host(response.url)
    if response.status != 200:
        final = 300 <= response.status < 500 and response.status not in NOT_YET
        raise FetchFailed(f"{host} answered {response.status}", final=final)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchFailed(f"{host} sent it packed, unasked", final=True)  # a bomb may be in it
    if response.content_length is None and "chunked" not in response.headers.get("Transfer-Encoding", "").lower():
        # such a body ends with its connection, and a cut one looks like a whole one: recordings are evidence
        raise FetchFailed(f"{host} does not say where the body ends", final=True)
    if response.content_length is not None and response.content_length > limit:
        raise _too_large(host, limit)


@asynccontextmanager
async def _asking(host: str, deadline: float) -> AsyncIterator[None]:
    """Wait for an origin, until `deadline`; what goes wrong is told without its cause, which may quote the URL."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except Refused as refused:
        raise FetchFailed(str(refused), final=True) from None
    except TimeoutError:
        raise FetchFailed(f"{host} took too long", final=False) from None
    except ClientPayloadError:
        raise FetchFailed(f"the answer of {host} was cut short", final=False) from None
    except (ClientError, OSError) as error:
        raise FetchFailed(f"{host} did not answer: {type(error).__name__}", final=False) from None


def _host(url: URL) -> str:
    return url.raw_host or ""


def _too_large(host: str, limit: int) -> FetchFailed:
    return FetchFailed(f"{host} sends more than {limit} bytes", final=True)
