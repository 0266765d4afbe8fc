"""Times as they are said, there and back."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.timestamps import Instant, epoch_ms, from_epoch_ms, rfc3339

CHINA = timezone(timedelta(hours=8))
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
instants = st.builds(
    lambda milliseconds, zone: (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)).astimezone(
        zone
    ),
    st.floats(-6e13, 2.5e14),
    st.sampled_from([UTC, CHINA]),
)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (NOON, "2026-11-21T12:00:00.000Z"),
        (datetime(2026, 11, 21, 20, 0, tzinfo=CHINA), "2026-11-21T12:00:00.000Z"),
        (NOON + timedelta(microseconds=123_999), "2026-11-21T12:00:00.123Z"),
        (datetime(987, 1, 1, tzinfo=UTC), "0987-01-01T00:00:00.000Z"),
        (None, None),
    ],
)
def test_answers_tell_utc_with_milliseconds(at: datetime | None, said: str | None) -> None:
    """Whatever zone a time came in, and however fine, it is told in one form; no time is told as none."""
    assert said == rfc3339(at)


@given(instants)
def test_a_told_time_is_read_as_the_same_instant(at: datetime) -> None:
    """RFC 3339 and epoch milliseconds both name the millisecond that was meant."""
    millisecond = at - timedelta(microseconds=at.microsecond % 1000)

    assert millisecond == msgspec.convert(rfc3339(at), Instant)
    assert millisecond == from_epoch_ms(epoch_ms(at), NOON)


@pytest.mark.parametrize("told", [1e300, -1e300, 1e15, -1e15, float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_no_time_gives_the_other(told: float) -> None:
    """A peer's clock may claim anything; what no calendar holds is replaced by what we know ourselves."""
    assert NOON == from_epoch_ms(told, NOON)


@given(st.floats())
def test_any_number_gives_an_aware_time(told: float) -> None:
    """The answer can always be compared with times of ours."""
    assert UTC == from_epoch_ms(told, NOON).tzinfo


def test_a_time_without_a_zone_is_refused() -> None:
    """It names no instant."""
    with pytest.raises(msgspec.ValidationError, match="timezone"):
        msgspec.convert("2026-11-21T12:00:00", Instant)
