"""This node's sessions: who is here, what reaches them, and how they are sent elsewhere when the node leaves."""

import asyncio
import random
from typing import Protocol, assert_never

import structlog

from protocol.errors import CloseCode
from protocol.messages import Reconnect, encode
from server.outbox import Outbox
from server.relay import CloseAgent, ClosePhone, ToAgent, ToPhone
from server.telemetry import Metrics

log = structlog.get_logger()


class PhoneLink(Protocol):
    """The session of a phone, as others reach it. `epoch` is 0 until it is claimed."""

    outbox: Outbox
    epoch: int

    def deliver(self, frame: bytes) -> None:
        """Send a frame to the phone."""

    def last_heard(self) -> float:
        """When the phone last said anything, by the wheel's clock."""


class AgentLink(Protocol):
    """One page of an agent, as others reach it."""

    outbox: Outbox
    login_id: str | None
    last_seq: int | None
    """The last event that was sent, None until the page is welcomed."""

    def event(self, seq: int, frame: bytes) -> None:
        """Take the next event, or find that one is missing."""

    def resync(self, seq: int) -> None:
        """Say that events up to `seq` are lost to this page."""


class Hub:
    """The sessions of one node, by whom they are for."""

    def __init__(self, metrics: Metrics, *, bound: int) -> None:
        self._metrics = metrics
        self._bound = bound
        self._phones: dict[str, list[PhoneLink]] = {}
        self._agents: dict[str, set[AgentLink]] = {}
        self._count = 0
        self._open = 0
        self._emptied = asyncio.Event()
        self.draining = False

    @property
    def full(self) -> bool:
        """Whether no more sockets are let in."""
        return self._open >= self._bound

    def let_in(self) -> None:
        """Count a socket, from when it is accepted: it may join with its first message, or never."""
        self._open += 1

    def let_go(self) -> None:
        """The mirror of `let_in`."""
        self._open -= 1

    @property
    def has_phones(self) -> bool:
        """Whether any phone has its session here."""
        return bool(self._phones)

    def holds(self, device_id: str) -> bool:
        """Whether a session of the phone is here, be it claimed or about to be."""
        return device_id in self._phones

    def phones(self) -> list[tuple[str, PhoneLink]]:
        """The claimed sessions of phones here, by device id."""
        return [(device_id, link) for device_id, links in self._phones.items() for link in links if link.epoch]

    def agents(self) -> list[str]:
        """The agents that have a page here."""
        return list(self._agents)

    def pages(self, user_id: str) -> list[AgentLink]:
        """The pages of an agent here."""
        return list(self._agents.get(user_id, ()))

    def join_phone(self, device_id: str, link: PhoneLink) -> None:
        """Let frames for the phone reach this session, from before it is claimed on: whatever is committed after the
        claim is sent here. Until `replace` an older session of the same phone may stand beside it."""
        self._phones.setdefault(device_id, []).append(link)
        self._came("phone", link.outbox)

    def replace(self, device_id: str, link: PhoneLink) -> None:
        """The session was claimed: older ones of the same phone on this node are closed 4501."""
        self._close_phone(device_id, CloseCode.REPLACED, "replaced by a newer connection", None, link.epoch)

    def leave_phone(self, device_id: str, link: PhoneLink) -> None:
        """The mirror of `join_phone`."""
        links = self._phones[device_id]
        links.remove(link)
        if not links:
            del self._phones[device_id]
        self._went("phone", link.outbox)

    def join_agent(self, user_id: str, link: AgentLink) -> None:
        """Let events for the agent reach this page."""
        self._agents.setdefault(user_id, set()).add(link)
        self._came("agent", link.outbox)

    def leave_agent(self, user_id: str, link: AgentLink) -> None:
        """The mirror of `join_agent`."""
        pages = self._agents[user_id]
        pages.remove(link)
        if not pages:
            del self._agents[user_id]
        self._went("agent", link.outbox)

    def receive(self, carried: ToPhone | ToAgent | ClosePhone | CloseAgent) -> None:
        """Hand what the relay carried to the sessions it is for."""
        match carried:
            case ToPhone(device_id, frame):
                for phone in self._phones.get(device_id, ()):
                    phone.deliver(bytes(frame))
            case ToAgent(user_id, seq, frame):
                encoded = bytes(frame)
                for page in self._agents.get(user_id, ()):
                    page.event(seq, encoded)
            case ClosePhone(device_id, code, reason, last, epoch):
                final = bytes(last)
                self._close_phone(device_id, code, reason, None if final == b"null" else final, epoch)
            case CloseAgent(user_id, code, reason, login_id):
                for page in self._agents.get(user_id, ()):
                    if login_id is None or page.login_id == login_id:
                        page.outbox.close(code, reason)
            case _:
                assert_never(carried)

    async def empty(self) -> None:
        """Wait until no session is left."""
        while self._count:
            self._emptied.clear()
            await self._emptied.wait()

    def lose_all(self) -> None:
        """The node's lease was swept: nothing that waits may be said any more, and everybody comes back."""
        for outbox in self._outboxes():
            outbox.close(CloseCode.DRAINING, "lease lost", discard=True)

    def speak_again(self) -> None:
        """The node holds its lease again: what waited for that is said."""
        for outbox in self._outboxes():
            outbox.flush()

    async def drain(self, seconds: float) -> None:
        """Take no more sessions and send those that are here elsewhere, evenly over `seconds`.

        Each is told RECONNECT, with a time to spread its return over, and then closed with 1012; what is in flight is
        written before the close.
        """
        self.draining = True
        outboxes = self._outboxes()
        random.shuffle(outboxes)
        pause = seconds / max(1, len(outboxes))
        slept = 0.0
        for gone, outbox in enumerate(outboxes):
            outbox.put(encode(Reconnect(after_ms=round(1000 * max(1.0, seconds / 2)), reason="draining")))
            outbox.close(CloseCode.DRAINING, "draining")
            if gone * pause - slept >= 0.05:
                await asyncio.sleep(gone * pause - slept)
                slept = gone * pause
        log.info("drained", sessions=len(outboxes))

    def _close_phone(self, device_id: str, code: int, reason: str, last: bytes | None, below: int | None) -> None:
        for phone in self._phones.get(device_id, ()):
            if below is None or 0 < phone.epoch < below:
                phone.outbox.close(code, reason, last)

    def _outboxes(self) -> list[Outbox]:
        phones = [link.outbox for links in self._phones.values() for link in links]
        return phones + [link.outbox for links in self._agents.values() for link in links]

    def _came(self, kind: str, outbox: Outbox) -> None:
        self._count += 1
        self._metrics.sessions.labels(kind).inc()
        if self.draining:  # it was let in before, and is first heard now
            outbox.close(CloseCode.DRAINING, "draining")

    def _went(self, kind: str, outbox: Outbox) -> None:
        self._count -= 1
        if not self._count:
            self._emptied.set()
        self._metrics.sessions.labels(kind).dec()
        self._metrics.session_closes.labels(kind, str(outbox.closing[0]) if outbox.closing else "peer").inc()
        if outbox.dropped:
            self._metrics.outbox_drops.inc()
