"""The server's side of the wire with a test for its brain: a real HTTP and WebSocket server that decides nothing."""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import WSMsgType, web

from clients.connection import Timing
from protocol.messages import (
    Decoder,
    DialCommand,
    Envelope,
    Message,
    WaitingCommand,
    WelcomeAgent,
    WelcomePhone,
    encode_data,
    encode_raw,
    from_agent,
    from_phone,
    new_message_id,
)
from tests.clients.shelf import Refusal, Shelf, refused

K = TypeVar("K", bound=Message)
DEADLINE = 10.0
FAST = Timing(backoff_base=0.001, backoff_cap=0.01, close_timeout=0.05)
"""Back at once, and no patience with a server that does not say goodbye."""
NOW = 1_700_000_000_000
"""The server's clock, which stands still; it is years behind the client's."""


class Request(NamedTuple):
    """One HTTP request as it came."""

    headers: Mapping[str, str]
    body: Any


class Peer:
    """One client's socket, as the server has it."""

    def __init__(self, socket: web.WebSocketResponse, headers: Mapping[str, str], decoder: Decoder[Any]) -> None:
        self.headers = headers
        self._socket = socket
        self._decoder = decoder
        self.passed: list[Envelope[Any]] = []
        """What came while something else was listened for."""

    async def hear(self, kind: type[K]) -> Envelope[K]:
        """Return the next message of this kind; others keep their turn."""
        for envelope in self.passed:
            if isinstance(envelope.message, kind):
                self.passed.remove(envelope)
                return envelope
        while True:
            envelope = await self.hear_any()
            if isinstance(envelope.message, kind):
                return envelope
            self.passed.append(envelope)

    async def hear_any(self) -> Envelope[Any]:
        """Return the next message of any kind. Raises EOFError where the client has left."""
        frame = await self._socket.receive(DEADLINE)
        if frame.type is not WSMsgType.TEXT:
            raise EOFError(frame.type)
        return self._decoder.decode(frame.data)

    async def left(self) -> None:
        """Wait until the client has left."""
        while (await self._socket.receive(DEADLINE)).type is WSMsgType.TEXT:
            pass

    async def say(self, message: Message, message_id: str | None = None, *, seq: int | None = None) -> str:
        """Send one message and return its id."""
        message_id = message_id or new_message_id()
        frame = encode_raw(message.type, encode_data(message), message_id, seq=seq)
        await self._socket.send_str(frame.decode())
        return message_id

    async def close(self, code: int, reason: str = "") -> None:
        """Close the socket, as the server does."""
        await self._socket.close(code=code, message=reason.encode())

    async def welcome_phone(self, *, server_time: int = NOW, commands: list[tuple[str, Message]] | None = None) -> None:
        """Let the session of a phone stand; `commands` wait for it, each with its id."""
        waiting = [
            WaitingCommand(command.type, message_id, msgspec.Raw(encode_data(command)))
            for message_id, command in commands or []
        ]
        await self.say(
            WelcomePhone(
                session_id="ses_1", heartbeat_interval=30, server_time=server_time, node="n1", epoch=1, commands=waiting
            )
        )

    async def welcome_agent(self, *, last_seq: int = 0) -> None:
        """Let the session of an agent stand."""
        await self.say(
            WelcomeAgent(session_id="ses_1", heartbeat_interval=30, server_time=NOW, node="n1", last_seq=last_seq)
        )


class FakeServer:
    """Takes every socket and hands it to the test; answers a request as the test told beforehand."""

    def __init__(self) -> None:
        self.origin = ""
        self.requests: list[Request] = []
        self.refusals: deque[Refusal] = deque()
        """How the next upgrades are refused."""
        self.answers: dict[str, Mapping[str, Any] | Refusal] = {}
        """What is answered, by method and path."""
        self.shelf = Shelf()
        """Where recordings are brought, and played from."""
        self._arrived: asyncio.Queue[Peer] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner

    @property
    def socket_url(self) -> str:
        """Where phones connect to."""
        return self.origin.replace("http", "ws", 1) + "/ws/phone"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen on loopback, with TLS where it is given."""
        application = web.Application(client_max_size=16 * 1024 * 1024)
        application.router.add_get("/ws/{kind}", self._upgrade)
        application.add_routes(self.shelf.routes())
        application.router.add_route("*", "/api/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=1.0)
        await self._runner.setup()
        for _ in range(2):
            await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        scheme = "https" if tls else "http"
        self.origin, self.shelf.bucket = (f"{scheme}://{host}:{port}" for host, port in self._runner.addresses)

    async def stop(self) -> None:
        """Stop listening, and cut who is still there."""
        self._stopping.set()
        self.shelf.open.set()
        await self._runner.cleanup()

    async def accept(self) -> Peer:
        """Return the next socket that a client opens."""
        async with asyncio.timeout(DEADLINE):
            return await self._arrived.get()

    async def accept_phone(self) -> Peer:
        """Return the next socket of a phone, when it has said DEVICE_ONLINE and its session stands."""
        peer = await self.accept()
        await peer.hear_any()
        await peer.welcome_phone()
        return peer

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        if self.refusals:
            return refused(self.refusals.popleft())
        socket = web.WebSocketResponse(compress=False, autoping=False, timeout=1.0)
        await socket.prepare(request)
        decoder: Decoder[Any] = from_phone if request.match_info["kind"] == "phone" else from_agent
        self._arrived.put_nowait(Peer(socket, request.headers, decoder))
        await self._stopping.wait()
        return socket

    async def _answer(self, request: web.Request) -> web.Response:
        content = await request.read()
        self.requests.append(Request(request.headers, msgspec.json.decode(content) if content else None))
        answer = self.answers[f"{request.method} {request.path}"]
        return refused(answer) if isinstance(answer, Refusal) else web.json_response({"success": True, **answer})


def dial(call_id: str = "call_1", *, expires_at: int = NOW + 20_000, record: bool = False) -> DialCommand:
    """A command to dial, to be obeyed within 20 s of the server's clock."""
    return DialCommand(call_id=call_id, customer_phone="13900000001", expires_at=expires_at, record=record)
