"""The call goes on at another line, where one refused it definitely and before anything rang (000-36).

Only a refusal of which that is known is followed: after any other answer a telephone may be ringing. A line that the
dial asked for by name is never exchanged. The agent hears one story: nothing is told until some line takes the call,
or the last one refuses it.
"""

import msgspec

from server.line_dial import LineOrder, Place, take_place
from server.line_routing import choose_line
from server.providers.provider import PlacementRefused, Refusal
from storage import attempts, extensions, lines
from storage.attempts import Attempt
from storage.database import Connection

MOST_ATTEMPTS = 3
"""Lines that a call may try, the first one counted."""

ELSEWHERE = frozenset({Refusal.LINE, Refusal.SEAT, Refusal.THROTTLED, Refusal.EXTENSION})
"""Refusals that say nothing against the call: another line may do."""


async def commit_to_next(
    connection: Connection, order: LineOrder, attempt: Attempt, refused: PlacementRefused
) -> LineOrder | None:
    """Commit a refused call to the next line that can carry it, each line in a transaction of its own.

    None where the refusal is final: of a code that nobody listed, by its kind, after MOST_ATTEMPTS, with no line left,
    or with no time left.
    """
    if (
        not refused.known
        or refused.refusal not in ELSEWHERE
        or order.wish.asked is not None
        or attempt.n >= MOST_ATTEMPTS
    ):
        return None
    tried = order.tried | {order.line_id}
    known = await lines.for_dial(connection, order.tenant_id, order.user_id)
    able, _ = choose_line([line for line in known if line.id not in tried], order.wish)
    for line in able:
        try:
            async with connection.transaction():
                # locks go in this order: line, call, extension
                await lines.hold_for_dial(connection, order.tenant_id, line.id)
                if attempt.extension is not None and not await extensions.give_back(
                    connection, attempt.tenant_id, attempt.call_id, attempt.n, refused.refusal
                ):
                    raise _NoFurther
                place = await take_place(
                    connection, order.tenant_id, line, order.user_id, order.call_id, order.expires_at
                )
                if not isinstance(place, Place):
                    raise _NoRoom
                if not await attempts.fail_over(
                    connection, attempt, refused.refusal, refused.code[:128], **msgspec.structs.asdict(place)
                ):
                    raise _NoFurther  # what was taken is given back
        except _NoRoom:
            continue
        except _NoFurther:
            return None
        return msgspec.structs.replace(
            order, tried=tried, line_id=line.id, caller=line.caller_number, ring_timeout=line.call_timeout
        )
    return None


class _NoRoom(Exception):  # noqa: N818 - a fact
    """The line has lost its last place, or extension, since it was chosen: the refusal is not settled with it."""


class _NoFurther(Exception):  # noqa: N818 - a fact
    """The call has expired, was called off, is over, or rang though it was refused."""
