"""What each fault does to the installation, and how it ends."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import assert_never

from redis.asyncio import Redis

from tests.faults.people import Desk, Phone
from tests.faults.record import Journal, Mended, Struck, now
from tests.faults.schedule import (
    AnyFault,
    Cut,
    Deafen,
    Drain,
    EmptyValkey,
    Freeze,
    FreezeValkey,
    Hold,
    Jump,
    Kill,
    Reboot,
    Reload,
    Slow,
    StopPostgres,
    Twins,
    tell,
)
from tests.faults.world import World


class Attack:
    """Plays the lanes of a schedule, each on its own."""

    def __init__(
        self, world: World, desks: Sequence[Desk], phones: Sequence[Phone], journal: Journal[Struck | Mended]
    ) -> None:
        self._world = world
        self._desks = desks
        self._phones = phones
        self._journal = journal

    async def play(self, lanes: Sequence[Sequence[AnyFault]]) -> None:
        """Return when the last is mended. One that takes longer than planned puts off what follows in its lane."""
        begin = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(self._play(lane, begin))

    async def _play(self, lane: Sequence[AnyFault], begin: float) -> None:
        for fault in lane:
            await asyncio.sleep(begin + fault.at - asyncio.get_running_loop().time())
            self._journal.write(Struck(at=now(), fault=tell(fault)))
            await self._strike(fault)
            self._journal.write(Mended(at=now(), fault=tell(fault)))

    async def _strike(self, fault: AnyFault) -> None:
        world = self._world
        match fault:
            case Kill(process=name):
                await world.processes[name].end(signal.SIGKILL, fault.lasts)
            case Drain(process=name):
                await world.processes[name].end(signal.SIGTERM, fault.lasts)
            case Freeze(process=name):
                await world.processes[name].up.wait()
                async with _frozen(world.processes[name].process.pid):
                    await asyncio.sleep(fault.lasts)
            case FreezeValkey():
                async with _frozen(world.servers.valkey.pid):
                    await asyncio.sleep(fault.lasts)
            case EmptyValkey():
                await world.servers.valkey.kill()
                await asyncio.sleep(fault.lasts)
                await world.servers.valkey.start()
            case Deafen():
                async with Redis.from_url(world.servers.redis_url) as redis:
                    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
            case StopPostgres(crash=crash):
                await (world.servers.postgres.kill() if crash else world.servers.postgres.stop())
                await asyncio.sleep(fault.lasts)
                await world.servers.postgres.start()
            case Cut(line=name):
                await world.lines[name].cut()
                await asyncio.sleep(fault.lasts)
                await world.lines[name].open()
            case Hold(line=name):
                world.lines[name].swallow()
                await asyncio.sleep(fault.lasts)
                world.lines[name].let_pass()
            case Slow(line=name, late=late):
                world.lines[name].late = late
                await asyncio.sleep(fault.lasts)
                world.lines[name].late = 0.0
            case Twins(phone=number):
                self._phones[number].open_twins([node.origin for node in world.nodes])
            case Jump(phone=number, by=by):
                self._phones[number].clock_wrong_by = by
            case Reboot(phone=number):
                await self._phones[number].reboot(fault.lasts)
            case Reload(page=number):
                self._desks[number].reload()
            case _:
                assert_never(fault)


@asynccontextmanager
async def _frozen(pid: int) -> AsyncIterator[None]:
    with contextlib.suppress(ProcessLookupError):  # it ended a moment ago by itself
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
