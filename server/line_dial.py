"""A dial over a line, as one transaction: the line's last place, its day, an extension and the call go together."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from protocol.errors import DialdeskError
from server.line_routing import Wish, choose_line, refusal
from storage import attempts, extensions, lines
from storage.calls import NewCloudCall
from storage.database import Connection
from storage.idempotency import Once
from storage.lines import LineForDial

RETRY_AFTER = 5
"""Seconds after which it is worth asking again for an extension: one is free as soon as a call ends."""


class LineOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What was committed, for whoever writes the order now. `wish` and the lines that were `tried` before this one are
    for whoever takes the call to the next line, should this one refuse it (fail_over.py)."""

    tenant_id: str
    call_id: str
    user_id: str
    wish: Wish
    tried: frozenset[str] = frozenset()
    line_id: str
    callee: str
    caller: str | None
    ring_timeout: int
    expires_at: datetime


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a line gives to one call: who is rung first, and the extension that it is lent, if the line lends any."""

    line_id: str
    provider: str
    caller: str | None
    seat_id: str
    seat_number: str
    extension: str | None
    extension_fence: int | None


async def commit_to_line(
    connection: Connection,
    call: NewCloudCall,
    asked: str | None,
    default: str | None,
    once: Once,
    answer: msgspec.Struct,
) -> LineOrder:
    """Choose the line and commit the call to it; the next best one where the last place went a moment ago.

    Raises NO_LINE, NO_SEAT, LINE_BUSY, NO_EXTENSION, LIMIT_LINE_DAY, LIMIT_HOURS, TEST_NUMBER_ONLY, NOT_FOUND for a
    line that is not there, and Duplicate for a twin of this dial.
    """
    known, wish = await weigh(
        connection,
        call.tenant_id,
        call.user_id,
        call.customer_phone,
        asked=asked,
        default=default,
        case_type=call.case_type,
        tags=call.tags,
    )
    able, judged = choose_line(known, wish)
    lacking: Literal["room", "extension"] = "room"
    for line in able:
        async with connection.transaction():
            place = await take_place(connection, call.tenant_id, line, call.user_id, call.id, call.expires_at)
            if not isinstance(place, Place):
                lacking = place
                continue
            await attempts.dial(connection, call, once, answer, **msgspec.structs.asdict(place))
        return LineOrder(
            tenant_id=call.tenant_id,
            call_id=call.id,
            user_id=call.user_id,
            wish=wish,
            line_id=line.id,
            callee=call.customer_phone,
            caller=line.caller_number,
            ring_timeout=line.call_timeout,
            expires_at=call.expires_at,
        )
    if not able:
        raise refusal(judged)
    raise DialdeskError("LINE_BUSY") if lacking == "room" else DialdeskError("NO_EXTENSION", retryAfter=RETRY_AFTER)


async def weigh(
    connection: Connection,
    tenant_id: str,
    user_id: str,
    customer: str,
    *,
    asked: str | None,
    default: str | None,
    case_type: str | None,
    tags: Sequence[str],
) -> tuple[list[LineForDial], Wish]:
    """Return what a choice is made of: the tenant's lines as a dial of the agent sees them, and what is wished.

    Raises NOT_FOUND for a line that is asked for and is not there.
    """
    known = await lines.for_dial(connection, tenant_id, user_id)
    if asked is not None and all(line.id != asked for line in known):
        raise DialdeskError("NOT_FOUND", what="line")
    wish = Wish(
        customer=customer,
        local=await lines.local_time(connection, tenant_id),
        asked=asked,
        default=default,
        is_test_number=await lines.is_test_number(connection, tenant_id, customer),
        case_type=case_type,
        tags=tags,
    )
    return known, wish


async def take_place(
    connection: Connection, tenant_id: str, line: LineForDial, user_id: str, call_id: str, expires_at: datetime
) -> Place | Literal["room", "extension"]:
    """Take a line's place for one more call, an extension and its day, in a transaction of the caller's, which locks
    the line; else say what it lacks, and nothing is taken. A line that was switched since it was chosen lacks room.

    The call's order is written before `expires_at` or never. A call that has an extension gives it back before.
    """
    room = await lines.hold_for_dial(connection, tenant_id, line.id)
    if room is None or room.status != line.status or not has_room(room):
        return "room"
    leased = None
    if line.needs_extension:
        leased = await extensions.lease(connection, tenant_id, line.id, user_id, call_id, expires_at)
        if leased is None:
            return "extension"
    await lines.count_attempt(connection, tenant_id, line.id, room.day)
    return Place(
        line_id=line.id,
        provider=line.provider,
        caller=line.caller_number,
        seat_id="" if line.seat is None else line.seat.seat_id,
        seat_number="" if line.seat is None else line.seat.number,
        extension=None if leased is None else leased.number,
        extension_fence=None if leased is None else leased.fence,
    )


def has_room(room: lines.LineRoom) -> bool:
    """Whether the line can still carry a call, now that nobody else is counting on it."""
    return (
        room.health == "ok"
        and room.concurrent < room.max_concurrent
        and (not room.daily_limit or room.today < room.daily_limit)
    )
