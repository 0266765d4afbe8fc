"""Which faults befall an installation, and when: dealt from shuffled decks by a seed, so that none is left out.

There are three lanes, side by side: the processes and servers, the lines between them, and the people. In a lane one
fault follows the other; those of different lanes fall upon each other as they like.
"""

import random
from collections.abc import Callable, Sequence
from typing import assert_never

import msgspec

from tests.faults.record import Plan

LEASE = 2.0
"""Seconds of a node's lease; a node is frozen for longer than that."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that befalls the installation `at` so many seconds, and `lasts` so many."""

    at: float
    lasts: float


class Kill(Fault, frozen=True):
    """A process ends by SIGKILL, and starts again afterwards."""

    process: str


class Freeze(Fault, frozen=True):
    """A process is stopped by SIGSTOP for longer than its lease, and then goes on as if nothing had happened."""

    process: str


class Drain(Fault, frozen=True):
    """A process is asked to end by SIGTERM, as at every new version, and starts again."""

    process: str


class EmptyValkey(Fault, frozen=True):
    """Valkey ends, and starts again with nothing in it."""


class FreezeValkey(Fault, frozen=True):
    """Valkey does nothing for a while."""


class Deafen(Fault, frozen=True):
    """Valkey drops all who subscribe."""


class StopPostgres(Fault, frozen=True):
    """PostgreSQL ends, in order or with a `crash`, and starts again."""

    crash: bool


class Cut(Fault, frozen=True):
    """A line is cut: what goes over it ends, and nothing new comes through."""

    line: str


class Hold(Fault, frozen=True):
    """A line lets nothing through, then all that was said meanwhile."""

    line: str


class Slow(Fault, frozen=True):
    """All that goes over a line comes `late` seconds late."""

    line: str
    late: float


class Twins(Fault, frozen=True):
    """A phone opens sockets on all nodes at once, while it comes back on another."""

    phone: int


class Jump(Fault, frozen=True):
    """The clock on a phone's wall is set wrong by so many seconds."""

    phone: int
    by: float


class Reboot(Fault, frozen=True):
    """A phone ends without a word, and starts again with what its disk holds."""

    phone: int


class Reload(Fault, frozen=True):
    """An agent loads the page anew."""

    page: int


AnyFault = (
    Kill
    | Freeze
    | Drain
    | EmptyValkey
    | FreezeValkey
    | Deafen
    | StopPostgres
    | Cut
    | Hold
    | Slow
    | Twins
    | Jump
    | Reboot
    | Reload
)
Card = Callable[[float], AnyFault]


def deal(plan: Plan, nodes: Sequence[str], worker: str, lines: Sequence[str]) -> list[list[AnyFault]]:
    """Deal the faults of each lane, in the order of time; all of them are over when the plan's seconds are."""
    chance = random.Random(plan.seed)
    between = chance.uniform

    def anybody() -> int:
        return chance.randrange(plan.pairs)

    processes: list[Card] = [
        *[lambda at, node=node: Kill(at=at, lasts=between(0.1, 3), process=node) for node in nodes],
        *[lambda at, node=node: Freeze(at=at, lasts=LEASE * between(1.3, 2.5), process=node) for node in nodes],
        lambda at: Drain(at=at, lasts=between(0.1, 1), process=chance.choice(nodes)),
        lambda at: Kill(at=at, lasts=between(0.1, 3), process=worker),
        lambda at: Freeze(at=at, lasts=LEASE * between(1.3, 2.5), process=worker),
        lambda at: EmptyValkey(at=at, lasts=between(0.1, 3)),
        lambda at: FreezeValkey(at=at, lasts=between(0.5, 5)),
        lambda at: Deafen(at=at, lasts=0.0),
        lambda at: StopPostgres(at=at, lasts=between(0.1, 5), crash=False),
        lambda at: StopPostgres(at=at, lasts=between(0.1, 3), crash=True),
    ]
    cables: list[Card] = [
        lambda at: Cut(at=at, lasts=between(0.1, 4), line=chance.choice(lines)),
        lambda at: Hold(at=at, lasts=between(0.5, 6), line=chance.choice(lines)),
        lambda at: Slow(at=at, lasts=between(2, 6), line=chance.choice(lines), late=between(0.05, 0.8)),
    ]
    people: list[Card] = [
        lambda at: Twins(at=at, lasts=0.0, phone=anybody()),
        lambda at: Jump(
            at=at, lasts=0.0, phone=anybody(), by=chance.choice((-86400.0, -600.0, -5.0, 5.0, 600.0, 86400.0))
        ),
        lambda at: Reboot(at=at, lasts=between(0.1, 4), phone=anybody()),
        lambda at: Reload(at=at, lasts=0.0, page=anybody()),
    ]
    return [
        _lane(chance, processes, plan.seconds, (1.0, 4.0)),
        _lane(chance, cables, plan.seconds, (0.5, 3.0)),
        _lane(chance, people, plan.seconds, (0.2, 1.5)),
    ]


def _lane(chance: random.Random, cards: Sequence[Card], seconds: float, pause: tuple[float, float]) -> list[AnyFault]:
    faults: list[AnyFault] = []
    deck: list[Card] = []
    at = 0.0
    while True:
        at += chance.uniform(*pause)
        deck = deck or chance.sample(cards, len(cards))
        fault = deck.pop()(at)
        at += fault.lasts
        if at > seconds:
            return faults
        faults.append(fault)


def tell(fault: AnyFault) -> str:
    """A fault in words."""
    match fault:
        case Kill(process=process):
            return f"{process} killed"
        case Freeze(process=process):
            return f"{process} frozen"
        case Drain(process=process):
            return f"{process} drained"
        case EmptyValkey():
            return "Valkey restarted, empty"
        case FreezeValkey():
            return "Valkey frozen"
        case Deafen():
            return "subscribers dropped"
        case StopPostgres(crash=crash):
            return f"PostgreSQL {'crashed' if crash else 'stopped'}"
        case Cut(line=line):
            return f"line cut: {line}"
        case Hold(line=line):
            return f"line held: {line}"
        case Slow(line=line):
            return f"line slow: {line}"
        case Twins(phone=phone):
            return f"twins of phone {phone}"
        case Jump(phone=phone):
            return f"clock of phone {phone} jumped"
        case Reboot(phone=phone):
            return f"phone {phone} rebooted"
        case Reload(page=page):
            return f"page {page} reloaded"
        case _:
            assert_never(fault)
