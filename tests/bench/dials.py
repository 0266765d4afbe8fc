"""What a dial costs: POST /calls/dial, committed, its command at a phone of the other node; beside one row.

Desks and phones sit at both nodes, a desk never at the node of its phone. Each turn starts everything anew, measures
the bare route of Starlette that inserts one row (limits.py) on the same PostgreSQL, and then the dials: by themselves,
as whole calls, and at fixed rates. What is compared is compared turn by turn.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click
import msgspec

from tests.bench.dialling import ENDING, Counted, Seat, Stretch, Task
from tests.bench.ground import USUAL_TIMES, load, open_house
from tests.bench.limits import CONNECTIONS, make_table, route, serve_route
from tests.bench.processes import apart, child, cpu_by_name, on
from tests.bench.results import Dialled, Results
from tests.bench.rigs import seat

PAGED = 128
"""Desks that make whole calls: each has a page open."""

OPENING = 0.005
"""Seconds that a desk with its phone may take to sit down."""


async def measure_dials(
    desks: int, rates: Sequence[int], turns: int, warm_up: float, seconds: float, place: Path, *, pin: bool
) -> None:
    """Dial for some seconds by themselves, as whole calls, and at each rate, in turns."""
    results = Results(place, pinned=pin)
    stretches = [
        Stretch(warm_up=warm_up, seconds=seconds, whole=False),
        Stretch(warm_up=warm_up, seconds=seconds, whole=True),
        *(Stretch(warm_up=warm_up, seconds=seconds, whole=False, rate=rate) for rate in rates),
    ]
    with apart(pin) as cores:
        for turn in range(turns):
            async with _rig(desks) as rig:
                bare = (await route(rig.ports, turn, round(seconds), cores)).per_second
                click.echo(f"insert route, {len(rig.ports)} nodes: {bare:.0f}/s; {load()}")
                task = Task(seats=rig.seats, paged=PAGED, stretches=stretches, connections=CONNECTIONS, cores=cores)
                async for stretch, counted, spent in _dialled(task, rig.pids):
                    dialled = Dialled(
                        what="whole call" if stretch.whole else "dial",
                        rate=stretch.rate,
                        turn=turn,
                        per_second=counted.dials / counted.seconds,
                        bare=bare,
                        p50=counted.p50,
                        p99=counted.p99,
                        most=counted.most,
                        refused=counted.refused,
                        doubled=counted.doubled,
                        cpu={name: each / max(1, counted.dials) for name, each in spent.items()},
                        busy=counted.cpu / counted.seconds,
                    )
                    results.add(dialled)
                    click.echo(_told(dialled))


class Rig(msgspec.Struct, frozen=True):
    """What was started: the ports of the bare route, who dials where, and the processes whose cost counts, by name."""

    ports: list[int]
    seats: list[Seat]
    pids: dict[str, list[int]]


@asynccontextmanager
async def _rig(desks: int) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        house, servers = await open_house(stack)
        await make_table(servers.database_url)
        ports = [await serve_route(servers.database_url, stack) for _ in range(2)]
        settings = {
            **USUAL_TIMES,
            "RESEND_AFTER": "60",  # a phone that is held says nothing for as long as a stretch lasts
            "MESSAGES_PER_SECOND": "1000000",
            "MESSAGE_BURST": "1000000",
        }
        nodes = [await house.node(**settings) for _ in range(2)]
        worker = await house.worker(**settings)
        here, there = (node.port for node in nodes)
        ends = await seat(house, desks, lambda n: (here, there) if n % 2 else (there, here))
        yield Rig(
            ports,
            [Seat(port=(there, here)[n % 2], page=page, phone=phone) for n, (page, phone) in enumerate(ends)],
            {
                "nodes": [node.pid for node in nodes],
                "postgres": [servers.postgres.pid],
                "valkey": [servers.valkey.pid],
                "worker": [worker.pid],
            },
        )


async def _dialled(
    task: Task, pids: Mapping[str, Sequence[int]]
) -> AsyncIterator[tuple[Stretch, Counted, dict[str, float]]]:
    """Have the generator do its task: each stretch, what it counted, and the CPU seconds that the servers spent."""
    lasting = sum(stretch.warm_up + stretch.seconds + ENDING for stretch in task.stretches)
    async with child("dialling.py", task, 30 + OPENING * len(task.seats) + lasting) as told:
        with on(task.cores):  # to look at every process takes milliseconds, in which dials would wait for a core
            for stretch in task.stretches:
                await anext(told)
                begun = cpu_by_name(pids)
                await anext(told)
                spent = {name: now - begun[name] for name, now in cpu_by_name(pids).items()}
                yield stretch, msgspec.json.decode(await anext(told), type=Counted), spent


def _told(dialled: Dialled) -> str:
    each = ", ".join(f"{name} {seconds * 1000:.2f}" for name, seconds in dialled.cpu.items())
    paced = "closed loop" if dialled.rate is None else f"{dialled.rate:g}/s due"
    return (
        f"{dialled.what}, {paced}: {dialled.per_second:.0f}/s, {dialled.per_second / dialled.bare:.2f} of the route;"
        f" p50 {dialled.p50:.1f} ms, p99 {dialled.p99:.1f} ms, max {dialled.most:.1f} ms; {dialled.refused} refused,"
        f" {dialled.doubled} doubled; CPU ms each: {sum(dialled.cpu.values()) * 1000:.2f} ({each});"
        f" generator {dialled.busy:.0%} busy; {load()}"
    )
