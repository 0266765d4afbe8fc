"""One connection to a Redis, by asyncio's protocols and by hiredis, the parser in C that redis-py uses too.

What costs here is paid for every message of every call: a question takes one write and one wake-up, and makes no task,
no timer and no time-out object.
"""

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as Silent

IDLE: Final = 15.0
"""Seconds after which an unused connection is not trusted any more: a firewall may have forgotten it."""


def cause_of(error: BaseException | None) -> str:
    """What went wrong, for a log: redis-py's errors show all but their text."""
    return f"{type(error).__name__}: {error}"


def packed(*words: str | bytes) -> bytes:
    """Return a command as it goes over the line."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # it says a tuple of one, and takes any
    return command


class Line(asyncio.Protocol):
    """One connection, and a watch on it: whoever asks has the answers, or an error after `deadline` seconds."""

    def __init__(self, deadline: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._transport: asyncio.Transport | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._asked: asyncio.Future[list[Any]] | None = None
        self._answers: list[Any] = []
        self._missing = 0
        self._due = math.inf
        self._used_at = self._loop.time()
        self._hear: Callable[[bytes], None] | None = None
        self._problem: Exception | None = None
        self._gone = self._loop.create_future()

    async def ask(self, *commands: bytes) -> list[Any]:
        """Send packed commands in one write and return their answers; what the server refuses is an answer too.

        One at a time. Raises what ended the line, if it ends before.
        """
        self._demand_open()
        assert self._transport is not None
        assert self._missing == 0, "somebody else asks"
        self._answers = []
        self._missing = len(commands)
        self._asked = self._loop.create_future()
        self._due = self._loop.time() + self._deadline
        self._transport.write(b"".join(commands))
        try:
            return await self._asked
        except asyncio.CancelledError:
            self.end(Disconnected("given up"))  # or the answers would be taken for those of the next question
            raise

    async def tell(self, *words: str | bytes) -> Any:
        """Send one command and return its answer. Raises `ResponseError` where it is refused."""
        (answer,) = await self.ask(packed(*words))
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    async def listen(self, verb: str, channel: str, hear: Callable[[bytes], None]) -> None:
        """Subscribe; `hear` is called for every message from when this returns. It ends the line where it raises."""
        self._hear = hear
        await self.tell(verb, channel)

    async def wait(self, seconds: float) -> None:
        """Wait so long, and raise what ended the line if it ends before."""
        await asyncio.wait([self._gone], timeout=seconds)
        self._demand_open()

    def stale(self) -> bool:
        """Whether another should be opened before the next question."""
        return self._problem is not None or self._loop.time() - self._used_at > IDLE

    def end(self, problem: Exception) -> None:
        """Hang up; whoever waits is told this problem."""
        self._problem = self._problem or problem
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Hang up, and wait until it is done."""
        self.end(Disconnected("closed"))
        await self._gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to watch."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Sort what the server says into messages and answers."""
        self._parser.feed(data)
        while (said := self._parser.gets()) is not False:
            if self._hear is not None and type(said) is list and said[0] in _MESSAGES:
                self._hear(said[2])
            elif self._missing:
                self._answers.append(said)
                self._missing -= 1
                if self._missing == 0:
                    self._answered()
            else:  # too many clients; a slot that went to another server
                self.end(said if isinstance(said, ResponseError) else Disconnected(f"unasked: {said!r}"))
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._problem = self._problem or exc or Disconnected("the server hung up")
        if self._watching is not None:
            self._watching.cancel()
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(self._problem)
        self._gone.set_result(None)

    def _answered(self) -> None:
        self._due = math.inf
        self._used_at = self._loop.time()
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(self._answers)

    def _watch(self) -> None:
        """The one timer of a connection: asks a few times within each deadline whether an answer is overdue."""
        self._watching = self._loop.call_later(self._deadline / 4, self._watch)
        if self._loop.time() > self._due:
            self.end(Silent(f"no answer within {self._deadline:g} s"))

    def _demand_open(self) -> None:
        if self._problem is not None:
            raise self._problem


_MESSAGES: Final = frozenset({b"message", b"smessage"})
