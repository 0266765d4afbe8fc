"""The tables of docs/benchmarks.md, from what was measured: medians of turns, with the least and the most.

What is compared is compared turn by turn: a ratio is the median of the ratios of turns, not the ratio of medians.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tests.bench.results import Dialled, Grown, Idled, Limit, Line, Machine, Relayed, Stormed

YARDSTICK = "socketio-redis"
"""Whom the others are compared with."""

BUSY = 0.9
"""From this share of its core on the generator is what was measured."""

NOTHING = "Not measured on this version yet."

T = TypeVar("T", Relayed, Idled, Dialled, Limit, Grown, Stormed)


def latest(lines: Iterable[Line], part: type[T]) -> tuple[Machine, list[T]] | None:
    """The machine and the lines of the last run that measured this part, or None."""
    machine: Machine | None = None
    found: tuple[Machine, list[T]] | None = None
    for line in lines:
        if isinstance(line, Machine):
            machine = line
        elif isinstance(line, part):
            if machine is None:
                raise ValueError("a file of results begins with its machine")
            if found is None or found[0] is not machine:
                found = machine, []
            found[1].append(line)
    return found


def relay(lines: Sequence[Line]) -> str:
    """Who relays how much, a table for each number of pairs, with the picture that `plots` draws of it."""
    found = latest(lines, Relayed)
    if found is None:
        return NOTHING
    machine, turns = found
    parts = [_where(machine, len({turn.turn for turn in turns}))]
    for pairs in sorted({turn.pairs for turn in turns}):
        peers = _by([turn for turn in turns if turn.pairs == pairs], lambda turn: turn.peer)
        rows = [_relay_row(of, peers.get(YARDSTICK, [])) for of in peers.values()]
        head = ["", "round trips a second", "times Socket.IO", "p50 ms", "p99 ms", "CPU s per 1,000", "lost"]
        title = f"{pairs} pairs" if pairs > 1 else "One pair"
        picture = f"![Round trips a second and CPU: {title}](img/relay-{pairs}.svg)"
        parts += [f"### {title}", _table(head, rows), picture]
        if bounded := [of[0].title for of in peers.values() if statistics.median(turn.busy for turn in of) > BUSY]:
            parts += [f"The generator was the bound for: {', '.join(bounded)}."]
    return "\n\n".join(parts)


def sessions(lines: Sequence[Line]) -> str:
    """What an idle session costs whom."""
    found = latest(lines, Idled)
    if found is None:
        return NOTHING
    machine, turns = found
    rows = [
        [
            f"{of[0].title} {of[0].version}",
            f"{min(turn.online for turn in of):,} of {of[0].count:,}",
            _spread([turn.memory / 1024 for turn in of], 1),
            _spread([turn.connecting * 1e6 for turn in of], 0),
            _spread([turn.cpu * 100 for turn in of], 2),
        ]
        for of in _by(turns, lambda turn: turn.peer).values()
    ]
    head = ["", "online", "KiB a session", "us of CPU a connect", "% of a core for 1,000 idle"]
    picture = "![Memory of an idle session](img/sessions.svg)"
    return "\n\n".join([_where(machine, len({turn.turn for turn in turns})), _table(head, rows), picture])


def dials(lines: Sequence[Line]) -> str:
    """How many dials there are beside the bare route, how long each takes, and what it costs whom."""
    found = latest(lines, Dialled)
    if found is None:
        return NOTHING
    machine, turns = found
    rows = [
        [
            f"{of[0].what}, {'closed loop' if of[0].rate is None else f'{of[0].rate:g} a second due'}",
            _spread([turn.per_second for turn in of], 0),
            _spread([turn.per_second / turn.bare for turn in of], 2) if of[0].rate is None else "",
            _spread([turn.p50 for turn in of], 1),
            _spread([turn.p99 for turn in of], 1),
            _spread([turn.most for turn in of], 1),
            *(str(sum(counts)) for counts in zip(*((turn.refused, turn.doubled) for turn in of), strict=True)),
            *(_spread([turn.cpu[name] * 1000 for turn in of], 2) for name in of[0].cpu),
        ]
        for of in _by(turns, lambda turn: f"{turn.what} {turn.rate}").values()
    ]
    head = ["", "a second", "times the insert route", "p50 ms", "p99 ms", "max ms", "refused", "doubled"]
    costs = [f"ms of CPU: {name}" for name in turns[0].cpu]
    return "\n\n".join([_where(machine, len({turn.turn for turn in turns})), _table([*head, *costs], rows)])


def limits(lines: Sequence[Line]) -> str:
    """What the machine does at best."""
    found = latest(lines, Limit)
    if found is None:
        return NOTHING
    machine, turns = found
    rows = [
        [
            of[0].what,
            str(of[0].connections),
            _spread([turn.per_second for turn in of], 0),
            _spread([turn.p50 for turn in of if turn.p50 is not None], 2),
            _spread([turn.p99 for turn in of if turn.p99 is not None], 2),
        ]
        for of in _by(turns, lambda turn: turn.what).values()
    ]
    head = ["", "connections", "rows a second", "p50 ms (pgbench: mean)", "p99 ms"]
    return "\n\n".join([_where(machine, len({turn.turn for turn in turns})), _table(head, rows)])


def growth(lines: Sequence[Line]) -> str:
    """What dials and lists take with few and with many call records."""
    found = latest(lines, Grown)
    if found is None:
        return NOTHING
    machine, turns = found
    sizes = sorted({turn.records for turn in turns})
    head = [
        "milliseconds",
        *(f"{kind}, {size:,} records" for kind in ("p50", "p99") for size in sizes),
        f"times p50, {sizes[-1]:,} to {sizes[0]:,}",
    ]
    rows = []
    for what, of in _by(turns, lambda turn: turn.what).items():
        few, many = ({turn.turn: turn.p50 for turn in of if turn.records == size} for size in (sizes[0], sizes[-1]))
        rows.append(
            [
                what,
                *(_spread([turn.p50 for turn in of if turn.records == size], 1) for size in sizes),
                *(_spread([turn.p99 for turn in of if turn.records == size], 1) for size in sizes),
                _spread([many[turn] / few[turn] for turn in few if turn in many], 2),
            ]
        )
    picture = "![How long dials and lists take as records pile up](img/growth.svg)"
    return "\n\n".join([_where(machine, len({turn.turn for turn in turns})), _table(head, rows), picture])


def storm(lines: Sequence[Line]) -> str:
    """How soon phones are back whose node died, and how others fared meanwhile."""
    found = latest(lines, Stormed)
    if found is None:
        return NOTHING
    machine, turns = found
    rows = [
        [
            f"{of[0].count:,}",
            *(_spread(list(times), 1) for times in zip(*((t.half, t.p99, t.everybody) for t in of), strict=True)),
            _spread([turn.attempts for turn in of], 0),
            *(_spread(list(times), 1) for times in zip(*((t.before, t.meanwhile, t.after) for t in of), strict=True)),
            _spread([turn.node / turn.count * 1e6 for turn in of], 0),
            _spread([turn.database / turn.count * 1e6 for turn in of], 0),
        ]
        for of in _by(turns, lambda turn: str(turn.count)).values()
    ]
    back = ["phones", "half back, s", "99 %, s", "all, s", "sockets tried"]
    others = ["p99 of other dials before, ms", "meanwhile", "after", "us of CPU a phone on the node", "in PostgreSQL"]
    return "\n\n".join([_where(machine, len({turn.turn for turn in turns})), _table([*back, *others], rows)])


def renewed(page: str, part: str, text: str) -> str:
    """The page with what stands between the marks of a part replaced. Raises ValueError where there are none."""
    begin, end = f"<!-- measured: {part} -->", f"<!-- end: {part} -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no place for {part}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def _relay_row(turns: list[Relayed], yardstick: list[Relayed]) -> list[str]:
    beside = {turn.turn: turn.per_second for turn in yardstick}
    ratios = [turn.per_second / beside[turn.turn] for turn in turns if turn.turn in beside]
    return [
        f"{turns[0].title} {turns[0].version}",
        _spread([turn.per_second for turn in turns], 0),
        _spread(ratios, 2),
        _spread([turn.p50 for turn in turns], 2),
        _spread([turn.p99 for turn in turns], 2),
        _spread([turn.cpu for turn in turns], 3),
        str(sum(turn.lost for turn in turns)),
    ]


def _where(machine: Machine, turns: int) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    cores = "the servers on all cores but one, and who measures on that" if machine.pinned else "cores shared by all"
    return (
        f"{machine.at[:10]}, {machine.processor}, {machine.cores} cores, Linux {machine.kernel}, load"
        f" {machine.load:.1f} before; {cores}.\n"
        f"Medians of {turns} {'turn' if turns == 1 else 'turns'}, with the least and the most.\n{versions}."
    )


def _spread(values: list[float], digits: int) -> str:
    """The median, and in brackets the least and the most."""
    if not values:
        return ""
    median, least, most = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return median if len(values) == 1 else f"{median} ({least}-{most})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _by(turns: Sequence[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Grouped, in the order in which they first come."""
    groups: dict[str, list[T]] = {}
    for turn in turns:
        groups.setdefault(key(turn), []).append(turn)
    return groups
