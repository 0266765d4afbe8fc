"""What benchmarks start, on which cores, and what it costs: servers, which end with the block, and programs of this
folder."""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

STARTING = 30.0
"""Seconds a server may take until it listens."""

ENDING = 5.0
"""Seconds it may take to end before it is killed."""

PORTS = range(20_000, 32_000)
"""Below those that Linux hands to clients: who knocks at one of these before anybody listens may get it for his own
near end, and finds himself connected to himself."""

_TICK = os.sysconf("SC_CLK_TCK")


class ProcessError(Exception):
    """A process did not come up, or did not stay; the text is what it said."""


@asynccontextmanager
async def server(
    argv: Sequence[str | Path], port: int, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[int]:
    """Run a server until the block ends, and lend its pid when it listens on `port`. Raises ProcessError, also where it
    ends before the block does."""
    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = asyncio.create_task(process.stdout.read())
    try:
        async with asyncio.timeout(STARTING):
            while not _listens(port):
                if process.returncode is not None:
                    raise ProcessError((await said).decode())
                await asyncio.sleep(0.05)
        yield process.pid
        if process.returncode is not None:
            raise ProcessError((await said).decode())
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), ENDING)
        except TimeoutError:
            process.kill()
            await process.wait()
        await said


def free_port() -> int:
    """A port that is free now, for a server to listen on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def cpu(pids: Iterable[int]) -> float:
    """CPU seconds that these processes and all below them have spent, those that have ended included."""
    return _spent(pids, _everybody())


def cpu_by_name(pids: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """The same of each of these, at one look."""
    everybody = _everybody()
    return {name: _spent(some, everybody) for name, some in pids.items()}


def memory(pids: Iterable[int]) -> int:
    """Bytes that these processes and all below them take, what is shared divided by those that share it."""
    return sum(_pss(pid) for pid in _tree(pids, _everybody()))


def cores() -> tuple[list[int] | None, list[int] | None]:
    """Which cores are for the servers and which for who measures them, or (None, None) where there is but one."""
    mine = sorted(os.sched_getaffinity(0))
    return (mine[:-1], mine[-1:]) if len(mine) > 1 else (None, None)


@asynccontextmanager
async def child(program: str, task: msgspec.Struct, deadline: float) -> AsyncIterator[AsyncIterator[bytes]]:
    """Run a program of this folder on a task, and lend the lines that it tells; it is killed with the block. Reading a
    line after its last raises ProcessError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = process.stdout

    async def told() -> AsyncIterator[bytes]:
        while line := await lines.readline():
            yield line
        raise ProcessError(f"{program} ended early")

    try:
        async with asyncio.timeout(deadline):
            process.stdin.write(msgspec.json.encode(task) + b"\n")
            yield told()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.contextmanager
def apart(pin: bool) -> Iterator[list[int] | None]:
    """Keep what is started in this block off the generator's core, which is lent."""
    servers, generator = cores() if pin else (None, None)
    with on(servers):
        yield generator


@contextlib.contextmanager
def on(cores: Iterable[int] | None) -> Iterator[None]:
    """Be on these cores, or wherever one was, and so is what is started in this block."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _spent(pids: Iterable[int], everybody: Mapping[int, list[str]]) -> float:
    return sum(sum(int(field) for field in everybody[pid][11:15]) for pid in _tree(pids, everybody)) / _TICK


def _everybody() -> dict[int, list[str]]:
    """Every process, with what proc(5) tells of it in `stat`, from its state on."""
    return {int(entry.name): fields for entry in Path("/proc").iterdir() if (fields := _fields(entry))}


def _tree(pids: Iterable[int], everybody: Mapping[int, list[str]]) -> list[int]:
    """These processes and all below them."""
    found = list(pids)
    for pid in found:  # grows while it is walked
        found += [child for child, fields in everybody.items() if int(fields[1]) == pid]
    return found


def _fields(entry: Path) -> list[str] | None:
    if not entry.name.isdecimal():
        return None
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has ended meanwhile: its parent has its time


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
