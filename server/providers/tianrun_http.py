"""One request to Tianrun, on either platform: sent once, within a deadline, its answer bounded; and what a refusal in
words means, for neither platform publishes its codes."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import msgspec
from yarl import URL

from server.providers.provider import LEFT_OPEN, UNREACHABLE, PlacementRefused, Refusal, Uncertain
from server.ssrf import Refused

CONNECT = 5.0
"""Seconds in which a connection must stand; until then nothing was asked for."""

DEADLINE = 10.0
"""Seconds for a method as a whole, however many requests it takes."""

ANSWER_BOUND = 1024 * 1024
"""Bytes of an answer; a page of 100 call records is some 100 KiB."""

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What is raised for bytes that are not what they should be."""

AT_THE_DOOR = frozenset({401, 429})
"""HTTP statuses of a request that was not looked into (RFC 9110, 6585)."""

UNCLEAR = ("系统异常", "系统错误", "系统繁忙", "内部错误", "超时", "internal", "exception", "timeout", "timed out")
"""Words of an error after which nobody knows what was done."""

NOT_FOUND = ("不存在", "未找到", "没有找到", "not found", "notfound", "not exist", "no record")

MEANINGS: tuple[tuple[Refusal, tuple[str, ...]], ...] = (
    (Refusal.THROTTLED, ("频率", "频繁", "限流", "throttl", "too many", "rate limit", "requestlimit")),
    (Refusal.SEAT_OFFLINE, ("不在线", "未登录", "离线", "未上线", "not online", "not login", "offline", "no such cno")),
    (Refusal.SEAT_BUSY, ("忙", "不空闲", "通话中", "呼叫中", "响铃", "正在外呼", "busy", "not idle", "outcalling")),
    (Refusal.CALLEE, ("黑名单", "客户号码", "被叫", "外呼号码", "号码格式", "customernumber", "black", "bad tel")),
)
"""Words of a refusal, the first that is found; without any it is the line's fault. From the wording of the vendor's
own published sources and toolbars, not from a table of the vendor's."""


async def exchange(
    http: aiohttp.ClientSession, method: str, url: URL, body: object | None, until: float
) -> tuple[int, bytes]:
    """Send one request, once, and return the HTTP status and the content of its answer.

    Raises PlacementRefused where it was not sent, Uncertain where no answer came by `until`, in the loop's time."""
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT, sock_connect=CONNECT)
    content = bytearray()
    try:
        async with (
            asyncio.timeout_at(until),
            http.request(method, url, json=body, allow_redirects=False, timeout=timeout) as response,
        ):
            async for piece in response.content.iter_any():
                content += piece
                if len(content) > ANSWER_BOUND:
                    raise Uncertain("Tianrun's answer is too large")
            return response.status, bytes(content)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, Refused):
        raise PlacementRefused(Refusal.LINE, UNREACHABLE, "Tianrun cannot be reached", known=True) from None
    except (TimeoutError, aiohttp.ClientError, OSError):
        raise Uncertain("Tianrun did not answer") from None


def refused(status: int, code: str, text: str, known: Refusal | None = None) -> PlacementRefused | Uncertain:
    """Return what an error means: by `known` where the code tells, else by the HTTP status and by words.

    Words are nobody's table: what they refuse is not known to be refused before anything rang. What the vendor wrote is
    told on without what may be a number or a signature."""
    code = _printable(code, 64) or f"http_{status}"
    said = f"{code} {text}".lower()
    if status in LEFT_OPEN or (known is None and any(word in said for word in UNCLEAR)):
        return Uncertain(f"an error inside Tianrun ({code})")
    by_words = (meaning for meaning, words in MEANINGS if any(word in said for word in words))
    refusal = known or (Refusal.THROTTLED if status == 429 else next(by_words, Refusal.LINE))
    kept = re.sub(r"\d{7,}|[0-9A-Za-z+/=_-]{20,}", "…", _printable(text, 200))
    listed = known is not None or status in AT_THE_DOOR
    return PlacementRefused(refusal, code, kept or "Tianrun did not carry out the request", known=listed)


def says_not_found(answer: PlacementRefused) -> bool:
    """Tell whether what was asked for is not there (yet)."""
    return answer.code == "http_404" or any(word in str(answer).lower() for word in NOT_FOUND)


@contextmanager
def only_uncertain() -> Iterator[None]:
    """Where nothing is ordered, a refusal only means that nobody knows."""
    try:
        yield
    except PlacementRefused as answer:
        raise Uncertain(str(answer)) from answer


def _printable(text: str, bound: int) -> str:
    return "".join(character for character in text[:bound] if character.isprintable()).strip()
