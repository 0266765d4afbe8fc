"""The way to PostgreSQL: deadlines, transactions, and the driver's errors made ours."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

import storage.database
from protocol.errors import DialdeskError
from storage.database import BY_KEY, Connection, Database, Duplicate, open_database, queries, rolled_back, translated
from tests.conftest import Office
from tests.proxy import Proxy, proxy_to
from tests.waiting import until


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[Proxy]:
    """The line to PostgreSQL, which may be cut."""
    async with proxy_to(database_url) as line:
        yield line


async def execute(database: Database, statement: str, *values: object) -> None:
    """Run one statement."""
    async with database.connection() as connection:
        await connection.execute(statement, *values)


async def count(database: Database, table: str = "tenant") -> int:
    """How many rows there are."""
    async with database.connection() as connection:
        return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))


async def refusal(act: Callable[[], object]) -> tuple[str, bool]:
    """Code and whether to try again of what is refused."""
    with pytest.raises(DialdeskError) as refused:
        await act()  # type: ignore[misc]
    return refused.value.code, refused.value.retry


# --- named queries ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of named queries."""
    monkeypatch.setattr(storage.database, "_SQL", tmp_path)
    return tmp_path / "noun.sql"


def test_queries_are_read_by_name(sql: Path) -> None:
    """Each without its name and its last semicolon."""
    sql.write_text("-- name: one\n-- The first.\nSELECT 1;\n\n-- name: two\n-- The second.\nSELECT ';' ;\n")

    assert {"one": "-- The first.\nSELECT 1", "two": "-- The second.\nSELECT ';' "} == queries("noun")


def test_a_name_given_twice_is_a_mistake(sql: Path) -> None:
    """One of the two would be lost."""
    sql.write_text("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")

    with pytest.raises(ValueError, match="names a query twice"):
        queries("noun")


# --- transactions -----------------------------------------------------------------------------------------------------


async def test_a_transaction_is_committed_on_leaving_and_undone_by_any_error(database: Database) -> None:
    """What is left is what was committed."""

    async def fail() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO tenant (id, code, name) VALUES ('t2', 'two', 'Two')")
            raise ZeroDivisionError

    async with database.transaction() as connection:
        await connection.execute("INSERT INTO tenant (id, code, name) VALUES ('t1', 'one', 'One')")
    with pytest.raises(ZeroDivisionError):
        await fail()

    assert 1 == await count(database)


async def test_a_cancelled_transaction_is_undone_and_its_connection_used_again(database_url: str) -> None:
    """Whoever asked went away in the middle of a statement."""
    async with open_database(database_url, max_size=1, timeout=5) as database:

        async def slowly() -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO tenant (id, code, name) VALUES ('t1', 'one', 'One')")
                begun.set()
                await connection.execute("SELECT pg_sleep(60)")

        begun = asyncio.Event()
        asking = asyncio.create_task(slowly())
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])

        assert 0 == await count(database)


async def test_a_snapshot_sees_one_moment(database: Database) -> None:
    """What is committed during it is not seen by it."""
    async with database.transaction(snapshot=True) as connection:
        before = await connection.fetchval("SELECT count(*) FROM tenant")
        await execute(database, "INSERT INTO tenant (id, code, name) VALUES ('t1', 'one', 'One')")
        after = await connection.fetchval("SELECT count(*) FROM tenant")

    assert (0, 0, 1) == (before, after, await count(database))


async def test_a_snapshot_only_reads(database: Database) -> None:
    """A write in it is refused."""

    async def write() -> None:
        async with database.transaction(snapshot=True) as connection:
            await connection.execute("INSERT INTO tenant (id, code, name) VALUES ('t1', 'one', 'One')")

    assert ("UNAVAILABLE", True) == await refusal(write)


# --- errors made ours -------------------------------------------------------------------------------------------------


async def test_a_row_that_exists_already_is_a_duplicate_of_its_rule(database: Database) -> None:
    """Inside a transaction or not, the name of the constraint is told."""
    await execute(database, "INSERT INTO tenant (id, code, name) VALUES ('t1', 'one', 'One')")
    rules = []
    for values in ("('t1', 'two', 'Two')", "('t2', 'one', 'One')"):
        with pytest.raises(Duplicate) as duplicate:
            await execute(database, f"INSERT INTO tenant (id, code, name) VALUES {values}")
        rules.append(duplicate.value.constraint)

    assert ["tenant_pkey", "tenant_code_key"] == rules


async def test_text_with_nul_is_an_invalid_field(database: Database) -> None:
    """PostgreSQL cannot keep it, as a value or in JSON that is taken apart."""
    codes = [
        await refusal(
            lambda: execute(database, "INSERT INTO tenant (id, code, name) VALUES ('t1', 'one', $1)", "a\0b")
        ),
        await refusal(lambda: execute(database, "SELECT ($1::text::json)->>'a'", '{"a": "\\u0000"}')),
    ]

    assert [("INVALID_FIELD", False)] * 2 == codes


async def test_a_mistake_of_ours_is_not_mistaken_for_an_outage(database: Database) -> None:
    """A wrong argument, a wrong statement and a broken rule pass as they are."""
    for statement, values, error in (
        ("SELECT $1::bigint", ("no number",), asyncpg.DataError),
        ("SELECT FROM nowhere", (), asyncpg.UndefinedTableError),
        ("INSERT INTO tenant (id, code, name) VALUES ('t', 'NOT A CODE', 'x')", (), asyncpg.CheckViolationError),
    ):
        with pytest.raises(error):
            await execute(database, statement, *values)


@pytest.mark.parametrize(
    "condition",
    ["disk_full", "out_of_memory", "too_many_connections", "io_error", "crash_shutdown", "serialization_failure"],
)
async def test_what_postgresql_cannot_do_now_is_unavailable(database: Database, condition: str) -> None:
    """It may well do it later: no chore of a node ends for it."""
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{condition}'; END $$"

    assert ("UNAVAILABLE", True) == await refusal(lambda: execute(database, statement))


async def test_a_postgresql_that_is_not_there_is_unavailable(line: Proxy) -> None:
    """At once where it refuses, and the pool works again when it is back."""
    async with open_database(line.url, min_size=1, max_size=2, timeout=5) as database:
        await line.cut()
        refused = await refusal(lambda: count(database))
        await line.open()

        assert (("UNAVAILABLE", True), 0) == (refused, await count(database))


async def test_a_pool_without_postgresql_does_not_open(line: Proxy) -> None:
    """UNAVAILABLE rather than an error of the driver."""
    await line.cut()

    async def attempt() -> None:
        async with open_database(line.url, timeout=5):
            """Not reached."""

    assert ("UNAVAILABLE", True) == await refusal(attempt)


async def test_a_postgresql_that_says_nothing_is_unavailable_in_time(line: Proxy) -> None:
    """Statement and connection both have a deadline."""
    async with open_database(line.url, min_size=1, max_size=2, timeout=0.5) as database:
        await count(database)
        line.swallow()
        async with asyncio.timeout(20):
            refused = [await refusal(lambda: count(database)) for _ in range(2)]
        line.let_pass()

        assert [("UNAVAILABLE", True)] * 2 == refused
        await until(lambda: _answers(database))


async def _answers(database: Database) -> bool:
    try:
        await count(database)
    except DialdeskError:
        return False
    return True


async def test_a_connection_that_the_server_ended_is_unavailable_once(database_url: str) -> None:
    """As at its restart: the next attempt has a new one."""
    async with open_database(database_url, min_size=1, max_size=1, timeout=5) as database:

        async def terminated() -> None:
            async with database.connection() as connection:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        assert ("UNAVAILABLE", True) == await refusal(terminated)
        assert 0 == await count(database)


async def test_a_connection_that_heard_of_its_end_while_idle_is_unavailable_once(
    line: Proxy, database_url: str
) -> None:
    """Its line stays open, as where the network loses the rest: it is not lent again."""
    async with (
        open_database(line.url, min_size=1, max_size=1, timeout=5) as database,
        open_database(database_url, max_size=1) as other,
    ):
        async with database.connection() as connection:
            process = await connection.fetchval("SELECT pg_backend_pid()")
        ended = line.linger()
        await execute(other, "SELECT pg_terminate_backend($1)", process)
        async with asyncio.timeout(20):
            await ended.wait()
        await count(other)  # a round trip, in which the driver reads what it was told
        refused = await refusal(lambda: count(database))

        assert (("UNAVAILABLE", True), 0) == (refused, await count(database))


async def test_whoever_waits_too_long_for_a_connection_is_told_so(database_url: str) -> None:
    """The pool is small, and all of it is lent."""
    async with open_database(database_url, max_size=1, timeout=0.5) as database:
        async with database.connection():
            refused = await refusal(lambda: count(database))

        assert ("UNAVAILABLE", True) == refused


async def test_a_statement_has_a_deadline(database_url: str) -> None:
    """What takes longer is cancelled, and its connection is used again."""
    async with open_database(database_url, max_size=1, timeout=0.5) as database:
        refused = await refusal(lambda: execute(database, "SELECT pg_sleep(60)"))

        assert (("UNAVAILABLE", True), 0) == (refused, await count(database))


async def test_the_loser_of_a_deadlock_may_try_again(database: Database, office: Office) -> None:
    """PostgreSQL ends one of the two; the other is committed."""
    first, second = await office.agent(), await office.agent()
    both = asyncio.Barrier(2)

    async def rename(one: str, other: str) -> None:
        async with database.transaction() as connection:
            await connection.execute("UPDATE app_user SET name = 'x' WHERE id = $1", one)
            await both.wait()
            await connection.execute("UPDATE app_user SET name = 'x' WHERE id = $1", other)

    outcomes = await asyncio.gather(rename(first, second), rename(second, first), return_exceptions=True)

    assert ["UNAVAILABLE"] == [outcome.code for outcome in outcomes if isinstance(outcome, DialdeskError)]
    assert 1 == outcomes.count(None)


async def test_closing_does_not_wait_for_ever_for_a_connection_that_is_lent(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut after a while, and whoever holds it is told UNAVAILABLE."""
    monkeypatch.setattr(storage.database, "CLOSE_DEADLINE", 0.1)
    lent = asyncio.Event()
    async with open_database(database_url, max_size=2, timeout=60) as database:

        async def hold() -> None:
            async with database.connection() as connection:
                lent.set()
                await connection.execute("SELECT pg_sleep(60)")

        holding = asyncio.create_task(refusal(hold))
        await lent.wait()
        begun = time.monotonic()
    async with asyncio.timeout(20):
        refused = await holding

    assert time.monotonic() - begun < 20
    assert ("UNAVAILABLE", True) == refused


async def test_a_statement_by_key_waits_for_no_lock_for_long(database_url: str, office: Office) -> None:
    """Well within its deadline, and whoever asked knows that nothing was done."""
    ann = await office.agent()
    async with open_database(database_url, max_size=8, timeout=5) as database, database.transaction() as holding:
        await holding.execute("SELECT FROM app_user WHERE id = $1 FOR UPDATE", ann)
        async with database.by_key() as connection:
            deadline = await connection.fetchval("SHOW lock_timeout")
            with pytest.raises(DialdeskError) as refused:
                with translated():
                    await connection.execute("UPDATE app_user SET name = 'x' WHERE id = $1", ann, timeout=20)

    assert ("1s", "UNAVAILABLE", True) == (deadline, refused.value.code, rolled_back(refused.value))


async def test_statements_by_key_have_room_for_all_that_may_wait_for_locks(database_url: str) -> None:
    """Two of each kind that writes, and two that read, in a pool of the usual size; one is open before anybody asks, so
    that a pooler that refuses its settings is found at the start."""
    async with open_database(database_url, timeout=5) as database:
        async with database.connection() as connection:
            opened = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'dialdesk'"
            )
        async with AsyncExitStack() as lent:
            async with asyncio.timeout(20):
                for _ in range(BY_KEY):
                    await lent.enter_async_context(database.by_key())

    assert 2 <= opened


async def test_a_statement_by_key_is_planned_once_and_walks_its_index(database: Database, office: Office) -> None:
    """Whatever it is asked, and though the table is so small that reading it whole would be cheaper."""
    statement = "SELECT u.name FROM unnest($1::text[]) AS asked (id) JOIN app_user u ON u.id = asked.id"
    async with database.by_key() as connection:
        for ids in ([], ["nobody"], [f"user {n}" for n in range(50)]):
            await connection.fetch(statement, ids)
        plans = await connection.fetchrow(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement = $1", statement
        )
        jit = await connection.fetchval("SHOW jit")
        explained = await connection.fetch(f"EXPLAIN {statement.replace('$1', 'ARRAY[1::text]')}")

    assert ((3, 0), "off") == (tuple(plans or ()), jit)
    assert "Index Scan using app_user_pkey" in "\n".join(row[0] for row in explained)


async def pid_by_key(database: Database) -> int:
    """Which of PostgreSQL's processes answers what is asked by key."""
    async with database.by_key() as connection:
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


def has_gone(connection: Connection) -> bool:
    """Whether the driver knows that PostgreSQL has closed it."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # and has told the pool
        return True


async def test_connections_by_key_go_from_hand_to_hand(database_url: str) -> None:
    """The same one serves whoever asks next, and those that were lent are closed with the rest, at once."""
    async with open_database(database_url, timeout=5) as database:
        first = await pid_by_key(database)
        async with database.by_key():
            other = await pid_by_key(database)
        again = {await pid_by_key(database) for _ in range(5)}
        begun = time.monotonic()

    assert time.monotonic() - begun < storage.database.CLOSE_DEADLINE
    assert first != other
    assert again < {first, other}


async def test_who_waits_for_a_connection_by_key_gets_one_that_is_given_back(database_url: str) -> None:
    """Though it is not given back to the pool when nobody waits."""
    async with open_database(database_url, max_size=8, timeout=5) as database:
        async with database.by_key(), AsyncExitStack() as held:
            await held.enter_async_context(database.by_key())
            waiting = [asyncio.create_task(pid_by_key(database)) for _ in range(3)]
            await asyncio.sleep(0)
            await held.aclose()
            async with asyncio.timeout(4):
                pids = await asyncio.gather(*waiting)

    assert 1 == len(set(pids))


async def test_a_connection_by_key_on_which_something_failed_works_again(database: Database) -> None:
    """Whether a statement was refused or given up."""
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with database.by_key() as connection:
            await connection.execute("SELECT 1 / 0")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), database.by_key() as connection:
            await connection.execute("SELECT pg_sleep(20)")

    assert 0 < await pid_by_key(database)


async def test_connections_by_key_that_postgresql_closed_fail_nobody(database_url: str) -> None:
    """However many were kept: others are opened in their place, as many as there were."""
    async with open_database(database_url, timeout=5) as database:
        async with AsyncExitStack() as lent:
            kept = [await lent.enter_async_context(database.by_key()) for _ in range(BY_KEY)]
            closed = {await connection.fetchval("SELECT pg_backend_pid()") for connection in kept}
        async with database.connection() as connection:
            for pid in closed:
                await connection.execute("SELECT pg_terminate_backend($1, 2000)", pid)
        await until(lambda: all(has_gone(connection) for connection in kept))
        after = {await pid_by_key(database) for _ in closed}
        async with AsyncExitStack() as lent:
            for _ in range(BY_KEY):
                await lent.enter_async_context(database.by_key())

    assert set() == closed & after


async def test_a_connection_by_key_that_was_idle_for_long_is_not_trusted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another is opened in its place."""
    first = await pid_by_key(database)
    monkeypatch.setattr(storage.database, "IDLE", -1.0)

    assert first != await pid_by_key(database)
