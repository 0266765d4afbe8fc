"""What it costs to relay: agent on one node, phone on another, and the answer back, beside others who do the same.

All peers are given the same bytes by the same generator (`pairs.py`), without deflate, TLS or sign-in, over the same
Valkey where they need one. Each turn starts a peer anew, warms it up, measures, and ends it; peers take turns, so that
what the machine does meanwhile falls on all of them. Where there are two cores or more the generator has one of its own
and the servers share the rest.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from tests.bench.dialects import OPENING
from tests.bench.pairs import Counted, Task
from tests.bench.processes import ProcessError, apart, child, cpu
from tests.bench.results import Relayed, Results
from tests.bench.rigs import RELAY_PEERS, NotInstalledError, Peer, Rig


async def measure_relay(
    names: Sequence[str], pairs: Sequence[int], turns: int, warm_up: float, seconds: float, place: Path, *, pin: bool
) -> None:
    """Give every peer as many turns with as many pairs as is asked for; who is not installed, or fails, is told and
    left out."""
    results = Results(place, pinned=pin)
    with apart(pin) as generator:
        for turn in range(turns):
            for count in pairs:
                for name in rotated(names, turn):
                    try:
                        relayed = await _turn(name, RELAY_PEERS[name], count, turn, warm_up, seconds, generator)
                    except (NotInstalledError, ProcessError) as problem:
                        click.echo(f"{name}: {problem}", err=True)
                        continue
                    results.add(relayed)
                    click.echo(
                        f"{name:24} {count:4} pairs: {relayed.per_second:8.0f} round trips/s,"
                        f" p50 {relayed.p50:7.2f} ms, p99 {relayed.p99:7.2f} ms, {relayed.cpu:6.3f} CPU s per 1,000,"
                        f" {relayed.lost} lost, {relayed.stray} stray, generator {relayed.busy:.0%} busy"
                    )


async def _turn(
    name: str, peer: Peer, pairs: int, turn: int, warm_up: float, seconds: float, generator: list[int] | None
) -> Relayed:
    async with peer.open(pairs) as rig:
        task = Task(
            dialect=rig.dialect,
            pairs=rig.pairs,
            warm_up=warm_up,
            seconds=seconds,
            cores=generator,
            committed=rig.committed,
        )
        counted, spent = await _count(task, rig)
    return Relayed(
        peer=name,
        title=peer.title,
        version=peer.version(),
        pairs=pairs,
        turn=turn,
        seconds=counted.seconds,
        per_second=counted.round_trips / counted.seconds,
        p50=counted.p50,
        p99=counted.p99,
        most=counted.most,
        lost=counted.lost,
        stray=counted.stray,
        cpu=spent / max(1, counted.round_trips) * 1000,
        busy=counted.cpu / counted.seconds,
    )


async def _count(task: Task, rig: Rig) -> tuple[Counted, float]:
    """Have the generator do its task; what it counted, and the CPU seconds of the servers meanwhile."""
    async with child("pairs.py", task, 4 * OPENING + task.warm_up + task.seconds + 30) as told:
        await anext(told)
        spent = cpu(rig.pids)
        counted = msgspec.json.decode(await anext(told), type=Counted)
        return counted, cpu(rig.pids) - spent


def rotated(names: Sequence[str], by: int) -> list[str]:
    """Whoever comes first in one turn comes last in the next."""
    by %= len(names)
    return [*names[by:], *names[:by]]
