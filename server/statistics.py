"""Calls counted: by day, agent, team, line or method, within the reach of whoever asks (seed 003 §1.2)."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Annotated, Any

import asyncpg
import msgspec

from protocol.call import RANK, Evidence
from protocol.errors import DialdeskError
from protocol.messages import Id
from server.http import Answer, Body
from server.identity import Identity
from server.records import Method
from storage import records
from storage.database import Database
from storage.records import Key

MOST_ROWS = 10_000
"""Rows of statistics in one answer; more is refused."""
MOST_DAYS = 366
"""Days that statistics may span."""

_ASSUMED = [evidence.value for evidence, rank in RANK.items() if rank <= RANK[Evidence.ASSUMED]]


class StatisticsQuery(Body, frozen=True, kw_only=True):
    """Which calls to count: made on the days `from` to `to`, both included, by default the last seven.

    Days are the tenant's. `groupBy` may be given twice: a row for each pair.
    """

    from_: date | None = msgspec.field(default=None, name="from")
    to: date | None = None
    group_by: Annotated[tuple[Key, ...], msgspec.Meta(max_length=2)] = ("day",)
    user_id: Id | None = None
    team_id: Id | None = None
    call_method: Method | None = None


class Tally(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Calls counted. The parts are told, so that any other rate can be computed from them.

    `finished` are calls that ended, whatever the outcome; of these `connected` were answered as a live signal, a call
    log or a provider's record proves, `connectedAssumed` are said to have been by a phone that cannot see it, and of
    `unknown` nobody can tell. What nobody can tell counts neither way: `connectRate` = connected ÷ (finished -
    connectedAssumed - unknown), null where that is nothing. Talk times are seconds of `connected`, those of
    `connectedAssumed` stand apart (they include the ringing); the average leaves out calls without a known duration.
    """

    calls: int
    finished: int
    connected: int
    connected_assumed: int
    unknown: int
    connect_rate: float | None
    talk_seconds: int
    talk_seconds_assumed: int
    average_talk_seconds: float | None


class TallyRow(Tally, frozen=True, kw_only=True):
    """The tally of one group; it has the fields that were asked for by `groupBy`."""

    day: date | msgspec.UnsetType = msgspec.UNSET
    user_id: str | msgspec.UnsetType = msgspec.UNSET
    user_name: str | msgspec.UnsetType = msgspec.UNSET
    team_id: str | msgspec.UnsetType | None = msgspec.UNSET
    team_name: str | msgspec.UnsetType | None = msgspec.UNSET
    line_id: str | msgspec.UnsetType | None = msgspec.UNSET
    call_method: Method | msgspec.UnsetType = msgspec.UNSET


class StatisticsAnswer(Answer, frozen=True, kw_only=True):
    """Tallies by group, in the order of the groups' keys, and of all together; a group without calls has no row."""

    from_: date = msgspec.field(name="from")
    to: date
    timezone: str
    rows: list[TallyRow]
    total: Tally


class Statistics:
    """Counts calls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, identity: Identity, query: StatisticsQuery) -> StatisticsAnswer:
        """Count calls, answers and talk time by day, agent, team, line or method.

        Connect rate = connected ÷ (finished - connectedAssumed - unknown): of the calls of which it is known whether
        they were answered, the share that was. Assumed and unknown ones stand apart and count neither way.
        """
        rows: list[asyncpg.Record] = []
        async with self._database.search() as connection:
            tenant = await records.tenant(connection, identity.tenant_id)
            first, last = _span(query.from_, query.to, tenant["today"])
            for begin, end in _months(first, last):
                rows += await records.statistics(
                    connection,
                    identity.calls,
                    timezone=tenant["timezone"],
                    first=begin,
                    last=end,
                    by=query.group_by,
                    weak=_ASSUMED,
                    user_id=query.user_id,
                    team_id=query.team_id,
                    call_method=query.call_method,
                    limit=MOST_ROWS + 1,
                )
        grouped = _grouped(rows, query.group_by)
        if len(grouped) > MOST_ROWS:
            raise DialdeskError("INVALID_FIELD", reason=f"more than {MOST_ROWS} rows: ask for fewer days or one group")
        return StatisticsAnswer(
            from_=first, to=last, timezone=tenant["timezone"], rows=grouped, total=Tally(**_tally(rows))
        )


def _span(first: date | None, last: date | None, today: date) -> tuple[date, date]:
    last = last or today
    first = first or date.fromordinal(max(1, last.toordinal() - 6))
    if not 0 <= (last - first).days < MOST_DAYS:
        raise DialdeskError("INVALID_FIELD", reason=f"from and to must span 1 to {MOST_DAYS} days")
    return first, last


def _months(first: date, last: date) -> Iterator[tuple[date, date]]:
    """A year of a large tenant is counted in parts, each well within the deadline of a statement."""
    for begin in range(first.toordinal(), last.toordinal() + 1, 31):
        yield date.fromordinal(begin), date.fromordinal(min(begin + 30, last.toordinal()))


_COUNTED = ("calls", "finished", "connected", "connected_assumed", "unknown", "talk_seconds", "talk_seconds_assumed")


def _tally(rows: Sequence[asyncpg.Record]) -> dict[str, Any]:
    """The fields of a Tally of these counts together: the sums, and what follows from them."""
    sums: dict[str, Any] = {name: sum(row[name] for row in rows) for name in _COUNTED}
    known = sums["finished"] - sums["connected_assumed"] - sums["unknown"]
    timed = sum(row["timed"] for row in rows)
    return sums | {
        "connect_rate": round(sums["connected"] / known, 4) if known else None,
        "average_talk_seconds": round(sums["talk_seconds"] / timed, 1) if timed else None,
    }


def _grouped(rows: Sequence[asyncpg.Record], by: Sequence[Key]) -> list[TallyRow]:
    groups: dict[tuple[Any, ...], list[asyncpg.Record]] = {}
    for row in rows:
        groups.setdefault(tuple(_keys(row, by).values()), []).append(row)
    in_order = sorted(groups, key=lambda key: [(part is None, str(part)) for part in key])
    return [TallyRow(**_tally(groups[key]), **_keys(groups[key][0], by)) for key in in_order]


_NAMED: dict[Key, tuple[str, ...]] = {
    "day": ("day",),
    "agent": ("user_id", "user_name"),
    "team": ("team_id", "team_name"),
    "line": ("line_id",),
    "method": ("call_method",),
}


def _keys(row: asyncpg.Record, by: Sequence[Key]) -> dict[str, Any]:
    return {name: row[name] for key in by for name in _NAMED[key]}
