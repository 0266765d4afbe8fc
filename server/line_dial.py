"""A dial over a line, as one transaction: the line's last place, its day, an extension and the call go together."""

import msgspec

from protocol.errors import DialdeskError
from server.line_routing import Wish, choose_line, refusal
from storage import attempts, lines
from storage.calls import NewCloudCall
from storage.database import Connection
from storage.idempotency import Once


class LineOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What was committed, for whoever writes the order now."""

    tenant_id: str
    call_id: str
    line_id: str
    callee: str
    caller: str | None
    ring_timeout: int


async def commit_to_line(
    connection: Connection,
    call: NewCloudCall,
    asked: str | None,
    default: str | None,
    once: Once,
    answer: msgspec.Struct,
) -> LineOrder:
    """Choose the line and commit the call to it; the next best one where the last place went a moment ago.

    Raises NO_LINE, NO_SEAT, LINE_BUSY, LIMIT_LINE_DAY, LIMIT_HOURS, TEST_NUMBER_ONLY, NOT_FOUND for a line that is not
    there, and Duplicate for a twin of this dial.
    """
    known = await lines.for_dial(connection, call.tenant_id, call.user_id)
    if asked is not None and all(line.id != asked for line in known):
        raise DialdeskError("NOT_FOUND", what="line")
    wish = Wish(
        customer=call.customer_phone,
        local=await lines.local_time(connection, call.tenant_id),
        asked=asked,
        default=default,
        is_test_number=await lines.is_test_number(connection, call.tenant_id, call.customer_phone),
    )
    able, judged = choose_line(known, wish)
    for line in able:
        async with connection.transaction():
            room = await lines.hold_for_dial(connection, call.tenant_id, line.id)
            if room is None or not _has_room(room):
                continue
            seat = line.seat
            await attempts.dial(
                connection,
                call,
                once,
                answer,
                line_id=line.id,
                provider=line.provider,
                caller=line.caller_number,
                seat_id="" if seat is None else seat.seat_id,
                seat_number="" if seat is None else seat.number,
                extension=None,
                extension_fence=None,
            )
            await lines.count_attempt(connection, call.tenant_id, line.id, room.day)
        return LineOrder(
            tenant_id=call.tenant_id,
            call_id=call.id,
            line_id=line.id,
            callee=call.customer_phone,
            caller=line.caller_number,
            ring_timeout=line.call_timeout,
        )
    raise DialdeskError("LINE_BUSY") if able else refusal(judged)


def _has_room(room: lines.LineRoom) -> bool:
    """Whether the line can still carry a call, now that nobody else is counting on it."""
    return (
        room.status != 0
        and room.health == "ok"
        and room.concurrent < room.max_concurrent
        and (not room.daily_limit or room.today < room.daily_limit)
    )
