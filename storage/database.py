"""The way to PostgreSQL: a pool with deadlines, transactions, named queries, and the driver's errors made ours.

Functions of the nouns beside this file take a connection first and run queries read from `sql/<noun>.sql`, where each
begins with `-- name: <name>` and a comment line that says what it does.
"""

import asyncio
import re
import ssl as _ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from protocol.errors import DialdeskError

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

CLOSE_DEADLINE = 5.0
"""Seconds that whoever still works with a connection has to give it back when the pool is closed."""

BY_KEY = 8
"""Connections for statements by key where the pool allows: two for each of the three kinds that may wait for locks
(dials, acknowledgements, changes), and two more for those that only read."""

LOCK_DEADLINE = 1.0
"""Seconds that a statement by key waits for a lock: it goes for many, who would all fail with it at its deadline."""

IDLE = 300.0
"""Seconds after which an unused connection is not trusted any more: a firewall may have forgotten it."""

PLANNED_ONCE = {
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

_SQL = Path(__file__).parent / "sql"
_NAME = re.compile(r"^-- name: (\w+)[ \t]*\n", re.MULTILINE)


class Duplicate(Exception):  # noqa: N818 - it is a fact of the data, told to whoever asked for the row
    """A row that must be unique exists already; `constraint` names the rule that says so."""

    def __init__(self, constraint: str) -> None:
        super().__init__(constraint)
        self.constraint = constraint


def rolled_back(error: DialdeskError) -> bool:
    """Whether an UNAVAILABLE is PostgreSQL's word that it undid all: for a deadlock, or a lock that somebody keeps."""
    return isinstance(error.__cause__, asyncpg.TransactionRollbackError | asyncpg.LockNotAvailableError)


def queries(noun: str) -> Mapping[str, str]:
    """Read `sql/<noun>.sql` into a mapping from name to statement. Called once, when the noun is imported."""
    parts = _NAME.split((_SQL / f"{noun}.sql").read_text(encoding="utf-8"))
    named = dict(zip(parts[1::2], (text.strip().rstrip(";") for text in parts[2::2]), strict=True))
    if len(named) * 2 != len(parts) - 1:
        raise ValueError(f"sql/{noun}.sql names a query twice")
    return named


class Database:
    """A pool of connections. Everything that waits for PostgreSQL waits no longer than `timeout` seconds.

    Raises UNAVAILABLE (which may be retried) where PostgreSQL cannot be reached in time, and Duplicate where a unique
    rule refuses a row. Other errors of SQL are ours to mend and pass as they are.
    """

    def __init__(self, pool: Pool, by_key: "_FromHandToHand | None", timeout: float) -> None:
        self._pool = pool
        self._by_key = by_key
        self._timeout = timeout

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection outside a transaction: for one statement, or for reads that need no common view."""
        with translated():
            async with self._pool.acquire(timeout=self._timeout) as connection:
                with _fit_for_use(connection):
                    yield connection

    def by_key(self) -> AbstractAsyncContextManager[Connection]:
        """Lend one for a statement that reads and writes rows by their keys, thousands of times: it is planned once, as
        loops over indexes, whatever it is asked and however large its tables are at that moment. It waits for no lock
        longer than LOCK_DEADLINE."""
        return self.connection() if self._by_key is None else self._by_key.lend()

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction: committed on leaving, rolled back on any exception.

        With `snapshot` it only reads, and all its reads see one moment (REPEATABLE READ).
        """
        async with self.connection() as connection:
            async with connection.transaction(
                isolation="repeatable_read" if snapshot else "read_committed", readonly=snapshot
            ):
                yield connection

    @asynccontextmanager
    async def search(self) -> AsyncIterator[Connection]:
        """Lend a connection for reading lists: each statement is planned for its own arguments.

        Their filters are optional (`$n IS NULL OR …`), so a plan that fits all arguments fits none.
        """
        async with self.connection() as connection, connection.transaction(readonly=True):
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off")
            yield connection

    async def close(self) -> None:
        """Close the pools; connections still lent after CLOSE_DEADLINE are cut."""
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                if self._by_key is not None:
                    await self._by_key.close()
                await self._pool.close()
        except TimeoutError:
            if self._by_key is not None:
                self._by_key.terminate()
            self._pool.terminate()


class _FromHandToHand:
    """Lends connections of a pool that do not go back to it in between, which costs as much as a statement: only those
    on which something failed do, and those for which somebody waits. The last one given back is the next to be lent."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._kept: list[tuple[PoolConnectionProxy[asyncpg.Record], float]] = []
        self._waiting = 0
        self._closing = False

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        with translated():
            connection = await self._take()
            fit = False
            try:
                with _fit_for_use(connection):
                    yield connection
                fit = True
            finally:
                if fit and not self._waiting and not self._closing:
                    self._kept.append((connection, time.monotonic()))
                else:
                    await self._pool.release(connection)

    async def close(self) -> None:
        self._closing = True
        kept, self._kept = self._kept, []
        for connection, _ in kept:
            await self._pool.release(connection)
        await self._pool.close()

    def terminate(self) -> None:
        self._pool.terminate()

    async def _take(self) -> "PoolConnectionProxy[asyncpg.Record]":
        while self._kept:
            connection, since = self._kept.pop()
            try:
                if not connection.is_closed():
                    if time.monotonic() - since <= IDLE:
                        return connection
                    connection.terminate()
            except asyncpg.InterfaceError:
                continue  # PostgreSQL closed it meanwhile, and the pool has taken it back already
            await self._pool.release(connection)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=self._timeout)
        finally:
            self._waiting -= 1


@contextmanager
def _fit_for_use(connection: "PoolConnectionProxy[asyncpg.Record]") -> Iterator[None]:
    try:
        yield
    except asyncpg.InternalClientError:
        connection.terminate()  # told of its server's end while it was idle, but not of the line's yet
        raise


@asynccontextmanager
async def open_database(
    url: str, *, min_size: int = 1, max_size: int = 16, timeout: float = 5.0, statement_cache: bool = True
) -> AsyncIterator[Database]:
    """Open connections to `url` and close them on leaving: at most `max_size`, of them for statements by key a
    quarter, or BY_KEY if that is more and no more than half.

    Set `statement_cache` to False behind PgBouncer in transaction mode (asyncpg FAQ), where nothing is planned once and
    locks are waited for as long as `timeout`. Raises UNAVAILABLE where PostgreSQL does not answer within `timeout`
    seconds, or a pooler before it refuses the settings.
    """
    for_keys = max(max_size // 4, BY_KEY if max_size >= 2 * BY_KEY else 0)
    lock_timeout = f"{round(min(LOCK_DEADLINE, timeout / 2) * 1000)}ms"
    keyed = {**PLANNED_ONCE, "lock_timeout": lock_timeout} if statement_cache else {}

    async def opened(least: int, most: int, settings: Mapping[str, str]) -> Pool:
        return await asyncpg.create_pool(
            url,
            min_size=least,
            max_size=most,
            timeout=timeout,
            command_timeout=timeout,
            statement_cache_size=100 if statement_cache else 0,
            max_inactive_connection_lifetime=IDLE,
            reset=_leave_as_it_is,
            server_settings={"application_name": "dialdesk", "timezone": "UTC", **settings},
        )

    with translated():
        pool = await opened(min_size, max_size - for_keys, {})
        try:
            by_key = _FromHandToHand(await opened(1, for_keys, keyed), timeout) if for_keys else None
        except BaseException:
            pool.terminate()
            raise
    database = Database(pool, by_key, timeout)
    try:
        yield database
    finally:
        await database.close()


async def _leave_as_it_is(connection: object) -> None:
    """Nothing here changes a connection beyond its transaction, so giving it back needs no round trip of its own."""


class translated:  # noqa: N801 - used as a statement
    """Turn what the driver raises into what callers are promised."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case asyncpg.UniqueViolationError():
                raise Duplicate(error.constraint_name or "") from error
            case asyncpg.CharacterNotInRepertoireError() | asyncpg.UntranslatableCharacterError():
                raise DialdeskError("INVALID_FIELD", reason="text may not hold the character NUL") from error
            case asyncpg.DataError():  # a wrong type of argument: ours to mend, though the driver files it elsewhere
                return
            case (
                TimeoutError()
                | OSError()
                | _ssl.SSLError()
                | asyncpg.PostgresConnectionError()
                | asyncpg.InterfaceError()
                | asyncpg.InternalClientError()  # what the server said last was its end: the driver expects no more
                | asyncpg.OperatorInterventionError()  # shutdown, crash, not up yet, cancelled
                | asyncpg.InsufficientResourcesError()  # connections, memory, disk
                | asyncpg.PostgresSystemError()
                | asyncpg.TransactionRollbackError()  # deadlock, serialization
                | asyncpg.LockNotAvailableError()  # nor within LOCK_DEADLINE
                | asyncpg.ReadOnlySQLTransactionError()
            ):
                raise DialdeskError("UNAVAILABLE") from error
            case _:
                return
