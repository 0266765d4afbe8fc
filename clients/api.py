"""Requests to Dialdesk's JSON API, and the two ways in which they fail."""

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from protocol.errors import ERRORS


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
    request as a whole. `language` is that of the messages for people.
    """

    def __init__(
        self, origin: str, *, tls: ssl.SSLContext | None = None, timeout: float = 10.0, language: str = "en"
    ) -> None:
        self.origin = origin.rstrip("/")
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
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Send one request, `body` as JSON, and return the object that answers it.

        Raises Refused for an error that the server tells, Unreachable where no answer came in time.
        """
        content = None if body is None else msgspec.json.encode(body)
        typed = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with self._http.request(
                method, self.origin + path, data=content, headers={**typed, **(headers or {})}
            ) as answer:
                return _read(answer.status, await answer.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"{self.origin} does not answer: {str(error) or type(error).__name__}") from error


def _read(status: int, content: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(content or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refused(
            f"HTTP_{status}", "the answer is not ours; is a proxy in between?", retry=status >= 500, status=status
        ) from error
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
