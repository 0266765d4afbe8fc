"""Whole stories on whole nodes: processes of their own, that can be killed, stopped and continued."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from clients.agent import AgentClient
from clients.behaviour import Behaviour, answers
from clients.connection import Timing
from clients.memory import Handset
from clients.phone import PhoneClient
from protocol.identifiers import new_id
from server.config import Config, read_config
from server.passwords import Passwords
from storage import accounts
from storage.audit import Actor
from storage.database import open_database
from tests.journeys.nursery import fork

DEADLINE = 30.0
"""Seconds that anything here may take before the story has failed; nothing waits that long when all is well."""

QUICK = {
    "LEASE": "1.5",
    "LEASE_RENEW": "0.5",
    "PRESENCE_GRACE": "2",
    "SWEEP": "0.1",
    "REFILL": "0.5",
    "RESEND_AFTER": "0.5",
    "REAP_UNREPORTED": "1",
    "CANARY": "0.2",
    "DEAF_AFTER": "1",
    "DRAIN": "0.5",
    "DATABASE_TIMEOUT": "2",
    "HEARTBEAT_INTERVAL": "1",
    "FIRST_MESSAGE": "2",
    "PROBE_AFTER": "2",
    "OFFLINE_AFTER": "4",
    "CLOSE_AFTER": "6",
    "LOGIN_RATE": "1000",
}
"""The times of the house, shortened so that a story takes seconds."""


class Process:
    """A node or worker. `origin` is where a node answers; what it says goes to the end of `log`, if there is one."""

    def __init__(self, command: str, environ: dict[str, str], log: Path | None = None) -> None:
        self._command = command
        self._environ = environ
        self._log = log
        self._reader: asyncio.Task[bytes] | None = None
        self._exit_code: asyncio.Task[bytes] | None = None
        self.pid = 0
        self.origin = f"http://127.0.0.1:{environ['PORT']}"
        self.port = int(environ["PORT"])

    async def start(self) -> None:
        """Start, or start again, and wait until it is ready."""
        (output, printed), (life, told) = os.pipe(), os.pipe()
        fork(self._command, self._environ, printed, told)
        says, lives = await _Pipe.open(output), await _Pipe.open(life)
        async with asyncio.timeout(DEADLINE):
            self.pid = int(await lives.line())
            self._exit_code = asyncio.create_task(lives.rest())
            said = b""
            while not (line := await says.line()).startswith(b"ready "):
                said += line
                assert line, f"the process ended before it was ready: {said.decode()}"
        self._reader = asyncio.create_task(self._listen(says))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process, which we started."""
        os.kill(self.pid, number)

    async def exited(self) -> int:
        """Wait for its end, however long it runs."""
        assert self._exit_code is not None
        return int(await asyncio.shield(self._exit_code))

    async def ended(self) -> int:
        """Wait for its end."""
        async with asyncio.timeout(DEADLINE):
            code = await self.exited()
            if self._reader is not None:
                print((await self._reader).decode())  # pytest shows it where the story failed
        return code

    async def stop(self) -> None:
        """End it, if it has not ended."""
        if self._exit_code is not None and not self._exit_code.done():
            with suppress(ProcessLookupError):  # it ended just now
                self.send(signal.SIGCONT)
                self.send(signal.SIGTERM)
            await self.ended()

    async def _listen(self, says: "_Pipe") -> bytes:
        """Hear it out: what it said, but for what went to the log."""
        if self._log is None:
            return await says.rest()
        with self._log.open("ab", buffering=0) as log:
            while line := await says.line():
                log.write(line)
        return await says.rest()


class _Pipe:
    """What comes out of a pipe, of which this is the end."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self._reader = reader
        self._transport = transport

    @classmethod
    async def open(cls, descriptor: int) -> "_Pipe":
        """Take the descriptor, and read from it until its other end is closed."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
        )
        return cls(reader, transport)

    async def line(self) -> bytes:
        """The next line; nothing once the other end is closed."""
        return await self._reader.readline()

    async def rest(self) -> bytes:
        """Wait until the other end is closed: all that came before."""
        try:
            return await self._reader.read()
        finally:
            self._transport.close()


class Balancer:
    """What stands before the nodes: forwards connections to the first of `ports` that takes them."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.port = free_port()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen until the block ends."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]
        try:
            for port in self.ports:
                try:
                    near, far = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
                await asyncio.wait(
                    [asyncio.create_task(_pump(reader, far)), asyncio.create_task(_pump(near, writer))],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                far.close()
                break
            writer.close()
        finally:
            self._tasks.discard(task)  # type: ignore[arg-type]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side is gone: so is the connection
    finally:
        writer.close()


class House:
    """An installation: a database, a Redis prefix, nodes, a worker, a tenant."""

    def __init__(self, database_url: str, redis_url: str, stack: AsyncExitStack, *, logs: Path | None = None) -> None:
        self.database_url = database_url
        self._stack = stack
        self._logs = logs
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "REDIS_PREFIX": f"journey-{secrets.token_hex(6)}:",
            "SECRET_KEY": "not-a-secret-not-a-secret-not-a-secret",
            "MASTER_KEYS": "test:bm90IGEgc2VjcmV0LCAzMiBieXRlcyBvZiBhc2NpaS4=",
            "LOG_LEVEL": "error",
            **QUICK,
            **{name: value for name, value in os.environ.items() if name.startswith(("COV", "COVERAGE"))},
        }
        self.balancer = Balancer()
        self.processes: list[Process] = []
        self.password = ""

    async def open(self) -> None:
        """Make the tenant, and listen for phones."""
        await self._stack.enter_async_context(self.balancer.running())
        self._stack.push_async_callback(self._stop)
        self.password, self._password_hash = Passwords.generate()
        async with open_database(self.database_url) as database, database.transaction() as connection:
            self.tenant_id = await accounts.create_tenant(connection, ACTOR, code="house", name="House")
            usual = await accounts.get_tenant(connection, self.tenant_id, lock=True)
            at_any_hour = msgspec.structs.replace(usual, calling_from="00:00", calling_to="24:00")
            await accounts.change_tenant(connection, ACTOR, usual, at_any_hour, "update")

    async def node(self, **settings: str) -> Process:
        """Start a web node; phones reach it through the balancer."""
        process = await self._started("serve", PUBLIC_URL=f"http://127.0.0.1:{self.balancer.port}", **settings)
        self.balancer.ports.append(process.port)
        return process

    async def worker(self, **settings: str) -> Process:
        """Start a worker."""
        return await self._started("work", **settings)

    async def agent(self, node: Process) -> AgentClient:
        """Make an agent, sign it in at a node and open its page."""
        client = await AgentClient.login(node.origin, await self.user("agent"), self.password, timing=TIMING)
        await self._stack.enter_async_context(client)
        await client.connect()
        return client

    async def administrator(self, node: Process) -> AgentClient:
        """Sign in somebody who may set up lines; no page is opened."""
        client = await AgentClient.login(node.origin, await self.user("tenant_admin"), self.password, timing=TIMING)
        return await self._stack.enter_async_context(client)

    async def phone(
        self, agent: AgentClient, behaviour: Behaviour | None = None, *, timing: Timing | None = None, **more: Any
    ) -> PhoneClient:
        """Bind a phone to the agent by a QR code, through the balancer, and wait until it is online."""
        qr = await agent.bind_qr()
        phone = await PhoneClient.bind(
            qr["qrCodeData"],
            Handset(device_id=new_id("handset"), phone_number="13800138000"),
            behaviour or answers(),
            timing=timing or TIMING,
            **more,
        )
        await self._stack.enter_async_context(phone)
        await within(phone.online.wait())
        return phone

    async def call(self, call_id: str) -> dict[str, Any]:
        """The row of a call."""
        return (await self.rows("SELECT * FROM call WHERE id = $1", call_id))[0]

    async def rows(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        """What is in the database."""
        connection = await asyncpg.connect(self.database_url, timeout=10)
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    def config(self, **settings: str) -> Config:
        """What nodes of this house read, to look at what they look at."""
        return read_config({**self._environ, **settings})

    async def user(self, role: str) -> str:
        username = new_id("a")
        async with open_database(self.database_url) as database, database.transaction() as connection:
            await accounts.create_user(
                connection,
                ACTOR,
                self.tenant_id,
                username=username,
                name=username,
                role=role,
                password_hash=self._password_hash,
                must_change_password=False,
            )
        return username

    async def _started(self, command: str, **settings: str) -> Process:
        environ = {**self._environ, "PORT": str(free_port()), **settings}
        log = None if self._logs is None else self._logs / f"{command}-{environ['PORT']}.log"
        process = Process(command, environ, log)
        self.processes.append(process)
        await process.start()
        return process

    async def _stop(self) -> None:
        await asyncio.gather(*(process.stop() for process in self.processes))


ACTOR = Actor(kind="system", id="test", tenant_id=None)
TIMING = Timing(backoff_base=0.05, backoff_cap=0.5, resend_after=1.0, silence=8.0)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def within(awaitable: Awaitable[Any], seconds: float = DEADLINE) -> Any:
    """Wait, but not for ever."""
    async with asyncio.timeout(seconds):
        return await awaitable
