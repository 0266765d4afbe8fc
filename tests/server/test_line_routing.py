"""Over which line a call is made: every reason, and who goes first among lines that could."""

from collections import Counter
from datetime import time
from typing import Any

import msgspec
import pytest

from server.line_routing import Judged, Reason, Wish, choose_line, refusal
from storage.lines import LineForDial

LINE = msgspec.convert(
    {
        "id": "a",
        "name": "A",
        "provider": "infinity",
        "status": 1,
        "health": "ok",
        "priority": 100,
        "weight": 1,
        "failures": 0,
        "probe_at": None,
        "caller_number": None,
        "window_start": "09:00:00",
        "window_end": "20:00:00",
        "seat": {"seat_id": "1001", "number": ""},
        "extension_policy": "lru",
        "needs_extension": False,
        "call_timeout": 60,
        "concurrent": 0,
        "max_concurrent": 2,
        "today": 0,
        "daily_limit": 10,
        "day": "2026-11-22",
        "case_types": [],
        "tags": [],
    },
    LineForDial,
)
WISH = Wish(customer="+8613800138000", local=time(12))


def line(line_id: str = "a", **fields: Any) -> LineForDial:
    """A line that takes every call, but for these fields."""
    return msgspec.structs.replace(LINE, id=line_id, name=line_id.upper(), **fields)


def wish(**fields: Any) -> Wish:
    """A call at noon to nobody in particular, but for these fields."""
    return msgspec.structs.replace(WISH, **fields)


def reasons(lines: list[LineForDial], asked: Wish = WISH) -> dict[str, Reason]:
    """What was made of each line."""
    return {one.line_id: one.reason for one in choose_line(lines, asked)[1]}


def order(lines: list[LineForDial], asked: Wish = WISH) -> list[str]:
    """The lines that can carry the call, the first to be taken first."""
    return [one.id for one in choose_line(lines, asked)[0]]


# --- who falls out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "asked", "reason"),
    [
        ({}, {}, "CHOSEN"),
        ({}, {"asked": "a"}, "CHOSEN"),
        ({}, {"asked": "b"}, "NOT_ASKED_FOR"),
        ({"status": 0}, {}, "LINE_OFF"),
        ({"status": 2}, {}, "TEST_NUMBER_ONLY"),
        ({"status": 2}, {"is_test_number": True}, "CHOSEN"),
        ({"health": "suspended"}, {}, "LINE_SUSPENDED"),
        ({"health": "frozen"}, {}, "LINE_FROZEN"),
        ({"seat": None}, {}, "NO_SEAT"),
        ({"seat": None, "needs_extension": True}, {}, "CHOSEN"),
        ({"case_types": ["m1"]}, {}, "OTHER_CASES"),
        ({"case_types": ["m1"]}, {"case_type": "m2"}, "OTHER_CASES"),
        ({"case_types": ["m1"]}, {"case_type": "m1"}, "CHOSEN"),
        ({"tags": ["vip"]}, {}, "OTHER_CASES"),
        ({"tags": ["vip", "west"]}, {"tags": ["east", "west"]}, "CHOSEN"),
        ({}, {"local": time(8, 59, 59)}, "OUT_OF_HOURS"),
        ({}, {"local": time(9)}, "CHOSEN"),
        ({}, {"local": time(19, 59, 59)}, "CHOSEN"),
        ({}, {"local": time(20)}, "OUT_OF_HOURS"),
        ({"concurrent": 1}, {}, "CHOSEN"),
        ({"concurrent": 2}, {}, "NO_ROOM"),
        ({"today": 9}, {}, "CHOSEN"),
        ({"today": 10}, {}, "DAY_FULL"),
        ({"today": 10, "daily_limit": 0}, {}, "CHOSEN"),
    ],
)
def test_a_line_falls_out_for_a_reason(fields: dict[str, Any], asked: dict[str, Any], reason: Reason) -> None:
    """Whatever keeps a line from carrying the call is told, and nothing else keeps it."""
    able, judged = choose_line([line(**fields)], wish(**asked))

    assert [Judged("a", "A", reason)] == judged
    assert (reason == "CHOSEN") == bool(able)


def test_the_first_reason_is_told() -> None:
    """A line that nothing speaks for is told to be off, since all else does not matter until it is on."""
    worst = {"health": "frozen", "seat": None, "concurrent": 2, "today": 10}

    assert {"a": "LINE_OFF", "b": "LINE_FROZEN"} == reasons([line(status=0, **worst), line("b", **worst)])


# --- who goes first ---------------------------------------------------------------------------------------------------


def test_the_smallest_priority_goes_first() -> None:
    """Whatever the weights are; who could but goes later is told so."""
    lines = [line("a", priority=3, weight=1000), line("b", priority=1), line("c", priority=2)]

    assert ["b", "c", "a"] == order(lines)
    assert {"a": "LATER", "b": "CHOSEN", "c": "LATER"} == reasons(lines)


def test_the_next_priority_goes_where_the_first_cannot() -> None:
    """A full line is passed over."""
    assert ["b"] == order([line("a", priority=1, concurrent=2), line("b", priority=2)])


def test_a_customer_keeps_the_line() -> None:
    """In whatever order the lines are read, and whatever is going on at them."""
    lines = [line(name) for name in "abc"]
    for n in range(50):
        asked = wish(customer=f"customer {n}")
        first = order(lines, asked)[0]

        assert first == order(lines[::-1], asked)[0]
        assert first == order([msgspec.structs.replace(one, today=5, concurrent=1) for one in lines], asked)[0]


def test_customers_are_shared_by_weight() -> None:
    """Of three lines, with weights 1, 2 and 5, each takes about its share."""
    lines = [line("a", weight=1), line("b", weight=2), line("c", weight=5)]
    taken = Counter(order(lines, wish(customer=f"customer {n}"))[0] for n in range(4000))

    assert {"a": 0.125, "b": 0.25, "c": 0.625} == pytest.approx({name: taken[name] / 4000 for name in "abc"}, abs=0.03)


def test_a_line_that_goes_moves_only_its_own_customers() -> None:
    """Everybody else is called from the same line as before."""
    lines = [line("a", weight=3), line("b"), line("c", weight=2)]
    asked = [wish(customer=f"customer {n}") for n in range(300)]
    before = [order(lines, one) for one in asked]
    after = [order(lines[:2], one)[0] for one in asked]

    assert after == [next(name for name in names if name != "c") for names in before]


def test_a_line_without_weight_is_the_last_of_its_priority() -> None:
    """It is taken where there is no other, and before those of a larger priority."""
    lines = [line("a", weight=0), line("b"), line("c", priority=200, weight=9)]

    assert all(["b", "a", "c"] == order(lines, wish(customer=f"customer {n}")) for n in range(50))
    assert ["a"] == order([line("a", weight=0)])


# --- who is asked for -------------------------------------------------------------------------------------------------


def test_the_default_line_goes_first() -> None:
    """Before any priority; where it cannot carry the call another does."""
    lines = [line("a", priority=1), line("b", priority=2)]

    assert ["b", "a"] == order(lines, wish(default="b"))
    assert ["a"] == order([lines[0], line("b", status=0)], wish(default="b"))
    assert ["a", "b"] == order(lines, wish(default="gone"))


def test_a_line_that_is_asked_for_is_never_exchanged() -> None:
    """Neither for the default nor for one that could."""
    lines = [line("a"), line("b", concurrent=2)]

    assert ["a"] == order(lines, wish(asked="a", default="b"))
    assert [] == order(lines, wish(asked="b", default="a"))
    assert {"a": "NOT_ASKED_FOR", "b": "NO_ROOM"} == reasons(lines, wish(asked="b"))


# --- refusals ---------------------------------------------------------------------------------------------------------

PRECEDENCE: list[tuple[Reason, str]] = [
    ("NO_ROOM", "LINE_BUSY"),
    ("DAY_FULL", "LIMIT_LINE_DAY"),
    ("OUT_OF_HOURS", "LIMIT_HOURS"),
    ("NO_SEAT", "NO_SEAT"),
    ("TEST_NUMBER_ONLY", "TEST_NUMBER_ONLY"),
    ("LINE_SUSPENDED", "NO_LINE"),
    ("LINE_FROZEN", "NO_LINE"),
    ("LINE_OFF", "NO_LINE"),
    ("OTHER_CASES", "NO_LINE"),
    ("NOT_ASKED_FOR", "NO_LINE"),
]


@pytest.mark.parametrize("at", range(len(PRECEDENCE)))
def test_the_line_that_came_nearest_tells_why_there_is_none(at: int) -> None:
    """Of several reasons that is told which passes soonest, or which the agent can do something about."""
    judged = [Judged(reason, reason, reason) for reason, _ in reversed(PRECEDENCE[at:])]

    assert PRECEDENCE[at][1] == refusal(judged).code


def test_without_lines_there_is_no_line() -> None:
    """A tenant that has set up none is told so."""
    assert "NO_LINE" == refusal([]).code
