"""A fault run, from an empty folder to what the checker makes of it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import msgspec

from tests.faults import dump
from tests.faults.attack import Attack
from tests.faults.checker import Verdict, check
from tests.faults.people import Desk, Phone, seat
from tests.faults.record import Dump, DumpRow, Journal, Mended, Plan, Struck, read
from tests.faults.schedule import deal
from tests.faults.world import NODES, WORKER, World

REST = 90.0
"""Seconds that everything has to come to rest. What has not is for the checker to find."""

Say = Callable[[str], None]


async def run(plan: Plan, folder: Path, *, durable: bool = True, say: Say = lambda _: None) -> Verdict:
    """Attack an installation of its own by the plan, and judge what is left in the folder, which is to be empty.

    Without `durable` PostgreSQL does not wait for the disk, which a crash of the machine alone would tell.
    """
    (folder / "run.json").write_bytes(msgspec.json.encode(plan))
    chance = random.Random(plan.seed)
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(Journal[Struck | Mended](folder / "faults.jsonl"))
        world = await World.open(stack, folder, journal, durable=durable)
        desks, phones = await seat(world, plan.pairs, folder, chance, stack)
        say(f"{len(phones)} phones and {len(desks)} agents are there; {plan.seconds:g} s of faults begin")
        lanes = deal(plan, NODES, WORKER, list(world.lines))
        async with asyncio.TaskGroup() as working:
            calling = [working.create_task(desk.work(), name=f"desk {desk.user_id}") for desk in desks]
            await Attack(world, desks, phones, journal).play(lanes)
            for task in calling:
                task.cancel()
        say("all faults are mended; waiting for rest")
        await _until(lambda: _unrest(world, desks, phones), say)
        staying = await _let_some_leave(phones)
        await _until(lambda: _unrest(world, desks, staying), say)
        rows = await _still(world, lambda: [phone.epoch for phone in phones])
        people: list[Desk | Phone] = [*desks, *phones]
        for one in people:
            one.stand()
        dump.write(rows, folder / "standing.jsonl")
        await asyncio.gather(*(one.end() for one in people))
        await _until(lambda: _left_over(world), say)
        dump.write(await _still(world, list), folder / "left.jsonl")
    say("all have left; checking")
    return check(read(folder))


async def _let_some_leave(phones: Sequence[Phone]) -> list[Phone]:
    """One in five goes with a word, one in five without; who stays is returned."""
    for number, phone in enumerate(phones):
        if number % 5 in {3, 4}:
            await phone.leave(politely=number % 5 == 3)
    return [phone for number, phone in enumerate(phones) if number % 5 not in {3, 4}]


async def _still(world: World, sessions: Callable[[], Sequence[object]]) -> list[DumpRow]:
    """What the installation holds at a moment at which nobody moves: sessions stay as they are, and no lease is just
    running out, as on a machine that is too slow for it. Where there is no such moment, as it was in the end."""
    tries = 10
    while True:
        before = sessions()
        rows = await dump.take(world)
        held = Dump.of(rows)
        web = {node.boot_id for node in held.nodes if node.kind == "web"}
        still = before == sessions() and all(node.leased for node in held.nodes) and web == set(held.channels)
        if still or not (tries := tries - 1):
            return rows
        await asyncio.sleep(0.5)


async def _unrest(world: World, desks: Sequence[Desk], phones: Sequence[Phone]) -> str:
    """What has not come to rest: calls that live, what waits to be sent, phones that are to be online and are not,
    others that are, pages that have not heard everything."""
    connection = await asyncpg.connect(world.house.database_url, timeout=30)
    try:
        counted = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM call WHERE ended_at IS NULL) AS calls,"
            " (SELECT count(*) FROM command WHERE next_send_at IS NOT NULL) AS commands,"
            " (SELECT count(*) FROM node WHERE swept_at IS NULL AND leased_until < now()) AS dead_nodes,"
            " (SELECT count(*) FROM device WHERE online_status = 'online') - $1 AS online_too_many,"
            " (SELECT count(*) FROM agent_node) - $2 AS pages_too_many",
            len(phones),
            len(desks),
        )
        streams = {
            row["user_id"]: row["last_seq"]
            for row in await connection.fetch("SELECT user_id, last_seq FROM agent_stream")
        }
    finally:
        await connection.close()
    assert counted is not None
    unrest = [f"{number} {name}" for name, number in counted.items() if number]
    unrest += [f"{phone.name} is not settled" for phone in phones if not phone.settled]
    unrest += [f"{desk.user_id} is behind" for desk in desks if desk.last_seq != streams[desk.user_id]]
    return ", ".join(unrest)


async def _left_over(world: World) -> str:
    """Who is there though all have left, as far as the database knows."""
    connection = await asyncpg.connect(world.house.database_url, timeout=30)
    try:
        there = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM device WHERE online_status = 'online' OR node IS NOT NULL) AS phones,"
            " (SELECT count(*) FROM agent_node) AS pages"
        )
    finally:
        await connection.close()
    assert there is not None
    return ", ".join(f"{number} {name}" for name, number in there.items() if number)


async def _until(unrest: Callable[[], Awaitable[str]], say: Say) -> None:
    """Ask until there is none, or the time for it is over."""
    left = ""
    try:
        async with asyncio.timeout(REST):
            while left := await unrest():
                await asyncio.sleep(0.2)
    except TimeoutError:
        say(f"no rest: {left}")
