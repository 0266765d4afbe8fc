"""The checker finds what must not be: a good run passes, and each violation that is planted in it is found, by its rule
and by whom it befell."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from tests.faults import record
from tests.faults.checker import RULES, Verdict, check
from tests.faults.record import (
    Accepted,
    Acked,
    Asked,
    AttendedRow,
    CallRow,
    CommandRow,
    DeviceRow,
    Dialled,
    Dump,
    EventRow,
    GivenUp,
    Histories,
    Journal,
    Lost,
    NodeRow,
    Ordered,
    PageStands,
    PageWelcomed,
    PhoneStands,
    PhoneWelcomed,
    Reloaded,
    Reported,
    ReportRow,
    SessionsRow,
    Spurned,
    Started,
    Struck,
    Told,
)

L = TypeVar("L")

replace = msgspec.structs.replace

STATUS = ReportRow(call_id="call-1", message_id="msg-1", kind="CALL_STATUS", status="calling")
END = ReportRow(call_id="call-1", message_id="msg-2", kind="CALL_END", status="connected")
CALL = CallRow(
    id="call-1",
    user_id="ann",
    device_id="dev-1",
    status="ended",
    outcome="connected",
    closed_by="phone",
    evidence="in_call_service",
    duration=3,
    created_at=100.0,
    dialing_at=101.0,
    ringing_at=None,
    connected_at=102.0,
    ended_at=105.0,
    reap_at=None,
)
COMMAND = CommandRow(
    id="cmd-1", call_id="call-1", device_id="dev-1", type="DIAL_COMMAND", expires_at=106.0, waits=False
)
DEVICE = DeviceRow(id="dev-1", hardware_id="phone-1", user_id="ann", node="node-a", online=True, epoch=2)
WEB = NodeRow(boot_id="node-a", kind="web", leased=True)
WORKER = NodeRow(boot_id="node-w", kind="worker", leased=True)


def good() -> Histories:
    """One agent, one phone, one call: dialled, answered, ended, told; then all have left."""
    standing = Dump(
        calls={"call-1": CALL},
        reports=[STATUS, END],
        commands=[COMMAND],
        devices=[DEVICE],
        streams={"ann": 2},
        events=[
            EventRow(user_id="ann", seq=1, type="CALL_DIALING", call_id="call-1", enriched=False),
            EventRow(user_id="ann", seq=2, type="CALL_ENDED", call_id="call-1", enriched=False),
        ],
        nodes=[WEB, WORKER],
        attended=[AttendedRow(user_id="ann", node="node-a")],
        sessions=[SessionsRow(node="node 1", phones=1, pages=1)],
        channels=["node-a"],
        alive={"web": 1, "worker": 1},
    )
    left = replace(
        standing,
        devices=[replace(DEVICE, online=False, node=None)],
        attended=[],
        sessions=[SessionsRow(node="node 1", phones=0, pages=0)],
    )
    return Histories(
        agents={
            "ann": [
                PageWelcomed(at=99.0, seen=None, last_seq=0),
                Asked(at=100.0, key="key-1"),
                Asked(at=100.5, key="key-1"),
                Accepted(at=100.6, key="key-1", call_id="call-1"),
                Told(at=101.0, seq=1, type="CALL_DIALING", call_id="call-1"),
                PageWelcomed(at=103.0, seen=1, last_seq=1),
                Told(at=103.5, seq=1, type="CALL_DIALING", call_id="call-1"),
                Told(at=105.0, seq=2, type="CALL_ENDED", call_id="call-1"),
                PageStands(at=120.0),
            ]
        },
        phones={
            "phone-1": [
                Started(at=98.0),
                PhoneWelcomed(at=99.0, epoch=2),
                Ordered(at=100.1, message_id="cmd-1", call_id="call-1", expires_at=106.0),
                Dialled(at=100.2, call_id="call-1"),
                _reported("msg-1", "CALL_STATUS", "calling"),
                Acked(at=100.4, message_id="msg-1"),
                _reported("msg-2", "CALL_END", "connected"),
                Acked(at=105.1, message_id="msg-2"),
                Acked(at=105.2, message_id="msg-2"),
                PhoneStands(at=120.0, epoch=2, waiting=0),
            ]
        },
        twins=[],
        faults=[Struck(at=100.0, fault="node 1 killed")],
        standing=standing,
        left=left,
    )


def _reported(message_id: str, kind: str, status: str, evidence: str = "in_call_service") -> Reported:
    return Reported(at=100.3, message_id=message_id, call_id="call-1", type=kind, status=status, evidence=evidence)


def test_a_good_run_passes() -> None:
    """Nothing is found where nothing is wrong, and what was judged is counted."""
    verdict = check(good())

    assert [] == verdict.violations
    assert (1, 1, 2, 1) == tuple(verdict.counts[name] for name in ("calls", "dialled", "reports", "faults"))


def test_a_rule_says_what_it_proves() -> None:
    """Its docstring is what docs/faults.md promises."""
    assert [] == [rule.__name__ for rule in RULES if not rule.__doc__]


Plant = Callable[[Histories], None]


def _standing(**rows: object) -> Plant:
    """Let the dump of those who stand hold other rows."""

    def plant(run: Histories) -> None:
        _become(run.standing, **rows)

    return plant


def _left(**rows: object) -> Plant:
    """Let the dump of when all had left hold other rows."""

    def plant(run: Histories) -> None:
        _become(run.left, **rows)

    return plant


def _become(dump: Dump, **rows: object) -> None:
    for name, value in rows.items():
        msgspec.structs.force_setattr(dump, name, value)


def _agent(*lines: record.AgentLine | GivenUp, before: type[record.Line] = PageStands) -> Plant:
    """Let these happen to the agent as well, before the first line of a kind."""
    return lambda run: _insert(run.agents["ann"], lines, before)


def _phone(*lines: record.PhoneLine | GivenUp, before: type[record.Line] = PhoneStands) -> Plant:
    """Let these happen to the phone as well."""
    return lambda run: _insert(run.phones["phone-1"], lines, before)


def _insert(history: list[L], lines: Sequence[L], before: type[record.Line]) -> None:
    at = next(number for number, line in enumerate(history) if isinstance(line, before))
    history[at:at] = lines


def _both(one: Plant, other: Plant) -> Plant:
    """Let both be."""

    def plant(run: Histories) -> None:
        one(run)
        other(run)

    return plant


def _without(kind: type[record.Line], **fields: object) -> Plant:
    """Let lines of a kind, with these fields, not be there."""

    def matches(line: object) -> bool:
        return isinstance(line, kind) and all(getattr(line, name) == value for name, value in fields.items())

    def plant(run: Histories) -> None:
        for lines in (run.agents["ann"], run.phones["phone-1"]):
            lines[:] = [line for line in lines if not matches(line)]  # type: ignore[misc]

    return plant


SECOND = replace(CALL, id="call-2")
EVENTS = good().standing.events

PLANTED: dict[str, tuple[Plant, str, str]] = {
    "a call that has not ended": (
        _standing(calls={"call-1": replace(CALL, status="connected", outcome=None, ended_at=None)}),
        "one_end",
        "call-1",
    ),
    "a call that ended twice": (
        _standing(
            events=[*EVENTS, replace(EVENTS[1], seq=3)],
            streams={"ann": 3},
        ),
        "one_end",
        "call-1",
    ),
    "a call whose agent was not told its end": (
        _standing(events=[EVENTS[0], replace(EVENTS[1], enriched=True)]),
        "one_end",
        "call-1",
    ),
    "an accepted dial that is no call": (
        _agent(Asked(at=110.0, key="key-2"), Accepted(at=110.0, key="key-2", call_id="call-9")),
        "one_end",
        "call-9",
    ),
    "one dial that became two calls": (
        _agent(Accepted(at=110.0, key="key-1", call_id="call-2")),
        "one_end",
        "key-1",
    ),
    "a call that nobody asked for": (_standing(calls={"call-1": CALL, "call-2": SECOND}), "one_end", "ann"),
    "a call of somebody else": (_standing(calls={"call-1": replace(CALL, user_id="ben")}), "one_end", "call-1"),
    "a command executed twice": (
        _phone(Started(at=101.0), Dialled(at=101.5, call_id="call-1")),
        "dialled_once_and_in_time",
        "call-1",
    ),
    "a command executed by two phones": (
        lambda run: run.phones.update({"phone-2": [Dialled(at=101.5, call_id="call-1")]}),
        "dialled_once_and_in_time",
        "call-1",
    ),
    "a command executed after its expiry": (
        _standing(commands=[replace(COMMAND, expires_at=100.1)]),
        "dialled_once_and_in_time",
        "call-1",
    ),
    "a command executed by a phone it was not for": (
        _standing(commands=[replace(COMMAND, device_id="dev-2")]),
        "dialled_once_and_in_time",
        "call-1",
    ),
    "a dial without a command": (_standing(commands=[]), "dialled_once_and_in_time", "call-1"),
    "a report acked and not there": (_standing(reports=[STATUS]), "acked_is_committed", "msg-2"),
    "a report acked and there twice": (_standing(reports=[STATUS, END, END]), "acked_is_committed", "msg-2"),
    "a report acked and there as another": (
        _standing(reports=[STATUS, replace(END, status="busy")]),
        "acked_is_committed",
        "msg-2",
    ),
    "a report acked that nobody said": (
        _phone(Acked(at=110.0, message_id="msg-9")),
        "acked_is_committed",
        "msg-9",
    ),
    "a report refused": (_phone(Spurned(at=110.0, message_id="msg-2", code="X")), "acked_is_committed", "msg-2"),
    "a report that waits in the end": (
        lambda run: run.phones["phone-1"].append(PhoneStands(at=121.0, epoch=2, waiting=1)),
        "acked_is_committed",
        "phone-1",
    ),
    "an end that was told and did not count": (
        _standing(calls={"call-1": replace(CALL, outcome="unknown", closed_by="reaper")}),
        "truth_counts",
        "call-1",
    ),
    "a stronger account that did not count": (
        _both(
            _phone(_reported("msg-3", "CALL_END", "busy", "call_log"), Acked(at=110.0, message_id="msg-3")),
            _standing(reports=[STATUS, END, replace(END, message_id="msg-3", status="busy")]),
        ),
        "truth_counts",
        "call-1",
    ),
    "an event that did not come": (_without(Told, seq=2), "no_event_lost_silently", "ann"),
    "an event passed over": (
        _both(_without(Told, seq=1), _without(PageWelcomed, seen=1)),
        "no_event_lost_silently",
        "ann",
    ),
    "an event told as another": (
        _standing(events=[replace(EVENTS[0], type="CALL_RINGING"), EVENTS[1]]),
        "no_event_lost_silently",
        "ann",
    ),
    "a stream with a hole": (
        _standing(events=EVENTS[1:]),
        "no_event_lost_silently",
        "ann",
    ),
    "a loss that reached too far": (_agent(Lost(at=110.0, to_seq=3)), "no_event_lost_silently", "ann"),
    "a phone that is there and said to be offline": (
        _standing(devices=[replace(DEVICE, online=False)]),
        "presence_is_true",
        "phone-1",
    ),
    "a phone held by an older session": (
        _standing(devices=[replace(DEVICE, epoch=3)]),
        "presence_is_true",
        "phone-1",
    ),
    "a phone said to be at a dead node": (
        _standing(devices=[replace(DEVICE, node="node-x")]),
        "presence_is_true",
        "phone-1",
    ),
    "a phone that has gone and is said to be online": (
        lambda run: run.phones["phone-1"].append(PhoneStands(at=121.0, epoch=None, waiting=0)),
        "presence_is_true",
        "phone-1",
    ),
    "a phone that was not seen at the end": (_without(PhoneStands), "presence_is_true", "phone-1"),
    "a session of a phone too many": (
        _standing(sessions=[SessionsRow(node="node 1", phones=2, pages=1)]),
        "presence_is_true",
        "phones",
    ),
    "a session of a page too many": (
        _standing(sessions=[SessionsRow(node="node 1", phones=1, pages=2)]),
        "presence_is_true",
        "pages",
    ),
    "a page that no node is said to have": (_standing(attended=[]), "presence_is_true", "ann"),
    "a lease of nobody": (
        _standing(nodes=[WEB, WORKER, NodeRow(boot_id="node-x", kind="web", leased=True)]),
        "nothing_leaks",
        "standing",
    ),
    "a lease that ran out and was not swept": (
        _standing(nodes=[WEB, WORKER, NodeRow(boot_id="node-x", kind="web", leased=False)]),
        "nothing_leaks",
        "node-x",
    ),
    "a page at a dead node": (
        _standing(attended=[AttendedRow(user_id="ann", node="node-x")]),
        "nothing_leaks",
        "ann",
    ),
    "a command that waits for ever": (
        _standing(commands=[replace(COMMAND, waits=True)]),
        "nothing_leaks",
        "cmd-1",
    ),
    "a call that the reaper still looks at": (
        _left(calls={"call-1": replace(CALL, reap_at=130.0)}),
        "nothing_leaks",
        "call-1",
    ),
    "a channel of nobody": (_standing(channels=["node-a", "node-x"]), "nothing_leaks", "standing"),
    "a node that hears nothing": (_left(channels=[]), "nothing_leaks", "left"),
    "a session after all have left": (
        _left(sessions=[SessionsRow(node="node 1", phones=1, pages=0)]),
        "nothing_leaks",
        "node 1",
    ),
    "a phone online after all have left": (_left(devices=[DEVICE]), "nothing_leaks", "phone-1"),
    "a page after all have left": (
        _left(attended=[AttendedRow(user_id="ann", node="node-a")]),
        "nothing_leaks",
        "ann",
    ),
    "a phone that was sent away": (
        _phone(GivenUp(at=110.0, code=4501, reason="replaced")),
        "nobody_is_sent_away",
        "phone-1",
    ),
    "a page that was sent away": (_agent(GivenUp(at=110.0, code=401, reason="")), "nobody_is_sent_away", "ann"),
    "a process that ended by itself": (
        lambda run: run.faults.append(Struck(at=110.0, fault="node 2 ended by itself: 1")),
        "nobody_is_sent_away",
        "node 2",
    ),
    "a call that ended before it was made": (
        _standing(calls={"call-1": replace(CALL, ended_at=99.0)}),
        "times_are_possible",
        "call-1",
    ),
    "a call that was answered in the future": (
        _standing(calls={"call-1": replace(CALL, connected_at=86_400.0)}),
        "times_are_possible",
        "call-1",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    """Under its rule, and by the name of whom it befell."""
    plant, rule, about = PLANTED[name]
    run = good()
    plant(run)

    assert (rule, about) in [(violation.rule, violation.about) for violation in check(run).violations]


def test_every_rule_has_something_planted() -> None:
    """So that each is seen to bite."""
    assert {rule.__name__ for rule in RULES} == {rule for _, rule, _ in PLANTED.values()}


def test_a_page_loaded_anew_begins_where_it_is_welcomed() -> None:
    """What came while it was away it reads as rows; nothing is lost silently."""
    run = good()
    _without(Told)(run)
    _agent(Reloaded(at=110.0), PageWelcomed(at=111.0, seen=None, last_seq=2))(run)

    assert [] == check(run).violations


def test_a_loss_that_was_told_is_none() -> None:
    """RESYNC says plainly that events up to a number will not come."""
    run = good()
    _without(Told)(run)
    _agent(Lost(at=110.0, to_seq=2))(run)

    assert [] == check(run).violations
    assert 1 == check(run).counts["streams lost and told so"]


def test_what_a_run_writes_is_what_the_checker_reads(tmp_path: Path) -> None:
    """Histories and dumps survive their files; a line that was not finished, of a run that was killed, does not
    count."""
    run = good()
    for folder, histories in (("agents", run.agents), ("phones", run.phones)):
        for name, lines in histories.items():
            with Journal[object](tmp_path / folder / f"{name}.jsonl") as journal:
                for line in lines:
                    journal.write(line)
    for name, others in (("twins", run.twins), ("faults", run.faults)):
        with Journal[object](tmp_path / f"{name}.jsonl") as journal:
            for other in others:
                journal.write(other)
    for name, dump in (("standing", run.standing), ("left", run.left)):
        with Journal[object](tmp_path / f"{name}.jsonl") as journal:
            for row in _rows(dump):
                journal.write(row)
    with (tmp_path / "phones" / "phone-1.jsonl").open("ab") as file:
        file.write(b'{"what":"dialled","call_')

    again: Verdict = check(record.read(tmp_path))

    assert (run, []) == (record.read(tmp_path), again.violations)
    assert ["agents/ann.jsonl", "phones/phone-1.jsonl"] == sorted(
        {line.split()[1] for line in record.about(tmp_path, "call-1") if "/" in line}
    )


def _rows(dump: Dump) -> list[record.DumpRow]:
    return [
        *dump.calls.values(),
        *dump.reports,
        *dump.commands,
        *dump.devices,
        *(record.StreamRow(user_id=user_id, last_seq=last) for user_id, last in dump.streams.items()),
        *dump.events,
        *dump.nodes,
        *dump.attended,
        *dump.sessions,
        *(record.ChannelRow(node=node) for node in dump.channels),
        *(record.AliveRow(kind=kind, count=count) for kind, count in dump.alive.items()),
    ]
