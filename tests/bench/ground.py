"""The ground that is measured on: an installation of this run's own, and what its processes cost."""

import os
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

from clients.behaviour import Behaviour
from storage.embedded import Servers, running
from storage.migrate import migrate
from tests.journeys.house import House, Process

USUAL_TIMES = {
    "LEASE": "15",
    "LEASE_RENEW": "5",
    "SWEEP": "1",
    "REFILL": "5",
    "RESEND_AFTER": "3",
    "CANARY": "1",
    "DEAF_AFTER": "5",
    "HEARTBEAT_INTERVAL": "30",
    "PROBE_AFTER": "25",
    "OFFLINE_AFTER": "60",
    "CLOSE_AFTER": "90",
    "DATABASE_TIMEOUT": "5",
    "PRESENCE_GRACE": "15",
    "REAP_UNREPORTED": "10",
}
"""The house's own times: the stories' are too quick to measure by."""

AT_ONCE = Behaviour(ring_after=None, answer_after=0.0, talk=0.0, answer_signal=False)
"""Dialled, and over: two reports a call."""


async def open_house(
    stack: AsyncExitStack, *, s3: Literal["beside", "elsewhere"] | None = None
) -> tuple[House, Servers]:
    """Start the servers, and make a tenant; nodes are for the caller to start.

    An S3 server `elsewhere` stands for one with a machine of its own: it has only what time of the cores the others
    leave, and no part in the disk that PostgreSQL commits to.
    """
    data = _folder(stack) / "data"
    if s3 == "elsewhere":
        data.mkdir(mode=0o700)
        (data / "s3").symlink_to(_folder(stack, dir="/dev/shm"))  # noqa: S108 - the system's disk of memory
    servers = await stack.enter_async_context(running(data, s3=s3 is not None))
    if s3 == "elsewhere":
        _let_give_way(servers.s3.pid)
    await migrate(servers.database_url)
    house = House(servers.database_url, servers.redis_url, stack)
    await house.open()
    return house, servers


def _folder(stack: AsyncExitStack, **where: str) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="dialdesk-bench-", ignore_cleanup_errors=True, **where)
    return Path(stack.enter_context(folder))


def _let_give_way(pid: int) -> None:
    """Nice, for a process and for its session: they share the cores before their processes do (sched(7), autogroup)."""
    os.setpriority(os.PRIO_PROCESS, pid, 19)
    Path(f"/proc/{pid}/autogroup").write_text("19")


def memory(process: Process) -> int:
    """Bytes of a node that no other process shares."""
    return _told(process.pid, "smaps_rollup", "Pss")


def begin_peak(process: Process) -> int:
    """Let the kernel count anew what memory a node has at most; return the bytes that it has now."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return _told(process.pid, "status", "VmRSS")


def peak(process: Process) -> int:
    """The most bytes of memory that a node had since then: counted by the kernel, so that none falls between two
    looks."""
    return _told(process.pid, "status", "VmHWM")


def cpu(pid: int) -> float:
    """CPU seconds that a process has spent."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def turns(process: Process) -> tuple[float, float]:
    """Seconds that a node's event loop had a core, and that it waited for one: how much of what it made others wait
    was not its own doing."""
    had, waited, _ = Path(f"/proc/{process.pid}/schedstat").read_text().split()
    return int(had) / 1e9, int(waited) / 1e9


def percentile(values: list[float], percent: int) -> float:
    """The percentile of some values; not a number where they are too few to have one."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else float("nan")


def load() -> str:
    """What else this machine did in the last minute, to be told beside a figure."""
    return f"load {os.getloadavg()[0]:.1f}"


def _told(pid: int, file: str, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name}")
