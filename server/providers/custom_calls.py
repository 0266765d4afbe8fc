"""What a provider tells of calls, read as users describe it: where each fact stands, and what its words mean."""

import hashlib
from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec

from protocol.call import End, Evidence, HangupCause, Outcome, Progress, Status
from server.providers.custom_requests import read
from server.providers.paths import Condition, Is, PathOrPaths, Paths
from server.providers.provider import CallReference, Heard, Recording, Told
from server.providers.times import Clock, Times

DEEPEST = 32
"""Levels of a message that are kept; nobody tells of a call in more."""

LONGEST_TALK = 10 * 24 * 3600
"""Seconds; what is longer is no duration but something else, such as a time."""


class Meaning(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a status word means. For an end: how it ended, where the word alone says that, and whether it is told by
    the final record (`record`) or by a live signal, which the record may correct."""

    status: Literal["calling", "ringing", "connected", "ended"]
    outcome: Outcome | None = None
    cause: HangupCause | None = None
    record: bool = True


class Ending(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a cause means for a call that nobody answered."""

    outcome: Outcome
    cause: HangupCause | None = None


class CallFields(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where the facts stand in what is told of one call. `status` is read by `statuses`, in which "" stands for none;
    where `only` does not hold, it is the agent's leg, and moves nothing. `duration` is talk, not ringing."""

    provider_call_id: PathOrPaths | None = None
    tag: PathOrPaths | None = None
    only: Is | None = None
    status: PathOrPaths | None = None
    statuses: Annotated[dict[str, Meaning], msgspec.Meta(max_length=200)] = {}
    at: PathOrPaths | None = None
    answered_at: PathOrPaths | None = None
    ended_at: PathOrPaths | None = None
    duration: PathOrPaths | None = None
    duration_unit: Literal["s", "ms"] = "s"
    cause: PathOrPaths | None = None
    causes: Annotated[dict[str, Ending], msgspec.Meta(max_length=300)] = {}
    recording_url: PathOrPaths | None = None
    recording_name: PathOrPaths | None = None
    times: Times = Times()


class Calls:
    """A description of calls that was read once. Raises ValueError, which ends with the path of what is wrong."""

    def __init__(self, written: CallFields, zone: ZoneInfo, at: str) -> None:
        def paths(name: str, where: PathOrPaths | None) -> Paths | None:
            return None if where is None else read(f"{at}.{name}", Paths, where)

        self._written = written
        self._provider_call_id = paths("providerCallId", written.provider_call_id)
        self._tag = paths("tag", written.tag)
        self._only = None if written.only is None else read(f"{at}.only", Condition, written.only)
        self._status = paths("status", written.status)
        self._at = paths("at", written.at)
        self._answered_at = paths("answeredAt", written.answered_at)
        self._ended_at = paths("endedAt", written.ended_at)
        self._duration = paths("duration", written.duration)
        self._cause = paths("cause", written.cause)
        self._recording_url = paths("recordingUrl", written.recording_url)
        self._recording_name = paths("recordingName", written.recording_name)
        self._clock = read(f"{at}.times", Clock, written.times, zone)

    @property
    def can_tell_calls_apart(self) -> bool:
        """Whether there is a path to something by which a call is known."""
        return self._provider_call_id is not None or self._tag is not None

    def is_of(self, call: CallReference, said: object, *, among_others: bool) -> bool:
        """Tell whether something is said of this call; `among_others`, what names no call is not."""
        provider_call_id, tag = _word(self._provider_call_id, said), _word(self._tag, said)
        if tag and tag != call.tag:
            return False
        if provider_call_id and call.provider_call_id and provider_call_id != call.provider_call_id:
            return False
        return bool(tag or (provider_call_id and call.provider_call_id)) or not among_others

    def read(
        self, said: object, heard_at: datetime, hidden: Collection[str], call: CallReference | None = None
    ) -> list[Told]:
        """Return what is told of a call; nothing where it does not say of which. `call` is the one that was asked for.

        What is in `hidden` comes neither into the raw message nor into the vendor's words."""
        provider_call_id = _word(self._provider_call_id, said) or (call and call.provider_call_id) or None
        tag = _word(self._tag, said) or (call and call.tag) or None
        if provider_call_id is None and tag is None:
            return []
        offer = self._recording(said)
        shown = without_secrets(said, hidden, None if offer is None else offer.url)
        raw = msgspec.json.encode(shown)
        subject = tag or provider_call_id or ""

        def told(event: Progress | End | Recording | Heard, *facts: object) -> Told:
            once = hashlib.sha256(msgspec.json.encode([subject, *facts])).hexdigest()
            return Told(provider_call_id=provider_call_id, tag=tag, event=event, once=once, raw=raw)

        status = _word(self._status, shown, 64)
        meaning = self._written.statuses.get(status)
        everything = []
        if self._only is not None and not self._only.holds(said):
            return [told(Heard(f"another leg: {status}"[:64]), "leg", status)]
        if meaning is None:
            if status or offer is None:
                everything.append(told(Heard(status or "no status"), "heard", status))
        elif meaning.status == "ended":
            end = self._end(meaning, shown, heard_at, has_recording=offer is not None)
            times = [_word(self._ended_at, shown, 64), _word(self._answered_at, shown, 64)]
            talk = _word(self._duration, shown, 64)
            everything.append(told(end, "ended", meaning.record, end.outcome, end.raw_cause, talk, times))
        else:
            at = self._time(self._at, said) or heard_at
            if meaning.status == "connected":
                at = self._time(self._answered_at, said) or at
            event = Progress(Status(meaning.status), at, Evidence.IN_CALL_SERVICE)
            everything.append(told(event, meaning.status))
        if offer is not None:
            everything.append(told(offer, "recording", offer.name or (offer.url or "").partition("?")[0]))
        return everything

    def _end(self, meaning: Meaning, said: object, heard_at: datetime, *, has_recording: bool) -> End:
        answered_at, talk = self._time(self._answered_at, said), self._talk(said)
        raw_cause = _word(self._cause, said, 64)
        ending = self._written.causes.get(raw_cause)
        outcome, cause = _how(meaning, ending, raw_cause, answered=answered_at is not None or bool(talk), talk=talk)
        connected = outcome is Outcome.CONNECTED
        return End(
            outcome=outcome,
            at=self._time(self._ended_at, said) or self._time(self._at, said) or heard_at,
            by="provider",
            evidence=Evidence.PROVIDER_RECORD if meaning.record else Evidence.IN_CALL_SERVICE,
            started_at=answered_at if connected else None,
            duration=talk if connected else None,
            cause=cause,
            raw_cause=raw_cause or None,
            has_recording=True if has_recording else None,
        )

    def _talk(self, said: object) -> int | None:
        try:
            seconds = float(_word(self._duration, said, 32)) / (1000 if self._written.duration_unit == "ms" else 1)
        except ValueError:
            return None
        return int(seconds) if 0 <= seconds <= LONGEST_TALK else None

    def _recording(self, said: object) -> Recording | None:
        url, name = _word(self._recording_url, said, 2048), _word(self._recording_name, said)
        url = url if url.startswith(("http://", "https://")) else ""
        return Recording(url or None, name or None) if url or name else None

    def _time(self, where: Paths | None, said: object) -> datetime | None:
        return None if where is None else self._clock.read(where.find(said))


def without_secrets(value: object, hidden: Collection[str], url: str | None = None, depth: int = 0) -> object:
    """Return a JSON value in which secrets are starred, and `url`, which may be signed, is without its query."""
    if depth > DEEPEST:
        return None
    match value:
        case dict():
            return {
                _starred(str(key), hidden): without_secrets(each, hidden, url, depth + 1) for key, each in value.items()
            }
        case list():
            return [without_secrets(each, hidden, url, depth + 1) for each in value]
        case str():
            return _starred(value.partition("?")[0] if value.strip() == url else value, hidden)
        case bool() | None:
            return value
        case _:
            return "***" if str(value) in hidden else value


def _starred(text: str, hidden: Collection[str]) -> str:
    for secret in hidden:
        text = text.replace(secret, "***")
    return text


def _how(
    meaning: Meaning, ending: Ending | None, raw_cause: str, *, answered: bool, talk: int | None
) -> tuple[Outcome, HangupCause | None]:
    """Weigh what the status, the talk and the cause say of an end, in this order."""
    if meaning.outcome is not None:
        return meaning.outcome, meaning.cause or (ending.cause if ending else None)
    if answered:
        if ending is not None and ending.outcome is Outcome.CONNECTED:
            return Outcome.CONNECTED, ending.cause
        return Outcome.CONNECTED, HangupCause.UNKNOWN if raw_cause else None
    if ending is not None:
        return ending.outcome, ending.cause
    return Outcome.FAILED if talk == 0 else Outcome.UNKNOWN, HangupCause.UNKNOWN


def _word(where: Paths | None, said: object, longest: int = 256) -> str:
    return "" if where is None else where.word(said, longest)
