"""Benchmarks: what a dial costs from click to phone, an idle session, an upload, a console. `make bench` runs all.

    python tests/bench/run.py dial --rate 300 --turns 3
    python tests/bench/run.py recordings
    python tests/bench/run.py channels --rate 100 --seconds 30
    python tests/bench/run.py desk
    python tests/bench/run.py peers-install
    python tests/bench/run.py relay --pairs 1 --pairs 64 --pairs 512 --turns 5
    python tests/bench/run.py idle --count 10000
    python tests/bench/run.py limits
    python tests/bench/run.py growth --records 10000 --records 1000000 --records 10000000
    python tests/bench/run.py storm --count 10000

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
from tests.bench.growth import measure_growth
from tests.bench.idle import HOSTS, measure_idle
from tests.bench.limits import measure_limits
from tests.bench.recordings import measure_beside_dials, measure_one
from tests.bench.relay import measure_relay
from tests.bench.results import PLACE
from tests.bench.rigs import RELAY_PEERS, install
from tests.bench.storm import measure_storm


@click.group()
def main() -> None:
    """Measure this Dialdesk on this machine."""


@main.command()
@click.option("--desks", default=4096, show_default=True, help="Desks, half at each node, each with a phone.")
@click.option("--rate", "rates", multiple=True, type=int, help="Dials a second that are also due in an open loop.")
@click.option("--turns", default=1, show_default=True)
@click.option("--warm-up", default=1.0, show_default=True, help="Seconds before what counts.")
@click.option("--seconds", default=4.0, show_default=True)
@click.option("--pin/--no-pin", default=True, show_default=True, help="Give the generator a core of its own.")
@click.option("--out", type=click.Path(path_type=Path), default=PLACE, show_default="in .bench", help="JSON lines.")
def dial(desks: int, rates: tuple[int, ...], turns: int, warm_up: float, seconds: float, pin: bool, out: Path) -> None:
    """Dial to phone: POST /calls/dial on one node, committed, DIAL_COMMAND at the phone of another."""
    _run(measure_dials(desks, rates, turns, warm_up, seconds, out, pin=pin))


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


@main.command("peers-install")
def peers_install() -> None:
    """Peers: install those that are measured beside us, at their pinned versions."""
    install()


@main.command()
@click.option("--peer", "peers", multiple=True, type=click.Choice(list(RELAY_PEERS)), help="Who; not named: all.")
@click.option("--pairs", multiple=True, default=(64,), show_default=True, help="Agents, each with a phone.")
@click.option("--turns", default=3, show_default=True, help="Turns that each peer has.")
@click.option("--warm-up", default=3.0, show_default=True, help="Seconds before what counts.")
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--pin/--no-pin", default=True, show_default=True, help="Give the generator a core of its own.")
@click.option("--out", type=click.Path(path_type=Path), default=PLACE, show_default="in .bench", help="JSON lines.")
def relay(
    peers: tuple[str, ...], pairs: tuple[int, ...], turns: int, warm_up: float, seconds: float, pin: bool, out: Path
) -> None:
    """Relay: agent on one node, phone on another, and back, beside Socket.IO, Channels, MQTT and NATS."""
    _run(measure_relay(peers or list(RELAY_PEERS), pairs, turns, warm_up, seconds, out, pin=pin))


@main.command()
@click.option("--host", "hosts", multiple=True, type=click.Choice(list(HOSTS)), help="Who; not named: all.")
@click.option("--count", default=10_000, show_default=True, help="Sessions.")
@click.option("--turns", default=1, show_default=True, help="Turns that each host has.")
@click.option("--hold", default=30.0, show_default=True, help="Seconds that they are idle.")
@click.option("--pin/--no-pin", default=True, show_default=True, help="Give the crowd a core of its own.")
@click.option("--out", type=click.Path(path_type=Path), default=PLACE, show_default="in .bench", help="JSON lines.")
def idle(hosts: tuple[str, ...], count: int, turns: int, hold: float, pin: bool, out: Path) -> None:
    """Idle: what a session costs that only lives, beside ws, Socket.IO, python-socketio and bare ASGI."""
    _run(measure_idle(hosts or list(HOSTS), count, turns, hold, out, pin=pin))


@main.command()
@click.option("--turns", default=3, show_default=True)
@click.option("--seconds", default=5, show_default=True)
@click.option("--pin/--no-pin", default=True, show_default=True, help="Give the generator a core of its own.")
@click.option("--out", type=click.Path(path_type=Path), default=PLACE, show_default="in .bench", help="JSON lines.")
def limits(turns: int, seconds: int, pin: bool, out: Path) -> None:
    """Limits: one row committed, by a bare route and by pgbench."""
    _run(measure_limits(turns, seconds, out, pin=pin))


@main.command()
@click.option(
    "--records", multiple=True, default=(10_000, 1_000_000), show_default=True, help="Call records to have behind one."
)
@click.option("--turns", default=3, show_default=True, help="Turns that each size has.")
@click.option("--seconds", default=10, show_default=True, help="Of dials, ten a second.")
@click.option("--readings", default=100, show_default=True, help="Of each list.")
@click.option("--data", type=click.Path(path_type=Path), help="A folder that keeps what was made for the next run.")
@click.option("--out", type=click.Path(path_type=Path), default=PLACE, show_default="in .bench", help="JSON lines.")
def growth(records: tuple[int, ...], turns: int, seconds: int, readings: int, data: Path | None, out: Path) -> None:
    """Growth: dials and lists with few and with many call records. Ten million take half an hour to make, and 30 GB."""
    _run(measure_growth(records, turns, seconds, readings, out, data=data))


@main.command()
@click.option("--count", default=10_000, show_default=True, help="Phones on the node that dies.")
@click.option("--turns", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=PLACE, show_default="in .bench", help="JSON lines.")
def storm(count: int, turns: int, out: Path) -> None:
    """Storm: a node dies; how soon its phones are online at another, and how dials fare meanwhile."""
    _run(measure_storm(count, turns, out))


def _run(measure: Coroutine[None, None, None]) -> None:
    click.echo(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure)


if __name__ == "__main__":
    main()
