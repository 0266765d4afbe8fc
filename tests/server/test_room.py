"""Memory that several share: who finds none waits in the order of coming, and nobody's share is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from protocol.errors import DialdeskError
from server.room import Room
from tests.waiting import until

PATIENCE = 60.0


class Guests:
    """Those who come into a room of ten: who is in it, in the order of coming in, and who was turned away."""

    def __init__(self) -> None:
        self.room = Room(10)
        self.inside: list[str] = []
        self.turned_away: list[str] = []
        self._may_leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, share: int, patience: float = PATIENCE) -> None:
        """Come for a share, and be in the room or in the queue when this returns."""
        self._may_leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, share, patience))
        for _ in range(3):
            await asyncio.sleep(0)

    async def leave(self, *names: str) -> None:
        """Leave, all in one moment."""
        for name in names:
            self._may_leave[name].set()
        await asyncio.wait([self.tasks[name] for name in names])
        for _ in range(3):
            await asyncio.sleep(0)

    async def _stay(self, name: str, share: int, patience: float) -> None:
        try:
            async with self.room.take(share, patience):
                self.inside.append(name)
                try:
                    await self._may_leave[name].wait()
                finally:
                    self.inside.remove(name)
        except DialdeskError as error:
            assert ("UNAVAILABLE", {"retryAfter": 5}) == (error.code, error.details)  # noqa: PT017
            self.turned_away.append(name)


@asynccontextmanager
async def ended(guests: Guests) -> AsyncIterator[None]:
    """At the end all leave, and then the room is whole: somebody may have all of it."""
    yield
    while guests.inside:
        await guests.leave(*guests.inside)
    async with asyncio.timeout(20), guests.room.take(10, PATIENCE):
        pass


@pytest.fixture
async def guests() -> AsyncIterator[Guests]:
    """A room of ten, which must be whole at the end."""
    guests = Guests()
    async with ended(guests):
        yield guests


async def test_all_who_fit_are_in_at_once(guests: Guests) -> None:
    """As long as there is room nobody waits."""
    for name, share in (("a", 5), ("b", 4), ("c", 1), ("d", 0)):
        await guests.come(name, share)

    assert ["a", "b", "c", "d"] == guests.inside


async def test_who_does_not_fit_waits_in_the_order_of_coming(guests: Guests) -> None:
    """Also a small one behind a large one, which would never come in otherwise."""
    for name, share in (("a", 6), ("large", 9), ("small", 1)):
        await guests.come(name, share)
    waiting = [*guests.inside]
    await guests.leave("a")

    assert ["a"] == waiting
    assert ["large", "small"] == guests.inside


async def test_who_needs_more_than_there_is_gets_all_of_it(guests: Guests) -> None:
    """It waits for nobody for ever."""
    await guests.come("a", 1)
    await guests.come("giant", 1000)
    await guests.leave("a")
    await guests.come("b", 1)

    assert ["giant"] == guests.inside


async def test_who_waited_too_long_is_told_to_come_again(guests: Guests) -> None:
    """UNAVAILABLE with a time; whoever stands behind and fits comes in."""
    await guests.come("a", 6)
    await guests.come("hasty", 5, patience=0.01)
    await guests.come("small", 4)
    await until(lambda: len(guests.inside) == 2)

    assert ["hasty"] == guests.turned_away
    assert ["a", "small"] == guests.inside


async def test_who_gives_up_waiting_leaves_the_queue(guests: Guests) -> None:
    """As a request does whose time is over."""
    await guests.come("a", 6)
    await guests.come("b", 5)
    await guests.come("c", 4)
    guests.tasks["b"].cancel()
    await until(lambda: len(guests.inside) == 2)

    assert guests.tasks["b"].cancelled()
    assert ["a", "c"] == guests.inside


@pytest.mark.parametrize("steps_between", [0, 1], ids=["just before", "just after"])
async def test_who_gives_up_in_the_moment_of_its_turn_takes_nothing_along(guests: Guests, steps_between: int) -> None:
    """Just before its turn comes or just after, it is cancelled and nothing else, and the next comes in."""
    await guests.come("a", 10)
    await guests.come("b", 10)
    await guests.come("c", 10)
    guests.tasks["a"].cancel()
    for _ in range(steps_between):
        await asyncio.sleep(0)
    guests.tasks["b"].cancel()
    await until(lambda: guests.inside == ["c"])

    assert guests.tasks["b"].cancelled()
