"""The timing wheel: who is asked, when, and what an absence of ours does to deadlines."""

import asyncio
import random

import pytest

from server.wheel import LATE, Wheel


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """An entry with the deadlines it will have, one after the other; None and it leaves."""

    def __init__(self, *deadlines: float | None) -> None:
        self._deadlines = list(deadlines)
        self.asked: list[float] = []

    def turn(self, now: float) -> float | None:
        """Note when it was asked."""
        self.asked.append(now)
        return self._deadlines.pop(0) if self._deadlines else None


@pytest.fixture
def clock() -> Clock:
    """The clock of the wheel."""
    return Clock()


@pytest.fixture
def wheel(clock: Clock) -> Wheel:
    """A wheel that ticks every second."""
    return Wheel(1.0, clock)


def turn_to(wheel: Wheel, clock: Clock, until: float, tick: float = 1.0) -> None:
    """Let time pass, tick by tick."""
    while clock.now + tick <= until + 1e-9:
        clock.now += tick
        wheel.advance()


@pytest.mark.parametrize("deadline", [1000.0, 1000.5, 1001.0, 1007.25])
def test_an_entry_is_asked_at_the_first_tick_after_its_deadline(wheel: Wheel, clock: Clock, deadline: float) -> None:
    """Not before it, once, and no later than a tick after it."""
    entry = Watched()
    wheel.add(entry, deadline)

    turn_to(wheel, clock, 1020.0)

    assert 1 == len(entry.asked)
    assert deadline < entry.asked[0] <= max(deadline, 1000.0) + 1.0


def test_a_deadline_that_has_passed_is_asked_at_the_next_tick(wheel: Wheel, clock: Clock) -> None:
    """Never in the tick that is past, and not never."""
    entry = Watched()
    wheel.add(entry, 3.0)

    turn_to(wheel, clock, 1003.0)

    assert [1001.0] == entry.asked


def test_an_entry_that_was_heard_meanwhile_moves_on(wheel: Wheel, clock: Clock) -> None:
    """It is filed under the deadline it tells, again and again, until it tells none."""
    entry = Watched(1010.0, 1015.5, None)
    wheel.add(entry, 1005.0)

    turn_to(wheel, clock, 1100.0)

    assert [1006.0, 1011.0, 1016.0] == entry.asked


def test_an_entry_that_stays_due_is_asked_once_a_tick(wheel: Wheel, clock: Clock) -> None:
    """A deadline in the past told by `turn` itself does not hold the wheel up."""
    entry = Watched(0.0, 0.0, None)
    wheel.add(entry, 1000.0)

    turn_to(wheel, clock, 1010.0)

    assert [1001.0, 1002.0, 1003.0] == entry.asked


def test_what_is_added_during_a_turn_is_asked_in_a_later_one(wheel: Wheel, clock: Clock) -> None:
    """An entry may file others, even due ones, while the wheel goes round."""
    added = Watched()

    class Parent(Watched):
        def turn(self, now: float) -> float | None:
            wheel.add(added, now - 5)
            return super().turn(now)

    parent = Parent()
    wheel.add(parent, 1000.0)

    turn_to(wheel, clock, 1001.0)
    before = list(added.asked)
    turn_to(wheel, clock, 1002.0)

    assert ([], [1002.0]) == (before, added.asked)


def test_many_entries_are_each_asked_in_their_time(clock: Clock) -> None:
    """Ten thousand deadlines, ticks that come early and late: nobody too soon, nobody later than tick and delay."""
    dice = random.Random(7)
    wheel = Wheel(0.5, clock)
    entries = {Watched(): 1000.0 + dice.uniform(0, 60) for _ in range(10_000)}
    for entry, deadline in entries.items():
        wheel.add(entry, deadline)

    while clock.now < 1065.0:
        clock.now += dice.uniform(0.3, 1.4)
        wheel.advance()

    assert {1} == {len(entry.asked) for entry in entries}
    assert all(deadline < entry.asked[0] <= deadline + 0.5 + 1.4 for entry, deadline in entries.items())


def test_an_absence_of_ours_is_nobodys_silence(wheel: Wheel, clock: Clock) -> None:
    """A tick that comes more than LATE seconds late shifts every deadline by the gap."""
    entry = Watched()
    turn_to(wheel, clock, 1010.0)
    wheel.add(entry, wheel.now() + 30.0)

    clock.now += 1.0 + 100.0
    wheel.advance()
    after_the_gap = wheel.now()
    turn_to(wheel, clock, 1111.0 + 29.0)
    early = list(entry.asked)
    turn_to(wheel, clock, 1111.0 + 30.0)

    assert (1011.0, [], [1041.0]) == (after_the_gap, early, entry.asked)


def test_a_tick_that_is_a_little_late_shifts_nothing(wheel: Wheel, clock: Clock) -> None:
    """Up to LATE seconds are made good at once: all that came due meanwhile is asked."""
    entries = [Watched(), Watched()]
    wheel.add(entries[0], 1000.5)
    wheel.add(entries[1], 1001.5)

    clock.now += 1.0 + LATE
    wheel.advance()

    assert [[1003.0], [1003.0]] == [entry.asked for entry in entries]
    assert 1003.0 == wheel.now()


async def test_the_wheel_turns_by_itself() -> None:
    """`run` asks by the real clock until it is cancelled."""
    asked = asyncio.Event()

    class Waiting(Watched):
        def turn(self, now: float) -> float | None:
            asked.set()
            return super().turn(now)

    wheel = Wheel(0.01)
    wheel.add(Waiting(), wheel.now())
    turning = asyncio.create_task(wheel.run())
    async with asyncio.timeout(20):
        await asked.wait()
    turning.cancel()

    assert asked.is_set()
