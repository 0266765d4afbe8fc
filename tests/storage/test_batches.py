"""What has had its time goes in batches, and all of it goes."""

import asyncio

from storage import events, idempotency
from storage.batches import drop_all
from storage.database import Database, queries
from tests.conftest import Office


async def test_batches_follow_one_another_until_nothing_is_left(database: Database) -> None:
    """A statement that drops two rows at a time drops all five that are due, and leaves the others."""
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE due AS SELECT n FROM generate_series(1, 7) n")
        statement = "DELETE FROM due WHERE n IN (SELECT n FROM due WHERE n <= $1 LIMIT 2)"
        gone = await drop_all(connection, statement, 5)
        left = await connection.fetchval("SELECT array_agg(n ORDER BY n) FROM due")

    assert (5, [6, 7]) == (gone, left)


async def test_a_round_ends_though_rows_grow_old_as_fast_as_they_go(database: Database) -> None:
    """A batch that is smaller than the one before it is the last: what came meanwhile is the next round's."""
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE due AS SELECT n FROM generate_series(1, 3) n")
        statement = (
            "WITH later AS (INSERT INTO due VALUES (0))"
            " DELETE FROM due WHERE n IN (SELECT n FROM due ORDER BY n DESC LIMIT 2)"
        )
        async with asyncio.timeout(20):
            gone = await drop_all(connection, statement)

    assert 0 < gone


async def test_a_busy_days_events_go_in_one_round(database: Database, office: Office) -> None:
    """More events than a batch holds: what is written in a day can be dropped in a day, however much it is."""
    ann = await office.agent()
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO agent_event (user_id, seq, type, data, at)"
            " SELECT $1, n, 'DEVICE_STATUS', '{}', now() - interval '2 days' FROM generate_series(1, 5001) n",
            ann,
        )
        gone = await events.expire(connection, 86400.0)

    assert 5001 == gone


async def test_a_busy_days_keys_go_in_one_round(database: Database, office: Office) -> None:
    """The same of the answers that are kept for repeated requests."""
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO idempotency_key (tenant_id, actor_id, operation, key, request_sha256, answer, created_at)"
            " SELECT $1, 'ann', 'dial', n::text, '', '', now() - interval '2 days' FROM generate_series(1, 5001) n",
            office.tenant_id,
        )
        gone = await idempotency.expire(connection)

    assert 5001 == gone


async def test_old_events_are_found_by_their_age(database: Database, office: Office) -> None:
    """The statement is planned for any age whatever: it looks along the index, and not through the table in the hope
    of old rows, which are few and anywhere in it."""
    ann = await office.agent()
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO agent_event (user_id, seq, type, data)"
            " SELECT $1, n, 'DEVICE_STATUS', '{}' FROM generate_series(1, 20000) n",
            ann,
        )
        await connection.execute("ANALYZE agent_event")
        await connection.execute(f"PREPARE expire AS {queries('events')['expire']}")
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN EXECUTE expire (86400)"))

    assert "agent_event_age" in plan
