"""A bound on memory that several take a share of: who finds no room waits, in the order of coming."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from protocol.errors import DialdeskError


class Room:
    """So many bytes, lent out; each borrower says at the start how many it will need at most."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, share: int, patience: float) -> AsyncIterator[None]:
        """Hold a share while the block runs. Raises UNAVAILABLE where there is none within `patience` seconds."""
        share = min(share, self._size)
        if self._waiting or share > self._free:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((share, turn))
            try:
                async with asyncio.timeout(patience):
                    await turn
            except BaseException as error:
                if turn.done() and not turn.cancelled():
                    self._give(share)  # it came in the moment of giving up
                else:
                    with suppress(ValueError):  # in that moment its turn may have been passed over
                        self._waiting.remove((share, turn))
                    self._admit()  # behind a large one that left there may stand a small one that fits
                if isinstance(error, TimeoutError):
                    raise DialdeskError("UNAVAILABLE", retryAfter=5) from error
                raise
        else:
            self._free -= share
        try:
            yield
        finally:
            self._give(share)

    def _give(self, share: int) -> None:
        self._free += share
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            share, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= share
                turn.set_result(None)
