"""A web node without storage: sockets, sessions, hub and relay are those that serve, and nothing is committed.

    python tests/bench/peers/dialdesk/node.py PORT HERE THERE

`HERE` and `THERE` name this node and the other one. Agents are on one node and phones on the other; /agent-7 calls by
/phone-7. What they say are messages of the protocol, but a dial is not judged, a claim takes no epoch, and a report is
neither kept nor acknowledged: it becomes the agent's next event, numbered by the phone's session. REDIS_URL names the
broker. It is no part of the server, and never will be: it lets anybody in.
"""

import asyncio
import gc
import os
import sys
import time
from pathlib import Path
from typing import TypeVar

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

sys.path.insert(0, str(Path(__file__).parents[4]))

from protocol.call import Evidence
from protocol.errors import DialdeskError
from protocol.messages import (
    MAX_FRAME,
    CallRinging,
    CallStatus,
    DeviceOnline,
    Dial,
    DialCommand,
    Envelope,
    FromAgent,
    FromPhone,
    Heartbeat,
    HeartbeatAck,
    Hello,
    WelcomeAgent,
    WelcomePhone,
    encode,
    encode_data,
    encode_raw,
    from_agent,
    from_phone,
)
from protocol.session import Session, SessionLimits
from server.bounded_http import BoundedHttp
from server.hub import Hub
from server.outbox import Outbox
from server.relay import Relay
from server.telemetry import Metrics
from server.websocket import WebSocket, websocket_of
from server.wheel import Wheel
from server.wire import Wire
from storage.events import Emitted
from storage.live import open_redis

M = TypeVar("M")

LIMITS = SessionLimits(messages_per_second=1e6, message_burst=1e6)
"""The usual times; a closed loop says more in a second than a phone in an hour."""


class Node:
    """What the sessions of a node share; an ASGI application."""

    def __init__(self, relay: Relay, there: str) -> None:
        self.metrics = Metrics()
        self.hub = Hub(self.metrics, bound=100_000)
        self.relay = relay
        self.there = there
        self.wheel = Wheel(tick=1.0)

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Serve a WebSocket by its path."""
        kind, _, number = scope["path"].strip("/").partition("-")
        socket = websocket_of(scope)
        if kind == "phone":
            phone = self._wire("phone", Session(from_phone, DeviceOnline, LIMITS, self.wheel.now()), socket)
            phone.open(scope, Phone(self, number, phone))
        else:
            page = self._wire("agent", Session(from_agent, Hello, LIMITS, self.wheel.now()), socket)
            page.open(scope, Page(self, number, page))

    def _wire(self, kind: str, session: Session[M], socket: WebSocket) -> Wire[M]:
        outbox = Outbox(socket, 1024 * 1024, _permitted)
        return Wire(kind, session, socket, outbox, self.wheel, self.metrics, "en")


class Phone:
    """The session of a phone."""

    def __init__(self, node: Node, number: str, wire: Wire[FromPhone]) -> None:
        self._node = node
        self._number = number
        self._wire = wire
        self._seq = 0
        self.outbox = wire.outbox
        self.epoch = 1
        node.hub.join_phone(number, self)

    def deliver(self, frame: bytes) -> None:
        """Send a frame."""
        self.outbox.put(frame)

    def last_heard(self) -> float:
        """When the phone last said anything."""
        return self._wire.session.last_heard

    def opened(self, envelope: Envelope[FromPhone]) -> None:
        """Welcome it."""
        welcome = WelcomePhone(session_id="-", heartbeat_interval=30, server_time=0, node="bench", epoch=1)
        self.outbox.put(encode(welcome))

    def heard(self, envelope: Envelope[FromPhone]) -> None:
        """A report is the next event of its agent."""
        match envelope.message:
            case CallStatus() as report:
                self._seq += 1
                event = CallRinging(
                    call_id=report.call_id,
                    at=time.time_ns() // 1_000_000,
                    evidence=Evidence.IN_CALL_SERVICE,
                    customer_phone="139****5678",
                    source="phone",
                )
                frame = encode_raw(event.type, encode_data(event), f"evt_{self._number}_{self._seq}", seq=self._seq)
                self._node.relay.announce([Emitted(self._number, self._seq, frame, [self._node.there])])
            case Heartbeat():
                self.outbox.put(encode(HeartbeatAck()))
            case _:
                raise DialdeskError("UNEXPECTED_MESSAGE", type=type(envelope.message).type)

    def silent(self) -> None:
        """Nobody is told."""

    def revived(self) -> None:
        """Nobody is told."""

    def gone(self) -> None:
        """It is here no more."""
        self._node.hub.leave_phone(self._number, self)


class Page:
    """The session of an agent's page."""

    def __init__(self, node: Node, number: str, wire: Wire[FromAgent]) -> None:
        self._node = node
        self._number = number
        self.outbox = wire.outbox
        self.login_id: str | None = None
        self.last_seq: int | None = 0
        node.hub.join_agent(number, self)

    def event(self, seq: int, frame: bytes) -> None:
        """Take the next event; nothing here brings one that is missing."""
        if self.last_seq is not None and seq > self.last_seq:
            self.last_seq = seq
            self.outbox.put(frame)

    def resync(self, seq: int) -> None:
        """Go on from there."""
        self.last_seq = seq

    def opened(self, envelope: Envelope[FromAgent]) -> None:
        """Welcome it."""
        self.outbox.put(
            encode(
                WelcomeAgent(session_id=self._number, heartbeat_interval=30, server_time=0, node="bench", last_seq=0)
            )
        )

    def heard(self, envelope: Envelope[FromAgent]) -> None:
        """A dial is a command to the phone of the same number, under the id of the message."""
        match envelope.message:
            case Dial() as dial:
                command = DialCommand(
                    call_id=envelope.message_id or "",
                    customer_phone=dial.customer_phone or "",
                    customer_name=dial.customer_name,
                    expires_at=time.time_ns() // 1_000_000 + 20_000,
                )
                self._node.relay.to_phone(self._node.there, self._number, encode(command))
            case Heartbeat():
                self.outbox.put(encode(HeartbeatAck()))
            case _:
                raise DialdeskError("UNEXPECTED_MESSAGE", type=type(envelope.message).type)

    def silent(self) -> None:
        """Nobody is told."""

    def revived(self) -> None:
        """Nobody is told."""

    def gone(self) -> None:
        """It is here no more."""
        self._node.hub.leave_agent(self._number, self)


def _permitted() -> bool:
    """Without leases every node may speak."""
    return True


def _nothing_missed() -> None:
    """What was lost in a gap is counted by who measures."""


async def _serve(port: int, here: str, there: str) -> None:
    redis = open_redis(os.environ["REDIS_URL"])
    metrics = Metrics()
    relay = Relay(redis, "bench:", lambda: here, metrics, canary_every=1.0, deaf_after=5.0)
    node = Node(relay, there)
    relay.connect(node.hub)
    async with asyncio.TaskGroup() as background:
        for work in (relay.publish(), relay.sing(), relay.subscribe(_nothing_missed), node.wheel.run()):
            background.create_task(work)
        gc.collect()
        gc.freeze()
        await uvicorn.Server(
            uvicorn.Config(
                node,
                port=port,
                loop="none",
                http=BoundedHttp,
                ws=WebSocket,
                ws_max_size=MAX_FRAME,
                timeout_graceful_shutdown=1,
                lifespan="off",
                log_level="warning",
            )
        ).serve()  # ends the process by the signal that ended it


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
