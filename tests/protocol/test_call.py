"""The life of a call, told here a second time as plain orders, and what holds for any reports whatever."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.call import (
    AlreadyThere,
    CallState,
    ClosedBy,
    End,
    Evidence,
    HangupCause,
    Illegal,
    Moved,
    Outcome,
    Progress,
    Status,
    advance,
)

CREATED = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
NOW = CREATED + timedelta(minutes=5)
DAY = 24 * 60 * 60

ORDER = [Status.PENDING, Status.CALLING, Status.RINGING, Status.CONNECTED, Status.ENDED]
STRENGTH = {
    Evidence.SERVER: "none",
    Evidence.ASSUMED: "weak",
    Evidence.IN_CALL_SERVICE: "live",
    Evidence.CX_CALL: "live",
    Evidence.CALL_LOG: "record",
    Evidence.PROVIDER_RECORD: "record",
}
WEAK_TO_STRONG = ["none", "weak", "live", "record"]


def outweighs(outcome: Outcome, evidence: Evidence, known: Outcome, known_by: Evidence) -> bool:
    """What is known beats `unknown`, whoever says so; between two that know, or two that do not, evidence decides."""
    if (outcome is Outcome.UNKNOWN) != (known is Outcome.UNKNOWN):
        return known is Outcome.UNKNOWN
    return WEAK_TO_STRONG.index(STRENGTH[evidence]) > WEAK_TO_STRONG.index(STRENGTH[known_by])


def after(seconds: float) -> datetime:
    return CREATED + timedelta(seconds=seconds)


def call_at(status: Status) -> CallState:
    return CallState(created_at=CREATED, status=status)


def moved(state: CallState, event: Progress | End, now: datetime = NOW) -> CallState:
    result = advance(state, event, now)
    assert isinstance(result, Moved)
    return result.state


def end(outcome: Outcome, evidence: Evidence = Evidence.ASSUMED, at: datetime = NOW, by: ClosedBy = "phone") -> End:
    return End(outcome=outcome, at=at, by=by, evidence=evidence)


# --- every status, every event ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", Evidence)
@pytest.mark.parametrize("told", ORDER[:-1])
@pytest.mark.parametrize("status", ORDER)
def test_progress_moves_a_call_forwards_only(status: Status, told: Status, evidence: Evidence) -> None:
    """A later status moves the call whatever it skips, the same one says nothing new, and an earlier one is illegal."""
    result = advance(call_at(status), Progress(told, NOW, evidence), NOW)

    if ORDER.index(told) > ORDER.index(status):
        assert isinstance(result, Moved)
        assert (told, False) == (result.state.status, result.enriched)
    elif told is status:
        assert AlreadyThere() == result
    else:
        assert Illegal() == result


@pytest.mark.parametrize("evidence", Evidence)
@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("status", ORDER[:-1])
def test_an_end_ends_a_live_call_at_once(status: Status, outcome: Outcome, evidence: Evidence) -> None:
    """From any status but `ended`, an account of the end is taken as told, on whatever evidence."""
    result = advance(call_at(status), end(outcome, evidence), NOW)

    assert isinstance(result, Moved)
    assert not result.enriched
    assert (Status.ENDED, outcome, evidence, "phone", NOW) == (
        result.state.status,
        result.state.outcome,
        result.state.evidence,
        result.state.closed_by,
        result.state.ended_at,
    )


@pytest.mark.parametrize("evidence", Evidence)
@pytest.mark.parametrize("outcome", Outcome)
def test_a_second_end_counts_only_if_it_outweighs_the_first(outcome: Outcome, evidence: Evidence) -> None:
    """On an ended call a stronger account replaces the first and is marked `enriched`; any other changes nothing."""
    ended = moved(call_at(Status.PENDING), end(outcome, evidence))
    second = {(o, e): end(o, e, by="provider") for o, e in product(Outcome, Evidence)}

    expected = {
        (o, e): (True, Status.ENDED, o, e, "provider") if outweighs(o, e, outcome, evidence) else AlreadyThere()
        for o, e in second
    }
    results = {key: advance(ended, event, NOW) for key, event in second.items()}
    actual = {
        key: (
            result.enriched,
            result.state.status,
            result.state.outcome,
            result.state.evidence,
            result.state.closed_by,
        )
        if isinstance(result, Moved)
        else result
        for key, result in results.items()
    }

    assert expected == actual


# --- times, talk and causes ------------------------------------------------------------------------------------------


def test_each_step_is_dated_and_dialling_keeps_its_first_date() -> None:
    """The times of dialling, ringing and answer are those of the reports that told them."""
    state = call_at(Status.PENDING)
    state = moved(state, Progress(Status.CALLING, after(1)))
    state = moved(state, Progress(Status.RINGING, after(3)))
    state = moved(state, Progress(Status.CONNECTED, after(9), Evidence.IN_CALL_SERVICE))

    assert (after(1), after(3), after(9), Evidence.IN_CALL_SERVICE) == (
        state.dialing_at,
        state.ringing_at,
        state.connected_at,
        state.connected_evidence,
    )


def test_a_call_that_is_heard_of_late_was_dialled_then_at_the_latest() -> None:
    """A handset that sees only the answer dates the dialling too, and no ringing is made up."""
    state = moved(call_at(Status.PENDING), Progress(Status.CONNECTED, after(9)))

    assert (after(9), None, after(9)) == (state.dialing_at, state.ringing_at, state.connected_at)


@pytest.mark.parametrize("clock", [datetime(1970, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, tzinfo=UTC)])
def test_a_clock_decades_behind_cannot_date_a_call_before_it_was_made(clock: datetime) -> None:
    """What a phone with an empty clock battery claims is moved to the moment the call was made."""
    answered = moved(call_at(Status.PENDING), Progress(Status.CONNECTED, clock))
    ended = moved(answered, end(Outcome.CONNECTED, at=clock))

    assert (CREATED, CREATED, 0) == (ended.connected_at, ended.ended_at, ended.duration)


@pytest.mark.parametrize("clock", [datetime(2070, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
def test_a_clock_decades_ahead_cannot_date_a_call_after_now(clock: datetime) -> None:
    """What a phone of the future claims is moved to the moment of judging."""
    answered = moved(call_at(Status.PENDING), Progress(Status.CONNECTED, clock), after(20))
    ended = moved(answered, end(Outcome.CONNECTED, at=clock), after(80))

    assert (after(20), after(80), 60) == (ended.connected_at, ended.ended_at, ended.duration)


def test_a_clock_in_another_zone_is_read_as_the_instant_it_names() -> None:
    """18:01 in China is 10:01 in UTC."""
    china = timezone(timedelta(hours=8))
    ended = moved(call_at(Status.PENDING), end(Outcome.MISSED, at=datetime(2026, 11, 21, 18, 1, tzinfo=china)))

    assert after(60) == ended.ended_at


def test_an_end_before_its_start_has_no_talk() -> None:
    """Where a phone puts the end before the answer, the talk lasted nothing rather than less."""
    ended = moved(
        call_at(Status.PENDING), End(outcome=Outcome.CONNECTED, at=after(30), by="phone", started_at=after(90))
    )

    assert (after(30), after(30), 0) == (ended.connected_at, ended.ended_at, ended.duration)


def test_a_clock_that_is_put_back_during_a_call_makes_no_talk_negative() -> None:
    """An answer after the end, told by one phone before and after it was set right, makes a talk of nothing."""
    answered = moved(call_at(Status.CALLING), Progress(Status.CONNECTED, after(50)))
    ended = moved(answered, end(Outcome.CONNECTED, at=after(10)))

    assert 0 == ended.duration


def test_a_call_is_never_dated_before_it_was_made() -> None:
    """Also where the node that judges has a clock behind that of the node that made the call."""
    ended = moved(call_at(Status.CALLING), end(Outcome.MISSED, at=after(10)), now=after(-5))

    assert CREATED == ended.ended_at


@pytest.mark.parametrize(
    ("told", "kept"), [(-1, 0), (-(10**12), 0), (0, 0), (180, 180), (DAY, DAY), (DAY + 1, DAY), (10**12, DAY)]
)
def test_talk_is_kept_between_nothing_and_a_day(told: int, kept: int) -> None:
    """A duration that no call can have is moved to the nearest one that a call can."""
    ended = moved(call_at(Status.PENDING), End(outcome=Outcome.CONNECTED, at=NOW, by="phone", duration=told))

    assert kept == ended.duration


def test_the_answer_is_dated_back_from_the_end_by_the_talk() -> None:
    """A provider that tells only the end and the talk has told the answer, on that evidence."""
    ended = moved(
        call_at(Status.RINGING),
        End(outcome=Outcome.CONNECTED, at=after(100), by="provider", evidence=Evidence.PROVIDER_RECORD, duration=40),
    )

    assert (after(60), Evidence.PROVIDER_RECORD) == (ended.connected_at, ended.connected_evidence)


def test_talk_is_reckoned_from_the_answer_where_nobody_tells_it() -> None:
    """Without a duration the talk is what lies between answer and end."""
    answered = moved(call_at(Status.CALLING), Progress(Status.CONNECTED, after(10), Evidence.CX_CALL))
    ended = moved(answered, end(Outcome.CONNECTED, at=after(70.9)))

    assert (60, Evidence.CX_CALL) == (ended.duration, ended.connected_evidence)


def test_talk_that_nobody_can_know_stays_unknown() -> None:
    """An answered call without a known answer, and a call of unknown outcome, have no duration at all."""
    answered = moved(call_at(Status.CALLING), end(Outcome.CONNECTED))
    lost = moved(call_at(Status.CONNECTED), end(Outcome.UNKNOWN, Evidence.SERVER, by="reaper"))

    assert (None, None, None) == (answered.duration, answered.connected_evidence, lost.duration)


@pytest.mark.parametrize("outcome", [Outcome.MISSED, Outcome.BUSY, Outcome.REJECTED, Outcome.FAILED, Outcome.CANCELLED])
def test_a_call_that_was_not_answered_has_no_talk(outcome: Outcome) -> None:
    """Whatever duration is told for it: some handsets count the ringing."""
    ended = moved(call_at(Status.RINGING), End(outcome=outcome, at=NOW, by="phone", duration=25))

    assert 0 == ended.duration


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
        (Outcome.MISSED, HangupCause.NO_ANSWER),
        (Outcome.BUSY, HangupCause.USER_BUSY),
        (Outcome.REJECTED, HangupCause.CALL_REJECTED),
        (Outcome.FAILED, HangupCause.UNKNOWN),
        (Outcome.CANCELLED, HangupCause.CANCELLED),
        (Outcome.UNKNOWN, HangupCause.UNKNOWN),
    ],
)
def test_an_end_without_a_cause_has_the_usual_one(outcome: Outcome, cause: HangupCause) -> None:
    """Each outcome implies a cause where none is told."""
    ended = moved(call_at(Status.CALLING), end(outcome))

    assert cause == ended.hangup_cause


def test_a_told_cause_is_kept_with_the_raw_one() -> None:
    """The cause a phone tells wins over the usual one, and its own word is kept beside it."""
    told = End(outcome=Outcome.FAILED, at=NOW, by="phone", cause=HangupCause.NO_SIM, raw_cause="SIM_STATE_ABSENT")
    ended = moved(call_at(Status.CALLING), told)

    assert (HangupCause.NO_SIM, "SIM_STATE_ABSENT") == (ended.hangup_cause, ended.raw_cause)


# --- the second account ----------------------------------------------------------------------------------------------


def test_a_record_corrects_what_the_phone_assumed() -> None:
    """The call log is believed over the assumption in all it tells: outcome, cause, end and talk."""
    assumed = moved(call_at(Status.CALLING), End(outcome=Outcome.CONNECTED, at=after(60), by="phone", duration=50))
    logged = moved(assumed, end(Outcome.BUSY, Evidence.CALL_LOG, at=after(20)))

    assert (Outcome.BUSY, HangupCause.USER_BUSY, after(20), 0) == (
        logged.outcome,
        logged.hangup_cause,
        logged.ended_at,
        logged.duration,
    )


def test_the_truth_is_taken_after_the_reaper_gave_the_call_up() -> None:
    """What the server closed for want of news is corrected by the first phone that knows better."""
    reaped = End(outcome=Outcome.UNKNOWN, at=after(60), by="reaper", evidence=Evidence.SERVER, cause=HangupCause.LOST)
    told = End(outcome=Outcome.CONNECTED, at=after(50), by="phone", duration=30)
    result = advance(moved(call_at(Status.CALLING), reaped), told, NOW)

    assert isinstance(result, Moved)
    assert (True, Outcome.CONNECTED, "phone", HangupCause.NORMAL_CLEARING, after(50), 30) == (
        result.enriched,
        result.state.outcome,
        result.state.closed_by,
        result.state.hangup_cause,
        result.state.ended_at,
        result.state.duration,
    )


@pytest.mark.parametrize("outcome", [Outcome.MISSED, Outcome.BUSY, Outcome.REJECTED, Outcome.FAILED, Outcome.CANCELLED])
@pytest.mark.parametrize("ended_before", [False, True])
def test_an_answer_that_was_none_is_forgotten(outcome: Outcome, ended_before: bool) -> None:
    """A live signal took the agent's telephone, or a voice from the network, for the customer; the record knows."""
    call = moved(call_at(Status.PENDING), Progress(Status.CALLING, after(5)))
    call = moved(call, Progress(Status.CONNECTED, after(20), Evidence.IN_CALL_SERVICE))
    if ended_before:
        call = moved(call, End(outcome=Outcome.CONNECTED, at=after(30), by="phone", evidence=Evidence.IN_CALL_SERVICE))
    record = End(outcome=outcome, at=after(15), by="provider", evidence=Evidence.PROVIDER_RECORD)
    call = moved(call, record)

    assert (None, None, 0) == (call.connected_at, call.connected_evidence, call.duration)
    assert after(15) == call.ended_at


@pytest.mark.parametrize(
    ("outcome", "evidence"),
    [
        (Outcome.UNKNOWN, Evidence.SERVER),
        (Outcome.MISSED, Evidence.ASSUMED),
        (Outcome.MISSED, Evidence.IN_CALL_SERVICE),
        (Outcome.UNKNOWN, Evidence.PROVIDER_RECORD),
    ],
)
def test_an_answer_stands_against_who_knows_no_better(outcome: Outcome, evidence: Evidence) -> None:
    """Who gives a call up, or assumes, or says that he does not know, takes nothing back."""
    call = moved(call_at(Status.RINGING), Progress(Status.CONNECTED, after(20), Evidence.IN_CALL_SERVICE))
    call = moved(call, End(outcome=outcome, at=after(30), by="provider", evidence=evidence))

    assert after(20) == call.connected_at


def test_a_stronger_account_leaves_what_it_does_not_speak_of() -> None:
    """A record that says nothing of cause and recording keeps what the weaker account said of them."""
    assumed = End(
        outcome=Outcome.FAILED,
        at=NOW,
        by="phone",
        cause=HangupCause.INVALID_NUMBER,
        raw_cause="28",
        has_recording=True,
        recording_size=1024,
    )
    logged = moved(moved(call_at(Status.CALLING), assumed), end(Outcome.FAILED, Evidence.CALL_LOG))

    assert (Evidence.CALL_LOG, HangupCause.INVALID_NUMBER, "28", True, 1024) == (
        logged.evidence,
        logged.hangup_cause,
        logged.raw_cause,
        logged.has_recording,
        logged.recording_size,
    )


def test_a_stronger_account_replaces_what_it_does_speak_of() -> None:
    """A record that tells cause and recording is believed, also where it says that there is none."""
    assumed = End(
        outcome=Outcome.FAILED, at=NOW, by="phone", cause=HangupCause.TIMEOUT, raw_cause="assumed", has_recording=True
    )
    record = End(
        outcome=Outcome.FAILED,
        at=NOW,
        by="provider",
        evidence=Evidence.PROVIDER_RECORD,
        cause=HangupCause.SUSPENDED,
        raw_cause="0x15",
        has_recording=False,
        recording_size=0,
    )
    corrected = moved(moved(call_at(Status.CALLING), assumed), record)

    assert (HangupCause.SUSPENDED, "0x15", False, 0) == (
        corrected.hangup_cause,
        corrected.raw_cause,
        corrected.has_recording,
        corrected.recording_size,
    )


def test_a_weaker_account_fills_the_blanks_of_a_stronger_one() -> None:
    """What the record left out may be told by anybody who agrees with it, and the record stays the evidence."""
    logged = moved(call_at(Status.CALLING), end(Outcome.CONNECTED, Evidence.CALL_LOG, at=after(100)))
    told = End(
        outcome=Outcome.CONNECTED,
        at=after(200),
        by="phone",
        duration=40,
        raw_cause="16",
        has_recording=True,
        recording_size=99,
    )
    result = advance(logged, told, NOW)

    assert isinstance(result, Moved)
    assert (True, Evidence.CALL_LOG, after(100), after(60), 40, "16", True, 99) == (
        result.enriched,
        result.state.evidence,
        result.state.ended_at,
        result.state.connected_at,
        result.state.duration,
        result.state.raw_cause,
        result.state.has_recording,
        result.state.recording_size,
    )


def test_the_talk_of_a_weaker_account_that_disagrees_is_not_taken() -> None:
    """Who says that nobody answered cannot tell the talk of a call whose record says that somebody did."""
    known = moved(call_at(Status.CALLING), end(Outcome.CONNECTED, Evidence.PROVIDER_RECORD, by="provider"))
    result = advance(known, End(outcome=Outcome.MISSED, at=NOW, by="phone", duration=40), NOW)

    assert AlreadyThere() == result


def test_any_knowledge_fills_an_unknown_outcome_and_none_gives_way_to_it() -> None:
    """`unknown` is a blank: the best evidence for it yields to an assumption, and does not unsay one."""
    unknown = end(Outcome.UNKNOWN, Evidence.PROVIDER_RECORD, by="provider")
    assumed = end(Outcome.BUSY, Evidence.ASSUMED)
    corrected = moved(moved(call_at(Status.CALLING), unknown), assumed)

    assert (Outcome.BUSY, Evidence.ASSUMED, HangupCause.USER_BUSY) == (
        corrected.outcome,
        corrected.evidence,
        corrected.hangup_cause,
    )
    assert AlreadyThere() == advance(corrected, unknown, NOW)


# --- whatever is reported --------------------------------------------------------------------------------------------

clocks = st.one_of(
    st.integers(-60, 600).map(after),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=8)), timezone(timedelta(hours=-11))])),
)
durations = st.none() | st.integers(-100, 100_000) | st.integers(-(10**18), 10**18)
progresses = st.builds(Progress, st.sampled_from(ORDER[:-1]), clocks, st.sampled_from(Evidence))
ends = st.builds(
    End,
    outcome=st.sampled_from(Outcome),
    at=clocks,
    by=st.sampled_from(["phone", "provider", "reaper", "server"]),
    evidence=st.sampled_from(Evidence),
    started_at=st.none() | clocks,
    duration=durations,
    cause=st.none() | st.sampled_from(HangupCause),
    raw_cause=st.none() | st.sampled_from(["", "16", "17"]),
    has_recording=st.none() | st.booleans(),
    recording_size=st.none() | st.integers(0, 10**9),
)
delays = st.floats(0, 3600).map(lambda seconds: timedelta(seconds=seconds))
histories = st.lists(st.tuples(progresses | ends, delays), max_size=12)


def live(history: Iterable[tuple[Progress | End, timedelta]]) -> Iterator[tuple[CallState, datetime]]:
    """Yield the call and the time after each report."""
    state, now = call_at(Status.PENDING), CREATED
    for event, delay in history:
        now += delay
        result = advance(state, event, now)
        if isinstance(result, Moved):
            state = result.state
        yield state, now


@given(histories)
def test_no_history_moves_a_call_backwards(history: list[tuple[Progress | End, timedelta]]) -> None:
    """The status only rises, and so an ended call stays ended."""
    steps = [ORDER.index(state.status) for state, _ in live(history)]

    assert sorted(steps) == steps


@given(histories, progresses | ends, delays)
def test_a_report_that_is_repeated_changes_nothing(
    history: list[tuple[Progress | End, timedelta]], event: Progress | End, delay: timedelta
) -> None:
    """A report that comes twice in a row, however late the second time, is acted on once."""
    *_, (state, now) = live([*history, (event, timedelta())])

    assert not isinstance(advance(state, event, now + delay), Moved)


@given(histories)
def test_an_older_report_that_is_repeated_leaves_the_verdict(history: list[tuple[Progress | End, timedelta]]) -> None:
    """Saying again anything that was said before changes neither status nor outcome nor evidence."""
    events = [event for event, _ in history]
    *_, (once, _) = [(call_at(Status.PENDING), CREATED), *live(history)]
    *_, (twice, _) = [(once, CREATED), *live([*history, *((event, timedelta()) for event in events)])]

    assert (once.status, once.outcome, once.evidence) == (twice.status, twice.outcome, twice.evidence)


@given(st.data())
def test_the_strongest_account_decides_in_whatever_order_they_come(data: st.DataObject) -> None:
    """Of accounts with different strengths the strongest that knows the outcome decides: outcome, closer and cause."""
    one_of_each = {strength: [e for e in Evidence if STRENGTH[e] == strength] for strength in WEAK_TO_STRONG}
    strengths = data.draw(st.lists(st.sampled_from(WEAK_TO_STRONG), min_size=1, unique=True))
    accounts = [
        msgspec.structs.replace(data.draw(ends), evidence=data.draw(st.sampled_from(one_of_each[strength])))
        for strength in strengths
    ]
    knowing = [account for account in accounts if account.outcome is not Outcome.UNKNOWN] or accounts
    strongest = max(knowing, key=lambda account: WEAK_TO_STRONG.index(STRENGTH[account.evidence]))
    *_, (state, _) = live((account, timedelta(seconds=1)) for account in accounts)

    assert (strongest.outcome, strongest.evidence, strongest.by) == (state.outcome, state.evidence, state.closed_by)
    assert strongest.cause in (None, state.hangup_cause)


@given(histories)
def test_talk_is_never_negative_nor_above_a_day(history: list[tuple[Progress | End, timedelta]]) -> None:
    """Whatever clocks and counters say, a duration is one that a call can have."""
    told = [state.duration for state, _ in live(history) if state.duration is not None]

    assert [] == [duration for duration in told if not 0 <= duration <= DAY]


@given(histories)
def test_all_times_lie_between_the_making_of_the_call_and_now(history: list[tuple[Progress | End, timedelta]]) -> None:
    """No clock but the server's can put anything before the call was made or after the report came."""
    dated = [
        (at, now)
        for state, now in live(history)
        for at in (state.dialing_at, state.ringing_at, state.connected_at, state.ended_at)
        if at is not None
    ]

    assert [] == [(at, now) for at, now in dated if not CREATED <= at <= now]


@given(histories, ends, ends)
def test_no_weaker_account_overwrites_what_is_known(
    history: list[tuple[Progress | End, timedelta]], first: End, second: End
) -> None:
    """An account of equal or weaker evidence can only fill what was blank."""
    *_, (known, now) = live([*history, (first, timedelta())])
    assert known.outcome is not None
    assert known.evidence is not None
    if outweighs(second.outcome, second.evidence, known.outcome, known.evidence):
        second = msgspec.structs.replace(second, outcome=known.outcome, evidence=known.evidence)
    result = advance(known, second, now)
    state = result.state if isinstance(result, Moved) else known
    before = {name: value for name, value in msgspec.structs.asdict(known).items() if value is not None}

    assert before == {name: value for name, value in msgspec.structs.asdict(state).items() if name in before}
