"""A provider's messages as users describe them: how they show that they are the provider's, and what is in them."""

import hashlib
import hmac
import itertools
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, assert_never
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import msgspec

from server.providers.custom_calls import CallFields, Calls
from server.providers.custom_requests import UNREADABLE, joined, misdeclared, read, utf8
from server.providers.paths import PathOrPaths, Paths, word
from server.providers.provider import Webhook, WebhookRefused
from server.providers.signatures import Algorithm, Encoding, decoded, is_keyed, signature
from server.providers.templates import Kind, Known, Template, Value, Values
from server.providers.times import Clock, Times

BOUND = 256 * 1024
"""Bytes of a message."""

EVENTS = 200
"""Events of a message."""

FIELDS = 200
"""Fields of a form or a query."""

SHOWN = 2048
"""Characters that are looked at in search of a signature."""

SHOWN_IN: Known = dict.fromkeys(("header.*", "query.*", "field.*"), Kind.PART)
"""Where a message shows something; what it shows is never taken from the settings themselves."""

SIGNED: Known = {
    **SHOWN_IN,
    **dict.fromkeys(("body", "fields", "part.*"), Kind.PART),
    "secret.*": Kind.TEXT,
}
"""What may stand in the text that is signed; `part.t` is the t of a signature such as `t=1,v1=ab`."""


class SignedTime(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """When a message was signed, which may be `tolerance` seconds from now. It must be part of what is signed."""

    value: str
    times: Times = Times(format="epoch")
    tolerance: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 300


class Signed(msgspec.Struct, frozen=True, kw_only=True, tag="signature", rename="camel", forbid_unknown_fields=True):
    """The message shows a signature over `text`: the template `shown` says where. What is shown is split at commas,
    semicolons and blanks, and one of the pieces, after `prefix`, must be it."""

    shown: str
    prefix: str = ""
    algorithm: Algorithm
    key: str | None = None
    key_encoding: Literal["text", "base64", "hex"] = "text"
    text: str = "{body}"
    encoding: Encoding = "hex"
    time: SignedTime | None = None


class Token(msgspec.Struct, frozen=True, kw_only=True, tag="token", rename="camel", forbid_unknown_fields=True):
    """The message shows a shared secret: what `shown` is filled into must be what `expected` is."""

    shown: str
    expected: str


class Unverified(msgspec.Struct, frozen=True, tag="none", forbid_unknown_fields=True):
    """The message shows nothing: only the secret in the callback's path protects it."""


class ReplyText(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What the provider wants to hear."""

    content: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    media_type: Annotated[str, msgspec.Meta(pattern=r"^[\w.+-]+/[\w.+-]+(; ?charset=[\w-]+)?$", max_length=100)] = (
        "text/plain"
    )
    status: Annotated[int, msgspec.Meta(ge=200, le=299)] = 200


class Webhooks(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The messages of a provider: JSON or a form in the body, or fields in the query. Events are the elements at
    `each`, or the message is one. A repeat is known by `key`, a path in the message, or `keyHeader`, or its digest."""

    format: Literal["json", "form", "query"] = "json"
    verify: Signed | Token | Unverified
    each: PathOrPaths | None = None
    calls: CallFields
    key: PathOrPaths | None = None
    key_header: str | None = None
    reply: ReplyText = ReplyText()


class Door:
    """A description of messages that was read once. Raises ValueError, which ends with the path of what is wrong."""

    def __init__(self, written: Webhooks, region: str, zone: ZoneInfo, at: str) -> None:
        self._written = written
        self._verification = _verification(written.verify, zone, f"{at}.verify")
        self._each = None if written.each is None else read(f"{at}.each", Paths, written.each)
        self._key = None if written.key is None else read(f"{at}.key", Paths, written.key)
        places = {"field", "query"} if written.format == "query" else {"field"}
        shown_in = [name.partition(".") for name in self._verification.shown_in]
        self._unsigned = {part for place, _, part in shown_in if place in places}
        self._nothing = Values({}, region, zone)
        self.calls = Calls(written.calls, zone, f"{at}.calls")
        if not self.calls.can_tell_calls_apart:
            raise misdeclared(f"{at}.calls", "a message must name its call: providerCallId, tag, or both")

    @property
    def names(self) -> set[str]:
        """The placeholders of the verification."""
        return {name for template in self._verification.templates for name in template.names}

    def events(self, webhook: Webhook, secrets: Mapping[str, Value]) -> list[object]:
        """Verify a message, and return the events in it; `secrets` are all that `names` speaks of.

        Raises WebhookRefused."""
        if len(webhook.body) > BOUND:
            raise WebhookRefused(f"the message has more than {BOUND} bytes")
        said = self._read(webhook)
        self._verify(webhook, said, secrets)
        found = said if self._each is None else self._each.find(said)
        events = found if isinstance(found, list) else [found]
        if len(events) > EVENTS:
            raise WebhookRefused(f"the message has more than {EVENTS} events")
        return [event for event in events if isinstance(event, dict)]

    def key_of(self, webhook: Webhook) -> str:
        """Return what makes a repeat of this message a repeat."""
        told = ""
        if self._written.key_header is not None:
            told = word(webhook.headers.get(self._written.key_header.lower()), 200)
        elif self._key is not None and len(webhook.body) <= BOUND:
            try:
                told = self._key.word(self._read(webhook), 200)
            except WebhookRefused:
                told = ""
        if told:
            return told
        query = sorted(webhook.query.items()) if self._written.format == "query" else ()
        return hashlib.sha256(repr(query).encode() + webhook.body).hexdigest()

    def _read(self, webhook: Webhook) -> object:
        try:
            match self._written.format:
                case "json":
                    return msgspec.json.decode(webhook.body.decode())  # as text: what is not read is kept too
                case "form":
                    return dict(
                        parse_qsl(
                            webhook.body.decode(),
                            keep_blank_values=True,
                            errors="replace",
                            max_num_fields=FIELDS,
                        )
                    )
                case "query":
                    fields = itertools.islice(webhook.query.items(), FIELDS)
                    return {_plain(name): _plain(value) for name, value in fields}
        except UNREADABLE:
            raise WebhookRefused("the message is not what the settings describe") from None

    def _verify(self, webhook: Webhook, said: object, secrets: Mapping[str, Value]) -> None:
        fields = said if isinstance(said, dict) else {}
        known: dict[str, Value] = dict(secrets)
        for name in self.names:
            place, _, part = name.partition(".")
            match place:
                case "header":
                    known[name] = _plain(webhook.headers.get(part.lower(), ""))
                case "query":
                    known[name] = _plain(webhook.query.get(part, ""))
                case "field":
                    known[name] = word(fields.get(part), SHOWN)
                case "body":
                    known[name] = webhook.body.decode("utf-8", "surrogateescape")
                case "fields":
                    known[name] = joined({each: told for each, told in fields.items() if each not in self._unsigned})
        self._verification.check(self._nothing.and_also(known), webhook)


class _NoVerification:
    templates: tuple[Template, ...] = ()
    shown_in: frozenset[str] = frozenset()

    def check(self, values: Values, webhook: Webhook) -> None:
        """Nothing can be checked."""


class _TokenVerification:
    def __init__(self, written: Token, at: str) -> None:
        self._shown = _shown(written.shown, f"{at}.shown")
        self._expected = read(f"{at}.expected", Template, written.expected, {"secret.*": Kind.TEXT})
        if not self._expected.names:
            raise misdeclared(f"{at}.expected", "what is expected must have a secret in it, such as {secret.token}")
        self.templates = (self._shown, self._expected)
        self.shown_in = frozenset(self._shown.names)

    def check(self, values: Values, webhook: Webhook) -> None:  # noqa: ARG002 - as others
        shown, expected = utf8(self._shown.filled(values)), utf8(self._expected.filled(values))
        if not hmac.compare_digest(shown, expected):
            raise WebhookRefused("the message does not show the shared secret")


class _SignatureVerification:
    def __init__(self, written: Signed, zone: ZoneInfo, at: str) -> None:
        if is_keyed(written.algorithm) != (written.key is not None):
            raise misdeclared(f"{at}.key", "HMAC needs a key, and a plain digest has none")
        self._written = written
        self._shown = _shown(written.shown, f"{at}.shown")
        self._key = read(f"{at}.key", Template, written.key or "", {"secret.*": Kind.TEXT})
        self._text = read(f"{at}.text", Template, written.text, SIGNED)
        self._time: Template | None = None
        self._clock: Clock | None = None
        if written.time is not None:
            self._time = read(f"{at}.time.value", Template, written.time.value, SIGNED)
            self._clock = read(f"{at}.time.times", Clock, written.time.times, zone)
            if not self._time.names or not self._time.names <= self._text.names:
                raise misdeclared(f"{at}.time.value", "the time must be part of the text that is signed")
        if not any(name.startswith("secret.") for name in self._key.names | self._text.names):
            raise misdeclared(at, "a signature without a secret shows nothing")
        self.templates = (self._shown, self._key, self._text, *((self._time,) if self._time else ()))
        self.shown_in = frozenset(self._shown.names)

    def check(self, values: Values, webhook: Webhook) -> None:
        pieces = re.split(r"[,;\s]+", self._shown.filled(values)[:SHOWN])[:16]
        parts = {f"part.{name}": value for name, _, value in (piece.partition("=") for piece in pieces)}
        values = values.and_also(parts)
        written = self._written
        key = _key_bytes(self._key.filled(values), written.key_encoding)
        expected = signature(written.algorithm, key, utf8(self._text.filled(values)))
        prefix = written.prefix
        claimed = [
            decoded(piece.removeprefix(prefix), written.encoding) for piece in pieces if piece.startswith(prefix)
        ]
        if not any([each is not None and hmac.compare_digest(each, expected) for each in claimed]):  # noqa: C419 - all
            raise WebhookRefused("the signature is not the provider's")
        if self._time is not None and self._clock is not None and written.time is not None:
            signed_at = self._clock.read(self._time.filled(values))
            tolerance = timedelta(seconds=written.time.tolerance)
            if signed_at is None or abs(webhook.received_at - signed_at) > tolerance:
                raise WebhookRefused("the message was signed at another time")


def _verification(
    written: Signed | Token | Unverified, zone: ZoneInfo, at: str
) -> _NoVerification | _TokenVerification | _SignatureVerification:
    match written:
        case Signed():
            return _SignatureVerification(written, zone, at)
        case Token():
            return _TokenVerification(written, at)
        case Unverified():
            return _NoVerification()
        case _:
            assert_never(written)


def _shown(written: str, at: str) -> Template:
    template = read(at, Template, written, SHOWN_IN)
    if not template.names:
        raise misdeclared(at, "where is it shown? In a header, such as {header.x-signature}, the query, or a field")
    return template


def _key_bytes(key: str, encoding: Literal["text", "base64", "hex"]) -> bytes:
    raw = utf8(key) if encoding == "text" else decoded(key, encoding)
    if raw is None:
        raise WebhookRefused("the key of the signature is not encoded as the settings say")
    return raw


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
