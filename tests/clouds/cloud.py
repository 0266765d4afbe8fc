"""What the fake clouds of all vendors have in common, so that a journey is told once and runs against each of them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

How = Literal["normal", "silent", "refuse", "garbage", "drop"]
"""What becomes of the next order: it is taken and answered, taken and never answered, refused, taken and answered with
nonsense, or taken while the connection is dropped."""

Story = Literal["answered", "no_answer", "busy", "rejected", "invalid"]
Sequence = Literal["right", "reversed", "twice", "lost_end"]


class PlacedCall(msgspec.Struct, frozen=True):
    """An order that a cloud took: with our tag, the callee as it is dialled, and whoever is rung first."""

    tag: str
    callee: str
    seat: str


class WebhookRequestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a callback URL, as the vendor makes it; `kind` stands behind the provider's name in the path."""

    kind: str = ""
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes
    method: str = "POST"


class Cloud(Protocol):
    """A vendor on loopback: speaks its protocol, verifies what it is sent, and does as a test tells it."""

    url: str
    """The base URL to put into the settings."""

    audio: bytes
    """The recording of every call that was answered."""

    placed: list[PlacedCall]
    """Orders taken, in order."""

    def line(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return settings and secrets, as JSON, of a line at this cloud."""
        ...

    def next_place(self, how: How, code: str | None = None) -> None:
        """Say what becomes of the next order; `code` is the vendor's word for a refusal."""
        ...

    async def play(
        self,
        tag: str,
        story: Story,
        *,
        send: Callable[[WebhookRequestSpec], Awaitable[None]],
        order: Sequence = "right",
    ) -> None:
        """Let a call that was placed go as the story says: send the vendor's webhooks, and let it be looked up."""
        ...
