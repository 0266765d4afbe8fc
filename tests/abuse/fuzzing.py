"""What is fuzzed, and what must hold of it: by hypothesis (`test_fuzz.py`), and by coverage (`by_coverage.py`)."""

import asyncio
import copy
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import aiohttp
import msgspec

from protocol.call import End
from protocol.errors import DialdeskError
from protocol.messages import MAX_FRAME, Error, encode, from_agent, from_phone
from server.providers.catalogue import open_provider
from server.providers.provider import Order, Provider, Seat, Told, Webhook, WebhookRefused
from tests.clouds.cloud import Story, WebhookRequestSpec
from tests.journeys.desk import VENDORS

LENGTHS = range(2**31)
"""Seconds of talk that a row takes."""

STORIES: tuple[Story, ...] = ("answered", "no_answer", "busy", "rejected")
TAG = "call_20260101_fuzzed"


class Reader(NamedTuple):
    """A provider, and messages that its vendor sends of calls."""

    provider: Provider
    said: list[WebhookRequestSpec]


@cache
def readers() -> dict[str, Reader]:
    """Every provider as it reads webhooks, without signatures: those keep what is not the vendor's from being read."""
    return {vendor: asyncio.run(_reader(vendor)) for vendor in VENDORS}


async def _reader(vendor: str) -> Reader:
    said = []

    async def send(message: WebhookRequestSpec) -> None:
        said.append(message)

    known = VENDORS[vendor]
    async with known.cloud() as cloud, aiohttp.ClientSession() as http:
        setup, secrets = cloud.line()
        hidden = msgspec.json.encode(secrets)
        provider = open_provider(known.provider, msgspec.json.encode(setup), hidden, http)  # type: ignore[arg-type]
        for story in STORIES:
            tag = f"{TAG}_{story}"
            seat = Seat(id="1001", number="+8613800138000")
            await provider.place(Order(tag=tag, callee="+8613912345678", caller="+862066247698", seat=seat))
            await cloud.play(tag, story, send=send)
        unsigned = copy.deepcopy(setup)
        if "verify" in unsigned.get("webhooks", {}):
            unsigned["webhooks"]["verify"] = {"type": "none"}
        opened = open_provider(known.provider, msgspec.json.encode(unsigned), hidden, http)  # type: ignore[arg-type]
    return Reader(opened, said)


def read(provider: Provider, message: WebhookRequestSpec) -> list[Told]:
    """Read a message as a worker does, once it was kept. Raises what no reader may raise."""
    webhook = Webhook(
        kind=message.kind,
        query=message.query,
        headers={name.lower(): value for name, value in message.headers.items()},
        body=message.body,
        received_at=datetime.now(UTC),
    )
    try:
        once = provider.key_of(webhook)
        told = provider.read_webhook(webhook)
    except WebhookRefused:
        return []
    assert once
    assert storable(once)
    assert all(storable(text) for each in told for text in _texts(msgspec.structs.asdict(each)))
    assert all(each.event.duration in LENGTHS for each in told if isinstance(each.event, End) and each.event.duration)
    return told


def decode(frame: str | bytes) -> None:
    """Decode a frame as both kinds of session do. Raises what no decoder may raise."""
    for decoder in (from_phone, from_agent):
        try:
            told = decoder.decode(frame).message_id
        except DialdeskError as error:
            told = error.details["messageId"]
            refusal = Error(code=error.code, message=error.message("en"), retry=error.retry, message_id=told)
            if error.code not in {"BAD_MESSAGE", "UNKNOWN_TYPE"} or len(encode(refusal)) > MAX_FRAME:
                raise
        assert told is None or storable(told)


def storable(text: str) -> bool:
    """Whether PostgreSQL keeps it: it is UTF-8 without NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _texts(value: object) -> list[str]:
    match value:
        case str():
            return [value]
        case bytes():
            return [value.decode()]
        case msgspec.Struct():
            return _texts(msgspec.structs.asdict(value))
        case dict():
            return [text for each in value.values() for text in _texts(each)]
    return []


def spoilt(message: WebhookRequestSpec, name: int, value: Any) -> WebhookRequestSpec:
    """The message with one of its fields, wherever it stands, replaced by another value."""
    try:
        said = msgspec.json.decode(message.body)
    except msgspec.DecodeError:
        pairs = parse_qsl(message.body.decode(), keep_blank_values=True)
        if pairs and not message.body.lstrip().startswith(b"<"):
            pairs[name % len(pairs)] = (pairs[name % len(pairs)][0], str(value))
            return msgspec.structs.replace(message, body=urlencode(pairs, errors="replace").encode())
        return message
    places = _places(said)
    if not places:
        return message
    inside, key = places[name % len(places)]
    inside[key] = value
    return msgspec.structs.replace(message, body=msgspec.json.encode(said))


def _places(said: Any) -> list[tuple[Any, Any]]:
    items = list(said.items()) if isinstance(said, dict) else list(enumerate(said)) if isinstance(said, list) else []
    return [(said, key) for key, _ in items] + [place for _, value in items for place in _places(value)]
