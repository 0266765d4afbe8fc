"""Calls as they are read: one, lists, statistics, and the agent's record of each. What changes a call is `calls`."""

from collections.abc import Collection, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Literal

import asyncpg
import msgspec

from storage.calls import Reach
from storage.database import Connection, queries

_SQL = queries("records")

MOST_LOOKED_AT = 10_000
"""Calls that are looked at for one page, where not all that are found by index are wanted."""

Place = tuple[datetime, str]
"""Where a page ended: the time its list is ordered by, and the call's id."""
_START = (None, None)

Key = Literal["day", "agent", "team", "line", "method"]
"""What statistics are counted by."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a listed call must be; a field that is None asks nothing. The number is E.164, the times half-open."""

    outcomes: Collection[str] = ()
    call_method: str | None = None
    device_id: str | None = None
    status: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    customer_id: str | None = None
    customer_phone: str | None = None
    order_id: str | None = None
    external_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    recordings: Collection[str] = ()


class Page(msgspec.Struct, frozen=True):
    """At most as many rows as were asked for, how far the list was looked at for them, and whether it goes on there.

    It may hold fewer rows, even none, and yet go on: what no index finds is looked for in so many calls at a time that
    a page takes milliseconds however rare it is.
    """

    rows: list[asyncpg.Record]
    reached: Place | None
    more: bool


class FollowUp(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent recorded of a call (seed 003 §6.4)."""

    result: str | None
    intention: str | None
    note: str | None
    next_at: datetime | None


async def tenant(connection: Connection, tenant_id: str) -> asyncpg.Record:
    """Return the tenant's `timezone`, `region`, `call_results`, `call_intentions`, and its `now` and `today`."""
    row = await connection.fetchrow(_SQL["tenant"], tenant_id)
    assert row is not None  # identities are of tenants that exist
    return row


async def get(connection: Connection, reach: Reach, call_id: str) -> asyncpg.Record | None:
    """Return the row of one call with its `user_name`, its seconds since the answer as `talking`, and `controls`."""
    return await connection.fetchrow(_SQL["get"], reach.tenant_id, *reach.filters, call_id)


async def events(connection: Connection, tenant_id: str, call_id: str, limit: int) -> list[asyncpg.Record]:
    """Return the first `limit` events of a call that the caller found within reach."""
    return await connection.fetch(_SQL["events"], tenant_id, call_id, limit)


async def newest(connection: Connection, reach: Reach, wanted: Wanted, after: Place | None, limit: int) -> Page:
    """Return calls made before the place `after`, newest first."""
    judged = bool(wanted.outcomes or wanted.recordings or wanted.call_method or wanted.device_id)
    look = _look(limit, judged, len(reach.only_teams or ()))
    whose = [(reach.only_user, reach.only_teams)]
    if reach.only_teams is not None and reach.user_id is not None:
        whose.append((reach.user_id, None))  # one's own calls, found by another index than those of teams
    rows: list[asyncpg.Record] = []
    for user_id, teams in whose:
        rows += await connection.fetch(
            _SQL["newest"], reach.tenant_id, user_id, teams, *(after or _START), limit + 1, look, *_what(wanted)
        )
    rows.sort(key=lambda row: (row["created_at"], row["id"]), reverse=True)
    return _page(rows, "created_at", limit)


async def lately(
    connection: Connection, tenant_id: str, number: str, but: str | None, within: timedelta
) -> asyncpg.Record | None:
    """Return the call to a number (E.164) by an agent other than `but` that goes on, or ended last within that time,
    whoever reaches it: its `user_name`, `created_at`, `status` and `outcome`; None where there was none."""
    return await connection.fetchrow(_SQL["lately"], tenant_id, number, but, within)


async def count(connection: Connection, reach: Reach, wanted: Wanted, most: int) -> int:
    """Return how many calls there are, or `most` where there are more."""
    found: int = await connection.fetchval(_SQL["count"], reach.tenant_id, *reach.filters, most, *_what(wanted))
    return found


async def settled(connection: Connection, margin: float) -> datetime:
    """Return the moment before which no call can change any more; read `changed` after it, never in the same statement.

    `updated_at` is the time at which a transaction began, so one that takes longer commits behind others' later times.
    `margin` seconds are taken off for a transaction that has begun and does not show in pg_stat_activity yet. Needs
    no privilege as long as all nodes sign in as the same role.
    """
    moment: datetime = await connection.fetchval(_SQL["settled"], margin)
    return moment


async def changed(
    connection: Connection, reach: Reach, wanted: Wanted, after: Place, limit: int, before: datetime
) -> Page:
    """Return calls last changed after the place `after` and before the moment `before`, in order of change."""
    judged = reach.only_user is not None or reach.only_teams is not None or wanted != Wanted()
    rows = await connection.fetch(
        _SQL["changed"],
        reach.tenant_id,
        *reach.filters,
        *after,
        limit + 1,
        _look(limit, judged),
        *_what(wanted),
        before,
    )
    return _page(rows, "updated_at", limit)


async def due(
    connection: Connection, reach: Reach, user_id: str | None, before: datetime | None, after: Place | None, limit: int
) -> Page:
    """Return calls whose next follow-up is due at `before` (now, if None) and not done, the longest due first."""
    look = _look(limit, reach.only_teams is not None)
    rows = await connection.fetch(
        _SQL["due"], reach.tenant_id, *reach.filters, *(after or _START), limit + 1, look, user_id, before
    )
    return _page(rows, "follow_up_next_at", limit)


async def unrecorded(
    connection: Connection, reach: Reach, user_id: str | None, after: Place | None, limit: int
) -> Page:
    """Return ended calls that nobody recorded anything of, the last ended first."""
    look = _look(limit, reach.only_teams is not None)
    rows = await connection.fetch(
        _SQL["unrecorded"], reach.tenant_id, *reach.filters, *(after or _START), limit + 1, look, user_id
    )
    return _page(rows, "ended_at", limit)


async def follow_up(connection: Connection, reach: Reach, call_id: str, record: FollowUp, by: str) -> bool:
    """Replace the record of a call; False where it is out of reach.

    The follow-ups that the same agent planned on earlier calls to the same customer (by id or number) are done by it.
    """
    call = await connection.fetchrow(
        _SQL["follow_up"],
        reach.tenant_id,
        *reach.filters,
        call_id,
        record.result,
        record.intention,
        record.note,
        record.next_at,
        by,
    )
    if call is None:
        return False
    await connection.execute(
        _SQL["complete_earlier"],
        reach.tenant_id,
        call["user_id"],
        call["created_at"],
        call_id,
        call["customer_phone"],
        call["customer_id"],
    )
    return True


async def complete(connection: Connection, reach: Reach, call_id: str) -> bool:
    """Mark the follow-up planned on a call as done; False where none is, or the call is out of reach."""
    return await connection.fetchval(_SQL["complete"], reach.tenant_id, *reach.filters, call_id) is not None


async def statistics(
    connection: Connection,
    reach: Reach,
    *,
    timezone: str,
    first: date,
    last: date,
    by: Collection[Key],
    weak: Collection[str],
    user_id: str | None,
    team_id: str | None,
    call_method: str | None,
    limit: int,
) -> list[asyncpg.Record]:
    """Return counts of the calls made from the day `first` to the day `last`, a row for each combination of `by`.

    An answer told on grounds in `weak` alone is assumed; user, team and method narrow what is counted.
    """
    return await connection.fetch(
        _SQL["statistics"],
        reach.tenant_id,
        *reach.filters,
        timezone,
        list(weak),
        list(by),
        first,
        last,
        user_id,
        team_id,
        call_method,
        limit,
    )


def _what(wanted: Wanted) -> tuple[Any, ...]:
    return (
        list(wanted.outcomes) or None,
        wanted.call_method,
        wanted.device_id,
        wanted.status,
        wanted.user_id,
        wanted.team_id,
        wanted.customer_id,
        wanted.customer_phone,
        wanted.order_id,
        wanted.external_id,
        wanted.created_from,
        wanted.created_to,
        list(wanted.recordings) or None,
    )


def _look(limit: int, judged: bool, teams: int = 1) -> int:
    """How many calls to look at for `limit` rows and one more, in each of so many teams."""
    return max(limit + 1, MOST_LOOKED_AT // max(teams, 1)) if judged else limit + 1


def _page(rows: Sequence[asyncpg.Record], ordered_by: str, limit: int) -> Page:
    """What comes after an edge may have gaps. A call that was found in two ways stands twice in a row."""
    taken: list[asyncpg.Record] = []
    reached: Place | None = None
    for row in rows:
        place = row[ordered_by], row["id"]
        if row["wanted"] and place != reached:
            if len(taken) == limit:
                return Page(taken, reached, more=True)
            taken.append(row)
        reached = place
        if row["edge"]:
            return Page(taken, reached, more=True)
    return Page(taken, reached, more=False)
