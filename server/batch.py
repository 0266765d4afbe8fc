"""Many asks, one round trip: what is asked while a batch is under way goes with the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Ask = TypeVar("Ask")
Told = TypeVar("Told")


class Batch(Generic[Ask, Told]):
    """Collects asks of one event-loop tick, and of the time a batch takes, into one call of `run`.

    `run` gets the asks in order and returns as many answers in the same order; what it raises, every asker gets.
    """

    def __init__(self, run: Callable[[Sequence[Ask]], Awaitable[Sequence[Told]]], *, bound: int = 500) -> None:
        self._run = run
        self._bound = bound
        self._waiting: list[tuple[Ask, asyncio.Future[Told]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def ask(self, ask: Ask) -> Told:
        """Ask with the next batch and wait for the answer."""
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, answer))
        if self._runner is None:
            self._runner = asyncio.create_task(self._drain(), name="batch")
        return await answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # the rest of this tick asks too
                batch, self._waiting = self._waiting[: self._bound], self._waiting[self._bound :]
                try:
                    told = await self._run([ask for ask, _ in batch])
                    answered = list(zip((answer for _, answer in batch), told, strict=True))
                except Exception as error:  # noqa: BLE001 - it is each asker's to judge
                    for _, answer in batch:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for answer, result in answered:
                    if not answer.done():
                        answer.set_result(result)
        finally:
            self._runner = None
