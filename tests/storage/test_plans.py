"""How PostgreSQL walks to the rows of statements by key: by their keys, whatever it takes the tables to hold.

A plan that is made once lasts until a table's statistics are made anew: one made in a quiet night, or in the first
minute of an installation, has to be right on a busy morning.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from storage.database import Connection, Database, open_database, queries

STATEMENTS = [
    ("calls", "contexts"),
    ("calls", "dial"),
    ("calls", "ack"),
    ("calls", "read"),
    ("calls", "change"),
    ("credentials", "by_logins"),
    ("credentials", "by_device_tokens"),
]

EVERYTHING = ""
"""All tables are analyzed."""


async def fill(connection: Connection, agents: int, ended: int, live: int) -> None:
    """A tenant with so many agents, each with a phone, and so many calls, all on phones."""
    await connection.execute("INSERT INTO tenant (id, code, name) VALUES ('t', 't', 'T')")
    await come(connection, 1, agents)
    await connection.execute(
        "INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, status,"
        " ended_at, outcome, closed_by, reap_at)"
        " SELECT 'c' || n, 't', 'u' || m, 'u' || m, 'd' || m, 'mobile', '+8613912345678', s, e, o, 'phone', r"
        " FROM (SELECT n, 1 + n % $1 AS m,"
        "  CASE WHEN n > $2 THEN 'pending' ELSE 'ended' END AS s, CASE WHEN n <= $2 THEN now() END AS e,"
        "  CASE WHEN n <= $2 THEN 'missed' END AS o, CASE WHEN n > $2 THEN now() + interval '1 day' END AS r"
        "  FROM generate_series(1, $2::int + $3::int) n) made",
        agents,
        ended,
        live,
    )
    await connection.execute(
        "INSERT INTO command (id, tenant_id, call_id, device_id, type, data, expires_at, next_send_at)"
        " SELECT 'm' || id, 't', id, device_id, 'DIAL_COMMAND', '{}', now(), CASE WHEN ended_at IS NULL THEN now() END"
        " FROM call"
    )
    await connection.execute(
        "INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data, message_id)"
        " SELECT id, 't', 'phone', 'CALL_END', 'moved', '{}', 'e' || id FROM call"
    )


async def come(connection: Connection, first: int, last: int) -> None:
    """Agents with their phones."""
    await connection.execute(
        "INSERT INTO app_user (id, tenant_id, role, username, name, password_hash)"
        " SELECT 'u' || n, 't', 'agent', 'u' || n, 'U', '-' FROM generate_series($1::int, $2::int) n",
        first,
        last,
    )
    await connection.execute(
        "INSERT INTO login (id, user_id, expires_at)"
        " SELECT 'lu' || n, 'u' || n, now() + interval '1 day' FROM generate_series($1::int, $2::int) n",
        first,
        last,
    )
    await connection.execute(
        "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version,"
        " app_version, token_hash)"
        " SELECT 'd' || n, 't', 'h' || n, 'u' || n, '', '', '', 'android', '', '', sha256(('d' || n)::bytea)"
        " FROM generate_series($1::int, $2::int) n",
        first,
        last,
    )


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every step of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def searches(plan: dict[str, Any]) -> list[str]:
    """The steps that look at rows which no key leads to. A tenant is no key.

    A key that is a later column of an index counts: PostgreSQL takes such an index for as good as any while a table
    fills a page, and no longer.
    """
    found = []
    for node in nodes(plan):
        by = node.get("Index Cond", "")
        if node["Node Type"] == "Seq Scan":
            found.append(f"all of {node['Relation Name']}")
        elif "Index Name" in node and set(re.findall(r"\(?(\w+) = ", by)) <= {"tenant_id"}:
            found.append(f"{node['Index Name']}: {by or 'all of it'}")
    return found


@pytest.mark.parametrize(
    ("agents", "ended", "live", "analyzed", "later"),
    [
        pytest.param(1, 0, 0, None, 0, id="the first minute"),
        pytest.param(1, 0, 0, EVERYTHING, 0, id="one agent"),
        pytest.param(1, 10, 0, EVERYTHING, 2000, id="many agents after one"),
        pytest.param(3, 10, 1, EVERYTHING, 2000, id="many agents after a few"),
        pytest.param(2000, 0, 0, None, 0, id="many agents who have just come"),
        pytest.param(2000, 0, 0, EVERYTHING, 0, id="many agents before their first call"),
        pytest.param(2000, 5000, 0, EVERYTHING, 0, id="a night without calls"),
        pytest.param(2000, 5000, 1500, None, 0, id="a busy first minute"),
        pytest.param(2000, 5000, 1500, EVERYTHING, 0, id="a busy day"),
        *(
            pytest.param(agents, 10, 1, table, 0, id=f"{agents} agents, only {table} is known")
            for agents in (1, 2000)
            for table in ("app_user", "device", "call", "command", "login")
        ),
    ],
)
async def test_statements_by_key_walk_by_keys(
    database_url: str, agents: int, ended: int, live: int, analyzed: str | None, later: int
) -> None:
    """Whatever lies in the tables, and whatever was known of them before more came, when the plan is made."""
    async with open_database(database_url, max_size=8) as database:
        async with database.connection() as connection:
            await fill(connection, agents, ended, live)
            if analyzed is not None:
                await connection.execute(f"ANALYZE {analyzed}")
            if later:
                await come(connection, agents + 1, later)
        found = {name: await _searches(database, noun, name) for noun, name in STATEMENTS}

    assert {name: [] for _, name in STATEMENTS} == found


async def _searches(database: Database, noun: str, name: str) -> list[str]:
    statement = queries(noun)[name]
    arguments = ", ".join("NULL" for _ in set(re.findall(r"\$\d+", statement)))
    async with database.by_key() as connection:
        await connection.execute(f"PREPARE asked AS {statement}")
        (explained,) = await connection.fetchrow(f"EXPLAIN (FORMAT JSON) EXECUTE asked ({arguments})")
        await connection.execute("DEALLOCATE asked")
    return searches(msgspec.json.decode(explained)[0]["Plan"])
