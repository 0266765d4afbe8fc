"""Between nodes: messages to sessions that another node holds, over Redis pub/sub, one channel a node.

Redis only carries. A message that is lost comes again from PostgreSQL: commands by the node that holds the phone,
events by the nodes' refill. So sending never waits and never fails; what cannot be carried is dropped and counted. All
that is sent while one round trip is under way goes with the next one, one message a node (`storage/bus.py`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import msgspec
import structlog
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from server.telemetry import Metrics
from storage.bus import Bus
from storage.events import Emitted
from storage.redis_line import cause_of

log = structlog.get_logger()

NO_FRAME = msgspec.Raw(b"null")

_DEADLINE = 2.0
"""Seconds that anything here waits for Redis."""

_MALFORMED = (msgspec.DecodeError, RecursionError)

Code = Annotated[int, msgspec.Meta(ge=1000, le=4999)]
"""Why a WebSocket is closed (RFC 6455, 7.4.2)."""


class ToPhone(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A frame for the session of a phone."""

    device_id: str
    frame: msgspec.Raw


class ToAgent(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """An event for the pages of an agent."""

    user_id: str
    seq: int
    frame: msgspec.Raw


class ClosePhone(msgspec.Struct, frozen=True, array_like=True, tag="cp"):
    """Close the session of a phone, after a last frame where there is one; with `epoch`, only an older session."""

    device_id: str
    code: Code
    reason: str
    last: msgspec.Raw
    epoch: int | None = None


class CloseAgent(msgspec.Struct, frozen=True, array_like=True, tag="ca"):
    """Close the pages of an agent: all, or those of one login."""

    user_id: str
    code: Code
    reason: str
    login_id: str | None = None


class Canary(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A message from a node to itself: the proof that it still hears. `sent` is its monotonic clock."""

    sent: float


Carried = ToPhone | ToAgent | ClosePhone | CloseAgent | Canary


class Receiver(Protocol):
    """Who acts on what was carried: this node's hub."""

    def receive(self, carried: ToPhone | ToAgent | ClosePhone | CloseAgent) -> None:
        """Hand a message to the sessions it is for; one for a session that is not here is dropped."""


class Relay:
    """This node's end of the relay. `address` tells its boot id, which a lost lease changes."""

    OUTGOING_BOUND = 20_000
    """Messages that may wait for one server of Redis; more are dropped and counted, and rows bring them."""

    def __init__(
        self,
        redis: Redis | RedisCluster,
        prefix: str,
        address: Callable[[], str],
        metrics: Metrics,
        *,
        canary_every: float,
        deaf_after: float,
    ) -> None:
        self._prefix = prefix
        self._address = address
        self._metrics = metrics
        self._canary_every = canary_every
        self._deaf_after = deaf_after
        self._bus: Bus[Carried] = Bus(
            redis,
            msgspec.json.Encoder().encode,
            deadline=_DEADLINE,
            bound=self.OUTGOING_BOUND,
            taken=metrics.relay_sent.inc,
            lost=self._lost,
        )
        self._decoder = msgspec.json.Decoder(list[Carried])
        self._one_decoder = msgspec.json.Decoder(Carried)
        self._heard_at = 0.0
        self._receiver: Receiver | None = None

    def connect(self, receiver: Receiver) -> None:
        """Tell who acts on what comes in. A process without sessions (the worker) connects nobody and only sends."""
        self._receiver = receiver

    def hears(self) -> bool:
        """Whether a canary came through lately."""
        return time.monotonic() - self._heard_at < self._deaf_after

    def announce(self, emitted: Sequence[Emitted]) -> None:
        """Send events to the nodes that hold pages of their agents. Call it after the commit that emitted them."""
        for event in emitted:
            carried = ToAgent(event.user_id, event.seq, msgspec.Raw(event.frame))
            for node in event.nodes:
                self._send(node, carried)

    def to_phone(self, node: str | None, device_id: str, frame: bytes) -> None:
        """Send a frame to a phone, at the node that its row names; without a node it waits in its row."""
        if node is not None:
            self._send(node, ToPhone(device_id, msgspec.Raw(frame)))

    def close_phone(
        self,
        node: str | None,
        device_id: str,
        code: int,
        reason: str,
        last: bytes | None = None,
        *,
        epoch: int | None = None,
    ) -> None:
        """Close the session of a phone after sending it `last`; with `epoch` only a session older than that."""
        if node is not None:
            self._send(node, ClosePhone(device_id, code, reason, msgspec.Raw(last) if last else NO_FRAME, epoch))

    def close_agent(
        self, nodes: Sequence[str], user_id: str, code: int, reason: str, login_id: str | None = None
    ) -> None:
        """Close the pages of an agent on these nodes, or only those of one login."""
        for node in nodes:
            self._send(node, CloseAgent(user_id, code, reason, login_id))

    async def publish(self) -> None:
        """Carry what is sent, for ever."""
        await self._bus.run()

    async def carry(self) -> None:
        """Carry what waits now, and return when it is carried or dropped: within a few seconds."""
        try:
            async with asyncio.timeout(2 * _DEADLINE):
                await self._bus.flush()
        except TimeoutError:
            log.warning("relay carried not all", waiting=self._bus.waiting)

    async def subscribe(self, after_gap: Callable[[], None]) -> None:
        """Hear what is sent to this node, for ever; calls `after_gap` whenever something may have been missed."""
        while True:
            try:
                await self._hear(after_gap)
            except (RedisError, OSError) as error:
                log.warning("relay subscription lost", error=cause_of(error))
            if not self.hears():
                self._metrics.relay_deaf.inc()
                self._bus.doubt()  # the canary was sent somewhere else than where this listened
            await asyncio.sleep(min(self._canary_every, 1.0))

    async def sing(self) -> None:
        """Send the canary, for ever."""
        while True:
            self._send_remote(self._address(), Canary(time.monotonic()))
            await asyncio.sleep(self._canary_every)

    async def _hear(self, after_gap: Callable[[], None]) -> None:
        """One subscription: ends when it goes deaf or this node's address changes."""
        address = self._address()
        async with self._bus.listening(self._channel(address), self._receive) as line:
            self._heard_at = time.monotonic()
            after_gap()
            while self._address() == address and self.hears():
                await line.wait(self._canary_every)

    def _receive(self, batch: bytes) -> None:
        for carried in self._understood(batch):
            if isinstance(carried, Canary):
                self._heard_at = time.monotonic()
                self._metrics.relay_seconds.observe(self._heard_at - carried.sent)
            elif self._receiver is not None:
                self._receiver.receive(carried)

    def _understood(self, batch: bytes) -> list[Carried]:
        """The messages of a batch. What a node of another version says, or a stranger, is dropped; rows bring it."""
        try:
            return self._decoder.decode(batch)
        except _MALFORMED as error:
            log.warning("relay does not understand", error=repr(error))
        understood = []
        try:
            for message in msgspec.json.decode(batch, type=list[msgspec.Raw]):
                try:
                    understood.append(self._one_decoder.decode(message))
                except _MALFORMED:
                    self._metrics.relay_dropped.inc()
        except _MALFORMED:
            self._metrics.relay_dropped.inc()
        return understood

    def _send(self, node: str, carried: ToPhone | ToAgent | ClosePhone | CloseAgent) -> None:
        if node == self._address() and self._receiver is not None:
            self._receiver.receive(carried)
        else:
            self._send_remote(node, carried)

    def _send_remote(self, node: str, carried: Carried) -> None:
        if not self._bus.put(self._channel(node), carried):
            self._metrics.relay_dropped.inc()

    def _lost(self, count: int, error: Exception) -> None:
        self._metrics.relay_dropped.inc(count)
        log.warning("relay dropped messages", count=count, error=cause_of(error))

    def _channel(self, node: str) -> str:
        return f"{self._prefix}node:{node}"
