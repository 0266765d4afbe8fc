"""The face of a cloud call centre: what Dialdesk asks of any of them, and the words in which they answer.

A provider translates. It holds no state of a call, decides nothing about one, and writes to no database: what a vendor
says becomes events of `protocol.call`, weighed there like a phone's reports. What it does not understand it hands on
raw, and that ends nothing.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, Literal, Protocol

import msgspec

from protocol.call import End, Progress


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """Who the agent is at the provider: the id there, such as a UserId or cno, and the telephone that is rung first."""

    id: str = ""
    number: str = ""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A call to be placed. `tag` is ours (the call id): the vendor hands it back, and finds the call by it.

    Numbers are E.164. `caller` is the number the customer sees, where it may be chosen. `extension` is the leased one,
    for providers that dial from a pool. `ring_timeout` is in seconds. From `expires_at` on the order is not sent: an
    adapter that asks something else first looks at it again.
    """

    tag: str
    callee: str
    caller: str | None
    seat: Seat
    extension: str | None = None
    ring_timeout: int = 60
    expires_at: datetime | None = None


class Placed(msgspec.Struct, frozen=True):
    """The vendor took the order. `provider_call_id` is None where it tells none: the call is known by its tag."""

    provider_call_id: str | None


class CallReference(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was ordered, as the vendor may know it; `ordered_at` bounds where to look for it."""

    tag: str
    provider_call_id: str | None
    seat: Seat
    extension: str | None
    callee: str
    ordered_at: datetime


class Recording(msgspec.Struct, frozen=True):
    """The vendor offers a recording: at `url`, or where that is None, under `name`, for which a URL must be asked."""

    url: str | None
    name: str | None = None


class Heard(msgspec.Struct, frozen=True):
    """Something was said that moves nothing: a status not known here, or the agent's own leg."""

    status: str


_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
"""An escape, not a backslash that is escaped itself."""


def without_nul(said: bytes) -> bytes:
    """Return JSON with U+FFFD in the place of each NUL, which PostgreSQL keeps in no text."""
    return _NUL.sub(rb"\1\\ufffd", said) if b"\\u0000" in said else said


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a vendor says of one call, which it names by its own id, by our tag, or both.

    `once` makes a repeat a repeat: the same fact told again, by webhook or look-up, has the same. `raw` is JSON of what
    was said, without credentials and without NUL.
    """

    provider_call_id: str | None
    tag: str | None
    event: Progress | End | Recording | Heard
    once: str
    raw: bytes

    def __post_init__(self) -> None:
        """Make `raw` what can be kept: a text that nobody reads must not lose the end of a call."""
        msgspec.structs.force_setattr(self, "raw", without_nul(self.raw))


LEFT_OPEN = frozenset({*range(100, 200), *range(300, 400), 408, 409, 425, 499, *range(500, 600)})
"""HTTP statuses that say neither yes nor no: what was asked may be done, or be done yet."""


class Refusal(StrEnum):
    """Why a vendor did not place a call."""

    SEAT_BUSY = "seat_busy"
    SEAT_OFFLINE = "seat_offline"
    SEAT = "seat"  # the agent's seat at this line is set up wrongly: another line may do, and this one is not at fault
    CALLEE = "callee"  # the number is wrong, or may not be called by the vendor's own rules
    THROTTLED = "throttled"
    EXTENSION = "extension"  # the leased extension is no good: it goes out of the pool for a while
    LINE = "line"  # credentials, balance, caller number, permissions: another line may do


UNREACHABLE: Final = "unreachable"
"""The code of a refusal by nobody: there was no connection, and nothing was sent."""


class PlacementRefused(Exception):  # noqa: N818 - an answer
    """The vendor said that it places no call. The text is for people; `code` is the vendor's own word.

    It is `known` that nothing rang where nothing was sent, or where the adapter knows the code to say so. Only such a
    call may be placed elsewhere: what a code means that nobody listed is a guess."""

    def __init__(self, refusal: Refusal, code: str, text: str, *, known: bool = False) -> None:
        super().__init__(f"{text} ({code})")
        self.refusal = refusal
        self.code = code
        self.known = known


class Uncertain(Exception):  # noqa: N818 - a state of knowledge
    """Nobody knows whether the vendor did it: no answer came, or one that cannot be read. It is never asked again; a
    call is looked up by its tag."""


class Unsupported(Exception):  # noqa: N818 - a fact about the vendor
    """The vendor has no such function."""


class WebhookRefused(Exception):  # noqa: N818 - a judgement
    """This did not come from the vendor, or is none of its messages. The text may be logged."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came to one of the line's callback URLs. `kind` is what stands in the path behind the provider's
    name, such as `status` or `recording`, or is empty. Header names are in lower case."""

    kind: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime


class Reply(msgspec.Struct, frozen=True):
    """What the vendor wants to hear when its message was kept."""

    content: bytes
    media_type: str
    status: int = 200


class Tested(msgspec.Struct, frozen=True):
    """The account answered: in how many milliseconds, and what it said of itself."""

    latency_ms: int
    message: str


Control = Literal["hang_up", "mute", "transfer"]


class Provider(Protocol):
    """One account at one vendor. Every method that asks the vendor has a deadline of its own (10 s or less), raises
    Uncertain where no readable answer came in time, and never asks twice by itself for what might ring a telephone."""

    controls: frozenset[Control]

    async def place(self, order: Order) -> Placed:
        """Have the call placed: the agent's telephone rings, then the customer's.

        Raises PlacementRefused, Uncertain."""
        ...

    async def hang_up(self, call: CallReference) -> None:
        """End a call; one that is over is a success. Raises Unsupported, PlacementRefused, Uncertain."""
        ...

    async def mute(self, call: CallReference, *, on: bool) -> None:
        """Mute the agent towards the customer. Raises Unsupported, PlacementRefused, Uncertain."""
        ...

    async def transfer(self, call: CallReference, to: str) -> None:
        """Hand the customer to another number or seat. Raises Unsupported, PlacementRefused, Uncertain."""
        ...

    async def look_up(self, call: CallReference) -> list[Told] | None:
        """Return all that the vendor knows of a call now, as a webhook would tell it; None where it knows no such call.

        Raises Uncertain, and Unsupported where there is no use in asking ever."""
        ...

    def read_webhook(self, webhook: Webhook) -> list[Told]:
        """Verify a message and read it; it may tell of several calls, or of none. Raises WebhookRefused."""
        ...

    def key_of(self, webhook: Webhook) -> str:
        """Return what makes a repeated delivery of this message a repeat."""
        ...

    def reply(self) -> Reply:
        """Return the answer by which the vendor sends it no more."""
        ...

    async def recording_url(self, call: CallReference, name: str | None) -> str | None:
        """Return a URL at which the call's recording can be fetched now; None where there is none (yet).

        Raises Uncertain."""
        ...

    async def test(self) -> Tested:
        """Ask something harmless, to see that the account works. Raises PlacementRefused, Uncertain."""
        ...

    async def balance(self) -> Decimal | None:
        """Return what the account has left, in the vendor's currency; None where the vendor does not tell."""
        ...
