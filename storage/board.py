"""What the agents of a tenant do at this moment, and what they did today."""

from collections.abc import AsyncIterator, Collection

import asyncpg

from storage.calls import Reach
from storage.database import Connection, queries

_SQL = queries("board")


async def agents(connection: Connection, reach: Reach, team_id: str | None, limit: int) -> list[asyncpg.Record]:
    """Return at most `limit` agents within reach by name, of one team where it is named: a row for each of their live
    calls within reach, an answered one first, and one without a call where there is none.

    Where there are more, these are who talks and calls, then who has a page open. Each row has the numbers of all that
    `talking`, `calling`, are `idle` and `offline` beside it.
    """
    return await connection.fetch(_SQL["agents"], reach.tenant_id, *reach.filters, team_id, limit)


HOURS = range(0, 26, 2)
"""The hours of a day at which its parts begin; one on which clocks are set back has 25."""


async def today(connection: Connection, tenant_id: str, weak: Collection[str]) -> AsyncIterator[asyncpg.Record]:
    """Yield the counts of the calls of the tenant's day: for each part of it, agent, and team the agent called in.

    An answer told on grounds in `weak` alone is assumed. In parts, for a day of a million calls takes longer than a
    statement may.
    """
    for hour in HOURS:
        for row in await connection.fetch(_SQL["today"], tenant_id, list(weak), hour, hour + HOURS.step):
            yield row
