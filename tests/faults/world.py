"""The installation under attack: servers, two nodes and a worker that come up again however they ended, and every line
between them and those who speak to them."""

import asyncio
import contextlib
import random
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

from storage.embedded import Servers, running
from storage.migrate import migrate
from tests.faults.record import Journal, Mended, Struck, now
from tests.faults.schedule import LEASE
from tests.journeys.house import House, Process
from tests.proxy import Proxy, proxy_to

NODES = ("node 1", "node 2")
WORKER = "worker"

TIMES = {
    "LEASE": f"{LEASE}",
    "LEASE_RENEW": "0.6",
    "PRESENCE_GRACE": "2",
    "SWEEP": "0.2",
    "REFILL": "1",
    "RESEND_AFTER": "1",
    "DIAL_EXPIRY": "6",
    "DIAL_EXPIRY_TAPPED": "8",
    "REAP_UNREPORTED": "2",
    "REAP_RINGING": "10",
    "REAP_AWAY": "8",
    "REAP_TALK": "20",
    "CANARY": "0.5",
    "DEAF_AFTER": "2",
    "DRAIN": "1",
    "DATABASE_TIMEOUT": "2",
    "HEARTBEAT_INTERVAL": "2",
    "FIRST_MESSAGE": "3",
    "PROBE_AFTER": "3",
    "OFFLINE_AFTER": "6",
    "CLOSE_AFTER": "9",
    "LOGIN_RATE": "100000",
}
"""The times of the house, shortened so that a fault outlasts them and many fit into a run."""

METRICS_TOKEN = "not-a-secret"

PLACES = 6
"""Where clients come from, each by a line of its own: a radio cell, an office."""


class Kept:
    """A process under a supervisor: it comes up again however it ended, and an end that nobody wanted is noted."""

    def __init__(self, name: str, process: Process, journal: Journal[Struck | Mended]) -> None:
        self.name = name
        self.process = process
        self.up = asyncio.Event()
        self.up.set()
        self._journal = journal
        self._down_for: float | None = None

    async def end(self, by: signal.Signals, down_for: float) -> None:
        """End it on purpose, and wait until it is up again."""
        await self.up.wait()
        self.up.clear()
        self._down_for = down_for
        with contextlib.suppress(ProcessLookupError):  # it ended a moment ago by itself
            self.process.send(by)
        await self.up.wait()

    async def keep(self) -> None:
        """Bring it up again, for ever."""
        while True:
            code = await self.process.exited()
            self.up.clear()
            if self._down_for is None:
                self._journal.write(Struck(at=now(), fault=f"{self.name} ended by itself: {code}"))
            else:
                await asyncio.sleep(self._down_for)
                self._down_for = None
            await self._rise()
            self.up.set()

    async def _rise(self) -> None:
        """Start it, as often as it takes: what it needs may be away."""
        while True:
            try:
                await self.process.start()
            except (AssertionError, TimeoutError):
                with contextlib.suppress(ProcessLookupError):
                    self.process.send(signal.SIGKILL)
                await self.process.exited()
            else:
                return


class World:
    """All that can be attacked, by name. `lines` lead from places to nodes, and from processes to servers."""

    def __init__(self, servers: Servers, house: House) -> None:
        self.servers = servers
        self.house = house
        self.redis_prefix = house.config().redis_prefix
        self.processes: dict[str, Kept] = {}
        self.lines: dict[str, Proxy] = {}
        self.places: list[Proxy] = []

    @classmethod
    async def open(
        cls, stack: AsyncExitStack, folder: Path, journal: Journal[Struck | Mended], *, durable: bool
    ) -> "World":
        """Start everything, and lay the lines."""
        servers = await stack.enter_async_context(running(folder / "data", s3=False, durable=durable))
        await migrate(servers.database_url)
        (folder / "logs").mkdir()
        house = House(servers.database_url, servers.redis_url, stack, logs=folder / "logs")
        await house.open()
        world = cls(servers, house)
        keeping = await stack.enter_async_context(asyncio.TaskGroup())
        for name in (*NODES, WORKER):
            settings = {
                **TIMES,
                "DATABASE_URL": await world._lay(stack, f"{name} to PostgreSQL", servers.database_url),
                "REDIS_URL": await world._lay(stack, f"{name} to Valkey", servers.redis_url),
                "METRICS_TOKEN": METRICS_TOKEN,
                "NODE_NAME": name.replace(" ", "-"),
                "LOG_LEVEL": "info",
                "LOG_FORMAT": "json",
                "PORT": str(low_port()),
            }
            process = await (house.worker(**settings) if name == WORKER else house.node(**settings))
            kept = world.processes[name] = Kept(name, process, journal)
            stack.callback(keeping.create_task(kept.keep(), name=f"keep {name}").cancel)
        origins = [world.processes[name].process.origin for name in NODES]
        for number in range(PLACES):
            await world._lay(stack, f"place {number}", *origins)
            world.places.append(world.lines[f"place {number}"])
        return world

    @property
    def nodes(self) -> list[Process]:
        """The web nodes."""
        return [self.processes[name].process for name in NODES]

    async def _lay(self, stack: AsyncExitStack, name: str, *urls: str) -> str:
        line = self.lines[name] = await stack.enter_async_context(proxy_to(*urls, port=low_port()))
        return line.url


def low_port() -> int:
    """A port that is free, below those that the system hands to clients: who comes back to it finds it free again."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
