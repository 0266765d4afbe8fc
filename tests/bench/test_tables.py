"""What the tables of docs/benchmarks.md make of measured lines."""

from pathlib import Path

import msgspec
import pytest

from tests.bench.results import Dialled, Grown, Line, Machine, Relayed, Results, Stormed, read
from tests.bench.tables import NOTHING, dials, growth, latest, relay, renewed, storm

MACHINE = Machine(
    at="2026-11-22T08:00:00+00:00",
    processor="A processor",
    cores=2,
    kernel="6.18",
    load=0.1,
    pinned=True,
    versions={"Python": "3.11.7"},
)


def turn(peer: str, number: int, per_second: float, *, pairs: int = 64, busy: float = 0.2) -> Relayed:
    """One turn of a peer."""
    return Relayed(
        peer=peer,
        title=peer.upper(),
        version="1.0",
        pairs=pairs,
        turn=number,
        seconds=5.0,
        per_second=per_second,
        p50=1.0,
        p99=2.0,
        most=3.0,
        lost=1,
        stray=0,
        cpu=0.1,
        busy=busy,
    )


def test_a_ratio_is_the_median_of_the_ratios_of_turns() -> None:
    """A peer is compared with Socket.IO turn by turn, so that what slowed a turn down falls on both."""
    lines: list[Line] = [MACHINE]
    for number, (ours, theirs) in enumerate([(3000, 1000), (200, 100), (4000, 1000)]):
        lines += [turn("dialdesk", number, ours), turn("socketio-redis", number, theirs)]

    row = next(line for line in relay(lines).splitlines() if line.startswith("| DIALDESK"))

    assert "| 3,000 (200-4,000) | 3.00 (2.00-4.00) |" in row


def grown(records: int, turn: int, p50: float) -> Grown:
    """What one turn of one size took."""
    return Grown(records=records, what="dial", turn=turn, count=10, p50=p50, p99=2 * p50)


def test_growth_is_told_by_size_and_compared_turn_by_turn() -> None:
    """The smallest size is what the largest is compared with, in the same turn; a size may be left out of a turn."""
    turns = [grown(1000, 0, 2.0), grown(10, 0, 1.0), grown(10, 1, 4.0), grown(1000, 1, 4.0), grown(10, 2, 3.0)]

    row = growth([MACHINE, *turns]).splitlines()[-3]

    assert "| dial | 3.0 (1.0-4.0) | 3.0 (2.0-4.0) | 6.0 (2.0-8.0) | 6.0 (4.0-8.0) | 1.50 (1.00-2.00) |" == row


def test_a_storm_is_told_by_its_size() -> None:
    """With what it cost each phone, in microseconds."""
    storms = [
        Stormed(
            count=1000,
            turn=turn,
            half=4.0,
            p99=9.0,
            everybody=10.0 + turn,
            attempts=1000,
            before=5.0,
            meanwhile=50.0,
            after=6.0,
            node=1.0,
            database=0.5,
        )
        for turn in range(3)
    ]

    row = storm([MACHINE, *storms]).splitlines()[-1]

    assert (
        "| 1,000 | 4.0 (4.0-4.0) | 9.0 (9.0-9.0) | 11.0 (10.0-12.0) | 1,000 (1,000-1,000) | 5.0 (5.0-5.0)"
        " | 50.0 (50.0-50.0) | 6.0 (6.0-6.0) | 1,000 (1,000-1,000) | 500 (500-500) |"
    ) == row


def test_what_is_lost_is_added_up() -> None:
    """Losses of all turns are told, for a median would hide them."""
    row = relay([MACHINE, turn("nats", 0, 9.0), turn("nats", 1, 9.0)]).splitlines()[-3]

    assert row.endswith("| 2 |")


def test_dials_are_told_by_kind_and_rate_and_compared_turn_by_turn() -> None:
    """Each kind has a row: times are medians of its turns, what went wrong the sum; a rate that was set is no ratio."""
    once = Dialled(
        what="dial",
        rate=None,
        turn=0,
        per_second=300.0,
        bare=1000.0,
        p50=1.0,
        p99=5.0,
        most=9.0,
        refused=0,
        doubled=2,
        cpu={"nodes": 0.001, "postgres": 0.0005},
        busy=0.1,
    )
    again = msgspec.structs.replace(once, turn=1, bare=500.0, p99=7.0)
    turns: list[Line] = [once, msgspec.structs.replace(once, rate=50, per_second=50.0), again]

    rows = dials([MACHINE, *turns]).splitlines()[-2:]

    assert (
        "| dial, closed loop | 300 (300-300) | 0.45 (0.30-0.60) | 1.0 (1.0-1.0) | 6.0 (5.0-7.0) | 9.0 (9.0-9.0) | 0 | 4"
        " | 1.00 (1.00-1.00) | 0.50 (0.50-0.50) |"
    ) == rows[0]
    assert "| dial, 50 a second due | 50 |  | 1.0 | 5.0 | 9.0 | 0 | 2 | 1.00 | 0.50 |" == rows[1]


def test_a_generator_that_was_the_bound_is_told() -> None:
    """Where the generator itself had its core full, the table says whom that concerns."""
    told = relay([MACHINE, turn("nats", 0, 9.0, busy=0.97), turn("dialdesk", 0, 9.0)])

    assert "The generator was the bound for: NATS." in told


def test_the_last_run_of_a_part_counts() -> None:
    """An older run, on whatever machine, is not mixed with the last one."""
    later = msgspec.structs.replace(MACHINE, at="2026-11-23T08:00:00+00:00")

    found = latest([MACHINE, turn("nats", 0, 1.0), later, turn("nats", 0, 2.0), turn("nats", 1, 3.0)], Relayed)

    assert found is not None
    assert (later, [2.0, 3.0]) == (found[0], [one.per_second for one in found[1]])


def test_a_part_that_was_not_measured_says_so() -> None:
    """A file without lines of a part leaves a sentence in its place."""
    assert NOTHING == relay([MACHINE])


def test_only_what_is_between_the_marks_is_written_anew() -> None:
    """Prose around a part stays, and writing the same twice changes nothing."""
    page = "Before.\n<!-- measured: relay -->\nold\n<!-- end: relay -->\nAfter.\n"

    once = renewed(page, "relay", "new")

    assert "Before.\n<!-- measured: relay -->\n\nnew\n\n<!-- end: relay -->\nAfter.\n" == once
    assert once == renewed(once, "relay", "new")


def test_a_page_without_a_place_is_refused() -> None:
    """A part without marks would be lost in silence."""
    with pytest.raises(ValueError, match="no place for limits"):
        renewed("A page.\n", "limits", "new")


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    """A file of results begins with its machine, and holds what was added in its order."""
    place = tmp_path / "deep" / "measured.jsonl"
    results = Results(place, pinned=False)
    results.add(turn("nats", 0, 1.0))

    machine, *rest = read(place)

    assert isinstance(machine, Machine)
    assert [turn("nats", 0, 1.0)] == rest
