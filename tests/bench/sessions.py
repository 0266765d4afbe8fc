"""What an idle session costs: phones online on one node; how fast they come, and what each takes of it."""

import asyncio
import time
from contextlib import AsyncExitStack

import click
import msgspec

from clients.connection import Timing
from clients.memory import Binding, Bound, Handset, Memory
from clients.phone import PhoneClient
from storage.database import open_database
from tests.bench.ground import AT_ONCE, USUAL_TIMES, cpu, memory, open_house
from tests.journeys.house import House, Process


async def measure_sessions(count: int) -> None:
    """Bring so many phones online at once, and leave them there for half a minute."""
    async with AsyncExitStack() as stack:
        house, _ = await open_house(stack)
        node = await house.node(**USUAL_TIMES, MAX_SESSIONS=str(count + 10))
        await house.worker(**USUAL_TIMES)
        bindings = await bind_many(house, node, count)
        idle = memory(node)
        begin = time.perf_counter()
        connecting = cpu(node.pid)
        gate = asyncio.Semaphore(200)
        timing = Timing(open_timeout=60)

        async def connect(binding: Binding) -> PhoneClient:
            remembered = Memory(None)
            remembered.note(Bound(binding))
            phone = PhoneClient(remembered, AT_ONCE, timing=timing, keep=1)
            async with gate:
                await stack.enter_async_context(phone)
                await asyncio.wait_for(phone.online.wait(), 60)
            return phone

        phones = await asyncio.gather(*(connect(binding) for binding in bindings))
        took = time.perf_counter() - begin
        connecting = cpu(node.pid) - connecting
        grown = (memory(node) - idle) / count
        beating = cpu(node.pid)
        await asyncio.sleep(30)
        beating = cpu(node.pid) - beating
        online = sum(phone.online.is_set() for phone in phones)
        click.echo(
            f"{online} of {count} sessions online in {took:.1f} s ({count / took:.0f}/s,"
            f" {connecting / count * 1e6:.0f} us of CPU each); {grown / 1024:.1f} KiB of memory a session;"
            f" {beating / 30 / count * 1e5:.2f} % of a core for 1,000 idle, heart-beating sessions"
        )


async def bind_many(house: House, node: Process, count: int) -> list[Binding]:
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
