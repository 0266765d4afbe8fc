"""One side of a WebSocket: how it opens, what it forgives, and what it makes of silence. Time is an argument."""

from collections.abc import Iterator
from typing import Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import CloseCode
from protocol.messages import (
    CallStatus,
    DeviceOnline,
    Dial,
    FromAgent,
    FromPhone,
    Heartbeat,
    Hello,
    encode,
    from_agent,
    from_phone,
)
from protocol.session import Close, Due, Heard, Inbound, Opened, Refused, Repeated, Session, SessionLimits

LIMITS = SessionLimits()
PATIENT = SessionLimits(message_burst=1e9)  # closes nobody for speaking much
FIRST = encode(DeviceOnline(connection=1), "first")
ALIVE = encode(Heartbeat(), "alive")
BAD = b'{"type":'
UNKNOWN = b'{"type":"TELEPORT","messageId":"m"}'


def report(message_id: str) -> bytes:
    return encode(CallStatus(call_id="call_1", status="ringing"), message_id)


def opening(now: float = 0.0, limits: SessionLimits = LIMITS) -> Session[FromPhone]:
    return Session(from_phone, DeviceOnline, limits, now)


def ready(now: float = 0.0, limits: SessionLimits = LIMITS) -> Session[FromPhone]:
    session = opening(now, limits)
    assert isinstance(session.receive(FIRST, now), Opened)
    return session


def kind_of(result: Inbound[FromPhone]) -> type[object]:
    return type(result)


# --- opening ---------------------------------------------------------------------------------------------------------


def test_the_right_first_message_opens_a_session() -> None:
    """A phone says DEVICE_ONLINE and the session is ready; what it said is handed on."""
    session = opening()
    assert not session.ready
    result = session.receive(FIRST, 9.9)

    assert isinstance(result, Opened)
    assert (True, DeviceOnline(connection=1), "first") == (
        session.ready,
        result.envelope.message,
        result.envelope.message_id,
    )


def test_a_page_opens_its_session_with_hello_and_may_say_it_again() -> None:
    """HELLO opens a page's session; later it is a message like any other, the request to resume."""
    session: Session[FromAgent] = Session(from_agent, Hello, LIMITS, 0.0)

    assert isinstance(session.receive(encode(Hello()), 1.0), Opened)
    assert isinstance(session.receive(encode(Hello(last_seq=7)), 2.0), Heard)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ALIVE, id="another message"),
        pytest.param(encode(Dial()), id="another speaker's message"),
        pytest.param(UNKNOWN, id="an unknown type"),
        pytest.param(BAD, id="half a frame"),
        pytest.param(b"\xff", id="no text"),
        pytest.param("", id="nothing"),
    ],
)
def test_any_other_first_message_closes(frame: str | bytes) -> None:
    """Who does not say first what he must is closed with 4400 and told what he should have said."""
    session = opening()

    assert Close(4400, "the first message must be DEVICE_ONLINE") == session.receive(frame, 1.0)
    assert not session.ready


def test_silence_instead_of_a_first_message_closes() -> None:
    """Ten seconds without a word, and not a moment less, are enough; nobody is probed before."""
    session = opening(now=100.0)

    assert 110.0 == session.next_deadline()
    assert [Due.NOTHING, Due.NOTHING, Due.CLOSE] == [session.due(now) for now in (100.0, 109.999, 110.0)]


def test_a_session_that_is_ready_is_not_closed_for_its_first_message() -> None:
    """Once it is open, the time for opening it is forgotten."""
    session = ready()

    assert Due.NOTHING == session.due(10.0)


# --- repeats ---------------------------------------------------------------------------------------------------------


def test_a_message_is_heard_until_its_work_is_done_and_repeated_after() -> None:
    """A repeat before the commit is work to do; one after it asks only for the acknowledgement again."""
    session = ready()

    assert isinstance(session.receive(report("r1"), 1.0), Heard)
    assert isinstance(session.receive(report("r1"), 2.0), Heard)
    session.done("r1")
    assert Repeated("r1") == session.receive(report("r1"), 3.0)
    assert Repeated("r1") == session.receive(report("r1"), 4.0)
    assert isinstance(session.receive(report("r2"), 5.0), Heard)


def test_messages_without_an_id_are_never_repeats() -> None:
    """The heartbeats of simple clients bear no id; none of them is taken for another."""
    session = ready()

    assert [Heard] * 3 == [kind_of(session.receive('{"type":"HEARTBEAT"}', 1.0)) for _ in range(3)]


def test_the_memory_for_repeats_is_bounded() -> None:
    """The oldest of the ids is forgotten for the newest; its repeat is heard again, and the database knows it."""
    session = ready(limits=SessionLimits(duplicate_window=3))
    for message_id in ("r1", "r2", "r3", "r4"):
        session.done(message_id)

    assert [Heard, Repeated, Repeated, Repeated] == [
        kind_of(session.receive(report(message_id), 1.0)) for message_id in ("r1", "r2", "r3", "r4")
    ]


def test_work_that_is_done_twice_takes_one_place() -> None:
    """Noting the same id again pushes no other out."""
    session = ready(limits=SessionLimits(duplicate_window=2))
    for message_id in ("r1", "r2", "r2", "r2"):
        session.done(message_id)

    assert Repeated("r1") == session.receive(report("r1"), 1.0)


# --- frames that are no messages -------------------------------------------------------------------------------------


def test_the_tenth_bad_frame_within_a_minute_closes() -> None:
    """Nine are answered and forgiven; the tenth closes 4400."""
    session = ready()
    results = [session.receive(BAD, float(second)) for second in range(10)]

    assert [Refused] * 9 == [kind_of(result) for result in results[:9]]
    assert Close(CloseCode.FIRST_MESSAGE, "too many malformed frames") == results[9]


def test_bad_frames_are_forgotten_after_a_minute() -> None:
    """Nine in each of many minutes close nothing, for those of the last minute no longer count."""
    session = ready(limits=PATIENT)
    results = [session.receive(BAD, 60.0 * minute) for minute in range(5) for _ in range(9)]

    assert {Refused} == {kind_of(result) for result in results}


def test_a_bad_frame_counts_until_a_minute_has_passed() -> None:
    """Just before the minute is over the nine still count."""
    session = ready()
    for _ in range(9):
        session.receive(BAD, 0.0)

    assert isinstance(session.receive(BAD, 59.999), Close)


def test_unknown_types_are_refused_for_ever() -> None:
    """A newer app may say what we do not know as often as it likes: it is no fault of form."""
    session = ready()
    results = [session.receive(UNKNOWN, 0.0) for _ in range(50)]

    assert {"UNKNOWN_TYPE"} == {result.error.code for result in results if isinstance(result, Refused)}
    assert {Refused} == {kind_of(result) for result in results}


def test_a_refusal_says_what_was_wrong() -> None:
    """The driver gets the error whole, to answer with."""
    result = ready().receive('{"type":"CALL_STATUS","messageId":"m7","data":{}}', 1.0)

    assert isinstance(result, Refused)
    assert ("BAD_MESSAGE", "m7") == (result.error.code, result.error.details["messageId"])


# --- too many messages -----------------------------------------------------------------------------------------------


def test_a_burst_is_taken_and_one_more_closes() -> None:
    """As many messages as the burst at one moment, then 4429."""
    session = ready(limits=SessionLimits(message_burst=5, messages_per_second=1))
    results = [session.receive(ALIVE, 0.0) for _ in range(5)]  # the first message was one of the five

    assert [Heard] * 4 == [kind_of(result) for result in results[:4]]
    assert Close(CloseCode.TOO_MANY_MESSAGES, "too many messages") == results[4]


def test_time_makes_room_for_more_messages() -> None:
    """After a burst the rate is allowed, message by message."""
    session = ready(limits=SessionLimits(message_burst=4, messages_per_second=2))
    results = [session.receive(ALIVE, now) for now in (0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 1.5)]

    assert [Heard] * 6 + [Close] == [kind_of(result) for result in results]


def test_a_long_silence_makes_room_for_a_burst_and_no_more() -> None:
    """What is not said is not saved up beyond the burst."""
    session = ready(limits=SessionLimits(message_burst=3, messages_per_second=1))
    results = [session.receive(ALIVE, 1_000_000.0) for _ in range(4)]

    assert [Heard, Heard, Heard, Close] == [kind_of(result) for result in results]


@pytest.mark.parametrize("frame", [BAD, UNKNOWN, report("done")], ids=["malformed", "unknown", "repeated"])
def test_frames_that_do_no_work_count_too(frame: bytes) -> None:
    """A flood is a flood whatever it consists of."""
    session = ready(limits=SessionLimits(message_burst=4, bad_frames_per_minute=100))
    session.done("done")
    results = [session.receive(frame, 0.0) for _ in range(4)]

    assert Close(CloseCode.TOO_MANY_MESSAGES, "too many messages") == results[3]


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(2, 10), st.integers(1, 5))
def test_no_pace_exceeds_burst_and_rate(gaps: list[float], burst: int, rate: int) -> None:
    """However messages are spread, those taken are never more than the burst and what the rate adds since."""
    session = ready(limits=SessionLimits(message_burst=burst, messages_per_second=rate))
    now, taken = 0.0, 1
    for gap in gaps:
        now += gap
        if isinstance(session.receive(ALIVE, now), Close):
            break
        taken += 1

    assert taken <= burst + rate * now + 1e-6


# --- silence ---------------------------------------------------------------------------------------------------------


def test_silence_probes_then_tells_offline_then_closes() -> None:
    """25 s: a HEARTBEAT; 60 s: offline; 90 s: closed. Each is told once, at its time and not before."""
    session = ready()
    times = (24.999, 25.0, 25.001, 59.999, 60.0, 60.001, 89.999, 90.0)

    assert [
        Due.NOTHING,
        Due.PROBE,
        Due.NOTHING,
        Due.NOTHING,
        Due.OFFLINE,
        Due.NOTHING,
        Due.NOTHING,
        Due.CLOSE,
    ] == [session.due(now) for now in times]


@pytest.mark.parametrize("frame", [ALIVE, BAD, UNKNOWN, report("done")], ids=["heard", "bad", "unknown", "repeated"])
def test_any_frame_is_a_sign_of_life(frame: bytes) -> None:
    """Whatever arrives, the silence begins anew, and with it probe and offline."""
    session = ready()
    session.done("done")
    assert [Due.PROBE, Due.OFFLINE] == [session.due(25.0), session.due(60.0)]
    session.receive(frame, 80.0)

    assert (False, 80.0) == (session.offline, session.last_heard)
    assert [
        Due.NOTHING,
        Due.PROBE,
        Due.OFFLINE,
        Due.CLOSE,
    ] == [session.due(now) for now in (104.0, 105.0, 140.0, 170.0)]


@pytest.mark.parametrize("frame", [ALIVE, BAD, UNKNOWN, report("done")], ids=["heard", "bad", "unknown", "repeated"])
def test_the_first_frame_after_offline_revives(frame: bytes) -> None:
    """It is told once, on whatever comes first, that the peer is back."""
    session = ready()
    session.done("done")
    assert [False, Due.OFFLINE, True] == [session.offline, session.due(60.0), session.offline]
    first, second = session.receive(frame, 61.0), session.receive(frame, 62.0)

    assert isinstance(first, Heard | Refused | Repeated)
    assert isinstance(second, Heard | Refused | Repeated)
    assert (True, False) == (first.revived, second.revived)


def test_a_probe_alone_makes_nobody_offline() -> None:
    """Who answers the probe has never been away."""
    session = ready()
    assert Due.PROBE == session.due(25.0)
    result = session.receive(ALIVE, 26.0)

    assert isinstance(result, Heard)
    assert not result.revived


def test_a_driver_that_comes_late_still_tells_each_once() -> None:
    """A node that was busy past the time for the probe tells offline first, and does not forget the probe."""
    session = ready()

    assert [Due.OFFLINE, Due.PROBE, Due.NOTHING] == [session.due(now) for now in (61.0, 61.0, 61.0)]


def test_a_driver_that_comes_much_too_late_closes_at_once() -> None:
    """After the time for closing nothing else is worth telling."""
    assert Due.CLOSE == ready().due(1000.0)


def actions_until(session: Session[FromPhone], now: float, end: float) -> Iterator[Due]:
    """Drive a session as a node does: sleep until exactly `next_deadline`, ask what is due, and so on until `end`.

    One silence has three things to tell; more are yielded of a session that loops, but not for ever.
    """
    for _ in range(5):
        if (deadline := session.next_deadline()) > end:
            return
        now = max(now, deadline)
        action = session.due(now)
        yield action
        if action is Due.CLOSE:
            return


@given(
    st.floats(0, 1e7),
    st.lists(st.floats(0, 200), max_size=10),
    st.sampled_from([LIMITS, SessionLimits(probe_after=0.1, offline_after=0.3, close_after=0.7, first_message=0.2)]),
)
@example(4.1, [], LIMITS)  # 4.1 + 60 - 4.1 < 60
def test_a_driver_that_sleeps_until_the_deadline_never_wakes_for_nothing(
    start: float, gaps: list[float], limits: SessionLimits
) -> None:
    """At each deadline there is something to do, each thing is told once a silence and in order, and so none loops."""
    session = ready(start, limits)
    now = start
    for gap in [*gaps, 200.0]:
        actions = list(actions_until(session, now, now + gap))

        assert [Due.PROBE, Due.OFFLINE, Due.CLOSE][: len(actions)] == actions
        if Due.CLOSE in actions:
            return
        now += gap
        session.receive(ALIVE, now)


@given(st.floats(0, 1e7))
@example(9.4)  # 9.4 + 10 - 9.4 < 10
def test_a_driver_wakes_once_for_a_first_message_that_does_not_come(start: float) -> None:
    """The one deadline of a session that is not open is the one that closes it."""
    assert [Due.CLOSE] == list(actions_until(opening(start), start, start + 200.0))


# --- all of it together ----------------------------------------------------------------------------------------------

Step = tuple[Literal["alive", "report", "bad", "unknown", "ask"], float]
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(["alive", "report", "bad", "unknown", "ask"]),
        st.one_of(
            st.integers(0, 2048).map(lambda n: n / 1024), st.sampled_from([24.875, 25.0, 35.0, 60.0, 89.875, 90.0])
        ),
    ),
    max_size=60,
)
FRAMES = {"alive": ALIVE, "report": report("r"), "bad": BAD, "unknown": UNKNOWN}


@given(steps)
def test_a_session_tells_of_each_change_exactly_once(taken: list[Step]) -> None:
    """Offline and back alternate, whatever frames and questions come, and only two things ever close."""
    session = ready(limits=PATIENT)
    session.done("r")
    now, told, last_heard = 0.0, ["back"], 0.0
    bad: list[float] = []
    for kind, gap in taken:
        now += gap
        if kind == "ask":
            match session.due(now):
                case Due.OFFLINE:
                    told.append("offline")
                case Due.CLOSE:
                    assert now - last_heard >= LIMITS.close_after
                    break
            continue
        last_heard = now
        if kind == "bad":
            bad.append(now)
        match session.receive(FRAMES[kind], now):
            case Close(code=code):
                assert (4400, "bad") == (code, kind)
                assert len([at for at in bad if now - at < 60]) >= LIMITS.bad_frames_per_minute
                break
            case Heard(revived=True) | Repeated(revived=True) | Refused(revived=True):
                told.append("back")
        assert not session.offline

    assert [("back", "offline")[position % 2] for position in range(len(told))] == told


def test_limits_are_the_documented_ones() -> None:
    """Seed 003 §8.4 and docs/protocol.md: apps are written to these."""
    assert {
        "first_message": 10.0,
        "probe_after": 25.0,
        "offline_after": 60.0,
        "close_after": 90.0,
        "bad_frames_per_minute": 10,
    }.items() <= msgspec.structs.asdict(LIMITS).items()
