"""A node dies with all its phones: how soon they are online at another, and what that does to other people's calls.

Phones are on the first of two nodes, which is killed (SIGKILL), and come back to the second with the back-off that
docs/protocol.md asks of them. Other desks, with page and phone on the second, make calls all the while at a steady
rate.
"""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import click
import msgspec

from tests.bench.ground import USUAL_TIMES, cpu, load, open_house, percentile
from tests.bench.processes import child
from tests.bench.processes import cpu as cpu_of_all
from tests.bench.results import Results, Stormed
from tests.bench.rigs import seat
from tests.bench.steady import Desk, Steady
from tests.bench.storming import Back, Online, Task

DESKS = 32
RATE = 16.0
"""Calls a second over all desks."""

CALM = 15.0
"""Seconds of calls before and after."""

DEADLINE = 300.0


async def measure_storm(count: int, turns: int, place: Path) -> None:
    """Kill a node under so many phones, as often as is asked for."""
    results = Results(place, pinned=False)
    for turn in range(turns):
        async with AsyncExitStack() as stack:
            stormed = await _turn(stack, count, turn)
        results.add(stormed)
        click.echo(
            f"{count} phones back: half in {stormed.half:.1f} s, 99 % in {stormed.p99:.1f} s, all in"
            f" {stormed.everybody:.1f} s, {stormed.attempts} sockets tried; p99 of other dials {stormed.before:.1f} ms"
            f" before, {stormed.meanwhile:.1f} ms meanwhile, {stormed.after:.1f} ms after; {stormed.node:.1f} s of CPU"
            f" on the node, {stormed.database:.1f} s in PostgreSQL; {load()}"
        )


async def _turn(stack: AsyncExitStack, count: int, turn: int) -> Stormed:
    house, servers = await open_house(stack)
    settings = {**USUAL_TIMES, "MAX_SESSIONS": str(count + 2 * DESKS + 10)}
    dying, living = await house.node(**settings), await house.node(**settings)
    await house.worker(**settings)
    pairs = await seat(house, DESKS + count, lambda number: (living.port, (living if number < DESKS else dying).port))
    http = await stack.enter_async_context(aiohttp.ClientSession())
    desks = [await Desk.open(http, living.origin, page, phone) for page, phone in pairs[:DESKS]]
    task = Task(then=f"ws://127.0.0.1:{living.port}/ws/phone", phones=[phone for _, phone in pairs[DESKS:]])
    told = await stack.enter_async_context(child("storming.py", task, DEADLINE))
    online = msgspec.json.decode(await anext(told), type=Online)
    click.echo(f"{count} phones online in {online.seconds:.1f} s")
    steady = Steady(desks, RATE)
    calling = asyncio.create_task(steady.run(DEADLINE))
    stack.callback(calling.cancel)
    await asyncio.sleep(CALM)
    spent, spent_there = cpu(living.pid), cpu_of_all([servers.postgres.pid])
    killed = time.perf_counter()
    dying.send(signal.SIGKILL)
    back = msgspec.json.decode(await anext(told), type=Back)
    spent, spent_there = cpu(living.pid) - spent, cpu_of_all([servers.postgres.pid]) - spent_there
    await asyncio.sleep(CALM)
    calling.cancel()
    if back.failed or steady.failed:
        click.echo(f"in vain: {back.failed}; {steady.failed} calls failed", err=True)
    click.echo(f"the phones' own CPU: {back.cpu:.1f} s")
    took = [(made.due, made.commanded) for made in steady.calls]
    return Stormed(
        count=count,
        turn=turn,
        half=back.half - killed,
        p99=back.p99 - killed,
        everybody=back.everybody - killed,
        attempts=back.attempts,
        before=_p99(took, 0.0, killed),
        meanwhile=_p99(took, killed, back.everybody),
        after=_p99(took, back.everybody, float("inf")),
        node=spent,
        database=spent_there,
    )


def _p99(took: list[tuple[float, float]], begin: float, end: float) -> float:
    return percentile(sorted(one for at, one in took if begin <= at < end), 99)
