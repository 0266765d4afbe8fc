"""What seed 000's API costs (TRD 4: 100 requests a second, p99 within a second, at 100 channels), on one node."""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import click

from clients.agent import AgentClient
from tests.bench.ground import USUAL_TIMES, cpu, load, open_house, percentile

BASE = "/api/v1/channel/infinity"

TURN = ("list", "list", "detail", "detail", "detail", "detail", "history", "health", "change", "status")
"""What ten requests ask for: a console reads more than it changes."""


async def measure_channels(count: int, rate: int, seconds: int) -> None:
    """Make channels, then read and change them at a rate (open loop), and tell how long it took."""
    async with AsyncExitStack() as stack:
        house, _ = await open_house(stack)
        node = await house.node(**USUAL_TIMES)
        admin = await house.administrator(node)
        made = [await _make(admin, number) for number in range(count)]
        took: dict[str, list[float]] = {what: [] for what in TURN}
        refused: list[str] = []

        async def one(what: str, at: float) -> None:
            try:
                await _asks(admin, random.choice(made))[what]()
                took[what].append((time.perf_counter() - at) * 1000)
            except Exception as error:  # noqa: BLE001 - counted and shown
                refused.append(f"{what}: {error!r}")

        spent, begin = cpu(node.pid), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(rate * seconds):
                at = begin + number / rate
                if (wait := at - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(one(TURN[number % len(TURN)], at))
        spent, lasted = cpu(node.pid) - spent, time.perf_counter() - begin
        everything = sorted(itertools.chain(*took.values()))
        click.echo(
            f"seed 000's API, one node, {count} channels, {rate}/s for {seconds} s: {len(everything)} answered in"
            f" {lasted:.1f} s, {len(refused)} refused; mean {statistics.fmean(everything):.1f} ms, p50"
            f" {percentile(everything, 50):.1f} ms, p99 {percentile(everything, 99):.1f} ms, max {everything[-1]:.1f}"
            f" ms; {spent / len(everything) * 1000:.2f} ms of CPU a request on the node; {load()}"
        )
        for what, times in took.items():
            click.echo(f"  {what}: p50 {percentile(times, 50):.1f} ms, p99 {percentile(times, 99):.1f} ms")
        for problem in refused[:3]:
            click.echo(f"refused: {problem}", err=True)


def _form(number: int) -> dict[str, object]:
    return {"channel_name": f"Channel {number}", "account_id": f"account-{number}", "priority": number}


async def _make(admin: AgentClient, number: int) -> tuple[int, str]:
    keys = {"api_key": f"not-a-real-key-{number:08}", "api_secret": f"not-a-real-secret-{number:08}"}
    answer = await admin.post(BASE, {**_form(number), **keys})
    return number, str(answer["data"]["channel_id"])


def _asks(admin: AgentClient, made: tuple[int, str]) -> dict[str, Callable[[], Awaitable[object]]]:
    """What may be asked of one channel."""
    number, channel_id = made
    limit = random.randrange(100_000)
    return {
        "list": lambda: admin.get(f"{BASE}/list?page_size=100"),
        "detail": lambda: admin.get(f"{BASE}/{channel_id}"),
        "history": lambda: admin.get(f"{BASE}/{channel_id}/history"),
        "health": lambda: admin.get(f"{BASE}/{channel_id}/health"),
        "change": lambda: admin.put(f"{BASE}/{channel_id}", {**_form(number), "daily_limit": limit}),
        "status": lambda: admin.put(f"{BASE}/{channel_id}/status", {"status": limit % 3}),
    }
