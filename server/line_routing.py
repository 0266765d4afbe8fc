"""Over which line is this call made? Pure: the tenant's lines in, one of them or a refusal out, with every reason.

Lines that cannot carry the call fall out, each for the first reason that holds. Of the rest the smallest priority goes
first; within it lines take customers in proportion to their weight, and a customer keeps the line (000-12, 000-39): who
was once called from a number is called from it again, as long as the lines stay as they are.
"""

import hashlib
from collections.abc import Sequence
from datetime import time
from typing import Literal

import msgspec

from protocol.errors import DialdeskError
from storage.lines import LineForDial

Reason = Literal[
    "CHOSEN",
    "NOT_ASKED_FOR",
    "LINE_OFF",
    "TEST_NUMBER_ONLY",
    "LINE_SUSPENDED",
    "LINE_FROZEN",
    "NO_SEAT",
    "OUT_OF_HOURS",
    "NO_ROOM",
    "DAY_FULL",
    "OTHER_CASES",
    "LATER",
]
"""Why a line was chosen, or was not. `LATER`: it could carry the call, but another goes first."""

_REFUSALS: tuple[Reason, ...] = (
    "NO_ROOM",
    "DAY_FULL",
    "OUT_OF_HOURS",
    "NO_SEAT",
    "TEST_NUMBER_ONLY",
    "LINE_SUSPENDED",
    "LINE_FROZEN",
)
"""What a refusal tells when no line can carry the call: the first of these that holds for any line."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The call to be carried. `customer` is what stickiness goes by; `local` is the time of day at the tenant."""

    customer: str
    local: time
    asked: str | None = None
    default: str | None = None
    is_test_number: bool = False
    case_type: str | None = None
    tags: Sequence[str] = ()


class Judged(msgspec.Struct, frozen=True, rename="camel"):
    """A line and what was made of it."""

    line_id: str
    name: str
    reason: Reason


def choose_line(lines: Sequence[LineForDial], wish: Wish) -> tuple[list[LineForDial], list[Judged]]:
    """Return the lines that can carry the call, the one to take first, and what was made of each.

    A line asked for by the dial is never exchanged for another; the agent's default is, where it cannot carry the call.
    """
    judged = {line.id: _judge(line, wish) for line in lines}
    able = sorted(
        (line for line in lines if judged[line.id] is None),
        key=lambda line: (line.id != wish.default, line.priority, -_draw(wish.customer, line), line.id),
    )
    reasons: dict[str, Reason] = {line.id: "LATER" for line in able}
    if able:
        reasons[able[0].id] = "CHOSEN"
    told = [Judged(line.id, line.name, judged[line.id] or reasons[line.id]) for line in lines]
    return able, told


def refusal(judged: Sequence[Judged]) -> DialdeskError:
    """Why no line can carry the call."""
    reasons = {one.reason for one in judged} - {"NOT_ASKED_FOR"}
    reason = next((reason for reason in _REFUSALS if reason in reasons), None)
    match reason:
        case "NO_ROOM":
            return DialdeskError("LINE_BUSY")
        case "DAY_FULL":
            return DialdeskError("LIMIT_LINE_DAY")
        case "OUT_OF_HOURS":
            return DialdeskError("LIMIT_HOURS")
        case "NO_SEAT":
            return DialdeskError("NO_SEAT")
        case "TEST_NUMBER_ONLY":
            return DialdeskError("TEST_NUMBER_ONLY")
        case _:
            return DialdeskError("NO_LINE")


def _judge(line: LineForDial, wish: Wish) -> Reason | None:
    """The first reason for which the line cannot carry the call; None where it can."""
    if wish.asked is not None and line.id != wish.asked:
        return "NOT_ASKED_FOR"
    if line.status == 0:
        return "LINE_OFF"
    if line.status == 2 and not wish.is_test_number:
        return "TEST_NUMBER_ONLY"
    if line.health != "ok":
        return "LINE_FROZEN" if line.health == "frozen" else "LINE_SUSPENDED"
    if line.seat is None and not line.needs_extension:
        return "NO_SEAT"
    if line.case_types and wish.case_type not in line.case_types:
        return "OTHER_CASES"
    if line.tags and not set(line.tags) & set(wish.tags):
        return "OTHER_CASES"
    if not line.window_start <= wish.local < line.window_end:
        return "OUT_OF_HOURS"
    if line.concurrent >= line.max_concurrent:
        return "NO_ROOM"
    if line.daily_limit and line.today >= line.daily_limit:
        return "DAY_FULL"
    return None


def _draw(customer: str, line: LineForDial) -> float:
    """Weighted rendezvous hashing: who has the largest draw gets the customer, each line in proportion to its weight,
    and a line that comes or goes moves only its own share. A line of weight 0 is taken when there is no other."""
    drawn = int.from_bytes(hashlib.blake2b(f"{customer}|{line.id}".encode(), digest_size=8).digest()) / 2**64
    return drawn ** (1 / line.weight) if line.weight else -1.0
