"""The board of a supervisor: what each agent does at this moment, and what today came to.

It is made to be asked every few seconds by many. What agents do now is looked up each time. What they did today is
counted for the whole tenant and shared by all who ask this node; it is counted anew after `every` seconds at the
soonest, and the later the longer counting takes, so that a tenant's boards never keep PostgreSQL busy.
"""

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Annotated, Final, Literal

import asyncpg
import msgspec

from protocol.call import RANK, Evidence
from protocol.messages import Id
from protocol.phone_number import mask
from protocol.timestamps import Timestamp, rfc3339
from server.http import Answer, Body
from server.identity import Identity
from server.records import Method
from storage import board, records
from storage.calls import Reach
from storage.database import Database

MOST_AGENTS: Final = 500
"""Agents that one answer tells of; their numbers count all."""

MOST_TENANTS: Final = 1000
"""Tenants whose counts a node keeps: those asked for last."""

SHARE: Final = 20
"""Counting today's calls takes at most one part in so many of the time, whoever asks how often."""

State = Literal["talking", "calling", "idle", "offline"]

_ASSUMED = [evidence.value for evidence, rank in RANK.items() if rank <= RANK[Evidence.ASSUMED]]


class BoardQuery(Body, frozen=True, kw_only=True):
    """Whom to tell of: all within reach, or one team. With more agents than `limit`, who is busy comes first."""

    team_id: Id | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_AGENTS)] = 200


class DayCount(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Calls made since the day began at the tenant, counted as statistics count: answers that are proven, with their
    seconds of talk, and apart from them those that somebody said there were."""

    calls: int = 0
    connected: int = 0
    connected_assumed: int = 0
    talk_seconds: int = 0
    talk_seconds_assumed: int = 0


class BoardCall(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A call that an agent is at."""

    call_id: str
    status: str
    call_method: Method
    customer_name: str | None
    customer_phone: str
    created_at: Timestamp
    connected_at: Timestamp | None


class BoardAgent(DayCount, frozen=True, kw_only=True, rename="camel"):
    """An agent: `talking` or `calling`, `idle` with a page open, or `offline`; `since` when, as far as that is known.

    `live` are the calls within the asker's reach that the agent is at, an answered one first: who has a phone and a
    line may be at two, and one that was begun in another team may be out of reach. `phone` tells whether one of the
    agent's work phones is online, and is null where none is bound.
    """

    user_id: str
    user_name: str
    team_id: str | None
    team_name: str | None
    state: State
    since: Timestamp | None
    phone: Literal["online", "offline"] | None
    live: list[BoardCall]


class States(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many agents are in each state."""

    talking: int
    calling: int
    idle: int
    offline: int


class BoardAnswer(Answer, frozen=True, kw_only=True):
    """The agents by name, how many there are in each state, and the day's calls within reach, of former agents too.

    `day` is the tenant's day in `timezone`; `timestamp` the server's time, to which `since` is to be compared. The
    counts of the day may be some seconds old.
    """

    agents: list[BoardAgent]
    states: States
    today: DayCount
    day: str
    timezone: str
    timestamp: Timestamp


class Board:
    """Looks at agents. Counts of the day are kept for `every` seconds at least."""

    def __init__(self, database: Database, *, every: float = 2.0) -> None:
        self._database = database
        self._every = every
        self._days: OrderedDict[str, _Day] = OrderedDict()

    async def look(self, identity: Identity, query: BoardQuery) -> BoardAnswer:
        """Tell what the agents within reach do now, and what they did today.

        Asking every few seconds is what this is for: it costs little more than the agents that are told.
        """
        reach = identity.calls
        async with self._database.search() as connection:
            tenant = await records.tenant(connection, identity.tenant_id)
            rows = await board.agents(connection, reach, query.team_id, query.limit)
        counts = await self._counted(identity.tenant_id, str(tenant["today"]))
        reached = [count for count in counts if _reached(count, reach, query.team_id)]
        days = _by_agent(reached)
        ends = {user_id: _latest(*(count.last_ended_at for count in own)) for user_id, own in _by_agent(counts).items()}
        revealed = identity.may("customers.reveal")
        return BoardAnswer(
            agents=[
                _agent(list(own), _sum(days[user_id]), ends.get(user_id), revealed=revealed)
                for user_id, own in groupby(rows, key=lambda row: str(row["id"]))
            ],
            states=States(**{state: rows[0][state] if rows else 0 for state in States.__struct_fields__}),
            today=_sum(reached),
            day=str(tenant["today"]),
            timezone=tenant["timezone"],
            timestamp=rfc3339(tenant["now"]),
        )

    async def _counted(self, tenant_id: str, day: str) -> "Sequence[_Count]":
        """The counts of the tenant's day: one asker counts, and the others have what was counted before meanwhile."""
        kept = self._days.setdefault(tenant_id, _Day())
        self._days.move_to_end(tenant_id)
        while len(self._days) > MOST_TENANTS:
            self._days.popitem(last=False)
        if kept.day == day and kept.counting.locked():
            return kept.counts
        async with kept.counting:
            if kept.day != day or time.monotonic() >= kept.good_until:
                begun = time.monotonic()
                async with self._database.search() as connection:
                    kept.counts = _merged([row async for row in board.today(connection, tenant_id, _ASSUMED)])
                ended = time.monotonic()
                kept.day, kept.good_until = day, ended + max(self._every, SHARE * (ended - begun))
            return kept.counts


class _Day:
    """What was counted of a tenant's day."""

    def __init__(self) -> None:
        self.counting = asyncio.Lock()
        self.day = ""
        self.good_until = 0.0
        self.counts: Sequence[_Count] = ()


class _Count(msgspec.Struct):
    """What an agent's day in one team came to; `sums` are in the order of the fields of DayCount."""

    user_id: str
    team_id: str | None
    sums: tuple[int, ...]
    last_ended_at: datetime | None


def _merged(rows: Iterable[asyncpg.Record]) -> Sequence[_Count]:
    """The counts of the parts of a day, together."""
    whole: dict[tuple[str, str | None], _Count] = {}
    for row in rows:
        key = row["user_id"], row["team_id"]
        before = whole.get(key) or _Count(*key, (0,) * len(DayCount.__struct_fields__), None)
        sums = tuple(had + row[name] for had, name in zip(before.sums, DayCount.__struct_fields__, strict=True))
        whole[key] = _Count(*key, sums, _latest(before.last_ended_at, row["last_ended_at"]))
    return list(whole.values())


def _reached(count: _Count, reach: Reach, team_id: str | None) -> bool:
    """Whether a count is of calls within reach, as lists of calls judge it, and of the team that is asked for."""
    if team_id is not None and count.team_id != team_id:
        return False
    if reach.only_user is not None:
        return count.user_id == reach.only_user
    return reach.only_teams is None or count.team_id in reach.only_teams or count.user_id == reach.user_id


def _sum(counts: Iterable[_Count]) -> DayCount:
    sums = map(sum, zip(*(count.sums for count in counts), strict=True))
    return DayCount(**dict(zip(DayCount.__struct_fields__, sums, strict=False)))


def _latest(*moments: datetime | None) -> datetime | None:
    return max(filter(None, moments), default=None)


def _by_agent(counts: Iterable[_Count]) -> defaultdict[str, list[_Count]]:
    found = defaultdict(list)
    for count in counts:
        found[count.user_id].append(count)
    return found


def _agent(rows: Sequence[asyncpg.Record], day: DayCount, last_ended: datetime | None, *, revealed: bool) -> BoardAgent:
    """An agent, of the rows of its live calls."""
    row = rows[0]
    return BoardAgent(
        user_id=row["id"],
        user_name=row["name"],
        team_id=row["team_id"],
        team_name=row["team_name"],
        state=row["state"],
        since=rfc3339(_since(row, last_ended)),
        phone=row["phone"],
        live=[_call(row, revealed=revealed) for row in rows if row["call_id"] is not None],
        **msgspec.structs.asdict(day),
    )


def _since(row: asyncpg.Record, last_ended: datetime | None) -> datetime | None:
    state: State = row["state"]
    match state:
        case "talking":
            return _latest(row["talking_since"])
        case "calling":
            return _latest(row["calling_since"])
        case "idle":
            return _latest(row["present_since"], last_ended)
        case "offline":
            return None


def _call(row: asyncpg.Record, *, revealed: bool) -> BoardCall:
    return BoardCall(
        call_id=row["call_id"],
        status=row["status"],
        call_method=row["call_method"],
        customer_name=row["customer_name"],
        customer_phone=row["customer_phone"] if revealed else mask(row["customer_phone"]),
        created_at=rfc3339(row["created_at"]),
        connected_at=rfc3339(row["connected_at"]),
    )
