"""Many asks, one round trip: what is asked while a batch is under way goes with the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

from protocol.errors import DialdeskError
from storage.database import rolled_back

STUCK = 4
"""Asks that may fail alone for locks that others hold. Each takes as long as a lock is waited for, and those behind it
wait too: after so many the rest is told the same."""

LONG = 0.005
"""Seconds that a batch has to itself: what is asked meanwhile goes together when it is done. Only beside one that takes
longer, for a lock or for the disk, another is begun."""

Ask = TypeVar("Ask")
Told = TypeVar("Told")


class Batch(Generic[Ask, Told]):
    """Collects asks of one event-loop tick, and of the time that batches take, into one call of `run`.

    `run` gets the asks in order and returns as many answers in the same order; what it raises, every asker gets. With
    `apart` it has done nothing when it raises, and each asker then gets what `run` says to it alone, so that nobody
    fails for what another asked. But where that may be tried again, what failed was not what was asked, and all are
    told so; unless PostgreSQL rolled it back, for a deadlock or a lock that somebody keeps, which one ask may be the
    cause of. Whoever has gone meanwhile is not asked for. At most `at_once` batches are under way, and more than one
    only where one takes long.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Ask]], Awaitable[Sequence[Told]]],
        *,
        bound: int = 500,
        at_once: int = 1,
        apart: bool = False,
    ) -> None:
        self._run = run
        self._bound = bound
        self._at_once = at_once
        self._apart = apart
        self._waiting: list[tuple[Ask, asyncio.Future[Told]]] = []
        self._runners: dict[asyncio.Task[None], float] = {}  # when each began its batch
        self._gathering = False
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, ask: Ask) -> Told:
        """Ask with the next batch and wait for the answer."""
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, answer))
        self._begin()
        return await answer

    def _begin(self) -> None:
        """Begin a batch, now or when the youngest one has had its time; one that is gathering takes all who wait."""
        if self._gathering or len(self._runners) >= self._at_once:
            return
        loop = asyncio.get_running_loop()
        due = max(self._runners.values()) + LONG if self._runners else 0.0
        if loop.time() >= due:
            self._gathering = True
            self._runners[asyncio.create_task(self._drain(), name="batch")] = loop.time()
        elif self._timer is None:
            self._timer = loop.call_at(due, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        if self._waiting:
            self._begin()

    async def _drain(self) -> None:
        me = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            while self._waiting:
                self._gathering = True
                await asyncio.sleep(0)  # the rest of this tick asks too
                self._gathering = False
                here = [one for one in self._waiting if not one[1].done()]
                batch, self._waiting = here[: self._bound], here[self._bound :]
                if batch:
                    self._runners[me] = asyncio.get_running_loop().time()
                    await self._answer(batch)
        finally:
            self._gathering = False
            del self._runners[me]

    async def _answer(self, batch: Sequence[tuple[Ask, asyncio.Future[Told]]]) -> None:
        try:
            told = await self._run([ask for ask, _ in batch])
            answered = list(zip((answer for _, answer in batch), told, strict=True))
        except Exception as error:  # noqa: BLE001 - it is each asker's to judge
            if self._apart and len(batch) > 1 and not _is_outage(error):
                await self._answer_apart(batch)
            else:
                _fail(batch, error)
            return
        for answer, result in answered:
            if not answer.done():
                answer.set_result(result)

    async def _answer_apart(self, batch: Sequence[tuple[Ask, asyncio.Future[Told]]]) -> None:
        stuck = 0
        for place, one in enumerate(batch):
            if one[1].done():
                continue
            await self._answer([one])
            error = None if one[1].cancelled() else one[1].exception()
            if isinstance(error, DialdeskError) and error.retry:
                stuck += 1
                if _is_outage(error) or stuck == STUCK:
                    _fail(batch[place + 1 :], error)
                    return


def _is_outage(error: BaseException) -> bool:
    """Whether asking again, now and for less, would fail the same way."""
    return isinstance(error, DialdeskError) and error.retry and not rolled_back(error)


def _fail(batch: Sequence[tuple[Ask, asyncio.Future[Told]]], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
