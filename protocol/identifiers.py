"""Names for things: a prefix that says the kind, then a ULID, so that ids sort by the time they were made."""

import secrets
import time
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def new_id(prefix: str) -> str:
    """Return `<prefix>_<26 characters>`: 48 bits of milliseconds, then 80 random bits (the ULID layout)."""
    return f"{prefix}_{_ulid()}"


def new_call_id() -> str:
    """Return `call_<yyyymmdd>_<26 characters>`, the seed's form (003 §2.2.2); the day is UTC and only informs."""
    return f"call_{datetime.now(UTC):%Y%m%d}_{_ulid()}"


def _ulid() -> str:
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
