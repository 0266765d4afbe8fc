"""A receiver of webhooks: a real HTTPS server that judges what comes by an implementation of its own.

It was written from the text of Standard Webhooks 1.0.0 ("Signature scheme", "Verifying signatures"), and shares nothing
with the code that signs.
"""

import base64
import binascii
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trustme
from aiohttp import web

from tests.server.fake_origin import Origin, origin

NAME = "crm.example"
TOLERANCE = 300


class Forged(Exception):  # noqa: N818 - a judgement
    """A message that its receiver must not believe."""


def verify(secret: str, message_id: str, timestamp: str, signatures: str, body: bytes, *, now: float) -> None:
    """Raise Forged unless one of the signatures is by the holder of the secret, and not long ago."""
    prefix, _, text = secret.partition("_")
    if prefix != "whsec":
        raise Forged("this is no secret")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise Forged("it is too old, or of tomorrow")
    mac = hmac.new(base64.b64decode(text, validate=True), digestmod="sha256")
    for part in (message_id.encode(), b".", timestamp.encode(), b".", body):
        mac.update(part)
    for signature in signatures.split(" "):
        version, _, told = signature.partition(",")
        try:
            if version == "v1" and hmac.compare_digest(base64.b64decode(told, validate=True), mac.digest()):
                return
        except binascii.Error:
            continue
    raise Forged("no signature is by this secret")


class Message:
    """What arrived: its headers, and its body byte by byte."""

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body
        self.id = headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        """The body, read."""
        told: dict[str, Any] = json.loads(self.body)
        return told

    def demand(self, secret: str) -> None:
        """Raise Forged where it is not by the holder of the secret."""
        headers = self.headers
        verify(
            secret,
            self.id,
            headers["webhook-timestamp"],
            headers["webhook-signature"],
            self.body,
            now=time.time(),
        )


Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """Keeps what arrives, and answers as it is told: by `reply`, which a test may change."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reply: Reply = self.ok
        self.at_once = 0
        self.most_at_once = 0
        self.origin: Origin | None = None
        self.trust = ssl.create_default_context()

    @property
    def url(self) -> str:
        """Where it is, by a name."""
        assert self.origin is not None
        return f"https://{NAME}:{self.origin.port}/hooks?key=f0e1d2c3"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Keep a message and answer it."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.messages.append(Message(headers, await request.read()))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.reply(request)
        finally:
            self.at_once -= 1

    @staticmethod
    async def ok(_: web.Request) -> web.StreamResponse:
        """Take it."""
        return web.Response(text="thank you")


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Serve until the block ends; `trust` believes its certificate."""
    authority = trustme.CA()
    serve = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(NAME).configure_cert(serve)
    served = Receiver()
    authority.configure_trust(served.trust)
    async with origin(served.answer, serve) as served.origin:
        yield served
