"""When a client comes back, how soon, and when never; and what a Link does of its own accord."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec
import pytest

from clients.api import Refused, Unreachable
from clients.connection import Link, Stopped, Timing, stay_connected
from protocol.messages import (
    Ack,
    CallStatus,
    DeviceOnline,
    Heartbeat,
    HeartbeatAck,
    Message,
    Reconnect,
    Resync,
    ToPhone,
    to_phone,
)
from tests.clients.fake_server import DEADLINE, FAST, FakeServer
from tests.clients.shelf import Refusal

SLOW = msgspec.structs.replace(FAST, backoff_base=1.0, backoff_cap=8.0, steady_after=0.0)
"""Pauses as long as in life, which a Caller does not wait out."""


class Caller:
    """A client that says DEVICE_ONLINE and keeps what it hears; it waits for nobody, but notes how long it would."""

    def __init__(self, url: str, timing: Timing = SLOW, renew: Callable[[], Awaitable[None]] | None = None) -> None:
        self.pauses: list[float] = []
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.link: Link[ToPhone]
        self._pausing = asyncio.Condition()
        self.task = asyncio.create_task(
            stay_connected(
                url,
                self._converse,
                decoder=to_phone,
                headers=self._headers,
                renew=renew,
                timing=timing,
                sleep=self._sleep,
            )
        )

    async def _headers(self) -> Mapping[str, str]:
        return {"Authorization": "Bearer token-1"}

    async def _converse(self, link: Link[ToPhone]) -> None:
        self.link = link
        link.send(DeviceOnline())
        async for envelope in link:
            self.heard.put_nowait(envelope.message)

    async def paused(self, times: int) -> None:
        """Wait until it has paused so many times."""
        async with asyncio.timeout(DEADLINE), self._pausing:
            await self._pausing.wait_for(lambda: len(self.pauses) >= times)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        async with self._pausing:
            self._pausing.notify_all()


@contextlib.asynccontextmanager
async def calling(
    url: str, timing: Timing = SLOW, renew: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Caller]:
    """Run a Caller; what it died of, if it did, is left in its task."""
    caller = Caller(url, timing, renew)
    yield caller
    caller.task.cancel()
    await asyncio.wait({caller.task}, timeout=DEADLINE)


async def test_speaks_plain_text_frames_under_its_credential(server: FakeServer) -> None:
    """The socket carries text frames without compression, under the header that says who is there."""
    async with calling(server.socket_url):
        peer = await server.accept()
        await peer.hear(DeviceOnline)

    assert "Bearer token-1" == peer.headers["Authorization"]
    assert "Sec-WebSocket-Extensions" not in peer.headers


@pytest.mark.parametrize("code", [4500, 4501, 4503, 4999])
async def test_stops_for_good(server: FakeServer, code: int) -> None:
    """Close codes 4500-4999 end the client, which tells code and reason."""
    async with calling(server.socket_url) as caller:
        await (await server.accept()).close(code, "that is all")
        with pytest.raises(Stopped) as stopped:
            await asyncio.wait_for(caller.task, DEADLINE)

    assert (code, "that is all") == (stopped.value.code, stopped.value.reason)


@pytest.mark.parametrize("code", [1000, 1011, 1012, 4400, 4408, 4410, 4429])
async def test_comes_back(server: FakeServer, code: int) -> None:
    """Any other close code means to come back."""
    async with calling(server.socket_url):
        await (await server.accept()).close(code)

        await (await server.accept()).hear(DeviceOnline)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_upgrade_is_final(server: FakeServer, status: int) -> None:
    """A credential or an origin that is refused is not offered again; the error code is the reason."""
    server.refusals.append(Refusal(status, {"code": "DEVICE_UNBOUND"}))
    async with calling(server.socket_url) as caller:
        with pytest.raises(Stopped) as stopped:
            await asyncio.wait_for(caller.task, DEADLINE)

    assert (status, "DEVICE_UNBOUND") == (stopped.value.code, stopped.value.reason)


@pytest.mark.parametrize("status", [429, 503])
async def test_honours_retry_after(server: FakeServer, status: int) -> None:
    """A server that is limited or draining is left alone for at least as long as it asks."""
    server.refusals.append(Refusal(status, headers={"Retry-After": "120"}))
    async with calling(server.socket_url) as caller:
        await server.accept()

    assert 120 <= caller.pauses[0] <= 121


async def test_backs_off_with_full_jitter() -> None:
    """Where nobody listens each pause lies between nothing and a bound that doubles up to the cap."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with calling(f"ws://127.0.0.1:{nobody.getsockname()[1]}/ws/phone") as caller:
            await caller.paused(30)
    bounds = [min(8.0, 2.0**n) for n in range(30)]

    assert all(0 <= pause <= bound for pause, bound in zip(caller.pauses, bounds, strict=False))
    assert max(caller.pauses) > 1.0


async def test_forgets_failures_once_a_session_stood(server: FakeServer) -> None:
    """After a session that stood the first pause is a short one again."""
    server.refusals.extend([Refusal(500)] * 6)
    async with calling(server.socket_url) as caller:
        peer = await server.accept_phone()
        await caller.heard.get()
        await peer.close(1011)
        await server.accept()

    assert caller.pauses[6] <= 1.0


async def test_short_session_counts_as_failure(server: FakeServer) -> None:
    """A server that welcomes and closes at once is not stormed: the back-off goes on growing."""
    timing = msgspec.structs.replace(SLOW, backoff_cap=1e9, steady_after=3600.0)
    async with calling(server.socket_url, timing) as caller:
        for _ in range(12):
            await (await server.accept_phone()).close(1011)
        await server.accept()

    assert max(caller.pauses) > 8.0


async def test_reconnect_is_obeyed(server: FakeServer) -> None:
    """RECONNECT makes the client leave by itself and come back after a random share of afterMs."""
    async with calling(server.socket_url) as caller:
        peer = await server.accept_phone()
        await peer.say(Reconnect(after_ms=60_000, reason="draining"))
        await peer.left()
        await server.accept()

    assert 0 <= caller.pauses[0] <= 60


async def test_renews_before_coming_back(server: FakeServer) -> None:
    """After 4401 the credential is renewed before the next attempt, and again if that did not reach the server."""
    outcomes: list[Exception | None] = [Unreachable("no answer"), Refused("UNAVAILABLE", "later", retry=True), None]

    async def renew() -> None:
        if (failure := outcomes.pop(0)) is not None:
            raise failure

    async with calling(server.socket_url, renew=renew):
        await (await server.accept()).close(4401)
        await server.accept()

    assert not outcomes


async def test_refused_renewal_is_final(server: FakeServer) -> None:
    """A refresh token that is refused for good ends the client with that refusal."""

    async def renew() -> None:
        raise Refused("REFRESH_REUSED", "sign in again", retry=False)

    async with calling(server.socket_url, renew=renew) as caller:
        await (await server.accept()).close(4401)
        with pytest.raises(Refused, match="REFRESH_REUSED"):
            await asyncio.wait_for(caller.task, DEADLINE)


async def test_answers_a_heartbeat(server: FakeServer) -> None:
    """The server's HEARTBEAT is answered from the message handler, even before WELCOME."""
    async with calling(server.socket_url):
        peer = await server.accept()
        await peer.say(Heartbeat())

        await peer.hear(HeartbeatAck)


async def test_beats_from_welcome_on(server: FakeServer) -> None:
    """From WELCOME on the client sends its own heartbeats, again and again."""
    async with calling(server.socket_url, msgspec.structs.replace(FAST, heartbeat=0.001)):
        peer = await server.accept_phone()

        for _ in range(3):
            await peer.hear(Heartbeat)


async def test_silence_is_a_dead_socket(server: FakeServer) -> None:
    """A socket on which nothing is heard for too long is dropped, and the client comes back."""
    async with calling(server.socket_url, msgspec.structs.replace(FAST, silence=0.05)):
        await server.accept()

        await server.accept()


async def test_reading_can_stop(server: FakeServer) -> None:
    """A Link that stops reading hears nothing and drops nothing; when it reads again all is there."""
    async with calling(server.socket_url, msgspec.structs.replace(FAST, silence=0.5, heartbeat=0.05)) as caller:
        peer = await server.accept_phone()
        await caller.heard.get()
        caller.link.stop_reading()
        await peer.say(Ack(message_id="m1"))
        for _ in range(14):  # which is longer than the silence that would be noticed
            await peer.hear(Heartbeat)
        deaf = caller.heard.empty()
        caller.link.resume_reading()

        assert (True, Ack(message_id="m1")) == (deaf, await asyncio.wait_for(caller.heard.get(), DEADLINE))


async def test_full_queue_drops_the_socket(server: FakeServer) -> None:
    """More waiting frames than the bound mean a server that does not read: the socket is dropped."""
    async with calling(server.socket_url, msgspec.structs.replace(FAST, outgoing=4)) as caller:
        await (await server.accept()).hear(DeviceOnline)
        for _ in range(5):
            caller.link.send(CallStatus(call_id="call_1", status="ringing"))

        await server.accept()


async def test_passes_over_what_is_not_known(server: FakeServer) -> None:
    """A message of a newer server is passed over, and the session goes on."""
    async with calling(server.socket_url) as caller:
        peer = await server.accept()
        await peer.say(Resync(from_seq=1, to_seq=2))
        await peer.say(Ack(message_id="m1"))

        assert Ack(message_id="m1") == await asyncio.wait_for(caller.heard.get(), DEADLINE)
