"""A provider that Dialdesk does not know, connected by a description instead of code (docs/providers/custom.md).

The description says which requests to make, where in answers and messages the facts stand, and what the vendor's words
mean. It is judged as a whole when settings are made: what is wrong is told with its path, and nothing is left that
could only fail when a call is placed. It computes nothing: there are placeholders, paths and maps, and no expressions.
"""

import asyncio
import secrets as random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated
from urllib.parse import urlsplit

import aiohttp
import msgspec
import phonenumbers
import structlog

from server.providers.custom_calls import CallFields, Calls
from server.providers.custom_requests import (
    Answer,
    Basic,
    Bearer,
    Named,
    Operation,
    Request,
    Shared,
    Signing,
    UnknownCall,
    misdeclared,
    read,
    url_template,
)
from server.providers.custom_webhooks import Door, Webhooks
from server.providers.paths import PathOrPaths, Paths
from server.providers.provider import (
    UNREACHABLE,
    CallReference,
    Control,
    Order,
    Placed,
    PlacementRefused,
    Recording,
    Refusal,
    Reply,
    Tested,
    Told,
    Uncertain,
    Unsupported,
    Webhook,
    WebhookRefused,
)
from server.providers.templates import Kind, Known, Missing, Value, Values
from server.providers.times import zone_of
from server.ssrf import Refused

log = structlog.get_logger()

CONNECT = 5.0
"""Seconds in which a connection must stand; until then nothing was asked for."""

DEADLINE = 10.0
"""Seconds for a method as a whole."""

ANSWER_BOUND = 1024 * 1024
"""Bytes of an answer."""

CALLS_BOUND = 1000
"""Calls on a page of a look-up."""

BEFORE, AFTER = timedelta(minutes=10), timedelta(hours=26)
"""How long before and after its order a call is looked for: clocks differ, and no call is longer than a day."""

_SEAT: Known = {"seat.id": Kind.TEXT, "seat.number": Kind.NUMBER, "extension": Kind.TEXT}

ORDER: Known = {
    "tag": Kind.TEXT,
    "callee": Kind.NUMBER,
    "caller": Kind.NUMBER,
    "timeout": Kind.WHOLE,
    **_SEAT,
}
"""What may stand in the request that places a call."""

CALL: Known = {
    "tag": Kind.TEXT,
    "providerCallId": Kind.TEXT,
    "callee": Kind.NUMBER,
    "since": Kind.TIME,
    "until": Kind.TIME,
    **_SEAT,
}
"""What may stand in a request about a call; it was placed between `since` and `until`."""


class Place(Operation, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Places a call; its id stands at `providerCallId` of the answer, where the vendor tells one."""

    provider_call_id: PathOrPaths | None = None


class LookUp(Operation, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Asks how a call is. The answer is about the call, or has at `each` a list in which the call may be; such a list
    may have `pages`, counted from 1 by `{page}`."""

    each: PathOrPaths | None = None
    calls: CallFields
    pages: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1


class RecordingLink(Operation, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Asks for a URL at which a recording can be fetched, which stands at `link`; `{recordingName}` is its name."""

    link: PathOrPaths


class Balance(Operation, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Asks what the account has left, which stands at `amount`."""

    amount: PathOrPaths


class CustomSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The description of a provider, as it may be shown: secrets stand in it as `{secret.NAME}` only.

    All of `hosts` are to be judged by the caller before calls are placed there; the session judges them again.
    Making one raises ValueError (msgspec: ValidationError), with the path of what is wrong.
    """

    base_url: str
    place: Place
    test: Operation
    hang_up: Operation | None = None
    mute: Operation | None = None
    unmute: Operation | None = None
    transfer: Operation | None = None
    look_up: LookUp | None = None
    look_up_by_tag: LookUp | None = None
    recording: RecordingLink | None = None
    balance: Balance | None = None
    webhooks: Webhooks | None = None
    answer: Answer = Answer()
    auth: Bearer | Basic | None = None
    signing: Signing | None = None
    headers: Named = {}
    region: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$")] = "CN"
    time_zone: str = "Asia/Shanghai"

    def __post_init__(self) -> None:
        """Read all of it, once, to tell what is wrong now."""
        _Description(self)

    @property
    def hosts(self) -> set[str]:
        """The URLs, without paths, of all that is asked."""
        operations = (
            *(self.place, self.test, self.hang_up, self.mute, self.unmute, self.transfer),
            *(self.look_up, self.look_up_by_tag, self.recording, self.balance),
        )
        urls = [self.base_url, *(each.url for each in operations if each is not None and not each.url.startswith("/"))]
        return {urlsplit(url)._replace(path="/", query="", fragment="").geturl() for url in urls}


class CustomSecrets(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What must not be shown, by the names under which settings speak of it."""

    values: Annotated[
        dict[
            Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")],
            Annotated[str, msgspec.Meta(min_length=4, max_length=4096)],
        ],
        msgspec.Meta(max_length=20),
    ] = {}

    def __repr__(self) -> str:
        return "CustomSecrets(values='**********')"


class _Description:
    """The settings, read. Raises ValueError, which ends with the path of what is wrong."""

    def __init__(self, settings: CustomSettings) -> None:
        self.zone = read("timeZone", zone_of, settings.time_zone)
        if not phonenumbers.country_code_for_region(settings.region):
            raise misdeclared("region", "a region is a country, such as CN")
        url_template("/", settings.base_url, {}, "baseUrl")
        self._shared = Shared(
            base_url=settings.base_url,
            headers=settings.headers,
            answer=settings.answer,
            auth=settings.auth,
            signing=settings.signing,
        )
        self.place = self.request(settings.place, "place", ORDER)
        self.provider_call_id = _paths(settings.place.provider_call_id, "place.providerCallId")
        if not self.place.has_success and self.provider_call_id is None:
            raise misdeclared("place", "how is a call known to be placed? By answer.success, or a providerCallId")
        self.test = self.request(settings.test, "test", {})
        self.hang_up = self._optional(settings.hang_up, "hangUp", CALL)
        self.mute = self._optional(settings.mute, "mute", CALL)
        self.unmute = self._optional(settings.unmute, "unmute", CALL)
        if (self.mute is None) != (self.unmute is None):
            raise misdeclared("mute", "mute and unmute belong together")
        self.transfer = self._optional(settings.transfer, "transfer", {**CALL, "to": Kind.NUMBER})
        self.look_up = _Search.of(self, settings.look_up, "lookUp")
        self.look_up_by_tag = _Search.of(self, settings.look_up_by_tag, "lookUpByTag")
        if self.look_up_by_tag is not None and "providerCallId" in self.look_up_by_tag.request.names:
            raise misdeclared("lookUpByTag", "there is no providerCallId where a call is looked up by its tag")
        self.recording = self._optional(settings.recording, "recording", {**CALL, "recordingName": Kind.TEXT})
        self.link = _paths(settings.recording.link if settings.recording else None, "recording.link")
        self.balance = self._optional(settings.balance, "balance", {})
        self.amount = _paths(settings.balance.amount if settings.balance else None, "balance.amount")
        self.door = (
            None if settings.webhooks is None else Door(settings.webhooks, settings.region, self.zone, "webhooks")
        )

    @property
    def controls(self) -> frozenset[Control]:
        """What can be done to a call."""
        able: dict[Control, Request | None] = {"hang_up": self.hang_up, "mute": self.mute, "transfer": self.transfer}
        return frozenset(control for control, request in able.items() if request is not None)

    @property
    def names(self) -> set[str]:
        """Every placeholder of the description."""
        searches = [search.request for search in (self.look_up, self.look_up_by_tag) if search is not None]
        others = (self.hang_up, self.mute, self.unmute, self.transfer, self.recording, self.balance, self.door)
        readers = [self.place, self.test, *searches, *(each for each in others if each is not None)]
        return {name for reader in readers for name in reader.names}

    def request(self, written: Operation, at: str, known: Known) -> Request:
        return Request(written, self._shared, known, at)

    def _optional(self, written: Operation | None, at: str, known: Known) -> Request | None:
        return None if written is None else self.request(written, at, known)


class _Search(msgspec.Struct, frozen=True):
    """A look-up, read."""

    request: Request
    each: Paths | None
    calls: Calls
    pages: int

    @classmethod
    def of(cls, description: _Description, written: LookUp | None, at: str) -> "_Search | None":
        if written is None:
            return None
        request = description.request(written, at, {**CALL, "page": Kind.WHOLE})
        each, calls = _paths(written.each, f"{at}.each"), Calls(written.calls, description.zone, f"{at}.calls")
        if written.pages > 1 and (each is None or "page" not in request.names):
            raise misdeclared(f"{at}.pages", "pages need a list at `each`, and {page} in the request")
        if each is not None and not calls.can_tell_calls_apart:
            raise misdeclared(f"{at}.calls", "which call of the list is it? By its providerCallId, its tag, or both")
        return cls(request, each, calls, written.pages)

    def calls_in(self, said: object) -> list[object]:
        """Return the calls of an answer. Raises Uncertain where it can have none: a proxy's page is no empty list."""
        if not isinstance(said, dict | list) or (self.each is None and isinstance(said, list)):
            raise Uncertain("the provider's answer cannot be read")
        about = said if self.each is None else self.each.find(said)
        if about is None:
            return []
        if isinstance(about, list) and len(about) > CALLS_BOUND:
            raise Uncertain(f"the provider's answer has more than {CALLS_BOUND} calls")
        return about if isinstance(about, list) else [about]


def _paths(written: PathOrPaths | None, at: str) -> Paths | None:
    return None if written is None else read(at, Paths, written)


class Custom:
    """One account at a provider that is described; see `Provider` for what the methods promise.

    Raises ValueError where the settings speak of a secret that is not there."""

    def __init__(
        self,
        settings: CustomSettings,
        secrets: CustomSecrets,
        http: aiohttp.ClientSession,
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self._description = _Description(settings)
        self._secrets: Mapping[str, Value] = {f"secret.{name}": value for name, value in secrets.values.items()}
        self._hidden = tuple(sorted(secrets.values.values(), key=len, reverse=True))
        self._reply = Reply(b"", "text/plain")
        if settings.webhooks is not None:
            answer = settings.webhooks.reply
            self._reply = Reply(answer.content.encode("utf-8", "replace"), answer.media_type, answer.status)
        self._region = settings.region
        self._http = http
        self._deadline = deadline
        wanted = {name for name in self._description.names if name.startswith("secret.")}
        if missing := sorted(wanted - self._secrets.keys()):
            raise ValueError(f"the settings speak of {', '.join(missing)}, and there is no such secret")
        self.controls: frozenset[Control] = self._description.controls

    async def place(self, order: Order) -> Placed:
        """Send the request that places a call. Raises PlacementRefused, Uncertain."""
        known: dict[str, Value] = {
            "tag": order.tag,
            "callee": order.callee,
            "caller": order.caller,
            "timeout": order.ring_timeout,
            "seat.id": order.seat.id,
            "seat.number": order.seat.number,
            "extension": order.extension,
        }
        described = self._description
        with self._logged(order.tag):
            said = await self._ask(described.place, known, self._until())
            if described.provider_call_id is None:
                return Placed(None)
            provider_call_id = described.provider_call_id.word(said)
            if not provider_call_id:
                raise Uncertain("the provider's answer has no id of the call")
            return Placed(provider_call_id)

    async def hang_up(self, call: CallReference) -> None:
        """End a call; one that is over, or unknown, is a success. Raises Unsupported, PlacementRefused, Uncertain."""
        try:
            await self._control(self._description.hang_up, call, {})
        except UnknownCall:
            log.info("custom_call_was_over", tag=call.tag)

    async def mute(self, call: CallReference, *, on: bool) -> None:
        """Mute the agent, or no longer. Raises Unsupported, PlacementRefused, Uncertain."""
        await self._control(self._description.mute if on else self._description.unmute, call, {})

    async def transfer(self, call: CallReference, to: str) -> None:
        """Hand the customer to another number or seat. Raises Unsupported, PlacementRefused, Uncertain."""
        await self._control(self._description.transfer, call, {"to": to})

    async def look_up(self, call: CallReference) -> list[Told] | None:
        """Ask by the vendor's id where it is known and the settings say how, else by our tag. Raises Uncertain."""
        with _only_uncertain():
            return await self._found(call, self._until())

    def read_webhook(self, webhook: Webhook) -> list[Told]:
        """Verify a message as the settings say, and read its events. Raises WebhookRefused."""
        door = self._description.door
        if door is None:
            raise WebhookRefused("the settings describe no messages")
        return [
            told
            for event in door.events(webhook, self._secrets)
            for told in door.calls.read(event, webhook.received_at, self._hidden)
        ]

    def key_of(self, webhook: Webhook) -> str:
        """Return the vendor's id of the message where the settings say where it stands, else a digest."""
        door = self._description.door
        if door is None:
            raise WebhookRefused("the settings describe no messages")
        return door.key_of(webhook)

    def reply(self) -> Reply:
        """Return the answer of the settings; an empty one, where they have none."""
        return self._reply

    async def recording_url(self, call: CallReference, name: str | None) -> str | None:
        """Ask for a link where the settings say how; else take that which a look-up tells. Raises Uncertain."""
        described, until = self._description, self._until()
        with _only_uncertain():
            if described.recording is None or described.link is None:
                told = await self._found(call, until) or []
                return next((each.event.url for each in told if isinstance(each.event, Recording)), None)
            try:
                said = await self._ask(described.recording, {**_known(call), "recordingName": name}, until)
            except UnknownCall:
                return None
            url = described.link.word(said, 2048)
            return url if url.startswith(("http://", "https://")) else None

    async def test(self) -> Tested:
        """Send the harmless request. Raises PlacementRefused, Uncertain."""
        begun = time.monotonic()
        await self._ask(self._description.test, {}, self._until())
        return Tested(round((time.monotonic() - begun) * 1000), "the provider answered as the settings expect")

    async def balance(self) -> Decimal | None:
        """Ask where the settings say how. Raises PlacementRefused, Uncertain."""
        described = self._description
        if described.balance is None or described.amount is None:
            return None
        said = await self._ask(described.balance, {}, self._until())
        try:
            amount = Decimal(described.amount.word(said, 32))
        except InvalidOperation:
            raise Uncertain("the provider's answer has no amount") from None
        if not amount.is_finite():
            raise Uncertain("the provider's answer has no amount")
        return amount

    # --- what the provider knows of a call ----------------------------------------------------------------------------

    async def _found(self, call: CallReference, until: float) -> list[Told] | None:
        described = self._description
        search = described.look_up
        if search is None or (call.provider_call_id is None and "providerCallId" in search.request.names):
            search = described.look_up_by_tag
        if search is None:
            if described.look_up is None:
                raise Unsupported("the settings do not say how calls are looked up")
            raise Uncertain("the settings do not say how this call is looked up")
        for page in range(1, search.pages + 1):
            try:
                said = await self._ask(search.request, {**_known(call), "page": page}, until)
            except UnknownCall:
                return None
            calls = search.calls_in(said)
            among_others = search.each is not None
            ours = [each for each in calls if search.calls.is_of(call, each, among_others=among_others)]
            if ours:
                now = datetime.now(UTC)
                return [told for each in ours for told in search.calls.read(each, now, self._hidden, call)]
            if not calls or search.pages == 1:
                return None
        raise Uncertain("there are more calls of that time than are read")

    async def _control(self, request: Request | None, call: CallReference, known: Mapping[str, Value]) -> None:
        if request is None:
            raise Unsupported("the settings describe no such function")
        with self._logged(call.tag):
            await self._ask(request, {**_known(call), **known}, self._until())

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _ask(self, request: Request, known: Mapping[str, Value], until: float) -> object:
        """Send one request, once, and return the JSON of its answer.

        Raises PlacementRefused where nothing was sent or the vendor says so, Uncertain where nobody knows."""
        fresh: dict[str, Value] = {"timestamp": datetime.now(UTC), "nonce": random.token_hex(16)}
        values = Values({**known, **self._secrets, **fresh}, self._region, self._description.zone)
        try:
            prepared = request.prepared(values)
        except Missing as missing:
            if missing.name == "providerCallId":
                raise Uncertain("the provider's id of the call is not known") from None
            refusal = Refusal.EXTENSION if missing.name == "extension" else Refusal.LINE
            code = f"no {missing.name}"[:64]
            raise PlacementRefused(refusal, code, "the request cannot be made", known=True) from None
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT, sock_connect=CONNECT)
        body = bytearray()
        try:
            async with (
                asyncio.timeout_at(until),
                self._http.request(
                    prepared.method,
                    prepared.url,
                    headers=prepared.headers,
                    data=prepared.body,
                    allow_redirects=False,
                    timeout=timeout,
                ) as response,
            ):
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > ANSWER_BOUND:
                        raise Uncertain("the provider's answer is too large")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, Refused):
            raise PlacementRefused(Refusal.LINE, UNREACHABLE, "the provider cannot be reached", known=True) from None
        except (TimeoutError, aiohttp.ClientError, OSError):
            raise Uncertain("the provider did not answer") from None
        return request.judged(response.status, bytes(body), self._hidden)

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline

    @contextmanager
    def _logged(self, tag: str) -> Iterator[None]:
        try:
            yield
        except PlacementRefused as refused:
            log.info("custom_refused", tag=tag, code=refused.code)
            raise
        except Uncertain:
            log.warning("custom_uncertain", tag=tag)
            raise


def _known(call: CallReference) -> dict[str, Value]:
    return {
        "tag": call.tag,
        "providerCallId": call.provider_call_id,
        "callee": call.callee,
        "seat.id": call.seat.id,
        "seat.number": call.seat.number,
        "extension": call.extension,
        "since": call.ordered_at - BEFORE,
        "until": min(call.ordered_at + AFTER, datetime.now(UTC) + BEFORE),
    }


@contextmanager
def _only_uncertain() -> Iterator[None]:
    """Where nothing is ordered, a refusal only means that nobody knows."""
    try:
        yield
    except PlacementRefused as refused:
        raise Uncertain(str(refused)) from refused
