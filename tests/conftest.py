"""Real neighbours for every test: PostgreSQL and Valkey, started once a run, and a database of its own a test."""

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest
import uvloop
from redis.asyncio import Redis

from protocol.identifiers import new_id
from server.config import Config, read_config
from storage.database import Database, open_database
from storage.embedded import running
from storage.migrate import migrate


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on the loop that serves in production."""
    return {"uvloop": uvloop.new_event_loop}


CALLS_AT_ANY_HOUR = "ALTER TABLE tenant ALTER calling_from SET DEFAULT '00:00', ALTER calling_to SET DEFAULT '24:00'"
"""What makes a tenant of a test call at whatever hour the test runs, unless it says otherwise."""


MEMORY = Path("/dev/shm")  # noqa: S108 - names there are made as those of other temporary files are
"""Where files are in memory, on Linux. PostgreSQL copies a database there for a sixth of what it costs on a disk."""
ROOMY = 2 * 1024**3
"""Bytes that are free where a run's services may be; they take some hundred million."""


class Neighbours:
    """Where PostgreSQL and Valkey of this run are, and a connection that makes and drops databases for every test."""

    def __init__(self, database_url: str, redis_url: str, connection: "Kept") -> None:
        self.database_url = database_url
        self.redis_url = redis_url
        self._connection = connection

    async def execute(self, statement: str) -> None:
        """Have the server do something that concerns databases as a whole."""
        await asyncio.wrap_future(self._connection.begin(statement))

    def database(self, name: str) -> str:
        """The URL of another database of the same server."""
        return urlunsplit(urlsplit(self.database_url)._replace(path=f"/{name}"))


class Kept:
    """A connection that outlives the loops of tests, in one of its own."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    def begin(self, statement: str) -> Future[str]:
        """Begin a statement, from any thread."""
        return asyncio.run_coroutine_threadsafe(self._connection.execute(statement, timeout=30), self._loop)


@contextlib.asynccontextmanager
async def kept(url: str) -> AsyncIterator[Kept]:
    """Open such a connection."""
    connection = await asyncpg.connect(url, timeout=30)
    try:
        yield Kept(connection)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbours]:
    """The services of this run: from the wheels, or where TEST_DATABASE_URL and TEST_REDIS_URL say."""
    if "TEST_DATABASE_URL" in os.environ:
        with in_background(kept(url := os.environ["TEST_DATABASE_URL"])) as connection:
            yield Neighbours(url, os.environ["TEST_REDIS_URL"], connection)
        return
    with (
        in_memory(tmp_path_factory) as folder,
        in_background(running(folder, s3=False, durable=False)) as services,
        in_background(kept(services.database_url)) as connection,
    ):
        yield Neighbours(services.database_url, services.redis_url, connection)


class Bucket(msgspec.Struct, frozen=True):
    """A bucket of this run's S3 server, and the keys to it."""

    endpoint_url: str
    bucket: str
    access_key: str
    secret_key: str


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """The S3 server of this run: from its wheel, or where TEST_S3 (JSON of a Bucket) says."""
    if "TEST_S3" in os.environ:
        yield msgspec.json.decode(os.environ["TEST_S3"], type=Bucket)
        return
    with in_background(running(tmp_path_factory.mktemp("s3"), postgres=False, valkey=False)) as services:
        yield Bucket(services.s3_endpoint_url, services.s3_bucket, services.s3_access_key, services.s3_secret_key)


@pytest.fixture(scope="session")
def template(neighbours: Neighbours) -> Iterator[str]:
    """A database with the schema of this version and nothing in it, to be copied."""
    name = f"template_{secrets.token_hex(4)}"
    asyncio.run(_prepare(neighbours, name))
    yield name
    asyncio.run(neighbours.execute(f"DROP DATABASE {name}"))


@contextlib.asynccontextmanager
async def fresh_database(neighbours: Neighbours, template: str) -> AsyncIterator[str]:
    """Lend a copy of the template until the block ends."""
    name = f"test_{secrets.token_hex(6)}"
    await neighbours.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    try:
        yield neighbours.database(name)
    finally:
        await neighbours.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database_url(neighbours: Neighbours, template: str) -> AsyncIterator[str]:
    """A database of this test alone."""
    async with fresh_database(neighbours, template) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The way to the database of this test."""
    async with open_database(database_url, max_size=8) as database:
        yield database


@pytest.fixture
async def redis(neighbours: Neighbours) -> AsyncIterator[Redis]:
    """A client of the run's Valkey."""
    client = Redis.from_url(neighbours.redis_url, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
def configure(database_url: str, neighbours: Neighbours) -> Callable[..., Config]:
    """Make a configuration for this test: `configure(lease=1.0)`; names are Config's, in lower case."""
    prefix = f"test-{secrets.token_hex(6)}:"

    def make(**settings: Any) -> Config:
        environ = {
            "DATABASE_URL": database_url,
            "REDIS_URL": neighbours.redis_url,
            "REDIS_PREFIX": prefix,
            "SECRET_KEY": "not-a-secret-not-a-secret-not-a-secret",
            "MASTER_KEYS": "test:" + base64.b64encode(b"not a secret, 32 bytes of ascii.").decode(),
            "PORT": "0",
            "LOG_LEVEL": "error",
            "PATH": os.environ["PATH"],
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        return read_config(environ)

    return make


@pytest.fixture
def config(configure: Callable[..., Config]) -> Config:
    """The configuration of this test."""
    return configure()


class Office:
    """A tenant with people and phones, made straight in the database."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self.tenant_id = tenant_id

    async def agent(self, role: str = "agent", team_id: str | None = None) -> str:
        """Add a user and return its id; its user name is the id too."""
        user_id = new_id("user")
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO app_user (id, tenant_id, team_id, role, username, name, password_hash)"
                " VALUES ($1, $2, $3, $4, $1, $1, '-')",
                user_id,
                self.tenant_id,
                team_id,
                role,
            )
            await connection.execute(
                "INSERT INTO agent_stream (user_id, tenant_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                user_id,
                self.tenant_id,
            )
        return user_id

    async def phone(self, user_id: str, *, online: bool = True, token: str | None = None, **capabilities: bool) -> str:
        """Add a bound phone and return its id; without a socket it is in grace, or offline."""
        device_id = new_id("dev")
        can = {"autoDial": True, "hangUp": True, "answerSignal": True, "recording": False, **capabilities}
        async with self._database.connection() as connection:
            await connection.execute(
                "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type,"
                " os_version, app_version, token_hash, online_status, capabilities) VALUES"
                " ($1, $2, 'hw-' || $1, $3, '+8613800000000', 'Phone', 'Model', 'android', '14', '1.0', $4, $5, $6)",
                device_id,
                self.tenant_id,
                user_id,
                hashlib.sha256((token or device_id).encode()).digest(),
                "online" if online else "offline",
                msgspec.json.encode(can).decode(),
            )
        return device_id


@pytest.fixture
async def office(database: Database) -> Office:
    """A tenant of this test."""
    tenant_id = new_id("tenant")
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO tenant (id, code, name) VALUES ($1, $2, 'Office')", tenant_id, f"t{secrets.token_hex(6)}"
        )
    return Office(database, tenant_id)


async def _prepare(neighbours: Neighbours, name: str) -> None:
    await neighbours.execute(f"CREATE DATABASE {name}")
    await migrate(neighbours.database(name))
    async with open_database(neighbours.database(name)) as database, database.connection() as connection:
        await connection.execute(CALLS_AT_ANY_HOUR)


@contextlib.contextmanager
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Lend a folder in memory, where there is room, else on the disk."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < ROOMY:
        yield tmp_path_factory.mktemp("services")
        return
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix="dialdesk-tests-", dir=MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove what runs have left there that were killed; whoever is alive holds the lock of its folder."""
    for lock in MEMORY.glob("dialdesk-tests-*/lock"):
        with contextlib.suppress(OSError):  # it is held, or gone: another run sweeps as well
            if lock.stat().st_mtime > time.time() - 60:
                continue  # its run may be on the way to hold it
            with lock.open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def in_background(context: Any) -> Iterator[Any]:
    """Hold an asynchronous context open in a loop of its own, for the length of the run."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="services", daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(180)
    finally:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parent.parent
