"""What is dealt: the same by the same seed, every kind of fault, in order, and over in time."""

import itertools
from typing import get_args

import pytest

from tests.faults.record import Plan
from tests.faults.schedule import LEASE, AnyFault, Freeze, deal, tell
from tests.faults.world import NODES, WORKER

LINES = ("place 0", "worker to PostgreSQL")
LONG = Plan(seed=7, seconds=900.0, pairs=10)


def dealt(plan: Plan) -> list[list[AnyFault]]:
    """The lanes of a plan."""
    return deal(plan, NODES, WORKER, LINES)


def test_the_same_seed_deals_the_same_faults() -> None:
    """So that a run can be repeated; another seed deals others."""
    other = Plan(seed=8, seconds=LONG.seconds, pairs=LONG.pairs)

    assert dealt(LONG) == dealt(LONG)
    assert dealt(LONG) != dealt(other)


def test_no_kind_of_fault_is_left_out() -> None:
    """Nor any process: a long run sees each."""
    faults = list(itertools.chain(*dealt(LONG)))

    assert set(get_args(AnyFault)) == {type(fault) for fault in faults}
    assert {*NODES, WORKER} == {fault.process for fault in faults if isinstance(fault, Freeze)}


@pytest.mark.parametrize("seed", range(5))
def test_the_faults_of_a_lane_follow_each_other_and_are_over_in_time(seed: int) -> None:
    """One ends before the next begins, and the last before the run is over."""
    for lane in dealt(Plan(seed=seed, seconds=30.0, pairs=3)):
        times = [at for fault in lane for at in (fault.at, fault.at + fault.lasts)]

        assert lane
        assert times == sorted(times)
        assert times[-1] <= 30.0


def test_whoever_is_frozen_sleeps_past_its_lease() -> None:
    """Or nobody would take it for dead."""
    faults = itertools.chain(*dealt(LONG))

    assert all(fault.lasts > LEASE for fault in faults if isinstance(fault, Freeze))


def test_every_fault_is_told_in_words() -> None:
    """Which are what the files and the counts of a run have of it."""
    words = {tell(fault) for fault in itertools.chain(*dealt(LONG))}

    assert {"node 1 killed", "worker frozen", "PostgreSQL crashed", "line held: place 0"} < words
