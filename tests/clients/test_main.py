"""The clients at a terminal: what they print, how they exit, and that a refusal is one line."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clients.tone import tone
from protocol.call import Evidence, HangupCause, Outcome
from protocol.messages import (
    Ack,
    CallConnected,
    CallDialing,
    CallEnd,
    CallEnded,
    DeviceUnbind,
    Dial,
    DialAccepted,
    Hello,
    RecordingUpload,
)
from protocol.pairing import BindPayload
from tests.clients.fake_server import DEADLINE, NOW, FakeServer, dial
from tests.clients.shelf import Refusal

ROOT = Path(__file__).parent.parent.parent


@contextlib.asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m clients` with these arguments; it is ended with the block if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "DIALDESK_PASSWORD": "not-a-password", "TERM": "dumb"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.wait(), DEADLINE)


async def outcome(process: asyncio.subprocess.Process) -> tuple[int | None, list[str], str]:
    """How it ended: exit status, what it printed without the times, and what it complained of."""
    out, err = await asyncio.wait_for(process.communicate(), 3 * DEADLINE)
    return process.returncode, [line.split(" ", 1)[1] for line in out.decode().splitlines()], err.decode().strip()


async def test_agent_follows_a_call(server: FakeServer) -> None:
    """The agent signs in, dials, prints each event of its call, and exits with 0 when it has ended."""
    server.answers["POST /api/v1/auth/login"] = {"accessToken": "a", "refreshToken": "r", "expiresIn": 7200}
    async with running("agent", "--origin", server.origin, "--username", "agent", "--call", "13900000001") as process:
        peer = await server.accept()
        await peer.hear(Hello)
        await peer.welcome_agent()
        asked = await peer.hear(Dial)
        await peer.say(DialAccepted(message_id=str(asked.message_id), call_id="call_1"))
        for seq, (event, evidence) in enumerate(
            [(CallDialing, Evidence.IN_CALL_SERVICE), (CallConnected, Evidence.ASSUMED)], start=1
        ):
            await peer.say(
                event(call_id="call_1", at=0, customer_phone="139****0001", evidence=evidence, source="phone"), seq=seq
            )
        await peer.say(
            CallEnded(
                call_id="call_1",
                at=0,
                status=Outcome.CONNECTED,
                hangup_cause=HangupCause.NORMAL_CLEARING,
                closed_by="phone",
                evidence=Evidence.CALL_LOG,
                customer_phone="139****0001",
                duration=42,
            ),
            seq=3,
        )
        await peer.left()
        ended = await outcome(process)

    lines = [
        "calling 13900000001 (call_1)",
        "dialing",
        "connected (assumed)",
        "ended: connected, NORMAL_CLEARING, 42 s",
    ]
    assert (0, lines, "") == ended


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["agent", "--username", "a", "--call", "1", "--origin", "{origin}"], "Error: wrong (BAD_CREDENTIALS)"),
        (["agent", "--username", "a", "--call", "1", "--origin", "http://127.0.0.1:9"], "does not answer"),
        (["phone", "--qr", "https://example.invalid/"], "neither a QR code"),
        (["phone", "--code", "ABCD2345"], "give its origin"),
        (["phone"], "Give --qr or --code"),
        (["phone", "--code", "ABCD2345", "--origin", "{origin}"], "Error: used (BIND_TOKEN_INVALID)"),
        (["phone", "--code", "ABCD2345", "--ca", "pyproject.toml"], "holds no certificate"),
    ],
)
async def test_failure_is_one_line(server: FakeServer, arguments: list[str], complaint: str) -> None:
    """What cannot be done is said in one line, without a traceback, and the exit status is not 0."""
    server.answers["POST /api/v1/auth/login"] = Refusal(401, {"code": "BAD_CREDENTIALS", "message": "wrong"})
    server.answers["POST /api/v1/calls/device/bind"] = Refusal(410, {"code": "BIND_TOKEN_INVALID", "message": "used"})
    async with running(*(argument.format(origin=server.origin) for argument in arguments)) as process:
        status, _, complained = await outcome(process)

    assert 0 != status
    assert complaint in complained.splitlines()[-1]
    assert "Traceback" not in complained


async def test_phone_works_until_unbound(server: FakeServer, tmp_path: Path) -> None:
    """The phone binds, dials what it is asked to, prints the course, and ends with the reason for its unbinding."""
    server.answers["POST /api/v1/calls/device/bind"] = {
        "websocketUrl": server.socket_url,
        "userId": "user_1",
        "authToken": "token-1",
    }
    payload = BindPayload(server_url=server.socket_url, token="bind-1", user_id="user_1", timestamp=NOW)
    store = str(tmp_path / "phone")
    async with running("phone", "--qr", payload.encode(), "--store", store, "--busy", "--answer-after", "0") as process:
        peer = await server.accept_phone()
        await peer.say(dial())
        await peer.hear(CallEnd)
        await peer.say(DeviceUnbind(reason="unbound by the agent"))
        await peer.left()
        ended = await outcome(process)

    lines = ["online", "asked to dial 13900000001 (call_1)", "calling", "ended: busy, USER_BUSY"]
    assert (1, lines, "Error: unbound by the agent (4503)") == ended


async def test_phone_tells_what_it_uploaded(server: FakeServer, tmp_path: Path) -> None:
    """With an audio file the phone can record, and says when a recording has been brought."""
    server.answers["POST /api/v1/calls/device/bind"] = {
        "websocketUrl": server.socket_url,
        "userId": "user_1",
        "authToken": "token-1",
    }
    recording = tmp_path / "talk.wav"
    recording.write_bytes(tone(0.5))
    arguments = ("--code", "ABCD2345", "--origin", server.origin, "--device-id", "dev-1", "--recording", str(recording))
    async with running("phone", *arguments, "--answer-after", "0", "--talk", "0") as process:
        peer = await server.accept_phone()
        await peer.say(dial(record=True))
        while not isinstance((envelope := await peer.hear_any()).message, RecordingUpload):
            await peer.say(Ack(message_id=str(envelope.message_id)))
        await peer.say(DeviceUnbind(reason="unbound by the agent"))
        await peer.left()
        _, lines, _ = await outcome(process)

    assert "recording of call_1 uploaded: 8044 bytes" == lines[-1]
    assert {"call_1": tone(0.5)} == server.shelf.kept


async def test_phone_comes_back_from_its_store(server: FakeServer, tmp_path: Path) -> None:
    """With a store the phone need not be bound again."""
    server.answers["POST /api/v1/calls/device/bind"] = {
        "websocketUrl": server.socket_url,
        "userId": "user_1",
        "authToken": "token-1",
    }
    store = str(tmp_path / "phone")
    async with running("phone", "--code", "ABCD-2345", "--origin", server.origin, "--store", store):
        await server.accept_phone()
    async with running("phone", "--store", store):
        peer = await server.accept()

        assert "Bearer token-1" == peer.headers["Authorization"]
