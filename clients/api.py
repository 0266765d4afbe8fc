"""Requests to Dialdesk's API, of JSON and of files, and the two ways in which they fail."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from protocol.errors import ERRORS

SLOWEST = 32 * 1024
"""Bytes a second: a file that moves slower than this is given up, to be tried again."""


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """The server understood and said no. `code` is stable (protocol.errors); `retry` tells whether the same request,
    sent again unchanged, may succeed; `status` is the HTTP status, 0 where the refusal came over a socket."""

    def __init__(
        self, code: str, message: str, *, retry: bool, status: int = 0, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.retry = retry
        self.status = status
        self.details = details or {}


class Unreachable(ConnectionError):  # noqa: N818
    """No answer came: the server cannot be reached, or took too long. Whether it acted is not known."""


class Api:
    """The API at one origin, such as `https://desk.example`; used as a context manager.

    Give `tls` where the server's certificate is not signed by a public authority. `timeout` (seconds) bounds each
    request as a whole; one that moves a file has more, by its size. `language` is that of the messages for people.
    """

    def __init__(
        self, origin: str, *, tls: ssl.SSLContext | None = None, timeout: float = 10.0, language: str = "en"
    ) -> None:
        self.origin = origin.rstrip("/")
        self._timeout = timeout
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout),
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True),
            headers={"Accept-Language": language},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that are kept open for further requests."""
        await self._http.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        reads: int = 0,
    ) -> dict[str, Any]:
        """Send one request, `body` as JSON, and return the object that answers it. `reads` is how many bytes the server
        must read before it can answer.

        Raises Refused for an error that the server tells, Unreachable where no answer came in time.
        """
        content = None if body is None else msgspec.json.encode(body)
        typed = {} if body is None else {"Content-Type": "application/json"}
        async with self._answer(method, path, self._within(reads), {**typed, **(headers or {})}, content) as answer:
            return _read(answer.status, await answer.read())

    async def send(
        self, method: str, path: str, content: AsyncGenerator[bytes], size: int, *, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Send a body of `size` bytes as it is read, and return the object that answers it. Raises as `ask` does."""
        async with self._answer(method, path, self._within(size), _sized(headers, size), content) as answer:
            return _read(answer.status, await answer.read())

    async def put_away(self, url: str, content: AsyncGenerator[bytes], size: int) -> None:
        """PUT bytes to a presigned URL. It carries its own credential: ours is not shown there, nor is a Content-Type,
        which older signatures cover. Raises as `ask` does."""
        async with self._answer("PUT", url, self._within(size), _sized({}, size), content) as answer:
            if answer.status >= 300:
                raise _not_ours(answer.status)

    async def receive(self, path: str, *, headers: Mapping[str, str] | None = None) -> bytes:
        """Return the bytes that are at a path, or where it redirects to: all of them. Raises as `ask` does."""
        in_time = aiohttp.ClientTimeout(total=None, connect=self._timeout, sock_read=self._timeout)
        async with self._answer("GET", path, in_time, headers or {}, None) as answer:
            content = await answer.read()
            if answer.status >= 300:
                _read(answer.status, content)
                raise _not_ours(answer.status)
            return content

    def _within(self, size: int) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=self._timeout + size / SLOWEST)

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
        content: bytes | AsyncGenerator[bytes] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request to a path here, or to a whole URL. All that fails until its answer is read is Unreachable."""
        url = self.origin + path if path.startswith("/") else path
        try:
            async with self._http.request(
                method, url, data=content, headers=headers, timeout=timeout, skip_auto_headers=("Content-Type",)
            ) as answer:
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            origin = "/".join(url.split("/", 3)[:3])
            why = str(error).partition("?")[0] or type(error).__name__  # what follows in a URL may be a signature
            raise Unreachable(f"{origin} does not answer: {why}") from error


def _sized(headers: Mapping[str, str], size: int) -> Mapping[str, str]:
    return {**headers, "Content-Length": str(size)}


def _not_ours(status: int) -> Refused:
    return Refused(
        f"HTTP_{status}", "the answer is not ours; is a proxy in between?", retry=status >= 500, status=status
    )


def _read(status: int, content: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(content or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise _not_ours(status) from error
    if status < 400 and body.get("success", True):
        return body
    code = str(body.get("error") or body.get("code") or f"HTTP_{status}")  # seed 000's routes: an integer in `code`
    known = ERRORS.get(code)
    raise Refused(
        code,
        str(body.get("message", "")),
        retry=known.retry if known is not None else status == 429 or status >= 500,
        status=status,
        details=body.get("details"),
    )
