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

ANALYZED, NEVER = True, False


async def fill(connection: Connection, agents: int, ended: int, live: int) -> None:
    """A tenant with so many agents, each with a phone, and so many calls, all on phones."""
    await connection.execute("INSERT INTO tenant (id, code, name) VALUES ('t', 't', 'T')")
    await connection.execute(
        "INSERT INTO app_user (id, tenant_id, role, username, name, password_hash)"
        " SELECT 'u' || n, 't', 'agent', 'u' || n, 'U', '-' FROM generate_series(1, $1::int) n",
        agents,
    )
    await connection.execute(
        "INSERT INTO login (id, user_id, expires_at) SELECT 'l' || id, id, now() + interval '1 day' FROM app_user"
    )
    await connection.execute(
        "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version,"
        " app_version, token_hash)"
        " SELECT 'd' || n, 't', 'h' || n, 'u' || n, '', '', '', 'android', '', '', sha256(('d' || n)::bytea)"
        " FROM generate_series(1, $1::int) n",
        agents,
    )
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


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every step of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def searches(plan: dict[str, Any]) -> list[str]:
    """The steps that look at rows which no key leads to."""
    found = []
    for node in nodes(plan):
        kind, by = node["Node Type"], node.get("Index Cond", "")
        if kind == "Seq Scan":
            found.append(f"all of {node['Relation Name']}")
        elif "Index Name" in node and not re.sub(r"\(?tenant_id = [^)]+\)", "", by):
            found.append(f"{node['Index Name']}: {by or 'all of it'}")
    return found


@pytest.mark.parametrize(
    ("agents", "ended", "live", "analyzed"),
    [
        pytest.param(1, 0, 0, NEVER, id="the first minute"),
        pytest.param(1, 0, 0, ANALYZED, id="one agent"),
        pytest.param(2000, 0, 0, NEVER, id="many agents who have just come"),
        pytest.param(2000, 0, 0, ANALYZED, id="many agents before their first call"),
        pytest.param(2000, 5000, 0, ANALYZED, id="a night without calls"),
        pytest.param(2000, 5000, 1500, NEVER, id="a busy first minute"),
        pytest.param(2000, 5000, 1500, ANALYZED, id="a busy day"),
    ],
)
async def test_statements_by_key_walk_by_keys(
    database_url: str, agents: int, ended: int, live: int, analyzed: bool
) -> None:
    """Whatever lies in the tables, and whatever is known of them, when the plan is made."""
    found = {}
    async with open_database(database_url, max_size=8) as database:
        async with database.connection() as connection:
            await fill(connection, agents, ended, live)
            if analyzed:
                await connection.execute("ANALYZE")
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
