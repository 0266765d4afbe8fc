"""What somebody has heard or said, kept to be looked through and waited on."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from protocol.messages import Envelope, Message

M = TypeVar("M")
K = TypeVar("K", bound=Message)


class History(Generic[M]):
    """The newest `keep` envelopes; older ones are forgotten. One that waits need not be there before it comes."""

    def __init__(self, keep: int) -> None:
        self._kept: deque[Envelope[M]] = deque(maxlen=keep)
        self._waiting: list[tuple[Callable[[Envelope[M]], bool], asyncio.Future[Envelope[M]]]] = []
        self._ended: BaseException | None = None
        self.position = 0
        """How many envelopes there ever were; what comes next has this number."""

    def add(self, envelope: Envelope[M]) -> None:
        """Keep one more, and wake those who waited for it."""
        self._kept.append(envelope)
        self.position += 1
        if self._waiting:
            for wanted, arrival in self._waiting:
                if not arrival.done() and wanted(envelope):
                    arrival.set_result(envelope)

    def end(self, reason: BaseException) -> None:
        """Nothing will come any more: whoever waits, now or later, is told `reason`."""
        self._ended = reason
        for _, arrival in self._waiting:
            if not arrival.done():
                arrival.set_exception(reason)

    async def wait_for(
        self,
        kind: type[K],
        *,
        call_id: str | None = None,
        where: Callable[[K], bool] | None = None,
        since: int = 0,
        timeout: float = 10.0,
    ) -> K:
        """Return the first message of `kind` that is kept or comes: of `call_id` if given, and for which `where` holds.

        `since` is a former `position`: what came before it is passed over. Raises TimeoutError after `timeout` seconds,
        or what `end` was told.
        """

        def wanted(envelope: Envelope[M]) -> bool:
            message = envelope.message
            return (
                isinstance(message, kind)
                and (call_id is None or getattr(message, "call_id", None) == call_id)
                and (where is None or where(message))
            )

        try:
            envelope: Envelope[Any] = await self._first(wanted, since, timeout)
        except TimeoutError as error:
            came = ", ".join(str(getattr(kept.message, "type", "?")) for kept in self._kept) or "nothing"
            of_call = f" of {call_id}" if call_id else ""
            raise TimeoutError(f"no {kind.type}{of_call} within {timeout} s; there came: {came}") from error
        message: K = envelope.message
        return message

    async def __aiter__(self) -> AsyncIterator[Envelope[M]]:
        """Yield what is kept and then what comes, each once. Raises what `end` was told."""
        passed = 0
        while True:
            fresh = list(self._kept)[passed - self.position :] if passed < self.position else []
            passed = self.position
            for envelope in fresh:
                yield envelope
            if passed == self.position:
                await self._first(lambda _: True, passed, None)

    async def _first(self, wanted: Callable[[Envelope[M]], bool], since: int, timeout: float | None) -> Envelope[M]:
        oldest = self.position - len(self._kept)
        for number, envelope in enumerate(self._kept, oldest):
            if number >= since and wanted(envelope):
                return envelope
        if self._ended is not None:
            raise self._ended
        arrival: asyncio.Future[Envelope[M]] = asyncio.get_running_loop().create_future()
        waiting = (wanted, arrival)
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(timeout):
                return await arrival
        finally:
            self._waiting.remove(waiting)
