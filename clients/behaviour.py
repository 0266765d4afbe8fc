"""What happens on a scripted handset once it dials: the part of a phone that a test or a load run decides.

A script is an async generator over one call: it yields what the handset sees, and sleeps in between. `Behaviour`
plays the usual courses of a call; give it a `script` for any other.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from protocol.call import Evidence, HangupCause, Outcome
from protocol.messages import CallEnd, CallStatus, Capabilities, DialCommand


class NetworkLost(msgspec.Struct, frozen=True):
    """The network goes away for so many seconds, without a close; the call goes on."""

    seconds: float


Step = CallStatus | CallEnd | NetworkLost
Script = Callable[[DialCommand], AsyncIterator[Step]]


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """The course of a call, and what the handset is able to do. Times are seconds."""

    ring_after: float | None = 0.0
    """None: it does not ring."""
    answer_after: float | None = 0.0
    """From ringing; None: nobody answers."""
    talk: float = 0.0
    """From the answer to the end."""
    give_up_after: float = 0.0
    """From ringing to the end, where nobody answers."""
    outcome: Outcome | None = None
    """None: connected or missed, as it went."""
    cause: HangupCause | None = None
    evidence: Evidence = Evidence.IN_CALL_SERVICE
    lose_network_for: float | None = None
    """The network goes for so long right after the answer."""
    logged_after: float | None = None
    """The end is reported a second time so long after the first, from the call log."""
    logged_talk: int | None = None
    """Seconds of talk in the call log; None: as measured."""
    refuse: Literal["NO_PERMISSION", "NO_SIM"] | None = None
    """The handset cannot dial, for this reason."""
    tap_after: float = 0.0
    """Without `auto_dial`: when a person taps to confirm the dial."""
    auto_dial: bool = True
    hang_up: bool = True
    answer_signal: bool = True
    """Without it neither ringing nor answer is seen, as on an ordinary Android app: the end tells all."""
    recording: Path | bytes | None = None
    """What the recorder leaves of each talk that it is asked to record: a file, which stays where it is, or what is in
    one. None: the handset cannot record."""
    script: Script | None = None
    """Played instead of all of the above that concerns the course of the call."""

    @property
    def capabilities(self) -> Capabilities:
        """What DEVICE_ONLINE says of them."""
        return Capabilities(
            auto_dial=self.auto_dial,
            hang_up=self.hang_up,
            answer_signal=self.answer_signal,
            recording=self.recording is not None,
        )

    def play(self, command: DialCommand) -> AsyncIterator[Step]:
        """Return the course of this call."""
        return self._course(command) if self.script is None else self.script(command)

    async def _course(self, command: DialCommand) -> AsyncIterator[Step]:
        started = datetime.now(UTC)
        yield self._seen(command, "calling")
        await asyncio.sleep(self.ring_after or 0.0)
        if self.ring_after is not None and self.answer_signal:
            yield self._seen(command, "ringing")
        if self.answer_after is None:
            await asyncio.sleep(self.give_up_after)
            end = self._end(command, started, Outcome.MISSED, 0.0)
        else:
            await asyncio.sleep(self.answer_after)
            started = datetime.now(UTC)
            if self.answer_signal:
                yield self._seen(command, "connected")
            if self.lose_network_for is not None:
                yield NetworkLost(self.lose_network_for)
            await asyncio.sleep(self.talk)
            end = self._end(command, started, Outcome.CONNECTED, (datetime.now(UTC) - started).total_seconds())
        yield end
        if self.logged_after is not None:
            await asyncio.sleep(self.logged_after)
            talk = end.duration if self.logged_talk is None else self.logged_talk
            yield msgspec.structs.replace(end, evidence=Evidence.CALL_LOG, duration=talk)

    def _seen(self, command: DialCommand, status: Literal["calling", "ringing", "connected"]) -> CallStatus:
        now = time.time_ns() // 1_000_000
        return CallStatus(call_id=command.call_id, status=status, timestamp=now, evidence=self.evidence)

    def _end(self, command: DialCommand, started: datetime, went: Outcome, talk: float) -> CallEnd:
        outcome = self.outcome or went
        return CallEnd(
            call_id=command.call_id,
            status=outcome,
            start_time=started,
            end_time=datetime.now(UTC),
            duration=round(talk, 3),
            hangup_cause=self.cause,
            evidence=self.evidence if self.answer_signal else Evidence.CALL_LOG,
            has_recording=False,  # the phone knows better where it has recorded
        )


def answers(*, after: float = 0.0, talk: float = 0.0) -> Behaviour:
    """The customer answers, talks and hangs up."""
    return Behaviour(answer_after=after, talk=talk)


def is_busy(*, after: float = 0.0) -> Behaviour:
    """The customer's line is busy."""
    return Behaviour(
        ring_after=None,
        answer_after=None,
        give_up_after=after,
        outcome=Outcome.BUSY,
        cause=HangupCause.USER_BUSY,
    )


def never_answers(*, rings_for: float = 0.0) -> Behaviour:
    """It rings, and nobody answers."""
    return Behaviour(answer_after=None, give_up_after=rings_for, cause=HangupCause.NO_ANSWER)


def rejects(*, after: float = 0.0) -> Behaviour:
    """The customer declines the call."""
    return Behaviour(answer_after=None, give_up_after=after, outcome=Outcome.REJECTED, cause=HangupCause.CALL_REJECTED)


def loses_network(*, away: float, talk: float = 0.0) -> Behaviour:
    """The customer answers, and the phone's network goes for `away` seconds in the middle of the call."""
    return Behaviour(talk=talk, lose_network_for=away)


def reports_twice(*, talk: float = 0.0, logged_talk: int | None = None, logged_after: float = 0.0) -> Behaviour:
    """The end is reported at once, then again from the call log, which may know better how long the talk was."""
    return Behaviour(talk=talk, logged_after=logged_after, logged_talk=logged_talk)


def goes_silent() -> Behaviour:
    """The handset dials and is then on the call for ever, without a word of how it goes."""
    return Behaviour(script=_silence)


async def _silence(command: DialCommand) -> AsyncIterator[Step]:
    yield CallStatus(call_id=command.call_id, status="calling", evidence=Evidence.IN_CALL_SERVICE)
    await asyncio.Event().wait()
