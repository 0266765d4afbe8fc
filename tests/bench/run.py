"""Benchmarks: what a dial costs from click to phone, and what an idle session costs. `make bench` runs both.

    python tests/bench/run.py dial --pairs 64 --rate 200 --seconds 10
    python tests/bench/run.py sessions --count 10000

Everything is real and on this machine: PostgreSQL with fsync, Valkey, two web nodes, a worker, and clients in this
process, which share its cores with the servers. Latency is told from the moment a dial was *due* (open loop).
"""

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import click
import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from clients.agent import AgentClient
from clients.behaviour import Behaviour
from clients.connection import Timing
from clients.memory import Binding, Bound, Handset, Memory
from clients.phone import PhoneClient
from protocol.messages import DialCommand
from storage.database import open_database
from storage.embedded import running
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


@click.group()
def main() -> None:
    """Measure this Dialdesk on this machine."""


@main.command()
@click.option("--pairs", default=64, show_default=True, help="Agents on one node, each with a phone on the other.")
@click.option("--rate", default=200, show_default=True, help="Dials a second over all pairs.")
@click.option("--seconds", default=10, show_default=True)
def dial(pairs: int, rate: int, seconds: int) -> None:
    """Dial to phone: POST /calls/dial on one node, committed, DIAL_COMMAND at the phone of another."""
    _run(_dial(pairs, rate, seconds))


@main.command()
@click.option("--count", default=10_000, show_default=True, help="Phones, all on one node.")
def sessions(count: int) -> None:
    """Sessions: phones online on one node; how fast they come and what each costs."""
    _run(_sessions(count))


async def _dial(pairs: int, rate: int, seconds: int) -> None:
    async with AsyncExitStack() as stack:
        house = await _house(stack)
        phones_node = await house.node(**USUAL_TIMES)
        pages_node = await house.node(**USUAL_TIMES)
        await house.worker(**USUAL_TIMES)
        desks = [await house.agent(pages_node) for _ in range(pairs)]
        phones = [await house.phone(desk, AT_ONCE) for desk in desks]
        arrived: dict[str, float] = {}
        listeners = [asyncio.create_task(_note_arrivals(phone, arrived)) for phone in phones]
        spent = _cpu(phones_node) + _cpu(pages_node)
        due: dict[str, float] = {}
        refused = await _open_loop(desks, phones, rate, seconds, due)
        await asyncio.sleep(2)
        spent = _cpu(phones_node) + _cpu(pages_node) - spent
        for listener in listeners:
            listener.cancel()
        took = sorted((arrived[call] - at) * 1000 for call, at in due.items() if call in arrived)
        lost = len(due) - len(took)
        doubled = sum(len(phone.dialled) - len({one.call_id for one in phone.dialled}) for phone in phones)
        click.echo(
            f"dial -> phone, two nodes, {pairs} pairs, {rate}/s for {seconds} s: {len(due)} accepted,"
            f" {refused} refused, {lost} lost, {doubled} doubled;"
            f" p50 {_percentile(took, 50):.1f} ms, p99 {_percentile(took, 99):.1f} ms, max {took[-1]:.1f} ms;"
            f" {spent / max(1, len(due)) * 1000:.2f} ms of CPU a call on the nodes"
        )


async def _open_loop(
    desks: list[AgentClient], phones: list[PhoneClient], rate: int, seconds: int, due: dict[str, float]
) -> int:
    """Dial on the next desk whenever one is due, whether or not the last was answered; returns those refused."""
    refused = 0

    async def one(desk: AgentClient, at: float) -> None:
        nonlocal refused
        try:
            due[await desk.dial_over_http(customer_phone="13912345678")] = at
        except Exception as error:  # noqa: BLE001 - counted and shown
            refused += 1
            if refused <= 3:
                click.echo(f"refused: {error}", err=True)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(rate * seconds):
            at = begin + number / rate
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            group.create_task(one(desks[number % len(desks)], at))
    return refused


async def _note_arrivals(phone: PhoneClient, arrived: dict[str, float]) -> None:
    async for envelope in phone.heard:
        if isinstance(envelope.message, DialCommand):
            arrived[envelope.message.call_id] = time.perf_counter()


async def _sessions(count: int) -> None:
    async with AsyncExitStack() as stack:
        house = await _house(stack)
        node = await house.node(**USUAL_TIMES, MAX_SESSIONS=str(count + 10))
        await house.worker(**USUAL_TIMES)
        bindings = await _bind_many(house, node, count)
        idle = _memory(node)
        begin = time.perf_counter()
        cpu = _cpu(node)
        gate = asyncio.Semaphore(200)
        timing = Timing(open_timeout=60)

        async def connect(binding: Binding) -> PhoneClient:
            memory = Memory(None)
            memory.note(Bound(binding))
            phone = PhoneClient(memory, AT_ONCE, timing=timing, keep=1)
            async with gate:
                await stack.enter_async_context(phone)
                await asyncio.wait_for(phone.online.wait(), 60)
            return phone

        phones = await asyncio.gather(*(connect(binding) for binding in bindings))
        took = time.perf_counter() - begin
        cpu = _cpu(node) - cpu
        grown = (_memory(node) - idle) / count
        beating = _cpu(node)
        await asyncio.sleep(30)
        beating = _cpu(node) - beating
        online = sum(phone.online.is_set() for phone in phones)
        click.echo(
            f"{online} of {count} sessions online in {took:.1f} s ({count / took:.0f}/s,"
            f" {cpu / count * 1e6:.0f} us of CPU each); {grown / 1024:.1f} KiB of memory a session;"
            f" {beating / 30 / count * 1e5:.2f} % of a core for 1,000 idle, heart-beating sessions"
        )


async def _bind_many(house: House, node: Process, count: int) -> list[Binding]:
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
        msgspec.convert(
            {
                "websocketUrl": f"{node.origin.replace('http', 'ws')}/ws/phone",
                "userId": user_id,
                "authToken": f"ddp_token-{number}",
                "handset": msgspec.to_builtins(Handset(device_id=f"hw-{number}", phone_number="")),
            },
            Binding,
        )
        for number in range(1, count + 1)
    ]


async def _house(stack: AsyncExitStack) -> House:
    data = stack.enter_context(tempfile.TemporaryDirectory(prefix="dialdesk-bench-", ignore_cleanup_errors=True))
    servers = await stack.enter_async_context(running(Path(data) / "data", s3=False))
    await migrate(servers.database_url)
    house = House(servers.database_url, servers.redis_url, stack)
    await house.open()
    return house


def _memory(process: Process) -> int:
    """Bytes of a node that no other process shares."""
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Pss")


def _cpu(process: Process) -> float:
    """CPU seconds a node has spent."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else float("nan")


def _run(measure: object) -> None:
    click.echo(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
