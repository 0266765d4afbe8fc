"""What must hold after a fault run, proven from what it left behind; nothing here speaks to anything.

A rule reads the histories and tells each violation by whom or what it befell, so that it can be looked up in the files
(`python -m tests.faults --check FOLDER --about ID`). Nobody is believed twice: what a client heard is held against what
the database holds, and neither is taken from the other.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from protocol.call import RANK, Evidence, Outcome
from tests.faults.record import (
    Accepted,
    Acked,
    Asked,
    Declined,
    Dialled,
    Dump,
    GivenUp,
    Histories,
    Line,
    Lost,
    Ordered,
    PageStands,
    PageWelcomed,
    PhoneStands,
    PhoneWelcomed,
    Reloaded,
    Reported,
    Spurned,
    Started,
    Struck,
    Told,
)

SLEW = 0.02
"""Seconds by which two readings of the machine's clocks may differ: one is turned slowly, the other not."""

ROUNDING = 0.001
"""Seconds: times in messages are whole milliseconds."""


class Violation(msgspec.Struct, frozen=True, order=True):
    """Something that must not be. `about` is a call, message, phone or agent, to look up."""

    rule: str
    about: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.about}: {self.what}"


class Verdict(msgspec.Struct, frozen=True):
    """What a run came to."""

    counts: dict[str, int]
    violations: list[Violation]


Rule = Callable[[Histories], Iterator[tuple[str, str]]]
"""Tells (about, what) of each violation."""


def check(histories: Histories) -> Verdict:
    """Judge by every rule."""
    violations = [Violation(rule.__name__, about, what) for rule in RULES for about, what in rule(histories)]
    return Verdict(count(histories), violations)


def one_end(run: Histories) -> Iterator[tuple[str, str]]:
    """Every dial that was accepted is a call, and every call reached exactly one end, of which its agent was told once.

    A dial asked for again under the same key is the same call, and there are no calls that nobody asked for."""
    ends = Counter(event.call_id for event in run.standing.events if event.type == "CALL_ENDED" and not event.enriched)
    for call in run.standing.calls.values():
        if call.status != "ended" or call.outcome is None or call.ended_at is None:
            yield call.id, f"has not ended: {call.status}"
        if ends[call.id] != 1:
            yield call.id, f"was told to end {ends[call.id]} times"
    made = Counter(call.user_id for call in run.standing.calls.values())
    for agent, lines in run.agents.items():
        by_key: dict[str, set[str]] = defaultdict(set)
        for line in lines:
            if isinstance(line, Accepted):
                by_key[line.key].add(line.call_id)
        for key, calls in by_key.items():
            if len(calls) > 1:
                yield key, f"one dial became {len(calls)} calls: {', '.join(sorted(calls))}"
            for call_id in sorted(calls):
                if call_id not in run.standing.calls:
                    yield call_id, "was accepted, and is not in the database"
                elif run.standing.calls[call_id].user_id != agent:
                    yield call_id, f"was accepted for {agent}, and is another's"
        asked = {line.key for line in lines if isinstance(line, Asked)}
        if made[agent] > len(asked):
            yield agent, f"has {made[agent]} calls and asked for {len(asked)}"


def dialled_once_and_in_time(run: Histories) -> Iterator[tuple[str, str]]:
    """No command was executed twice, nor after its expiry, nor by a phone that it was not for."""
    meant = {command.call_id: command for command in run.standing.commands if command.type == "DIAL_COMMAND"}
    names = {device.id: device.hardware_id for device in run.standing.devices}
    times: Counter[str] = Counter()
    for phone, lines in run.phones.items():
        for line in lines:
            if not isinstance(line, Dialled):
                continue
            times[line.call_id] += 1
            command = meant.get(line.call_id)
            if command is None:
                yield line.call_id, f"dialled by {phone} without a command"
            elif names.get(command.device_id) != phone:
                yield line.call_id, f"dialled by {phone}, which it was not for"
            elif line.at > command.expires_at + SLEW + ROUNDING:
                yield line.call_id, f"dialled by {phone} {line.at - command.expires_at:.3f} s after its expiry"
    for call_id, number in times.items():
        if number > 1:
            yield call_id, f"dialled {number} times"


def acked_is_committed(run: Histories) -> Iterator[tuple[str, str]]:
    """Every report that a phone holds as acked is in the database, once, and says the same; in the end none waits, and
    none was refused."""
    kept: dict[str, list[tuple[str, str, str | None]]] = defaultdict(list)
    for row in run.standing.reports:
        kept[row.message_id].append((row.call_id, row.kind, row.status))
    for phone, lines in run.phones.items():
        made = {line.message_id: line for line in lines if isinstance(line, Reported)}
        for message_id in dict.fromkeys(line.message_id for line in lines if isinstance(line, Acked)):
            report = made.get(message_id)
            if report is None:
                yield message_id, f"acked to {phone}, which did not say it"
                continue
            rows = kept[message_id]
            if len(rows) != 1:
                yield message_id, f"acked to {phone}, and {len(rows)} times in the database"
            elif rows[0] != (report.call_id, report.type, report.status):
                yield message_id, f"acked to {phone}, and in the database as {rows[0]}"
        for line in lines:
            if isinstance(line, Spurned) and line.message_id in made:
                yield line.message_id, f"refused to {phone}: {line.code}"
            elif isinstance(line, PhoneStands) and line.waiting:
                yield phone, f"has {line.waiting} reports that are not acked"


def truth_counts(run: Histories) -> Iterator[tuple[str, str]]:
    """A call ended as the strongest report that was acked says, however late it came; `unknown` gives way to all."""
    told: dict[str, list[Reported]] = defaultdict(list)
    for lines in run.phones.values():
        acked = {line.message_id for line in lines if isinstance(line, Acked)}
        for line in lines:
            if isinstance(line, Reported) and line.type == "CALL_END" and line.message_id in acked:
                told[line.call_id].append(line)
    for call_id, ends in told.items():
        call = run.standing.calls.get(call_id)
        known = [end for end in ends if end.status != Outcome.UNKNOWN]
        if call is None or not known:
            continue
        strongest = max(_rank(end) for end in known)
        expected = {end.status for end in known if _rank(end) == strongest}
        if call.outcome not in expected:
            yield call_id, f"ended as {call.outcome}, and its phone told {' or '.join(sorted(expected))}"


def no_event_lost_silently(run: Histories) -> Iterator[tuple[str, str]]:
    """What each page heard goes on from where it was, without a gap but for those it was told of, is what the database
    holds under the same number, and goes to the end."""
    written: dict[str, dict[int, tuple[str, str | None]]] = defaultdict(dict)
    for event in run.standing.events:
        written[event.user_id][event.seq] = (event.type, event.call_id)
    for agent, last in run.standing.streams.items():
        if sorted(written[agent]) != list(range(1, last + 1)):
            yield agent, f"has {len(written[agent])} events up to {last}"
    for agent, lines in run.agents.items():
        seen: int | None = None
        for line in lines:
            match line:
                case Reloaded():
                    seen = None
                case PageWelcomed(last_seq=last_seq):
                    seen = last_seq if seen is None else seen
                case Lost(to_seq=to_seq):
                    seen = to_seq
                case Told(seq=seq, type=kind, call_id=call_id) if seen is not None:
                    if written[agent].get(seq) != (kind, call_id):
                        yield agent, f"was told {kind} {call_id or ''} as {seq}, which is {written[agent].get(seq)}"
                    if seq > seen + 1:
                        yield agent, f"was told {seq} after {seen}"
                    seen = max(seen, seq)
                case PageStands():
                    if seen != run.standing.streams.get(agent):
                        yield agent, f"heard up to {seen} of {run.standing.streams.get(agent)}"
                case _:
                    pass  # what the page asked; and what came on a socket that it has left: it does not take that


def presence_is_true(run: Histories) -> Iterator[tuple[str, str]]:
    """In the end who has a socket is online, in the database and at its node, and nobody else is."""
    devices = {device.hardware_id: device for device in run.standing.devices}
    living = _living(run.standing, "web")
    for phone, lines in run.phones.items():
        stands = next((line for line in reversed(lines) if isinstance(line, PhoneStands)), None)
        device = devices.get(phone)
        if device is None or stands is None:
            yield phone, "was not there to the end"
        elif stands.epoch is None and (device.online or device.node is not None):
            yield phone, f"has no socket, and is {'online' if device.online else 'offline'} at {device.node}"
        elif stands.epoch is not None and not (
            device.online and device.epoch == stands.epoch and device.node in living
        ):
            said = "online" if device.online else "offline"
            yield phone, f"has a socket of epoch {stands.epoch}, and is {said} at {device.node} with {device.epoch}"
    online = sum(stands.epoch is not None for stands in _standing(run))
    counted = sum(sessions.phones for sessions in run.standing.sessions)
    if counted != online:
        yield "phones", f"{online} have a socket, and nodes count {counted}"
    open_pages = {agent for agent, lines in run.agents.items() if any(isinstance(line, PageStands) for line in lines)}
    counted = sum(sessions.pages for sessions in run.standing.sessions)
    if counted != len(open_pages):
        yield "pages", f"{len(open_pages)} are open, and nodes count {counted}"
    attended = Counter(row.user_id for row in run.standing.attended)
    for agent in run.agents:
        if attended[agent] != (agent in open_pages):
            yield (
                agent,
                f"{'is' if agent in open_pages else 'is not'} there, and {attended[agent]} nodes are said to have it",
            )


def nothing_leaks(run: Histories) -> Iterator[tuple[str, str]]:
    """In the end no lease is held but by who lives, no phone is taken by a call, no command waits, no channel is heard
    by nobody; and when all have left no session is there."""
    for name, dump in (("standing", run.standing), ("left", run.left)):
        for kind, alive in dump.alive.items():
            if len(_living(dump, kind)) != alive:
                yield name, f"{alive} {kind} processes run, and {len(_living(dump, kind))} leases are held"
        for node in dump.nodes:
            if not node.leased:
                yield node.boot_id, f"{name}: its lease has run out, and nobody has swept it"
        if set(dump.channels) != _living(dump, "web"):
            yield name, f"heard are {sorted(dump.channels)}, and alive {sorted(_living(dump, 'web'))}"
        for row in dump.attended:
            if row.node not in _living(dump, "web"):
                yield row.user_id, f"{name}: is said to be at {row.node}, which is no more"
        for command in dump.commands:
            if command.waits:
                yield command.id, f"{name}: waits to be sent"
        for call in dump.calls.values():
            if call.status != "ended" or call.reap_at is not None:
                yield call.id, f"{name}: takes its phone, or is to be reaped: {call.status}"
    for sessions in run.left.sessions:
        if sessions.phones or sessions.pages:
            yield sessions.node, f"left: counts {sessions.phones} phones and {sessions.pages} pages"
    for device in run.left.devices:
        if device.online or device.node is not None:
            yield device.hardware_id, f"left: is said to be {'online' if device.online else 'offline'} at {device.node}"
    for row in run.left.attended:
        yield row.user_id, f"left: is said to be at {row.node}"


def nobody_is_sent_away(run: Histories) -> Iterator[tuple[str, str]]:
    """No client is told never to come back, and no process ends but by what was done to it."""
    for name, lines in _everybody(run).items():
        for line in lines:
            if isinstance(line, GivenUp):
                yield name, f"was sent away: {line.code} {line.reason}"
    for fault in run.faults:
        if "by itself" in fault.fault:
            yield fault.fault.partition(" ended")[0], fault.fault


def times_are_possible(run: Histories) -> Iterator[tuple[str, str]]:
    """However wrong the clocks of phones are, nothing of a call lies before it was made, or after the run."""
    end = max((line.at for lines in _everybody(run).values() for line in lines), default=0.0)
    for call in run.standing.calls.values():
        for name, at in (
            ("dialled", call.dialing_at),
            ("rang", call.ringing_at),
            ("was answered", call.connected_at),
            ("ended", call.ended_at),
        ):
            if at is not None and not call.created_at <= at <= end + SLEW:
                yield call.id, f"{name} {at - call.created_at:+.3f} s after it was made"


_ONE = re.compile(r"(phone|page|place) \d+")
"""One of many, in the words of a fault: they are counted together."""

RULES: tuple[Rule, ...] = (
    one_end,
    dialled_once_and_in_time,
    acked_is_committed,
    truth_counts,
    no_event_lost_silently,
    presence_is_true,
    nothing_leaks,
    nobody_is_sent_away,
    times_are_possible,
)


def count(run: Histories) -> dict[str, int]:
    """How much there was to judge."""
    agents = [line for lines in run.agents.values() for line in lines]
    phones = [line for lines in run.phones.values() for line in lines]
    orders = [line for line in phones if isinstance(line, Ordered)]
    acks = Counter(line.message_id for line in phones if isinstance(line, Acked))
    faults = Counter(_ONE.sub(r"\1", fault.fault) for fault in run.faults if isinstance(fault, Struck))
    outcomes = Counter(f"calls ended {call.outcome} by {call.closed_by}" for call in run.standing.calls.values())
    return {
        "agents": len(run.agents),
        "phones": len(run.phones),
        "dials asked for": sum(isinstance(line, Asked) for line in agents),
        "dials accepted": len({line.call_id for line in agents if isinstance(line, Accepted)}),
        "dials refused": sum(isinstance(line, Declined) for line in agents),
        "calls": len(run.standing.calls),
        **dict(sorted(outcomes.items())),
        "commands at phones": len({order.message_id for order in orders}),
        "commands that came again": len(orders) - len({order.message_id for order in orders}),
        "dialled": sum(isinstance(line, Dialled) for line in phones),
        "reports": sum(isinstance(line, Reported) for line in phones),
        "reports acked": len(acks),
        "reports acked again": acks.total() - len(acks),
        "events": len(run.standing.events),
        "events told": sum(isinstance(line, Told) for line in agents),
        "streams lost and told so": sum(isinstance(line, Lost) for line in agents),
        "welcomes of phones": sum(isinstance(line, PhoneWelcomed) for line in phones),
        "welcomes of pages": sum(isinstance(line, PageWelcomed) for line in agents),
        "starts of apps": sum(isinstance(line, Started) for line in phones),
        "twins welcomed": sum(twin.epoch is not None for twin in run.twins),
        "faults": faults.total(),
        **{f"fault: {name}": number for name, number in sorted(faults.items())},
    }


def _rank(end: Reported) -> int:
    return RANK[Evidence(end.evidence) if end.evidence is not None else Evidence.ASSUMED]


def _everybody(run: Histories) -> Mapping[str, Sequence[Line]]:
    return {**run.agents, **run.phones}


def _living(dump: Dump, kind: str) -> set[str]:
    return {node.boot_id for node in dump.nodes if node.kind == kind and node.leased}


def _standing(run: Histories) -> Iterator[PhoneStands]:
    for lines in run.phones.values():
        yield from [line for line in lines if isinstance(line, PhoneStands)][-1:]
