"""Many asks, one round trip."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

import server.batch
from protocol.errors import DialdeskError
from server.batch import STUCK, Batch
from tests.waiting import until


class Run:
    """Answers each ask with itself doubled; waits for `go` where a test says so, and fails once with `error`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def __call__(self, asks: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(asks))
        error, self.error = self.error, None
        self.begun.set()
        await self.go.wait()
        if error is not None:
            raise error
        return [2 * ask for ask in asks]


@pytest.fixture
def run() -> Run:
    """What the batches are run by."""
    return Run()


async def test_what_is_asked_in_one_tick_goes_in_one_run(run: Run) -> None:
    """In the order asked, and each asker gets its own answer."""
    batch = Batch(run)

    told = await asyncio.gather(*(batch.ask(n) for n in range(100)))

    assert [2 * n for n in range(100)] == told
    assert [list(range(100))] == run.batches


async def test_what_is_asked_during_a_run_goes_with_the_next(run: Run) -> None:
    """One round trip at a time, however many ask meanwhile."""
    batch = Batch(run)
    run.go.clear()
    first = asyncio.create_task(batch.ask(1))
    await run.begun.wait()
    later = [asyncio.create_task(batch.ask(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    during = list(run.batches)
    run.go.set()

    assert [2, 4, 6] == await asyncio.gather(first, *later)
    assert ([[1]], [[1], [2, 3]]) == (during, run.batches)


async def test_a_batch_is_used_again_after_it_was_idle(run: Run) -> None:
    """The runner ends when nobody asks and begins anew."""
    batch = Batch(run)

    told = [await batch.ask(n) for n in (1, 2, 3)]

    assert ([2, 4, 6], [[1], [2], [3]]) == (told, run.batches)


async def test_no_run_is_larger_than_the_bound(run: Run) -> None:
    """What is more goes in the next runs, in order."""
    batch = Batch(run, bound=4)

    told = await asyncio.gather(*(batch.ask(n) for n in range(10)))

    assert [2 * n for n in range(10)] == told
    assert [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] == run.batches


async def test_an_error_reaches_every_asker_and_ends_nothing(run: Run) -> None:
    """Who asks afterwards is answered."""
    batch = Batch(run)
    run.error = ZeroDivisionError("none today")

    refused = await asyncio.gather(*(batch.ask(n) for n in range(3)), return_exceptions=True)

    assert [ZeroDivisionError] * 3 == [type(error) for error in refused]
    assert 10 == await batch.ask(5)


async def test_askers_of_the_next_run_do_not_get_the_error_of_this(run: Run) -> None:
    """An error is the answer to those whose asks it was about."""
    batch = Batch(run)
    run.go.clear()
    run.error = ZeroDivisionError("none today")
    first = asyncio.create_task(batch.ask(1))
    await run.begun.wait()
    second = asyncio.create_task(batch.ask(2))
    await asyncio.sleep(0)
    run.go.set()
    with pytest.raises(ZeroDivisionError):
        await first

    assert 4 == await second


async def test_an_asker_that_goes_away_breaks_no_other(run: Run) -> None:
    """Cancelled before or during the run: the others are answered."""
    batch = Batch(run)
    run.go.clear()
    asked = [asyncio.create_task(batch.ask(n)) for n in range(3)]
    await run.begun.wait()
    waiting = asyncio.create_task(batch.ask(3))
    await asyncio.sleep(0)
    asked[1].cancel()
    waiting.cancel()
    await asyncio.wait([asked[1], waiting])
    run.go.set()

    assert [0, 4] == [await asked[0], await asked[2]]
    assert 8 == await batch.ask(4)


async def test_a_run_that_leaves_answers_out_is_told_to_all_who_asked() -> None:
    """A mistake of ours is an error to each asker, and none waits for ever."""

    async def forgetful(asks: Sequence[int]) -> Sequence[int]:
        return asks[:-1]

    batch = Batch(forgetful)
    async with asyncio.timeout(5):
        told = await asyncio.gather(*(batch.ask(n) for n in range(3)), return_exceptions=True)

    assert [ValueError] * 3 == [type(error) for error in told]


async def test_a_second_run_begins_while_the_first_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two at once nobody waits for one that takes long; a third ask goes with whichever is done first."""
    monkeypatch.setattr(server.batch, "LONG", 0.0)
    go = {1: asyncio.Event(), 2: asyncio.Event()}
    runs: list[list[int]] = []

    async def stuck(asks: Sequence[int]) -> Sequence[int]:
        runs.append(list(asks))
        if asks[0] in go:
            await go[asks[0]].wait()
        return asks

    batch = Batch(stuck, at_once=2)
    first = asyncio.create_task(batch.ask(1))
    await until(lambda: [[1]] == runs)
    second = asyncio.create_task(batch.ask(2))
    await until(lambda: [[1], [2]] == runs)
    third = asyncio.create_task(batch.ask(3))
    go[2].set()

    assert (2, 3) == (await second, await third)
    assert not first.done()
    go[1].set()
    assert 1 == await first
    assert [[1], [2], [3]] == runs


async def test_what_is_asked_while_a_run_is_young_waits_for_it_and_goes_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though another might be begun: one round trip for all of them is sooner done than one for each."""
    monkeypatch.setattr(server.batch, "LONG", 1000.0)
    run = Run()
    run.go.clear()
    batch = Batch(run, at_once=2)
    first = asyncio.create_task(batch.ask(1))
    await run.begun.wait()
    others = [asyncio.create_task(batch.ask(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    run.go.set()

    assert [2, 4, 6] == [await first, *[await other for other in others]]
    assert [[1], [2, 3]] == run.batches


async def test_nobody_waits_for_a_run_that_takes_long_though_it_was_young_when_he_asked() -> None:
    """Also where nobody else asks after him, and where a younger run has come and gone."""
    go = asyncio.Event()
    runs: list[list[int]] = []

    async def stuck(asks: Sequence[int]) -> Sequence[int]:
        runs.append(list(asks))
        if asks[0] == 1:
            await go.wait()
        return asks

    batch = Batch(stuck, at_once=2)
    first = asyncio.create_task(batch.ask(1))
    while not runs:
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        told = [await batch.ask(number) for number in (2, 3, 4)]
    go.set()

    assert ([2, 3, 4], 1) == (told, await first)
    assert [[1], [2], [3], [4]] == runs


class Poison:
    """Fails whatever it is part of with `error`; all else is answered with itself."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.runs = 0

    async def __call__(self, asks: Sequence[int]) -> Sequence[int]:
        self.runs += 1
        if 2 in asks:
            raise self.error
        return asks


@pytest.mark.parametrize("error", [ValueError("poisoned"), DialdeskError("INVALID_FIELD")])
async def test_apart_nobody_fails_for_what_another_asked(error: Exception) -> None:
    """A run that fails is taken apart: each asks alone, and the poisoned one has the error to itself."""
    batch = Batch(Poison(error), apart=True)

    told = await asyncio.gather(*(batch.ask(n) for n in range(4)), return_exceptions=True)

    assert [0, 1, error, 3] == told


async def test_an_outage_is_not_asked_about_again_for_each() -> None:
    """What may be tried again was nobody's fault: all are told at once."""
    run = Poison(DialdeskError("UNAVAILABLE"))
    batch = Batch(run, apart=True)

    told = await asyncio.gather(*(batch.ask(n) for n in range(4)), return_exceptions=True)

    assert [run.error] * 4 == told
    assert 1 == run.runs


async def test_what_was_rolled_back_is_asked_for_one_by_one() -> None:
    """A deadlock or a lock that somebody keeps: certainly nothing was done, and one of these may be the cause."""
    error = DialdeskError("UNAVAILABLE")
    error.__cause__ = asyncpg.DeadlockDetectedError("deadlock detected")
    batch = Batch(Poison(error), apart=True)

    told = await asyncio.gather(*(batch.ask(n) for n in range(4)), return_exceptions=True)

    assert [0, 1, error, 3] == told


class Failing:
    """Every run fails: the first, of many, as the first of `errors` says, each ask alone as the second does."""

    def __init__(self, together: Exception, alone: Exception) -> None:
        self.errors = (together, alone)
        self.runs = 0

    async def __call__(self, asks: Sequence[int]) -> Sequence[int]:
        self.runs += 1
        raise self.errors[len(asks) == 1]


async def test_an_outage_that_comes_meanwhile_is_told_to_the_rest() -> None:
    """Nobody waits until each of the others has met it."""
    run = Failing(ValueError("poisoned"), DialdeskError("UNAVAILABLE"))
    batch = Batch(run, apart=True)

    told = await asyncio.gather(*(batch.ask(n) for n in range(10)), return_exceptions=True)

    assert ([run.errors[1]] * 10, 2) == (told, run.runs)


async def test_no_more_than_a_few_locks_are_waited_for_one_by_one() -> None:
    """Then the rest is told the same, or who asks next would wait for all of them."""
    locked = DialdeskError("UNAVAILABLE")
    locked.__cause__ = asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
    run = Failing(locked, locked)
    batch = Batch(run, apart=True)

    told = await asyncio.gather(*(batch.ask(n) for n in range(10)), return_exceptions=True)

    assert ([locked] * 10, 1 + STUCK) == (told, run.runs)


async def test_nothing_is_asked_for_who_has_gone(run: Run) -> None:
    """It was told that nothing came of it."""
    batch = Batch(run)
    run.go.clear()
    first = asyncio.create_task(batch.ask(1))
    await run.begun.wait()
    gone, here = [asyncio.create_task(batch.ask(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    run.go.set()
    await asyncio.gather(first, here)

    assert [[1], [3]] == run.batches


async def test_nor_alone(run: Run) -> None:
    """Who goes while the others are heard one by one is not heard."""
    batch = Batch(run, apart=True)
    run.error = ValueError("poisoned")
    run.go.clear()
    first, gone, last = [asyncio.create_task(batch.ask(n)) for n in (1, 2, 3)]
    await run.begun.wait()
    gone.cancel()
    await asyncio.wait([gone])
    run.go.set()
    await asyncio.gather(first, last)

    assert [[1, 2, 3], [1], [3]] == run.batches
