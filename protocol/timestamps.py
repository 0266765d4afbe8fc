"""Times as they are said: RFC 3339 in UTC with milliseconds over HTTP, epoch milliseconds on the socket."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, overload

import msgspec

Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""A time in an answer, such as 2026-11-21T10:30:00.000Z."""

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time in a request: RFC 3339 with an offset."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@overload
def rfc3339(at: datetime) -> str: ...
@overload
def rfc3339(at: None) -> None: ...
def rfc3339(at: datetime | None) -> str | None:
    """Return an aware time as answers tell it."""
    if at is None:
        return None
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def epoch_ms(at: datetime) -> int:
    """Return an aware time as messages tell it."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def from_epoch_ms(milliseconds: float, otherwise: datetime) -> datetime:
    """Return the time a peer's clock claims, or `otherwise` where the number is no time at all."""
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except (OverflowError, ValueError):
        return otherwise
