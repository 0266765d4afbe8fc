"""The server's side of one WebSocket (RFC 6455), between uvicorn, which read the handshake, and a session.

It is a protocol of the event loop and nothing besides: what a peer says is told to the session by a plain call, and
what is said to the peer goes to the transport at once. So an idle connection holds no task, no queue and no request.
There are no extensions and no subprotocols: deflate costs more memory than all else here (docs/decisions.md, 10).
"""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import structlog
from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

log = structlog.get_logger()

LINGER = 5.0
"""Seconds that a connection which is over may take to be gone; then it is cut, whatever the peer has left unread."""

AT_ONCE = 100
"""Frames of one peer that are looked at before others have their turn: most need not be messages, which are counted."""

_EXTENSION = "dialdesk.websocket"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = frozenset({_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})

_PROTOCOL_ERROR: Final = 1002
_INVALID_TEXT: Final = 1007
_TOO_LARGE: Final = 1009
_SERVICE_RESTART: Final = 1012

_SAYABLE = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
"""Codes that a close frame may carry (RFC 6455 section 7.4, and IANA's registry)."""


class Receiver(Protocol):
    """Who is told what the peer does, one thing at a time, and nothing while it is held."""

    def message(self, frame: bytes) -> None:
        """A message came, text or binary; one of text is valid UTF-8."""

    def writable(self) -> None:
        """The peer reads again, after it did not."""

    def lost(self) -> None:
        """The connection is gone, and all that came over it was told. This is the last word."""


class WebSocket(asyncio.Protocol):
    """One connection. Whoever serves its path either refuses or accepts it, once; `limit` bounds a message's bytes."""

    __slots__ = (
        "_buffer",
        "_close_sent",
        "_deaf",
        "_fragments",
        "_gone",
        "_limit",
        "_linger",
        "_loop",
        "_opcode",
        "_receiver",
        "_state",
        "_transport",
        "held",
        "reads",
    )

    def __init__(self, transport: asyncio.Transport, state: ServerState, limit: int) -> None:
        self._transport = transport
        self._state = state
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._buffer: bytes | bytearray = b""
        self._fragments: bytearray | None = None
        self._opcode = _CONTINUATION
        self._close_sent = False
        self._deaf = False
        self._gone = False
        self._linger: asyncio.TimerHandle | None = None
        self.held = False
        """Whether the receiver is told nothing now."""
        self.reads = True
        """Whether the peer takes what it is sent; what is sent while it does not piles up here."""

    # --- the handshake ------------------------------------------------------------------------------------------------

    def open(self, app: ASGIApp, scope: Scope) -> None:
        """Have the application serve it, which finds it by `websocket_of(scope)`. Nothing is read until it is accepted.

        A handshake that is none is refused without asking.
        """
        self._state.connections.add(cast("Any", self))
        self._transport.set_protocol(self)
        self._transport.pause_reading()
        if (refusal := _judge(scope)) is not None:
            self.refuse(*refusal)
            return
        scope["extensions"] = {_EXTENSION: self}
        self.do(self._serve(app, scope))

    def accept(self, scope: Scope, receiver: Receiver) -> None:
        """Complete the handshake; from now on the receiver is told what comes."""
        self._receiver = receiver
        if self._gone:
            receiver.lost()  # it did not wait to be let in
            return
        [key] = _headers(scope, b"sec-websocket-key")
        told = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        self._transport.write(_ACCEPTED % told)
        self._transport.resume_reading()

    def refuse(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer the handshake with an HTTP error instead."""
        head = {**headers, "content-length": str(len(body)), "connection": "close"}
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {head[name]}" for name in head)]
        self._close_sent = True
        if not self._gone:
            self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            self._leave()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work on behalf of this connection; the server does not stop before it is done."""
        task = self._loop.create_task(work)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _serve(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, _not_spoken, _not_spoken)
        except Exception:
            log.exception("handshake failed")
        if self._receiver is None and not self._close_sent:
            self.refuse(500, b"", {})

    # --- what the receiver does ---------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send a message of text."""
        if not self._close_sent:
            self._write(_TEXT, frame)

    def close(self, code: int, reason: str) -> None:
        """Say that it is over, after all that was sent; the peer has LINGER seconds to agree."""
        self._say_close(code, reason)
        self._cut_later()

    def abort(self) -> None:
        """Cut the connection at once."""
        self._transport.abort()

    def hold(self) -> None:
        """Tell the receiver nothing until `go_on`; what the peer sends meanwhile waits in its own socket."""
        self.held = True

    def go_on(self) -> None:
        """Tell the receiver again: what came meanwhile, at once; and if the peer has gone by now, that."""
        self.held = False
        data, self._buffer = self._buffer, b""
        self._read(data)
        if self.held:
            return
        if self._gone:
            self._tell_lost()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    # --- what the event loop tells ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._deaf:
            return  # but read: a reset would take from the peer the close frame that tells why
        if self._buffer:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
            data, self._buffer = cast("bytes", self._buffer), b""
        if self.held:
            self._buffer = data
            self._transport.pause_reading()
        else:
            self._read(data)

    def pause_writing(self) -> None:
        """The peer does not read."""
        self.reads = False

    def resume_writing(self) -> None:
        """It does again."""
        self.reads = True
        if self._receiver is not None:
            self._receiver.writable()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Gone."""
        self._gone = self._close_sent = True
        self.reads = False
        self._state.connections.discard(cast("Any", self))
        if self._linger is not None:
            self._linger.cancel()
        if not self.held:
            self._tell_lost()

    def shutdown(self) -> None:
        """The server stops, and has waited long enough."""
        if self._receiver is not None:
            self._say_close(_SERVICE_RESTART, "")
        self._leave()

    def _tell_lost(self) -> None:
        self._deaf = True
        self._buffer, self._fragments = b"", None
        receiver, self._receiver = self._receiver, None  # each held the other
        if receiver is not None:
            receiver.lost()

    # --- frames (RFC 6455 section 5) ----------------------------------------------------------------------------------

    def _read(self, data: bytes | bytearray) -> None:
        """Act on whole frames; keep what is not whole yet, or may not be told now."""
        at, end, frames = 0, len(data), 0
        while not self.held and not self._deaf and end - at >= 2:
            first, second = data[at], data[at + 1]
            length = second & 0x7F
            mask = at + 2 if length < 126 else at + 4 if length == 126 else at + 10
            if end < mask:
                break
            if length >= 126:
                length = int.from_bytes(data[at + 2 : mask], "big")
            if (wrong := self._wrong(first, second, length)) is not None:
                self._fail(*wrong)
                break
            start = mask + 4
            if end < start + length:
                break
            at = start + length
            self._frame(first, _unmasked(data[start:at], data[mask:start]))
            frames += 1
            if frames == AT_ONCE and not self.held:
                self.held = True
                self._loop.call_soon(self.go_on)
        self._buffer = b"" if self._deaf else data[at:]

    def _wrong(self, first: int, second: int, length: int) -> tuple[int, str] | None:
        """Code and reason to close with, if a frame that begins so cannot be."""
        opcode, is_final, is_control = first & 0x0F, first >= 0x80, first & 0x08
        if first & 0x70:
            return _PROTOCOL_ERROR, "reserved bits"
        if opcode not in _OPCODES:
            return _PROTOCOL_ERROR, "unknown opcode"
        if second < 0x80:
            return _PROTOCOL_ERROR, "not masked"
        if is_control:
            return None if is_final and length <= 125 else (_PROTOCOL_ERROR, "control frames are short and whole")
        if (opcode == _CONTINUATION) is (self._fragments is None):
            return _PROTOCOL_ERROR, "fragments out of order"
        if length + len(self._fragments or b"") > self._limit:
            return _TOO_LARGE, f"more than {self._limit} bytes"
        return None

    def _frame(self, first: int, payload: bytes) -> None:
        opcode, is_final, is_control = first & 0x0F, first >= 0x80, first & 0x08
        if is_control:
            self._control(opcode, payload)
        elif is_final and opcode != _CONTINUATION:
            self._message(opcode, payload)
        else:
            if self._fragments is None:
                self._opcode, self._fragments = opcode, bytearray()
            self._fragments += payload
            if is_final:
                payload, self._fragments = bytes(self._fragments), None
                self._message(self._opcode, payload)

    def _message(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT and not _is_utf8(payload):
            self._fail(_INVALID_TEXT, "no UTF-8")
        elif self._receiver is not None and not (self._close_sent and not self._gone):
            self._receiver.message(payload)

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            if self.reads and not self._close_sent:  # the pongs of a peer that does not read would pile up
                self._write(_PONG, payload)
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or (payload and code not in _SAYABLE):
                self._fail(_PROTOCOL_ERROR, "no code to close with")
            elif not _is_utf8(payload[2:]):
                self._fail(_INVALID_TEXT, "no UTF-8")
            else:
                self._deaf = True
                self._say_close(code if payload else None, "")
                self._leave()

    def _fail(self, code: int, reason: str) -> None:
        """Close on a peer that does not keep to the protocol; what it goes on to say is not looked at."""
        self._deaf = True
        self._say_close(code, reason)
        self._cut_later()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            with suppress(OSError):  # gone already, which asyncio's own transport tells so
                self._transport.write_eof()
        else:
            self._leave()

    def _say_close(self, code: int | None, reason: str) -> None:
        if not self._close_sent:
            self._write(_CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode()[:123])
            self._close_sent = True

    def _write(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = bytes((0x80 | opcode, length))
        elif length < 65536:
            head = bytes((0x80 | opcode, 126, length >> 8, length & 0xFF))
        else:
            head = bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big")
        self._transport.write(head + payload)

    def _leave(self) -> None:
        """End the connection once everything is written, or soon."""
        if not self._transport.is_closing():
            self._transport.close()
        self._cut_later()

    def _cut_later(self) -> None:
        if self._linger is None and not self._gone:
            self._linger = self._loop.call_later(LINGER, self._transport.abort)


def websocket_of(scope: Scope) -> WebSocket:
    """Return the connection that a scope is of."""
    websocket: WebSocket = scope["extensions"][_EXTENSION]
    return websocket


def _judge(scope: Scope) -> tuple[int, bytes, dict[str, str]] | None:
    """How a handshake is refused that is none (RFC 6455 section 4.2); uvicorn has seen that it asks for the upgrade."""
    if scope["method"] != "GET" or scope["http_version"] != "1.1":
        return 400, b"A WebSocket is asked for by GET and HTTP/1.1.\n", _PLAIN
    versions = _headers(scope, b"sec-websocket-version")
    if len(versions) > 1:
        return 400, b"Sec-WebSocket-Version is told more than once.\n", _PLAIN
    if versions != [b"13"]:
        return 426, b"Only version 13 of the protocol is spoken.\n", {**_PLAIN, "sec-websocket-version": "13"}
    keys = _headers(scope, b"sec-websocket-key")
    try:
        is_key = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        is_key = False
    return None if is_key else (400, b"Sec-WebSocket-Key is no key.\n", _PLAIN)


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    return [value.strip() for key, value in scope["headers"] if key == name]


def _unmasked(payload: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """What was masked (RFC 6455 section 5.3): as one number, which is faster than byte by byte."""
    length = len(payload)
    repeated = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(length, "little")


def _is_utf8(payload: bytes) -> bool:
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError:
            return False
    return True


async def _not_spoken(*_: object) -> Any:
    """ASGI's own words, which nobody speaks: see `websocket_of`."""
    raise RuntimeError("this socket is spoken to itself")


_PLAIN = {"content-type": "text/plain; charset=utf-8"}

_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)
