"""What an idle session costs, beside others: sockets that are open on one server and say nothing but that they live.

Ours are bound phones, signed in and claimed in rows; the others let anybody in. Bare ASGI on the same uvicorn is the
floor that Python has today. Memory is what the server process has grown by, all told, when the sessions have been idle
for a while.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import click
import msgspec

from server import VERSION
from storage.database import open_database
from tests.bench.crowd import Task, Told
from tests.bench.ground import USUAL_TIMES, open_house
from tests.bench.pairs import End
from tests.bench.processes import ProcessError, apart, child, cpu, free_port, memory, server
from tests.bench.relay import rotated
from tests.bench.results import Idled, Results, installed
from tests.bench.rigs import PEERS, SOCKETIO_PATH, UVICORN, NotInstalledError, asgi, demand, locked
from tests.journeys.house import House, Process

BEAT = 30.0
"""Seconds between two signs of life of a session; Socket.IO's servers ask every 25."""

SETTLE = 1.0
"""Seconds that a server has to itself before it is measured."""


class Room(msgspec.Struct, frozen=True):
    """One server that was started for a crowd."""

    dialect: str
    ends: list[End]
    pid: int


class Host(msgspec.Struct, frozen=True):
    """Who can be measured. `open` starts it for so many sessions; `version` tells what it is."""

    title: str
    open: Callable[[int], AbstractAsyncContextManager[Room]]
    version: Callable[[], str]


async def measure_idle(names: Sequence[str], count: int, turns: int, hold: float, place: Path, *, pin: bool) -> None:
    """Give every host as many turns as is asked for; who is not installed, or fails, is told and left out."""
    results = Results(place, pinned=pin)
    with apart(pin) as cores:
        for turn in range(turns):
            for name in rotated(names, turn):
                try:
                    idled = await _turn(name, HOSTS[name], count, turn, hold, cores)
                except (NotInstalledError, ProcessError) as problem:
                    click.echo(f"{name}: {problem}", err=True)
                    continue
                results.add(idled)
                click.echo(
                    f"{name:16} {idled.online} of {count} online in {idled.seconds:.1f} s,"
                    f" {idled.connecting * 1e6:.0f} us of CPU each; {idled.memory / 1024:.1f} KiB a session;"
                    f" {idled.cpu:.2%} of a core for 1,000"
                )


async def _turn(name: str, host: Host, count: int, turn: int, hold: float, cores: list[int] | None) -> Idled:
    async with host.open(count) as room:
        await asyncio.sleep(SETTLE)
        task = Task(dialect=room.dialect, ends=room.ends, beat=BEAT, hold=hold, cores=cores)
        alone, begun = memory([room.pid]), cpu([room.pid])
        async with child("crowd.py", task, 60 + count / 20 + hold) as told:
            opened = msgspec.json.decode(await anext(told), type=Told)
            connected = cpu([room.pid])
            held = msgspec.json.decode(await anext(told), type=Told)
            beaten, full = cpu([room.pid]), memory([room.pid])
    if not held.online:
        raise ProcessError("nobody stayed")
    return Idled(
        peer=name,
        title=host.title,
        version=host.version(),
        count=count,
        online=held.online,
        turn=turn,
        seconds=opened.seconds,
        connecting=(connected - begun) / held.online,
        memory=(full - alone) / held.online,
        cpu=(beaten - connected) / hold / held.online * 1000,
    )


@asynccontextmanager
async def _dialdesk(count: int) -> AsyncIterator[Room]:
    async with AsyncExitStack() as stack:
        house, _ = await open_house(stack)
        node = await house.node(**USUAL_TIMES, MAX_SESSIONS=str(count + 10))
        await house.worker(**USUAL_TIMES)
        yield Room("dialdesk", await _phones(house, node, count), node.pid)


async def _phones(house: House, node: Process, count: int) -> list[End]:
    """Phones of one agent, bound by rows: binding is not what is measured."""
    agent = await house.agent(node)
    user_id = (await agent.get("/api/v1/me"))["user"]["id"]
    async with open_database(house.database_url) as database, database.connection() as connection:
        await connection.execute(
            "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version,"
            " app_version, token_hash) SELECT 'dev_' || n, $1, 'hw-' || n, $2, '', '', '', 'android', '', '',"
            " sha256(('ddp_token-' || n)::bytea) FROM generate_series(1, $3) n",
            house.tenant_id,
            user_id,
            count,
        )
        await connection.execute("ANALYZE device")
    return [
        End(
            f"ws://127.0.0.1:{node.port}/ws/phone",
            f"phone-{number}",
            {"Authorization": f"Bearer ddp_token-{number}", "X-Device-Id": f"hw-{number}"},
        )
        for number in range(1, count + 1)
    ]


def _alone(
    dialect: str, path: str, argv: Callable[[int], list[str | Path]], cwd: Path | None = None
) -> Callable[[int], AbstractAsyncContextManager[Room]]:
    """A server that needs nothing beside it."""

    @asynccontextmanager
    async def opened(count: int) -> AsyncIterator[Room]:
        port = free_port()
        async with server(argv(port), port, cwd=cwd) as pid:
            yield Room(
                dialect, [End(f"ws://127.0.0.1:{port}{path}", f"phone-{number}") for number in range(count)], pid
            )

    return opened


def _node(folder: str, *more: str) -> Callable[[int], list[str | Path]]:
    def argv(port: int) -> list[str | Path]:
        demand(PEERS / folder / "node_modules")
        return ["node", PEERS / folder / "server.js", str(port), *more]

    return argv


def _bare(app: str) -> Callable[[int], list[str | Path]]:
    return lambda port: [sys.executable, "-m", "uvicorn", f"app:{app}", "--port", str(port), *UVICORN]


HOSTS: dict[str, Host] = {
    "dialdesk": Host("Dialdesk, a phone signed in", _dialdesk, lambda: VERSION),
    "asgi": Host("uvicorn, bare ASGI", _alone("text", "/", _bare("raw"), PEERS / "asgi"), lambda: installed("uvicorn")),
    "starlette": Host(
        "uvicorn, Starlette",
        _alone("text", "/me", _bare("starlette"), PEERS / "asgi"),
        lambda: installed("starlette"),
    ),
    "ws": Host("ws", _alone("text", "/", _node("ws")), locked("ws", "ws")),
    "socketio": Host(
        "Socket.IO", _alone("socketio", SOCKETIO_PATH, _node("socketio", "none")), locked("socketio", "socket.io")
    ),
    "python-socketio": Host(
        "python-socketio",
        _alone(
            "socketio", SOCKETIO_PATH, lambda port: asgi("python_socketio", "uvicorn", port), PEERS / "python_socketio"
        ),
        locked("python_socketio", "python-socketio"),
    ),
}
"""Who holds sessions, by the name it is asked for on the command line; ours first."""
