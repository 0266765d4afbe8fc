"""Bytes on a socket, as from a peer who keeps to nothing. It knows RFC 6455 and HTTP, and none of our code."""

import base64
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

DEADLINE = 30.0
"""Seconds that any answer may take before the test has failed; nothing waits that long when all is well."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_KEY = base64.b64encode(b"sixteen bytes...").decode()
_ACCEPT = base64.b64encode(
    hashlib.sha1(f"{_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
).decode()


class Frame(NamedTuple):
    """A frame that came from the server."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int | None:
        """The status of a close frame; None where it has none."""
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2]) if self.payload else None


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """One frame, right unless it is told otherwise: `length` is what it claims, `width` the bytes in which it does."""
    claimed = len(payload) if length is None else length
    mark, form = {0: (claimed, ""), 2: (126, "!H"), 8: (127, "!Q")}[
        width if width is not None else 0 if claimed < 126 else 2 if claimed < 65536 else 8
    ]
    head = bytes([fin << 7 | rsv << 4 | opcode, masked << 7 | mark]) + (struct.pack(form, claimed) if form else b"")
    if not masked:
        return head + payload
    key = os.urandom(4)
    mask = int.from_bytes((key * (len(payload) // 4 + 1))[: len(payload)])
    return head + key + (int.from_bytes(payload) ^ mask).to_bytes(len(payload))


def handshake(path: str, *headers: str) -> bytes:
    """The request that opens a WebSocket."""
    return "\r\n".join(
        [
            f"GET {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {_KEY}",
            *headers,
            "\r\n",
        ]
    ).encode("latin-1")


class Peer:
    """One TCP connection, and what has come on it."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self._came = b""
        self.reset = False

    def send(self, data: bytes) -> None:
        """Send; where the server has gone already, what it said last is still to be read."""
        try:
            self.line.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.reset = True

    def upgrade(self, path: str, *headers: str) -> dict[str, str]:
        """Open a WebSocket, which succeeds; returns the headers of the answer."""
        self.send(handshake(path, *headers))
        status, answered = self.head()
        assert (101, _ACCEPT) == (status, answered.get("sec-websocket-accept")), (status, answered)
        return answered

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the next answer over HTTP."""
        while b"\r\n\r\n" not in self._came:
            assert self._more(), f"closed before an answer: {self._came!r}"
        head, _, self._came = self._came.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), headers

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer over HTTP, with its body."""
        status, headers = self.head()
        length = int(headers.get("content-length", "0"))
        return status, headers, self._take(length)

    def hear(self) -> Frame | None:
        """The next frame, which keeps to the protocol as servers must; None once the server has closed."""
        if (head := self._try_take(2)) is None:
            return None
        first, second = head
        assert (0x80, 0) == (first & 0xF0, second & 0x80), "a server's frame is whole, unreserved and not masked"
        match second:
            case 126:
                length = int.from_bytes(self._take(2))
                assert length >= 126
            case 127:
                length = int.from_bytes(self._take(8))
                assert length >= 65536
            case length:
                pass
        return Frame(first & 0x0F, self._take(length))

    def rest(self) -> list[Frame]:
        """Each frame until the server closes the connection."""
        return list(iter(self.hear, None))

    def everything(self) -> bytes:
        """Each byte until the server closes the connection."""
        while self._more():
            pass
        came, self._came = self._came, b""
        return came

    def _more(self) -> bool:
        try:
            data = self.line.recv(65536)
        except ConnectionResetError:
            self.reset = True
            return False
        self._came += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        taken = self._try_take(size)
        assert taken is not None, "closed in the middle"
        return taken

    def _try_take(self, size: int) -> bytes | None:
        while len(self._came) < size:
            if not self._more():
                assert not self._came, f"closed in the middle: {self._came!r}"
                return None
        taken, self._came = self._came[:size], self._came[size:]
        return taken


def connected(port: int, address: str = "127.0.0.1") -> Peer:
    """Connect, from any of the addresses of this machine's own network."""
    line = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE, source_address=(address, 0))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Peer(line)


@contextmanager
def peer(port: int) -> Iterator[Peer]:
    """Connect, until the block ends."""
    peer = connected(port)
    with peer.line:
        yield peer
