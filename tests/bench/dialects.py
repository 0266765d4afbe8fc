"""How the client side of a benchmark talks to each peer: one socket by picows, and as little on top as the peer asks.

A line is opened by `connect` and ready when `ready` is done. `say` sends a message, of ASCII, to the other end of its
pair; `hear` is called with whatever frame has a message of the other end in it, wherever in it: whoever listens finds
by its own marks what it waits for. An agent is `agent-7` and its phone `phone-7`.
"""

import asyncio
import struct
from collections.abc import Callable

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

Hear = Callable[[bytes], None]

OPENING = 30.0
"""Seconds that a socket may take to be ready."""

BEATS = {
    "text": b'{"type":"HEARTBEAT","data":{}}',
    "dialdesk": b'{"type":"HEARTBEAT","data":{}}',
}
"""What a session says now and then to live; elsewhere the server asks, and the line answers by itself."""

_HELLO = b'{"type":"HELLO","data":{}}'
_ONLINE = (
    b'{"type":"DEVICE_ONLINE","data":{"appVersion":"bench","osType":"android","bootId":"bench","connection":1,'
    b'"capabilities":{"autoDial":true,"hangUp":true,"answerSignal":true}}}'
)


class Text(WSListener):
    """What is said is a text frame, and so is what is heard: Channels, ws, and ASGI by itself."""

    def __init__(self, me: str, hear: Hear) -> None:
        self.me = me
        self.hear = hear
        self.ready = asyncio.get_running_loop().create_future()
        self._transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self._transport = transport
        self.ready.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Hand on a message."""
        if frame.msg_type is WSMsgType.CLOSE:
            return
        self.hear(frame.get_payload_as_bytes())

    @property
    def open(self) -> bool:
        """Whether something can be said."""
        return self._transport is not None and not self._transport.is_disconnected

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The socket is gone: who waits for it shall know."""
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(f"{self.me}: closed before it was ready"))

    def say(self, message: bytes) -> None:
        """Send a message."""
        self.send(WSMsgType.TEXT, message)

    def send(self, kind: WSMsgType, frame: bytes) -> None:
        """Write a frame."""
        assert self._transport is not None
        self._transport.send(kind, frame)


class Dialdesk(Text):
    """The same, after the first message and its WELCOME."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say who is here."""
        self._transport = transport
        self.say(_HELLO if self.me.startswith("agent") else _ONLINE)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Wait for WELCOME, then hand on."""
        if frame.msg_type is WSMsgType.CLOSE:
            return
        heard = frame.get_payload_as_bytes()
        if self.ready.done():
            self.hear(heard)
        elif b'"WELCOME"' in heard:
            self.ready.set_result(None)
        else:
            raise ConnectionError(heard.decode())


class SocketIo(Text):
    """Engine.IO 4 with Socket.IO 5 on it: an event `say`, whose argument is JSON."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The server speaks first."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """An event, a ping, or one of the two steps of the opening."""
        if frame.msg_type is WSMsgType.CLOSE:
            return
        heard = frame.get_payload_as_bytes()
        if heard.startswith(b"42"):
            self.hear(heard)
        elif heard == b"2":
            self.send(WSMsgType.TEXT, b"3")
        elif heard.startswith(b"0"):
            self.send(WSMsgType.TEXT, b'40{"me":"%b"}' % self.me.encode())
        elif heard.startswith(b"40"):
            self.ready.set_result(None)
        else:
            raise ConnectionError(heard.decode())

    def say(self, message: bytes) -> None:
        """Emit the event."""
        self.send(WSMsgType.TEXT, b'42["say",' + message + b"]")


class Nats(Text):
    """NATS' own protocol in binary frames, whose borders mean nothing. Agents publish on `dial.7`, phones answer on
    `status.7`."""

    def __init__(self, me: str, hear: Hear) -> None:
        super().__init__(me, hear)
        self._says, self._hears = (subject.replace("/", ".").encode() for subject in _topics(me))
        self._rest = b""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Connect and subscribe, and have a PONG say that both are done."""
        self._transport = transport
        self.send(
            WSMsgType.BINARY,
            b'CONNECT {"verbose":false,"pedantic":false,"echo":false}\r\nSUB %b 1\r\nPING\r\n' % self._hears,
        )

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Read what is complete."""
        if frame.msg_type is WSMsgType.CLOSE:
            return
        heard = self._rest + frame.get_payload_as_bytes()
        at = 0
        while (end := heard.find(b"\r\n", at)) >= 0:
            if heard.startswith(b"MSG ", at):
                begin = end + 2
                after = begin + int(heard[heard.rindex(b" ", at, end) + 1 : end]) + 2
                if after > len(heard):
                    break
                self.hear(heard[begin : after - 2])
                at = after
                continue
            if heard.startswith(b"PING", at):
                self.send(WSMsgType.BINARY, b"PONG\r\n")
            elif heard.startswith(b"PONG", at) and not self.ready.done():
                self.ready.set_result(None)
            elif heard.startswith(b"-ERR", at):
                raise ConnectionError(heard[at:end].decode())
            at = end + 2
        self._rest = heard[at:]

    def say(self, message: bytes) -> None:
        """Publish."""
        self.send(WSMsgType.BINARY, b"PUB %b %d\r\n%b\r\n" % (self._says, len(message), message))


class Mqtt(Text):
    """MQTT 3.1.1 at QoS 1, in binary frames whose borders mean nothing. Agents publish on `dial/7`, phones answer on
    `status/7`; each acknowledges what it gets."""

    def __init__(self, me: str, hear: Hear) -> None:
        super().__init__(me, hear)
        says, self._hears = _topics(me)
        self._says = _text(says)
        self._packet = 0
        self._rest = b""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Connect with a clean session, and subscribe."""
        self._transport = transport
        connect = _text("MQTT") + bytes([4, 2]) + struct.pack("!H", 0) + _text(self.me)
        subscribe = struct.pack("!H", 1) + _text(self._hears) + b"\x01"
        self.send(WSMsgType.BINARY, _packet(0x10, connect) + _packet(0x82, subscribe))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Read what is complete."""
        if frame.msg_type is WSMsgType.CLOSE:
            return
        heard = self._rest + frame.get_payload_as_bytes()
        at = 0
        while at + 2 <= len(heard):
            length, begin = heard[at + 1], at + 2
            if length & 0x80:
                if begin == len(heard):
                    break
                length, begin = (length & 0x7F) + (heard[begin] << 7), begin + 1
            after = begin + length
            if after > len(heard):
                break
            match heard[at] >> 4:
                case 3:  # PUBLISH
                    named = begin + 2 + int.from_bytes(heard[begin : begin + 2])
                    self.send(WSMsgType.BINARY, b"\x40\x02" + heard[named : named + 2])
                    self.hear(heard[named + 2 : after])
                case 9:  # SUBACK
                    self.ready.set_result(None)
                case 2 | 4 | 13:  # CONNACK, PUBACK, PINGRESP
                    pass
                case kind:
                    raise ConnectionError(f"MQTT packet of type {kind}")
            at = after
        self._rest = heard[at:]

    def say(self, message: bytes) -> None:
        """Publish at QoS 1."""
        self._packet = self._packet % 65535 + 1
        self.send(WSMsgType.BINARY, _packet(0x32, self._says + struct.pack("!H", self._packet) + message))


DIALECTS: dict[str, Callable[[str, Hear], Text]] = {
    "text": Text,
    "dialdesk": Dialdesk,
    "socketio": SocketIo,
    "nats": Nats,
    "mqtt": Mqtt,
}


async def connect(dialect: str, url: str, me: str, hear: Hear, headers: dict[str, str] | None = None) -> Text:
    """Open a line: `url` may have `{me}` in it. Returns when messages can be said and heard. Raises OSError,
    TimeoutError."""
    line = DIALECTS[dialect](me, hear)
    extra = {**(headers or {}), **({"Sec-WebSocket-Protocol": "mqtt"} if dialect == "mqtt" else {})}
    await ws_connect(lambda: line, url.format(me=me), extra_headers=extra, websocket_handshake_timeout=OPENING)
    async with asyncio.timeout(OPENING):
        await line.ready
    return line


def _topics(me: str) -> tuple[str, str]:
    """What it speaks on, and what it listens to."""
    kind, _, number = me.partition("-")
    dial, status = f"dial/{number}", f"status/{number}"
    return (dial, status) if kind == "agent" else (status, dial)


def _text(text: str) -> bytes:
    return struct.pack("!H", len(text)) + text.encode()


def _packet(kind: int, body: bytes) -> bytes:
    """A packet of less than 16 KiB."""
    length = len(body)
    return bytes([kind, length] if length < 128 else [kind, length & 0x7F | 0x80, length >> 7]) + body
