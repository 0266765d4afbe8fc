"""Ids: what they look like, and that they sort by the time they were made."""

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identifiers import new_call_id, new_id

ALPHABET = set("0123456789abcdefghjkmnpqrstvwxyz")
MAKERS = [pytest.param(lambda: new_id("dev"), id="any id"), pytest.param(new_call_id, id="call id")]


def milliseconds(text: str) -> int:
    """Read the time in the first ten characters of a ULID, by its definition."""
    return sum("0123456789abcdefghjkmnpqrstvwxyz".index(c) * 32**place for place, c in enumerate(text[9::-1]))


def test_an_id_says_what_it_names() -> None:
    """The prefix, then 26 characters that cannot be misread."""
    prefix, _, ulid = new_id("dev").partition("_")

    assert ("dev", 26) == (prefix, len(ulid))
    assert set(ulid) <= ALPHABET


def test_a_call_id_has_the_seed_s_form() -> None:
    """Seed 003 §2.2.2: call_20251225_abc123."""
    kind, day, ulid = new_call_id().split("_")

    assert "call" == kind
    assert time.strptime(day, "%Y%m%d").tm_year >= 2025
    assert 26 == len(ulid)
    assert set(ulid) <= ALPHABET


def test_an_id_holds_the_time_it_was_made() -> None:
    """Its first ten characters are milliseconds since the epoch."""
    earliest = time.time_ns() // 1_000_000
    told = milliseconds(new_id("x").removeprefix("x_"))

    assert earliest <= told <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("new", MAKERS)
def test_ids_are_unique(new: Callable[[], str]) -> None:
    """Ten thousand in a row, many of them in one millisecond, are ten thousand."""
    assert 10_000 == len({new() for _ in range(10_000)})


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=10, unique=True).map(sorted))
def test_ids_sort_by_time(moments: list[int]) -> None:
    """An id made a millisecond later, or a thousand years, stands after the earlier one."""
    with pytest.MonkeyPatch.context() as clock:
        ids = []
        for moment in moments:
            clock.setattr(time, "time_ns", lambda moment=moment: moment * 1_000_000)
            ids.append(new_id("call"))

    assert sorted(ids) == ids
    assert all(len(one) == len(other) for one, other in pairwise(ids))
