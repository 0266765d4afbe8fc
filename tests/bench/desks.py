"""Desks and phones of the reference clients, for dials beside something else: at one node, phones at another."""

import asyncio
import time
from contextlib import AsyncExitStack

import click
import msgspec

from clients.agent import AgentClient
from clients.phone import PhoneClient
from protocol.messages import DialCommand
from tests.bench.ground import AT_ONCE, USUAL_TIMES, cpu, percentile, turns
from tests.journeys.house import House, Process


class Dials(msgspec.Struct, frozen=True):
    """What became of a stretch of dials: `took` in milliseconds from when each was due, in order; CPU seconds of both
    nodes; and of the time that the node of the phones had something to do, how much it waited for a core."""

    took: list[float]
    accepted: int
    refused: int
    cpu: float
    waited: float

    def __str__(self) -> str:
        return (
            f"{self.accepted} accepted, {self.refused} refused, {self.accepted - len(self.took)} lost; p50"
            f" {percentile(self.took, 50):.1f} ms, p99 {percentile(self.took, 99):.1f} ms, max {self.took[-1]:.1f} ms,"
            f" waited {self.waited:.0%} for a core"
        )


class Desks:
    """Agents on one node, each with a phone on the other."""

    def __init__(self, pages: Process, phones_node: Process) -> None:
        self.pages = pages
        self.phones_node = phones_node
        self._desks: list[AgentClient] = []
        self._phones: list[PhoneClient] = []
        self._arrived: dict[str, float] = {}

    @classmethod
    async def open(cls, stack: AsyncExitStack, house: House, pairs: int, **settings: str) -> "Desks":
        """Start two nodes and a worker, and sit everybody down."""
        settings = {**USUAL_TIMES, **settings}
        phones_node = await house.node(**settings)  # the first takes the phones
        desks = cls(await house.node(**settings), phones_node)
        await house.worker(**settings)
        listening = await stack.enter_async_context(asyncio.TaskGroup())
        for _ in range(pairs):
            desks._desks.append(desk := await house.agent(desks.pages))
            desks._phones.append(phone := await house.phone(desk, AT_ONCE))
            stack.callback(listening.create_task(desks._note_arrivals(phone)).cancel)
        return desks

    @property
    def doubled(self) -> int:
        """Dials that a phone was told twice."""
        return sum(len(phone.dialled) - len({one.call_id for one in phone.dialled}) for phone in self._phones)

    async def dial(self, rate: int, seconds: int) -> Dials:
        """Dial on the next desk whenever one is due, whether or not the last was answered (open loop)."""
        due: dict[str, float] = {}
        refused = 0

        async def one(desk: AgentClient, at: float) -> None:
            nonlocal refused
            try:
                due[await desk.dial_over_http(customer_phone="13912345678")] = at
            except Exception as error:  # noqa: BLE001 - counted and shown
                refused += 1
                if refused <= 3:
                    click.echo(f"refused: {error}", err=True)

        spent, (had, waited) = self._cpu(), turns(self.phones_node)
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(rate * seconds):
                at = begin + number / rate
                if (wait := at - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(one(self._desks[number % len(self._desks)], at))
        await asyncio.sleep(2)  # for those under way, and for the reports of all
        took = sorted((self._arrived[call] - at) * 1000 for call, at in due.items() if call in self._arrived)
        had, waited = (now - then for now, then in zip(turns(self.phones_node), (had, waited), strict=True))
        return Dials(took, len(due), refused, self._cpu() - spent, waited / (had + waited))

    def _cpu(self) -> float:
        return cpu(self.pages.pid) + cpu(self.phones_node.pid)

    async def _note_arrivals(self, phone: PhoneClient) -> None:
        async for envelope in phone.heard:
            if isinstance(envelope.message, DialCommand):
                self._arrived[envelope.message.call_id] = time.perf_counter()
