"""Benchmarks: what a dial costs from click to phone, an idle session, an upload, a console. `make bench` runs all.

    python tests/bench/run.py dial --pairs 64 --rate 200 --seconds 10
    python tests/bench/run.py sessions --count 10000
    python tests/bench/run.py recordings
    python tests/bench/run.py channels --rate 100 --seconds 30
    python tests/bench/run.py desk

Everything is real and on this machine: PostgreSQL with fsync, Valkey, SeaweedFS, two web nodes, a worker, and clients
in this process, which share its cores with the servers. Latency is told from the moment a dial was *due* (open loop).
"""

import asyncio
import os
import platform
import sys
from collections.abc import Coroutine
from pathlib import Path

import click
import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.channels import measure_channels
from tests.bench.desk import measure_desk
from tests.bench.dials import measure_dials
from tests.bench.recordings import measure_beside_dials, measure_one
from tests.bench.sessions import measure_sessions


@click.group()
def main() -> None:
    """Measure this Dialdesk on this machine."""


@main.command()
@click.option("--pairs", default=64, show_default=True, help="Agents on one node, each with a phone on the other.")
@click.option("--rate", default=200, show_default=True, help="Dials a second over all pairs.")
@click.option("--seconds", default=10, show_default=True)
def dial(pairs: int, rate: int, seconds: int) -> None:
    """Dial to phone: POST /calls/dial on one node, committed, DIAL_COMMAND at the phone of another."""
    _run(measure_dials(pairs, rate, seconds))


@main.command()
@click.option("--count", default=10_000, show_default=True, help="Phones, all on one node.")
def sessions(count: int) -> None:
    """Sessions: phones online on one node; how fast they come and what each costs."""
    _run(measure_sessions(count))


@main.command()
@click.option("--count", default=100, show_default=True, help="Channels.")
@click.option("--rate", default=100, show_default=True, help="Requests a second.")
@click.option("--seconds", default=30, show_default=True)
def channels(count: int, rate: int, seconds: int) -> None:
    """Channels: seed 000's API, read and changed as a console does."""
    _run(measure_channels(count, rate, seconds))


@main.command()
@click.option("--rounds", default=5, show_default=True, help="Loads of each page.")
@click.option("--slower", default=4.0, show_default=True, help="By what the browser's CPU is slowed down.")
def desk(rounds: int, slower: float) -> None:
    """Desk: how soon it can be used in a slow browser, and how much that loads."""
    _run(measure_desk(rounds, slower))


@main.command()
@click.option("--rounds", default=5, show_default=True, help="What is compared, in turns.")
@click.option("--size", default=200, show_default=True, help="MB of the one file.")
@click.option("--at-once", default=20, show_default=True, help="Uploads at once beside the dials, of 20 MB each.")
@click.option("--pace", default=1.25, show_default=True, help="MB a second that the line of a phone takes.")
@click.option("--rate", default=30, show_default=True, help="Dials a second over 32 pairs.")
@click.option("--seconds", default=20, show_default=True, help="Of dials: alone, beside phones, beside faster ones.")
def recordings(rounds: int, size: int, at_once: int, pace: float, rate: int, seconds: int) -> None:
    """Recordings: one large upload against boto3's own (--size 0: not), dials beside many (--at-once 0: not)."""
    if size:
        _run(measure_one(rounds, size))
    if at_once:
        _run(measure_beside_dials(rounds, at_once, pace, rate, seconds))


def _run(measure: Coroutine[None, None, None]) -> None:
    click.echo(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure)


if __name__ == "__main__":
    main()
