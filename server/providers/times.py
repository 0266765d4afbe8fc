"""Times as vendors write them, read as aware UTC datetimes."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec

from server.providers.paths import word
from server.providers.templates import check_pattern


class Times(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How times are written: `epoch` (seconds), `epoch_ms`, `rfc3339`, or a pattern such as `%Y-%m-%d %H:%M:%S`.

    `zone` is that of times that tell no offset; by default it is the line's."""

    format: str = "rfc3339"
    zone: str | None = None


class Clock:
    """A way of writing times that was read once. Raises ValueError."""

    def __init__(self, written: Times, zone: ZoneInfo) -> None:
        self._format = written.format
        self._zone = zone if written.zone is None else zone_of(written.zone)
        if self._format not in {"epoch", "epoch_ms", "rfc3339"}:
            check_pattern(self._format)

    def read(self, told: object) -> datetime | None:
        """Return the time; None for what is none, and for the zeros that stand for none."""
        text = word(told, 64)
        try:
            match self._format:
                case "epoch":
                    at = datetime.fromtimestamp(float(text), UTC)
                case "epoch_ms":
                    at = datetime.fromtimestamp(float(text) / 1000, UTC)
                case "rfc3339":
                    at = datetime.fromisoformat(text)
                case pattern:
                    at = datetime.strptime(text, pattern)  # noqa: DTZ007 - the zone is set below
            at = (at if at.tzinfo else at.replace(tzinfo=self._zone)).astimezone(UTC)
        except (ValueError, OverflowError, OSError):
            return None
        return at if at.year > 1970 else None


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ValueError):
        raise ValueError("a time zone is a name such as Asia/Shanghai") from None
