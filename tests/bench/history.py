"""Companies with as many call records as is asked for, made by SQL in databases of their own (`history.sql`).

The records lie in the order in which they were made, over two years, and so do their histories. Whatever the size, the
last three thousand calls are today's: companies grow old, their days do not grow longer.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import click

from storage.migrate import migrate

LARGE: Final = "tenant_0"
"""The large tenant, which is asked."""

AGENTS: Final = 500
"""Its agents: `user_0_0`, `user_0_1` and so on; beside them there are `admin` and `supervisor`."""

TODAY: Final = 3000

_PART = 250_000
"""Records that one statement makes."""

_TABLES = ["call", "call_event", "command", "customer"]

_parts = re.split(r"^-- name: (\w+)\n", Path(__file__).with_suffix(".sql").read_text(), flags=re.MULTILINE)
SQL: Final = dict(zip(_parts[1::2], _parts[2::2], strict=True))


async def grown(server_url: str, records: int) -> str:
    """Make a database with so many records, or find one that an earlier run made; where it is.

    `server_url` names any database of the server, as a role that may create others.
    """
    name = f"grown_{records}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    async with _connected(server_url) as connection:
        said = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
        if await connection.fetchval(said, name) == "complete":
            await migrate(url)  # it may be of an earlier version
            return url
        await connection.execute(f"DROP DATABASE IF EXISTS {name}")
        await connection.execute(f"CREATE DATABASE {name}")
    await migrate(url)
    async with _connected(url) as connection:
        await _fill(connection, records)
        await connection.execute(f"COMMENT ON DATABASE {name} IS 'complete'")
        # what was made is written to the disk now, and not while it is measured: dropping a database waits for that
        await connection.execute("CREATE DATABASE checkpoint")
        await connection.execute("DROP DATABASE checkpoint")
    return url


def phone_of(user_id: str) -> dict[str, str]:
    """By which headers the phone of an agent signs in."""
    return {"Authorization": f"Bearer ddp_{user_id}", "X-Device-Id": f"hw-{user_id}"}


async def _fill(connection: "asyncpg.Connection[asyncpg.Record]", records: int) -> None:
    """What indexes and foreign keys cost row by row they cost once, when all rows are there."""
    await connection.execute("SET maintenance_work_mem = '1GB'; SET work_mem = '256MB'; SET synchronous_commit = off")
    await connection.execute(SQL["people"])
    constraints = await connection.fetch(SQL["constraints"], _TABLES)
    indexes = await connection.fetch(SQL["indexes"], _TABLES)
    for made in (*constraints, *indexes):
        await connection.execute(made["drop"])
    await connection.execute(SQL["customers"], records)
    for first in range(1, records + 1, _PART):
        await connection.execute(SQL["calls"], first, min(first + _PART - 1, records), records, TODAY)
        click.echo(f"\r{first + _PART - 1:,} of {records:,} calls", nl=False, err=True)
    bounds = [row["id"] for row in await connection.fetch(SQL["bounds"], _PART)]
    for first, last in zip(bounds, [*bounds[1:], "call_z"], strict=True):
        await connection.execute(SQL["histories"], first, last)
        click.echo(f"\rhistories up to {last}     ", nl=False, err=True)
    for made in (*indexes, *constraints):
        await connection.execute(made["make"])
    for table in _TABLES:
        await connection.execute(f"VACUUM (ANALYZE) {table}")
    await connection.execute("ANALYZE")
    click.echo("", err=True)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()
